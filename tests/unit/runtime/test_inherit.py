"""A daemon that starts again beside arrays that run on: core, runtime and a driver that outlives.

The arrays are the embedded driver's, whose object plays the kernel: it stays when a "daemon"
(core, runtime, store) goes, and the next one inherits from it.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from mdcluster.config.settings import Driver, Paths, Settings
from mdcluster.core.events import ShutdownAsked
from mdcluster.core.model import ArrayId, ArrayState, DeviceId, FailMember, MemberState
from mdcluster.core.waits import Cause
from mdcluster.gate import Gate
from mdcluster.md.driver import DriverError
from mdcluster.md.embedded import EmbeddedDriver
from mdcluster.md.faults import Direction, Faults, Purpose
from mdcluster.md.nbd_client import NbdClient
from mdcluster.md.nbd_protocol import NbdError
from mdcluster.md.open import Md, kernel_boot_id, open_md
from mdcluster.runtime.local import LocalArrays
from tests.unit.md.port_suite import until
from tests.unit.members.kit import ARRAY, LIVES, after, creation, device
from tests.unit.runtime.test_single_node import BLOCK, PATIENCE_S, TIMING, Alone, write


class Outliving(EmbeddedDriver):
    """Its arrays outlive whoever uses it; what `inherit` promises, kept over embedded arrays."""

    @property
    def outlives_daemon(self) -> bool:
        return True

    async def inherit(self, states: Iterable[ArrayState]) -> tuple[ArrayId, ...]:
        self._listeners.clear()
        for array in self.arrays():
            writes = self.backend(array).writes
            writes.suspend(0, 1 << 40)
            await self.stop_sync(array)
            await self.pin_reads(array, True)
        return self.arrays()

    def tell_again(self) -> None:
        for array in self.arrays():
            for member in self.status(array).members:
                if member.blocked or member.unacknowledged_errors:
                    for listener in self._listeners:
                        listener.member_failed(array, member.device, "still held")

    async def close(self) -> None:
        """They run on."""


class Boot:
    """One boot of a host: md, and one daemon after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults = Faults()
        self.md = Outliving(
            folder, Gate().check, write_deadline_ms=TIMING.write_deadline_ms, faults=self.faults
        )
        self.daemon: Alone | None = None
        self.client: NbdClient | None = None

    async def start(self) -> Alone:
        inherited = await self.md.inherit(())
        self.daemon = Alone(self.folder, self.md, inherited)
        await self.daemon.__aenter__()
        self.md.tell_again()
        return self.daemon

    async def die(self) -> None:
        assert self.daemon is not None
        await self.daemon.__aexit__()
        self.daemon = None

    async def held(self, block: int) -> "asyncio.Task[None]":
        """A write that md holds, after another that shows that it was asked to."""
        assert self.client is not None
        task = asyncio.create_task(write(self.client, block, b"h"))
        assert bytes(await self.client.read(block * BLOCK, BLOCK)) != b"h" * BLOCK
        assert not task.done()
        return task

    async def close(self) -> None:
        if self.client is not None:
            await self.client.close()
        if self.daemon is not None:
            await self.die()
        await EmbeddedDriver.close(self.md)


@pytest.fixture
async def boot(tmp_path: Path) -> AsyncIterator[Boot]:
    """One daemon has created an array, which has one client."""
    (tmp_path / "state").mkdir()
    made = Boot(tmp_path)
    daemon = await made.start()
    await daemon.create()
    made.client = await daemon.client()
    await write(made.client, 0, b"a")
    yield made
    await made.close()


async def test_writes_go_on_while_the_daemon_is_away_and_after_it_is_back(boot: Boot) -> None:
    assert boot.client is not None
    await boot.die()
    await write(boot.client, 1, b"b")
    assert await boot.md.inherit(()) == (ARRAY,)
    held = await boot.held(2)
    daemon = await boot.start()
    await asyncio.wait_for(held, PATIENCE_S)
    await daemon.released()
    assert daemon.on_disk(0, 2) == daemon.on_disk(1, 2) == b"h" * BLOCK
    assert daemon.node.replica.catching_up == []


async def test_a_failure_while_the_daemon_is_away_is_committed_by_the_next(boot: Boot) -> None:
    daemon = boot.daemon
    assert daemon is not None and boot.client is not None
    await boot.die()
    boot.faults.fail(daemon.images[1], Direction.WRITE, purpose=Purpose.DATA)
    held = asyncio.create_task(write(boot.client, 3, b"x"))
    await until(lambda: any(m.blocked for m in boot.md.status(ARRAY).members))
    daemon = await boot.start()
    await asyncio.wait_for(held, PATIENCE_S)
    assert daemon.state_of(1) is MemberState.FAULTY
    assert daemon.on_disk(0, 3) == b"x" * BLOCK


