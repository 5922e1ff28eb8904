"""What the embedded driver does when members fail, hang, or the world is frozen at a bad moment."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mdcluster.core.model import DeviceId, Member, MemberState, SyncKind
from mdcluster.md.driver import ArrayBusyError, DriverError
from mdcluster.md.faults import Access, Direction, Freeze, Purpose
from tests.unit.md.embedded_lab import EmbeddedLab
from tests.unit.md.port_suite import (
    ARRAY,
    BLOCK,
    CHUNK_SECTORS,
    PATIENCE_S,
    SECTOR,
    SIZE_SECTORS,
    array,
    device,
    member,
    until,
)


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


# --- the bitmap ---------------------------------------------------------------------------


async def test_bits_are_on_disk_before_data_is_written(lab: EmbeddedLab) -> None:
    seen: list[tuple[int, bytes, bytes]] = []

    def look(access: Access) -> None:
        seen.append((access.lo_sectors, lab.slot_of(device(0)), lab.slot_of(device(1))))

    for number in (0, 1):
        lab.before(device(number), look, Direction.WRITE, Purpose.DATA)
    await lab.start(array())
    for chunk in (0, 9, 31):
        await lab.write(chunk * CHUNK_SECTORS * SECTOR, b"x" * BLOCK)
    assert len(seen) == 6
    for at, *slots in seen:
        chunk = (at - 2048) // CHUNK_SECTORS
        for bits in slots:
            assert bits[chunk // 8] >> chunk % 8 & 1


async def test_writes_that_come_together_share_bitmap_writes(lab: EmbeddedLab) -> None:
    freeze = lab.freeze()
    rule = lab.before(device(0), freeze, Direction.WRITE, Purpose.BITMAP)
    await lab.start(array())
    writes = [
        asyncio.create_task(lab.write(i * CHUNK_SECTORS * SECTOR, b"x" * BLOCK)) for i in range(24)
    ]
    await reached(freeze)
    freeze.thaw()
    await asyncio.gather(*writes)
    assert rule.hits <= 3
    assert lab.slot_of(device(0))[:4] == lab.slot_of(device(1))[:4] == b"\xff\xff\xff\x00"


async def test_bits_are_cleared_later_after_a_flush(tmp_path: Path) -> None:
    lab = EmbeddedLab(tmp_path, clear_ms=20)
    order: list[Direction] = []
    cleared = threading.Event()

    def note(access: Access) -> None:
        order.append(access.direction)
        if access.purpose is Purpose.BITMAP and order.count(Direction.WRITE) >= 3:
            cleared.set()

    lab.before(device(0), note)
    await lab.start(array())
    order.clear()
    await lab.write(0, b"x" * BLOCK)
    assert await asyncio.to_thread(cleared.wait, PATIENCE_S)
    await until(lambda: lab.slot_of(device(1)) == bytes(4096) == lab.slot_of(device(0)))
    assert order == [Direction.WRITE, Direction.WRITE, Direction.FLUSH, Direction.WRITE]
    await lab.driver.close()


async def test_bits_stay_while_degraded(tmp_path: Path) -> None:
    lab = EmbeddedLab(tmp_path, clear_ms=5)
    await lab.start(array())
    await lab.release(device(1))
    await lab.write(0, b"x" * BLOCK)
    bitmap = lab.driver.backend(ARRAY).bitmap
    await bitmap.clear_idle(all_idle=True)
    assert bitmap.is_dirty(0)
    await lab.driver.stop(ARRAY)
    assert lab.slot_of(device(0))[:1] == b"\x01"


async def test_an_orderly_stop_leaves_no_bits(lab: EmbeddedLab) -> None:
    await lab.start(array())
    await lab.write(0, b"x" * BLOCK)
    assert lab.slot_of(device(0))[:1] == b"\x01"
    await lab.driver.stop(ARRAY)
    assert lab.slot_of(device(0)) == lab.slot_of(device(1)) == bytes(4096)


async def test_a_failing_bitmap_write_fails_the_member_and_holds_the_write(
    lab: EmbeddedLab,
) -> None:
    await lab.start(array())
    lab.faults.fail(lab.path(device(1)), Direction.WRITE, purpose=Purpose.BITMAP)
    write = asyncio.create_task(lab.write(0, b"x" * BLOCK))
    assert "bitmap" in await lab.failure_of(device(1))
    await until(lambda: lab.data_of(device(0))[:1] == b"x")
    await lab.driver.hold(ARRAY, 0, 8)
    assert not write.done()
    await lab.driver.hold(ARRAY, 0, 0)
    await lab.release(device(1))
    await asyncio.wait_for(write, PATIENCE_S)


@pytest.mark.parametrize("how", ["cut", "removed"])
async def test_an_image_that_was_cut_or_removed_is_a_disk_that_vanished(
    lab: EmbeddedLab, how: str
) -> None:
    """A write would lengthen it again, with zeros where data were."""
    await lab.start(array())
    path = Path(lab.path(device(1)))
    if how == "cut":
        os.truncate(path, 4096)
    else:
        path.unlink()
    write = asyncio.create_task(lab.write(0, b"x" * BLOCK))
    why = await lab.failure_of(device(1))
    assert ("it was longer" if how == "cut" else "was removed") in why
    await lab.release(device(1))
    await asyncio.wait_for(write, PATIENCE_S)
    assert await lab.read(0, BLOCK) == b"x" * BLOCK
    assert not path.exists() if how == "removed" else path.stat().st_size == 4096


async def test_a_new_member_has_the_bits(lab: EmbeddedLab) -> None:
    await lab.start(array())
    await lab.release(device(1))
    await lab.write(3 * CHUNK_SECTORS * SECTOR, b"x" * BLOCK)
    await lab.driver.remove(ARRAY, device(1))
    await lab.driver.add(ARRAY, member(4, MemberState.RECOVERING, role=1), lab.path(device(4)))
    assert lab.slot_of(device(4)) == lab.slot_of(device(0)) != bytes(4096)


# --- holding ------------------------------------------------------------------------------


async def test_activate_releases_nothing_while_a_member_is_blocked(lab: EmbeddedLab) -> None:
    await lab.start(array())
    lab.break_writes(device(1))
    write = asyncio.create_task(lab.write(0, b"x" * BLOCK))
    await lab.failure_of(device(1))
    with pytest.raises(DriverError, match="not faulty"):
        await lab.driver.unblock(ARRAY, device(1))
    await lab.driver.activate(ARRAY)
    await lab.driver.fail(ARRAY, device(1))
    await lab.driver.activate(ARRAY)
    await lab.read(0, BLOCK)
    assert not write.done() and lab.driver.status(ARRAY).write_pending
    await lab.driver.unblock(ARRAY, device(1))
    await lab.driver.unblock(ARRAY, DeviceId("never seen"))
    await lab.driver.activate(ARRAY)
    await asyncio.wait_for(write, PATIENCE_S)


async def test_a_write_on_its_way_when_its_member_is_failed_and_removed_is_held(
    lab: EmbeddedLab,
) -> None:
    """Admitted before the failure, issued after: it misses the member and has to wait."""
    freeze = lab.freeze()
    lab.before(device(0), freeze, Direction.WRITE, Purpose.BITMAP)
    await lab.start(array())
    write = asyncio.create_task(lab.write(0, b"x" * BLOCK))
    await reached(freeze)
    await lab.driver.fail(ARRAY, device(1))
    await lab.driver.remove(ARRAY, device(1))
    freeze.thaw()
    await until(lambda: lab.data_of(device(0))[:1] == b"x")
    await lab.driver.hold(ARRAY, 0, 8)
    assert not write.done()
    await lab.driver.activate(ARRAY)
    await asyncio.wait_for(write, PATIENCE_S)


async def test_hold_waits_for_a_write_in_flight(lab: EmbeddedLab) -> None:
    freeze = lab.freeze()
    lab.before(device(1), freeze, Direction.WRITE, Purpose.DATA)
    await lab.start(array())
    write = asyncio.create_task(lab.write(0, b"x" * BLOCK))
    await reached(freeze)
    hold = asyncio.create_task(lab.driver.hold(ARRAY, 0, SIZE_SECTORS))
    await lab.read(BLOCK, BLOCK)
    assert not hold.done() and lab.driver.status(ARRAY).suspend_hi_sectors == SIZE_SECTORS
    freeze.thaw()
    await asyncio.wait_for(hold, PATIENCE_S)
    assert write.done()


async def test_overlapping_writes_leave_equal_members(lab: EmbeddedLab) -> None:
    await lab.start(array())
    await asyncio.gather(*(lab.write(0, bytes([i]) * 2 * BLOCK) for i in range(32)))
    assert lab.data_of(device(0)) == lab.data_of(device(1))


async def test_flush_that_fails_is_held(lab: EmbeddedLab) -> None:
    await lab.start(array())
    lab.faults.fail(lab.path(device(1)), Direction.FLUSH)
    flush = asyncio.create_task(lab.driver.backend(ARRAY).flush())
    await lab.failure_of(device(1))
    await lab.read(0, BLOCK)
    assert not flush.done()
    await lab.release(device(1))
    await asyncio.wait_for(flush, PATIENCE_S)


# --- deadlines ----------------------------------------------------------------------------


async def test_a_hung_member_is_failed_and_not_taken_back_before_its_write_returns(
    hasty: EmbeddedLab,
) -> None:
    freeze = hasty.freeze()
    rule = hasty.before(device(1), freeze, Direction.WRITE, Purpose.DATA)
    await hasty.start(array())
    write = asyncio.create_task(hasty.write(0, b"x" * BLOCK))
    assert "100 ms" in await hasty.failure_of(device(1))
    await hasty.release(device(1))
    await asyncio.wait_for(write, PATIENCE_S)
    await hasty.driver.remove(ARRAY, device(1))
    back = member(1, MemberState.RECOVERING)
    with pytest.raises(DriverError, match="have not returned"):
        await hasty.driver.add(ARRAY, back, hasty.path(device(1)))
    await hasty.write(BLOCK, b"y" * BLOCK)
    hasty.faults.lift(rule)
    freeze.thaw()
    await until(lambda: hasty.data_of(device(1))[:1] == b"x")
    await _add_when_possible(hasty, back)
    assert [m.device for m in hasty.driver.status(ARRAY).members] == [device(0), device(1)]


async def _add_when_possible(lab: EmbeddedLab, back: Member) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await lab.driver.add(ARRAY, back, lab.path(back.device))
            except DriverError:
                await asyncio.sleep(0.001)


async def test_a_hung_member_does_not_delay_others(lab: EmbeddedLab) -> None:
    freeze = lab.freeze()
    await lab.start(array(10, 4))
    other = 128 * SECTOR  # chunk 1: roles 2 and 3
    await lab.write(other, b"x" * BLOCK)  # sets the bits, for which all members are needed
    await lab.write(0, b"x" * BLOCK)
    lab.before(device(0), freeze, Direction.WRITE, Purpose.DATA)
    writes = [
        asyncio.create_task(lab.write(i * BLOCK, b"x" * BLOCK)) for i in range(8)
    ]  # chunk 0: roles 0 and 1, more than member 0 has threads
    await reached(freeze)
    await asyncio.wait_for(lab.write(other, b"y" * BLOCK), PATIENCE_S)
    assert await asyncio.wait_for(lab.read(other, BLOCK), PATIENCE_S) == b"y" * BLOCK
    assert not any(write.done() for write in writes)
    freeze.thaw()
    await asyncio.gather(*writes)


async def test_the_last_good_member_may_take_its_time(hasty: EmbeddedLab) -> None:
    """Answering EIO would let a later write be undone by the late one."""
    await hasty.start(array())
    await hasty.release(device(1))
    freeze = hasty.freeze()
    hasty.before(device(0), freeze, Direction.WRITE, Purpose.DATA)
    write = asyncio.create_task(hasty.write(0, b"x" * BLOCK))
    await hasty.failure_of(device(0))
    assert not write.done()
    freeze.thaw()
    await asyncio.wait_for(write, PATIENCE_S)
    assert not hasty.driver.status(ARRAY).write_pending


# --- copying ------------------------------------------------------------------------------


async def test_frozen_between_gate_and_write(lab: EmbeddedLab) -> None:
    """The copying write that passed the gate is waited for by stop_sync."""
    freeze = lab.freeze()
    await lab.start(array())
    lab.put(device(1), 0, b"z" * BLOCK)
    lab.before(device(1), freeze, Direction.WRITE, Purpose.COPY)
    await lab.driver.start_sync(ARRAY, SyncKind.REPAIR, 0)
    limit = asyncio.create_task(lab.driver.limit_sync(ARRAY, 1024))
    await reached(freeze)
    lab.shut_gate()
    stop = asyncio.create_task(lab.driver.stop_sync(ARRAY))
    await lab.read(0, BLOCK)
    assert not stop.done() and not limit.done()
    freeze.thaw()
    await asyncio.wait_for(stop, PATIENCE_S)
    with pytest.raises(DriverError, match="stopped"):
        await limit
    assert lab.data_of(device(1))[:BLOCK] == bytes(BLOCK)


async def test_stop_sync_waits_for_a_late_copying_write(hasty: EmbeddedLab) -> None:
    freeze = hasty.freeze()
    await hasty.start(array())
    hasty.put(device(1), 0, b"z" * BLOCK)
    hasty.before(device(1), freeze, Direction.WRITE, Purpose.COPY, times=1)
    await hasty.driver.start_sync(ARRAY, SyncKind.REPAIR, 0)
    with pytest.raises(DriverError, match="100 ms"):
        await hasty.driver.limit_sync(ARRAY, 1024)
    assert hasty.failures() == [device(1)]
    stop = asyncio.create_task(hasty.driver.stop_sync(ARRAY))
    await hasty.read(0, BLOCK)
    assert not stop.done()
    freeze.thaw()
    await asyncio.wait_for(stop, PATIENCE_S)


async def test_local_writes_stay_out_of_the_stretch_being_copied(lab: EmbeddedLab) -> None:
    freeze = lab.freeze()
    await lab.start(array())
    lab.put(device(1), 0, b"z" * BLOCK)
    lab.before(device(1), freeze, Direction.WRITE, Purpose.COPY, times=1)
    await lab.driver.start_sync(ARRAY, SyncKind.REPAIR, 0)
    limit = asyncio.create_task(lab.driver.limit_sync(ARRAY, 1024))
    await reached(freeze)
    inside = asyncio.create_task(lab.write(0, b"n" * BLOCK))
    await lab.write(2048 * SECTOR, b"o" * BLOCK)
    assert not inside.done()
    freeze.thaw()
    step = await limit
    assert step.copied_sectors == 1024
    await asyncio.wait_for(inside, PATIENCE_S)
    await lab.driver.stop_sync(ARRAY)
    assert lab.data_of(device(0)) == lab.data_of(device(1))


async def test_a_target_that_fails_ends_the_copying(lab: EmbeddedLab) -> None:
    await lab.start(array())
    lab.put(device(1), 0, b"z" * BLOCK)
    lab.faults.fail(lab.path(device(1)), Direction.WRITE, purpose=Purpose.COPY)
    await lab.driver.start_sync(ARRAY, SyncKind.REPAIR, 0)
    with pytest.raises(DriverError, match="Input/output"):
        await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
    assert lab.failures() == [device(1)]
    with pytest.raises(DriverError, match="pending"):
        await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
    assert lab.driver.status(ARRAY).sync_completed_sectors == 0


async def test_a_step_is_complete_only_when_flushed(lab: EmbeddedLab) -> None:
    await lab.start(array())
    lab.faults.fail(lab.path(device(1)), Direction.FLUSH, purpose=Purpose.COPY)
    await lab.driver.start_sync(ARRAY, SyncKind.REPAIR, 0)
    with pytest.raises(DriverError, match="flush"):
        await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
    assert lab.driver.status(ARRAY).sync_completed_sectors == 0


async def test_sectors_that_differ_are_counted_exactly(lab: EmbeddedLab) -> None:
    await lab.start(array())
    lab.put(device(1), 100, b"z" * 3 * SECTOR)
    for kind, found in ((SyncKind.CHECK, 3), (SyncKind.REPAIR, 3), (SyncKind.CHECK, 0)):
        await lab.driver.start_sync(ARRAY, kind, 0)
        step = await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
        assert step.mismatched_sectors == found
        await lab.driver.stop_sync(ARRAY)


async def test_a_repair_writes_nothing_where_members_are_equal(lab: EmbeddedLab) -> None:
    await lab.start(array())
    lab.faults.fail(lab.path(device(1)), Direction.WRITE, purpose=Purpose.COPY)
    await lab.driver.start_sync(ARRAY, SyncKind.REPAIR, 0)
    step = await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
    assert step.planned_sectors == step.copied_sectors == SIZE_SECTORS
    assert lab.failures() == []


# --- pinned reads, spectators, refusals ------------------------------------------------------


async def test_pinned_reads_come_from_the_first_member(lab: EmbeddedLab) -> None:
    await lab.start(array())
    lab.put(device(1), 0, b"z" * BLOCK)
    await lab.driver.pin_reads(ARRAY, True)
    assert {await lab.read(0, BLOCK) for _ in range(8)} == {bytes(BLOCK)}
    await lab.driver.pin_reads(ARRAY, False)
    assert {await lab.read(0, BLOCK) for _ in range(8)} == {bytes(BLOCK), b"z" * BLOCK}


async def test_a_spectator_never_writes(lab: EmbeddedLab) -> None:
    written: list[Access] = []
    for number in range(2):
        for direction in (Direction.WRITE, Direction.FLUSH):
            lab.before(device(number), written.append, direction)
    await lab.start(array(), slot=-1)
    with pytest.raises(OSError, match="read-only"):
        await lab.write(0, b"x" * BLOCK)
    assert await lab.read(0, BLOCK) == bytes(BLOCK)
    await lab.driver.backend(ARRAY).flush()
    with pytest.raises(DriverError, match="read-only"):
        await lab.driver.start_sync(ARRAY, SyncKind.REPAIR, 0)
    with pytest.raises(DriverError, match="read-only"):
        await lab.driver.set_bits(ARRAY, 0, 8)
    lab.break_reads(device(0))
    assert await lab.read(0, BLOCK) == bytes(BLOCK)
    await lab.driver.fail(ARRAY, device(0))
    await lab.driver.remove(ARRAY, device(0))
    await lab.driver.add(ARRAY, member(4, role=0), lab.path(device(4)))
    await lab.driver.stop(ARRAY)
    assert written == []


async def test_stop_refuses_while_a_client_is_connected(lab: EmbeddedLab) -> None:
    await lab.start(array())
    socket = lab.folder / "data.sock"
    reader, writer = await asyncio.open_unix_connection(str(socket))
    assert (await reader.readexactly(8)) == b"NBDMAGIC"
    assert lab.driver.status(ARRAY).openers == 1
    with pytest.raises(ArrayBusyError):
        await lab.driver.stop(ARRAY)
    writer.close()
    await until(lambda: lab.driver.status(ARRAY).openers == 0)
    await lab.driver.stop(ARRAY)
    assert not socket.exists()


async def test_close_answers_no_held_write(lab: EmbeddedLab) -> None:
    await lab.start(array())
    lab.break_writes(device(1))
    held = asyncio.create_task(lab.write(0, b"x" * BLOCK))
    await lab.failure_of(device(1))
    with pytest.raises(ArrayBusyError):
        await lab.driver.stop(ARRAY)
    await lab.driver.close()
    with pytest.raises(OSError, match="closed"):
        await held


@pytest.mark.parametrize(("offset", "length"), [(1, 512), (0, 511), (0, 0), (-512, 512)])
async def test_unaligned_access_is_refused(lab: EmbeddedLab, offset: int, length: int) -> None:
    await lab.start(array())
    with pytest.raises(OSError, match=r"blocks of 512|end of the array"):
        await lab.write(offset, bytes(length))
    with pytest.raises(OSError, match=r"blocks of 512|end of the array"):
        await lab.read(SIZE_SECTORS * SECTOR, 512)


async def test_what_cannot_be_assembled_leaves_nothing_behind(lab: EmbeddedLab) -> None:
    state = array()
    bad = {
        "bytes, the array needs": replace(state, size_sectors=SIZE_SECTORS + 8),
        "behind the start of its data": replace(
            state, members=tuple(replace(m, data_offset_sectors=1030) for m in state.members)
        ),
        "cannot be a socket's name": replace(state, name="../data"),
        "no member in sync": replace(state, members=()),
        "not supported": replace(state, level=6),
    }
    for why, broken in bad.items():
        with pytest.raises(DriverError, match=why):
            await lab.assemble(broken)
        assert lab.driver.arrays() == ()
    one = lab.path(device(0))
    with pytest.raises(DriverError, match="in use already"):
        await lab.driver.assemble(state, {device(0): one, device(1): one}, 1024, read_only=False)
    with pytest.raises(DriverError, match="cannot be opened"):
        await lab.driver.assemble(
            state, {device(0): "/nowhere", device(1): one}, 1024, read_only=False
        )
    gone = lab.faults.disappear(one)
    with pytest.raises(DriverError, match="cannot be opened"):
        await lab.assemble(state)
    lab.faults.lift(gone)
    await lab.assemble(state)
    with pytest.raises(DriverError, match="already assembled"):
        await lab.assemble(state)


async def test_reads_of_the_last_good_member_are_waited_for(hasty: EmbeddedLab) -> None:
    await hasty.start(array())
    await hasty.write(0, b"x" * BLOCK)
    await hasty.release(device(1))
    freeze = hasty.freeze()
    hasty.before(device(0), freeze, Direction.READ, Purpose.DATA)
    read = asyncio.create_task(hasty.read(0, BLOCK))
    await hasty.failure_of(device(0))
    assert not read.done()
    freeze.thaw()
    assert await asyncio.wait_for(read, PATIENCE_S) == b"x" * BLOCK


async def test_time_in_which_the_process_stood_still_fails_no_member(tmp_path: Path) -> None:
    lab = EmbeddedLab(tmp_path, deadline_ms=300)
    freeze = lab.freeze()
    lab.before(device(1), freeze, Direction.WRITE, Purpose.DATA)
    await lab.start(array())
    write = asyncio.create_task(lab.write(0, b"x" * BLOCK))
    await reached(freeze)
    time.sleep(0.6)  # noqa: ASYNC251  as after SIGSTOP: the deadline is over, nothing has run
    freeze.thaw()
    await asyncio.wait_for(write, PATIENCE_S)
    assert lab.failures() == []
    await lab.close()


async def test_a_replaced_faulty_member_does_not_keep_bits(lab: EmbeddedLab) -> None:
    """It is still attached, but its role has a new member."""
    await lab.start(array())
    await lab.release(device(1))
    await lab.driver.add(ARRAY, member(4, MemberState.RECOVERING, role=1), lab.path(device(4)))
    await lab.driver.start_sync(ARRAY, SyncKind.RECOVER, 0)
    await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
    await lab.driver.stop_sync(ARRAY)
    await lab.driver.take_in(ARRAY, [device(4)])
    await lab.write(0, b"x" * BLOCK)
    await lab.driver.stop(ARRAY)
    assert lab.slot_of(device(0)) == lab.slot_of(device(4)) == bytes(4096)


async def test_add_waits_for_writes_that_know_nothing_of_the_member(lab: EmbeddedLab) -> None:
    await lab.start(array())
    await lab.release(device(1))
    await lab.driver.remove(ARRAY, device(1))
    freeze = lab.freeze()
    lab.before(device(0), freeze, Direction.WRITE, Purpose.DATA, times=1)
    write = asyncio.create_task(lab.write(0, b"x" * BLOCK))
    await reached(freeze)
    add = asyncio.create_task(
        lab.driver.add(ARRAY, member(4, MemberState.RECOVERING, role=1), lab.path(device(4)))
    )
    await until(lambda: len(lab.driver.status(ARRAY).members) == 2)
    await lab.write(8 * BLOCK, b"y" * BLOCK)
    assert lab.data_of(device(4))[8 * BLOCK :][:1] == b"y"
    assert not add.done()
    freeze.thaw()
    await asyncio.wait_for(asyncio.gather(add, write), PATIENCE_S)
