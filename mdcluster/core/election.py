"""Who is writer: terms, pre-vote, votes, sticky voters, the lease, check-quorum, transfer.

Rules, all of them in this file (DESIGN.md section 4, "Election" and "Lease"):

* a vote is a durable promise and carries all that the voter has persisted;
* a voter that heard a writer less than `sticky_ms` ago votes for nobody else, except for
  the successor that this very writer named;
* a starting or newly admitted voter withholds its vote for `withhold_ms`;
* a candidate that is shown a newer voter set needs a quorum of that one, too;
* the lease counts from the send time of a round that a quorum acknowledged; a writer
  without a lease, or that sees a higher term, is no writer any more;
* a writer that hands over shuts its gate first and never opens it again in that term.

The design follows Raft (Ongaro, "Consensus: Bridging Theory and Practice", 2014, chapters
3, 4 and 9) but for the log check: entries commit in parallel, so the winner takes the
newest of each over its vote quorum and commits all again in its own term.
"""

from collections.abc import Callable, Iterable
from enum import StrEnum

from mdcluster.core.effects import OpenGate, ShutGate
from mdcluster.core.env import Env
from mdcluster.core.ledger import Ledger, is_quorum, may_vote
from mdcluster.core.messages import (
    PreVote,
    PreVoteReply,
    RequestVote,
    Transfer,
    Vote,
)
from mdcluster.core.model import CLUSTER_KEY, ClusterState, Entry, Life, NodeId, Stamp
from mdcluster.core.timing import withhold_after

ROUNDS_MAX = 64
"""Beat rounds remembered for the lease; older acknowledgements no longer count."""

TIMER = "election"


