"""The NBD server through which a running array of the embedded driver is reachable.

One :class:`NbdServer` serves one export on one unix socket: fixed newstyle, simple replies; read,
write, flush, trim, write zeroes, disconnect. It knows nothing of md: a :class:`BlockBackend` is
all it asks for. What clients may rely on:

- Requests of a connection run concurrently and are answered in whatever order they finish. A write
  that the array holds, for however long, stops nobody until the connection has as much in flight
  as :class:`NbdLimits` allows; then no more is read from it (back-pressure).
- CAN_MULTI_CONN is announced: all connections share one backend in one process and the server
  caches nothing, so a write that was answered is seen by a read on any connection, and a
  flush on any of them covers it. The backend's `flush` has to keep that promise.
- A request that was begun is finished even if its client has gone: a write cancelled half-way
  would leave the members different. Only `stop`, when its time is up, cancels.
"""

import asyncio
import errno
import logging
import socket
import stat
import struct
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from mdcluster.errors import MdclusterError
from mdcluster.md import nbd_protocol as proto
from mdcluster.md.nbd_export import BlockBackend, NbdExport, Negotiation
from mdcluster.md.nbd_protocol import Command, NbdError, NbdProtocolError, Reply, Request
from mdcluster.md.nbd_socket import StreamSocket

__all__ = ["BlockBackend", "NbdLimits", "NbdServer", "NbdServerError"]

_LOG = logging.getLogger(__name__)
_ACCEPT_PAUSE_S: Final = 0.5
_CANCEL_S: Final = 1.0


class NbdServerError(NbdError):
    """The server cannot start; the text names the socket and what to do."""


@dataclass(frozen=True, slots=True)
class NbdLimits:
    """What the server takes on. Per connection: requests and payload bytes in flight."""

    connections_max: int = 32
    requests_max: int = 64
    payload_max_bytes: int = 2 * proto.PAYLOAD_MAX_BYTES
    handshake_ms: int = 10_000

    def __post_init__(self) -> None:
        """Refuse limits under which a valid request could never be served."""
        if self.payload_max_bytes < proto.PAYLOAD_MAX_BYTES:
            raise ValueError(f"payload_max_bytes must be at least {proto.PAYLOAD_MAX_BYTES}")
        if min(self.connections_max, self.requests_max, self.handshake_ms) < 1:
            raise ValueError("connections_max, requests_max and handshake_ms must be positive")


class _Budget:
    """What a connection has in flight; its one reader waits here for room."""

    def __init__(self, limits: NbdLimits) -> None:
        self._limits = limits
        self._requests = 0
        self._payload_bytes = 0
        self._freed = asyncio.Event()

    async def take(self, payload_bytes: int) -> None:
        while (
            self._requests >= self._limits.requests_max
            or self._payload_bytes + payload_bytes > self._limits.payload_max_bytes
        ):
            self._freed.clear()
            await self._freed.wait()
        self._requests += 1
        self._payload_bytes += payload_bytes

    def give_back(self, payload_bytes: int) -> None:
        self._requests -= 1
        self._payload_bytes -= payload_bytes
        self._freed.set()


class _Connection:
    """One client, from greeting to close."""

    def __init__(self, export: NbdExport, limits: NbdLimits, sock: socket.socket) -> None:
        self._export = export
        self._limits = limits
        self._stream = StreamSocket(sock)
        self._peer = _peer_of(sock)
        self._budget = _Budget(limits)
        self._requests: set[asyncio.Task[None]] = set()
        self._reader: asyncio.Task[None] | None = None
        self._ending = False

    async def run(self) -> None:
        """Serve until the client leaves or `end` is called, and all it asked for is answered."""
        try:
            if not self._ending:
                self._reader = asyncio.create_task(self._read())
                await asyncio.wait([self._reader])
            while self._requests:
                await asyncio.wait(self._requests)
        finally:
            self._stream.close()
        if self._reader is not None and not self._reader.cancelled():
            self._reader.result()  # a bug in here is for the server to report

    def end(self) -> None:
        """Take no more requests; what is in flight is still answered."""
        self._ending = True
        if self._reader is not None:
            self._reader.cancel()

    def cancel(self) -> None:
        """Give up what is in flight; its client sees the connection end."""
        self._stream.shutdown()
        for task in self._requests:
            task.cancel()

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(self._limits.handshake_ms / 1000):
                agreed = await Negotiation(self._export, self._stream).run()
            if agreed:
                await self._read_requests()
        except NbdProtocolError as error:
            self._drop(logging.WARNING, str(error))
        except TimeoutError:
            self._drop(logging.WARNING, "it did not finish negotiating in time")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                self._drop(logging.INFO, "it left in the middle of a message")
        except OSError as error:
            self._drop(logging.INFO, str(error))

    def _drop(self, level: int, why: str) -> None:
        _LOG.log(level, "NBD %s: connection of %s dropped: %s",
                 self._export.name, self._peer, why)  # fmt: skip
        self._stream.shutdown()

    async def _read_requests(self) -> None:
        while True:
            request = proto.decode_request(await self._stream.receive(proto.REQUEST_BYTES))
            if request.command == Command.DISCONNECT:
                return
            in_flight_bytes = _in_flight_bytes(request)
            await self._budget.take(in_flight_bytes)
            payload = await self._receive_payload(request)
            task = asyncio.create_task(self._answer(request, payload))
            self._requests.add(task)
            task.add_done_callback(partial(self._answered, in_flight_bytes))
            del payload  # nothing but the request may hold what its budget pays for

    async def _receive_payload(self, request: Request) -> memoryview:
        payload = memoryview(bytearray(request.payload_bytes))
        await self._stream.receive_into(payload)
        return payload.toreadonly()

    async def _answer(self, request: Request, payload: memoryview) -> None:
        data: bytes | memoryview = b""
        error = 0
        try:
            data = await self._export.execute(request, payload)
        except OSError as failure:
            error = proto.error_of(failure)
            _LOG.debug("NBD %s: %s answered: %s", self._export.name, request, failure)
        except MdclusterError as failure:
            error = errno.EIO
            _LOG.warning("NBD %s: %s failed: %s", self._export.name, request, failure)
        try:
            await self._stream.send(Reply(request.cookie, error).pack(), data)
        except OSError as failure:
            _LOG.debug("NBD %s: %s left: %s", self._export.name, self._peer, failure)
            self._stream.shutdown()

    def _answered(self, in_flight_bytes: int, task: asyncio.Task[None]) -> None:
        self._requests.discard(task)
        self._budget.give_back(in_flight_bytes)
        if not task.cancelled() and (failure := task.exception()) is not None:
            _LOG.error("NBD %s: a request of %s met a bug, its connection is dropped",
                       self._export.name, self._peer, exc_info=failure)  # fmt: skip
            self._stream.shutdown()


