"""The members and the md of one host: what each effect that takes time does, and its event.

A small model: who runs what, what is held, which failed writes are held, bits, and how far a
sync has copied. `problem` is what a script wants to go wrong ('' if nothing).
"""

from collections.abc import Callable
from typing import Any

from mdcluster.core import effects as fx
from mdcluster.core import events as ev
from mdcluster.core.geometry import end_sectors
from mdcluster.core.holds import WHOLE_SECTORS
from mdcluster.core.model import LOOKING, ZERO, ArrayId, ArrayState, DeviceId, SyncKind
from tests.scenarios import words
from tests.scenarios.script import ScenarioError
from tests.scenarios.words import MIB
from tests.scenarios.world import Disk, Peer, World


class Md(Peer):
    """One method per effect: carried out at once, when its time has come."""

    world: World

    def reset_md(self) -> None:
        self.runs_md = False
        self.md = {}
        self.holds = {}
        self.holding_all = False
        self.blocked: dict[ArrayId, set[DeviceId]] = {}
        self.pending: set[ArrayId] = set()  # write-pending since a failure, until `active`
        self.unseen: set[ArrayId] = set()  # arrays with a failed write md has not reported
        self.syncing: dict[ArrayId, tuple[SyncKind, int]] = {}
        self.busy_arrays: set[ArrayId] = set()
        self.shut: dict[int, ArrayId] = {}  # read-only as prepared, by op

    def inherit(self) -> tuple[ArrayId, ...]:
        """A new daemon takes over what runs: all of it held, nothing copied."""
        for array in self.md:
            self.holds[array] = (0, WHOLE_SECTORS)
        self.syncing.clear()
        return tuple(self.md)

    def still_blocked(self) -> list[tuple[ArrayId, DeviceId]]:
        """Members that hold writes, which md tells a new daemon again."""
        return [(array, device) for array in self.md for device in self.blocked.get(array, ())]

    # --- the members -----------------------------------------------------------------------

    def disk(self, device: DeviceId) -> Disk:
        return self.world.disks[device]

    def _write_superblocks(self, effect: fx.WriteSuperblocks, problem: str) -> ev.Event:
        entry = effect.entry
        assert isinstance(entry.state, ArrayState)
        array, written, failed = entry.state.uuid, [], []
        for member in entry.state.writable if self.gate_open else ():
            disk = self.disk(member.device)
            if not disk.works_for(self.name):
                failed.append((member.device, "I/O error"))
            elif disk.plain and not disk.nonce and not entry.state.released:
                failed.append((member.device, "its superblock is plain: it is not ours"))
            else:
                if not (disk.plain and entry.state.released):
                    disk.stamp, disk.plain, disk.nonce = entry.stamp, entry.state.released, b""
                written.append(member.device)
        return ev.SuperblocksWritten(array, entry.stamp, tuple(written), tuple(failed))

    def _write_nonces(self, effect: fx.WriteNonces, problem: str) -> ev.Event:
        nonces = []
        for member in effect.members:
            disk = self.disk(member.device)
            if not disk.works_for(self.name):
                problem = f"{member.path}: I/O error"
            disk.nonce = f"{effect.op}/{member.device}".encode()
            nonces.append((member.device, disk.nonce))
        problem = problem or ("" if self.gate_open else "the gate is shut")
        return ev.NoncesWritten(effect.op, problem, () if problem else tuple(nonces))

    def _erase(self, effect: fx.EraseSuperblock, problem: str) -> ev.Event:
        disk = self.disk(effect.device)
        if not (problem or self.gate_open):
            problem = "the gate is shut"
        if not problem:
            disk.stamp, disk.nonce = ZERO, b""
        return ev.Erased(effect.op, problem)

    def drop_nonces(self, op: int) -> None:
        for disk in self.world.disks.values():
            if disk.nonce.startswith(f"{op}/".encode()):
                disk.nonce = b""

    def _prepare(self, effect: fx.PrepareDevices, problem: str) -> ev.Event:
        found, missing = [], []
        if (effect.stopping or effect.readonly) and effect.array in self.busy_arrays:
            problem = "the array is open by 1 client(s)"
        elif effect.readonly:
            self.shut[effect.op] = effect.array
        for claim in effect.claims:
            disk = self.disk(claim.device)
            if not disk.works_for(self.name):
                missing.append((claim.device, "I/O error"))
            elif claim.nonce and (self.name in disk.wrong_at or disk.nonce != claim.nonce):
                missing.append((claim.device, "another nonce stands there"))
            else:
                found.append((claim.device, ZERO if claim.nonce else disk.stamp))
        return ev.Prepared(effect.op, problem, tuple(found), tuple(missing))

    def _probe(self, effect: fx.ProbeMember, problem: str) -> ev.Event:
        works = self.disk(effect.device).works_for(self.name)
        return ev.Probed(effect.op, problem or ("" if works else "I/O error"))

    # --- md --------------------------------------------------------------------------------

    def clean(self, array: ArrayId) -> bool:
        return not self.blocked.get(array) and array not in self.unseen

    def _apply(self, effect: fx.Apply, problem: str) -> ev.Event:
        state = effect.entry.state
        assert isinstance(state, ArrayState)
        if not problem and self.life in state.running:
            self.md[state.uuid] = state
            if state.readonly or not any(op >> 32 >= effect.entry.stamp.term for op in self.shut):
                self.shut = {op: a for op, a in self.shut.items() if a != state.uuid}
        elif not problem:
            self.md.pop(state.uuid, None)
            self.holds.pop(state.uuid, None)
        return ev.Applied(effect.entry.key, effect.entry.stamp, problem)

    def _leave(self, effect: fx.LeaveArray, problem: str) -> ev.Event:
        if effect.array in self.busy_arrays and not effect.force:
            return ev.ArrayKept(effect.array, "it is open by 1 client(s)")
        self.md.pop(effect.array, None)
        clean = self.clean(effect.array)
        self.blocked.pop(effect.array, None)  # what was held has failed
        self.pending.discard(effect.array)
        self.unseen.discard(effect.array)
        return ev.ArrayLeft(effect.array, clean)

    def _unblock(self, effect: fx.Unblock, problem: str) -> None:
        self.blocked.get(effect.array, set()).difference_update(effect.devices)

    def _sample(self, effect: fx.SampleStates, problem: str) -> ev.Event:
        clean = self.clean(effect.array)
        return ev.Sampled(effect.array, clean, "" if clean else "writes are held")

    def _activate(self, effect: fx.Activate, problem: str) -> None:
        if not self.clean(effect.array):
            raise ScenarioError(f"{self.name}: `active` while a failed write is held")
        self.pending.discard(effect.array)

    def _hold(self, effect: fx.HoldRange, problem: str) -> ev.Event:
        lo, hi = effect.lo_sectors, effect.hi_sectors
        if not problem:
            self.holds[effect.array] = (lo, hi)
        clean = self.clean(effect.array) and effect.array not in self.pending
        return ev.Held(effect.array, lo, hi, clean, problem, hung=problem == "hung")

    def _pin(self, effect: fx.PinReads, problem: str) -> None:
        return

    # --- bits and copying ------------------------------------------------------------------

    def own_bits(self, array: ArrayId) -> set[int]:
        slot = self.md[array].slot_of(self.life)
        if slot is None:
            raise ScenarioError(f"{self.name} runs {array} without a slot")
        return self.world.bits.setdefault((array, slot.index), set())

    def _next_dirty(self, array: ArrayId, from_sectors: int) -> int:
        chunks = [c * MIB for c in self.own_bits(array) if c * MIB >= from_sectors]
        return min(chunks, default=end_sectors(self.md[array]))

    def _set_bits(self, effect: fx.SetBits, problem: str) -> ev.Event:
        if not problem:
            self.own_bits(effect.array).update(
                range(effect.lo_sectors // MIB, -(-effect.hi_sectors // MIB))
            )
        return ev.BitsSet(effect.array, effect.serial, self._next_dirty(effect.array, 0), problem)

    def _merge_bits(self, effect: fx.MergeBits, problem: str) -> ev.Event:
        for index in effect.slots if not problem else ():
            self.own_bits(effect.array).update(self.world.bits.get((effect.array, index), ()))
        return ev.BitsSet(effect.array, effect.serial, self._next_dirty(effect.array, 0), problem)

    def _zero_slot(self, effect: fx.ZeroSlot, problem: str) -> ev.Event:
        if not problem:
            self.world.bits.pop((effect.array, effect.index), None)
        return ev.SlotZeroed(effect.array, effect.life, problem)

    def _start_sync(self, effect: fx.StartSync, problem: str) -> None:
        by_position = effect.kind is SyncKind.RECOVER
        position = effect.position_sectors if by_position else 0
        self.syncing[effect.array] = (effect.kind, position)

    def _limit_sync(self, effect: fx.LimitSync, problem: str) -> ev.Event:
        array, hi = effect.array, effect.hi_sectors
        kind, lo = self.syncing.get(array, (SyncKind.RESYNC, hi))
        problem = problem or ("" if self.gate_open else "the gate is shut")
        short = problem == "short"
        if problem and not short:
            return ev.SyncReached(array, effect.serial, lo, 0, 0, lo, problem)
        # md passes by what is clean; with a bitmap it takes no position: it starts at 0
        dirty = {c for c in self.own_bits(array) if lo <= c * MIB < hi}
        by_bits = kind not in LOOKING and (kind is not SyncKind.RECOVER or dirty)
        planned = len(dirty) * MIB if by_bits else hi - lo
        differing = self.world.differing.setdefault(array, set())
        found = {c for c in differing if lo <= c * MIB < hi} if kind in LOOKING else set()
        if not by_bits:
            self.world.check_copy(self, array, lo, hi)
        elif dirty:
            self.world.check_copy(self, array, min(dirty) * MIB, (max(dirty) + 1) * MIB)
        if not short:
            self.own_bits(array).difference_update(dirty)
            self.syncing[array] = (kind, hi)
        if kind is SyncKind.REPAIR:
            differing -= found
        first = lo if not by_bits else min(dirty, default=hi // MIB) * MIB
        verb = "compared" if kind in LOOKING else "copied"
        span = words.span(first, hi)
        self.world.note(f"{self.life.node}: {verb} {planned // MIB} MiB of {span}")
        copied = planned - MIB if short else planned
        after = self._next_dirty(array, hi)
        mismatched = len(found) * MIB
        return ev.SyncReached(array, effect.serial, hi, planned, copied, after, "", mismatched)

    def _stop_sync(self, effect: fx.StopSync, problem: str) -> ev.Event:
        self.syncing.pop(effect.array, None)
        return ev.SyncStopped(effect.array, effect.serial)


CARRY_OUT: dict[type, Callable[[Any, Any, str], ev.Event | None]] = {
    fx.WriteSuperblocks: Md._write_superblocks,
    fx.WriteNonces: Md._write_nonces,
    fx.EraseSuperblock: Md._erase,
    fx.PrepareDevices: Md._prepare,
    fx.ProbeMember: Md._probe,
    fx.Apply: Md._apply,
    fx.LeaveArray: Md._leave,
    fx.Unblock: Md._unblock,
    fx.SampleStates: Md._sample,
    fx.Activate: Md._activate,
    fx.HoldRange: Md._hold,
    fx.PinReads: Md._pin,
    fx.SetBits: Md._set_bits,
    fx.MergeBits: Md._merge_bits,
    fx.ZeroSlot: Md._zero_slot,
    fx.StartSync: Md._start_sync,
    fx.LimitSync: Md._limit_sync,
    fx.StopSync: Md._stop_sync,
}
