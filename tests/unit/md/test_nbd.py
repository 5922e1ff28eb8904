"""The NBD server against real clients, its own client, and clients that misbehave."""

import asyncio
import errno
import json
import logging
import os
import random
import shutil
import socket
import stat
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from mdcluster.errors import MdclusterError
from mdcluster.md import nbd_protocol as proto
from mdcluster.md.nbd import NbdLimits, NbdServer, NbdServerError
from mdcluster.md.nbd_client import (
    NbdClient,
    NbdConnectError,
    NbdDisconnectedError,
    NbdRequestError,
)
from mdcluster.md.nbd_protocol import (
    Command,
    CommandFlag,
    ExportFlag,
    HandshakeFlag,
    Info,
    InfoRequest,
    Option,
    OptionReply,
    Request,
)

MIB = 1 << 20
BLOCK = 4096
TIMEOUT_S = 20.0
CLIENT_FLAGS = proto.encode_client_flags(HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES)
GO = proto.encode_option(Option.GO, InfoRequest("").pack())


class MemoryBackend:
    """An array in memory that holds, fails and records on request."""

    def __init__(self, size_bytes: int = 8 * MIB, *, read_only: bool = False) -> None:
        self.size_bytes = size_bytes
        self.read_only = read_only
        self.data = bytearray(size_bytes)
        self.calls: list[tuple[str, int, int]] = []
        self.fua: list[bool] = []
        self.failure: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()
        self.short_bytes = 0
        self.writes_done = 0
        self._begun: dict[str, int] = defaultdict(int)
        self._changed = asyncio.Condition()

    async def _begin(self, name: str, offset_bytes: int, length_bytes: int) -> None:
        self.calls.append((name, offset_bytes, length_bytes))
        async with self._changed:
            self._begun[name] += 1
            self._changed.notify_all()
        if self.failure is not None:
            raise self.failure

    async def begun(self, name: str, count: int) -> None:
        """Wait until that many calls of `name` have begun."""
        async with asyncio.timeout(TIMEOUT_S), self._changed:
            await self._changed.wait_for(lambda: self._begun[name] >= count)

    async def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        await self._begin("read", offset_bytes, length_bytes)
        end_bytes = offset_bytes + length_bytes - self.short_bytes
        return bytes(self.data[offset_bytes:end_bytes])

    async def write(self, offset_bytes: int, data: memoryview | bytes, *, fua: bool) -> None:
        await self._begin("write", offset_bytes, len(data))
        self.fua.append(fua)
        await self.open.wait()
        self.data[offset_bytes : offset_bytes + len(data)] = data
        self.writes_done += 1

    async def flush(self) -> None:
        await self._begin("flush", 0, 0)

    async def trim(self, offset_bytes: int, length_bytes: int) -> None:
        await self._begin("trim", offset_bytes, length_bytes)


@pytest.fixture
async def backend() -> MemoryBackend:
    return MemoryBackend()


@asynccontextmanager
async def serving(
    path: Path, backend: MemoryBackend, *, limits: NbdLimits | None = None, align_bytes: int = 1
) -> AsyncIterator[NbdServer]:
    server = NbdServer(path, "r1", backend, limits=limits, align_bytes=align_bytes)
    await server.start()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            yield server
    finally:
        backend.open.set()
        await server.stop(1.0)
        assert server.connections == 0


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    return tmp_path / "r1.nbd"


@pytest.fixture
async def server(path: Path, backend: MemoryBackend) -> AsyncIterator[NbdServer]:
    async with serving(path, backend) as running:
        yield running


