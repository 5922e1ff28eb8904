"""Who is there: beats and their answers, I/O leases, suspicion, reports, fencing.

Rules of this file:

* a beat goes out every `heartbeat_ms`; its acknowledgement renews the writer's lease (see
  election.py) and asks for the sender's own I/O lease, which the *next* beat grants;
* a node's I/O lease counts from when it sent the request that was granted; without one it
  holds the writes of all its arrays;
* silence proves nothing: a silent node is suspect, then evicted, but what depends on its
  end waits until a fence provider confirms it, or it answers again;
* a provider that goes by time counts from the last request for an I/O lease that could be
  granted: nothing else that a node says lets it write for longer. So a life that is to be
  fenced although it beats is granted nothing from then on, and a confirmation is void if a
  request came while it was made;
* a node has answered in a term once it has reported: what it runs, holds and knows, after
  its own copying has ended and it has applied what was committed about the arrays that its
  daemon found running. One whose daemon starts again in the same life has to report again.
"""

from collections.abc import Callable

from mdcluster.core.effects import NEVER, Fence, HoldAll
from mdcluster.core.election import Election
from mdcluster.core.env import Env
from mdcluster.core.events import Fenced, FenceWaits
from mdcluster.core.ledger import Ledger
from mdcluster.core.messages import Beat, BeatAck, Query, Report
from mdcluster.core.model import Life, NodeId

ASKS_MAX = 64
FENCED_MAX = 256


class Peer:
    """What the writer knows of one other node in this term, of its present life."""

    def __init__(self, now_ms: int) -> None:
        self.since_ms = now_ms
        self.last_ack_ms = now_ms
        self.silent_ms = now_ms  # since when it has not been heard
        self.acked = False  # at all, in this term
        self.ask = 0
        self.file_digest = ""
        self.digest = -1
        self.query_wait_ms = 0


