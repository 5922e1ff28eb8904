"""A bench for md on this host's kernel: disks in files that break on demand, and parallel writers.

Each disk is a loop device over a sparse file; where dmsetup is there, a device-mapper device stands
before it and decides which stretches fail or are slow. Nothing but these files is written.
"""

import mmap
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mdcluster.core.model import ArrayId, ArrayState, DeviceId, Member, MemberState
from mdcluster.md.driver import DriverError
from mdcluster.md.raid import RAID10_NEAR2

SECTOR: Final = 512
BLOCK: Final = 4096
DATA_OFFSET_SECTORS: Final = 2048
SLOT_SECTORS: Final = 1024
BITMAP_CHUNK_SECTORS: Final = 128
TOOL_LIMIT_S: Final = 30.0
PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def have(tool: str) -> bool:
    """Whether the program is installed."""
    return shutil.which(tool, path=PATH) is not None


def tool(*words: str, given: str | None = None) -> str:
    """What the command prints; DriverError with its complaint otherwise."""
    try:
        done = subprocess.run(
            words,
            input=given,
            capture_output=True,
            text=True,
            timeout=TOOL_LIMIT_S,
            check=False,
            env={**os.environ, "PATH": PATH},
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise DriverError(f"{' '.join(words)}: {error}") from None
    if done.returncode:
        raise DriverError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the sectors [lo, hi) of a disk: accesses fail, or are slow."""

    lo_sectors: int
    hi_sectors: int
    reads_fail: bool = False
    writes_fail: bool = False
    reads_ms: int = 0
    writes_ms: int = 0


class TrialDisks:
    """`count` empty disks, until `close`. breakable: whether `set` may be called."""

    def __init__(self, folder: Path, count: int, sectors: int, *, breakable: bool = True) -> None:
        self.count = count
        self.sectors = sectors
        self.breakable = breakable
        self._folder = folder
        self._prefix = f"mdcluster-trial-{os.getpid()}"
        self._loops: list[str] = []
        self._mapped: dict[str, str] = {}
        try:
            self._make(count)
        except DriverError:
            self.close()
            raise

    def _make(self, count: int) -> None:
        if have("modprobe"):
            tool("modprobe", "-a", "loop", *(["dm_mod", "dm_delay"] if self.breakable else []))
        if self.breakable:
            self._map(f"{self._prefix}-bad", f"0 {self.sectors} error")
        for number in range(count):
            with self.image(number).open("wb") as file:
                file.truncate(self.sectors * SECTOR)
            self._loops.append(tool("losetup", "--find", "--show", str(self.image(number))))
            if self.breakable:
                self._map(self._name(number), self._table(number, ()))

    def _map(self, name: str, table: str) -> None:
        tool("dmsetup", "create", name, given=table)
        self._mapped[name] = table
        tool("dmsetup", "mknodes", name)

    def _name(self, number: int) -> str:
        return f"{self._prefix}-{number}"

    def path(self, number: int) -> str:
        return f"/dev/mapper/{self._name(number)}" if self.breakable else self._loops[number]

    def image(self, number: int) -> Path:
        return self._folder / f"trial{number}"

    def set(self, number: int, *faults: Fault) -> None:
        """These faults, in order of their places, and no others; while I/O goes on."""
        self.set_table(number, self._table(number, faults))

    def set_table(self, number: int, table: str) -> None:
        """Any table of device-mapper."""
        name = self._name(number)
        if self._mapped[name] == table:
            return
        self._mapped[name] = table
        tool("dmsetup", "suspend", "--noflush", "--nolockfs", name)
        tool("dmsetup", "load", name, given=table)
        tool("dmsetup", "resume", name)

    def _table(self, number: int, faults: Iterable[Fault]) -> str:
        """dm-delay takes reads and writes to different devices, after different times."""
        loop, bad = self._loops[number], f"/dev/mapper/{self._prefix}-bad"
        lines, at = [], 0
        for fault in faults:
            lo, hi = fault.lo_sectors, fault.hi_sectors
            if at < lo:
                lines.append(f"{at} {lo - at} linear {loop} {at}")
            reads = bad if fault.reads_fail else loop
            writes = bad if fault.writes_fail else loop
            lines.append(
                f"{lo} {hi - lo} delay {reads} {lo} {fault.reads_ms} {writes} {lo}"
                f" {fault.writes_ms}"
            )
            at = hi
        if at < self.sectors:
            lines.append(f"{at} {self.sectors - at} linear {loop} {at}")
        return "\n".join(lines)

    def loop(self, number: int) -> str:
        """The loop device below."""
        return self._loops[number]

    def get(self, number: int, lo_sectors: int, length_bytes: int) -> bytes:
        """What is on it, past everything above."""
        with self.image(number).open("rb") as file:
            file.seek(lo_sectors * SECTOR)
            return file.read(length_bytes)

    def put(self, number: int, lo_sectors: int, data: bytes) -> None:
        """As another host would write it."""
        with self.image(number).open("r+b") as file:
            file.seek(lo_sectors * SECTOR)
            file.write(data)

    def close(self) -> None:
        """All of it gone, as far as the kernel lets go of it."""
        for name in reversed(list(self._mapped)):
            with suppress(DriverError):
                tool("dmsetup", "remove", "--retry", name)
        for loop in self._loops:
            with suppress(DriverError):
                tool("losetup", "--detach", loop)
        self._mapped, self._loops = {}, []
        for image in self._folder.glob("trial*"):
            image.unlink()


def trial_state(
    size_sectors: int,
    *,
    level: int = 1,
    disks: int = 2,
    name: str = "selftest",
    bitmap_chunk_sectors: int = BITMAP_CHUNK_SECTORS,
) -> ArrayState:
    """An array of equal, empty members; size_sectors: of each one's data."""
    members = (
        Member(
            DeviceId(f"00000000-0000-0000-0000-{number:012d}"),
            number,
            number,
            MemberState.IN_SYNC,
            DATA_OFFSET_SECTORS,
            size_sectors,
        )
        for number in range(disks)
    )
    return ArrayState(
        uuid=ArrayId("5e1f7e57-0000-4000-8000-000000000000"),
        name=name,
        level=level,
        layout=RAID10_NEAR2 if level == 10 else 0,
        chunk_sectors=128 if level == 10 else 0,
        raid_disks=disks,
        size_sectors=size_sectors,
        bitmap_chunk_sectors=bitmap_chunk_sectors,
        members=tuple(members),
        resync_sectors=None,
        sync=None,
        last_serial=0,
        slots=(),
        running=(),
        active=True,
        created_s=0,
        updated_s=0,
        next_number=disks,
    )


def write(path: str, offset_bytes: int, data: bytes) -> None:
    """Past the page cache, one request. OSError if it fails."""
    with mmap.mmap(-1, len(data)) as buffer:
        buffer[:] = data
        fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            os.pwrite(fd, buffer, offset_bytes)
        finally:
            os.close(fd)


def read(path: str, offset_bytes: int, length_bytes: int) -> bytes:
    """Past the page cache. OSError if it fails."""
    with mmap.mmap(-1, length_bytes) as buffer:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            done = os.preadv(fd, [buffer], offset_bytes)
        finally:
            os.close(fd)
        return bytes(buffer[:done])


class Writes:
    """One write at each offset, all at once, each in a thread that may have to wait for good."""

    def __init__(self, path: str, offsets_bytes: Iterable[int], data: bytes) -> None:
        self.acknowledged: list[int] = []
        self.failed: list[int] = []
        offsets = list(offsets_bytes)
        self._count = len(offsets)
        gate = threading.Barrier(len(offsets) + 1)
        self.threads = [
            threading.Thread(target=self._one, args=(gate, path, offset, data), daemon=True)
            for offset in offsets
        ]
        for thread in self.threads:
            thread.start()
        gate.wait(TOOL_LIMIT_S)

    def _one(self, gate: threading.Barrier, path: str, offset: int, data: bytes) -> None:
        with mmap.mmap(-1, len(data)) as buffer:
            buffer[:] = data
            fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
            try:
                gate.wait(TOOL_LIMIT_S)
                os.pwrite(fd, buffer, offset)
                self.acknowledged.append(offset)
            except OSError:
                self.failed.append(offset)
            finally:
                os.close(fd)

    @property
    def waiting(self) -> int:
        return self._count - len(self.acknowledged) - len(self.failed)

    def join(self, limit_s: float) -> bool:
        """Whether all ended in time."""
        end_s = time.monotonic() + limit_s
        for thread in self.threads:
            thread.join(max(0.0, end_s - time.monotonic()))
        return not self.waiting
