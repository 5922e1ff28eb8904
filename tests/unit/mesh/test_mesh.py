"""Meshes on loopback: one connection per pair, loss and return, two links, reload, stop."""

import asyncio
import dataclasses
import os
import socket

import pytest
import zmq

from mdcluster.mesh.errors import MeshError
from mdcluster.mesh.resolve import resolve
from mdcluster.mesh.roster import Line, LinkState
from mdcluster.mesh.tcp import hang_up
from tests.unit.mesh.kit import (
    LIMITS,
    Lab,
    Node,
    established,
    eventually,
    hello,
    introduce,
    laboratory,
)


def cut(node: Node, link: int) -> None:
    """Break the TCP connection of one of the node's links, as a network would."""
    (peer,) = node.mesh.roster.peers.values()
    session = peer.links[link].session
    assert session is not None
    ends = session.ends
    for fd in map(int, os.listdir("/proc/self/fd")):
        hang_up(fd, ends)
        hang_up(fd, (ends[1], ends[0]))


async def test_three_nodes_one_connection_per_pair_the_smaller_dials() -> None:
    async with laboratory() as lab:
        a, b, c = [await lab.node(number) for number in (1, 2, 3)]
        await lab.meet(a, b, c)
        await eventually(lambda: established(a, b, c) == 3, "three connections")
        assert established(a) == 0
        assert established(b) == 1
        assert established(c) == 2
        assert a.states() == b.states() == c.states() == [LinkState.UP] * 2
        assert [link.dialled for link in a.mesh.links()] == [True, True]
        assert [link.dialled for link in b.mesh.links()] == [False, True]
        assert [link.dialled for link in c.mesh.links()] == [False, False]
        assert a.mesh.refusals == b.mesh.refusals == c.mesh.refusals == {}


async def test_payloads_arrive_in_order_and_are_counted() -> None:
    async with laboratory() as lab:
        a, b = await lab.node(1), await lab.node(2)
        await lab.meet(a, b)
        sent = [bytes([i]) * (i + 1) for i in range(100)]
        assert all(a.mesh.send(b.me.node, payload) for payload in sent)
        assert b.mesh.send(a.me.node, b"")
        await eventually(lambda: len(b.inbox) == 100 and a.inbox)
        assert b.inbox == [(a.me.node, payload) for payload in sent]
        assert a.inbox == [(b.me.node, b"")]
        (there,), (here,) = a.mesh.links(), b.mesh.links()
        size = sum(map(len, sent))
        assert (there.messages_out, there.bytes_out, there.messages_in) == (100, size, 1)
        assert (here.messages_in, here.bytes_in, here.messages_out) == (100, size, 1)
        assert there.remote == here.local == f"127.0.0.1:{b.ports[0]}"
        assert there.local == here.remote
        assert (there.name, there.node, there.index) == ("n2", b.me.node, 0)


async def test_send_never_blocks_and_is_bounded() -> None:
    async with laboratory() as lab:
        a, b = await lab.node(1), await lab.node(2)
        assert a.mesh.send(b.me.node, b"x") is False
        await lab.meet(a, b)
        payload = b"x" * 4096
        taken = 0
        while a.mesh.send(b.me.node, payload):  # nobody reads: the loop does not turn
            taken += 1
            assert taken < 100_000
        await eventually(lambda: len(b.inbox) == taken)
        assert a.mesh.send(b.me.node, b"again")
        assert a.mesh.send(b.me.node, b"x" * 4097) is False
        assert a.count("oversize") == 1


async def test_a_restarted_node_comes_back_both_ways() -> None:
    async with laboratory() as lab:
        a, b, c = [await lab.node(number) for number in (1, 2, 3)]
        await lab.meet(a, b, c)
        await restart(lab, c, a, b)
        a2 = await restart(lab, a, b, lab.nodes[-1])
        assert [link.dialled for link in a2.mesh.links()] == [True, True]


async def restart(lab: Lab, old: Node, *others: Node) -> Node:
    """Stop a node and start it again on the same port, as its next boot."""
    await old.mesh.stop()
    await lab.all_up(*others)
    assert all(n.downs[-1] == (old.me.node, "the connection has closed") for n in others)
    new = await lab.node(dataclasses.replace(old.me, boot_count=2), ports=old.ports)
    introduce(new, *others)
    await lab.all_up(new, *others)
    await eventually(lambda: established(new, *others) == 3)
    assert others[0].ups[-1].boot_count == 2
    return new