class RawClient:
    """Bytes in, bytes out: for what a decent client never sends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, path: Path, *first: bytes) -> "RawClient":
        client = cls(*await asyncio.open_unix_connection(path))
        await client.reader.readexactly(proto.GREETING_BYTES)
        client.writer.writelines(first)
        return client

    @classmethod
    async def transmitting(cls, path: Path) -> "RawClient":
        client = await cls.connect(path, CLIENT_FLAGS, GO)
        assert (await client.option_reply())[0] == OptionReply.INFO
        assert (await client.option_reply())[0] == OptionReply.ACK
        return client

    async def option_reply(self) -> tuple[int, bytes]:
        head = await self.reader.readexactly(proto.OPTION_REPLY_HEADER_BYTES)
        header = proto.decode_option_reply(head)
        return header.reply, await self.reader.readexactly(header.length_bytes)

    async def reply(self) -> proto.Reply:
        return proto.decode_reply(await self.reader.readexactly(proto.REPLY_BYTES))

    async def leave(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    async def ended(self) -> bytes:
        """All that still comes until the server ends the connection."""
        async with asyncio.timeout(TIMEOUT_S):
            try:
                return await self.reader.read()
            except ConnectionResetError:  # the server closed with bytes of ours unread
                return b""
            finally:
                with suppress(ConnectionError):
                    await self.leave()


async def settled(condition: Callable[[], bool]) -> None:
    """Let the loop run until `condition` holds."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110  (nothing announces the end of a connection)
            await asyncio.sleep(0)


async def run_tool(*argv: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def uri(path: Path, export: str = "r1") -> str:
    return f"nbd+unix:///{export}?socket={path}"


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


# --- real clients ---------------------------------------------------------------------------


@needs("nbdinfo")
@pytest.mark.parametrize("export", ["r1", ""])
async def test_nbdinfo_sees_the_export(server: NbdServer, path: Path, export: str) -> None:
    code, out, err = await run_tool("nbdinfo", "--json", uri(path, export))
    assert code == 0, err
    seen = json.loads(out)
    info = seen["exports"][0]
    assert seen["protocol"] == "newstyle-fixed"
    assert info["export-size"] == 8 * MIB
    assert info["block_size_maximum"] == 32 * MIB
    expected = {"is_read_only": False, "can_flush": True, "can_fua": True, "can_trim": True,
                "can_zero": True, "can_multi_conn": True}  # fmt: skip
    assert {key: info[key] for key in expected} == expected


@needs("nbdinfo")
async def test_nbdinfo_lists_and_is_told_of_unknown_exports(server: NbdServer, path: Path) -> None:
    code, out, err = await run_tool("nbdinfo", "--list", "--json", uri(path, ""))
    assert code == 0, err
    assert [entry["export-name"] for entry in json.loads(out)["exports"]] == ["r1"]
    code, _, err = await run_tool("nbdinfo", uri(path, "r2"))
    assert code != 0
    assert "r2" in err


@needs("nbdinfo")
async def test_nbdinfo_sees_read_only_and_alignment(path: Path) -> None:
    async with serving(path, MemoryBackend(read_only=True), align_bytes=512):
        code, out, err = await run_tool("nbdinfo", "--json", uri(path))
    assert code == 0, err
    info = json.loads(out)["exports"][0]
    assert info["is_read_only"] is True
    assert info["block_size_minimum"] == 512


@needs("qemu-io")
async def test_qemu_io_reads_what_it_wrote(
    server: NbdServer, path: Path, backend: MemoryBackend
) -> None:
    commands = ("write -P 7 1M 2M", "write -f -P 9 3M 64k", "read -P 7 1M 2M", "read -P 9 3M 64k",
                "flush", "discard 6M 1M", "write -z 2M 1M", "read -P 0 2M 1M")  # fmt: skip
    argv = [word for command in commands for word in ("-c", command)]
    code, out, err = await run_tool("qemu-io", "-f", "raw", *argv, uri(path))
    assert code == 0, out + err
    assert "Pattern verification failed" not in out
    assert backend.data[MIB : 2 * MIB] == b"\x07" * MIB
    assert True in backend.fua
    assert ("trim", 6 * MIB, MIB) in backend.calls


@needs("nbdcopy")
async def test_nbdcopy_both_ways_over_several_connections(
    server: NbdServer, path: Path, backend: MemoryBackend, tmp_path: Path
) -> None:
    content = random.Random(1).randbytes(backend.size_bytes)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content)
    code, _, err = await run_tool("nbdcopy", "--flush", str(source), uri(path))
    assert code == 0, err
    assert backend.data == content
    code, _, err = await run_tool("nbdcopy", uri(path), str(target))
    assert code == 0, err
    assert target.read_bytes() == content


# --- own client -----------------------------------------------------------------------------


