"""The area's header: two copies, torn and damaged ones, unknown versions."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.metadata import cluster_area, layout
from mdcluster.metadata.errors import (
    BadChecksumError,
    MetadataError,
    NoAreaError,
    TooLargeError,
    TooSmallError,
    TornError,
    UnsupportedError,
    Where,
)
from tests.unit.metadata import images

WHERE = Where("/dev/x", layout.AREA_OFFSET_BYTES)
INDEX = st.none() | st.integers(0, 31)
NODES = st.builds(
    cluster_area.NodeEntry,
    st.uuids(),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=16),
    INDEX,
    INDEX,
    st.uuids(),
    st.integers(0, (1 << 32) - 1),
)


@given(st.lists(NODES, max_size=32).map(tuple), st.integers(0, (1 << 64) - 1))
def test_round_trip(nodes: tuple[cluster_area.NodeEntry, ...], generation: int) -> None:
    value = replace(images.header(), nodes=nodes, generation=generation)
    raw = cluster_area.encode_header(value)
    assert len(raw) == 4096
    assert cluster_area.decode_header(raw, WHERE) == value


@given(st.binary(max_size=4200))
def test_random_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(MetadataError):
        cluster_area.decode_header(raw, WHERE)
    with pytest.raises(MetadataError):
        cluster_area.decode_header(cluster_area.HEADER_MAGIC + raw, WHERE)


@given(st.integers(0, 8 * 4096 - 1))
def test_any_flipped_bit_is_noticed(bit: int) -> None:
    raw = bytearray(cluster_area.encode_header(images.header()))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(MetadataError):
        cluster_area.decode_header(bytes(raw), WHERE)


@pytest.mark.parametrize("cut", [512, 1024, 3584])
def test_torn_between_two_generations(cut: int) -> None:
    old, new = (cluster_area.encode_header(images.header(generation=g)) for g in (4, 6))
    with pytest.raises(TornError, match="begins as generation 6, ends as 4"):
        cluster_area.decode_header(new[:cut] + old[cut:], WHERE)


def _sealed(raw: bytearray) -> bytes:
    """A header whose checksum is right whatever it says."""
    return bytes(raw[:-16]) + cluster_area.digest(bytes(raw[:-16]))


def test_unknown_versions_and_shapes_are_refused() -> None:
    raw = bytearray(cluster_area.encode_header(images.header()))
    later = raw.copy()
    later[8] = 2
    with pytest.raises(UnsupportedError, match="version 2"):
        cluster_area.decode_header(_sealed(later), WHERE)
    for offset, value in ((10, 33), (136, 0), (136, 999), (138, 65), (140, 512), (148, 100)):
        strange = raw.copy()
        struct.pack_into("<H", strange, offset, value)
        with pytest.raises(UnsupportedError, match="unknown shape"):
            cluster_area.decode_header(_sealed(strange), WHERE)
    for chunk, covered in ((0, 8), (1, 1 << 20), (128, (1 << 64) - 1)):
        strange = raw.copy()
        struct.pack_into("<IQ", strange, 160, chunk, covered)
        with pytest.raises(UnsupportedError, match="bitmap slots of 4096 bytes"):
            cluster_area.decode_header(_sealed(strange), WHERE)


@given(st.binary(min_size=200, max_size=400), st.integers(8, 300))
def test_a_sealed_header_of_anything_raises_nothing_else(noise: bytes, offset: int) -> None:
    raw = bytearray(cluster_area.encode_header(images.header()))
    raw[offset : offset + len(noise)] = noise
    with suppress(MetadataError):
        cluster_area.decode_header(_sealed(raw), WHERE)


def test_errors_say_what_and_where() -> None:
    with pytest.raises(NoAreaError, match="/dev/x at byte 262144: no header"):
        cluster_area.decode_header(bytes(4096), WHERE)
    with pytest.raises(TooSmallError):
        cluster_area.decode_header(b"MDCLAREA", WHERE)


def test_what_does_not_fit_is_refused() -> None:
    value = images.header()
    node = value.nodes[0]
    for bad in (
        replace(value, nodes=(node,) * 33),
        replace(value, cluster_name="c" * 65),
        replace(value, generation=-1),
        replace(value, nodes=(replace(node, name="ü" * 33),)),
        replace(value, nodes=(replace(node, voter_index=70000),)),
    ):
        with pytest.raises(TooLargeError):
            cluster_area.encode_header(bad)


def test_newest_good_copy_counts() -> None:
    old, new = (cluster_area.encode_header(images.header(generation=g)) for g in (2, 3))
    assert cluster_area.newest_header([old, new], "p") == (images.header(generation=3), ())
    assert cluster_area.newest_header([bytes(4096), new], "p") == (images.header(generation=3), ())
    found, problems = cluster_area.newest_header([old, new[:512] + bytes(3584)], "p")
    assert found == images.header(generation=2)
    assert [type(problem) for problem in problems] == [TornError]
    assert problems[0].where.offset_bytes == layout.AREA_OFFSET_BYTES + 4096
    damaged = new[:300] + b"?" + new[301:]
    found, problems = cluster_area.newest_header([damaged, damaged], "p")
    assert found is None
    assert [type(problem) for problem in problems] == [BadChecksumError, BadChecksumError]
    found, problems = cluster_area.newest_header([bytes(4096), bytes(4096)], "p")
    assert found is None
    assert [type(problem) for problem in problems] == [NoAreaError]


def test_generations_take_turns() -> None:
    assert [images.header(generation=g).copy for g in (1, 2, 3)] == [1, 0, 1]


def test_blank_area_writes_the_header_last() -> None:
    value = replace(images.header(), device_uuid=UUID(int=5))
    writes = list(cluster_area.blank_area(value))
    *zeros, (offset, data) = writes
    assert offset == value.area.header_offset_bytes(1)
    assert cluster_area.decode_header(data, WHERE) == value
    at = value.area.offset_bytes
    for start, piece in zeros:
        assert start == at
        assert not any(piece)
        assert len(piece) % 4096 == 0
        at += len(piece)
    assert at == value.area.end_bytes
