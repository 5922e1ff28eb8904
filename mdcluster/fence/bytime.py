"""Providers that end nobody: a host has certainly stopped, and what it sent has landed by now.

* watchdog: a life that got no more of an I/O lease is reset by the watchdog of its host
  (docs/TIMEOUTS.md has the proof). Only where every node has one: settings see to that.
* reboot: a host that shows another boot id has ended its former boot. Only for lives that are
  boots of the kernel, and only as long as no two hosts share one state directory's content.

Both count on the clock of :attr:`Fence.heard_ms`, CLOCK_BOOTTIME of the asking node.
"""

from collections.abc import Callable

from mdcluster.core.effects import NEVER, Fence
from mdcluster.core.timing import Timing
from mdcluster.fence.provider import Confirmed, Waits
from mdcluster.gate import boottime_ms

DEADLINE_S = 1.0


class WatchdogFence:
    """Confirms a life that was silent for watchdog_fence_ms; without a watchdog, none."""

    name = "watchdog"
    deadline_s = DEADLINE_S

    def __init__(self, timing: Timing, clock_ms: Callable[[], int] = boottime_ms) -> None:
        self._timing = timing
        self._clock_ms = clock_ms

    async def fence(self, ask: Fence) -> Confirmed | Waits:
        return by_watchdog(self._timing, ask, self._clock_ms())


class RebootFence:
    """Confirms a life once its host has shown another one for landed_ms."""

    name = "reboot"
    deadline_s = DEADLINE_S

    def __init__(self, timing: Timing, clock_ms: Callable[[], int] = boottime_ms) -> None:
        self._timing = timing
        self._clock_ms = clock_ms

    async def fence(self, ask: Fence) -> Confirmed | Waits:
        return by_reboot(self._timing, ask, self._clock_ms())


def by_watchdog(timing: Timing, ask: Fence, now_ms: int) -> Confirmed | Waits:
    """What the watchdog of a silent host proves, `now_ms` on the asking node's clock."""
    fence_ms = timing.watchdog_fence_ms
    if fence_ms is None:
        return Waits("watchdog_ms is 0: there are no watchdogs")
    silent_ms = now_ms - ask.heard_ms
    if silent_ms < fence_ms:
        return Waits(
            f"{fence_ms - silent_ms} ms more, until the watchdog of {ask.name} has reset it and "
            f"nothing it sent can land ({fence_ms} ms without a request that was granted)"
        )
    return Confirmed(f"its watchdog has reset it: no request was granted for {silent_ms} ms")


def by_reboot(timing: Timing, ask: Fence, now_ms: int) -> Confirmed | Waits:
    """What another boot of the same host proves, `now_ms` on the asking node's clock."""
    if ask.succeeded_ms == NEVER:
        return Waits(f"no other boot of {ask.name} was seen")
    since_ms = now_ms - ask.succeeded_ms
    if since_ms < timing.landed_ms:
        return Waits(
            f"{ask.name} has booted again; {timing.landed_ms - since_ms} ms more, until nothing "
            "that the former boot sent can land (device_timeout_ms)"
        )
    return Confirmed(f"its host booted again {since_ms} ms ago")
