"""Whom the mesh talks to: the nodes of clusterips, and those that have left it but not the cluster.

A node whose line is gone is still a voter until a commit says otherwise, and still runs its arrays
until it has stopped them. Cut off at once it could do neither in order: it would have to be fenced.
So it stays a peer for as long as the committed state names it.
"""

import asyncio
from collections.abc import Callable, Iterable

from mdcluster.config.clusterips import ClusterFile, NodeLine
from mdcluster.core.model import ArrayState
from mdcluster.core.view import NodeView
from mdcluster.mesh.mesh import Mesh
from mdcluster.mesh.roster import Line

LOOK_S = 2.0
"""How often it is looked whether a departing node is still needed."""


class Peers:
    """The peers of one daemon's mesh, after the first reload of clusterips."""

    def __init__(self, mesh: Mesh, view: Callable[[], NodeView]) -> None:
        self._mesh = mesh
        self._view = view
        self._wanted: list[Line] = []
        self._departing: dict[str, Line] = {}
        self._timer: asyncio.TimerHandle | None = None

    def change(self, old: Iterable[Line], new: list[Line]) -> None:
        """clusterips was read again: from these lines to those."""
        names = {line.name for line in new}
        self._departing.update({line.name: line for line in old if line.name not in names})
        self._wanted = new
        self._tell()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tell(self) -> None:
        self.close()
        needed = still_needed(self._view())
        taken = {a for line in self._wanted for a in line.addresses}
        names = {line.name for line in self._wanted}
        self._departing = {
            name: line
            for name, line in self._departing.items()
            if name in needed and name not in names and not taken & set(line.addresses)
        }
        self._mesh.reload([*self._wanted, *self._departing.values()])
        if self._departing:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._tell)


def still_needed(view: NodeView) -> set[str]:
    """Names of the nodes that vote or run an array, as far as this node knows."""
    nodes = {voter.node for voter in view.cluster.voters}
    for entry in view.entries:
        if isinstance(entry.state, ArrayState):
            nodes.update(life.node for life in entry.state.running)
    return {name for node, name in view.names if node in nodes}


def lines_of(file: ClusterFile, me: NodeLine) -> list[Line]:
    """The peers that clusterips names for this node."""
    return [line_of(node) for node in file.nodes if node.name != me.name]


def line_of(node: NodeLine) -> Line:
    """A line of clusterips as the mesh takes it."""
    return Line(node.name, tuple((a.host, a.port) for a in node.addresses))
