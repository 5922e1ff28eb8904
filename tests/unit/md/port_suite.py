"""What every md driver has to do: one suite, run against each by a `lab` fixture.

A driver's test module subclasses :class:`PortSuite` and gives it a fixture `lab`, an async
:class:`Lab`: how to make members and arrays, to use them, to break them and to look at the members.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import pytest

from mdcluster.core.model import ArrayId, ArrayState, DeviceId, Member, MemberState, SyncKind
from mdcluster.gate import GateShutError
from mdcluster.md.driver import DriverError, MdDriver
from mdcluster.md.raid import Geometry, geometry_of

ARRAY = ArrayId("0f4c1c63-2a1e-4e0e-9d0a-6b1c7e5a1d20")
SECTOR = 512
BLOCK = 4096
CHUNK_SECTORS = 128  # of the bitmap
DATA_OFFSET_SECTORS = 2048
SIZE_SECTORS = 4096  # of each member
SLOT_SECTORS = (1024, 1032, 1040)
PATIENCE_S = 60.0


class Lab(Protocol):
    """A driver and a bench to try it on."""

    @property
    def driver(self) -> MdDriver: ...

    async def start(self, state: ArrayState, slot: int = 0) -> None:
        """Assemble, run and activate with the members that have a file."""

    async def write(self, offset_bytes: int, data: bytes) -> None: ...

    async def read(self, offset_bytes: int, length_bytes: int) -> bytes: ...

    def path(self, device: DeviceId) -> str: ...

    def data_of(self, device: DeviceId) -> bytes:
        """The data area of a member, as it is on it."""

    def put(self, device: DeviceId, lo_sectors: int, data: bytes) -> None:
        """Write into the data area behind the driver's back."""

    def slot_of(self, device: DeviceId, slot: int = 0) -> bytes: ...

    def put_slot(self, device: DeviceId, slot: int, bits: bytes) -> None: ...

    def break_writes(self, device: DeviceId) -> None: ...

    def break_reads(self, device: DeviceId) -> None: ...

    def heal(self, device: DeviceId) -> None: ...

    def shut_gate(self) -> None: ...

    async def failure_of(self, device: DeviceId) -> str:
        """Wait until the driver has reported this member; the reason."""

    def failures(self) -> list[DeviceId]:
        """Everything reported so far, in order."""

    @property
    def holds_wait_for_failures(self) -> bool:
        """Whether a hold over a failed write returns only once that is released."""


def device(number: int) -> DeviceId:
    """The device UUID of the member with this number."""
    return DeviceId(f"00000000-0000-0000-0000-{number:012d}")


def member(number: int, state: MemberState = MemberState.IN_SYNC, role: int = -2) -> Member:
    """A member; by default its role is its number."""
    return Member(
        device(number),
        number,
        number if role == -2 else role,
        state,
        DATA_OFFSET_SECTORS,
        SIZE_SECTORS,
    )


def array(level: int = 1, disks: int = 2, chunk_sectors: int = 128) -> ArrayState:
    """A clean array with `disks` members in sync."""
    return ArrayState(
        uuid=ARRAY,
        name="data",
        level=level,
        layout=0x102 if level == 10 else 0,
        chunk_sectors=chunk_sectors if level == 10 else 0,
        raid_disks=disks,
        size_sectors=SIZE_SECTORS,
        bitmap_chunk_sectors=CHUNK_SECTORS,
        members=tuple(member(number) for number in range(disks)),
        resync_sectors=None,
        sync=None,
        last_serial=0,
        slots=(),
        running=(),
        active=True,
        created_s=0,
        updated_s=0,
        next_number=disks,
    )


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells. TimeoutError if it never comes."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def assemble_image(geometry: Geometry, members: dict[int, bytes], copy: int) -> bytes:
    """The array's content as the first (0) or the last (-1) copy of each piece has it."""
    image = bytearray()
    for piece in geometry.pieces(0, geometry.array_sectors):
        place = piece.copies[copy]
        at = place.offset_sectors * SECTOR
        image += members[place.role][at : at + piece.length_sectors * SECTOR]
    return bytes(image)


def images(lab: Lab, state: ArrayState) -> tuple[bytes, bytes]:
    """The array as its first and as its last copies have it."""
    members = {m.role: lab.data_of(m.device) for m in state.members if m.role >= 0}
    geometry = geometry_of(state)
    return assemble_image(geometry, members, 0), assemble_image(geometry, members, -1)


SHAPES = [(1, 2), (1, 3), (10, 2), (10, 3), (10, 4), (10, 5)]


