"""A connection we make: one DEALER socket for one TCP connection, and the loop that renews it.

HELLO goes out when ZeroMQ's handshake is done; the listener answers with its own, or with
REFUSE; READY then opens the link. Whatever ends the connection ends the socket: the next attempt
begins from nothing, after a pause that doubles up to a limit and is spread at random.
"""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Protocol

import zmq

from mdcluster.mesh import hello as frames
from mdcluster.mesh.hello import Greeting
from mdcluster.mesh.options import Limits, dialling_socket, endpoint, is_ipv6
from mdcluster.mesh.pump import Pump
from mdcluster.mesh.refusals import Reason, Refusal
from mdcluster.mesh.resolve import resolve
from mdcluster.mesh.roster import Link, Roster, Session
from mdcluster.mesh.tcp import NO_END, End, ends_of

_EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_CLOSED
    | zmq.EVENT_DISCONNECTED
)


class Host(Protocol):
    """What connections, made or accepted, need of the mesh."""

    @property
    def roster(self) -> Roster:
        """Who is let in."""

    @property
    def limits(self) -> Limits:
        """Bounds and waits."""

    @property
    def context(self) -> "zmq.Context[zmq.Socket[bytes]]":
        """Where sockets come from."""

    def supersede(self, greeting: Greeting) -> None:
        """A node was admitted: sessions of its past life are over."""

    def up(self, session: Session) -> None:
        """Both sides agreed."""

    def down(self, session: Session, reason: str) -> None:
        """The connection of a session that was up has ended."""

    def received(self, session: Session, frame: bytes) -> None:
        """A frame came in on a session that is up."""

    def refused(self, refusal: Refusal, source: str, link: Link | None = None) -> None:
        """Something was turned away; count it, and say it once."""


class Dial:
    """One attempt and, if it succeeds, the session.

    ``ended`` resolves to whether it was of use: a session that is lost as soon as it is up counts
    as a failed attempt. Making one may raise :class:`zmq.ZMQError`.
    """

    dialled = True

    def __init__(self, mesh: Host, link: Link, host: str, source: str) -> None:
        self.link = link
        self.ends: tuple[End, End] = (NO_END, NO_END)
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[bool] = self._loop.create_future()
        self._mesh = mesh
        self._greeting: Greeting | None = None
        self._up_since_s: float | None = None
        self._finishing = False
        limits = mesh.limits
        sock = dialling_socket(mesh.context, host, limits)
        self._pump = Pump(sock, _EVENTS, self)
        self._deadline = self._loop.call_later(
            (limits.connect_ms + limits.handshake_ms + limits.hello_ms) / 1000, self._late
        )
        # From our address number i to theirs: otherwise routing might send all links one way.
        via = f"{endpoint(source, 0)};" if source and is_ipv6(source) == is_ipv6(host) else ""
        try:
            sock.connect(f"tcp://{via}{endpoint(host, link.address[1])}")
        except zmq.ZMQError:
            self.close()
            raise

    @property
    def greeting(self) -> Greeting:
        """What the peer said of itself, once it did."""
        assert self._greeting is not None
        return self._greeting

    def send(self, frame: bytes) -> bool:
        """Queue a frame for the connection."""
        if self._pump.closed():
            return False
        try:
            self._pump.sock.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._pump.poke()
        return True

    def close(self, linger_ms: int = 0) -> None:
        """End the connection; the loop below goes on."""
        self._deadline.cancel()
        self._pump.close(linger_ms)
        if not self.ended.done():
            up_s = 0.0 if self._up_since_s is None else self._loop.time() - self._up_since_s
            self.ended.set_result(up_s * 1000 > self._mesh.limits.redial_max_ms)

    def on_event(self, event: int, value: int) -> None:
        """ZeroMQ's handshake is done, or the connection has ended."""
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._pump.sock.getsockopt(zmq.EVENTS)  # makes the new connection known to send
            self.send(frames.hello_frame(self._mesh.roster.me))
        else:
            self._finishing = True

    def on_idle(self) -> None:
        """All that came before the end has been read."""
        if self._finishing:
            self.link.note_answered(forget=False)
            self._end("the connection has closed")

    def on_parts(self, parts: Sequence[zmq.Frame]) -> None:
        """A message of the listener."""
        frame = parts[0].bytes if len(parts) == 1 else b""
        if frame[:1] == frames.REFUSE:
            self._note(frames.read_refuse(frame))
            self._end("the peer refused us")
        elif self._up_since_s is not None:
            self._mesh.received(self, frame)
        else:
            self._meet(frame, parts[0])

    def _meet(self, frame: bytes, part: zmq.Frame) -> None:
        """The listener's HELLO."""
        roster = self._mesh.roster
        greeting = frames.read_hello(frame, roster.me.hello.versions)
        if isinstance(greeting, Refusal):
            self._refuse(greeting)
            return
        admitted = roster.admit(greeting, self.link.index, dialled=self.link)
        if isinstance(admitted, Refusal):
            self._refuse(admitted)
            return
        if not roster.learn(self.link.peer, greeting.hello.node):
            self.link.note_answered(forget=True)
            self.close()  # the peer has the smaller UUID: it dials
            return
        self._greeting = greeting
        self.ends = ends_of(int(part.get(zmq.SRCFD)))
        self._up_since_s = self._loop.time()
        self._deadline.cancel()
        self.send(frames.READY)
        self._mesh.up(self)

    def _refuse(self, refusal: Refusal) -> None:
        self._note(refusal)
        self.send(frames.refuse_frame(refusal))
        self.close(self._mesh.limits.flush_ms)

    def _note(self, refusal: Refusal) -> None:
        self._mesh.refused(refusal, self.link.peer.line.name, self.link)

    def _late(self) -> None:
        if self._up_since_s is None:
            self._note(Refusal(Reason.NO_HELLO, "no HELLO came after the connection was made"))
            self.close()

    def _end(self, reason: str) -> None:
        was_up = self._up_since_s is not None
        self.close()
        if was_up:
            self._mesh.down(self, reason)


async def keep_dialling(mesh: Host, link: Link, source: str) -> None:
    """Hold one connection on ``link`` whenever it is for us to dial; until cancelled."""
    misses = 0
    while True:
        await link.peer.may_dial.wait()
        useful = await _dial_once(mesh, link, source, misses)
        misses = 0 if useful else misses + 1
        await _pause(mesh.limits, link, misses)


async def _dial_once(mesh: Host, link: Link, source: str, attempt: int) -> bool:
    """One attempt; each takes the next address a name stands for."""
    name = link.address[0]
    try:
        hosts = await resolve(name)
    except OSError as bad:
        mesh.refused(Refusal(Reason.RESOLVE, str(bad)), link.peer.line.name, link)
        return False
    link.peer.hosts[name] = hosts
    try:
        dial = Dial(mesh, link, hosts[attempt % len(hosts)], source)
    except zmq.ZMQError as bad:
        refusal = Refusal(Reason.SYSTEM, f"cannot connect: {bad.strerror}")
        mesh.refused(refusal, link.peer.line.name, link)
        return False
    try:
        return await dial.ended
    finally:
        dial.close(mesh.limits.flush_ms)


async def _pause(limits: Limits, link: Link, misses: int) -> None:
    """Wait before the next attempt; shorter if the peer shows that it is there."""
    longest_ms = min(limits.redial_max_ms, limits.redial_min_ms * 2 ** min(misses, 16))
    await asyncio.sleep(limits.redial_min_ms * random.uniform(0.5, 1.0) / 1000)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(longest_ms * random.uniform(0.5, 1.0) / 1000):
            await link.kick.wait()
    link.kick.clear()
