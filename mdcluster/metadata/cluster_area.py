"""The cluster area of a member: header with the node table, rings of commits, bitmap slots.

It stands between superblock and data (`layout.AreaLayout` has the offsets). Everything is little
endian, versioned, checksummed and in blocks of 4 KiB; docs/FORMAT.md has the tables. Pure
functions on bytes.

- **Header**, two copies written in turn: a torn write leaves the other one standing.
- **Ring**, one for each voter, written by that voter alone: two lanes of four records, one for
  commits of the cluster and one for those of the array, so that many commits of one never push
  out the last of the other. Record `index` of a lane stands at place `index % 4`.
- **Bitmap slot**: raw bits and nothing else, because the kernel writes it. Which node's life has
  which slot is in the commits; the header's node table shows it as of its writing.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from mdcluster.metadata import layout
from mdcluster.metadata.errors import (
    BadChecksumError,
    DamagedError,
    ForeignError,
    MetadataError,
    MisplacedError,
    NoAreaError,
    NotFoundError,
    StaleError,
    TooLargeError,
    TooSmallError,
    TornError,
    UnsupportedError,
    Where,
)
from mdcluster.metadata.layout import HEADER_BYTES, LANE_RECORDS, MAX_NODES, RECORD_BYTES
from mdcluster.metadata.superblock import BLOCK

VERSION: Final = 1
HEADER_MAGIC: Final = b"MDCLAREA"
RECORD_MAGIC: Final = b"MDCLCMIT"
NAME_BYTES: Final = 64
NONE_INDEX: Final = 0xFFFF
DIGEST_BYTES: Final = 16

Lane = Literal["cluster", "array"]
LANE_NAMES: Final[tuple[Lane, ...]] = ("cluster", "array")

# magic, version, node count, generation, cluster UUID, array UUID, device UUID, cluster name,
# rings, slots, record bytes, records a lane, lanes, slot bytes, area bytes,
# bitmap chunk sectors, covered sectors
_HEADER: Final = struct.Struct("<8sHH4xQ16s16s16s64sHHIHHIQIQ")
# node UUID, boot id, boot counter, voter index, bitmap slot, name
_NODE: Final = struct.Struct("<16s16sIHH64s")
_NODES_AT: Final = 256
_HEADER_TAIL: Final = struct.Struct("<Q16s")  # generation again, digest
_HEADER_TAIL_AT: Final = HEADER_BYTES - _HEADER_TAIL.size

# magic, version, lane, voter index, payload bytes, cluster UUID, array UUID, node UUID,
# term, seq, index
_RECORD: Final = struct.Struct("<8sHHHxxI16s16s16sQQQ")
_RECORD_DIGEST_AT: Final = 96
_PAYLOAD_AT: Final = 128
_RECORD_TAIL_AT: Final = RECORD_BYTES - 8  # the index again
PAYLOAD_BYTES_MAX: Final = _RECORD_TAIL_AT - _PAYLOAD_AT


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """A node as the header's table shows it. `voter_index` None: a spectator; `bitmap_slot` None:
    it has none; `boot_id` is the kernel's, and with `boot_counter` names the node's life."""

    node_uuid: UUID
    name: str
    voter_index: int | None = None
    bitmap_slot: int | None = None
    boot_id: UUID = UUID(int=0)
    boot_counter: int = 0


@dataclass(frozen=True, slots=True)
class Header:
    """Whose area this is and how it is laid out. `generation` grows with each writing."""

    cluster_uuid: UUID
    cluster_name: str
    array_uuid: UUID
    device_uuid: UUID
    generation: int
    area: layout.AreaLayout
    bitmap_chunk_sectors: int
    covered_sectors: int
    nodes: tuple[NodeEntry, ...] = ()

    @property
    def copy(self) -> int:
        """Which of the two copies this generation is written to."""
        return self.generation % layout.HEADER_COPIES


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

    def newest(self, lane: Lane) -> Record | None:
        """The last good record of a lane."""
        return max(
            (record for record in self.records if record.lane == lane),
            key=lambda record: record.index,
            default=None,
        )

    def next_index(self, lane: Lane) -> int:
        """The index the voter's next record of this lane must have.

        A torn record's place is written over again: it was never acknowledged from here.
        """
        last = self.newest(lane)
        return 0 if last is None else last.index + 1


def _digest(*parts: bytes) -> bytes:
    """SHA-256 cut to 16 bytes: found by chance only in one of 2**64 tries, and in the stdlib."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.digest()[:DIGEST_BYTES]


