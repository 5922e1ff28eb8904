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
        self.entries = without_gone(self.entries, self.cluster)

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
        """Of the newest entry; for an array that is gone, of the last word about it."""
        entry = self.entries.get(key)
        return entry.stamp if entry else gone_at(self.cluster, key)

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
            self._drop_void(entry)
        return entry.key in self.entries  # else the word came late: the array is gone

    def _drop_void(self, entry: Entry) -> None:
        """Whoever keeps PersistEntry drops the same: it follows from the cluster entry."""
        if isinstance(entry.state, ClusterState):
            self.entries = without_gone(self.entries, entry.state)
            for gone in entry.state.gone:
                if gone.array not in self.entries:
                    self.projected.pop(gone.array, None)

    def projected_at(self, key: str) -> Stamp:
        return self.projected.get(key, ZERO)

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


def gone_at(cluster: ClusterState, key: str) -> Stamp:
    """The stamp up to which entries of this array are void; ZERO if it was never released."""
    return next((g.stamp for g in cluster.gone if g.array == key), ZERO)


def last_serial(cluster: ClusterState, key: str) -> int:
    """Of an array that was released, the last pass; 0 for any other."""
    return next((g.serial for g in cluster.gone if g.array == key), 0)


def without_gone(entries: dict[str, Entry], cluster: ClusterState) -> dict[str, Entry]:
    """The entries but those of released arrays: void, from whatever node they come."""
    void: dict[str, Stamp] = {g.array: g.stamp for g in cluster.gone}
    return {k: e for k, e in entries.items() if k not in void or e.stamp > void[k]}


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
