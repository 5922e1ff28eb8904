"""The embedded md driver: arrays in user space over image files or block devices.

Same semantics as the kernel's arrays with external metadata (see :mod:`mdcluster.md.driver`), no
root, no module. Every running array is a block device for NBD clients on the unix socket
`<nbd_dir>/<array name>.sock`. Raw access for the same process: :meth:`EmbeddedDriver.backend`.
"""

import asyncio
import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mdcluster.core.model import ArrayId, ArrayState, DeviceId, Member, MemberState, SyncKind
from mdcluster.md.driver import (
    ArrayBusyError,
    ArrayStatus,
    DriverError,
    DriverEvents,
    GateCheck,
    SyncStep,
)
from mdcluster.md.embedded_array import ArraySettings, EmbeddedArray
from mdcluster.md.embedded_members import Attached
from mdcluster.md.embedded_sync import BY_BITMAP, Sync, next_dirty
from mdcluster.md.faults import Faults
from mdcluster.md.member_io import IoSettings, LateWrites, MemberIo
from mdcluster.md.nbd import NbdServer
from mdcluster.md.nbd_protocol import NbdError
from mdcluster.md.raid import GeometryError, geometry_of

DRAIN_S: Final = 1.0
"""How long a stop waits for reads and flushes that were begun."""
TELL_S: Final = 5.0
"""After so long a stop says what it waits for."""
_LOG = logging.getLogger(__name__)
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:+-]{0,63}")


@dataclass(eq=False, slots=True)
class _Running:
    """An assembled array and what hangs on it."""

    array: EmbeddedArray
    socket: Path
    sync: Sync | None = None
    server: NbdServer | None = None

    @property
    def openers(self) -> int:
        return self.server.connections if self.server is not None else 0


