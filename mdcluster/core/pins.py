"""When reads must be stable: the same member everywhere, or balanced over all.

Rule of this file: from the first suspicion of a node that runs an array, until what its
bitmap says is dirty has been resynced, every node reads from the first in-sync member; so
too while any part of the array is not known to be equal, and while nobody is heard.
"""

from mdcluster.core.effects import PinReads
from mdcluster.core.env import Env
from mdcluster.core.model import ArrayState, NodeId, SyncKind


class Pins:
    """Asks the driver to pin or balance, on changes only."""

    def __init__(self, env: Env) -> None:
        self._env = env
        self._pinned: dict[str, bool] = {}

    def tend(
        self, states: dict[str, ArrayState], suspects: frozenset[NodeId], *, alone: bool
    ) -> None:
        """alone: this node hears no writer, so it cannot know who is suspect."""
        for key in [k for k in self._pinned if k not in states]:
            del self._pinned[key]
        for key, state in states.items():
            if self._env.me not in state.running:
                self._pinned.pop(key, None)
                continue
            pinned = alone or must_pin(state, suspects)
            if self._pinned.get(key) != pinned:
                self._pinned[key] = pinned
                self._env.emit(PinReads(state.uuid, pinned))


def must_pin(state: ArrayState, suspects: frozenset[NodeId]) -> bool:
    """Whether the members may differ somewhere, or a node that writes may be gone."""
    return (
        state.resync_sectors is not None
        or any(slot.dirty for slot in state.slots)
        or (state.sync is not None and state.sync.kind is not SyncKind.RECOVER)
        or any(life.node in suspects for life in state.running)
    )
