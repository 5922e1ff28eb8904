"""A plain array of stock mdadm, as image files: what `mdadm --create` and a clean stop leave."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from mdcluster.metadata import superblock as sb
from mdcluster.metadata.layout import array_size_sectors

MIB = 1 << 20
ARRAY = UUID("0badcafe-1111-2222-3333-444455556666")
CTIME_S = 1_600_000_000
EVENTS = 18
BITMAP_AT_SECTORS = 8
BITMAP_CHUNK_BYTES = 64 * 1024
LOG_AT_SECTORS = 16


@dataclass(frozen=True)
class PlainArray:
    """Its members by role; each image's data are bytes of its own array position."""

    paths: tuple[str, ...]
    superblocks: tuple[sb.Superblock, ...]

    def change(self, role: int, change: Callable[[sb.Superblock], sb.Superblock]) -> sb.Superblock:
        """Write one member's superblock anew."""
        made = change(self.superblocks[role])
        patch(self.paths[role], sb.SUPER_OFFSET_BYTES, sb.encode(made))
        return made


def patch(path: str, offset_bytes: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset_bytes)
        file.write(data)


def plain_array(
    folder: Path,
    *,
    level: int = 1,
    disks: int = 2,
    mib: int = 16,
    data_offset_sectors: int = 10240,
    name: str = "stock:data",
    bitmap: bool = True,
    log: bool = True,
    resync: int = sb.MAX_SECTOR,
) -> PlainArray:
    """Images `plain0`, `plain1`, ... of a stopped array; bitmap and bad block log are empty."""
    sectors = mib * MIB // 512
    chunk = 1024 if level == 10 else 0
    size = (sectors - data_offset_sectors) // (chunk or 128) * (chunk or 128)
    first = sb.Superblock(
        set_uuid=ARRAY,
        set_name=name,
        ctime=CTIME_S,
        utime=CTIME_S + 60,
        level=level,
        layout=0x102 if level == 10 else 0,
        size_sectors=size,
        chunksize_sectors=chunk,
        raid_disks=disks,
        data_offset_sectors=data_offset_sectors,
        data_size_sectors=sectors - data_offset_sectors,
        dev_number=0,
        device_uuid=UUID(int=0),
        events=EVENTS,
        resync_offset_sectors=resync,
        dev_roles=(*range(disks), *[sb.ROLE_SPARE] * (128 - disks)),
        feature_map=sb.FEATURE_BITMAP if bitmap else 0,
        bitmap_offset=BITMAP_AT_SECTORS if bitmap else 0,
        bblog_size_sectors=8 if log else 0,
        bblog_offset_sectors=LOG_AT_SECTORS if log else 0,
    )
    made = tuple(
        replace(first, dev_number=role, device_uuid=UUID(int=0xB0 + role)) for role in range(disks)
    )
    paths = tuple(str(folder / f"plain{role}") for role in range(disks))
    array = PlainArray(paths, made)
    for role, path in enumerate(paths):
        with open(path, "xb") as file:
            file.truncate(mib * MIB)
        array.change(role, lambda one: one)
        if bitmap:
            write_bitmap(path, made[role])
        if log:
            write_log(path, b"")
    return array


def write_bitmap(
    path: str,
    superblock: sb.Superblock,
    bits: bytes = b"",
    *,
    uuid: UUID = ARRAY,
    events: int = EVENTS,
    state: int = 0,
) -> None:
    """An internal bitmap (bitmap_super_s, version 4) with these first bits."""
    covered = array_size_sectors(
        superblock.level, superblock.layout, superblock.raid_disks, superblock.size_sectors
    )
    head = struct.pack(
        "<II16sQQQIIIIII",
        *(0x6D746962, 4, uuid.bytes, events, events, covered, state, BITMAP_CHUNK_BYTES, 5, 0),
        *(8, 0),
    )
    count = -(-covered // (BITMAP_CHUNK_BYTES // 512))
    body = bits.ljust(-(-count // 8), b"\0").ljust(4096 - 256, b"\xff")
    at = sb.SUPER_OFFSET_BYTES + BITMAP_AT_SECTORS * 512
    patch(path, at, head.ljust(256, b"\0") + body)


def write_log(path: str, entries: bytes) -> None:
    """The bad block log: these entries, then the end mark to its end."""
    patch(path, sb.SUPER_OFFSET_BYTES + LOG_AT_SECTORS * 512, entries.ljust(4096, b"\xff"))


def fill(array: PlainArray, data: bytes) -> None:
    """raid1: the same bytes at the start of the data of each member."""
    for path, one in zip(array.paths, array.superblocks, strict=True):
        patch(path, one.data_offset_sectors * 512, data)
