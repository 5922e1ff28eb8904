"""The bench for the kernel driver: small disks in memory behind device-mapper, which can break.

Each member is a loop device over a file in a tmpfs, behind a dm device whose table decides what
fails.
"""

import asyncio
import mmap
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from mdcluster.core.model import ArrayId, ArrayState, DeviceId, Doubt
from mdcluster.gate import GateShutError
from mdcluster.md.driver import DriverError
from mdcluster.md.kernel import KernelDriver
from tests.unit.md.port_suite import (
    ARRAY,
    DATA_OFFSET_SECTORS,
    PATIENCE_S,
    SECTOR,
    SIZE_SECTORS,
    SLOT_SECTORS,
)

T = TypeVar("T")
DISKS = 9
BAD = "/dev/mapper/bad"
SLOT_BYTES = 4096
DISK_SECTORS = DATA_OFFSET_SECTORS + SIZE_SECTORS


def sh(*words: str, given: str | None = None) -> str:
    """What the command prints; CalledProcessError with its errors otherwise."""
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout.strip()


class Disks:
    """Nine of them, empty, until `close`."""

    def __init__(self, folder: Path, count: int = DISKS, sectors: int = DISK_SECTORS) -> None:
        self._folder, self._sectors = folder, sectors
        self.notes = folder / "notes"
        self._broken: set[int] = set()
        self._loops: dict[int, str] = {}
        sh("modprobe", "-a", "loop", "dm-delay")
        sh("dmsetup", "create", "bad", given=f"0 {sectors} error")
        for number in range(count):
            image = folder / f"disk{number}"
            with image.open("wb") as file:
                file.truncate(sectors * SECTOR)
            self._loops[number] = sh("losetup", "--find", "--show", str(image))
            sh("dmsetup", "create", self.name(number), given=self._table(number, "linear"))
        sh("dmsetup", "mknodes")

    def name(self, number: int) -> str:
        return f"d{number}"

    def path(self, number: int) -> str:
        return f"/dev/mapper/{self.name(number)}"

    def image(self, number: int) -> Path:
        return self._folder / f"disk{number}"

    def _table(self, number: int, kind: str) -> str:
        """kind: linear, bad_writes, bad_reads (of the data area alone).

        dm-delay, with no delay, takes reads and writes to different devices.
        """
        data, loop = DATA_OFFSET_SECTORS, self._loops[number]
        rest = self._sectors - data
        lines = [f"0 {data} linear {loop} 0"]
        if kind == "bad_writes":
            lines.append(f"{data} {rest} delay {loop} {data} 0 {BAD} 0 0")
        elif kind == "bad_reads":
            lines.append(f"{data} {rest} delay {BAD} 0 0 {loop} {data} 0")
        else:
            lines.append(f"{data} {rest} linear {loop} {data}")
        return "\n".join(lines)

    def set(self, number: int, kind: str) -> None:
        """Another table, while I/O goes on."""
        name = self.name(number)
        self._broken.add(number)
        sh("dmsetup", "suspend", "--noflush", "--nolockfs", name)
        sh("dmsetup", "load", name, given=self._table(number, kind))
        sh("dmsetup", "resume", name)

    def heal(self) -> None:
        """Every disk works again."""
        for number in sorted(self._broken):
            self.set(number, "linear")
        self._broken.clear()

    def clear(self) -> None:
        """Every disk is empty again. (Nobody has it open, so no cache stands before it.)"""
        for number in self._loops:
            with self.image(number).open("r+b") as file:
                file.write(bytes(self._sectors * SECTOR))

    def close(self) -> None:
        self.heal()
        for number, loop in self._loops.items():
            sh("dmsetup", "remove", "--retry", self.name(number))
            sh("losetup", "--detach", loop)
        sh("dmsetup", "remove", "bad")