class EmbeddedDriver:
    """:class:`mdcluster.md.driver.MdDriver` in user space.

    gate_check is called in I/O threads, right before each write of a sync. threads: how many
    each member has. bitmap_clear_ms: how long after the last write a bit is cleared.
    """

    serial_holds: Final = False

    def __init__(
        self,
        nbd_dir: Path,
        gate_check: GateCheck,
        *,
        write_deadline_ms: int = 10_000,
        faults: Faults | None = None,
        threads: int = 4,
        bitmap_clear_ms: int = 5_000,
    ) -> None:
        """Nothing is opened. ValueError for figures that could never work."""
        if write_deadline_ms < 1 or not 1 <= threads <= 64 or bitmap_clear_ms < 1:
            raise ValueError("deadline, threads (up to 64) and clear time must be positive")
        self._nbd_dir = nbd_dir
        self._gate_check = gate_check
        self._clear_after_s = bitmap_clear_ms / 1000
        self._io = IoSettings(write_deadline_ms, threads, LateWrites(), faults)
        self._listeners: list[DriverEvents] = []
        self._arrays: dict[ArrayId, _Running] = {}

    # --- start and stop ---------------------------------------------------------------------

    @property
    def strangers(self) -> tuple[str, ...]:
        return ()

    @property
    def outlives_daemon(self) -> bool:
        """They live in this process."""
        return False

    async def inherit(self, states: Iterable[ArrayState]) -> tuple[ArrayId, ...]:
        """Nothing runs in a process that has just begun."""
        return ()

    async def assemble(
        self,
        state: ArrayState,
        paths: dict[DeviceId, str],
        slot_offset_sectors: int,
        *,
        read_only: bool,
    ) -> None:
        """Open the members, load the own slot. DriverError leaves nothing open."""
        if state.uuid in self._arrays:
            raise DriverError(f"array {state.name} is already assembled")
        socket = self._socket_of(state)
        read_only = read_only or slot_offset_sectors < 0
        members: list[Attached] = []
        try:
            geometry_of(state)
            for entry in state.writable:
                if entry.device in paths:
                    members.append(await self._open(entry, paths[entry.device], read_only, members))
            array = self._array_of(state, members, slot_offset_sectors, read_only)
            if slot_offset_sectors >= 0:
                await array.load_bits()
        except (DriverError, GeometryError) as error:
            for member in members:
                member.io.close()
            raise DriverError(f"array {state.name} cannot be assembled: {error}") from error
        self._arrays[state.uuid] = _Running(array, socket)

    def _socket_of(self, state: ArrayState) -> Path:
        socket = self._nbd_dir / f"{state.name}.sock"
        if not _NAME.fullmatch(state.name) or len(str(socket).encode()) > 107:
            raise DriverError(f"{socket} cannot be a socket's name: rename array {state.name!r}")
        if any(running.socket == socket for running in self._arrays.values()):
            raise DriverError(f"another array with the name {state.name} is assembled here")
        return socket

    async def _open(
        self, entry: Member, path: str, read_only: bool, beside: Iterable[Attached] = ()
    ) -> Attached:
        io = await MemberIo.open(path, self._io, read_only=read_only)
        used = [*beside, *(m for r in self._arrays.values() for m in r.array.members)]
        for other in used:
            if other.io.identity == io.identity:
                io.close()
                raise DriverError(f"{path} is in use already, as {other.io.path}")
        return Attached(entry, io, in_sync=entry.state is MemberState.IN_SYNC)

    def _array_of(
        self, state: ArrayState, members: list[Attached], slot: int, read_only: bool
    ) -> EmbeddedArray:
        def report(device: DeviceId, why: str) -> None:
            for listener in list(self._listeners):
                listener.member_failed(state.uuid, device, why)

        array = EmbeddedArray(
            state, members, ArraySettings(slot, read_only, self._clear_after_s, report)
        )
        for member in members:
            array.check(member)
        good = {member.role for member in members if member.in_sync}
        for group in array.geometry.groups:
            if group.isdisjoint(good):
                raise DriverError(f"no member in sync has any of the roles {sorted(group)}")
        return array

    async def run(self, array: ArrayId) -> None:
        """Serve it; writes wait for the first `activate`. Running already is fine."""
        running = self._of(array)
        if running.server is not None:
            return
        server = NbdServer(
            running.socket,
            running.array.name,
            running.array,
            align_bytes=running.array.align_bytes,
        )
        try:
            await server.start()
        except NbdError as error:
            raise DriverError(f"array {running.array.name} cannot run: {error}") from error
        running.server = server

    async def set_read_only(self, array: ArrayId, on: bool) -> None:
        """Clients that connect from now on are told."""
        running = self._of(array)
        if on and not running.array.shut:
            _refuse_in_use(running)
        running.array.shut = on
        if on and running.sync is not None:
            await running.sync.stop()
            running.sync = None

    async def stop(self, array: ArrayId, *, force: bool = False) -> bool:
        """Stop serving, flush, clear the bits nobody needs, close the members."""
        running = self._of(array)
        if not force:
            _refuse_in_use(running)
        return await self._shut(array, running)

    async def _shut(self, array: ArrayId, running: _Running) -> bool:
        """Begun again after a cancellation, it goes on where it was."""
        tell = asyncio.get_running_loop().call_later(
            TELL_S,
            _LOG.warning,
            "array %s: not stopped yet: what was sent to a member has not returned",
            running.array.name,
        )
        try:
            await self._quiesce(running)
        finally:
            tell.cancel()
        if self._arrays.get(array) is running:
            del self._arrays[array]
        for member in running.array.members:
            member.io.close()
        return running.array.finished_everywhere

    async def _quiesce(self, running: _Running) -> None:
        """Return when nobody uses it and nothing sent to any member can still land."""
        target = running.array
        target.writes.close()
        await target.writes.finished()
        if running.server is not None:
            await running.server.stop(DRAIN_S)
        if running.sync is not None:
            await running.sync.stop()
        await target.bitmap.close()
        with suppress(OSError):  # reported as a failed member; bits that stay set do no harm
            await target.bitmap.clear_idle(all_idle=True)
        await target.members.writes_returned()

    async def close(self) -> None:
        """Stop all arrays, clients or not: what was not acknowledged never will be.

        Returns when nothing that was sent to any member can still land.
        """
        await asyncio.gather(*(self._shut(*item) for item in list(self._arrays.items())))

    # --- members ----------------------------------------------------------------------------

    async def fail(self, array: ArrayId, device: DeviceId) -> None:
        """DriverError for the last good member. It interrupts a sync."""
        running = self._of(array)
        if running.array.members.fail(device) and running.sync is not None:
            running.sync.interrupt()

    async def unblock(self, array: ArrayId, device: DeviceId) -> None:
        """DriverError for a blocked member that is not faulty; nothing for one not here."""
        self._of(array).array.members.unblock(device)

    async def activate(self, array: ArrayId) -> None:
        """Release all held writes; nothing while a member is (again) blocked."""
        self._of(array).array.members.activate()

    async def remove(self, array: ArrayId, device: DeviceId) -> None:
        """DriverError if it is in use."""
        self._of(array).array.members.remove(device)

    async def add(self, array: ArrayId, member: Member, path: str) -> None:
        """DriverError if it does not fit, or a late write may still land on it."""
        running = self._of(array)
        target = running.array
        if running.sync is not None:
            running.sync.interrupt()
        attached = await self._open(member, path, target.spectated)
        try:
            await target.attach(attached)
        except DriverError:
            attached.io.close()
            raise

    async def take_in(self, array: ArrayId, devices: Iterable[DeviceId]) -> None:
        """From here on the members are read."""
        for device in devices:
            self._of(array).array.members.take_in(device)

    # --- shape --------------------------------------------------------------------------------

    async def set_raid_disks(self, array: ArrayId, raid_disks: int) -> None:
        """As the kernel's raid1_reshape: members close ranks."""
        self._refuse_in_sync(array, "its number of members")
        await self._of(array).array.set_raid_disks(raid_disks)

    async def set_size(self, array: ArrayId, size_sectors: int, *, visible: bool) -> None:
        """NBD clients see a new size when they connect again."""
        if size_sectors != self._of(array).array.geometry.size_sectors:
            self._refuse_in_sync(array, "its size")
        self._of(array).array.set_size(size_sectors, visible=visible)

    def _refuse_in_sync(self, array: ArrayId, what: str) -> None:
        running = self._of(array)
        if running.sync is not None:
            raise DriverError(
                f"array {running.array.name}: {what} cannot change during a {running.sync.kind}"
            )

    # --- holds, reads, bits -------------------------------------------------------------------

    async def hold(self, array: ArrayId, lo_sectors: int, hi_sectors: int) -> None:
        """Array sectors. Look at `status(...).clean` afterwards before trusting it."""
        writes = self._of(array).array.writes
        writes.suspend(lo_sectors, hi_sectors)
        if lo_sectors < hi_sectors:
            await writes.drain()

    async def hold_all(self, array: ArrayId, on: bool) -> None:
        """In force at once; returns when what was in flight has drained."""
        writes = self._of(array).array.writes
        writes.all_held = on
        writes.changed()
        if on:
            await writes.drain()

    async def pin_reads(self, array: ArrayId, on: bool) -> None:
        """Read from the first member in sync only, or from all in turn."""
        self._of(array).array.pinned = on

    async def set_bits(self, array: ArrayId, lo_sectors: int, hi_sectors: int) -> None:
        """Sync positions, mapped outward; the chunks will be copied by the next sync."""
        target = self._writable(array)
        try:
            await target.bitmap.need(*target.geometry.array_range(lo_sectors, hi_sectors))
        except OSError as error:
            raise DriverError(f"array {target.name}: bits cannot be set: {error}") from error

    async def merge_bits(self, array: ArrayId, slot_offsets_sectors: tuple[int, ...]) -> None:
        """Each slot is read from every member in sync."""
        target = self._writable(array)
        for offset in slot_offsets_sectors:
            bits = await target.read_slot(offset)
            try:
                await target.bitmap.merge(bits)
            except OSError as error:
                raise DriverError(f"array {target.name}: bits cannot be merged: {error}") from error

    # --- syncs --------------------------------------------------------------------------------

    async def start_sync(self, array: ArrayId, kind: SyncKind, position_sectors: int) -> None:
        """DriverError if one was started and not stopped, a member recovers first, or the array is
        read-only."""
        running, target = self._of(array), self._writable(array)
        if running.sync is not None:
            raise DriverError(f"array {target.name}: a {running.sync.kind} was already started")
        if kind is not SyncKind.RECOVER and target.members.recovering:
            first = target.members.recovering[0].entry.device
            raise DriverError(f"array {target.name}: no {kind} while {first} has to recover")
        if not 0 <= position_sectors <= target.geometry.size_sectors:
            raise DriverError(f"array {target.name}: no sync position {position_sectors}")
        below = target.geometry.array_range(position_sectors, target.geometry.size_sectors)[0]
        if kind in BY_BITMAP and any(target.bitmap.needed(0, below)):
            raise DriverError(
                f"array {target.name}: the bitmap marks what lies below the position"
                f" {position_sectors} of the {kind}"
            )
        running.sync = Sync(target, kind, position_sectors, self._gate_check)

    async def limit_sync(self, array: ArrayId, hi_sectors: int) -> SyncStep:
        """DriverError if a member fails or the sync is stopped; GateShutError from the gate."""
        sync = self._of(array).sync
        if sync is None:
            raise DriverError(f"array {self._of(array).array.name}: no sync was started")
        return await sync.limit(hi_sectors)

    async def stop_sync(self, array: ArrayId) -> None:
        """No sync: nothing to do."""
        running = self._of(array)
        sync = running.sync
        if sync is not None:
            await sync.stop()
            if running.sync is sync:
                running.sync = None

    def next_dirty(self, array: ArrayId, from_sectors: int) -> int:
        """Sync positions. Without a sync: by the bitmap."""
        running = self._of(array)
        if running.sync is not None:
            return running.sync.next_dirty(from_sectors)
        return next_dirty(running.array, from_sectors)

    # --- looking ------------------------------------------------------------------------------

    def status(self, array: ArrayId) -> ArrayStatus:
        """As it is now."""
        running = self._of(array)
        target, sync = running.array, running.sync
        return ArrayStatus(
            array=array,
            members=target.members.status(),
            write_pending=target.writes.pending,
            thread_idle=target.thread_idle,
            writes_in_flight=target.members.writes_in_flight,
            suspend_lo_sectors=target.writes.suspend_lo_sectors,
            suspend_hi_sectors=target.writes.suspend_hi_sectors,
            sync_kind=sync.kind if sync else None,
            sync_completed_sectors=sync.position_sectors if sync else 0,
            sync_max_sectors=sync.limit_sectors if sync else 0,
            openers=running.openers,
            raid_disks=target.geometry.raid_disks,
            size_sectors=target.geometry.size_sectors,
            shown_sectors=target.shown_sectors,
            shut=target.shut,
        )

    def arrays(self) -> tuple[ArrayId, ...]:
        """The assembled ones."""
        return tuple(self._arrays)

    def backend(self, array: ArrayId) -> EmbeddedArray:
        """The block device itself (:class:`mdcluster.md.nbd.BlockBackend`)."""
        return self._of(array).array

    def listen(self, events: DriverEvents) -> None:
        """From now on."""
        self._listeners.append(events)

    def _of(self, array: ArrayId) -> _Running:
        running = self._arrays.get(array)
        if running is None:
            raise DriverError(f"array {array} is not assembled on this node")
        return running

    def _writable(self, array: ArrayId) -> EmbeddedArray:
        target = self._of(array).array
        if target.read_only:
            raise DriverError(f"array {target.name} is read-only on this node")
        return target


def _refuse_in_use(running: _Running) -> None:
    target = running.array
    if running.openers or target.writes.in_flight:
        raise ArrayBusyError(
            f"array {target.name} is in use: {running.openers} NBD client(s),"
            f" {target.writes.in_flight} write(s) not finished"
        )
    if target.members.failure_pending:
        raise ArrayBusyError(
            f"array {target.name}: the failure of a member is not committed and released yet"
        )
