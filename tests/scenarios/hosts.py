"""One host of a scenario: a core, its lane, its state directory, and a small md.

Effects are carried out as :mod:`mdcluster.core.effects` promises; each kind of effect can be
parked, so that a script says when, and how, it completes.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from mdcluster.core import effects as fx
from mdcluster.core import events as ev
from mdcluster.core.geometry import end_sectors
from mdcluster.core.model import (
    ZERO,
    ArrayId,
    ArrayState,
    DeviceId,
    Entry,
    Life,
    NodeId,
    Promise,
    Stamp,
    SyncKind,
)
from mdcluster.core.node import Node
from mdcluster.core.timing import Timing
from mdcluster.core.windows import SyncLimits
from tests.scenarios import words
from tests.scenarios.script import ScenarioError
from tests.scenarios.words import MIB
from tests.scenarios.world import STEP_MS, Parcel, Peer, World

AT_ONCE = (fx.SetTimer, fx.OpenGate, fx.ShutGate, fx.Answer, fx.Notify, fx.Stopped)


class Host(Peer):
    """`name` is the node's UUID as well; a second life has boot id 2, and so on."""

    def __init__(
        self, world: World, name: str, lines: tuple[ev.Line, ...], local_fault: str, seed: int
    ) -> None:
        self.world, self.name, self.lines = world, name, lines
        self.local_fault, self.seed = local_fault, seed
        self.digest = ",".join(x.name for x in lines)
        self.node, self.boots = NodeId(name), 0
        self.life = Life(self.node, "0")
        self.core = None
        self.frozen = False
        self.limits = SyncLimits()
        self.wipe()
        self._reset()

    def wipe(self) -> None:
        """An empty state directory."""
        self.promise = Promise(0, None)
        self.entries: dict[str, Entry] = {}
        self.projected: dict[str, Stamp] = {}

    def _reset(self) -> None:
        self.gate_until_ms = 0
        self.gate_term = 0
        self.timer_ms: int | None = None
        self.inbox: deque[ev.Event] = deque()
        self.lane: deque[fx.Effect] = deque()
        self.lane_busy = False
        self.stalled = False
        self.queues: dict[tuple[str, str], deque[fx.Effect]] = {}
        self.busy: set[tuple[str, str]] = set()
        self.parking: set[str] = set()
        self.parked: list[tuple[tuple[str, str], fx.Effect]] = []
        self.md = {}
        self.holds = {}
        self.holding_all = False
        self.blocked: dict[ArrayId, set[DeviceId]] = {}
        self.pending: set[ArrayId] = set()  # write-pending since a failure, until `active`
        self.unseen: set[ArrayId] = set()  # arrays with a failed write md has not reported
        self.syncing: dict[ArrayId, tuple[SyncKind, int]] = {}
        self.problems: dict[str, str] = {}  # kind of effect -> what goes wrong with the next
        self.busy_arrays: set[ArrayId] = set()

    # --- life ----------------------------------------------------------------------------

    def start(self) -> None:
        self.boots += 1
        self.life = Life(self.node, str(self.boots))
        self._reset()
        self.core = Node(
            self.life,
            self.name,
            Timing(),
            self.lines,
            self.digest,
            self.seed,
            spectator=any(x.name == self.name and x.spectator for x in self.lines),
            promise=self.promise,
            entries=tuple(self.entries.values()),
            projected=self.projected,
            cluster_name="scenario",
            now_ms=self.world.now_ms,
            local_fault=self.local_fault,
            limits=self.limits,
        )
        self.take(self.core.start())
        self.world.host_up(self)

    def kill(self) -> None:
        self.core, self.frozen = None, False
        self.world.host_down(self)
        self._reset()

    def thaw(self) -> None:
        self.frozen = False
        waiting, self.inbox = self.inbox, deque()
        for event in waiting:
            self.event(event)
        self.event(ev.Tick())
        self._run_lane()

    @property
    def gate_open(self) -> bool:
        return self.world.now_ms < self.gate_until_ms

    def event(self, event: Any) -> None:
        if self.core is None:
            return
        if self.frozen:
            self.inbox.append(event)
            return
        self.take(self.core.step(event, self.world.now_ms))

    # --- the lane ------------------------------------------------------------------------

    def take(self, effects: list[fx.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, AT_ONCE):
                self._at_once(effect)
            elif isinstance(effect, fx.Send) and effect.urgent:
                self._send(effect)
            else:
                self.lane.append(effect)
        self._run_lane()

    def _at_once(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.SetTimer):
            if effect.at_ms != self.timer_ms:
                self.timer_ms = effect.at_ms
                life = self.life
                delay_ms = max(effect.at_ms - self.world.now_ms, 0)
                self.world.later(delay_ms, lambda: self._tick(life, effect.at_ms))
            return
        if isinstance(effect, fx.OpenGate):
            known = self.gate_open and self.gate_term == effect.term
            self.gate_term, self.gate_until_ms = effect.term, effect.until_ms
            if known:
                return
        if isinstance(effect, fx.ShutGate):
            self.gate_until_ms = 0
        self._note(effect)

    def _tick(self, life: Life, at_ms: int) -> None:
        if life == self.life and self.timer_ms == at_ms:
            self.timer_ms = None
            self.event(ev.Tick())

    def _note(self, effect: fx.Effect) -> None:
        self.world.note(f"{self.node}: {words.effect(effect)}")

    def _send(self, effect: fx.Send) -> None:
        parcel = Parcel(self.life, effect.to, effect.message)
        self.world.note(parcel.text)
        self.world.send(parcel)

    def _run_lane(self) -> None:
        while self.lane and not self.lane_busy and not self.frozen:
            effect = self.lane[0]
            if isinstance(effect, fx.PersistPromise | fx.PersistEntry):
                if self.stalled:
                    return
                self.lane_busy = True
                life = self.life
                self.world.later(STEP_MS, lambda: self._persisted(life))
                return
            self.lane.popleft()
            self._begin(effect)

    def _persisted(self, life: Life) -> None:
        if life != self.life or self.core is None:
            return
        effect = self.lane.popleft()
        self._note(effect)
        self.lane_busy = False
        if isinstance(effect, fx.PersistPromise):
            if effect.promise.term < self.promise.term:
                raise ScenarioError(f"{self.name}: its promise goes back: {effect.promise}")
            self.promise = effect.promise
        elif isinstance(effect, fx.PersistEntry):
            key = effect.entry.key
            if key in self.entries and effect.entry.stamp < self.entries[key].stamp:
                raise ScenarioError(f"{self.name}: {key} goes back to {effect.entry.stamp}")
            self.entries[key] = effect.entry
            self.projected[key] = effect.projected
        self._run_lane()

    def _begin(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.Send):
            self._send(effect)
        elif isinstance(effect, fx.HoldAll):
            self.holding_all = effect.on
            self._note(effect)
        elif isinstance(effect, fx.DropNonces | fx.ForgetPrepared):
            self._note(effect)
        elif isinstance(effect, fx.Fence):
            self._note(effect)
            self._later(lambda: self._fence(effect))
        else:
            self._queue(effect)

    def _fence(self, effect: fx.Fence) -> None:
        if effect.life in self.world.fence_works:
            self.event(ev.Fenced(effect.life, "it has ended"))
        else:
            self.event(ev.FenceWaits(effect.life, "no fence provider confirms it"))

    def _later(self, call: Callable[[], None]) -> None:
        life = self.life

        def alive() -> None:
            if self.core is not None and life == self.life:
                call()

        self.world.later(STEP_MS, alive)

    # --- effects that take time ------------------------------------------------------------

    @staticmethod
    def _key(effect: Any) -> tuple[str, str]:
        """What is carried out one after the other (as mdcluster.executor does)."""
        lanes = {"WriteSuperblocks": "meta", "HoldRange": "hold", "LimitSync": "sync"}
        kind = type(effect).__name__
        if isinstance(effect, fx.WriteNonces | fx.PrepareDevices | fx.ProbeMember):
            return kind, str(effect.op)
        array = effect.entry.key if hasattr(effect, "entry") else effect.array
        return lanes.get(kind, "md"), str(array)

    def _queue(self, effect: fx.Effect) -> None:
        self._note(effect)
        key = self._key(effect)
        if isinstance(effect, fx.StopSync):
            self._interrupt(effect.array)
        self.queues.setdefault(key, deque()).append(effect)
        self._next(key)

    def _interrupt(self, array: ArrayId) -> None:
        """What was to be copied before a StopSync is void."""
        for item in [x for x in self.parked if isinstance(x[1], fx.LimitSync)]:
            if item[1].array == array:  # type: ignore[union-attr]
                self.complete(item, "interrupted")

    def _next(self, key: tuple[str, str]) -> None:
        if key in self.busy or not self.queues[key]:
            return
        self.busy.add(key)
        effect = self.queues[key].popleft()
        if type(effect).__name__ in self.parking:
            self.parked.append((key, effect))
        else:
            self._later(lambda: self._done(key, effect, ""))

    def _done(self, key: tuple[str, str], effect: fx.Effect, problem: str) -> None:
        self.busy.discard(key)
        problem = problem or self.problems.pop(type(effect).__name__, "")
        event = _CARRY_OUT[type(effect)](self, effect, problem)
        self._next(key)
        if event is not None:
            self.event(event)

    def complete(self, item: tuple[tuple[str, str], fx.Effect], problem: str) -> None:
        self.parked.remove(item)
        self._done(item[0], item[1], problem)

    # --- the members -----------------------------------------------------------------------

    def disk(self, device: DeviceId) -> Any:
        return self.world.disks[device]

    def _write_superblocks(self, effect: fx.WriteSuperblocks, problem: str) -> ev.Event:
        entry = effect.entry
        assert isinstance(entry.state, ArrayState)
        array, written, failed = entry.state.uuid, [], []
        if self.gate_open:
            for member in entry.state.writable:
                if self.disk(member.device).works_for(self.name):
                    self.disk(member.device).stamp = entry.stamp
                    written.append(member.device)
                else:
                    failed.append((member.device, "I/O error"))
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

    def _prepare(self, effect: fx.PrepareDevices, problem: str) -> ev.Event:
        found, missing = [], []
        if effect.stopping and effect.array in self.busy_arrays:
            problem = "the array is open by 1 client(s)"
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
        elif not problem:
            self.md.pop(state.uuid, None)
            self.holds.pop(state.uuid, None)
        return ev.Applied(effect.entry.key, effect.entry.stamp, problem)

    def _leave(self, effect: fx.LeaveArray, problem: str) -> ev.Event:
        self.md.pop(effect.array, None)
        return ev.ArrayLeft(effect.array, self.clean(effect.array))

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
        return ev.Held(effect.array, lo, hi, clean, problem)

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
        self.syncing[effect.array] = (effect.kind, effect.position_sectors)

    def _limit_sync(self, effect: fx.LimitSync, problem: str) -> ev.Event:
        array, hi = effect.array, effect.hi_sectors
        kind, lo = self.syncing.get(array, (SyncKind.RESYNC, hi))
        problem = problem or ("" if self.gate_open else "the gate is shut")
        short = problem == "short"
        if problem and not short:
            return ev.SyncReached(array, effect.serial, lo, 0, 0, lo, problem)
        self.world.check_copy(self, array, lo, hi)
        dirty = {c for c in self.own_bits(array) if lo <= c * MIB < hi}
        by_bits = kind is not SyncKind.RECOVER or dirty
        planned = len(dirty) * MIB if by_bits else hi - lo
        if not short:
            self.own_bits(array).difference_update(dirty)
            self.syncing[array] = (kind, hi)
        self.world.note(f"{self.node}: copied {planned // MIB} MiB of {words.span(lo, hi)}")
        copied = planned - MIB if short else planned
        after = self._next_dirty(array, hi)
        return ev.SyncReached(array, effect.serial, hi, planned, copied, after, "")

    def _stop_sync(self, effect: fx.StopSync, problem: str) -> ev.Event:
        self.syncing.pop(effect.array, None)
        return ev.SyncStopped(effect.array, effect.serial)


_CARRY_OUT: dict[type, Callable[[Host, Any, str], ev.Event | None]] = {
    fx.WriteSuperblocks: Host._write_superblocks,
    fx.WriteNonces: Host._write_nonces,
    fx.PrepareDevices: Host._prepare,
    fx.ProbeMember: Host._probe,
    fx.Apply: Host._apply,
    fx.LeaveArray: Host._leave,
    fx.Unblock: Host._unblock,
    fx.SampleStates: Host._sample,
    fx.Activate: Host._activate,
    fx.HoldRange: Host._hold,
    fx.PinReads: Host._pin,
    fx.SetBits: Host._set_bits,
    fx.MergeBits: Host._merge_bits,
    fx.ZeroSlot: Host._zero_slot,
    fx.StartSync: Host._start_sync,
    fx.LimitSync: Host._limit_sync,
    fx.StopSync: Host._stop_sync,
}
