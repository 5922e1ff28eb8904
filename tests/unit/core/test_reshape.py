"""--grow: more or fewer members, more of each; what is moved by nobody is refused."""

from dataclasses import replace

import pytest

from mdcluster.core.arrays import apply_change, needs_sync, validate
from mdcluster.core.geometry import (
    array_size_sectors,
    shown_array_sectors,
    size_limit_sectors,
)
from mdcluster.core.model import (
    AddMember,
    ArrayState,
    BeginSync,
    Checkpoint,
    DeviceId,
    EndLife,
    EndSync,
    FailMember,
    MemberState,
    RemoveMember,
    SetRaidDisks,
    SetSize,
    ShowSize,
    SyncKind,
)
from mdcluster.metadata import bitmap
from tests.unit.core.samples import (
    ARRAY,
    MIB,
    N3,
    A,
    B,
    C,
    D,
    change,
    mirror,
    new,
    refusal,
    syncing,
)


def roles(state: ArrayState) -> dict[DeviceId, tuple[int, MemberState]]:
    return {m.device: (m.role, m.state) for m in state.members}


def gone(device: DeviceId) -> tuple[FailMember, RemoveMember]:
    return FailMember(ARRAY, device, "told to"), RemoveMember(ARRAY, device)


def roomy(level: int = 1, raid_disks: int = 2, size_mib: int = 64) -> ArrayState:
    """Members have room for 64 MiB, the array uses less."""
    return replace(mirror(level=level, raid_disks=raid_disks), size_sectors=size_mib * MIB)


# --- raid devices ------------------------------------------------------------------------------


def test_spares_take_the_new_roles() -> None:
    state = change(mirror(spares=1), SetRaidDisks(ARRAY, 4))
    assert roles(state)[C] == (2, MemberState.RECOVERING)
    assert state.degraded == 2 and needs_sync(state) is SyncKind.RECOVER
    state = change(state, AddMember(ARRAY, new(D)))
    assert roles(state)[D] == (3, MemberState.RECOVERING)
    assert apply_change(state, SetRaidDisks(ARRAY, 4), others=()) is state


def test_members_close_ranks_and_keep_their_order() -> None:
    state = change(mirror(raid_disks=3), *gone(A), SetRaidDisks(ARRAY, 2))
    assert roles(state) == {B: (0, MemberState.IN_SYNC), C: (1, MemberState.IN_SYNC)}
    assert state.degraded == 0
    state = change(mirror(raid_disks=3), *gone(B), SetRaidDisks(ARRAY, 4))
    assert [m.device for m in state.in_sync] == [A, C]
    assert [m.role for m in state.in_sync] == [0, 1]


def test_one_copy_is_enough_if_it_is_meant() -> None:
    state = change(mirror(), *gone(A))
    assert "--force" in refusal(state, SetRaidDisks(ARRAY, 1))
    alone = apply_change(state, SetRaidDisks(ARRAY, 1), others=(), force=True)
    assert isinstance(alone, ArrayState) and roles(alone) == {B: (0, MemberState.IN_SYNC)}


@pytest.mark.parametrize(
    ("state", "wanted", "words"),
    [
        (mirror(level=10, raid_disks=4), 6, "would have to be moved"),
        (mirror(), 0, "takes 1 to 32"),
        (mirror(), 33, "takes 1 to 32"),
        (mirror(raid_disks=3), 2, "3 members are in use; --fail and --remove 1 of them"),
        (change(mirror(raid_disks=3), gone(A)[0]), 2, "dev-a is faulty; --remove it first"),
        (change(mirror(raid_disks=3), gone(A)[0]), 4, "dev-a is faulty"),
        (syncing(mirror(clean=False), SyncKind.RESYNC), 3, "resync 1 is under way"),
        (syncing(mirror(), SyncKind.CHECK), 3, "check 1 is under way"),
    ],
)
def test_what_stands_against_a_number_of_devices(
    state: ArrayState, wanted: int, words: str
) -> None:
    said = refusal(state, SetRaidDisks(ARRAY, wanted))
    assert said.startswith(f"md0: cannot have {wanted} raid devices: ") and words in said


# --- size ----------------------------------------------------------------------------------------


