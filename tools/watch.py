"""``mdcadm --watch``: the cluster and its arrays as they are, until somebody has seen enough.

On a terminal a window that is redrawn where it changes; in a pipe, or on a dumb terminal, plain
snapshots; with --json documents of a line. It looks when something happens, and now and then.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Any, Final, NoReturn

from mdcluster.control.arrays import ArrayList, MdstatArray, MdstatData, SyncInfo, Waiting
from mdcluster.control.client import Client
from mdcluster.control.errors import ControlError
from mdcluster.control.protocol import EventLine
from mdcluster.control.shape import plain
from mdcluster.control.status import ClusterStatus
from mdcluster.control.verbs import NoArgs, Verb

from .command import Command
from .history import latest
from .output import Output, nobody_reads, utc
from .screen import Screen
from .stream import BEGUN, Stream
from .watch_view import Scene, lasting, snapshot, window

SOON_S: Final = 0.5
"""Between two looks, whatever happens."""
BUSY_S: Final = 1.0
"""While something is copied or waits. If the daemon does not answer, the first pause, each next
one twice as long, up to IDLE_S."""
IDLE_S: Final = 5.0
SILENCE_S: Final = 2.0
EVENTS_MAX: Final = 64
_QUIET: Final = frozenset({"sync_moved", "committed", BEGUN})
"""Kinds that tell no more than the arrays do."""


def run(command: Command, path: str, output: Output) -> int:
    """0: q, or nobody reads any more; 130: interrupted; ControlError: no daemon comes back."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    watch = _Watch(path)
    try:
        if command.has("json"):
            watch.print(output, watch.document)
        elif not output.terminal or os.environ.get("TERM", "dumb") == "dumb":
            watch.print(output, watch.text)
        else:
            with Screen(output.out, sys.stdin) as screen:
                watch.show(screen)
    except BrokenPipeError:
        nobody_reads()
    except KeyboardInterrupt:
        return 130
    finally:
        watch.close()
    return 0


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(0)


class _Watch:
    """What is known, and when to look again."""

    def __init__(self, path: str) -> None:
        self._stream = Stream(path)
        self._client = Client(path, silence_s=SILENCE_S, attempts_max=1)
        self._events: deque[EventLine] = deque(maxlen=EVENTS_MAX)
        self._status: ClusterStatus | None = None
        self._arrays: tuple[MdstatArray, ...] = ()
        self._running: dict[str, int] = {}
        self._problem = ""
        self._pause_s = BUSY_S
        self._looked_s = -IDLE_S
        self._news = False

    def close(self) -> None:
        self._stream.close()
        self._client.close()

    # --- the ways to show it -----------------------------------------------------------------

    def show(self, screen: Screen) -> None:
        self._recall()
        while True:
            self._look()
            size = screen.size()
            screen.draw(window(self._scene(), *size), size)
            if self._wait(screen):
                return

    def print(self, output: Output, made: Any) -> None:
        """What `made` gives, whenever something has changed."""
        last: object = None
        while output.read_by_somebody():
            self._look()
            now = told(self._scene())
            if now != last:
                output.print(made())
                output.out.flush()
                self._events.clear()
                last = told(self._scene())
            self._wait(None)

    def text(self) -> str:
        return f"{snapshot(self._scene())}\n"

    def document(self) -> str:
        import json  # noqa: PLC0415

        scene = self._scene()
        document = {
            "time": utc(scene.now_s),
            "problem": scene.problem,
            "cluster": scene.status,
            "arrays": scene.arrays,
            "events": [{"event": e.event, **e.fields} for e in reversed(scene.events)],
        }
        return json.dumps(plain(document), separators=(",", ":")) + "\n"

    # --- looking -----------------------------------------------------------------------------

    def _scene(self) -> Scene:
        events = tuple(reversed(self._events))
        return Scene(self._status, self._arrays, self._running, events, self._problem, time.time())

    def _look(self) -> None:
        """All there is to know now; if the daemon does not answer, that it is so."""
        self._looked_s, self._news = time.monotonic(), False
        try:
            self._status = self._client.ask(Verb.STATUS, NoArgs(), ClusterStatus)
            self._arrays = self._client.ask(Verb.MDSTAT, NoArgs(), MdstatData).arrays
            briefs = self._client.ask(Verb.ARRAYS, NoArgs(), ArrayList).arrays
        except ControlError as error:
            self._client.close()
            self._pause_s = min(2 * self._pause_s, IDLE_S) if self._problem else BUSY_S
            self._problem = str(error)
            return
        self._running = {brief.name: brief.running for brief in briefs}
        self._problem = ""

    def _recall(self) -> None:
        """What happened before; an older daemon does not know."""
        with suppress(ControlError):
            for entry in latest(self._client, EVENTS_MAX):
                about = {"array": entry.array, "node": entry.node, "by": entry.by}
                told = {"time": entry.time, "on": entry.on, "what": entry.text, **about}
                self._events.append(EventLine(entry.event, told))

    def _wait(self, screen: Screen | None) -> bool:
        """Until it is time to look again; True if somebody has seen enough."""
        while (left_s := self._due_s() - time.monotonic()) > 0:
            lines, ready = self._stream.step(
                min(left_s, BUSY_S), () if screen is None else screen.inputs
            )
            told = [line for line in lines if line.event not in _QUIET]
            self._events.extend(told)
            self._news |= any(line.event != "sync_moved" for line in lines)
            if screen is not None and ready and screen.ended():
                return True
        return False

    def _due_s(self) -> float:
        if self._news:
            return self._looked_s + SOON_S
        if self._problem:
            return self._looked_s + self._pause_s
        waits = self._status is not None and self._status.waiting
        syncs = any(array.sync is not None for array in self._arrays)
        return self._looked_s + (BUSY_S if waits or syncs else IDLE_S)


def told(scene: Scene) -> object:
    """What of a scene makes it another one: no clocks, and passes by the percent."""
    status = scene.status
    if status is not None:
        status = status._replace(
            lease_ms_left=None,
            waiting=tuple(_undated(wait) for wait in lasting(status.waiting)),
            nodes=tuple(
                node._replace(links=tuple(link._replace(rtt_us=None) for link in node.links))
                for node in status.nodes
            ),
        )
    arrays = tuple(array._replace(sync=_percent(array.sync), bitmap=None) for array in scene.arrays)
    return status, arrays, dict(scene.running), scene.events, scene.problem


def _undated(wait: Waiting) -> Waiting:
    """A reason whose numbers have changed is the same reason."""
    reason, ends = (re.sub(r"\d+", "#", text) for text in (wait.reason, wait.ends))
    return wait._replace(since_ms=0, reason=reason, ends=ends)


def _percent(sync: SyncInfo | None) -> SyncInfo | None:
    if sync is None:
        return None
    percent = 100 * sync.position_sectors // max(sync.end_sectors, 1)
    return sync._replace(position_sectors=percent, speed_kib=0, eta_s=None)
