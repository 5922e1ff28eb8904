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
    waiting: tuple[tuple[str, str], ...]
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


def _waiting(node: "Node") -> list[tuple[str, str]]:
    """(key, what is waited for), in words: what `mdcadm --why` prints."""
    out = [*node.commits.waiting(), *node.keeper.waiting()]
    writer = node.known_writer()
    if node.membership.hung:
        out.append((CLUSTER_KEY, node.membership.hung))
    elif writer is None:
        out.append((CLUSTER_KEY, node.why_no_writer()))
    elif node.membership.holding_all and node.replica.states:
        name = node.env.name_of(writer)
        out.append((CLUSTER_KEY, f"{node.env.name} holds its writes: no I/O lease from {name}"))
    for array in node.replica.catching_up:
        out.append((array, "runs since before this daemon started; held until it has caught up"))
    for array in node.replica.unknown:
        why = "md of this host runs it, but no commit known here is about it: its writes are held"
        out.append((array, f"{why}; stop it with mdadm --stop unless a commit is on its way"))
    out.extend((array, f"left here: {why}") for array, why in node.departures.left.items())
    return out
