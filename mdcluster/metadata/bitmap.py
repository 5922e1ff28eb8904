"""Write-intent bitmaps as raw bytes: bit i is chunk i, the lowest bit of a byte first.

A slot holds nothing but the bits, because the kernel's md writes it so (external bitmap
metadata; drivers/md/md-bitmap.c). All functions are pure; offsets and sizes are in sectors of
512 bytes. For raid1 the bits cover the component size, for raid10 the array size, as in md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from mdcluster.metadata.superblock import BLOCK

MIN_CHUNK_SECTORS: Final = 128  # 64 KiB
PAGE_CHUNK_MAX_SECTORS: Final = 4096  # 2 MiB; up to here the bits are kept within one page
SLOT_BYTES_MAX: Final = 1024 * 1024

_SET = re.compile(rb"[^\x00]")
_CLEAR = re.compile(rb"[^\xff]")


def chunk_count(covered_sectors: int, chunk_sectors: int) -> int:
    """How many chunks cover `covered_sectors`."""
    return -(-covered_sectors // chunk_sectors)


def slot_bytes(covered_sectors: int, chunk_sectors: int) -> int:
    """The room of one slot: a bit for each chunk, in whole blocks of 4 KiB, at least one."""
    bits = chunk_count(covered_sectors, chunk_sectors)
    return max(BLOCK, -(-bits // (8 * BLOCK)) * BLOCK)


def choose_chunk_sectors(covered_sectors: int) -> int:
    """The chunk size for an array: a power of two, 64 KiB or more.

    It grows until the bits fit one page of 4 KiB (a set bit then costs one small write), but for
    that not beyond 2 MiB, the smallest window of a resync: chunks are copied whole, after a
    node's death and where a resync was interrupted. Above 64 GiB the slot grows, up to 1 MiB
    (16 TiB; 64 of them still lie in the head room that mdadm leaves on disks of that size), and
    then the chunk again.
    """
    chunk = MIN_CHUNK_SECTORS
    while chunk < PAGE_CHUNK_MAX_SECTORS and slot_bytes(covered_sectors, chunk) > BLOCK:
        chunk *= 2
    while slot_bytes(covered_sectors, chunk) > SLOT_BYTES_MAX:
        chunk *= 2
    return chunk


def chunks_of(lo_sectors: int, hi_sectors: int, chunk_sectors: int) -> range:
    """The chunks that the sectors [lo, hi) touch."""
    if hi_sectors <= lo_sectors:
        return range(0)
    return range(lo_sectors // chunk_sectors, chunk_count(hi_sectors, chunk_sectors))


def set_range(bits: bytearray, first: int, end: int) -> None:
    """Set the bits [first, end). IndexError beyond the buffer, with nothing changed."""
    _write_range(bits, first, end, True)


def clear_range(bits: bytearray, first: int, end: int) -> None:
    """Clear the bits [first, end). IndexError beyond the buffer, with nothing changed."""
    _write_range(bits, first, end, False)


def _write_range(bits: bytearray, first: int, end: int, value: bool) -> None:
    if not 0 <= first <= end <= 8 * len(bits):
        raise IndexError(f"bits [{first}, {end}) are not within {8 * len(bits)}")
    if first == end:
        return
    lo, hi = first // 8, -(-end // 8)
    mask = ((1 << (end - first)) - 1) << (first - 8 * lo)
    word = int.from_bytes(bits[lo:hi], "little")
    word = word | mask if value else word & ~mask
    bits[lo:hi] = word.to_bytes(hi - lo, "little")


def is_set(bits: bytes | bytearray, bit: int) -> bool:
    """Whether `bit` is set. IndexError beyond the buffer."""
    if not 0 <= bit < 8 * len(bits):
        raise IndexError(f"bit {bit} is not within {8 * len(bits)}")
    return bool(bits[bit // 8] >> bit % 8 & 1)


def count(bits: bytes | bytearray, limit: int | None = None) -> int:
    """How many of the first `limit` bits (all, if None) are set."""
    word = int.from_bytes(bits, "little")
    if limit is not None and limit < 8 * len(bits):
        word &= (1 << limit) - 1
    return word.bit_count()


def extent_count(bits: bytes | bytearray, limit: int | None = None) -> int:
    """How many runs `extents` gives, without walking through them."""
    word = int.from_bytes(bits, "little")
    if limit is not None and limit < 8 * len(bits):
        word &= (1 << limit) - 1
    return (word & ~(word << 1)).bit_count()


def extents(bits: bytes | bytearray, limit: int | None = None) -> Iterator[tuple[int, int]]:
    """The runs [first, end) of set bits among the first `limit`, in rising order."""
    end_of_all = 8 * len(bits) if limit is None else min(limit, 8 * len(bits))
    first: int | None = None
    bit = 0
    while bit < end_of_all:
        if bit % 8 == 0:  # over whole bytes that change nothing
            found = (_SET if first is None else _CLEAR).search(bits, bit // 8)
            bit = 8 * found.start() if found else end_of_all
            if bit >= end_of_all:
                break
        dirty = bool(bits[bit // 8] >> bit % 8 & 1)
        if dirty and first is None:
            first = bit
        elif not dirty and first is not None:
            yield first, bit
            first = None
        bit += 1
    if first is not None:
        yield first, end_of_all


def sector_extents(
    bits: bytes | bytearray, covered_sectors: int, chunk_sectors: int
) -> Iterator[tuple[int, int]]:
    """The runs of dirty sectors [lo, hi), the last one cut at the end of what is covered."""
    for first, end in extents(bits, chunk_count(covered_sectors, chunk_sectors)):
        yield first * chunk_sectors, min(end * chunk_sectors, covered_sectors)


def union(slots: Iterable[bytes | bytearray]) -> bytes:
    """The bits set in any of the slots; as long as the longest."""
    word, length = 0, 0
    for bits in slots:
        word |= int.from_bytes(bits, "little")
        length = max(length, len(bits))
    return word.to_bytes(length, "little")
