"""Where everything stands on a member, and the superblocks of a fresh array. Pure arithmetic.

The sizes are those `mdadm --create` would choose (mdadm super1.c validate_geometry1 and
choose_bm_space, Create.c), except that the data starts late enough for the cluster area and that
no bad block log is made. docs/FORMAT.md has the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from mdcluster.metadata import bitmap
from mdcluster.metadata.errors import TooSmallError, UnsupportedError, Where
from mdcluster.metadata.superblock import (
    BLOCK,
    GUARD_BIT,
    HEAD_BYTES,
    MAX_DEVS,
    MAX_SECTOR,
    ROLE_FAULTY,
    ROLE_SPARE,
    SECTOR,
    SUPER_OFFSET_BYTES,
    WRITE_MOSTLY,
    Superblock,
)

AREA_OFFSET_BYTES: Final = 256 * 1024
"""Always here, so that it is found without a superblock. Before it is room for the internal
bitmap (up to 128 KiB) and the bad block log that stock mdadm puts after the superblock."""

HEADER_BYTES: Final = BLOCK
HEADER_COPIES: Final = 2
RECORD_BYTES: Final = 16 * 1024
LANES: Final = 2
LANE_RECORDS: Final = 4
RING_BYTES: Final = RECORD_BYTES * LANES * LANE_RECORDS
MAX_NODES: Final = 32

PROFILES: Final = ((32, 64), (16, 32), (8, 16), (4, 8))
"""(rings, bitmap slots), the largest first: a fresh array has the first, an adopted one the first
that fits between superblock and data. Two slots for each node: its life and the one before."""

MIB_SECTORS: Final = 2048
RAID1_ROUND_SECTORS: Final = 128  # mdadm Create.c rounds the size of a raid1 to 64 KiB
DEFAULT_CHUNK_SECTORS: Final = 1024
RAID10_NEAR2: Final = 0x102
LEVELS: Final = (1, 10)


@dataclass(frozen=True, slots=True)
class AreaLayout:
    """The cluster area of one member: byte offsets from the start of the device."""

    offset_bytes: int
    ring_count: int
    slot_count: int
    slot_bytes: int

    @property
    def size_bytes(self) -> int:
        """From the first header copy to the end of the last slot."""
        return (
            HEADER_COPIES * HEADER_BYTES
            + self.ring_count * RING_BYTES
            + self.slot_count * self.slot_bytes
        )

    @property
    def end_bytes(self) -> int:
        """The first byte after the area."""
        return self.offset_bytes + self.size_bytes

    def header_offset_bytes(self, copy: int) -> int:
        """Header copy 0 or 1. IndexError otherwise."""
        return self.offset_bytes + HEADER_BYTES * _within(copy, HEADER_COPIES, "header copy")

    def ring_offset_bytes(self, voter_index: int) -> int:
        """The ring of a voter. IndexError for one the area has no ring for."""
        index = _within(voter_index, self.ring_count, "ring")
        return self.offset_bytes + HEADER_COPIES * HEADER_BYTES + index * RING_BYTES

    def slot_offset_bytes(self, slot: int) -> int:
        """A bitmap slot (its first bit). IndexError for one that does not exist."""
        index = _within(slot, self.slot_count, "bitmap slot")
        rings_end = self.offset_bytes + HEADER_COPIES * HEADER_BYTES + self.ring_count * RING_BYTES
        return rings_end + index * self.slot_bytes


@dataclass(frozen=True, slots=True)
class Layout:
    """One member of a fresh array."""

    super_offset_bytes: int
    area: AreaLayout
    data_offset_sectors: int
    data_size_sectors: int
    component_size_sectors: int
    bitmap_chunk_sectors: int

    @property
    def area_offset_bytes(self) -> int:
        """Where the cluster area starts."""
        return self.area.offset_bytes

    @property
    def area_size_bytes(self) -> int:
        """How long the cluster area is."""
        return self.area.size_bytes


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """A device that goes into a fresh array; `name` is for messages only."""

    device_uuid: UUID
    size_bytes: int
    name: str = "member"
    write_mostly: bool = False


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """What `--create` was asked for. `size_sectors` 0 means as large as the members allow."""

    set_uuid: UUID
    name: str
    level: int
    raid_disks: int
    ctime_s: int
    layout: int = RAID10_NEAR2
    chunk_sectors: int = DEFAULT_CHUNK_SECTORS
    size_sectors: int = 0
    in_sync: bool = False
    guarded: bool = True
    events: int = 0


def _within(index: int, bound: int, what: str) -> int:
    if not 0 <= index < bound:
        raise IndexError(f"{what} {index} does not exist, there are {bound}")
    return index


def near_copies(layout: int) -> int:
    """The number of near copies of a raid10 layout (md: its lowest byte)."""
    return layout & 255


def array_size_sectors(level: int, layout: int, raid_disks: int, size_sectors: int) -> int:
    """The size of a raid1 or raid10 array over components of `size_sectors`."""
    if level == 1:
        return size_sectors
    copies = near_copies(layout) * (layout >> 8 & 255)
    return size_sectors * raid_disks // max(copies, 1)


def covered_sectors(superblock: Superblock) -> int:
    """What the bits of the array's bitmaps cover: md's resync size (raid10: the whole array)."""
    return array_size_sectors(
        superblock.level, superblock.layout, superblock.raid_disks, superblock.size_sectors
    )


def check_shape(level: int, layout: int, raid_disks: int, chunk_sectors: int) -> None:
    """Raise UnsupportedError unless this is a raid1 or a raid10 near-2 that md can run."""
    where = Where("array")
    if level not in LEVELS:
        raise UnsupportedError(where, f"level {level}", "only raid1 and raid10 can be created")
    least = 1 if level == 1 else 2
    if not least <= raid_disks <= MAX_DEVS:
        raise UnsupportedError(where, f"{raid_disks} raid disks", f"{least} to {MAX_DEVS} can be")
    if level != 10:
        return
    if layout != RAID10_NEAR2:
        raise UnsupportedError(where, f"raid10 layout {layout:#x}", "only near=2 (0x102) is proven")
    if chunk_sectors < 8 or chunk_sectors & (chunk_sectors - 1):
        raise UnsupportedError(
            where, f"chunk of {chunk_sectors} sectors", "it must be a power of two from 4 KiB on"
        )


def area_with(slot_count: int, covered_sectors: int, chunk_sectors: int) -> AreaLayout:
    """The area with this number of bitmap slots (PROFILES), for bitmaps of this shape.

    UnsupportedError for a number that no area has.
    """
    slot = bitmap.slot_bytes(covered_sectors, chunk_sectors)
    for rings, slots in PROFILES:
        if slots == slot_count:
            return AreaLayout(AREA_OFFSET_BYTES, rings, slots, slot)
    raise UnsupportedError(Where("array"), f"a cluster area of {slot_count} bitmap slots")


def plan_area(data_start_bytes: int, covered_sectors: int, where: Where) -> tuple[AreaLayout, int]:
    """The area of an array that is taken in, and its bitmap chunk in sectors.

    The area with the most rings that fits before the data, if need be with a coarser bitmap. Its
    chunk is at most the one with which a slot is a single block. TooSmallError with the room
    there is and the least that is needed.
    """
    least = AreaLayout(AREA_OFFSET_BYTES, *PROFILES[-1], BLOCK)
    for _, slots in PROFILES:
        chunk = bitmap.choose_chunk_sectors(covered_sectors)
        while True:
            area = area_with(slots, covered_sectors, chunk)
            if area.end_bytes <= data_start_bytes:
                return area, chunk
            if area.slot_bytes <= BLOCK:
                break
            chunk *= 2
    raise TooSmallError(
        where,
        f"its data begins {data_start_bytes // 1024} KiB from the start of the device",
        f"the cluster area needs {least.end_bytes // 1024} KiB before the data: "
        "the array cannot be taken in without moving its data",
    )


def mdadm_data_offset_sectors(device_sectors: int, chunk_sectors: int) -> int:
    """Where `mdadm --create` (4.2, metadata 1.2) would start the data of a device.

    12 KiB, the bitmap space and 0.1 % of head room (at most 128 MiB, at least two chunks),
    rounded up to 1 MiB.
    """
    headroom = 128 * 1024 * 2
    while headroom << 10 > device_sectors and (
        chunk_sectors == 0 or headroom // 2 >= chunk_sectors * 2
    ):
        headroom >>= 1
    total = 24 + _bitmap_space_sectors(device_sectors) + headroom
    return -(-total // MIB_SECTORS) * MIB_SECTORS


def _bitmap_space_sectors(device_sectors: int) -> int:
    """mdadm's choose_bm_space: what it leaves for an internal bitmap."""
    if device_sectors < 128:
        return 0
    if device_sectors - 128 >= 200 * 1024 * 1024 * 2:
        return 256
    return 128 if device_sectors - 8 > 8 * 1024 * 1024 * 2 else 8


