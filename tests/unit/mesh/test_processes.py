"""A peer in another process: killed, frozen, and back."""

import asyncio
import contextlib
import dataclasses
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mdcluster.mesh.roster import Line
from tests.unit.mesh.kit import LIMITS, WAIT_S, Node, established, eventually, laboratory

ROOT = Path(__file__).parents[3]


@contextlib.asynccontextmanager
async def child(
    number: int, boot_count: int, peer: Node
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Node ``number`` in its own process, introduced to ``peer`` and up."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.unit.mesh.child",
        *map(str, (number, boot_count, int(peer.me.name[1:]), peer.ports[0])),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            port = int(await process.stdout.readline())
        peer.mesh.reload([Line(f"n{number}", (("127.0.0.1", port),))])
        await eventually(lambda: peer.up)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def echoed(node: Node, payload: bytes) -> None:
    assert node.mesh.send(node.up[0], payload)
    await eventually(lambda: node.inbox[-1:] == [(node.up[0], payload)])


@pytest.mark.parametrize("number", [1, 9], ids=["dials", "is dialled"])
async def test_killed_and_back(number: int) -> None:
    async with laboratory() as lab:
        a = await lab.node(5)
        async with child(number, 1, a) as process:
            await echoed(a, b"first life")
            process.kill()
            await eventually(lambda: a.downs, "the end of the process is noticed")
        async with child(number, 1, a) as process:  # the same boot
            await echoed(a, b"second life")
            assert process.stdin is not None
            process.stdin.close()
            async with asyncio.timeout(WAIT_S):
                assert await process.wait() == 0, "a clean end"
        await eventually(lambda: len(a.downs) == 2)


@pytest.mark.parametrize("number", [1, 9], ids=["dials", "is dialled"])
async def test_frozen_and_back(number: int) -> None:
    async with laboratory() as lab:
        a = await lab.node(5, limits=dataclasses.replace(LIMITS, path_ms=600))
        async with child(number, 1, a) as process:
            await echoed(a, b"before")
            process.send_signal(signal.SIGSTOP)
            await eventually(lambda: a.downs, "a path that carries nothing back is given up")
            process.send_signal(signal.SIGCONT)
            await eventually(lambda: a.up)
            await echoed(a, b"after")
            await eventually(lambda: established(a) <= 1)
