"""The simulator's md as a bench for the scripts of tests/unit/md/trace_script.py.

One host without a core: what a core would decide comes from the script, as the same effects, and
the time of the world passes until nothing is under way. The model is md below a driver, so what
every driver refuses (see mdcluster/md/driver.py) is refused here. A block of the world is one of
the script, and holds the letter that was written as its number.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Final, cast

from mdcluster.core import effects, events
from mdcluster.core.model import (
    ArrayId,
    ArrayState,
    DeviceId,
    Entry,
    Life,
    Member,
    MemberState,
    NodeId,
    Slot,
    Stamp,
    SyncKind,
)
from mdcluster.gate import GateShutError
from mdcluster.md.driver import (
    ArrayBusyError,
    ArrayStatus,
    DriverError,
    MdDriver,
    MemberStatus,
    SyncStep,
)
from tests.sim.checkers import Checkers
from tests.sim.copying import GATE_SHUT
from tests.sim.disks import BLOCK_SECTORS, SLOTS, Disk, first_dirty_sectors
from tests.sim.hosts import Core, Host
from tests.sim.mdmodel import Leg, MdArray, Write
from tests.sim.network import Weather
from tests.sim.workload import Workload
from tests.sim.world import Quirks, World
from tests.unit.md.port_suite import ARRAY, SECTOR, SLOT_SECTORS, device
from tests.unit.md.trace_player import BLOCKS, CHUNK_BLOCKS

DISKS: Final = 7
BLOCK_BYTES: Final = BLOCK_SECTORS * SECTOR
OPEN_MS: Final = 1 << 40
LONG_US: Final = 60_000_000
LIFE: Final = Life(NodeId("n1-0"), "n1-boot-1")


class _Unchecked:
    """Nobody is asked whether a single host may do this."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class _Programs:
    """Their writes, by block; what they are told."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[bool]] = {}

    def write_ended(self, array: MdArray, write: Write, *, acked: bool) -> None:
        self.waiting.pop(id(write)).set_result(acked)


class ModelBench:
    """One array on one host of a world that behaves as a kernel's md; also its driver."""

    holds_wait_for_failures = False

    def __init__(self, series: str) -> None:
        quirks = Quirks(
            kernel_md=True,
            outlives=True,
            keeps_needed=True,
            chunk_blocks=CHUNK_BLOCKS,
            serial_holds=series == "6.1",
        )
        self._world = world = World(1, _no_core, Weather(), quirks=quirks)
        self._programs = _Programs()
        world.check = cast(Checkers, _Unchecked())
        world.workload = cast(Workload, self._programs)
        self._host = host = world.add_host("n1")
        host.life, host.up, host.md_up, host.gate = LIFE, True, True, (1, OPEN_MS)
        host.event = self._heard  # type: ignore[method-assign]
        self._events: list[events.Event] = []
        self._failures: list[DeviceId] = []
        self._told: set[DeviceId] = set()
        self._held = True
        self._serial = self._seq = self._begun_sectors = 0
        self._state: ArrayState
        for number in range(DISKS):
            disk = world.add_disk(self.path(device(number)))
            disk.device, disk.data = device(number), [0] * BLOCKS

    @property
    def driver(self) -> MdDriver:
        return cast(MdDriver, self)  # but for what no script asks of a driver

    def _heard(self, event: events.Event) -> None:
        if isinstance(event, events.Held):
            self._held = True
        elif not isinstance(event, events.MemberFailed):
            self._events.append(event)
        elif event.device not in self._told:  # a driver tells of the first write, not of each
            self._told.add(event.device)
            self._failures.append(event.device)

    def settle(self) -> None:
        """Until nothing is under way."""
        self._world.run_until(self._world.now_us + LONG_US)

    def _do(self, effect: effects.Effect) -> list[events.Event]:
        """What it is answered with."""
        self._host.shell.add(effect)
        self.settle()
        found, self._events = self._events, []
        return found

    @property
    def _array(self) -> MdArray:
        """DriverError if it does not run."""
        array = self._host.md.arrays.get(ARRAY)
        if array is None:
            raise DriverError("no such array runs")
        return array

    def _leg(self, device: DeviceId) -> Leg:
        leg = self._array.leg(device)
        if leg is None:
            raise DriverError(f"{device} is no member")
        return leg

    def _refuse_while_copying(self) -> None:
        if self._array.sync is not None:
            raise DriverError("it is copying")

    # --- a committed state, applied ------------------------------------------------------------

    def _commit(self, state: ArrayState) -> None:
        """DriverError if it cannot be applied."""
        self._seq += 1
        (applied,) = self._do(effects.Apply(Entry(ARRAY, Stamp(1, self._seq), state)))
        assert isinstance(applied, events.Applied)
        if applied.problem:
            raise DriverError(applied.problem)
        self._state = state

    def _change(self, changed: DeviceId, **what: Any) -> None:
        members = (replace(m, **what) if m.device == changed else m for m in self._state.members)
        self._commit(replace(self._state, members=tuple(members)))

    async def assemble(self, state: ArrayState, slot: int = 0, *, read_only: bool = False) -> None:
        self._host.shell.slots_known = {(ARRAY, Slot(slot, LIFE))}  # its bits are kept
        self._commit(replace(state, running=(LIFE,), slots=(Slot(slot, LIFE),), readonly=read_only))
        self._array.resync_from = BLOCKS

    start = assemble

    async def run(self, array: ArrayId) -> None:
        """It runs from the start."""

    async def activate(self, array: ArrayId) -> None:
        if not any(leg.blocked for leg in self._array.legs):
            self._do(effects.Activate(array))

    async def stop(self, array: ArrayId, *, force: bool = False) -> bool:
        (left,) = self._do(effects.LeaveArray(array, force))
        if isinstance(left, events.ArrayKept):
            raise ArrayBusyError(left.why)
        return isinstance(left, events.ArrayLeft) and left.clean

    async def fail(self, array: ArrayId, device: DeviceId) -> None:
        self._leg(device)
        if self._array.readable() == (device,):
            raise DriverError("it is the last good member")
        self._change(device, state=MemberState.FAULTY, role=-1)

    async def unblock(self, array: ArrayId, device: DeviceId) -> None:
        leg = self._array.leg(device)
        last = self._array.readable() == (device,)
        if leg is not None and leg.blocked and not leg.faulty and not last:
            raise DriverError("it is not faulty")
        self._do(effects.Unblock(array, (device,)))
        self._told.discard(device)

    async def remove(self, array: ArrayId, device: DeviceId) -> None:
        leg = self._leg(device)
        if not leg.faulty or leg.blocked:
            raise DriverError("it is in use")
        left = tuple(m for m in self._state.members if m.device != device)
        self._commit(replace(self._state, members=left))

    async def add(self, array: ArrayId, member: Member, path: str) -> None:
        taken = any(leg.role == member.role and not leg.faulty for leg in self._array.legs)
        if taken and not member.replacement:
            raise DriverError("its role is taken")
        self._commit(replace(self._state, members=(*self._state.members, member)))

    async def take_in(self, array: ArrayId, devices: Iterable[DeviceId]) -> None:
        for taken in devices:
            self._leg(taken)
            self._change(taken, state=MemberState.IN_SYNC, replacement=False)

    async def set_raid_disks(self, array: ArrayId, raid_disks: int) -> None:
        self._refuse_while_copying()
        with_role = sorted(m.role for m in self._state.members if m.role >= 0)
        if len(with_role) > raid_disks:
            raise DriverError("more members than roles")
        members = tuple(  # they close ranks
            replace(m, role=with_role.index(m.role)) if m.role >= 0 else m
            for m in self._state.members
        )
        self._commit(replace(self._state, raid_disks=raid_disks, members=members))

    async def set_size(self, array: ArrayId, size_sectors: int, *, visible: bool) -> None:
        self._refuse_while_copying()
        if size_sectors < self._state.size_sectors:
            raise DriverError("a size never shrinks")
        shown = 0 if visible else self._state.shown_sectors or self._state.size_sectors
        self._commit(replace(self._state, size_sectors=size_sectors, shown_sectors=shown))

    # --- holds, bits, copying ------------------------------------------------------------------

    async def hold(self, array: ArrayId, lo_sectors: int, hi_sectors: int) -> None:
        self._held = False
        self._do(effects.HoldRange(array, lo_sectors, hi_sectors))
        while not self._held:  # noqa: ASYNC110 -- until a failure is released
            await asyncio.sleep(0.001)

    async def hold_all(self, array: ArrayId, on: bool) -> None:
        self._host.md.set_hold_all(on)
        self.settle()

    async def pin_reads(self, array: ArrayId, on: bool) -> None:
        self._do(effects.PinReads(array, on))

    async def set_bits(self, array: ArrayId, lo_sectors: int, hi_sectors: int) -> None:
        self._do(effects.SetBits(array, 0, lo_sectors, hi_sectors))

    async def merge_bits(self, array: ArrayId, slot_offsets_sectors: tuple[int, ...]) -> None:
        slots = tuple(SLOT_SECTORS.index(offset) for offset in slot_offsets_sectors)
        self._do(effects.MergeBits(array, 0, slots))

    async def start_sync(self, array: ArrayId, kind: SyncKind, position_sectors: int) -> None:
        md = self._array
        self._refuse_while_copying()
        if md.recovering and kind is not SyncKind.RECOVER:
            raise DriverError("a member has to recover first")
        by_bitmap = kind in (SyncKind.RESYNC, SyncKind.BITMAP)
        if by_bitmap and self.next_dirty(array, 0) < position_sectors:
            raise DriverError("md would begin below")
        self._serial, self._begun_sectors = self._serial + 1, position_sectors
        self._do(effects.StartSync(array, self._serial, kind, position_sectors))

    async def limit_sync(self, array: ArrayId, hi_sectors: int) -> SyncStep:
        (reached,) = self._do(effects.LimitSync(array, self._serial, hi_sectors))
        assert isinstance(reached, events.SyncReached)
        if reached.problem == GATE_SHUT:
            raise GateShutError(GATE_SHUT)
        if reached.problem:
            raise DriverError(reached.problem)
        return SyncStep(
            reached.position_sectors,
            reached.planned_sectors,
            reached.copied_sectors,
            reached.next_dirty_sectors,
            reached.mismatched_sectors,
        )

    async def stop_sync(self, array: ArrayId) -> None:
        self._do(effects.StopSync(array, self._serial))

    def next_dirty(self, array: ArrayId, from_sectors: int) -> int:
        md = self._array
        if md.sync is not None:
            return md.next_dirty(from_sectors)
        needed = first_dirty_sectors(md.sync_bits | md.degraded_bits, from_sectors)
        return min(needed, md.size * BLOCK_SECTORS)

    # --- what is seen --------------------------------------------------------------------------

    def arrays(self) -> tuple[ArrayId, ...]:
        return tuple(self._host.md.arrays)

    def status(self, array: ArrayId) -> ArrayStatus:
        md = self._array
        return ArrayStatus(
            array,
            tuple(_member(leg) for leg in md.legs),
            md.write_pending,
            True,
            len(md.in_flight),
            *md.hold,
            md.sync.kind if md.sync else None,
            max(md.sync.position, self._begun_sectors) if md.sync else 0,
            0,
            0,
            md.raid_disks,
            md.size * BLOCK_SECTORS,
            md.shown * BLOCK_SECTORS,
            md.shut,
        )

    def failures(self) -> list[DeviceId]:
        return self._failures

    async def failure_of(self, device: DeviceId) -> str:
        raise AssertionError("nothing has to be waited for here")

    # --- programs and disks --------------------------------------------------------------------

    async def write(self, offset_bytes: int, data: bytes) -> None:
        if offset_bytes // BLOCK_BYTES >= self._array.shown:
            raise OSError("it is behind the end")
        write = Write(offset_bytes // BLOCK_BYTES, data[0])
        told = self._programs.waiting[id(write)] = asyncio.get_running_loop().create_future()
        self._array.submit(write)
        self.settle()
        if not await told:
            raise OSError("the write failed")

    async def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        found = self._array.read(offset_bytes // BLOCK_BYTES)
        if found is None:
            raise OSError("the read failed")
        return bytes([found[0]]) * length_bytes

    def path(self, device: DeviceId) -> str:
        return f"/dev/{device}"

    def _disk(self, device: DeviceId) -> Disk:
        return self._world.disks[self.path(device)]

    def data_of(self, device: DeviceId) -> bytes:
        return b"".join(bytes([value]) * BLOCK_BYTES for value in self._disk(device).data)

    def put(self, device: DeviceId, lo_sectors: int, data: bytes) -> None:
        lo = lo_sectors // BLOCK_SECTORS
        for block in range(len(data) // BLOCK_BYTES):
            self._disk(device).data[lo + block] = data[block * BLOCK_BYTES]

    def slot_of(self, device: DeviceId, slot: int = 0) -> bytes:
        bits = self._disk(device).bits[slot]
        chunks = [n for n in range(BLOCKS // CHUNK_BLOCKS) if bits >> n * CHUNK_BLOCKS & 1]
        return sum(1 << chunk for chunk in chunks).to_bytes(8, "little")

    def put_slot(self, device: DeviceId, slot: int, bits: bytes) -> None:
        chunks = int.from_bytes(bits, "little")
        whole = sum(
            ((1 << CHUNK_BLOCKS) - 1) << n * CHUNK_BLOCKS for n in range(SLOTS) if chunks >> n & 1
        )
        self._disk(device).bits[slot] = whole

    def break_writes(self, device: DeviceId) -> None:
        self._disk(device).bad_writes.add(self._host.index)

    def break_reads(self, device: DeviceId) -> None:
        self._disk(device).bad_reads.add(self._host.index)

    def heal(self, device: DeviceId) -> None:
        self._disk(device).mend()

    def shut_gate(self) -> None:
        self._host.gate = (1, 0)

    async def restart(self, state: ArrayState) -> None:
        md = self._host.md
        while not md.hold_still():
            self.settle()
        md.inherit()
        self._told.clear()
        for failed in md.still_blocked():
            self._heard(failed)


def _no_core(_: Host) -> Core:
    raise AssertionError("this host has none")


def _member(leg: Leg) -> MemberStatus:
    in_sync = leg.in_sync and not leg.faulty
    return MemberStatus(leg.device, leg.role, in_sync, leg.faulty, leg.blocked, 0)
