"""More or fewer members, more of each member: --grow, as changes of an array's state. Pure.

Rules of this file:

* Nothing is moved: a raid1 has the same data in every role, and a larger component begins as the
  smaller one did. What would have to be moved is refused.
* Roles of a raid1 say nothing but who is read first. When their number changes, the members close
  ranks, as the kernel's do (drivers/md/raid1.c, raid1_reshape): those in use keep their order. So
  that every node does the same, the change starts from a state that all have applied
  (see evaluation.py), without a pass under way and without a faulty member in between.
* A new size goes to all nodes first, and then is shown to applications (ShowSize): nobody writes
  where another node could not hold its writes yet. What is new is resynced by position.
* The bitmap slots stay where they are: the array grows as far as they reach.
"""

from dataclasses import replace

from mdcluster.core.geometry import needs_sync, size_limit_sectors, unequal_from_sectors
from mdcluster.core.model import (
    ArrayState,
    Member,
    MemberState,
    SetRaidDisks,
    SetSize,
)
from mdcluster.core.statecheck import SECTORS_MAX, level_problem


def set_raid_disks(state: ArrayState, change: SetRaidDisks, force: bool) -> ArrayState | str:
    """The state with so many roles, or why not."""
    wanted = change.raid_disks
    if wanted == state.raid_disks:
        return state
    problem = _raid_disks_problem(state, wanted, force)
    if problem:
        return f"{state.name}: cannot have {wanted} raid devices: {problem}"
    ranks = {m.device: rank for rank, m in enumerate(_in_use(state))}
    members = tuple(replace(m, role=ranks.get(m.device, -1)) for m in state.members)
    return replace(state, raid_disks=wanted, members=members)


def _in_use(state: ArrayState) -> list[Member]:
    return sorted((m for m in state.members if m.role >= 0), key=lambda m: m.role)


def _raid_disks_problem(state: ArrayState, wanted: int, force: bool) -> str:
    if state.level != 1:
        return "the data of a raid10 would have to be moved, which is not done; create a new array"
    if problem := level_problem(state.level, state.layout, state.chunk_sectors, wanted):
        return problem
    if wanted == 1 and not force:
        return "1 is an unusual number, probably a mistake; --force if it is meant"
    if state.sync is not None:
        return _under_way(state)
    if any(m.replacement for m in state.members):
        return "a member is being replaced; --wait for that, or --fail its replacement first"
    faulty = [m.device for m in state.members if m.state is MemberState.FAULTY]
    if faulty:
        return f"{', '.join(faulty)} is faulty; --remove it first"
    surplus = len(_in_use(state)) - wanted
    if surplus > 0:
        return f"{wanted + surplus} members are in use; --fail and --remove {surplus} of them first"
    return ""


def _under_way(state: ArrayState) -> str:
    assert state.sync is not None
    return f"{state.sync.kind} {state.sync.serial} is under way; --wait for it"


def set_size(state: ArrayState, change: SetSize) -> ArrayState | str:
    """The state with so much of each member used, or why not."""
    size = change.size_sectors
    if size == state.size_sectors:
        return state
    if problem := _size_problem(state, size):
        return f"{state.name}: cannot use {size // 2}K of each member: {problem}"
    members = tuple(
        replace(m, by_bitmap=m.by_bitmap and m.state is not MemberState.FAULTY)
        for m in state.members
    )  # one that is faulty has nothing of what is new, and no bit says so
    return replace(
        state,
        size_sectors=size,
        resync_sectors=unequal_from_sectors(state),
        shown_sectors=state.size_sectors,
        members=members,
        removed=(),
    )


def _size_problem(state: ArrayState, size: int) -> str:
    if size < state.size_sectors:
        return (
            f"it uses {state.size_sectors // 2}K now, and what is behind would be lost; create a "
            "new array and copy what it shall hold"
        )
    if state.sync is not None:
        return _under_way(state)
    if (due := needs_sync(state)) is not None:
        return f"{due} is due and goes first; --wait for it"
    if state.shown_sectors is not None:
        return "not every node has the size of the change before; try again"
    grain = state.chunk_sectors or 8
    if size > SECTORS_MAX or size % grain:
        return f"it is out of range or no multiple of {grain // 2}K"
    least = min(state.members, key=lambda m: m.data_size_sectors)
    if least.data_size_sectors < size:
        return (
            f"{least.device} has room for {least.data_size_sectors // grain * grain // 2}K, as it "
            "was added; put a larger one in its place first"
        )
    limit = size_limit_sectors(state)
    if size > limit:
        return (
            f"its bitmap slots reach up to {limit // 2}K (each bit stands for "
            f"{state.bitmap_chunk_sectors // 2}K); use that, or create a new array"
        )
    return ""


def show_size(state: ArrayState) -> ArrayState:
    """All of it is there for applications."""
    return state if state.shown_sectors is None else replace(state, shown_sectors=None)
