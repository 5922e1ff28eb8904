"""Arrays, lives and devices for the tests of the core."""

from mdcluster.core.arrays import Refused, apply_change
from mdcluster.core.model import (
    ArrayChange,
    ArrayId,
    ArrayState,
    BeginSync,
    CreateArray,
    DeviceId,
    Life,
    NewMember,
    NodeId,
    SyncKind,
)

MIB = 2048
"""Sectors."""

ARRAY = ArrayId("a0")
A, B, C, D, E = (DeviceId(f"dev-{x}") for x in "abcde")
N1, N2, N3, N4 = (Life(NodeId(f"node{i}"), f"boot{i}") for i in range(1, 5))


def new(device: DeviceId, role: int = -1, size_sectors: int = 64 * MIB) -> NewMember:
    return NewMember(device, f"/dev/{device}", 2048, size_sectors, role)


def create_change(
    *devices: NewMember, level: int = 1, raid_disks: int = 2, assume_clean: bool = True
) -> CreateArray:
    return CreateArray(
        array=ARRAY,
        name="md0",
        level=level,
        layout=0x102 if level == 10 else 0,
        chunk_sectors=128 if level == 10 else 0,
        raid_disks=raid_disks,
        size_sectors=64 * MIB,
        bitmap_chunk_sectors=MIB,
        members=devices or (new(A, 0), new(B, 1)),
        assume_clean=assume_clean,
        now_s=1,
    )


def change(
    state: ArrayState | None, *changes: ArrayChange, runners: tuple[Life, ...] = ()
) -> ArrayState:
    """The state after these changes, none of which may be refused."""
    for one in changes:
        result = apply_change(state, one, others=(), runners=runners, now_s=2)
        assert not isinstance(result, Refused), result.why
        state = result
    assert state is not None
    return state


def refusal(state: ArrayState | None, one: ArrayChange, *, force: bool = False) -> str:
    """The words with which the change is refused, which it must be."""
    result = apply_change(state, one, others=(), force=force)
    assert isinstance(result, Refused), result
    return result.why


def mirror(
    *lives: Life, level: int = 1, raid_disks: int = 2, clean: bool = True, spares: int = 0
) -> ArrayState:
    """A running array of members A, B, ... and then spares."""
    devices = [A, B, C, D, E][: raid_disks + spares]
    members = [new(d, i if i < raid_disks else -1) for i, d in enumerate(devices)]
    made = create_change(*members, level=level, raid_disks=raid_disks, assume_clean=clean)
    return change(None, made, runners=lives or (N1, N2, N3))


def syncing(state: ArrayState, kind: SyncKind) -> ArrayState:
    return change(state, BeginSync(ARRAY, kind))
