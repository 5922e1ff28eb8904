"""Errors and delays on purpose: what tests hand to the embedded driver, and nobody else.

A :class:`Faults` is passed to the driver's constructor; no command or setting leads here. Its
rules are asked in the I/O thread right before the system call (for a copying write: between
the gate check and the write, so a test can freeze a node exactly there).
"""

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum


class Direction(StrEnum):
    """What is done to a member."""

    READ = "read"
    WRITE = "write"
    FLUSH = "flush"


class Purpose(StrEnum):
    """Why it is done."""

    DATA = "data"
    BITMAP = "bitmap"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class Access:
    """One system call about to be made. Sectors from the start of the member; flushes have none."""

    path: str
    direction: Direction
    purpose: Purpose
    lo_sectors: int = 0
    hi_sectors: int = 0


Action = Callable[[Access], None]
"""Called in an I/O thread: returns (perhaps late) to let the access go on, or raises OSError."""


@dataclass(eq=False, slots=True)
class Rule:
    """What happens to matching accesses; `lift` ends it. times: how often at most, None: always."""

    path: str
    direction: Direction | None
    purpose: Purpose | None
    lo_sectors: int
    hi_sectors: int | None
    times: int | None
    action: Action
    hits: int = field(default=0)

    def matches(self, access: Access) -> bool:
        """Whether the rule is for this access. A range never matches a flush."""
        if access.path != self.path or self.times == 0:
            return False
        if self.direction not in (None, access.direction):
            return False
        if self.purpose not in (None, access.purpose):
            return False
        if self.lo_sectors == 0 and self.hi_sectors is None:
            return True
        end = access.hi_sectors if self.hi_sectors is None else self.hi_sectors
        return access.lo_sectors < end and self.lo_sectors < access.hi_sectors


class Faults:
    """The rules in force. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []

    def visit(self, access: Access) -> None:
        """Asked by the driver. Raises what the rules say, after the time they say."""
        with self._lock:
            due = [rule for rule in self._rules if rule.matches(access)]
            for rule in due:
                rule.hits += 1
                rule.times = None if rule.times is None else rule.times - 1
        for rule in due:
            rule.action(access)

    def before(
        self,
        path: str,
        action: Action,
        *,
        direction: Direction | None = None,
        purpose: Purpose | None = None,
        lo_sectors: int = 0,
        hi_sectors: int | None = None,
        times: int | None = None,
    ) -> Rule:
        """Call `action` before each matching access; it may block, or raise OSError."""
        rule = Rule(path, direction, purpose, lo_sectors, hi_sectors, times, action)
        with self._lock:
            self._rules.append(rule)
        return rule

    def fail(
        self,
        path: str,
        direction: Direction | None = None,
        *,
        purpose: Purpose | None = None,
        lo_sectors: int = 0,
        hi_sectors: int | None = None,
        times: int | None = None,
        error: int = errno.EIO,
    ) -> Rule:
        """Answer with an error instead of doing it."""

        def refuse(access: Access) -> None:
            raise OSError(error, f"{os.strerror(error)} (injected)", access.path)

        return self.before(
            path, refuse, direction=direction, purpose=purpose,
            lo_sectors=lo_sectors, hi_sectors=hi_sectors, times=times,
        )  # fmt: skip

    def delay(
        self,
        path: str,
        seconds: float,
        direction: Direction | None = None,
        *,
        times: int | None = None,
    ) -> Rule:
        """Do it, but only after a while."""
        pause = threading.Event()

        def wait(_: Access) -> None:
            pause.wait(seconds)

        return self.before(path, wait, direction=direction, times=times)

    def disappear(self, path: str) -> Rule:
        """The device is gone (ENXIO) until the rule is lifted."""
        return self.fail(path, error=errno.ENXIO)

    def lift(self, rule: Rule) -> None:
        """End one rule; what already waits in it goes on waiting."""
        with self._lock:
            if rule in self._rules:
                self._rules.remove(rule)

    def clear(self) -> None:
        """End all rules."""
        with self._lock:
            self._rules.clear()


class Freeze:
    """An action that stops accesses until `thaw`: `reached` tells that one stands there."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._go = threading.Event()

    def __call__(self, access: Access) -> None:
        """The action itself."""
        self.reached.set()
        self._go.wait()

    def thaw(self) -> None:
        """Let all go on, and all that come later."""
        self._go.set()