class Membership:
    """The liveness side of one node."""

    def __init__(
        self,
        env: Env,
        ledger: Ledger,
        election: Election,
        *,
        on_report: Callable[[Life, Report], None],
        on_fenced: Callable[[Life], None],
        behind: Callable[[NodeId], None],
        on_restarted: Callable[[Life], None],
        outlives: bool,
    ) -> None:
        """outlives: a life goes on without its daemon, for as long as its kernel."""
        self._env = env
        self._ledger = ledger
        self._election = election
        self._on_report = on_report
        self._on_fenced = on_fenced
        self._behind = behind
        self._on_restarted = on_restarted
        self._outlives = outlives
        self._starts: dict[NodeId, int] = {}  # of the daemon that was seen last
        self.lives: dict[NodeId, Life] = {}  # as the mesh last saw them
        self._seen_ms = {env.me.node: env.now_ms}  # since when it has seen that very life
        self.up: set[NodeId] = set()
        # as the writer
        self.peers: dict[NodeId, Peer] = {}
        self.reports: dict[Life, Report] = {}
        self.fencing: dict[Life, str] = {}
        self.fenced: dict[Life, str] = {}
        self._condemned: dict[Life, int] = {}  # to be fenced though they beat; last heard
        self._term_ms = 0  # when this node's term as writer began
        # as anybody
        self.suspects: frozenset[NodeId] = frozenset()
        self._ask = 0
        self._asked_ms: dict[int, int] = {}
        self._granted_until_ms = 0
        self.holding_all = False
        self.hung = ""  # why this node is as good as dead: it asks for no I/O lease any more

    # --- the mesh ------------------------------------------------------------------------

    def peer_up(self, life: Life, name: str, start: int) -> None:
        same_life = self.lives.get(life.node) == life
        restarted = same_life and self._starts.get(life.node) != start
        if not same_life:
            self._seen_ms[life.node] = self._env.now_ms
            self.peers.pop(life.node, None)  # what the former life asked for is not granted
        self.lives[life.node] = life
        self._starts[life.node] = start
        self.up.add(life.node)
        self._env.names[life.node] = name
        self._env.notify("node_up", node=life.node, name=name)
        if self._election.is_writer:
            self.peers.setdefault(life.node, Peer(self._env.now_ms))
            if restarted:
                self._forget_process(life)

    def _forget_process(self, life: Life) -> None:
        """What was asked for, and answered, by a process that is gone; its md runs on."""
        peer = self.peers[life.node]
        peer.ask, peer.digest, peer.query_wait_ms = 0, -1, 0
        self.reports.pop(life, None)
        self._env.notify("node_restarted", node=life.node, name=self._env.name_of(life.node))
        self._on_restarted(life)

    def peer_down(self, node: NodeId) -> None:
        if node in self.up:
            self.up.discard(node)
            self._env.notify("node_down", node=node, name=self._env.name_of(node))

    # --- beats: the writer ----------------------------------------------------------------

    def begin_term(self) -> None:
        """Just elected: nobody has answered yet; silence counts from now.

        That of the writer before counts from its last word, since the election has waited for it
        already; but it may take as long to answer as a node that is not suspect.
        """
        now = self._term_ms = self._env.now_ms
        known = set(self.up) | {life.node for life in self.listed()}
        known.discard(self._env.me.node)
        self.peers = {node: Peer(now) for node in known}
        former, self._election.former = self._election.former, None
        if former is not None and former[0] in self.peers:
            node, heard_ms = former
            timing = self._env.timing
            self.peers[node].silent_ms = max(heard_ms, now + timing.suspect_ms - timing.evict_ms)
        self.reports = {}
        self.fencing = {}
        self.beat()

    def end_term(self) -> None:
        self.peers = {}
        self.reports = {}
        self.fencing = {}
        self._condemned = {}
        self._env.timers.cancel(("beat",))
        self._env.timers.cancel_all("fence")

    def beat(self) -> None:
        """One round to everybody; looks after the silent in passing."""
        if not self._election.is_writer:
            return
        self._look_for_silence()
        round_ = self._election.new_round()
        grants = self._election.ready and self._election.has_lease
        suspects = tuple(sorted(self.unsettled))
        for node in sorted(self.up):
            ask = self._grantable(node) if grants else 0
            self._env.send(node, Beat(self._ledger.term, round_, ask, suspects), urgent=True)
        self._env.after(("beat",), self._env.timing.heartbeat_ms)

    def _grantable(self, node: NodeId) -> int:
        """The request of this node that may be granted now (0: none)."""
        peer = self.peers.get(node)
        return 0 if peer is None or self.lives[node] in self._condemned else peer.ask

    def on_beat_ack(self, sender: Life, msg: BeatAck) -> None:
        if sender in self.fenced:
            return  # declared dead: it gets no lease, so it holds its writes
        peer = self.peers.setdefault(sender.node, Peer(self._env.now_ms))
        peer.last_ack_ms = peer.silent_ms = self._env.now_ms
        peer.acked = True
        peer.ask = msg.ask
        peer.file_digest = msg.file_digest
        peer.digest = msg.digest
        if sender not in self._condemned:
            self.fencing.pop(sender, None)
        self._election.on_round_ack(sender.node, msg.round)
        if sender not in self.reports:
            self._query(sender, peer)
        self._behind(sender.node)

    def _query(self, life: Life, peer: Peer) -> None:
        """Ask for a report, with backoff."""
        if self._env.now_ms >= peer.query_wait_ms:
            peer.query_wait_ms = self._env.now_ms + 2 * self._env.timing.heartbeat_ms
            self._env.send(life.node, Query(self._ledger.term))

    def on_report(self, sender: Life, msg: Report) -> None:
        if sender in self.reports:
            return
        self.reports[sender] = msg
        self._env.notify("node_reported", node=sender.node)
        self._on_report(sender, msg)

    def answered(self, life: Life) -> bool:
        """Whether this life is there and has reported in this term."""
        return life == self._env.me or life in self.reports

    def alive(self, node: NodeId) -> bool:
        """Whether the writer has lately heard this node (in this term)."""
        if node == self._env.me.node:
            return True
        peer = self.peers.get(node)
        return bool(peer and peer.acked) and node not in self.suspects

    # --- silence and fencing: the writer ---------------------------------------------------

    def listed(self) -> set[Life]:
        """Every life that may write to some array."""
        out: set[Life] = set()
        for key in self._ledger.entries:
            state = self._ledger.array(key)
            if state:
                out.update(state.running)
        return out

    def _look_for_silence(self) -> None:
        now, t = self._env.now_ms, self._env.timing
        suspects = {
            node for node, peer in self.peers.items() if now - peer.last_ack_ms > t.suspect_ms
        }
        for node in sorted(suspects - self.suspects):
            self._env.notify("node_suspect", node=node, name=self._env.name_of(node))
        self.suspects = frozenset(suspects)
        for life in sorted(self.listed()):
            if self._is_gone(life):
                self.evict(life)

    @property
    def unsettled(self) -> frozenset[NodeId]:
        """Nodes that may be gone while their writes are not known to be complete everywhere.

        For the writer, more than it suspects: also every listed life that has not answered in
        this term, be it one whose node lives another life by now.
        """
        if not self._election.is_writer:
            return self.suspects
        silent = {life.node for life in self.listed() if not self.answered(life)}
        return self.suspects | silent

    def _is_gone(self, life: Life) -> bool:
        """Silent for so long, or so clearly, that it is to be fenced."""
        if life == self._env.me:
            return False
        if self._has_successor(life):
            return True
        peer = self.peers.get(life.node)
        if peer is None:
            return True
        silent_ms = self._env.now_ms - peer.silent_ms
        limit_ms = self._env.timing.evict_ms
        if life.node not in self.up and not self._outlives:
            limit_ms = self._env.timing.suspect_ms  # its connection is gone, too: it has died
        return silent_ms > limit_ms

    def _has_successor(self, life: Life) -> bool:
        """Whether the node of this listed life lives a later one.

        It answers in this term, which began with the other listed. One that was met before, and is
        not heard any more, may as well be the life before: the listed one joined where this node
        did not see it.
        """
        if life.node == self._env.me.node:
            return life != self._env.me
        seen, peer = self.lives.get(life.node), self.peers.get(life.node)
        return seen not in (None, life) and peer is not None and peer.acked

    def condemn(self, life: Life) -> None:
        """It beats, but cannot do what was committed: fenced unless it does so first."""
        self._condemned.setdefault(life, self.heard_ms(life))
        self.evict(life)

    def pardon(self, life: Life) -> None:
        """It has applied what it could not."""
        if life in self._condemned:
            del self._condemned[life]
            self.fencing.pop(life, None)

    def heard_ms(self, life: Life) -> int:
        """Since when no request of this life came that was, or may yet be, granted.

        At the latest since this term began: a writer before this one granted nothing later.
        """
        if life in self._condemned:
            return self._condemned[life]
        peer = self.peers.get(life.node)
        if peer is None:
            return self._term_ms
        return peer.last_ack_ms if self.lives.get(life.node) == life else peer.since_ms

    def evict(self, life: Life) -> None:
        """Have a silent life fenced; whoever waits for it goes on when that is confirmed."""
        if life in self.fenced or life in self.fencing:
            return
        self.fencing[life] = "a fence provider"
        if life not in self._condemned:
            self.reports.pop(life, None)
        self._env.notify("node_evicted", node=life.node, name=self._env.name_of(life.node))
        self._ask_providers(life)

    def _ask_providers(self, life: Life) -> None:
        voter = self._ledger.cluster.voter(life.node)
        name = voter.name if voter is not None else self._env.name_of(life.node)
        succeeded_ms = self._seen_ms[life.node] if self._has_successor(life) else NEVER
        self._env.emit(Fence(life, name, self.heard_ms(life), succeeded_ms))

    def on_fence_waits(self, ev: FenceWaits) -> None:
        if ev.life in self.fencing:
            self.fencing[ev.life] = ev.why
            self._env.after(("fence", ev.life.node, ev.life.boot_id), self._env.timing.retry_max_ms)

    def on_fence_timer(self, life: Life) -> None:
        if self._election.is_writer and life in self.fencing:
            self._ask_providers(life)

    def on_confirmed(self, ev: Fenced) -> None:
        if ev.life not in self.fencing:
            return  # it has answered meanwhile, or this node is no writer any more
        if ev.heard_ms == self.heard_ms(ev.life):
            self._end(ev.life, ev.how)
        else:
            self._ask_providers(ev.life)  # it had answered in between, and fell silent again

    def _end(self, life: Life, how: str) -> None:
        """This life is over for certain."""
        del self.fencing[life]
        self._condemned.pop(life, None)
        if len(self.fenced) >= FENCED_MAX:
            del self.fenced[next(iter(self.fenced))]
        self.fenced[life] = how
        self.reports.pop(life, None)
        self._env.notify("node_fenced", node=life.node, how=how)
        if self._election.is_writer:
            self._on_fenced(life)

    def lives_of(self, node: NodeId) -> set[Life]:
        """All lives of a node that are known here: as the mesh saw it last, and as listed."""
        lives = {life for life in self.listed() if life.node == node}
        seen = self.lives.get(node)
        return lives | {seen} if seen is not None else lives

    def vouch(self, life: Life) -> None:
        """An administrator says this life is dead: believed only of one that is silent."""
        if life in self.fencing:
            self._end(life, "vouched for by an administrator")

    # --- beats: everybody else --------------------------------------------------------------

    def on_beat(self, sender: Life, msg: Beat, digest: int, file_digest: str) -> None:
        self.suspects = frozenset(msg.suspects)
        if self.hung:
            return  # its silence has it fenced
        sent_ms = self._asked_ms.get(msg.granted_ask)
        if sent_ms is not None:
            until_ms = sent_ms + self._env.timing.io_lease_usable_ms
            self._granted_until_ms = max(self._granted_until_ms, until_ms)
        self._ask += 1
        self._asked_ms[self._ask] = self._env.now_ms
        self._asked_ms.pop(self._ask - ASKS_MAX, None)
        ack = BeatAck(msg.term, msg.round, self._ask, digest, file_digest)
        self._env.send(sender.node, ack, urgent=True)
        self.check_io_lease()

    def new_writer(self) -> None:
        """Requests sent to another writer are not granted by this one."""
        self._asked_ms = {}

    # --- the I/O lease ----------------------------------------------------------------------

    @property
    def io_lease_until_ms(self) -> int:
        """Until when this node may serve writes; the writer's own lease counts for it."""
        own = self._election.lease_until_ms if self._election.ready else 0
        return max(self._granted_until_ms, own)

    def check_io_lease(self) -> None:
        """Hold everything without a lease, serve again with one."""
        until_ms = self.io_lease_until_ms
        out = bool(self.hung) or self._env.now_ms >= until_ms
        if out != self.holding_all:
            self.holding_all = out
            self._env.emit(HoldAll(out))
            self._env.notify("io_held" if out else "io_resumed", node=self._env.me.node)
        if out:
            self._env.timers.cancel(("io",))
        else:
            self._env.timers.set(("io",), until_ms)
