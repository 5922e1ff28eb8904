"""Run many seeds, or replay one in words.

    python -m tests.sim.run --seeds 1000 [--first 1] [--jobs 2]
    python -m tests.sim.run --replay SEED [--everything]

Prints seeds, simulated hours, speed against real time and the load that was on; a run whose
load was too low is void. A sample of the seeds is run a second time, in another process with
another hash seed, and the trace hashes are compared.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from tests.sim.cores import node_core
from tests.sim.swarm import run_seed
from tests.sim.words import Words

SAMPLE = 8
CHUNK = 10

LOAD_MIN = {
    "elections": 2.0,
    "commits": 12.0,
    "deaths": 0.5,
    "daemons died": 0.3,
    "inherited": 0.3,
    "fault_freeze": 0.1,
    "fault_partition": 0.1,
    "messages lost": 5.0,
    "windows": 4.0,
    "blocks_compared": 2.0,
    "members replaced": 0.05,
    "sizes_shown": 0.05,
    "roles changed": 0.05,
    "copies_cut_short": 0.2,
    "stage_hand over": 0.1,
    "stage_stop": 0.05,
    "stage_kill": 0.05,
    "stopped_in_order": 0.2,
    "members failed": 0.2,
    "voter sets": 1.1,
    "writes_acked": 200.0,
    "watchdog_resets": 0.05,
    "fenced_by_time": 0.1,
    "erased": 0.02,
}
"""What a seed must see on average, or the run says nothing."""


@dataclass(slots=True)
class Result:
    """What one seed came to."""

    seed: int
    violation: str
    trace: int
    simulated_us: int
    load: Counter[str] = field(default_factory=Counter)


def one(seed: int) -> Result:
    """Run one seed."""
    world, violation = run_seed(seed, node_core)
    load = Counter(world.load)
    load["events"] = world.events
    load["messages"] = world.network.sent
    load["messages lost"] = world.network.lost
    load["elections"] = len(world.check.gate_terms)
    load["commits"] = len(world.check.seen)
    load["voter sets"] = len(world.check.cluster_history)
    load["members failed"] = load["seen_member_failed"]
    return Result(seed, violation, world.trace, world.now_us, load)


def chunk(seeds: list[int]) -> list[Result]:
    return [one(seed) for seed in seeds]


def run_all(seeds: list[int], jobs: int) -> Iterable[Result]:
    """Results in the order of the seeds."""
    chunks = [seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)]
    if jobs == 1:
        for some in chunks:
            yield from chunk(some)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for results in pool.map(chunk, chunks):
            yield from results


def traces_again(seeds: list[int]) -> list[int]:
    """The trace hashes of these seeds in a process with another hash seed."""
    command = [sys.executable, "-m", "tests.sim.run", "--traces", ",".join(map(str, seeds))]
    env = {**os.environ, "PYTHONHASHSEED": "4711"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


def too_low(load: Counter[str], seeds: int) -> list[str]:
    """Which kinds of load were missing."""
    return [
        f"{name}: {load[name] / seeds:.2f} a seed, expected {least}"
        for name, least in LOAD_MIN.items()
        if load[name] < least * seeds
    ]


def report(results: list[Result], real_s: float) -> None:
    load: Counter[str] = Counter()
    for result in results:
        load.update(result.load)
    simulated_s = sum(result.simulated_us for result in results) / 1e6
    print(
        f"{len(results)} seeds, {simulated_s / 3600:.2f} simulated hours in {real_s:.1f} s: "
        f"{simulated_s / real_s:.0f} times real time"
    )
    for name, count in sorted(load.items()):
        if not name.startswith("seen_"):
            print(f"  {name:32} {count:>10}")
    low = too_low(load, len(results))
    if low:
        print("VOID, the load was too low: " + "; ".join(low))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--replay", type=int)
    parser.add_argument("--everything", action="store_true", help="heartbeats and ticks, too")
    parser.add_argument("--traces", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.traces:
        for text in args.traces.split(","):
            print(one(int(text)).trace)
        return 0
    if args.replay is not None:
        return replay(args.replay, everything=args.everything)
    return many(list(range(args.first, args.first + args.seeds)), args.jobs)


def replay(seed: int, *, everything: bool) -> int:
    world, violation = run_seed(seed, node_core, words=Words(sys.stdout, everything=everything))
    print(f"seed {seed}: {violation or 'no violation'}; trace {world.trace:016x}")
    return 1 if violation else 0


def many(seeds: list[int], jobs: int) -> int:
    began_s = time.monotonic()
    results = []
    for result in run_all(seeds, jobs):
        results.append(result)
        if result.violation:
            print(f"seed {result.seed}: {result.violation}", flush=True)
            print(f"  replay: make sim REPLAY={result.seed}", flush=True)
    report(results, time.monotonic() - began_s)
    sample = results[:: max(1, len(results) // SAMPLE)][:SAMPLE]
    again = traces_again([result.seed for result in sample])
    forks = [r.seed for r, trace in zip(sample, again, strict=True) if r.trace != trace]
    if forks:
        print(f"NOT DETERMINISTIC: seeds {forks} ran differently the second time")
    bad = sum(1 for result in results if result.violation)
    load = sum((r.load for r in results), Counter[str]())
    print(f"{bad} violations, {len(sample)} seeds run twice, {len(forks)} differed")
    return 1 if bad or forks or too_low(load, len(results)) else 0


if __name__ == "__main__":
    sys.exit(main())
