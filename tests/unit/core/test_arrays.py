"""The array state machine: what each change does, and what it must refuse to do."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdcluster.core.arrays import (
    Refused,
    apply_change,
    array_size_sectors,
    end_sectors,
    hold_range,
    needs_sync,
    survives_without,
    validate,
)
from mdcluster.core.model import (
    ARRAYS_MAX,
    AddMember,
    ArrayChange,
    ArrayId,
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
    MemberState,
    NodeId,
    ReAddMember,
    RemoveMember,
    ReplaceMember,
    SetRaidDisks,
    SetSize,
    ShowSize,
    Slot,
    StartArray,
    StopArray,
    StopLooking,
    SyncKind,
    SyncPass,
)
from mdcluster.core.statecheck import NUMBERS_MAX, SLOTS_MAX
from tests.unit.core.samples import (
    ARRAY,
    MIB,
    N1,
    N2,
    N3,
    N4,
    A,
    B,
    C,
    D,
    E,
    change,
    create_change,
    mirror,
    new,
    refusal,
    syncing,
)


def fail(device: DeviceId) -> FailMember:
    return FailMember(ARRAY, device, "write error")


def re_add(device: DeviceId) -> ReAddMember:
    return ReAddMember(ARRAY, device, f"/dev/{device}")


def bare(slots: Iterable[Slot | None]) -> tuple[Slot, ...]:
    """Without the numbers of stays, which most tests have nothing to say of."""
    return tuple(replace(slot, stay=0) for slot in slots if slot is not None)


def state_of(state: ArrayState, device: DeviceId) -> MemberState:
    member = state.member(device)
    assert member is not None
    return member.state


# --- create ----------------------------------------------------------------------------------


def test_create_gives_roles_numbers_and_a_slot_to_each_runner() -> None:
    state = mirror(N1, N2, spares=1, clean=False)
    assert [(m.device, m.number, m.role, m.state) for m in state.members] == [
        (A, 0, 0, MemberState.IN_SYNC),
        (B, 1, 1, MemberState.IN_SYNC),
        (C, 2, -1, MemberState.SPARE),
    ]
    assert bare(state.slots) == (Slot(0, N1), Slot(1, N2))
    assert state.running == (N1, N2)
    assert state.active and state.resync_sectors == 0
    assert state.next_number == 3 and state.degraded == 0
    assert needs_sync(state) is SyncKind.RESYNC


def test_create_assume_clean_needs_no_resync() -> None:
    assert mirror(clean=True).resync_sectors is None


def test_create_with_a_missing_role_has_nothing_to_resync_and_takes_the_spare() -> None:
    state = change(None, create_change(new(A, 0), new(B), assume_clean=False))
    assert state.resync_sectors is None
    assert state.members[1].role == 1 and state_of(state, B) is MemberState.RECOVERING
    assert needs_sync(state) is SyncKind.RECOVER


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"name": ""}, "1 to 32 characters"),
        ({"name": "x" * 33}, "1 to 32 characters"),
        ({"name": "a/b"}, "letters, digits"),
        ({"name": ".."}, "does not begin"),
        ({"level": 5}, "level 5 is not supported"),
        ({"raid_disks": 0}, "raid devices, not 0"),
        ({"raid_disks": 33}, "raid devices, not 33"),
        ({"chunk_sectors": 8}, "neither layout nor chunk"),
        ({"bitmap_chunk_sectors": 0}, "bitmap chunk"),
        ({"bitmap_chunk_sectors": 24}, "bitmap chunk"),
        ({"size_sectors": 0}, "out of range"),
        ({"size_sectors": 64 * MIB + 3}, "2K missing"),
        ({"members": (new(A, 0), new(A, 1))}, "named twice"),
        ({"members": (new(A, 0), replace(new(B, 1), path="/dev/dev-a"))}, "named twice"),
        ({"members": (new(A, 0), new(B, 0))}, "role 0 is taken"),
        ({"members": (new(A, 0), new(B, 2))}, "role 2 is taken or out of range"),
        ({"members": (new(A), new(B))}, "no device for the data of roles [0, 1]"),
        ({"members": (new(A, 0), replace(new(B, 1), data_offset_sectors=-1))}, "out of range"),
    ],
)
def test_create_is_refused(broken: dict[str, Any], words: str) -> None:
    why = refusal(None, replace(create_change(), **broken))
    assert words in why and "cannot create" in why


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"layout": 0x201}, "layout far is refused"),
        ({"layout": 0x10201}, "layout offset is refused"),
        ({"layout": 0x103}, "use near=2"),
        ({"chunk_sectors": 0}, "power of two"),
        ({"chunk_sectors": 4}, "power of two"),
        ({"chunk_sectors": 24}, "power of two"),
        ({"size_sectors": 64 * MIB - 8}, "no multiple of the chunk"),
        ({"raid_disks": 1}, "2 to 32 raid devices"),
        ({"members": (new(A, 0), new(B, 1), new(C))}, "roles [2, 3]"),
    ],
)
def test_create_raid10_is_refused(broken: dict[str, Any], words: str) -> None:
    members = (new(A, 0), new(B, 1), new(C, 2), new(D, 3))
    made = create_change(*members, level=10, raid_disks=4)
    assert words in refusal(None, replace(made, **broken))


def test_create_with_one_disk_needs_force() -> None:
    one = create_change(new(A, 0), raid_disks=1)
    assert "--force" in refusal(None, one)
    made = apply_change(None, one, others=(), force=True)
    assert isinstance(made, ArrayState) and made.raid_disks == 1


def test_names_uuids_and_devices_are_unique_over_the_cluster() -> None:
    other = replace(mirror(), uuid=ArrayId("a1"), name="md1")

    def why(made: CreateArray, *others: ArrayState) -> str:
        result = apply_change(None, made, others=others)
        assert isinstance(result, Refused)
        return result.why

    fresh = create_change(new(C, 0), new(D, 1))
    assert isinstance(apply_change(None, fresh, others=(other,)), ArrayState)
    assert "name is taken" in why(replace(fresh, name="md1"), other)
    assert "UUID a1 exists" in why(replace(fresh, array=ArrayId("a1")), other)
    assert "/dev/dev-a is a member of array md1" in why(create_change(), other)
    full = [replace(other, uuid=ArrayId(f"x{i}"), name=f"x{i}") for i in range(ARRAYS_MAX)]
    assert f"no more than {ARRAYS_MAX}" in why(fresh, *full)
    added = apply_change(mirror(), AddMember(ARRAY, new(A)), others=(other,))
    assert isinstance(added, Refused) and "a member already" in added.why
    two = replace(mirror(), members=mirror().members[:2])
    foreign = replace(other, members=(replace(other.members[0], device=E),))
    taken = apply_change(two, AddMember(ARRAY, new(E)), others=(foreign,))
    assert isinstance(taken, Refused) and "member of array md1" in taken.why


def test_create_over_an_existing_array_is_refused() -> None:
    assert "is array md0" in refusal(mirror(), create_change())


def test_changes_of_no_array_are_refused() -> None:
    assert "no array with UUID a0" in refusal(None, StopArray(ARRAY))


# --- members fail, go and come -----------------------------------------------------------------


def test_failing_a_member_degrades_and_is_idempotent() -> None:
    state = change(mirror(), fail(A))
    assert state_of(state, A) is MemberState.FAULTY
    assert state.degraded == 1 and state.members[0].role == -1
    assert apply_change(state, fail(A), others=(), now_s=99) is state


def test_the_last_good_member_never_goes() -> None:
    state = change(mirror(), fail(A))
    assert not survives_without(state, B)
    why = refusal(state, fail(B), force=True)
    assert "md0" in why and B in why and "last copy" in why


def test_failing_an_unknown_member_is_refused() -> None:
    assert "No such device" in refusal(mirror(), fail(E))


def test_raid10_keeps_one_copy_of_every_pair() -> None:
    state = change(mirror(level=10, raid_disks=4), fail(A))
    assert not survives_without(state, B)
    assert survives_without(state, C) and survives_without(state, D)
    state = change(state, fail(C))
    assert "last copy" in refusal(state, fail(B)) and "last copy" in refusal(state, fail(D))


def test_raid10_of_three_disks_survives_any_one() -> None:
    state = mirror(level=10, raid_disks=3)
    for device, rest in ((A, (B, C)), (B, (A, C)), (C, (A, B))):
        degraded = change(state, fail(device))
        assert not any(survives_without(degraded, left) for left in rest)


def test_a_spare_takes_the_vacant_role_at_once() -> None:
    state = change(mirror(spares=2), fail(A))
    taken = state.member(C)
    assert taken is not None
    assert (taken.role, taken.state, taken.recovery_sectors) == (0, MemberState.RECOVERING, 0)
    assert not taken.by_bitmap and state_of(state, D) is MemberState.SPARE
    assert needs_sync(state) is SyncKind.RECOVER


def test_a_failed_recovering_member_is_faulty_and_the_next_spare_follows() -> None:
    state = change(mirror(spares=2), fail(A), fail(C))
    assert state_of(state, C) is MemberState.FAULTY
    assert state_of(state, D) is MemberState.RECOVERING
    assert "do not tell all" in refusal(change(state, fail(D)), re_add(C))


def test_a_failed_spare_is_faulty() -> None:
    assert state_of(change(mirror(spares=1), fail(C)), C) is MemberState.FAULTY


def test_only_faulty_members_and_spares_are_removed() -> None:
    state = mirror(spares=1)
    assert "Device or resource busy" in refusal(state, RemoveMember(ARRAY, A))
    assert "No such device" in refusal(state, RemoveMember(ARRAY, E))
    assert change(state, RemoveMember(ARRAY, C)).member(C) is None
    state = change(state, fail(A))
    assert "recovering" in refusal(state, RemoveMember(ARRAY, C))
    assert change(state, RemoveMember(ARRAY, A)).member(A) is None


def test_an_added_member_is_a_spare_or_fills_the_vacant_role() -> None:
    assert state_of(change(mirror(), AddMember(ARRAY, new(C))), C) is MemberState.SPARE
    state = change(mirror(), fail(B), AddMember(ARRAY, new(C)))
    added = state.member(C)
    assert added is not None
    assert (added.number, added.role, added.state) == (2, 1, MemberState.RECOVERING)


def test_numbers_are_never_used_twice() -> None:
    state = change(mirror(spares=1), RemoveMember(ARRAY, C), AddMember(ARRAY, new(D)))
    member = state.member(D)
    assert member is not None and member.number == 3 and state.next_number == 4


def test_numbers_out_of_room_are_taken_where_free() -> None:
    state = replace(mirror(), next_number=NUMBERS_MAX)
    state = change(state, AddMember(ARRAY, new(C)))
    assert state.members[-1].number == 2 and state.next_number == NUMBERS_MAX


def test_add_is_refused() -> None:
    state = change(mirror(), fail(A))
    assert "--re-add it" in refusal(state, AddMember(ARRAY, new(A)))
    assert "member already, in sync" in refusal(state, AddMember(ARRAY, new(B)))
    assert "1024K missing" in refusal(state, AddMember(ARRAY, new(C, size_sectors=63 * MIB)))
    many = mirror()
    for i in range(30):
        many = change(many, AddMember(ARRAY, new(DeviceId(f"spare{i}"))))
    assert "32 members" in refusal(many, AddMember(ARRAY, new(C)))


def test_a_re_added_member_recovers_by_bitmap() -> None:
    state = change(mirror(), fail(A), re_add(A))
    member = state.member(A)
    assert member is not None
    assert (member.role, member.state, member.by_bitmap) == (0, MemberState.RECOVERING, True)


def test_re_add_is_refused() -> None:
    assert "use --add" in refusal(mirror(), re_add(C))
    assert "in sync already" in refusal(mirror(), re_add(A))
    assert "spare already" in refusal(mirror(spares=1), re_add(C))
    assert "taken over" in refusal(change(mirror(spares=1), fail(A)), re_add(A))
    spare = change(mirror(spares=1), RemoveMember(ARRAY, C))
    assert "use --add" in refusal(spare, re_add(C))


def test_a_removed_member_may_be_re_added_while_its_role_is_vacant() -> None:
    removed = change(mirror(), fail(A), RemoveMember(ARRAY, A))
    assert removed.member(A) is None and removed.former(A) is not None
    back = change(removed, re_add(A))
    assert back.removed == () and [m.device for m in back.members] == [A, B]
    assert back.member(A) == change(mirror(), fail(A), re_add(A)).member(A)


def test_what_fails_while_it_recovers_may_have_what_no_bit_tells() -> None:
    back = change(mirror(), fail(A), re_add(A), fail(A))
    assert "do not tell all" in refusal(back, re_add(A))
    assert change(back, RemoveMember(ARRAY, A)).removed == ()


def test_so_may_what_was_faulty_when_a_life_ended_beside_one_copy() -> None:
    failed = change(mirror(), fail(A))
    ended = change(failed, EndLife(ARRAY, failed.running[0]))
    assert "do not tell all" in refusal(ended, re_add(A))
    three = change(mirror(raid_disks=3), fail(A))
    ended = change(three, EndLife(ARRAY, three.running[0]))
    assert ended.former(A) is None and state_of(change(ended, re_add(A)), A) is not None


def test_a_removed_member_is_forgotten_with_its_bits() -> None:
    removed = change(mirror(spares=1), RemoveMember(ARRAY, C), fail(A), RemoveMember(ARRAY, A))
    taken = change(removed, AddMember(ARRAY, new(D)))
    assert taken.removed == () and "use --add" in refusal(taken, re_add(A))
    unequal = change(mirror(raid_disks=3, clean=False), fail(A), RemoveMember(ARRAY, A))
    assert unequal.removed == ()
    small = replace(removed, size_sectors=removed.size_sectors // 2)
    assert change(small, SetSize(ARRAY, removed.size_sectors)).removed == ()


def test_the_slot_of_who_leaves_is_kept_for_a_removed_member() -> None:
    state = change(mirror(), fail(A), RemoveMember(ARRAY, A))
    life = state.running[0]
    left = change(state, LeaveRunner(ARRAY, life))
    assert [slot.dirty for slot in left.slots] == [True, False, False]


def test_no_re_add_by_bitmap_after_bits_may_have_been_cleared() -> None:
    state = syncing(change(mirror(spares=1), fail(A)), SyncKind.RECOVER)
    state = change(state, EndSync(ARRAY, 1), fail(C))
    assert "do not tell all" in refusal(state, re_add(A))
    assert state_of(change(state, re_add(C)), C) is MemberState.RECOVERING


def test_no_re_add_by_bitmap_once_a_spare_was_written_in_its_place() -> None:
    """While it recovers, no write misses a role: md clears the bits of what A does not have."""
    state = change(mirror(spares=1), fail(A))
    assert state_of(state, C) is MemberState.RECOVERING
    assert "do not tell all" in refusal(change(state, fail(C)), re_add(A))


def test_no_re_add_by_bitmap_of_a_member_that_md_has_rewritten() -> None:
    state = change(mirror(), FailMember(ARRAY, A, "read errors", rewritten=True))
    assert "do not tell all" in refusal(state, re_add(A))


def test_no_re_add_by_bitmap_of_a_member_that_failed_before_it_was_equal() -> None:
    state = change(mirror(raid_disks=3, clean=False), fail(A))
    assert "do not tell all" in refusal(state, re_add(A))


def test_raid10_re_adds_only_into_the_role_the_member_had() -> None:
    state = change(mirror(level=10, raid_disks=4), fail(B))
    back = change(state, re_add(B)).member(B)
    assert back is not None and back.role == 1
    two = change(state, fail(D))
    assert "do not tell all" in refusal(two, re_add(B))
    assert "do not tell all" in refusal(two, re_add(D))


# --- who runs it -------------------------------------------------------------------------------


def test_join_takes_the_lowest_free_slot_and_is_idempotent() -> None:
    state = change(mirror(N1, N2, N3), LeaveRunner(ARRAY, N2), JoinRunner(ARRAY, N4))
    assert bare(state.slots) == (Slot(0, N1), Slot(1, N4), Slot(2, N3))
    assert apply_change(state, JoinRunner(ARRAY, N4), others=(), now_s=9) is state


def test_join_of_a_stopped_array_is_refused() -> None:
    state = change(mirror(), StopArray(ARRAY))
    assert "stopped" in refusal(state, JoinRunner(ARRAY, N1))


def test_slots_are_bounded() -> None:
    state = mirror(N1)
    ended = 0
    for i in range(SLOTS_MAX - 1):
        life = Life(NodeId(f"n{i}"), "b")
        state = change(state, JoinRunner(ARRAY, life), EndLife(ARRAY, life))
        ended += 1
    assert ended == SLOTS_MAX - 1
    assert "no bitmap slot is free" in refusal(state, JoinRunner(ARRAY, N2))


def test_a_life_that_ends_leaves_a_dirty_slot() -> None:
    state = change(mirror(N1, N2), EndLife(ARRAY, N2))
    assert state.running == (N1,)
    assert bare((state.slot_of(N2),)) == (Slot(1, N2, dirty=True),)
    assert needs_sync(state) is SyncKind.BITMAP
    assert apply_change(state, EndLife(ARRAY, N2), others=()) is state
    assert apply_change(state, EndLife(ARRAY, N4), others=()) is state
    assert "declared dead" in refusal(state, JoinRunner(ARRAY, N2))


def test_a_life_that_leaves_in_order_leaves_nothing() -> None:
    state = change(mirror(N1, N2), LeaveRunner(ARRAY, N2))
    assert state.running == (N1,) and bare(state.slots) == (Slot(0, N1),)
    assert apply_change(state, LeaveRunner(ARRAY, N2), others=()) is state


@pytest.mark.parametrize("leaves", [LeaveRunner, EndLife])
def test_the_word_of_one_stay_does_not_end_the_next(leaves: type[LeaveRunner | EndLife]) -> None:
    """A life that goes on may run it again before its word is heard that it had left."""
    state = mirror(N1, N2)
    first = state.slot_of(N2)
    assert first is not None and first.stay > 0
    state = change(state, LeaveRunner(ARRAY, N2, first.stay), JoinRunner(ARRAY, N2))
    again = state.slot_of(N2)
    assert again is not None and again.index == first.index and again.stay > first.stay
    assert apply_change(state, leaves(ARRAY, N2, first.stay), others=()) is state
    assert N2 not in change(state, leaves(ARRAY, N2, again.stay)).running
    assert N2 not in change(state, leaves(ARRAY, N2)).running


def test_bits_of_a_life_that_nobody_else_can_resync_do_not_keep_it_out() -> None:
    state = change(mirror(N1), EndLife(ARRAY, N1), JoinRunner(ARRAY, N1))
    assert state.running == (N1,)
    assert [(s.index, s.life == N1, s.dirty) for s in state.slots] == [
        (0, False, True),
        (1, True, False),
    ]


def test_stop_removes_all_runners_but_no_dirty_slot() -> None:
    state = change(mirror(N1, N2), EndLife(ARRAY, N1), StopArray(ARRAY))
    assert not state.active and state.running == ()
    assert bare(state.slots) == (Slot(0, N1, dirty=True),)
    assert apply_change(state, StopArray(ARRAY), others=()) is state
    assert "stopped" in refusal(state, BeginSync(ARRAY, SyncKind.BITMAP))


def test_bits_a_failed_member_depends_on_are_kept_over_an_orderly_stop() -> None:
    state = change(mirror(N1, N2), fail(A), StopArray(ARRAY))
    assert [(s.index, s.life.node, s.dirty) for s in state.slots] == [
        (0, N1.node, True),
        (1, N2.node, True),
    ]
    # The same lives run it again, with fresh slots; what was kept is not theirs any more.
    state = change(state, StartArray(ARRAY), runners=(N1, N2))
    assert bare((state.slot_of(N1), state.slot_of(N2))) == (Slot(2, N1), Slot(3, N2))
    assert needs_sync(state) is SyncKind.BITMAP
    kept = tuple(s.life for s in state.slots if s.dirty)
    state = change(syncing(state, SyncKind.BITMAP), EndSync(ARRAY, 1, kept))
    assert [s.index for s in state.slots] == [2, 3]


def test_start_is_idempotent_and_adds_runners() -> None:
    state = change(mirror(N1), StopArray(ARRAY))
    state = change(state, StartArray(ARRAY), runners=(N1, N2))
    assert state.active and state.running == (N1, N2)
    again = apply_change(state, StartArray(ARRAY), others=(), runners=(N1,))
    assert again is state


# --- passes ------------------------------------------------------------------------------------


def test_a_resync_begins_moves_and_ends() -> None:
    state = syncing(mirror(clean=False), SyncKind.RESYNC)
    assert state.sync == SyncPass(1, SyncKind.RESYNC, 0)
    state = change(state, Checkpoint(ARRAY, 1, 8 * MIB))
    assert state.resync_sectors == 8 * MIB and state.sync is not None
    assert apply_change(state, Checkpoint(ARRAY, 1, 8 * MIB), others=()) is state
    state = change(state, EndSync(ARRAY, 1))
    assert state.sync is None and state.resync_sectors is None and needs_sync(state) is None
    assert apply_change(state, EndSync(ARRAY, 1), others=()) is state


def test_one_pass_at_a_time_and_only_with_something_to_do() -> None:
    state = syncing(mirror(clean=False), SyncKind.RESYNC)
    assert "not finished" in refusal(state, BeginSync(ARRAY, SyncKind.RESYNC))
    for kind in (SyncKind.RESYNC, SyncKind.RECOVER, SyncKind.BITMAP):
        assert "nothing to do" in refusal(mirror(), BeginSync(ARRAY, kind))


@pytest.mark.parametrize("kind", [SyncKind.CHECK, SyncKind.REPAIR])
def test_what_a_check_finds_is_kept(kind: SyncKind) -> None:
    state = syncing(mirror(), kind)
    assert state.sync == SyncPass(1, kind, 0) and state.resync_sectors is None
    state = change(state, Checkpoint(ARRAY, 1, MIB, 3))
    assert state.mismatched_sectors == 3
    assert change(state, Checkpoint(ARRAY, 1, 2 * MIB, 1)).mismatched_sectors == 3
    state = change(state, EndSync(ARRAY, 1, (), 8))
    assert state.sync is None and state.mismatched_sectors == 8
    assert syncing(state, kind).mismatched_sectors == 0
    state = change(state, EndLife(ARRAY, N3))
    assert syncing(state, SyncKind.BITMAP).mismatched_sectors == 8  # of the latest check


def test_a_check_needs_two_copies_and_nothing_due() -> None:
    check = BeginSync(ARRAY, SyncKind.CHECK)
    assert "resync is due" in refusal(mirror(clean=False), check)
    assert "bitmap is due" in refusal(change(mirror(), EndLife(ARRAY, N3)), check)
    assert "dev-c recovers first" in refusal(change(mirror(spares=1), fail(A)), check)
    assert "two copies" in refusal(change(mirror(), fail(A)), check)
    assert "not finished" in refusal(syncing(mirror(), SyncKind.CHECK), check)
    assert "stopped" in refusal(change(mirror(), StopArray(ARRAY)), check)
    alone = change(mirror(N1), LeaveRunner(ARRAY, N1))
    assert "no node runs" in refusal(alone, check)
    half = change(mirror(level=10, raid_disks=4), fail(A))
    assert change(half, check).sync is not None  # the other two still have copies


@pytest.mark.parametrize(
    "gives_way",
    [
        fail(B),
        fail(D),
        StopArray(ARRAY),
        EndLife(ARRAY, N2),
        StopLooking(ARRAY),
    ],
)
def test_a_check_gives_way(gives_way: ArrayChange) -> None:
    state = change(mirror(raid_disks=3, spares=1), BeginSync(ARRAY, SyncKind.CHECK))
    state = change(state, Checkpoint(ARRAY, 1, MIB, 8), gives_way)
    assert state.sync is None and state.mismatched_sectors == 8
    assert state.last_serial == 1


def test_only_a_check_can_be_told_to_end() -> None:
    idle = StopLooking(ARRAY)
    assert apply_change(mirror(), idle, others=()) == mirror()
    assert "cannot be ended" in refusal(syncing(mirror(clean=False), SyncKind.RESYNC), idle)


def test_checkpoints_go_forward_in_their_own_pass_only() -> None:
    state = change(syncing(mirror(clean=False), SyncKind.RESYNC), Checkpoint(ARRAY, 1, MIB))
    assert "forward" in refusal(state, Checkpoint(ARRAY, 1, MIB - 1))
    assert "forward" in refusal(state, Checkpoint(ARRAY, 1, 65 * MIB))
    assert "does not run" in refusal(state, Checkpoint(ARRAY, 2, 2 * MIB))
    assert "does not run" in refusal(state, EndSync(ARRAY, 2))
    assert "does not run" in refusal(mirror(), Checkpoint(ARRAY, 1, 0))


def test_a_recovery_moves_its_members_and_takes_them_in() -> None:
    state = syncing(change(mirror(spares=1), fail(A)), SyncKind.RECOVER)
    state = change(state, Checkpoint(ARRAY, 1, MIB))
    member = state.member(C)
    assert member is not None and member.recovery_sectors == MIB
    state = change(state, EndSync(ARRAY, 1))
    member = state.member(C)
    assert member is not None
    assert (member.state, member.role, member.recovery_sectors) == (MemberState.IN_SYNC, 0, 0)
    assert state.degraded == 0


def test_a_recovery_ends_with_its_last_target() -> None:
    state = syncing(change(mirror(spares=1), fail(A)), SyncKind.RECOVER)
    state = change(state, fail(C))
    assert state.sync is None and state.last_serial == 1


@pytest.mark.parametrize("how", ["add", "re-add"])
def test_a_recovery_begins_anew_when_another_member_joins_it(how: str) -> None:
    state = syncing(change(mirror(raid_disks=3, spares=1), fail(A)), SyncKind.RECOVER)
    state = change(state, Checkpoint(ARRAY, 1, MIB), fail(B))
    assert state.sync is not None
    state = change(state, re_add(B) if how == "re-add" else AddMember(ARRAY, new(E)))
    assert state.sync is None
    assert syncing(state, SyncKind.RECOVER).sync == SyncPass(2, SyncKind.RECOVER, 0)


def test_a_recovery_of_two_goes_on_when_one_fails() -> None:
    state = mirror(raid_disks=3, spares=2)
    state = syncing(change(state, fail(A), fail(B)), SyncKind.RECOVER)
    state = change(state, Checkpoint(ARRAY, 1, MIB), fail(D))
    assert state.sync == SyncPass(1, SyncKind.RECOVER, MIB)


def test_a_resync_ends_when_one_copy_is_left() -> None:
    state = change(syncing(mirror(clean=False), SyncKind.RESYNC), fail(B))
    assert state.sync is None and state.resync_sectors is None
    three = change(syncing(mirror(raid_disks=3, clean=False), SyncKind.RESYNC), fail(B))
    assert three.sync is not None and three.resync_sectors == 0


def test_a_bitmap_pass_ends_with_the_named_slots_only() -> None:
    state = change(mirror(N1, N2, N3), EndLife(ARRAY, N2), EndLife(ARRAY, N3))
    state = change(syncing(state, SyncKind.BITMAP), EndSync(ARRAY, 1, (N1, N2)))
    assert bare(state.slots) == (Slot(0, N1), Slot(2, N3, dirty=True))
    assert needs_sync(state) is SyncKind.BITMAP


def test_a_life_that_ends_during_a_bitmap_pass_waits_for_the_next_one() -> None:
    """The pass goes on and ends with the slots it has merged; the new one stays dirty."""
    before = syncing(change(mirror(N1, N2, N3), EndLife(ARRAY, N2)), SyncKind.BITMAP)
    state = change(before, EndLife(ARRAY, N3))
    assert state.sync == before.sync
    state = change(state, EndSync(ARRAY, 1, (N2,)))
    assert state.sync is None
    assert bare(state.slots) == (Slot(0, N1), Slot(2, N3, dirty=True))
    assert needs_sync(state) is SyncKind.BITMAP
    again = syncing(state, SyncKind.BITMAP).sync
    assert again is not None and again.serial == 2 and again.position_sectors == 0


def test_a_resync_ends_with_the_slots_it_has_merged() -> None:
    state = change(mirror(N1, N2, N3, N4, clean=False), EndLife(ARRAY, N2))
    state = change(syncing(state, SyncKind.RESYNC), EndLife(ARRAY, N3))
    state = change(state, EndSync(ARRAY, 1, (N2, N4)))
    assert state.resync_sectors is None
    assert bare(state.slots) == (Slot(0, N1), Slot(2, N3, dirty=True), Slot(3, N4))
    assert needs_sync(state) is SyncKind.BITMAP


@pytest.mark.parametrize("leaves", [LeaveRunner(ARRAY, N1), StopArray(ARRAY)])
def test_merged_bits_are_kept_when_their_writer_stops_in_order_during_the_pass(
    leaves: ArrayChange,
) -> None:
    """N2's slot may be zeroed by now: what was not copied yet stands in N1's slot alone."""
    state = syncing(change(mirror(N1, N2, N3), EndLife(ARRAY, N2)), SyncKind.BITMAP)
    state = change(state, leaves)
    kept = next(slot for slot in state.slots if slot.index == 0)
    assert kept.dirty and kept.life != N1
    state = change(state, StartArray(ARRAY), runners=(N1,))
    state = change(state, EndSync(ARRAY, 1, (N2,)))
    assert kept in state.slots
    assert needs_sync(state) is SyncKind.BITMAP


def test_members_recover_before_a_resync_and_that_takes_bits_of_dead_lives_along() -> None:
    """md's order: whatever it is asked for, it recovers first."""
    state = change(mirror(raid_disks=3, spares=1, clean=False), fail(A), EndLife(ARRAY, N2))
    assert needs_sync(state) is SyncKind.RECOVER
    assert "dev-d recovers first" in refusal(state, BeginSync(ARRAY, SyncKind.RESYNC))
    state = change(syncing(state, SyncKind.RECOVER), EndSync(ARRAY, 1))
    assert needs_sync(state) is SyncKind.RESYNC and any(slot.dirty for slot in state.slots)
    state = change(syncing(state, SyncKind.RESYNC), EndSync(ARRAY, 2, (N2,)))
    assert needs_sync(state) is None
    assert needs_sync(change(state, EndLife(ARRAY, N3))) is SyncKind.BITMAP


