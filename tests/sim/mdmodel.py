"""md of one host as the kernels behave (KERNEL.md), over the shared disks of the world.

Writes go to every attached member; one that fails is held until `unblock` of that member
*and* `activate`; `activate` releases every held write of the array, whatever it waits for.
A failed and held write counts as drained for a hold, except since Linux 6.7. Bits of the own slot
are on disk before the data. A sync with a bitmap copies what is dirty in the own slot, in whole
chunks; it checks the gate before each write, and a frozen host may issue a checked write late. A
member that comes or goes interrupts it. Of a kernel (`Quirks.kernel_md`), which takes no position
then, every sync starts at 0; and while a member is not in sync it recovers that member, whatever
is asked, and writes to no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mdcluster.core.events import MemberFailed
from mdcluster.core.model import (
    LOOKING,
    ArrayId,
    ArrayState,
    DeviceId,
    Doubt,
    Member,
    MemberState,
    SyncKind,
)
from tests.sim.disks import (
    BLOCK_SECTORS,
    Disk,
    block_range,
    first_dirty_sectors,
    mask_of,
    whole_chunks,
)

if TYPE_CHECKING:
    from tests.sim.hosts import Host


BY_POSITION = LOOKING | {SyncKind.RECOVER}


@dataclass(slots=True, eq=False)
class Leg:
    """One member as this host's md has it."""

    disk: Disk
    device: DeviceId
    role: int
    in_sync: bool
    by_bitmap: bool = False
    faulty: bool = False
    blocked: bool = False  # blocked, or unacknowledged errors: writes wait


@dataclass(slots=True, eq=False)
class Write:
    """One write of an application."""

    block: int
    value: int
    pending: list[Leg] = field(default_factory=list)
    landed: list[Leg] = field(default_factory=list)
    failed: list[Leg] = field(default_factory=list)
    without_bit: list[Leg] = field(default_factory=list)
    doomed: bool = False
    degraded: bool = False  # begun while a role had no member, or a faulty one (R1BIO_Degraded)


@dataclass(slots=True, eq=False)
class Sync:
    """One running pass: frozen at `position` until it is allowed more."""

    serial: int
    kind: SyncKind
    position: int
    busy_block: int = -1
    left_out: int = 0  # bits of chunks of which a block was left out
    copying: bool = False  # a step is under way, of md if it copies without asking
    mismatched: int = 0  # blocks found different in this step, on each member for itself
    stopping: bool = False
    interrupted: bool = False  # a member came or went: md goes no further


