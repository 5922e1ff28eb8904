"""Is the state of an array consistent in itself? For states from a disk or a peer, and as
an assertion after every change. Pure.
"""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from mdcluster.core.geometry import NEAR_2, data_sets, end_sectors, may_look
from mdcluster.core.model import (
    MEMBERS_MAX,
    NODES_MAX,
    ZERO,
    ArrayState,
    Member,
    MemberState,
    SyncKind,
)
from mdcluster.core.replacement import replacement_problem

SLOTS_MAX = NODES_MAX + 8
"""Bitmap slots on each member: one per running life, and some that wait for their resync."""

AREA_SLOTS_MAX = 64
"""Bitmap slots there is room for in the largest cluster area."""

NUMBERS_MAX = 1920
"""dev_roles of a v1.2 superblock: (4096 - 256) / 2 entries (drivers/md/md.c, super_1_load)."""

CHUNK_MIN_SECTORS = 8
NAME_MAX = 32
"""set_name of a v1.2 superblock, in bytes."""

SECTORS_MAX = 1 << 55
MISMATCHED_MAX = SECTORS_MAX * MEMBERS_MAX
_NAME_MARKS = frozenset("._-+:")

_T = TypeVar("_T")


def name_problem(name: str) -> str:
    """Why an array cannot have this name ('' if it can); it becomes a file name."""
    if not name or len(name) > NAME_MAX:
        return f"an array's name has 1 to {NAME_MAX} characters, not {len(name)}"
    if not all(c.isascii() and (c.isalnum() or c in _NAME_MARKS) for c in name):
        return "an array's name has letters, digits and . _ - + : only"
    if name[0] in ".-":
        return "an array's name does not begin with '.' or '-'"
    return ""


def level_problem(level: int, layout: int, chunk_sectors: int, raid_disks: int) -> str:
    """Why there can be no array of this shape ('' if there can)."""
    if level not in (1, 10):
        return f"level {level} is not supported: use raid1 or raid10"
    least = 1 if level == 1 else 2
    if not least <= raid_disks <= MEMBERS_MAX:
        return f"level {level} takes {least} to {MEMBERS_MAX} raid devices, not {raid_disks}"
    if level == 1:
        return "raid1 has neither layout nor chunk size" if layout or chunk_sectors else ""
    if layout != NEAR_2:
        return _layout_problem(layout)
    if not _power_of_two(chunk_sectors, CHUNK_MIN_SECTORS):
        return f"chunk size {chunk_sectors // 2}K: raid10 takes a power of two of 4K or more"
    return ""


def _layout_problem(layout: int) -> str:
    if layout >> 17 == 0 and (layout >> 8 & 0xFF) > 1:
        kind = "offset" if layout >> 16 & 1 else "far"
        return (
            f"raid10 layout {kind} is refused: where its copies lie is not proven yet for windows "
            "and holds; use near=2"
        )
    return f"raid10 layout {layout:#x} is not supported: use near=2 ({NEAR_2:#x})"


def _power_of_two(value: int, least: int) -> bool:
    return value >= least and value & (value - 1) == 0


def bitmap_problem(bitmap_chunk_sectors: int) -> str:
    if _power_of_two(bitmap_chunk_sectors, CHUNK_MIN_SECTORS):
        return ""
    return f"bitmap chunk of {bitmap_chunk_sectors} sectors: takes a power of two of 4K or more"


def validate(state: ArrayState) -> list[str]:
    """All that is wrong with the state, in words; empty if it is consistent."""
    problems = [
        name_problem(state.name),
        level_problem(state.level, state.layout, state.chunk_sectors, state.raid_disks),
        bitmap_problem(state.bitmap_chunk_sectors),
    ]
    found = [problem for problem in problems if problem]
    if found:
        return found  # what follows reckons with these
    return [*_size_problems(state), *_member_problems(state), *_run_problems(state)]


def _size_problems(state: ArrayState) -> Iterator[str]:
    if not 0 < state.size_sectors <= SECTORS_MAX:
        yield f"component size {state.size_sectors} sectors is out of range"
    if state.chunk_sectors and state.size_sectors % state.chunk_sectors:
        yield f"component size {state.size_sectors} is no multiple of the chunk size"
    if state.resync_sectors is not None and not 0 <= state.resync_sectors <= end_sectors(state):
        yield f"resync position {state.resync_sectors} lies outside of the array"
    if state.shown_sectors is not None and not 0 < state.shown_sectors < state.size_sectors:
        yield f"{state.shown_sectors} sectors of each member are shown, of {state.size_sectors}"
    if not 0 <= state.mismatched_sectors <= MISMATCHED_MAX:
        yield f"{state.mismatched_sectors} mismatched sectors are out of range"