def test_a_resync_gives_way_to_a_recovery_and_comes_back_where_it_was() -> None:
    state = syncing(mirror(raid_disks=3, clean=False), SyncKind.RESYNC)
    state = change(state, Checkpoint(ARRAY, 1, 8 * MIB), EndLife(ARRAY, N2), fail(A))
    assert state.sync is not None
    state = change(state, AddMember(ARRAY, new(D)))
    assert state.sync is None and state.resync_sectors == 8 * MIB
    assert needs_sync(state) is SyncKind.RECOVER
    state = change(syncing(state, SyncKind.RECOVER), EndSync(ARRAY, 2))
    assert syncing(state, SyncKind.RESYNC).sync == SyncPass(3, SyncKind.RESYNC, 8 * MIB)
    assert any(slot.dirty for slot in state.slots)


def test_nothing_recovers_while_bits_of_dead_lives_are_resynced() -> None:
    """They may stand in the writer's slot alone, which md clears where it recovers a member."""
    state = syncing(change(mirror(raid_disks=3), EndLife(ARRAY, N2)), SyncKind.BITMAP)
    state = change(state, fail(A), AddMember(ARRAY, new(D)))
    assert state.sync is not None and state.members[-1].state is MemberState.SPARE
    assert "try again when that is done" in refusal(state, re_add(A))
    state = change(state, EndSync(ARRAY, 1, (N2,)))
    assert needs_sync(state) is SyncKind.RECOVER


