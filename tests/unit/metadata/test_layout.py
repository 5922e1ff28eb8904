"""Where things stand: mdadm's sizes, room for the area, and what is too small."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.metadata import bitmap, layout
from mdcluster.metadata import superblock as sb
from mdcluster.metadata.errors import TooSmallError, UnsupportedError, Where
from tests.unit.metadata import images

GIB = 1 << 30
WHERE = Where("/dev/x")


@given(st.integers(6 * images.MIB, 1 << 48), st.sampled_from([1, 10]), st.integers(2, 64))
def test_nothing_overlaps_and_data_start_on_a_mebibyte(
    size_bytes: int, level: int, disks: int
) -> None:
    try:
        plan = layout.plan_layout(size_bytes, level, disks)
    except TooSmallError:
        assert size_bytes < 16 * images.MIB
        return
    assert plan.super_offset_bytes + sb.SUPER_BYTES <= plan.area_offset_bytes
    assert plan.area_offset_bytes + plan.area_size_bytes <= plan.data_offset_sectors * 512
    assert plan.data_offset_sectors % layout.MIB_SECTORS == 0
    assert plan.data_offset_sectors + plan.data_size_sectors == size_bytes // 512
    assert 0 < plan.component_size_sectors <= plan.data_size_sectors
    covered = layout.array_size_sectors(
        level, layout.RAID10_NEAR2, disks, plan.component_size_sectors
    )
    assert plan.area.slot_bytes * 8 * plan.bitmap_chunk_sectors >= covered


def test_offsets_inside_the_area_follow_each_other() -> None:
    area = layout.AreaLayout(layout.AREA_OFFSET_BYTES, 4, 8, 8192)
    assert area.header_offset_bytes(1) == 256 * 1024 + 4096
    assert area.ring_offset_bytes(0) == 256 * 1024 + 8192
    assert area.ring_offset_bytes(1) - area.ring_offset_bytes(0) == 128 * 1024
    assert area.slot_offset_bytes(0) == area.ring_offset_bytes(3) + 128 * 1024
    assert area.slot_offset_bytes(7) + 8192 == area.end_bytes
    with pytest.raises(IndexError, match="ring 4 does not exist, there are 4"):
        area.ring_offset_bytes(4)
    with pytest.raises(IndexError):
        area.slot_offset_bytes(-1)


@pytest.mark.parametrize(
    ("device_bytes", "chunk", "offset_sectors"),
    [
        (64 * images.MIB, 0, 2048),
        (GIB, 0, 4096),
        (20 * GIB, 0, 34816),
        (256 * GIB, 0, 264192),
        (64 * images.MIB, 1024, 4096),
    ],
)
def test_data_offset_is_that_of_mdadm(device_bytes: int, chunk: int, offset_sectors: int) -> None:
    assert layout.mdadm_data_offset_sectors(device_bytes // 512, chunk) == offset_sectors


def test_too_small_says_how_much_is_needed() -> None:
    with pytest.raises(TooSmallError, match=r"at least (\d+) bytes are needed") as caught:
        layout.plan_layout(4 * images.MIB, 1, name="/dev/small")
    assert "/dev/small" in str(caught.value)
    need = int(str(caught.value).split("at least ")[1].split()[0])
    assert layout.plan_layout(need, 1).component_size_sectors == 128
    with pytest.raises(TooSmallError):
        layout.plan_layout(need - 512, 1)


@pytest.mark.parametrize(
    ("level", "disks", "change", "text"),
    [
        (5, 3, {}, "only raid1 and raid10"),
        (10, 1, {}, "2 to 1920"),
        (10, 2, {"layout": 0x201}, "only near=2"),
        (10, 2, {"chunk_sectors": 100}, "power of two"),
    ],
)
def test_other_shapes_are_refused(
    level: int, disks: int, change: dict[str, object], text: str
) -> None:
    with pytest.raises(UnsupportedError, match=text):
        layout.fresh_superblocks(images.spec(level, disks, **change), images.member_specs(disks))


def test_fresh_array_roles_spares_missing_and_sizes() -> None:
    members = [*images.member_specs(3), layout.MemberSpec(images.device_uuid(9), 20 * images.MIB)]
    given_members: list[layout.MemberSpec | None] = [members[0], None, members[2], members[3]]
    made = layout.fresh_superblocks(images.spec(1, 3), given_members)
    first, missing, _, spare = made
    assert first is not None
    assert missing is None
    assert spare is not None
    assert first.dev_roles[:5] == (0, sb.ROLE_FAULTY, 2, sb.ROLE_SPARE, sb.ROLE_SPARE)
    assert len(first.dev_roles) == 128  # mdadm fills the sector
    assert spare.role == sb.ROLE_SPARE
    assert spare.size_sectors == first.size_sectors
    assert spare.data_size_sectors - first.data_size_sectors == 4 * images.MIB // 512
    assert (first.chunksize_sectors, first.layout, first.bblog_size_sectors) == (0, 0, 0)
    assert (first.resync_offset_sectors, first.guarded) == (0, True)


def test_component_size_is_rounded_and_bounded() -> None:
    odd = images.member_specs(2, images.SIZE_BYTES + 5 * 512)
    one, ten = (layout.fresh_superblocks(images.spec(level), odd)[0] for level in (1, 10))
    assert one is not None
    assert ten is not None
    assert one.size_sectors % 128 == 0
    assert ten.size_sectors % 1024 == 0
    asked = layout.fresh_superblocks(images.spec(size_sectors=4096), odd)[0]
    assert asked is not None
    assert asked.size_sectors == 4096
    with pytest.raises(TooSmallError, match="the smallest member has room for"):
        layout.fresh_superblocks(images.spec(size_sectors=1 << 30), odd)
    with pytest.raises(UnsupportedError, match="1 devices given for 2"):
        layout.fresh_superblocks(images.spec(), odd[:1])
    with pytest.raises(UnsupportedError, match="no members"):
        layout.fresh_superblocks(images.spec(), [None, None])


def test_added_member_needs_the_arrays_size() -> None:
    array = images.superblock()
    room = layout.member_data_size_sectors(array, images.SIZE_BYTES + images.MIB, WHERE)
    assert room == array.data_size_sectors + images.MIB // 512
    with pytest.raises(TooSmallError, match=r"/dev/x: .*alpha:data; at least \d+ bytes"):
        layout.member_data_size_sectors(array, images.SIZE_BYTES - images.MIB, WHERE)


def test_adoption_takes_the_largest_area_that_fits() -> None:
    covered = images.superblock().size_sectors
    area, chunk = layout.plan_area(1 << 20, covered, WHERE)
    assert (area.ring_count, area.slot_count) == (4, 8)
    assert area.end_bytes <= 1 << 20 and chunk == bitmap.choose_chunk_sectors(covered)
    large, _ = layout.plan_area(129 << 20, covered, WHERE)
    assert (large.ring_count, large.slot_count) == layout.PROFILES[0]
    assert layout.area_with(8, covered, chunk) == area
    with pytest.raises(TooSmallError, match=r"begins 512 KiB .* needs 808 KiB"):
        layout.plan_area(512 << 10, covered, WHERE)
    with pytest.raises(UnsupportedError, match="7 bitmap slots"):
        layout.area_with(7, covered, chunk)


@pytest.mark.parametrize("tib", [1, 4, 16])
def test_adoption_takes_a_coarser_bitmap_where_there_is_little_room(tib: int) -> None:
    """mdadm before 3.3 left 1 MiB before the data, however large the device."""
    covered = tib << 31
    area, chunk = layout.plan_area(1 << 20, covered, WHERE)
    assert area.end_bytes <= 1 << 20
    assert chunk > bitmap.choose_chunk_sectors(covered)
    assert bitmap.slot_bytes(covered, chunk) == area.slot_bytes