def _member_problems(state: ArrayState) -> Iterator[str]:
    members = state.members
    if not 1 <= len(members) <= MEMBERS_MAX:
        yield f"{len(members)} members: an array has 1 to {MEMBERS_MAX}"
    known = (*members, *state.removed)
    yield from _twice("device", (m.device for m in known))
    yield from _twice("device number", (m.number for m in known))
    yield from _twice("role", (m.role for m in members if m.role >= 0 and not m.replacement))
    if not 0 <= state.next_number <= NUMBERS_MAX:
        yield f"next device number {state.next_number} is out of range"
    for member in members:
        if member.replacement and (problem := replacement_problem(state, member)):
            yield f"member {member.device}: {problem}"
        yield from (f"member {member.device}: {why}" for why in _one_member(state, member))
    if len(state.removed) > state.raid_disks:
        yield f"{len(state.removed)} removed members that may be re-added"
    for member in state.removed:
        if member.state is not MemberState.FAULTY or not member.by_bitmap:
            yield f"removed member {member.device}: no bitmap tells what it misses"
        yield from (f"removed {member.device}: {why}" for why in _one_member(state, member))
    held = frozenset(m.role for m in state.in_sync)
    for roles in data_sets(state.level, state.raid_disks):
        if not held & roles:
            yield f"no member in sync for the data of roles {sorted(roles)}"


def _one_member(state: ArrayState, member: Member) -> Iterator[str]:
    in_role = member.state in (MemberState.IN_SYNC, MemberState.RECOVERING)
    if not 0 <= member.number < state.next_number:
        yield f"device number {member.number} was not given out yet"
    if in_role != (0 <= member.role < state.raid_disks) or member.role < -1:
        yield f"role {member.role} does not fit a member that is {member.state}"
    if member.data_size_sectors < state.size_sectors:
        yield f"{member.data_size_sectors} sectors are less than the component size"
    if not 0 <= member.data_offset_sectors <= SECTORS_MAX:
        yield f"data offset {member.data_offset_sectors} is out of range"
    if member.data_size_sectors > SECTORS_MAX:
        yield f"data size {member.data_size_sectors} is out of range"
    recovering = member.state is MemberState.RECOVERING
    if not 0 <= member.recovery_sectors <= (end_sectors(state) if recovering else 0):
        yield f"recovery position {member.recovery_sectors} does not fit its state"
    if member.by_bitmap and not (recovering or member.state is MemberState.FAULTY):
        yield f"marked as covered by bitmaps, but it is {member.state}"


def _run_problems(state: ArrayState) -> Iterator[str]:
    yield from _twice("running life", state.running)
    yield from _twice("slot index", (slot.index for slot in state.slots))
    yield from _twice("slot of life", (slot.life for slot in state.slots))
    if len(state.running) > NODES_MAX:
        yield f"{len(state.running)} nodes run it, more than {NODES_MAX}"
    if state.readonly and not state.active:
        yield "it is stopped, yet read-only"
    if state.paused_s < 0:
        yield f"paused since {state.paused_s} s"
    if state.running and not state.active:
        yield "it is stopped, yet some nodes run it"
    if state.released_at != ZERO and not state.released:
        yield "it was not released, yet it has the stamp of that"
    if state.released and (state.active or state.slots):
        yield "it is released, yet the cluster uses it"
    if not 1 <= state.slot_count <= AREA_SLOTS_MAX:
        yield f"{state.slot_count} bitmap slots: there are 1 to {AREA_SLOTS_MAX}"
    for slot in state.slots:
        if not 0 <= slot.index < min(SLOTS_MAX, state.slot_count):
            yield f"slot index {slot.index} is out of range"
        if slot.dirty == (slot.life in state.running):
            yield f"slot {slot.index}: {'dirty' if slot.dirty else 'in use'}, which its life is not"
    owners = {slot.life for slot in state.slots}
    for life in state.running:
        if life not in owners:
            yield f"{life.node} runs it without a bitmap slot"
    yield from _sync_problems(state)


def _sync_problems(state: ArrayState) -> Iterator[str]:
    sync = state.sync
    if sync is None:
        return
    if state.still:
        yield f"pass {sync.serial}, though it is paused or read-only"
    if sync.serial != state.last_serial:
        yield f"pass {sync.serial} is not the last one, {state.last_serial}"
    if not 0 <= sync.position_sectors <= end_sectors(state):
        yield f"checkpoint {sync.position_sectors} lies outside of the array"
    premise = {
        SyncKind.RESYNC: state.resync_sectors is not None,
        SyncKind.RECOVER: any(m.state is MemberState.RECOVERING for m in state.members),
        SyncKind.BITMAP: any(slot.dirty for slot in state.slots),
        SyncKind.CHECK: may_look(state),
        SyncKind.REPAIR: may_look(state),
    }
    if premise[SyncKind.RECOVER] and sync.kind is not SyncKind.RECOVER:
        yield f"a pass of kind {sync.kind} while a member recovers"
    if not premise[sync.kind]:
        yield f"a pass of kind {sync.kind} that has nothing to do"


def _twice(what: str, values: Iterable[_T]) -> Iterator[str]:
    seen: set[_T] = set()
    for value in values:
        if value in seen:
            yield f"{what} {value} is there twice"
        seen.add(value)
