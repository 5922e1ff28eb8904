"""The bench for the embedded driver: sparse image files, injected faults, a gate to shut."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from mdcluster.core.model import ArrayId, ArrayState, DeviceId, Doubt
from mdcluster.gate import GateShutError
from mdcluster.md.embedded import EmbeddedDriver
from mdcluster.md.faults import Access, Direction, Faults, Freeze, Purpose, Rule
from tests.unit.md.port_suite import (
    ARRAY,
    DATA_OFFSET_SECTORS,
    PATIENCE_S,
    SECTOR,
    SIZE_SECTORS,
    SLOT_SECTORS,
    device,
)

FILES = 9
SLOT_BYTES = 4096


class EmbeddedLab:
    """A driver over image files in `folder`; also the listener of its events."""

    def __init__(self, folder: Path, *, deadline_ms: int = 10_000, clear_ms: int = 60_000) -> None:
        self.folder = folder
        self.faults = Faults()
        self.driver = EmbeddedDriver(
            folder,
            self._check_gate,
            write_deadline_ms=deadline_ms,
            faults=self.faults,
            bitmap_clear_ms=clear_ms,
        )
        self.driver.listen(self)
        self.gate_open = True
        self._rules: dict[DeviceId, list[Rule]] = {}
        self._failures: list[tuple[DeviceId, str]] = []
        self._changed = asyncio.Event()
        self._freezes: list[Freeze] = []
        for number in range(FILES):
            with open(self.path(device(number)), "wb") as file:
                file.truncate((DATA_OFFSET_SECTORS + SIZE_SECTORS) * SECTOR)

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
        await self.driver.backend(ARRAY).write(offset_bytes, data)

    async def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        return bytes(await self.driver.backend(ARRAY).read(offset_bytes, length_bytes))

    def path(self, device: DeviceId) -> str:
        return str(self.folder / f"{device}.img")

    def _get(self, device: DeviceId, offset: int, length: int) -> bytes:
        with open(self.path(device), "rb") as file:
            file.seek(offset)
            return file.read(length)

    def _put(self, device: DeviceId, offset: int, data: bytes) -> None:
        with open(self.path(device), "r+b") as file:
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

    def freeze(self) -> Freeze:
        """An action that stops accesses; thawed at the end of the test at the latest."""
        freeze = Freeze()
        self._freezes.append(freeze)
        return freeze

    async def close(self) -> None:
        self.faults.clear()
        for freeze in self._freezes:
            freeze.thaw()
        await self.driver.close()

    def before(
        self,
        device: DeviceId,
        action: Callable[[Access], None],
        direction: Direction | None = None,
        purpose: Purpose | None = None,
        times: int | None = None,
    ) -> Rule:
        return self.faults.before(
            self.path(device), action, direction=direction, purpose=purpose, times=times
        )

    def break_writes(self, device: DeviceId) -> None:
        rule = self.faults.fail(self.path(device), Direction.WRITE, purpose=Purpose.DATA)
        self._rules.setdefault(device, []).append(rule)

    def break_reads(self, device: DeviceId) -> None:
        rule = self.faults.fail(self.path(device), Direction.READ, purpose=Purpose.DATA)
        self._rules.setdefault(device, []).append(rule)

    def heal(self, device: DeviceId) -> None:
        for rule in self._rules.pop(device, []):
            self.faults.lift(rule)

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

    holds_wait_for_failures = False

    def failures(self) -> list[DeviceId]:
        return [failed for failed, _ in self._failures]

    async def release(self, device: DeviceId) -> None:
        """What a commit and its release do."""
        await self.driver.fail(ARRAY, device)
        await self.driver.unblock(ARRAY, device)
        await self.driver.activate(ARRAY)