class MdArray:
    """One running array of one host."""

    def __init__(self, host: Host, uuid: ArrayId, slot: int) -> None:
        self.host = host
        self.uuid = uuid
        self.slot = slot
        self.legs: list[Leg] = []
        self.raid_disks = 0
        self.size = self.shown = 0  # blocks: used of each member, and of these, for applications
        self.resync_from = 0  # reads at or above go to the first member
        self.pinned = False
        self.hold = (0, 0)
        self.moving = False  # the hold, right now
        self.write_pending = True  # a started array is clean: its first write waits
        self.started = False
        self.closing = False
        self.readonly = False  # by its state; `shut`: or as a prepare round asked for
        self.shut_by: set[int] = set()
        self.caught_up = True  # the present daemon has applied a commit to it
        self.broken = False  # it cannot follow a commit: it holds its writes
        self.in_flight: list[Write] = []
        self.held: list[Write] = []
        self.waiting: list[Write] = []
        self.drained: list[Callable[[], None]] = []
        self.sync: Sync | None = None
        self.sync_bits = 0  # to be copied by a pass of this host
        self.degraded_bits = 0  # md: NEEDED, written while a role had no member, or failed
        self.young_bits = 0  # written since the last sweep

    # --- status --------------------------------------------------------------------------

    def leg(self, device: DeviceId) -> Leg | None:
        return next((leg for leg in self.legs if leg.device == device), None)

    @property
    def shut(self) -> bool:
        return self.readonly or bool(self.shut_by)

    @property
    def failure_held(self) -> bool:
        return bool(self.held) or any(leg.blocked for leg in self.legs)

    @property
    def clean(self) -> bool:
        """No write is held by a failure (what a hold needs)."""
        pending = self.write_pending and self.started
        return not pending and not self.failure_held

    @property
    def sample_clean(self) -> bool:
        """What `activate` needs: states clean, no writes in flight on remaining members."""
        return not any(leg.blocked for leg in self.legs) and not any(
            not leg.faulty for write in self.in_flight for leg in write.pending
        )

    @property
    def complete(self) -> bool:
        """Every role has a member that is written, in sync and not faulty."""
        return sum(1 for leg in self.legs if leg.in_sync and not leg.faulty) >= self.raid_disks

    @property
    def attended(self) -> bool:
        """Whether bits may go: nobody misses what is written. A kernel counts who recovers."""
        if not self.host.world.quirks.kernel_md:
            return self.complete
        return sum(1 for leg in self.legs if not leg.faulty) >= self.raid_disks

    @property
    def recovering(self) -> bool:
        return any(not leg.in_sync and not leg.faulty for leg in self.legs)

    def whole(self, mask: int) -> int:
        chunks = whole_chunks(mask, self.host.world.quirks.chunk_blocks)
        return chunks & (1 << self.size) - 1

    # --- application I/O -----------------------------------------------------------------

    def must_wait(self, block: int) -> bool:
        lo, hi = self.hold
        first, after = block * BLOCK_SECTORS, (block + 1) * BLOCK_SECTORS
        kernel = self.host.world.quirks.kernel_md
        return (
            self.host.md.hold_all
            or self.write_pending
            or self.closing
            or self.broken
            or (lo < hi and first < hi and (lo < after or (lo == after and kernel)))
            or (self.sync is not None and self.sync.busy_block == block)
            or any(leg.blocked for leg in self.legs)
        )

    def submit(self, write: Write) -> None:
        if self.shut:
            self.host.world.load["writes_shut_out"] += 1
            self.host.workload.write_ended(self, write, acked=False)
            return
        if self.must_wait(write.block):
            self.waiting.append(write)
            return
        targets = [leg for leg in self.legs if not leg.faulty]
        if not targets:
            self.host.world.load["writes_without_member"] += 1
            self.host.workload.write_ended(self, write, acked=False)
            return
        self.host.world.check.app_write_issued(self, write)
        write.pending, write.degraded = targets, not self.attended
        self.in_flight.append(write)
        self.young_bits |= self.whole(1 << write.block)
        write.without_bit = self._set_bits(1 << write.block)
        for leg in list(targets):
            delay_us = self.host.world.write_delay_us() + leg.disk.slow_us
            self.host.world.after_us(delay_us, self.land, self.host.life, write, leg)

    def land(self, life: object, write: Write, leg: Leg) -> None:
        """A leg's write reaches the disk; its return is told to the host when it runs."""
        host = self.host
        if host.life != life or not host.md_up or write not in self.in_flight:
            return  # decided at the crash
        ok = leg.disk.writes_for(host.index) and leg.disk.device == leg.device
        ok = ok and leg not in write.without_bit  # no data before its bit
        if ok:
            self.put(leg, write)
        host.run(self.returned, write, leg, ok)

    def put(self, leg: Leg, write: Write) -> None:
        self.host.world.check.disk_written(self.host, leg.disk)
        leg.disk.data[write.block] = write.value

    def returned(self, write: Write, leg: Leg, ok: bool) -> None:
        write.pending.remove(leg)
        good = ok and not leg.faulty  # as raid1: what a faulty member has does not count
        (write.landed if good else write.failed).append(leg)
        if not ok:
            self.member_error(leg, "write error")
        if not write.pending:
            self._all_returned(write)

    def member_error(self, leg: Leg, why: str) -> None:
        if not leg.faulty:
            leg.blocked = self.write_pending = True
            self.host.event(MemberFailed(self.uuid, leg.device, why))

    def _all_returned(self, write: Write) -> None:
        self.in_flight.remove(write)
        waits = self.write_pending or any(leg.blocked or not leg.faulty for leg in write.failed)
        if write.failed and waits:
            self.held.append(write)
        else:
            self._finish(write)
        self._drain()

    @property
    def _drains(self) -> bool:
        """Something is under way that a hold waits for: since Linux 6.7 also what is held."""
        quirks = self.host.world.quirks
        waits_for_failures = quirks.kernel_md and not quirks.serial_holds
        return bool(self.in_flight) or (waits_for_failures and bool(self.held))

    @property
    def misses_a_member(self) -> bool:
        """Whether a write is in flight that does not go to a member attached since."""
        legs = [leg for leg in self.legs if not leg.faulty]
        return any(
            leg not in (*write.pending, *write.landed, *write.failed)
            for write in self.in_flight
            for leg in legs
        )

    def _drain(self) -> None:
        if self.drained and not self._drains:
            drained, self.drained = self.drained, []
            for call in drained:
                call()

    def _finish(self, write: Write) -> None:
        if write.degraded or not self.attended or write.failed:
            self.degraded_bits |= self.whole(1 << write.block)
        acked = not write.doomed and any(leg.in_sync for leg in write.landed)
        self.host.workload.write_ended(self, write, acked=acked)

    def resubmit(self) -> None:
        waiting, self.waiting = self.waiting, []
        for write in waiting:
            self.submit(write)

    def read(self, block: int) -> tuple[int, Leg] | None:
        """What an application reads now: (value, member); None if no member answers."""
        legs = [leg for leg in self.legs if leg.in_sync and not leg.faulty]
        if not self.pinned and block < self.resync_from and len(legs) > 1:
            first = int(self.host.world.rng.random() * len(legs))
            legs = legs[first:] + legs[:first]
        for leg in legs:
            if leg.disk.reads_for(self.host.index) and leg.disk.device == leg.device:
                return leg.disk.data[block], leg
            self._read_failed(leg)
        return None

    def _read_failed(self, leg: Leg) -> None:
        """A kernel sets it faulty by itself; of the last one it tells nothing (docs/KERNEL.md)."""
        kernel = self.host.world.quirks.kernel_md
        if kernel and self.readable() == (leg.device,):
            return
        if kernel:
            self.set_faulty(leg)
        doubt = Doubt.MISSED if kernel else Doubt.NONE
        self.host.event(MemberFailed(self.uuid, leg.device, "read error", doubt))

    def readable(self) -> tuple[DeviceId, ...]:
        """The members reads may come from, in order."""
        return tuple(leg.device for leg in self.legs if leg.in_sync and not leg.faulty)

    # --- members -------------------------------------------------------------------------

    def set_faulty(self, leg: Leg) -> None:
        if not leg.faulty:
            leg.faulty = leg.blocked = self.write_pending = True
            self._interrupt()

    def _interrupt(self) -> None:
        if self.sync is not None:
            self.sync.interrupted = True

    def unblock(self, device: DeviceId) -> None:
        leg = self.leg(device)
        if leg is None:
            return
        leg.blocked = False
        if not leg.faulty:  # it stays in use: what it has refused ends in an I/O error
            for write in self.held + self.in_flight:
                write.doomed = write.doomed or leg in write.failed

    def activate(self) -> None:
        """One bit: whatever is held is acknowledged."""
        self.write_pending, self.started = False, True
        held, self.held = self.held, []
        for write in held:
            self._finish(write)
        self._drain()
        self.resubmit()

    def attach(self, member: Member, disk: Disk) -> Leg:
        leg = Leg(
            disk,
            member.device,
            member.role,
            member.state is MemberState.IN_SYNC,
            member.by_bitmap,
        )
        if not leg.in_sync:
            disk.bits[self.slot] |= self.own_bits()
        self.legs.append(leg)
        self.legs.sort(key=lambda one: one.role)
        self._interrupt()
        return leg

    def detach(self, leg: Leg) -> None:
        self.legs.remove(leg)

    def follow(self, state: ArrayState, find: Callable[[DeviceId], Disk | None]) -> str:
        """Bring the members to a committed state; returns what stands against it."""
        self.raid_disks = state.raid_disks
        self.readonly = state.readonly
        self.size = state.size_sectors // BLOCK_SECTORS
        self.shown = (state.shown_sectors or state.size_sectors) // BLOCK_SECTORS
        self.resync_from = (
            self.size if state.resync_sectors is None else state.resync_sectors // BLOCK_SECTORS
        )
        problem = ""
        for leg in list(self.legs):
            member = state.member(leg.device)
            if member is None:
                self.set_faulty(leg)
                leg.blocked = False
                self.detach(leg)
            elif member.state in (MemberState.FAULTY, MemberState.SPARE):
                self.set_faulty(leg)
            elif leg.faulty and not leg.blocked:
                self.detach(leg)  # added again: attached anew below
        for member in state.members:
            if member.state in (MemberState.IN_SYNC, MemberState.RECOVERING):
                problem = self._follow_member(member, find) or problem
        self.legs.sort(key=lambda one: one.role)
        was_broken, self.broken = self.broken, bool(problem)
        if was_broken and not problem:
            self.resubmit()
        if self.complete:
            if not self.host.world.quirks.keeps_needed:
                self.degraded_bits = 0
            dirty = any(slot.dirty for slot in state.slots)
            if state.sync is None and state.resync_sectors is None and not dirty:
                self.sync_bits = 0
        return problem

    def _follow_member(self, member: Member, find: Callable[[DeviceId], Disk | None]) -> str:
        leg = self.leg(member.device)
        if leg is None:
            disk = find(member.device)
            if disk is None:
                return f"member {member.device} is not to be found here"
            leg = self.attach(member, disk)
        elif leg.faulty:
            return f"member {member.device} is still blocked"
        leg.in_sync = member.state is MemberState.IN_SYNC
        leg.role, leg.by_bitmap = member.role, member.by_bitmap
        return ""

    # --- bitmap --------------------------------------------------------------------------

    def _set_bits(self, mask: int) -> list[Leg]:
        """Set bits of the own slot on every member; returns where that failed."""
        failed = []
        mask = self.whole(mask)
        for leg in self.legs:
            if leg.faulty:
                continue
            if not leg.disk.writes_for(self.host.index):
                failed.append(leg)
                continue
            if leg.disk.bits[self.slot] & mask != mask:
                self.host.world.check.disk_written(self.host, leg.disk)
            leg.disk.bits[self.slot] |= mask
        return failed

    def own_bits(self) -> int:
        """The own slot as the union over in-sync members."""
        return self.slot_bits((self.slot,))

    def slot_bits(self, slots: tuple[int, ...]) -> int:
        mask = 0
        for leg in self.legs:
            if leg.in_sync and not leg.faulty:
                for slot in slots:
                    mask |= leg.disk.bits[slot]
        return mask

    def set_sync_bits(self, mask: int) -> str:
        """For a pass; returns what stands against it."""
        self.sync_bits |= self.whole(mask)
        failed = self._set_bits(mask)
        for leg in failed:
            self.member_error(leg, "write error of the bitmap")
        return ", ".join(f"write error on {leg.device}" for leg in failed)

    def clean_bits(self) -> None:
        """md clears what was written everywhere and has rested for a whole sweep.

        It writes the members one after the other: a crash may leave them different.
        """
        if not self.attended:
            return
        keep = self.sync_bits | self.degraded_bits | self.young_bits
        self.young_bits = 0
        for write in self.in_flight + self.held:
            keep |= self.whole(1 << write.block)
            self.young_bits |= self.whole(1 << write.block)
        for leg in self.legs:
            late = self.host.world.rng.random() < 0.1
            if not leg.faulty and not late and leg.disk.writes_for(self.host.index):
                leg.disk.bits[self.slot] &= keep

    # --- holds ---------------------------------------------------------------------------

    def hold_range(self, lo: int, hi: int, drained: Callable[[], None]) -> None:
        """Hold [lo, hi); `drained` is called when nothing is under way."""
        self.hold, self.moving = (lo, hi), True
        self.host.world.check.hold_moves(self)
        self.resubmit()
        if self._drains and lo < hi:
            self.drained.append(drained)
        else:
            drained()

    # --- sync ----------------------------------------------------------------------------

    def plan(self, sync: Sync, lo: int, hi: int) -> int:
        """Blocks to copy in [lo, hi): all, or (as md's NEEDED bits) what was set or degraded."""
        mask = mask_of(block_range(lo, hi))
        targets = [leg for leg in self.legs if not leg.in_sync and not leg.faulty]
        new = sync.kind is SyncKind.RECOVER and not all(leg.by_bitmap for leg in targets)
        return mask if new or sync.kind in LOOKING else mask & (self.sync_bits | self.degraded_bits)

    def next_dirty(self, from_sectors: int) -> int:
        sync, end = self.sync, self.size * BLOCK_SECTORS
        if sync is None:
            return end
        return min(first_dirty_sectors(self.plan(sync, 0, end), from_sectors), end)

    def copied(self, block: int) -> None:
        """A block was made equal: with the last of its chunk, the bits may go."""
        chunk = self.whole(1 << block)
        if self.attended and chunk >> block == 1 and not (self.sync and self.sync.left_out & chunk):
            self.sync_bits &= ~chunk
            self.degraded_bits &= ~chunk