class Role(StrEnum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    WRITER = "writer"


Won = Callable[[dict[str, Entry], dict[str, Stamp]], None]
Lost = Callable[[str], None]


class Election:
    """The election of one node."""

    def __init__(
        self,
        env: Env,
        ledger: Ledger,
        *,
        spectator: bool,
        lines_digest: str,
        won: Won,
        lost: Lost,
    ) -> None:
        self._env = env
        self._ledger = ledger
        self.spectator = spectator
        self.lines_digest = lines_digest
        self._won = won
        self._lost = lost
        self.role = Role.FOLLOWER
        self.writer: NodeId | None = None
        self.heard_ms: int | None = None
        self.former: tuple[NodeId, int] | None = None  # the last writer heard, and when
        self._attempts = 0  # since a writer was last heard
        self.broken = ""  # why this node must not stand or vote (state directory)
        self.withhold_until_ms = 0
        self._was_voter = False
        self._votes: dict[NodeId, Vote] = {}
        self._pre_votes: set[NodeId] = set()
        self._pre_term = 0
        self.refusals: dict[NodeId, str] = {}
        # the writer's lease
        self._rounds: dict[int, int] = {}  # round -> send time
        self._acked_ms: dict[NodeId, int] = {}  # node -> send time of its last acked round
        self.round = 0
        self.ready = False
        self.handing_over: NodeId | None = None
        self._opened_until_ms = 0

    # --- start, voters, timers ------------------------------------------------------------

    def start(self, lease_before_ms: int) -> None:
        """lease_before_ms: the longest lease this node served under in its last life."""
        wait_ms = withhold_after(self._env.timing, lease_before_ms)
        self.withhold_until_ms = self._env.now_ms + wait_ms
        self._was_voter = self.is_voter
        self._arm()

    @property
    def is_voter(self) -> bool:
        """Whether this node has a vote in the newest set it knows."""
        return not self.spectator and may_vote(
            self._ledger.cluster, self._env.me.node, self._env.name
        )

    @property
    def is_writer(self) -> bool:
        return self.role is Role.WRITER

    @property
    def withheld(self) -> bool:
        return self._env.now_ms < self.withhold_until_ms

    def voters_changed(self) -> None:
        """The set known here changed; a newly admitted voter withholds its vote at first."""
        if self.is_voter and not self._was_voter:
            self._withhold()
        self._was_voter = self.is_voter
        self._arm()

    def _withhold(self) -> None:
        self.withhold_until_ms = self._env.now_ms + self._env.timing.withhold_ms

    def _arm(self) -> None:
        if not self.is_voter or self.is_writer:
            self._env.timers.cancel((TIMER,))
            return
        self._env.after((TIMER,), self._timeout_ms())

    def _retry_ms(self) -> int:
        """After an attempt that may fail: a spread first, twice as long each time.

        Whoever refused was sticky for a heartbeat longer, or stood at the same moment; neither
        is a reason to sit out a whole time-out again.
        """
        t = self._env.timing
        span_ms = (t.election_max_ms - t.election_min_ms) << min(max(self._attempts - 1, 0), 8)
        if span_ms >= t.election_min_ms:
            return self._timeout_ms()
        return self._env.jitter.between(span_ms // 2, span_ms)

    def _timeout_ms(self) -> int:
        """Random, and a spread later for a voter that others outrank."""
        t = self._env.timing
        base = self._env.jitter.between(t.election_min_ms, t.election_max_ms)
        mine = self._ledger.cluster.voter(self._env.me.node)
        top = max((v.priority for v in self._ledger.cluster.voters), default=0)
        outranked = mine is not None and mine.priority < top
        return base + (t.election_max_ms - t.election_min_ms if outranked else 0)

    def on_timer(self) -> None:
        """Nobody was heard for a whole time-out: ask around."""
        if not self.is_voter or self.is_writer:
            return
        if self.withheld or self.broken:
            self._arm()
            return
        self._attempts += 1
        self._env.after((TIMER,), self._retry_ms())
        self._forget_writer()
        self.role = Role.PRE_CANDIDATE
        self._pre_term = self._ledger.term + 1
        self._pre_votes = {self._env.me.node}
        self.refusals = {}
        self._ask(PreVote(self._pre_term, self.lines_digest))
        self._check_pre_votes()

    def _ask(self, message: PreVote | RequestVote) -> None:
        for node in self._peers():
            self._env.send(node, message)

    def _peers(self) -> Iterable[NodeId]:
        """All other nodes that have, or may have, a vote."""
        cluster = self._ledger.cluster
        known = {v.node for v in cluster.voters if v.node is not None}
        if not cluster.uuid:
            known |= {n for n, name in self._env.names.items() if cluster.named(name)}
        return sorted(known - {self._env.me.node})

    # --- what others see of a writer ------------------------------------------------------

    def hears_writer(self, sender: NodeId) -> None:
        """A message of the writer of this term: sticky to it from now."""
        if self.role is not Role.FOLLOWER:
            self.role = Role.FOLLOWER
        if self.writer != sender:
            self.writer = sender
            self._env.notify("writer_changed", node=sender, term=self._ledger.term)
        self.heard_ms = self._env.now_ms
        self.former = sender, self._env.now_ms
        self._attempts = 0  # since a writer was last heard
        if self.is_voter:
            self._env.after((TIMER,), self._timeout_ms())

    def _forget_writer(self) -> None:
        if self.writer is not None:
            self._env.notify("writer_lost", node=self.writer, term=self._ledger.term)
        self.writer = None

    @property
    def sticky(self) -> bool:
        """Bound to a writer that may still have a lease."""
        if self.is_writer:
            return self.has_lease
        if self.heard_ms is None:
            return False
        return self._env.now_ms < self.heard_ms + self._env.timing.sticky_ms

    # --- terms ---------------------------------------------------------------------------

    def sees_term(self, sender: NodeId, term: int, *, proven: bool) -> None:
        """Adopt a higher term. A writer that sees one shuts its gate and stands down.

        proven: only a writer sends this, so a quorum stands behind the term. Otherwise the
        term of a node that is no voter here must not disturb a cluster that works.
        """
        if term <= self._ledger.term:
            return
        known = may_vote(self._ledger.cluster, sender, self._env.names.get(sender))
        if not proven and not known and self.is_voter:
            return
        if self.is_writer:
            self.stand_down(f"term {term} seen at {self._env.name_of(sender)}")
        self._ledger.enter(term, None)
        self.role = Role.FOLLOWER
        self._forget_writer()

    def raise_term(self, term: int, why: str) -> None:
        """A writer gives its role up, so that whoever is elected next has a term above this."""
        self.stand_down(why)
        if term > self._ledger.term:
            self._ledger.enter(term, None)

    def stand_down(self, why: str) -> None:
        """End this node's time as writer; the gate shuts before anything else happens."""
        self._env.emit(ShutGate())
        self.role = Role.FOLLOWER
        self.writer = None
        self.ready = False
        self.handing_over = None
        self._votes = {}
        self._env.timers.cancel(("lease",))
        self._arm()
        self._lost(why)

    # --- pre-vote ------------------------------------------------------------------------

    def on_pre_vote(self, sender: Life, msg: PreVote) -> None:
        why = self._why_not(sender.node, msg.lines_digest, transfer=0)
        if not why and msg.term <= self._ledger.term:
            why = f"term {msg.term} is not above {self._ledger.term}"
        self._env.send(sender.node, PreVoteReply(self._ledger.term, not why, why))

    def on_pre_vote_reply(self, sender: Life, msg: PreVoteReply) -> None:
        if self.role is not Role.PRE_CANDIDATE:
            return
        if not msg.granted:
            self.refusals[sender.node] = msg.why
            return
        self._pre_votes.add(sender.node)
        self._check_pre_votes()

    def _check_pre_votes(self) -> None:
        if is_quorum(self._ledger.cluster, self._pre_votes, self._env.names):
            self._stand(transfer=0)

    # --- votes ---------------------------------------------------------------------------

    def _stand(self, transfer: int) -> None:
        """Vote for oneself in the next term, durably, and ask the others."""
        self.role = Role.CANDIDATE
        self._votes = {}
        term = self._ledger.term + 1
        self._ledger.enter(term, self._env.me.node)
        self._forget_writer()
        request = RequestVote(term, self.lines_digest, transfer)
        # The own vote counts once it is durable: it comes back through the lane.
        self._env.send(self._env.me.node, self._vote(True, ""))
        self._ask(request)
        self._env.after((TIMER,), self._retry_ms())

    def _why_not(self, candidate: NodeId, lines_digest: str, transfer: int) -> str:
        """Why this node would not vote for the candidate now ('' if it would)."""
        if self.spectator:
            return "a spectator has no vote"
        # Whether this node's vote counts is for the candidate's voter set to say: it may have
        # been admitted by a commit it has not seen, and be needed (Ongaro 2014, section 4.1).
        if self.broken:
            return self.broken
        if not may_vote(self._ledger.cluster, candidate, self._env.names.get(candidate)):
            return "the candidate has no vote in the voter set known here"
        if not self._ledger.formed and lines_digest != self.lines_digest:
            return "clusterips differs between the two nodes, and no cluster is formed yet"
        if self.withheld:
            left_ms = self.withhold_until_ms - self._env.now_ms
            return f"withholds its vote for {left_ms} ms after its start"
        named = transfer != 0 and transfer == self._ledger.term
        if self.sticky and not named:
            return f"follows {self._env.name_of(self.writer or self._env.me.node)}"
        return ""

    def on_request_vote(self, sender: Life, msg: RequestVote) -> None:
        why = self._why_not(sender.node, msg.lines_digest, msg.transfer)
        if not why and msg.term < self._ledger.term:
            why = f"term {msg.term} is below {self._ledger.term}"
        if (
            not why
            and msg.term == self._ledger.term
            and self._ledger.promise.voted_for
            not in (
                None,
                sender.node,
            )
        ):
            chosen = self._ledger.promise.voted_for or sender.node
            why = f"voted for {self._env.name_of(chosen)} already"
        if why:
            self._env.send(sender.node, Vote(self._ledger.term, False, why, (), ()))
            return
        if self.is_writer:
            self.stand_down(f"voted for {self._env.name_of(sender.node)} in term {msg.term}")
        self.role = Role.FOLLOWER
        self._forget_writer()
        self._ledger.enter(msg.term, sender.node)
        self._env.send(sender.node, self._vote(True, ""))
        self._arm()

    def _vote(self, granted: bool, why: str) -> Vote:
        ledger = self._ledger
        vector = tuple(ledger.entries[k] for k in sorted(ledger.entries))
        projected = tuple(sorted(ledger.projected.items()))
        return Vote(ledger.term, granted, why, vector, projected)

    def on_vote(self, sender: Life, msg: Vote) -> None:
        if self.role is not Role.CANDIDATE or msg.term != self._ledger.term:
            return
        if not msg.granted:
            self.refusals[sender.node] = msg.why
            return
        self._votes[sender.node] = msg
        newest = self._newest()
        if self._has_won(newest):
            self._win(newest)

    def _newest(self) -> dict[str, Entry]:
        """The newest entry of each key over all votes."""
        newest: dict[str, Entry] = {}
        for vote in self._votes.values():
            for entry in vote.vector:
                if entry.key not in newest or entry.stamp > newest[entry.key].stamp:
                    newest[entry.key] = entry
        return newest

    def _has_won(self, newest: dict[str, Entry]) -> bool:
        sets = [self._ledger.cluster]
        shown = newest.get(CLUSTER_KEY)
        if shown and isinstance(shown.state, ClusterState):
            sets.append(shown.state)
        me = self._env.me.node
        return me in self._votes and all(
            is_quorum(s, self._votes, self._env.names) and may_vote(s, me, self._env.name)
            for s in sets
        )

    def _win(self, newest: dict[str, Entry]) -> None:
        projected: dict[str, Stamp] = {}
        for vote in self._votes.values():
            for key, stamp in vote.projected:
                projected[key] = max(stamp, projected.get(key, stamp))
        self.role = Role.WRITER
        self.writer = self._env.me.node
        self.ready = False
        self.handing_over = None
        self.round = 0
        self._rounds = {}
        self._acked_ms = {}
        self._opened_until_ms = 0
        self._env.timers.cancel((TIMER,))
        # Without a lease by then there is no quorum: stand down again.
        self._env.after(("lease",), self._env.timing.election_max_ms)
        self._env.notify("writer_changed", node=self.writer, term=self._ledger.term)
        self._won(newest, projected)

    # --- lease ---------------------------------------------------------------------------

    def new_round(self) -> int:
        """Number of a round of beats sent now."""
        self.round += 1
        self._rounds[self.round] = self._env.now_ms
        self._rounds.pop(self.round - ROUNDS_MAX, None)
        self._refresh_lease()
        return self.round

    def on_round_ack(self, node: NodeId, round_: int) -> None:
        """A node acknowledged a round of this term: the lease counts from when it was sent."""
        sent_ms = self._rounds.get(round_)
        if not self.is_writer or sent_ms is None:
            return
        self._acked_ms[node] = max(sent_ms, self._acked_ms.get(node, sent_ms))
        self._refresh_lease()

    @property
    def lease_until_ms(self) -> int:
        """Until when the writer may act: 0 if it never had a quorum in this term."""
        if not self.is_writer:
            return 0
        sent_ms = self._quorum_sent_ms()
        return sent_ms + self._env.timing.lease_usable_ms if sent_ms is not None else 0

    def _quorum_sent_ms(self) -> int | None:
        """Send time of the latest round that a quorum has acknowledged (this node: now)."""
        cluster, names = self._ledger.cluster, self._env.names
        nodes = {self._env.me.node}
        if is_quorum(cluster, nodes, names):
            return self._env.now_ms
        for node, at_ms in sorted(self._acked_ms.items(), key=lambda item: -item[1]):
            nodes.add(node)
            if is_quorum(cluster, nodes, names):
                return at_ms
        return None

    @property
    def has_lease(self) -> bool:
        return self._env.now_ms < self.lease_until_ms

    def _refresh_lease(self) -> None:
        until_ms = self.lease_until_ms
        if until_ms == 0:
            return
        self._env.timers.set(("lease",), until_ms)
        if self.may_open_gate and until_ms > max(self._opened_until_ms, self._env.now_ms):
            self._opened_until_ms = until_ms
            self._env.emit(OpenGate(self._ledger.term, until_ms))

    @property
    def may_open_gate(self) -> bool:
        """Ready (all is committed in this term), and the role is not being handed over."""
        return self.ready and self.handing_over is None

    def become_ready(self) -> None:
        """Everything is committed again in this term: the gate may open."""
        self.ready = True
        self._refresh_lease()

    def check_lease(self) -> None:
        """Before anything else: a writer that stood still for too long is none any more.

        Else its overdue beat would find everybody silent, and have them fenced.
        """
        until_ms = self._env.timers.at_ms(("lease",))
        if until_ms is not None and self._env.now_ms >= until_ms:
            self.on_lease_timer()

    def on_lease_timer(self) -> None:
        """Check-quorum: a writer without a lease is none."""
        if self.is_writer and not self.has_lease:
            self.stand_down("its lease ran out without a quorum")

    # --- transfer ------------------------------------------------------------------------

    def begin_hand_over(self, target: NodeId) -> None:
        """Shut the gate for the rest of this term; the word is given when all is quiet."""
        self.handing_over = target
        self._env.emit(ShutGate())

    def give_word(self) -> None:
        """Name the successor and follow. Everything gated has ended."""
        target = self.handing_over
        if target is None:
            raise AssertionError("no transfer was begun")
        self._env.send(target, Transfer(self._ledger.term, target))
        self.stand_down(f"handed over to {self._env.name_of(target)}")
        self.heard_ms = None  # its own promise to itself ended with its gate

    def on_transfer(self, sender: Life, msg: Transfer) -> None:
        """Honoured only from the writer of this very term that this voter is sticky to."""
        honoured = (
            msg.term == self._ledger.term
            and msg.target == self._env.me.node
            and sender.node == self.writer
            and self.is_voter
            and self.sticky
            and not self.withheld
            and not self.broken
        )
        if honoured:
            self._stand(transfer=msg.term)
