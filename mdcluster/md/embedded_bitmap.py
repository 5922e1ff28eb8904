"""The own write-intent bitmap slot of one array of the embedded driver.

A bit is on stable storage of every member before a write to its chunk is issued; writes that
come together share one bitmap write. A bit is cleared some seconds after the last write to its
chunk, unless the array is degraded or a sync still has to copy it (*needed*, md's NEEDED_MASK;
drivers/md/md-bitmap.c). The raw format is that of :mod:`mdcluster.metadata.bitmap`.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from mdcluster.metadata import bitmap as raw

PAGE_BYTES: Final = 4096

SlotWriter = Callable[[int, bytes], Awaitable[None]]
"""Write at this offset in bytes of the slot, durable. OSError if no good member took it."""


class SlotBitmap:
    """Bits over array sectors, in memory and (as what `write` made durable) on the members."""

    def __init__(
        self,
        covered_sectors: int,
        chunk_sectors: int,
        write: SlotWriter,
        prepare_clear: Callable[[], Awaitable[bool]],
        clear_after_s: float,
    ) -> None:
        self.covered_sectors = covered_sectors
        self.chunk_sectors = chunk_sectors
        self.size_bytes = raw.slot_bytes(covered_sectors, chunk_sectors)
        self._count = raw.chunk_count(covered_sectors, chunk_sectors)
        self._bits = bytearray(self.size_bytes)  # as it is to be on the members
        self._durable = bytearray(self.size_bytes)  # set for certain on the members
        self._needed = bytearray(self.size_bytes)
        self._writers: Counter[int] = Counter()
        self._idle_since_s: dict[int, float] = {}
        self._pages: set[int] = set()
        self._changes = 0
        self._committed = 0
        self._lock = asyncio.Lock()
        self._write = write
        self._prepare_clear = prepare_clear
        self._clear_after_s = clear_after_s
        self._cleaner: asyncio.Task[None] | None = None

    # --- application writes -------------------------------------------------------------

    async def begin(self, lo_sectors: int, hi_sectors: int) -> range:
        """Before a write: its bits are durable on return. Give the range back to `end`."""
        chunks = raw.chunks_of(lo_sectors, hi_sectors, self.chunk_sectors)
        for chunk in chunks:
            self._writers[chunk] += 1
            self._idle_since_s.pop(chunk, None)
        try:
            await self._set(chunks)
        except BaseException:
            self.end(chunks, everywhere=True)
            raise
        return chunks

    def end(self, chunks: range, *, everywhere: bool) -> None:
        """After a write. everywhere: no member missed it; else the chunks have to be copied."""
        now_s = asyncio.get_running_loop().time()
        for chunk in chunks:
            self._writers[chunk] -= 1
            if not self._writers[chunk]:
                del self._writers[chunk]
                self._idle_since_s[chunk] = now_s
        if not everywhere:
            raw.set_range(self._needed, chunks.start, chunks.stop)
        self._clean_later()

    # --- syncs ---------------------------------------------------------------------------

    async def need(self, lo_sectors: int, hi_sectors: int) -> None:
        """Set the bits of [lo, hi) to be copied; durable on return."""
        chunks = raw.chunks_of(lo_sectors, hi_sectors, self.chunk_sectors)
        raw.set_range(self._needed, chunks.start, chunks.stop)
        await self._set(chunks)

    async def merge(self, bits: bytes) -> None:
        """Set what is set in `bits`, to be copied; durable on return."""
        self._need_bits(bits)
        for first, end in raw.extents(bits, self._count):
            self._change(range(first, end))
        await self._commit()

    def need_all(self) -> None:
        """A member failed: what it may have lost from its cache is all that is dirty now."""
        self._need_bits(bytes(self._bits))

    async def rewrite(self) -> None:
        """Write the whole slot again: there is a new member. Durable on return."""
        self._touch(0, 8 * self.size_bytes)
        await self._commit()

    def cover(self, covered_sectors: int) -> bool:
        """Stand for so many sectors; False if that takes another page, which the slot has not."""
        if raw.slot_bytes(covered_sectors, self.chunk_sectors) > self.size_bytes:
            return False
        self.covered_sectors = covered_sectors
        self._count = raw.chunk_count(covered_sectors, self.chunk_sectors)
        return True

    def any_needed(self) -> bool:
        """Whether a sync has anything to copy."""
        return any(self._needed)

    def load(self, bits: bytes) -> None:
        """What stood in the slot when the array was assembled: to be copied."""
        self._need_bits(bits)
        self._bits[:] = self._needed
        self._durable[:] = bytes(self.size_bytes)  # perhaps not on all members

    def copied(self, lo_sectors: int, hi_sectors: int) -> None:
        """[lo, hi) is equal everywhere: chunks that end in it need no copying any more.

        A chunk that starts before `lo` counts: what is below was complete before. What nobody
        has written to lately is due for `clear_idle` at once: were this node to die, it would be
        copied again for nothing.
        """
        first = lo_sectors // self.chunk_sectors
        at_end = hi_sectors >= self.covered_sectors
        end = self._count if at_end else hi_sectors // self.chunk_sectors
        if first >= end:
            return
        for one, after in self._needed_chunks(first, end):
            for chunk in range(one, after):
                if chunk not in self._writers:
                    self._idle_since_s.setdefault(chunk, -math.inf)
        raw.clear_range(self._needed, first, end)
        self._clean_later()

    def needed(self, lo_sectors: int, hi_sectors: int) -> Iterator[tuple[int, int]]:
        """The stretches of [lo, hi) that a sync has to copy, in rising order."""
        chunks = raw.chunks_of(lo_sectors, hi_sectors, self.chunk_sectors)
        for first, end in self._needed_chunks(chunks.start, chunks.stop):
            lo = max(lo_sectors, first * self.chunk_sectors)
            hi = min(hi_sectors, end * self.chunk_sectors)
            if lo < hi:
                yield lo, hi

    def _needed_chunks(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        base = first // 8 * 8
        part = bytes(self._needed[base // 8 : -(-end // 8)])
        for one, after in raw.extents(part, end - base):
            if base + after > first:
                yield max(base + one, first), base + after

    def is_dirty(self, sector: int) -> bool:
        """Whether the bit of the chunk with this array sector is set."""
        return raw.is_set(self._bits, sector // self.chunk_sectors)

    # --- clearing ------------------------------------------------------------------------

    async def clear_idle(self, *, all_idle: bool = False) -> None:
        """Clear what nobody writes and nobody needs; all_idle: without waiting for its age."""
        due = self._due(all_idle)
        if not due or not await self._prepare_clear():
            return
        for chunk in set(due) & set(self._due(all_idle)):  # others may have come meanwhile
            del self._idle_since_s[chunk]
            raw.clear_range(self._bits, chunk, chunk + 1)
            self._touch(chunk, chunk + 1)
        await self._commit()

    def _due(self, all_idle: bool) -> list[int]:
        latest_s = asyncio.get_running_loop().time() - (0 if all_idle else self._clear_after_s)
        return [
            chunk
            for chunk, since_s in self._idle_since_s.items()
            if since_s <= latest_s and not raw.is_set(self._needed, chunk)
        ]

    def _clean_later(self) -> None:
        if self._cleaner is None or self._cleaner.done():
            self._cleaner = asyncio.create_task(self._clean())

    async def _clean(self) -> None:
        while self._idle_since_s:
            await asyncio.sleep(self._clear_after_s)
            try:
                await self.clear_idle()
            except OSError:
                return  # reported by the writer of the slot; a set bit too many does no harm

    async def close(self) -> None:
        """End the clearing."""
        if self._cleaner is not None:
            self._cleaner.cancel()
            await asyncio.wait([self._cleaner])

    # --- the slot on the members ----------------------------------------------------------

    def _need_bits(self, bits: bytes) -> None:
        for first, end in raw.extents(bits, self._count):
            raw.set_range(self._needed, first, end)

    async def _set(self, chunks: range) -> None:
        if all(raw.is_set(self._durable, c) and raw.is_set(self._bits, c) for c in chunks):
            return
        self._change(chunks)
        await self._commit()

    def _change(self, chunks: range) -> None:
        raw.set_range(self._bits, chunks.start, chunks.stop)
        self._touch(chunks.start, chunks.stop)

    def _touch(self, first: int, end: int) -> None:
        self._pages.update(range(first // 8 // PAGE_BYTES, (end - 1) // 8 // PAGE_BYTES + 1))
        self._changes += 1

    async def _commit(self) -> None:
        """Make all changes so far durable; who waits for the lock finds its own taken along."""
        wanted = self._changes
        async with self._lock:
            if self._committed >= wanted:
                return
            target, pages = self._changes, self._pages
            self._pages = set()
            try:
                for first, end in _runs(pages):
                    await self._commit_pages(first * PAGE_BYTES, end * PAGE_BYTES)
            except BaseException:
                self._pages |= pages
                raise
            self._committed = target

    async def _commit_pages(self, lo: int, hi: int) -> None:
        content = bytes(self._bits[lo:hi])
        # What is being cleared may be gone from now on.
        self._durable[lo:hi] = _in_both(self._durable[lo:hi], content)
        await self._write(lo, content)
        self._durable[lo:hi] = content


def _runs(numbers: set[int]) -> Iterator[tuple[int, int]]:
    """Runs [first, end) of neighbouring numbers, in rising order."""
    for first in sorted(n for n in numbers if n - 1 not in numbers):
        end = first + 1
        while end in numbers:
            end += 1
        yield first, end


def _in_both(one: bytes | bytearray, two: bytes) -> bytes:
    word = int.from_bytes(one, "little") & int.from_bytes(two, "little")
    return word.to_bytes(len(one), "little")