async def test_many_requests_in_flight_keep_their_data(
    server: NbdServer, path: Path, backend: MemoryBackend
) -> None:
    blocks = {at: random.Random(at).randbytes(BLOCK) for at in range(0, backend.size_bytes, BLOCK)}
    async with await NbdClient.connect(path, "r1", requests_max=200) as client:
        await asyncio.gather(*(client.write(at, block) for at, block in blocks.items()))
        found = await asyncio.gather(*(client.read(at, BLOCK) for at in blocks))
    assert list(map(bytes, found)) == list(blocks.values())


async def test_the_largest_request_is_served(path: Path) -> None:
    content = random.Random(2).randbytes(proto.PAYLOAD_MAX_BYTES)
    async with (
        serving(path, MemoryBackend(proto.PAYLOAD_MAX_BYTES)),
        await NbdClient.connect(path) as client,
    ):
        await client.write(0, content)
        assert await client.read(0, len(content)) == content


async def test_flags_and_commands_reach_the_backend(
    server: NbdServer, path: Path, backend: MemoryBackend
) -> None:
    async with await NbdClient.connect(path) as client:
        assert client.size_bytes == backend.size_bytes
        assert not client.read_only
        assert ExportFlag.CAN_MULTI_CONN in client.flags
        await client.write(0, b"\xff" * 512, fua=True)
        await client.write(512, b"\xff" * 512)
        await client.flush()
        await client.trim(0, 512, fua=True)
        await client.write_zeroes(0, 2 * MIB + 512, fua=True)
        await client.write(0, b"")
    assert backend.fua == [True, False, True, True, True]
    assert backend.calls == [
        ("write", 0, 512), ("write", 512, 512), ("flush", 0, 0),
        ("trim", 0, 512), ("flush", 0, 0),
        ("write", 0, MIB), ("write", MIB, MIB), ("write", 2 * MIB, 512),
    ]  # fmt: skip
    assert backend.data[:1024] == bytes(1024)


async def test_a_held_write_does_not_stop_reads(
    server: NbdServer, path: Path, backend: MemoryBackend
) -> None:
    backend.open.clear()
    async with await NbdClient.connect(path) as client:
        held = asyncio.create_task(client.write(0, b"x" * BLOCK))
        await backend.begun("write", 1)
        for _ in range(100):
            assert await client.read(0, BLOCK) == bytes(BLOCK)
        assert not held.done()
        backend.open.set()
        await held
        assert await client.read(0, BLOCK) == b"x" * BLOCK


async def test_requests_in_flight_are_bounded(path: Path, backend: MemoryBackend) -> None:
    backend.open.clear()
    async with (
        serving(path, backend, limits=NbdLimits(requests_max=4)),
        await NbdClient.connect(path) as client,
        await NbdClient.connect(path) as other,
    ):
        writes = [asyncio.create_task(client.write(n * BLOCK, b"x" * BLOCK)) for n in range(6)]
        read = asyncio.create_task(client.read(0, BLOCK))
        await backend.begun("write", 4)
        for _ in range(20):  # the other connection is served meanwhile
            await other.read(MIB, BLOCK)
        assert sum(call[0] == "write" for call in backend.calls) == 4
        assert ("read", 0, BLOCK) not in backend.calls
        backend.open.set()
        await asyncio.gather(*writes, read)


async def test_bytes_in_flight_are_bounded(path: Path) -> None:
    backend = MemoryBackend(40 * MIB)
    backend.open.clear()
    limits = NbdLimits(payload_max_bytes=proto.PAYLOAD_MAX_BYTES)
    async with (
        serving(path, backend, limits=limits),
        await NbdClient.connect(path) as client,
        await NbdClient.connect(path) as other,
    ):
        write = asyncio.create_task(client.write(0, bytes(20 * MIB)))
        await backend.begun("write", 1)
        read = asyncio.create_task(client.read(20 * MIB, 20 * MIB))
        for _ in range(20):
            await other.read(0, BLOCK)
        assert ("read", 20 * MIB, 20 * MIB) not in backend.calls
        backend.open.set()
        await asyncio.gather(write, read)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (OSError(errno.EIO, "leg"), errno.EIO),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError(errno.EROFS, "ro"), errno.EPERM),
        (OSError(errno.ESHUTDOWN, "stopping"), errno.ESHUTDOWN),
        (OSError(errno.ENXIO, "gone"), errno.EIO),
        (MdclusterError("the last member failed"), errno.EIO),
    ],
)
async def test_backend_errors_are_mapped_and_the_connection_lives(
    server: NbdServer, path: Path, backend: MemoryBackend, failure: Exception, expected: int
) -> None:
    async with await NbdClient.connect(path) as client:
        backend.failure = failure
        for request in (client.read(0, 512), client.write(0, bytes(512)), client.flush()):
            with pytest.raises(NbdRequestError) as caught:
                await request
            assert caught.value.errno == expected
        backend.failure = None
        assert len(await client.read(0, 512)) == 512


