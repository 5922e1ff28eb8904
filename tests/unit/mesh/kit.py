"""Meshes on loopback that write down what happens to them."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from mdcluster.mesh.hello import Hello
from mdcluster.mesh.mesh import Mesh
from mdcluster.mesh.options import Limits
from mdcluster.mesh.roster import Line, LinkState

LIMITS = Limits(
    payload_max_bytes=4096, hello_ms=400, handshake_ms=400, redial_max_ms=200, path_ms=2000
)
WAIT_S = 8.0
_loggers = itertools.count()


def uuid_of(number: int) -> str:
    return f"{number:08x}-0000-4000-8000-000000000000"


def hello(number: int, **changes: Any) -> Hello:
    fields: dict[str, Any] = {
        "cluster": "test",
        "node": uuid_of(number),
        "name": f"n{number}",
        "boot_id": "boot",
        "boot_count": 1,
        "versions": (1, 1),
        "voters_digest": "v",
        "timing_digest": "t",
        "formed": False,
    }
    return Hello(**(fields | changes))


async def eventually(condition: Callable[[], Any], what: str = "") -> None:
    """Wait until a condition holds, which no callback announces; fail after a bounded time."""
    try:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110 - kernel tables announce nothing
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"never came true: {what or condition}") from None


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Node:
    """A mesh and what it reported."""

    def __init__(self, me: Hello, hosts: tuple[str, ...], limits: Limits, ports: tuple[int, ...]):
        self.me = me
        self.up: list[str] = []
        self.downs: list[tuple[str, str]] = []
        self.ups: list[Hello] = []
        self.inbox: list[tuple[str, bytes]] = []
        self.heard = Lines()
        log = logging.getLogger(f"test.mesh.{next(_loggers)}")
        log.setLevel(logging.DEBUG)
        log.propagate = False
        log.addHandler(self.heard)
        self.mesh = Mesh(
            me,
            Line(me.name, tuple(zip(hosts, ports, strict=True))),
            (),
            on_message=lambda node, payload: self.inbox.append((node, payload)),
            on_up=self._on_up,
            on_down=self._on_down,
            limits=limits,
            log=log,
        )

    def _on_up(self, them: Hello) -> None:
        assert them.node not in self.up, "up twice"
        self.up.append(them.node)
        self.ups.append(them)

    def _on_down(self, node: str, reason: str) -> None:
        self.up.remove(node)
        self.downs.append((node, reason))

    @property
    def line(self) -> Line:
        return Line(self.me.name, self.mesh.addresses)

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(port for _, port in self.mesh.addresses)

    def sees(self, *others: "Node") -> bool:
        return sorted(self.up) == sorted(other.me.node for other in others)

    def states(self) -> list[LinkState]:
        return [link.state for link in self.mesh.links()]

    def count(self, reason: str) -> int:
        return self.mesh.refusals.get(reason, 0)

    def warnings(self, text: str) -> list[str]:
        return [line for line in self.heard.lines if text in line]


class Lab:
    """Starts nodes, introduces them to each other, and stops what is left at the end."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    async def node(
        self,
        me: Hello | int,
        *,
        hosts: tuple[str, ...] = ("127.0.0.1",),
        ports: tuple[int, ...] = (),
        limits: Limits = LIMITS,
    ) -> Node:
        node = Node(
            hello(me) if isinstance(me, int) else me, hosts, limits, ports or (0,) * len(hosts)
        )
        self.nodes.append(node)
        await node.mesh.start()
        return node

    async def meet(self, *nodes: Node) -> None:
        """Everybody gets everybody's line; wait until all see all."""
        introduce(*nodes)
        await self.all_up(*nodes)

    async def all_up(self, *nodes: Node) -> None:
        await eventually(
            lambda: all(n.sees(*(o for o in nodes if o is not n)) for n in nodes), "all up"
        )

    async def stop(self) -> None:
        await asyncio.gather(*(node.mesh.stop() for node in self.nodes))


def introduce(*nodes: Node) -> None:
    for node in nodes:
        node.mesh.reload([other.line for other in nodes if other is not node])


@contextlib.asynccontextmanager
async def laboratory() -> AsyncIterator[Lab]:
    lab = Lab()
    try:
        yield lab
    finally:
        async with asyncio.timeout(WAIT_S):
            await lab.stop()


def established(*nodes: Node) -> int:
    """TCP connections to the nodes' ports that the kernel holds as established."""
    ports = {port for node in nodes for port in node.ports}
    count = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text().splitlines()[1:]:
            _, local, _, state = row.split()[:4]
            count += state == "01" and int(local.rsplit(":", 1)[1], 16) in ports
    return count
