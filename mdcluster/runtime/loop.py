"""Feeds the core and carries out its effects: one asyncio loop, one step at a time.

Rules of this file:

* the core is stepped with CLOCK_BOOTTIME, never before it was started (it might vote too early),
  nor from within a step; what comes meanwhile waits;
* the gate, the timer, urgent sends and observations are done at once, the rest in the lane's order;
* nothing of what a peer sends reaches the core unless the codec accepts all of it;
* a fault of the core (an assertion) shuts the gate and ends the node: it never guesses on.

The step path makes no tasks and reads no files: an idle node costs a few steps a heartbeat.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from mdcluster.core.effects import (
    AllowFeeding,
    Answer,
    Apply,
    Effect,
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
    Asked,
    Event,
    PeerDown,
    PeerUp,
    PersistFailed,
    PersistRecovered,
    Received,
    Tick,
    Wondered,
)
from mdcluster.core.messages import MESSAGES, Message
from mdcluster.core.model import CLUSTER_KEY, ArrayId, Entry, Life, NodeId
from mdcluster.errors import MdclusterError
from mdcluster.fence.watchdog import NoWatchdog
from mdcluster.gate import Gate, boottime_ms
from mdcluster.runtime import observe
from mdcluster.runtime.lane import Journal, Lane
from mdcluster.runtime.ports import Core, Feeder, PeerMesh
from mdcluster.runtime.store import StartRecord
from mdcluster.wire.codec import Codec
from mdcluster.wire.errors import WireError

log = logging.getLogger(__name__)

PENDING_MAX = 8192
"""Events that may wait while one step is under way."""
ASKERS_MAX = 1024
NEVER_MS = 1 << 62

CODEC = Codec(MESSAGES)

AnswerSink = Callable[[Answer], None]


class CoreFaultError(MdclusterError):
    """The core broke one of its own rules, or cannot go on; this node stops."""


class EffectStarter(Protocol):
    """What takes time: :class:`mdcluster.runtime.executor.Executor`."""

    def start(self, effect: Effect) -> None: ...

    async def close(self) -> None: ...


class Runtime:
    """One running node. Make it, `attach` mesh and executor, `start`, wait for `ended`, `close`.

    `ended` is set when the core has stopped in order, or when the node cannot go on; `fault`
    then says why.
    """

    def __init__(
        self,
        me: Life,
        core: Core,
        gate: Gate,
        journal: Journal,
        *,
        retry_min_ms: int = 50,
        retry_max_ms: int = 2000,
        stalled_ms: int = 400,
        watchdog: Feeder | None = None,
        clock_ms: Callable[[], int] = boottime_ms,
    ) -> None:
        """stalled_ms: a timer that comes so late is reported (frozen, suspended, overloaded)."""
        self.me = me
        self.core = core
        self.gate = gate
        self._watchdog = watchdog or NoWatchdog()
        self.ended = asyncio.Event()
        self.fault: BaseException | None = None
        self.steps = 0
        self.stopped_in_order = False
        self.left_running: tuple[ArrayId, ...] = ()
        self.persist_problem = ""
        self.formed = False
        self.on_formed: Callable[[], None] = _nothing
        self.on_commit: Callable[[Entry], None] = _ignore
        self.lives: dict[str, Life] = {}
        self._clock_ms = clock_ms
        self._stalled_ms = stalled_ms
        self._told_late_ms = 0
        self._lane = Lane(
            me.node,
            self,
            journal,
            retry_min_s=retry_min_ms / 1000,
            retry_max_s=retry_max_ms / 1000,
        )
        self._mesh: PeerMesh | None = None
        self._executor: EffectStarter | None = None
        self._pending: deque[Event] = deque()
        self._stepping = True  # not before `start`
        self._timer = CoreTimer(clock_ms, self._on_timer)
        self._encoded: tuple[Message | None, bytes] = (None, b"")
        self._askers: dict[str, list[AnswerSink]] = {}
        self._starters: dict[type[Effect], Callable[..., None]] = {
            Send: self._send,
            SetTimer: self._set_timer,
            OpenGate: self._open_gate,
            ShutGate: self._shut_gate,
            AllowFeeding: lambda effect: self._watchdog.allow(effect.until_ms),
            Notify: self._notify,
            Answer: self._answer,
            Apply: self._apply,
            Stopped: self._on_stopped,
        }

    # --- life ----------------------------------------------------------------------------

    def attach(self, mesh: PeerMesh, executor: EffectStarter) -> None:
        self._mesh, self._executor = mesh, executor

    def start(self) -> None:
        self._lane.start()
        self._timer.start(asyncio.get_running_loop())
        self._take(self.core.start)
        self._step_all()

    async def close(self) -> None:
        """Shut the gate, then stop everything that was started here."""
        self.gate.shut()
        self._timer.stop()
        await self._lane.close()
        if self._executor is not None:
            await self._executor.close()
        self.ended.set()

    def remember(self, record: StartRecord) -> None:
        """Persist what the core knows nothing of."""
        self._lane.remember(record)

    def broken(self, error: BaseException) -> None:
        """Something that must work does not: shut the gate, end the node."""
        self.gate.shut()
        if self.fault is None:
            self.fault = error
            log.critical("this node stops: %s", error, exc_info=_unforeseen(error))
        self._timer.stop()
        self.ended.set()

    # --- events --------------------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Step the core with an event, now or right after the step under way."""
        self._pending.append(event)
        if self._stepping:
            if len(self._pending) > PENDING_MAX:
                self.broken(CoreFaultError(f"more than {PENDING_MAX} events wait for one step"))
            return
        self._step_all()

    def _step_all(self) -> None:
        self._stepping = True
        try:
            while self._pending and self.fault is None:
                self._take(partial(self._step, self._pending.popleft()))
        finally:
            self._stepping = False

    def _step(self, event: Event) -> list[Effect]:
        now_ms = self._clock_ms()
        if now_ms - self._timer.at_ms > self._stalled_ms:
            self._tell_stalled(now_ms - self._timer.at_ms)
        return self.core.step(event, now_ms)

    def _tell_stalled(self, late_ms: int) -> None:
        """The core should have been woken long ago; once for each time it asked for."""
        if self._told_late_ms != self._timer.at_ms:
            self._told_late_ms = self._timer.at_ms
            why = "this process was frozen, the machine suspended or overloaded"
            observe.tell("stalled", {"late_ms": late_ms, "why": why})

    def _take(self, step: Callable[[], list[Effect]]) -> None:
        self.steps += 1
        try:
            self._lane.take(step())
        except Exception as error:  # noqa: BLE001 - whatever it is, this node must not go on
            self.broken(error)

    def _on_timer(self) -> None:
        self.feed(Tick())

    # From the mesh.

    def peer_up(self, node: str, boot_id: str, name: str, start: int) -> None:
        life = Life(NodeId(node), boot_id)
        self.lives[node] = life
        self.feed(PeerUp(life, name, start))

    def peer_down(self, node: str) -> None:
        self.lives.pop(node, None)
        self.feed(PeerDown(NodeId(node)))

    def message(self, node: str, payload: bytes) -> None:
        """A payload of a peer that is up. What the codec refuses is counted, said once, dropped."""
        life = self.lives.get(node)
        if life is None:
            return
        try:
            message = CODEC.decode(payload)
        except WireError as bad:
            if self._mesh is not None:
                self._mesh.refuse_payload(node, str(bad))
            return
        self.feed(Received(life, message))  # type: ignore[arg-type]

    # From clients.

    def ask(self, event: Asked | Wondered, sink: AnswerSink) -> Callable[[], None]:
        """Propose a change; `sink` gets every answer. Returns what ends the interest in them.

        Raises:
            MdclusterError: too many proposals wait already.
        """
        proposal = event.proposal
        if len(self._askers) >= ASKERS_MAX and proposal not in self._askers:
            raise MdclusterError(f"{ASKERS_MAX} proposals of this node wait already; try later")
        self._askers.setdefault(proposal, []).append(sink)
        self.feed(event)

        def forget() -> None:
            sinks = self._askers.get(proposal, [])
            if sink in sinks:
                sinks.remove(sink)
            if not sinks:
                self._askers.pop(proposal, None)

        return forget

    # --- effects -------------------------------------------------------------------------

    def carry_out(self, effect: Effect) -> None:
        """Called by the lane when an effect's turn has come. Nothing is begun after a fault."""
        if self.fault is not None:
            return
        starter = self._starters.get(type(effect))
        try:
            if starter is not None:
                starter(effect)
            elif self._executor is not None:
                self._executor.start(effect)
        except Exception as error:  # noqa: BLE001 - e.g. a gate that would go back to an old term
            self.broken(error)

    def _send(self, effect: Send) -> None:
        message = effect.message
        if effect.to == self.me.node:
            self.feed(Received(self.me, message))
            return
        if self._encoded[0] is not message:  # the same beat goes to every peer
            self._encoded = (message, CODEC.encode(message))
        if self._mesh is not None:
            self._mesh.send(effect.to, self._encoded[1])

    def _set_timer(self, effect: SetTimer) -> None:
        self._timer.set(effect.at_ms)

    def _open_gate(self, effect: OpenGate) -> None:
        self.gate.open(effect.term, effect.until_ms)

    def _shut_gate(self, effect: ShutGate) -> None:
        self.gate.shut()

    def _notify(self, effect: Notify) -> None:
        observe.tell(effect.kind, dict(effect.facts))

    def _apply(self, effect: Apply) -> None:
        if self._executor is not None:
            self._executor.start(effect)
        self._tell_commit(effect.entry)

    def _tell_commit(self, entry: Entry) -> None:
        """Later, and on its own: whoever looks neither delays nor harms what is done with it."""
        asyncio.get_running_loop().call_soon(self.on_commit, entry)

    def _answer(self, effect: Answer) -> None:
        for sink in list(self._askers.get(effect.proposal, ())):
            sink(effect)

    def _on_stopped(self, effect: Stopped) -> None:
        self.stopped_in_order = True
        self.left_running = effect.running
        self.ended.set()

    def persisted(self, effect: PersistPromise | PersistEntry) -> None:
        """Called by the lane: this is durable. The birth of the cluster is news for HELLO.

        Nothing more is done with the entry of the cluster; it counts as told from here on.
        """
        if not isinstance(effect, PersistEntry) or effect.entry.key != CLUSTER_KEY:
            return
        self._tell_commit(effect.entry)
        if not self.formed:
            self.formed = True
            self.on_formed()

    def persist_failed(self, why: str) -> None:
        self.persist_problem = why
        self.feed(PersistFailed(why))

    def persist_recovered(self) -> None:
        observe.tell("state_directory_recovered", {"was": self.persist_problem})
        self.persist_problem = ""
        self.feed(PersistRecovered())


