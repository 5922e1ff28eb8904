"""The md and metadata half of a simulated shell, with the queues of the executor.

Effects of one array run one after the other; holds and copies begin in that order, and end in
one of their own; superblocks, nonces, probes and openings have queues of their own.

Every gated write asks the gate (the host's own clock, now) and then is issued; a host that
freezes in between issues it when it thaws.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mdcluster.core.effects import (
    Activate,
    Apply,
    DropNonces,
    Effect,
    EraseSuperblock,
    ForgetPrepared,
    HoldRange,
    LeaveArray,
    LimitSync,
    MergeBits,
    PinReads,
    PrepareDevices,
    ProbeMember,
    SampleStates,
    SetBits,
    StartSync,
    StopSync,
    Unblock,
    WriteNonces,
    WriteSuperblocks,
    ZeroSlot,
)
from mdcluster.core.events import (
    Applied,
    ArrayKept,
    ArrayLeft,
    BitsSet,
    Erased,
    Event,
    Held,
    NoncesWritten,
    Prepared,
    Probed,
    Sampled,
    SlotZeroed,
    SuperblocksWritten,
)
from mdcluster.core.model import (
    ZERO,
    AdoptArray,
    ArrayId,
    ArrayState,
    Claim,
    DeviceId,
    NewMember,
    Slot,
    Stamp,
)
from tests.sim.copying import GATE_SHUT, Copying
from tests.sim.disks import BLOCK_SECTORS, SIZE_SECTORS, Disk, block_range, mask_of
from tests.sim.mdmodel import MdArray

if TYPE_CHECKING:
    from tests.sim.hosts import Host


class ArrayShell(Copying):
    """Carries out what concerns arrays for one host, for one daemon."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.world = host.world
        self.queues: dict[str, deque[Callable[[], None]]] = {}
        self.busy: set[str] = set()
        self.nonces: dict[int, list[Disk]] = {}
        self.stopping: dict[int, ArrayId] = {}
        self.torn_if_crashed: dict[str, list[Disk]] = {}
        self.gone = False
        entries = host.store.entries.values()
        states = [entry.state for entry in entries if isinstance(entry.state, ArrayState)]
        self.slots_known = {(s.uuid, s.slot_of(host.life)) for s in states}
        self.starters: dict[type, Callable[[Any], None]] = {
            WriteSuperblocks: self._write_superblocks,
            WriteNonces: self._write_nonces,
            EraseSuperblock: self._erase,
            PrepareDevices: self._prepare,
            Apply: self._apply,
            LeaveArray: self._leave,
            Unblock: self._unblock,
            SampleStates: self._sample,
            Activate: self._activate,
            HoldRange: self._hold,
            PinReads: self._pin,
            ProbeMember: self._probe,
            SetBits: self._set_bits,
            MergeBits: self._merge_bits,
            ZeroSlot: self._zero_slot,
            StartSync: self.start_sync,
            LimitSync: self.limit_sync,
            StopSync: self.stop_sync,
        }

    def crash(self) -> None:
        """A superblock under way at the crash may be torn; a stop under way goes either way."""
        self.gone = True
        for array in list(self.host.md.arrays.values()) if self.host.outlives else ():
            prepared = array.uuid in self.stopping.values()
            busy = array.in_flight or (array.sync is not None and array.sync.copying)
            if array.closing and not busy and (prepared or self.world.rng.random() < 0.5):
                self.world.load["stopped_unseen"] += 1
                self._stop_array(array)
            array.closing = False
            array.drained.clear()  # nobody waits for it any more
            array.resubmit()
        for disk in [disk for disks in self.torn_if_crashed.values() for disk in disks]:
            if self.world.rng.random() < 0.3:
                disk.torn = True
                self.world.load["torn_superblocks"] += 1

    # --- queues --------------------------------------------------------------------------

    def add(self, effect: Effect) -> None:
        if isinstance(effect, DropNonces):
            for disk in self.nonces.pop(effect.op, []):
                disk.drop_nonce()
            return
        if isinstance(effect, ForgetPrepared):
            self._forget(effect.op)
            return
        if isinstance(effect, HoldRange | LimitSync):
            self._put(effect.array, lambda: self._launch(effect))
        else:
            self._put(_queue_of(effect), lambda: self._start(effect))

    def _put(self, key: str, call: Callable[[], None]) -> None:
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = deque()
        queue.append(call)
        self.world.check.bounded("effects queued for one array", len(queue), 300)
        self._next(key)

    def _next(self, key: str) -> None:
        if key not in self.busy and self.queues[key]:
            self.busy.add(key)
            self.host.later(self.world.rng.randrange(50, 1500), self.queues[key].popleft())

    def _start(self, effect: Effect) -> None:
        self.starters[type(effect)](effect)

    def _launch(self, effect: HoldRange | LimitSync) -> None:
        """Its turn among the effects of the array has come; what is behind does not wait."""
        self._put(_queue_of(effect), lambda: self._start(effect))
        self._free(effect.array)

    def done(self, effect: Effect, event: Event | None) -> None:
        if self.gone:
            return
        key = _queue_of(effect)
        self.busy.discard(key)
        if event is not None:
            self.host.event(event)
        self._next(key)

    def _free(self, key: str) -> None:
        self.busy.discard(key)
        self._next(key)

    def md(self, array: ArrayId) -> MdArray | None:
        return self.host.md.arrays.get(array)

    def gate_lets_through(self) -> bool:
        if not self.host.gate_open():
            self.world.load["writes_refused_by_gate"] += 1
            return False
        self.world.check.gated_write(self.host)
        return True

    def find(self, device: DeviceId) -> Disk | None:
        """The disk this host finds by the device UUID in its superblock."""
        disk = self.world.disk_of(device)
        return disk if disk is not None and disk.reads_for(self.host.index) else None

    # --- metadata ------------------------------------------------------------------------

    def _write_superblocks(self, effect: WriteSuperblocks) -> None:
        entry = effect.entry
        state = entry.state
        if not isinstance(state, ArrayState):
            self.done(effect, SuperblocksWritten(ArrayId(entry.key), entry.stamp, (), ()))
            return
        disks = [(m.device, self.world.disk_of(m.device)) for m in state.writable]
        for _, disk in disks:
            if disk is not None and disk.writes_for(self.host.index) and _takes(disk, state):
                self.world.check.disk_written(self.host, disk)
                disk.rings[self.host.node, state.uuid] = entry
        if not self.gate_lets_through():
            failed = tuple((device, GATE_SHUT) for device, _ in disks)
            self.done(effect, SuperblocksWritten(state.uuid, entry.stamp, (), failed))
            return
        self.torn_if_crashed[entry.key] = [
            disk for _, disk in disks if disk is not None and _takes(disk, state)
        ]
        slow_us = max((disk.slow_us for _, disk in disks if disk is not None), default=0)
        delay_us = self.world.rng.randrange(100, 2500) + slow_us
        self.host.later(delay_us, self._superblocks_issued, effect, disks)

    def _superblocks_issued(
        self, effect: WriteSuperblocks, disks: list[tuple[DeviceId, Disk | None]]
    ) -> None:
        entry = effect.entry
        self.torn_if_crashed.pop(entry.key, None)
        written: list[DeviceId] = []
        failed: list[tuple[DeviceId, str]] = []
        for device, disk in disks:
            if disk is None or disk.device != device:
                failed.append((device, "the disk is not to be found"))
            elif not disk.writes_for(self.host.index):
                failed.append((device, "write error"))
            elif not _takes(disk, entry.state):
                if isinstance(entry.state, ArrayState) and entry.state.released:
                    written.append(device)  # plain already: left alone
                else:
                    failed.append((device, "its superblock is plain: it is not ours"))
            else:
                self.world.check.superblock_written(self.host, disk, entry)
                disk.write_superblock(entry)
                written.append(device)
        event = SuperblocksWritten(ArrayId(entry.key), entry.stamp, tuple(written), tuple(failed))
        self.host.later(self.host.answers_late_us, self.done, effect, event)

    def _write_nonces(self, effect: WriteNonces) -> None:
        problem = "" if self.gate_lets_through() else GATE_SHUT
        claimed: list[tuple[DeviceId, bytes]] = []
        disks: list[Disk] = []
        for member in effect.members if not problem else ():
            disk = self.world.disks.get(member.path)
            if disk is None or not disk.writes_for(self.host.index):
                problem = f"{member.path}: cannot be written"
                continue
            if why := self._claim(effect, member, disk):
                problem = why
                continue
            disks.append(disk)
            claimed.append((member.device, disk.nonce))
        if problem:
            for disk in disks:
                disk.drop_nonce()
            claimed = []
        else:
            self.nonces[effect.op] = disks
        self.done(effect, NoncesWritten(effect.op, problem, tuple(claimed)))

    def _claim(self, effect: WriteNonces, member: NewMember, disk: Disk) -> str:
        """'' if the nonce was written; what is adopted or added again keeps its superblock."""
        known = self.host.store.entries.get(effect.array)
        state = known.state if known is not None else None
        known_as = (state.member, state.former) if isinstance(state, ArrayState) else ()
        again = any(find(member.device) is not None for find in known_as)
        if effect.adopt is not None and not _adoptable(disk, effect.adopt):
            return f"{member.path}: is no plain member of that array any more"
        if again and (disk.device != member.device or disk.superblock is None or disk.torn):
            return f"{member.path}: is not that member any more"
        new = effect.adopt is None and not again
        if new and disk.superblock is not None and not effect.force:
            return f"{member.path}: carries an array already"
        if new and self.world.in_use(disk):
            return f"{member.path}: is in use by an array"
        nonce = self.world.rng.randbytes(16)
        self.world.check.disk_written(self.host, disk)
        if new:
            disk.write_nonce(member.device, nonce)
        else:
            disk.claim(nonce)
        return ""

    def _erase(self, effect: EraseSuperblock) -> None:
        disk, problem = self.world.disk_of(effect.device), ""
        if not self.gate_lets_through():
            problem = GATE_SHUT
        elif disk is None or disk.plain or not disk.writes_for(self.host.index):
            problem = f"{effect.path}: not to be found, or cannot be written"
        elif disk.before_nonce and any(disk in disks for disks in self.nonces.values()):
            problem = f"{effect.path}: is just being taken"
        else:
            self.world.check.erased(self.host, disk)
            disk.erase()
        self.done(effect, Erased(effect.op, problem))

    # --- prepare, apply ------------------------------------------------------------------

    def _prepare(self, effect: PrepareDevices) -> None:
        if effect.stopping or effect.readonly:
            prepare = self._prepare_shut if effect.readonly else self._prepare_stop
            self.done(effect, prepare(effect))
            return
        found: list[tuple[DeviceId, Stamp]] = []
        missing: list[tuple[DeviceId, str]] = []
        for claim in effect.claims:
            stamp, why = self._prove(claim)
            if stamp is None:
                missing.append((claim.device, why))
            else:
                found.append((claim.device, stamp))
        self.done(effect, Prepared(effect.op, "", tuple(found), tuple(missing)))

    def _prove(self, claim: Claim) -> tuple[Stamp | None, str]:
        if claim.nonce:
            disk = self.world.disks.get(claim.path)
            good = disk is not None and disk.reads_for(self.host.index)
            if not good or disk is None or disk.nonce != claim.nonce:
                return None, f"{claim.path} does not show the nonce"
            return ZERO, ""
        disk = self.find(claim.device)
        if disk is None:
            return None, "not to be found"
        if disk.torn or disk.superblock is None:
            return None, "its superblock is torn"
        return disk.superblock.stamp, ""

    def _prepare_stop(self, effect: PrepareDevices) -> Prepared:
        array = self.md(effect.array)
        if array is not None:
            busy = array.in_flight or array.held or array.waiting
            if busy or self.world.rng.random() < 0.1:
                return Prepared(effect.op, "the array is open", (), ())
            array.closing = True
            self.stopping[effect.op] = effect.array
        return Prepared(effect.op, "", (), ())

    def _prepare_shut(self, effect: PrepareDevices) -> Prepared:
        """Read-only, as long as nobody has it open."""
        array = self.md(effect.array)
        if array is not None:
            busy = array.in_flight or array.held or array.waiting or array.failure_held
            if busy or self.world.rng.random() < 0.1:
                return Prepared(effect.op, "the array is open", (), ())
            if array.sync is not None and array.sync.copying:
                self.world.check.fail(f"(6) {self.host.name} is shut while it copies")
            array.shut_by.add(effect.op)
            self.world.load["shut"] += 1
        return Prepared(effect.op, "", (), ())

    def _forget(self, op: int) -> None:
        for shut in self.host.md.arrays.values():
            shut.shut_by.discard(op)
        uuid = self.stopping.pop(op, None)
        array = self.md(uuid) if uuid is not None else None
        if array is not None:
            array.closing = False
            array.resubmit()

    def _apply(self, effect: Apply) -> None:
        entry = effect.entry
        state = entry.state
        if self.host.applies_nothing:
            self.done(effect, Applied(entry.key, entry.stamp, "the disks are gone"))
            return
        problem = ""
        if isinstance(state, ArrayState):
            array = self.md(state.uuid)
            leaves = array is not None and self.host.life not in state.running
            if leaves and array is not None and self._drains(array, self._apply, effect):
                return
            if array is not None and (
                state.readonly or not any(op >> 32 >= entry.stamp.term for op in array.shut_by)
            ):
                array.shut_by.clear()
            problem = self._bring(state)
            array = self.md(state.uuid)
            if not problem and array is not None and array.misses_a_member:
                self.host.later(
                    300, self._apply, effect
                )  # a new member is there when they are over
                return
        self.world.check.applied(self.host, entry, problem)
        self.done(effect, Applied(entry.key, entry.stamp, problem))

    def _bring(self, state: ArrayState) -> str:
        host = self.host
        array = self.md(state.uuid)
        if host.life not in state.running:
            if array is not None:
                self._stop_array(array)
            return ""
        if array is not None:
            array.caught_up = True
            if state.readonly and not array.shut and (array.in_flight or array.held):
                return "the array is open"
            return array.follow(state, self.find)
        slot = state.slot_of(host.life)
        if slot is None:
            return "the commit lists no bitmap slot for this life"
        if host.spectator:
            self.world.check.fail(f"{host.name}, a spectator, is listed as running {state.name}")
        array = MdArray(host, state.uuid, slot.index)
        if self.is_fresh(state.uuid, slot):
            self._clear_slot(state, slot.index)
        problem = array.follow(state, self.find)
        if problem:
            return problem
        self.world.check.assembled(host, array, state)
        host.md.arrays[state.uuid] = array
        self.world.load["assembled"] += 1
        return problem

    def is_fresh(self, array: ArrayId, slot: Slot) -> bool:
        """Whether this life has surely not used the slot before this process began."""
        return (array, slot) not in self.slots_known

    def _clear_slot(self, state: ArrayState, index: int) -> None:
        for member in state.writable:
            disk = self.find(member.device)
            if disk is not None and disk.writes_for(self.host.index) and disk.bits[index]:
                self.world.check.disk_written(self.host, disk)
                disk.bits[index] = 0

    def _leave(self, effect: LeaveArray) -> None:
        array = self.md(effect.array)
        if array is not None and not effect.force:
            busy = array.in_flight or array.held or array.waiting
            if busy or self.world.rng.random() < 0.5:
                self.done(effect, ArrayKept(effect.array, "it is in use"))
                return
        clean = array is None or not array.held
        if array is not None:
            if self._drains(array, self._leave, effect):
                return
            self._stop_array(array)
        self.done(effect, ArrayLeft(effect.array, clean))

    def _drains(self, array: MdArray, again: Callable[[Any], None], effect: Effect) -> bool:
        """Something is in flight: what is to be done is done again when it has returned."""
        array.closing = True
        if array.sync is not None and array.sync.copying:
            array.sync.stopping = True
            self.host.later(1000, again, effect)
            return True
        if array.in_flight:
            array.drained.append(lambda: again(effect))
        return bool(array.in_flight)

    def _stop_array(self, array: MdArray) -> None:
        for write in array.held + array.waiting:
            self.host.workload.write_ended(array, write, acked=False)
        array.held, array.waiting = [], []
        del self.host.md.arrays[array.uuid]

    # --- failures ------------------------------------------------------------------------

    def _unblock(self, effect: Unblock) -> None:
        array = self.md(effect.array)
        if array is not None:
            for device in effect.devices:
                array.unblock(device)
        self.done(effect, None)

    def _sample(self, effect: SampleStates) -> None:
        array = self.md(effect.array)
        clean = array is None or array.sample_clean
        what = "" if clean else "a member is blocked or writes are in flight"
        self.done(effect, Sampled(effect.array, clean, what))

    def _activate(self, effect: Activate) -> None:
        array = self.md(effect.array)
        if array is not None:
            array.activate()
        self.done(effect, None)

    def _probe(self, effect: ProbeMember) -> None:
        disk = self.find(effect.device)
        problem = "" if disk is not None else "cannot be read"
        if disk is not None and not disk.writes_for(self.host.index):
            problem = "write error"
        self.done(effect, Probed(effect.op, problem))

    # --- holds, reads --------------------------------------------------------------------

    def _hold(self, effect: HoldRange) -> None:
        array = self.md(effect.array)
        lo, hi = effect.lo_sectors, effect.hi_sectors
        if array is None:
            self.done(effect, Held(effect.array, lo, hi, True, ""))
            return
        held = array

        def drained() -> None:
            held.moving = False
            self.done(effect, Held(effect.array, lo, hi, held.clean, ""))

        if self.host.holds_late_us:
            self.host.later(self.host.holds_late_us, self._hold_late, effect, drained)
        else:
            array.hold_range(lo, hi, drained)

    def _hold_late(self, effect: HoldRange, drained: Callable[[], None]) -> None:
        array = self.md(effect.array)
        if array is None:  # stopped meanwhile
            drained()
        else:
            array.hold_range(effect.lo_sectors, effect.hi_sectors, drained)

    def _pin(self, effect: PinReads) -> None:
        array = self.md(effect.array)
        if array is not None:
            array.pinned = effect.on
            self.world.check.pinned(self.host, array)
        self.done(effect, None)

    # --- bitmap --------------------------------------------------------------------------

    def _bits_answer(self, effect: SetBits | MergeBits, mask: int) -> None:
        array = self.md(effect.array)
        if array is None:
            event = BitsSet(effect.array, effect.serial, 0, "the array does not run here")
        else:
            problem = array.set_sync_bits(mask)
            needed = array.sync_bits | array.degraded_bits
            end = array.size * BLOCK_SECTORS
            next_dirty = array.next_dirty(0) if array.sync else min(_first(needed), end)
            event = BitsSet(effect.array, effect.serial, next_dirty, problem)
        self.done(effect, event)

    def _set_bits(self, effect: SetBits) -> None:
        self._bits_answer(effect, mask_of(block_range(effect.lo_sectors, effect.hi_sectors)))

    def _merge_bits(self, effect: MergeBits) -> None:
        array = self.md(effect.array)
        self._bits_answer(effect, array.slot_bits(effect.slots) if array is not None else 0)

    def _zero_slot(self, effect: ZeroSlot) -> None:
        array = self.md(effect.array)
        problem = ""
        if array is None:
            problem = "the array does not run here"
        elif not self.gate_lets_through():
            problem = GATE_SHUT
        else:
            self.world.check.slot_zeroed(self.host, array, effect.index, effect.life)
            for leg in [leg for leg in array.legs if not leg.faulty]:
                if leg.disk.writes_for(self.host.index):
                    self.world.check.disk_written(self.host, leg.disk)
                    leg.disk.bits[effect.index] = 0
                else:
                    problem = f"write error on {leg.device}"
                    array.member_error(leg, "write error of the bitmap")
        self.done(effect, SlotZeroed(effect.array, effect.life, problem))


