"""One node of the cluster: `step(event, now_ms) -> effects`. Composes the parts, routes events.

Nothing is decided here that has a file of its own:

    election.py    terms, votes, the lease            ledger.py     what is remembered
    membership.py  beats, I/O leases, fencing         replica.py    persist, apply, release
    commits.py     the writer's pipelines             rounds.py, preparing.py  before a commit
    keeper.py      the writer's own initiative        resync.py, holds.py      windows
    foresight.py   dry runs                           pins.py       stable reads
    asks.py        proposals that begin here
    feeding.py     until when the watchdog is fed
    responder.py   its part in a writer's rounds      departures.py failures, leaving, stopping
    view.py        what people may see

The order within a step: the parts' reactions, then what follows of any change (holding all
without an I/O lease, pinning reads, the writer's own proposals), then the timer.
"""

from collections.abc import Callable, Iterable
from typing import Any

from mdcluster.core import asks, commits, departures, election, replica, responder, rounds
from mdcluster.core.asks import Asks
from mdcluster.core.commits import Commits
from mdcluster.core.departures import NO_VOTER, STOPS, Departures
from mdcluster.core.effects import (
    Effect,
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
    ArrayKept,
    ArrayLeft,
    Asked,
    BitsSet,
    Event,
    FenceAcked,
    Fenced,
    FenceWaits,
    Held,
    Line,
    LinesChanged,
    MemberFailed,
    NoncesWritten,
    PeerDown,
    PeerUp,
    PersistFailed,
    PersistRecovered,
    Prepared,
    Probed,
    Received,
    Sampled,
    ShutdownAsked,
    SlotZeroed,
    SuperblocksWritten,
    SyncReached,
    SyncStopped,
    Tick,
    Wondered,
)
from mdcluster.core.feeding import Feeding
from mdcluster.core.foresight import Foresight
from mdcluster.core.holds import Holds
from mdcluster.core.keeper import Keeper
from mdcluster.core.ledger import Ledger, without_gone
from mdcluster.core.membership import Membership
from mdcluster.core.messages import (
    Abandon,
    Advice,
    ApplyAck,
    ApplyEntry,
    Beat,
    BeatAck,
    Consult,
    Hold,
    HoldAck,
    HoldReport,
    Message,
    Prepare,
    PrepareReply,
    PreVote,
    PreVoteReply,
    Probe,
    ProbeReply,
    Propose,
    ProposeReply,
    Query,
    Release,
    Replicate,
    ReplicateAck,
    Report,
    RequestVote,
    Transfer,
    Vote,
    Vouch,
)
from mdcluster.core.model import (
    CLUSTER_KEY,
    ArrayId,
    ArrayState,
    Checkpoint,
    ClusterState,
    DeviceId,
    Doubt,
    Entry,
    FailMember,
    Gone,
    HandOver,
    Life,
    NodeId,
    Promise,
    SetPaused,
    SetReadonly,
    Stamp,
    StartArray,
)
from mdcluster.core.pins import Pins
from mdcluster.core.preparing import Preparing
from mdcluster.core.replica import Replica
from mdcluster.core.responder import Responder
from mdcluster.core.rounds import Rounds
from mdcluster.core.timing import Timing
from mdcluster.core.tracks import Ask, Track
from mdcluster.core.view import NodeView, view_of
from mdcluster.core.voters import birth
from mdcluster.core.windows import SyncLimits

PATROL_MS = 60_000
"""How often the writer projects all superblocks again: a late write may have undone them."""

