"""The simulator as a test: seeds pass, planted bugs are caught, runs repeat exactly."""

from __future__ import annotations

import os

import pytest

from tests.sim.cores import node_core
from tests.sim.planted import PLANTED, planted
from tests.sim.run import one, too_low, traces_again
from tests.sim.swarm import run_seed
from tests.sim.words import Words

SEEDS = int(os.environ.get("SIM_SEEDS", "60"))


def test_seeds_without_violation() -> None:
    """No invariant is violated, and there was enough load for that to mean something."""
    results = [one(seed) for seed in range(1, SEEDS + 1)]
    violated = [f"make sim REPLAY={r.seed}: {r.violation}" for r in results if r.violation]
    assert not violated, "\n".join(violated)
    load = sum((r.load for r in results[1:]), results[0].load)
    assert too_low(load, len(results)) == []


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_planted_bug_is_caught(name: str) -> None:
    """The same worlds pass with the rule, and do not without it."""
    bug = PLANTED[name]
    with planted(bug):
        seeds = range(1, bug.seeds + 1)
        caught = (s for s in seeds if bug.shows in run_seed(s, node_core, bug.mix())[1])
        seed = next(caught, None)
    assert seed is not None, f"{name} was not caught in {bug.seeds} seeds"
    assert run_seed(seed, node_core, bug.mix())[1] == ""


def test_runs_repeat_in_another_process() -> None:
    """Nothing depends on the hash seed, the clock or the order of sets."""
    seeds = [3, 5, 8, 13]
    assert traces_again(seeds) == [one(seed).trace for seed in seeds]


def test_replay_tells_the_run_in_words(tmp_path: object) -> None:
    """One line per event with time and host; telling changes nothing."""
    path = os.path.join(str(tmp_path), "words.txt")
    with open(path, "w", encoding="utf-8") as out:
        told, _ = run_seed(7, node_core, words=Words(out))
    with open(path, encoding="utf-8") as lines:
        text = lines.readlines()
    assert told.trace == one(7).trace
    assert any(" starts as " in line for line in text)
    assert all(float(line.split()[0]) >= 0 for line in text)