class NbdServer:
    """Serves one array on one unix socket (mode 0600).

    `align_bytes` (a power of two) is announced as the smallest block; requests that do not
    keep to it are answered EINVAL.
    """

    def __init__(
        self,
        path: Path,
        export: str,
        backend: BlockBackend,
        *,
        limits: NbdLimits | None = None,
        align_bytes: int = 1,
    ) -> None:
        """Nothing is opened before :meth:`start`. ValueError for what could never be served."""
        if not export or len(export.encode()) > proto.NAME_MAX_BYTES:
            raise ValueError(f"an export name needs 1 to {proto.NAME_MAX_BYTES} bytes")
        if not 1 <= align_bytes <= 65536 or align_bytes & (align_bytes - 1):
            raise ValueError(f"align_bytes must be a power of two up to 65536, not {align_bytes}")
        self.path = path
        self._export = NbdExport(export, backend, align_bytes)
        self._limits = limits or NbdLimits()
        self._listener: socket.socket | None = None
        self._inode: tuple[int, int] | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}

    @property
    def connections(self) -> int:
        """Connections being served, those included whose client left with requests in flight."""
        return len(self._connections)

    async def start(self) -> None:
        """Bind and serve. A dead server's socket is replaced, a live one's refused."""
        if self._listener is not None:
            raise NbdServerError(f"the NBD server on {self.path} is already started")
        _clear_stale(self.path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            listener.bind(str(self.path))
            self.path.chmod(0o600)  # before listen, so that nobody was let in until now
            status = self.path.lstat()
            listener.listen(self._limits.connections_max)
        except OSError as error:
            listener.close()
            raise NbdServerError(f"cannot serve NBD on {self.path}: {error}") from error
        self._listener, self._inode = listener, (status.st_dev, status.st_ino)
        self._accepting = asyncio.create_task(self._accept(listener))
        _LOG.info("NBD %s: serving on %s", self._export.name, self.path)

    async def stop(self, drain_s: float = 5.0) -> None:
        """Stop listening, answer what is in flight, close all, remove the socket file.

        Requests still unanswered after `drain_s` seconds (held writes) are cancelled and
        their clients see the connection end. Calling it again does nothing.
        """
        listener, self._listener = self._listener, None
        if listener is None:
            return
        self._unlink()
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])
        listener.close()
        for connection in self._connections.values():
            connection.end()
        await self._wait_connections(drain_s)
        for connection in self._connections.values():
            connection.cancel()
        await self._wait_connections(_CANCEL_S)
        if self._connections:
            _LOG.error("NBD %s: the array did not give up the requests of %d connections",
                       self._export.name, len(self._connections))  # fmt: skip

    async def _wait_connections(self, timeout_s: float) -> None:
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=timeout_s)

    def _unlink(self) -> None:
        with suppress(FileNotFoundError):
            status = self.path.lstat()
            if (status.st_dev, status.st_ino) == self._inode:  # not a successor's
                self.path.unlink()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                _LOG.warning("NBD %s: cannot accept on %s: %s",
                             self._export.name, self.path, error)  # fmt: skip
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            if len(self._connections) >= self._limits.connections_max:
                _LOG.warning("NBD %s: %s refused: %d connections are the limit",
                             self._export.name, _peer_of(sock), self.connections)  # fmt: skip
                sock.close()
                continue
            connection = _Connection(self._export, self._limits, sock)
            self._track(connection, connection.run())

    def _track(self, connection: _Connection, run: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(run)
        self._connections[task] = connection
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._connections[task]
        if not task.cancelled() and (failure := task.exception()) is not None:
            _LOG.error("NBD %s: a connection met a bug", self._export.name, exc_info=failure)


def _in_flight_bytes(request: Request) -> int:
    """Memory a request holds until it is answered, whether it succeeds or not."""
    if request.command == Command.READ:
        return min(request.length_bytes, proto.PAYLOAD_MAX_BYTES)
    return request.payload_bytes


def _clear_stale(path: Path) -> None:
    """Remove the socket of a server that is dead; NbdServerError if it is not for us to take."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise NbdServerError(f"{path} exists and is not a socket; remove it or choose another")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return
    except BlockingIOError:
        pass  # its queue is full: it lives
    except OSError as error:
        raise NbdServerError(f"cannot look at the NBD socket {path}: {error}") from error
    raise NbdServerError(f"another server answers on {path}; stop it first")


def _peer_of(sock: socket.socket) -> str:
    """The process at the other end, for the log."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    except OSError:
        return "an unknown client"
    pid, uid, _ = struct.unpack("3i", raw)
    return f"pid {pid} (uid {uid})"