async def test_a_short_read_of_the_backend_is_an_error(
    server: NbdServer, path: Path, backend: MemoryBackend
) -> None:
    async with await NbdClient.connect(path) as client:
        backend.short_bytes = 1
        with pytest.raises(NbdRequestError) as caught:
            await client.read(0, 512)
        assert caught.value.errno == errno.EIO
        backend.short_bytes = 0
        assert await client.read(0, 512) == bytes(512)


async def test_a_bug_drops_its_connection_only_even_at_the_bound(
    path: Path, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serving(path, backend, limits=NbdLimits(requests_max=1)) as server,
        await NbdClient.connect(path) as other,
    ):
        client = await NbdClient.connect(path)
        backend.failure = RuntimeError("planted")
        results = await asyncio.gather(
            *(client.read(n * 512, 512) for n in range(3)), return_exceptions=True
        )
        assert all(isinstance(result, NbdDisconnectedError) for result in results)
        await client.close()
        backend.failure = None
        assert await other.read(0, 512) == bytes(512)
        await settled(lambda: server.connections == 1)
    assert "planted" in caplog.text


async def test_a_cancelled_request_leaves_the_connection_usable(
    server: NbdServer, path: Path, backend: MemoryBackend
) -> None:
    backend.open.clear()
    async with await NbdClient.connect(path, requests_max=2) as client:
        held = asyncio.create_task(client.write(0, b"x" * 512))
        await backend.begun("write", 1)
        held.cancel()
        await asyncio.wait([held])
        assert await client.read(0, 512) == bytes(512)
        backend.open.set()
        assert (
            await asyncio.gather(*(client.read(BLOCK, 512) for _ in range(4))) == [bytes(512)] * 4
        )


async def test_the_client_says_why_it_cannot_connect(server: NbdServer, path: Path) -> None:
    with pytest.raises(NbdConnectError, match="No such file"):
        await NbdClient.connect(path.with_name("none"))
    with pytest.raises(NbdConnectError, match="this socket serves 'r1'"):
        await NbdClient.connect(path, "r2")


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-", b"x" * 18, bytes(4000)])
async def test_the_client_survives_strange_servers(tmp_path: Path, greeting: bytes) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        writer.close()

    async with await asyncio.start_unix_server(serve, tmp_path / "s"):
        with pytest.raises(NbdConnectError):
            await NbdClient.connect(tmp_path / "s", timeout_s=5)


# --- handshakes -----------------------------------------------------------------------------


async def test_export_name_with_and_without_padding(server: NbdServer, path: Path) -> None:
    name = proto.encode_option(Option.EXPORT_NAME, b"r1")
    for flags, padding_bytes in ((3, 0), (1, proto.EXPORT_PADDING_BYTES)):
        client = await RawClient.connect(
            path, proto.encode_client_flags(HandshakeFlag(flags)), name
        )
        head = await client.reader.readexactly(proto.EXPORT_INFO_BYTES + padding_bytes)
        assert proto.decode_export(head[: proto.EXPORT_INFO_BYTES]).size_bytes == 8 * MIB
        assert not any(head[proto.EXPORT_INFO_BYTES :])
        client.writer.write(
            Request(Command.FLUSH, 5).pack() + Request(Command.DISCONNECT, 6).pack()
        )
        assert await client.reply() == proto.Reply(5)
        assert await client.ended() == b""


