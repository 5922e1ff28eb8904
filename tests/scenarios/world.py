"""One clock, a network and shared disks for the hosts of a scenario. Nothing is random.

A message takes 1 ms, and so does each effect that takes time; what happens at the same
millisecond happens in the order it was caused.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from mdcluster.core.events import PeerDown, PeerUp, Received
from mdcluster.core.messages import Message
from mdcluster.core.model import (
    ZERO,
    ArrayId,
    ArrayState,
    DeviceId,
    Entry,
    Life,
    NodeId,
    Stamp,
)
from mdcluster.core.node import Node
from mdcluster.core.timing import Timing
from tests.scenarios import words
from tests.scenarios.script import ScenarioError

STEP_MS = 1
EVENTS_MAX = 200_000
LOG_MAX = 100_000


@dataclass(slots=True)
class Disk:
    """A shared device: what the members' superblock and nonce say, and who can reach it."""

    stamp: Stamp = ZERO
    nonce: bytes = b""
    plain: bool = False  # a superblock without the guard bit: stock mdadm takes it
    fails_for: set[str] = field(default_factory=set)  # hosts; '*': for everybody
    wrong_at: set[str] = field(default_factory=set)  # hosts where its path leads elsewhere

    def works_for(self, host: str) -> bool:
        return not self.fails_for & {host, "*"}


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message on its way."""

    sender: Life
    to: NodeId
    message: Message
    to_start: int | None  # at which daemon of the receiver's life it was connected, if it matters

    @property
    def text(self) -> str:
        return f"{self.sender.node} > {self.to}: {words.message(self.message)}"


class Peer:
    """What the world needs of a host (see hosts.py)."""

    name: str
    life: Life
    starts: int
    outlives: bool
    runs_md: bool
    core: Node | None
    frozen: bool
    md: dict[ArrayId, ArrayState]
    holds: dict[ArrayId, tuple[int, int]]
    holding_all: bool

    def event(self, event: object) -> None:
        raise NotImplementedError

    def power_off(self) -> None:
        raise NotImplementedError

    @property
    def gate_open(self) -> bool:
        raise NotImplementedError


class World:
    """Everything outside of the cores."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.now_ms = 0
        self.note = note
        self.hosts: dict[str, Peer] = {}
        self.disks: dict[DeviceId, Disk] = {}
        self.bits: dict[tuple[ArrayId, int], set[int]] = {}  # slot -> dirty chunks
        self.timing = Timing()
        self.differing: dict[ArrayId, set[int]] = {}  # chunks, and no bit says so
        self.fence_works: set[Life] = set()
        self.agent_works: dict[str, bool] = {}  # by name of the host; none: there is no agent
        self.cuts: set[tuple[str, str]] = set()
        self.catch: list[tuple[str, str, str]] = []  # kind, from, to ('*': any)
        self.caught: list[Parcel] = []
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._seq = 0

    # --- time ----------------------------------------------------------------------------

    def later(self, delay_ms: int, call: Callable[[], None]) -> None:
        self._seq += 1
        heapq.heappush(self._heap, (self.now_ms + delay_ms, self._seq, call))

    def run(self, until_ms: int, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass; True as soon as `done` says so."""
        for _ in range(EVENTS_MAX):
            if done is not None and done():
                return True
            if not self._heap or self._heap[0][0] > until_ms:
                self.now_ms = until_ms
                return done is not None and done()
            self.now_ms, _, call = heapq.heappop(self._heap)
            call()
            self.check_gates()
        raise ScenarioError(f"more than {EVENTS_MAX} events: something runs in circles")

    def switch_off(self, name: str) -> bool:
        """What a fence agent does."""
        if self.agent_works[name] and self.hosts[name].runs_md:
            self.hosts[name].power_off()
        return self.agent_works[name]

    # --- the network ---------------------------------------------------------------------

    def send(self, parcel: Parcel) -> None:
        kind = type(parcel.message).__name__
        sender, to = str(parcel.sender.node), str(parcel.to)
        for want, from_, target in self.catch:
            if want in (kind, "*") and from_ in ("*", sender) and target in ("*", to):
                self.caught.append(parcel)
                return
        self.later(STEP_MS, lambda: self.deliver(parcel))

    def deliver(self, parcel: Parcel) -> None:
        if (str(parcel.sender.node), str(parcel.to)) in self.cuts:
            return
        host = self.hosts.get(str(parcel.to))
        if host is not None and parcel.to_start in (None, host.starts):
            host.event(Received(parcel.sender, parcel.message))

    def host_up(self, up: Peer) -> None:
        """A process has begun: the mesh tells both sides, unless cut."""
        for host in self.hosts.values():
            if host is not up and host.core is not None and not self._cut(up, host):
                host.event(PeerUp(up.life, up.name, up.starts))
                up.event(PeerUp(host.life, host.name, host.starts))

    def host_down(self, down: Peer) -> None:
        """Its connections are reset."""
        for host in self.hosts.values():
            if host is not down and host.core is not None and not self._cut(down, host):
                host.event(PeerDown(down.life.node))

    def meet(self, a: Peer, b: Peer) -> None:
        """A link that was cut works again: hello."""
        if a.core is not None and b.core is not None:
            a.event(PeerUp(b.life, b.name, b.starts))
            b.event(PeerUp(a.life, a.name, a.starts))

    def _cut(self, a: Peer, b: Peer) -> bool:
        there, back = (str(a.life.node), str(b.life.node)), (str(b.life.node), str(a.life.node))
        return there in self.cuts or back in self.cuts

    # --- what must always hold --------------------------------------------------------------

    def check_gates(self) -> None:
        """At most one gate is open."""
        open_ = [h.name for h in self.hosts.values() if h.core is not None and h.gate_open]
        if len(open_) > 1:
            raise ScenarioError(f"{self.now_ms} ms: the gates of {' and '.join(open_)} are open")

    def check_copy(self, writer: Peer, array: ArrayId, lo: int, hi: int) -> None:
        """While [lo, hi) is copied nobody else may write there."""
        for host in self.hosts.values():
            if host is writer or not host.runs_md or array not in host.md:
                continue
            held_lo, held_hi = host.holds.get(array, (0, 0))
            if not host.holding_all and not held_lo <= lo < hi <= held_hi:
                raise ScenarioError(
                    f"{self.now_ms} ms: {writer.name} copies {array} {words.span(lo, hi)}, "
                    f"{host.name} holds only {words.span(held_lo, held_hi)}"
                )

    # --- what a scenario may look at ----------------------------------------------------------

    def newest(self, key: str) -> Entry | None:
        """The newest entry any living node has stored."""
        found: Entry | None = None
        for host in self.hosts.values():
            entry = host.core.ledger.entries.get(key) if host.core is not None else None
            if entry is not None and (found is None or entry.stamp > found.stamp):
                found = entry
        return found
