"""One simulated host: clock, state directory, md, process, and the shell around the core.

Its md is one of two kinds. The embedded one lives in the process and ends with it, as does the
life. The kernel's (`outlives`) goes on without the daemon: it serves applications, holds what it
was told to hold, and copies on up to its last limit; a daemon that starts again inherits it.

The shell keeps the lane contract of :mod:`mdcluster.core.effects`: effects in order, what
stands behind a Persist waits until that is durable; urgent sends, timers and the gate at
once; effects of one array one after the other; a send to oneself comes back when the lane
has come to it. A crash may come at any moment, in particular between persist and send.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from mdcluster.core.departures import SHUTDOWN_MS
from mdcluster.core.effects import (
    NEVER,
    AllowFeeding,
    Answer,
    Effect,
    Fence,
    HoldAll,
    Notify,
    OpenGate,
    PersistEntry,
    PersistPromise,
    Send,
    SetTimer,
    ShutGate,
    Stopped,
)
from mdcluster.core.events import (
    Event,
    Fenced,
    FenceWaits,
    Line,
    PersistFailed,
    PersistRecovered,
    Received,
    ShutdownAsked,
    Tick,
)
from mdcluster.core.ledger import without_gone
from mdcluster.core.model import ClusterState, Entry, Life, NodeId, Promise, Stamp
from mdcluster.core.view import NodeView
from mdcluster.fence.bytime import by_watchdog
from mdcluster.fence.provider import Waits
from tests.sim.mdmodel import Md
from tests.sim.shell import ArrayShell
from tests.sim.watchdog import Watchdog

if TYPE_CHECKING:
    from tests.sim.workload import Workload
    from tests.sim.world import World


class Core(Protocol):
    """What the world drives; :class:`mdcluster.core.node.Node` is one."""

    def start(self) -> list[Effect]: ...

    def step(self, event: Event, now_ms: int) -> list[Effect]: ...

    def view(self) -> NodeView: ...


@dataclass(slots=True)
class Store:
    """The state directory: what survives a crash."""

    promise: Promise = field(default_factory=lambda: Promise(0, None))
    entries: dict[str, Entry] = field(default_factory=dict)
    projected: dict[str, Stamp] = field(default_factory=dict)

    def put(self, effect: PersistPromise | PersistEntry) -> None:
        if isinstance(effect, PersistPromise):
            self.promise = effect.promise
        else:
            self.entries[effect.entry.key] = effect.entry
            self.projected[effect.entry.key] = effect.projected
            if isinstance(effect.entry.state, ClusterState):
                self.entries = without_gone(self.entries, effect.entry.state)


CORE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
NO_LIFE = Life(NodeId(""), "")


class Host:
    """A machine with one daemon. `up` is about the process, `md_up` about the life.

    `frozen`: all of it stands still.
    """

    def __init__(self, world: World, index: int, name: str, *, spectator: bool = False) -> None:
        self.world = world
        self.index = index
        self.name = name
        self.spectator = spectator
        self.identity = 0
        self.boots = 0
        self.node = NodeId(f"{name}-0")
        self.life = NO_LIFE
        self.lines: tuple[Line, ...] = ()
        self.lines_digest = ""
        self.store = Store()
        self.store_full = False
        self.persist_us = 1000
        self.rate_ppm = 0
        self.clock_offset_us = 0
        self.outlives = False
        self.starts = 0
        self.up = False
        self.md_up = False
        self.frozen = False
        self.powered_off = False
        self.core: Core | None = None
        self.watchdog = Watchdog(self)
        self.md = Md(self)
        self._new_process()

    def _new_process(self) -> None:
        self.gate = (0, 0)
        self.shell = ArrayShell(self)
        self.lane: deque[Effect] = deque()
        self.lane_busy = False
        self.persisting: list[PersistPromise | PersistEntry] = []
        self.backlog: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self.timer_ms = -1
        self.wake_us = -1
        self.holds_late_us = 0
        self.answers_late_us = 0
        self.applies_nothing = False
        self.stop_asked_ms = -1
        self.stops = False
        self.gave_up = False  # it has left an array: till a restart, perhaps

    @property
    def workload(self) -> Workload:
        return self.world.workload

    @property
    def process(self) -> tuple[Life, int]:
        """Told from all others, also those of the same life."""
        return self.life, self.starts

    def knows(self, name: str) -> bool:
        return any(line.name == name for line in self.lines)

    # --- clock ---------------------------------------------------------------------------

    def clock_ms(self) -> int:
        """CLOCK_BOOTTIME of this host."""
        us = self.clock_offset_us + self.world.now_us * (1_000_000 + self.rate_ppm) // 1_000_000
        return us // 1000

    def _true_us(self, at_ms: int) -> int:
        """The first true time at which the clock shows `at_ms`."""
        return -(-(at_ms * 1000 - self.clock_offset_us) * 1_000_000 // (1_000_000 + self.rate_ppm))

    # --- life and death ------------------------------------------------------------------

    def boot(self) -> None:
        """Start the daemon with the old state directory: a new life, or in one that goes on."""
        if not self.md_up:
            self.boots += 1
            self.life = Life(self.node, f"{self.name}-boot-{self.boots}")
            self.md = Md(self)
        elif not self.md.hold_still():  # the new process waits for it before all else
            self.world.after_us(500, self.start_again)
            return
        self.starts += 1
        self._new_process()
        self.up, self.md_up, self.frozen, self.powered_off = True, True, False, False
        self.world.lives[self.life] = self
        inherited = self.md.inherit()
        self.world.load["inherited"] += len(inherited)
        self.core = self.world.make_core(self)
        self.world.say(self, "starts as", self.life.boot_id, "with", *inherited)
        self.carry(self.core.start())
        self.world.network.reconsider(self)
        for event in self.md.still_blocked():
            self.deliver(event)

    def crash(self, *, power: bool = False) -> None:
        """SIGKILL, or (power) the whole host: peers are not told."""
        if power and self.md_up and not self.up:
            self.powered_off = True
            self._md_ends()
        if self.frozen and self.outlives and not power:
            self.thaw()  # who could kill it before?
        if not self.up:
            return
        self.world.say(self, "loses power" if power else "is killed")
        self.up, self.frozen, self.powered_off = False, False, power
        self.core = None
        if power:
            self.watchdog.stop()
        else:
            self.watchdog.process_ended()
        if self.persisting and self.world.rng.random() < 0.5:  # some of it was durable already
            for effect in self.persisting[: self.world.rng.randrange(len(self.persisting) + 1)]:
                self.store.put(effect)
                self.world.check.persisted(self, effect)
        self.shell.crash()
        if power or not self.outlives:
            self._md_ends()
        else:
            self.world.load["daemons died"] += 1
        self.world.network.reconsider(self)

    def _md_ends(self) -> None:
        """And with it the life."""
        self.md.crash()
        self.md_up, self.frozen = False, False
        self.world.dead_at_us[self.life] = self.world.now_us
        self.workload.host_died(self)
        self.world.check.host_died(self)

    def reset(self) -> None:
        """By its watchdog; it comes back."""
        if self.up or self.md_up:
            self.world.say(self, "is reset by its watchdog")
            self.crash(power=True)
            self.world.after_us(self.world.rng.randrange(300_000, 2_000_000), self.start_again)

    def start_again(self) -> None:
        if not self.up and self.lines:
            self.boot()

    def shut_down(self) -> None:
        """As by a service manager: the daemon is asked to stop, and started again later."""
        if self.up and self.stop_asked_ms < 0:
            self.world.say(self, "is asked to stop")
            self.world.load["shutdowns"] += 1
            self.deliver(ShutdownAsked())

    def _must_stop(self) -> None:
        if not self.stops:
            self.world.check.fail(f"(9) {self.name} does not stop, {SHUTDOWN_MS} ms after asked to")

    def _stopped(self, effect: Stopped) -> None:
        """The core has said that the process may end."""
        self.world.check.stopped(self, effect.running)
        if not effect.running:
            self.watchdog.stop()
        self.crash()
        pause_us = self.world.rng.randrange(20_000, 2_000_000)
        self.world.after_us(pause_us, self.start_again)

    def freeze(self) -> None:
        if self.up and not self.frozen:
            self.world.say(self, "freezes")
            self.frozen = True

    def thaw(self) -> None:
        if not self.frozen:
            return
        self.world.say(self, "thaws")
        self.frozen = False
        while self.backlog and self.up and not self.frozen:
            call, args = self.backlog.popleft()
            call(*args)

    def lose_state(self) -> None:
        """The state directory is gone: the next life is another node at the same line."""
        self.identity += 1
        self.node = NodeId(f"{self.name}-{self.identity}")
        self.store = Store()
        self.world.say(self, "lost its state directory: next life is", self.node)

    # --- running -------------------------------------------------------------------------

    def run(self, call: Callable[..., None], *args: object) -> None:
        """Now, or after the thaw."""
        if self.frozen:
            self.backlog.append((call, args))
        else:
            call(*args)

    def later(self, delay_us: int, call: Callable[..., None], *args: object) -> None:
        """After a while, if this process is still up; a frozen one does it when it thaws."""
        self.world.after_us(delay_us, self._later, self.starts, call, args)

    def _later(self, start: int, call: Callable[..., None], args: tuple[object, ...]) -> None:
        if self.up and self.starts == start:
            self.run(call, *args)

    def md_later(self, delay_us: int, call: Callable[..., None], *args: object) -> None:
        """The same for md, which may go on without the process."""
        self.world.after_us(delay_us, self._md_later, self.life, call, args)

    def _md_later(self, life: Life, call: Callable[..., None], args: tuple[object, ...]) -> None:
        if self.md_up and self.life is life:
            self.run(call, *args)

    def deliver(self, event: Event) -> None:
        if self.up:
            self.run(self.event, event)

    def event(self, event: Event) -> None:
        """One step of the core."""
        if self.core is None:
            return
        if isinstance(event, ShutdownAsked):
            self.stop_asked_ms = self.clock_ms()
            self.later((SHUTDOWN_MS + 200) * 1000, self._must_stop)
        self.world.stepping(self, event)
        try:
            effects = self.core.step(event, self.clock_ms())
        except CORE_ERRORS as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{where.filename.rpartition('/')[2]}:{where.lineno}"
            self.world.check.fail(f"{self.name}: the core raised {error!r} at {place}")
        if effects:
            self.world.check.stepped(self, effects)
            self.carry(effects)

    def carry(self, effects: list[Effect]) -> None:
        for effect in effects:
            kind = type(effect)
            if kind is Send and effect.urgent:  # type: ignore[union-attr]
                self._send(effect)  # type: ignore[arg-type]
            elif kind is SetTimer:
                self._set_timer(effect.at_ms)  # type: ignore[union-attr]
            elif kind is OpenGate:
                self._open_gate(effect)  # type: ignore[arg-type]
            elif kind is ShutGate:
                self.gate = (self.gate[0], 0)
                self.world.saw(self, effect)
            elif kind is AllowFeeding:
                self.watchdog.allow(effect.until_ms)  # type: ignore[union-attr]
            elif kind is Notify:
                self.world.noticed(self, effect)  # type: ignore[arg-type]
            else:
                self.stops = self.stops or kind is Stopped
                self.lane.append(effect)
        self.pump()

    def _open_gate(self, effect: OpenGate) -> None:
        if effect.term < self.gate[0]:
            self.world.check.fail(f"{self.name} opens its gate for the past term {effect.term}")
        self.gate = (effect.term, effect.until_ms)
        self.world.check.gate_opened(self)

    def gate_open(self) -> bool:
        return self.clock_ms() < self.gate[1]

    # --- timer ---------------------------------------------------------------------------

    def _set_timer(self, at_ms: int) -> None:
        self.timer_ms = at_ms
        at_us = max(self._true_us(at_ms), self.world.now_us)
        if self.wake_us < 0 or at_us < self.wake_us:
            self.wake_us = at_us
            self.world.at_us(at_us, self._wake, self.starts, at_us)

    def _wake(self, start: int, at_us: int) -> None:
        if self.starts == start and self.wake_us == at_us:
            self.run(self._timer)

    def _timer(self) -> None:
        self.wake_us = -1
        if self.timer_ms < 0:
            return
        if self.clock_ms() < self.timer_ms:
            self._set_timer(self.timer_ms)
            return
        self.timer_ms = -1
        self.event(Tick())

    # --- the lane ------------------------------------------------------------------------

    def pump(self) -> None:
        lane = self.lane
        while lane and not self.lane_busy:
            effect = lane.popleft()
            if isinstance(effect, PersistPromise | PersistEntry):
                self.persisting = [effect]
                while lane and isinstance(lane[0], PersistPromise | PersistEntry):
                    self.persisting.append(lane.popleft())  # type: ignore[arg-type]
                self.lane_busy = True
                delay_us = self.world.rng.randrange(50, self.persist_us)
                self.later(delay_us, self._persist, False)
            else:
                self._carry_one(effect)

    def _persist(self, refused: bool) -> None:
        if self.store_full:
            if not refused:
                self.event(PersistFailed("no space left in the state directory"))
            self.later(100_000, self._persist, True)
            return
        for effect in self.persisting:
            self.store.put(effect)
            self.world.check.persisted(self, effect)
        self.persisting = []
        self.lane_busy = False
        if refused:
            self.event(PersistRecovered())
        self.pump()

    def _carry_one(self, effect: Effect) -> None:
        if isinstance(effect, Send):
            self._send(effect)
        elif isinstance(effect, Answer):
            self.world.saw(self, effect)
            self.workload.answered(self, effect)
        elif isinstance(effect, Fence):
            self.world.saw(self, effect)
            delay_us = self.world.rng.randrange(2_000, 30_000) + self.world.fence_slow_us
            self.later(delay_us, self._fence, effect)
        elif isinstance(effect, HoldAll):
            self.world.saw(self, effect)
            self.md.set_hold_all(effect.on)
        elif isinstance(effect, Stopped):
            self.world.saw(self, effect)
            self._stopped(effect)
        else:
            self.world.saw(self, effect)
            self.shell.add(effect)

    def _send(self, effect: Send) -> None:
        self.world.check.sending(self, effect)
        if effect.to == self.node:
            self.later(1, self.event, Received(self.life, effect.message))
        else:
            self.world.network.send(self, effect.to, effect.message)

    def _fence(self, effect: Fence) -> None:
        """By a fence agent, where there is one; then by time, or their locks tell."""
        life, heard_ms = effect.life, effect.heard_ms
        owner = self.world.lives[life]
        present = owner.md_up and owner.life == life and owner is not self
        if effect.succeeded_ms != NEVER and not self.world.dead(life):
            self.world.check.fail(f"(7) {life.boot_id} lives, but was said to have a successor")
        if self.world.quirks.fence_agent and present:
            self.world.say(owner, "is powered off by a fence agent")
            self.world.load["hosts_fenced"] += 1
            owner.crash(power=True)
            self.world.after_us(self.world.rng.randrange(100_000, 2_000_000), owner.start_again)
        if self.world.timing.watchdog_ms:
            said = by_watchdog(self.world.timing, effect, self.clock_ms())
            if isinstance(said, Waits):
                self.event(FenceWaits(life, said.why, heard_ms))
            else:
                self.event(Fenced(life, said.how, heard_ms))
                self.world.check.confirmed_by_time(self, life)
        elif self.world.fenced(life):
            self.event(Fenced(life, "its process has let go of its lock", heard_ms))
        else:
            self.event(FenceWaits(life, "its process still holds its lock", heard_ms))
