"""Reading and writing members: the only I/O of this package.

A member is a block device or an image file. Reads never open for writing and go past the page
cache where the device allows it (another host may have written since). Writes are aligned,
durable when they return (O_DSYNC), and each one is let through by a check of the caller: the
write gate.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import stat
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeVar

from mdcluster.metadata.errors import DeviceError, TooSmallError, UnsteadyError, Where
from mdcluster.metadata.superblock import BLOCK

BLKGETSIZE64: Final = 0x80081272  # linux/fs.h, _IOR(0x12, 114, size_t)
READ_BYTES_MAX: Final = 16 * 1024 * 1024
READ_ATTEMPTS: Final = 5
READ_PAUSE_S: Final = 0.001
"""Doubled after each attempt: a commit on a member takes a few milliseconds."""

T = TypeVar("T")

_DIRECT_REFUSED: Final = (errno.EINVAL, errno.EOPNOTSUPP)


def _open(path: str, flags: int) -> tuple[int, bool]:
    """Descriptor, and whether it is O_DIRECT: first with it, then without (tmpfs has none)."""
    flags |= os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO named by mistake must not hang us
    try:
        return os.open(path, flags | os.O_DIRECT), True
    except OSError as exc:
        if exc.errno not in _DIRECT_REFUSED:
            raise
    return os.open(path, flags), False


def _size_bytes(fd: int) -> int:
    """Size of a block device or regular file; OSError(EINVAL) for anything else."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISBLK(mode):
        (size,) = struct.unpack("=Q", fcntl.ioctl(fd, BLKGETSIZE64, bytes(8)))
        return int(size)
    if stat.S_ISREG(mode):
        return os.lseek(fd, 0, os.SEEK_END)
    raise OSError(errno.EINVAL, "neither a block device nor a regular file")


def _refused(where: Where, action: str, exc: OSError) -> DeviceError:
    advice = {
        errno.ENOENT: "check the path",
        errno.EACCES: "run as root or as the owner of the device",
        errno.EPERM: "run as root or as the owner of the device",
        errno.EIO: "the device or its path is failing; see the kernel log",
    }.get(exc.errno or 0, "")
    return DeviceError(where, f"cannot {action}: {exc.strerror or exc}", advice)


