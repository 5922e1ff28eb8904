"""The writer's side of commits: one pipeline per entry, all entries in parallel.

Rules of this file (DESIGN.md section 4, "Commit"):

* queue -> [round, see rounds.py] -> replicate until a quorum has it on stable storage
  (committed) -> ring and superblocks through the gate -> ApplyEntry to every node, until
  every listed one has applied or is fenced -> Release -> done to the proposer;
* only an entry of this writer's own term counts as committed: the winner commits the newest
  of each again before it is ready;
* a proposal is committed once however often it is retried: entries remember the last
  RECENT_MAX of them;
* an adopted array's stamps are above its events: a writer whose term does not give that lets
  a higher one be elected, and the proposer asks again;
* a released array is never released to be used again: it is over when it is forgotten, by a
  commit of the cluster entry, and only then is its release done;
* a change of the voter set counts the quorum of the old set, and waits until the entry
  itself has been committed in this term;
* superblocks are a projection: what fails there fails the member, not the commit;
* everything sent is sent again with backoff until it is answered; nothing waits for
  spectators, or for a node that is not listed;
* a life whose daemon started again has to apply the newest of what it runs once more, as if
  that had just been committed: what the former process had applied is not known to this one.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from mdcluster.core.adoption import waits_for_members
from mdcluster.core.arrays import Refused
from mdcluster.core.effects import WriteSuperblocks
from mdcluster.core.election import Election
from mdcluster.core.env import Env
from mdcluster.core.evaluation import Evaluation, state_of
from mdcluster.core.events import SuperblocksWritten
from mdcluster.core.ledger import Ledger, gone_at, is_quorum
from mdcluster.core.membership import Membership
from mdcluster.core.messages import (
    ApplyAck,
    ApplyEntry,
    ProposeReply,
    Release,
    Replicate,
    ReplicateAck,
)
from mdcluster.core.model import (
    ARRAYS_MAX,
    CLUSTER_KEY,
    RECENT_MAX,
    ZERO,
    AddVoter,
    ArrayChange,
    ArrayId,
    ArrayState,
    BindVoter,
    Change,
    Checkpoint,
    ClusterState,
    DeviceId,
    Entry,
    EraseDevice,
    FailMember,
    ForgetArray,
    Gone,
    HandOver,
    Life,
    NodeId,
    Outcome,
    ReleaseArray,
    RemoveVoter,
    SetPaused,
    SetRaidDisks,
    SetReadonly,
    StartArray,
    StopArray,
    StopLooking,
)
from mdcluster.core.replica import digest
from mdcluster.core.tracks import OPEN_MAX, QUEUE_MAX, Ask, Commit, Stage, Track
from mdcluster.core.waits import Cause, Wait

HERITAGE_MAX = 8
PROJECT_TIMER = "project"
PROJECT_AGAIN_MAX_MS = 8_000
"""Longest wait before superblocks that could not be written are written again."""

StartRound = Callable[[Track, Ask], bool]
"""Begin a round for this proposal if its change needs one; True: it answers by `commit_now`."""

FailedMember = Callable[[ArrayState, DeviceId, str], None]


class Commits:
    """All pipelines of a writer; empty on every other node."""

    def __init__(
        self,
        env: Env,
        ledger: Ledger,
        election: Election,
        membership: Membership,
        *,
        start_round: StartRound,
        awaited: Callable[[str], list[str]],
        failed_member: FailedMember,
        at_rest: Callable[[ArrayState], bool],
        progress: Callable[[ArrayId], Checkpoint | None],
        everywhere: Callable[[Entry], None],
        cannot_apply: Callable[[Entry, str], None],
        ready: Callable[[], None],
    ) -> None:
        self._env = env
        self._ledger = ledger
        self._election = election
        self._membership = membership
        self._start_round = start_round
        self._awaited = awaited
        self._failed_member = failed_member
        self._at_rest = at_rest
        self._everywhere = everywhere
        self._cannot_apply = cannot_apply
        self._ready = ready
        self.tracks: dict[str, Track] = {}
        self.evaluation = Evaluation(
            env,
            ledger,
            membership,
            tracks=lambda: self.tracks,
            missing=self.missing,
            progress=progress,
        )
        self._recommits: set[str] = set()
        self._caught_up_ms: dict[NodeId, int] = {}
        self._restarted_ms: dict[Life, int] = {}
        self._serial = 0

    # --- a term begins and ends -----------------------------------------------------------

    def begin_term(self, newest: Iterable[Entry]) -> None:
        """Commit the newest of every entry again, in this term."""
        self.end_term()
        entries = list(newest)
        self._recommits = {e.key for e in entries}
        for old in entries:
            track = self.tracks.setdefault(old.key, Track(old.key))
            stamp = old.stamp.next(self._ledger.term)
            self._replicate(track, Entry(old.key, stamp, old.state, old.recent), old.state, None)

    def end_term(self) -> None:
        self.tracks = {}
        self._recommits = set()
        self._caught_up_ms = {}
        self._restarted_ms = {}
        self._env.timers.cancel_all("commit")
        self._env.timers.cancel_all(PROJECT_TIMER)

    # --- proposals ------------------------------------------------------------------------

    def own(self, change: Change) -> None:
        """A proposal of the writer itself; not twice while the same one is under way."""
        track = self.tracks.get(key_of(change))
        if track is None or self.under_way(track, change):
            return
        self._serial += 1
        proposal = f"{self._env.me.boot_id}/{self._ledger.term}/{self._serial}"
        self.propose(Ask(proposal, change, False, None))

    @staticmethod
    def _asks(track: Track) -> list[Ask]:
        asks = [*track.queue, track.ask, *(c.ask for c in track.open), *track.leaving]
        return [a for a in asks if a is not None]

    def under_way(self, track: Track, change: Change) -> bool:
        return any(a.change == change for a in self._asks(track))

    def any_under_way(self, track: Track, kind: type) -> bool:
        return any(isinstance(a.change, kind) for a in self._asks(track))

    def propose(self, ask: Ask) -> None:
        """Take a proposal; the answer goes to its origin, now or when it is done."""
        if not self._election.ready:
            return  # the proposer asks again
        key = key_of(ask.change)
        track = self.tracks.get(key)
        if self._was_released(ask, track):
            self.answer(ask, "done", "")
            return
        if term := self.evaluation.term_needed(ask.change):
            # The next writer, of a term above that, can adopt it.
            self._election.raise_term(term, f"an array with events of term {term} is adopted")
            return
        if track is not None and self._is_retry(track, ask):
            return
        if track is not None and (why := self.evaluation.unsettled(track, ask.change)):
            self.answer(ask, "waiting", why)  # the proposer asks again
            return
        if refusal := self.no_room(track):
            self.answer(ask, "refused", refusal)
            return
        track = self.tracks.setdefault(key, Track(key))
        track.queue.append(ask)
        self.next(track)

    def no_room(self, track: Track | None) -> str:
        """Why no more can wait for this entry, or be a new one ('' if it can)."""
        if track is None and len(self.tracks) > ARRAYS_MAX:
            return f"{ARRAYS_MAX} arrays are the most a cluster can have"
        if track is not None and len(track.queue) >= QUEUE_MAX:
            return f"{QUEUE_MAX} changes wait already; try again later"
        return ""

    def _was_released(self, ask: Ask, track: Track | None) -> bool:
        """A release that is over already: the proposer did not hear of it.

        The array may have come back since: then its proposal stands where it was forgotten.
        """
        if not isinstance(ask.change, ReleaseArray):
            return False
        if track is None:
            return gone_at(self._ledger.cluster, ask.change.array) != ZERO
        cluster = self.tracks.get(CLUSTER_KEY)
        recent = cluster.committed.recent if cluster and cluster.committed else ()
        return any(outcome.proposal == ask.proposal for outcome in recent)

    def _is_retry(self, track: Track, ask: Ask) -> bool:
        """A proposal that is known: it is answered in its time, to whoever asked last."""
        for known in self._asks(track):
            if known.proposal == ask.proposal:
                known.origin = ask.origin
                return True
        committed = track.committed
        for outcome in committed.recent if committed else ():
            if outcome.proposal == ask.proposal:
                if not track.open and track.stage is Stage.IDLE:
                    self.answer(ask, "done", "")
                elif track.open and track.open[-1].ask is None:
                    track.open[-1].ask = ask
                return True
        return False

    def answer(self, ask: Ask, state: str, text: str) -> None:
        if ask.origin is not None:
            reply = ProposeReply(self._ledger.term, ask.proposal, state, text)
            self._env.send(ask.origin, reply)
        elif state == "refused":
            self._env.notify("refused", change=type(ask.change).__name__, why=text)

    def next(self, track: Track) -> None:
        """Begin with the next proposal of this entry, if nothing is under way."""
        while track.stage is Stage.IDLE and self._election.ready:
            if track.reproject and track.committed is not None:
                track.reproject = False
                self._project(track, track.committed)
                return
            if not track.queue or len(track.open) >= OPEN_MAX:
                return
            ask = track.queue.popleft()
            track.ask = ask
            refusal = "" if _is_probed(ask.change) else self.evaluation.refusal(track, ask)
            refusal = refusal or self.evaluation.too_early(track, ask.change)
            if refusal:
                self._settle(track, "refused", refusal)
            elif self._start_round(track, ask):
                track.stage = Stage.ROUND
            else:
                self._commit_ask(track, ())

    def _settle(self, track: Track, state: str, text: str) -> None:
        """End the present proposal without a commit."""
        ask, track.ask = track.ask, None
        if ask is not None:
            self.answer(ask, state, text)
        if track.committed is None and not track.queue and track.entry is None:
            self.tracks.pop(track.key, None)  # an array that never came to be

    def round_done(
        self, track: Track, runners: tuple[Life, ...], first: Iterable[ArrayChange] = ()
    ) -> bool:
        """The round that the present proposal needed has succeeded. False: refused after all."""
        track.stage = Stage.IDLE
        made = self._commit_ask(track, runners, first)
        self.next(track)
        return made

    def round_failed(self, track: Track, state: str, why: str) -> None:
        track.stage = Stage.IDLE
        self._settle(track, state, why)
        self.next(track)

    def _commit_ask(
        self, track: Track, runners: tuple[Life, ...], first: Iterable[ArrayChange] = ()
    ) -> bool:
        ask = track.ask
        assert ask is not None
        result = self.evaluation.evaluate(track, ask, runners, first)
        if isinstance(result, Refused):
            self._settle(track, "refused", result.why)
            return False
        before = state_of(track)
        if result is before and not _may_be_undone(ask.change):
            if isinstance(before, ArrayState) and before.released:
                track.ask, track.leaving = None, [*track.leaving, ask][-QUEUE_MAX:]
            else:
                self._settle(track, "done", "")
            return True
        ask.force = ask.force and result is not before  # nothing is overruled by it
        recent = track.committed.recent if track.committed else ()
        recent = (*recent, *self._heritage(ask.change), Outcome(ask.proposal))[-RECENT_MAX:]
        stamp = self._ledger.stamp(track.key).next(self._ledger.term)
        if isinstance(result, ArrayState) and result.released:
            result = replace(result, released_at=stamp)
        self._replicate(track, Entry(track.key, stamp, result, recent), before, ask)
        return True

    def _heritage(self, change: Change) -> tuple[Outcome, ...]:
        """What a forgotten array leaves behind: who asked for its release may ask again."""
        track = self.tracks.get(change.array) if isinstance(change, ForgetArray) else None
        if track is None or track.committed is None:
            return ()
        asked = [a.proposal for a in self._asks(track) if isinstance(a.change, ReleaseArray)]
        proposals = [*(outcome.proposal for outcome in track.committed.recent), *asked]
        return tuple(Outcome(one) for one in list(dict.fromkeys(proposals))[-HERITAGE_MAX:])

    # --- replicate ------------------------------------------------------------------------

    def _replicate(
        self,
        track: Track,
        entry: Entry,
        before: ArrayState | ClusterState | None,
        ask: Ask | None,
    ) -> None:
        track.stage = Stage.REPLICATING
        track.entry, track.before, track.ask, track.acks = entry, before, ask, set()
        self._ledger.store(entry)
        # The own acknowledgement counts once durable: it comes back through the lane.
        self._env.send(self._env.me.node, ReplicateAck(self._ledger.term, entry.key, entry.stamp))
        self._send_replicate(track)
        self._backoff(track, restart=True)

    def _deciders(self, track: Track) -> ClusterState:
        """Whose quorum commits this entry: for a change of the voters, the old set's."""
        if track.key == CLUSTER_KEY and isinstance(track.before, ClusterState):
            return track.before
        return self._ledger.cluster

    def _send_replicate(self, track: Track) -> None:
        entry = track.entry
        assert entry is not None
        for node in sorted(self._voters() - track.acks - {self._env.me.node}):
            if node in self._membership.up:
                self._env.send(node, Replicate(self._ledger.term, entry))

    def _voters(self) -> set[NodeId]:
        """Every node with a vote, in the old or the new set."""
        track = self.tracks.get(CLUSTER_KEY)
        sets = [self._ledger.cluster]
        if track and isinstance(track.before, ClusterState):
            sets.append(track.before)
        nodes = {v.node for s in sets for v in s.voters if v.node is not None}
        if not all(s.uuid for s in sets):  # the birth: known by their lines only
            nodes |= self._membership.up
        return nodes

    def on_replicate_ack(self, node: NodeId, msg: ReplicateAck) -> None:
        track = self.tracks.get(msg.key)
        if track is None:
            return
        if track.committed is not None and track.committed.stamp == msg.stamp:
            track.held_by.add(node)
        if track.stage is not Stage.REPLICATING or track.entry is None:
            return
        if msg.stamp != track.entry.stamp:
            return
        track.acks.add(node)
        if is_quorum(self._deciders(track), track.acks, self._env.names):
            self._committed(track, track.entry)

    def _committed(self, track: Track, entry: Entry) -> None:
        before, ask = track.before, track.ask
        track.committed, track.ask, track.before = entry, None, None
        track.held_by = set(track.acks)
        must: set[Life] = set()
        for state in (before, entry.state):
            if isinstance(state, ArrayState):
                must.update(state.running)
        removed = None if ask is None else _removed(before, entry.state)
        commit = Commit(entry, frozenset(must), ask, self._env.now_ms, removed)
        track.open.append(commit)
        self._env.notify("committed", key=track.key, term=entry.stamp.term, seq=entry.stamp.seq)
        if self._recommits:
            self._recommits.discard(track.key)
            if not self._recommits:
                self._election.become_ready()
                self._ready()
        if isinstance(entry.state, ClusterState):
            for gone in entry.state.gone:
                self._forget(gone)
        self._project(track, entry)

    # --- forget ---------------------------------------------------------------------------

    def _forget(self, gone: Gone) -> None:
        """The array is over: whoever asked for that is told."""
        track = self.tracks.get(gone.array)
        newest = track.entry or track.committed if track else None
        if track is None or newest is None or newest.stamp > gone.stamp:
            return
        del self.tracks[track.key]
        self._env.timers.cancel(("commit", track.key))
        self._env.timers.cancel((PROJECT_TIMER, track.key))
        for ask in self._asks(track):
            over = ask in track.queue and not isinstance(ask.change, ReleaseArray)
            self.answer(ask, *(("refused", "the array was released") if over else ("done", "")))

    # --- project --------------------------------------------------------------------------

    def _project(self, track: Track, entry: Entry) -> None:
        """Ring record, then superblocks, through the gate; a cluster entry has none."""
        if not isinstance(entry.state, ArrayState):
            self._distribute(track)
            return
        track.stage, track.entry = Stage.PROJECTING, entry
        self._backoff(track, restart=True)
        self._write_superblocks(track)

    def _write_superblocks(self, track: Track) -> None:
        assert track.entry is not None
        if self._election.may_open_gate and self._election.has_lease and not track.writing:
            track.writing = True
            projected = self._ledger.projected.get(track.key, ZERO)
            if self._takes_old_copies(track):
                projected = ZERO
            self._env.emit(WriteSuperblocks(track.entry, projected))

    @staticmethod
    def _takes_old_copies(track: Track) -> bool:
        """Whether the commit is an administrator's --assemble --force."""
        ask = track.open[-1].ask if track.open else None
        return ask is not None and ask.force and isinstance(ask.change, StartArray)

    def gate_opened(self) -> None:
        """Whatever waited for the gate goes on."""
        for track in list(self.tracks.values()):
            if track.stage is Stage.PROJECTING:
                self._write_superblocks(track)

    def on_superblocks(self, ev: SuperblocksWritten) -> None:
        track = self.tracks.get(ev.array)
        if track is None:
            return
        entry = track.entry
        if track.stage is not Stage.PROJECTING or entry is None or ev.stamp != entry.stamp:
            return  # of an earlier term
        track.writing = False
        if not isinstance(entry.state, ArrayState):
            return
        if not ev.written and not ev.failed and entry.state.writable:
            return  # refused by the gate: tried again when the lease lives
        if ev.failed:
            self._again_soon(track)
        else:
            track.again_ms = 0
            self._ledger.note_projected(track.key, ev.stamp)
        for device, why in ev.failed:
            self._failed_member(entry.state, device, why)
        self._distribute(track)

    def _again_soon(self, track: Track) -> None:
        """The member may have to stay (the last good one): project again, with backoff."""
        least_ms = self._env.timing.retry_max_ms
        track.again_ms = min(max(2 * track.again_ms, least_ms), PROJECT_AGAIN_MAX_MS)
        self._env.after((PROJECT_TIMER, track.key), track.again_ms)

    def on_project_timer(self, key: str) -> None:
        track = self.tracks.get(key)
        if track is not None and track.committed is not None:
            track.reproject = True
            self.next(track)

    # --- apply and release ----------------------------------------------------------------

    def _distribute(self, track: Track) -> None:
        """The entry is committed and projected as far as can be: everybody applies it."""
        track.stage, track.entry = Stage.IDLE, None
        for node in sorted(self._membership.up | {self._env.me.node}):
            self._send_apply(track, node)
        self._backoff(track, restart=True)
        self._try_release(track)
        self.next(track)

    def _send_apply(self, track: Track, node: NodeId) -> None:
        entry = track.committed
        assert entry is not None
        projected = self._ledger.projected.get(track.key, ZERO)
        self._env.send(node, ApplyEntry(self._ledger.term, entry, projected))

    def on_apply_ack(self, sender: Life, msg: ApplyAck) -> None:
        track = self.tracks.get(msg.key)
        if track is None:
            return
        if msg.stamp > track.applied_by.get(sender, ZERO):
            track.applied_by[sender] = msg.stamp
        if track.committed is not None and track.committed.stamp == msg.stamp:
            track.held_by.add(sender.node)
        if msg.problem:
            track.problems[sender] = msg.problem
        else:
            track.problems.pop(sender, None)
        if not any(self._is_late(t, sender) for t in self.tracks.values()):
            self._membership.pardon(sender)
        self._try_release(track)

    def _is_late(self, track: Track, life: Life) -> bool:
        """Whether this life has not applied the oldest open commit within its deadline."""
        if not track.open or life not in self.missing(track, track.open[0]):
            return False
        since_ms = max(track.open[0].since_ms, self._restarted_ms.get(life, 0))
        return self._env.now_ms - since_ms > self._env.timing.apply_deadline_ms

    def missing(self, track: Track, commit: Commit) -> list[Life]:
        """The listed lives that have neither applied this commit nor been fenced."""
        return sorted(
            life
            for life in commit.must
            if life not in self._membership.fenced
            and track.applied_by.get(life, ZERO) < commit.entry.stamp
        )

    def _try_release(self, track: Track) -> None:
        """Release in order, as far as every listed node has applied."""
        while track.open and not self.missing(track, track.open[0]):
            if track.committed is None or self._is_projecting(track, track.open[0]):
                return
            state = track.open[0].entry.state
            if isinstance(state, ArrayState) and (state.released or not self._at_rest(state)):
                return
            commit = track.open.pop(0)
            track.released = commit.entry.stamp
            if commit.ask is not None:
                self.answer(commit.ask, "done", "")
            self._everywhere(commit.entry)
            if not track.open:
                for node in sorted(self._membership.up | {self._env.me.node}):
                    self._send_release(track, node)
                if track.stage is Stage.IDLE:  # else the next entry needs the timer
                    self._env.timers.cancel(("commit", track.key))
        self.next(track)

    @staticmethod
    def _is_projecting(track: Track, commit: Commit) -> bool:
        return track.stage is Stage.PROJECTING and track.entry == commit.entry

    def _send_release(self, track: Track, node: NodeId) -> None:
        self._env.send(node, Release(self._ledger.term, track.key, track.released))

    def on_still(self, array: ArrayId) -> None:
        """A window of this array has been copied: whoever waited for that goes on."""
        track = self.tracks.get(array)
        if track is not None and track.open:
            self._try_release(track)

    def on_fenced(self) -> None:
        """Some life has ended for certain: whoever waited for it goes on."""
        for track in list(self.tracks.values()):
            self._try_release(track)

    def reproject_all(self) -> None:
        """A late writer may have overwritten superblocks: write them again."""
        for track in list(self.tracks.values()):
            if track.committed and isinstance(track.committed.state, ArrayState):
                track.reproject = True
                self.next(track)

    # --- again, with backoff --------------------------------------------------------------

    def _backoff(self, track: Track, *, restart: bool) -> None:
        t = self._env.timing
        track.wait_ms = t.retry_min_ms * 2 if restart else min(track.wait_ms * 2, t.retry_max_ms)
        self._env.after(("commit", track.key), track.wait_ms)

    def on_timer(self, key: str) -> None:
        track = self.tracks.get(key)
        if track is None:
            return
        if track.stage is Stage.REPLICATING:
            self._send_replicate(track)
        elif track.stage is Stage.PROJECTING:
            self._write_superblocks(track)
        elif track.open:
            self._press(track)
        elif track.stage is Stage.IDLE:
            return
        self._backoff(track, restart=False)

    def _press(self, track: Track) -> None:
        """Remind who has not applied; one that cannot for too long is evicted."""
        oldest = track.open[0]
        for life in self.missing(track, oldest):
            if life.node in self._membership.up or life == self._env.me:
                self._send_apply(track, life.node)
            late = self._is_late(track, life)
            if late and life == self._env.me:
                self._cannot_apply(oldest.entry, track.problems.get(life, "no answer of md"))
            elif late:
                self._membership.condemn(life)

    def on_restarted(self, life: Life) -> None:
        """The daemon of a life has started again, and knows nothing of what was applied there."""
        self._restarted_ms[life] = self._env.now_ms
        for track in list(self.tracks.values()):
            track.applied_by.pop(life, None)
            track.problems.pop(life, None)
            newest = track.committed
            if newest is None or track.stage is not Stage.IDLE:
                continue
            state = newest.state
            listed = isinstance(state, ArrayState) and life in state.running
            if listed and not track.open:
                commit = Commit(newest, frozenset((life,)), None, self._env.now_ms)
                track.open.append(commit)
                self._backoff(track, restart=True)
            self._send_apply(track, life.node)

    def expected_digest(self) -> int:
        """What a node that has caught up reports."""
        applied = {k: t.committed.stamp for k, t in self.tracks.items() if t.committed}
        released = {k: t.released for k, t in self.tracks.items() if t.released != ZERO}
        return digest(applied, released)

    def catch_up(self, node: NodeId) -> None:
        """A node's digest differs: send it what it lacks, not more often than backoff allows."""
        due_ms = self._caught_up_ms.get(node, 0)
        if not self._election.ready or self._env.now_ms < due_ms:
            return
        self._caught_up_ms[node] = self._env.now_ms + 2 * self._env.timing.heartbeat_ms
        life = self._membership.lives.get(node)
        for track in self.tracks.values():
            if track.committed is None or track.stage is not Stage.IDLE:
                continue
            if life is None or track.applied_by.get(life, ZERO) < track.committed.stamp:
                self._send_apply(track, node)
            if track.released == track.committed.stamp:
                self._send_release(track, node)

    # --- for people -----------------------------------------------------------------------

    def waiting(self) -> list[Wait]:
        """What the pipelines wait for."""
        out = []
        for track in self.tracks.values():
            if track.stage is not Stage.IDLE:
                out.append(self._waits_in_stage(track))
            state = state_of(track)
            if isinstance(state, ArrayState) and state.released:
                out.append(waits_for_members(state))
            for commit in track.open[:1]:
                out.extend(self._waits_for(track, life) for life in self.missing(track, commit))
        return out

    def _waits_in_stage(self, track: Track) -> Wait:
        me = (self._env.name,)
        if track.stage is Stage.REPLICATING:
            without = self._have_not(track)
            text = f"{track.stage}: {len(track.acks)} have"
            return Wait(track.key, Cause.QUORUM, text, without, "a quorum has stored it")
        if track.stage is Stage.PROJECTING:
            ends = "they are written, or the members that cannot be written are failed"
            return Wait(track.key, Cause.SUPERBLOCKS, str(track.stage), me, ends)
        by = tuple(self._awaited(track.key)) or me
        ends = "they answer; what is not answered in time is refused or tried again"
        return Wait(track.key, Cause.PREPARE, str(track.stage), by, ends)

    def _have_not(self, track: Track) -> tuple[str, ...]:
        """The voters that have not stored the entry under way."""
        have = {self._env.name_of(node) for node in track.acks}
        voters = self._deciders(track).voters
        return tuple(v.name for v in voters if v.name not in have and v.node not in track.acks)

    def _waits_for(self, track: Track, life: Life) -> Wait:
        name = self._env.name_of(life.node)
        why = track.problems.get(life) or "has not applied the change"
        ends = "it has applied it, or is fenced"
        return Wait(track.key, Cause.APPLY, f"{name} {why}", (name,), ends)


def _is_probed(change: Change) -> bool:
    """A failure that a node saw: whether the last good member goes is asked after the probe."""
    return isinstance(change, FailMember) and change.seen_by is not None


def _removed(
    before: ArrayState | ClusterState | None, after: ArrayState | ClusterState
) -> frozenset[DeviceId]:
    """The devices that are members no more."""
    if not (isinstance(before, ArrayState) and isinstance(after, ArrayState)):
        return frozenset()
    return frozenset(m.device for m in before.members if after.member(m.device) is None)


def _may_be_undone(change: Change) -> bool:
    """What is put on record even if it changes nothing: or a late retry of it would be another one,
    done to what somebody else has made of the array meanwhile."""
    if isinstance(change, FailMember):
        return change.seen_by is None
    lasting = StartArray | StopArray | SetPaused | SetReadonly | StopLooking | SetRaidDisks
    return isinstance(change, lasting | EraseDevice)


def key_of(change: Change) -> str:
    """The entry that a change is about."""
    of_cluster = AddVoter | RemoveVoter | BindVoter | ForgetArray | EraseDevice | HandOver
    return CLUSTER_KEY if isinstance(change, of_cluster) else change.array
