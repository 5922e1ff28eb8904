"""From the local md as it is to what was committed: the ordered calls of the port. Pure.

The shape comes first, with the members as they are here: a change of it is committed on a state
that every node has applied, so that all members close ranks in the same way (see
:mod:`mdcluster.core.reshape`).

What a commit says about members is carried out so that the array never loses its last good one on
the way: members that became good are taken in first, then others are failed and removed, then
those are added whose role had to become free. Carried out once, the plan is empty.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from mdcluster.core.model import (
    ArrayId,
    ArrayState,
    DeviceId,
    Life,
    Member,
    MemberState,
)
from mdcluster.errors import MdclusterError
from mdcluster.md.driver import ArrayStatus, DriverError, MdDriver, MemberStatus


class MissingMemberError(DriverError):
    """The committed state needs a member that was not found on this node."""


@dataclass(frozen=True, slots=True)
class Start:
    """assemble, then run; undone if it cannot run."""

    state: ArrayState
    paths: tuple[tuple[DeviceId, str], ...]
    slot_offset_sectors: int
    read_only: bool


@dataclass(frozen=True, slots=True)
class Stop:
    array: ArrayId


@dataclass(frozen=True, slots=True)
class Fail:
    array: ArrayId
    device: DeviceId


@dataclass(frozen=True, slots=True)
class Remove:
    array: ArrayId
    device: DeviceId


@dataclass(frozen=True, slots=True)
class Add:
    array: ArrayId
    member: Member
    path: str


@dataclass(frozen=True, slots=True)
class TakeIn:
    array: ArrayId
    devices: tuple[DeviceId, ...]


@dataclass(frozen=True, slots=True)
class RaidDisks:
    array: ArrayId
    raid_disks: int


@dataclass(frozen=True, slots=True)
class Size:
    array: ArrayId
    size_sectors: int
    visible: bool


@dataclass(frozen=True, slots=True)
class ReadOnly:
    array: ArrayId
    on: bool


Step = Start | Stop | Fail | Remove | Add | TakeIn | RaidDisks | Size | ReadOnly


def plan(
    status: ArrayStatus | None,
    state: ArrayState,
    me: Life,
    paths: Mapping[DeviceId, str],
    *,
    slot_offset_sectors: int,
    spectator: bool = False,
) -> tuple[Step, ...]:
    """The steps from `status` (None: not assembled) to `state`.

    A life runs what lists it; a spectator runs read-only what anybody runs. paths: where
    devices were found here. slot_offset_sectors: of this life's bitmap slot, -1 for a
    spectator. MissingMemberError if one is needed that was not: a node that
    ran on without it would acknowledge writes that others then read without.
    """
    wanted = bool(state.running) if spectator else me in state.running
    if not wanted:
        return () if status is None else (Stop(state.uuid),)
    if status is None:
        found = _needed_paths(state, state.writable, paths, spectator)
        slot = -1 if spectator else slot_offset_sectors
        return (Start(state, tuple(found.items()), slot, spectator),)
    steps = _member_steps(status, state, paths, spectator)
    if spectator or status.shut == state.readonly:
        return steps
    shut = ReadOnly(state.uuid, state.readonly)
    return (shut, *steps) if shut.on else (*steps, shut)


def expected_status(state: ArrayState, me: Life) -> ArrayStatus | None:
    """What md of this life shows once the state is applied; None if it does not run it."""
    if me not in state.running:
        return None
    shown = state.size_sectors if state.shown_sectors is None else state.shown_sectors
    members = tuple(
        MemberStatus(m.device, m.role, m.state is MemberState.IN_SYNC, _faulty(m), False, 0)
        for m in state.members
    )
    return ArrayStatus(
        array=state.uuid,
        members=members,
        write_pending=False,
        thread_idle=True,
        writes_in_flight=0,
        suspend_lo_sectors=0,
        suspend_hi_sectors=0,
        sync_kind=None,
        sync_completed_sectors=0,
        sync_max_sectors=0,
        openers=0,
        raid_disks=state.raid_disks,
        size_sectors=state.size_sectors,
        shown_sectors=shown,
        shut=state.readonly,
    )


def _needed_paths(
    state: ArrayState,
    members: tuple[Member, ...],
    paths: Mapping[DeviceId, str],
    spectator: bool,
) -> dict[DeviceId, str]:
    """Paths of the members found; spares, and anything for a spectator, may be missing."""
    missing = [m for m in members if m.device not in paths and m.role >= 0]
    if missing and not spectator:
        names = ", ".join(f"{m.device} (role {m.role})" for m in missing)
        raise MissingMemberError(
            f"array {state.name}: not found on this node: {names}; make the device visible here,"
            " or fail and remove it"
        )
    return {m.device: paths[m.device] for m in members if m.device in paths}


def _member_steps(
    status: ArrayStatus, state: ArrayState, paths: Mapping[DeviceId, str], spectator: bool
) -> tuple[Step, ...]:
    here = {m.device: m for m in _in_shape(status, state)}
    recovered = tuple(
        device
        for device, local in here.items()
        if (entry := state.member(device)) and _is_recovered(local, entry)
    )
    steps = _shape_steps(status, state)
    steps += [TakeIn(state.uuid, recovered)] if recovered else []
    leaving = {device: _leave(state, local) for device, local in here.items()}
    new = tuple(m for m in state.writable if m.device not in here or leaving[m.device])
    found = _needed_paths(state, new, paths, spectator)
    # Those whose role is free come first, so that there is always a good member.
    for entry in sorted(new, key=lambda m: bool(_in_the_way(here, m))):
        if entry.device in found:
            for device in _in_the_way(here, entry):
                steps += leaving.pop(device, ())
            steps.append(Add(state.uuid, entry, found[entry.device]))
    for rest in leaving.values():
        steps += rest
    return tuple(steps)


def _shape_steps(status: ArrayStatus, state: ArrayState) -> list[Step]:
    steps: list[Step] = []
    if status.raid_disks != state.raid_disks:
        steps.append(RaidDisks(state.uuid, state.raid_disks))
    shown = state.size_sectors if state.shown_sectors is None else state.shown_sectors
    if (status.size_sectors, status.shown_sectors) != (state.size_sectors, shown):
        steps.append(Size(state.uuid, state.size_sectors, state.shown_sectors is None))
    return steps


def _in_shape(status: ArrayStatus, state: ArrayState) -> list[MemberStatus]:
    """The members once the number of roles is right: they close ranks."""
    if status.raid_disks == state.raid_disks:
        return list(status.members)
    ranked = sorted((m for m in status.members if m.role >= 0), key=lambda m: m.role)
    idle = [m for m in status.members if m.role < 0]
    return [*(replace(m, role=rank) for rank, m in enumerate(ranked)), *idle]


def _leave(state: ArrayState, local: MemberStatus) -> tuple[Step, ...]:
    """How a member stops to be what it is here, if the commit says that it is something else."""
    entry = state.member(local.device)
    if entry is not None and (_is(local, entry) or _is_recovered(local, entry)):
        return ()
    to_be_faulty = entry is not None and _faulty(entry)
    steps: list[Step] = []
    if not local.faulty and (local.role >= 0 or to_be_faulty):
        steps.append(Fail(state.uuid, local.device))
    if not to_be_faulty:
        steps.append(Remove(state.uuid, local.device))
    return tuple(steps)


def _in_the_way(here: Mapping[DeviceId, MemberStatus], entry: Member) -> list[DeviceId]:
    """The members that must leave before `entry` can be added: itself, and who has its role."""
    beside = entry.replacement
    return [
        device
        for device, local in here.items()
        if device == entry.device
        or (local.role == entry.role >= 0 and not local.faulty and not beside)
    ]


def _faulty(entry: Member) -> bool:
    return entry.state is MemberState.FAULTY


def _is(local: MemberStatus, entry: Member) -> bool:
    """Whether the member is here what the commit says it is."""
    if _faulty(entry):
        return local.faulty
    if local.faulty or local.role != entry.role:
        return False
    return entry.role < 0 or local.in_sync == (entry.state is MemberState.IN_SYNC)


def _is_recovered(local: MemberStatus, entry: Member) -> bool:
    """Whether it only has to be taken in."""
    return (
        entry.state is MemberState.IN_SYNC
        and not local.faulty
        and not local.in_sync
        and local.role == entry.role >= 0
    )


BeforeRun = Callable[[ArrayId], Awaitable[None]]
"""Called for an array that is assembled and not yet running: its holds, and where reads go."""


async def _nothing_to_set(_: ArrayId) -> None:
    """For an array that has no history."""


async def carry_out(
    driver: MdDriver, steps: tuple[Step, ...], before_run: BeforeRun = _nothing_to_set
) -> None:
    """One after the other; the first DriverError ends it, and planning again continues there.

    A committed stop is carried out whoever uses the array: the others wait for nobody here.
    """
    for step in steps:
        if isinstance(step, Start):
            await _start(driver, step, before_run)
        elif isinstance(step, Stop):
            await driver.stop(step.array, force=True)
        elif isinstance(step, Fail):
            await driver.fail(step.array, step.device)
        elif isinstance(step, Remove):
            await driver.remove(step.array, step.device)
        elif isinstance(step, Add):
            await driver.add(step.array, step.member, step.path)
        elif isinstance(step, RaidDisks):
            await driver.set_raid_disks(step.array, step.raid_disks)
        elif isinstance(step, Size):
            await driver.set_size(step.array, step.size_sectors, visible=step.visible)
        elif isinstance(step, ReadOnly):
            await driver.set_read_only(step.array, step.on)
        else:
            await driver.take_in(step.array, step.devices)


async def _start(driver: MdDriver, step: Start, before_run: BeforeRun) -> None:
    await driver.assemble(
        step.state, dict(step.paths), step.slot_offset_sectors, read_only=step.read_only
    )
    try:
        await before_run(step.state.uuid)
        await driver.run(step.state.uuid)
    except (MdclusterError, OSError):
        await driver.stop(step.state.uuid, force=True)
        raise
