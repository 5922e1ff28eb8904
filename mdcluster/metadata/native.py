"""What stock md keeps beside its superblock: the internal bitmap and the bad block log.

Read before a plain array is taken in, never written. Sources: linux drivers/md/md-bitmap.h
(bitmap_super_s) and md-bitmap.c (md_bitmap_read_sb, md_bitmap_init_from_disk), md.c
(super_1_load for the bad block log); mdadm bitmap.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from mdcluster.metadata import layout
from mdcluster.metadata.device import DeviceReader
from mdcluster.metadata.errors import UnsupportedError, Where
from mdcluster.metadata.superblock import (
    FEATURE_BAD_BLOCKS,
    FEATURE_BITMAP,
    GUARD_BIT,
    SECTOR,
    SUPER_OFFSET_BYTES,
    Superblock,
)

NEAR_BYTES: Final = layout.AREA_OFFSET_BYTES - 4096
"""What stock md keeps may reach up to the nonce block, no further."""

BITMAP_MAGIC: Final = 0x6D746962
BITMAP_HEAD_BYTES: Final = 256
BITMAP_VERSIONS: Final = (3, 4)
BITMAP_CLUSTERED: Final = 5
_BITMAP: Final = struct.Struct("<II16sQQQIIIIII64s")
_BITMAP_BAD: Final = 2 | 4  # BITMAP_STALE, BITMAP_WRITE_ERROR
_BITMAP_BYTES_MAX: Final = NEAR_BYTES

_LOG_SECTORS_MAX: Final = 8
_LOG_END: Final = (1 << 64) - 1
_LOG_COUNT_MASK: Final = 0x3FF

_NAMES: Final = (
    (2, "a recovery in progress: let it finish under mdadm first"),
    (4, "a reshape in progress: let it finish under mdadm first"),
    (16, "a replacement in progress: let it finish under mdadm first"),
    (32, "a reshape in progress: let it finish under mdadm first"),
    (64, "a reshape in progress: let it finish under mdadm first"),
    (256, "a bitmap of a clustered md array: take it out with mdadm --grow --bitmap=none"),
    (512, "a write journal"),
    (1024, "a partial parity log"),
    (2048, "partial parity logs"),
    (GUARD_BIT, "the guard bit of a cluster"),
)


@dataclass(frozen=True, slots=True)
class BitmapHead:
    """The head of a bitmap (bitmap_super_s), its fields in order and with their units.

    nodes: of a bitmap of md's own cluster, with one bitmap after the other; 0 otherwise.
    """

    magic: int
    version: int
    uuid: bytes
    events: int
    events_cleared: int
    sync_size_sectors: int
    state: int
    chunk_bytes: int
    daemon_sleep_s: int
    write_behind: int
    sectors_reserved: int
    nodes: int
    cluster_name: bytes

    @property
    def plausible(self) -> bool:
        """Whether a bitmap of this machine's kind stands there, whatever array it is of."""
        power = self.chunk_bytes >= SECTOR and not self.chunk_bytes & (self.chunk_bytes - 1)
        known = (*BITMAP_VERSIONS, BITMAP_CLUSTERED)
        return self.magic == BITMAP_MAGIC and self.version in known and power

    @property
    def chunks(self) -> int:
        """How many bits follow the head; 0 where no chunk size is given."""
        return -(-(self.sync_size_sectors << 9) // self.chunk_bytes) if self.chunk_bytes else 0


def decode_bitmap_head(raw: bytes) -> BitmapHead:
    """The first BITMAP_HEAD_BYTES of a bitmap as numbers; nothing is checked."""
    return BitmapHead(*_BITMAP.unpack_from(raw))


@dataclass(frozen=True, slots=True)
class Beside:
    """dirty: the bitmap says, or cannot rule out, that copies differ. bad_blocks: extents."""

    dirty: bool = False
    bad_blocks: int = 0


def check_features(superblock: Superblock, path: str, *, guarded: bool = False) -> None:
    """UnsupportedError for what an adopted array cannot have. guarded: it may have the bit."""
    known = FEATURE_BITMAP | FEATURE_BAD_BLOCKS | (GUARD_BIT if guarded else 0)
    rest = superblock.feature_map & ~known
    if not rest:
        return
    names = [name for bit, name in _NAMES if rest & bit] or [f"unknown features {rest:#x}"]
    raise UnsupportedError(Where(path), f"it has {names[0]}")


def read_beside(device: DeviceReader, superblock: Superblock) -> Beside:
    """Bitmap and log of one member. UnsupportedError if one lies where our area would be."""
    dirty, bad = False, 0
    if superblock.feature_map & FEATURE_BITMAP:
        dirty = _bitmap_dirty(device, superblock)
    if superblock.feature_map & FEATURE_BAD_BLOCKS:
        bad = _bad_blocks(device, superblock)
    return Beside(dirty, bad)


def _place(device: DeviceReader, at_sectors: int, length_bytes: int, what: str) -> int:
    at_bytes = SUPER_OFFSET_BYTES + at_sectors * SECTOR
    if at_sectors >= SUPER_OFFSET_BYTES // SECTOR and at_bytes + length_bytes <= NEAR_BYTES:
        return at_bytes
    raise UnsupportedError(
        Where(device.path, at_bytes),
        f"{what} where the cluster area would be",
        "remove it with mdadm first",
    )


def _bitmap_dirty(device: DeviceReader, superblock: Superblock) -> bool:
    what = "an internal bitmap"
    at = _place(device, superblock.bitmap_offset, BITMAP_HEAD_BYTES, what)
    head = decode_bitmap_head(device.read(at, BITMAP_HEAD_BYTES))
    if not head.plausible or head.version not in BITMAP_VERSIONS:
        return True
    if head.uuid != superblock.set_uuid.bytes or head.events < superblock.events:
        return True  # md would not trust it either, and resync all
    bits, length = head.chunks, -(-head.chunks // 8)
    if head.state & _BITMAP_BAD or length > _BITMAP_BYTES_MAX:
        return True
    at = _place(device, superblock.bitmap_offset, BITMAP_HEAD_BYTES + length, what)
    body = device.read(at + BITMAP_HEAD_BYTES, length)
    last = body[-1] & ((1 << (bits % 8 or 8)) - 1) if body else 0
    return any(body[:-1]) or last != 0


def _bad_blocks(device: DeviceReader, superblock: Superblock) -> int:
    sectors = min(superblock.bblog_size_sectors, _LOG_SECTORS_MAX)
    at = _place(device, superblock.bblog_offset_sectors, sectors * SECTOR, "a bad block log")
    count = 0
    for (entry,) in struct.iter_unpack("<Q", device.read(at, sectors * SECTOR)):
        if entry == _LOG_END:
            break
        count += bool(entry & _LOG_COUNT_MASK)
    return count
