"""Rings of commits: what each voter last committed, kept on every member.

One ring for each voter, written by that voter alone: two lanes of four records, one lane for
commits of the cluster and one for those of the array, so that many commits of one never push out
the last of the other. Record `index` of a lane stands at place `index % 4`. Rings help a cold
start and a reader, never a quorum. Pure functions on bytes; docs/FORMAT.md has the tables.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal
from uuid import UUID

from mdcluster.metadata import layout
from mdcluster.metadata.cluster_area import DIGEST_BYTES, VERSION, Header, digest
from mdcluster.metadata.errors import (
    BadChecksumError,
    DamagedError,
    ForeignError,
    MetadataError,
    MisplacedError,
    NotFoundError,
    StaleError,
    TooLargeError,
    TooSmallError,
    TornError,
    UnsupportedError,
    Where,
)
from mdcluster.metadata.layout import LANE_RECORDS, RECORD_BYTES

RECORD_MAGIC: Final = b"MDCLCMIT"
Lane = Literal["cluster", "array"]
LANE_NAMES: Final[tuple[Lane, ...]] = ("cluster", "array")

# magic, version, lane, voter index, payload bytes, cluster UUID, array UUID, node UUID,
# term, seq, index
_RECORD: Final = struct.Struct("<8sHHH2xI4x16s16s16sQQQ")
_RECORD_DIGEST_AT: Final = 96
_PAYLOAD_AT: Final = 128
_RECORD_TAIL_AT: Final = RECORD_BYTES - 8  # the index again
PAYLOAD_BYTES_MAX: Final = _RECORD_TAIL_AT - _PAYLOAD_AT
_ADVICE: Final = "the commits before it stand; the other voters' rings have it if it counts"


@dataclass(frozen=True, slots=True)
class Record:
    """One commit in a ring: the whole new state of the array, or of the cluster.

    `payload` is opaque here, at most PAYLOAD_BYTES_MAX bytes. `index` counts the records of this
    voter's lane from 0 on and never goes back.
    """

    cluster_uuid: UUID
    array_uuid: UUID
    node_uuid: UUID
    voter_index: int
    lane: Lane
    index: int
    term: int
    seq: int
    payload: bytes

    @property
    def key(self) -> str:
        """What the state is of: `cluster`, or the array's UUID."""
        return "cluster" if self.lane == "cluster" else str(self.array_uuid)

    @property
    def at(self) -> tuple[int, int]:
        """(term, seq), by which commits of one key are ordered."""
        return self.term, self.seq


@dataclass(frozen=True, slots=True)
class Ring:
    """What one voter's ring holds: good records by lane and index, and what is wrong with others.

    An empty place is neither.
    """

    voter_index: int
    records: tuple[Record, ...]
    problems: tuple[MetadataError, ...]

    def records_of(self, lane: Lane) -> tuple[Record, ...]:
        """The good records of a lane, in rising order of their index."""
        return tuple(record for record in self.records if record.lane == lane)

    def newest(self, lane: Lane) -> Record | None:
        """The last good record of a lane."""
        return max(self.records_of(lane), key=lambda record: record.index, default=None)

    def next_index(self, lane: Lane) -> int:
        """The index the voter's next record of this lane must have.

        A torn record's place is written over again: it was never acknowledged from here.
        """
        last = self.newest(lane)
        return 0 if last is None else last.index + 1


def encode_record(record: Record) -> bytes:
    """The RECORD_BYTES of one commit.

    Raises TooLargeError for a payload above PAYLOAD_BYTES_MAX or a number out of range.
    """
    if len(record.payload) > PAYLOAD_BYTES_MAX:
        raise TooLargeError(
            Where("ring"),
            f"the state of {record.key} is {len(record.payload)} bytes",
            f"a commit in a ring holds at most {PAYLOAD_BYTES_MAX}",
        )
    try:
        head = _RECORD.pack(
            RECORD_MAGIC,
            VERSION,
            LANE_NAMES.index(record.lane),
            record.voter_index,
            len(record.payload),
            record.cluster_uuid.bytes,
            record.array_uuid.bytes,
            record.node_uuid.bytes,
            record.term,
            record.seq,
            record.index,
        )
        tail = struct.pack("<Q", record.index)
    except struct.error as exc:
        raise TooLargeError(Where("ring"), f"commit record field out of range: {exc}") from exc
    body = record.payload.ljust(PAYLOAD_BYTES_MAX, b"\0") + tail
    gap = bytes(_PAYLOAD_AT - _RECORD_DIGEST_AT - DIGEST_BYTES)
    return head + digest(head, gap, body) + gap + body


