"""Passes in a small random world: a network that loses, doubles and reorders, followers with
failing writes, nodes that die, leave or join, writers that hand over. Checked by what really is
held, copied and recorded, not by what anybody believes.
"""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdcluster.core.arrays import Refused, apply_change, needs_sync
from mdcluster.core.effects import (
    Effect,
    HoldRange,
    LimitSync,
    MergeBits,
    SetBits,
    StartSync,
    StopSync,
    ZeroSlot,
)
from mdcluster.core.effects import Send as SendEffect
from mdcluster.core.env import Env
from mdcluster.core.events import BitsSet, Held, SlotZeroed, SyncReached, SyncStopped
from mdcluster.core.geometry import array_size_sectors, end_sectors, hold_range
from mdcluster.core.messages import Hold, HoldAck
from mdcluster.core.model import (
    ArrayChange,
    ArrayState,
    BeginSync,
    EndLife,
    EndSync,
    FailMember,
    JoinRunner,
    LeaveRunner,
    Life,
    ReplaceMember,
    SyncKind,
)
from mdcluster.core.resync import Holds, Pass, SyncLimits, resume_point
from mdcluster.core.timing import Timing
from tests.unit.core.samples import ARRAY, MIB, N1, N2, N3, N4, A, change, mirror, syncing

GRAIN = 128
"""Sectors: what the world keeps account of."""

BY_BITS = (SyncKind.RESYNC, SyncKind.BITMAP)
"""Here md takes no position: it starts at 0 and copies what its slot says."""


class Machine:
    """One node: its core parts, its md, and what really is held there."""

    def __init__(self, life: Life, seed: int) -> None:
        self.life = life
        self.env = Env(life, life.node, Timing(), seed)
        self.holds = Holds(self.env)
        self.now: Pass | None = None
        self.queue: list[Effect] = []
        self.held = (0, 0)  # array sectors
        self.stuck: set[int] = set()  # array sectors of failed writes that wait there
        self.position = 0
        self.copying: tuple[int, int] | None = None


