"""What a proposal would lead to, or why it is refused: asked by the pipelines, and by dry runs.

Nothing is changed here. A change of an array is applied by arrays.py; what hangs on more than the
array (voters, fenced lives, other arrays, how far a pass has come, who lags behind) is added here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from mdcluster.core.adoption import EVENTS_MAX
from mdcluster.core.arrays import Refused, apply_change
from mdcluster.core.creation import erase_problem
from mdcluster.core.env import Env
from mdcluster.core.ledger import Ledger, is_quorum, last_serial
from mdcluster.core.membership import Membership
from mdcluster.core.model import (
    CLUSTER_KEY,
    AddVoter,
    AdoptArray,
    ArrayChange,
    ArrayId,
    ArrayState,
    BindVoter,
    Change,
    Checkpoint,
    ClusterState,
    DeviceId,
    EndLife,
    EraseDevice,
    ForgetArray,
    HandOver,
    Life,
    RemoveVoter,
    Reshape,
    SetPaused,
    SetReadonly,
    StartArray,
)
from mdcluster.core.tracks import Ask, Commit, Stage, Track
from mdcluster.core.voters import change_voters, forget_array


class Evaluation:
    """Of the writer; tracks: of all entries, as they are now."""

    def __init__(
        self,
        env: Env,
        ledger: Ledger,
        membership: Membership,
        *,
        tracks: Callable[[], Mapping[str, Track]],
        missing: Callable[[Track, Commit], list[Life]],
        progress: Callable[[ArrayId], Checkpoint | None],
    ) -> None:
        self._env = env
        self._ledger = ledger
        self._membership = membership
        self._tracks = tracks
        self._missing = missing
        self._progress = progress

    def evaluate(
        self, track: Track, ask: Ask, runners: tuple[Life, ...], first: Iterable[ArrayChange] = ()
    ) -> ArrayState | ClusterState | Refused:
        """The state this proposal would lead to now. first: changes that go before it."""
        state = state_of(track)
        change = ask.change
        if isinstance(change, AdoptArray):
            serial = last_serial(self._ledger.cluster, change.array)
            change = replace(change, state=replace(change.state, last_serial=serial))
        if isinstance(change, AddVoter | RemoveVoter | BindVoter):
            assert isinstance(state, ClusterState)
            voters = change_voters(state, change)
            same = isinstance(voters, Refused) or voters == state
            return voters if same else self._if_held(voters)
        if isinstance(change, ForgetArray):
            assert isinstance(state, ClusterState)
            return forget_array(state, change) if self.may_forget(change) else state
        if isinstance(change, HandOver):
            assert state is not None
            return self._hand_over_refusal(change) or state
        if isinstance(change, EraseDevice):
            assert state is not None
            return self._erase_refusal(change) or state
        assert not isinstance(state, ClusterState)
        others = self.others(track.key)
        for step in (*self._endings(state), *first, *self._checkpoints(state, change)):
            result = apply_change(state, step, others=others)
            if isinstance(result, Refused):
                return result
            state = result
        return apply_change(state, change, others=others, runners=runners, force=ask.force)

    def refusal(self, track: Track, ask: Ask) -> str:
        result = self.evaluate(track, ask, ())
        return result.why if isinstance(result, Refused) else ""

    def others(self, key: str) -> tuple[ArrayState, ...]:
        """All other arrays, also those on their way to be committed."""
        states = []
        for track in self._tracks().values():
            entry = track.entry or track.committed
            if track.key != key and entry and isinstance(entry.state, ArrayState):
                states.append(entry.state)
        return tuple(states)

    def too_early(self, track: Track, change: Change) -> str:
        """A change of the shape starts from a state that every node has: see reshape.py.

        And a device is erased when no node can still use it as the member that it was.
        """
        about: Track | None = track
        if isinstance(change, EraseDevice):
            about = self._tracks().get(change.array)
            early = about is not None and self._may_use(about, change.device)
        else:
            early = isinstance(change, Reshape) and bool(track.open)
        if not early or about is None or about.committed is None:
            return ""
        name = about.committed.state.name
        return f"{name}: not every node has applied the change before; try again"

    def _may_use(self, track: Track, device: DeviceId) -> bool:
        return any(
            self._missing(track, commit)
            for commit in track.open
            if commit.removed is None or device in commit.removed
        )

    def unsettled(self, track: Track, change: Change) -> str:
        """Why nobody knows yet if the array that is to be started runs ('' if it is known)."""
        state = state_of(track)
        if not (isinstance(change, StartArray) and isinstance(state, ArrayState) and state.running):
            return ""
        if any(self._membership.answered(life) for life in state.running):
            return ""
        names = sorted({self._env.name_of(life.node) for life in state.running})
        return (
            f"{state.name}: listed as running on {', '.join(names)}, of whom nobody has answered "
            "yet; it goes on when one of them does, or all are fenced"
        )

    def term_needed(self, change: Change) -> int:
        """The term that this writer has to stand down with, or 0.

        If an array is adopted whose events its own stamps would not exceed: the next is above.
        """
        if not isinstance(change, AdoptArray) or change.array in self._tracks():
            return 0
        if self._ledger.stamp(change.array).next(self._ledger.term).events > change.events:
            return 0
        if change.events >= EVENTS_MAX:
            return 0  # refused as implausible
        return max(change.events >> 32, self._ledger.term)

    def may_forget(self, change: ForgetArray) -> bool:
        """Whether every member of this released array is plain, and nobody lags behind."""
        track = self._tracks().get(change.array)
        entry = track.committed if track else None
        return (
            track is not None
            and entry is not None
            and entry.stamp == change.stamp
            and isinstance(entry.state, ArrayState)
            and entry.state.released
            and track.stage is Stage.IDLE
            and self._ledger.projected_at(track.key) >= entry.stamp
            and not any(self._missing(track, commit) for commit in track.open)
        )

    def _if_held(self, voters: ClusterState | Refused) -> ClusterState | Refused:
        """A new voter set, once a quorum of it has stored whatever was committed.

        Quorums of two sets in a row meet, those of the next but one need not: without this an
        entry could be lost that only some of the first set have (docs/adr/0008).
        """
        for track in self._tracks().values():
            if track.key == CLUSTER_KEY or track.committed is None:
                continue
            assert isinstance(voters, ClusterState)
            if not is_quorum(voters, track.held_by, self._env.names):
                return Refused(
                    "the voters do not change yet: not enough of the new ones have stored what "
                    f"was committed of {track.key}; try again"
                )
        return voters

    def _endings(self, state: ArrayState | None) -> list[EndLife]:
        """The lives that were fenced end in the very next commit: none may leave in order."""
        running = state.running if state is not None else ()
        return [EndLife(state.uuid, x) for x in running if x in self._membership.fenced and state]

    def _checkpoints(self, state: ArrayState | None, change: Change) -> list[Checkpoint]:
        """How far a pass has come that this change ends: it goes on from there later."""
        if state is None or state.sync is None or not isinstance(change, SetPaused | SetReadonly):
            return []
        found = self._progress(state.uuid)
        if found is None or found.serial != state.sync.serial:
            return []
        return [found] if found.position_sectors >= state.sync.position_sectors else []

    def _hand_over_refusal(self, change: HandOver) -> Refused | None:
        name = self._env.name_of(change.target)
        if self._ledger.cluster.voter(change.target) is None:
            return Refused(f"cannot hand over to {name}: it is not a voter")
        if not self._membership.alive(change.target):
            return Refused(f"cannot hand over to {name}: it does not answer")
        return None

    def _erase_refusal(self, change: EraseDevice) -> Refused | None:
        entries = (
            e for t in self._tracks().values() for e in (t.committed, t.entry) if e is not None
        )
        states = [e.state for e in entries if isinstance(e.state, ArrayState)]
        problem = erase_problem(change.device, change.path, states)
        return Refused(problem) if problem else None


def state_of(track: Track) -> ArrayState | ClusterState | None:
    """As it is committed."""
    return track.committed.state if track.committed else None
