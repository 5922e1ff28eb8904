"""What is said about a set of devices: fresh, stale, failed, torn, foreign, copied, cut short."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdcluster.metadata import cluster_area, layout, rings, scan
from mdcluster.metadata import superblock as sb
from mdcluster.metadata.errors import (
    BadChecksumError,
    DamagedError,
    DeviceError,
    ForeignError,
    MetadataError,
    NoAreaError,
    NoSuperblockError,
    StaleError,
    TooSmallError,
    TornError,
    UnsupportedError,
)
from mdcluster.metadata.superblock import Superblock
from mdcluster.tools import mdcinspect
from tests.unit.metadata.images import (
    CLUSTER,
    SIZE_BYTES,
    Images,
    header,
    record,
    write_images,
)
from tests.unit.metadata.test_superblock import SUPERBLOCKS


@pytest.fixture
def pair(tmp_path: Path) -> Images:
    return write_images(tmp_path)


def the_array(images: Images) -> scan.ArrayMembers:
    (array,) = scan.scan(images.paths).arrays
    return array


def the_problem(images: Images) -> MetadataError:
    (problem,) = scan.scan(images.paths).problems
    return problem


def test_a_sound_array(pair: Images) -> None:
    found = scan.scan([*pair.paths, pair.paths[0]])
    assert found.problems == ()
    assert found.others == ()
    (array,) = found.arrays
    assert [member.superblock for member in array.members] == pair.superblocks
    assert [member.header for member in array.members] == pair.headers
    assert array.usable == array.members
    assert [ring.voter_index for ring in array.members[0].rings] == [0, 1]
    assert array.members[0].rings[0].next_index("array") == 6
    assert scan.read_member(pair.paths[0], with_rings=False).rings == ()


def test_one_event_behind_is_as_good_two_are_stale(pair: Images) -> None:
    newer = sb.events_of(1, 4)
    pair.change(0, lambda one: replace(one, events=newer))
    pair.change(1, lambda one: replace(one, events=newer - 1))
    assert len(the_array(pair).usable) == 2
    pair.change(1, lambda one: replace(one, events=newer - 2))
    array = the_array(pair)
    assert [member.path for member in array.usable] == [pair.paths[0]]
    assert array.freshest.path == pair.paths[0]
    (problem,) = array.problems
    assert isinstance(problem, StaleError)
    assert f"(term 1, seq 2) are behind {newer} (term 1, seq 4) on {pair.paths[0]}" in str(problem)


def test_a_member_the_freshest_calls_failed(pair: Images) -> None:
    def failed(one: Superblock) -> Superblock:
        return replace(one, dev_roles=(0, sb.ROLE_FAULTY, *one.dev_roles[2:]))

    pair.change(0, lambda one: replace(failed(one), events=one.events + 1))
    problem = the_problem(pair)
    assert isinstance(problem, StaleError)
    assert f"{pair.paths[0]} says this member (number 1) has failed" in str(problem)


def test_a_member_that_differs_from_the_others(pair: Images) -> None:
    pair.change(1, lambda one: replace(one, level=10, layout=layout.RAID10_NEAR2))
    problem = the_problem(pair)
    assert isinstance(problem, ForeignError)
    assert f"same array UUID as {pair.paths[0]}, but another level, layout" in str(problem)
    assert [member.path for member in the_array(pair).usable] == [pair.paths[0]]


def test_a_clone_is_noticed(pair: Images, tmp_path: Path) -> None:
    clone = tmp_path / "clone.img"
    clone.write_bytes(Path(pair.paths[0]).read_bytes())
    found = scan.scan([*pair.paths, str(clone)])
    assert [type(problem) for problem in found.problems] == [ForeignError]
    assert f"same device UUID {sb.md_uuid(pair.superblocks[0].device_uuid)}" in str(
        found.problems[0]
    )


def test_a_copied_superblock_or_area_is_foreign(pair: Images) -> None:
    pair.change(0, lambda one: replace(one, device_uuid=UUID(int=99)))
    problem = the_problem(pair)
    assert isinstance(problem, ForeignError)
    assert "copied from another device" in str(problem)


def test_an_area_of_another_array_is_foreign(pair: Images) -> None:
    pair.change(0, lambda one: replace(one, set_uuid=UUID(int=99)))
    found = scan.scan(pair.paths)
    assert len(found.arrays) == 2
    assert ["cluster area of array" in str(problem) for problem in found.problems] == [True]


def test_torn_header_and_missing_header(pair: Images) -> None:
    newer = cluster_area.encode_header(header(pair.superblocks[0], generation=2))
    offset = pair.headers[0].area.header_offset_bytes(0)
    pair.patch(0, offset, newer[:1024])
    assert isinstance(the_problem(pair), TornError)
    assert the_array(pair).members[0].header == pair.headers[0]
    pair.patch(0, offset, bytes(8192))
    assert isinstance(the_problem(pair), NoAreaError)


def test_torn_record(pair: Images) -> None:
    offset = rings.record_offset_bytes(pair.headers[0].area, 1, "array", 5)
    pair.patch(0, offset, b"\0" * 512)
    problem = the_problem(pair)
    assert isinstance(problem, DamagedError)
    assert problem.where.offset_bytes == offset
    assert problem.as_dict()["device"] == pair.paths[0]


def test_bad_checksum_leaves_the_other_member(pair: Images) -> None:
    pair.patch(0, sb.SUPER_OFFSET_BYTES + 100, b"?")
    found = scan.scan(pair.paths)
    assert [member.path for member in found.others] == [pair.paths[0]]
    assert [member.path for member in found.arrays[0].members] == [pair.paths[1]]
    assert [type(problem) for problem in found.problems] == [BadChecksumError]


def test_a_device_cut_short(pair: Images) -> None:
    with open(pair.paths[0], "r+b") as file:
        file.truncate(8 << 20)
    problem = the_problem(pair)
    assert isinstance(problem, TooSmallError)
    assert "it was cut short" in str(problem)


def test_data_that_start_inside_the_area(pair: Images) -> None:
    pair.change(0, lambda one: replace(one, data_offset_sectors=2048))
    assert "cluster area ends at byte" in str(the_problem(pair))


def test_plain_arrays_need_no_area(pair: Images) -> None:
    for number in (0, 1):
        pair.change(number, lambda one: one.with_guard(False))
        pair.patch(number, layout.AREA_OFFSET_BYTES, bytes(8192))
    assert scan.scan(pair.paths).problems == ()
    pair.change(0, lambda one: replace(one.with_guard(False), data_offset_sectors=256))
    assert scan.scan(pair.paths).problems == ()
    older = replace(header(pair.superblocks[0]), array_uuid=UUID(int=9))
    pair.write(0, older.area.header_offset_bytes(0), cluster_area.encode_header(older))
    assert the_array(pair).members[0].header is None
    assert scan.scan(pair.paths).problems == ()


@pytest.mark.parametrize(("version", "offset"), [("1.1", 0), ("1.0", -8192), ("0.90", -65536)])
def test_other_metadata_versions_are_named(tmp_path: Path, version: str, offset: int) -> None:
    path = tmp_path / "old.img"
    raw = bytearray(1 << 20)
    at = offset % len(raw)
    raw[at : at + 4] = sb.MAGIC.to_bytes(4, "little")
    path.write_bytes(raw)
    (problem,) = scan.scan([str(path)]).problems
    assert isinstance(problem, UnsupportedError)
    assert f"md metadata {version}; only 1.2 is handled" in str(problem)


def test_empty_small_and_absent_devices(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("zero", "tiny", "empty")}
    paths["zero"].write_bytes(bytes(1 << 20))
    paths["tiny"].write_bytes(bytes(5000))
    paths["empty"].write_bytes(b"")
    found = scan.scan([*map(str, paths.values()), str(tmp_path / "absent")])
    kinds = {(Path(problem.where.path).name, type(problem)) for problem in found.problems}
    assert kinds >= {
        ("zero", NoSuperblockError),
        ("tiny", TooSmallError),
        ("empty", TooSmallError),
        ("absent", DeviceError),
    }
    assert found.arrays == ()


def test_two_clusters_in_one_array(pair: Images) -> None:
    other = replace(pair.headers[1], cluster_uuid=UUID(int=0xC2), cluster_name="b", generation=2)
    offset = other.area.header_offset_bytes(other.copy)
    pair.write(1, offset, cluster_area.encode_header(other))
    array = the_array(pair)
    assert "which cluster owns the array" in str(array.problems[0])
    assert len(array.members[1].all_problems) == 8  # its records are the first cluster's
    first, second = array.members
    assert scan.require_cluster(first, CLUSTER) == pair.headers[0]
    with pytest.raises(ForeignError, match="member belongs to cluster 'b'"):
        scan.require_cluster(second, CLUSTER)
    with pytest.raises(NoAreaError, match="adopt the array first"):
        scan.require_cluster(scan.Member("x"), CLUSTER)


def test_newest_record_of_all_rings(pair: Images) -> None:
    late = record(6, voter_index=1, term=2)
    offset = rings.record_offset_bytes(pair.headers[1].area, 1, "array", 6)
    pair.write(1, offset, rings.encode_record(late))
    assert scan.newest_record(the_array(pair), "array") == late
    assert scan.newest_record(the_array(pair), "cluster") is None


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.integers(0, 1300), st.integers(0, 4095), st.binary(min_size=1, max_size=64)),
        max_size=12,
    ),
    st.integers(0, 6 << 20),
)
def test_damage_anywhere_is_explained(
    pair: Images, patches: list[tuple[int, int, bytes]], cut_bytes: int
) -> None:
    for block, offset, noise in patches:
        pair.patch(0, block * 4096 + offset, noise)
    with open(pair.paths[0], "r+b") as file:
        file.truncate(SIZE_BYTES - cut_bytes)
    found = scan.scan(pair.paths)
    assert all(problem.where.path in pair.paths for problem in found.problems)
    assert pair.paths[1] in [member.path for array in found.arrays for member in array.members]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(one=SUPERBLOCKS)
def test_any_superblock_with_a_right_checksum(pair: Images, one: Superblock) -> None:
    one = replace(one, super_offset_sectors=sb.SUPER_OFFSET_SECTORS)
    pair.write(0, sb.SUPER_OFFSET_BYTES, sb.encode(one))
    found = scan.scan(pair.paths)
    for view in mdcinspect.VIEWS.values():
        assert json.dumps(view.make(found).data)


def test_too_many_devices() -> None:
    with pytest.raises(ValueError, match="at most 2048"):
        scan.scan(str(number) for number in range(2049))
