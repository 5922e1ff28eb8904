"""The connections made to us: one ROUTER socket for each of our addresses.

A ROUTER shows messages by routing id and the life of connections by file descriptor; the two
are brought together by ``ZMQ_SRCFD`` of a connection's first message. Routing ids are otherwise
only a way to answer: who a node is, its HELLO says.

The monitor reports a connection before any message of it can be read. So after such a message
all events are drained, and the descriptor's newest connection is the right one, even where the
number was used before.
"""

import asyncio
import enum
from collections.abc import Sequence

import zmq

from mdcluster.mesh import hello as frames
from mdcluster.mesh.dial import Host
from mdcluster.mesh.hello import Greeting
from mdcluster.mesh.options import listening_socket
from mdcluster.mesh.pump import Pump
from mdcluster.mesh.refusals import Reason, Refusal
from mdcluster.mesh.roster import Link
from mdcluster.mesh.tcp import End, ends_of, hang_up

_FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | _FAILED


class Stage(enum.Enum):
    """How far an accepted connection has come."""

    NEW = enum.auto()  # nothing said yet
    MET = enum.auto()  # HELLO both ways; READY is to come
    KNOCKED = enum.auto()  # HELLO both ways, but it is for us to dial; it will hang up
    UP = enum.auto()
    OVER = enum.auto()  # refused or closed; whatever still comes is dropped


class Accepted:
    """One accepted connection; a session once it is up."""

    dialled = False

    def __init__(self, listener: "Listener", fd: int) -> None:
        self.fd = fd
        self.ends: tuple[End, End] = ends_of(fd)
        self.stage = Stage.NEW
        self.routing_id: bytes | None = None
        self.known: tuple[Link, Greeting] | None = None
        self.deadline: asyncio.TimerHandle | None = None
        self._listener = listener

    @property
    def link(self) -> Link:
        """The link admission gave it."""
        assert self.known is not None
        return self.known[0]

    @property
    def greeting(self) -> Greeting:
        """What the peer said of itself."""
        assert self.known is not None
        return self.known[1]

    @property
    def host(self) -> str:
        """The numeric address it came from."""
        return self.ends[1][0]

    @property
    def source(self) -> str:
        """Who this is in a log: the name if it was admitted, or its address."""
        return self.link.peer.line.name if self.known else self.host or "unknown host"

    def send(self, frame: bytes) -> bool:
        """Queue a frame for this connection."""
        return self._listener.send(self, frame)

    def close(self) -> None:
        """Hang up."""
        self.stage = Stage.OVER
        hang_up(self.fd, self.ends)


