"""The timings: the proof holds for what is accepted, and what is refused can be mended."""

from dataclasses import fields, replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mdcluster.core.timing import (
    CLOCK_TICK_MS,
    RULES,
    Rule,
    Timing,
    digest,
    limits,
    mends,
    proof,
    violations,
    withhold_after,
)

PPM = 1_000_000
drifts = st.integers(1, 100_000)
spans = st.integers(1, 120_000)


@st.composite
def timings(draw: st.DrawFn) -> Timing:
    """Any set within the limits."""
    return Timing(**{f.name: draw(st.integers(*limits(f.name))) for f in fields(Timing)})


def test_defaults_are_safe() -> None:
    assert violations(Timing()) == []


def test_derived_defaults() -> None:
    timing = Timing()
    assert timing.lease_usable_ms == 499
    assert timing.sticky_ms == timing.withhold_ms == 502
    assert timing.io_lease_usable_ms == 698
    assert timing.watchdog_fence_ms is None


def test_the_watchdog_counts_three_times() -> None:
    timing = Timing(watchdog_ms=10_000)
    assert violations(timing) == []
    sum_ms = 700 + 300 + 3 * 10_000 + 30_000
    fence_ms = timing.watchdog_fence_ms
    assert fence_ms is not None
    assert sum_ms * 1.004 < fence_ms < sum_ms * 1.0041 + 2


@given(drifts, spans)
def test_who_stops_is_early_and_who_waits_is_late(drift_ppm: int, span_ms: int) -> None:
    """By exact fractions: against the slowest and the fastest clock, and one lost tick."""
    timing = Timing(drift_ppm=drift_ppm)
    slow, fast = Fraction(PPM - drift_ppm, PPM), Fraction(PPM + drift_ppm, PPM)
    assert timing.shrink(span_ms) / slow <= span_ms
    assert (timing.stretch(span_ms) - CLOCK_TICK_MS) / fast >= span_ms
    waited = (timing.outlast(span_ms) - CLOCK_TICK_MS) / fast
    assert waited * slow >= span_ms


@given(drifts, st.integers(1, 60_000))
def test_two_gates_are_never_open_together(drift_ppm: int, lease_ms: int) -> None:
    """Slowest writer, fastest voter, no delay on the way, the voter's clock read a tick early."""
    timing = Timing(drift_ppm=drift_ppm, lease_ms=lease_ms)
    gate_shut = Fraction(timing.lease_usable_ms * PPM, PPM - drift_ppm)
    for wait_ms in (timing.sticky_ms, timing.withhold_ms):
        voter_free = Fraction((wait_ms - CLOCK_TICK_MS) * PPM, PPM + drift_ppm)
        assert gate_shut <= voter_free


@given(st.integers(1, 60_000), st.integers(1, 60_000))
def test_a_longer_lease_of_the_last_life_is_waited_for(before_ms: int, lease_ms: int) -> None:
    timing = Timing(lease_ms=lease_ms)
    assert withhold_after(timing, before_ms) >= timing.withhold_ms
    assert withhold_after(timing, before_ms) >= replace(timing, lease_ms=before_ms).withhold_ms


BROKEN = [
    (Timing(heartbeat_ms=170), "lease survives two lost rounds"),
    (Timing(election_min_ms=505), "own vote"),
    (Timing(election_min_ms=505), "forgotten acknowledgement"),
    (Timing(election_max_ms=640), "votes do not split for ever"),
    (Timing(suspect_ms=239), "suspicion is not nervous"),
    (Timing(suspect_ms=698), "suspected before it holds"),
    (Timing(heartbeat_ms=240), "I/O lease survives two lost rounds"),
    (Timing(evict_ms=700), "evicted after it holds"),
    (Timing(grace_ms=99), "grace is enough to hold"),
    (Timing(watchdog_ms=1000, election_max_ms=1100), "an election reboots nobody"),
    (Timing(watchdog_ms=10_000, lease_ms=701, election_min_ms=800), "the writer's own I/O"),
    (Timing(watchdog_ms=10_500), "watchdog in whole seconds"),
    (Timing(apply_deadline_ms=1000), "apply_deadline outlasts eviction"),
    (Timing(prepare_deadline_ms=1000), "prepare_deadline outlasts eviction"),
    (Timing(probe_deadline_ms=1000), "probe_deadline outlasts eviction"),
    (Timing(hold_deadline_ms=1000), "hold_deadline outlasts eviction"),
    (Timing(probe_deadline_ms=5001), "probed before applied"),
    (Timing(device_timeout_ms=10_000), "late before lost"),
    (Timing(hold_target_ms=2501), "hold target below its deadline"),
    (Timing(retry_min_ms=2001), "backoff grows"),
]