class _Device:
    """An open member, its size and how to close it."""

    def __init__(self, path: str, flags: int) -> None:
        """Open `path`. Raises DeviceError."""
        self.path = path
        try:
            self._fd, self.direct = _open(path, flags)
        except (OSError, ValueError) as exc:  # ValueError: a null byte in the path
            cause = exc if isinstance(exc, OSError) else OSError(errno.EINVAL, str(exc))
            raise _refused(Where(path), "open it", cause) from exc
        try:
            self.size_bytes = _size_bytes(self._fd)
        except OSError as exc:
            self.close()
            raise _refused(Where(path), "tell its size", exc) from exc

    def close(self) -> None:
        """Close it; more than once does no harm."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class DeviceReader(_Device):
    """A member open for reading only."""

    def __init__(self, path: str) -> None:
        super().__init__(path, os.O_RDONLY)
        self._seen: hashlib._Hash | None = None

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Exactly these bytes as they are on the device now.

        Raises TooSmallError beyond the end and DeviceError if the system refuses; ValueError for
        more than READ_BYTES_MAX at once.
        """
        where = Where(self.path, offset_bytes)
        if offset_bytes < 0 or not 0 <= length_bytes <= READ_BYTES_MAX:
            raise ValueError(f"cannot read {length_bytes} bytes at {offset_bytes}")
        if offset_bytes + length_bytes > self.size_bytes:
            raise TooSmallError(
                where,
                f"device ends at byte {self.size_bytes}",
                f"{offset_bytes + length_bytes} bytes are needed",
            )
        lo = offset_bytes // BLOCK * BLOCK
        hi = -(-(offset_bytes + length_bytes) // BLOCK) * BLOCK
        raw = self._read_aligned(lo, hi - lo, where)
        piece = raw[offset_bytes - lo : offset_bytes - lo + length_bytes]
        if len(piece) < length_bytes:
            raise DeviceError(where, f"read {len(piece)} of {length_bytes} bytes", "it has shrunk")
        if self._seen is not None:
            self._seen.update(piece)
        return piece

    def read_steady(self, offset_bytes: int, length_bytes: int) -> bytes:
        """The same, read until two reads in a row are equal: no half of somebody's write.

        Raises UnsteadyError after READ_ATTEMPTS reads, else as `read`.
        """
        raw, unsteady = self.steadily(lambda: self.read(offset_bytes, length_bytes))
        if unsteady is not None:
            raise UnsteadyError(
                Where(self.path, offset_bytes),
                f"{length_bytes} bytes differed in each of {READ_ATTEMPTS} reads",
                "the array is being written; try again",
            )
        return raw

    def steadily(self, read: Callable[[], T]) -> tuple[T, UnsteadyError | None]:
        """What `read` gives once two runs of it in a row have read the same bytes.

        With an error if no two of READ_ATTEMPTS runs did; what it gave last comes along. Between
        runs it waits, longer each time, so that one who writes may finish. Not for nesting.
        """
        given, last = self._hashed(read)
        for attempt in range(1, READ_ATTEMPTS):
            again, now = self._hashed(read)
            if now == last:
                return again, None
            given, last = again, now
            time.sleep(READ_PAUSE_S * 2**attempt)
        unsteady = UnsteadyError(
            Where(self.path),
            f"what was read differed in each of {READ_ATTEMPTS} runs",
            "the array is being written all the time; what is shown may be of different commits",
        )
        return given, unsteady

    def _hashed(self, read: Callable[[], T]) -> tuple[T, bytes]:
        self._seen = hashlib.sha256()
        try:
            return read(), self._seen.digest()
        finally:
            self._seen = None

    def _read_aligned(self, offset_bytes: int, length_bytes: int, where: Where) -> bytes:
        if not length_bytes:
            return b""
        parts = bytearray()
        with mmap.mmap(-1, length_bytes) as buffer:
            try:
                if not self.direct:
                    os.posix_fadvise(self._fd, offset_bytes, length_bytes, os.POSIX_FADV_DONTNEED)
                while len(parts) < length_bytes:
                    done = os.preadv(self._fd, [buffer], offset_bytes + len(parts))
                    parts += buffer[:done]
                    if done % BLOCK or not done:  # the end of a file
                        break
            except OSError as exc:
                raise _refused(where, "read", exc) from exc
        return bytes(parts)


class DeviceWriter(_Device):
    """A member open for metadata writes, each through the caller's check.

    `check` is called right before each system call that writes; it raises when the write may not
    happen (the gate is shut, the lease ran out), and then nothing is written.
    """

    def __init__(self, path: str, check: Callable[[], None]) -> None:
        super().__init__(path, os.O_RDWR | os.O_DSYNC)
        self._check = check

    def write(self, offset_bytes: int, data: bytes) -> None:
        """Write whole blocks of 4 KiB at a multiple of 4 KiB; durable on return.

        Raises whatever the check raises, TooSmallError beyond the end (a write never lengthens
        an image file), DeviceError, ValueError if not aligned. After an error between the calls
        of a long write, what was written of it stays: readers see a torn block.
        """
        if offset_bytes < 0 or offset_bytes % BLOCK or len(data) % BLOCK or not data:
            raise ValueError(f"write of {len(data)} bytes at {offset_bytes} is not aligned")
        where = Where(self.path, offset_bytes)
        if offset_bytes + len(data) > self.size_bytes:
            raise TooSmallError(
                where,
                f"device ends at byte {self.size_bytes}",
                f"{offset_bytes + len(data)} bytes are needed",
            )
        with mmap.mmap(-1, len(data)) as buffer:
            buffer[:] = data
            with memoryview(buffer) as view:
                self._write_all(view, offset_bytes, where)

    def _write_all(self, view: memoryview, offset_bytes: int, where: Where) -> None:
        done = 0
        while done < len(view):
            self._check()
            try:
                with view[done:] as rest:
                    step = os.pwrite(self._fd, rest, offset_bytes + done)
            except OSError as exc:
                raise _refused(where.plus(done), "write", exc) from exc
            if step % BLOCK or not step:
                raise DeviceError(
                    where.plus(done), f"wrote only {step} bytes", "the block there may be torn"
                )
            done += step
