"""What one node remembers: its promise and the newest entry of each key, as persisted.

Rules of this file: stamps never go back; everything stored is asked to be persisted in the
same step; whether an entry is committed is not known here (see commits.py and replica.py).
"""

from collections.abc import Iterable

from mdcluster.core.effects import PersistEntry, PersistPromise
from mdcluster.core.env import Env
from mdcluster.core.events import Line
from mdcluster.core.model import (
    CLUSTER_KEY,
    ZERO,
    ArrayState,
    ClusterState,
    Entry,
    NodeId,
    Promise,
    Stamp,
    Voter,
)


class Ledger:
    """The durable memory of one node, mirrored."""

    def __init__(
        self,
        env: Env,
        promise: Promise,
        entries: Iterable[Entry],
        projected: dict[str, Stamp],
        cluster_name: str,
        lines: tuple[Line, ...],
    ) -> None:
        self._env = env
        self.promise = promise
        self.entries = {e.key: e for e in entries}
        self.projected = dict(projected)
        self._genesis = genesis(cluster_name, lines)
        self._cluster_name = cluster_name

    # --- terms ---------------------------------------------------------------------------

    @property
    def term(self) -> int:
        return self.promise.term

    def enter(self, term: int, voted_for: NodeId | None) -> None:
        """Promise to refuse terms below `term`. Persisted; never goes back."""
        if term < self.term or (
            term == self.term and self.promise.voted_for not in (None, voted_for)
        ):
            raise AssertionError(f"promise would go back: {self.promise} -> {term}, {voted_for}")
        self.promise = Promise(term, voted_for)
        self._env.emit(PersistPromise(self.promise))

    # --- entries -------------------------------------------------------------------------

    def stamp(self, key: str) -> Stamp:
        entry = self.entries.get(key)
        return entry.stamp if entry else ZERO

    def array(self, key: str) -> ArrayState | None:
        entry = self.entries.get(key)
        return entry.state if entry and isinstance(entry.state, ArrayState) else None

    def store(self, entry: Entry) -> bool:
        """Keep and persist, unless an entry at least as new is kept. False: it is older."""
        have = self.stamp(entry.key)
        if entry.stamp < have:
            return False
        if entry.stamp > have:
            self.entries[entry.key] = entry
            self._env.emit(PersistEntry(entry, self.projected.get(entry.key, ZERO)))
        return True

    def note_projected(self, key: str, stamp: Stamp) -> None:
        """Every writable member's superblock is at least there; persisted with the next entry."""
        if stamp > self.projected.get(key, ZERO):
            self.projected[key] = stamp

    # --- voters --------------------------------------------------------------------------

    @property
    def formed(self) -> bool:
        return CLUSTER_KEY in self.entries

    @property
    def cluster(self) -> ClusterState:
        """The newest voter set known here; before the first commit, what clusterips proposes."""
        entry = self.entries.get(CLUSTER_KEY)
        if entry and isinstance(entry.state, ClusterState):
            return entry.state
        return self._genesis

    def lines_changed(self, lines: tuple[Line, ...]) -> None:
        self._genesis = genesis(self._cluster_name, lines)


def genesis(cluster_name: str, lines: tuple[Line, ...]) -> ClusterState:
    """The voter set that clusterips proposes: its lines, nobody bound to them yet."""
    voters = tuple(Voter(x.name, None, x.priority) for x in lines if not x.spectator)
    return ClusterState("", cluster_name, voters)


def is_quorum(cluster: ClusterState, nodes: Iterable[NodeId], names: dict[NodeId, str]) -> bool:
    """Whether these nodes can decide for this voter set: more than half of its bound lines.

    A line that no node is bound to has no vote and counts for nothing: it is BindVoter that
    changes who decides, one node at a time. (Counted, two lines added before their nodes were
    seen would leave four votes of which three are needed and two exist.)

    The birth of a cluster (uuid '') is the exception: nobody is bound to a line yet, nodes
    are known by `names` only, and every line must be there. A majority would not do: a node
    that lost its memory and one that was never reached could found a second cluster beside
    the first (docs/adr/0002).
    """
    present = set(nodes)
    if not cluster.uuid:
        present_names = {names[n] for n in present if n in names}
        return bool(cluster.voters) and all(v.name in present_names for v in cluster.voters)
    bound = [v.node for v in cluster.voters if v.node is not None]
    return 2 * sum(1 for node in bound if node in present) > len(bound)


def may_vote(cluster: ClusterState, node: NodeId, name: str | None) -> bool:
    """Whether this node has a vote in this set: bound to a line, or at one before the birth."""
    if cluster.voter(node) is not None:
        return True
    return not cluster.uuid and name is not None and cluster.named(name) is not None
