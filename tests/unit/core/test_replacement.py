"""--replace: a spare takes the role of a member that stays in use meanwhile."""

from dataclasses import replace

import pytest

from mdcluster.core.arrays import apply_change, needs_sync, validate
from mdcluster.core.model import (
    AddMember,
    ArrayState,
    Checkpoint,
    DeviceId,
    EndSync,
    FailMember,
    Member,
    MemberState,
    ReplaceMember,
    SetRaidDisks,
    SyncKind,
)
from tests.unit.core.samples import ARRAY, MIB, A, B, C, D, change, mirror, new, refusal, syncing


def member(state: ArrayState, device: DeviceId) -> Member:
    found = state.member(device)
    assert found is not None
    return found


def replacing(level: int = 1, raid_disks: int = 2) -> ArrayState:
    """The first spare is on its way to replace B; half of it is there."""
    state = mirror(level=level, raid_disks=raid_disks, spares=1)
    state = syncing(change(state, ReplaceMember(ARRAY, B)), SyncKind.RECOVER)
    return change(state, Checkpoint(ARRAY, 1, 32 * MIB))


def fail(device: DeviceId) -> FailMember:
    return FailMember(ARRAY, device, "told to")


@pytest.mark.parametrize(("level", "disks", "spare"), [(1, 2, C), (10, 3, D), (10, 4, "dev-e")])
def test_a_spare_takes_the_role_when_it_is_complete(
    level: int, disks: int, spare: DeviceId
) -> None:
    state = replacing(level, disks)
    assert state.degraded == 0
    one = member(state, spare)
    assert (one.role, one.state, one.replacement) == (1, MemberState.RECOVERING, True)
    assert one.recovery_sectors == 32 * MIB and member(state, B).state is MemberState.IN_SYNC
    state = change(state, EndSync(ARRAY, 1))
    one, old = member(state, spare), member(state, B)
    assert (one.role, one.state, one.replacement) == (1, MemberState.IN_SYNC, False)
    assert (old.role, old.state, old.by_bitmap) == (-1, MemberState.FAULTY, False)
    assert state.degraded == 0 and needs_sync(state) is None


def test_the_same_again_changes_nothing() -> None:
    state = replacing()
    for again in (ReplaceMember(ARRAY, B), ReplaceMember(ARRAY, B, C)):
        assert apply_change(state, again, others=()) is state


def test_the_spare_that_was_named() -> None:
    state = change(mirror(spares=2), ReplaceMember(ARRAY, A, D))
    assert member(state, D).role == 0 and member(state, C).state is MemberState.SPARE
    both = change(state, ReplaceMember(ARRAY, B, C))
    assert [m.device for m in both.members if m.replacement] == [C, D]
    both = change(syncing(both, SyncKind.RECOVER), EndSync(ARRAY, 1))
    assert [m.device for m in both.in_sync] == [C, D]


def test_what_replaces_a_failed_member_recovers_its_role() -> None:
    state = change(replacing(), fail(B))
    heir = member(state, C)
    assert (heir.role, heir.replacement, heir.recovery_sectors) == (1, False, 32 * MIB)
    assert state.degraded == 1 and state.sync is not None
    state = change(state, EndSync(ARRAY, 1))
    assert state.degraded == 0 and member(state, C).state is MemberState.IN_SYNC


def test_a_replacement_that_fails_leaves_the_old_one_in_use() -> None:
    state = change(replacing(), fail(C))
    assert member(state, B).state is MemberState.IN_SYNC and state.sync is None
    gone = member(state, C)
    assert (gone.role, gone.replacement, gone.by_bitmap) == (-1, False, False)
    assert change(state, AddMember(ARRAY, new(D)), ReplaceMember(ARRAY, B)).degraded == 0


def test_the_other_member_is_not_the_last_copy_while_the_old_one_is_there() -> None:
    state = change(replacing(), fail(A))
    assert member(state, B).state is MemberState.IN_SYNC and state.degraded == 1
    assert "last copy" in refusal(state, fail(B))
    state = change(state, EndSync(ARRAY, 1))
    assert [m.device for m in state.in_sync] == [C]


@pytest.mark.parametrize(
    ("state", "wish", "words"),
    [
        (mirror(), ReplaceMember(ARRAY, A), "there is no spare; --add one first"),
        (mirror(spares=1), ReplaceMember(ARRAY, D), "No such device"),
        (mirror(spares=1), ReplaceMember(ARRAY, C), "it is spare, only a member in sync"),
        (mirror(spares=1), ReplaceMember(ARRAY, A, B), "dev-b is no spare of it"),
        (replacing(), ReplaceMember(ARRAY, B, A), "dev-c replaces it already"),
        (replacing(), ReplaceMember(ARRAY, C), "it is recovering, only a member in sync"),
        (
            change(mirror(spares=1), ReplaceMember(ARRAY, A)),
            SetRaidDisks(ARRAY, 3),
            "a member is being replaced",
        ),
    ],
)
def test_what_stands_against_it(
    state: ArrayState, wish: ReplaceMember | SetRaidDisks, words: str
) -> None:
    assert words in refusal(state, wish)


def test_a_replacement_of_nobody_is_found() -> None:
    state = change(mirror(spares=1), ReplaceMember(ARRAY, B))
    assert validate(state) == []

    def broken(device: DeviceId, **facts: object) -> ArrayState:
        members = tuple(
            replace(m, **facts) if m.device == device else m  # type: ignore[arg-type]
            for m in state.members
        )
        return replace(state, members=members)

    assert validate(broken(C, replacement=False)) == ["role 1 is there twice"]
    for states in (
        broken(B, role=-1, state=MemberState.FAULTY),
        broken(C, state=MemberState.IN_SYNC),
        broken(C, by_bitmap=True),
        broken(A, replacement=True),
    ):
        assert any("replace" in problem for problem in validate(states))
