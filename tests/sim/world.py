"""One seeded world: a heap of (time, seq, call), one random generator, all models, all checks."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mdcluster.core.effects import (
    Apply,
    Effect,
    HoldRange,
    LimitSync,
    MergeBits,
    Notify,
    PrepareDevices,
    ProbeMember,
    SetBits,
    StartSync,
    StopSync,
    Unblock,
    WriteNonces,
    WriteSuperblocks,
    ZeroSlot,
)
from mdcluster.core.events import Event, Line, Received
from mdcluster.core.model import ArrayState, DeviceId, Life
from mdcluster.core.timing import Timing
from tests.sim.checkers import Checkers
from tests.sim.disks import Disk
from tests.sim.hosts import Core, Host
from tests.sim.network import Network, Weather
from tests.sim.workload import Workload

if TYPE_CHECKING:
    from tests.sim.words import Words

TRACE_MASK = (1 << 61) - 1

SIM_TIMING = Timing(
    apply_deadline_ms=1600,
    prepare_deadline_ms=1600,
    probe_deadline_ms=1200,
    hold_deadline_ms=1600,
    checkpoint_ms=300,
)
"""The default timings, but for deadlines short enough to be met within a short run."""

WATCHDOG_TIMING = replace(
    SIM_TIMING, watchdog_ms=2000, device_timeout_ms=1500, write_deadline_ms=1400
)
"""Hosts have watchdogs, and a silent one is fenced by time alone."""


STAGES: tuple[type, ...] = (
    WriteSuperblocks,
    WriteNonces,
    PrepareDevices,
    ProbeMember,
    Apply,
    Unblock,
    HoldRange,
    SetBits,
    MergeBits,
    ZeroSlot,
    StartSync,
    LimitSync,
    StopSync,
)
"""Moments of a change or a pass at which something may be made to happen."""


@dataclass(slots=True)
class Quirks:
    """What the kernels, and the policies, of this world are like."""

    local_fault: str = "fail"
    copies_short: float = 0.0  # how many steps of a pass are cut short
    sweep_us: int = 300_000  # pause between two sweeps of clean bits
    keeps_needed: bool = False  # md keeps NEEDED bits until it copies them itself
    kernel_md: bool = False  # md recovers first, and takes no position with a bitmap
    chunk_blocks: int = 1  # of the bitmap
    window_max_blocks: int = 32
    serial_holds: bool = False  # two hosts must never move holds at once (kernels before 6.7)
    outlives: bool = False  # md, and lives, outlive their daemons
    fence_agent: bool = False  # a silent host is powered off; else one waits for an end
    stable_after_us: int = 0  # how long after a death all reads must be stable; 0: not checked


class World:
    """Everything there is. `core_factory` makes the core of a host when it boots."""

    def __init__(
        self,
        seed: int,
        core_factory: Callable[[Host], Core],
        weather: Weather,
        *,
        timing: Timing = SIM_TIMING,
        words: Words | None = None,
        quirks: Quirks | None = None,
    ) -> None:
        self.seed = seed
        self.quirks = quirks or Quirks()
        self.at_stage: tuple[tuple[type, ...], Callable[[Host], None]] | None = None
        self.rng = random.Random(seed)
        self.timing = timing
        self.words = words
        self.now_us = 0
        self.events = 0
        self.trace = seed
        self.load: Counter[str] = Counter()
        self.hosts: list[Host] = []
        self.disks: dict[str, Disk] = {}
        self.lives: dict[Life, Host] = {}
        self.dead_at_us: dict[Life, int] = {}
        self.fence_by_hand = False
        self.fence_slow_us = 0  # how long the providers take, at least
        self.acked_by_hand: set[Life] = set()
        self.make_core = core_factory
        self.network = Network(self, weather)
        self.check = Checkers(self)
        self.workload = Workload(self)
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._seq = 0
        self._codes: dict[type, int] = {}

    # --- making it -----------------------------------------------------------------------

    def add_host(self, name: str, *, spectator: bool = False) -> Host:
        host = Host(self, len(self.hosts), name, spectator=spectator)
        host.outlives = self.quirks.outlives
        self.hosts.append(host)
        return host

    def add_disk(self, path: str) -> Disk:
        disk = self.disks[path] = Disk(path)
        disk.data = [-self.rng.randrange(1, 1000) for _ in disk.data]
        return disk

    def set_lines(self, host: Host, lines: tuple[Line, ...]) -> None:
        host.lines = lines
        host.lines_digest = ",".join(f"{x.name}/{x.priority}/{x.spectator}" for x in lines)

    # --- time ----------------------------------------------------------------------------

    def at_us(self, at_us: int, call: Callable[..., None], *args: Any) -> None:
        self._seq += 1
        heapq.heappush(self._heap, (at_us, self._seq, call, args))

    def after_us(self, delay_us: int, call: Callable[..., None], *args: Any) -> None:
        self._seq += 1
        heapq.heappush(self._heap, (self.now_us + delay_us, self._seq, call, args))

    def run_until(self, until_us: int, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass; stops early, returning True, when `done` says so (asked now and then)."""
        heap, pop = self._heap, heapq.heappop
        ask_us = self.now_us
        while heap and heap[0][0] <= until_us:
            self.now_us, _, call, args = pop(heap)
            self.events += 1
            call(*args)
            if done is not None and self.now_us >= ask_us:
                if done():
                    return True
                ask_us = self.now_us + 50_000
        self.now_us = until_us
        return False

    def write_delay_us(self) -> int:
        """How long a disk takes for a write; one in eight is slow."""
        draw = self.rng.random()
        return 50 + int(draw * 1000) if draw < 0.875 else int((draw - 0.87) * 300_000)

    # --- truth ---------------------------------------------------------------------------

    def disk_of(self, device: DeviceId) -> Disk | None:
        return next((d for d in self.disks.values() if d.device == device), None)

    def in_use(self, disk: Disk) -> bool:
        """Whether the newest state of any array has this disk as a good member."""
        for state in self.check.newest_arrays():
            member = state.member(disk.device) if disk.device is not None else None
            if member is not None and member in state.writable:
                return True
        return False

    def dead(self, life: Life) -> bool:
        """By wall truth: stopped, and nothing it sent can still land."""
        return life in self.dead_at_us

    def fenced(self, life: Life) -> bool:
        """What the fencing providers can tell."""
        if not self.dead(life):
            return False
        owner = self.lives[life]
        restarted = owner.up and owner.life != life  # the new process has the old one's lock
        return restarted or not self.fence_by_hand or life in self.acked_by_hand

    def array(self, uuid: str) -> ArrayState | None:
        return self.check.newest_array(uuid)

    # --- observation ---------------------------------------------------------------------

    def _code(self, kind: type) -> int:
        code = self._codes.get(kind)
        if code is None:
            code = self._codes[kind] = sum(ord(c) * 31**i for i, c in enumerate(kind.__name__))
        return code

    def stepping(self, host: Host, event: Event) -> None:
        """A core is about to see an event."""
        kind: type = type(event)
        if kind is Received:
            kind = type(event.message)  # type: ignore[union-attr]
        mixed = self._code(kind) + host.index * 7919 + self.now_us
        self.trace = (self.trace * 1_000_003 ^ mixed) & TRACE_MASK
        if self.words is not None:
            self.words.event(self, host, event)

    def saw(self, host: Host, effect: Effect) -> None:
        """A host carries out an effect."""
        mixed = self._code(type(effect)) + host.index * 104_729
        self.trace = (self.trace * 1_000_003 ^ mixed) & TRACE_MASK
        self.load[type(effect).__name__] += 1
        if self.at_stage is not None and type(effect) in self.at_stage[0]:
            call, self.at_stage = self.at_stage[1], None
            self.after_us(self.rng.randrange(1, 4_000), call, host)
        if self.words is not None:
            self.words.effect(self, host, effect)

    def noticed(self, host: Host, effect: Notify) -> None:
        self.load["seen_" + effect.kind] += 1
        host.gave_up = host.gave_up or effect.kind == "array_left"
        if self.words is not None:
            self.words.effect(self, host, effect)

    def say(self, host: Host | None, *what: object) -> None:
        """A fault, or an action of the workload, in words."""
        if self.words is not None:
            self.words.line(self, host, " ".join(str(one) for one in what))