async def test_options_refused_do_not_end_the_handshake(server: NbdServer, path: Path) -> None:
    client = await RawClient.connect(path, CLIENT_FLAGS)
    structured_reply, start_tls = 8, 5
    refused = [
        (structured_reply, b"", OptionReply.ERR_UNSUP),
        (start_tls, b"", OptionReply.ERR_UNSUP),
        (0xFFFFFFFF, b"abc", OptionReply.ERR_UNSUP),
        (Option.LIST, b"x", OptionReply.ERR_INVALID),
        (Option.GO, b"", OptionReply.ERR_INVALID),
        (Option.GO, b"\xff" * 6, OptionReply.ERR_INVALID),
        (Option.INFO, InfoRequest("r1").pack() + b"x", OptionReply.ERR_INVALID),
        (Option.INFO, b"\0\0\0\1\xff\0\0", OptionReply.ERR_INVALID),
        (Option.GO, InfoRequest("r2").pack(), OptionReply.ERR_UNKNOWN),
    ]
    for option, data, expected in refused:
        client.writer.write(proto.encode_option(option, data))
        assert (await client.option_reply())[0] == expected
    asked = InfoRequest("", (Info.NAME, Info.BLOCK_SIZE, 999))
    client.writer.write(proto.encode_option(Option.GO, asked.pack()))
    replies = [await client.option_reply() for _ in range(4)]
    assert [reply for reply, _ in replies] == [OptionReply.INFO] * 3 + [OptionReply.ACK]
    assert replies[1][1] == b"\0\1r1"
    client.writer.write(Request(Command.READ, 9, 0, 4).pack())
    assert await client.reply() == proto.Reply(9)
    await client.leave()


async def test_abort_is_acknowledged(server: NbdServer, path: Path) -> None:
    client = await RawClient.connect(path, CLIENT_FLAGS, proto.encode_option(Option.ABORT))
    assert await client.option_reply() == (OptionReply.ACK, b"")
    assert await client.ended() == b""


BROKEN_HANDSHAKES = {
    "unknown client flags": b"\xff\xff\xff\xff",
    "bad magic": CLIENT_FLAGS + b"GET / HTTP/1.1\r\n",
    "bytes of data": CLIENT_FLAGS + proto.encode_option(Option.GO, bytes(9000)),
    "there is no export 'r2'": CLIENT_FLAGS + proto.encode_option(Option.EXPORT_NAME, b"r2"),
    "not UTF-8": CLIENT_FLAGS + proto.encode_option(Option.EXPORT_NAME, b"\xff"),
    "more than 256 options": CLIENT_FLAGS + proto.encode_option(99) * 300,
}


