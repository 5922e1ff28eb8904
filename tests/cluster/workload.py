"""Clients of all nodes that know what every block may hold at any time.

What a block may hold is said in :mod:`tests.blocks`. A write whose connection broke is in doubt:
either version may be found from then on.
"""

import asyncio
import errno
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mdcluster.md.nbd_client import (
    NbdClient,
    NbdConnectError,
    NbdDisconnectedError,
    NbdRequestError,
)
from tests.blocks import BLOCK_BYTES, Block, ContentError, encode_block, torn

ANSWER_MAX_S = 30.0
"""Longest wait for any one answer: held writes go on long before, or something is stuck."""
RECONNECT_S = 0.05
PAUSE_S = 0.004
"""Between two requests of one client, so that a test leaves the machine some room."""


@dataclass(slots=True)
class Tally:
    """What came of it all."""

    writes: int = 0
    reads: int = 0
    in_doubt: int = 0
    torn_reads: int = 0
    reconnects: int = 0
    longest_ms: int = 0
    longest: str = ""

    def took(self, began_s: float, what: str) -> None:
        ms = int((time.monotonic() - began_s) * 1000)
        if ms > self.longest_ms:
            self.longest_ms, self.longest = ms, what


@dataclass(slots=True)
class Workload:
    """Writers and readers on each of the sockets, in a thread of their own, from enter to exit.

    blocks: numbers of the blocks that are written, dealt out among the nodes. The image may
    hold earlier versions: then hand over the same `known` blocks again.
    """

    sockets: dict[str, Path]
    known: list[Block]
    seed: int = 0
    writers: int = 2
    pause_s: float = PAUSE_S
    tally: Tally = field(default_factory=Tally)
    problems: list[str] = field(default_factory=list)
    _thread: threading.Thread | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _news: threading.Condition = field(default_factory=threading.Condition)
    _done: dict[str, int] = field(default_factory=dict)

    # --- from the test's thread ------------------------------------------------------------

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=self._main, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(ANSWER_MAX_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._loop is not None and self._thread is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(2 * ANSWER_MAX_S)
        if kind is None:
            assert not self._thread.is_alive(), "clients do not end"
            self.check()

    def check(self) -> None:
        """Raise what the clients have found so far."""
        if self.problems:
            raise ContentError("\n".join(self.problems[:10]))

    def progress(self, names: Iterable[str], writes: int = 3, limit_s: float = 20.0) -> None:
        """Wait until each of these nodes has acknowledged as many more writes."""
        with self._news:
            wanted = {name: self._done.get(name, 0) + writes for name in names}
            done = self._news.wait_for(
                lambda: (
                    bool(self.problems) or all(self._done.get(n, 0) >= w for n, w in wanted.items())
                ),
                limit_s,
            )
        self.check()
        behind = {n: w - self._done.get(n, 0) for n, w in wanted.items()}
        assert done, f"writes do not go on within {limit_s} s, missing {behind}; {self.tally}"

    # --- in the clients' thread --------------------------------------------------------------

    def _main(self, started: threading.Event) -> None:
        async def all_clients() -> None:
            self._loop = asyncio.get_running_loop()
            started.set()
            names = sorted(self.sockets)
            calls: list[Coroutine[Any, Any, None]] = []
            for index, name in enumerate(names):
                mine = [block for block in self.known if block.owner == index]
                parts = [mine[part :: self.writers] for part in range(self.writers)]
                works = [*(self._writes(name, part) for part in parts), self._reads(name)]
                calls += [self._client(name, n, work) for n, work in enumerate(works)]
            await asyncio.gather(*calls)

        try:
            asyncio.run(all_clients())
        except Exception as error:  # noqa: BLE001 - shown by `check` in the test's thread
            self._problem(f"the clients broke: {error!r}")

    def _problem(self, text: str) -> None:
        with self._news:
            self.problems.append(text)
            self._news.notify_all()

    async def _client(
        self, name: str, number: int, work: Callable[[NbdClient, random.Random], Awaitable[None]]
    ) -> None:
        """Connect, work, connect again when the connection breaks, until the end."""
        rng = random.Random(f"{self.seed} {name} {number}")
        while not self._stop.is_set():
            try:
                client = await NbdClient.connect(self.sockets[name])
            except NbdConnectError:
                await self._pause(RECONNECT_S)
                continue
            try:
                while not self._stop.is_set():
                    await work(client, rng)
                    await self._pause(self.pause_s)
            except NbdDisconnectedError:
                self.tally.reconnects += 1
            except ContentError as error:
                self._problem(str(error))
                return
            except (TimeoutError, NbdRequestError) as error:
                if isinstance(error, NbdRequestError) and error.errno == errno.ESHUTDOWN:
                    self.tally.reconnects += 1  # the array was closed under its clients
                    continue
                self._problem(f"{name}: {type(error).__name__}: {error}")
                return
            finally:
                await client.close(timeout_s=1.0)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    def _writes(
        self, name: str, mine: list[Block]
    ) -> Callable[[NbdClient, random.Random], Awaitable[None]]:
        async def write(client: NbdClient, rng: random.Random) -> None:
            block = rng.choice(mine)
            block.issued += 1
            version, began_s = block.issued, time.monotonic()
            data = encode_block(block.owner, block.number, version)
            try:
                async with asyncio.timeout(ANSWER_MAX_S):
                    await client.write(block.number * BLOCK_BYTES, data)
            except BaseException:
                self.tally.in_doubt += 1
                raise
            block.acknowledged = version
            self.tally.writes += 1
            self.tally.took(began_s, f"write of block {block.number} on {name}")
            with self._news:
                self._done[name] = self._done.get(name, 0) + 1
                self._news.notify_all()

        return write

    def _reads(self, name: str) -> Callable[[NbdClient, random.Random], Awaitable[None]]:
        async def read(client: NbdClient, rng: random.Random) -> None:
            await self._read(client, rng.choice(self.known), name)

        return read

    async def _read(self, client: NbdClient, block: Block, name: str) -> None:
        """A read that meets a write may be torn below 4 KiB: then it is no sample, read again."""
        while True:
            at_least, issued, began_s = block.acknowledged, block.issued, time.monotonic()
            async with asyncio.timeout(ANSWER_MAX_S):
                data = await client.read(block.number * BLOCK_BYTES, BLOCK_BYTES)
            self.tally.took(began_s, f"read of block {block.number} on {name}")
            try:
                block.check(data, at_least, name)
            except ContentError:
                undisturbed = at_least == issued == block.issued
                if undisturbed or not torn(data):
                    raise
                self.tally.torn_reads += 1
                continue
            self.tally.reads += 1
            return


def verify_everywhere(sockets: dict[str, Path], known: Iterable[Block]) -> None:
    """Read every block on every node: all that was acknowledged is there, and nothing else."""
    blocks = list(known)

    async def one(name: str) -> None:
        async with await NbdClient.connect(sockets[name]) as client:
            for start in range(0, len(blocks), 16):
                part = blocks[start : start + 16]
                async with asyncio.timeout(ANSWER_MAX_S):
                    answers = await asyncio.gather(
                        *(client.read(b.number * BLOCK_BYTES, BLOCK_BYTES) for b in part)
                    )
                for block, data in zip(part, answers, strict=True):
                    block.check(data, block.acknowledged, f"at the end, on {name}")

    async def everywhere() -> None:
        for name in sorted(sockets):
            await one(name)

    asyncio.run(everywhere())


def write_now(socket: Path, block: Block) -> None:
    """One write of the test itself, acknowledged on return."""

    async def write() -> None:
        async with await NbdClient.connect(socket) as client, asyncio.timeout(ANSWER_MAX_S):
            block.issued += 1
            data = encode_block(block.owner, block.number, block.issued)
            await client.write(block.number * BLOCK_BYTES, data)
            block.acknowledged = block.issued

    asyncio.run(write())
