"""The pure parts of the vm tier's bench: medians, saved rounds, tables."""

import pytest

from tests.vm.bench import idle, machine
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
