"""One host of a scenario: a core, its lane, its state directory, and a small md.

Effects are carried out as :mod:`mdcluster.core.effects` promises; each kind of effect can be
parked, so that a script says when, and how, it completes.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from mdcluster.core import effects as fx
from mdcluster.core import events as ev
from mdcluster.core.ledger import without_gone
from mdcluster.core.model import (
    ArrayId,
    ClusterState,
    Entry,
    Life,
    NodeId,
    Promise,
    Stamp,
)
from mdcluster.core.node import Node
from mdcluster.core.windows import SyncLimits
from mdcluster.fence.bytime import by_watchdog
from mdcluster.fence.provider import Confirmed
from tests.scenarios import words
from tests.scenarios.md import CARRY_OUT, Md
from tests.scenarios.script import ScenarioError
from tests.scenarios.watchdog import Watchdog
from tests.scenarios.world import STEP_MS, Parcel, World

AT_ONCE = (fx.SetTimer, fx.OpenGate, fx.ShutGate, fx.AllowFeeding, fx.Answer, fx.Notify, fx.Stopped)


def life_of(node: NodeId, boot: int) -> Life:
    """Boot ids are unique in the cluster, as the kernel's are."""
    return Life(node, f"{boot}@{node}")


class Host(Md):
    """`name` is the node's UUID as well; a second life has boot id 2, and so on.

    outlives: md and the life go on without the daemon, as in a kernel; else they end with it.
    """

    def __init__(
        self, world: World, name: str, lines: tuple[ev.Line, ...], local_fault: str, seed: int
    ) -> None:
        self.world, self.name, self.lines = world, name, lines
        self.local_fault, self.seed = local_fault, seed
        self.digest = ",".join(x.name for x in lines)
        self.node, self.boots = NodeId(name), 0
        self.life = life_of(self.node, 0)
        self.core = None
        self.frozen = False
        self.limits = SyncLimits()
        self.serial_holds = False
        self.outlives = False
        self.starts = 0
        self.wipe()
        self.reset_md()
        self.watchdog = Watchdog(self)
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
        self.watchdog.closed()
        self.problems: dict[str, str] = {}  # kind of effect -> what goes wrong with the next

    # --- life ----------------------------------------------------------------------------

    def start(self) -> None:
        """A new life, or a new daemon of one whose md runs on."""
        inherited = self.inherit() if self.runs_md else ()
        if not self.runs_md:
            self.boots += 1
            self.life = life_of(self.node, self.boots)
            self.runs_md = True
            self.watchdog = Watchdog(self)
        self.starts += 1
        self._reset()
        self.core = Node(
            self.life,
            self.name,
            self.world.timing,
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
            serial_holds=self.serial_holds,
            start=self.starts,
            inherited=inherited,
            outlives=self.outlives,
        )
        self.take(self.core.start())
        self.world.host_up(self)
        for array, device in self.still_blocked():
            self.event(ev.MemberFailed(array, device, "write error"))

    def kill(self) -> None:
        """The process ends, and with it md if it lives there."""
        self.core, self.frozen = None, False
        self.world.host_down(self)
        self._reset()
        if not self.outlives:
            self.reset_md()

    def power_off(self) -> None:
        """The whole host ends."""
        if self.core is not None:
            self.kill()
        self.reset_md()

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
                start = self.starts
                delay_ms = max(effect.at_ms - self.world.now_ms, 0)
                self.world.later(delay_ms, lambda: self._tick(start, effect.at_ms))
            return
        if isinstance(effect, fx.OpenGate):
            known = self.gate_open and self.gate_term == effect.term
            self.gate_term, self.gate_until_ms = effect.term, effect.until_ms
            if known:
                return
        if isinstance(effect, fx.ShutGate):
            self.gate_until_ms = 0
        if isinstance(effect, fx.AllowFeeding):
            self.watchdog.allow(effect.until_ms)
        self._note(effect)

    def _tick(self, start: int, at_ms: int) -> None:
        if start == self.starts and self.timer_ms == at_ms:
            self.timer_ms = None
            self.event(ev.Tick())

    def _note(self, effect: fx.Effect) -> None:
        self.world.note(f"{self.node}: {words.effect(effect)}")

    def _send(self, effect: fx.Send) -> None:
        to = self.world.hosts.get(str(effect.to))
        start = to.starts if to is not None and to.outlives else None
        parcel = Parcel(self.life, effect.to, effect.message, start)
        self.world.note(parcel.text)
        self.world.send(parcel)

    def _run_lane(self) -> None:
        while self.lane and not self.lane_busy and not self.frozen:
            effect = self.lane[0]
            if isinstance(effect, fx.PersistPromise | fx.PersistEntry):
                if self.stalled:
                    return
                self.lane_busy = True
                self._later(self._persisted)
                return
            self.lane.popleft()
            self._begin(effect)

    def _persisted(self) -> None:
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
            if isinstance(effect.entry.state, ClusterState):
                self.entries = without_gone(self.entries, effect.entry.state)
        self._run_lane()

    def _begin(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.Send):
            self._send(effect)
        elif isinstance(effect, fx.HoldAll):
            self.holding_all = effect.on
            self._note(effect)
        elif isinstance(effect, fx.DropNonces | fx.ForgetPrepared):
            self._note(effect)
            if isinstance(effect, fx.ForgetPrepared):
                self.shut.pop(effect.op, None)
            if isinstance(effect, fx.DropNonces):
                self.drop_nonces(effect.op)
        elif isinstance(effect, fx.Fence):
            self._note(effect)
            self._later(lambda: self._fence(effect))
        else:
            self._queue(effect)

    def _fence(self, effect: fx.Fence) -> None:
        """The providers, in order: what is known, the agent, the watchdog."""
        life, heard_ms = effect.life, effect.heard_ms
        waits = []
        if life in self.world.fence_works:
            self.event(ev.Fenced(life, "it has ended", heard_ms))
            return
        if effect.name in self.world.agent_works:
            if self.world.switch_off(effect.name):
                self.event(ev.Fenced(life, "agent", heard_ms))
                return
            waits.append("agent: it failed")
        if self.world.timing.watchdog_ms:
            said = by_watchdog(self.world.timing, effect, self.world.now_ms)
            if isinstance(said, Confirmed):
                self.event(ev.Fenced(life, said.how, heard_ms))
                return
            waits.append(f"watchdog: {said.why}")
        why = "; ".join(waits) or "no fence provider confirms it"
        self.event(ev.FenceWaits(life, why, heard_ms))

    def _later(self, call: Callable[[], None]) -> None:
        start = self.starts

        def alive() -> None:
            if self.core is not None and start == self.starts:
                call()

        self.world.later(STEP_MS, alive)

    # --- effects that take time ------------------------------------------------------------

    @staticmethod
    def _key(effect: Any) -> tuple[str, str]:
        """What is carried out one after the other (as mdcluster.runtime.executor does)."""
        lanes = {"WriteSuperblocks": "meta", "HoldRange": "hold", "LimitSync": "sync"}
        kind = type(effect).__name__
        by_op = fx.WriteNonces | fx.EraseSuperblock | fx.PrepareDevices | fx.ProbeMember
        if isinstance(effect, by_op):
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
        event = CARRY_OUT[type(effect)](self, effect, problem)
        self._next(key)
        if event is not None:
            self.event(event)

    def complete(self, item: tuple[tuple[str, str], fx.Effect], problem: str) -> None:
        self.parked.remove(item)
        self._done(item[0], item[1], problem)
