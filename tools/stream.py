"""The daemon's events as they come, over restarts of the daemon: for --events, --watch, --monitor.

A lost connection is opened again, later each time, and given up after GIVE_UP_S. What happened
in between is not told: the stream says that there was a gap.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from mdcluster.control.client import Client
from mdcluster.control.errors import ControlError, NoDaemonError
from mdcluster.control.protocol import SILENCE_MAX_S, EventLine

from .output import utc

FIRST_S: Final = 0.1
LONGEST_S: Final = 5.0
GIVE_UP_S: Final = 600.0

LOST: Final = "stream_lost"
RESUMED: Final = "stream_resumed"
BEGUN: Final = "stream_begun"


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Stream:
    """One subscription. kinds: only these; none for all.

    ControlError if the daemon cannot be reached at the beginning, or not again within GIVE_UP_S;
    never if it is patient: who tells others that there is no daemon cannot give up himself.
    """

    def __init__(
        self,
        path: str,
        kinds: tuple[str, ...] = (),
        now_s: Callable[[], float] = time.monotonic,
        *,
        patient: bool = False,
    ) -> None:
        self._kinds = kinds
        self._now_s = now_s
        self._client = Client(path)
        self._connected = not patient
        self._give_up_s = math.inf if patient else GIVE_UP_S
        if not patient:
            self._client.subscribe(kinds)
        self._subscribed = False
        self._heard_s = now_s()
        self._gap_s: float | None = None  # since when there is no stream
        self._why = ""
        self._pause_s = FIRST_S
        self._next_s = 0.0

    def close(self) -> None:
        self._client.close()

    @property
    def up(self) -> bool:
        """Whether the daemon told events when it was heard of last."""
        return self._subscribed

    def step(
        self, timeout_s: float, others: Sequence[HasFileno] = ()
    ) -> tuple[list[EventLine], list[HasFileno]]:
        """Wait until something came, one of `others` is readable, or the time is over.

        Gives what came (with LOST, BEGUN and RESUMED of our own) and what is readable.
        """
        if not self._connected and self._now_s() >= self._next_s:
            self._reconnect()
        if not self._connected:
            left_s = max(self._next_s - self._now_s(), 0.0)
            return [], select.select(others, [], [], min(timeout_s, left_s))[0]
        silent_s = max(self._heard_s + SILENCE_MAX_S - self._now_s(), 0.0)
        ready = select.select([self._client, *others], [], [], min(timeout_s, silent_s))[0]
        if self._client in ready:
            ready.remove(self._client)
            return self._take(), ready
        if self._now_s() >= self._heard_s + SILENCE_MAX_S:
            return self._lose(f"the daemon has been silent for {SILENCE_MAX_S:g} s"), ready
        return [], ready

    def _take(self) -> list[EventLine]:
        try:
            answers = self._client.take()
        except ControlError as error:
            return self._lose(str(error))
        self._heard_s = self._now_s()
        lines = []
        for answer in answers:
            if isinstance(answer, EventLine):
                lines.append(answer)
            elif answer.final:
                return [*lines, *self._lose(answer.text)]
            elif not self._subscribed:
                lines.append(self._begin())
        return lines

    def _begin(self) -> EventLine:
        self._subscribed = True
        self._pause_s = FIRST_S
        gap_s, self._gap_s = self._gap_s, None
        if gap_s is None:
            return EventLine(BEGUN, {"time": utc(time.time())})
        gap_ms = round((self._now_s() - gap_s) * 1000)
        return EventLine(RESUMED, {"time": utc(time.time()), "gap_ms": gap_ms})

    def _lose(self, why: str) -> list[EventLine]:
        """The connection is no more; told once, however often it fails to come back."""
        self._client.close()
        self._connected = self._subscribed = False
        self._why = why
        self._next_s = self._now_s() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_S)
        if self._gap_s is not None:
            return []
        self._gap_s = self._now_s()
        return [EventLine(LOST, {"time": utc(time.time()), "why": why})]

    def _reconnect(self) -> None:
        if self._gap_s is not None and self._now_s() - self._gap_s >= self._give_up_s:
            raise NoDaemonError(f"no daemon for {GIVE_UP_S:g} s: {self._why}")
        try:
            self._client.subscribe(self._kinds)
        except ControlError as error:
            self._lose(str(error))
            return
        self._connected = True
        self._heard_s = self._now_s()
