"""The kernel's md as a driver of the port: arrays that other programs use as /dev/md/NAME.

What is done to an array stands in :mod:`mdcluster.md.kernel_array` (its life), `kernel_members`,
`kernel_state` (holds, reads), `kernel_sync` (copying), `kernel_bits` (the bitmap) and
`kernel_watch` (failures, held writes). Here each call gets its thread: those of one array run one
after the other, but for holds, which drain writes that may need the next call, and for copying. A
thread that the kernel does not give back is lost, and said so; nothing waits for it longer than
its deadline.
"""

import asyncio
import logging
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from mdcluster.core.model import ArrayId, ArrayState, DeviceId, Doubt, Member, SyncKind
from mdcluster.md.driver import (
    ArrayBusyError,
    ArrayStatus,
    DriverError,
    DriverEvents,
    GateCheck,
    HungError,
    SyncStep,
)
from mdcluster.md.kernel_array import KIND, KernelArray
from mdcluster.md.kernel_notes import read_notes
from mdcluster.md.kernel_state import DEV, kernel_version
from mdcluster.md.kernel_sync import KernelSync, next_dirty
from mdcluster.md.kernel_watch import Report, Watch
from mdcluster.md.raid import GeometryError
from mdcluster.md.sysfs import SYS, ArrayDir, external_arrays
from mdcluster.workers import AccessLateError, Workers

log = logging.getLogger(__name__)
T = TypeVar("T")

SYNC_DEADLINE_MS: Final = 24 * 3_600_000
"""A stretch takes as long as the disks take; it ends when the sync is stopped."""
STOP_AGAIN_S: Final = 0.5
STOP_AGAIN_MAX_S: Final = 16.0
MODULES: Final = ("md_mod", "raid1", "raid10")


@dataclass(eq=False, slots=True)
class _Running:
    array: KernelArray
    watch: Watch
    sync: KernelSync | None = None


