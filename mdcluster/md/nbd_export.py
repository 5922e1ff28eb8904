"""What an NBD server offers and how a client comes to use it: backend, export, negotiation.

A :class:`BlockBackend` is all that is asked of an array; :class:`NbdExport` checks and carries out
single requests on it, :class:`Negotiation` is the server's side of the fixed newstyle handshake
(structured replies and TLS are answered "unsupported", as any option it does not know).
"""

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from mdcluster.md import nbd_protocol as proto
from mdcluster.md.nbd_protocol import (
    BlockSizes,
    Command,
    CommandFlag,
    Export,
    ExportFlag,
    HandshakeFlag,
    Info,
    NbdProtocolError,
    Option,
    OptionHeader,
    OptionReply,
    Request,
)
from mdcluster.md.nbd_socket import StreamSocket

_ZEROES: Final = memoryview(bytes(1 << 20))
_PREFERRED_BYTES: Final = 4096
_OPTIONS_MAX: Final = 256


class BlockBackend(Protocol):
    """What the server needs of an array.

    All calls may run at the same time. Errors are OSError with an errno (see
    `nbd_protocol.error_of`). A call is cancelled only by the end of :meth:`NbdServer.stop`.
    """

    @property
    def size_bytes(self) -> int:
        """Size of the array; may grow while it is served."""
        ...

    @property
    def read_only(self) -> bool:
        """Whether changes are refused; may change while it is served."""
        ...

    async def read(self, offset_bytes: int, length_bytes: int) -> bytes | memoryview:
        """Exactly `length_bytes` from `offset_bytes`; must not change until it was sent."""
        ...

    async def write(self, offset_bytes: int, data: memoryview | bytes, *, fua: bool) -> None:
        """Return when the data may be acknowledged; with `fua`, when it is durable."""
        ...

    async def flush(self) -> None:
        """Make every write that returned before this call durable."""
        ...

    async def trim(self, offset_bytes: int, length_bytes: int) -> None:
        """The range, up to the whole array, holds nothing of use any more; a hint."""
        ...


@dataclass(frozen=True, slots=True)
class NbdExport:
    """A backend under a name. `align_bytes`, a power of two, is its smallest block."""

    name: str
    backend: BlockBackend
    align_bytes: int

    def describe(self) -> Export:
        """Size and abilities now."""
        flags = (
            ExportFlag.HAS_FLAGS
            | ExportFlag.SEND_FLUSH
            | ExportFlag.SEND_FUA
            | ExportFlag.SEND_TRIM
            | ExportFlag.SEND_WRITE_ZEROES
            | ExportFlag.CAN_MULTI_CONN
        )
        if self.backend.read_only:
            flags |= ExportFlag.READ_ONLY
        return Export(self.backend.size_bytes, flags)

    async def execute(self, request: Request, payload: memoryview) -> bytes | memoryview:
        """Carry out one request; the data of a READ, otherwise nothing. Raises OSError."""
        backend = self.backend
        error = proto.check_request(
            request,
            size_bytes=backend.size_bytes,
            read_only=backend.read_only,
            align_bytes=self.align_bytes,
        )
        if error:
            raise OSError(error, os.strerror(error))
        offset_bytes, length_bytes = request.offset_bytes, request.length_bytes
        fua = bool(request.flags & CommandFlag.FUA)
        if request.command == Command.FLUSH:
            await backend.flush()
        elif length_bytes == 0:
            return b""
        elif request.command == Command.READ:
            return await self._read(offset_bytes, length_bytes)
        elif request.command == Command.WRITE:
            await backend.write(offset_bytes, payload, fua=fua)
        elif request.command == Command.WRITE_ZEROES:
            await self._write_zeroes(offset_bytes, length_bytes, fua=fua)
        else:
            await backend.trim(offset_bytes, length_bytes)
            if fua:
                await backend.flush()
        return b""

    async def _read(self, offset_bytes: int, length_bytes: int) -> bytes | memoryview:
        data = await self.backend.read(offset_bytes, length_bytes)
        if isinstance(data, memoryview):
            data = data.cast("B")
        if len(data) != length_bytes:
            raise OSError(
                errno.EIO, f"the array returned {len(data)} bytes instead of {length_bytes}"
            )
        return data

    async def _write_zeroes(self, offset_bytes: int, length_bytes: int, *, fua: bool) -> None:
        end_bytes = offset_bytes + length_bytes
        for at_bytes in range(offset_bytes, end_bytes, len(_ZEROES)):
            piece = _ZEROES[: min(len(_ZEROES), end_bytes - at_bytes)]
            await self.backend.write(at_bytes, piece, fua=fua)