def _nothing() -> None:
    """Nobody wants to know."""


def _ignore(_: Entry) -> None:
    """Nor this."""


def _unforeseen(error: BaseException) -> BaseException | None:
    """A bug gets its trace into the log, what is foreseen only its text."""
    return None if isinstance(error, MdclusterError) else error


class CoreTimer:
    """The core's one alarm, on the loop's clock. Setting it later costs nothing until it fires."""

    def __init__(self, clock_ms: Callable[[], int], fire: Callable[[], None]) -> None:
        self._clock_ms = clock_ms
        self._fire = fire
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._armed_ms = 0
        self.at_ms = NEVER_MS

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def stop(self) -> None:
        self._loop = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def set(self, at_ms: int) -> None:
        """Fire at this time (or at once, if it has passed); replaces the earlier one."""
        self.at_ms = at_ms
        if self._handle is None or at_ms < self._armed_ms:
            self._arm()

    def _arm(self) -> None:
        if self._loop is None:
            return
        if self._handle is not None:
            self._handle.cancel()
        self._armed_ms = self.at_ms
        delay_s = max(self.at_ms - self._clock_ms(), 0) / 1000
        self._handle = self._loop.call_later(delay_s, self._due)

    def _due(self) -> None:
        """The loop's clock stands still in a suspended machine, so the core's is asked again."""
        self._handle = None
        if self._clock_ms() < self.at_ms:
            self._arm()
        else:
            self._fire()