def _name(text: str, what: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) > NAME_BYTES:
        raise TooLargeError(Where(), f"{what} {text!r}", f"at most {NAME_BYTES} bytes fit")
    return raw


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "surrogateescape")


# --- header ---------------------------------------------------------------------------------


def encode_header(header: Header) -> bytes:
    """The 4096 bytes of a header, for `header.area.header_offset_bytes(header.copy)`.

    Raises TooLargeError for too many nodes, a too long name or a number out of range.
    """
    if len(header.nodes) > MAX_NODES:
        raise TooLargeError(Where(), f"{len(header.nodes)} nodes", f"at most {MAX_NODES} fit")
    area = header.area
    try:
        head = _HEADER.pack(
            HEADER_MAGIC,
            VERSION,
            len(header.nodes),
            header.generation,
            header.cluster_uuid.bytes,
            header.array_uuid.bytes,
            header.device_uuid.bytes,
            _name(header.cluster_name, "cluster name"),
            area.ring_count,
            area.slot_count,
            RECORD_BYTES,
            LANE_RECORDS,
            layout.LANES,
            area.slot_bytes,
            area.size_bytes,
            header.bitmap_chunk_sectors,
            header.covered_sectors,
        )
        table = b"".join(_encode_node(node) for node in header.nodes)
        generation = struct.pack("<Q", header.generation)
    except struct.error as exc:
        raise TooLargeError(Where(), f"header field out of range: {exc}") from exc
    body = (head.ljust(_NODES_AT, b"\0") + table).ljust(_HEADER_TAIL_AT, b"\0") + generation
    return body + _digest(body)


def _encode_node(node: NodeEntry) -> bytes:
    return _NODE.pack(
        node.node_uuid.bytes,
        node.boot_id.bytes,
        node.boot_counter,
        NONE_INDEX if node.voter_index is None else node.voter_index,
        NONE_INDEX if node.bitmap_slot is None else node.bitmap_slot,
        _name(node.name, "node name"),
    )


def decode_header(raw: bytes, where: Where) -> Header:
    """The header in `raw` (one copy, read at `where`).

    Raises NoAreaError, UnsupportedError, TornError, BadChecksumError, TooSmallError.
    """
    if len(raw) < HEADER_BYTES:
        raise TooSmallError(
            where, f"{len(raw)} bytes are no header", f"{HEADER_BYTES} bytes are needed"
        )
    raw = raw[:HEADER_BYTES]
    if raw[:8] != HEADER_MAGIC:
        raise NoAreaError(
            where, "no header of a cluster area", "the array was not made or adopted by a cluster"
        )
    _check_seal(raw, where, "header of the cluster area")
    (
        *(_magic, version, node_count, generation, cluster, array, device, name),
        *(rings, slots, record_bytes, lane_records, lanes, slot_bytes, size_bytes),
        *(chunk_sectors, covered_sectors),
    ) = _HEADER.unpack_from(raw)
    if version != VERSION:
        raise UnsupportedError(
            where, f"cluster area of version {version}", f"this program knows version {VERSION}"
        )
    area = layout.AreaLayout(layout.AREA_OFFSET_BYTES, rings, slots, slot_bytes)
    shape = (record_bytes, lane_records, lanes, size_bytes)
    known = (RECORD_BYTES, LANE_RECORDS, layout.LANES, area.size_bytes)
    if shape != known or not _plausible(area) or node_count > MAX_NODES or not chunk_sectors:
        raise UnsupportedError(where, f"cluster area of an unknown shape {shape}, {area}")
    return Header(
        UUID(bytes=cluster),
        _text(name),
        UUID(bytes=array),
        UUID(bytes=device),
        generation,
        area,
        chunk_sectors,
        covered_sectors,
        tuple(_decode_node(raw, number) for number in range(node_count)),
    )