class KernelDriver:
    """:class:`mdcluster.md.driver.MdDriver` over the kernel's md. For one event loop, as root.

    gate_check: called right before md is allowed to copy further. write_deadline_ms: how long
    a call may take (and a failed member's writes are waited for); hold_deadline_ms: a hold.
    """

    def __init__(
        self,
        gate_check: GateCheck,
        *,
        write_deadline_ms: int = 10_000,
        hold_deadline_ms: int = 5_000,
        notes_dir: Path = Path("/run/mdcluster"),
        root: Path = SYS,
        dev: Path = DEV,
    ) -> None:
        self._gate_check = gate_check
        self._deadline_ms = write_deadline_ms
        self._hold_deadline_ms = hold_deadline_ms
        self._notes_dir, self._root, self._dev = notes_dir, root, dev
        self._workers = Workers()
        self._arrays: dict[ArrayId, _Running] = {}
        self._strangers: tuple[ArrayDir, ...] = ()
        self._listeners: list[DriverEvents] = []
        self._unwatched: list[Watch] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def serial_holds(self) -> bool:
        """Before 6.7 moving a hold drains under md's lock: an error just then hangs the host's md
        (drivers/md/md.c, suspend_lo_store)."""
        return kernel_version() < (6, 7)

    # --- taking over ---------------------------------------------------------------------------

    @property
    def outlives_daemon(self) -> bool:
        return True

    @property
    def strangers(self) -> tuple[str, ...]:
        return tuple(place.name for place in self._strangers if place.exists())

    async def inherit(self, states: Iterable[ArrayState]) -> tuple[ArrayId, ...]:
        """What runs here and is none of these arrays is told of, and left as it is.

        One that nothing is noted of may be any: taken for none, it would seem to be stopped.
        """
        known = {state.uuid: state for state in states}
        for place in external_arrays(KIND, self._root):
            if place.state in ("clear", "inactive"):
                continue
            notes = read_notes(self._notes_dir / f"{place.name}.json")
            if notes is None:
                raise DriverError(
                    f"the kernel runs {place.name} as an array of mdcluster, but which one was not"
                    f" noted in {self._notes_dir}: stop it (mdadm --stop /dev/{place.name})"
                )
            state = known.get(notes.array)
            if state is None:
                log.error(
                    "the kernel runs %s as an array of mdcluster, of which this node knows nothing:"
                    " stop it (mdadm --stop /dev/%s), or give the node its state directory back",
                    place.name,
                    place.name,
                )
                self._strangers += (place,)
                continue
            array = self._array(state, notes.read_only)
            await self._run(array, partial(array.inherit, notes), 2 * self._deadline_ms)
            running = _Running(array, Watch(array, self._reporter(state.uuid)))
            self._arrays[state.uuid] = running
            self._unwatched.append(running.watch)
        return tuple(self._arrays)

    # --- start and stop ------------------------------------------------------------------------

    async def assemble(
        self,
        state: ArrayState,
        paths: dict[DeviceId, str],
        slot_offset_sectors: int,
        *,
        read_only: bool,
    ) -> None:
        if state.uuid in self._arrays:
            raise DriverError(f"array {state.name} is already assembled")
        read_only = read_only or slot_offset_sectors < 0
        try:
            array = self._array(state, read_only)
        except GeometryError as error:
            raise DriverError(f"array {state.name} cannot be assembled: {error}") from error
        await self._run(array, lambda: _assemble(array, paths, slot_offset_sectors, self._root))
        self._arrays[state.uuid] = _Running(array, Watch(array, self._reporter(state.uuid)))

    def _array(self, state: ArrayState, read_only: bool) -> KernelArray:
        return KernelArray(
            state,
            read_only=read_only,
            notes_dir=self._notes_dir,
            root=self._root,
            dev=self._dev,
        )

    def _reporter(self, array: ArrayId) -> Report:
        loop = asyncio.get_running_loop()

        def tell(device: DeviceId, why: str, doubt: Doubt) -> None:
            for listener in list(self._listeners):
                listener.member_failed(array, device, why, doubt)

        return lambda device, why, doubt: _in_loop(loop, partial(tell, device, why, doubt))

    async def run(self, array: ArrayId) -> None:
        running = self._of(array)
        await self._run(running.array, running.array.run)
        running.watch.start()

    async def set_read_only(self, array: ArrayId, on: bool) -> None:
        running = self._of(array)
        target = running.array
        if target.read_only or target.shut == on:
            return
        if on and running.sync is not None:
            await self._run(target, running.sync.interrupt)
        await self._run(target, lambda: target.set_read_only(on))

    async def stop(self, array: ArrayId, *, force: bool = False) -> bool:
        """With force: users of a kernel's array cannot be cut off; their writes are held for good,
        and it is stopped as soon as the last one lets go of it."""
        running = self._of(array)
        target = running.array
        clean = not target.held_by_failure()
        if not force and not clean:
            raise ArrayBusyError(
                f"array {target.name}: the failure of a member is not committed and released yet"
            )
        if running.sync is not None:
            await self.stop_sync(array)
        if force:
            await self._hold_for_good(running)
        again_s = STOP_AGAIN_S
        while True:
            try:
                await self._run(target, target.stop)
                break
            except ArrayBusyError as error:
                if not force:
                    raise
                if again_s == STOP_AGAIN_S:
                    log.warning("%s; its writes are held, it is stopped once it is closed", error)
                await asyncio.sleep(again_s)  # the kernel logs each attempt
                again_s = min(2 * again_s, STOP_AGAIN_MAX_S)
        running.watch.stop()
        del self._arrays[array]
        return clean

    async def _hold_for_good(self, running: _Running) -> None:
        try:
            await self.hold_all(running.array.state.uuid, True)
        except DriverError as error:
            log.warning("array %s: %s", running.array.name, error)  # write-pending holds them, too

    async def close(self) -> None:
        """Let go of all arrays: they run on in the kernel, as they are."""
        for running in self._arrays.values():
            running.watch.stop()
            running.array.let_go()
        self._arrays.clear()

    # --- members -------------------------------------------------------------------------------

    async def fail(self, array: ArrayId, device: DeviceId) -> None:
        target = self._of(array).array
        drain_s = self._deadline_ms / 1000
        await self._run(target, lambda: target.fail(device, drain_s), 2 * self._deadline_ms)

    async def unblock(self, array: ArrayId, device: DeviceId) -> None:
        target = self._of(array).array
        await self._run(target, lambda: target.unblock(device))

    async def activate(self, array: ArrayId) -> None:
        """What could not be held while a failure was pending is held before writes go on."""
        target = self._of(array).array
        self._hold_again(target)
        await self._run(target, target.activate)

    async def remove(self, array: ArrayId, device: DeviceId) -> None:
        target = self._of(array).array
        await self._run(target, lambda: target.remove(device))

    async def add(self, array: ArrayId, member: Member, path: str) -> None:
        running = self._of(array)
        target = running.array
        if running.sync is not None:
            await self._run(target, running.sync.interrupt)
        await self._run(target, lambda: target.add(member, path))

    async def take_in(self, array: ArrayId, devices: Iterable[DeviceId]) -> None:
        target, devices = self._of(array).array, tuple(devices)
        await self._run(target, lambda: target.take_in(devices))

    async def set_raid_disks(self, array: ArrayId, raid_disks: int) -> None:
        target = self._of(array).array
        await self._run(target, lambda: target.set_raid_disks(raid_disks))

    async def set_size(self, array: ArrayId, size_sectors: int, *, visible: bool) -> None:
        target = self._of(array).array
        await self._run(target, lambda: target.set_size(size_sectors, visible=visible))

    # --- holds, reads, bits ----------------------------------------------------------------------

    async def hold(self, array: ArrayId, lo_sectors: int, hi_sectors: int) -> None:
        target = self._of(array).array
        empty = lo_sectors >= hi_sectors
        target.held_sectors = (0, 0) if empty else (lo_sectors, hi_sectors)
        await self._suspend(target)

    async def hold_all(self, array: ArrayId, on: bool) -> None:
        target = self._of(array).array
        target.all_held = on
        await self._suspend(target)

    async def _suspend(self, target: KernelArray) -> None:
        """An array that does not run yet takes it when it starts."""
        if target.read_only or not target.dir.exists() or target.dir.state == "inactive":
            return
        try:
            await self._workers.run(
                f"holds of {target.dir.name}",
                self._hold_deadline_ms,
                partial(target.suspend, self._hold_deadline_ms / 1000),
            )
        except AccessLateError as error:
            if why := target.held_by_failure() or target.unanswered:
                raise DriverError(f"array {target.name}: failure pending: {why}") from None
            raise HungError(
                f"array {target.name}: md does not come back from moving a hold: {error}"
            ) from None

    def _hold_again(self, target: KernelArray) -> None:
        """In a task of its own: Linux 6.12 lets it return only when the array is active again."""
        if target.read_only or target.holds_as_asked:
            return

        async def again() -> None:
            try:
                await self._suspend(target)
            except DriverError as error:
                log.error("array %s: hold all writes: %s", target.name, error)

        task = asyncio.create_task(again())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def pin_reads(self, array: ArrayId, on: bool) -> None:
        target = self._of(array).array
        target.pinned = on
        if target.dir.state != "inactive":
            await self._run(target, target.write_pin)

    async def set_bits(self, array: ArrayId, lo_sectors: int, hi_sectors: int) -> None:
        target = self._writable(array)
        lo, hi = target.geometry.array_range(lo_sectors, hi_sectors)
        slot = target.slot
        assert slot is not None

        def mark() -> None:
            slot.set(lo, hi)
            if target.was_degraded:
                slot.merge_own()

        await self._run(target, mark)

    async def merge_bits(self, array: ArrayId, slot_offsets_sectors: tuple[int, ...]) -> None:
        """What a member has missed stands in the own slot, too, for as long as md likes."""
        target = self._writable(array)
        slot = target.slot
        assert slot is not None

        def merge() -> None:
            slot.merge(slot_offsets_sectors)
            if target.was_degraded:
                slot.merge_own()

        await self._run(target, merge)

    # --- syncs -----------------------------------------------------------------------------------

    async def start_sync(self, array: ArrayId, kind: SyncKind, position_sectors: int) -> None:
        running, target = self._of(array), self._writable(array)
        if running.sync is not None:
            raise DriverError(f"array {target.name}: a {running.sync.kind} was already started")
        if not 0 <= position_sectors <= target.geometry.size_sectors:
            raise DriverError(f"array {target.name}: no sync position {position_sectors}")
        sync = KernelSync(target, kind, position_sectors, self._gate_check)
        await self._run(target, sync.start)
        running.sync = sync

    async def limit_sync(self, array: ArrayId, hi_sectors: int) -> SyncStep:
        sync = self._of(array).sync
        if sync is None:
            raise DriverError(f"array {self._of(array).array.name}: no sync was started")
        key = f"copying of {self._of(array).array.dir.name}"
        return await self._workers.run(key, SYNC_DEADLINE_MS, lambda: sync.limit(hi_sectors))

    async def stop_sync(self, array: ArrayId) -> None:
        running = self._of(array)
        sync = running.sync
        if sync is not None:
            await self._run(running.array, sync.stop)
            if running.sync is sync:
                running.sync = None

    def next_dirty(self, array: ArrayId, from_sectors: int) -> int:
        running = self._of(array)
        if running.sync is not None:
            return running.sync.next_dirty(from_sectors)
        return next_dirty(running.array, from_sectors)

    # --- looking ---------------------------------------------------------------------------------

    def status(self, array: ArrayId) -> ArrayStatus:
        running = self._of(array)
        target, sync = running.array, running.sync
        lo, hi = target.suspended_sectors
        return ArrayStatus(
            array=array,
            members=target.member_statuses(),
            write_pending=target.write_pending,
            thread_idle=target.thread_idle,
            writes_in_flight=target.writes_in_flight,
            suspend_lo_sectors=lo,
            suspend_hi_sectors=hi,
            sync_kind=sync.kind if sync else None,
            sync_completed_sectors=sync.position_sectors if sync else 0,
            sync_max_sectors=sync.limit_sectors if sync else 0,
            openers=target.holders,
            raid_disks=target.state.raid_disks,
            size_sectors=target.state.size_sectors,
            shown_sectors=target.shown_sectors,
            shut=target.shut,
        )

    def arrays(self) -> tuple[ArrayId, ...]:
        return tuple(self._arrays)

    def listen(self, events: DriverEvents) -> None:
        """Each failure is told once: what was taken over is watched from the first listener on."""
        self._listeners.append(events)
        unwatched, self._unwatched = self._unwatched, []
        for watch in unwatched:
            watch.start()

    def device_path(self, array: ArrayId) -> str:
        """Where programs find it on this node."""
        return self._of(array).array.device_path

    # --- the rest --------------------------------------------------------------------------------

    def _of(self, array: ArrayId) -> _Running:
        running = self._arrays.get(array)
        if running is None:
            raise DriverError(f"array {array} is not assembled on this node")
        return running

    def _writable(self, array: ArrayId) -> KernelArray:
        target = self._of(array).array
        if target.read_only or target.shut:
            raise DriverError(f"array {target.name} is read-only on this node")
        return target

    async def _run(
        self, target: KernelArray, call: Callable[[], T], deadline_ms: int | None = None
    ) -> T:
        return await self._workers.run(target.dir.name, deadline_ms or self._deadline_ms, call)


def _assemble(array: KernelArray, paths: dict[DeviceId, str], slot: int, root: Path) -> None:
    if not (root / "module/md_mod/parameters/new_array").exists():
        _load_modules()
    array.assemble(paths, slot)


def _load_modules() -> None:
    """DriverError if this kernel has no md."""
    for module in MODULES:
        try:
            subprocess.run(["modprobe", module], check=True, capture_output=True, timeout=30)
        except (OSError, subprocess.SubprocessError) as error:
            raise DriverError(
                f"the kernel module {module} cannot be loaded: {error}; the driver needs md with"
                " raid1 and raid10 (CONFIG_BLK_DEV_MD, CONFIG_MD_RAID1, CONFIG_MD_RAID10)"
            ) from None


def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
