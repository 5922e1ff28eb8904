"""What people and checkers may see of a node: one frozen snapshot."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdcluster.core.model import (
    CLUSTER_KEY,
    ArrayId,
    ArrayState,
    ClusterState,
    Entry,
    Life,
    NodeId,
    Stamp,
)
from mdcluster.core.waits import Cause, Wait

if TYPE_CHECKING:
    from mdcluster.core.node import Node


@dataclass(frozen=True, slots=True)
class NodeView:
    """What this node knows, for people and for checkers. Costs nothing unless asked for."""

    me: Life
    name: str
    role: str  # follower, pre-candidate, candidate, writer, spectator
    term: int
    writer: NodeId | None
    ready: bool
    lease_until_ms: int
    io_lease_until_ms: int
    holding_all: bool
    cluster: ClusterState
    entries: tuple[Entry, ...]  # as persisted here
    applied: tuple[tuple[str, Stamp], ...]
    released: tuple[tuple[str, Stamp], ...]
    states: tuple[ArrayState, ...]  # as applied here
    suspects: frozenset[NodeId]
    fenced: tuple[Life, ...]
    passes: tuple[tuple[ArrayId, int, int], ...]  # array, complete, end (the writer's)
    waiting: tuple[Wait, ...]
    names: tuple[tuple[NodeId, str], ...]
    up: frozenset[NodeId]


def view_of(node: "Node") -> NodeView:
    """Taken between two steps; costs nothing unless asked for."""
    ledger, replica, election = node.ledger, node.replica, node.election
    membership = node.membership
    return NodeView(
        me=node.env.me,
        name=node.env.name,
        role=node.role,
        term=ledger.term,
        writer=election.writer,
        ready=election.ready,
        lease_until_ms=election.lease_until_ms,
        io_lease_until_ms=membership.io_lease_until_ms,
        holding_all=membership.holding_all,
        cluster=ledger.cluster,
        entries=tuple(ledger.entries[k] for k in sorted(ledger.entries)),
        applied=tuple(sorted(replica.applied.items())),
        released=tuple(sorted(replica.released.items())),
        states=tuple(replica.states[k] for k in sorted(replica.states)),
        suspects=membership.suspects,
        fenced=tuple(sorted(membership.fenced)),
        passes=tuple(
            (array, *pass_.progress()) for array, pass_ in sorted(node.keeper.passes.items())
        ),
        waiting=tuple(_waiting(node)),
        names=tuple(sorted(node.env.names.items())),
        up=frozenset(membership.up),
    )


def _waiting(node: "Node") -> list[Wait]:
    """What `mdcadm --why` prints."""
    out = [*node.commits.waiting(), *node.keeper.waiting(), *node.departures.waiting()]
    writer, me = node.known_writer(), (node.env.name,)
    by = () if writer is None else (node.env.name_of(writer),)
    if node.membership.hung:
        out.append(Wait(CLUSTER_KEY, Cause.HUNG, node.membership.hung, me, "it has restarted"))
    elif writer is None:
        out.append(node.no_writer())
    if node.membership.holding_all and node.replica.states:
        text = "holds every write: no writer has renewed its I/O lease"
        out.append(Wait(node.env.me.node, Cause.LEASE, text, by, "the writer renews it"))
    for array in node.replica.catching_up:
        text = "runs since before this daemon started; its writes are held"
        out.append(Wait(array, Cause.CATCHING_UP, text, by, "what was committed is applied here"))
    for array in node.replica.unknown:
        text = "md of this host runs it, but no commit known here is about it: its writes are held"
        ends = "a commit about it comes, or it is stopped: mdadm --stop"
        out.append(Wait(array, Cause.UNKNOWN, text, me, ends))
    return out
