"""A small NBD client over a unix socket: part of the public test kit, and used by the demo.

Any number of coroutines may have requests in flight on one :class:`NbdClient`; a bounded number
is sent at a time. It speaks fixed newstyle with simple replies, to any server that does.

    client = await NbdClient.connect(Path("/run/mdcluster/r1.nbd"), "r1")
    await client.write(0, b"x" * 4096, fua=True)
    data = await client.read(0, 4096)
    await client.close()
"""

import asyncio
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from mdcluster.md import nbd_protocol as proto
from mdcluster.md.nbd_protocol import (
    Command,
    CommandFlag,
    Export,
    ExportFlag,
    HandshakeFlag,
    Info,
    InfoRequest,
    NbdError,
    NbdProtocolError,
    Option,
    OptionReply,
    Request,
)
from mdcluster.md.nbd_socket import StreamSocket

_INFO_REPLIES_MAX: Final = 64
_COOKIE_MASK: Final = (1 << 64) - 1


class NbdConnectError(NbdError):
    """No session with the server: not there, or it refused the export."""


class NbdDisconnectedError(NbdError):
    """The connection ended; whether unanswered requests were carried out is unknown."""


class NbdRequestError(NbdError, OSError):
    """The server answered a request with an error; `errno` says which."""


@dataclass(slots=True)
class _Pending:
    """A request on its way: where its data goes and who waits."""

    buffer: memoryview
    done: asyncio.Future[None]