GATED = (StartSync, ZeroSlot, WriteNonces, WriteSuperblocks)
GATED_ENDS = (SyncStopped, SlotZeroed, NoncesWritten, SuperblocksWritten)
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
        self._lines = lines
        self._lines_digest = lines_digest
        self._spectator = spectator
        self._lease_before_ms = lease_before_ms
        self._serial_holds = serial_holds
        self._me = me
        self._start = start
        self._outlives = outlives
        self._gated = 0  # gated work under way: copying, slots, nonces, superblocks
        self._query_from: tuple[NodeId, int] | None = None
        self._apply_wait_ms: dict[str, int] = {}
        self._compose(promise, entries, projected, cluster_name, local_fault, limits)
        self._inherit(frozenset(inherited))
        self._handlers = self._event_handlers()
        self._messages = self._message_handlers()
        self._timers = self._timer_handlers()

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
        self.ledger = Ledger(env, promise, entries, projected, cluster_name, self._lines)
        self.election = Election(
            env,
            self.ledger,
            spectator=self._spectator,
            lines_digest=self._lines_digest,
            won=self._won,
            lost=self._lost,
        )
        self.membership = Membership(
            env,
            self.ledger,
            self.election,
            on_report=self._on_first_report,
            on_fenced=self._on_life_fenced,
            behind=self._check_behind,
            on_restarted=self._on_restarted,
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
            note_missing=self._note_missing,
        )
        self.commits = Commits(
            env,
            self.ledger,
            self.election,
            self.membership,
            start_round=self._start_round,
            failed_member=self._superblock_failed,
            at_rest=self._at_rest,
            progress=self._progress,
            everywhere=self._on_everywhere,
            cannot_apply=self._on_cannot_apply,
            ready=self._on_ready,
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
            runs_here=self._runs_here,
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
            env, self.known_writer, lambda: self.ledger.term, self.why_no_writer, self._start
        )
        self.departures = Departures(
            env,
            self.replica,
            self.holds,
            self.asks,
            self._runs_here,
            still=self._be_still,
            stay=self._stay_in,
            outlives=self._outlives,
        )
        self.feeding = Feeding(env, self.ledger, self.replica)
        self.responder = Responder(env, self.departures, self.feeding)
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
            if state is not None and self._me in state.running and state.uuid not in arrays
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
            self._gated = max(self._gated - 1, 0)
        self._handlers[type(event)](event)
        return self._finish()

    def _finish(self) -> list[Effect]:
        """What follows of any change."""
        self.membership.check_io_lease()
        self.pins.tend(
            self.replica.states, self.membership.unsettled, alone=not self._hears_writer()
        )
        self._try_give_word()
        self._try_report()
        if self.election.handing_over is None:
            self.departures.try_stop()
        self.feeding.tend(self.membership.io_lease_until_ms)
        effects = self.env.take_effects()
        for effect in effects:
            if isinstance(effect, GATED):
                self._gated += 1
        at_ms = self.env.timers.next_ms
        if at_ms is not None:
            effects.append(SetTimer(at_ms))
        return effects

    def _event_handlers(self) -> dict[type, Callable[[Any], None]]:
        return {
            Tick: self._on_tick,
            Received: self._on_received,
            PeerUp: lambda e: self.membership.peer_up(e.life, e.name, e.start),
            PeerDown: lambda e: self.membership.peer_down(e.node),
            LinesChanged: self._on_lines,
            Asked: self._on_asked,
            Wondered: lambda e: self.asks.ask(e.proposal, e.changes, e.force, dry_run=True),
            FenceAcked: self._on_fence_acked,
            ShutdownAsked: self._on_shutdown,
            PersistFailed: self._on_persist_failed,
            PersistRecovered: lambda e: setattr(self.election, "broken", self.membership.hung),
            SuperblocksWritten: self.commits.on_superblocks,
            NoncesWritten: self.rounds.on_nonces,
            Prepared: self.responder.on_prepared,
            Probed: self.responder.on_probed,
            Applied: self._on_applied,
            ArrayLeft: self.departures.array_left,
            ArrayKept: self.departures.array_kept,
            Held: self._on_held,
            Sampled: self.replica.on_sampled,
            SyncReached: self._on_sync_reached,
            BitsSet: lambda e: self._to_pass(e.array, "on_bits_set", e),
            SlotZeroed: lambda e: self._to_pass(e.array, "on_slot_zeroed", e),
            SyncStopped: self._on_sync_stopped,
            MemberFailed: self._on_member_failed,
            Fenced: self.membership.on_confirmed,
            FenceWaits: self.membership.on_fence_waits,
        }

    def _message_handlers(self) -> dict[type, Callable[[Life, Any], None]]:
        return {
            PreVote: self.election.on_pre_vote,
            PreVoteReply: self.election.on_pre_vote_reply,
            RequestVote: self.election.on_request_vote,
            Vote: self.election.on_vote,
            Transfer: self.election.on_transfer,
            Beat: self._on_beat,
            BeatAck: self._on_beat_ack,
            Query: self._on_query,
            Report: self.membership.on_report,
            Propose: self._on_propose,
            ProposeReply: lambda s, m: self.asks.on_reply(m),
            Consult: self._on_consult,
            Advice: lambda s, m: self.asks.on_advice(m),
            Replicate: self._on_replicate,
            ReplicateAck: lambda s, m: self.commits.on_replicate_ack(s.node, m),
            Prepare: self.responder.on_prepare,
            PrepareReply: self.rounds.on_prepare_reply,
            Abandon: self.responder.on_abandon,
            ApplyEntry: self._on_apply,
            ApplyAck: self.commits.on_apply_ack,
            Release: lambda s, m: self.replica.on_release(m),
            Probe: self.responder.on_probe,
            ProbeReply: self.rounds.on_probe_reply,
            Hold: self._on_hold,
            HoldAck: self.keeper.on_hold_ack,
            Vouch: lambda s, m: self.membership.vouch(m.life),
        }

    # --- timers -------------------------------------------------------------------------

    def _on_tick(self, _: Tick) -> None:
        for key in self.env.timers.take_due(self.env.now_ms):
            self._timers[key[0]](key)

    def _timer_handlers(self) -> dict[str, Callable[[TimerKey], None]]:
        """By the owner of the timer, the first part of its key."""
        return {
            election.TIMER: lambda _: self.election.on_timer(),
            "lease": lambda _: self.election.on_lease_timer(),
            "beat": self._on_beat_timer,
            "io": lambda _: None,  # looked at after every step
            "silence": lambda _: None,  # so are the reads to be pinned
            "fence": lambda k: self.membership.on_fence_timer(Life(NodeId(k[1]), k[2])),
            "commit": lambda k: self.commits.on_timer(k[1]),
            commits.PROJECT_TIMER: lambda k: self.commits.on_project_timer(k[1]),
            replica.TIMER: lambda k: self.replica.on_timer(ArrayId(k[1])),
            responder.TIMER: lambda k: self.responder.on_timer(int(k[1])),
            rounds.TIMER: lambda k: self.rounds.on_timer(int(k[1])),
            asks.TIMER: lambda k: self.asks.on_timer(k[1]),
            "resync": self.keeper.on_timer,
            "apply": lambda k: self.replica.retry(k[1]),
            "patrol": self._on_patrol_timer,
            departures.FAILED_TIMER: self._on_failed_timer,
            departures.LEFT_TIMER: self._on_left_timer,
            "handover": self._on_hand_over_timer,
            departures.SHUTDOWN_TIMER: lambda _: self.departures.on_shutdown_timer(),
        }

    def _on_beat_timer(self, _: TimerKey) -> None:
        self.membership.beat()
        self._tend()

    def _on_failed_timer(self, key: TimerKey) -> None:
        _, array, device, why, how = key
        self.departures.propose_failure(ArrayId(array), DeviceId(device), why, Doubt(how))

    def _on_left_timer(self, key: TimerKey) -> None:
        self.departures.propose_left(ArrayId(key[1]), int(key[2]), clean=key[3] == "clean")

    def _on_patrol_timer(self, _: TimerKey) -> None:
        self.commits.reproject_all()
        self.env.after(("patrol",), PATROL_MS)

    # --- messages: who may say what -----------------------------------------------------

    def _on_received(self, ev: Received) -> None:
        sender, msg = ev.sender, ev.message
        if sender != self._me and self.membership.lives.get(sender.node) != sender:
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
        if of_writer and sender != self._me:
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
            return self._me.node if self.election.ready else None
        return self.election.writer if self.election.sticky or self._hears_writer() else None

    def why_no_writer(self) -> str:
        """Why there is no writer, for people."""
        cluster = self.ledger.cluster
        if self.election.broken:
            return self.election.broken
        seen = {self.env.name_of(n) for n in (*self.membership.up, self._me.node)}
        there = [v.name for v in cluster.voters if v.name in seen]
        gone = [v.name for v in cluster.voters if v.name not in seen]
        if not cluster.uuid and gone:
            return f"the first start needs every voter; not reached: {', '.join(gone)}"
        if 2 * len(there) <= len(cluster.voters):
            return (
                f"no quorum: {len(there)} of {len(cluster.voters)} voters reachable, "
                f"not reached: {', '.join(gone)}"
            )
        return "an election is under way"

    # --- beats and reports --------------------------------------------------------------

    def _on_beat(self, sender: Life, msg: Beat) -> None:
        self.membership.on_beat(sender, msg, self.replica.digest, self._lines_digest)

    def _on_beat_ack(self, sender: Life, msg: BeatAck) -> None:
        if not self.election.is_writer:
            return
        was_open = self.election.has_lease
        self.membership.on_beat_ack(sender, msg)
        if not was_open and self.election.has_lease:
            self.commits.gate_opened()

    def _check_behind(self, node: NodeId) -> None:
        """A node's digest tells whether it lacks a commit or a release."""
        if self.membership.peers[node].digest != self.commits.expected_digest():
            self.commits.catch_up(node)

    def _on_query(self, sender: Life, msg: Query) -> None:
        self._query_from = (sender.node, msg.term)

    def _try_report(self) -> None:
        """Answer a query as soon as this node's own copying, and moving of holds, has ended.

        And once it has caught up with what it inherited.
        """
        if self._query_from is None or self._gated or self.holds.moving:
            return
        if self.replica.catching_up:
            return
        (writer, term), self._query_from = self._query_from, None
        running = tuple(s.uuid for s in self.replica.states.values() if self._runs_here(s))
        applied = tuple(sorted(self.replica.applied.items()))
        holds = self.holds.reports()
        self.env.send(writer, Report(term, applied, running, holds, self._serial_holds))

    def _own_hold_report(self, array: ArrayId) -> HoldReport | None:
        return next((r for r in self.holds.reports() if r.array == array), None)

    def _on_restarted(self, life: Life) -> None:
        self.commits.on_restarted(life)

    def _on_first_report(self, life: Life, _: Report) -> None:
        """A node has answered: none of its late writes is still to come; project again."""
        self.keeper.on_report(life)
        self.commits.reproject_all()
        self._tend()

    # --- the writer's term --------------------------------------------------------------------

    def _won(self, newest: dict[str, Entry], projected: dict[str, Stamp]) -> None:
        for key, stamp in projected.items():
            self.ledger.note_projected(key, stamp)
        if CLUSTER_KEY not in newest:
            names = self.env.names
            seed = f"{self._me.node}/{self._me.boot_id}/{self.ledger.term}"
            newest = {**newest, CLUSTER_KEY: birth(self.ledger.cluster, names, seed)}
        cluster = newest[CLUSTER_KEY].state
        assert isinstance(cluster, ClusterState)
        newest = without_gone(newest, cluster)
        self.rounds.begin_term(self.ledger.term)
        self.keeper.begin_term()
        self.commits.begin_term(newest[k] for k in sorted(newest))
        self.membership.begin_term()
        self.env.after(("patrol",), PATROL_MS)

    def _lost(self, why: str) -> None:
        self.env.notify("writer_stood_down", node=self._me.node, why=why)
        for pass_ in self.keeper.passes.values():
            self.holds.note(pass_.report())
        self.keeper.end_term()
        self.commits.end_term()
        self.rounds.end_term()
        self.foresight.end_term()
        self.membership.end_term()
        self.env.timers.cancel(("patrol",))

    def _on_ready(self) -> None:
        self.commits.gate_opened()
        self.asks.new_writer()
        self._tend()

    def _tend(self) -> None:
        if self.election.is_writer and self.election.ready:
            self.keeper.tend(self._lines, self._lines_digest)

    def _start_round(self, track: Track, ask: Ask) -> bool:
        if isinstance(ask.change, HandOver):
            return self._begin_hand_over(ask.change)
        if isinstance(ask.change, SetPaused | SetReadonly) and ask.change.on:
            array = ask.change.array
            if self.keeper.rest(array, lambda: self._rested(track, ask)):
                return True
        return self.preparing.start(track, ask)

    def _rested(self, track: Track, ask: Ask) -> None:
        """The pass that a change ends copies nothing any more."""
        if track.ask is ask and not self.preparing.start(track, ask):
            self.commits.round_done(track, ())

    def _note_missing(self, array: str, life: Life, missing: dict[DeviceId, str]) -> None:
        self.keeper.note_missing(array, life, missing)

    def _superblock_failed(self, state: ArrayState, device: DeviceId, why: str) -> None:
        """The projection could not be written to a member: it fails, if the data allow it.

        Not if this node does not run the array: then the fault may well be its own.
        """
        if not self._runs_here(state):
            self.env.notify("superblock_failed", array=state.name, device=device, why=why)
            return
        self.departures.propose_failure(state.uuid, device, why)

    def _at_rest(self, state: ArrayState) -> bool:
        return self.keeper.at_rest(state)

    def _progress(self, array: ArrayId) -> Checkpoint | None:
        return self.keeper.progress(array)

    def _on_everywhere(self, entry: Entry) -> None:
        if isinstance(entry.state, ArrayState):
            self.keeper.everywhere(entry.state)
        self._tend()

    def _on_life_fenced(self, life: Life) -> None:
        self.rounds.on_fenced(life)
        self.keeper.on_fenced(life)
        self.commits.on_fenced()
        self._tend()

    def _on_propose(self, sender: Life, msg: Propose) -> None:
        if self.election.is_writer:
            self.commits.propose(Ask(msg.proposal, msg.change, msg.force, sender.node))
            if isinstance(msg.change, FailMember):
                self.rounds.give_way(msg.change.array)
                self.keeper.failure_proposed(msg.change.array)

    def _on_consult(self, sender: Life, msg: Consult) -> None:
        if self.election.is_writer and self.election.ready and msg.changes:
            self.foresight.on_consult(sender, msg)

    # --- handing over -------------------------------------------------------------------

    def _begin_hand_over(self, change: HandOver) -> bool:
        """Shut the gate, stop copying; the word follows when the last write has returned."""
        if change.target == self._me.node:
            return False
        self.shut_for_transfer(change.target)
        self.keeper.stop_passes()
        self.env.after(("handover",), self.env.timing.apply_deadline_ms)
        return True

    def _on_hand_over_timer(self, _: TimerKey) -> None:
        """Some gated write does not return: an election decides, this node's gate stays shut."""
        if self.election.handing_over is not None:
            self.election.stand_down("its hand-over did not finish in time")

    def shut_for_transfer(self, target: NodeId) -> None:
        self.election.begin_hand_over(target)

    def _try_give_word(self) -> None:
        if self.election.handing_over is not None and not self._gated:
            self.env.timers.cancel(("handover",))
            self.election.give_word()

    # --- a replica ----------------------------------------------------------------------

    def _on_replicate(self, sender: Life, msg: Replicate) -> None:
        self.replica.on_replicate(sender.node, msg)
        self.election.voters_changed()

    def _on_apply(self, sender: Life, msg: ApplyEntry) -> None:
        self.replica.on_apply(sender.node, msg, voter=not self._spectator)

    def _on_applied(self, ev: Applied) -> None:
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

    def _runs_here(self, state: ArrayState) -> bool:
        return self._me in state.running and state.uuid in self.replica.states

    # --- departures ---------------------------------------------------------------------

    def _on_member_failed(self, ev: MemberFailed) -> None:
        self.departures.member_failed(ev)
        self.keeper.failure_proposed(ev.array)

    def _on_cannot_apply(self, entry: Entry, why: str) -> None:
        """The writer's own md cannot follow: it leaves, so that the others can go on."""
        if isinstance(entry.state, ArrayState):
            self.departures.leave(entry.state.uuid, f"a change could not be applied here: {why}")

    # --- resync -------------------------------------------------------------------------

    def _on_hold(self, sender: Life, msg: Hold) -> None:
        state = self.replica.states.get(msg.array)
        if state is not None and self._runs_here(state):
            self.holds.on_hold(sender, msg)

    def _moves_alone(self, life: Life) -> bool:
        """Whether this life moves holds only while no other does (unless it said: yes)."""
        if life == self._me:
            return self._serial_holds
        report = self.membership.reports.get(life)
        return report is None or report.serial_holds

    def _on_held(self, ev: Held) -> None:
        """A node whose md hangs tells so, holds what it holds, and has itself fenced."""
        if not ev.hung:
            self.holds.on_held(ev)
            return
        why = f"md of {self.env.name} hangs ({ev.problem}): restart this host"
        self.membership.hung = self.election.broken = why
        self.env.notify("md_hangs", array=ev.array, why=why)
        if self.election.is_writer:
            self.election.stand_down(why)

    def _to_pass(self, array: ArrayId, method: str, *args: object) -> None:
        pass_ = self.keeper.passes.get(array)
        if pass_ is not None:
            getattr(pass_, method)(*args)

    def _on_sync_reached(self, ev: SyncReached) -> None:
        self._to_pass(ev.array, "on_sync_reached", ev)
        self.keeper.tend_rest(ev.array)
        self.commits.on_still(ev.array)

    def _on_sync_stopped(self, ev: SyncStopped) -> None:
        self._to_pass(ev.array, "on_sync_stopped", ev)
        self.keeper.tend_rest(ev.array)
        self._tend()

    # --- files and people ---------------------------------------------------------------

    def _on_lines(self, ev: LinesChanged) -> None:
        self._lines, self._lines_digest = ev.lines, ev.digest
        self.ledger.lines_changed(ev.lines)
        self.election.lines_digest = ev.digest
        mine = next((x for x in ev.lines if x.name == self.env.name), None)
        if mine is not None:
            self._spectator = mine.spectator
            self.election.spectator = mine.spectator
        self.election.voters_changed()
        self._tend()

    def _on_asked(self, ev: Asked) -> None:
        if isinstance(ev.change, StartArray):
            self.departures.assemble_asked(ev.change.array)
        self.asks.ask(ev.proposal, (ev.change,), ev.force)

    def _on_fence_acked(self, ev: FenceAcked) -> None:
        """It is true of the lives known here now, not of one that comes before the word does."""
        writer = self.known_writer()
        for life in sorted(self.membership.lives_of(ev.node)):
            if self.election.is_writer:
                self.membership.vouch(life)
            elif writer is not None:
                self.env.send(writer, Vouch(self.ledger.term, life))

    def _on_persist_failed(self, ev: PersistFailed) -> None:
        """Without memory there is no promise: no vote, no acknowledgement, no writer here."""
        self.election.broken = f"the state directory of {self.env.name} refuses: {ev.why}"
        self.env.notify("state_directory_failed", why=ev.why)
        if self.election.is_writer:
            self.election.stand_down(self.election.broken)

    def _on_shutdown(self, _: ShutdownAsked) -> None:
        if self.departures.shutting_down:
            return
        self.departures.shut_down()
        if self.election.is_writer:
            target = self.keeper.successor(self.ledger.cluster)
            if target is not None and self.election.ready:
                self.commits.own(HandOver(target))

    def _stay_in(self, array: ArrayId) -> int:
        state = self.ledger.array(array)
        slot = state.slot_of(self._me) if state is not None else None
        return slot.stay if slot is not None and not slot.dirty else 0

    def _be_still(self) -> bool:
        """Nothing may be copied, or written through the gate, by what runs on without us."""
        self.election.broken = STOPS
        if self.election.is_writer:
            self.election.stand_down(STOPS)
        return not self._gated

    # --- for people and checkers --------------------------------------------------------

    @property
    def role(self) -> str:
        return "spectator" if self._spectator else str(self.election.role)

    def view(self) -> NodeView:
        """A snapshot of what this node knows."""
        return view_of(self)
