"""A change on one host until all see it: `--fail` by a follower to `faulty` in every guest's sysfs.

A watcher in each guest waits for md's own notification of the member's `state`. Its clock is
compared with the host's right before and right after; the error is half of the quickest answer.
"""

from collections.abc import Iterator, Sequence
from functools import partial

from mdcluster.control.verbs import Verb
from tests.bench.figures import Figure
from tests.vm.bench import clocks
from tests.vm.bench.cluster import ARRAY, BenchCluster, Run, Watcher, ask, cluster
from tests.vm.bench.rounds import Round, numbers, typical

AIM_MS = 15.0
NODES = (2, 3)
SIZE_MIB = 12
FAILED = "d2"


def measure(nodes: int, run: Run) -> Iterator[Round]:
    with cluster(run, nodes, SIZE_MIB) as made:
        made.make(SIZE_MIB, clean=True)
        while True:
            yield _once(made)
            made.change(Verb.REMOVE, FAILED)
            made.change(Verb.ADD, FAILED)
            made.until_in_sync()


def _once(made: BenchCluster) -> Round:
    guests = made.lab.guests
    asked_by = made.followers()[0]
    watchers = [Watcher(guest, made.member_state(guest.name, FAILED), "faulty") for guest in guests]
    made.close_clients()
    before = {guest.name: clocks.compare(guest) for guest in guests}
    told = ask(made.lab[asked_by], "propose", ARRAY, f"/dev/mapper/{FAILED}", bare=False)
    asked_ns = before[asked_by].on_host_ns(told["asked_ns"])
    late_ms = [(before[w.guest.name].on_host_ns(w.at_ns()) - asked_ns) / 1e6 for w in watchers]
    drift_ms = [_drift_ms(before[guest.name], clocks.compare(guest)) for guest in guests]
    error_ms = max(clock.error_ns for clock in before.values()) / 1e6
    return {
        "first_ms": min(late_ms),
        "all_ms": max(late_ms),
        "answered_ms": (told["answered_ns"] - told["asked_ns"]) / 1e6,
        "clock_error_ms": error_ms + max(drift_ms),
        "by_guest_ms": late_ms,
    }


def _drift_ms(before: clocks.GuestClock, after: clocks.GuestClock) -> float:
    """By how much a clock has moved beside the host's beyond what its readings leave open."""
    moved_ns = abs(after.ahead_ns - before.ahead_ns) - before.error_ns - after.error_ns
    return max(moved_ns, 0) / 1e6


def table(nodes: int, rounds: Sequence[Round]) -> list[Figure]:
    part, of = f"{nodes} guests", partial(numbers, rounds)
    error = f"clocks to {max(of('clock_error_ms')):.1f} ms"
    return [
        typical(part, "--fail to faulty on all", of("all_ms"), "ms", AIM_MS, note=error),
        typical(part, "--fail to faulty on the first", of("first_ms"), "ms"),
        typical(part, "--fail to its answer (released)", of("answered_ms"), "ms"),
    ]
