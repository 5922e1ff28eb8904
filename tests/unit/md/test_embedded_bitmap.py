"""The bitmap slot by itself, over a writer that the test lets go on or fail."""

import asyncio
import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdcluster.md.embedded_bitmap import SlotBitmap
from mdcluster.metadata import bitmap as raw

CHUNK = 128
COVERED = 300 * CHUNK - 5


class Disk:
    """A slot as the members have it."""

    def __init__(self) -> None:
        self.bits = bytearray(4096)
        self.entered = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.error = False
        self.clearing = True

    async def write(self, offset_bytes: int, content: bytes) -> None:
        self.entered.set()
        await self.go.wait()
        if self.error:
            raise OSError(errno.EIO, "no good member took the bitmap")
        self.bits[offset_bytes : offset_bytes + len(content)] = content

    async def may_clear(self) -> bool:
        return self.clearing

    def bitmap(self) -> SlotBitmap:
        return SlotBitmap(COVERED, CHUNK, self.write, self.may_clear, 60)

    @property
    def set_chunks(self) -> list[int]:
        return [chunk for chunk in range(300) if raw.is_set(self.bits, chunk)]


async def test_a_bit_that_is_being_cleared_is_set_again_before_a_write() -> None:
    disk = Disk()
    bitmap = disk.bitmap()
    bitmap.end(await bitmap.begin(0, 8), everywhere=True)
    disk.go.clear()
    disk.entered.clear()
    clearing = asyncio.create_task(bitmap.clear_idle(all_idle=True))
    await disk.entered.wait()
    begun = asyncio.create_task(bitmap.begin(0, 8))
    await asyncio.sleep(0)
    assert not begun.done()
    disk.go.set()
    await clearing
    await begun
    assert disk.set_chunks == [0]
    await bitmap.close()


async def test_a_bit_whose_clearing_waits_for_its_turn_is_set_again_too() -> None:
    disk = Disk()
    bitmap = disk.bitmap()
    bitmap.end(await bitmap.begin(0, 8), everywhere=True)
    disk.go.clear()
    other = asyncio.create_task(bitmap.begin(9 * CHUNK, 10 * CHUNK))
    await asyncio.sleep(0)
    clearing = asyncio.create_task(bitmap.clear_idle(all_idle=True))
    await asyncio.sleep(0)
    begun = asyncio.create_task(bitmap.begin(0, 8))
    await asyncio.sleep(0)
    disk.go.set()
    await asyncio.gather(other, clearing, begun)
    assert disk.set_chunks == [0, 9]
    await bitmap.close()


async def test_a_failed_commit_is_tried_again_by_the_next() -> None:
    disk = Disk()
    bitmap = disk.bitmap()
    disk.error = True
    with pytest.raises(OSError, match="no good member"):
        await bitmap.begin(0, 8)
    disk.error = False
    await bitmap.begin(0, 8)
    assert disk.set_chunks == [0]
    await bitmap.close()


async def test_what_a_write_missed_is_needed_until_copied() -> None:
    disk = Disk()
    bitmap = disk.bitmap()
    bitmap.end(await bitmap.begin(2 * CHUNK, 4 * CHUNK), everywhere=False)
    await bitmap.clear_idle(all_idle=True)
    assert disk.set_chunks == [2, 3]
    assert list(bitmap.needed(0, COVERED)) == [(2 * CHUNK, 4 * CHUNK)]
    assert list(bitmap.needed(3 * CHUNK + 1, COVERED)) == [(3 * CHUNK + 1, 4 * CHUNK)]
    bitmap.copied(0, 3 * CHUNK + 64)  # the fourth chunk only in part
    assert list(bitmap.needed(0, COVERED)) == [(3 * CHUNK, 4 * CHUNK)]
    bitmap.copied(3 * CHUNK + 64, 4 * CHUNK)
    await bitmap.clear_idle(all_idle=True)
    assert disk.set_chunks == []
    await bitmap.close()


async def test_a_failure_makes_all_dirty_chunks_needed() -> None:
    disk = Disk()
    bitmap = disk.bitmap()
    bitmap.end(await bitmap.begin(0, 8), everywhere=True)
    bitmap.need_all()
    await bitmap.clear_idle(all_idle=True)
    assert disk.set_chunks == [0]
    await bitmap.close()


async def test_the_last_chunk_is_cut_at_the_end() -> None:
    disk = Disk()
    bitmap = disk.bitmap()
    await bitmap.need(COVERED - 1, COVERED)
    assert list(bitmap.needed(0, COVERED)) == [(299 * CHUNK, COVERED)]
    bitmap.copied(299 * CHUNK, COVERED)
    assert not bitmap.any_needed()
    await bitmap.merge(b"\xff" * 4096)  # garbage behind the last chunk is not taken over
    assert disk.set_chunks == list(range(300))
    assert not raw.is_set(disk.bits, 300)
    await bitmap.close()


actions = st.lists(
    st.tuples(
        st.sampled_from(["begin", "end", "copy", "clear", "need", "fail"]), st.integers(0, 299)
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(actions)
async def test_a_write_under_way_and_a_need_always_have_their_bit(
    steps: list[tuple[str, int]],
) -> None:
    disk = Disk()
    bitmap = disk.bitmap()
    writing: list[range] = []
    needed: set[int] = set()
    for action, chunk in steps:
        at = chunk * CHUNK
        if action == "begin":
            writing.append(await bitmap.begin(at, min(at + 3 * CHUNK, COVERED)))
        elif action in ("end", "fail") and writing:
            chunks = writing.pop(chunk % len(writing))
            bitmap.end(chunks, everywhere=action == "end")
            needed |= set(chunks) if action == "fail" else set()
        elif action == "need":
            await bitmap.need(at, at + 1)
            needed.add(chunk)
        elif action == "copy":
            bitmap.copied(0, at)
            needed = {one for one in needed if one >= chunk}
        elif action == "clear":
            await bitmap.clear_idle(all_idle=True)
        under_way = {one for chunks in writing for one in chunks}
        assert under_way | needed <= set(disk.set_chunks)
    for chunks in writing:
        bitmap.end(chunks, everywhere=True)
    await bitmap.clear_idle(all_idle=True)
    assert set(disk.set_chunks) == needed
    await bitmap.close()


async def test_what_a_sync_copied_is_cleared_at_once_but_not_what_was_written_lately() -> None:
    disk = Disk()
    bitmap = disk.bitmap()
    await bitmap.need(0, 10 * CHUNK)
    bitmap.end(await bitmap.begin(3 * CHUNK, 4 * CHUNK), everywhere=True)
    bitmap.copied(0, 8 * CHUNK)
    await bitmap.clear_idle()
    assert disk.set_chunks == [3, 8, 9]
    await bitmap.close()
