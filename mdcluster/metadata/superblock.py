"""The md superblock, version 1.2: bytes to values and back, for stock mdadm and kernel.

`struct mdp_superblock_1`, little endian, 256 bytes and two for each entry of `dev_roles`, 4 KiB
from the start of the device. Source: linux include/uapi/linux/raid/md_p.h and
drivers/md/md.c (super_1_load, super_1_sync, calc_sb_1_csum); mdadm super1.c.
Read for all levels; `layout.fresh_superblocks` makes new ones for raid1 and raid10.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from mdcluster.metadata.errors import (
    BadChecksumError,
    MisplacedError,
    NoSuperblockError,
    TooLargeError,
    TooSmallError,
    UnsupportedError,
    Where,
)

SECTOR: Final = 512
BLOCK: Final = 4096
SUPER_OFFSET_BYTES: Final = 4096
SUPER_OFFSET_SECTORS: Final = SUPER_OFFSET_BYTES // SECTOR
SUPER_BYTES: Final = 4096
HEAD_BYTES: Final = 256
MAGIC: Final = 0xA92B4EFC
MAX_DEVS: Final = (SUPER_BYTES - HEAD_BYTES) // 2
MAX_SECTOR: Final = (1 << 64) - 1  # resync_offset of an array that is in sync
NAME_BYTES: Final = 32

ROLE_SPARE: Final = 0xFFFF
ROLE_FAULTY: Final = 0xFFFE
ROLE_JOURNAL: Final = 0xFFFD
ROLE_MAX: Final = 0xFF00

FEATURE_BITMAP: Final = 1
FEATURE_RECOVERY: Final = 2
FEATURE_RESHAPE: Final = 4
FEATURE_BAD_BLOCKS: Final = 8
FEATURE_REPLACEMENT: Final = 16
FEATURE_NEW_OFFSET: Final = 64
FEATURE_PPL: Final = 1024
FEATURE_MULTIPLE_PPLS: Final = 2048
FEATURE_RAID0_LAYOUT: Final = 4096
GUARD_BIT: Final = 1 << 31
"""Set while a cluster owns the array: kernel and mdadm refuse to start it, but print it."""

WRITE_MOSTLY: Final = 1
FAIL_FAST: Final = 2

# struct mdp_superblock_1 in its order: name here, type there.
_FIELDS: Final = (
    ("magic", "I"),
    ("major_version", "I"),
    ("feature_map", "I"),
    ("pad0", "I"),
    ("set_uuid", "16s"),
    ("set_name", "32s"),
    ("ctime", "Q"),
    ("level", "i"),
    ("layout", "I"),
    ("size_sectors", "Q"),
    ("chunksize_sectors", "I"),
    ("raid_disks", "I"),
    ("bitmap_offset", "i"),
    ("new_level", "i"),
    ("reshape_position_sectors", "Q"),
    ("delta_disks", "i"),
    ("new_layout", "I"),
    ("new_chunk_sectors", "I"),
    ("new_offset_sectors", "i"),
    ("data_offset_sectors", "Q"),
    ("data_size_sectors", "Q"),
    ("super_offset_sectors", "Q"),
    ("recovery_offset_sectors", "Q"),
    ("dev_number", "I"),
    ("cnt_corrected_read", "I"),
    ("device_uuid", "16s"),
    ("devflags", "B"),
    ("bblog_shift", "B"),
    ("bblog_size_sectors", "H"),
    ("bblog_offset_sectors", "i"),
    ("utime", "Q"),
    ("events", "Q"),
    ("resync_offset_sectors", "Q"),
    ("sb_csum", "I"),
    ("max_dev", "I"),
    ("pad3", "32s"),
)
_NAMES: Final = tuple(name for name, _ in _FIELDS)
_HEAD: Final = struct.Struct("<" + "".join(kind for _, kind in _FIELDS))
_CHECKSUM_AT: Final = 216
_MAX_DEV_AT: Final = 220


@dataclass(frozen=True, slots=True)
class Superblock:
    """One member's superblock; the field names are md's, with their units.

    `recovery_offset_sectors` counts only with `FEATURE_RECOVERY` (for a journal it is the journal
    tail); `resync_offset_sectors` is `MAX_SECTOR` when in sync. `bitmap_offset` is in sectors
    from the superblock; with a PPL feature its two halves are the PPL's offset and size.
    `ctime` and `utime` are 40 bits of seconds and, above them, 24 bits of microseconds.
    """

    set_uuid: UUID
    set_name: str
    ctime: int
    level: int
    layout: int
    size_sectors: int
    chunksize_sectors: int
    raid_disks: int
    data_offset_sectors: int
    data_size_sectors: int
    dev_number: int
    device_uuid: UUID
    utime: int
    events: int
    resync_offset_sectors: int
    dev_roles: tuple[int, ...]
    feature_map: int = 0
    super_offset_sectors: int = SUPER_OFFSET_SECTORS
    recovery_offset_sectors: int = 0
    bitmap_offset: int = 0
    devflags: int = 0
    cnt_corrected_read: int = 0
    bblog_shift: int = 0
    bblog_size_sectors: int = 0
    bblog_offset_sectors: int = 0
    new_level: int = 0
    reshape_position_sectors: int = 0
    delta_disks: int = 0
    new_layout: int = 0
    new_chunk_sectors: int = 0
    new_offset_sectors: int = 0
    pad0: int = 0
    pad3: bytes = bytes(32)

    @property
    def role(self) -> int:
        """This member's entry of `dev_roles`; a number outside the table is a spare, as in md."""
        if self.dev_number < len(self.dev_roles):
            return self.dev_roles[self.dev_number]
        return ROLE_SPARE

    @property
    def guarded(self) -> bool:
        """Whether a live cluster owns the array."""
        return bool(self.feature_map & GUARD_BIT)

    @property
    def in_sync(self) -> bool:
        """Whether no resync is due."""
        return self.resync_offset_sectors == MAX_SECTOR

    @property
    def term(self) -> int:
        """The election term in `events`; only of meaning under the cluster's own UUID."""
        return self.events >> 32

    @property
    def seq(self) -> int:
        """The commit's number within its term."""
        return self.events & 0xFFFFFFFF

    @property
    def checksum(self) -> int:
        """What `sb_csum` is for these values."""
        raw = encode(self)
        return int.from_bytes(raw[_CHECKSUM_AT:_MAX_DEV_AT], "little")

    def with_guard(self, owned: bool) -> Superblock:
        """The same with the guard bit set or cleared."""
        rest = self.feature_map & ~GUARD_BIT
        return replace(self, feature_map=rest | GUARD_BIT if owned else rest)

    def with_recovery(self, offset_sectors: int | None) -> Superblock:
        """The same, recovered up to `offset_sectors` (None: whole, the feature bit cleared)."""
        rest = self.feature_map & ~FEATURE_RECOVERY
        if offset_sectors is None:
            return replace(self, feature_map=rest, recovery_offset_sectors=0)
        return replace(
            self, feature_map=rest | FEATURE_RECOVERY, recovery_offset_sectors=offset_sectors
        )