def _plausible(area: layout.AreaLayout) -> bool:
    largest_rings, largest_slots = layout.PROFILES[0]
    return (
        0 < area.ring_count <= largest_rings
        and 0 < area.slot_count <= largest_slots
        and 0 < area.slot_bytes <= 1 << 20
        and area.slot_bytes % BLOCK == 0
    )


def _check_seal(raw: bytes, where: Where, what: str) -> None:
    """Digest and tail of a header; torn if head and tail are of different writes."""
    (head_generation,) = struct.unpack_from("<Q", raw, 16)
    tail_generation, digest = _HEADER_TAIL.unpack_from(raw, _HEADER_TAIL_AT)
    if digest == _digest(raw[:-DIGEST_BYTES]):
        return
    if head_generation != tail_generation:
        raise TornError(
            where,
            f"{what} is torn (begins as generation {head_generation}, ends as {tail_generation})",
            "the other copy counts; the next writer repairs it",
        )
    raise BadChecksumError(
        where, f"{what} has a wrong checksum", "the other copy counts; the next writer repairs it"
    )


def _decode_node(raw: bytes, number: int) -> NodeEntry:
    node, boot, counter, voter, slot, name = _NODE.unpack_from(raw, _NODES_AT + number * _NODE.size)
    return NodeEntry(
        UUID(bytes=node),
        _text(name),
        None if voter == NONE_INDEX else voter,
        None if slot == NONE_INDEX else slot,
        UUID(bytes=boot),
        counter,
    )


def newest_header(
    copies: Sequence[bytes], path: str
) -> tuple[Header | None, tuple[MetadataError, ...]]:
    """The copy with the highest generation and what is wrong with the others.

    No header and one NoAreaError if neither copy was ever written; a copy not yet written beside
    a good one is no problem.
    """
    good: list[Header] = []
    bad: list[MetadataError] = []
    for number, raw in enumerate(copies):
        where = Where(path, layout.AREA_OFFSET_BYTES + number * HEADER_BYTES)
        try:
            good.append(decode_header(raw, where))
        except MetadataError as exc:
            bad.append(exc)
    if good:
        bad = [exc for exc in bad if not isinstance(exc, NoAreaError)]
    elif all(isinstance(exc, NoAreaError) for exc in bad):
        bad = bad[:1]
    return max(good, key=lambda header: header.generation, default=None), tuple(bad)


# --- rings ----------------------------------------------------------------------------------


def encode_record(record: Record) -> bytes:
    """The RECORD_BYTES of one commit.

    Raises TooLargeError for a payload above PAYLOAD_BYTES_MAX or a number out of range.
    """
    if len(record.payload) > PAYLOAD_BYTES_MAX:
        raise TooLargeError(
            Where(),
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
        raise TooLargeError(Where(), f"commit record field out of range: {exc}") from exc
    body = record.payload.ljust(PAYLOAD_BYTES_MAX, b"\0") + tail
    gap = bytes(_PAYLOAD_AT - _RECORD_DIGEST_AT - DIGEST_BYTES)
    return head + _digest(head, gap, body) + gap + body


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
        raise DamagedError(where, "neither a commit record nor empty", _RECORD_ADVICE)
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


_RECORD_ADVICE: Final = "the commits before it stand; the other voters' rings have it if it counts"


def _check_record_seal(raw: bytes, where: Where) -> None:
    digest_end = _RECORD_DIGEST_AT + DIGEST_BYTES
    if raw[_RECORD_DIGEST_AT:digest_end] == _digest(raw[:_RECORD_DIGEST_AT], raw[digest_end:]):
        return
    head_index = _RECORD.unpack_from(raw)[-1]
    (tail_index,) = struct.unpack_from("<Q", raw, _RECORD_TAIL_AT)
    if head_index != tail_index:
        raise TornError(
            where,
            f"commit record is torn (begins as number {head_index}, ends as {tail_index})",
            _RECORD_ADVICE,
        )
    raise BadChecksumError(where, "commit record has a wrong checksum", _RECORD_ADVICE)


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
        for (_, earlier), (where, later) in zip(found, found[1:], strict=False)
        if earlier.lane == later.lane and later.at < earlier.at
    ]
