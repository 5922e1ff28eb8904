"""Strangers, garbage, wrong configuration, two of one identity: refused, counted, said once.

Each test has two good nodes that must not notice.
"""

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import zmq

from mdcluster.mesh import hello as frames
from mdcluster.mesh.hello import Greeting
from mdcluster.mesh.roster import Line
from tests.unit.mesh.kit import (
    LIMITS,
    Lab,
    Node,
    established,
    eventually,
    hello,
    introduce,
    laboratory,
    uuid_of,
)


@contextlib.asynccontextmanager
async def good_pair() -> AsyncIterator[tuple[Lab, Node, Node]]:
    """Two nodes that are up, and must be so, undisturbed, at the end."""
    async with laboratory() as lab:
        a, b = await lab.node(1), await lab.node(2)
        await lab.meet(a, b)
        yield lab, a, b
        assert not a.downs
        assert not b.downs
        assert a.mesh.send(b.me.node, b"still here")
        await eventually(lambda: b.inbox[-1:] == [(a.me.node, b"still here")])
        await eventually(lambda: established(a, b) == 1, "every other connection is gone")


@contextlib.contextmanager
def dealer(node: Node) -> Iterator[zmq.Socket[bytes]]:
    """A stranger that speaks ZeroMQ."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    sock = context.socket(zmq.DEALER)
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.RECONNECT_IVL, -1)
    sock.connect(f"tcp://127.0.0.1:{node.ports[0]}")
    try:
        yield sock
    finally:
        context.destroy(linger=0)


async def answer(sock: zmq.Socket[bytes]) -> bytes:
    await eventually(lambda: sock.poll(0), "an answer")
    return sock.recv()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n" * 20, b"\xff" * 100, b"\0" * 64, b""])
async def test_raw_tcp_garbage(data: bytes) -> None:
    async with good_pair() as (_, a, b):
        for _ in range(3):
            before = sum(b.mesh.refusals.values())
            _, writer = await asyncio.open_connection("127.0.0.1", b.ports[0])
            writer.write(data)
            with contextlib.suppress(ConnectionError):  # refused already
                await writer.drain()
            if data:
                writer.close()
            await eventually(lambda before=before: sum(b.mesh.refusals.values()) > before)  # type: ignore[misc]
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        assert set(b.mesh.refusals) <= {"not-zeromq", "no-hello", "garbage"}
        assert len(b.warnings("127.0.0.1: refused")) == len(b.mesh.refusals)
        assert not a.mesh.refusals


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([b"garbage"], "garbage"),
        ([b""], "garbage"),
        ([b"\x04data before hello"], "garbage"),
        ([b"\x02"], "garbage"),
        ([b"\x01mdcl\x00\x01\x00\x01garbage"], "garbage"),
        ([b"\x01mdcl\x00\x02\x00\x09anything"], "version"),
        ([b"\x01mdcl\x00\x00\x00\x00anything"], "version"),
        ([b"two", b"parts"], "garbage"),
    ],
)
async def test_a_stranger_that_speaks_zeromq(parts: list[bytes], reason: str) -> None:
    async with good_pair() as (_, _, b):
        for _ in range(3):
            with dealer(b) as sock:
                sock.send_multipart(parts)
                said = await answer(sock)
                assert said.startswith(b"\x03mdcl" + reason.encode())
        assert b.mesh.refusals == {reason: 3}
        assert len(b.warnings("refused")) == 1


async def test_a_silent_or_stubborn_stranger_is_hung_up_on() -> None:
    async with good_pair() as (_, a, b):
        with dealer(b) as silent, dealer(b) as stubborn:
            stubborn.send(b"garbage")
            await answer(stubborn)
            await eventually(lambda: established(a, b) == 1)
            assert silent.poll(0) == 0
        assert b.mesh.refusals == {"garbage": 1, "no-hello": 1}


async def test_oversized_frames_end_that_connection_only() -> None:
    async with good_pair() as (_, _, b):
        with dealer(b) as sock:
            sock.send(b"x" * 100_000)
            await eventually(lambda: b.count("no-hello") == 1)
        assert "oversized" in b.warnings("refused")[0]


async def test_an_oversized_payload_of_a_peer() -> None:
    async with laboratory() as lab:
        a = await lab.node(1, limits=dataclasses.replace(LIMITS, payload_max_bytes=6000))
        b = await lab.node(2)
        await lab.meet(a, b)
        assert a.mesh.send(b.me.node, b"x" * 6000)
        assert a.mesh.send(b.me.node, b"x" * 6000)
        assert a.mesh.send(b.me.node, b"small")
        await eventually(lambda: b.inbox)
        assert b.inbox == [(a.me.node, b"small")]
        assert b.mesh.refusals == {"oversize": 2}
        assert len(b.warnings("oversize")) == 1


async def test_too_many_connections() -> None:
    async with laboratory() as lab:
        a = await lab.node(1, limits=dataclasses.replace(LIMITS, connections_max=2))
        b = await lab.node(2, limits=dataclasses.replace(LIMITS, connections_max=2))
        await lab.meet(a, b)
        await eventually(lambda: established(a, b) == 1)
        with dealer(b), dealer(b), dealer(b):
            await eventually(lambda: b.count("too-many") == 2)
        assert b.sees(a)


@pytest.mark.parametrize("stranger", [0, 9], ids=["dials", "is dialled"])
@pytest.mark.parametrize(
    ("changes", "reason", "text"),
    [
        ({"cluster": "other"}, "cluster", "cluster 'other'"),
        ({"versions": (2, 3)}, "version", "protocol versions"),
        ({"timing_digest": "x"}, "timings", "different timings"),
        ({"voters_digest": "x"}, "voters", "different voters"),
        ({"node": uuid_of(2)}, "own-uuid", "our own UUID"),
    ],
)
async def test_mismatch_is_refused_on_both_sides(
    stranger: int, changes: dict[str, Any], reason: str, text: str
) -> None:
    async with good_pair() as (lab, a, b):
        c = await lab.node(hello(stranger, **changes))
        c.mesh.reload([b.line])
        b.mesh.reload([a.line, c.line])
        await eventually(
            lambda: b.count(reason) >= 3 and sum(c.mesh.refusals.values()) >= 3, "refused by both"
        )
        # Whoever is refused one way gives up in the middle of its handshake the other way.
        assert set(b.mesh.refusals) <= {reason, "by-peer", "not-zeromq"}
        assert set(c.mesh.refusals) <= {reason, "by-peer", "not-zeromq"}
        assert len(b.warnings(f"refused ({reason})")) <= 2  # by name and, as a stranger, by address
        assert any(text in line for line in b.heard.lines)
        assert any(text in line for line in c.heard.lines)
        assert b.mesh.links()[1].refusal
        assert c.mesh.links()[0].refusal
        assert not c.ups
        c.mesh.reload([])
        b.mesh.reload([a.line])


async def test_voters_do_not_matter_once_one_is_formed() -> None:
    async with laboratory() as lab:
        a = await lab.node(hello(1, voters_digest="x", formed=True))
        b = await lab.node(hello(2, voters_digest="y"))
        await lab.meet(a, b)


async def test_update_changes_what_hello_says() -> None:
    async with laboratory() as lab:
        a, b = await lab.node(hello(1, voters_digest="x")), await lab.node(2)
        introduce(a, b)
        await eventually(lambda: a.count("voters") + a.count("by-peer") >= 2)
        a.mesh.update(hello(1, voters_digest="v"))
        await lab.all_up(a, b)
        assert not a.mesh.links()[0].refusal
        with pytest.raises(Exception, match="cannot change its UUID"):
            a.mesh.update(hello(5))


async def test_version_ranges_need_to_overlap_only() -> None:
    async with laboratory() as lab:
        a = await lab.node(hello(1, versions=(1, 4)))
        b = await lab.node(hello(2, versions=(3, 9)))
        await lab.meet(a, b)
        assert frames.agreed_version(a.me, b.ups[0]) == 4
        assert a.ups[0].versions == (3, 9)


async def test_a_name_nobody_listed() -> None:
    async with good_pair() as (lab, _, b):
        c = await lab.node(9)
        c.mesh.reload([b.line])
        await eventually(lambda: b.count("name") >= 3 and c.count("by-peer") >= 3)
        assert len(b.warnings("node 'n9' is not in clusterips")) == 1
        assert len(c.warnings("the peer refused us: name: node 'n9'")) == 1
        c.mesh.reload([])


async def test_another_name_than_the_line_says() -> None:
    async with good_pair() as (lab, a, b):
        c = await lab.node(9)
        c.mesh.reload([b.line])
        b.mesh.reload([a.line, Line("n5", c.mesh.addresses)])
        text = "node 'n9' answers where clusterips has 'n5'"
        await eventually(lambda: b.warnings(text) and c.count("by-peer") >= 2)
        assert "refused us: name: node 'n9'" in c.mesh.links()[0].refusal
        assert b.mesh.links()[1].refusal
        b.mesh.reload([a.line])
        c.mesh.reload([])


async def test_a_known_name_from_another_address() -> None:
    async with good_pair() as (lab, a, b):
        c = await lab.node(9, hosts=("127.0.0.3",))
        c.mesh.reload([b.line])
        b.mesh.reload([a.line, Line("n9", (("127.0.0.4", c.ports[0]),))])
        await eventually(lambda: b.count("address") >= 2 and c.count("by-peer") >= 2)
        assert len(b.warnings("node 'n9' comes from 127.0.0.3, clusterips has 127.0.0.4")) == 1
        c.mesh.reload([])


async def test_our_own_address_as_a_peer() -> None:
    async with good_pair() as (_, a, b):
        a.mesh.reload([b.line, Line("n7", a.mesh.addresses)])
        await eventually(lambda: a.count("own-uuid") >= 2)
        assert a.warnings("the address of 'n7' in clusterips is our own") or a.warnings(
            "the address of a peer in clusterips is our own"
        )
        a.mesh.reload([b.line])


@pytest.mark.parametrize("number", [1, 9], ids=["smaller", "larger"])
async def test_the_same_identity_twice(number: int) -> None:
    """A copied state directory: the one that is up stays, the second is refused."""
    async with laboratory() as lab:
        b = await lab.node(5)
        first = await lab.node(number)
        await lab.meet(b, first)
        second = await lab.node(number)
        second.mesh.reload([b.line])
        await eventually(lambda: b.count("duplicate") >= 3 and second.count("by-peer") >= 3)
        assert len(b.warnings("refused (duplicate)")) == 1
        assert "two daemons with one identity" in second.heard.lines[-1]
        assert not b.downs
        assert not second.ups


@pytest.mark.parametrize("number", [1, 9], ids=["smaller", "larger"])
async def test_a_later_start_replaces_the_earlier(number: int) -> None:
    async with laboratory() as lab:
        b = await lab.node(5)
        first = await lab.node(number)
        await lab.meet(b, first)
        second = await lab.node(hello(number, boot_count=2), ports=())
        second.mesh.reload([b.line])
        if number > 5:  # b dials: it has to find the new one at the address of the line
            await first.mesh.stop()
            b.mesh.reload([second.line])
        await eventually(lambda: second.sees(b) and b.sees(second) and b.ups[-1].boot_count == 2)
        assert len(b.downs) == 1
        if number < 5:
            assert b.downs[0] == (first.me.node, "the node has started again")
            await eventually(lambda: first.count("by-peer") >= 2, "the earlier is turned away")
            assert b.sees(second)


async def test_one_name_with_two_uuids() -> None:
    async with laboratory() as lab:
        b = await lab.node(5)
        first = await lab.node(1)
        await lab.meet(b, first)
        second = await lab.node(hello(2, name="n1"))
        second.mesh.reload([b.line])
        await eventually(lambda: b.count("duplicate") >= 2)
        assert b.warnings(f"name 'n1' is in use by node {uuid_of(1)}, not {uuid_of(2)}")
        await first.mesh.stop()
        await eventually(lambda: b.sees(second))


async def test_a_payload_the_codec_did_not_accept() -> None:
    async with good_pair() as (_, a, b):
        b.mesh.refuse_payload(a.me.node, "message: unknown class 'Later'")
        b.mesh.refuse_payload(a.me.node, "message: unknown class 'Later'")
        assert b.mesh.refusals == {"payload": 2}
        assert b.warnings("n1: refused (payload): message: unknown class 'Later'")
        assert len(b.warnings("payload")) == 1


async def test_unknown_frames_of_a_peer_are_dropped() -> None:
    async with good_pair() as (_, a, b):
        session = a.mesh.roster.peers["n2"].live
        assert session is not None
        for frame in (b"\x09later", b"", b"\x02"):
            assert session.send(frame)
        await eventually(lambda: b.count("garbage") == 3)
        assert len(b.warnings("refused (garbage)")) == 1


async def test_the_log_is_bounded_and_forgets_what_was_mended() -> None:
    async with laboratory() as lab:
        a, b = await lab.node(hello(1, timing_digest="x")), await lab.node(2)
        introduce(a, b)
        await eventually(lambda: b.count("timings") >= 1)
        a.mesh.update(hello(1))
        await lab.all_up(a, b)
        refusal = frames.compare(hello(1), hello(2, timing_digest="x"))
        assert refusal is not None
        before = len(b.warnings("refused (timings)"))
        b.mesh.refused(refusal, "n1")
        assert len(b.warnings("refused (timings)")) == before + 1
        for number in range(1000):
            b.mesh.refused(refusal, f"stranger {number}")
        assert len(b.mesh._refusals._said) <= 256


def test_hello_frame_round_trip_and_limits() -> None:
    greeting = Greeting(hello(1), 2**63)
    assert frames.read_hello(frames.hello_frame(greeting), (1, 1)) == greeting
    for changes in (
        {"cluster": ""},
        {"name": "x" * 256},
        {"name": "tab\t"},
        {"node": "UPPER"},
        {"node": uuid_of(0xABC).upper()},
        {"versions": (3, 2)},
    ):
        with pytest.raises(ValueError, match=r"HELLO|empty|UUID|versions|badly"):
            hello(1, **changes)
    refusal = frames.read_refuse(b"\x03mdcl" + b"\xff\x1b[31m" * 500)
    assert len(refusal.text) < 600
    assert "\x1b" not in refusal.text


async def test_frames_of_any_kind_are_refused_or_dropped() -> None:
    """Frames near to valid ones, before and after HELLO."""
    rng = random.Random(20)
    async with good_pair() as (_, a, b):
        valid = [
            frames.hello_frame(Greeting(hello(1), 7)),
            frames.hello_frame(Greeting(hello(9), 7)),
            frames.hello_frame(b.mesh.roster.me),
            b"\x02",
            b"\x03mdclcluster: no",
            b"\x04data",
        ]
        for _ in range(60):
            with dealer(b) as sock:
                for _ in range(4):
                    frame = bytearray(rng.choice(valid))
                    if rng.random() < 0.7:
                        frame[rng.randrange(len(frame))] = rng.randrange(256)
                    sock.send(bytes(frame[: rng.randrange(1, len(frame) + 1)]))
                said = await answer(sock)
                assert said[:1] == frames.REFUSE
        assert not b.inbox
        assert sum(b.mesh.refusals.values()) >= 60
        assert len(b.heard.lines) < 30
        assert not a.mesh.refusals


async def test_nothing_is_delivered_before_ready() -> None:
    async with laboratory() as lab:
        b = await lab.node(5)
        b.mesh.reload([Line("n1", (("127.0.0.1", 1),))])
        with dealer(b) as sock:
            sock.send(frames.hello_frame(Greeting(hello(1), 7)))
            assert (await answer(sock))[:1] == frames.HELLO
            sock.send(b"\x04too early")
            assert (await answer(sock)).startswith(b"\x03mdclgarbage")
        assert not b.inbox
        assert not b.ups


async def test_a_connection_lost_on_one_side_only_is_replaced() -> None:
    """The dialler made a new connection; the listener still holds the old one for live."""
    async with laboratory() as lab:
        a, b = await lab.node(1), await lab.node(2)
        await lab.meet(a, b)
        with dealer(b) as sock:
            sock.send(frames.hello_frame(a.mesh.roster.me))
            assert (await answer(sock))[:1] == frames.HELLO
            sock.send(b"\x02")
            await eventually(lambda: b.downs)
            assert b.downs == [(a.me.node, "the node has connected again")]
        await eventually(lambda: len(a.ups) >= 2 and a.sees(b) and b.sees(a))
        assert not b.count("duplicate")
        await eventually(lambda: established(a, b) == 1)
