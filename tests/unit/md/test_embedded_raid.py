"""The mapping of raid1 and raid10 near 2 against a layout that is filled in chunk by chunk."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.md.raid import Geometry, GeometryError, array_range_of, geometry_of
from tests.unit.md.port_suite import array


def reference(disks: int, rows: int) -> list[tuple[tuple[int, int], ...]]:
    """Per array chunk: its two (role, row), by dealing copies out to devices, row after row."""
    cells = [(role, row) for row in range(rows) for role in range(disks)]
    return [(cells[i], cells[i + 1]) for i in range(0, len(cells) - 1, 2)]


geometries = st.builds(
    lambda disks, rows, chunk, odd: Geometry(10, disks, chunk, rows * chunk + odd % chunk),
    st.integers(2, 9),
    st.integers(1, 12),
    st.sampled_from([8, 64, 1024]),
    st.integers(0, 1023),
)


@given(geometries, st.data())
def test_raid10_places_match_the_reference(geometry: Geometry, data: st.DataObject) -> None:
    chunk = geometry.chunk_sectors
    table = reference(geometry.raid_disks, geometry.size_sectors // chunk)
    assert geometry.array_sectors == len(table) * chunk
    lo = data.draw(st.integers(0, geometry.array_sectors))
    hi = data.draw(st.integers(lo, geometry.array_sectors))
    at = lo
    for piece in geometry.pieces(lo, hi):
        assert piece.lo_sectors == at
        at = piece.hi_sectors
        for sector in range(piece.lo_sectors, piece.hi_sectors, 4):
            places = [(c.role, c.offset_sectors + sector - piece.lo_sectors) for c in piece.copies]
            expected = [
                (role, row * chunk + sector % chunk) for role, row in table[sector // chunk]
            ]
            assert places == expected
    assert at == hi


@given(geometries, st.data())
def test_windows_share_nothing_leave_nothing_and_are_held(
    geometry: Geometry, data: st.DataObject
) -> None:
    size, chunk = geometry.size_sectors, geometry.chunk_sectors
    rows = size // chunk
    cuts = sorted(data.draw(st.lists(st.integers(0, rows), max_size=4)))
    edges = [0, *(cut * chunk for cut in cuts), size]
    table = reference(geometry.raid_disks, rows)
    reached = 0
    for lo, hi in itertools.pairwise(edges):
        first, end = geometry.copy_range(lo, hi)
        if first == end:
            continue
        assert first == reached
        reached = end
        held_lo, held_hi = geometry.array_range(lo, hi)
        assert held_lo <= first and end <= held_hi
        for number, places in enumerate(table):
            touched = any(lo <= row * chunk < hi for _, row in places)
            inside = held_lo <= number * chunk < held_hi
            assert inside or not touched  # all that has a copy in the window is held
            complete = number * chunk < reached
            assert complete or not any(row * chunk < hi for _, row in places)
    assert reached == geometry.array_sectors


@given(geometries, st.data())
def test_sync_position_never_skips(geometry: Geometry, data: st.DataObject) -> None:
    sector = data.draw(st.integers(0, geometry.array_sectors))
    position = geometry.sync_position(sector)
    first, _ = geometry.copy_range(position, geometry.size_sectors)
    assert first <= sector
    if sector == geometry.array_sectors:
        assert position == geometry.size_sectors


def test_groups_share_data() -> None:
    assert Geometry(1, 3, 0, 8).groups == {frozenset({0, 1, 2})}
    assert Geometry(10, 4, 8, 8).groups == {frozenset({0, 1}), frozenset({2, 3})}
    pairs = {frozenset({0, 1}), frozenset({1, 2}), frozenset({0, 2})}
    assert Geometry(10, 3, 8, 8).groups == pairs


def test_raid1_positions_are_array_sectors() -> None:
    state = array()
    assert array_range_of(state, 100, 200) == (100, 200)
    assert array_range_of(state, 100, 10**9) == (100, state.size_sectors)
    assert geometry_of(state).sync_position(77) == 77


@pytest.mark.parametrize(
    "state",
    [
        replace(array(), level=5),
        replace(array(10, 4), layout=0x201),
        replace(array(10, 4), layout=0x10002),
        replace(array(10, 4), chunk_sectors=0),
        replace(array(10, 4), chunk_sectors=24),
        replace(array(10, 2), raid_disks=1),
        replace(array(), raid_disks=0),
    ],
)
def test_what_is_not_proven_is_refused(state: object) -> None:
    with pytest.raises(GeometryError):
        geometry_of(state)  # type: ignore[arg-type]