async def test_a_broken_connection_is_noticed_and_made_again() -> None:
    async with laboratory() as lab:
        a, b = await lab.node(1), await lab.node(2)
        await lab.meet(a, b)
        cut(a, 0)
        await eventually(lambda: a.downs and b.downs)
        await lab.all_up(a, b)
        assert a.mesh.send(b.me.node, b"1")
        assert b.mesh.send(a.me.node, b"2")
        await eventually(lambda: a.inbox and b.inbox)
        await eventually(lambda: established(a, b) == 1)


async def test_two_links_and_one_cut() -> None:
    hosts = ("127.0.0.1", "127.0.0.2")
    async with laboratory() as lab:
        a, b = await lab.node(1, hosts=hosts), await lab.node(2, hosts=hosts)
        await lab.meet(a, b)
        await eventually(lambda: established(a, b) == 2, "a connection per link")
        await eventually(lambda: a.states() == b.states() == [LinkState.UP] * 2)
        first, second = a.mesh.links()
        assert first.local.startswith("127.0.0.1:")
        assert second.local.startswith("127.0.0.2:")
        # Number i goes to number i alone: close b's first port for good.
        a.mesh.roster.peers["n2"].may_dial.clear()
        cut(a, 0)
        await eventually(lambda: a.states()[0] is not LinkState.UP is not b.states()[0])
        assert not a.downs
        assert not b.downs
        assert a.mesh.send(b.me.node, b"over the second")
        await eventually(lambda: b.inbox)
        assert [link.messages_in for link in b.mesh.links()] == [0, 1]
        a.mesh.roster.peers["n2"].may_dial.set()
        await eventually(lambda: a.states() == b.states() == [LinkState.UP] * 2)
        assert len(a.ups) == len(b.ups) == 1
        cut(a, 0)
        cut(a, 1)
        await eventually(lambda: len(a.downs) == len(b.downs) == 1)
        await lab.all_up(a, b)


async def test_fewer_addresses_make_fewer_links() -> None:
    async with laboratory() as lab:
        a = await lab.node(1, hosts=("127.0.0.1", "127.0.0.2"))
        b = await lab.node(2)
        await lab.meet(a, b)
        assert len(a.mesh.links()) == len(b.mesh.links()) == 1


async def test_ipv6_and_names() -> None:
    async with laboratory() as lab:
        a = await lab.node(1, hosts=("::1", "localhost"))
        b = await lab.node(2, hosts=("::1", "localhost"))
        for me, other in ((a, b), (b, a)):
            port = other.ports[1]
            me.mesh.reload([Line(other.me.name, (other.line.addresses[0], ("localhost", port)))])
        await lab.all_up(a, b)
        await eventually(lambda: a.states() == b.states() == [LinkState.UP] * 2)
        assert a.mesh.links()[0].remote == f"[::1]:{b.ports[0]}"
        await eventually(lambda: established(a, b) == 2)  # whoever dialled in vain has closed


async def test_an_unknown_name_is_said_once_and_disturbs_nobody() -> None:
    async with laboratory() as lab:
        a, b = await lab.node(1), await lab.node(2)
        lines = [Line("n9", (("no.such.host.invalid", 4711),))]
        a.mesh.reload([b.line, *lines])
        b.mesh.reload([a.line])
        await eventually(lambda: a.sees(b) and a.count("resolve") >= 2)
        assert len(a.warnings("no.such.host.invalid")) == 1
        assert "cannot be resolved" in a.mesh.links()[1].refusal
        assert a.states()[1] is LinkState.REFUSED


async def test_reload_adds_and_removes() -> None:
    async with laboratory() as lab:
        a, b = await lab.node(1), await lab.node(2)
        await lab.meet(a, b)
        c = await lab.node(3)
        introduce(a, b, c)
        await lab.all_up(a, b, c)
        assert len(a.ups) == 2
        assert not a.downs, "an unchanged peer is not disturbed"
        c.mesh.reload([a.line])
        a.mesh.reload([c.line])
        b.mesh.reload([])
        await eventually(lambda: a.sees(c) and c.sees(a) and b.sees())
        await eventually(lambda: established(a, b, c) == 1)
        assert a.mesh.send(b.me.node, b"x") is False
        with pytest.raises(MeshError, match="must all differ"):
            a.mesh.reload([c.line, c.line])
        assert a.sees(c)


async def test_reload_before_start_and_after_stop() -> None:
    async with laboratory() as lab:
        b = await lab.node(2)
        a = Node(hello(1), ("127.0.0.1",), LIMITS, (0,))
        lab.nodes.append(a)
        a.mesh.reload([b.line])
        assert a.mesh.links() == []
        await a.mesh.start()
        b.mesh.reload([a.line])
        await lab.all_up(a, b)
        await a.mesh.stop()
        a.mesh.reload([])


