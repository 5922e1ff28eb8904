"""Until when the watchdog of this host may be fed.

Rules of this file:

* a life that may write or read an array is fed until grace_ms after the end of its I/O lease,
  by the latest lease it ever had: its holds are confirmed in that time, and md cannot hold reads;
* a lease that comes back is a request that the writer has heard, so feeding goes on: the writer
  counts from that request, and grants nothing to a life that was declared fenced;
* a life that can do no harm is fed for good, with or without a writer: no array runs, starts or
  stops here, nothing known here lists it, and nothing that it does not know yet can list it:
  each Prepare of a start that it answered was abandoned, or followed by a newer state;
* without a watchdog (watchdog_ms = 0) nothing is said.

A harmless life that is fenced by time all the same is not reset; it runs nothing, and a message
that could still start something is lost with its connection long before watchdog_fence_ms.
"""

from mdcluster.core.effects import ALWAYS, AllowFeeding
from mdcluster.core.env import Env
from mdcluster.core.ledger import Ledger
from mdcluster.core.model import ZERO, ArrayId, ArrayState, Stamp
from mdcluster.core.replica import Replica

PREPARED_MAX = 256
"""Starts whose outcome is not known; beyond them a life is never called harmless again."""


class Feeding:
    """One per node; says so whenever the time changes."""

    def __init__(self, env: Env, ledger: Ledger, replica: Replica) -> None:
        self._env = env
        self._ledger = ledger
        self._replica = replica
        # The latest start prepared, and the newest state known then.
        self._prepared: dict[ArrayId, tuple[int, Stamp]] = {}
        self._lost_count = False
        self._leased_until_ms = 0
        self._told_ms: int | None = None

    def prepares(self, op: int, array: ArrayId) -> None:
        """This node is about to tell a writer that it can run the array: it may get listed."""
        if len(self._prepared) >= PREPARED_MAX:
            self._lost_count = True
        elif op > self._prepared.get(array, (0, ZERO))[0]:
            self._prepared[array] = op, self._known(array)

    def abandoned(self, op: int) -> None:
        """Nothing was committed of this one; a later one of the same array counts on."""
        for array, (latest, _) in list(self._prepared.items()):
            if latest == op:
                del self._prepared[array]

    def tend(self, io_lease_until_ms: int) -> None:
        """After every step, and before what it sends has left."""
        timing = self._env.timing
        if not timing.watchdog_ms:
            return
        self._leased_until_ms = max(self._leased_until_ms, io_lease_until_ms)
        until_ms = self._leased_until_ms + timing.grace_ms if self._leased_until_ms else 0
        if self._is_harmless():
            until_ms = ALWAYS
        if until_ms != self._told_ms:
            self._told_ms = until_ms
            self._env.emit(AllowFeeding(until_ms))

    def _is_harmless(self) -> bool:
        for array, (_, stamp) in list(self._prepared.items()):
            if self._known(array) > stamp:
                del self._prepared[array]  # what it may be listed in from now on, that tells
        waits = self._prepared or self._lost_count
        return not waits and not self._replica.busy and not self._is_listed()

    def _is_listed(self) -> bool:
        """In the newest state of any array, or in what md was brought to."""
        states = [*self._replica.states.values()]
        for key, entry in self._ledger.entries.items():
            if entry.stamp > self._replica.applied.get(key, ZERO):
                states += [entry.state] if isinstance(entry.state, ArrayState) else []
        return any(self._env.me in state.running for state in states)

    def _known(self, array: ArrayId) -> Stamp:
        return max(self._ledger.stamp(array), self._replica.applied.get(array, ZERO))
