"""The embedded driver under load: content is checked against a model, while members come and go."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mdcluster.core.model import Member, MemberState, SyncKind
from mdcluster.md.raid import geometry_of
from tests.unit.md.embedded_lab import EmbeddedLab
from tests.unit.md.port_suite import (
    ARRAY,
    BLOCK,
    PATIENCE_S,
    SECTOR,
    SHAPES,
    SIZE_SECTORS,
    array,
    device,
    images,
    member,
)

WORKERS = 8


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[EmbeddedLab]:
    lab = EmbeddedLab(tmp_path, clear_ms=5)
    yield lab
    await lab.close()


def content(block: int, sequence: int) -> bytes:
    """A block that says which it is and which write it was; 0: never written."""
    return f"{block:08d}{sequence:08d}".encode() * (BLOCK // 16) if sequence else bytes(BLOCK)


def sequence_of(block: int, data: bytes) -> int:
    """Which write a block is of; it must be whole."""
    sequence = int(data[8:16]) if data[:1] != b"\0" else 0
    assert data == content(block, sequence), f"block {block} is torn or of another block"
    return sequence


class Load:
    """Workers that own blocks, write them in sequence, and read those of all."""

    def __init__(self, lab: EmbeddedLab, blocks: int, seed: int) -> None:
        self.acknowledged = [0] * blocks
        self.issued = [0] * blocks
        self.stop = False
        self._lab = lab
        self._random = random.Random(seed)

    async def worker(self, number: int, count: int) -> None:
        for _ in range(count):
            if self.stop:
                return
            if self._random.random() < 0.6:
                await self._write(number)
            else:
                await self._read()

    async def _write(self, number: int) -> None:
        pair = self._random.choice(range(number, len(self.issued) // 2, WORKERS))
        blocks = self._random.choice([[2 * pair], [2 * pair + 1], [2 * pair, 2 * pair + 1]])
        for one in blocks:
            self.issued[one] += 1
        data = b"".join(content(one, self.issued[one]) for one in blocks)
        fua = self._random.random() < 0.1
        await self._lab.driver.backend(ARRAY).write(blocks[0] * BLOCK, data, fua=fua)
        for one in blocks:
            self.acknowledged[one] = self.issued[one]

    async def _read(self) -> None:
        first = self._random.randrange(len(self.issued) - 3)
        count = self._random.choice([1, 1, 3])
        least = self.acknowledged[first : first + count]
        data = await self._lab.read(first * BLOCK, count * BLOCK)
        for index in range(count):
            found = sequence_of(first + index, data[index * BLOCK :][:BLOCK])
            assert least[index] <= found <= self.issued[first + index]

    def check(self, image: bytes) -> None:
        """After the load: every block is of its last write."""
        for block, sequence in enumerate(self.issued):
            assert sequence_of(block, image[block * BLOCK :][:BLOCK]) == sequence

    def run(self, count: int) -> "asyncio.Future[list[None]]":
        return asyncio.gather(*(self.worker(number, count) for number in range(WORKERS)))


@pytest.mark.parametrize(("level", "disks"), SHAPES)
async def test_members_stay_equal_under_load(lab: EmbeddedLab, level: int, disks: int) -> None:
    state = array(level, disks, chunk_sectors=64)
    await lab.start(state)
    load = Load(lab, geometry_of(state).array_sectors * SECTOR // BLOCK, seed=disks)
    await asyncio.wait_for(load.run(60), PATIENCE_S)
    await lab.driver.stop(ARRAY)
    first, last = images(lab, state)
    assert first == last
    load.check(first)


@pytest.mark.parametrize(("level", "disks"), SHAPES)
async def test_fail_replace_and_recover_under_load(
    lab: EmbeddedLab, level: int, disks: int
) -> None:
    """A member fails on its own, is replaced, recovered in held windows and taken in."""
    state = array(level, disks, chunk_sectors=64)
    await lab.start(state)
    load = Load(lab, geometry_of(state).array_sectors * SECTOR // BLOCK, seed=disks)
    running = asyncio.ensure_future(load.run(10_000))
    lab.break_writes(device(1))
    await lab.failure_of(device(1))
    await lab.release(device(1))
    await lab.driver.remove(ARRAY, device(1))
    fresh = member(8, MemberState.RECOVERING, role=1)
    await lab.driver.add(ARRAY, fresh, lab.path(fresh.device))
    state = replace(state, members=(*state.members[:1], *state.members[2:], fresh))
    await lab.driver.start_sync(ARRAY, SyncKind.RECOVER, 0)
    for hi in range(512, SIZE_SECTORS + 1, 512):
        step = await asyncio.wait_for(lab.driver.limit_sync(ARRAY, hi), PATIENCE_S)
        assert step.planned_sectors == step.copied_sectors
    await lab.driver.stop_sync(ARRAY)
    await lab.driver.hold(ARRAY, 0, geometry_of(state).array_sectors)
    assert lab.driver.status(ARRAY).clean
    await lab.driver.take_in(ARRAY, [fresh.device])
    await lab.driver.hold(ARRAY, 0, 0)
    load.stop = True
    await asyncio.wait_for(running, PATIENCE_S)
    await lab.driver.stop(ARRAY)
    first, last = images(lab, state)
    assert first == last
    load.check(first)
    assert sum(load.issued) > WORKERS
    assert lab.failures() == [device(1)]


async def test_resync_under_load_loses_nothing(lab: EmbeddedLab) -> None:
    state = array(1, 3)
    await lab.start(state)
    load = Load(lab, SIZE_SECTORS * SECTOR // BLOCK, seed=7)
    running = asyncio.ensure_future(load.run(10_000))
    for _ in range(3):
        await lab.driver.set_bits(ARRAY, 0, SIZE_SECTORS)
        await lab.driver.start_sync(ARRAY, SyncKind.RESYNC, 0)
        for hi in range(256, SIZE_SECTORS + 1, 256):
            await asyncio.wait_for(lab.driver.limit_sync(ARRAY, hi), PATIENCE_S)
        await lab.driver.stop_sync(ARRAY)
    load.stop = True
    await asyncio.wait_for(running, PATIENCE_S)
    await lab.driver.stop(ARRAY)
    assert lab.data_of(device(0)) == lab.data_of(device(1)) == lab.data_of(device(2))
    load.check(lab.data_of(device(0)))
    assert lab.slot_of(device(0)) == bytes(4096)


async def test_the_shape_changes_under_load(lab: EmbeddedLab) -> None:
    """A role more and one less, a member replaced in use, a larger size: writes see none of it."""
    half = SIZE_SECTORS // 2
    await lab.start(replace(array(1, 2), size_sectors=half))
    load = Load(lab, half * SECTOR // BLOCK, seed=11)
    running = asyncio.ensure_future(load.run(10_000))
    await lab.driver.set_raid_disks(ARRAY, 3)
    await recover(lab, member(5, MemberState.RECOVERING, role=2), half)
    await recover(lab, replace(member(6, MemberState.RECOVERING, role=0), replacement=True), half)
    for number in (0, 1):
        await lab.release(device(number))
        await lab.driver.remove(ARRAY, device(number))
    await lab.driver.set_raid_disks(ARRAY, 2)
    roles = {m.device: m.role for m in lab.driver.status(ARRAY).members}
    assert roles == {device(6): 0, device(5): 1}
    for number in (5, 6):
        lab.put(device(number), half, bytes([number]) * half * SECTOR)
    await lab.driver.set_size(ARRAY, SIZE_SECTORS, visible=False)
    await lab.driver.set_bits(ARRAY, half, SIZE_SECTORS)
    first = min(half, lab.driver.next_dirty(ARRAY, 0))  # what was missed while degraded
    await lab.driver.start_sync(ARRAY, SyncKind.RESYNC, first)
    step = await asyncio.wait_for(lab.driver.limit_sync(ARRAY, SIZE_SECTORS), PATIENCE_S)
    assert half <= step.copied_sectors < SIZE_SECTORS + half
    await lab.driver.stop_sync(ARRAY)
    await lab.driver.set_size(ARRAY, SIZE_SECTORS, visible=True)
    load.stop = True
    await asyncio.wait_for(running, PATIENCE_S)
    await lab.driver.stop(ARRAY)
    assert lab.data_of(device(5)) == lab.data_of(device(6))
    load.check(lab.data_of(device(5)))
    assert sum(load.issued) > WORKERS and lab.failures() == []


async def recover(lab: EmbeddedLab, fresh: Member, size_sectors: int) -> None:
    """Added, filled in windows, taken in while all is held."""
    await lab.driver.add(ARRAY, fresh, lab.path(fresh.device))
    await lab.driver.start_sync(ARRAY, SyncKind.RECOVER, 0)
    for hi in range(256, size_sectors + 1, 256):
        step = await asyncio.wait_for(lab.driver.limit_sync(ARRAY, hi), PATIENCE_S)
        assert step.planned_sectors == step.copied_sectors
    await lab.driver.stop_sync(ARRAY)
    await lab.driver.hold(ARRAY, 0, size_sectors)
    assert lab.driver.status(ARRAY).clean
    await lab.driver.take_in(ARRAY, [fresh.device])
    await lab.driver.hold(ARRAY, 0, 0)