# --- geometry ----------------------------------------------------------------------------------


def test_sizes_and_ends() -> None:
    assert array_size_sectors(mirror()) == end_sectors(mirror()) == 64 * MIB
    ten = mirror(level=10, raid_disks=3)
    assert array_size_sectors(ten) == 96 * MIB
    assert end_sectors(ten) == 64 * MIB


def test_raid1_holds_what_is_copied() -> None:
    assert hold_range(mirror(), 8, 24) == (8, 24)
    assert hold_range(mirror(), 8, 8) == (0, 0)


@given(
    disks=st.integers(2, 7),
    rows=st.integers(1, 40),
    ends=st.tuples(st.integers(0, 40 * 128), st.integers(0, 40 * 128)),
)
def test_raid10_hold_covers_every_chunk_with_a_copy_in_the_window(
    disks: int, rows: int, ends: tuple[int, int]
) -> None:
    chunk, size = 128, rows * 128
    state = replace(mirror(level=10, raid_disks=2), raid_disks=disks, size_sectors=size)
    lo, hi = sorted(min(end, size) for end in ends)
    held = hold_range(state, lo, hi)
    chunks = array_size_sectors(state) // chunk
    for c in range(chunks):
        for place in (2 * c, 2 * c + 1):
            row = place // disks
            if row * chunk < hi and (row + 1) * chunk > lo and lo < hi:
                assert held[0] <= c * chunk and (c + 1) * chunk <= held[1]
    assert 0 <= held[0] <= held[1] <= array_size_sectors(state)
    if lo < hi:
        assert held[1] - held[0] <= ((hi - lo) // chunk + 2) * disks * chunk


# --- validate ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        {"name": "a/b"},
        {"level": 6},
        {"size_sectors": -1},
        {"size_sectors": 1 << 60},
        {"resync_sectors": -1},
        {"resync_sectors": 65 * MIB},
        {"members": ()},
        {"members": mirror().members * 2},
        {"members": tuple(replace(m, role=5) for m in mirror().members)},
        {"members": tuple(replace(m, state=MemberState.SPARE) for m in mirror().members)},
        {"members": tuple(replace(m, by_bitmap=True) for m in mirror().members)},
        {"members": tuple(replace(m, recovery_sectors=4) for m in mirror().members)},
        {"members": tuple(replace(m, data_size_sectors=4) for m in mirror().members)},
        {"members": tuple(replace(m, data_offset_sectors=-4) for m in mirror().members)},
        {"next_number": 1},
        {"next_number": -1},
        {"running": (N1, N1)},
        {"active": False},
        {"slots": ()},
        {"slots": (Slot(0, N1), Slot(0, N2), Slot(2, N3))},
        {"slots": (Slot(0, N1), Slot(1, N2), Slot(99, N3))},
        {"slots": (Slot(0, N1, dirty=True), Slot(1, N2), Slot(2, N3))},
        {"sync": SyncPass(7, SyncKind.RESYNC, 0)},
        {"sync": SyncPass(0, SyncKind.RESYNC, 0)},
        {"sync": SyncPass(0, SyncKind.CHECK, 0), "resync_sectors": 0},
        {"sync": SyncPass(0, SyncKind.REPAIR, 0), "running": (), "slots": ()},
        {"mismatched_sectors": -1},
        {"shown_sectors": 0},
        {"shown_sectors": 64 * MIB},
        {"sync": SyncPass(0, SyncKind.RESYNC, 65 * MIB), "resync_sectors": 0},
    ],
)
def test_inconsistent_states_are_found(broken: dict[str, Any]) -> None:
    assert validate(mirror()) == []
    assert validate(replace(mirror(), **broken)) != []


