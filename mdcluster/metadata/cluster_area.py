"""The cluster area's header: whose area it is, how it is laid out, and the node table.

The area stands between superblock and data (`layout.AreaLayout` has the offsets): two copies of
the header written in turn, so that a torn write leaves the other one standing; the rings of
commits (`rings`); the bitmap slots (`bitmap`). Everything is little endian, versioned,
checksummed and in blocks of 4 KiB; docs/FORMAT.md has the tables. Pure functions on bytes.

Which node's life has which bitmap slot is in the commits; the node table shows it as of the
header's writing, for people and for a cold start.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from mdcluster.metadata import bitmap, layout
from mdcluster.metadata.errors import (
    BadChecksumError,
    MetadataError,
    NoAreaError,
    TooLargeError,
    TooSmallError,
    TornError,
    UnsupportedError,
    Where,
)
from mdcluster.metadata.layout import HEADER_BYTES, LANE_RECORDS, MAX_NODES, RECORD_BYTES
from mdcluster.metadata.superblock import BLOCK, Superblock

VERSION: Final = 1
HEADER_MAGIC: Final = b"MDCLAREA"
NAME_BYTES: Final = 64
NONE_INDEX: Final = 0xFFFF
DIGEST_BYTES: Final = 16

_HEADER_NAMES: Final = (
    *("magic", "version", "nodes", "generation", "cluster", "array", "device", "cluster_name"),
    *("rings", "slots", "record_bytes", "lane_records", "lanes", "slot_bytes", "area_bytes"),
    *("chunk_sectors", "covered_sectors"),
)
_HEADER: Final = struct.Struct("<8sHH4xQ16s16s16s64sHHIHHIQIQ")
# node UUID, boot id, boot counter, voter index, bitmap slot, name
_NODE: Final = struct.Struct("<16s16sIHH64s")
_NODES_AT: Final = 256
_HEADER_TAIL: Final = struct.Struct("<Q16s")  # generation again, digest
_HEADER_TAIL_AT: Final = HEADER_BYTES - _HEADER_TAIL.size

_NO_LIFE: Final = UUID(int=0)
_BLANK_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """A node as the header's table shows it. `voter_index` None: a spectator; `bitmap_slot` None:
    it has none; `boot_id` is the kernel's, and with `boot_counter` names the node's life."""

    node_uuid: UUID
    name: str
    voter_index: int | None = None
    bitmap_slot: int | None = None
    boot_id: UUID = _NO_LIFE
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


def digest(*parts: bytes) -> bytes:
    """SHA-256 of the parts in a row, cut to 16 bytes: the seal of headers and records."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.digest()[:DIGEST_BYTES]


def _name(text: str, what: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) > NAME_BYTES:
        raise TooLargeError(
            Where("cluster area"), f"{what} {text!r}", f"at most {NAME_BYTES} bytes fit"
        )
    return raw


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode("utf-8", "surrogateescape")


def encode_header(header: Header) -> bytes:
    """The 4096 bytes of a header, for `header.area.header_offset_bytes(header.copy)`.

    Raises TooLargeError for too many nodes, a too long name or a number out of range.
    """
    if len(header.nodes) > MAX_NODES:
        raise TooLargeError(
            Where("cluster area"), f"{len(header.nodes)} nodes", f"at most {MAX_NODES} fit"
        )
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
        raise TooLargeError(Where("cluster area"), f"header field out of range: {exc}") from exc
    body = (head.ljust(_NODES_AT, b"\0") + table).ljust(_HEADER_TAIL_AT, b"\0") + generation
    return body + digest(body)


def _encode_node(node: NodeEntry) -> bytes:
    return _NODE.pack(
        node.node_uuid.bytes,
        node.boot_id.bytes,
        node.boot_counter,
        NONE_INDEX if node.voter_index is None else node.voter_index,
        NONE_INDEX if node.bitmap_slot is None else node.bitmap_slot,
        _name(node.name, "node name"),
    )


def fresh_header(
    cluster_uuid: UUID,
    cluster_name: str,
    superblock: Superblock,
    plan: layout.Layout,
    nodes: tuple[NodeEntry, ...] = (),
) -> Header:
    """The first header of a member of a fresh array."""
    return Header(
        cluster_uuid,
        cluster_name,
        superblock.set_uuid,
        superblock.device_uuid,
        1,
        plan.area,
        plan.bitmap_chunk_sectors,
        layout.covered_sectors(superblock),
        nodes,
    )


def blank_area(header: Header) -> Iterator[tuple[int, bytes]]:
    """The writes (byte offset, bytes) that make a new area, in order: all zero, header last.

    What stood there before is gone when the header appears; a creation cut short leaves no area.
    """
    area = header.area
    for offset in range(area.offset_bytes, area.end_bytes, _BLANK_BYTES):
        yield offset, bytes(min(_BLANK_BYTES, area.end_bytes - offset))
    yield area.header_offset_bytes(header.copy), encode_header(header)


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
    fields = dict(zip(_HEADER_NAMES, _HEADER.unpack_from(raw), strict=True))
    if fields["version"] != VERSION:
        raise UnsupportedError(
            where,
            f"cluster area of version {fields['version']}",
            f"this program knows version {VERSION}",
        )
    return _header(fields, raw, where)


def _header(fields: dict[str, Any], raw: bytes, where: Where) -> Header:
    area = layout.AreaLayout(
        layout.AREA_OFFSET_BYTES, fields["rings"], fields["slots"], fields["slot_bytes"]
    )
    shape = tuple(fields[name] for name in ("record_bytes", "lane_records", "lanes", "area_bytes"))
    known = (RECORD_BYTES, LANE_RECORDS, layout.LANES, area.size_bytes)
    nodes, chunk_sectors = fields["nodes"], fields["chunk_sectors"]
    if shape != known or not _plausible(area) or nodes > MAX_NODES:
        raise UnsupportedError(where, f"cluster area of an unknown shape {shape}, {area}")
    covered = fields["covered_sectors"]
    if not chunk_sectors or bitmap.slot_bytes(covered, chunk_sectors) > area.slot_bytes:
        raise UnsupportedError(
            where,
            f"bitmap slots of {area.slot_bytes} bytes for {covered} sectors in chunks of "
            f"{chunk_sectors}",
        )
    return Header(
        UUID(bytes=fields["cluster"]),
        _text(fields["cluster_name"]),
        UUID(bytes=fields["array"]),
        UUID(bytes=fields["device"]),
        fields["generation"],
        area,
        chunk_sectors,
        covered,
        tuple(_decode_node(raw, number) for number in range(nodes)),
    )


def _plausible(area: layout.AreaLayout) -> bool:
    largest_rings, largest_slots = layout.PROFILES[0]
    return (
        0 < area.ring_count <= largest_rings
        and 0 < area.slot_count <= largest_slots
        and 0 < area.slot_bytes <= bitmap.SLOT_BYTES_MAX
        and area.slot_bytes % BLOCK == 0
    )


def _check_seal(raw: bytes, where: Where, what: str) -> None:
    """Digest and tail of a header; torn if head and tail are of different writes."""
    (head_generation,) = struct.unpack_from("<Q", raw, 16)
    tail_generation, stored = _HEADER_TAIL.unpack_from(raw, _HEADER_TAIL_AT)
    if stored == digest(raw[:-DIGEST_BYTES]):
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
