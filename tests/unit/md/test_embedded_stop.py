"""Starting, stopping and leaving an array of the embedded driver: nothing slips in, nothing lands
later."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from mdcluster.core.model import ArrayId, Life, NodeId
from mdcluster.md.driver import ArrayBusyError, DriverError
from mdcluster.md.faults import Direction, Freeze, Purpose
from mdcluster.md.nbd_client import NbdClient, NbdConnectError
from mdcluster.md.nbd_protocol import NbdError
from mdcluster.md.plan import Start, Stop, carry_out
from tests.unit.md.embedded_lab import EmbeddedLab
from tests.unit.md.port_suite import (
    ARRAY,
    BLOCK,
    CHUNK_SECTORS,
    PATIENCE_S,
    SECTOR,
    SLOT_SECTORS,
    array,
    device,
    until,
)

ME = Life(NodeId("me"), "boot")


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[EmbeddedLab]:
    lab = EmbeddedLab(tmp_path)
    yield lab
    await lab.close()


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[EmbeddedLab]:
    """Deadlines of 100 ms."""
    lab = EmbeddedLab(tmp_path, deadline_ms=100)
    yield lab
    await lab.close()


async def reached(freeze: Freeze) -> None:
    assert await asyncio.to_thread(freeze.reached.wait, PATIENCE_S)


def start_of(lab: EmbeddedLab) -> Start:
    state = array()
    paths = tuple((m.device, lab.path(m.device)) for m in state.members)
    return Start(state, paths, SLOT_SECTORS[0], read_only=False)


# --- the first write ----------------------------------------------------------------------------


async def test_no_write_before_the_first_activate(lab: EmbeddedLab) -> None:
    await lab.assemble(array())
    await lab.driver.run(ARRAY)
    write = asyncio.create_task(lab.write(0, b"x" * BLOCK))
    assert await lab.read(0, BLOCK) == bytes(BLOCK)
    assert not write.done()
    assert lab.driver.status(ARRAY).clean  # no failure: it stands against no hold
    await lab.driver.hold(ARRAY, 0, 8)
    await lab.driver.activate(ARRAY)
    assert await lab.read(8 * SECTOR, BLOCK) == bytes(BLOCK)
    assert not write.done()
    await lab.driver.hold(ARRAY, 0, 0)
    await asyncio.wait_for(write, PATIENCE_S)


@pytest.mark.parametrize("kind", ["all", "range"])
async def test_a_write_that_comes_with_the_socket_is_held(lab: EmbeddedLab, kind: str) -> None:
    """What is set before the run is in force for the very first write."""
    socket = lab.folder / "data.sock"
    writes: list[asyncio.Task[None]] = []

    async def first_comer() -> None:
        while True:
            with suppress(NbdConnectError):
                client = await NbdClient.connect(socket)
                break
            await asyncio.sleep(0)
        await client.write(0, b"x" * BLOCK)
        await client.close()

    async def before_run(made: ArrayId) -> None:
        assert not socket.exists()
        writes.append(asyncio.create_task(first_comer()))
        if kind == "all":
            await lab.driver.hold_all(made, True)
        else:
            await lab.driver.hold(made, 0, 8)

    await carry_out(lab.driver, (start_of(lab),), before_run)
    await lab.driver.activate(ARRAY)
    await until(lambda: lab.driver.status(ARRAY).openers == 1)
    backend = lab.driver.backend(ARRAY)
    for _ in range(20):
        await backend.read(16 * BLOCK, BLOCK)
    assert not writes[0].done() and lab.data_of(device(0))[:1] == b"\0"
    await lab.driver.hold(ARRAY, 0, 0)
    await lab.driver.hold_all(ARRAY, False)
    await asyncio.wait_for(writes[0], PATIENCE_S)
    assert lab.data_of(device(0))[:1] == lab.data_of(device(1))[:1] == b"x"


async def test_what_cannot_be_set_up_fully_is_not_run(lab: EmbeddedLab) -> None:
    async def before_run(_: ArrayId) -> None:
        raise DriverError("no hold")

    with pytest.raises(DriverError, match="no hold"):
        await carry_out(lab.driver, (start_of(lab),), before_run)
    assert lab.driver.arrays() == ()
    assert not (lab.folder / "data.sock").exists()


# --- stop ---------------------------------------------------------------------------------------


async def test_a_stop_while_a_failure_is_pending_is_refused(lab: EmbeddedLab) -> None:
    await lab.start(array())
    await lab.driver.fail(ARRAY, device(1))
    with pytest.raises(ArrayBusyError, match="failure"):
        await lab.driver.stop(ARRAY)
    await lab.release(device(1))
    await lab.write(0, b"x" * BLOCK)
    assert await lab.driver.stop(ARRAY)


async def test_force_cuts_clients_off_and_finishes_what_was_admitted(lab: EmbeddedLab) -> None:
    await lab.start(array())
    await lab.driver.hold(ARRAY, 1024, 2048)
    client = await NbdClient.connect(lab.folder / "data.sock")
    freeze = lab.freeze()
    lab.before(device(1), freeze, Direction.WRITE, Purpose.DATA, times=1)
    admitted = asyncio.create_task(client.write(0, b"a" * BLOCK))
    await reached(freeze)
    held = asyncio.create_task(client.write(1024 * SECTOR, b"h" * BLOCK))
    assert bytes(await client.read(0, BLOCK))[1:2] in (b"\0", b"a")
    stop = asyncio.create_task(lab.driver.stop(ARRAY, force=True))
    with pytest.raises(NbdError):
        await asyncio.wait_for(held, PATIENCE_S)
    assert not stop.done()
    freeze.thaw()
    assert await asyncio.wait_for(stop, PATIENCE_S) is True
    await asyncio.wait_for(admitted, PATIENCE_S)
    with pytest.raises(NbdError):
        await client.read(0, BLOCK)
    await client.close()
    for number in (0, 1):
        assert lab.data_of(device(number))[:1] == b"a"
        assert lab.data_of(device(number))[1024 * SECTOR] == 0
        assert lab.slot_of(device(number)) == bytes(4096)
    assert lab.driver.arrays() == ()


async def test_a_forced_stop_over_a_held_write_is_not_clean(lab: EmbeddedLab) -> None:
    await lab.start(array())
    lab.break_writes(device(1))
    held = asyncio.create_task(lab.write(3 * CHUNK_SECTORS * SECTOR, b"x" * BLOCK))
    await lab.failure_of(device(1))
    assert await lab.driver.stop(ARRAY, force=True) is False
    with pytest.raises(OSError, match="closed"):
        await held
    assert lab.slot_of(device(0))[:1] == b"\x08"  # to be copied by the others


async def test_a_write_given_up_half_way_is_not_clean(lab: EmbeddedLab) -> None:
    await lab.start(array())
    freeze = lab.freeze()
    lab.before(device(1), freeze, Direction.WRITE, Purpose.DATA, times=1)
    write = asyncio.create_task(lab.write(0, b"x" * BLOCK))
    await reached(freeze)
    write.cancel()
    await asyncio.wait([write])
    stop = asyncio.create_task(lab.driver.stop(ARRAY, force=True))
    freeze.thaw()
    assert await asyncio.wait_for(stop, PATIENCE_S) is False


@pytest.mark.parametrize("removed", [False, True])
async def test_a_stop_waits_for_a_late_write(
    hasty: EmbeddedLab,
    removed: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However it ended for the application, and whatever became of the member."""
    monkeypatch.setattr("mdcluster.md.embedded.TELL_S", 0.1)
    await hasty.start(array())
    freeze = hasty.freeze()
    hasty.before(device(1), freeze, Direction.WRITE, Purpose.DATA, times=1)
    write = asyncio.create_task(hasty.write(0, b"x" * BLOCK))
    await hasty.failure_of(device(1))
    if removed:
        await hasty.release(device(1))
        await hasty.driver.remove(ARRAY, device(1))
        await asyncio.wait_for(write, PATIENCE_S)
    stop = asyncio.create_task(carry_out(hasty.driver, (Stop(ARRAY),)))
    done, _ = await asyncio.wait({stop}, timeout=0.3)
    assert not done and hasty.driver.arrays() == (ARRAY,)
    assert caplog.text.count("not stopped yet") == 1
    with pytest.raises(OSError, match="closed"):
        await hasty.read(0, BLOCK)
    freeze.thaw()
    await asyncio.wait_for(stop, PATIENCE_S)
    assert hasty.data_of(device(1))[:1] == b"x"
    assert hasty.driver.arrays() == ()
    await asyncio.gather(write, return_exceptions=True)


async def test_a_close_goes_on_where_a_stop_was_given_up(hasty: EmbeddedLab) -> None:
    await hasty.start(array())
    freeze = hasty.freeze()
    hasty.before(device(1), freeze, Direction.WRITE, Purpose.DATA, times=1)
    write = asyncio.create_task(hasty.write(0, b"x" * BLOCK))
    await hasty.failure_of(device(1))
    stop = asyncio.create_task(hasty.driver.stop(ARRAY, force=True))
    await asyncio.wait({stop, write}, timeout=0.2)
    stop.cancel()
    await asyncio.wait({stop})
    close = asyncio.create_task(hasty.driver.close())
    await asyncio.wait({close}, timeout=0.1)
    assert not close.done()
    freeze.thaw()
    await asyncio.wait_for(close, PATIENCE_S)
    assert hasty.driver.arrays() == ()
    await asyncio.gather(write, return_exceptions=True)
