"""One node of the cluster: `step(event, now_ms) -> effects`. Composes the parts.

Nothing is decided here that has a file of its own:

    routes.py      where events, messages and timers go
    writer.py      this node as the writer: its term, the hand-over
    election.py    terms, votes, the lease            ledger.py     what is remembered
    membership.py  beats, I/O leases, fencing         replica.py    persist, apply, release
    commits.py     the writer's pipelines             rounds.py, preparing.py  before a commit
    evaluation.py  what a proposal would lead to
    keeper.py      the writer's own initiative        resync.py, holds.py      windows
    foresight.py   dry runs                           pins.py       stable reads
    asks.py        proposals that begin here
    feeding.py     until when the watchdog is fed
    responder.py   its part in a writer's rounds      departures.py failures, leaving, stopping
    view.py        what people may see

The order within a step: the parts' reactions, then what follows of any change (holding all
without an I/O lease, pinning reads, the writer's own proposals), then the timer.
"""

from collections.abc import Iterable

from mdcluster.core import routes
from mdcluster.core.asks import Asks
from mdcluster.core.commits import Commits
from mdcluster.core.departures import NO_VOTER, STOPS, Departures
from mdcluster.core.effects import (
    Effect,
    EraseSuperblock,
    SetTimer,
    StartSync,
    WriteNonces,
    WriteSuperblocks,
    ZeroSlot,
)
from mdcluster.core.election import Election
from mdcluster.core.env import Env, TimerKey
from mdcluster.core.events import (
    Applied,
    Asked,
    Erased,
    Event,
    FenceAcked,
    Held,
    Line,
    LinesChanged,
    MemberFailed,
    NoncesWritten,
    PersistFailed,
    Received,
    ShutdownAsked,
    SlotZeroed,
    SuperblocksWritten,
    SyncReached,
    SyncStopped,
    Tick,
)
from mdcluster.core.feeding import Feeding
from mdcluster.core.foresight import Foresight
from mdcluster.core.holds import Holds
from mdcluster.core.keeper import Keeper
from mdcluster.core.ledger import Ledger
from mdcluster.core.membership import Membership
from mdcluster.core.messages import (
    Abandon,
    Advice,
    ApplyEntry,
    Beat,
    BeatAck,
    Consult,
    Hold,
    HoldReport,
    Message,
    Prepare,
    PreVote,
    PreVoteReply,
    Probe,
    Propose,
    ProposeReply,
    Query,
    Release,
    Replicate,
    Report,
    RequestVote,
    Vouch,
)
from mdcluster.core.model import (
    CLUSTER_KEY,
    ArrayId,
    ArrayState,
    ClusterState,
    DeviceId,
    Doubt,
    Entry,
    Gone,
    HandOver,
    Life,
    NodeId,
    Promise,
    Stamp,
    StartArray,
)
from mdcluster.core.pins import Pins
from mdcluster.core.preparing import Preparing
from mdcluster.core.replica import Replica
from mdcluster.core.responder import Responder
from mdcluster.core.rounds import Rounds
from mdcluster.core.timing import Timing
from mdcluster.core.view import NodeView, view_of
from mdcluster.core.waits import Cause, Wait
from mdcluster.core.windows import SyncLimits
from mdcluster.core.writer import Writer

GATED = (StartSync, ZeroSlot, WriteNonces, EraseSuperblock, WriteSuperblocks)
GATED_ENDS = (SyncStopped, SlotZeroed, NoncesWritten, Erased, SuperblocksWritten)
"""Work behind the gate, and the events that end it, one each: until the last has come, a node
neither reports to another writer nor gives the word to a successor."""

OF_THE_WRITER = (
    Beat,
    Query,
    Replicate,
    ApplyEntry,
    Release,
    Prepare,
    Abandon,
    Probe,
    Hold,
)
"""Messages that only the writer of their term sends; any of them is a sign of its life."""