def plan_layout(
    device_size_bytes: int,
    level: int,
    raid_disks: int = 2,
    layout: int = RAID10_NEAR2,
    chunk_sectors: int = DEFAULT_CHUNK_SECTORS,
    name: str = "member",
) -> Layout:
    """The layout of a device in a fresh array whose smallest member it is.

    Raises UnsupportedError for a shape that cannot be made and TooSmallError, which says how many
    bytes the device must have.
    """
    check_shape(level, layout, raid_disks, chunk_sectors)
    chunk = chunk_sectors if level == 10 else 0
    device_sectors = device_size_bytes // SECTOR
    upper = array_size_sectors(level, layout, raid_disks, device_sectors)
    slot = bitmap.slot_bytes(upper, bitmap.choose_chunk_sectors(upper))
    area = AreaLayout(AREA_OFFSET_BYTES, *PROFILES[0], slot)
    area_end_sectors = -(-area.end_bytes // (MIB_SECTORS * SECTOR)) * MIB_SECTORS
    data_offset = max(mdadm_data_offset_sectors(device_sectors, chunk), area_end_sectors)
    rounding = chunk or RAID1_ROUND_SECTORS
    component = max(device_sectors - data_offset, 0) // rounding * rounding
    if not component:
        raise TooSmallError(
            Where(name),
            f"{device_size_bytes} bytes are too few for a member",
            f"at least {(data_offset + rounding) * SECTOR} bytes are needed",
        )
    return Layout(
        SUPER_OFFSET_BYTES,
        area,
        data_offset,
        device_sectors - data_offset,
        component,
        bitmap.choose_chunk_sectors(upper),
    )


def fresh_layout(spec: ArraySpec, members: Sequence[MemberSpec | None]) -> Layout:
    """The layout that fits every member: that of the smallest. See `plan_layout` for errors."""
    present = [member for member in members if member is not None]
    if not present:
        raise UnsupportedError(Where("array"), "no members", "name at least one device")
    least = min(present, key=lambda member: member.size_bytes)
    chunk, disks = spec.chunk_sectors, spec.raid_disks
    return plan_layout(least.size_bytes, spec.level, disks, spec.layout, chunk, least.name)


def fresh_superblocks(
    spec: ArraySpec, members: Sequence[MemberSpec | None]
) -> tuple[Superblock | None, ...]:
    """The superblock of each member, by position: the first `raid_disks` are active, more are
    spares, None is a missing one (role faulty, as `mdadm --create ... missing` writes it).

    Raises UnsupportedError, TooSmallError (a member, or the size asked for).
    """
    plan = fresh_layout(spec, members)
    size = _component_size_sectors(spec, plan)
    if not spec.raid_disks <= len(members) <= MAX_DEVS:
        raise UnsupportedError(
            Where("array"),
            f"{len(members)} devices given for {spec.raid_disks} raid disks",
            "name each raid disk's device, or `missing`",
        )
    first = Superblock(
        set_uuid=spec.set_uuid,
        set_name=spec.name,
        ctime=spec.ctime_s,
        utime=spec.ctime_s,
        level=spec.level,
        layout=spec.layout if spec.level == 10 else 0,
        size_sectors=size,
        chunksize_sectors=spec.chunk_sectors if spec.level == 10 else 0,
        raid_disks=spec.raid_disks,
        data_offset_sectors=plan.data_offset_sectors,
        data_size_sectors=0,
        dev_number=0,
        device_uuid=UUID(int=0),
        events=spec.events,
        resync_offset_sectors=MAX_SECTOR if spec.in_sync else 0,
        dev_roles=_fresh_roles(spec, members),
        feature_map=GUARD_BIT if spec.guarded else 0,
    )
    return tuple(
        None if member is None else _of_member(first, number, member)
        for number, member in enumerate(members)
    )


def _of_member(array: Superblock, number: int, member: MemberSpec) -> Superblock:
    return replace(
        array,
        dev_number=number,
        device_uuid=member.device_uuid,
        devflags=WRITE_MOSTLY if member.write_mostly else 0,
        data_size_sectors=member.size_bytes // SECTOR - array.data_offset_sectors,
    )


def _component_size_sectors(spec: ArraySpec, plan: Layout) -> int:
    rounding = spec.chunk_sectors if spec.level == 10 else 8
    size = spec.size_sectors // rounding * rounding
    if spec.size_sectors and not 0 < size <= plan.component_size_sectors:
        raise TooSmallError(
            Where("array"),
            f"size of {spec.size_sectors} sectors per member",
            f"the smallest member has room for {plan.component_size_sectors}",
        )
    return size or plan.component_size_sectors


def _fresh_roles(spec: ArraySpec, members: Sequence[MemberSpec | None]) -> tuple[int, ...]:
    """mdadm init_super1: as many entries as fill the superblock's sectors, unused ones spare."""
    used = [
        ROLE_FAULTY if member is None else number if number < spec.raid_disks else ROLE_SPARE
        for number, member in enumerate(members)
    ]
    head = HEAD_BYTES + 2 * len(used)
    entries = (-(-head // SECTOR) * SECTOR - HEAD_BYTES) // 2
    return (*used, *[ROLE_SPARE] * (entries - len(used)))


def member_data_size_sectors(array: Superblock, device_size_bytes: int, where: Where) -> int:
    """`data_size` of a device that is added to an existing array (same data offset).

    Raises TooSmallError with the bytes needed.
    """
    room = device_size_bytes // SECTOR - array.data_offset_sectors
    if room < array.size_sectors:
        need = (array.data_offset_sectors + array.size_sectors) * SECTOR
        raise TooSmallError(
            where,
            f"{device_size_bytes} bytes are too few for a member of array "
            f"{array.set_name or array.set_uuid}",
            f"at least {need} bytes are needed",
        )
    return room