def test_a_size_is_resynced_from_its_old_end_and_shown_last() -> None:
    state = change(roomy(size_mib=16), SetSize(ARRAY, 48 * MIB))
    assert (state.size_sectors, state.resync_sectors) == (48 * MIB, 16 * MIB)
    assert shown_array_sectors(state) == 16 * MIB and needs_sync(state) is SyncKind.RESYNC
    shown = change(state, ShowSize(ARRAY))
    assert shown_array_sectors(shown) == array_size_sectors(shown) == 48 * MIB
    assert apply_change(shown, ShowSize(ARRAY), others=()) is shown
    going = syncing(shown, SyncKind.RESYNC)
    assert going.sync is not None and going.sync.position_sectors == 16 * MIB
    done = change(going, Checkpoint(ARRAY, 1, 32 * MIB), EndSync(ARRAY, 1))
    assert (
        done.resync_sectors is None
        and apply_change(done, SetSize(ARRAY, 48 * MIB), others=()) is done
    )


def test_one_copy_needs_no_resync() -> None:
    state = change(roomy(size_mib=16), gone(B)[0], SetSize(ARRAY, 48 * MIB))
    assert state.resync_sectors is None and state.shown_sectors == 16 * MIB
    member = state.member(B)
    assert member is not None and not member.by_bitmap  # no bit tells that it lacks what is new


def test_half_a_pair_of_chunks_is_resynced_with_what_is_new() -> None:
    state = change(roomy(10, 3, 16), SetSize(ARRAY, 17 * MIB))
    assert state.resync_sectors == 16 * MIB - state.chunk_sectors
    assert change(roomy(10, 4, 16), SetSize(ARRAY, 17 * MIB)).resync_sectors == 16 * MIB


@pytest.mark.parametrize(
    ("state", "wanted", "words"),
    [
        (mirror(), 32 * MIB, "what is behind would be lost"),
        (mirror(), 65 * MIB, "dev-a has room for 65536K"),
        (roomy(size_mib=16), 48 * MIB + 4, "no multiple of 4K"),
        (roomy(10, 4, 16), 48 * MIB + 64, "no multiple of 64K"),
        (roomy(size_mib=16), 1 << 60, "out of range"),
        (replace(roomy(size_mib=16), resync_sectors=0), 32 * MIB, "resync is due and goes first"),
        (change(roomy(size_mib=16), EndLife(ARRAY, N3)), 32 * MIB, "bitmap is due"),
        (
            change(roomy(size_mib=16), BeginSync(ARRAY, SyncKind.REPAIR)),
            32 * MIB,
            "repair 1 is under way",
        ),
        (
            change(roomy(size_mib=16), *gone(A), SetSize(ARRAY, 32 * MIB)),
            48 * MIB,
            "not every node has the size of the change before",
        ),
    ],
)
def test_what_stands_against_a_size(state: ArrayState, wanted: int, words: str) -> None:
    said = refusal(state, SetSize(ARRAY, wanted))
    assert said.startswith(f"md0: cannot use {wanted // 2}K of each member: ") and words in said


@pytest.mark.parametrize(("level", "disks"), [(1, 2), (10, 2), (10, 3), (10, 4), (10, 5)])
@pytest.mark.parametrize("size_mib", [1, 16, 300])
def test_an_array_grows_as_far_as_its_slots_reach(level: int, disks: int, size_mib: int) -> None:
    small = replace(roomy(level, disks, size_mib), bitmap_chunk_sectors=8)
    state = replace(
        small, members=tuple(replace(m, data_size_sectors=1 << 40) for m in small.members)
    )
    assert validate(state) == []
    limit, grain = size_limit_sectors(state), state.chunk_sectors or 8
    assert limit >= state.size_sectors and limit % grain == 0

    def room(size_sectors: int) -> int:
        covered = array_size_sectors(replace(state, size_sectors=size_sectors))
        return bitmap.slot_bytes(covered, state.bitmap_chunk_sectors)

    assert room(limit) == room(state.size_sectors) < room(limit + grain)
    assert f"up to {limit // 2}K" in refusal(state, SetSize(ARRAY, limit + grain))
    if limit > state.size_sectors:
        assert change(state, SetSize(ARRAY, limit)).size_sectors == limit
