"""Accesses to devices in threads that may be lost: each with a deadline, one a device at a time.

A thread that hangs in the kernel can be neither ended nor waited for. So each access has a
daemon thread to itself; one that came back is kept for the next. Whoever waits for an access
gives up at the deadline, but the device stays taken until the access has truly returned: a
late write is never overtaken by a newer one, and a device that hangs is refused at once instead
of taking one more thread for each attempt.
"""

import asyncio
import contextlib
import queue
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from mdcluster.errors import MdclusterError


class AccessLateError(MdclusterError):
    """A device did not answer in time; what was asked of it may still happen."""


THREADS_MAX = 128
SPARE_MAX = 8
"""Threads kept for the next accesses: starting one takes longer than a write of 4 KiB."""
T = TypeVar("T")
_Jobs = queue.SimpleQueue[Callable[[], None] | None]


@dataclass(slots=True, eq=False)
class _Turn:
    """One device: who is at it, who waits for it, whether the access is over its deadline."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    late: bool = False


class Workers:
    """For one event loop. Keys are the paths of the devices."""

    def __init__(self, threads_max: int = THREADS_MAX) -> None:
        self._turns: dict[str, _Turn] = {}
        self._threads = 0
        self._threads_max = threads_max
        self._spare = 0
        self._jobs: _Jobs = queue.SimpleQueue()
        self._idle = asyncio.Event()
        self._idle.set()
        weakref.finalize(self, _dismiss, self._jobs)

    @property
    def outstanding(self) -> int:
        """Accesses that have not returned, late ones included."""
        return self._threads

    async def idle(self) -> None:
        """Until every access has returned, however late."""
        await self._idle.wait()

    def is_late(self, key: str) -> bool:
        """Whether an access to this device is over its deadline and has not returned."""
        turn = self._turns.get(key)
        return turn is not None and turn.late

    async def run(self, key: str, deadline_ms: int, call: Callable[[], T]) -> T:
        """What `call` returns or raises, from a thread; AccessLateError at the deadline."""
        turn = self._turns.setdefault(key, _Turn())
        if turn.late:
            raise AccessLateError(
                f"{key}: an earlier access has missed its deadline and not returned yet; "
                "the device hangs, see the kernel log"
            )
        turn.users += 1
        end = asyncio.get_running_loop().time() + deadline_ms / 1000
        try:
            async with asyncio.timeout_at(end):
                await turn.lock.acquire()
        except TimeoutError:
            self._leave(key, turn)
            raise _late(key, deadline_ms) from None
        except asyncio.CancelledError:
            self._leave(key, turn)
            raise
        if self._threads >= self._threads_max:
            turn.lock.release()
            self._leave(key, turn)
            raise AccessLateError(f"{key}: {self._threads} accesses to devices do not return")
        future = self._start(key, turn, call)
        left_s = max(end - asyncio.get_running_loop().time(), 0)
        done, _ = await asyncio.wait({future}, timeout=left_s)
        if not done:
            turn.late = True
            raise _late(key, deadline_ms)
        return future.result()

    def _leave(self, key: str, turn: _Turn) -> None:
        turn.users -= 1
        if not turn.users:
            self._turns.pop(key, None)

    def _start(self, key: str, turn: _Turn, call: Callable[[], T]) -> "asyncio.Future[T]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def returned(result: T | None, error: BaseException | None) -> None:
            self._threads -= 1
            self._keep_thread()
            if not self._threads:
                self._idle.set()
            turn.late = False
            turn.lock.release()
            self._leave(key, turn)
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]
            else:
                future.set_exception(error)
                future.exception()  # seen, even if nobody waits for it any more

        def work() -> None:
            result: T | None = None
            error: BaseException | None = None
            try:
                result = call()
            except BaseException as raised:  # noqa: BLE001 - handed to whoever waits
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(returned, result, error)

        self._threads += 1
        self._idle.clear()
        self._give_thread(work)
        return future

    def _give_thread(self, work: Callable[[], None]) -> None:
        """A spare one takes it from the queue; each spare one is there, or about to be."""
        self._jobs.put(work)
        if self._spare:
            self._spare -= 1
        else:
            threading.Thread(target=_serve, args=(self._jobs,), name="member", daemon=True).start()

    def _keep_thread(self) -> None:
        if self._spare < SPARE_MAX:
            self._spare += 1
        else:
            self._jobs.put(None)


def _serve(jobs: _Jobs) -> None:
    while (work := jobs.get()) is not None:
        work()
        del work  # or it would keep its results, and whoever wanted them, until the next


def _dismiss(jobs: _Jobs) -> None:
    for _ in range(SPARE_MAX):
        jobs.put(None)


def _late(key: str, deadline_ms: int) -> AccessLateError:
    return AccessLateError(f"{key}: no answer within {deadline_ms} ms")
