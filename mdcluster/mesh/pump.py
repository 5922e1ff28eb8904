"""A ZeroMQ socket and its monitor in the asyncio loop, without a task or a timer.

The file descriptor of a ZeroMQ socket is edge-triggered: it says that something may have
happened, once. So each turn looks at the socket's own state and drains until nothing is left,
but for at most :data:`TURN_MAX` messages, so that one busy peer cannot starve the loop. Sending
may swallow the edge of a message that came in meanwhile; hence :meth:`Pump.poke`.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import zmq
from zmq.utils.monitor import parse_monitor_message

TURN_MAX = 64


class Owner(Protocol):
    """Who uses a pump. Any of these may close it."""

    def on_event(self, event: int, value: int) -> None:
        """The monitor reports a connection's change (``zmq.Event``, and its value)."""

    def on_parts(self, parts: Sequence[zmq.Frame]) -> None:
        """One multipart message."""

    def on_idle(self) -> None:
        """Everything that had come in before the events last reported has been given out."""


class Pump:
    """Owns ``sock`` and its monitor, and feeds ``owner`` from both."""

    def __init__(self, sock: zmq.Socket[bytes], events: int, owner: Owner) -> None:
        """May raise :class:`zmq.ZMQError`; ``sock`` is closed then."""
        self.sock = sock
        self._closed = False
        self._owner = owner
        self._queued = False
        self._loop = asyncio.get_running_loop()
        try:
            self._monitor: zmq.Socket[bytes] = sock.get_monitor_socket(events)
        except zmq.ZMQError:
            sock.close(linger=0)
            raise
        self._fds = tuple(int(s.getsockopt(zmq.FD)) for s in (sock, self._monitor))
        for fd in self._fds:
            self._loop.add_reader(fd, self._turn)
        self._queue_turn()

    def closed(self) -> bool:
        """Whether it was closed; any callback of the owner may have done so."""
        return self._closed

    def poke(self) -> None:
        """To be called after a send."""
        if not self.closed() and self._ready(self.sock):
            self._queue_turn()

    def drain_events(self) -> None:
        """Report all events up to now; after this, every accepted connection is known."""
        while not self.closed() and self._ready(self._monitor):
            event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            self._owner.on_event(event["event"], event["value"])

    def close(self, linger_ms: int = 0) -> None:
        """Close both sockets; what was sent may still leave within ``linger_ms``."""
        if self.closed():
            return
        self._closed = True
        for fd in self._fds:
            self._loop.remove_reader(fd)
        self.sock.disable_monitor()
        self._monitor.close(linger=0)
        self.sock.close(linger=linger_ms)

    @staticmethod
    def _ready(sock: zmq.Socket[bytes]) -> bool:
        return bool(int(sock.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def _queue_turn(self) -> None:
        if not self._queued:
            self._queued = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._queued = False
        drained = False
        try:
            drained = self._drain()
        finally:
            # Also after an exception of the owner: there will be no second edge for the rest.
            if not drained and not self.closed():
                self._queue_turn()

    def _drain(self) -> bool:
        if self.closed():
            return True
        self.drain_events()
        for _ in range(TURN_MAX):
            if self.closed():
                return True
            if not self._ready(self.sock):
                self._owner.on_idle()
                return True
            self._owner.on_parts(self.sock.recv_multipart(zmq.NOBLOCK, copy=False))
        return False