async def test_a_peer_that_is_not_there_is_dialled_with_backoff() -> None:
    async with laboratory() as lab:
        a = await lab.node(1)
        port = 1  # nobody listens: the kernel refuses at once
        a.mesh.reload([Line("n2", (("127.0.0.1", port),))])
        attempts = 0
        dial = a.mesh.context.socket

        def count(kind: int) -> object:
            nonlocal attempts
            attempts += kind == zmq.DEALER  # not the socket that watches it
            return dial(kind)

        a.mesh.context.socket = count  # type: ignore[method-assign, assignment]
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        await eventually(lambda: attempts >= 4)
        # Pauses of at least 25 ms and half of 100, 200, 200 ms lie between them.
        assert loop.time() - start_s > 0.3
        assert a.states() == [LinkState.DIALLING]
        assert a.mesh.refusals == {}


async def test_a_peer_that_moves_is_found_at_its_new_address() -> None:
    async with laboratory() as lab:
        a, b = await lab.node(1), await lab.node(2)
        await lab.meet(a, b)
        await b.mesh.stop()
        moved = await lab.node(hello(2, boot_count=2))
        introduce(a, moved)
        await lab.all_up(a, moved)
        assert len(a.mesh.links()) == 1


async def test_addresses_that_cannot_be_bound() -> None:
    async with laboratory() as lab:
        a = await lab.node(1)
        with pytest.raises(MeshError, match=rf"127\.0\.0\.1:{a.ports[0]} of node 'n2'.*in use"):
            await lab.node(2, ports=a.ports)
        with pytest.raises(MeshError, match="not an address of this host"):
            await lab.node(3, hosts=("127.0.0.1", "192.0.2.1"))
        with pytest.raises(MeshError, match="cannot be resolved"):
            await lab.node(4, hosts=("no.such.host.invalid",))


async def test_stop_leaves_nothing_behind() -> None:
    before = set(os.listdir("/proc/self/fd"))
    tasks = asyncio.all_tasks()
    async with laboratory() as lab:
        a, b = await lab.node(1), await lab.node(2)
        gone = await lab.node(3)
        introduce(a, b, gone)
        await lab.all_up(a, b, gone)
        await gone.mesh.stop()
        await eventually(lambda: a.sees(b))
        assert a.mesh.send(b.me.node, b"goodbye")
        await a.mesh.stop()
        await a.mesh.stop()
        await eventually(lambda: b.inbox == [(a.me.node, b"goodbye")])
        assert a.mesh.send(b.me.node, b"x") is False
        assert not a.downs[1:]
    assert asyncio.all_tasks() == tasks
    await eventually(lambda: set(os.listdir("/proc/self/fd")) <= before)


async def test_an_exception_of_a_callback_loses_that_payload_only() -> None:
    async with laboratory() as lab:
        a, b = await lab.node(1), await lab.node(2)
        await lab.meet(a, b)
        loop = asyncio.get_running_loop()
        failures: list[object] = []
        loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
        take = b.mesh._on_message

        def picky(node: str, payload: bytes) -> None:
            if payload == b"bad":
                raise KeyError(payload)
            take(node, payload)

        b.mesh._on_message = picky
        for payload in (b"1", b"bad", b"2"):
            assert a.mesh.send(b.me.node, payload)
        await eventually(lambda: len(b.inbox) == 2)
        assert [payload for _, payload in b.inbox] == [b"1", b"2"]
        assert [type(f) for f in failures] == [KeyError]
        assert b.sees(a)


async def test_resolve() -> None:
    assert await resolve("127.0.0.1") == ("127.0.0.1",)
    assert await resolve("::FFFF:10.0.0.1") == ("10.0.0.1",)
    assert await resolve("0:0::1") == ("::1",)
    assert {"127.0.0.1", "::1"} & set(await resolve("localhost"))
    with pytest.raises(OSError, match="cannot be resolved"):
        await resolve("a" * 64)


def test_hanging_up_touches_nothing_else() -> None:
    left, right = socket.socketpair()
    with left, right:
        hang_up(left.fileno(), (("127.0.0.1", 1), ("127.0.0.1", 2)))
        hang_up(10**6, (("127.0.0.1", 1), ("127.0.0.1", 2)))
        left.send(b"x")
        assert right.recv(1) == b"x"