class Listener:
    """Address number ``index``; raises :class:`zmq.ZMQError` if it cannot be bound."""

    def __init__(self, mesh: Host, index: int, host: str, port: int) -> None:
        self._mesh = mesh
        self._index = index
        self._loop = asyncio.get_running_loop()
        self._by_fd: dict[int, Accepted] = {}
        self._by_id: dict[bytes, Accepted] = {}
        self._ended: list[Accepted] = []
        self._handshake_failed = False
        sock = listening_socket(mesh.context, host, port, mesh.limits)
        bound = str(sock.getsockopt_string(zmq.LAST_ENDPOINT))
        self.address = (host, int(bound.rsplit(":", 1)[1]))
        self._pump = Pump(sock, _EVENTS, self)

    def close(self, linger_ms: int = 0) -> None:
        """Close the port and every connection made to it."""
        for conn in self._by_fd.values():
            if conn.deadline is not None:
                conn.deadline.cancel()
        self._pump.close(linger_ms)

    def send(self, conn: Accepted, frame: bytes) -> bool:
        """Queue a frame for one connection; False if it is full or gone."""
        if self._pump.closed() or conn.routing_id is None:
            return False
        try:
            self._pump.sock.send_multipart([conn.routing_id, frame], zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as bad:
            if bad.errno != zmq.EHOSTUNREACH:
                raise
            return False  # gone; the monitor is about to say so
        self._pump.poke()
        return True

    # Connections come and go.

    def on_event(self, event: int, value: int) -> None:
        """The monitor reports a connection."""
        if event == zmq.EVENT_ACCEPTED:
            self._accept(value)
        elif event == zmq.EVENT_DISCONNECTED:
            conn = self._by_fd.pop(value, None)
            failed, self._handshake_failed = self._handshake_failed, False
            if conn is not None:
                self._note_silent_end(conn, failed)
                self._ended.append(conn)
        elif event & _FAILED:
            self._handshake_failed = True  # the end of that connection is the next event

    def _accept(self, fd: int) -> None:
        conn = Accepted(self, fd)
        full = len(self._by_fd) >= self._mesh.limits.connections_max
        self._by_fd[fd] = conn
        self._set_deadline(conn)
        if full:
            self._refuse(conn, Refusal(Reason.TOO_MANY, "more connections than can be needed"))

    def _note_silent_end(self, conn: Accepted, handshake_failed: bool) -> None:
        """Count what ended without a word we understood, unless it was refused before."""
        if conn.stage is not Stage.NEW or conn.routing_id is not None:
            return
        if handshake_failed:
            refusal = Refusal(
                Reason.NOT_ZEROMQ, "no ZeroMQ handshake; this port speaks nothing else"
            )
        else:
            refusal = Refusal(Reason.NO_HELLO, "ended without a HELLO (garbage, or oversized)")
        self._mesh.refused(refusal, conn.source)

    def on_idle(self) -> None:
        """What ended connections had sent has been read: they are gone now."""
        ended, self._ended = self._ended, []
        for conn in ended:
            if conn.deadline is not None:
                conn.deadline.cancel()
            if conn.routing_id is not None:
                self._by_id.pop(conn.routing_id, None)
            was_up, conn.stage = conn.stage is Stage.UP, Stage.OVER
            if was_up:
                self._mesh.down(conn, "the connection has closed")

    def _set_deadline(self, conn: Accepted) -> None:
        limits = self._mesh.limits
        wait_ms = limits.handshake_ms + limits.hello_ms
        conn.deadline = self._loop.call_later(wait_ms / 1000, self._late, conn)

    def _late(self, conn: Accepted) -> None:
        """Neither a session by now nor gone."""
        if conn.stage is Stage.UP:
            return
        if conn.stage in {Stage.NEW, Stage.MET}:
            missing = "HELLO" if conn.stage is Stage.NEW else "READY"
            self._mesh.refused(
                Refusal(Reason.NO_HELLO, f"connected without a {missing}"), conn.source
            )
        conn.close()

    # What they say.

    def on_parts(self, parts: Sequence[zmq.Frame]) -> None:
        """One message: routing id, then exactly one frame."""
        conn = self._by_id.get(parts[0].bytes) or self._first_message(parts)
        if conn is None or conn.stage is Stage.OVER:
            return
        if len(parts) != 2:
            self._refuse(conn, Refusal(Reason.GARBAGE, f"a message of {len(parts) - 1} parts"))
            return
        frame = parts[1].bytes
        if conn.stage is Stage.NEW:
            self._meet(conn, frame)
        elif frame[:1] == frames.REFUSE:
            self._mesh.refused(frames.read_refuse(frame), conn.source, conn.link)
            self._drop(conn, "the peer refused us")
        elif conn.stage is Stage.UP:
            self._mesh.received(conn, frame)
        elif conn.stage is Stage.MET and frame == frames.READY:
            self._open(conn)
        else:
            self._refuse(conn, Refusal(Reason.GARBAGE, "neither READY nor REFUSE after HELLO"))

    def _first_message(self, parts: Sequence[zmq.Frame]) -> Accepted | None:
        """The connection a new routing id belongs to; None if it has ended already."""
        fd = int(parts[-1].get(zmq.SRCFD))
        self._pump.drain_events()
        conn = self._by_fd.get(fd)
        if conn is None or conn.routing_id is not None:
            return None
        conn.routing_id = parts[0].bytes
        self._by_id[conn.routing_id] = conn
        return conn

    def _meet(self, conn: Accepted, frame: bytes) -> None:
        """The dialler's HELLO."""
        roster = self._mesh.roster
        greeting = frames.read_hello(frame, roster.me.hello.versions)
        if isinstance(greeting, Refusal):
            self._refuse(conn, greeting)
            return
        link = roster.admit(greeting, self._index, host=conn.host)
        if isinstance(link, Refusal):
            self._refuse(conn, link, greeting)
            return
        conn.known = (link, greeting)
        conn.send(frames.hello_frame(roster.me))
        if roster.learn(link.peer, greeting.hello.node):
            conn.stage = Stage.KNOCKED
            self._mesh.supersede(greeting)
            for each in link.peer.links:
                each.kick.set()
        else:
            conn.stage = Stage.MET

    def _open(self, conn: Accepted) -> None:
        refusal = self._mesh.roster.readmit(conn.greeting, conn.link)
        if refusal is not None:
            self._refuse(conn, refusal, conn.greeting)
            return
        conn.stage = Stage.UP
        if conn.deadline is not None:
            conn.deadline.cancel()
        self._mesh.up(conn)

    def _refuse(self, conn: Accepted, refusal: Refusal, greeting: Greeting | None = None) -> None:
        """Say why to both sides; the dialler hangs up, or is hung up on after a while."""
        peer = self._mesh.roster.peers.get(greeting.hello.name) if greeting else None
        link = peer.links[self._index] if peer and self._index < len(peer.links) else None
        # A name counts as the source only if it is a peer's: strangers choose theirs freely.
        self._mesh.refused(refusal, peer.line.name if peer else conn.source, link)
        conn.send(frames.refuse_frame(refusal))
        was_up, conn.stage = conn.stage is Stage.UP, Stage.OVER
        if conn.deadline is not None:
            conn.deadline.cancel()
        conn.deadline = self._loop.call_later(self._mesh.limits.flush_ms / 1000, conn.close)
        if was_up:
            self._mesh.down(conn, refusal.text)

    def _drop(self, conn: Accepted, reason: str) -> None:
        was_up = conn.stage is Stage.UP
        conn.close()
        if was_up:
            self._mesh.down(conn, reason)
