"""The NBD wire format, fixed newstyle with simple replies: pure bytes in, values out.

Server (`nbd`) and client (`nbd_client`) share this codec; nothing here does I/O. All figures are
from the protocol text, https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md,
and everything is big endian. What arrives is untrusted: each decoder checks lengths and magics
and raises :class:`NbdProtocolError`, never an error of `struct`.
"""

import errno
import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from mdcluster.errors import MdclusterError

REQUEST_BYTES: Final = 28
REPLY_BYTES: Final = 16
OPTION_HEADER_BYTES: Final = 16
OPTION_REPLY_HEADER_BYTES: Final = 20
GREETING_BYTES: Final = 18
CLIENT_FLAGS_BYTES: Final = 4
EXPORT_INFO_BYTES: Final = 10
EXPORT_PADDING_BYTES: Final = 124  # what NO_ZEROES leaves out after NBD_OPT_EXPORT_NAME

PAYLOAD_MAX_BYTES: Final = 32 << 20  # what a client may count on when no size is negotiated
NAME_MAX_BYTES: Final = 4096
OPTION_MAX_BYTES: Final = 8192  # a name and about 2000 information requests

_GREETING_MAGIC: Final = 0x4E42444D41474943  # "NBDMAGIC"
_OPTION_MAGIC: Final = 0x49484156454F5054  # "IHAVEOPT"
_OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9
_REQUEST_MAGIC: Final = 0x25609513
_REPLY_MAGIC: Final = 0x67446698

_GREETING: Final = struct.Struct(">QQH")
_CLIENT_FLAGS: Final = struct.Struct(">I")
_OPTION: Final = struct.Struct(">QII")
_OPTION_REPLY: Final = struct.Struct(">QIII")
_REQUEST: Final = struct.Struct(">IHHQQI")
_REPLY: Final = struct.Struct(">IIQ")
_EXPORT: Final = struct.Struct(">QH")
_BLOCK_SIZES: Final = struct.Struct(">HIII")


class HandshakeFlag(IntFlag):
    """Sent by the server in its greeting and by the client in answer."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class Option(IntEnum):
    """What a client may ask for while negotiating; any other number is answered ERR_UNSUP."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    INFO = 6
    GO = 7


class OptionReply(IntEnum):
    """Types of replies to an option; bit 31 marks an error."""

    ACK = 1
    SERVER = 2
    INFO = 3
    ERR_UNSUP = (1 << 31) + 1
    ERR_INVALID = (1 << 31) + 3
    ERR_UNKNOWN = (1 << 31) + 6
    ERR_TOO_BIG = (1 << 31) + 9


class Info(IntEnum):
    """Information a client may ask for with INFO and GO; EXPORT comes unasked."""

    EXPORT = 0
    NAME = 1
    BLOCK_SIZE = 3


class ExportFlag(IntFlag):
    """Transmission flags: what an export can do."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    CAN_MULTI_CONN = 1 << 8


class Command(IntEnum):
    """Requests of the transmission phase; any other number is answered EINVAL."""

    READ = 0
    WRITE = 1
    DISCONNECT = 2
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6


class CommandFlag(IntFlag):
    """Flags of a request."""

    FUA = 1
    NO_HOLE = 2


class NbdError(MdclusterError):
    """The root of what the NBD server and client raise."""


class NbdProtocolError(NbdError):
    """The peer broke the protocol; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request header; a WRITE is followed by `length_bytes` of payload."""

    command: int
    cookie: int
    offset_bytes: int = 0
    length_bytes: int = 0
    flags: int = 0

    def pack(self) -> bytes:
        """28 bytes as they go on the wire."""
        return _REQUEST.pack(
            _REQUEST_MAGIC,
            self.flags,
            self.command,
            self.cookie,
            self.offset_bytes,
            self.length_bytes,
        )

    @property
    def payload_bytes(self) -> int:
        """Bytes that follow the header; NbdProtocolError beyond what was ever offered."""
        if self.command != Command.WRITE:
            return 0
        if self.length_bytes > PAYLOAD_MAX_BYTES:
            raise NbdProtocolError(
                f"a write of {self.length_bytes} bytes; at most {PAYLOAD_MAX_BYTES} are accepted"
            )
        return self.length_bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """One simple reply; that to a successful READ is followed by the data."""

    cookie: int
    error: int = 0

    def pack(self) -> bytes:
        """16 bytes as they go on the wire."""
        return _REPLY.pack(_REPLY_MAGIC, self.error, self.cookie)


@dataclass(frozen=True, slots=True)
class OptionHeader:
    """An option of the client, followed by `length_bytes` of data."""

    option: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class OptionReplyHeader:
    """The server's reply to an option, followed by `length_bytes` of data."""

    option: int
    reply: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class Export:
    """Size and abilities of an export, as negotiated."""

    size_bytes: int
    flags: ExportFlag

    def pack(self) -> bytes:
        """10 bytes: the answer to EXPORT_NAME and the body of NBD_INFO_EXPORT."""
        return _EXPORT.pack(self.size_bytes, self.flags)