class Negotiation:
    """The handshake of one connection, server side."""

    def __init__(self, export: NbdExport, stream: StreamSocket) -> None:
        self._export = export
        self._stream = stream

    async def run(self) -> bool:
        """True when transmission starts, False when the client only looked."""
        stream = self._stream
        await stream.send(proto.encode_greeting())
        flags = proto.decode_client_flags(await stream.receive(proto.CLIENT_FLAGS_BYTES))
        for _ in range(_OPTIONS_MAX):
            option = proto.decode_option(await stream.receive(proto.OPTION_HEADER_BYTES))
            if option.length_bytes > proto.OPTION_MAX_BYTES:
                raise NbdProtocolError(
                    f"option {option.option} with {option.length_bytes} bytes of data"
                )
            data = await stream.receive(option.length_bytes)
            if option.option == Option.EXPORT_NAME:
                await self._export_name(proto.decode_name(data), flags)
                return True
            if option.option == Option.ABORT:
                with suppress(ConnectionError):  # a client need not wait for this answer
                    await self._reply(option, OptionReply.ACK)
                return False
            if await self._answer(option, data):
                return True
        raise NbdProtocolError(f"more than {_OPTIONS_MAX} options")

    async def _export_name(self, name: str, flags: HandshakeFlag) -> None:
        if not self._is_named(name):
            raise NbdProtocolError(f"there is no export {name!r}")  # this option has no error reply
        padding = b"" if flags & HandshakeFlag.NO_ZEROES else bytes(proto.EXPORT_PADDING_BYTES)
        await self._stream.send(self._export.describe().pack(), padding)

    async def _answer(self, option: OptionHeader, data: bytes) -> bool:
        if option.option == Option.LIST:
            await self._list(option, data)
        elif option.option in (Option.INFO, Option.GO):
            return await self._info(option, data) and option.option == Option.GO
        else:
            await self._reply(option, OptionReply.ERR_UNSUP)
        return False

    async def _list(self, option: OptionHeader, data: bytes) -> None:
        if data:
            await self._reply(option, OptionReply.ERR_INVALID, b"LIST takes no data")
            return
        await self._reply(option, OptionReply.SERVER, proto.encode_server_name(self._export.name))
        await self._reply(option, OptionReply.ACK)

    async def _info(self, option: OptionHeader, data: bytes) -> bool:
        try:
            wanted = proto.decode_info_request(data)
        except NbdProtocolError as error:
            await self._reply(option, OptionReply.ERR_INVALID, str(error).encode())
            return False
        if not self._is_named(wanted.name):
            text = f"no such export; this socket serves {self._export.name!r}"
            await self._reply(option, OptionReply.ERR_UNKNOWN, text.encode())
            return False
        export = proto.encode_info(Info.EXPORT, self._export.describe().pack())
        await self._reply(option, OptionReply.INFO, export)
        if Info.NAME in wanted.infos:
            name = proto.encode_info(Info.NAME, self._export.name.encode())
            await self._reply(option, OptionReply.INFO, name)
        if Info.BLOCK_SIZE in wanted.infos:
            sizes = BlockSizes(
                self._export.align_bytes, max(_PREFERRED_BYTES, self._export.align_bytes)
            )
            await self._reply(option, OptionReply.INFO, sizes.pack())
        await self._reply(option, OptionReply.ACK)
        return True

    async def _reply(self, option: OptionHeader, reply: OptionReply, data: bytes = b"") -> None:
        await self._stream.send(proto.encode_option_reply(option.option, reply, data))

    def _is_named(self, name: str) -> bool:
        return name in ("", self._export.name)
