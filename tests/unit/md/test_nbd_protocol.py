"""The NBD codec: what goes out comes back, and whatever comes in ends in a value or one error."""

import errno
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.md import nbd_protocol as proto
from mdcluster.md.nbd_protocol import Command, CommandFlag, NbdProtocolError, Reply, Request

U16 = st.integers(0, (1 << 16) - 1)
U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
MIB = 1 << 20


@given(st.builds(Request, U16, U64, U64, U32, U16))
def test_requests_round_trip(request: Request) -> None:
    assert proto.decode_request(request.pack()) == request


@given(st.builds(Reply, U64, U32))
def test_replies_round_trip(reply: Reply) -> None:
    assert proto.decode_reply(reply.pack()) == reply


@given(st.text(max_size=200), st.lists(U16, max_size=20))
def test_information_requests_round_trip(name: str, infos: list[int]) -> None:
    request = proto.InfoRequest(name, tuple(infos))
    assert proto.decode_info_request(request.pack()) == request


DECODERS: tuple[Callable[[bytes], object], ...] = (
    proto.decode_request,
    proto.decode_reply,
    proto.decode_greeting,
    proto.decode_client_flags,
    proto.decode_option,
    proto.decode_option_reply,
    proto.decode_export,
    proto.decode_name,
    proto.decode_info_request,
)


@pytest.mark.parametrize("decode", DECODERS)
@given(data=st.binary(max_size=64))
def test_garbage_gives_a_value_or_a_protocol_error(
    decode: Callable[[bytes], object], data: bytes
) -> None:
    try:
        decode(data)
    except NbdProtocolError as error:
        assert str(error)


def test_a_name_beyond_the_limit_is_refused() -> None:
    with pytest.raises(NbdProtocolError, match="4097 bytes"):
        proto.decode_name(b"x" * 4097)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (Request(Command.READ, 1, 0, MIB), 0),
        (Request(Command.READ, 1, MIB - 512, 512), 0),
        (Request(Command.READ, 1, MIB, 512), errno.EINVAL),
        (Request(Command.READ, 1, (1 << 64) - 512, 1024), errno.EINVAL),
        (Request(Command.READ, 1, 0, proto.PAYLOAD_MAX_BYTES + 512), errno.EINVAL),
        (Request(Command.WRITE, 1, MIB - 512, 1024), errno.ENOSPC),
        (Request(Command.WRITE_ZEROES, 1, 0, MIB + 512), errno.ENOSPC),
        (Request(Command.TRIM, 1, 0, MIB + 512), errno.EINVAL),
        (Request(Command.READ, 1, 1, 512), errno.EINVAL),
        (Request(Command.WRITE, 1, 0, 511), errno.EINVAL),
        (Request(Command.FLUSH, 1), 0),
        (Request(Command.FLUSH, 1, 0, 512), errno.EINVAL),
        (Request(Command.WRITE, 1, 0, 512, CommandFlag.FUA), 0),
        (Request(Command.WRITE, 1, 0, 512, CommandFlag.NO_HOLE), errno.EINVAL),
        (Request(Command.WRITE_ZEROES, 1, 0, 512, CommandFlag.NO_HOLE), 0),
        (Request(Command.READ, 1, 0, 512, 1 << 9), errno.EINVAL),
        (Request(5, 1, 0, 512), errno.EINVAL),
        (Request(999, 1), errno.EINVAL),
    ],
)
def test_requests_are_checked(request_: Request, expected: int) -> None:
    found = proto.check_request(request_, size_bytes=MIB, read_only=False, align_bytes=512)
    assert found == expected


@pytest.mark.parametrize("command", [Command.WRITE, Command.TRIM, Command.WRITE_ZEROES])
def test_a_read_only_export_refuses_changes(command: Command) -> None:
    request = Request(command, 1, 0, 512)
    assert (
        proto.check_request(request, size_bytes=MIB, read_only=True, align_bytes=1) == errno.EPERM
    )


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EIO, errno.EIO),
        (errno.ENOSPC, errno.ENOSPC),
        (errno.EDQUOT, errno.ENOSPC),
        (errno.EFBIG, errno.ENOSPC),
        (errno.EPERM, errno.EPERM),
        (errno.EROFS, errno.EPERM),
        (errno.EACCES, errno.EPERM),
        (errno.EINVAL, errno.EINVAL),
        (errno.ENOMEM, errno.ENOMEM),
        (errno.ESHUTDOWN, errno.ESHUTDOWN),
        (errno.ENOTSUP, errno.ENOTSUP),
        (errno.ENODEV, errno.EIO),
        (errno.ETIMEDOUT, errno.EIO),
        (None, errno.EIO),
    ],
)
def test_os_errors_become_nbd_errors(number: int | None, expected: int) -> None:
    error = OSError("no number") if number is None else OSError(number, "text")
    assert proto.error_of(error) == expected
