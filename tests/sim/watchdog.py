"""The watchdog of one simulated host, and the daemon's side of it.

The hardware runs by a clock of its own and outlives the process; a process that is killed has
it fed once more by the kernel. A host may freeze between the check and the feed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mdcluster.core.model import Life

if TYPE_CHECKING:
    from tests.sim.hosts import Host

STOPPED = -1


class Watchdog:
    """Fed as the core allows; where there are none, nobody asks."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.world = host.world
        self.rate_ppm = 0  # of its own clock
        self.after_check: Callable[[], None] | None = None  # what happens between check and feed
        self._fed_us = STOPPED
        self._opened_by: tuple[Life, int] | None = None  # the process that feeds it
        self._until_ms = 0
        self._starves = False

    @property
    def fires_at_us(self) -> int:
        """By wall truth, unless it is fed before."""
        period_us = self.world.timing.watchdog_ms * 1000
        return self._fed_us + period_us * (1_000_000 + self.rate_ppm) // 1_000_000

    # --- the process -----------------------------------------------------------------------

    def allow(self, until_ms: int) -> None:
        host, self._until_ms = self.host, until_ms
        if self._opened_by != host.process and host.clock_ms() < until_ms:
            self._opened_by = host.process
            self._feed()
            self._tick_later()
        elif self._starves and self._opened_by == host.process:
            self._check()

    def _tick_later(self) -> None:
        self.host.later(self.world.timing.watchdog_feed_ms * 1000, self._tick)

    def _tick(self) -> None:
        self._check()
        self._tick_later()

    def _check(self) -> None:
        self._starves = self.host.clock_ms() >= self._until_ms
        if self._starves:
            return
        self.host.later(0, self._feed)
        if self.after_check is not None:
            call, self.after_check = self.after_check, None
            call()

    # --- the hardware ----------------------------------------------------------------------

    def _feed(self) -> None:
        self._fed_us = self.world.now_us
        self.world.at_us(self.fires_at_us, self._fire, self._fed_us)

    def stop(self) -> None:
        """The magic close, or the power is gone."""
        self._fed_us = STOPPED

    def process_ended(self) -> None:
        """The kernel closes its device, and feeds it (watchdog_release)."""
        if self._fed_us != STOPPED:
            self._feed()

    def _fire(self, fed_us: int) -> None:
        if self._fed_us == fed_us:
            self._fed_us = STOPPED
            self.world.load["watchdog_resets"] += 1
            self.host.reset()