@dataclass(frozen=True, slots=True)
class BlockSizes:
    """Limits of a request in bytes: alignment, what works well, and the largest payload."""

    min_bytes: int
    preferred_bytes: int
    max_bytes: int = PAYLOAD_MAX_BYTES

    def pack(self) -> bytes:
        """14 bytes: the whole NBD_INFO_BLOCK_SIZE."""
        return _BLOCK_SIZES.pack(
            Info.BLOCK_SIZE, self.min_bytes, self.preferred_bytes, self.max_bytes
        )


@dataclass(frozen=True, slots=True)
class InfoRequest:
    """The data of INFO and GO."""

    name: str
    infos: tuple[int, ...] = ()

    def pack(self) -> bytes:
        """Length of the name, the name, count of informations, these."""
        name = self.name.encode()
        return struct.pack(
            f">I{len(name)}sH{len(self.infos)}H", len(name), name, len(self.infos), *self.infos
        )


def decode_request(data: bytes | memoryview) -> Request:
    """Decode the 28 bytes of a request header."""
    _need(data, REQUEST_BYTES, "request")
    magic, flags, command, cookie, offset_bytes, length_bytes = _REQUEST.unpack(data)
    _check_magic(magic, _REQUEST_MAGIC, "request")
    return Request(command, cookie, offset_bytes, length_bytes, flags)


def decode_reply(data: bytes | memoryview) -> Reply:
    """Decode the 16 bytes of a simple reply."""
    _need(data, REPLY_BYTES, "reply")
    magic, error, cookie = _REPLY.unpack(data)
    _check_magic(magic, _REPLY_MAGIC, "reply")
    return Reply(cookie, error)


def encode_greeting() -> bytes:
    """The server's first 18 bytes: fixed newstyle, zeroes may be left out."""
    flags = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
    return _GREETING.pack(_GREETING_MAGIC, _OPTION_MAGIC, flags)


def decode_greeting(data: bytes | memoryview) -> HandshakeFlag:
    """The flags of a server's greeting; a server that is not fixed newstyle is refused."""
    _need(data, GREETING_BYTES, "greeting")
    magic, style, flags = _GREETING.unpack(data)
    _check_magic(magic, _GREETING_MAGIC, "greeting")
    _check_magic(style, _OPTION_MAGIC, "newstyle greeting")
    if not flags & HandshakeFlag.FIXED_NEWSTYLE:
        raise NbdProtocolError("the server does not speak fixed newstyle")
    return HandshakeFlag(flags)


def encode_client_flags(flags: HandshakeFlag) -> bytes:
    """The client's 4 bytes in answer to the greeting."""
    return _CLIENT_FLAGS.pack(flags)


def decode_client_flags(data: bytes | memoryview) -> HandshakeFlag:
    """The client's flags; one the server did not offer ends the connection."""
    _need(data, CLIENT_FLAGS_BYTES, "client flags")
    (flags,) = _CLIENT_FLAGS.unpack(data)
    known = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
    if flags & ~int(known):
        raise NbdProtocolError(f"unknown client flags {flags:#x}")
    return HandshakeFlag(flags)


def encode_option(option: int, data: bytes = b"") -> bytes:
    """An option with its data."""
    return _OPTION.pack(_OPTION_MAGIC, option, len(data)) + data


def decode_option(data: bytes | memoryview) -> OptionHeader:
    """Decode the 16 bytes before an option's data."""
    _need(data, OPTION_HEADER_BYTES, "option")
    magic, option, length_bytes = _OPTION.unpack(data)
    _check_magic(magic, _OPTION_MAGIC, "option")
    return OptionHeader(option, length_bytes)


def encode_option_reply(option: int, reply: OptionReply, data: bytes = b"") -> bytes:
    """A reply to an option with its data."""
    return _OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, reply, len(data)) + data


def decode_option_reply(data: bytes | memoryview) -> OptionReplyHeader:
    """Decode the 20 bytes before the data of a reply to an option."""
    _need(data, OPTION_REPLY_HEADER_BYTES, "option reply")
    magic, option, reply, length_bytes = _OPTION_REPLY.unpack(data)
    _check_magic(magic, _OPTION_REPLY_MAGIC, "option reply")
    if length_bytes > OPTION_MAX_BYTES:
        raise NbdProtocolError(f"an option reply of {length_bytes} bytes")
    return OptionReplyHeader(option, reply, length_bytes)


