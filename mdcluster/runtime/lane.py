"""The one ordered lane through which the core's effects leave: persist before send.

Rules of this file (the contract is at the head of :mod:`mdcluster.core.effects`):

* what stands behind a Persist waits until that is durable; urgent sends, the timer, the gate and
  the watchdog's permission pass at once, and so do observations, needed most when nothing can be
  stored;
* one thread persists; all Persists that wait go into one fdatasync, for to be durable earlier
  than asked harms nobody;
* while the state directory refuses, the thread tries again, later each time, and nothing
  behind passes;
* the lane is bounded. What it may drop when it is full are messages to peers, which the
  network may drop as well; if that does not help the node stops.
"""

import asyncio
import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_when_event_set,
    wait_random_exponential,
)
from tenacity.nap import sleep_using_event

from mdcluster.core.effects import (
    AllowFeeding,
    Effect,
    Notify,
    OpenGate,
    PersistEntry,
    PersistPromise,
    Send,
    SetTimer,
    ShutGate,
)
from mdcluster.core.model import NodeId
from mdcluster.errors import MdclusterError
from mdcluster.runtime.store import (
    BATCH_MAX,
    EntryRecord,
    PromiseRecord,
    Record,
    StartRecord,
    StoreError,
)

LANE_MAX = 4096
"""Effects that wait behind a Persist."""
CLOSE_S = 2.0

_AT_ONCE = (SetTimer, OpenGate, ShutGate, AllowFeeding, Notify)


class LaneFullError(MdclusterError):
    """More waits behind a state directory that does not store than this node may keep."""


class Journal(Protocol):
    """Where Persists go (:class:`mdcluster.runtime.store.Store`); called in the lane's thread."""

    def append(self, records: list[Record]) -> None: ...


class LaneOwner(Protocol):
    """Who made the lane. Called on the event loop's thread."""

    def carry_out(self, effect: Effect) -> None:
        """Start an effect whose turn has come. Must not block, must not raise."""

    def persisted(self, effect: PersistPromise | PersistEntry) -> None:
        """This is durable, and its turn has come."""

    def persist_failed(self, why: str) -> None: ...

    def persist_recovered(self) -> None: ...

    def broken(self, error: BaseException) -> None:
        """The lane has stopped for good: a bug, or it is full."""


