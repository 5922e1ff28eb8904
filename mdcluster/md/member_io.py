"""One member, opened: reads, writes and flushes in threads of its own, each with a deadline.

Files and block devices are opened with O_DIRECT where that works, since other hosts write to
a shared disk behind our page cache. Each member has its own bounded pool of threads, so a
member that hangs delays nobody else. An access that misses its deadline counts as failed; a
*write* that returns late is remembered in :class:`LateWrites`, by the device it may still
land on, until it has returned.
"""

import asyncio
import errno
import fcntl
import mmap
import os
import stat
import struct
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from mdcluster.md.driver import DriverError
from mdcluster.md.faults import Access, Direction, Faults, Purpose

SECTOR_BYTES: Final = 512
ALIGN_MAX_BYTES: Final = 4096
_BLKGETSIZE64: Final = 0x80081272
_T = TypeVar("_T")

Identity = tuple[int, int]
"""What a path leads to: (device, inode) of a file, (0, device number) of a block device."""


def aligned_buffer(length_bytes: int) -> memoryview:
    """Page-aligned zeroed memory, as O_DIRECT wants it. OSError if there is none left."""
    return memoryview(mmap.mmap(-1, length_bytes))


def aligned_copy(data: bytes | bytearray | memoryview) -> memoryview:
    """The same bytes in page-aligned memory that nobody else changes."""
    buffer = aligned_buffer(len(data))
    buffer[:] = data
    return buffer


class LateError(OSError):
    """An access missed its deadline. `landed` is done once it has returned after all."""

    def __init__(self, why: str, path: str, landed: "asyncio.Future[Any]") -> None:
        super().__init__(errno.ETIMEDOUT, why, path)
        self.landed = landed


class LateWrites:
    """Writes that missed their deadline and have not returned yet, by device."""

    def __init__(self) -> None:
        self._counts: Counter[Identity] = Counter()

    def add(self, identity: Identity, future: "asyncio.Future[Any]") -> None:
        """Remember the device until `future`, the late write, is done."""
        self._counts[identity] += 1

        def returned(_: "asyncio.Future[Any]") -> None:
            self._counts[identity] -= 1

        future.add_done_callback(returned)

    def count(self, identity: Identity) -> int:
        """How many may still land on the device."""
        return self._counts[identity]


@dataclass(frozen=True, slots=True)
class IoSettings:
    """What all members of a driver share."""

    deadline_ms: int
    threads: int
    late: LateWrites
    faults: Faults | None


@dataclass(frozen=True, slots=True)
class _Opened:
    fd: int
    size_bytes: int
    align_bytes: int
    identity: Identity


