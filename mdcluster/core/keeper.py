"""What the writer proposes by itself, and the resync passes it runs.

Rules of this file:

* the end of a life is committed only after it was fenced; a life joins an array only if it runs
  on a life that has answered in this term, or if every life listed there has ended, and never
  beside an earlier life of its own node;
* a pass begins or goes on only after every listed life has answered in this term or was
  fenced: an old writer's kernel may still be copying;
* a member that no node can find is failed, after DEGRADED_WAIT_MS, so that an array starts
  degraded rather than never, and only if its data survive without it;
* a new size is shown to applications once every node has it;
* the voter set follows clusterips once a quorum of nodes has read the same file, one voter
  at a time.
"""

from collections.abc import Callable, Iterable

from mdcluster.core.announcer import Announcer
from mdcluster.core.arrays import end_sectors, needs_sync, survives_without
from mdcluster.core.commits import Commits
from mdcluster.core.env import Env, TimerKey
from mdcluster.core.events import Line
from mdcluster.core.ledger import Ledger, is_quorum
from mdcluster.core.membership import Membership
from mdcluster.core.messages import HoldAck, HoldReport
from mdcluster.core.model import (
    CLUSTER_KEY,
    AddVoter,
    ArrayId,
    ArrayState,
    BeginSync,
    BindVoter,
    Checkpoint,
    ClusterState,
    EndLife,
    FailMember,
    ForgetArray,
    HandOver,
    JoinRunner,
    Life,
    NodeId,
    RemoveVoter,
    ShowSize,
)
from mdcluster.core.preparing import Missing
from mdcluster.core.resync import Pass
from mdcluster.core.tracks import Stage, Track
from mdcluster.core.waits import Cause, Wait
from mdcluster.core.windows import SyncLimits, resume_point

DEGRADED_WAIT_MS = 3000
"""How long a member may be missing on every node before an array starts without it."""


HAND_OVER_WAIT_MS = 10_000
"""How long a writer may lack an array that waits for a resync before it hands over."""

JOINING = "a node joins"
FAILING = "a failed member is being committed"
RESTING = "it is to be paused"
ENDING = "a change that ends it has been committed"


class Absence:
    """Which nodes miss which members of an array that cannot start yet."""

    def __init__(self, since_ms: int) -> None:
        self.since_ms = since_ms
        self.by_life: dict[Life, Missing] = {}


