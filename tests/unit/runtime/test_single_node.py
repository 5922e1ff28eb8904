"""One node whole but for its mesh: the real core drives the real driver over image files."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mdcluster.core.effects import ForgetPrepared, HoldRange, PrepareDevices
from mdcluster.core.events import Asked, Line, ShutdownAsked
from mdcluster.core.model import (
    CLUSTER_KEY,
    ArrayId,
    ArrayState,
    Change,
    FailMember,
    Life,
    MemberState,
    NodeId,
    StartArray,
    StopArray,
)
from mdcluster.core.node import Node
from mdcluster.core.timing import Timing
from mdcluster.fence.chain import FenceChain
from mdcluster.gate import Gate, boottime_ms
from mdcluster.md.embedded import EmbeddedDriver
from mdcluster.md.faults import Direction, Faults, Purpose
from mdcluster.md.nbd_client import NbdClient
from mdcluster.md.nbd_protocol import NbdError
from mdcluster.members import Members
from mdcluster.runtime.executor import Executor
from mdcluster.runtime.local import LocalArrays, LocalMembers
from mdcluster.runtime.loop import Runtime
from mdcluster.runtime.store import Store
from tests.unit.md.port_suite import until
from tests.unit.members.kit import ARRAY, creation, device, image

NODE = NodeId("00000000-0000-0000-0000-00000000000a")
ME = Life(NODE, "00000000-0000-0000-0000-00000000000b")
LINES = (Line("alone", False, 1),)
PATIENCE_S = 20
BLOCK = 4096
TIMING = Timing(
    heartbeat_ms=40,
    lease_ms=400,
    election_min_ms=440,
    election_max_ms=500,
    io_lease_ms=500,
    retry_min_ms=10,
    retry_max_ms=100,
)


class NoMesh:
    def send(self, node: str, payload: bytes) -> bool:
        return False

    def refuse_payload(self, node: str, why: str) -> None:
        raise AssertionError(why)


class Alone:
    """A cluster of one voter, with everything but a network."""

    def __init__(
        self,
        folder: Path,
        driver: EmbeddedDriver | None = None,
        inherited: tuple[ArrayId, ...] = (),
        state: str = "state",
    ) -> None:
        """driver, inherited: of an earlier process of the same life, and what it runs."""
        self.folder = folder
        paths = [folder / f"disk{n}.img" for n in range(3)]
        self.images = [str(p) if p.exists() else image(folder, p.name) for p in paths]
        self.faults = Faults()
        self.gate = Gate()
        self.driver = driver or EmbeddedDriver(
            folder, self.gate.check, write_deadline_ms=TIMING.write_deadline_ms, faults=self.faults
        )
        self.store = Store.open(folder / state, fresh=not any((folder / state).iterdir()))
        memory = self.store.memory
        known = [r.entry.state for r in memory.entries.values()]
        self.node = Node(
            ME,
            "alone",
            TIMING,
            LINES,
            "digest",
            1,
            spectator=False,
            promise=memory.promise,
            entries=[record.entry for record in memory.entries.values()],
            projected=memory.projected,
            cluster_name="lab",
            now_ms=boottime_ms(),
            start=boottime_ms(),
            inherited=inherited,
            outlives=self.driver.outlives_daemon,
        )
        self.members = Members(
            NODE, self.gate, (f"{folder}/*.img",), TIMING, lambda: self.node.ledger.entries
        )
        self.runtime = Runtime(ME, self.node, self.gate, self.store, retry_min_ms=1)
        self.executor = Executor(
            self.driver,
            LocalMembers(self.members),
            LocalArrays(
                ME,
                self.driver,
                self.members,
                known=[state for state in known if isinstance(state, ArrayState)],
            ),
            FenceChain([]),
            self.runtime.feed,
            self.runtime.broken,
            inherited=inherited,
        )
        self.runtime.attach(NoMesh(), self.executor)
        self._asked = 0

    async def __aenter__(self) -> "Alone":
        self.runtime.start()
        await until(lambda: self.node.election.ready)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runtime.close()
        await self.driver.close()
        await self.members.workers.idle()
        self.store.close()
        assert self.runtime.fault is None

    async def ask(self, change: Change) -> tuple[str, str]:
        """How it ended: done or refused, and why."""
        self._asked += 1
        answer: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()
        proposal = f"proposal {self._asked}"
        forget = self.runtime.ask(
            Asked(proposal, change),
            lambda a: None if a.state == "waiting" else answer.set_result((a.state, a.text)),
        )
        try:
            return await asyncio.wait_for(answer, PATIENCE_S)
        finally:
            forget()

    async def create(self) -> None:
        change = creation(*self.images[:2], clean=True)
        assert await self.ask(change) == ("done", "")
        await self.released()

    async def released(self) -> None:
        """All that was committed is applied, released and, after that, activated."""
        await until(lambda: self.node.replica.released == self.node.replica.applied)
        await until(lambda: self.driver.status(ARRAY).clean)

    @property
    def state(self) -> ArrayState:
        state = self.node.replica.states[ARRAY]
        assert isinstance(state, ArrayState)
        return state

    def state_of(self, number: int) -> MemberState:
        member = self.state.member(device(number))
        assert member is not None
        return member.state

    async def client(self) -> NbdClient:
        return await NbdClient.connect(self.folder / "data.sock")

    def on_disk(self, number: int, block: int) -> bytes:
        member = self.state.member(device(number))
        assert member is not None
        with open(self.images[number], "rb") as file:
            file.seek(member.data_offset_sectors * 512 + block * BLOCK)
            return file.read(BLOCK)


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[Alone]:
    (tmp_path / "state").mkdir()
    async with Alone(tmp_path) as lab:
        yield lab


async def write(client: NbdClient, block: int, letter: bytes) -> None:
    await asyncio.wait_for(client.write(block * BLOCK, letter * BLOCK), PATIENCE_S)


async def test_a_started_array_writes_after_its_release(alone: Alone) -> None:
    await alone.create()
    client = await alone.client()
    await write(client, 0, b"a")
    assert alone.on_disk(0, 0) == alone.on_disk(1, 0) == b"a" * BLOCK
    await client.close()


async def test_failing_a_good_member_by_command_lets_writes_go_on(alone: Alone) -> None:
    await alone.create()
    client = await alone.client()
    ended = asyncio.Event()
    written = 0

    async def keep_writing() -> None:
        nonlocal written
        while not ended.is_set():
            await write(client, written % 64, b"%c" % (ord("a") + written % 26))
            written += 1

    writing = asyncio.create_task(keep_writing())
    await until(lambda: written > 10)
    fail = FailMember(ARRAY, device(1), "asked for", seen_by=None)
    assert await alone.ask(fail) == ("done", "")
    before = written
    await until(lambda: written > before + 10)
    ended.set()
    await asyncio.wait_for(writing, PATIENCE_S)
    assert alone.state_of(1) is MemberState.FAULTY
    for number in range(max(written - 64, 0), written):
        letter = b"%c" % (ord("a") + number % 26)
        assert alone.on_disk(0, number % 64) == letter * BLOCK
    await client.close()


async def test_a_write_over_a_failing_member_is_held_then_acknowledged(alone: Alone) -> None:
    await alone.create()
    client = await alone.client()
    await write(client, 0, b"a")
    states: list[MemberState] = []
    alone.faults.fail(alone.images[1], Direction.WRITE, purpose=Purpose.DATA)
    held = asyncio.create_task(write(client, 0, b"b"))
    held.add_done_callback(lambda _: states.append(alone.state_of(1)))
    await held
    assert states == [MemberState.FAULTY]  # committed and applied before it was acknowledged
    assert alone.on_disk(0, 0) == b"b" * BLOCK
    assert alone.on_disk(1, 0) == b"a" * BLOCK
    for _ in range(4):
        assert bytes(await client.read(0, BLOCK)) == b"b" * BLOCK
    await write(client, 1, b"c")
    await client.close()


async def test_an_array_in_use_is_not_stopped_and_goes_on(alone: Alone) -> None:
    await alone.create()
    client = await alone.client()
    state, text = await alone.ask(StopArray(ARRAY))
    assert state == "refused" and "1 NBD client" in text
    await write(client, 0, b"a")
    await client.close()
    await until(lambda: alone.driver.status(ARRAY).openers == 0)
    assert await alone.ask(StopArray(ARRAY)) == ("done", "")
    assert alone.driver.arrays() == ()
    assert not (alone.folder / "data.sock").exists()
    assert await alone.ask(StartArray(ARRAY)) == ("done", "")
    await until(lambda: alone.driver.arrays() == (ARRAY,))
    again = await alone.client()
    assert bytes(await again.read(0, BLOCK)) == b"a" * BLOCK
    await write(again, 0, b"b")
    await again.close()


async def test_a_stop_prepared_in_vain_loses_neither_holds_nor_writes(alone: Alone) -> None:
    """As a writer would that is refused elsewhere: the core knows nothing of it."""
    await alone.create()
    client = await alone.client()
    await write(client, 0, b"a")
    await client.close()
    await until(lambda: alone.driver.status(ARRAY).openers == 0)
    op = (alone.node.ledger.term << 32) + 1000
    alone.executor.start(HoldRange(ARRAY, 0, 8))
    alone.executor.start(PrepareDevices(op, ARRAY, (), stopping=True))
    await until(lambda: alone.driver.arrays() == ())
    assert not (alone.folder / "data.sock").exists()
    alone.executor.start(ForgetPrepared(op))
    await until((alone.folder / "data.sock").exists)
    again = await alone.client()
    assert bytes(await again.read(0, BLOCK)) == b"a" * BLOCK
    held = asyncio.create_task(write(again, 0, b"b"))
    await write(again, 1, b"c")
    assert not held.done()
    alone.executor.start(HoldRange(ARRAY, 0, 0))
    await held
    assert alone.on_disk(0, 0) == alone.on_disk(1, 0) == b"b" * BLOCK
    await again.close()


async def test_an_orderly_end_cuts_clients_off(alone: Alone) -> None:
    await alone.create()
    client = await alone.client()
    await write(client, 0, b"a")
    alone.runtime.feed(ShutdownAsked())
    await asyncio.wait_for(alone.runtime.ended.wait(), PATIENCE_S)
    assert alone.runtime.fault is None and alone.runtime.stopped_in_order
    assert alone.driver.arrays() == ()
    assert ME not in alone.node.ledger.entries[ARRAY].state.running  # type: ignore[union-attr]
    with pytest.raises(NbdError):
        await client.read(0, BLOCK)
    await client.close()
    assert CLUSTER_KEY in alone.node.ledger.entries
