"""Clocks of guests beside the host's: CLOCK_MONOTONIC of each starts when its kernel does."""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from tests.vm.lab import Guest

ASKED = 15
"""Times that a guest is asked; the quickest answer bounds the error best."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The host's clock before and after the guest has read its own, in nanoseconds."""

    before_ns: int
    guest_ns: int
    after_ns: int


@dataclass(frozen=True, slots=True)
class GuestClock:
    """ahead_ns: of the host's; wrong by error_ns at most (half of the quickest answer)."""

    ahead_ns: int
    error_ns: int

    def on_host_ns(self, guest_ns: int) -> int:
        """What the host's clock said when the guest's said this."""
        return guest_ns - self.ahead_ns


def clock_of(samples: Iterable[Sample]) -> GuestClock:
    """By the sample that took least; the guest read its clock somewhere in its middle."""
    best = min(samples, key=lambda one: one.after_ns - one.before_ns)
    middle_ns = (best.before_ns + best.after_ns) // 2
    return GuestClock(best.guest_ns - middle_ns, (best.after_ns - best.before_ns + 1) // 2)


def compare(guest: Guest) -> GuestClock:
    """Ask now: clocks of emulated machines drift."""
    return clock_of(_ask(guest) for _ in range(ASKED))


def _ask(guest: Guest) -> Sample:
    before_ns = time.monotonic_ns()
    guest_ns = guest.clock_ns()
    return Sample(before_ns, guest_ns, time.monotonic_ns())