def events_of(term: int, seq: int) -> int:
    """`events` of commit (term, seq): term << 32 | seq. ValueError outside 32 bits each."""
    if not (0 <= term < 1 << 32 and 0 <= seq < 1 << 32):
        raise ValueError(f"term {term} and seq {seq} must each fit 32 bits")
    return term << 32 | seq


def md_uuid(value: UUID) -> str:
    """A UUID as mdadm prints it: four groups of eight hex digits with colons."""
    text = value.hex
    return ":".join(text[at : at + 8] for at in range(0, 32, 8))


def checksum(raw: bytes) -> int:
    """`calc_sb_1_csum` over the head and the roles that `max_dev` counts (linux md.c).

    Needs at least the bytes it covers; the stored checksum counts as zero.
    """
    roles = int.from_bytes(raw[_MAX_DEV_AT : _MAX_DEV_AT + 4], "little")
    size = HEAD_BYTES + 2 * roles
    words = struct.unpack_from(f"<{size // 4}I", raw)
    total: int = sum(words) - words[_CHECKSUM_AT // 4]
    if size % 4:
        total += int.from_bytes(raw[size - 2 : size], "little")
    return ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF


def stored_checksum(raw: bytes) -> int:
    """`sb_csum` as it stands in the bytes of a superblock."""
    return int.from_bytes(raw[_CHECKSUM_AT:_MAX_DEV_AT], "little")


def decode(raw: bytes, where: Where, *, whole: bool = True) -> Superblock:
    """The superblock in `raw` (its 4096 bytes, read at `where`).

    whole: False shows one with a wrong checksum, too; nothing may be built on that.

    Raises: NoSuperblockError, UnsupportedError, TooSmallError (too few bytes), BadChecksumError,
    MisplacedError (it says it stands elsewhere).
    """
    if len(raw) < SUPER_BYTES:
        raise TooSmallError(
            where, f"{len(raw)} bytes are no superblock", f"{SUPER_BYTES} bytes are needed"
        )
    magic, major = struct.unpack_from("<II", raw)
    if magic != MAGIC:
        raise NoSuperblockError(
            where,
            f"no md superblock (magic {magic:08x}, expected {MAGIC:08x})",
            "check that this is the whole member and not a partition of it or the array itself",
        )
    if major != 1:
        raise UnsupportedError(where, f"md superblock of version {major}", "only 1.2 is handled")
    max_dev = int.from_bytes(raw[_MAX_DEV_AT : _MAX_DEV_AT + 4], "little")
    if max_dev > MAX_DEVS:
        raise UnsupportedError(
            where, f"superblock claims {max_dev} device roles", f"at most {MAX_DEVS} fit 4 KiB"
        )
    stored, computed = stored_checksum(raw), checksum(raw)
    if whole and stored != computed:
        raise BadChecksumError(
            where,
            f"superblock checksum is {stored:x}, expected {computed:x}",
            "a write was torn or the block was damaged; another member has the same array state",
        )
    return _validated(_unpack(raw, max_dev), where)


def _unpack(raw: bytes, max_dev: int) -> Superblock:
    """The values of a superblock whose magic, table length and checksum are known to be right."""
    fields = dict(zip(_NAMES, _HEAD.unpack_from(raw), strict=True))
    for name in ("magic", "major_version", "sb_csum", "max_dev"):
        del fields[name]
    fields["set_uuid"] = UUID(bytes=fields["set_uuid"])
    fields["device_uuid"] = UUID(bytes=fields["device_uuid"])
    fields["set_name"] = fields["set_name"].split(b"\0")[0].decode("utf-8", "surrogateescape")
    return Superblock(**fields, dev_roles=struct.unpack_from(f"<{max_dev}H", raw, HEAD_BYTES))


def _validated(superblock: Superblock, where: Where) -> Superblock:
    """The checks md makes at load, and the bounds the rest of this package relies on."""
    at_sectors = superblock.super_offset_sectors
    if at_sectors != SUPER_OFFSET_SECTORS:
        raise MisplacedError(
            where,
            f"superblock says it stands at sector {at_sectors}, not {SUPER_OFFSET_SECTORS}",
            "it was copied from elsewhere, or is of version 1.0 or 1.1; only 1.2 is handled",
        )
    if superblock.raid_disks > MAX_DEVS:
        raise UnsupportedError(
            where, f"{superblock.raid_disks} raid disks", f"md has at most {MAX_DEVS}"
        )
    return superblock


def encode(superblock: Superblock) -> bytes:
    """The 4096 bytes of `superblock` with its checksum; zeros after the roles.

    Raises TooLargeError for a value that has not the room, naming it.
    """
    values = {name: getattr(superblock, name, 0) for name in _NAMES}
    name = superblock.set_name.encode("utf-8", "surrogateescape")
    roles = superblock.dev_roles
    if len(name) > NAME_BYTES:
        raise TooLargeError(
            Where("superblock"), f"array name {superblock.set_name!r}", "at most 32 bytes fit"
        )
    if len(roles) > MAX_DEVS:
        raise TooLargeError(
            Where("superblock"), f"{len(roles)} device roles", f"at most {MAX_DEVS} fit"
        )
    values |= {
        "magic": MAGIC,
        "major_version": 1,
        "set_uuid": superblock.set_uuid.bytes,
        "device_uuid": superblock.device_uuid.bytes,
        "set_name": name,
        "max_dev": len(roles),
    }
    try:
        head = _HEAD.pack(*values.values())
        table = struct.pack(f"<{len(roles)}H", *roles)
    except struct.error as exc:
        raise TooLargeError(Where("superblock"), f"field out of range: {exc}") from exc
    raw = bytearray(head + table).ljust(SUPER_BYTES, b"\0")
    raw[_CHECKSUM_AT:_MAX_DEV_AT] = checksum(bytes(raw)).to_bytes(4, "little")
    return bytes(raw)