def decode_export(data: bytes | memoryview) -> Export:
    """Decode size and transmission flags; unknown flags are ignored, as the protocol asks."""
    _need(data, EXPORT_INFO_BYTES, "export")
    size_bytes, flags = _EXPORT.unpack(data)
    known = flags & sum(ExportFlag)
    return Export(size_bytes, ExportFlag(known))


def decode_name(data: bytes) -> str:
    """An export name as sent with EXPORT_NAME: bounded UTF-8."""
    if len(data) > NAME_MAX_BYTES:
        raise NbdProtocolError(f"an export name of {len(data)} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise NbdProtocolError("an export name that is not UTF-8") from error


def decode_info_request(data: bytes) -> InfoRequest:
    """Decode the data of INFO and GO."""
    if len(data) < 6:
        raise NbdProtocolError("an information request too short for its fields")
    name_bytes = int.from_bytes(data[:4], "big")
    count_at = 4 + name_bytes
    count = int.from_bytes(data[count_at : count_at + 2], "big")
    if len(data) != count_at + 2 + 2 * count:
        raise NbdProtocolError("an information request whose lengths disagree")
    infos = struct.unpack_from(f">{count}H", data, count_at + 2)
    return InfoRequest(decode_name(data[4:count_at]), infos)


def encode_info(info: Info, body: bytes) -> bytes:
    """One information: its type, then its body."""
    return int(info).to_bytes(2, "big") + body


def encode_server_name(name: str) -> bytes:
    """One entry of a LIST: length of the name, then the name."""
    raw = name.encode()
    return len(raw).to_bytes(4, "big") + raw


_ERRORS: Final = {
    errno.EPERM: errno.EPERM,
    errno.EACCES: errno.EPERM,
    errno.EROFS: errno.EPERM,
    errno.EIO: errno.EIO,
    errno.ENOMEM: errno.ENOMEM,
    errno.EINVAL: errno.EINVAL,
    errno.ENOSPC: errno.ENOSPC,
    errno.EDQUOT: errno.ENOSPC,
    errno.EFBIG: errno.ENOSPC,
    errno.EOVERFLOW: errno.EOVERFLOW,
    errno.ENOTSUP: errno.ENOTSUP,
    errno.ESHUTDOWN: errno.ESHUTDOWN,
}


def error_of(error: OSError) -> int:
    """The NBD error for an OSError: the protocol knows eight, all else is EIO.

    Their numbers are Linux's own; EDQUOT and EFBIG become ENOSPC as the protocol asks.
    """
    return _ERRORS.get(error.errno or errno.EIO, errno.EIO)


def check_request(request: Request, *, size_bytes: int, read_only: bool, align_bytes: int) -> int:
    """0, or the NBD error a request must be answered with before the backend sees it.

    The errors are those the protocol names: EPERM for a change of a read-only export, ENOSPC
    for a write and EINVAL for a read or trim beyond the end, EINVAL for all that makes no sense.
    """
    command, length_bytes = request.command, request.length_bytes
    allowed = CommandFlag.FUA
    if command == Command.WRITE_ZEROES:
        allowed |= CommandFlag.NO_HOLE
    if command not in _SERVED or request.flags & ~int(allowed):
        return errno.EINVAL
    if command == Command.FLUSH:
        return errno.EINVAL if request.offset_bytes or length_bytes else 0
    if command != Command.READ and read_only:
        return errno.EPERM
    if command == Command.READ and length_bytes > PAYLOAD_MAX_BYTES:
        return errno.EINVAL
    if request.offset_bytes + length_bytes > size_bytes:
        return errno.ENOSPC if command in _GROWING else errno.EINVAL
    if request.offset_bytes % align_bytes or length_bytes % align_bytes:
        return errno.EINVAL
    return 0


_SERVED: Final = frozenset(Command) - {Command.DISCONNECT}
_GROWING: Final = frozenset({Command.WRITE, Command.WRITE_ZEROES})


def _need(data: bytes | memoryview, length_bytes: int, what: str) -> None:
    if len(data) != length_bytes:
        raise NbdProtocolError(f"a {what} of {len(data)} bytes instead of {length_bytes}")


def _check_magic(found: int, expected: int, what: str) -> None:
    if found != expected:
        raise NbdProtocolError(f"bad magic {found:#x} of a {what}")
