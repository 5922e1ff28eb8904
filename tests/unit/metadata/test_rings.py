"""Rings of commits: order, torn and foreign records, and what one voter's next record is."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdcluster.metadata import cluster_area, layout, rings
from mdcluster.metadata.errors import (
    BadChecksumError,
    DamagedError,
    ForeignError,
    MetadataError,
    MisplacedError,
    NotFoundError,
    StaleError,
    TooLargeError,
    TooSmallError,
    TornError,
    UnsupportedError,
    Where,
)
from tests.unit.metadata import images

HEADER = images.header()
WHERE = Where("/dev/x", HEADER.area.ring_offset_bytes(0))
U64 = st.integers(0, (1 << 64) - 1)


def ring_of(*records: rings.Record, voter_index: int = 0) -> bytearray:
    raw = bytearray(layout.RING_BYTES)
    start = HEADER.area.ring_offset_bytes(voter_index)
    for record in records:
        at = rings.record_offset_bytes(HEADER.area, voter_index, record.lane, record.index) - start
        raw[at : at + layout.RECORD_BYTES] = rings.encode_record(record)
    return raw


def decode(raw: bytes | bytearray, voter_index: int = 0) -> rings.Ring:
    return rings.decode_ring(bytes(raw), voter_index, HEADER, "/dev/x")


@given(
    st.builds(
        rings.Record,
        st.uuids(),
        st.uuids(),
        st.uuids(),
        st.integers(0, 31),
        st.sampled_from(rings.LANE_NAMES),
        U64,
        U64,
        U64,
        st.binary(max_size=300),
    )
)
def test_round_trip(record: rings.Record) -> None:
    raw = rings.encode_record(record)
    assert len(raw) == layout.RECORD_BYTES
    assert rings.decode_record(raw, WHERE) == record


def test_the_largest_payload_fits_and_one_byte_more_does_not() -> None:
    most = images.record(0, payload=b"x" * rings.PAYLOAD_BYTES_MAX)
    assert rings.decode_record(rings.encode_record(most), WHERE) == most
    with pytest.raises(TooLargeError, match=f"at most {rings.PAYLOAD_BYTES_MAX}"):
        rings.encode_record(images.record(0, payload=b"x" * (rings.PAYLOAD_BYTES_MAX + 1)))
    with pytest.raises(TooLargeError):
        rings.encode_record(replace(images.record(0), term=1 << 64))


@given(st.binary(max_size=64), st.integers(0, layout.RECORD_BYTES))
@settings(max_examples=50)
def test_random_and_truncated_bytes_are_refused(raw: bytes, cut: int) -> None:
    whole = rings.encode_record(images.record(0))
    for bad in (raw, raw.ljust(layout.RECORD_BYTES, b"\1"), whole[:cut][:-1]):
        with pytest.raises(MetadataError):
            rings.decode_record(bad, WHERE)


@given(st.integers(0, 8 * layout.RECORD_BYTES - 1))
@settings(max_examples=50)
def test_any_flipped_bit_is_noticed(bit: int) -> None:
    raw = bytearray(rings.encode_record(images.record(0)))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(MetadataError):
        rings.decode_record(bytes(raw), WHERE)


@given(st.binary(max_size=3000), st.integers(0, 31))
@settings(max_examples=30)
def test_a_ring_of_anything_raises_nothing(raw: bytes, voter_index: int) -> None:
    ring = decode(raw.ljust(layout.RING_BYTES, b"\0"), voter_index)
    assert ring.records == ()
    assert len(ring.problems) <= 8


def test_order_and_lanes_are_kept_apart() -> None:
    commits = [images.record(index) for index in range(3, 7)]
    cluster = [images.record(index, "cluster") for index in (0, 1)]
    ring = decode(ring_of(*commits, *cluster))
    assert ring.problems == ()
    assert ring.records == (*cluster, *commits)
    newest = ring.newest("array")
    assert newest is not None
    assert (newest.index, newest.at, newest.key) == (6, (1, 14), str(images.ARRAY))
    assert ring.next_index("array") == 7
    assert cluster[1].key == "cluster"
    assert ring.next_index("cluster") == 2
    assert decode(bytes(layout.RING_BYTES)).next_index("array") == 0


def test_many_commits_of_the_array_leave_the_clusters_last_one() -> None:
    raw = ring_of(images.record(0, "cluster"), *[images.record(index) for index in range(20)])
    ring = decode(raw)
    assert [record.index for record in ring.records] == [0, 16, 17, 18, 19]
    assert ring.newest("cluster") == images.record(0, "cluster")


def test_empty_place_is_not_a_problem_but_rubbish_is() -> None:
    with pytest.raises(NotFoundError):
        rings.decode_record(bytes(layout.RECORD_BYTES), WHERE)
    with pytest.raises(DamagedError, match="neither a commit record nor empty"):
        rings.decode_record(b"?" * layout.RECORD_BYTES, WHERE)
    with pytest.raises(TooSmallError):
        rings.decode_record(b"", WHERE)


@pytest.mark.parametrize("cut", [512, 4096, 8192])
def test_torn_record_leaves_those_before_it(cut: int) -> None:
    raw = ring_of(*[images.record(index) for index in range(2, 6)])
    torn = rings.encode_record(images.record(6))[:cut]
    at = (4 + 6 % 4) * layout.RECORD_BYTES
    raw[at : at + cut] = torn
    ring = decode(raw)
    assert [record.index for record in ring.records] == [3, 4, 5]
    (problem,) = ring.problems
    assert isinstance(problem, TornError)
    assert "begins as number 6, ends as 2" in str(problem)
    assert problem.where == WHERE.plus(at)
    assert ring.next_index("array") == 6


def test_damage_inside_a_record_is_a_checksum_error() -> None:
    raw = ring_of(images.record(0))
    raw[4 * layout.RECORD_BYTES + 200] ^= 1
    assert [type(problem) for problem in decode(raw).problems] == [BadChecksumError]


def test_foreign_cluster_and_array() -> None:
    other = UUID(int=0xBAD)
    ring = decode(ring_of(images.record(0, cluster=other), images.record(1, array=other)))
    assert ring.records == ()
    assert [type(problem) for problem in ring.problems] == [ForeignError, ForeignError]
    assert "commit of cluster 00000000-0000-0000-0000-000000000bad" in str(ring.problems[0])
    assert "commit of array" in str(ring.problems[1])


def test_record_at_another_voters_ring_or_place() -> None:
    assert isinstance(decode(ring_of(images.record(0)), 1).problems[0], MisplacedError)
    raw = bytearray(layout.RING_BYTES)
    raw[: layout.RECORD_BYTES] = rings.encode_record(images.record(0))
    assert isinstance(decode(raw).problems[0], MisplacedError)


def test_going_back_in_time_is_said() -> None:
    ring = decode(ring_of(images.record(4, term=3), images.record(5, term=2)))
    (problem,) = ring.problems
    assert isinstance(problem, StaleError)
    assert "(term, seq) (2, 12), record 4 before it has (3, 10)" in str(problem)


def test_unknown_version_and_lane() -> None:
    for offset, text in ((8, "version 9"), (10, "lane 9")):
        raw = bytearray(rings.encode_record(images.record(0)))
        raw[offset] = 9
        raw[96:112] = cluster_area.digest(bytes(raw[:96]), bytes(raw[112:]))
        with pytest.raises(UnsupportedError, match=text):
            rings.decode_record(bytes(raw), WHERE)
