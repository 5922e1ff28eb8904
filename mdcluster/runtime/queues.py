"""Work in order, per key: one task for each key that has work, none for those without."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable

from mdcluster.errors import MdclusterError

Work = Callable[[], Awaitable[None]]

QUEUE_MAX = 1024
KEYS_MAX = 4096


class QueueFullError(MdclusterError):
    """More work was asked for than this node may keep: what should finish does not."""


class Queues:
    """`broken` is told what work raised; work handles by itself what is foreseen."""

    def __init__(self, broken: Callable[[BaseException], None]) -> None:
        self._broken = broken
        self._work: dict[Hashable, deque[Work]] = {}
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}

    def put(self, key: Hashable, work: Work) -> None:
        """Start `work` when what was put under this key before has completed.

        Raises:
            QueueFullError: too much waits already.
        """
        waiting = self._work.get(key)
        if waiting is None:
            if len(self._work) >= KEYS_MAX:
                raise QueueFullError(f"{KEYS_MAX} operations are under way at once")
            self._work[key] = deque([work])
            self._tasks[key] = asyncio.create_task(self._run(key))
        elif len(waiting) >= QUEUE_MAX:
            raise QueueFullError(f"{QUEUE_MAX} operations wait for {key}")
        else:
            waiting.append(work)

    def busy(self, key: Hashable) -> bool:
        return key in self._work

    async def idle(self, key: Hashable) -> None:
        """Return when nothing is under way or waits under this key."""
        task = self._tasks.get(key)
        if task is not None:
            await asyncio.wait([task])

    async def _run(self, key: Hashable) -> None:
        waiting = self._work[key]
        try:
            while waiting:
                await waiting[0]()
                waiting.popleft()
        except Exception as error:  # noqa: BLE001 - handed to the owner, which ends the node
            self._broken(error)
        finally:
            del self._work[key], self._tasks[key]

    async def close(self) -> None:
        """Cancel what is under way and wait for its end."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
