"""What the self-test says; whether kernels pass is tried in tests/vm/test_selftest.py."""

import json

import pytest

from mdcluster.md import selftest
from mdcluster.md.driver import DriverError
from mdcluster.md.raid import geometry_of
from mdcluster.md.selftest import Outcome, as_json, passed
from mdcluster.md.selftest_bench import Fault, trial_state

GOOD = Outcome("holds hold", True, "12 ms")
BAD = Outcome("frozen stays frozen", False, "md has begun a resync")
UNKNOWN = Outcome("failed writes wait", None, "dmsetup is not installed")


def test_one_line_a_check() -> None:
    assert [str(outcome) for outcome in (GOOD, BAD, UNKNOWN)] == [
        "ok      holds hold: 12 ms",
        "FAILED  frozen stays frozen: md has begun a resync",
        "skipped failed writes wait: dmsetup is not installed",
    ]


def test_json_names_the_kernel() -> None:
    told = json.loads(as_json([UNKNOWN]))
    assert told["kernel"]
    assert told["checks"] == [
        {"check": "failed writes wait", "passed": None, "detail": "dmsetup is not installed"}
    ]


@pytest.mark.parametrize(
    ("outcomes", "good"),
    [
        ([GOOD], True),
        ([GOOD, UNKNOWN], True),
        ([GOOD, BAD], False),
        ([UNKNOWN], False),
        ([], False),
    ],
)
def test_what_was_not_tried_is_not_passed(outcomes: list[Outcome], good: bool) -> None:
    assert passed(outcomes) is good


def test_a_check_that_hangs_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def in_time(name: str, check: selftest.Check, *, breakable: bool) -> Outcome:
        tried.append(name)
        return Outcome(name, False, "md did not come back within 60 s; restart this host")

    monkeypatch.setattr(selftest, "_cannot_try", lambda: "")
    monkeypatch.setattr(selftest, "have", lambda tool: True)
    monkeypatch.setattr(selftest, "_in_time", in_time)
    assert len(list(selftest.self_test())) == len(tried) == 1


def test_a_check_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_bench(**_: object) -> None:
        raise DriverError("losetup: no free loop device")

    monkeypatch.setattr(selftest, "_bench", no_bench)
    outcome = selftest._in_time("holds hold", selftest.holds_hold, breakable=False)
    assert outcome == Outcome("holds hold", False, "losetup: no free loop device")


def test_trial_arrays_have_a_geometry() -> None:
    assert geometry_of(trial_state(4096)).array_sectors == 4096
    assert geometry_of(trial_state(4096, level=10)).array_sectors == 4096
    assert Fault(0, 8).hi_sectors == 8
