"""Server and client over a real unix socket: replies, events, limits, retries, bad company."""

import asyncio
import contextlib
import json
import os
import random
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mdcluster.control import client as client_module
from mdcluster.control.arrays import ArrayDetail, SyncInfo, Waited
from mdcluster.control.client import Client, RefusedError, socket_path
from mdcluster.control.errors import (
    LostError,
    NoDaemonError,
    ProtocolError,
    SilentError,
    SocketInUseError,
)
from mdcluster.control.protocol import (
    CLIENTS_MAX,
    IN_FLIGHT_MAX,
    LINE_MAX_BYTES,
    NO_ID,
    EventLine,
    Reply,
    Request,
    State,
    decode_answer,
    encode,
)
from mdcluster.control.server import ControlServer, ReplySink
from mdcluster.control.shape import build, plain
from mdcluster.control.verbs import ArrayArgs, NoArgs, StopArgs, Verb
from tests.unit.control.fake import FakeDaemon, answers
from tests.unit.control.samples import DETAIL, SYNC

WAIT_MAX_S = 10.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


async def done(request: Request, sink: ReplySink) -> None:
    sink.done("fine", {"verb": request.verb})


@contextlib.asynccontextmanager
async def serving(
    path: Path,
    handler: Callable[[Request, ReplySink], Awaitable[None]] = done,
    keepalive_s: float = 5.0,
) -> AsyncIterator[ControlServer]:
    server = ControlServer(path, handler, keepalive_s=keepalive_s)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


