"""Where the copies of an array's data lie, and what follows from it. Pure.

Sync positions (checkpoints, windows) are sectors of the component for every level; for raid1
these are the array's sectors as well. raid10 near-2 lays two copies of each chunk next to
each other, row by row over the disks (drivers/md/raid10.c, __raid10_find_phys): chunk c has
its copies at the places 2c and 2c+1 of the sequence disk 0..n-1 of row 0, of row 1, ...
"""

from dataclasses import replace
from math import gcd

from mdcluster.core.model import ArrayState, DeviceId, MemberState, SyncKind

NEAR_2 = 0x102
"""md's raid10 layout: near copies | far copies << 8 (offset: bit 16)."""

SLOT_PAGE_BITS = 8 * 4096
"""A bitmap slot is a number of pages of 4 KiB (mdcluster.metadata.bitmap.slot_bytes)."""


def array_size_sectors(state: ArrayState) -> int:
    """The capacity of the array in sectors (raid10_size of drivers/md/raid10.c)."""
    if state.level == 1:
        return state.size_sectors
    rows = state.size_sectors // state.chunk_sectors
    return rows * state.raid_disks // 2 * state.chunk_sectors


def shown_array_sectors(state: ArrayState) -> int:
    """What applications see of it: less than its capacity until every node has a new size."""
    if state.shown_sectors is None:
        return array_size_sectors(state)
    return array_size_sectors(replace(state, size_sectors=state.shown_sectors))


def size_limit_sectors(state: ArrayState) -> int:
    """The component size up to which the bitmap slots reach, as they were laid out at creation.

    They stand one behind the other on the members, each in whole pages of bits (the slots of
    mdcluster.members.slots): beyond that the next slot begins.
    """
    page_sectors = SLOT_PAGE_BITS * state.bitmap_chunk_sectors
    array_limit = max(-(-array_size_sectors(state) // page_sectors), 1) * page_sectors
    if state.level == 1:
        return array_limit
    rows = (2 * (array_limit // state.chunk_sectors) + 1) // state.raid_disks
    return rows * state.chunk_sectors


def unequal_from_sectors(state: ArrayState) -> int:
    """From which position on what is added behind its present end is not equal: there a resync
    begins. An odd number of disks leaves a half pair of chunks in the last row of a raid10."""
    half_pair = state.level == 10 and state.raid_disks % 2
    return state.size_sectors - (state.chunk_sectors if half_pair else 0)


def end_sectors(state: ArrayState) -> int:
    """The end of sync positions: the component's size, for raid1 and raid10 alike."""
    return state.size_sectors


def hold_range(state: ArrayState, lo_sectors: int, hi_sectors: int) -> tuple[int, int]:
    """The array sectors that cover every chunk with a copy at positions [lo, hi).

    Mapped outward to whole rows of chunks; (0, 0) for an empty range.
    """
    if lo_sectors >= hi_sectors:
        return 0, 0
    if state.level == 1:
        return lo_sectors, hi_sectors
    chunk, disks = state.chunk_sectors, state.raid_disks
    first_row, end_row = lo_sectors // chunk, -(-hi_sectors // chunk)
    lo, hi = first_row * disks // 2 * chunk, -(-end_row * disks // 2) * chunk
    size_sectors = array_size_sectors(state)
    return min(lo, size_sectors), min(hi, size_sectors)


def data_sets(level: int, raid_disks: int) -> tuple[frozenset[int], ...]:
    """The sets of roles that carry copies of the same data; the array needs one of each."""
    if level == 1:
        return (frozenset(range(raid_disks)),)
    step = 1 if raid_disks % 2 else 2  # an odd number of disks: every neighbour is a pair
    return tuple(frozenset({i, (i + 1) % raid_disks}) for i in range(0, raid_disks, step))


def survives_without(state: ArrayState, device: DeviceId) -> bool:
    """Whether all data is still there, in sync, without this member."""
    left = frozenset(m.role for m in state.in_sync if m.device != device)
    return all(left & roles for roles in data_sets(state.level, state.raid_disks))


def redundant(state: ArrayState) -> bool:
    """Whether any data has two copies in sync: only then can copies differ."""
    held = frozenset(m.role for m in state.in_sync)
    return any(len(held & roles) > 1 for roles in data_sets(state.level, state.raid_disks))


def vacant_roles(state: ArrayState) -> tuple[int, ...]:
    """Roles that no member holds, in sync or recovering; lowest first."""
    held = {m.role for m in state.members}
    return tuple(role for role in range(state.raid_disks) if role not in held)


def chunk_start(state: ArrayState, position_sectors: int) -> int:
    """The position, this one or below it, where the chunk of the bitmap begins that lies there.

    A copying that was interrupted in the middle of a bitmap chunk goes on at the start of that
    chunk, which is needed as a whole again (drivers/md/md-bitmap.c, md_bitmap_end_sync).
    """
    bits = state.bitmap_chunk_sectors
    if state.level == 1:
        return position_sectors // bits * bits
    chunk, disks = state.chunk_sectors, state.raid_disks
    first = -(-(position_sectors // chunk) * disks // 2) * chunk // bits * bits
    return 2 * (first // chunk) // disks * chunk


def chunk_grain(state: ArrayState) -> int:
    """The distance of positions, from 0 on, at which chunks of the bitmap end."""
    if state.level == 1:
        return state.bitmap_chunk_sectors
    rows = max(2 * state.bitmap_chunk_sectors // state.chunk_sectors, 1)
    return rows // gcd(rows, state.raid_disks) * state.chunk_sectors


def needs_sync(state: ArrayState) -> SyncKind | None:
    """The pass to begin next, in md's order.

    While a member that is attached is not in sync, md recovers it, whatever it is asked for
    (drivers/md/md.c, md_check_recovery). A resync takes the bits of dead lives along.
    """
    if any(m.state is MemberState.RECOVERING for m in state.members):
        return SyncKind.RECOVER
    if state.resync_sectors is not None:
        return SyncKind.RESYNC
    if any(slot.dirty for slot in state.slots):
        return SyncKind.BITMAP
    return None


def may_look(state: ArrayState) -> bool:
    """Whether a check or a repair makes sense: members that should be equal, nothing else due."""
    due = state.still or needs_sync(state) is not None
    return bool(state.running) and redundant(state) and not due