@pytest.mark.parametrize(("timing", "name"), BROKEN)
def test_each_inequality_refuses(timing: Timing, name: str) -> None:
    told = [text for text in violations(timing) if text.startswith(f"{name}: ")]
    assert len(told) == 1
    assert "does not hold; " in told[0]
    assert any(line.startswith(f"{name}: ") and "VIOLATED" in line for line in proof(timing))


def test_every_inequality_has_a_case() -> None:
    """All but 'one gate', which the rounding of the two spans makes true by construction."""
    assert {name for _, name in BROKEN} == {rule.name for rule in RULES} - {"one gate"}


def test_a_violation_says_what_to_change() -> None:
    (text,) = violations(Timing(suspect_ms=200))
    assert text.startswith(
        "suspicion is not nervous: 2 x heartbeat_ms = 240 <= suspect_ms = 200 does not hold; "
        "raise suspect_ms from 200 to at least 240, or lower heartbeat_ms from 120 to at most 100. "
    )


@given(timings(), st.sampled_from(RULES))
def test_each_named_change_mends_and_is_the_nearest(timing: Timing, rule: Rule) -> None:
    assume(not rule.holds(timing))
    for name, value in mends(rule, timing):
        low, high = limits(name)
        now = getattr(timing, name)
        assert low <= value <= high
        assert rule.holds(replace(timing, **{name: value}))
        step = 1 if value > now else -1
        assert not rule.holds(replace(timing, **{name: value - step}))


@given(timings())
def test_every_set_gets_a_proof_that_agrees(timing: Timing) -> None:
    violated = [line for line in proof(timing) if "VIOLATED" in line]
    assert len(violated) == len(violations(timing))
    assert digest(timing) == digest(replace(timing))


@pytest.mark.parametrize("name", [f.name for f in fields(Timing)])
def test_values_out_of_limits_are_refused_by_name(name: str) -> None:
    low, high = limits(name)
    for value in (low - 1, high + 1, -(10**9), 10**12):
        timing = Timing(**{name: value})
        assert violations(timing) == [f"{name} = {value}: expected {low} to {high}"]
        assert any("VIOLATED" in line or "expected" in line for line in proof(timing))


@pytest.mark.parametrize("name", [f.name for f in fields(Timing)])
def test_the_digest_covers_every_field(name: str) -> None:
    changed = replace(Timing(), **{name: getattr(Timing(), name) + 1})
    assert digest(changed) != digest(Timing())


def test_the_proof_states_the_main_numbers() -> None:
    text = "\n".join(proof(Timing(watchdog_ms=10_000)))
    for part in ("lease_usable_ms = 499", "sticky_ms = withhold_ms = 502", "watchdog_fence_ms = "):
        assert part in text
    assert "VIOLATED" not in text


def test_the_manual_names_every_field_default_and_inequality() -> None:
    text = (Path(__file__).parents[2] / "docs" / "TIMEOUTS.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    told = {
        name: value
        for row in rows
        if len(row) == 3
        for name, value in zip(row[0].split(", "), row[1].split(", "), strict=False)
    }
    for field in fields(Timing):
        assert told[field.name] == str(getattr(Timing(), field.name))
    cells = {row[0]: row[2] for row in rows if len(row) == 3}
    for rule in RULES:
        if not rule.of_watchdog:
            numbers = f"{rule.left_ms(Timing())} <= {rule.right_ms(Timing())}"
            assert cells[rule.name] == numbers
        assert rule.name in cells


def test_the_example_of_the_manual_is_safe() -> None:
    text = (Path(__file__).parents[2] / "docs" / "TIMEOUTS.md").read_text()
    example = text[text.index("    [timing]\n") :].partition("\n\n")[0]
    values = dict(line.split(" = ") for line in map(str.strip, example.splitlines()[1:]))
    assert violations(Timing(**{name: int(value) for name, value in values.items()})) == []