class Peer:
    """A raw connection, for what the client would never send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def of(cls, path: Path) -> "Peer":
        return cls(*await asyncio.open_unix_connection(path, limit=2 * LINE_MAX_BYTES))

    def send(self, number: int, verb: str, **args: Any) -> None:
        self.writer.write(encode(Request(number, verb, args)))

    async def receive(self) -> Reply | EventLine | None:
        async with asyncio.timeout(WAIT_MAX_S):
            line = await self.reader.readline()
        return decode_answer(line) if line else None

    def close(self) -> None:
        self.writer.close()


# --- client and server together ----------------------------------------------------------


def test_a_request_and_its_typed_answer(path: Path) -> None:
    with FakeDaemon(path, answers({"detail": DETAIL})) as daemon, Client(path) as client:
        assert client.ask(Verb.DETAIL, ArrayArgs("data"), ArrayDetail) == DETAIL
        assert client.ask(Verb.DETAIL, ArrayArgs("data"), ArrayDetail) == DETAIL
    assert [request.id for request in daemon.requests] == [1, 2]


def test_waiting_replies_come_before_the_final_one(path: Path) -> None:
    async def wait(request: Request, sink: ReplySink) -> None:
        sink.waiting("recover", SYNC)
        sink.waiting("the last window")
        sink.done("", Waited(True))

    seen: list[Reply] = []
    with FakeDaemon(path, wait), Client(path) as client:
        waited = client.ask(Verb.WAIT, ArrayArgs("data"), Waited, seen.append)
    assert waited == Waited(True)
    assert [reply.text for reply in seen] == ["recover", "the last window"]
    assert build(SyncInfo, seen[0].data, "wait") == SYNC


def test_a_refusal_is_an_error_with_the_reason(path: Path) -> None:
    with (
        FakeDaemon(path, answers({"stop": ["array data is in use on node b"]})),
        Client(path) as client,
        pytest.raises(RefusedError, match="in use on node b"),
    ):
        client.call(Verb.STOP, StopArgs("p1", "data"))


def test_answers_that_do_not_fit_are_errors(path: Path) -> None:
    with (
        FakeDaemon(path, answers({"detail": {"name": 3}})),
        Client(path) as client,
        pytest.raises(ProtocolError, match=r"answer to detail\.name"),
    ):
        client.ask(Verb.DETAIL, ArrayArgs("data"), ArrayDetail)


def test_events_are_streamed_by_kind(path: Path) -> None:
    with FakeDaemon(path, done) as daemon, Client(path) as client:
        stream = client.events(("writer",))
        asked = threading.Event()

        def publish() -> None:
            while not asked.is_set():
                daemon.publish("beat", n=1)
                daemon.publish("writer", node="b", term=4)
                asked.wait(0.01)

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            assert next(stream) == EventLine("writer", {"node": "b", "term": 4})
        finally:
            asked.set()
            thread.join()


def test_no_daemon_is_explained(path: Path) -> None:
    with pytest.raises(NoDaemonError, match=rf"{path}; start it .* --socket or MDCLUSTER_SOCKET"):
        Client(path).call(Verb.STATUS, NoArgs())
    path.write_text("")
    with pytest.raises(NoDaemonError, match="no daemon listens"):
        Client(path).call(Verb.STATUS, NoArgs())
    with pytest.raises(NoDaemonError, match="cannot connect"):
        Client("/tmp/" + "x" * 200).call(Verb.STATUS, NoArgs())


def test_the_socket_is_chosen_by_option_then_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MDCLUSTER_SOCKET", raising=False)
    assert socket_path() == "/run/mdcluster/control.sock"
    monkeypatch.setenv("MDCLUSTER_SOCKET", "/tmp/env.sock")
    assert socket_path() == "/tmp/env.sock"
    assert socket_path("/tmp/option.sock") == "/tmp/option.sock"


# --- a daemon that misbehaves ------------------------------------------------------------


@contextlib.contextmanager
def scripted(path: Path, *scripts: bytes | None) -> Iterator[list[bytes]]:
    """Serves one connection for each script: reads a line, sends it (None: nothing), closes."""
    lines: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    over = threading.Event()

    def serve() -> None:
        for script in scripts:
            with listener.accept()[0] as peer:
                lines.append(peer.makefile("rb").readline())
                if script is None:
                    over.wait(WAIT_MAX_S)
                else:
                    peer.sendall(script)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        over.set()
        thread.join(WAIT_MAX_S)
        listener.close()


def test_a_lost_request_is_sent_again_under_the_same_proposal(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "RETRY_FIRST_S", 0.001)
    last = encode(Reply(3, State.DONE, "once"))
    with scripted(path, b"", b"", last) as lines, Client(path) as client:
        assert client.call(Verb.STOP, StopArgs("p1", "data")).text == "once"
    assert [json.loads(line)["args"]["proposal"] for line in lines] == ["p1"] * 3


def test_it_gives_up_and_says_that_the_outcome_is_unknown(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "RETRY_FIRST_S", 0.001)
    with (
        scripted(path, *[b""] * client_module.ATTEMPTS_MAX),
        Client(path) as client,
        pytest.raises(LostError, match="whether the change was made is not known"),
    ):
        client.call(Verb.STOP, StopArgs("p1", "data"))


def test_a_daemon_that_dies_for_good_leaves_the_outcome_unknown(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "RETRY_FIRST_S", 0.001)
    with (
        scripted(path, b"") as lines,
        Client(path) as client,
        pytest.raises(LostError, match="whether the change was made is not known"),
    ):

        def leave(seconds: float) -> None:
            path.unlink(missing_ok=True)

        monkeypatch.setattr(time, "sleep", leave)
        client.call(Verb.STOP, StopArgs("p1", "data"))
    assert len(lines) == 1


def test_a_silent_daemon_is_not_waited_for_for_ever(
    path: Path,
) -> None:
    with (
        scripted(path, None) as lines,
        Client(path, silence_s=0.05) as client,
        pytest.raises(SilentError, match=r"silent for 0\.05 s"),
    ):
        client.call(Verb.STATUS, NoArgs())
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "not a line of JSON"),
        (b"x" * (LINE_MAX_BYTES + 70_000), "line of more than"),
        (b'{"id": 1, "state": "perhaps"}\n', "'state'"),
    ],
)
def test_a_stranger_on_the_socket_is_an_error(path: Path, sent: bytes, said: str) -> None:
    with (
        scripted(path, sent),
        Client(path) as client,
        pytest.raises(ProtocolError, match=said),
    ):
        client.call(Verb.STATUS, NoArgs())


# --- limits ------------------------------------------------------------------------------


async def test_bad_lines_get_a_clear_error_and_the_connection_stays(path: Path) -> None:
    async with serving(path):
        peer = await Peer.of(path)
        for bad, number in (
            (b"rubbish\n", NO_ID),
            (b'{"id": 4, "verb": "dance"}\n', 4),
            (b'{"id": 5, "verb": "detail"}\n', 5),
        ):
            peer.writer.write(bad)
            reply = await peer.receive()
            assert isinstance(reply, Reply)
            assert (reply.id, reply.state) == (number, State.REFUSED)
            assert reply.text.startswith("bad request: ")
        peer.send(6, "status")
        assert await peer.receive() == Reply(6, State.DONE, "fine", {"verb": "status"})
        peer.close()


async def test_garbage_from_many_clients_does_no_harm(path: Path) -> None:
    dice = random.Random(7)
    async with serving(path) as server:
        for _ in range(40):
            peer = await Peer.of(path)
            for _ in range(dice.randrange(5)):
                good = encode(Request(dice.randrange(1, 99), dice.choice(list(Verb)), {}))
                cut = bytearray(good[: dice.randrange(len(good) + 1)])
                if cut:
                    cut[dice.randrange(len(cut))] = dice.randrange(256)
                peer.writer.write(bytes(cut) + b"\n" * dice.randrange(2))
            with contextlib.suppress(ConnectionError):
                peer.writer.write_eof()
                while await peer.receive() is not None:
                    pass
            peer.close()
        async with asyncio.timeout(WAIT_MAX_S):
            while server.client_count:  # noqa: ASYNC110  nothing tells
                await asyncio.sleep(0)
        peer = await Peer.of(path)
        peer.send(1, "status")
        assert await peer.receive() == Reply(1, State.DONE, "fine", {"verb": "status"})
        peer.close()


async def test_a_line_without_end_is_refused(path: Path) -> None:
    async with serving(path):
        peer = await Peer.of(path)
        peer.writer.write(b"x" * (LINE_MAX_BYTES + 10))
        assert await peer.receive() == Reply(
            NO_ID, State.REFUSED, f"a line of more than {LINE_MAX_BYTES} bytes"
        )
        with contextlib.suppress(ConnectionError):
            assert await peer.receive() is None
        peer.close()


async def test_clients_are_bounded_and_a_place_is_given_back(path: Path) -> None:
    async with serving(path) as server:
        peers = [await Peer.of(path) for _ in range(CLIENTS_MAX)]
        for peer in peers:
            peer.send(1, "status")
            assert await peer.receive()
        one_more = await Peer.of(path)
        refusal = await one_more.receive()
        assert isinstance(refusal, Reply)
        assert "too many clients" in refusal.text
        assert await one_more.receive() is None
        one_more.close()
        peers.pop().close()
        async with asyncio.timeout(WAIT_MAX_S):
            while server.client_count == CLIENTS_MAX:  # noqa: ASYNC110  nothing tells
                await asyncio.sleep(0)
        again = await Peer.of(path)
        again.send(1, "status")
        assert await again.receive() == Reply(1, State.DONE, "fine", {"verb": "status"})
        for peer in (*peers, again):
            peer.close()


async def test_requests_in_flight_are_bounded(path: Path) -> None:
    go = asyncio.Event()

    async def slow(request: Request, sink: ReplySink) -> None:
        await go.wait()
        sink.done()

    async with serving(path, slow):
        peer = await Peer.of(path)
        for number in range(1, IN_FLIGHT_MAX + 2):
            peer.send(number, "status")
        refusal = await peer.receive()
        assert isinstance(refusal, Reply)
        assert (refusal.id, refusal.state) == (IN_FLIGHT_MAX + 1, State.REFUSED)
        peer.send(1, "status")
        twice = await peer.receive()
        assert isinstance(twice, Reply)
        assert "id 1 is already in use" in twice.text
        go.set()
        got = [await peer.receive() for _ in range(IN_FLIGHT_MAX)]
        assert {reply.id for reply in got if isinstance(reply, Reply)} == set(
            range(1, IN_FLIGHT_MAX + 1)
        )
        peer.close()


async def test_a_client_that_does_not_read_is_dropped_and_delays_nobody(path: Path) -> None:
    async with serving(path) as server:
        lazy, keen = await Peer.of(path), await Peer.of(path)
        for peer in (lazy, keen):
            peer.send(1, "events")
            first = await peer.receive()
            assert isinstance(first, Reply)
            assert first.state is State.WAITING
        lazy.reader._transport.pause_reading()  # type: ignore[attr-defined]
        got = 0
        async with asyncio.timeout(WAIT_MAX_S):
            while server.client_count == 2:
                server.publish("log", text="x" * 100_000)
                assert isinstance(await keen.receive(), EventLine)
                got += 1
        assert got < 200
        server.publish("after")
        assert await keen.receive() == EventLine("after", {})
        lazy.writer.transport.abort()
        keen.close()


async def test_the_last_reason_is_repeated_while_it_waits(path: Path) -> None:
    async def stuck(request: Request, sink: ReplySink) -> None:
        sink.waiting("node c")
        await asyncio.Event().wait()

    async with serving(path, stuck, keepalive_s=0.01):
        peer = await Peer.of(path)
        peer.send(1, "why")
        for _ in range(3):
            assert await peer.receive() == Reply(1, State.WAITING, "node c")
        peer.close()


async def test_a_handler_is_cancelled_when_its_client_goes(path: Path) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def stuck(request: Request, sink: ReplySink) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with serving(path, stuck):
        peer = await Peer.of(path)
        peer.send(1, "status")
        async with asyncio.timeout(WAIT_MAX_S):
            await started.wait()
            peer.close()
            await cancelled.wait()


async def test_a_handler_that_fails_or_forgets_is_answered_for(path: Path) -> None:
    async def bad(request: Request, sink: ReplySink) -> None:
        if request.verb == "why":
            raise SocketInUseError("a reason")
        if request.verb == "status":
            raise ZeroDivisionError

    async with serving(path, bad):
        peer = await Peer.of(path)
        for number, (verb, said) in enumerate(
            (("why", "a reason"), ("status", "a fault in the daemon"), ("mdstat", "no answer")), 1
        ):
            peer.send(number, verb)
            reply = await peer.receive()
            assert isinstance(reply, Reply)
            assert reply.state is State.REFUSED
            assert said in reply.text
        peer.close()


async def test_an_answer_too_long_for_a_line_becomes_a_refusal(path: Path) -> None:
    async def long(request: Request, sink: ReplySink) -> None:
        sink.done("", ["x" * 1000] * 1100)

    async with serving(path, long):
        peer = await Peer.of(path)
        peer.send(1, "arrays")
        reply = await peer.receive()
        assert isinstance(reply, Reply)
        assert reply.state is State.REFUSED
        assert "at most 1048576" in reply.text
        peer.close()


# --- the socket itself -------------------------------------------------------------------


async def test_the_socket_is_for_its_owner_only_and_goes_with_the_server(path: Path) -> None:
    async with serving(path):
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    assert not path.exists()


async def test_a_dead_daemons_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(path):
        peer = await Peer.of(path)
        peer.send(1, "status")
        assert await peer.receive()
        peer.close()


async def test_a_living_daemons_socket_and_a_file_are_left_alone(path: Path) -> None:
    async with serving(path):
        with pytest.raises(SocketInUseError, match="another daemon owns"):
            await ControlServer(path, done).start()
        assert path.exists()
    path.write_text("precious")
    with pytest.raises(SocketInUseError, match="not a socket"):
        await ControlServer(path, done).start()
    assert path.read_text() == "precious"


async def test_a_path_too_long_or_not_writable_is_explained(path: Path) -> None:
    with pytest.raises(SocketInUseError, match="at most 107 bytes"):
        await ControlServer("/tmp/" + "x" * 200, done).start()
    path.write_text("")
    with pytest.raises(SocketInUseError, match="cannot make"):
        await ControlServer(path / "below.sock", done).start()


async def test_close_ends_clients_and_is_quick(path: Path) -> None:
    async def stuck(request: Request, sink: ReplySink) -> None:
        await asyncio.Event().wait()

    server = ControlServer(path, stuck)
    await server.start()
    peer = await Peer.of(path)
    peer.send(1, "status")
    peer.send(2, "events")
    assert await peer.receive()
    before = time.monotonic()
    await server.close()
    assert time.monotonic() - before < WAIT_MAX_S
    with contextlib.suppress(ConnectionError):
        assert await peer.receive() is None
    peer.close()
    assert not os.path.lexists(path)


def test_plain_leaves_json_values_alone() -> None:
    assert plain({"a": [SYNC, None, 1.5]}) == {"a": [plain(SYNC), None, 1.5]}
