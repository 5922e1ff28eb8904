"""Coming from plain md and going back to it: states, refusals, and what stays forgotten."""

from dataclasses import replace

import pytest

from mdcluster.core.adoption import EVENTS_MAX, adoption_problem
from mdcluster.core.arrays import Refused, apply_change, validate
from mdcluster.core.ledger import gone_at, without_gone
from mdcluster.core.model import (
    GONE_MAX,
    ZERO,
    AdoptArray,
    ArrayChange,
    ArrayId,
    ArrayState,
    ClusterState,
    Entry,
    FailMember,
    ForgetArray,
    JoinRunner,
    LeaveRunner,
    ReleaseArray,
    Slot,
    Stamp,
    StartArray,
    StopArray,
)
from mdcluster.core.voters import forget_array
from tests.unit.members import kit
from tests.unit.members.kit import LIVES, after, creation

ARRAY = kit.ARRAY
CLUSTER = ClusterState(str(kit.CLUSTER), "lab", ())


def plain(**changes: object) -> AdoptArray:
    """As a clean raid1 of two would be described."""
    state = replace(after(None, creation("/dev/a", "/dev/b", clean=True)), **changes)  # type: ignore[arg-type]
    return AdoptArray(ARRAY, state, ("/dev/a", "/dev/b"), 20)


def running() -> ArrayState:
    return after(None, plain(), runners=LIVES)


def refusal(state: ArrayState | None, change: ArrayChange, *, force: bool = False) -> str:
    result = apply_change(state, change, others=(), force=force)
    assert isinstance(result, Refused)
    return result.why


def test_adopted_it_runs_on_all_that_have_proved_it() -> None:
    state = running()
    assert state.running == LIVES and [slot.life for slot in state.slots] == list(LIVES)
    assert validate(state) == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (plain(uuid=ArrayId("other")), "described wrongly"),
        (replace(plain(), paths=("/dev/a",)), "described wrongly"),
        (plain(raid_disks=0), "takes 1 to"),
        (plain(running=LIVES, slots=tuple(map(Slot, range(3), LIVES))), "has run in a cluster"),
        (plain(released=True, active=False), "has run in a cluster"),
        (replace(plain(), events=EVENTS_MAX), "implausible"),
        (replace(plain(), events=-1), "implausible"),
    ],
)
def test_what_is_no_plain_array_is_refused(change: AdoptArray, why: str) -> None:
    assert why in refusal(None, change)
    assert why in adoption_problem(change, ())


def test_names_uuids_and_devices_are_unique() -> None:
    assert "exists already" in refusal(running(), plain())
    other = replace(running(), uuid=ArrayId("x"))
    assert "the name is taken" in adoption_problem(plain(), (other,))
    other = replace(other, name="y")
    assert "/dev/a is a member of array y already" in adoption_problem(plain(), (other,))


def test_an_array_has_as_many_slots_as_its_area() -> None:
    state = after(None, plain(slot_count=2), runners=LIVES[:2])
    assert "all 2 are in use" in refusal(state, JoinRunner(ARRAY, LIVES[2]))
    assert validate(replace(state, slot_count=1)) != []
    assert validate(replace(state, slot_count=65)) != []


def test_released_it_waits_to_be_forgotten() -> None:
    state = after(running(), ReleaseArray(ARRAY))
    assert (state.released, state.active, state.running, state.slots) == (True, False, (), ())
    assert after(state, ReleaseArray(ARRAY)) is state
    assert "is being released" in refusal(state, StartArray(ARRAY))
    assert "is being released" in refusal(state, JoinRunner(ARRAY, LIVES[0]))
    assert after(state, LeaveRunner(ARRAY, LIVES[0])) is state
    given_up = after(state, FailMember(ARRAY, state.members[1].device, "lost"))
    assert [m.device for m in given_up.writable] == [state.members[0].device]
    assert "last copy" in refusal(given_up, FailMember(ARRAY, state.members[0].device, "lost"))


def test_no_spare_takes_over_in_a_released_array() -> None:
    spare = after(None, creation("/dev/a", "/dev/b", "/dev/c", clean=True), ReleaseArray(ARRAY))
    failed = after(spare, FailMember(ARRAY, spare.members[1].device, "lost"))
    assert [m.state.value for m in failed.members] == ["in_sync", "faulty", "spare"]


def test_a_stopped_array_is_released_as_well() -> None:
    assert after(running(), StopArray(ARRAY), ReleaseArray(ARRAY)).released


def test_only_equal_copies_are_released() -> None:
    unequal = after(None, plain(resync_sectors=0), runners=LIVES)
    assert "resync has to finish first" in refusal(unequal, ReleaseArray(ARRAY), force=True)
    state = running()
    dirty = replace(state, running=LIVES[1:], slots=(Slot(0, LIVES[0], True), *state.slots[1:]))
    assert "bitmap has to finish first" in refusal(dirty, ReleaseArray(ARRAY), force=True)
    degraded = after(state, FailMember(ARRAY, state.members[1].device, "x"))
    assert "1 of 2 members are missing" in refusal(degraded, ReleaseArray(ARRAY))
    forced = apply_change(degraded, ReleaseArray(ARRAY), others=(), force=True)
    assert isinstance(forced, ArrayState) and forced.released


def test_entries_of_what_is_gone_are_void() -> None:
    cluster = forget_array(CLUSTER, ForgetArray(ARRAY, Stamp(3, 8), 5))
    for stamp, void in ((Stamp(3, 8), True), (Stamp(2, 90), True), (Stamp(3, 10), False)):
        entries = {ARRAY: Entry(ARRAY, stamp, running())}
        assert (without_gone(entries, cluster) == {}) is void  # type: ignore[arg-type]
    assert gone_at(cluster, ARRAY) == Stamp(3, 8)
    assert gone_at(cluster, "other") == ZERO


def test_the_latest_word_counts_and_the_oldest_gives_way() -> None:
    cluster = forget_array(CLUSTER, ForgetArray(ARRAY, Stamp(3, 8), 5))
    assert forget_array(cluster, ForgetArray(ARRAY, Stamp(3, 6), 4)) is cluster
    cluster = forget_array(cluster, ForgetArray(ARRAY, Stamp(4, 2), 7))
    assert [(gone.stamp, gone.serial) for gone in cluster.gone] == [(Stamp(4, 2), 7)]
    for number in range(GONE_MAX):
        cluster = forget_array(cluster, ForgetArray(ArrayId(str(number)), Stamp(4, 4), 0))
    assert len(cluster.gone) == GONE_MAX
    assert gone_at(cluster, ARRAY) == ZERO