class Keeper:
    """The writer's own initiative; holds nothing on other nodes."""

    def __init__(
        self,
        env: Env,
        ledger: Ledger,
        membership: Membership,
        commits: Commits,
        limits: SyncLimits,
        *,
        candidates: Callable[[], set[Life]],
        own_report: Callable[[ArrayId], HoldReport | None],
        runs_here: Callable[[ArrayState], bool],
        failures_pending: Callable[[ArrayId], bool],
        moves_alone: Callable[[Life], bool],
    ) -> None:
        self._env = env
        self._ledger = ledger
        self._membership = membership
        self._commits = commits
        self._limits = limits
        self._candidates = candidates
        self._own_report = own_report
        self._runs_here = runs_here
        self._failures_pending = failures_pending
        self._moves_alone = moves_alone
        self.passes: dict[ArrayId, Pass] = {}
        self.leftovers: dict[ArrayId, Announcer] = {}  # holds without a pass that lets them go
        self._resting: dict[ArrayId, Callable[[], None]] = {}  # what waits for a pass to rest
        self._abandoned: set[ArrayId] = set()  # arrays of passes that were not let go in order
        self._absent: dict[ArrayId, Absence] = {}
        self._next_join_ms: dict[tuple[ArrayId, Life], tuple[int, int]] = {}
        self._began: set[tuple[ArrayId, int]] = set()  # passes begun in this term
        self._hand_over_ms = 0  # not before, to a node that runs what this one does not
        self.stopping = False  # no new passes: the role is being handed over

    # --- a term begins and ends -----------------------------------------------------------

    def begin_term(self) -> None:
        self.stopping = False
        self._hand_over_ms = self._env.now_ms + HAND_OVER_WAIT_MS
        self._began = set()
        self._absent = {}
        self._next_join_ms = {}

    def end_term(self) -> None:
        self.stop_passes()
        self.stopping = False

    def stop_passes(self) -> None:
        """Stop all copying; SyncStopped tells when the last write has returned."""
        self.stopping = True
        for pass_ in self.passes.values():
            pass_.stop()
        self.passes = {}
        for left in self.leftovers.values():
            self._env.timers.cancel(left.key)
        self.leftovers, self._abandoned = {}, set()
        self._resting = {}

    # --- every now and then ---------------------------------------------------------------

    def tend(self, lines: tuple[Line, ...], file_digest: str) -> None:
        """Look at everything once and propose what is due. Cheap when nothing is."""
        for track in list(self._commits.tracks.values()):
            state = track.committed.state if track.committed else None
            if isinstance(state, ArrayState):
                self._tend_array(track, state)
        self._tend_voters(lines, file_digest)

    def _tend_array(self, track: Track, state: ArrayState) -> None:
        if state.released and track.committed is not None:
            forget = ForgetArray(state.uuid, track.committed.stamp, state.last_serial)
            if self._commits.evaluation.may_forget(forget):
                self._commits.own(forget)
        for life in state.running:
            if life in self._membership.fenced:
                self._commits.own(EndLife(state.uuid, life))
        if state.active and self._joinable(state):
            self._join(state)
        if not self._all_answered(state):
            return
        settled = track.stage is Stage.IDLE and not track.open and not track.queue
        if settled and not self._failures_pending(state.uuid):
            self._resume_after_failure(state.uuid)
        if settled:
            self._resume_after_rest(state.uuid)
        if settled and not self.stopping and not self._lets_go(state):
            self._tend_shape_and_pass(state)

    def _tend_shape_and_pass(self, state: ArrayState) -> None:
        """Every listed node has applied what is committed, and nothing else is to be."""
        if state.shown_sectors is not None:
            self._commits.own(ShowSize(state.uuid))
        kind = needs_sync(state)
        if not self._runs_here(state):
            if (kind is not None and not state.still) or state.sync is not None:
                self._hand_over_to_a_runner(state)
            return
        if state.sync is None and kind is not None and state.active and not state.still:
            self._began.add((state.uuid, state.last_serial + 1))
            self._commits.own(BeginSync(state.uuid, kind))
        elif state.sync is not None and state.uuid not in self.passes:
            self._start_pass(state)

    def _hand_over_to_a_runner(self, state: ArrayState) -> None:
        """Only a node that runs an array can resync it; this one had its time to join."""
        if self._env.now_ms < self._hand_over_ms:
            return
        able = {life.node for life in state.running if self._membership.alive(life.node)}
        target = self.successor(self._ledger.cluster, able)
        if target is not None:
            self._hand_over_ms = self._env.now_ms + HAND_OVER_WAIT_MS
            self._commits.own(HandOver(target))

    def _joinable(self, state: ArrayState) -> bool:
        """Whether it is known to run, or surely runs nowhere: a silent life may hold anything."""
        answered = [self._membership.answered(life) for life in state.running]
        return any(answered) or not answered

    def _all_answered(self, state: ArrayState) -> bool:
        return all(self._membership.answered(life) for life in state.running)

    # --- joins ----------------------------------------------------------------------------

    def _join(self, state: ArrayState) -> None:
        listed = {life.node for life in state.running}  # in this life, or in one not yet ended
        wanted = [
            x for x in self._candidates() if x.node not in listed and self._may_join(state, x)
        ]
        if wanted and not self._paused_for_join(state.uuid):
            return
        for life in sorted(wanted):
            t = self._env.timing
            wait_ms = self._next_join_ms.get((state.uuid, life), (0, 0))[1]
            wait_ms = min(max(2 * wait_ms, 4 * t.retry_min_ms), 6 * t.prepare_deadline_ms)
            self._next_join_ms[state.uuid, life] = (self._env.now_ms + wait_ms, wait_ms)
            self._commits.own(JoinRunner(state.uuid, life))
        if not wanted:
            self._resume_after_join(state)
        if not state.running:
            self._start_degraded(state)

    def _may_join(self, state: ArrayState, life: Life) -> bool:
        due_ms = self._next_join_ms.get((state.uuid, life), (0, 0))[0]
        return self._membership.answered(life) and self._env.now_ms >= due_ms

    def _paused_for_join(self, array: ArrayId) -> bool:
        """A node writes as soon as it joins: nothing may be copied meanwhile."""
        pass_ = self.passes.get(array)
        if pass_ is None:
            return True
        pass_.suspend(JOINING)
        return pass_.idle

    def _resume_after_join(self, state: ArrayState) -> None:
        pass_, track = self.passes.get(state.uuid), self._commits.tracks[state.uuid]
        if pass_ is not None and not self._commits.any_under_way(track, JoinRunner):
            pass_.resume(JOINING)

    # --- coming to rest -------------------------------------------------------------------

    def rest(self, array: ArrayId, then: Callable[[], None]) -> bool:
        """Whether a pass has to come to rest first; then `then` is called once it has.

        The window that is being copied is completed, none is begun.
        """
        pass_ = self.passes.get(array)
        if pass_ is None or pass_.done:
            return False
        pass_.suspend(RESTING)
        if pass_.still:
            return False
        self._resting[array] = then
        return True

    def tend_rest(self, array: ArrayId, *, now: bool = False) -> None:
        """Something of the pass has ended; now: its copying may depend on what has to wait."""
        pass_ = self.passes.get(array)
        if array in self._resting and (now or pass_ is None or pass_.still):
            self._resting.pop(array)()

    def _resume_after_rest(self, array: ArrayId) -> None:
        """It was refused after all."""
        pass_ = self.passes.get(array)
        if pass_ is not None:
            pass_.resume(RESTING)

    def progress(self, array: ArrayId) -> Checkpoint | None:
        """What the pass has complete by now, to be put on record."""
        pass_ = self.passes.get(array)
        return pass_.checkpoint() if pass_ is not None and not pass_.done else None

    # --- failures -------------------------------------------------------------------------

    def failure_proposed(self, array: ArrayId) -> None:
        """Nothing is copied in an array until a failure is committed and released everywhere."""
        pass_ = self.passes.get(array)
        if pass_ is not None:
            pass_.suspend(FAILING)
        self.tend_rest(array, now=True)

    def _resume_after_failure(self, array: ArrayId) -> None:
        pass_ = self.passes.get(array)
        if pass_ is not None:
            pass_.resume(FAILING)

    def note_missing(self, array: str, life: Life, missing: Missing) -> None:
        """What a life lacks of an array, as the last round found."""
        absence = self._absent.setdefault(ArrayId(array), Absence(self._env.now_ms))
        if missing:
            absence.by_life[life] = missing
        else:
            self._absent.pop(ArrayId(array), None)

    def forget(self, array: ArrayId) -> None:
        """The array was released."""
        self._absent.pop(array, None)
        for key in [key for key in self._next_join_ms if key[0] == array]:
            del self._next_join_ms[key]

    def _start_degraded(self, state: ArrayState) -> None:
        absence = self._absent.get(state.uuid)
        if absence is None or self._env.now_ms - absence.since_ms < DEGRADED_WAIT_MS:
            return
        tried = [absence.by_life.get(life, {}) for life in self._candidates()]
        for device in sorted(set.intersection(*(set(m) for m in tried)) if tried else ()):
            if survives_without(state, device):
                why = f"no node can use it: {tried[0][device]}"
                self._commits.own(FailMember(state.uuid, device, why))
                del self._absent[state.uuid]
                return

    # --- passes ---------------------------------------------------------------------------

    def _start_pass(self, state: ArrayState) -> None:
        assert state.sync is not None
        reports = self._reports()
        start = resume_point(state, reports, self._own_report(state.uuid))
        resumed = (state.uuid, state.sync.serial) not in self._began
        pass_ = Pass(
            self._env,
            self._limits,
            state,
            frozenset(self._others(state)),
            start,
            merge_all=resumed,
            term=self._ledger.term,
            propose=self._commits.own,
            moves_alone=self._moves_alone,
        )
        self.passes[state.uuid] = pass_
        pass_.begin()

    def _lets_go(self, state: ArrayState) -> bool:
        """Whether holds of a pass that has ended are still being released, one by one."""
        pass_ = self.passes.get(state.uuid)
        if pass_ is not None and pass_.done:
            del self.passes[state.uuid]
        if state.sync is not None or state.uuid in self.passes:
            return False
        if state.uuid not in self.leftovers:
            others = frozenset(self._others(state))
            left = Announcer(
                self._env, self._ledger.term, state, state.last_serial, others, self._moves_alone
            )
            self.leftovers[state.uuid] = left
            if self._any_holds(state.uuid) or state.uuid in self._abandoned:
                left.release_whole(end_sectors(state))
        return not self.leftovers[state.uuid].settled

    def _any_holds(self, array: ArrayId) -> bool:
        holds = [h for h in (*self._reports(), self._own_report(array)) if h and h.array == array]
        return any(h.lo_sectors < h.hi_sectors for h in holds)

    def on_hold_ack(self, sender: Life, msg: HoldAck) -> None:
        pass_, left = self.passes.get(msg.array), self.leftovers.get(msg.array)
        if pass_ is not None:
            pass_.on_hold_ack(sender, msg)
        elif left is not None:
            left.on_ack(sender, msg)

    def on_timer(self, key: TimerKey) -> None:
        """A timer ("resync", array, what)."""
        pass_, left = self.passes.get(ArrayId(key[1])), self.leftovers.get(ArrayId(key[1]))
        if pass_ is not None:
            pass_.on_timer(key)
        elif left is not None:
            left.ask_again()

    def _reports(self) -> Iterable[HoldReport]:
        for report in self._membership.reports.values():
            yield from report.holds

    def _others(self, state: ArrayState) -> set[Life]:
        gone = {*self._membership.fenced, self._env.me}
        return {life for life in state.running if life not in gone}

    def at_rest(self, state: ArrayState) -> bool:
        """Whether this state may be released: one that ends a pass drops the holds everywhere.

        A member that fails or joins can end a pass in the middle of a window.
        """
        pass_ = self.passes.get(state.uuid)
        if pass_ is None or (state.sync is not None and state.sync.serial == pass_.serial):
            return True
        pass_.suspend(ENDING)
        return not pass_.copying

    def everywhere(self, state: ArrayState) -> None:
        """Every listed node has applied this state."""
        others = self._others(state)
        if left := self.leftovers.get(state.uuid):
            for life in sorted(left.others - others):
                left.gone(life)
        pass_ = self.passes.get(state.uuid)
        if pass_ is None:
            return
        for life in sorted(pass_.others - others):
            pass_.on_gone(life)
        for life in sorted(others):
            pass_.on_joined(life)
        pass_.on_state(state)
        if not state.active or self._env.me not in state.running:
            pass_.stop()
            self.leftovers.pop(state.uuid, None)  # others may hold for it still
            self._abandoned.add(state.uuid)
        if pass_.done:
            del self.passes[state.uuid]

    def on_report(self, life: Life) -> None:
        """A life that a pass has dealt with already reports anew: its daemon was restarted."""
        for pass_ in self.passes.values():
            pass_.on_restarted(life)
        for held in self._membership.reports[life].holds:
            left = self.leftovers.pop(held.array, None)  # what it holds is let go once more
            if left is not None and held.array not in self.passes:  # else the timer is the pass's
                self._env.timers.cancel(left.key)

    def on_fenced(self, life: Life) -> None:
        for pass_ in self.passes.values():
            pass_.on_gone(life)
        for left in self.leftovers.values():
            left.gone(life)

    # --- voters ---------------------------------------------------------------------------

    def _tend_voters(self, lines: tuple[Line, ...], file_digest: str) -> None:
        track = self._commits.tracks.get(CLUSTER_KEY)
        if track is None or track.committed is None or track.stage is not Stage.IDLE:
            return
        cluster = track.committed.state
        if not isinstance(cluster, ClusterState) or track.queue or track.ask:
            return
        change = self._bind(cluster) or self._follow_file(cluster, lines, file_digest)
        if change is not None:
            self._commits.own(change)

    def _bind(self, cluster: ClusterState) -> BindVoter | None:
        """A voter nobody was bound to has been seen."""
        names = self._env.names
        at_line = {name: node for node, name in names.items() if self._membership.alive(node)}
        for voter in cluster.voters:
            node = at_line.get(voter.name)
            if voter.node is None and node is not None and cluster.voter(node) is None:
                return BindVoter(voter.name, node)
        return None

    def _follow_file(
        self, cluster: ClusterState, lines: tuple[Line, ...], file_digest: str
    ) -> AddVoter | RemoveVoter | HandOver | None:
        """The first difference between the voters and clusterips, if a quorum read that file."""
        wanted = {x.name: x.priority for x in lines if not x.spectator}
        present = {v.name: v.priority for v in cluster.voters}
        if wanted == present:
            return None
        agree = {n for n, p in self._membership.peers.items() if p.file_digest == file_digest}
        if not is_quorum(cluster, agree | {self._env.me.node}, self._env.names):
            return None
        for name, priority in sorted(wanted.items()):
            if present.get(name) != priority:
                return AddVoter(name, priority)
        surplus = sorted(set(present) - set(wanted))
        if surplus == [self._env.name]:
            target = self.successor(cluster)
            return HandOver(target) if target is not None else None
        return RemoveVoter(next(name for name in surplus if name != self._env.name))

    def successor(self, cluster: ClusterState, among: set[NodeId] | None = None) -> NodeId | None:
        """The living voter (among these nodes) of the highest priority beside this node."""
        others = [
            v
            for v in cluster.voters
            if v.node not in (None, self._env.me.node)
            and self._membership.alive(v.node)
            and (among is None or v.node in among)
        ]
        best = max(others, key=lambda v: (v.priority, v.name), default=None)
        return best.node if best else None

    # --- for people -----------------------------------------------------------------------

    def waiting(self) -> list[Wait]:
        """What the arrays wait for, and their passes."""
        out: list[Wait] = []
        for track in self._commits.tracks.values():
            state = track.committed.state if track.committed else None
            if not isinstance(state, ArrayState):
                continue
            silent = [life for life in state.running if not self._membership.answered(life)]
            out.extend(self._silent(state.uuid, life) for life in silent)
            absence = self._absent.get(state.uuid)
            for life, missing in sorted(absence.by_life.items()) if absence else ():
                out.extend(self._misses(state.uuid, life, missing))
            if state.active and not state.running:
                ends = "a node that can use enough of its members has joined it"
                out.append(Wait(state.uuid, Cause.RUNNER, "no node runs it", (), ends))
        waits = (pass_.waiting() for pass_ in self.passes.values())
        return [*out, *(wait for wait in waits if wait is not None)]

    def _silent(self, array: ArrayId, life: Life) -> Wait:
        name = self._env.name_of(life.node)
        why = self._membership.fencing.get(life)
        if why is None:
            text, ends = f"{name}: has not answered in this term", "it answers, or is fenced"
            return Wait(array, Cause.ANSWER, text, (name,), ends)
        ends = f"it answers, or is fenced; if its host is surely dead: mdcadm --fence-ack {name}"
        return Wait(array, Cause.FENCING, f"{name}: {why}", (name,), ends)

    def _misses(self, array: ArrayId, life: Life, missing: Missing) -> list[Wait]:
        name = self._env.name_of(life.node)
        ends = "it can use it, or the array does without: mdcadm --fail"
        return [
            Wait(array, Cause.MEMBER, f"{name} misses {device}: {why}", (name, device), ends)
            for device, why in sorted(missing.items())
        ]