class MemberIo:
    """An open member. Offsets in sectors from its start; errors are OSError."""

    def __init__(
        self, path: str, opened: _Opened, pool: ThreadPoolExecutor, settings: IoSettings
    ) -> None:
        self.path = path
        self.size_bytes = opened.size_bytes
        self.align_bytes = opened.align_bytes
        self.identity = opened.identity
        self._fd = opened.fd
        self._pool = pool
        self._settings = settings
        self._outstanding = 0
        self._writing: set[asyncio.Future[Any]] = set()
        self._copying: set[asyncio.Future[Any]] = set()
        self._closing = False

    @classmethod
    async def open(cls, path: str, settings: IoSettings, *, read_only: bool) -> "MemberIo":
        """DriverError if it cannot be opened in time, or a late write may still land on it."""
        pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="md-io")
        future = asyncio.get_running_loop().run_in_executor(pool, _open, path, read_only, settings)
        if not await _in_time(future, settings.deadline_ms / 1000):
            future.add_done_callback(_close_late)
            pool.shutdown(wait=False)
            raise DriverError(f"{path}: opening it took longer than {settings.deadline_ms} ms")
        try:
            opened = future.result()
        except OSError as error:
            pool.shutdown(wait=False)
            raise DriverError(f"{path}: cannot be opened: {error.strerror or error}") from error
        member = cls(path, opened, pool, settings)
        if late := settings.late.count(opened.identity):
            member.close()
            raise DriverError(
                f"{path}: {late} write(s) that missed their deadline have not returned yet and"
                " may still land on it; wait for them, or restart this host"
            )
        return member

    async def read(
        self,
        offset_sectors: int,
        length_sectors: int,
        purpose: Purpose = Purpose.DATA,
        into: memoryview | None = None,
    ) -> memoryview:
        """`length_sectors` from there, in a buffer of their own or at the start of `into`.

        After an error `into` must not be used again: a late read may still change it.
        """
        length_bytes = length_sectors * SECTOR_BYTES

        def read() -> memoryview:
            self._visit(Direction.READ, purpose, offset_sectors, length_sectors)
            _check_whole(self._fd, self.size_bytes, self.path)
            buffer = aligned_buffer(length_bytes) if into is None else into[:length_bytes]
            _read_all(self._fd, buffer, offset_sectors * SECTOR_BYTES, self.path)
            return buffer

        return await self._run(read)

    async def write(
        self,
        offset_sectors: int,
        data: memoryview,
        purpose: Purpose = Purpose.DATA,
        *,
        durable: bool = False,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Write an aligned buffer that nobody changes any more. check: the gate's, asked last.

        LateError if it misses the deadline; it may still land then.
        """
        length_sectors = len(data) // SECTOR_BYTES

        def write() -> None:
            if check is not None:
                check()
            self._visit(Direction.WRITE, purpose, offset_sectors, length_sectors)
            _check_whole(self._fd, self.size_bytes, self.path)
            _write_all(self._fd, data, offset_sectors * SECTOR_BYTES, durable, self.path)

        await self._run(write, counted=True, copying=purpose is Purpose.COPY)

    async def flush(self, purpose: Purpose = Purpose.DATA) -> None:
        """fdatasync: all that was written before is on stable storage."""

        def flush() -> None:
            self._visit(Direction.FLUSH, purpose, 0, 0)
            os.fdatasync(self._fd)

        await self._run(flush)

    @property
    def writes_in_flight(self) -> int:
        """Writes that have not returned, late ones included."""
        return len(self._writing)

    async def writes_returned(self) -> None:
        """Wait, however long, until none of the writes issued can still land."""
        while self._writing:
            await asyncio.wait(set(self._writing))

    async def copies_returned(self) -> None:
        """Wait, however long, until no copying write is outstanding, late ones included."""
        while self._copying:
            await asyncio.wait(set(self._copying))

    def close(self) -> None:
        """No more accesses; the device is closed once the last one outstanding has returned."""
        self._closing = True
        self._pool.shutdown(wait=False)
        self._close_if_idle()

    def _visit(self, direction: Direction, purpose: Purpose, offset: int, length: int) -> None:
        faults = self._settings.faults
        if faults is not None:
            faults.visit(Access(self.path, direction, purpose, offset, offset + length))

    async def _run(
        self, call: Callable[[], _T], *, counted: bool = False, copying: bool = False
    ) -> _T:
        if self._closing:
            raise OSError(errno.ENODEV, "the member was removed", self.path)
        future = asyncio.get_running_loop().run_in_executor(self._pool, call)
        self._outstanding += 1

        def returned(done: "asyncio.Future[_T]") -> None:
            self._outstanding -= 1
            if not done.cancelled():
                done.exception()  # seen, even if nobody waits for it any more
            self._close_if_idle()

        future.add_done_callback(returned)
        if counted:
            self._writing.add(future)
            future.add_done_callback(self._writing.discard)
        if copying:
            self._copying.add(future)
            future.add_done_callback(self._copying.discard)
        deadline_ms = self._settings.deadline_ms
        if await _in_time(future, deadline_ms / 1000):
            return future.result()
        if counted:
            self._settings.late.add(self.identity, future)
        raise LateError(f"no answer within {deadline_ms} ms", self.path, future)

    def _close_if_idle(self) -> None:
        if self._closing and not self._outstanding and self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


async def _in_time(future: "asyncio.Future[Any]", deadline_s: float) -> bool:
    """Whether it is done in time. Time in which this process itself stood still does not count."""
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + deadline_s
        done, _ = await asyncio.wait({future}, timeout=deadline_s)
        if done or loop.time() - due_s < deadline_s / 4:
            return bool(done)


def _close_late(future: "asyncio.Future[_Opened]") -> None:
    if not future.cancelled() and future.exception() is None:
        os.close(future.result().fd)


def _open(path: str, read_only: bool, settings: IoSettings) -> _Opened:
    if settings.faults is not None:
        settings.faults.visit(Access(path, Direction.READ, Purpose.DATA))
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC
    for direct in (os.O_DIRECT, 0):
        try:
            fd = os.open(path, flags | direct)
        except OSError as error:
            if direct and error.errno == errno.EINVAL:
                continue  # a file system without O_DIRECT
            raise
        try:
            size_bytes, identity = _look(fd, path)
            align_bytes = _probe_align(fd) if direct else SECTOR_BYTES
        except OSError:
            os.close(fd)
            raise
        if align_bytes:
            return _Opened(fd, size_bytes, align_bytes, identity)
        os.close(fd)
    raise OSError(errno.EINVAL, "cannot be read with or without O_DIRECT", path)


def _look(fd: int, path: str) -> tuple[int, Identity]:
    status = os.fstat(fd)
    if stat.S_ISREG(status.st_mode):
        return status.st_size, (status.st_dev, status.st_ino)
    if stat.S_ISBLK(status.st_mode):
        raw = fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8))
        return struct.unpack("=Q", raw)[0], (0, status.st_rdev)
    raise OSError(errno.ENOTBLK, "is neither a block device nor a regular file", path)


def _check_whole(fd: int, size_bytes: int, path: str) -> None:
    """An image file cut short or removed is a disk that vanished.

    A write would only lengthen it again, with zeros where data were, or be lost with it.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return
    if not status.st_nlink:
        raise OSError(errno.ENXIO, "the image file was removed", path)
    if status.st_size < size_bytes:
        raise OSError(errno.ENXIO, f"ends at byte {status.st_size}, it was longer", path)


def _probe_align(fd: int) -> int:
    """The smallest unit that O_DIRECT takes here, 0 if it takes none: found by trying."""
    buffer = aligned_buffer(2 * ALIGN_MAX_BYTES)
    for align_bytes in (SECTOR_BYTES, ALIGN_MAX_BYTES):
        try:
            os.preadv(fd, [buffer[align_bytes : 2 * align_bytes]], align_bytes)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            return align_bytes
    return 0


def _read_all(fd: int, buffer: memoryview, offset_bytes: int, path: str) -> None:
    done = 0
    while done < len(buffer):
        count = os.preadv(fd, [buffer[done:]], offset_bytes + done)
        if count == 0:
            raise OSError(errno.EIO, f"ends at byte {offset_bytes + done}, it was longer", path)
        done += count


def _write_all(fd: int, data: memoryview, offset_bytes: int, durable: bool, path: str) -> None:
    flags = os.RWF_DSYNC if durable else 0
    done = 0
    while done < len(data):
        count = os.pwritev(fd, [data[done:]], offset_bytes + done, flags)
        if count == 0:
            raise OSError(errno.EIO, f"takes no more at byte {offset_bytes + done}", path)
        done += count
