"""Bit operations against a plain set of integers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.metadata import bitmap

RUNS = st.lists(
    st.tuples(st.integers(0, 256), st.integers(0, 256)).map(lambda pair: tuple(sorted(pair))),
    max_size=6,
)


@given(RUNS, RUNS, st.integers(0, 256))
def test_bits_are_those_of_a_set(
    sets: list[tuple[int, int]], clears: list[tuple[int, int]], limit: int
) -> None:
    bits = bytearray(32)
    model: set[int] = set()
    for first, end in sets:
        bitmap.set_range(bits, first, end)
        model |= set(range(first, end))
    for first, end in clears:
        bitmap.clear_range(bits, first, end)
        model -= set(range(first, end))
    assert {bit for bit in range(256) if bitmap.is_set(bits, bit)} == model
    assert bitmap.count(bits) == len(model)
    below = {bit for bit in model if bit < limit}
    assert bitmap.count(bits, limit) == len(below)
    runs = list(bitmap.extents(bits, limit))
    assert {bit for first, end in runs for bit in range(first, end)} == below
    assert all(one[1] < two[0] for one, two in pairwise(runs))
    assert bitmap.extent_count(bits, limit) == len(runs)


def test_bit_order_is_little_endian() -> None:
    bits = bytearray(4)
    bitmap.set_range(bits, 9, 10)
    assert bits == b"\0\x02\0\0"


@pytest.mark.parametrize(("first", "end"), [(-1, 3), (3, 2), (0, 33)])
def test_outside_the_buffer_nothing_changes(first: int, end: int) -> None:
    bits = bytearray(4)
    with pytest.raises(IndexError):
        bitmap.set_range(bits, first, end)
    assert bits == bytes(4)
    with pytest.raises(IndexError):
        bitmap.is_set(bits, 32)


def test_union_is_as_long_as_the_longest() -> None:
    assert bitmap.union([b"\x01", bytearray(b"\x02\x80")]) == b"\x03\x80"
    assert bitmap.union([]) == b""


def test_chunks_and_sectors() -> None:
    assert bitmap.chunks_of(0, 1, 128) == range(1)
    assert bitmap.chunks_of(127, 129, 128) == range(2)
    assert bitmap.chunks_of(128, 256, 128) == range(1, 2)
    assert bitmap.chunks_of(5, 5, 128) == range(0)
    bits = bytearray(1)
    bitmap.set_range(bits, 1, 8)
    assert list(bitmap.sector_extents(bits, 300, 128)) == [(128, 300)]


@given(st.integers(1, 1 << 50))
def test_slots_are_bounded_for_any_array(covered_sectors: int) -> None:
    chunk = bitmap.choose_chunk_sectors(covered_sectors)
    slot = bitmap.slot_bytes(covered_sectors, chunk)
    assert chunk >= bitmap.MIN_CHUNK_SECTORS
    assert chunk & (chunk - 1) == 0
    assert slot % 4096 == 0
    assert slot <= bitmap.SLOT_BYTES_MAX
    assert slot * 8 * chunk >= covered_sectors
    if chunk <= bitmap.PAGE_CHUNK_MAX_SECTORS // 2:
        assert slot == 4096
