"""The write gate: every superblock, ring, bitmap and resync write of this node asks here.

Open on the writer under a live lease, shut elsewhere; shut by default. A node without a
cluster has a gate that is always open. The lease is looked at right before each write
(`check`), on the clock that goes on while the machine sleeps (CLOCK_BOOTTIME).

What a node may always write to a shared disk is its own: its bitmap slot and its ring.
Those writes do not pass here; :class:`mdcluster.metadata.device.DeviceWriter` takes the
check it is given, and the driver gives it the one that fits.
"""

import time
from collections.abc import Callable

from mdcluster.errors import MdclusterError


class GateShutError(MdclusterError):
    """A write was refused: this node is not the writer, or its lease has run out."""


def boottime_ms() -> int:
    """Milliseconds of CLOCK_BOOTTIME: grows through suspend, never set back."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Gate:
    """Opened and shut by the core's effects only. Safe to `check` from any thread."""

    def __init__(self, clock_ms: Callable[[], int] = boottime_ms) -> None:
        self._clock_ms = clock_ms
        # One tuple, replaced whole: a reader in another thread sees old or new, never a mix.
        self._grant: tuple[int, int] = (0, 0)
        self._refused = 0

    def open(self, term: int, until_ms: int) -> None:
        """Open, or keep open, for `term` until `until_ms`. An older term never reopens it."""
        if term < self._grant[0]:
            raise GateShutError(f"gate: term {term} is over, term {self._grant[0]} was opened here")
        self._grant = (term, until_ms)

    def shut(self) -> None:
        self._grant = (self._grant[0], 0)

    def check(self) -> None:
        """Raise unless a gated write may be issued now."""
        term, until_ms = self._grant
        now_ms = self._clock_ms()
        if now_ms < until_ms:
            return
        self._refused += 1
        if until_ms == 0:
            raise GateShutError("write refused: the gate is shut, this node is not the writer")
        raise GateShutError(
            f"write refused: the lease of term {term} ran out {now_ms - until_ms} ms ago"
        )

    @property
    def is_open(self) -> bool:
        return self._clock_ms() < self._grant[1]

    @property
    def term(self) -> int:
        return self._grant[0]

    @property
    def refused(self) -> int:
        """How many writes were refused since the start."""
        return self._refused


class StandaloneGate(Gate):
    """The gate of a node without a cluster: always open."""

    def check(self) -> None:
        return

    @property
    def is_open(self) -> bool:
        return True
