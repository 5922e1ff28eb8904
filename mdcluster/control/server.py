"""The daemon's end of the control socket: requests to a handler, events to who asked for them.

Rules of this file: no client delays another or the daemon. What is to be sent waits in a queue
of bounded size; a client that does not read is dropped. Everything a client may take is bounded:
clients, requests in flight, bytes of a line.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from mdcluster.control.errors import ProtocolError, SocketInUseError
from mdcluster.control.protocol import (
    CLIENTS_MAX,
    IN_FLIGHT_MAX,
    KEEPALIVE_S,
    LINE_MAX_BYTES,
    NO_ID,
    EventLine,
    Reply,
    Request,
    State,
    decode_request,
    encode,
    id_of_line,
)
from mdcluster.control.verbs import EventsArgs, Verb, parse_args
from mdcluster.errors import MdclusterError

QUEUE_MAX_BYTES = 4 * LINE_MAX_BYTES
QUEUE_MAX_LINES = 1024
SUN_PATH_MAX_BYTES = 107
"""Longest path of a unix socket (unix(7), sun_path less its NUL)."""

log = logging.getLogger(__name__)

Handler = Callable[[Request, "ReplySink"], Awaitable[None]]


class ReplySink:
    """Where a handler answers one request: ``waiting`` any number of times, then one final."""

    def __init__(self, number: int, send: Callable[[Reply], None]) -> None:
        self._number = number
        self._send = send
        self._last_wait: Reply | None = None
        self.finished = False

    def waiting(self, text: str, data: Any = None) -> None:
        """Not done yet: what it waits for. Repeated for the client every few seconds."""
        assert not self.finished, "a final reply was given"
        self._last_wait = Reply(self._number, State.WAITING, text, data)
        self._send(self._last_wait)

    def done(self, text: str = "", data: Any = None) -> None:
        """It is done; ``data`` is a dataclass of verbs.py, JSON values, or None."""
        self._finish(Reply(self._number, State.DONE, text, data))

    def refused(self, text: str) -> None:
        """It is not done and nothing was changed; the text says why and what to do."""
        self._finish(Reply(self._number, State.REFUSED, text))

    def remind(self) -> None:
        """Say again what it waits for, so that the client knows that the daemon lives."""
        if not self.finished:
            self._send(self._last_wait or Reply(self._number, State.WAITING))

    def _finish(self, reply: Reply) -> None:
        assert not self.finished, "a final reply was given"
        self.finished = True
        self._send(reply)


class ControlServer:
    """Serves one socket. Start with ``await start()``, end with ``await close()``.

    ``handler`` is called in a task of its own for every well-formed request of a known verb but
    ``events``; arguments are checked with :func:`~mdcluster.control.verbs.parse_args` before. It
    is cancelled when its client goes: what it proposed goes on, a retry asks for it again.
    """

    def __init__(self, path: Path | str, handler: Handler, *, keepalive_s: float = KEEPALIVE_S):
        self.path = Path(path)
        self._handler = handler
        self._keepalive_s = keepalive_s
        self._server: asyncio.Server | None = None
        self._clients: set[_Client] = set()
        self._lock_fd = -1
        self._inode = 0

    @property
    def client_count(self) -> int:
        return len(self._clients)

    async def start(self) -> None:
        """Listen; :class:`SocketInUseError` if another daemon does, or the path is not ours."""
        if len(os.fsencode(self.path)) > SUN_PATH_MAX_BYTES:
            raise SocketInUseError(
                f"{self.path}: a socket's path has at most {SUN_PATH_MAX_BYTES} bytes; set a "
                "shorter run directory"
            )
        self._lock_fd = _lock(self.path)
        try:
            await self._listen()
        except BaseException:
            os.close(self._lock_fd)
            raise

    async def _listen(self) -> None:
        """Bind, close to others, and only then listen: nobody can connect in between."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self._server = await asyncio.start_unix_server(
            self._accept, self.path, limit=LINE_MAX_BYTES, start_serving=False
        )
        self.path.chmod(0o600)
        self._inode = self.path.stat().st_ino
        await self._server.start_serving()

    async def close(self) -> None:
        """Stop listening, drop every client, take the socket away."""
        if self._server is None:
            return
        self._server.close()
        clients = tuple(self._clients)
        for client in clients:
            client.drop("the daemon stops")
        await asyncio.gather(*(client.ended.wait() for client in clients))
        await self._server.wait_closed()
        self._server = None
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
        os.close(self._lock_fd)

    def wanted(self, kind: str) -> bool:
        """Whether any client subscribed to such events."""
        return any(client.wants(kind) for client in self._clients)

    def publish(self, kind: str, **fields: Any) -> None:
        """Send an event to all who subscribed to it; never waits, drops who does not keep up."""
        listeners = [client for client in self._clients if client.wants(kind)]
        if not listeners:
            return
        line = encode(EventLine(kind, fields))
        for client in listeners:
            client.send_line(line)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _Client(reader, writer, self._handler, self._keepalive_s)
        if len(self._clients) >= CLIENTS_MAX:
            client.send(
                Reply(NO_ID, State.REFUSED, f"too many clients: {CLIENTS_MAX} are connected")
            )
            await client.hang_up()
            return
        self._clients.add(client)
        try:
            await client.serve()
        finally:
            self._clients.discard(client)
            client.ended.set()


