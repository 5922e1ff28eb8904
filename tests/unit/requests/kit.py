"""Looks without devices, and a node's view, for the tests of requests."""

from uuid import UUID

from mdcluster.core.model import (
    CLUSTER_KEY,
    ArrayState,
    ClusterState,
    Entry,
    Life,
    NodeId,
    Stamp,
    Voter,
)
from mdcluster.core.view import NodeView
from mdcluster.core.waits import Wait
from mdcluster.members.look import Look
from tests.unit.members import kit as disks

NODES, LIVES, ARRAY = disks.NODES, disks.LIVES, disks.ARRAY
CLUSTER = ClusterState(
    str(disks.CLUSTER), "lab", tuple(Voter(f"n{i}", node) for i, node in enumerate(NODES))
)


def seen(path: str, size_bytes: int = disks.SIZE_BYTES, inode: int = 0) -> Look:
    return Look(path, (1, inode or hash(path)), size_bytes)


def looks(*paths: str) -> dict[str, Look]:
    return {path: seen(path) for path in paths}


def mirror(*, clean: bool = True) -> ArrayState:
    return disks.after(None, disks.creation("/dev/a", "/dev/b", clean=clean), runners=LIVES)


def view(
    *states: ArrayState,
    role: str = "writer",
    waiting: tuple[Wait, ...] = (),
    complete_sectors: int = 0,
    up: tuple[NodeId, ...] = NODES[1:],
) -> NodeView:
    stamp = Stamp(3, 4)
    entries = [Entry(state.uuid, stamp, state) for state in states]
    return NodeView(
        me=LIVES[0],
        name="n0",
        role=role,
        term=3,
        writer=NODES[0] if role == "writer" else NODES[1],
        ready=True,
        lease_until_ms=1400,
        io_lease_until_ms=1500,
        holding_all=False,
        cluster=CLUSTER,
        entries=(Entry(CLUSTER_KEY, Stamp(1, 2), CLUSTER), *entries),
        applied=tuple((state.uuid, stamp) for state in states),
        released=(),
        states=states,
        suspects=frozenset(),
        fenced=(),
        passes=tuple(
            (state.uuid, complete_sectors, state.size_sectors) for state in states if state.sync
        ),
        waiting=waiting,
        names=tuple((node, f"n{i}") for i, node in enumerate(NODES)),
        up=frozenset(up),
    )


def spectator() -> Life:
    return Life(NodeId(str(UUID(int=0x999))), str(UUID(int=0x998)))