# --- anything may be proposed at any time --------------------------------------------------------

_DEVICES = st.sampled_from([A, B, C, D, E])
_LIVES = st.sampled_from([N1, N2, N3, N4])
_SERIALS = st.integers(0, 6)
_CHANGES: st.SearchStrategy[ArrayChange] = st.one_of(
    st.builds(fail, _DEVICES),
    st.builds(lambda d: RemoveMember(ARRAY, d), _DEVICES),
    st.builds(lambda d: AddMember(ARRAY, new(d)), _DEVICES),
    st.builds(re_add, _DEVICES),
    st.builds(lambda x: JoinRunner(ARRAY, x), _LIVES),
    st.builds(lambda x: LeaveRunner(ARRAY, x), _LIVES),
    st.builds(lambda x: EndLife(ARRAY, x), _LIVES),
    st.builds(lambda k: BeginSync(ARRAY, k), st.sampled_from(list(SyncKind))),
    st.builds(lambda s, p: Checkpoint(ARRAY, s, p * MIB, p), _SERIALS, st.integers(0, 64)),
    st.just(StopLooking(ARRAY)),
    st.builds(lambda d: ReplaceMember(ARRAY, d), _DEVICES),
    st.builds(lambda n: SetRaidDisks(ARRAY, n), st.integers(0, 5)),
    st.builds(lambda s: SetSize(ARRAY, s * MIB), st.integers(60, 64)),
    st.just(ShowSize(ARRAY)),
    st.builds(lambda s, x: EndSync(ARRAY, s, tuple(x)), _SERIALS, st.sets(_LIVES)),
    st.just(StartArray(ARRAY)),
    st.just(StopArray(ARRAY)),
)


@settings(max_examples=300, deadline=None)
@given(
    start=st.sampled_from(
        [
            mirror(spares=1, clean=False),
            mirror(raid_disks=3),
            replace(mirror(raid_disks=2, spares=2), size_sectors=60 * MIB),
            mirror(level=10, raid_disks=3, spares=1),
            mirror(level=10, raid_disks=4, clean=False),
        ]
    ),
    changes=st.lists(_CHANGES, max_size=40),
)
def test_no_sequence_of_changes_breaks_a_state(
    start: ArrayState, changes: list[ArrayChange]
) -> None:
    state = start
    for one in changes:
        result = apply_change(state, one, others=())
        if isinstance(result, Refused):
            assert result.why.startswith(state.name)
            continue
        assert validate(result) == []
        assert result.next_number >= state.next_number
        assert result.last_serial >= state.last_serial
        again = apply_change(result, one, others=())
        if not isinstance(one, BeginSync | AddMember | Checkpoint):
            assert isinstance(again, Refused) or again is result
        for index in (slot.index for slot in state.slots if slot.dirty):
            ended = isinstance(one, EndSync)
            assert ended or any(s.index == index and s.dirty for s in result.slots)
        state = result