class _Client:
    """One connection: a reading loop, a task for each request, a task that sends."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handler: Handler,
        keepalive_s: float,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handler = handler
        self._keepalive_s = keepalive_s
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._lines: asyncio.Queue[bytes] = asyncio.Queue(QUEUE_MAX_LINES)
        self._queued_bytes = 0
        self._kinds: tuple[str, ...] | None = None
        self._dropped = False
        self.ended = asyncio.Event()

    def wants(self, kind: str) -> bool:
        return self._kinds is not None and (not self._kinds or kind in self._kinds)

    def send(self, reply: Reply) -> None:
        """Queue a reply; one that is too long for a line is replaced by a refusal that says so."""
        try:
            line = encode(reply)
        except ProtocolError as bad:
            line = encode(Reply(reply.id, State.REFUSED, str(bad)))
        self.send_line(line)

    def send_line(self, line: bytes) -> None:
        if self._dropped:
            return
        full = self._queued_bytes + len(line) > QUEUE_MAX_BYTES or self._lines.full()
        if full:
            self.drop("it does not read what it asked for")
            return
        self._queued_bytes += len(line)
        self._lines.put_nowait(line)

    def drop(self, why: str) -> None:
        """End the connection now; what was queued is lost."""
        if not self._dropped:
            log.info("control client dropped: %s", why)
        self._dropped = True
        self._writer.transport.abort()
        self._reader.feed_eof()

    async def hang_up(self) -> None:
        """Send what is queued, in bounded time, then close."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(self._keepalive_s):
                while not self._lines.empty():
                    self._writer.write(self._lines.get_nowait())
                    await self._writer.drain()
        self._writer.close()

    async def serve(self) -> None:
        """Until the client goes, sends what cannot be understood, or is dropped."""
        sender = asyncio.create_task(self._send_all())
        try:
            while (line := await self._next_line()) is not None:
                self._receive(line)
        finally:
            tasks = [sender, *self._requests.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.hang_up()

    async def _next_line(self) -> bytes | None:
        try:
            line = await self._reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError:
            text = f"a line of more than {LINE_MAX_BYTES} bytes"
            self.send(Reply(NO_ID, State.REFUSED, text))
            return None
        except OSError:
            return None
        return None if self._dropped else line

    def _receive(self, line: bytes) -> None:
        try:
            request = decode_request(line)
            args = parse_args(request)
        except ProtocolError as bad:
            self.send(Reply(id_of_line(line), State.REFUSED, f"bad request: {bad}"))
            return
        if request.id in self._requests:
            text = f"bad request: id {request.id} is already in use by a request in flight"
        elif len(self._requests) >= IN_FLIGHT_MAX:
            text = f"too many requests: {IN_FLIGHT_MAX} are in flight on this connection"
        else:
            if isinstance(args, EventsArgs):
                self._kinds = args.kinds
            task = asyncio.create_task(self._answer(request))
            self._requests[request.id] = task
            return
        self.send(Reply(request.id, State.REFUSED, text))

    async def _answer(self, request: Request) -> None:
        """One request from its handler to its final reply, whatever the handler does."""
        sink = ReplySink(request.id, self.send)
        reminder = asyncio.create_task(self._remind(sink))
        try:
            if request.verb == Verb.EVENTS:
                sink.waiting("subscribed")
                await asyncio.Event().wait()
            await self._handler(request, sink)
            if not sink.finished:
                log.error("control request %s ended without a reply", request.verb)
                sink.refused(f"{request.verb}: the daemon gave no answer; its log says more")
        except MdclusterError as error:
            if not sink.finished:
                sink.refused(str(error))
        except Exception:
            log.exception("control request %s failed", request.verb)
            if not sink.finished:
                sink.refused(f"{request.verb}: a fault in the daemon; its log says more")
        finally:
            reminder.cancel()
            self._requests.pop(request.id, None)

    async def _remind(self, sink: ReplySink) -> None:
        while True:
            await asyncio.sleep(self._keepalive_s)
            sink.remind()

    async def _send_all(self) -> None:
        """Write line by line; what does not go out stays in the queue, whose size is bounded."""
        with contextlib.suppress(OSError):
            while True:
                line = await self._lines.get()
                self._writer.write(line)
                await self._writer.drain()
                self._queued_bytes -= len(line)


def _lock(path: Path) -> int:
    """Own the path for as long as the returned file descriptor is open.

    With the lock in hand a socket found at the path is a dead daemon's, whatever it looks like.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SocketInUseError(f"cannot make the control socket {path}: {error}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise SocketInUseError(
            f"another daemon owns the control socket {path}; stop it, or give this one another "
            "run directory"
        ) from None
    if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
        os.close(handle)
        raise SocketInUseError(f"{path} is not a socket; move it away")
    return handle