def _takes(disk: Disk, state: object) -> bool:
    """Whether a superblock of this state goes onto the disk: a plain one is not ours any more."""
    if not isinstance(state, ArrayState) or not disk.plain or disk.torn:
        return True
    return bool(disk.nonce) and not state.released


def _adoptable(disk: Disk, adopt: AdoptArray) -> bool:
    ours = disk.superblock is not None and disk.superblock.key == adopt.array
    return ours and disk.plain and disk.events == adopt.events


def _queue_of(effect: Effect) -> str:
    """As the executor: what has a queue of its own delays nothing else of the array."""
    kind = type(effect).__name__
    if isinstance(effect, WriteSuperblocks):
        return f"{kind} {effect.entry.key}"
    if isinstance(effect, Apply):
        return effect.entry.key
    if isinstance(effect, WriteNonces | EraseSuperblock | ProbeMember):
        return f"{kind} {effect.op}"
    if isinstance(effect, PrepareDevices) and not (effect.stopping or effect.readonly):
        return f"{kind} {effect.op}"
    array: str = effect.array  # type: ignore[union-attr]
    return f"{kind} {array}" if isinstance(effect, HoldRange | LimitSync) else array


def _first(mask: int) -> int:
    return SIZE_SECTORS if not mask else ((mask & -mask).bit_length() - 1) * BLOCK_SECTORS
