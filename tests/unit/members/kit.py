"""A little cluster of image files for the tests of members: states, entries, a gate."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from mdcluster.core.arrays import Refused, apply_change
from mdcluster.core.model import (
    CLUSTER_KEY,
    ArrayChange,
    ArrayId,
    ArrayState,
    ClusterState,
    CreateArray,
    DeviceId,
    Entry,
    Life,
    NewMember,
    NodeId,
    Stamp,
    Voter,
)
from mdcluster.core.timing import Timing
from mdcluster.gate import Gate
from mdcluster.members import Members
from mdcluster.metadata import layout
from mdcluster.metadata.scan import Member as OnDisk
from mdcluster.metadata.scan import read_member

MIB = 1 << 20
SIZE_BYTES = 16 * MIB
CLUSTER = UUID(int=0xC1)
ARRAY = ArrayId("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")
NODES = tuple(NodeId(str(UUID(int=0x100 + n))) for n in range(3))
LIVES = tuple(Life(node, str(UUID(int=0x200 + n))) for n, node in enumerate(NODES))
TIMING = Timing(write_deadline_ms=2000, probe_deadline_ms=1000)
NOW_S = 1_700_000_000


def device(number: int) -> DeviceId:
    return DeviceId(str(UUID(int=0xD0 + number)))


def image(folder: Path, name: str, size_bytes: int = SIZE_BYTES) -> str:
    path = folder / name
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return str(path)


def new_member(path: str, number: int, role: int) -> NewMember:
    plan = layout.plan_layout(SIZE_BYTES, 1)
    return NewMember(device(number), path, plan.data_offset_sectors, plan.data_size_sectors, role)


def creation(*paths: str, level: int = 1, raid_disks: int = 2, clean: bool = False) -> CreateArray:
    plan = layout.plan_layout(SIZE_BYTES, level, raid_disks)
    return CreateArray(
        array=ARRAY,
        name="data",
        level=level,
        layout=0x102 if level == 10 else 0,
        chunk_sectors=1024 if level == 10 else 0,
        raid_disks=raid_disks,
        size_sectors=plan.component_size_sectors,
        bitmap_chunk_sectors=plan.bitmap_chunk_sectors,
        members=tuple(
            new_member(path, n, n if n < raid_disks else -1) for n, path in enumerate(paths)
        ),
        assume_clean=clean,
        now_s=NOW_S,
    )


def after(
    state: ArrayState | None, *changes: ArrayChange, runners: tuple[Life, ...] = ()
) -> ArrayState:
    for change in changes:
        made = apply_change(state, change, others=(), runners=runners, now_s=NOW_S + 1)
        assert not isinstance(made, Refused), made.why
        state = made
    assert state is not None
    return state


def entry(state: ArrayState, seq: int = 2, term: int = 1) -> Entry:
    return Entry(state.uuid, Stamp(term, seq), state)


class Host:
    """One node's members, its gate open in term 1, its clock at 0."""

    def __init__(self, folder: Path, number: int = 0, timing: Timing = TIMING) -> None:
        voters = tuple(Voter(f"n{i}", node) for i, node in enumerate(NODES))
        cluster = ClusterState(str(CLUSTER), "lab", voters)
        self.entries: dict[str, Entry] = {CLUSTER_KEY: Entry(CLUSTER_KEY, Stamp(1, 2), cluster)}
        self.now_ms = 0
        self.gate = Gate(lambda: self.now_ms)
        self.gate.open(1, 1000)
        self.members = Members(
            NODES[number],
            self.gate,
            (str(folder),),
            timing,
            lambda: self.entries,
            lambda: NOW_S,
        )

    def knows(self, one: Entry) -> None:
        self.entries[one.key] = one

    async def create(self, change: CreateArray) -> ArrayState:
        """Marked, proved, committed in (1, 2), written."""
        problem, nonces = await self.members.write_nonces(1, ARRAY, change.members, False)
        assert problem == "" and len(nonces) == len(change.members)
        state = after(None, change, runners=LIVES)
        self.knows(entry(state))
        written, failed = await self.members.write_superblocks(entry(state))
        assert failed == () and len(written) == len(change.members)
        return state


def on_disk(path: str) -> OnDisk:
    return read_member(path)