async def test_changes_go_on_under_ids_of_their_own(boot: Boot) -> None:
    """The same life proposes again: what an earlier process of it asked for is not meant."""
    for number in range(2):
        await boot.die()
        daemon = await boot.start()
        await until(lambda d=daemon: not d.node.replica.catching_up)  # type: ignore[misc]
        change = FailMember(ARRAY, device(1), f"try {number}")
        daemon.node.departures.propose_failure(ARRAY, device(1), change.why)
        await until(lambda d=daemon: not d.node.asks.pending)  # type: ignore[misc]
        assert daemon.state_of(1) is MemberState.FAULTY


async def test_an_orderly_stop_leaves_running_what_is_in_use(boot: Boot) -> None:
    daemon = boot.daemon
    assert daemon is not None and boot.client is not None
    daemon.runtime.feed(ShutdownAsked())
    await asyncio.wait_for(daemon.runtime.ended.wait(), PATIENCE_S)
    assert daemon.runtime.stopped_in_order and daemon.runtime.left_running == (ARRAY,)
    assert not daemon.gate.is_open
    await boot.die()
    await write(boot.client, 4, b"d")
    assert boot.md.arrays() == (ARRAY,)


async def test_an_orderly_stop_ends_what_is_not_in_use(boot: Boot) -> None:
    daemon = boot.daemon
    assert daemon is not None and boot.client is not None
    await boot.client.close()
    await until(lambda: boot.md.status(ARRAY).openers == 0)
    daemon.runtime.feed(ShutdownAsked())
    await asyncio.wait_for(daemon.runtime.ended.wait(), PATIENCE_S)
    assert daemon.runtime.stopped_in_order and daemon.runtime.left_running == ()
    assert boot.md.arrays() == ()


async def test_what_no_commit_is_about_stays_held_and_is_told(boot: Boot, tmp_path: Path) -> None:
    await boot.die()
    (tmp_path / "other").mkdir()
    boot.daemon = Alone(boot.folder, boot.md, await boot.md.inherit(()), state="other")
    await boot.daemon.__aenter__()
    held = await boot.held(5)
    (told,) = [wait for wait in boot.daemon.node.view().waiting if wait.key == ARRAY]
    assert told.cause is Cause.UNKNOWN and "mdadm --stop" in told.ends
    await EmbeddedDriver.close(boot.md)
    with pytest.raises(NbdError):  # its client was cut off
        await held


# --- slots --------------------------------------------------------------------------------------


class Slots:
    """Members as far as the own slot goes."""

    def __init__(self) -> None:
        self.cleared: list[int] = []

    async def paths_of(self, state: ArrayState) -> dict[DeviceId, str]:
        return {}

    async def clear_own_slot(self, state: ArrayState, index: int) -> str:
        self.cleared.append(index)
        return ""

    def slot_offset_sectors(self, state: ArrayState, index: int) -> int:
        return 8 * index


@pytest.mark.parametrize(("known", "cleared"), [(False, [0]), (True, [])])
async def test_a_slot_is_cleared_only_if_it_was_given_to_this_very_process(
    tmp_path: Path, known: bool, cleared: list[int]
) -> None:
    state, slots = after(None, creation("a", "b"), runners=LIVES), Slots()
    driver = EmbeddedDriver(tmp_path, Gate().check)
    arrays = LocalArrays(
        LIVES[0],
        driver,
        slots,  # type: ignore[arg-type]
        known=(state,) if known else (),
    )
    with pytest.raises(DriverError, match="not found on this node"):
        await arrays.apply(state, lambda _: asyncio.sleep(0))
    assert slots.cleared == cleared


# --- which md, which life -----------------------------------------------------------------------


def opened(folder: Path, kind: str) -> Md:
    paths = Paths(run_dir=folder, nbd_dir=folder / "nbd")
    return open_md(Settings(driver=Driver(kind=kind), paths=paths), Gate().check)


def test_each_process_of_the_embedded_driver_is_a_life(tmp_path: Path) -> None:
    assert opened(tmp_path, "embedded").boot_id != opened(tmp_path, "embedded").boot_id
    assert not opened(tmp_path, "embedded").driver.outlives_daemon
    assert (tmp_path / "nbd").stat().st_mode & 0o777 == 0o700


def test_a_life_of_the_kernels_md_is_a_boot(tmp_path: Path) -> None:
    one, two = opened(tmp_path, "kernel"), opened(tmp_path, "kernel")
    assert one.boot_id == two.boot_id == kernel_boot_id()
    assert one.driver.outlives_daemon


def test_a_boot_has_one_id(tmp_path: Path) -> None:
    assert kernel_boot_id() == kernel_boot_id()
    wrong = tmp_path / "boot_id"
    wrong.write_text("not a boot id\n")
    for path in (wrong, tmp_path / "none"):
        with pytest.raises(DriverError, match="cannot be read"):
            kernel_boot_id(path)
