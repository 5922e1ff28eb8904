"""One node of the cluster: `step(event, now_ms) -> effects`. Composes the parts, routes events.

Nothing is decided here that has a file of its own:

    election.py    terms, votes, the lease            ledger.py     what is remembered
    membership.py  beats, I/O leases, fencing         replica.py    persist, apply, release
    commits.py     the writer's pipelines             rounds.py, preparing.py  before a commit
    keeper.py      the writer's own initiative        resync.py, holds.py      windows
    asks.py        proposals that begin here          pins.py       stable reads

The order within a step: the parts' reactions, then what follows of any change (holding all
without an I/O lease, pinning reads, the writer's own proposals), then the timer.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from mdcluster.core import asks, election, replica, rounds
from mdcluster.core.arrays import survives_without
from mdcluster.core.asks import Asks
from mdcluster.core.commits import Ask, Commits, Track
from mdcluster.core.effects import (
    Effect,
    ForgetPrepared,
    LeaveArray,
    PrepareDevices,
    ProbeMember,
    SetTimer,
    StartSync,
    Stopped,
    WriteNonces,
    WriteSuperblocks,
    ZeroSlot,
)
from mdcluster.core.election import Election
from mdcluster.core.env import Env, TimerKey
from mdcluster.core.events import (
    Applied,
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
)
from mdcluster.core.holds import Holds
from mdcluster.core.keeper import Keeper
from mdcluster.core.ledger import Ledger
from mdcluster.core.membership import Membership
from mdcluster.core.messages import (
    Abandon,
    ApplyAck,
    ApplyEntry,
    Beat,
    BeatAck,
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
    ZERO,
    ArrayId,
    ArrayState,
    ClusterState,
    DeviceId,
    EndLife,
    Entry,
    FailMember,
    HandOver,
    LeaveRunner,
    Life,
    MemberState,
    NodeId,
    Promise,
    Stamp,
    Voter,
)
from mdcluster.core.pins import Pins
from mdcluster.core.preparing import Preparing
from mdcluster.core.replica import Replica
from mdcluster.core.rounds import Rounds
from mdcluster.core.timing import Timing
from mdcluster.core.windows import SyncLimits

PATROL_MS = 60_000
"""How often the writer projects all superblocks again: a late write may have undone them."""

NO_VOTER = "this node is no voter of the cluster any more"

SHUTDOWN_MS = 3_000
"""How long an orderly stop may take before the process just ends (its lock then tells)."""

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
    ) -> None:
        self.env = Env(me, name, timing, seed)
        self.env.now_ms = now_ms
        self._names: dict[NodeId, str] = {}
        self._lines = lines
        self._lines_digest = lines_digest
        self._spectator = spectator
        self._lease_before_ms = lease_before_ms
        self._me = me
        self._gated = 0  # gated work under way: copying, slots, nonces, superblocks
        self._prepared_for: dict[int, tuple[NodeId, int]] = {}
        self._query_from: tuple[NodeId, int] | None = None
        self._apply_wait_ms: dict[str, int] = {}
        self._left: dict[ArrayId, str] = {}
        self._leaving: set[ArrayId] = set()
        self._unlisted: set[ArrayId] = set()  # left, and a commit says so
        self._shutting_down = False
        self._compose(promise, entries, projected, cluster_name, local_fault, limits)
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
            self._names,
            spectator=self._spectator,
            lines_digest=self._lines_digest,
            won=self._won,
            lost=self._lost,
        )
        self.membership = Membership(
            env,
            self.ledger,
            self.election,
            self._names,
            on_report=self._on_first_report,
            on_fenced=self._on_life_fenced,
            behind=self._check_behind,
        )
        self.replica = Replica(
            env,
            self.ledger,
            self._on_applied_here,
            self._on_released_here,
            lambda array: array in self._left,
        )
        self.rounds = Rounds(env, lambda life: self.membership.name(life.node))
        self.preparing = Preparing(
            self._me,
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
            everywhere=self._on_everywhere,
            cannot_apply=self._on_cannot_apply,
            ready=self._on_ready,
        )
        self.preparing.commits = self.commits
        self.holds = Holds(env)
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
        )
        self.asks = Asks(env, self._known_writer, lambda: self.ledger.term, self._why_no_writer)
        self.pins = Pins(env)

    # --- the contract -------------------------------------------------------------------

    def start(self) -> list[Effect]:
        """The first effects of a life."""
        self.election.start(self._lease_before_ms)
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
        self._try_stop()
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
            PeerUp: lambda e: self.membership.peer_up(e.life, e.name),
            PeerDown: lambda e: self.membership.peer_down(e.node),
            LinesChanged: self._on_lines,
            Asked: lambda e: self.asks.ask(e.proposal, e.change, e.force),
            FenceAcked: self._on_fence_acked,
            ShutdownAsked: self._on_shutdown,
            PersistFailed: self._on_persist_failed,
            PersistRecovered: lambda e: setattr(self.election, "broken", ""),
            SuperblocksWritten: self.commits.on_superblocks,
            NoncesWritten: self.rounds.on_nonces,
            Prepared: self._on_prepared,
            Probed: self._on_probed,
            Applied: self._on_applied,
            ArrayLeft: self._on_array_left,
            Held: self.holds.on_held,
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
            Replicate: self._on_replicate,
            ReplicateAck: lambda s, m: self.commits.on_replicate_ack(s.node, m),
            Prepare: self._on_prepare,
            PrepareReply: self.rounds.on_prepare_reply,
            Abandon: self._on_abandon,
            ApplyEntry: self._on_apply,
            ApplyAck: self.commits.on_apply_ack,
            Release: lambda s, m: self.replica.on_release(m),
            Probe: self._on_probe,
            ProbeReply: self.rounds.on_probe_reply,
            Hold: self._on_hold,
            HoldAck: lambda s, m: self._to_pass(m.array, "on_hold_ack", s, m),
            Vouch: lambda s, m: self.membership.vouch(m.node),
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
            replica.TIMER: lambda k: self.replica.on_timer(ArrayId(k[1])),
            rounds.TIMER: lambda k: self.rounds.on_timer(int(k[1])),
            asks.TIMER: lambda k: self.asks.on_timer(k[1]),
            "resync": lambda k: self._to_pass(ArrayId(k[1]), "on_timer", k),
            "apply": lambda k: self.replica.retry(k[1]),
            "patrol": self._on_patrol_timer,
            "failed": lambda k: self._propose_failure(ArrayId(k[1]), DeviceId(k[2]), k[3]),
            "left": lambda k: self._propose_left(ArrayId(k[1]), clean=k[2] == "clean"),
            "handover": self._on_hand_over_timer,
            "shutdown": lambda _: self.env.emit(Stopped()),
        }

    def _on_beat_timer(self, _: TimerKey) -> None:
        self.membership.beat()
        self._tend()

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
        if isinstance(msg, PreVoteReply | Propose | ProposeReply | Vouch):
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
        self._forget_prepared(self.ledger.term)
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

    def _known_writer(self) -> NodeId | None:
        if self.election.is_writer:
            return self._me.node if self.election.ready else None
        return self.election.writer if self.election.sticky or self._hears_writer() else None

    def _why_no_writer(self) -> str:
        """Why there is no writer, for people."""
        cluster = self.ledger.cluster
        if self.election.broken:
            return self.election.broken
        seen = set(self.membership.all_names().values()) & {
            self.membership.all_names().get(n, "") for n in (*self.membership.up, self._me.node)
        }
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
        """Answer a query as soon as this node's own copying has ended."""
        if self._query_from is None or self._gated:
            return
        (writer, term), self._query_from = self._query_from, None
        running = tuple(s.uuid for s in self.replica.states.values() if self._runs_here(s))
        applied = tuple(sorted(self.replica.applied.items()))
        self.env.send(writer, Report(term, applied, running, self.holds.reports()))

    def _own_hold_report(self, array: ArrayId) -> HoldReport | None:
        return next((r for r in self.holds.reports() if r.array == array), None)

    def _on_first_report(self, life: Life, _: Report) -> None:
        """A node has answered: none of its late writes is still to come; project again."""
        self.commits.reproject_all()
        self._tend()

    # --- the writer's term --------------------------------------------------------------------

    def _won(self, newest: dict[str, Entry], projected: dict[str, Stamp]) -> None:
        for key, stamp in projected.items():
            self.ledger.note_projected(key, stamp)
        if CLUSTER_KEY not in newest:
            newest = {**newest, CLUSTER_KEY: self._birth()}
        self.rounds.begin_term(self.ledger.term)
        self.keeper.begin_term()
        self.commits.begin_term(newest[k] for k in sorted(newest))
        self.membership.begin_term()
        self.env.after(("patrol",), PATROL_MS)

    def _birth(self) -> Entry:
        """The first cluster entry: every line bound to the node that voted there."""
        proposal = self.ledger.cluster
        at_line = {name: node for node, name in self.membership.all_names().items()}
        voters = tuple(Voter(v.name, at_line[v.name], v.priority) for v in proposal.voters)
        seed = f"{self._me.node}/{self._me.boot_id}/{self.ledger.term}".encode()
        digits = blake2b(seed, digest_size=16).hexdigest()
        uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
        return Entry(CLUSTER_KEY, ZERO, ClusterState(uuid, proposal.name, voters))

    def _lost(self, why: str) -> None:
        self.env.notify("writer_stood_down", node=self._me.node, why=why)
        for pass_ in self.keeper.passes.values():
            self.holds.note(pass_.report())
        self.keeper.end_term()
        self.commits.end_term()
        self.rounds.end_term()
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
        return self.preparing.start(track, ask)

    def _note_missing(self, array: str, life: Life, missing: dict[DeviceId, str]) -> None:
        self.keeper.note_missing(array, life, missing)

    def _superblock_failed(self, state: ArrayState, device: DeviceId, why: str) -> None:
        """The projection could not be written to a member: it fails, if the data allow it.

        Not if this node does not run the array: then the fault may well be its own.
        """
        if not self._runs_here(state):
            self.env.notify("superblock_failed", array=state.name, device=device, why=why)
            return
        self.rounds.give_way(state.uuid)
        self.commits.own(FailMember(state.uuid, device, why, seen_by=self._me.node))

    def _at_rest(self, state: ArrayState) -> bool:
        return self.keeper.at_rest(state)

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
        writer = self._known_writer()
        if writer is not None:
            self.replica.answer(writer, ev.key, self.ledger.term, ev.problem)

    def _on_applied_here(self, entry: Entry) -> None:
        if entry.key == CLUSTER_KEY:
            self.election.voters_changed()
            if not self._spectator and not self.election.is_voter and self.ledger.formed:
                self._leave_all(NO_VOTER)
        elif isinstance(entry.state, ArrayState) and self._me not in entry.state.running:
            self._unlisted.add(entry.state.uuid)
        self._forget_left()

    def _forget_left(self) -> None:
        """A voter again: what it left for want of a vote it may join, once it is not listed."""
        if not self.election.is_voter:
            return
        for array in [a for a, why in self._left.items() if why == NO_VOTER]:
            if array in self._unlisted:
                del self._left[array]

    def _on_released_here(self, state: ArrayState) -> None:
        """All listed nodes have applied this state."""
        self.holds.on_state(state)

    def _runs_here(self, state: ArrayState) -> bool:
        return self._me in state.running and state.uuid in self.replica.states

    def _on_prepare(self, sender: Life, msg: Prepare) -> None:
        if msg.array in self._left and not msg.stopping and self._shutting_down:
            problem = "this node is shutting down"
        elif msg.array in self._left and not msg.stopping:
            problem = f"this node left the array: {self._left[msg.array]}"
        elif self._shutting_down:
            problem = "this node is shutting down"
        else:
            self._prepared_for[msg.op] = (sender.node, msg.term)
            while len(self._prepared_for) > rounds.ROUNDS_MAX:
                del self._prepared_for[next(iter(self._prepared_for))]
            self.env.emit(PrepareDevices(msg.op, msg.array, msg.claims, msg.stopping))
            return
        self.env.send(sender.node, PrepareReply(msg.term, msg.op, problem, (), ()))

    def _on_prepared(self, ev: Prepared) -> None:
        asked_by = self._prepared_for.get(ev.op)
        if asked_by is not None:
            reply = PrepareReply(asked_by[1], ev.op, ev.problem, ev.found, ev.missing)
            self.env.send(asked_by[0], reply)

    def _forget_prepared(self, term: int) -> None:
        """What an earlier writer had prepared here will not be committed by it."""
        for op, (_, asked_in) in list(self._prepared_for.items()):
            if asked_in < term:
                del self._prepared_for[op]
                self.env.emit(ForgetPrepared(op))

    def _on_abandon(self, _: Life, msg: Abandon) -> None:
        if self._prepared_for.pop(msg.op, None) is not None:
            self.env.emit(ForgetPrepared(msg.op))

    def _on_probe(self, sender: Life, msg: Probe) -> None:
        self._prepared_for[msg.op] = (sender.node, msg.term)
        self.env.emit(ProbeMember(msg.op, msg.array, msg.device))

    def _on_probed(self, ev: Probed) -> None:
        asked_by = self._prepared_for.pop(ev.op, None)
        if asked_by is not None:
            self.env.send(asked_by[0], ProbeReply(asked_by[1], ev.op, ev.problem))

    # --- failures seen here -------------------------------------------------------------

    def _on_member_failed(self, ev: MemberFailed) -> None:
        self.replica.note_failed(ev.array, ev.device)
        self.keeper.failure_proposed(ev.array)
        self.env.notify("member_failed", array=ev.array, device=ev.device, why=ev.why)
        self._propose_failure(ev.array, ev.device, ev.why)

    def _propose_failure(self, array: ArrayId, device: DeviceId, why: str) -> None:
        def outcome(state: str, text: str) -> None:
            if state == "refused":
                self._on_failure_refused(array, device, why, text)

        self.asks.own(FailMember(array, device, why, seen_by=self._me.node), outcome)

    def _on_failure_refused(self, array: ArrayId, device: DeviceId, why: str, refusal: str) -> None:
        """Leave the array, let the writes fail (the last good member), or propose it again."""
        state = self.replica.states.get(array)
        member = state.member(device) if state else None
        if state is None or member is None or member.state is MemberState.FAULTY:
            return
        if refusal.startswith("leave"):
            self._leave(array, refusal)
        elif survives_without(state, device):
            self.env.after(("failed", array, device, why), self.env.timing.retry_max_ms)
        else:
            self.replica.give_up(array, device)

    def _leave(self, array: ArrayId, why: str) -> None:
        """Stop an array here for good (until it is assembled again, or the daemon restarts)."""
        self._left[array] = why
        self._unlisted.discard(array)
        if array in self.replica.states and array not in self._leaving:
            self._leaving.add(array)
            self.replica.leaving(array)
            self.env.notify("array_left", array=array, why=why)
            self.env.emit(LeaveArray(array))

    def _leave_all(self, why: str) -> None:
        for state in list(self.replica.states.values()):
            if self._runs_here(state):
                self._leave(state.uuid, why)

    def _on_array_left(self, ev: ArrayLeft) -> None:
        clean = ev.clean and not self.replica.failures_pending(ev.array)
        self.holds.left(ev.array)
        self.replica.left(ev.array)
        self._leaving.discard(ev.array)
        self._propose_left(ev.array, clean=clean)

    def _propose_left(self, array: ArrayId, *, clean: bool) -> None:
        """Until it is committed, the others wait for this node in this array."""

        def outcome(state: str, text: str) -> None:
            if state == "refused" and array not in self._unlisted:
                key = ("left", array, "clean" if clean else "dirty")
                self.env.after(key, self.env.timing.retry_max_ms)

        change = LeaveRunner if clean else EndLife
        self.asks.own(change(array, self._me), outcome)

    def _on_cannot_apply(self, entry: Entry, why: str) -> None:
        """The writer's own md cannot follow: it leaves, so that the others can go on."""
        if isinstance(entry.state, ArrayState):
            self._leave(entry.state.uuid, f"a change could not be applied here: {why}")

    # --- resync -------------------------------------------------------------------------

    def _on_hold(self, sender: Life, msg: Hold) -> None:
        state = self.replica.states.get(msg.array)
        if state is not None and self._runs_here(state):
            self.holds.on_hold(sender, msg)

    def _to_pass(self, array: ArrayId, method: str, *args: object) -> None:
        pass_ = self.keeper.passes.get(array)
        if pass_ is not None:
            getattr(pass_, method)(*args)

    def _on_sync_reached(self, ev: SyncReached) -> None:
        self._to_pass(ev.array, "on_sync_reached", ev)
        self.commits.on_still(ev.array)

    def _on_sync_stopped(self, ev: SyncStopped) -> None:
        self._to_pass(ev.array, "on_sync_stopped", ev)
        self._tend()

    def _progress(self) -> tuple[tuple[ArrayId, int, int], ...]:
        return tuple(
            (array, *pass_.progress()) for array, pass_ in sorted(self.keeper.passes.items())
        )

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

    def _on_fence_acked(self, ev: FenceAcked) -> None:
        if self.election.is_writer:
            self.membership.vouch(ev.node)
        elif (writer := self._known_writer()) is not None:
            self.env.send(writer, Vouch(self.ledger.term, ev.node))

    def _on_persist_failed(self, ev: PersistFailed) -> None:
        """Without memory there is no promise: no vote, no acknowledgement, no writer here."""
        self.election.broken = f"the state directory of {self.env.name} refuses: {ev.why}"
        self.env.notify("state_directory_failed", why=ev.why)
        if self.election.is_writer:
            self.election.stand_down(self.election.broken)

    def _on_shutdown(self, _: ShutdownAsked) -> None:
        if self._shutting_down:
            return
        self._shutting_down = True
        self.env.after(("shutdown",), SHUTDOWN_MS)
        if self.election.is_writer:
            target = self.keeper.successor(self.ledger.cluster)
            if target is not None and self.election.ready:
                self.commits.own(HandOver(target))

    def _try_stop(self) -> None:
        """In an orderly stop: first the role goes, then the arrays, then the process."""
        if not self._shutting_down or self.election.handing_over is not None:
            return
        if self.env.timers.at_ms(("shutdown",)) is None:
            return
        self._leave_all("the daemon stops")
        arrays = any(self._runs_here(s) for s in self.replica.states.values())
        if arrays or self._leaving or self.asks.pending:
            return
        self.env.timers.cancel(("shutdown",))
        self.env.emit(Stopped())

    # --- for people and checkers --------------------------------------------------------

    def view(self) -> NodeView:
        """A snapshot of what this node knows."""
        role = "spectator" if self._spectator else str(self.election.role)
        waiting = [*self.commits.waiting(), *self.keeper.waiting()]
        if not self.election.is_writer and self._known_writer() is None:
            waiting.append((CLUSTER_KEY, self._why_no_writer()))
        return NodeView(
            me=self._me,
            name=self.env.name,
            role=role,
            term=self.ledger.term,
            writer=self.election.writer,
            ready=self.election.ready,
            lease_until_ms=self.election.lease_until_ms,
            io_lease_until_ms=self.membership.io_lease_until_ms,
            holding_all=self.membership.holding_all,
            cluster=self.ledger.cluster,
            entries=tuple(self.ledger.entries[k] for k in sorted(self.ledger.entries)),
            applied=tuple(sorted(self.replica.applied.items())),
            released=tuple(sorted(self.replica.released.items())),
            states=tuple(self.replica.states[k] for k in sorted(self.replica.states)),
            suspects=self.membership.suspects,
            fenced=tuple(sorted(self.membership.fenced)),
            passes=self._progress(),
            waiting=tuple(waiting),
            names=tuple(sorted(self.membership.all_names().items())),
            up=frozenset(self.membership.up),
        )