class Lane:
    """Effects in, effects out, in order. Runs in one event loop; `start` it, `close` it."""

    def __init__(
        self,
        me: NodeId,
        owner: LaneOwner,
        journal: Journal,
        *,
        retry_min_s: float = 0.05,
        retry_max_s: float = 2.0,
        lane_max: int = LANE_MAX,
    ) -> None:
        self._me = me
        self._owner = owner
        self._lane_max = lane_max
        self._waiting: deque[Effect | StartRecord] = deque()
        self._unwritten: deque[Record] = deque()  # Persists in `_waiting` not yet being written
        self._durable = 0  # Persists at the head of `_waiting` that are durable already
        self._writing = 0
        self._failing = False
        self._closed = False
        self._passing = False
        self.dropped = 0
        self._writer = Persister(journal, self._written, self._refused, retry_min_s, retry_max_s)

    def start(self) -> None:
        self._writer.start(asyncio.get_running_loop())

    async def close(self) -> None:
        """Give up what waits; returns when the persisting thread has ended."""
        self._closed = True
        self._waiting.clear()
        self._unwritten.clear()
        await self._writer.close()

    @property
    def depth(self) -> int:
        """How many effects wait."""
        return len(self._waiting)

    def take(self, effects: Iterable[Effect]) -> None:
        """Carry out, or queue, the effects of one step."""
        if self._closed:
            return
        for effect in effects:
            if isinstance(effect, _AT_ONCE) or (isinstance(effect, Send) and effect.urgent):
                self._owner.carry_out(effect)
            else:
                self._waiting.append(effect)
                if isinstance(effect, PersistPromise | PersistEntry):
                    self._unwritten.append(_record(effect))
        self._write_next()
        self._pass()
        if len(self._waiting) > self._lane_max:
            self._shed()

    def remember(self, record: StartRecord) -> None:
        """Persist what the core knows nothing of, in turn."""
        if not self._closed:
            self._waiting.append(record)
            self._unwritten.append(record)
            self._write_next()

    def _pass(self) -> None:
        """Let pass what waits for nothing. Not nested: what passes may bring new effects."""
        if self._passing:
            return
        self._passing = True
        try:
            while self._waiting:
                first = self._waiting[0]
                if not isinstance(first, PersistPromise | PersistEntry | StartRecord):
                    self._waiting.popleft()
                    self._owner.carry_out(first)
                    continue
                if not self._durable:
                    return
                self._durable -= 1
                self._waiting.popleft()
                if not isinstance(first, StartRecord):
                    self._owner.persisted(first)
        finally:
            self._passing = False

    def _write_next(self) -> None:
        if self._writing or not self._unwritten or self._closed:
            return
        count = min(len(self._unwritten), BATCH_MAX)
        self._writing = count
        self._writer.write([self._unwritten.popleft() for _ in range(count)])

    def _written(self, error: BaseException | None) -> None:
        """The persisting thread has stored a batch, or will never store anything again."""
        if self._closed:
            return
        if error is not None:
            self._break(error)
            return
        self._durable += self._writing
        self._writing = 0
        self._write_next()
        self._pass()
        if self._failing:
            self._failing = False
            self._owner.persist_recovered()

    def _refused(self, why: str) -> None:
        """The state directory refuses; the thread goes on trying."""
        if not self._failing and not self._closed:
            self._failing = True
            self._owner.persist_failed(why)

    def _shed(self) -> None:
        kept = deque(e for e in self._waiting if not self._droppable(e))
        self.dropped += len(self._waiting) - len(kept)
        self._waiting = kept
        if len(kept) > self._lane_max:
            self._break(LaneFullError(f"{len(kept)} effects wait for the state directory to store"))

    def _droppable(self, effect: Effect | StartRecord) -> bool:
        return isinstance(effect, Send) and effect.to != self._me

    def _break(self, error: BaseException) -> None:
        self._closed = True
        self._waiting.clear()
        self._owner.broken(error)


def _record(effect: PersistPromise | PersistEntry) -> Record:
    if isinstance(effect, PersistPromise):
        return PromiseRecord(effect.promise)
    return EntryRecord(effect.entry, effect.projected)


class Persister:
    """The thread that stores batches, one at a time, for as long as it takes."""

    def __init__(
        self,
        journal: Journal,
        written: Callable[[BaseException | None], None],
        refused: Callable[[str], None],
        retry_min_s: float,
        retry_max_s: float,
    ) -> None:
        self._journal = journal
        self._written = written
        self._refused = refused
        self._batches: queue.SimpleQueue[list[Record] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="persist", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._retrying = Retrying(
            retry=retry_if_exception_type(StoreError),
            wait=wait_random_exponential(multiplier=retry_min_s, max=retry_max_s),
            stop=stop_when_event_set(self._stopping),
            sleep=sleep_using_event(self._stopping),
            before_sleep=self._report,
            reraise=True,
        )

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread.start()

    def write(self, batch: list[Record]) -> None:
        self._batches.put(batch)

    async def close(self) -> None:
        self._stopping.set()
        self._batches.put(None)
        if self._thread.is_alive():
            # One that hangs in the kernel cannot be waited for; it ends with the process.
            await asyncio.to_thread(self._thread.join, CLOSE_S)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None and not self._stopping.is_set():
            error: BaseException | None = None
            try:
                self._retrying(self._journal.append, batch)
            except StoreError:  # stopped while it was refused
                return
            except Exception as bug:  # noqa: BLE001 - handed to the loop, which ends the node
                error = bug
            self._tell(functools.partial(self._written, error))
            if error is not None:
                return

    def _report(self, state: RetryCallState) -> None:
        failure = state.outcome.exception() if state.outcome is not None else None
        self._tell(functools.partial(self._refused, str(failure)))

    def _tell(self, callback: Callable[[], None]) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback)
