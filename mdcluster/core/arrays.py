"""The state of an array under changes: change -> new state, or why not. Pure.

Rules of this file:

* A change is applied whole or refused whole; the same change again does no harm: what is
  already so returns the very same state.
* The last copy in sync of any data never goes.
* A spare takes a vacant role at once, as RECOVERING, in the change that made it vacant, or
  that ends the BITMAP pass it had to wait for.
* A pass ends with its premise: `sync` is None as soon as nothing is left to copy, and also
  when a member starts RECOVERING: md then recovers it, whatever it did before. The planner
  begins a RECOVER pass that serves all, from the lowest position that any of them still needs;
  what was to be resynced stays on record (`resync_sectors`, dirty slots) and comes afterwards.
* No member starts RECOVERING during a BITMAP pass, which is short: bits of dead lives may then
  stand in the writer's slot alone, and md clears that where it recovers a member.
* A check or a repair gives way: it ends, and is not begun again, as soon as a member fails,
  anything needs a pass, or nobody runs the array (md does the same). What it found stays.
* An array that is paused or read-only is still: what runs ends where it is, nothing begins, and
  spares wait. A checkpoint stays on record (`resync_sectors`, `recovery_sectors`, dirty slots), so
  that what is due begins there when it is still no more. Stopped, an array is read-only no longer.
* `Member.by_bitmap` of a FAULTY member says that the bitmaps still tell all it has missed, so
  that it may be re-added by them, also once it was removed (`removed`, the latest of them). That
  ends as soon as every role has a member again, be it one
  that recovers (md then clears bits: drivers/md/raid1.c, R1BIO_Degraded); for raid10, which must
  know the role the member had, also as soon as a second role is not in sync. And it ends when a
  life ends other than in order with one copy in sync of some data: where that gave errors, the
  faulty member may have got a write whose bit the copy has not. For the same reason a member that
  fails while it recovers comes back by a full recovery. A slot of a life
  that stopped in order is kept, as dirty, while a member depends on its bits; it then belongs to
  a life of its own name, which never runs again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from mdcluster.core.adoption import adoption_problem, release, release_refusal
from mdcluster.core.creation import create, creation_problem, device_problem, member_of
from mdcluster.core.geometry import (
    array_size_sectors,
    data_sets,
    end_sectors,
    hold_range,
    may_look,
    needs_sync,
    redundant,
    survives_without,
    vacant_roles,
)
from mdcluster.core.model import (
    LOOKING,
    MEMBERS_MAX,
    NODES_MAX,
    AddMember,
    AdoptArray,
    ArrayChange,
    ArrayState,
    BeginSync,
    Checkpoint,
    CreateArray,
    DeviceId,
    EndLife,
    EndSync,
    FailMember,
    JoinRunner,
    LeaveRunner,
    Life,
    Member,
    MemberState,
    ReAddMember,
    ReleaseArray,
    RemoveMember,
    ReplaceMember,
    SetPaused,
    SetRaidDisks,
    SetReadonly,
    SetSize,
    ShowSize,
    Slot,
    StartArray,
    StopArray,
    StopLooking,
    SyncKind,
    SyncPass,
)
from mdcluster.core.replacement import inherit, replacement_for, retire
from mdcluster.core.reshape import set_raid_disks, set_size, show_size
from mdcluster.core.statecheck import MISMATCHED_MAX, NUMBERS_MAX, SLOTS_MAX, validate

__all__ = [
    "Refused",
    "apply_change",
    "array_size_sectors",
    "end_sectors",
    "hold_range",
    "needs_sync",
    "survives_without",
    "validate",
]


@dataclass(frozen=True, slots=True)
class Refused:
    """A change that cannot be made; the sentence names array and device, and what to do."""

    why: str


@dataclass(frozen=True, slots=True)
class _Context:
    others: tuple[ArrayState, ...]
    runners: tuple[Life, ...]
    force: bool


def apply_change(
    state: ArrayState | None,
    change: ArrayChange,
    *,
    others: Iterable[ArrayState],
    runners: tuple[Life, ...] = (),
    force: bool = False,
    now_s: int = 0,
) -> ArrayState | Refused:
    """The state after the change, the same object if it changes nothing, or a refusal.

    others: all other arrays of the cluster (names and devices are unique over them).
    runners: the lives that have prepared (CreateArray, StartArray): they run it from now on.
    now_s: seconds since the epoch, for `updated_s`.
    """
    context = _Context(tuple(others), runners, force)
    result: ArrayState | Refused
    if isinstance(change, CreateArray):
        result = _create(state, change, context)
    elif isinstance(change, AdoptArray):
        result = _adopt(state, change, context)
    elif state is None:
        return Refused(f"there is no array with UUID {change.array} in this cluster")
    elif why := release_refusal(state, change) or _still_refusal(state, change):
        return Refused(why)
    else:
        result = _HANDLERS[type(change)](state, change, context)
    if isinstance(result, Refused) or result is state:
        return result
    result = _settle(result)
    problems = validate(result)
    assert not problems, (change, problems)
    return replace(result, updated_s=now_s) if now_s else result


# --- create, start, stop ---------------------------------------------------------------------


def _create(
    state: ArrayState | None, change: CreateArray, context: _Context
) -> ArrayState | Refused:
    if state is not None:
        return Refused(f"cannot create {change.name!r}: UUID {change.array} is array {state.name}")
    problem = creation_problem(change, context.others, context.force)
    return Refused(problem) if problem else _with_runners(create(change), context.runners)


def _adopt(state: ArrayState | None, change: AdoptArray, context: _Context) -> ArrayState | Refused:
    known = context.others if state is None else (*context.others, state)
    problem = adoption_problem(change, known)
    return Refused(problem) if problem else _with_runners(change.state, context.runners)


def _release(state: ArrayState, change: ReleaseArray, context: _Context) -> ArrayState | Refused:
    result = release(state, context.force)
    return Refused(result) if isinstance(result, str) else result


def _start(state: ArrayState, change: StartArray, context: _Context) -> ArrayState | Refused:
    if change.readonly and state.active and not state.readonly:
        return Refused(f"{state.name}: it runs already; make it read-only with --readonly")
    started = state if state.active else replace(state, active=True, readonly=change.readonly)
    return _with_runners(started, context.runners)


def _stop(state: ArrayState, change: StopArray, context: _Context) -> ArrayState | Refused:
    if not state.active:
        return state
    for life in state.running:
        state = _without_runner(state, life)
    return replace(state, active=False, readonly=False)


# --- still ---------------------------------------------------------------------------------------

_STIRS = (BeginSync, ReAddMember, ReplaceMember, SetRaidDisks, SetSize)


def _still_refusal(state: ArrayState, change: ArrayChange) -> str:
    if not (state.still and isinstance(change, _STIRS)):
        return ""
    if state.readonly:
        return f"{state.name} is read-only: nothing is copied in it; make it --readwrite first"
    return f"{state.name} is paused: nothing is copied in it, and it keeps its shape; --resume it"


def _set_readonly(
    state: ArrayState, change: SetReadonly, context: _Context
) -> ArrayState | Refused:
    if change.on == state.readonly:
        return state
    if not state.active:
        return Refused(f"{state.name} is stopped; start it with --assemble --readonly")
    if change.on and state.shown_sectors is not None:
        return Refused(f"{state.name}: not every node has its new size yet; try again")
    return replace(state, readonly=change.on)


def _set_paused(state: ArrayState, change: SetPaused, context: _Context) -> ArrayState | Refused:
    if change.on == (state.paused_s > 0):
        return state
    return replace(state, paused_s=max(change.now_s, 1) if change.on else 0)


# --- who runs it -------------------------------------------------------------------------------


def _join(state: ArrayState, change: JoinRunner, context: _Context) -> ArrayState | Refused:
    return _with_runners(state, (change.life,))


def _with_runners(state: ArrayState, lives: tuple[Life, ...]) -> ArrayState | Refused:
    """With a bitmap slot for each of these lives: the lowest free index, in order."""
    for life in lives:
        if life in state.running:
            continue
        if not state.active:
            return Refused(f"{state.name}: {life.node} cannot run it, it is stopped; --assemble it")
        if state.slot_of(life) is not None and state.running:
            return Refused(
                f"{state.name}: {life.node} cannot run it before the bits it left behind when it "
                "was declared dead are resynced"
            )
        state = replace(
            state, slots=tuple(_of_former(s) if s.life == life else s for s in state.slots)
        )
        used = {slot.index for slot in state.slots}
        slots_max = min(SLOTS_MAX, state.slot_count)
        free = [index for index in range(slots_max) if index not in used]
        if not free or len(state.running) >= NODES_MAX:
            return Refused(
                f"{state.name}: no bitmap slot is free for {life.node}: all {slots_max} are in use "
                "or wait for the resync of dead nodes"
            )
        stay = state.stays + 1
        slots = sorted((*state.slots, Slot(free[0], life, stay=stay)), key=lambda slot: slot.index)
        running = (*state.running, life)
        state = replace(state, slots=tuple(slots), running=running, stays=stay)
    return state


def _leave(state: ArrayState, change: LeaveRunner, context: _Context) -> ArrayState | Refused:
    return _without_runner(state, change.life) if _runs(state, change) else state


def _runs(state: ArrayState, change: LeaveRunner | EndLife) -> bool:
    """Whether the life runs it, and in the very stay that is meant."""
    slot = state.slot_of(change.life)
    meant = not change.stay or (slot is not None and slot.stay == change.stay)
    return change.life in state.running and meant


def _without_runner(state: ArrayState, life: Life) -> ArrayState:
    """The life has stopped in order: its bits go with it, unless a member depends on them.

    Or a pass does: its writer has zeroed the slots of dead lives, and may be this one.
    """
    merged = state.sync is not None and any(slot.dirty for slot in state.slots)
    keep = merged or any(member.by_bitmap for member in (*state.members, *state.removed))
    slots: list[Slot] = []
    for slot in state.slots:
        if slot.life != life or slot.dirty:
            slots.append(slot)
        elif keep:
            slots.append(_of_former(slot))
    return replace(state, slots=tuple(slots), running=_less(state.running, life))


def _of_former(slot: Slot) -> Slot:
    """Bits that their life left behind, though it goes on: as of one that never runs again."""
    former = Life(slot.life.node, f"{slot.life.boot_id}~{slot.index}")
    return replace(slot, life=former, dirty=True)


def _end_life(state: ArrayState, change: EndLife, context: _Context) -> ArrayState | Refused:
    if not _runs(state, change):
        return state
    slots = tuple(replace(s, dirty=True) if s.life == change.life else s for s in state.slots)
    ended = replace(state, slots=slots, running=_less(state.running, change.life))
    return ended if _each_twice(state) else _without_bits(ended)


def _each_twice(state: ArrayState) -> bool:
    """Whether all data has two copies in sync."""
    held = frozenset(m.role for m in state.in_sync)
    return all(len(held & roles) > 1 for roles in data_sets(state.level, state.raid_disks))


def _less(lives: tuple[Life, ...], gone: Life) -> tuple[Life, ...]:
    return tuple(life for life in lives if life != gone)


# --- members -----------------------------------------------------------------------------------


def _fail(state: ArrayState, change: FailMember, context: _Context) -> ArrayState | Refused:
    member = state.member(change.device)
    if member is None:
        return _no_such(state, change.device, "set faulty")
    if member.state is MemberState.FAULTY:
        return state
    if not survives_without(state, change.device):
        return Refused(
            f"{state.name}: cannot set {change.device} faulty: it has the last copy in sync of "
            "some data, the array would be failed; --add another member and let it recover first"
        )
    # The bits tell what it misses only if it was equal to the others when it failed.
    was_equal = member.state is MemberState.IN_SYNC and state.resync_sectors is None
    told = was_equal and not change.rewritten
    failed = replace(
        member,
        role=-1,
        state=MemberState.FAULTY,
        recovery_sectors=0,
        by_bitmap=told,
        replacement=False,
    )
    if member.state is MemberState.IN_SYNC:
        state = inherit(state, member)
    return _with_member(_without_looking(state), failed)


def _remove(state: ArrayState, change: RemoveMember, context: _Context) -> ArrayState | Refused:
    member = state.member(change.device)
    if member is None:
        return _no_such(state, change.device, "remove")
    if member.state not in (MemberState.FAULTY, MemberState.SPARE):
        return Refused(
            f"{state.name}: hot remove failed for {change.device}: Device or resource busy "
            f"(it is {_in_words(member)}; --fail it first)"
        )
    left = tuple(m for m in state.members if m is not member)
    removed = (*state.removed, member) if member.by_bitmap else state.removed
    return replace(state, members=left, removed=removed[-state.raid_disks :])


def _add(state: ArrayState, change: AddMember, context: _Context) -> ArrayState | Refused:
    new = change.member
    present = state.member(new.device)
    if present is not None:
        how = "--remove it first, or --re-add it" if present.state is MemberState.FAULTY else ""
        return Refused(
            f"{state.name}: cannot add {new.path}: it is a member already, {_in_words(present)}"
            + (f"; {how}" if how else "")
        )
    if len(state.members) >= MEMBERS_MAX:
        return Refused(
            f"{state.name}: cannot add {new.path}: it has {MEMBERS_MAX} members, the most an array "
            "can have; --remove a faulty one or a spare first"
        )
    if problem := device_problem(new, state.size_sectors, context.others):
        return Refused(f"{state.name}: cannot add it: {problem}")
    number = _free_number(state)
    spare = member_of(new, number, -1, MemberState.SPARE)
    return replace(
        state,
        members=(*state.members, spare),
        next_number=min(max(state.next_number, number + 1), NUMBERS_MAX),
    )


def _free_number(state: ArrayState) -> int:
    """Never one used before, as long as the superblock has room for new ones."""
    if state.next_number < NUMBERS_MAX:
        return state.next_number
    used = {m.number for m in (*state.members, *state.removed)}
    return next(number for number in range(NUMBERS_MAX) if number not in used)


def _re_add(state: ArrayState, change: ReAddMember, context: _Context) -> ArrayState | Refused:
    former = state.former(change.device)
    member = state.member(change.device) or former
    refused = f"{state.name}: --re-add of {change.path} is not possible"
    if member is None:
        return Refused(f"{refused}: it is not a member (any more); use --add")
    if former is not None and len(state.members) >= MEMBERS_MAX:
        return Refused(f"{refused}: the array has {MEMBERS_MAX} members; --remove one first")
    if member.state is not MemberState.FAULTY:
        return Refused(f"{refused}: it is {_in_words(member)} already")
    if _spares_wait(state):
        return Refused(
            f"{refused} now: the bits that dead nodes left behind are being resynced; try again "
            "when that is done"
        )
    vacant = vacant_roles(state)
    if not vacant:
        return Refused(f"{refused}: its role was taken over; --remove and --add it as a spare")
    if not member.by_bitmap:
        return Refused(
            f"{refused}: the bitmaps do not tell all that it has missed; --remove and --add it "
            "for a full recovery"
        )
    if former is not None:
        removed = tuple(m for m in state.removed if m is not former)
        members = tuple(sorted((*state.members, former), key=lambda m: m.number))
        state = replace(state, members=members, removed=removed)
    return _with_recovering(state, member, vacant[0])


def _replace(state: ArrayState, change: ReplaceMember, context: _Context) -> ArrayState | Refused:
    new = replacement_for(state, change)
    if isinstance(new, str):
        return Refused(new)
    if _spares_wait(state):
        return Refused(
            f"{state.name}: cannot replace {change.device} now: the bits that dead nodes left "
            "behind are being resynced; try again when that is done"
        )
    return state if new in state.members else _with_recovering(state, new, new.role)


def _with_recovering(state: ArrayState, member: Member, role: int) -> ArrayState:
    """The member takes the role; a pass that began without it is over."""
    joined = replace(member, role=role, state=MemberState.RECOVERING)
    return _with_member(replace(state, sync=None), joined)


def _spares_wait(state: ArrayState) -> bool:
    return state.sync is not None and state.sync.kind is SyncKind.BITMAP


def _with_member(state: ArrayState, member: Member) -> ArrayState:
    members = tuple(member if m.device == member.device else m for m in state.members)
    return replace(state, members=members)


def _no_such(state: ArrayState, device: DeviceId, verb: str) -> Refused:
    return Refused(f"{state.name}: cannot {verb} {device}: No such device in this array")


def _in_words(member: Member) -> str:
    return "in sync" if member.state is MemberState.IN_SYNC else member.state.value


# --- passes ------------------------------------------------------------------------------------


def _begin(state: ArrayState, change: BeginSync, context: _Context) -> ArrayState | Refused:
    if state.sync is not None:
        return Refused(
            f"{state.name}: cannot begin {change.kind}: {state.sync.kind} {state.sync.serial} is "
            "not finished"
        )
    if not state.active:
        return Refused(f"{state.name}: cannot begin {change.kind}: the array is stopped")
    recovering = _recovering(state)
    if recovering and change.kind is not SyncKind.RECOVER:
        return Refused(
            f"{state.name}: cannot begin {change.kind}: {recovering[0].device} recovers first"
        )
    looks = 0 if may_look(state) else None
    starts = {
        SyncKind.BITMAP: 0 if any(slot.dirty for slot in state.slots) else None,
        SyncKind.RESYNC: state.resync_sectors,
        SyncKind.RECOVER: min((m.recovery_sectors for m in recovering), default=None),
        SyncKind.CHECK: looks,
        SyncKind.REPAIR: looks,
    }
    start = starts[change.kind]
    if start is None:
        return Refused(f"{state.name}: cannot begin {change.kind}: {_why_no_pass(state, change)}")
    serial = state.last_serial + 1
    if change.kind in LOOKING:
        state = replace(state, mismatched_sectors=0)
    return replace(state, sync=SyncPass(serial, change.kind, start), last_serial=serial)


def _why_no_pass(state: ArrayState, change: BeginSync) -> str:
    due = needs_sync(state)
    if change.kind not in LOOKING or not state.running:
        return "there is nothing to do" if state.running else "no node runs the array"
    if due is not None:
        return f"{due} is due and goes first; --wait for it"
    return "no data has two copies in sync, there is nothing to compare; --add a member"


def _stop_looking(
    state: ArrayState, change: StopLooking, context: _Context
) -> ArrayState | Refused:
    if state.sync is None or state.sync.kind in LOOKING:
        return _without_looking(state)
    return Refused(
        f"{state.name}: {state.sync.kind} cannot be ended: its members are not equal before it is "
        "complete"
    )


def _without_looking(state: ArrayState) -> ArrayState:
    looking = state.sync is not None and state.sync.kind in LOOKING
    return replace(state, sync=None) if looking else state


def _checkpoint(state: ArrayState, change: Checkpoint, context: _Context) -> ArrayState | Refused:
    sync, position = state.sync, change.position_sectors
    if sync is None or sync.serial != change.serial:
        return Refused(f"{state.name}: a checkpoint of pass {change.serial}, which does not run")
    if not sync.position_sectors <= position <= end_sectors(state):
        return Refused(
            f"{state.name}: a checkpoint goes forward, at most to the end: {position} is not "
            f"within {sync.position_sectors} to {end_sectors(state)} sectors"
        )
    if position == sync.position_sectors:
        return state
    moved = replace(
        _with_mismatches(state, change.mismatched_sectors),
        sync=replace(sync, position_sectors=position),
    )
    if sync.kind is SyncKind.RESYNC:
        return replace(moved, resync_sectors=position)
    if sync.kind is not SyncKind.RECOVER:
        return moved
    for member in _recovering(state):
        valid = max(member.recovery_sectors, position)
        moved = _with_member(moved, replace(member, recovery_sectors=valid))
    return moved


def _end(state: ArrayState, change: EndSync, context: _Context) -> ArrayState | Refused:
    sync = state.sync
    if sync is None and change.serial == state.last_serial:
        return state
    if sync is None or sync.serial != change.serial:
        return Refused(f"{state.name}: the end of pass {change.serial}, which does not run")
    ended = replace(_with_mismatches(state, change.mismatched_sectors), sync=None)
    if sync.kind is not SyncKind.RECOVER:
        kept = tuple(s for s in state.slots if not (s.dirty and s.life in change.slots))
        resync = None if sync.kind is SyncKind.RESYNC else state.resync_sectors
        return replace(ended, slots=kept, resync_sectors=resync)
    # A member that started RECOVERING during the pass would have ended it: all were copied.
    for member in _recovering(state):
        if member.replacement:
            ended = retire(ended, member)
        done = replace(
            member,
            state=MemberState.IN_SYNC,
            recovery_sectors=0,
            by_bitmap=False,
            replacement=False,
        )
        ended = _with_member(ended, done)
    return ended


def _with_mismatches(state: ArrayState, found_sectors: int) -> ArrayState:
    """What a check or a repair has found; a new writer may not know all of it."""
    if state.sync is None or state.sync.kind not in LOOKING:
        return state
    known = max(state.mismatched_sectors, min(found_sectors, MISMATCHED_MAX))
    return replace(state, mismatched_sectors=known)


def _recovering(state: ArrayState) -> tuple[Member, ...]:
    return tuple(m for m in state.members if m.state is MemberState.RECOVERING)


# --- shape -------------------------------------------------------------------------------------


def _set_raid_disks(
    state: ArrayState, change: SetRaidDisks, context: _Context
) -> ArrayState | Refused:
    return _or_refused(set_raid_disks(state, change, context.force))


def _set_size(state: ArrayState, change: SetSize, context: _Context) -> ArrayState | Refused:
    return _or_refused(set_size(state, change))


def _show_size(state: ArrayState, change: ShowSize, context: _Context) -> ArrayState | Refused:
    return show_size(state)


def _or_refused(result: ArrayState | str) -> ArrayState | Refused:
    return Refused(result) if isinstance(result, str) else result


# --- what follows of itself ----------------------------------------------------------------------


def _settle(state: ArrayState) -> ArrayState:
    return _end_vain_pass(_forget_bits(_take_over(state)))


def _take_over(state: ArrayState) -> ArrayState:
    """Spares, lowest device number first, take the vacant roles, lowest first.

    Not in an array that was released: nothing is copied in it any more.
    """
    if state.released or state.still or _spares_wait(state):
        return state
    spares = sorted(
        (m for m in state.members if m.state is MemberState.SPARE), key=lambda m: m.number
    )
    for role, spare in zip(vacant_roles(state), spares, strict=False):
        state = _with_recovering(state, spare, role)
    return state


def _forget_bits(state: ArrayState) -> ArrayState:
    """No re-add by bitmap once bits may have been cleared, or the role is not certain."""
    if vacant_roles(state) and (state.level == 1 or state.degraded == 1):
        return state
    return _without_bits(state)


def _without_bits(state: ArrayState) -> ArrayState:
    """What is faulty comes back by a full recovery only."""
    members = tuple(
        replace(m, by_bitmap=False) if m.state is MemberState.FAULTY else m for m in state.members
    )
    return replace(state, members=members, removed=())


def _end_vain_pass(state: ArrayState) -> ArrayState:
    """One copy left: nothing can differ. Nobody recovering: nothing to recover. Or it is still."""
    if state.resync_sectors is not None and not redundant(state):
        state = replace(state, resync_sectors=None)
    if state.sync is None:
        return state
    if state.still:
        return replace(state, sync=None)
    vain = {
        SyncKind.RESYNC: state.resync_sectors is None,
        SyncKind.RECOVER: not _recovering(state),
        SyncKind.BITMAP: not any(slot.dirty for slot in state.slots),
        SyncKind.CHECK: not may_look(state),
        SyncKind.REPAIR: not may_look(state),
    }
    return replace(state, sync=None) if vain[state.sync.kind] else state


_HANDLERS: dict[type, Callable[[ArrayState, Any, _Context], ArrayState | Refused]] = {
    StartArray: _start,
    StopArray: _stop,
    SetReadonly: _set_readonly,
    SetPaused: _set_paused,
    ReleaseArray: _release,
    FailMember: _fail,
    RemoveMember: _remove,
    AddMember: _add,
    ReAddMember: _re_add,
    ReplaceMember: _replace,
    JoinRunner: _join,
    LeaveRunner: _leave,
    EndLife: _end_life,
    BeginSync: _begin,
    Checkpoint: _checkpoint,
    EndSync: _end,
    StopLooking: _stop_looking,
    SetRaidDisks: _set_raid_disks,
    SetSize: _set_size,
    ShowSize: _show_size,
}
