"""From what runs here to what was committed: exact steps, and any history carried out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdcluster.core.model import (
    ArrayId,
    ArrayState,
    DeviceId,
    Life,
    Member,
    MemberState,
    NodeId,
    SetRaidDisks,
    Slot,
)
from mdcluster.core.reshape import set_raid_disks, show_size
from mdcluster.md.driver import ArrayStatus, DriverError, MdDriver, MemberStatus
from mdcluster.md.plan import (
    Add,
    Fail,
    MissingMemberError,
    RaidDisks,
    Remove,
    Size,
    Start,
    Step,
    Stop,
    TakeIn,
    carry_out,
    plan,
)
from tests.unit.md.port_suite import ARRAY, SIZE_SECTORS, array, device, member

ME = Life(NodeId("me"), "boot")
SLOT = 1024
OTHER = Life(NodeId("other"), "boot")
PATHS = {device(number): f"/dev/disk{number}" for number in range(40)}


def status_of(
    *members: MemberStatus, disks: int = 2, size: int = SIZE_SECTORS, shown: int = 0
) -> ArrayStatus:
    return ArrayStatus(
        ARRAY, members, False, True, 0, 0, 0, None, 0, 0, 0, disks, size, shown or size
    )


def local(
    number: int, *, role: int = -2, in_sync: bool = True, faulty: bool = False
) -> MemberStatus:
    return MemberStatus(device(number), number if role == -2 else role, in_sync, faulty, False, 0)


def running(state: ArrayState) -> ArrayState:
    return replace(state, running=(OTHER, ME), slots=(Slot(0, ME),))


def steps(state: ArrayState, *members: MemberStatus) -> tuple[Step, ...]:
    return plan(status_of(*members), running(state), ME, PATHS, slot_offset_sectors=SLOT)


class Model:
    """The part of the port that plans use, with the refusals of the real drivers."""

    def __init__(self) -> None:
        self.members: dict[DeviceId, MemberStatus] | None = None
        self.calls: list[str] = []
        self.run_fails = False
        self.disks = self.size = self.shown = 0

    def status(self) -> ArrayStatus | None:
        if self.members is None:
            return None
        return status_of(*self.members.values(), disks=self.disks, size=self.size, shown=self.shown)

    @property
    def good(self) -> set[DeviceId]:
        assert self.members is not None
        return {m.device for m in self.members.values() if m.in_sync and m.role >= 0}

    def _at(self, device: DeviceId) -> MemberStatus:
        assert self.members is not None
        return self.members[device]

    def _put(self, status: MemberStatus) -> None:
        assert self.members is not None
        self.members[status.device] = status

    async def assemble(
        self, state: ArrayState, paths: dict[DeviceId, str], slot: int, *, read_only: bool
    ) -> None:
        assert self.members is None
        assert read_only == (slot < 0)
        self.calls.append("assemble")
        self.members = {}
        self.disks, self.size = state.raid_disks, state.size_sectors
        self.shown = state.shown_sectors or state.size_sectors
        for entry in state.members:
            if entry.device in paths:
                await self.add(state.uuid, entry, paths[entry.device])

    async def run(self, array: ArrayId) -> None:
        self.calls.append("run")
        if self.run_fails:
            raise DriverError("the socket is taken")

    async def stop(self, array: ArrayId, *, force: bool = False) -> bool:
        assert force, "a committed stop waits for nobody"
        self.calls.append("stop")
        self.members = None
        return True

    async def fail(self, array: ArrayId, device: DeviceId) -> None:
        status = self._at(device)
        assert not status.faulty
        if self.good == {device}:
            raise DriverError("the last good member")
        self._put(replace(status, faulty=True, in_sync=False))

    async def remove(self, array: ArrayId, device: DeviceId) -> None:
        assert self.members is not None
        status = self._at(device)
        assert status.faulty or status.role < 0
        del self.members[device]

    async def add(self, array: ArrayId, member: Member, path: str) -> None:
        assert self.members is not None
        assert path == PATHS[member.device]
        assert member.device not in self.members
        assert member.state is not MemberState.FAULTY
        taken = {m.role for m in self.members.values() if not m.faulty}
        assert member.role < 0 or member.role not in taken
        in_sync = member.state is MemberState.IN_SYNC
        self._put(MemberStatus(member.device, member.role, in_sync, False, False, 0))

    async def take_in(self, array: ArrayId, devices: Iterable[DeviceId]) -> None:
        for one in devices:
            status = self._at(one)
            assert not status.faulty and status.role >= 0
            self._put(replace(status, in_sync=True))

    async def set_raid_disks(self, array: ArrayId, raid_disks: int) -> None:
        assert self.members is not None and raid_disks != self.disks
        ranked = sorted((m for m in self.members.values() if m.role >= 0), key=lambda m: m.role)
        assert len(ranked) <= raid_disks
        for role, status in enumerate(ranked):
            self._put(replace(status, role=role))
        self.disks = raid_disks

    async def set_size(self, array: ArrayId, size_sectors: int, *, visible: bool) -> None:
        assert size_sectors >= self.size
        self.size = size_sectors
        self.shown = size_sectors if visible else self.shown

    async def bring(self, state: ArrayState) -> None:
        await carry_out(
            cast(MdDriver, self), plan(self.status(), state, ME, PATHS, slot_offset_sectors=SLOT)
        )


# --- single plans --------------------------------------------------------------------------


def test_not_mine_not_running_nothing_to_do() -> None:
    assert plan(None, array(), ME, PATHS, slot_offset_sectors=SLOT) == ()
    assert plan(None, replace(array(), running=(OTHER,)), ME, PATHS, slot_offset_sectors=SLOT) == ()
    assert (
        plan(
            None,
            replace(array(), running=(Life(ME.node, "older"),)),
            ME,
            PATHS,
            slot_offset_sectors=SLOT,
        )
        == ()
    )


def test_start_with_the_members_that_are_not_faulty() -> None:
    state = running(replace(array(), members=(member(0), member(1, MemberState.FAULTY, role=-1))))
    paths = ((device(0), "/dev/disk0"),)
    assert plan(None, state, ME, PATHS, slot_offset_sectors=SLOT) == (
        Start(state, paths, SLOT, False),
    )


def test_stop_when_no_longer_listed() -> None:
    assert plan(
        status_of(local(0)), replace(array(), running=(OTHER,)), ME, PATHS, slot_offset_sectors=SLOT
    ) == (Stop(ARRAY),)


def test_a_spectator_follows_whoever_runs() -> None:
    state = replace(array(), running=(OTHER,))
    assert plan(None, state, ME, {}, slot_offset_sectors=SLOT, spectator=True) == (
        Start(state, (), -1, True),
    )
    stopped = replace(array(), running=())
    assert plan(status_of(local(0)), stopped, ME, {}, slot_offset_sectors=SLOT, spectator=True) == (
        Stop(ARRAY),
    )


def test_a_needed_member_that_is_not_here_is_an_error() -> None:
    paths = {device(0): "/dev/disk0"}
    with pytest.raises(MissingMemberError, match=r"role 1"):
        plan(None, running(array()), ME, paths, slot_offset_sectors=SLOT)
    with pytest.raises(MissingMemberError):
        plan(status_of(local(0)), running(array()), ME, paths, slot_offset_sectors=SLOT)
    spare = running(replace(array(), members=(member(0), member(5, MemberState.SPARE, role=-1))))
    assert plan(status_of(local(0)), spare, ME, paths, slot_offset_sectors=SLOT) == ()


def test_fail_then_remove() -> None:
    state = replace(array(), members=(member(0), member(1, MemberState.FAULTY, role=-1)))
    assert steps(state, local(0), local(1)) == (Fail(ARRAY, device(1)),)
    assert steps(state, local(0), local(1, in_sync=False, faulty=True)) == ()
    gone = replace(array(), members=(member(0),))
    assert steps(gone, local(0), local(1, in_sync=False, faulty=True)) == (
        Remove(ARRAY, device(1)),
    )
    assert steps(gone, local(0), local(1)) == (Fail(ARRAY, device(1)), Remove(ARRAY, device(1)))


def test_a_spare_becomes_a_target_and_is_taken_in() -> None:
    spare = member(2, MemberState.SPARE, role=-1)
    state = replace(array(), members=(member(0), spare))
    assert steps(state, local(0)) == (Add(ARRAY, spare, "/dev/disk2"),)
    target = member(2, MemberState.RECOVERING, role=1)
    state = replace(array(), members=(member(0), target))
    assert steps(state, local(0), local(2, role=-1, in_sync=False)) == (
        Remove(ARRAY, device(2)),
        Add(ARRAY, target, "/dev/disk2"),
    )
    state = replace(array(), members=(member(0), member(2, role=1)))
    assert steps(state, local(0), local(2, role=1, in_sync=False)) == (TakeIn(ARRAY, (device(2),)),)
    assert steps(state, local(0), local(2, role=1)) == ()


def test_re_add_of_a_member_that_is_faulty_here() -> None:
    back = member(1, MemberState.RECOVERING)
    state = replace(array(), members=(member(0), back))
    wanted = (Remove(ARRAY, device(1)), Add(ARRAY, back, "/dev/disk1"))
    assert steps(state, local(0), local(1, in_sync=False, faulty=True)) == wanted
    assert steps(state, local(0), local(1)) == (Fail(ARRAY, device(1)), *wanted)


def test_the_new_good_member_comes_before_the_old_one_goes() -> None:
    state = replace(array(), members=(member(0, MemberState.FAULTY, role=-1), member(1)))
    assert steps(state, local(0), local(1, in_sync=False)) == (
        TakeIn(ARRAY, (device(1),)),
        Fail(ARRAY, device(0)),
    )
    assert steps(state, local(0)) == (
        Add(ARRAY, member(1), "/dev/disk1"),
        Fail(ARRAY, device(0)),
    )


def test_a_replacement_needs_nobody_to_leave() -> None:
    new = replace(member(4, MemberState.RECOVERING, role=1), replacement=True)
    state = replace(array(), members=(member(0), member(1), new), next_number=5)
    both = (local(0), local(1))
    assert steps(state, *both) == (Add(ARRAY, new, "/dev/disk4"),)
    assert steps(state, *both, local(4, role=-1, in_sync=False)) == (
        Remove(ARRAY, device(4)),
        Add(ARRAY, new, "/dev/disk4"),
    )
    beside = local(4, role=1, in_sync=False)
    assert steps(state, *both, beside) == ()
    heir = replace(new, replacement=False)
    old = member(1, MemberState.FAULTY, role=-1)
    assert steps(replace(state, members=(member(0), old, heir)), *both, beside) == (
        Fail(ARRAY, device(1)),
    )
    done = replace(heir, state=MemberState.IN_SYNC)
    assert steps(replace(state, members=(member(0), old, done)), *both, beside) == (
        TakeIn(ARRAY, (device(4),)),
        Fail(ARRAY, device(1)),
    )


def test_members_close_ranks_before_anything_else() -> None:
    spare = member(4, MemberState.RECOVERING, role=2)
    state = replace(
        array(1, 3), members=(member(1, role=0), member(2, role=1), spare), next_number=5
    )
    before = status_of(local(1), local(2), local(4, role=-1, in_sync=False))
    assert plan(before, running(state), ME, PATHS, slot_offset_sectors=SLOT) == (
        RaidDisks(ARRAY, 3),
        Remove(ARRAY, device(4)),
        Add(ARRAY, spare, "/dev/disk4"),
    )


def test_a_size_is_given_first_and_shown_later() -> None:
    members = (local(0), local(1))
    state = running(replace(array(), size_sectors=2 * SIZE_SECTORS, shown_sectors=SIZE_SECTORS))
    grown = status_of(*members, size=2 * SIZE_SECTORS, shown=SIZE_SECTORS)
    for status, steps in (
        (status_of(*members), (Size(ARRAY, 2 * SIZE_SECTORS, visible=False),)),
        (grown, ()),
    ):
        assert plan(status, state, ME, PATHS, slot_offset_sectors=SLOT) == steps
    shown = replace(state, shown_sectors=None)
    assert plan(grown, shown, ME, PATHS, slot_offset_sectors=SLOT) == (
        Size(ARRAY, 2 * SIZE_SECTORS, visible=True),
    )


async def test_a_start_that_cannot_run_is_undone() -> None:
    model = Model()
    model.run_fails = True
    with pytest.raises(DriverError, match="taken"):
        await model.bring(running(array()))
    assert model.calls == ["assemble", "run", "stop"]
    assert model.status() is None


# --- whole histories ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pick:
    """One random choice of a change."""

    kind: int
    which: int


def changed(state: ArrayState, pick: Pick) -> ArrayState:
    """The state after a valid change of the picked kind, or as it was."""
    changes = [_failed, _removed, _spare_added, _activated, _recovered, _re_added, _stopped]
    return changes[pick.kind % len(changes)](state, pick.which)


def _swap(state: ArrayState, old: Member, new: Member) -> ArrayState:
    return replace(state, members=tuple(new if m is old else m for m in state.members))


def _of(state: ArrayState, which: int, *kinds: MemberState) -> Member | None:
    found = [m for m in state.members if m.state in kinds]
    return found[which % len(found)] if found else None


def _failed(state: ArrayState, which: int) -> ArrayState:
    old = _of(state, which, *MemberState)
    if old is None or state.in_sync == (old,):
        return state
    return _swap(state, old, replace(old, state=MemberState.FAULTY, role=-1))


def _removed(state: ArrayState, which: int) -> ArrayState:
    old = _of(state, which, MemberState.FAULTY, MemberState.SPARE)
    return replace(state, members=tuple(m for m in state.members if m is not old))


def _spare_added(state: ArrayState, which: int) -> ArrayState:
    number = state.next_number
    if number >= len(PATHS):
        return state
    spare = member(number, MemberState.SPARE, role=-1)
    return replace(state, members=(*state.members, spare), next_number=number + 1)


def _to_role(state: ArrayState, old: Member | None) -> ArrayState:
    free = sorted(set(range(state.raid_disks)) - {m.role for m in state.members})
    if old is None or not free:
        return state
    return _swap(state, old, replace(old, state=MemberState.RECOVERING, role=free[0]))


def _activated(state: ArrayState, which: int) -> ArrayState:
    return _to_role(state, _of(state, which, MemberState.SPARE))


def _re_added(state: ArrayState, which: int) -> ArrayState:
    return _to_role(state, _of(state, which, MemberState.FAULTY))


def _recovered(state: ArrayState, which: int) -> ArrayState:
    old = _of(state, which, MemberState.RECOVERING)
    return state if old is None else _swap(state, old, replace(old, state=MemberState.IN_SYNC))


def _stopped(state: ArrayState, which: int) -> ArrayState:
    return replace(state, running=() if state.running else (OTHER, ME))


def _reshaped(state: ArrayState, which: int) -> ArrayState:
    """As the core does it, or not at all."""
    disks = set_raid_disks(state, SetRaidDisks(ARRAY, which % 5 + 1), force=True)
    return state if isinstance(disks, str) else disks


def _grown(state: ArrayState, which: int) -> ArrayState:
    if state.shown_sectors is not None:
        return show_size(state)
    larger = state.size_sectors + 8 * which
    return replace(state, size_sectors=larger, shown_sectors=state.size_sectors if which else None)


picks = st.builds(Pick, st.integers(0, 6), st.integers(0, 7))
shapes = st.sampled_from([_reshaped, _grown, lambda state, _: state])


@settings(max_examples=300, deadline=None)
@given(
    st.integers(2, 4),
    st.lists(
        st.tuples(shapes, st.integers(0, 7), st.lists(picks, min_size=1, max_size=2)), max_size=12
    ),
)
async def test_any_history_is_carried_out(
    disks: int, history: list[tuple[Callable[[ArrayState, int], ArrayState], int, list[Pick]]]
) -> None:
    """Also by a node that sees only the latest of some changes; the shape is the first of them."""
    state, model = running(array(1, disks)), Model()
    await model.bring(state)
    for shape, which, batch in history:
        state = shape(state, which)
        for pick in batch:
            state = changed(state, pick)
        await model.bring(state)
        assert plan(model.status(), state, ME, PATHS, slot_offset_sectors=SLOT) == ()
        assert (model.members is not None) == (ME in state.running)
        if model.members is not None:
            assert model.good == {m.device for m in state.in_sync}
            faulty = {m.device for m in model.members.values() if m.faulty}
            assert set(model.members) - faulty == {m.device for m in state.writable}
            roles = {m.device: m.role for m in state.members if m.role >= 0}
            here = {m.device: m.role for m in model.members.values() if not m.faulty}
            assert roles == {device: role for device, role in here.items() if role >= 0}
