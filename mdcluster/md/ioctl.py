"""md's ioctls, as far as the kernel honours them for arrays with external metadata.

Numbers and structures: include/uapi/linux/raid/md_u.h and md_p.h (MD_MAJOR 9); what each does:
drivers/md/md.c, ``md_ioctl``. Left out on purpose: HOT_ADD_DISK (uses data offset 0 and rebuilds
over the superblock), ADD_NEW_DISK and SET_ARRAY_INFO before an array runs (they reset what
sysfs has set), RUN_ARRAY (starts unfrozen), SET_BITMAP_FILE, HOT_REMOVE_DISK (unblocks by itself).

They are used where they do what sysfs cannot: SET_DISK_FAULTY takes no lock of md, so that it
goes through while another thread drains I/O under that lock.
"""

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from typing import Final

from mdcluster.md.driver import ArrayBusyError, DriverError

MD_MAJOR: Final = 9


def _io(number: int) -> int:
    return MD_MAJOR << 8 | number


def _ior(number: int, size: int) -> int:
    return 2 << 30 | size << 16 | MD_MAJOR << 8 | number


_VERSION: Final = struct.Struct("=3i")
_ARRAY_INFO: Final = struct.Struct("=18i")
_DISK_INFO: Final = struct.Struct("=5i")

RAID_VERSION: Final = _ior(0x10, _VERSION.size)
GET_ARRAY_INFO: Final = _ior(0x11, _ARRAY_INFO.size)
GET_DISK_INFO: Final = _ior(0x12, _DISK_INFO.size)
SET_DISK_FAULTY: Final = _io(0x29)
STOP_ARRAY: Final = _io(0x32)
STOP_ARRAY_RO: Final = _io(0x33)
RESTART_ARRAY_RW: Final = _io(0x34)

_NAMES: Final = {
    RAID_VERSION: "RAID_VERSION",
    GET_ARRAY_INFO: "GET_ARRAY_INFO",
    GET_DISK_INFO: "GET_DISK_INFO",
    SET_DISK_FAULTY: "SET_DISK_FAULTY",
    STOP_ARRAY: "STOP_ARRAY",
    STOP_ARRAY_RO: "STOP_ARRAY_RO",
    RESTART_ARRAY_RW: "RESTART_ARRAY_RW",
}

# md_p.h: bits of mdu_disk_info_t.state
DISK_FAULTY: Final = 0
DISK_ACTIVE: Final = 1
DISK_SYNC: Final = 2
DISK_REMOVED: Final = 3


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """mdu_array_info_t. size_kib: of each member, -1 if it does not fit 31 bits."""

    level: int
    size_kib: int
    nr_disks: int
    raid_disks: int
    md_minor: int
    active_disks: int
    working_disks: int
    failed_disks: int
    spare_disks: int
    layout: int
    chunk_bytes: int


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """mdu_disk_info_t. role: -1 for none; device: (0, 0) if the number is not in use."""

    number: int
    device: tuple[int, int]
    role: int
    state: int

    def has(self, bit: int) -> bool:
        return bool(self.state >> bit & 1)


class MdDevice:
    """An open md device, read-only. Close it: while it is open the array cannot be stopped
    (but by the holder of the only descriptor)."""

    def __init__(self, path: str) -> None:
        """DriverError if it cannot be opened."""
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DriverError(f"{path} cannot be opened: {error.strerror}") from None

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> "MdDevice":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def version(self) -> tuple[int, int, int]:
        """major, minor, patchlevel of md."""
        major, minor, patch = _VERSION.unpack(self._call(RAID_VERSION, bytes(_VERSION.size)))
        return major, minor, patch

    def array_info(self) -> ArrayInfo:
        words = _ARRAY_INFO.unpack(self._call(GET_ARRAY_INFO, bytes(_ARRAY_INFO.size)))
        level, size, nr, disks, minor = words[4], words[5], words[6], words[7], words[8]
        return ArrayInfo(level, size, nr, disks, minor, *words[12:16], *words[16:18])

    def disk_info(self, number: int) -> DiskInfo:
        given = _DISK_INFO.pack(number, 0, 0, 0, 0)
        number, major, minor, role, state = _DISK_INFO.unpack(self._call(GET_DISK_INFO, given))
        return DiskInfo(number, (major, minor), role, state)

    def set_disk_faulty(self, device: tuple[int, int]) -> None:
        """Stop the use of a member; ArrayBusyError if md keeps it as the last one."""
        self._call(SET_DISK_FAULTY, _encoded(device))

    def stop(self) -> None:
        """Stop the array; ArrayBusyError if anybody else has it open."""
        self._call(STOP_ARRAY, 0)

    def _call(self, request: int, argument: bytes | int) -> bytes:
        try:
            result = fcntl.ioctl(self._fd, request, argument)
        except OSError as error:
            what = f"{self.path}: {_NAMES[request]}: {error.strerror}"
            if error.errno == errno.EBUSY:
                raise ArrayBusyError(f"{what}; it is in use") from None
            raise DriverError(what) from None
        return result if isinstance(result, bytes) else b""


def _encoded(device: tuple[int, int]) -> int:
    """new_encode_dev of include/linux/kdev_t.h."""
    major, minor = device
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12