class Md:
    """All arrays of one host in one life."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.arrays: dict[ArrayId, MdArray] = {}
        self.hold_all = False

    def set_hold_all(self, on: bool) -> None:
        self.hold_all = on
        if not on:
            for array in self.arrays.values():
                array.resubmit()

    def hold_still(self) -> bool:
        """A new daemon stops all copying; whether the last write has returned."""
        for array in self.arrays.values():
            if array.sync is not None:
                array.sync.stopping = True
        return not any(
            array.sync is not None and array.sync.copying for array in self.arrays.values()
        )

    def inherit(self) -> tuple[ArrayId, ...]:
        """As the port promises: all is held, nothing is copied or released, bits are kept."""
        for array in self.arrays.values():
            array.hold = (0, array.size * BLOCK_SECTORS)
            array.pinned, array.sync, array.closing = True, None, False
            array.caught_up = array.moving = False
            array.readonly = array.shut
            array.shut_by = set()
        return tuple(self.arrays)

    def still_blocked(self) -> list[MemberFailed]:
        """Members that hold writes are reported once more."""
        return [
            MemberFailed(
                array.uuid,
                leg.device,
                "still held",
                Doubt.MISSED if leg.faulty else Doubt.NONE,
            )
            for array in self.arrays.values()
            for leg in array.legs
            if leg.blocked
        ]

    def crash(self) -> None:
        """The host is gone: each write in flight has reached each member, or has not."""
        rng = self.host.world.rng
        for array in self.arrays.values():
            for write in array.in_flight:
                for leg in write.pending:
                    ok = leg.disk.writes_for(self.host.index) and leg.disk.device == leg.device
                    if ok and leg not in write.without_bit and rng.random() < 0.5:
                        array.put(leg, write)
            array.in_flight = []