class NbdClient:
    """One connection to an export. Made by :meth:`connect`; a context manager that closes."""

    def __init__(self, stream: StreamSocket, export: Export, requests_max: int) -> None:
        """For :meth:`connect`: `stream` has just entered transmission."""
        self._stream = stream
        self._export = export
        self._slots = asyncio.Semaphore(requests_max)
        self._pending: dict[int, _Pending] = {}
        self._cookie = 0
        self._over: str | None = None
        self._reader = asyncio.create_task(self._read_replies())

    @classmethod
    async def connect(
        cls, path: Path, export: str = "", *, requests_max: int = 64, timeout_s: float = 10.0
    ) -> Self:
        """Connect and negotiate within `timeout_s`; NbdConnectError says why not."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream = StreamSocket(sock)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().sock_connect(sock, str(path))
                agreed = await _negotiate(stream, export)
            return cls(stream, agreed, requests_max)
        except (OSError, NbdProtocolError, asyncio.IncompleteReadError) as error:
            stream.close()
            why = str(error) or type(error).__name__
            raise NbdConnectError(f"no NBD session on {path}, export {export!r}: {why}") from error
        except (NbdConnectError, asyncio.CancelledError):
            stream.close()
            raise

    @property
    def size_bytes(self) -> int:
        """Size of the export when it was connected."""
        return self._export.size_bytes

    @property
    def flags(self) -> ExportFlag:
        """What the export can do."""
        return self._export.flags

    @property
    def read_only(self) -> bool:
        """Whether the export refuses changes."""
        return bool(self._export.flags & ExportFlag.READ_ONLY)

    async def read(self, offset_bytes: int, length_bytes: int) -> memoryview:
        """`length_bytes` from `offset_bytes`. As all requests: NbdRequestError carries the errno
        the server answered, NbdDisconnectedError means that no answer came.
        """
        if length_bytes > proto.PAYLOAD_MAX_BYTES:
            raise ValueError(f"a read of {length_bytes} bytes; split it")
        data = memoryview(bytearray(length_bytes))
        await self._request(Command.READ, offset_bytes, length_bytes, buffer=data)
        return data.toreadonly()

    async def write(
        self, offset_bytes: int, data: bytes | bytearray | memoryview, *, fua: bool = False
    ) -> None:
        """Write `data`; with `fua` it is durable on return."""
        if len(data) > proto.PAYLOAD_MAX_BYTES:
            raise ValueError(f"a write of {len(data)} bytes; split it")
        await self._request(Command.WRITE, offset_bytes, len(data), payload=data, fua=fua)

    async def flush(self) -> None:
        """Make every write that returned before durable."""
        await self._request(Command.FLUSH, 0, 0)

    async def trim(self, offset_bytes: int, length_bytes: int, *, fua: bool = False) -> None:
        """Say that the range holds nothing of use any more."""
        await self._request(Command.TRIM, offset_bytes, length_bytes, fua=fua)

    async def write_zeroes(
        self, offset_bytes: int, length_bytes: int, *, fua: bool = False
    ) -> None:
        """Make the range read as zeroes without sending them."""
        await self._request(Command.WRITE_ZEROES, offset_bytes, length_bytes, fua=fua)

    async def close(self, timeout_s: float = 10.0) -> None:
        """Take leave: the server answers what is in flight and closes. Never raises for that.

        If it has not done so after `timeout_s` (a write is held), the connection is broken.
        """
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._stream.send(Request(Command.DISCONNECT, 0).pack())
                await asyncio.wait([self._reader])
        await self.abort()

    async def abort(self) -> None:
        """Break the connection at once, as a client that dies would."""
        self._stream.shutdown()
        await asyncio.wait([self._reader])
        self._stream.close()

    async def __aenter__(self) -> Self:
        """The client itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self.close()

    async def _request(
        self,
        command: Command,
        offset_bytes: int,
        length_bytes: int,
        *,
        payload: bytes | bytearray | memoryview = b"",
        buffer: memoryview | None = None,
        fua: bool = False,
    ) -> None:
        await self._slots.acquire()
        if self._over is not None:
            self._slots.release()
            raise NbdDisconnectedError(self._over)
        self._cookie = cookie = (self._cookie + 1) & _COOKIE_MASK
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending[cookie] = _Pending(memoryview(b"") if buffer is None else buffer, done)
        flags = CommandFlag.FUA if fua else CommandFlag(0)
        request = Request(command, cookie, offset_bytes, length_bytes, flags)
        try:
            await self._stream.send(request.pack(), payload)
        except OSError:
            self._stream.shutdown()  # the reader meets the end and tells all who wait
        except asyncio.CancelledError:
            if self._pending.pop(cookie, None) is not None:  # not sent, no reply will free it
                self._slots.release()
            raise
        await done

    async def _read_replies(self) -> None:
        try:
            while True:
                await self._read_reply()
        except asyncio.IncompleteReadError:
            self._over = "the NBD server ended the connection"
        except (OSError, NbdProtocolError) as error:
            self._over = f"the NBD connection broke: {error}"
        self._stream.shutdown()
        for pending in self._pending.values():
            self._slots.release()
            if not pending.done.done():
                pending.done.set_exception(NbdDisconnectedError(self._over))
        self._pending.clear()

    async def _read_reply(self) -> None:
        reply = proto.decode_reply(await self._stream.receive(proto.REPLY_BYTES))
        pending = self._pending.get(reply.cookie)
        if pending is None:
            raise NbdProtocolError(f"a reply to a request never made (cookie {reply.cookie})")
        if reply.error == 0:
            await self._stream.receive_into(pending.buffer)
        del self._pending[reply.cookie]
        self._slots.release()
        if pending.done.done():  # its caller was cancelled
            return
        if reply.error:
            pending.done.set_exception(NbdRequestError(reply.error, os.strerror(reply.error)))
        else:
            pending.done.set_result(None)


async def _negotiate(stream: StreamSocket, name: str) -> Export:
    """From greeting to transmission with NBD_OPT_GO."""
    offered = proto.decode_greeting(await stream.receive(proto.GREETING_BYTES))
    wanted = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
    await stream.send(proto.encode_client_flags(offered & wanted))
    await stream.send(proto.encode_option(Option.GO, InfoRequest(name).pack()))
    export: Export | None = None
    for _ in range(_INFO_REPLIES_MAX):
        header = proto.decode_option_reply(await stream.receive(proto.OPTION_REPLY_HEADER_BYTES))
        data = await stream.receive(header.length_bytes)
        if header.option != Option.GO:
            raise NbdProtocolError(f"a reply to option {header.option}, which was not sent")
        if header.reply == OptionReply.ACK and export is not None:
            return export
        if header.reply != OptionReply.INFO:
            text = data.decode(errors="replace")
            raise NbdConnectError(f"export {name!r} refused ({header.reply:#x}): {text}")
        if data[:2] == proto.encode_info(Info.EXPORT, b""):
            export = proto.decode_export(data[2:])
    raise NbdProtocolError("the server never ended its information")