def decode_record(raw: bytes, where: Where) -> Record:
    """The commit in `raw` (RECORD_BYTES, read at `where`).

    Raises NotFoundError (an empty place), TornError, BadChecksumError, DamagedError,
    UnsupportedError, TooSmallError.
    """
    if len(raw) < RECORD_BYTES:
        raise TooSmallError(
            where, f"{len(raw)} bytes are no commit record", f"{RECORD_BYTES} bytes are needed"
        )
    raw = raw[:RECORD_BYTES]
    if not any(raw):
        raise NotFoundError(where, "no commit was written here")
    if raw[:8] != RECORD_MAGIC:
        raise DamagedError(where, "neither a commit record nor empty", _ADVICE)
    _check_record_seal(raw, where)
    _magic, version, lane, voter, length, cluster, array, node, term, seq, index = (
        _RECORD.unpack_from(raw)
    )
    if version != VERSION:
        raise UnsupportedError(
            where, f"commit record of version {version}", f"this program knows version {VERSION}"
        )
    if lane >= layout.LANES or length > PAYLOAD_BYTES_MAX:
        raise UnsupportedError(where, f"commit record of lane {lane} with {length} bytes")
    return Record(
        UUID(bytes=cluster),
        UUID(bytes=array),
        UUID(bytes=node),
        voter,
        LANE_NAMES[lane],
        index,
        term,
        seq,
        raw[_PAYLOAD_AT : _PAYLOAD_AT + length],
    )


def _check_record_seal(raw: bytes, where: Where) -> None:
    digest_end = _RECORD_DIGEST_AT + DIGEST_BYTES
    if raw[_RECORD_DIGEST_AT:digest_end] == digest(raw[:_RECORD_DIGEST_AT], raw[digest_end:]):
        return
    head_index = _RECORD.unpack_from(raw)[-1]
    (tail_index,) = struct.unpack_from("<Q", raw, _RECORD_TAIL_AT)
    if head_index != tail_index:
        raise TornError(
            where,
            f"commit record is torn (begins as number {head_index}, ends as {tail_index})",
            _ADVICE,
        )
    raise BadChecksumError(where, "commit record has a wrong checksum", _ADVICE)


def record_offset_bytes(area: layout.AreaLayout, voter_index: int, lane: Lane, index: int) -> int:
    """Where on the device a record goes. IndexError for a voter the area has no ring for."""
    place = LANE_NAMES.index(lane) * LANE_RECORDS + index % LANE_RECORDS
    return area.ring_offset_bytes(voter_index) + place * RECORD_BYTES


def decode_ring(raw: bytes, voter_index: int, header: Header, path: str) -> Ring:
    """One voter's ring (RING_BYTES, or what of it could be read), under its area's header.

    Nothing is raised: what is torn, damaged, misplaced, foreign or out of order is a problem of
    the ring, and only records that are none of these are given.
    """
    start = header.area.ring_offset_bytes(voter_index)
    found: list[tuple[Where, Record]] = []
    problems: list[MetadataError] = []
    for place in range(layout.LANES * LANE_RECORDS):
        where = Where(path, start + place * RECORD_BYTES)
        piece = raw[place * RECORD_BYTES : (place + 1) * RECORD_BYTES]
        try:
            record = decode_record(piece, where)
            _check_record_place(record, place, voter_index, header, where)
        except NotFoundError:
            continue
        except MetadataError as exc:
            problems.append(exc)
        else:
            found.append((where, record))
    found.sort(key=lambda pair: (LANE_NAMES.index(pair[1].lane), pair[1].index))
    problems.extend(_disorder(found))
    return Ring(voter_index, tuple(record for _, record in found), tuple(problems))


def _check_record_place(
    record: Record, place: int, voter_index: int, header: Header, where: Where
) -> None:
    if record.cluster_uuid != header.cluster_uuid:
        raise ForeignError(
            where,
            f"commit of cluster {record.cluster_uuid}, this is {header.cluster_uuid}",
            "it does not count; the voter's next commits replace it",
        )
    if record.array_uuid != header.array_uuid:
        raise ForeignError(
            where,
            f"commit of array {record.array_uuid}, this is {header.array_uuid}",
            "it does not count; the voter's next commits replace it",
        )
    right = LANE_NAMES.index(record.lane) * LANE_RECORDS + record.index % LANE_RECORDS
    if (record.voter_index, right) != (voter_index, place):
        raise MisplacedError(
            where,
            f"record {record.index} of voter {record.voter_index}, lane {record.lane}, "
            f"at place {place} of voter {voter_index}'s ring",
            "something copied blocks about; do not trust this member",
        )


def _disorder(found: Sequence[tuple[Where, Record]]) -> list[MetadataError]:
    """Neighbours of one lane whose (term, seq) goes back while the index goes on."""
    return [
        StaleError(
            where,
            f"record {later.index} of {later.key} has (term, seq) {later.at}, "
            f"record {earlier.index} before it has {earlier.at}",
            "the voter went back in time; its state directory was perhaps restored",
        )
        for (_, earlier), (where, later) in pairwise(found)
        if earlier.lane == later.lane and later.at < earlier.at
    ]
