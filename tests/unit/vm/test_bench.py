"""The pure parts of the vm tier's bench: clocks of guests, medians, saved rounds, tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.figures import Figure
from tests.vm.bench import chunks, idle, machine, resync, takeover, visible, writes
from tests.vm.bench.__main__ import FAMILIES, chosen
from tests.vm.bench.clocks import Sample, clock_of
from tests.vm.bench.rounds import (
    Document,
    RoundsError,
    joined,
    numbers,
    parse,
    ratios,
    shown,
    typical,
)

SPAN = st.integers(0, 10**9)


@given(ahead=st.integers(-(10**15), 10**15), there=SPAN, back=SPAN, others=st.lists(SPAN))
def test_a_clock_is_known_within_its_error(
    ahead: int, there: int, back: int, others: list[int]
) -> None:
    """However long the way there and back took, also if slower answers were heard beside it."""
    samples = [Sample(0, there + ahead, there + back)]
    samples += [Sample(0, slow + ahead, there + back + slow) for slow in others]
    clock = clock_of(samples)
    assert abs(clock.ahead_ns - ahead) <= clock.error_ns
    assert clock.error_ns <= (there + back + 1) // 2
    assert abs(clock.on_host_ns(7 + ahead) - 7) <= clock.error_ns


def test_figures_are_chosen_by_how_they_begin() -> None:
    assert chosen(["takeover", "idle"]) == ["takeover-agent", "takeover-watchdog", "idle"]
    assert chosen([]) == list(FAMILIES)
    assert chosen(["nothing"]) == []


def test_a_line_tells_the_median_between_least_and_greatest() -> None:
    figure = typical("part", "what", [30.0, 1.25, 2.0], "ms", 15.0, note="so")
    assert (figure.value, figure.verdict) == (2.0, "met")
    assert figure.note == "1.25 to 30, n=3; so"


def test_numbers_keep_three_digits() -> None:
    assert [shown(v) for v in (0.01234, 1.0, 99.96, 1234.5)] == ["0.0123", "1", "100", "1234"]


def test_ratios_are_of_the_same_round() -> None:
    rounds = [{"a": 1.0, "b": 2.0}, {"a": 9.0, "b": 3.0}]
    assert ratios(rounds, "a", of="b") == [0.5, 3.0]


def test_a_round_that_lacks_a_number_spoils_a_ratio() -> None:
    rounds = [{"a": 1.0, "b": 2.0}, {"a": 9.0}]
    assert numbers(rounds, "b") == [2.0]
    with pytest.raises(ValueError, match="shorter"):
        ratios(rounds, "a", of="b")


def test_saved_rounds_come_back() -> None:
    document = Document({"date": "2026-01-31"}, {"idle": [{"rss_mib": 40.0, "by": [1.0]}]})
    assert parse(document.text([])) == document


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"facts": {}, "rounds": {"idle": [1]}}'])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(RoundsError, match="no rounds of this bench"):
        parse(text)


def test_runs_are_joined() -> None:
    one = Document({"date": "today", "took": "1 s"}, {"idle": [{"rss_mib": 1.0}]})
    two = Document({"date": "today", "took": "2 s"}, {"idle": [{"rss_mib": 2.0}], "machine": []})
    both = joined([one, two])
    assert both.facts == {"date": "today", "took": "1 s; 2 s"}
    assert both.rounds == {"idle": [{"rss_mib": 1.0}, {"rss_mib": 2.0}], "machine": []}


def test_tables_hold_what_was_measured_against_the_aims() -> None:
    loops = {"host_python_ms": 2.0, "guest_python_ms": 20.0}
    loops |= {"host_calls_ms": 1.0, "guest_calls_ms": 5.0}
    assert [figure.value for figure in machine.table([loops])] == [10.0, 5.0, 2.0]
    cost = {"rss_mib": 46.0} | dict.fromkeys(("writer_percent", "writer_bytes_s"), 1.0)
    cost |= dict.fromkeys(("follower_percent", "follower_bytes_s"), 2.0)
    assert idle.table([cost])[0].verdict == "MISSED"


def verdicts(figures: list[Figure]) -> dict[str, tuple[float, str]]:
    return {one.what: (one.value, one.verdict) for one in figures if one.verdict}


def test_a_change_is_held_against_its_aim() -> None:
    fail = {"all_ms": 20.0, "first_ms": 9.0, "answered_ms": 30.0, "clock_error_ms": 0.5}
    assert verdicts(visible.table(3, [fail])) == {"--fail to faulty on all": (20.0, "MISSED")}


def test_a_resync_is_compared_with_plain_md() -> None:
    one = {"ours_s": 2.0, "plain_s": 1.5, "pass_s": 4.0, "windows": 10.0}
    table = resync.table(resync.TARGETS[""], [one])
    assert verdicts(table) == {"against plain md": (0.75, "MISSED")}
    (cost,) = (line for line in table if line.what == "a window costs")
    assert cost.value == 50.0


LOG = """
[    9.000000] md: resync of RAID array md_data
[    9.500000] md: md_data: resync done.
[   10.250000] md: resync of RAID array md127
[   11.000000] md: resync of RAID array md_data
[   12.000000] md: md127: resync done.
[   14.500000] md: md_data: resync done.
"""


def test_the_kernel_tells_how_long_a_resync_took() -> None:
    assert (resync.took_s(LOG, "md127"), resync.took_s(LOG, "md_data")) == (1.75, 3.5)
    with pytest.raises(AssertionError, match="md1"):
        resync.took_s(LOG, "md1")


def test_writes_are_compared_with_those_without_a_resync() -> None:
    one = {"busy_iops": 40.0, "busy_p99_ms": 9.0, "busy_longest_ms": 140.0, "resync_mib_s": 80.0}
    one |= {"none_iops": 100.0, "none_p99_ms": 2.0, "none_longest_ms": 5.0}
    found = verdicts(writes.table(writes.SPEEDS["full"], [one]))
    assert found == {"IOPS against none": (0.4, "MISSED"), "longest write": (140.0, "met")}


def test_a_takeover_is_held_against_what_was_set_and_what_was_held() -> None:
    one = {f"{kind}_s": 3.0 for kind in takeover.STEPS}
    one |= {"sync_moved_s": 3.3, "twice_kib": 64.0, "held_kib": 128.0}
    lines = {line.what: line for line in takeover.table(takeover.AGENT, [one])}
    assert round(lines["beyond what is set"].value, 3) == 0.1
    assert lines["beyond what is set"].verdict == "met"
    assert lines["until another one copies"].verdict == "MISSED"
    assert [line.value for line in lines.values() if line.verdict and line.aim == 1.0] == [0.5]
    by_watchdog = takeover.table(takeover.FENCING["watchdog"], [one])
    assert len(verdicts(by_watchdog)) == 1


@pytest.mark.parametrize("copied", [199.0, 201.0])
def test_only_what_was_dirty_may_be_copied(copied: float) -> None:
    one = {f"{kind}_s": 3.0 for kind in chunks.STEPS}
    one |= {"dirty_chunks": 200.0, "copied_chunks": copied}
    found = verdicts(chunks.table([one]))
    assert found["copied and not dirty"] == (1.0, "MISSED")
