"""A control server in a thread of its own, so that the synchronous client can be tried on it."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from mdcluster.control.protocol import Request
from mdcluster.control.server import ControlServer, Handler, ReplySink

READY_MAX_S = 10.0


class FakeDaemon:
    """Serves ``handler`` on ``path`` while it is entered; ``requests`` are those it has seen."""

    def __init__(self, path: Path, handler: Handler, keepalive_s: float = 5.0) -> None:
        self.path = path
        self.requests: list[Request] = []
        self._handler = handler
        self._keepalive_s = keepalive_s
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._end = asyncio.Event()

    def __enter__(self) -> "FakeDaemon":
        self._thread.start()
        assert self._ready.wait(READY_MAX_S)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(READY_MAX_S)
        assert not self._thread.is_alive()

    def publish(self, kind: str, **fields: Any) -> None:
        self._loop.call_soon_threadsafe(lambda: self.server.publish(kind, **fields))

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self.server = ControlServer(self.path, self._handle, keepalive_s=self._keepalive_s)
        await self.server.start()
        self._ready.set()
        await self._end.wait()
        await self.server.close()

    async def _handle(self, request: Request, sink: ReplySink) -> None:
        self.requests.append(request)
        await self._handler(request, sink)


def answers(given: dict[str, Any]) -> Handler:
    """A handler that answers each verb with its data; text in a list is a refusal."""

    async def handle(request: Request, sink: ReplySink) -> None:
        data = given.get(request.verb)
        if isinstance(data, list):
            sink.refused(data[0])
        elif callable(data):
            await _call(data, request, sink)
        else:
            sink.done("", data)

    return handle


async def _call(step: Callable[..., Any], request: Request, sink: ReplySink) -> None:
    await step(request, sink)