@pytest.mark.parametrize("reason", BROKEN_HANDSHAKES)
async def test_a_broken_handshake_ends_the_connection_with_one_line(
    server: NbdServer, path: Path, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    client = await RawClient.connect(path, BROKEN_HANDSHAKES[reason])
    await client.ended()
    await settled(lambda: server.connections == 0)
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert reason in warnings[0].getMessage()
    assert f"pid {os.getpid()}" in warnings[0].getMessage()


async def test_a_silent_client_is_dropped(
    path: Path, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(path, backend, limits=NbdLimits(handshake_ms=20)):
        client = await RawClient.connect(path, CLIENT_FLAGS)
        assert await client.ended() == b""
    assert "did not finish negotiating" in caplog.text


async def test_random_bytes_do_no_harm(
    server: NbdServer, path: Path, backend: MemoryBackend
) -> None:
    """Garbage after each stage, and valid requests with bytes flipped."""
    rng = random.Random(3)
    stages = [b"", CLIENT_FLAGS, CLIENT_FLAGS + GO]
    for _ in range(300):
        junk = bytearray(rng.randbytes(rng.randrange(200)))
        if rng.random() < 0.5:
            request = Request(rng.randrange(8), 1, rng.randrange(9 * MIB), rng.randrange(BLOCK))
            junk = bytearray(request.pack()) + junk
            junk[rng.randrange(len(junk))] ^= 1 << rng.randrange(8)
        client = await RawClient.connect(path, rng.choice(stages), bytes(junk))
        client.writer.write_eof()
        await client.ended()
    await settled(lambda: server.connections == 0)
    async with await NbdClient.connect(path) as good:
        await good.write(0, b"y" * 512)
        assert await good.read(0, 512) == b"y" * 512


# --- requests that misbehave ----------------------------------------------------------------


async def test_refused_requests_leave_the_stream_in_step(
    server: NbdServer, path: Path, backend: MemoryBackend
) -> None:
    client = await RawClient.transmitting(path)
    size = backend.size_bytes
    refused = [
        (Request(Command.READ, 1, size, 1), b"", errno.EINVAL),
        (Request(Command.READ, 2, 0, proto.PAYLOAD_MAX_BYTES + 1), b"", errno.EINVAL),
        (Request(Command.WRITE, 3, size - 1, 512), bytes(512), errno.ENOSPC),
        (Request(Command.WRITE, 4, 0, 512, 1 << 15), bytes(512), errno.EINVAL),
        (Request(Command.TRIM, 5, 1, size), b"", errno.EINVAL),
        (Request(77, 6), b"", errno.EINVAL),
        (Request(Command.FLUSH, 7, 512, 0, CommandFlag.FUA), b"", errno.EINVAL),
    ]
    for request, payload, expected in refused:
        client.writer.write(request.pack() + payload)
        assert await client.reply() == proto.Reply(request.cookie, expected)
    assert backend.calls == []
    client.writer.write(Request(Command.FLUSH, 8).pack())
    assert await client.reply() == proto.Reply(8)
    await client.leave()


async def test_a_read_only_export_refuses_writes(path: Path) -> None:
    backend = MemoryBackend(read_only=True)
    async with serving(path, backend), await NbdClient.connect(path) as client:
        assert client.read_only
        for request in (client.write(0, b"x"), client.trim(0, 1), client.write_zeroes(0, 1)):
            with pytest.raises(NbdRequestError) as caught:
                await request
            assert caught.value.errno == errno.EPERM
        assert bytes(await client.read(0, 1)) == b"\0"


async def test_misaligned_requests_are_refused(path: Path, backend: MemoryBackend) -> None:
    async with (
        serving(path, backend, align_bytes=512),
        await NbdClient.connect(path) as client,
    ):
        with pytest.raises(NbdRequestError) as caught:
            await client.write(1, bytes(512))
        assert caught.value.errno == errno.EINVAL
        await client.write(512, bytes(512))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0" * proto.REQUEST_BYTES, "bad magic"),
        (Request(Command.WRITE, 1, 0, proto.PAYLOAD_MAX_BYTES + 1).pack(), "at most"),
    ],
)
async def test_what_cannot_be_answered_drops_the_connection(
    server: NbdServer, path: Path, caplog: pytest.LogCaptureFixture, data: bytes, reason: str
) -> None:
    client = await RawClient.transmitting(path)
    client.writer.write(data)
    assert await client.ended() == b""
    await settled(lambda: server.connections == 0)
    lines = [record for record in caplog.records if "dropped" in record.getMessage()]
    assert len(lines) == 1
    assert reason in lines[0].getMessage()


@pytest.mark.parametrize("sent_bytes", [10, 28, 28 + 512, 28 + 200_000])
async def test_a_write_cut_short_is_never_begun(
    server: NbdServer, path: Path, backend: MemoryBackend, sent_bytes: int
) -> None:
    client = await RawClient.transmitting(path)
    whole = Request(Command.WRITE, 1, 0, MIB).pack() + b"x" * MIB
    client.writer.write(whole[:sent_bytes])
    client.writer.write_eof()
    assert await client.ended() == b""
    await settled(lambda: server.connections == 0)
    assert backend.calls == []


async def test_a_held_write_is_finished_though_its_client_died(
    server: NbdServer, path: Path, backend: MemoryBackend
) -> None:
    backend.open.clear()
    client = await NbdClient.connect(path)
    held = asyncio.create_task(client.write(0, b"z" * 512))
    await backend.begun("write", 1)
    await client.abort()
    with pytest.raises(NbdDisconnectedError):
        await held
    assert server.connections == 1
    backend.open.set()
    await settled(lambda: server.connections == 0)
    assert backend.data[:512] == b"z" * 512


async def test_disconnect_waits_for_what_is_in_flight(
    server: NbdServer, path: Path, backend: MemoryBackend
) -> None:
    backend.open.clear()
    client = await NbdClient.connect(path)
    held = asyncio.create_task(client.write(0, b"z" * 512))
    await backend.begun("write", 1)
    closing = asyncio.create_task(client.close())
    async with await NbdClient.connect(path) as other:
        await other.read(0, 512)
    assert not closing.done()
    backend.open.set()
    await closing
    await held


