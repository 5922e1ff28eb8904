"""The simulated mesh: one connection per pair of processes, with delay, loss, cuts and clogs.

A connection knows the processes at its ends, as HELLO does: what one sent never arrives
from, or at, another. A cut drops what is sent that way; when it lasts, both ends lose the
connection and are told so. A clog keeps everything back and lets it go at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdcluster.core.events import PeerDown, PeerUp, Received
from mdcluster.core.messages import Message
from mdcluster.core.model import Life, NodeId

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.world import World


@dataclass(slots=True)
class Weather:
    """What this world's network does to messages; probabilities in [0, 1], delays in us."""

    delay_min_us: int = 100
    delay_max_us: int = 1000
    loss: float = 0.0
    duplicate: float = 0.0
    in_order: bool = True


@dataclass(slots=True, eq=False)
class Conn:
    """One direction of one connection."""

    source: Host
    source_process: tuple[Life, int]
    target: Host
    target_process: tuple[Life, int]
    last_us: int = 0
    open: bool = True


class Network:
    """All connections; keyed (source host index, target host index)."""

    def __init__(self, world: World, weather: Weather) -> None:
        self.world = world
        self.weather = weather
        self.conns: dict[tuple[int, int], Conn] = {}
        self.by_node: dict[tuple[int, NodeId], Conn] = {}
        self.cut: set[tuple[int, int]] = set()
        self.clogged_until: dict[tuple[int, int], int] = {}
        self.sent = 0
        self.lost = 0

    # --- messages ------------------------------------------------------------------------

    def send(self, source: Host, to: NodeId, message: Message) -> None:
        conn = self.by_node.get((source.index, to))
        self.sent += 1
        if conn is None or conn.source_process != source.process:
            self.lost += 1
            return
        weather, rng = self.weather, self.world.rng
        pair = (source.index, conn.target.index)
        if pair in self.cut or (weather.loss and rng.random() < weather.loss):
            self.lost += 1
            return
        self._post(conn, pair, message)
        if weather.duplicate and rng.random() < weather.duplicate:
            self._post(conn, pair, message)

    def _post(self, conn: Conn, pair: tuple[int, int], message: Message) -> None:
        weather, world = self.weather, self.world
        spread = weather.delay_max_us - weather.delay_min_us
        at_us = world.now_us + weather.delay_min_us + int(world.rng.random() * spread)
        clog = self.clogged_until.get(pair)
        if clog is not None:
            if clog <= world.now_us:
                del self.clogged_until[pair]
            else:
                at_us = max(at_us, clog)
        if weather.in_order:
            at_us = conn.last_us = max(at_us, conn.last_us + 1)
        world.at_us(at_us, self._arrive, conn, message)

    def _arrive(self, conn: Conn, message: Message) -> None:
        target = conn.target
        if not conn.open or not target.up or target.process != conn.target_process:
            self.lost += 1
            return
        target.deliver(Received(conn.source_process[0], message))

    # --- connections ---------------------------------------------------------------------

    def reconsider(self, host: Host) -> None:
        """Something changed at this host (start, crash, files, cuts): connect or lose peers."""
        for other in self.world.hosts:
            if other is not host:
                self.reconsider_pair(host, other)

    def reconsider_pair(self, a: Host, b: Host) -> None:
        conn = self.conns.get((a.index, b.index))
        stale = conn is not None and not (
            a.process == conn.source_process and b.process == conn.target_process and a.up and b.up
        )
        rng = self.world.rng
        if self._reachable(a, b):
            if conn is None or stale:
                self.world.after_us(rng.randrange(3_000, 150_000), self._connect, a, b)
        elif conn is not None:
            told = (stale and not a.powered_off and not b.powered_off) or not self._wanted(a, b)
            wait_us = rng.randrange(500, 5_000) if told else rng.randrange(1_200_000, 3_000_000)
            self.world.after_us(wait_us, self._lose, a, b, conn)

    def _wanted(self, a: Host, b: Host) -> bool:
        return a.knows(b.name) and b.knows(a.name)

    def _reachable(self, a: Host, b: Host) -> bool:
        pair = (a.index, b.index)
        return (
            a.up
            and b.up
            and pair not in self.cut
            and pair[::-1] not in self.cut
            and self._wanted(a, b)
        )

    def _connect(self, a: Host, b: Host) -> None:
        if not self._reachable(a, b):
            return
        if a.frozen or b.frozen:  # no HELLO from a frozen process
            self.world.after_us(200_000, self._connect, a, b)
            return
        old = self.conns.get((a.index, b.index))
        if old is not None:
            if old.open and (old.source_process, old.target_process) == (a.process, b.process):
                return
            self._close(a, b, old)
        for source, target in ((a, b), (b, a)):
            conn = Conn(source, source.process, target, target.process)
            self.conns[source.index, target.index] = conn
            self.by_node[source.index, target.life.node] = conn
        for source, target in ((a, b), (b, a)):
            source.deliver(PeerUp(target.life, target.name, target.starts))

    def _lose(self, a: Host, b: Host, conn: Conn) -> None:
        if self.conns.get((a.index, b.index)) is conn and not self._intact(a, b, conn):
            self._close(a, b, conn)

    def _intact(self, a: Host, b: Host, conn: Conn) -> bool:
        same = a.process == conn.source_process and b.process == conn.target_process
        return same and self._reachable(a, b)

    def _close(self, a: Host, b: Host, conn: Conn) -> None:
        back = self.conns[b.index, a.index]
        for one in (conn, back):
            one.open = False
            del self.conns[one.source.index, one.target.index]
            node = one.target_process[0].node
            self.by_node.pop((one.source.index, node), None)
            if one.source.up and one.source.process == one.source_process:
                one.source.deliver(PeerDown(node))

    # --- faults --------------------------------------------------------------------------

    def cut_pairs(self, pairs: set[tuple[int, int]]) -> None:
        self.cut |= pairs
        for a, b in pairs:
            self.reconsider_pair(self.world.hosts[a], self.world.hosts[b])

    def heal_pairs(self, pairs: set[tuple[int, int]]) -> None:
        self.cut -= pairs
        for a, b in pairs:
            self.reconsider_pair(self.world.hosts[a], self.world.hosts[b])

    def heal(self) -> None:
        self.clogged_until.clear()
        self.heal_pairs(set(self.cut))
