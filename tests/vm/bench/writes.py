"""What a follower feels of a resync: random writes of 4 KiB, one at a time.

One long resync, which is paused for those without it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mdcluster.control.verbs import Verb
from tests.bench.figures import Figure, percentile
from tests.vm.bench.cluster import ARRAY, BenchCluster, Run, ask, cluster
from tests.vm.bench.rounds import Round, numbers, ratios, typical

SIZE_MIB = 1024
SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Speed:
    """name: as people say it. kib_s: the writer's limit, 0: none. The aims of the issue."""

    name: str
    kib_s: int
    longest_aim_ms: float
    iops_aim: float


SPEEDS = {
    "10": Speed("10 MB/s", 10_000_000 // 1024, 50.0, 0.95),
    "40": Speed("40 MB/s", 40_000_000 // 1024, 90.0, 0.80),
    "full": Speed("full speed", 0, 150.0, 0.45),
}


def measure(speed: Speed, run: Run) -> Iterator[Round]:
    settings = f"[resync]\nspeed_max_kib = {speed.kib_s}\n"
    with cluster(run, 2, SIZE_MIB, settings) as made:
        made.make(SIZE_MIB, clean=False)
        while True:
            began = _position_sectors(made)
            busy = _write(made, "busy")
            moved_mib = (_position_sectors(made) - began) / 2048
            made.still(Verb.PAUSE)
            none = _write(made, "none")
            took_s = (busy["ended_ns"] - busy["began_ns"]) / 1e9
            yield {
                **_told("none", none),
                **_told("busy", busy),
                "resync_mib_s": moved_mib / took_s,
            }
            made.still(Verb.RESUME)


def _write(made: BenchCluster, seed: str) -> dict[str, Any]:
    follower = made.lab[made.followers()[0]]
    orders = {"device": f"/dev/md/{ARRAY}", "seed": seed, "seconds": SECONDS}
    return ask(follower, "writes", json.dumps(orders))


def _position_sectors(made: BenchCluster) -> int:
    """How far the resync is; AssertionError if it is over: then there is nothing to measure."""
    now = made.detail().sync
    assert now is not None, "the array is in sync too soon: fewer rounds, or more of SIZE_MIB"
    return now.position_sectors


def _told(which: str, answer: dict[str, Any]) -> dict[str, float]:
    took_ms = [us / 1000 for us in answer["took_us"]]
    seconds = (answer["ended_ns"] - answer["began_ns"]) / 1e9
    return {
        f"{which}_iops": len(took_ms) / seconds,
        f"{which}_p99_ms": percentile(took_ms, 0.99),
        f"{which}_longest_ms": max(took_ms),
    }


def table(speed: Speed, rounds: Sequence[Round]) -> list[Figure]:
    part, of = f"resync at {speed.name}", partial(numbers, rounds)
    real = typical(part, "", of("resync_mib_s"), "MiB/s")
    note = f"resync at {real.value:.1f} MiB/s"
    iops = ratios(rounds, "busy_iops", of="none_iops")
    longest = of("busy_longest_ms")
    return [
        typical(part, "follower's IOPS", of("busy_iops"), "/s", note=note),
        typical(part, "without resync", of("none_iops"), "/s"),
        typical(part, "IOPS against none", iops, "ratio", speed.iops_aim, "at_least"),
        typical(part, "a write, p99", of("busy_p99_ms"), "ms"),
        typical(part, "without resync", of("none_p99_ms"), "ms"),
        typical(part, "longest write", longest, "ms", speed.longest_aim_ms),
        typical(part, "without resync", of("none_longest_ms"), "ms"),
    ]