async def test_close_does_not_wait_for_ever_for_a_held_write(
    server: NbdServer, path: Path, backend: MemoryBackend
) -> None:
    backend.open.clear()
    client = await NbdClient.connect(path)
    held = asyncio.create_task(client.write(0, b"z" * 512))
    await backend.begun("write", 1)
    await client.close(0.01)
    with pytest.raises(NbdDisconnectedError):
        await held


# --- start and stop -------------------------------------------------------------------------


async def test_the_socket_is_private_and_removed(path: Path, backend: MemoryBackend) -> None:
    server = NbdServer(path, "r1", backend)
    for _ in range(2):  # it can be started again
        await server.start()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        await server.stop()
        assert not path.exists()
    await server.stop()


async def test_a_stale_socket_is_replaced(path: Path, backend: MemoryBackend) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(path, backend), await NbdClient.connect(path) as client:
        assert client.size_bytes == backend.size_bytes


async def test_a_live_socket_is_refused(
    server: NbdServer, path: Path, backend: MemoryBackend
) -> None:
    with pytest.raises(NbdServerError, match="another server answers"):
        await NbdServer(path, "r2", backend).start()
    with pytest.raises(NbdServerError, match="already started"):
        await server.start()
    async with await NbdClient.connect(path) as client:
        assert client.size_bytes == backend.size_bytes


async def test_what_is_not_ours_stays(tmp_path: Path, path: Path, backend: MemoryBackend) -> None:
    path.write_text("precious")
    with pytest.raises(NbdServerError, match="not a socket"):
        await NbdServer(path, "r1", backend).start()
    assert path.read_text() == "precious"
    with pytest.raises(NbdServerError, match="cannot serve"):
        await NbdServer(tmp_path / "none" / "s", "r1", backend).start()
    with pytest.raises(NbdServerError, match="too long"):
        await NbdServer(tmp_path / ("s" * 120), "r1", backend).start()


async def test_stop_leaves_the_socket_of_a_successor(path: Path, backend: MemoryBackend) -> None:
    first, second = NbdServer(path, "r1", backend), NbdServer(path, "r1", backend)
    await first.start()
    path.rename(path.with_name("away"))
    await second.start()
    await first.stop()
    assert path.exists()
    await second.stop()
    assert not path.exists()


async def test_stop_answers_what_is_in_flight(path: Path, backend: MemoryBackend) -> None:
    server = NbdServer(path, "r1", backend)
    await server.start()
    backend.open.clear()
    client = await NbdClient.connect(path)
    held = asyncio.create_task(client.write(0, b"z" * 512))
    await backend.begun("write", 1)
    stopping = asyncio.create_task(server.stop(TIMEOUT_S))
    await settled(lambda: not path.exists())
    backend.open.set()
    await asyncio.gather(stopping, held)
    assert server.connections == 0
    with pytest.raises(NbdDisconnectedError):
        await client.read(0, 512)
    await client.close()


async def test_stop_gives_up_held_writes_after_the_drain_time(
    path: Path, backend: MemoryBackend
) -> None:
    server = NbdServer(path, "r1", backend)
    await server.start()
    backend.open.clear()
    client = await NbdClient.connect(path)
    held = asyncio.create_task(client.write(0, b"z" * 512))
    await backend.begun("write", 1)
    await server.stop(0.01)
    assert server.connections == 0
    with pytest.raises(NbdDisconnectedError):
        await held
    await client.close()
    assert backend.writes_done == 0


async def test_connections_are_bounded(
    path: Path, backend: MemoryBackend, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serving(path, backend, limits=NbdLimits(connections_max=2)) as server,
        await NbdClient.connect(path) as first,
    ):
        second = await NbdClient.connect(path)
        assert server.connections == 2
        with pytest.raises(NbdConnectError):
            await NbdClient.connect(path)
        assert "2 connections are the limit" in caplog.text
        await second.close()
        await settled(lambda: server.connections == 1)
        async with await NbdClient.connect(path) as third:
            assert await third.read(0, 512) == await first.read(0, 512)


@pytest.mark.parametrize(
    "limits", [{"requests_max": 0}, {"payload_max_bytes": MIB}, {"connections_max": 0}]
)
def test_impossible_limits_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        NbdLimits(**limits)