class Node:
    """The core of one node. Not thread-safe; never blocks; all state is in its parts."""

    def __init__(
        self,
        me: Life,
        name: str,
        timing: Timing,
        lines: tuple[Line, ...],
        lines_digest: str,
        seed: int,
        *,
        spectator: bool,
        promise: Promise,
        entries: Iterable[Entry],
        projected: dict[str, Stamp],
        cluster_name: str,
        now_ms: int,
        local_fault: str = "fail",
        limits: SyncLimits | None = None,
        lease_before_ms: int = 0,
        serial_holds: bool = False,
        start: int = 0,
        inherited: Iterable[ArrayId] = (),
        outlives: bool = False,
    ) -> None:
        """start: number of this start of the daemon. outlives: md runs on without the daemon, and
        so does the life; inherited: what md was found to run, all of it held whole."""
        self.env = Env(me, name, timing, seed)
        self.env.now_ms = now_ms
        self.lines = lines
        self.lines_digest = lines_digest
        self._spectator = spectator
        self._lease_before_ms = lease_before_ms
        self._serial_holds = serial_holds
        self.me = me
        self._start = start
        self._outlives = outlives
        self.gated = 0  # gated work under way: copying, slots, nonces, superblocks
        self._query_from: tuple[NodeId, int] | None = None
        self._apply_wait_ms: dict[str, int] = {}
        self.writer = Writer(self)
        self._compose(promise, entries, projected, cluster_name, local_fault, limits)
        self._inherit(frozenset(inherited))
        self._handlers = routes.event_handlers(self)
        self._messages = routes.message_handlers(self)
        self._timers = routes.timer_handlers(self)

    def _compose(
        self,
        promise: Promise,
        entries: Iterable[Entry],
        projected: dict[str, Stamp],
        cluster_name: str,
        local_fault: str,
        limits: SyncLimits | None,
    ) -> None:
        env = self.env
        self.ledger = Ledger(env, promise, entries, projected, cluster_name, self.lines)
        self.election = Election(
            env,
            self.ledger,
            spectator=self._spectator,
            lines_digest=self.lines_digest,
            won=self.writer.begin,
            lost=self.writer.end,
        )
        self.membership = Membership(
            env,
            self.ledger,
            self.election,
            on_report=self.writer.on_first_report,
            on_fenced=self.writer.on_life_fenced,
            behind=self.writer.check_behind,
            on_restarted=self.writer.on_restarted,
            outlives=self._outlives,
        )
        self.replica = Replica(
            env,
            self.ledger,
            self._on_applied_here,
            self._on_released_here,
            lambda array: array in self.departures.left,
        )
        self.rounds = Rounds(env, lambda life: self.env.name_of(life.node))
        self.preparing = Preparing(
            env,
            self.ledger,
            self.membership,
            self.rounds,
            local_fault=local_fault,
            note_missing=self.writer.note_missing,
        )
        self.commits = Commits(
            env,
            self.ledger,
            self.election,
            self.membership,
            start_round=self.writer.start_round,
            awaited=self.rounds.awaited,
            failed_member=self.writer.superblock_failed,
            at_rest=self.writer.at_rest,
            progress=self.writer.progress,
            everywhere=self.writer.on_everywhere,
            cannot_apply=self.writer.on_cannot_apply,
            ready=self.writer.on_ready,
        )
        self.preparing.commits = self.commits
        self.holds = Holds(env, moves_alone=self._serial_holds)
        self.keeper = Keeper(
            env,
            self.ledger,
            self.membership,
            self.commits,
            limits or SyncLimits(),
            candidates=self.preparing.candidates,
            own_report=self._own_hold_report,
            runs_here=self.runs_here,
            failures_pending=self.replica.failures_pending,
            moves_alone=self._moves_alone,
        )
        self.foresight = Foresight(
            env,
            self.commits,
            self.preparing,
            lambda: [*self.commits.waiting(), *self.keeper.waiting()],
        )
        self.asks = Asks(
            env,
            self.known_writer,
            lambda: self.ledger.term,
            lambda: self.no_writer().text,
            self._start,
        )
        self.departures = Departures(
            env,
            self.replica,
            self.holds,
            self.asks,
            self.runs_here,
            still=self._be_still,
            stay=self._stay_in,
            outlives=self._outlives,
        )
        self.feeding = Feeding(env, self.ledger, self.replica)
        in_use = self.replica.in_use
        self.responder = Responder(env, self.departures, self.feeding, in_use=in_use)
        self.pins = Pins(env)

    def _inherit(self, arrays: frozenset[ArrayId]) -> None:
        """What md runs since before this process began; what it should run, and does not."""
        self.replica.inherit(arrays)
        for array in sorted(arrays):
            self.holds.inherit(array)
        states = (self.ledger.array(key) for key in sorted(self.ledger.entries))
        self._not_running = [
            state.uuid
            for state in states
            if state is not None and self.me in state.running and state.uuid not in arrays
        ]

    # --- the contract -------------------------------------------------------------------

    def start(self) -> list[Effect]:
        """The first effects of a process: of a life, or of one that goes on."""
        self.election.start(self._lease_before_ms)
        for array in self._not_running:
            self.departures.not_running(array)
        return self._finish()

    def step(self, event: Event, now_ms: int) -> list[Effect]:
        """React to one event. Time may stand still between steps, but never goes back."""
        self.env.now_ms = max(now_ms, self.env.now_ms)
        self.election.check_lease()
        if isinstance(event, GATED_ENDS):
            self.gated = max(self.gated - 1, 0)
        self._handlers[type(event)](event)
        return self._finish()

    def _finish(self) -> list[Effect]:
        """What follows of any change."""
        self.membership.check_io_lease()
        self.pins.tend(
            self.replica.states, self.membership.unsettled, alone=not self._hears_writer()
        )
        self.writer.try_give_word()
        self._try_report()
        if self.election.handing_over is None:
            self.departures.try_stop()
        self.feeding.tend(self.membership.io_lease_until_ms)
        effects = self.env.take_effects()
        for effect in effects:
            if isinstance(effect, GATED):
                self.gated += 1
        at_ms = self.env.timers.next_ms
        if at_ms is not None:
            effects.append(SetTimer(at_ms))
        return effects

    # --- timers -------------------------------------------------------------------------

    def on_tick(self, _: Tick) -> None:
        for key in self.env.timers.take_due(self.env.now_ms):
            self._timers[key[0]](key)

    def on_failed_timer(self, key: TimerKey) -> None:
        _, array, device, why, how = key
        self.departures.propose_failure(ArrayId(array), DeviceId(device), why, Doubt(how))

    def on_left_timer(self, key: TimerKey) -> None:
        self.departures.propose_left(ArrayId(key[1]), int(key[2]), clean=key[3] == "clean")

    # --- messages: who may say what -----------------------------------------------------

    def on_received(self, ev: Received) -> None:
        sender, msg = ev.sender, ev.message
        if sender != self.me and self.membership.lives.get(sender.node) != sender:
            return  # of a life that has ended, or that was never announced
        if self._is_current(sender, msg):
            self._messages[type(msg)](sender, msg)

    def _is_current(self, sender: Life, msg: Message) -> bool:
        """Adopt higher terms; drop what an older term sent, and tell its writer."""
        if isinstance(msg, PreVote | RequestVote):
            return True
        of_writer = isinstance(msg, OF_THE_WRITER)
        self.election.sees_term(sender.node, msg.term, proven=of_writer)
        if msg.term > self.ledger.term:
            return False
        if isinstance(msg, PreVoteReply | Propose | ProposeReply | Consult | Advice | Vouch):
            return True
        if msg.term < self.ledger.term and isinstance(msg, Beat):
            self.env.send(sender.node, BeatAck(self.ledger.term, 0, 0, 0, ""), urgent=True)
        if msg.term < self.ledger.term:
            return False
        if of_writer and sender != self.me:
            self._hear_writer(sender)
        return True

    def _hear_writer(self, sender: Life) -> None:
        if self.election.is_writer:
            raise AssertionError(f"two writers in term {self.ledger.term}: {sender} and this node")
        new = self.election.writer != sender.node
        self.responder.forget_before(self.ledger.term)
        self.election.hears_writer(sender.node)
        self.env.after(("silence",), self.env.timing.suspect_ms + 1)
        if new:
            self.membership.new_writer()
            self.asks.new_writer()

    def _hears_writer(self) -> bool:
        """Whether somebody tells this node who is suspect."""
        if self.election.is_writer:
            return self.election.ready
        heard_ms = self.election.heard_ms
        return heard_ms is not None and (self.env.now_ms - heard_ms <= self.env.timing.suspect_ms)

    def known_writer(self) -> NodeId | None:
        if self.election.is_writer:
            return self.me.node if self.election.ready else None
        return self.election.writer if self.election.sticky or self._hears_writer() else None

    def no_writer(self) -> Wait:
        """Why there is no writer."""
        cluster = self.ledger.cluster
        if self.election.broken:
            ends = "another node is elected, or this is over"
            return self._no_writer(self.election.broken, (self.env.name,), ends)
        seen = {self.env.name_of(n) for n in (*self.membership.up, self.me.node)}
        there = [v.name for v in cluster.voters if v.name in seen]
        gone = tuple(v.name for v in cluster.voters if v.name not in seen)
        if not cluster.uuid and gone:
            text = f"the first start needs every voter; not reached: {', '.join(gone)}"
            return self._no_writer(text, gone, "all of them are reached")
        if 2 * len(there) <= len(cluster.voters):
            text = (
                f"no quorum: {len(there)} of {len(cluster.voters)} voters reachable, "
                f"not reached: {', '.join(gone)}"
            )
            more = len(cluster.voters) // 2 + 1 - len(there)
            return self._no_writer(text, gone, f"{more} more of them can be reached")
        return self._no_writer("an election is under way", (), "a node has won it")

    @staticmethod
    def _no_writer(text: str, by: tuple[str, ...], ends: str) -> Wait:
        return Wait(CLUSTER_KEY, Cause.WRITER, text, by, ends)

    # --- beats and reports --------------------------------------------------------------

    def on_beat(self, sender: Life, msg: Beat) -> None:
        self.membership.on_beat(sender, msg, self.replica.digest, self.lines_digest)

    def on_query(self, sender: Life, msg: Query) -> None:
        self._query_from = (sender.node, msg.term)

    def _try_report(self) -> None:
        """Answer a query as soon as this node's own copying, and moving of holds, has ended.

        And once it has caught up with what it inherited.
        """
        if self._query_from is None or self.gated or self.holds.moving:
            return
        if self.replica.catching_up:
            return
        (writer, term), self._query_from = self._query_from, None
        running = tuple(s.uuid for s in self.replica.states.values() if self.runs_here(s))
        applied = tuple(sorted(self.replica.applied.items()))
        holds = self.holds.reports()
        self.env.send(writer, Report(term, applied, running, holds, self._serial_holds))

    def _own_hold_report(self, array: ArrayId) -> HoldReport | None:
        return next((r for r in self.holds.reports() if r.array == array), None)

    # --- a replica ----------------------------------------------------------------------

    def on_replicate(self, sender: Life, msg: Replicate) -> None:
        self.replica.on_replicate(sender.node, msg)
        self.election.voters_changed()

    def on_apply(self, sender: Life, msg: ApplyEntry) -> None:
        self.replica.on_apply(sender.node, msg, voter=not self._spectator)

    def on_applied(self, ev: Applied) -> None:
        self.replica.on_applied(ev)
        t = self.env.timing
        if ev.problem:
            wait_ms = min(2 * self._apply_wait_ms.get(ev.key, t.retry_min_ms), t.retry_max_ms)
            self._apply_wait_ms[ev.key] = wait_ms
            self.env.after(("apply", ev.key), wait_ms)
            self.env.notify("apply_failed", key=ev.key, why=ev.problem)
        else:
            self._apply_wait_ms.pop(ev.key, None)
        writer = self.known_writer()
        if writer is not None:
            self.replica.answer(writer, ev.key, self.ledger.term, ev.problem)

    def _on_applied_here(self, entry: Entry) -> None:
        if entry.key == CLUSTER_KEY:
            self.election.voters_changed()
            if isinstance(entry.state, ClusterState):
                self._forget(entry.state.gone)
            if not self.election.is_voter and self.ledger.formed:
                self.departures.leave_all(NO_VOTER)  # a spectator by now runs nothing, either
        elif isinstance(entry.state, ArrayState):
            self.departures.state_applied(entry.state)
        if self.election.is_voter:
            self.departures.voter_again()

    def _forget(self, gone: tuple[Gone, ...]) -> None:
        """Arrays that were given back; should one ever come again, it comes as a new one."""
        for array in self.replica.take_gone(gone):
            if self.replica.is_gone(array):
                self.departures.forget(array)
                self.keeper.forget(array)
                self.holds.left(array)

    def _on_released_here(self, state: ArrayState) -> None:
        """All listed nodes have applied this state."""
        self.holds.on_state(state)

    def runs_here(self, state: ArrayState) -> bool:
        return self.me in state.running and state.uuid in self.replica.states

    # --- departures ---------------------------------------------------------------------

    def on_member_failed(self, ev: MemberFailed) -> None:
        self.departures.member_failed(ev)
        self.keeper.failure_proposed(ev.array)

    # --- resync -------------------------------------------------------------------------

    def on_hold(self, sender: Life, msg: Hold) -> None:
        state = self.replica.states.get(msg.array)
        if state is not None and self.runs_here(state):
            self.holds.on_hold(sender, msg)

    def _moves_alone(self, life: Life) -> bool:
        """Whether this life moves holds only while no other does (unless it said: yes)."""
        if life == self.me:
            return self._serial_holds
        report = self.membership.reports.get(life)
        return report is None or report.serial_holds

    def on_held(self, ev: Held) -> None:
        """A node whose md hangs tells so, holds what it holds, and has itself fenced."""
        if not ev.hung:
            self.holds.on_held(ev)
            return
        why = f"md of {self.env.name} hangs ({ev.problem}): restart this host"
        self.membership.hung = self.election.broken = why
        self.env.notify("md_hangs", array=ev.array, why=why)
        if self.election.is_writer:
            self.election.stand_down(why)

    def to_pass(self, array: ArrayId, method: str, *args: object) -> None:
        pass_ = self.keeper.passes.get(array)
        if pass_ is not None:
            getattr(pass_, method)(*args)

    def on_sync_reached(self, ev: SyncReached) -> None:
        self.to_pass(ev.array, "on_sync_reached", ev)
        self.keeper.tend_rest(ev.array)
        self.commits.on_still(ev.array)

    def on_sync_stopped(self, ev: SyncStopped) -> None:
        self.to_pass(ev.array, "on_sync_stopped", ev)
        self.keeper.tend_rest(ev.array)
        self.writer.tend()

    # --- files and people ---------------------------------------------------------------

    def on_lines(self, ev: LinesChanged) -> None:
        self.lines, self.lines_digest = ev.lines, ev.digest
        self.ledger.lines_changed(ev.lines)
        self.election.lines_digest = ev.digest
        mine = next((x for x in ev.lines if x.name == self.env.name), None)
        if mine is not None:
            self._spectator = mine.spectator
            self.election.spectator = mine.spectator
        self.election.voters_changed()
        self.writer.tend()

    def on_asked(self, ev: Asked) -> None:
        if isinstance(ev.change, StartArray):
            self.departures.assemble_asked(ev.change.array)
        self.asks.ask(ev.proposal, (ev.change,), ev.force)

    def on_fence_acked(self, ev: FenceAcked) -> None:
        """It is true of the lives known here now, not of one that comes before the word does."""
        writer = self.known_writer()
        for life in sorted(self.membership.lives_of(ev.node)):
            if self.election.is_writer:
                self.membership.vouch(life)
            elif writer is not None:
                self.env.send(writer, Vouch(self.ledger.term, life))

    def on_persist_failed(self, ev: PersistFailed) -> None:
        """Without memory there is no promise: no vote, no acknowledgement, no writer here."""
        self.election.broken = f"the state directory of {self.env.name} refuses: {ev.why}"
        self.env.notify("state_directory_failed", why=ev.why)
        if self.election.is_writer:
            self.election.stand_down(self.election.broken)

    def on_shutdown(self, _: ShutdownAsked) -> None:
        if self.departures.shutting_down:
            return
        self.departures.shut_down()
        if self.election.is_writer:
            target = self.keeper.successor(self.ledger.cluster)
            if target is not None and self.election.ready:
                self.commits.own(HandOver(target))

    def _stay_in(self, array: ArrayId) -> int:
        state = self.ledger.array(array)
        slot = state.slot_of(self.me) if state is not None else None
        return slot.stay if slot is not None and not slot.dirty else 0

    def _be_still(self) -> bool:
        """Nothing may be copied, or written through the gate, by what runs on without us."""
        self.election.broken = STOPS
        if self.election.is_writer:
            self.election.stand_down(STOPS)
        return not self.gated

    # --- for people and checkers --------------------------------------------------------

    @property
    def role(self) -> str:
        return "spectator" if self._spectator else str(self.election.role)

    def view(self) -> NodeView:
        """A snapshot of what this node knows."""
        return view_of(self)
