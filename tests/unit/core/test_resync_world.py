"""Passes in a small random world: a network that loses, doubles and reorders, followers with
failing writes, writers that die or hand over, nodes that join. Checked by what really is held
and copied, not by what anybody believes.
"""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdcluster.core.arrays import Refused, apply_change
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
    Life,
    SyncKind,
)
from mdcluster.core.resync import Holds, Pass, SyncLimits, resume_point
from mdcluster.core.timing import Timing
from tests.unit.core.samples import ARRAY, MIB, N1, N2, N3, N4, A, change, mirror, syncing

GRAIN = 128
"""Sectors: what the world keeps account of."""

LIMITS = SyncLimits(2 * MIB, 8 * MIB, 4 * MIB)


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
    def __init__(self, seed: int, state: ArrayState, dirty: set[int] | None, limits: SyncLimits):
        self.rng = random.Random(seed)
        self.state, self.limits = state, limits
        self.end = end_sectors(state)
        self.dirty = set(range(self.end // GRAIN)) if dirty is None else dirty
        self.by_bits = dirty is not None
        self.copied: set[int] = set()
        self.times: Counter[int] = Counter()
        self.machines = {life.node: Machine(life, seed) for life in state.running}
        self.net: list[tuple[Life, Life, Hold | HoldAck]] = []
        self.now_ms, self.term, self.furthest = 1000, 1, 0
        self.proposals: list[ArrayChange] = []
        self.calm = False
        self.lead(N1, merge_all=False)

    # --- roles ---

    def lead(self, life: Life, *, merge_all: bool) -> None:
        machine = self.machines[life.node]
        reports = [r for m in self.machines.values() for r in m.holds.reports()]
        start = resume_point(self.state, reports)
        assert all(g in self.copied or g not in self.dirty for g in range(start // GRAIN))
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

    def die(self) -> None:
        """The writer is gone for good, and fenced, in the middle of whatever it did."""
        dead = self.writer.life
        del self.machines[dead.node]
        self.proposals.clear()
        self.net = [m for m in self.net if dead not in m[:2]]
        kind = self.state.sync.kind if self.state.sync else None
        self.state = change(self.state, EndLife(ARRAY, dead))
        self.term += 1
        begun = self.state.sync is None and kind is not None
        if begun and kind is not None:  # more bits than the pass had merged: all over again
            self.state = change(self.state, BeginSync(ARRAY, kind))
            self.furthest = 0
            self.copied.clear()
            self.times.clear()
        self.lead(self.rng.choice(self.originals()).life, merge_all=not begun)

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
        self.lead(self.rng.choice(self.originals()).life, merge_all=True)

    def originals(self) -> list[Machine]:
        return [m for m in self.machines.values() if m.life != N4]

    def join(self) -> None:
        assert self.writer.now is not None
        self.writer.now.suspend("a node joins")
        if self.writer.now.idle:
            self.state = change(self.state, JoinRunner(ARRAY, N4))
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
            machine.position = effect.position_sectors
        elif isinstance(effect, LimitSync):
            machine.copying = (machine.position, effect.hi_sectors)
            self.furthest = max(self.furthest, effect.hi_sectors)
        elif now is None:
            pass
        elif isinstance(effect, SetBits | MergeBits):
            problem = "EIO" if self.bad(0.2) else ""
            now.on_bits_set(BitsSet(ARRAY, effect.serial, self.next_dirty(0), problem))
        elif isinstance(effect, StopSync):
            now.on_sync_stopped(SyncStopped(ARRAY, effect.serial))
        elif isinstance(effect, ZeroSlot):
            self.expect_all_copied()
            now.on_slot_zeroed(SlotZeroed(ARRAY, effect.life, "EIO" if self.bad(0.3) else ""))
        self.collect(machine)

    def copy_ends(self, machine: Machine, step: tuple[int, int]) -> None:
        lo, hi = step
        machine.copying = None
        problem = "EIO" if self.bad(0.1) else ""
        short = 1 if not problem and self.bad(0.05) else 0
        if not problem and not short:
            machine.position = hi
            done = [g for g in range(lo // GRAIN, hi // GRAIN) if g in self.dirty]
            self.copied.update(done)
            self.times.update(done)
        if machine.now is not None:
            serial = machine.now.serial
            reached = SyncReached(ARRAY, serial, hi, 9, 9 - short, self.next_dirty(hi), problem)
            machine.now.on_sync_reached(reached)
        self.collect(machine)

    def cut_short(self, machine: Machine) -> bool:
        return any(isinstance(e, StopSync) for e in machine.queue) and self.rng.random() < 0.5

    def next_dirty(self, position: int) -> int:
        """As md sees it: only where a bitmap says what is clean."""
        if not self.by_bits:
            return self.end if self.rng.random() < 0.2 else position  # nonsense, to be ignored
        left = [g * GRAIN for g in self.dirty if g * GRAIN >= position and g not in self.copied]
        return max(min(left, default=self.end), position)

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
            lo, hi = hold_range(self.state, *machine.copying)
            for other in self.machines.values():
                if other is machine:
                    continue
                assert other.held[0] <= lo and hi <= other.held[1], "copied what is not held"
                assert not any(lo <= s < hi for s in other.stuck), "copied over a held write"

    def expect_all_copied(self) -> None:
        assert self.dirty <= self.copied, "a range was skipped"

    def commit(self) -> bool:
        """The next proposal becomes state, applied and released everywhere."""
        one = self.proposals.pop(0)
        if isinstance(one, EndSync):
            self.expect_all_copied()
            if self.state.sync is not None and self.state.sync.kind is SyncKind.RECOVER:
                whole = (0, array_size_sectors(self.state))
                assert all(m.held == whole for m in self.machines.values())
        result = apply_change(self.state, one, others=())
        assert not isinstance(result, Refused), result
        self.state = result
        assert self.writer.now is not None
        self.writer.now.on_state(result)
        for machine in self.machines.values():
            machine.holds.on_state(result)
            self.collect(machine)
        return isinstance(one, EndSync)

    # --- the run ---

    def trouble(self) -> None:
        """A write fails, or a failure is committed and released; a writer goes; a node joins."""
        roll = self.rng.random()
        machine = self.rng.choice(list(self.machines.values()))
        if roll < 0.55 and machine is not self.writer:
            sector = self.rng.randrange(array_size_sectors(self.state))
            if not machine.held[0] <= sector < machine.held[1]:
                machine.stuck.add(sector)
        elif roll < 0.90:
            machine.stuck.clear()
        elif roll < 0.93 and N4.node not in self.machines and N4 not in self.state.running:
            self.join()
        elif roll < 0.96 and len(self.originals()) > 2:
            self.die()
        elif roll < 0.97:
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
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1 << 32), speed_kib=st.sampled_from([0, 0, 40_000]))
def test_no_world_breaks_a_pass(kind: SyncKind, level: int, seed: int, speed_kib: int) -> None:
    dirty = None
    if kind is SyncKind.BITMAP:
        dirty = set(random.Random(seed).sample(range(64 * MIB // GRAIN), 40))
    limits = SyncLimits(2 * MIB, 8 * MIB, 4 * MIB, speed_kib)
    World(seed, start_of(kind, level), dirty, limits).run()