class PortSuite:
    """The port's promises; see mdcluster/md/driver.py."""

    @pytest.mark.parametrize(("level", "disks"), SHAPES)
    async def test_writes_are_mirrored_and_read_back(
        self, lab: Lab, level: int, disks: int
    ) -> None:
        state = array(level, disks)
        await lab.start(state)
        length = geometry_of(state).array_sectors * SECTOR
        data = os.urandom(length)
        await lab.write(0, data)
        assert await lab.read(0, length) == data
        assert images(lab, state) == (data, data)
        patch = os.urandom(3 * BLOCK)
        await lab.write(60 * 1024, patch)  # over the edge of a chunk
        assert await lab.read(60 * 1024, len(patch)) == patch
        await lab.driver.stop(ARRAY)
        assert lab.driver.arrays() == ()

    async def test_a_stop_is_no_failure_of_members(self, lab: Lab) -> None:
        for _ in range(5):
            await lab.start(array())
            await lab.write(0, os.urandom(BLOCK))
            await lab.driver.stop(ARRAY)
        assert lab.failures() == []

    @pytest.mark.parametrize(("level", "disks"), [(1, 2), (1, 3), (10, 4), (10, 3)])
    async def test_failed_write_is_held_until_fail_unblock_activate(
        self, lab: Lab, level: int, disks: int
    ) -> None:
        state = array(level, disks)
        await lab.start(state)
        await lab.write(0, b"a" * BLOCK)
        lab.break_writes(device(1))
        held = asyncio.create_task(lab.write(0, b"b" * BLOCK))
        await lab.failure_of(device(1))
        await until(lambda: lab.data_of(device(0))[:1] == b"b")
        late = asyncio.create_task(lab.write(8 * BLOCK, b"c" * BLOCK))
        assert await lab.read(0, BLOCK) == b"b" * BLOCK
        status = lab.driver.status(ARRAY)
        assert status.write_pending and not status.clean
        assert [m.device for m in status.members if m.blocked] == [device(1)]
        assert await lab.read(8 * BLOCK, BLOCK) == bytes(BLOCK)
        lab.heal(device(1))
        await lab.driver.fail(ARRAY, device(1))
        assert await lab.read(0, BLOCK) == b"b" * BLOCK
        await lab.driver.unblock(ARRAY, device(1))
        assert await lab.read(0, BLOCK) == b"b" * BLOCK
        assert not held.done() and not late.done()
        await lab.driver.activate(ARRAY)
        await asyncio.wait_for(asyncio.gather(held, late), PATIENCE_S)
        assert lab.driver.status(ARRAY).clean
        assert lab.failures() == [device(1)]
        assert lab.data_of(device(1))[:BLOCK] == b"a" * BLOCK
        for _ in range(4):
            assert await lab.read(0, BLOCK) == b"b" * BLOCK

    async def test_no_write_in_flight_slips_through_a_failure(self, lab: Lab) -> None:
        """KERNEL.md, trap 1: not only the first failing write is held."""
        await lab.start(array())
        lab.break_writes(device(1))
        writes = [
            asyncio.create_task(lab.write(i * BLOCK, bytes([i + 1]) * BLOCK)) for i in range(16)
        ]
        await lab.failure_of(device(1))
        for i in range(16):
            await lab.read(i * BLOCK, BLOCK)
        await until(lambda: lab.driver.status(ARRAY).writes_in_flight == 0)
        await lab.driver.fail(ARRAY, device(1))
        assert not any(write.done() for write in writes)
        await lab.driver.unblock(ARRAY, device(1))
        await lab.driver.activate(ARRAY)
        await asyncio.wait_for(asyncio.gather(*writes), PATIENCE_S)
        assert lab.failures() == [device(1)]

    async def test_fail_by_commit_holds_writes_too(self, lab: Lab) -> None:
        """Another node's failure: nothing is acknowledged here before the release."""
        await lab.start(array())
        await lab.driver.fail(ARRAY, device(0))
        write = asyncio.create_task(lab.write(0, b"x" * BLOCK))
        assert await lab.read(0, BLOCK) == bytes(BLOCK)
        assert not write.done()
        await lab.driver.unblock(ARRAY, device(0))
        await lab.driver.activate(ARRAY)
        await asyncio.wait_for(write, PATIENCE_S)
        assert lab.data_of(device(0))[:BLOCK] == bytes(BLOCK)
        assert lab.data_of(device(1))[:BLOCK] == b"x" * BLOCK

    async def test_last_good_member_stays(self, lab: Lab) -> None:
        await lab.start(array())
        await lab.write(0, b"a" * BLOCK)
        await lab.driver.fail(ARRAY, device(0))
        await lab.driver.unblock(ARRAY, device(0))
        await lab.driver.activate(ARRAY)
        with pytest.raises(DriverError, match="last good"):
            await lab.driver.fail(ARRAY, device(1))
        lab.break_writes(device(1))
        write = asyncio.create_task(lab.write(8 * BLOCK * 16, b"b" * BLOCK))
        await lab.failure_of(device(1))
        await lab.driver.unblock(ARRAY, device(1))  # as the core gives it up
        await lab.driver.activate(ARRAY)
        with pytest.raises(OSError, match=r"no good member|Input/output"):
            await asyncio.wait_for(write, PATIENCE_S)
        assert await lab.read(0, BLOCK) == b"a" * BLOCK
        assert not lab.driver.status(ARRAY).write_pending

    async def test_read_error_is_answered_by_another_member(self, lab: Lab) -> None:
        await lab.start(array())
        await lab.write(0, b"a" * BLOCK)
        lab.break_reads(device(0))
        for _ in range(4):
            assert await lab.read(0, BLOCK) == b"a" * BLOCK
        assert lab.failures() == [device(0)]
        assert lab.driver.status(ARRAY).write_pending

    async def test_hold_stops_writes_in_exactly_the_range(self, lab: Lab) -> None:
        await lab.start(array())
        await lab.driver.hold(ARRAY, 64, 128)
        assert lab.driver.status(ARRAY).clean
        inside = asyncio.create_task(lab.write(64 * SECTOR, b"i" * BLOCK))
        across = asyncio.create_task(lab.write(120 * SECTOR, b"x" * 2 * BLOCK))
        await lab.write(48 * SECTOR, b"b" * BLOCK)  # md holds one that ends at lo, too
        await lab.write(136 * SECTOR, b"f" * BLOCK)
        assert await lab.read(64 * SECTOR, BLOCK) == bytes(BLOCK)
        assert not inside.done() and not across.done()
        await lab.driver.hold(ARRAY, 128, 192)
        await asyncio.wait_for(inside, PATIENCE_S)
        assert not across.done()
        await lab.driver.hold(ARRAY, 128, 128)
        await asyncio.wait_for(across, PATIENCE_S)
        assert await lab.read(120 * SECTOR, 2 * BLOCK) == b"x" * 2 * BLOCK

    async def test_hold_all_is_beside_the_range(self, lab: Lab) -> None:
        await lab.start(array())
        await lab.driver.hold(ARRAY, 0, 8)
        await lab.driver.hold_all(ARRAY, True)
        write = asyncio.create_task(lab.write(64 * SECTOR, b"i" * BLOCK))
        held = asyncio.create_task(lab.write(0, b"h" * BLOCK))
        assert await lab.read(64 * SECTOR, BLOCK) == bytes(BLOCK)
        assert not write.done()
        await lab.driver.hold_all(ARRAY, False)
        await asyncio.wait_for(write, PATIENCE_S)
        assert not held.done()
        await lab.driver.hold(ARRAY, 0, 0)
        await asyncio.wait_for(held, PATIENCE_S)

    async def test_hold_over_a_failed_write_returns_but_is_not_clean(self, lab: Lab) -> None:
        """A failed, held write may count as drained: whoever holds has to look."""
        await lab.start(array())
        lab.break_writes(device(1))
        held = asyncio.create_task(lab.write(0, b"b" * BLOCK))
        await lab.failure_of(device(1))
        hold = asyncio.create_task(lab.driver.hold(ARRAY, 0, SIZE_SECTORS))
        if not lab.holds_wait_for_failures:
            await asyncio.wait_for(asyncio.shield(hold), PATIENCE_S)
        assert not lab.driver.status(ARRAY).clean
        assert not held.done()
        await lab.driver.start_sync(ARRAY, SyncKind.REPAIR, 0)
        with pytest.raises(DriverError, match="pending"):
            await lab.driver.limit_sync(ARRAY, 1024)
        await lab.driver.stop_sync(ARRAY)
        await lab.driver.fail(ARRAY, device(1))
        await lab.driver.unblock(ARRAY, device(1))
        await lab.driver.activate(ARRAY)
        await asyncio.wait_for(asyncio.gather(held, hold), PATIENCE_S)

    async def test_resync_ignores_positions_but_for_the_bitmap(self, lab: Lab) -> None:
        """KERNEL.md, trap 6: no bit, no copying; the bits of [lo, end) first, then windows."""
        state = array()
        await lab.start(state)
        lab.put(device(1), 0, os.urandom(SIZE_SECTORS * SECTOR))
        before = lab.data_of(device(1))
        await lab.driver.start_sync(ARRAY, SyncKind.RESYNC, 0)
        step = await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
        await lab.driver.stop_sync(ARRAY)
        assert (step.planned_sectors, step.copied_sectors) == (0, 0)
        assert lab.data_of(device(1)) == before
        await lab.driver.set_bits(ARRAY, 1024, SIZE_SECTORS)
        assert lab.driver.next_dirty(ARRAY, 0) == 1024
        await lab.driver.start_sync(ARRAY, SyncKind.RESYNC, 1024)
        for hi in (2048, 2080, SIZE_SECTORS):
            step = await lab.driver.limit_sync(ARRAY, hi)
            assert step.position_sectors == step.next_dirty_sectors == hi
            assert step.planned_sectors == step.copied_sectors
            now = lab.data_of(device(1))
            assert now[1024 * SECTOR : hi * SECTOR] == bytes((hi - 1024) * SECTOR)
            assert now[: 1024 * SECTOR] == before[: 1024 * SECTOR]
            assert now[hi * SECTOR :] == before[hi * SECTOR :]
        await lab.driver.stop_sync(ARRAY)

    async def test_no_sync_begins_above_what_is_dirty(self, lab: Lab) -> None:
        """md copies from there, where others do not hold their writes."""
        await lab.start(array())
        await lab.driver.set_bits(ARRAY, 1024, SIZE_SECTORS)
        for kind in (SyncKind.RESYNC, SyncKind.BITMAP):
            with pytest.raises(DriverError, match="marks what lies below"):
                await lab.driver.start_sync(ARRAY, kind, 2048)
            await lab.driver.start_sync(ARRAY, kind, 1024)
            await lab.driver.stop_sync(ARRAY)

    @pytest.mark.parametrize("what", ["add", "fail"])
    async def test_members_that_come_or_go_interrupt_a_sync(self, lab: Lab, what: str) -> None:
        await lab.start(array(disks=3))
        await self._release(lab, 1)
        await lab.driver.remove(ARRAY, device(1))
        await lab.driver.set_bits(ARRAY, 0, SIZE_SECTORS)
        await lab.driver.start_sync(ARRAY, SyncKind.RESYNC, 0)
        await lab.driver.limit_sync(ARRAY, 1024)
        if what == "add":
            fresh = member(3, MemberState.RECOVERING, role=1)
            await lab.driver.add(ARRAY, fresh, lab.path(fresh.device))
        else:
            await self._release(lab, 2)
        with pytest.raises(DriverError):
            await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
        await lab.driver.stop_sync(ARRAY)

    async def _release(self, lab: Lab, number: int) -> None:
        await lab.driver.fail(ARRAY, device(number))
        await lab.driver.unblock(ARRAY, device(number))
        await lab.driver.activate(ARRAY)

    async def test_a_chunk_that_was_interrupted_is_copied_whole_again(self, lab: Lab) -> None:
        """Below the position that was reached: the core begins at the start of the chunk."""
        await lab.start(array())
        lab.put(device(1), 0, os.urandom(SIZE_SECTORS * SECTOR))
        await lab.driver.set_bits(ARRAY, 0, SIZE_SECTORS)
        await lab.driver.start_sync(ARRAY, SyncKind.RESYNC, 0)
        middle = 2 * CHUNK_SECTORS + 64
        step = await lab.driver.limit_sync(ARRAY, middle)
        assert step.position_sectors == step.next_dirty_sectors == middle
        await lab.driver.stop_sync(ARRAY)
        start = 2 * CHUNK_SECTORS
        assert lab.driver.next_dirty(ARRAY, start) == start
        lab.put(device(1), start, os.urandom(BLOCK))
        await lab.driver.start_sync(ARRAY, SyncKind.RESYNC, start)
        step = await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
        assert step.planned_sectors == step.copied_sectors
        await lab.driver.stop_sync(ARRAY)
        assert lab.data_of(device(1)) == lab.data_of(device(0))

    @pytest.mark.parametrize(("level", "disks"), SHAPES)
    async def test_repair_makes_members_equal(self, lab: Lab, level: int, disks: int) -> None:
        state = array(level, disks)
        await lab.start(state)
        for number in range(disks):
            lab.put(device(number), 0, os.urandom(SIZE_SECTORS * SECTOR))
        first, last = images(lab, state)
        assert first != last
        await lab.driver.start_sync(ARRAY, SyncKind.REPAIR, 0)
        copied = 0
        for hi in range(512, SIZE_SECTORS + 1, 512):
            step = await lab.driver.limit_sync(ARRAY, hi)
            assert step.planned_sectors == step.copied_sectors
            copied += step.copied_sectors
        await lab.driver.stop_sync(ARRAY)
        assert copied == geometry_of(state).array_sectors
        assert images(lab, state) == (first, first)

    @pytest.mark.parametrize(("level", "disks"), SHAPES)
    async def test_bits_of_a_dead_node_are_copied_exactly(
        self, lab: Lab, level: int, disks: int
    ) -> None:
        state = array(level, disks)
        dirty = (2, 3, 9, 14)
        bits = bytearray(4096)
        for chunk in dirty:
            bits[chunk // 8] |= 1 << chunk % 8
        await lab.start(state)
        for number in range(disks):
            lab.put(device(number), 0, os.urandom(SIZE_SECTORS * SECTOR))
        lab.put_slot(device(0), 1, bytes(bits))  # the other members never got it: union
        first, last = images(lab, state)
        await lab.driver.merge_bits(ARRAY, (SLOT_SECTORS[1], SLOT_SECTORS[2]))
        assert lab.slot_of(device(1)) == bytes(bits)
        await lab.driver.start_sync(ARRAY, SyncKind.BITMAP, 0)
        step = await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
        await lab.driver.stop_sync(ARRAY)
        assert step.planned_sectors == step.copied_sectors == len(dirty) * CHUNK_SECTORS
        wanted = bytearray(last)
        for chunk in dirty:
            where = slice(chunk * CHUNK_SECTORS * SECTOR, (chunk + 1) * CHUNK_SECTORS * SECTOR)
            wanted[where] = first[where]
        assert images(lab, state) == (first, bytes(wanted))
        await until(lambda: lab.driver.next_dirty(ARRAY, 0) == SIZE_SECTORS)  # cleared in time

    async def test_own_restart_finds_its_dirty_bits(self, lab: Lab) -> None:
        state = array()
        lab.put_slot(device(1), 0, b"\x05")
        lab.put(device(1), 0, b"z" * 3 * CHUNK_SECTORS * SECTOR)
        await lab.start(state)
        assert await lab.read(0, BLOCK) == bytes(BLOCK)
        assert lab.driver.next_dirty(ARRAY, 1) == 1
        assert lab.driver.next_dirty(ARRAY, CHUNK_SECTORS) == 2 * CHUNK_SECTORS
        await lab.driver.start_sync(ARRAY, SyncKind.BITMAP, 0)
        step = await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
        await lab.driver.stop_sync(ARRAY)
        assert step.copied_sectors == 2 * CHUNK_SECTORS
        chunk = CHUNK_SECTORS * SECTOR
        assert lab.data_of(device(1))[: 3 * chunk] == bytes(chunk) + b"z" * chunk + bytes(chunk)

    @pytest.mark.parametrize(("level", "disks"), SHAPES)
    async def test_check_counts_what_repair_makes_equal(
        self, lab: Lab, level: int, disks: int
    ) -> None:
        """Whatever the bitmap says; in windows; equal ones first: a dirty cache must not help."""
        state = array(level, disks)
        await lab.start(state)
        data = os.urandom(geometry_of(state).array_sectors * SECTOR)
        await lab.write(0, data)
        lab.put(device(disks - 1), 2048, b"z" * 2 * CHUNK_SECTORS * SECTOR)
        spoiled = lab.data_of(device(disks - 1))
        assert await self._look(lab, SyncKind.CHECK) > 0
        assert lab.data_of(device(disks - 1)) == spoiled
        assert await self._look(lab, SyncKind.REPAIR) > 0
        first, last = images(lab, state)
        assert first == last
        assert await self._look(lab, SyncKind.CHECK) == 0
        if level == 1:
            assert first == data

    async def _look(self, lab: Lab, kind: SyncKind) -> int:
        """A whole check or repair in windows; how many sectors it found different."""
        found = 0
        await lab.driver.start_sync(ARRAY, kind, 0)
        for hi in range(1024, SIZE_SECTORS + 1, 1024):
            step = await lab.driver.limit_sync(ARRAY, hi)
            assert step.planned_sectors == step.copied_sectors > 0
            found += step.mismatched_sectors
        await lab.driver.stop_sync(ARRAY)
        return found

    async def test_shut_gate_stops_the_copying(self, lab: Lab) -> None:
        await lab.start(array())
        lab.put(device(1), 0, b"z" * BLOCK)
        await lab.driver.start_sync(ARRAY, SyncKind.REPAIR, 0)
        lab.shut_gate()
        with pytest.raises(GateShutError):
            await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
        await lab.driver.stop_sync(ARRAY)
        assert lab.data_of(device(1))[:BLOCK] == b"z" * BLOCK
        assert lab.failures() == []

    @pytest.mark.parametrize(("level", "disks"), SHAPES)
    async def test_hot_add_recover_take_in(self, lab: Lab, level: int, disks: int) -> None:
        state = array(level, disks)
        await lab.start(state)
        length = geometry_of(state).array_sectors * SECTOR
        data = bytearray(os.urandom(length))
        await lab.write(0, bytes(data))
        await lab.driver.fail(ARRAY, device(1))
        await lab.driver.unblock(ARRAY, device(1))
        await lab.driver.activate(ARRAY)
        await lab.driver.remove(ARRAY, device(1))
        fresh = member(disks, MemberState.RECOVERING, role=1)
        await lab.driver.add(ARRAY, fresh, lab.path(fresh.device))
        state = replace(state, members=(*state.members[:1], *state.members[2:], fresh))
        data[: 4 * BLOCK] = b"n" * 4 * BLOCK
        await lab.write(0, b"n" * 4 * BLOCK)
        assert b"n" * BLOCK in lab.data_of(fresh.device)[: 8 * BLOCK]  # written
        for _ in range(4):
            assert await lab.read(length // 2, BLOCK) == data[length // 2 :][:BLOCK]  # not read
        await lab.driver.start_sync(ARRAY, SyncKind.RECOVER, 0)
        for hi in range(1024, SIZE_SECTORS + 1, 1024):
            step = await lab.driver.limit_sync(ARRAY, hi)
            assert step.planned_sectors == step.copied_sectors > 0
        await lab.driver.stop_sync(ARRAY)
        await lab.driver.take_in(ARRAY, [fresh.device])
        assert all(m.in_sync for m in lab.driver.status(ARRAY).members)
        assert images(lab, state) == (bytes(data), bytes(data))

    async def test_members_recover_first_from_the_first_in_sync_and_to_no_other(
        self, lab: Lab
    ) -> None:
        """While members in sync differ (bits of a dead node) one is added: it gets the first's."""
        await lab.start(array(disks=3))
        other = os.urandom(SIZE_SECTORS * SECTOR)
        lab.put(device(1), 0, other)
        await lab.driver.fail(ARRAY, device(2))
        await lab.driver.unblock(ARRAY, device(2))
        await lab.driver.activate(ARRAY)
        await lab.driver.remove(ARRAY, device(2))
        fresh = member(3, MemberState.RECOVERING, role=2)
        lab.put(fresh.device, 0, os.urandom(SIZE_SECTORS * SECTOR))
        await lab.driver.add(ARRAY, fresh, lab.path(fresh.device))
        for kind in (SyncKind.RESYNC, SyncKind.BITMAP, SyncKind.REPAIR):
            with pytest.raises(DriverError, match="recover"):
                await lab.driver.start_sync(ARRAY, kind, 0)
        await lab.driver.start_sync(ARRAY, SyncKind.RECOVER, 0)
        await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
        await lab.driver.stop_sync(ARRAY)
        await lab.driver.take_in(ARRAY, [fresh.device])
        assert lab.data_of(fresh.device) == lab.data_of(device(0)) == bytes(len(other))
        assert lab.data_of(device(1)) == other

    @pytest.mark.parametrize(("level", "disks"), SHAPES)
    async def test_a_replacement_stands_beside_the_old_one(
        self, lab: Lab, level: int, disks: int
    ) -> None:
        """Both are written; the old one is read until the new one is taken in, and then goes."""
        state = array(level, disks)
        await lab.start(state)
        length = geometry_of(state).array_sectors * SECTOR
        data = bytearray(os.urandom(length))
        await lab.write(0, bytes(data))
        new = replace(member(disks, MemberState.RECOVERING, role=0), replacement=True)
        await lab.driver.add(ARRAY, new, lab.path(new.device))
        with pytest.raises(DriverError):  # one is enough
            other = replace(member(disks + 1, MemberState.RECOVERING, role=0), replacement=True)
            await lab.driver.add(ARRAY, other, lab.path(other.device))
        data[: 4 * BLOCK] = b"n" * 4 * BLOCK
        await lab.write(0, b"n" * 4 * BLOCK)
        for number in (0, disks):
            assert lab.data_of(device(number))[:BLOCK] == b"n" * BLOCK
        await lab.driver.start_sync(ARRAY, SyncKind.RECOVER, 0)
        for hi in range(1024, SIZE_SECTORS + 1, 1024):
            step = await lab.driver.limit_sync(ARRAY, hi)
            assert step.planned_sectors == step.copied_sectors > 0
        await lab.driver.stop_sync(ARRAY)
        assert lab.data_of(device(0)) == lab.data_of(new.device)
        await lab.driver.take_in(ARRAY, [new.device])
        await lab.driver.fail(ARRAY, device(0))
        await lab.driver.unblock(ARRAY, device(0))
        await lab.driver.activate(ARRAY)
        await lab.driver.remove(ARRAY, device(0))
        before = lab.data_of(device(0))
        data[:BLOCK] = b"m" * BLOCK
        await lab.write(0, b"m" * BLOCK)
        assert await lab.read(0, length) == bytes(data)
        assert lab.data_of(device(0)) == before
        replaced = replace(state, members=(replace(new, number=disks), *state.members[1:]))
        assert images(lab, replaced) == (bytes(data), bytes(data))

    async def test_a_replacement_goes_on_when_the_old_one_fails(self, lab: Lab) -> None:
        await lab.start(array())
        await lab.write(0, b"a" * BLOCK)
        new = replace(member(2, MemberState.RECOVERING, role=0), replacement=True)
        await lab.driver.add(ARRAY, new, lab.path(new.device))
        await lab.driver.fail(ARRAY, device(0))
        await lab.driver.unblock(ARRAY, device(0))
        await lab.driver.activate(ARRAY)
        await lab.driver.remove(ARRAY, device(0))
        await lab.write(BLOCK, b"b" * BLOCK)
        assert await lab.read(0, BLOCK) == b"a" * BLOCK
        await lab.driver.start_sync(ARRAY, SyncKind.RECOVER, 0)
        await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
        await lab.driver.stop_sync(ARRAY)
        await lab.driver.take_in(ARRAY, [new.device])
        assert lab.data_of(new.device) == lab.data_of(device(1))
        assert all(m.in_sync for m in lab.driver.status(ARRAY).members)

    async def test_re_add_copies_only_what_was_missed(self, lab: Lab) -> None:
        state = array()
        await lab.start(state)
        await lab.driver.fail(ARRAY, device(1))
        await lab.driver.unblock(ARRAY, device(1))
        await lab.driver.activate(ARRAY)
        await lab.write(5 * CHUNK_SECTORS * SECTOR, b"m" * BLOCK)
        await lab.driver.remove(ARRAY, device(1))
        back = replace(member(1, MemberState.RECOVERING), by_bitmap=True)
        await lab.driver.add(ARRAY, back, lab.path(back.device))
        await lab.driver.start_sync(ARRAY, SyncKind.RECOVER, 0)
        assert lab.driver.next_dirty(ARRAY, 0) == 5 * CHUNK_SECTORS
        step = await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
        await lab.driver.stop_sync(ARRAY)
        assert step.copied_sectors == CHUNK_SECTORS
        await lab.driver.take_in(ARRAY, [device(1)])
        assert lab.data_of(device(0)) == lab.data_of(device(1))

    async def test_more_roles_then_fewer(self, lab: Lab) -> None:
        """raid1: members close ranks and nothing is lost; see core/reshape.py."""
        await lab.start(array())
        await lab.write(0, b"a" * BLOCK)
        await lab.driver.set_raid_disks(ARRAY, 3)
        assert lab.driver.status(ARRAY).raid_disks == 3
        await lab.write(BLOCK, b"b" * BLOCK)
        fresh = member(5, MemberState.RECOVERING, role=2)
        await lab.driver.add(ARRAY, fresh, lab.path(fresh.device))
        await lab.driver.start_sync(ARRAY, SyncKind.RECOVER, 0)
        await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
        with pytest.raises(DriverError):
            await lab.driver.set_raid_disks(ARRAY, 4)  # during a sync
        await lab.driver.stop_sync(ARRAY)
        await lab.driver.take_in(ARRAY, [fresh.device])
        with pytest.raises(DriverError):
            await lab.driver.set_raid_disks(ARRAY, 2)  # three are in use
        await lab.driver.fail(ARRAY, device(0))
        await lab.driver.unblock(ARRAY, device(0))
        await lab.driver.activate(ARRAY)
        await lab.driver.remove(ARRAY, device(0))
        await lab.driver.set_raid_disks(ARRAY, 2)
        status = lab.driver.status(ARRAY)
        assert [(m.device, m.role) for m in status.members] == [(device(1), 0), (device(5), 1)]
        await lab.write(2 * BLOCK, b"c" * BLOCK)
        for number in (1, 5):
            data = lab.data_of(device(number))
            assert data[: 3 * BLOCK] == b"a" * BLOCK + b"b" * BLOCK + b"c" * BLOCK
        assert await lab.read(0, 2 * BLOCK) == b"a" * BLOCK + b"b" * BLOCK

    async def test_roles_of_a_raid10_stay(self, lab: Lab) -> None:
        await lab.start(array(10, 4))
        with pytest.raises(DriverError):
            await lab.driver.set_raid_disks(ARRAY, 6)
        assert lab.driver.status(ARRAY).raid_disks == 4

    @pytest.mark.parametrize(("level", "disks"), SHAPES)
    async def test_a_new_size_is_there_first_and_shown_later(
        self, lab: Lab, level: int, disks: int
    ) -> None:
        half = SIZE_SECTORS // 2
        small = replace(array(level, disks), size_sectors=half)
        large = replace(small, size_sectors=SIZE_SECTORS)
        await lab.start(small)
        end = geometry_of(small).array_sectors * SECTOR
        data = os.urandom(end)
        await lab.write(0, data)
        for number in range(disks):
            lab.put(device(number), half, bytes([number]) * half * SECTOR)
        await lab.driver.set_size(ARRAY, SIZE_SECTORS, visible=False)
        status = lab.driver.status(ARRAY)
        assert (status.size_sectors, status.shown_sectors) == (SIZE_SECTORS, half)
        with pytest.raises(OSError):
            await lab.write(end, b"x" * BLOCK)
        await self._resync(lab, half - (CHUNK_SECTORS if disks % 2 and level == 10 else 0))
        first, last = images(lab, large)
        assert first == last and first[:end] == data
        await lab.driver.set_size(ARRAY, SIZE_SECTORS, visible=True)
        assert lab.driver.status(ARRAY).shown_sectors == SIZE_SECTORS
        at = geometry_of(large).array_sectors * SECTOR - BLOCK
        await lab.write(at, b"x" * BLOCK)
        assert await lab.read(at, BLOCK) == b"x" * BLOCK
        assert images(lab, large)[0] == images(lab, large)[1]

    async def _resync(self, lab: Lab, lo_sectors: int) -> None:
        """By position, as the core does: bits first."""
        await lab.driver.set_bits(ARRAY, lo_sectors, SIZE_SECTORS)
        await lab.driver.start_sync(ARRAY, SyncKind.RESYNC, lo_sectors)
        step = await lab.driver.limit_sync(ARRAY, SIZE_SECTORS)
        assert step.planned_sectors == step.copied_sectors > 0
        await lab.driver.stop_sync(ARRAY)

    async def test_a_size_that_cannot_be(self, lab: Lab) -> None:
        await lab.start(array())
        before = lab.driver.status(ARRAY)
        for size in (SIZE_SECTORS // 2, 2 * SIZE_SECTORS):
            with pytest.raises(DriverError):
                await lab.driver.set_size(ARRAY, size, visible=True)
        assert lab.driver.status(ARRAY) == before

    async def test_a_size_to_come_is_not_shown(self, lab: Lab) -> None:
        """Started while not every node has the size: only what all have is shown."""
        half = SIZE_SECTORS // 2
        await lab.start(replace(array(), shown_sectors=half))
        with pytest.raises(OSError):
            await lab.write(half * SECTOR, b"x" * BLOCK)
        await lab.driver.set_size(ARRAY, SIZE_SECTORS, visible=True)
        await lab.write(half * SECTOR, b"x" * BLOCK)

    async def test_read_only_for_a_while(self, lab: Lab) -> None:
        await lab.start(array())
        await lab.write(0, b"a" * BLOCK)
        for _ in range(2):  # the same again does nothing
            await lab.driver.set_read_only(ARRAY, True)
        assert lab.driver.status(ARRAY).shut
        with pytest.raises(OSError):
            await lab.write(0, b"b" * BLOCK)
        with pytest.raises(DriverError):
            await lab.driver.start_sync(ARRAY, SyncKind.REPAIR, 0)
        assert await lab.read(0, BLOCK) == b"a" * BLOCK
        await lab.driver.set_read_only(ARRAY, False)
        assert not lab.driver.status(ARRAY).shut
        await lab.write(0, b"c" * BLOCK)
        assert [lab.data_of(device(n))[:BLOCK] for n in (0, 1)] == [b"c" * BLOCK] * 2
        assert lab.failures() == []

    async def test_refusals_change_nothing(self, lab: Lab) -> None:
        await lab.start(array())
        before = lab.driver.status(ARRAY)
        with pytest.raises(DriverError):
            await lab.driver.remove(ARRAY, device(0))
        with pytest.raises(DriverError):
            await lab.driver.take_in(ARRAY, [device(7)])
        with pytest.raises(DriverError):
            await lab.driver.fail(ARRAY, device(7))
        with pytest.raises(DriverError):
            await lab.driver.add(ARRAY, member(5, role=1), lab.path(device(5)))
        with pytest.raises(DriverError):
            await lab.driver.limit_sync(ARRAY, 8)
        with pytest.raises(DriverError):
            lab.driver.status(ArrayId("unknown"))
        assert lab.driver.status(ARRAY) == before