class World:
    """torn: grains (positions) that differ between members in sync. Recorded they are by bits, in
    slots by index, or by a position of a resync. missing: what a recovering member lacks.
    """

    def __init__(self, seed: int, state: ArrayState, limits: SyncLimits):
        self.rng = random.Random(seed)
        self.state, self.limits = state, limits
        self.end = end_sectors(state)
        everything = set(range(self.end // GRAIN))
        self.torn = everything if self.kind is SyncKind.RESYNC else set()
        self.missing = everything if self.kind is SyncKind.RECOVER else set()
        self.bits: dict[int, set[int]] = {slot.index: set() for slot in state.slots}
        self.machines = {life.node: Machine(life, seed) for life in state.running}
        self.net: list[tuple[Life, Life, Hold | HoldAck]] = []
        self.now_ms, self.term, self.furthest = 1000, 1, 0
        self.proposals: list[ArrayChange] = []
        self.times: Counter[int] = Counter()  # how often each grain was copied in this pass
        self.takeovers, self.starts, self.handed_over = 0, 0, False
        self.calm = False
        self.chunk_grains = 1 if state.level == 10 else state.bitmap_chunk_sectors // GRAIN
        for slot in state.slots:
            if slot.dirty:
                self.tear(slot.index, self.rng.choice((40, 700)))
        self.lead(N1, merge_all=False)

    @property
    def kind(self) -> SyncKind | None:
        return self.state.sync.kind if self.state.sync else None

    # --- bits ---

    def tear(self, index: int, count: int) -> None:
        """Whose slot this is dies in the middle of writes: they reached some members only."""
        grains = self.rng.sample(range(self.end // GRAIN), count)
        self.torn.update(grains)
        self.bits[index].update(grains)
        for grain in grains:
            del self.times[grain]  # it is to be copied once more, rightly

    def own_bits(self, machine: Machine) -> set[int]:
        slot = self.state.slot_of(machine.life)
        assert slot is not None
        return self.bits[slot.index]

    def set_bits(self, machine: Machine, effect: SetBits | MergeBits) -> None:
        own = self.own_bits(machine)
        if isinstance(effect, SetBits):
            own.update(range(effect.lo_sectors // GRAIN, effect.hi_sectors // GRAIN))
        else:
            own.update(*(self.bits.get(index, ()) for index in effect.slots))
        self.whole_chunks(own)

    def whole_chunks(self, own: set[int]) -> None:
        """A bit stands for a chunk of the bitmap: what begins in the middle of one begins there.

        (Positions of a raid10 are taken for array sectors here: its chunks are small.)
        """
        chunk = self.chunk_grains
        own.update(*(range(g // chunk * chunk, (g // chunk + 1) * chunk) for g in set(own)))

    def next_dirty(self, machine: Machine, position: int) -> int:
        """By the own slot, whatever is copied: of a new member it says nothing."""
        left = (g * GRAIN for g in self.own_bits(machine) if g * GRAIN >= position)
        return min(left, default=self.end)

    def resume(self) -> int:
        reports = [r for m in self.machines.values() for r in m.holds.reports()]
        return resume_point(self.state, reports)

    def expect_nothing_forgotten(self) -> None:
        """What is torn stands in a slot that will be merged, or is still before the resync."""
        slots = [s for s in self.state.slots if s.dirty or self.state.sync is not None]
        recorded = set[int]().union(*(self.bits[slot.index] for slot in slots))
        start = self.resume() if self.kind is SyncKind.RESYNC else self.end
        forgotten = [g for g in self.torn - recorded if g * GRAIN < start]
        assert not forgotten, "torn, and nobody knows"

    def expect_few_copied_again(self) -> None:
        """Two windows at most at each takeover from a dead writer, a chunk at each new start.

        A writer that hands over keeps bits it cannot know to be obsolete: all bets are off.
        """
        again = sum(times - 1 for times in self.times.values())
        windows = 2 * self.takeovers * self.limits.window_max_sectors // GRAIN
        windows += self.starts * self.chunk_grains
        assert again <= windows or self.handed_over, "copied again for nothing"

    # --- roles ---

    def lead(self, life: Life, *, merge_all: bool) -> None:
        self.expect_nothing_forgotten()
        machine = self.machines[life.node]
        start = self.resume()
        assert self.furthest - start <= 2 * self.limits.window_max_sectors
        others = frozenset(self.state.running) - {life}
        machine.env.now_ms = self.now_ms
        machine.now = Pass(
            machine.env,
            self.limits,
            self.state,
            others,
            start,
            merge_all,
            term=self.term,
            propose=self.proposals.append,
        )
        machine.now.begin()
        self.writer = machine
        self.collect(machine)

    def become(self, state: ArrayState) -> None:
        """This state is committed, applied and released everywhere."""
        self.state = state
        indices = {slot.index for slot in state.slots}
        self.bits = {index: self.bits.get(index, set()) for index in indices}
        self.expect_nothing_forgotten()

    def gone(self, machine: Machine, end: EndLife | LeaveRunner) -> None:
        life = machine.life
        del self.machines[life.node]
        self.net = [m for m in self.net if life not in m[:2]]
        self.become(change(self.state, end))

    def die(self, machine: Machine) -> None:
        """It is gone for good, and fenced, in the middle of whatever it did."""
        slot = self.state.slot_of(machine.life)
        assert slot is not None
        self.tear(slot.index, 3)
        if machine is self.writer and machine.copying is not None:
            self.count(machine, *machine.copying)
        self.gone(machine, EndLife(ARRAY, machine.life))
        if machine is not self.writer:
            self.tell_writer(machine.life)
            return
        self.proposals.clear()
        self.term += 1
        self.takeovers += 1
        self.lead(self.rng.choice(self.originals()).life, merge_all=True)

    def leave(self, machine: Machine) -> None:
        """It stops in order, perhaps as a former writer that has merged bits."""
        self.gone(machine, LeaveRunner(ARRAY, machine.life))
        self.tell_writer(machine.life)

    def tell_writer(self, gone: Life) -> None:
        assert self.writer.now is not None
        self.writer.now.on_gone(gone)
        self.writer.now.on_state(self.state)
        self.collect(self.writer)

    def hand_over(self) -> None:
        old = self.writer
        assert old.now is not None
        old.now.stop()
        self.collect(old)
        while old.queue or old.copying:
            self.drive(old)
        old.holds.note(old.now.report())
        old.now = None
        self.proposals.clear()
        self.term += 1
        self.handed_over = True
        self.lead(self.rng.choice(self.originals()).life, merge_all=True)
        if old is not self.writer and len(self.originals()) > 2 and self.rng.random() < 0.5:
            self.leave(old)

    def originals(self) -> list[Machine]:
        return [m for m in self.machines.values() if m.life != N4]

    def join(self) -> None:
        assert self.writer.now is not None
        self.writer.now.suspend("a node joins")
        if self.writer.now.idle:
            self.become(change(self.state, JoinRunner(ARRAY, N4)))
            self.machines[N4.node] = Machine(N4, 4)
            self.writer.now.on_joined(N4)
        self.writer.now.resume("a node joins")
        self.collect(self.writer)

    # --- the way of effects ---

    def collect(self, machine: Machine) -> None:
        for effect in machine.env.take_effects():
            if isinstance(effect, SendEffect) and isinstance(effect.message, Hold | HoldAck):
                self.post(machine.life, effect)
            elif isinstance(
                effect,
                HoldRange | LimitSync | MergeBits | SetBits | StartSync | StopSync | ZeroSlot,
            ):
                machine.queue.append(effect)
        self.check()

    def post(self, sender: Life, effect: SendEffect) -> None:
        message = effect.message
        assert isinstance(message, Hold | HoldAck)
        target = self.machines.get(effect.to)
        if target is None:
            return
        own = target.life == sender
        for _ in range(1 if own or self.calm else self.rng.choice((0, 1, 1, 1, 1, 2))):
            self.net.append((target.life, sender, message))

    def deliver(self) -> None:
        to, sender, message = self.net.pop(self.rng.randrange(len(self.net)))
        machine = self.machines.get(to.node)
        if machine is None or message.term < self.term:
            return
        if isinstance(message, Hold):
            machine.holds.on_hold(sender, message)
        elif machine.now is not None:
            machine.now.on_hold_ack(sender, message)
        self.collect(machine)

    def drive(self, machine: Machine) -> None:
        """The next step of this machine's md."""
        if machine.copying is not None and self.cut_short(machine):
            machine.copying = None  # without an answer of its own
        if machine.copying is not None:
            self.copy_ends(machine, machine.copying)
            return
        effect = machine.queue.pop(0)
        now = machine.now
        if isinstance(effect, HoldRange):
            machine.held = (effect.lo_sectors, effect.hi_sectors)
            machine.holds.on_held(Held(ARRAY, *machine.held, not machine.stuck, ""))
        elif isinstance(effect, StartSync):
            machine.position = 0 if effect.kind in BY_BITS else effect.position_sectors
            self.whole_chunks(self.own_bits(machine))
            self.starts += 1
        elif isinstance(effect, LimitSync):
            machine.copying = (machine.position, effect.hi_sectors)
            self.furthest = max(self.furthest, effect.hi_sectors)
        elif now is None:
            pass
        elif isinstance(effect, SetBits | MergeBits):
            problem = "EIO" if self.bad(0.2) else ""
            if not problem:
                self.set_bits(machine, effect)
            dirty = self.next_dirty(machine, 0)
            now.on_bits_set(BitsSet(ARRAY, effect.serial, dirty, problem))
        elif isinstance(effect, StopSync):
            now.on_sync_stopped(SyncStopped(ARRAY, effect.serial))
        elif isinstance(effect, ZeroSlot):
            problem = "EIO" if self.bad(0.3) else ""
            if not problem:
                self.bits[effect.index].clear()
                self.expect_nothing_forgotten()
            now.on_slot_zeroed(SlotZeroed(ARRAY, effect.life, problem))
        self.collect(machine)

    def copy_ends(self, machine: Machine, step: tuple[int, int]) -> None:
        lo, hi = step
        machine.copying = None
        problem = "EIO" if self.bad(0.1) else ""
        short = 1 if not problem and self.bad(0.05) else 0
        if not problem and not short:
            machine.position = hi
            self.copied(machine, lo, hi)
        if machine.now is not None:
            serial = machine.now.serial
            dirty = self.next_dirty(machine, hi)
            reached = SyncReached(ARRAY, serial, hi, 9, 9 - short, dirty, problem)
            machine.now.on_sync_reached(reached)
        self.collect(machine)

    def cut_short(self, machine: Machine) -> bool:
        return any(isinstance(e, StopSync) for e in machine.queue) and self.rng.random() < 0.5

    def count(self, machine: Machine, lo: int, hi: int) -> set[int]:
        """What a sync copies there: all for a new member, else what the own slot says."""
        grains = self.step_of(machine, lo, hi)
        self.times.update(grains)
        return grains

    def step_of(self, machine: Machine, lo: int, hi: int) -> set[int]:
        step = set(range(lo // GRAIN, hi // GRAIN))
        return step if self.kind is SyncKind.RECOVER else step & self.own_bits(machine)

    def copied(self, machine: Machine, lo: int, hi: int) -> None:
        grains = self.count(machine, lo, hi)
        if self.kind is SyncKind.RECOVER:
            self.missing -= grains
        else:
            self.torn -= grains
            self.own_bits(machine).difference_update(grains)

    def bad(self, chance: float) -> bool:
        return not self.calm and self.rng.random() < chance

    def tick(self) -> None:
        for machine in list(self.machines.values()):
            machine.env.now_ms = self.now_ms
            for key in machine.env.timers.take_due(self.now_ms):
                if machine.now is not None:
                    machine.now.on_timer(key)
            self.collect(machine)

    # --- what must hold ---

    def check(self) -> None:
        for machine in self.machines.values():
            if machine.copying is None:
                continue
            copied = self.step_of(machine, *machine.copying)
            if not copied:
                continue
            lo, hi = min(copied) * GRAIN, (max(copied) + 1) * GRAIN
            lo, hi = hold_range(self.state, lo, hi)
            for other in self.machines.values():
                if other is machine:
                    continue
                assert other.held[0] <= lo and hi <= other.held[1], "copied what is not held"
                assert not any(lo <= s < hi for s in other.stuck), "copied over a held write"

    def commit(self) -> bool:
        """The next proposal becomes state, applied and released everywhere. Whether all is done."""
        one = self.proposals.pop(0)
        if isinstance(one, EndSync):
            self.expect_few_copied_again()
            if self.kind is SyncKind.RECOVER:
                assert not self.missing, "a range was skipped"
                whole = (0, array_size_sectors(self.state))
                assert all(m.held == whole for m in self.machines.values())
        result = apply_change(self.state, one, others=())
        assert not isinstance(result, Refused), result
        self.become(result)
        assert self.writer.now is not None
        self.writer.now.on_state(result)
        for machine in self.machines.values():
            machine.holds.on_state(result)
            self.collect(machine)
        return isinstance(one, EndSync) and not self.next_pass()

    def next_pass(self) -> bool:
        """The bits of nodes that died in the middle of the last pass."""
        kind = needs_sync(self.state)
        if kind is None:
            assert not self.torn, "a range was skipped"
            return False
        self.proposals.clear()
        self.state = change(self.state, BeginSync(ARRAY, kind))
        self.furthest, self.takeovers, self.starts = 0, 0, 0
        self.times.clear()
        self.lead(self.writer.life, merge_all=False)
        return True

    # --- the run ---

    def trouble(self) -> None:
        """A write fails, or a failure is committed and released; a node joins or goes."""
        roll = self.rng.random()
        machine = self.rng.choice(list(self.machines.values()))
        if roll < 0.55 and machine is not self.writer:
            sector = self.rng.randrange(array_size_sectors(self.state))
            if not machine.held[0] <= sector < machine.held[1]:
                machine.stuck.add(sector)
        elif roll < 0.90:
            machine.stuck.clear()
        elif roll < 0.93 and self.state.slot_of(N4) is None:
            self.join()
        elif roll < 0.96 and len(self.originals()) > 2:
            self.die(self.rng.choice((self.writer, machine)))
        elif roll < 0.97 and len(self.originals()) > 2 and machine is not self.writer:
            self.leave(machine)
        elif roll < 0.985:
            self.hand_over()

    def step(self) -> bool:
        self.now_ms += self.rng.choice((0, 0, 1, 3, 20))
        self.tick()
        if not self.calm and self.rng.random() < 0.05:
            self.trouble()
        busy = [m for m in self.machines.values() if m.queue or m.copying]
        choices = ["drive"] * bool(busy) + ["deliver"] * bool(self.net)
        choices += ["commit"] * bool(self.proposals)
        if not choices:
            waits = [t for m in self.machines.values() if (t := m.env.timers.next_ms) is not None]
            self.now_ms = max(self.now_ms, min(waits, default=self.now_ms))
            return False
        what = self.rng.choice(choices)
        if what == "drive":
            self.drive(self.rng.choice(busy))
        elif what == "deliver":
            self.deliver()
        else:
            return self.commit()
        return False

    def run(self) -> None:
        for count in range(20_000):
            self.calm = count > 1500
            if self.calm:
                for machine in self.machines.values():
                    machine.stuck.clear()
            if self.step():
                break
        else:
            raise AssertionError(f"no end: {self.writer.now and self.writer.now.waiting()}")
        self.calm = True
        while any(m.queue for m in self.machines.values()) or self.net:
            self.step()
        assert all(m.held == (0, 0) for m in self.machines.values()), "a hold was forgotten"


def start_of(kind: SyncKind, level: int) -> ArrayState:
    state = mirror(level=level, spares=1, clean=kind is not SyncKind.RESYNC)
    if kind is SyncKind.RECOVER:
        state = change(state, FailMember(ARRAY, A, ""))
    if kind is SyncKind.BITMAP:
        gone = Life(N4.node, "an earlier boot")
        state = change(state, JoinRunner(ARRAY, gone), EndLife(ARRAY, gone))
    assert state.running == (N1, N2, N3)
    return syncing(state, kind)


@pytest.mark.parametrize("level", [1, 10])
@pytest.mark.parametrize("kind", [SyncKind.RESYNC, SyncKind.RECOVER, SyncKind.BITMAP])
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 32),
    speed_kib=st.sampled_from([0, 0, 40_000]),
    chunk=st.sampled_from([MIB, 16 * MIB]),
)
def test_no_world_breaks_a_pass(
    kind: SyncKind, level: int, seed: int, speed_kib: int, chunk: int
) -> None:
    """chunk: of the bitmap, smaller or larger than all windows."""
    limits = SyncLimits(2 * MIB, 8 * MIB, 4 * MIB, speed_kib)
    World(seed, replace(start_of(kind, level), bitmap_chunk_sectors=chunk), limits).run()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32), speed_kib=st.sampled_from([0, 40_000]))
def test_no_world_breaks_a_replacement(seed: int, speed_kib: int) -> None:
    state = change(mirror(spares=1), ReplaceMember(ARRAY, A))
    limits = SyncLimits(2 * MIB, 8 * MIB, 4 * MIB, speed_kib)
    World(seed, syncing(state, SyncKind.RECOVER), limits).run()
