"""What can be wrong on one member although each block by itself is whole. Pure, but for reading.

Superblock, header and bitmaps are held against each other, against the bounds of the array, and
their places against each other. Nothing is raised; each finding is one error with its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from mdcluster.metadata import layout
from mdcluster.metadata.cluster_area import Header
from mdcluster.metadata.errors import (
    DamagedError,
    MetadataError,
    MisplacedError,
    OverlapError,
    UnfinishedError,
    Where,
)
from mdcluster.metadata.native import BitmapHead
from mdcluster.metadata.superblock import (
    FEATURE_BITMAP,
    FEATURE_RECOVERY,
    FEATURE_RESHAPE,
    ROLE_MAX,
    SECTOR,
    SUPER_OFFSET_BYTES,
    Superblock,
)

_HEAD_ONLY_BYTES = 4096
_ADVICE = "do not write to this member; compare it with the others"


class Region(NamedTuple):
    """A place that something has for itself: bytes [lo, hi) of the device."""

    what: str
    lo: int
    hi: int


def regions(
    superblock: Superblock, header: Header | None, bitmap_head: BitmapHead | None
) -> tuple[Region, ...]:
    """Everything that has its place on a member. bitmap_head: what was read of its own bitmap."""
    data_at = superblock.data_offset_sectors * SECTOR
    found = [
        Region("the superblock", SUPER_OFFSET_BYTES, SUPER_OFFSET_BYTES + _HEAD_ONLY_BYTES),
        Region("the data", data_at, data_at + superblock.data_size_sectors * SECTOR),
    ]
    if superblock.feature_map & FEATURE_BITMAP:
        at = SUPER_OFFSET_BYTES + superblock.bitmap_offset * SECTOR
        bits = bitmap_head.chunks if bitmap_head and bitmap_head.plausible else 0
        found.append(Region("the internal bitmap", at, at + max(256 + -(-bits // 8), SECTOR)))
    if superblock.bblog_size_sectors and superblock.bblog_offset_sectors:
        at = SUPER_OFFSET_BYTES + superblock.bblog_offset_sectors * SECTOR
        end = at + superblock.bblog_size_sectors * SECTOR
        found.append(Region("the bad block log", at, end))
    if header is not None:
        start = header.area.offset_bytes
        found.append(Region("the nonce block", start - _HEAD_ONLY_BYTES, start))
        found.append(Region("the cluster area", start, header.area.end_bytes))
    return tuple(sorted((one for one in found if one.hi > one.lo), key=lambda one: one.lo))


def overlaps(places: tuple[Region, ...], size_bytes: int, path: str) -> Iterator[MetadataError]:
    """Two in one place, or one beyond the end of the device. places: as `regions` gives them."""
    last = places[0]
    for one in places[1:]:
        if one.lo < last.hi:
            yield OverlapError(
                Where(path, one.lo),
                f"{one.what} begins within {last.what}, which ends at byte {last.hi}",
                _ADVICE,
            )
        last = max(last, one, key=lambda region: region.hi)
    if places[0].lo < 0 or last.hi > size_bytes:
        yield OverlapError(
            Where(path, max(last.lo, 0)),
            f"{last.what} ends at byte {last.hi}, the device has {size_bytes}",
            _ADVICE,
        )


def bounds(superblock: Superblock, path: str) -> Iterator[MetadataError]:
    """Numbers of a superblock that its own array cannot have."""
    where = Where(path, SUPER_OFFSET_BYTES)
    for text in _out_of_bounds(superblock):
        yield DamagedError(where, text, _ADVICE)


def _out_of_bounds(superblock: Superblock) -> Iterator[str]:
    if superblock.dev_number >= len(superblock.dev_roles):
        yield (
            f"device number {superblock.dev_number} is not in its table of "
            f"{len(superblock.dev_roles)} roles"
        )
    if superblock.feature_map & FEATURE_RESHAPE or superblock.level not in layout.LEVELS:
        return
    size, covered = superblock.size_sectors, layout.covered_sectors(superblock)
    if size > superblock.data_size_sectors:
        yield f"{size} sectors are used of {superblock.data_size_sectors} there are for data"
    if not superblock.in_sync and superblock.resync_offset_sectors > covered:
        yield f"resync is at sector {superblock.resync_offset_sectors} of {covered}"
    if superblock.feature_map & FEATURE_RECOVERY and superblock.recovery_offset_sectors > size:
        yield f"recovery is at sector {superblock.recovery_offset_sectors} of {size}"
    roles = Counter(role for role in superblock.dev_roles if role <= ROLE_MAX)
    for role, count in sorted(roles.items()):
        if role >= superblock.raid_disks:
            yield f"role {role} is given away in an array of {superblock.raid_disks} devices"
        if count > 2:
            yield f"role {role} is given away {count} times; a replacement makes it two"


def area_agrees(superblock: Superblock, header: Header, path: str) -> Iterator[MetadataError]:
    """Does the header describe the array that the superblock is of?"""
    where = Where(path, header.area.header_offset_bytes(header.copy))
    if not superblock.guarded:
        yield UnfinishedError(
            where,
            f"cluster area of cluster {header.cluster_name!r} for this very array, whose "
            "superblock is that of a plain one",
            "an adoption or a release was cut short; the cluster's writer finishes it",
        )
    covered = layout.covered_sectors(superblock)
    if superblock.guarded and covered != header.covered_sectors:
        yield DamagedError(
            where,
            f"bitmaps cover {header.covered_sectors} sectors, the array has {covered}",
            "a change of its size was cut short; the next writer repairs it",
        )


def node_table(header: Header, path: str) -> Iterator[MetadataError]:
    """Nodes, rings and slots that the table of nodes gives away twice, or that do not exist."""
    where = Where(path, header.area.header_offset_bytes(header.copy))
    slots = [node.bitmap_slot for node in header.nodes if node.bitmap_slot is not None]
    given = [f"node {node.node_uuid}" for node in header.nodes]
    given += [f"ring {n.voter_index}" for n in header.nodes if n.voter_index is not None]
    given += [f"bitmap slot {slot}" for slot in slots]
    for what, count in Counter(given).items():
        if count > 1:
            text = f"{what} stands {count} times in the table of nodes"
            yield DamagedError(where, text, "the next commit that changes the table repairs it")
    for slot in sorted(set(slots)):
        if slot >= header.area.slot_count:
            text = f"bitmap slot {slot} does not exist, there are {header.area.slot_count}"
            yield MisplacedError(where, text, _ADVICE)