class KernelLab:
    """A kernel driver over `disks`; also the listener of its events."""

    holds_wait_for_failures = True

    def __init__(self, disks: Disks) -> None:
        self.disks = disks
        self.gate_open = True
        self.driver = self.new_driver()
        self.driver.listen(self)
        self._failures: list[tuple[DeviceId, str]] = []
        self._changed = asyncio.Event()
        self._users = ThreadPoolExecutor(64)  # writes that are held take a thread each

    def new_driver(self) -> KernelDriver:
        """Of another daemon, perhaps: nothing is inherited yet."""
        return KernelDriver(
            self._check_gate,
            write_deadline_ms=60_000,
            hold_deadline_ms=60_000,
            notes_dir=self.disks.notes,
        )

    def _check_gate(self) -> None:
        if not self.gate_open:
            raise GateShutError("the gate is shut")

    def member_failed(
        self, array: ArrayId, device: DeviceId, why: str, doubt: Doubt = Doubt.NONE
    ) -> None:
        assert array == ARRAY
        self._failures.append((device, why))
        self._changed.set()

    async def start(self, state: ArrayState, slot: int = 0, *, read_only: bool = False) -> None:
        await self.assemble(state, slot, read_only=read_only)
        await self.driver.run(ARRAY)
        await self.driver.activate(ARRAY)

    async def assemble(self, state: ArrayState, slot: int = 0, *, read_only: bool = False) -> None:
        paths = {m.device: self.path(m.device) for m in state.members}
        offset = -1 if slot < 0 else SLOT_SECTORS[slot]
        await self.driver.assemble(state, paths, offset, read_only=read_only)

    async def write(self, offset_bytes: int, data: bytes) -> None:
        """O_DIRECT, in a thread that may have to wait."""
        await self._in_thread(self._write, offset_bytes, data)

    async def _in_thread(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._users, call, *args)

    def _write(self, offset_bytes: int, data: bytes) -> None:
        with mmap.mmap(-1, len(data)) as buffer:
            buffer[:] = data
            fd = os.open(self.driver.device_path(ARRAY), os.O_WRONLY | os.O_DIRECT)
            try:
                done = os.pwrite(fd, buffer, offset_bytes)
            finally:
                os.close(fd)
        assert done == len(data)

    async def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        return await self._in_thread(self._read, offset_bytes, length_bytes)

    def _read(self, offset_bytes: int, length_bytes: int) -> bytes:
        with mmap.mmap(-1, length_bytes) as buffer:
            fd = os.open(self.driver.device_path(ARRAY), os.O_RDONLY | os.O_DIRECT)
            try:
                done = os.preadv(fd, [buffer], offset_bytes)
            finally:
                os.close(fd)
            return bytes(buffer[:done])

    def path(self, device: DeviceId) -> str:
        return self.disks.path(_number(device))

    def _get(self, device: DeviceId, offset: int, length: int) -> bytes:
        with self.disks.image(_number(device)).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def _put(self, device: DeviceId, offset: int, data: bytes) -> None:
        with self.disks.image(_number(device)).open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def data_of(self, device: DeviceId) -> bytes:
        return self._get(device, DATA_OFFSET_SECTORS * SECTOR, SIZE_SECTORS * SECTOR)

    def put(self, device: DeviceId, lo_sectors: int, data: bytes) -> None:
        self._put(device, (DATA_OFFSET_SECTORS + lo_sectors) * SECTOR, data)

    def slot_of(self, device: DeviceId, slot: int = 0) -> bytes:
        return self._get(device, SLOT_SECTORS[slot] * SECTOR, SLOT_BYTES)

    def put_slot(self, device: DeviceId, slot: int, bits: bytes) -> None:
        self._put(device, SLOT_SECTORS[slot] * SECTOR, bits)

    def break_writes(self, device: DeviceId) -> None:
        self.disks.set(_number(device), "bad_writes")

    def break_reads(self, device: DeviceId) -> None:
        self.disks.set(_number(device), "bad_reads")

    def heal(self, device: DeviceId) -> None:
        self.disks.set(_number(device), "linear")

    def shut_gate(self) -> None:
        self.gate_open = False

    async def failure_of(self, device: DeviceId) -> str:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for failed, why in self._failures:
                    if failed == device:
                        return why
                self._changed.clear()
                await self._changed.wait()

    def failures(self) -> list[DeviceId]:
        return [failed for failed, _ in self._failures]

    async def close(self) -> None:
        """Whatever the test left behind: release what is held, stop, empty the disks."""
        self.disks.heal()
        if ARRAY in self.driver.arrays():
            await self._release_all()
            await asyncio.wait_for(self.driver.stop(ARRAY, force=True), PATIENCE_S)
        await self.driver.close()
        self._users.shutdown()
        self.disks.clear()

    async def _release_all(self) -> None:
        await self.driver.stop_sync(ARRAY)
        for member in self.driver.status(ARRAY).members:
            if member.blocked or member.unacknowledged_errors:
                with suppress(DriverError):  # the last good one
                    await self.driver.fail(ARRAY, member.device)
                await self.driver.unblock(ARRAY, member.device)
        await self.driver.hold(ARRAY, 0, 0)
        await self.driver.hold_all(ARRAY, False)
        await self.driver.activate(ARRAY)


def _number(device: DeviceId) -> int:
    return int(device.rpartition("-")[2])
