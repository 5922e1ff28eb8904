"""The follower's side of a pass, and where a new writer goes on."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.core.effects import HoldRange
from mdcluster.core.effects import Send as SendEffect
from mdcluster.core.env import Env
from mdcluster.core.events import Held
from mdcluster.core.holds import FAILURE_PENDING, Holds, announcement
from mdcluster.core.messages import Hold, HoldAck, HoldReport
from mdcluster.core.model import (
    ArrayId,
    ArrayState,
    Checkpoint,
    EndSync,
    StopArray,
    SyncKind,
)
from mdcluster.core.timing import Timing
from mdcluster.core.windows import SyncLimits, adapted, pace_ms, resume_point, window_end
from tests.unit.core.samples import ARRAY, MIB, N1, N2, N3, change, mirror, syncing


class Follower:
    """N2, a follower of N1."""

    def __init__(self) -> None:
        self.env = Env(N2, "two", Timing(), seed=2)
        self.holds = Holds(self.env)
        self.acks: list[HoldAck] = []

    def take(self) -> list[tuple[int, int]]:
        """The ranges asked of the driver."""
        asked = []
        for effect in self.env.take_effects():
            if isinstance(effect, HoldRange):
                asked.append((effect.lo_sectors, effect.hi_sectors))
            elif isinstance(effect, SendEffect) and isinstance(effect.message, HoldAck):
                assert effect.to in (N1.node, N3.node)
                self.acks.append(effect.message)
        return asked

    def told(self, hold: Hold) -> list[tuple[int, int]]:
        self.holds.on_hold(N1, hold)
        return self.take()

    def held(
        self, lo: int, hi: int, *, clean: bool = True, problem: str = ""
    ) -> list[tuple[int, int]]:
        self.holds.on_held(Held(ARRAY, lo, hi, clean, problem))
        return self.take()


def hold(number: int, lo: int, hi: int, *, serial: int = 1, term: int = 5) -> Hold:
    return Hold(term, ARRAY, announcement(serial, number), lo, hi, lo)


def running() -> ArrayState:
    return syncing(mirror(clean=False), SyncKind.RESYNC)


def test_a_hold_is_confirmed_once_it_is_in_force_and_clean() -> None:
    one = Follower()
    assert one.told(hold(1, 0, 8)) == [(0, 8)]
    assert one.acks == []
    one.held(0, 8)
    assert one.acks == [HoldAck(5, ARRAY, announcement(1, 1), 0, 8, "")]


@pytest.mark.parametrize(
    ("clean", "problem", "answer"), [(False, "", FAILURE_PENDING), (True, "no array", "no array")]
)
def test_a_hold_over_a_failed_write_is_not_confirmed_until_sampled_clean(
    clean: bool, problem: str, answer: str
) -> None:
    one = Follower()
    one.told(hold(1, 0, 8))
    one.held(0, 8, clean=clean, problem=problem)
    assert [ack.problem for ack in one.acks] == [answer]
    assert one.told(hold(1, 0, 8)) == [(0, 8)]  # asked again: sampled again
    one.held(0, 8)
    assert [ack.problem for ack in one.acks] == [answer, ""]


def test_the_same_again_is_confirmed_again_without_another_sample() -> None:
    one = Follower()
    one.told(hold(1, 0, 8))
    assert one.told(hold(1, 0, 8)) == []  # the answer is on its way
    one.held(0, 8)
    assert one.told(hold(1, 0, 8)) == []
    assert [ack.problem for ack in one.acks] == ["", ""]


@pytest.mark.parametrize(
    "late",
    [
        hold(1, 0, 8),
        hold(2, 0, 0),
        hold(9, 0, 0, term=4),
        hold(3, 0, 0),
        hold(9, 0, 0, serial=0),
        replace(hold(9, 8, 0), hi_sectors=4),
        hold(9, -8, 8),
    ],
)
def test_late_foreign_and_broken_announcements_change_nothing(late: Hold) -> None:
    one = Follower()
    one.told(hold(3, 8, 16))
    one.held(8, 16)
    before = one.holds.reports()
    assert one.told(late) == []
    assert len(one.acks) == 1 and one.holds.reports() == before


def test_only_the_outcome_of_the_last_request_counts() -> None:
    """A hold, a release, the same hold: the first outcome says nothing of the last."""
    one = Follower()
    one.told(hold(1, 0, 8))
    one.told(hold(2, 0, 0))
    one.told(hold(3, 0, 8))
    one.held(0, 8)
    one.held(0, 0)
    assert one.acks == []
    one.held(0, 8)
    assert [ack.serial for ack in one.acks] == [announcement(1, 3)]


def test_holds_outlive_their_writer_and_follow_the_next() -> None:
    one = Follower()
    one.told(hold(50, 8, 16))
    one.held(8, 16)
    one.holds.on_state(running())
    assert one.take() == []
    assert one.told(hold(1, 8, 24, term=6)) == [(8, 24)]
    one.holds.on_hold(N3, hold(2, 16, 32, term=6))
    one.take()
    one.held(8, 24)
    one.held(16, 32)
    assert one.acks[-1].term == 6 and one.holds.reports()[0].complete_sectors == 16


def test_the_released_end_of_the_pass_drops_the_hold_for_good() -> None:
    one = Follower()
    one.told(hold(1, 0, 8))
    one.held(0, 8)
    ended = change(running(), EndSync(ARRAY, 1))
    one.holds.on_state(ended)
    assert one.take() == [(0, 0)]
    assert one.told(hold(2, 8, 16)) == []  # late, of a pass that is over
    assert one.holds.reports() == ()
    again = announcement(2, 1)
    assert one.told(replace(hold(1, 0, 8), serial=again)) == [(0, 8)]
    one.held(0, 0)
    assert len(one.acks) == 1
    one.held(0, 8)
    assert one.acks[-1].serial == again


def test_a_stopped_array_holds_nothing() -> None:
    one = Follower()
    one.told(hold(1, 0, 8))
    one.holds.on_state(change(running(), StopArray(ARRAY)))
    assert one.take() == [] and one.holds.reports() == ()


def test_reports_tell_range_and_completeness() -> None:
    one = Follower()
    one.told(hold(1, 8, 16))
    assert one.holds.reports() == (HoldReport(ARRAY, 1, 8, 16, 8),)
    one.told(replace(hold(2, 8, 24), complete_sectors=4))
    assert one.holds.reports() == (HoldReport(ARRAY, 1, 8, 24, 8),)


def test_what_the_writer_knew_stays_with_it() -> None:
    one = Follower()
    one.holds.note(HoldReport(ARRAY, 1, 0, 0, 40))
    assert one.holds.reports() == (HoldReport(ARRAY, 1, 0, 0, 40),)
    one.told(hold(1, 8, 16))
    one.holds.note(HoldReport(ARRAY, 1, 0, 0, 24))
    assert one.holds.reports() == (HoldReport(ARRAY, 1, 8, 16, 40),)
    one.holds.note(HoldReport(ARRAY, 2, 0, 0, 4))
    assert one.holds.reports() == (HoldReport(ARRAY, 2, 8, 16, 4),)


def test_a_new_writer_goes_on_at_the_highest_position_known_complete() -> None:
    state = change(running(), Checkpoint(ARRAY, 1, 4 * MIB))
    reports = [
        HoldReport(ARRAY, 1, 0, 0, 8 * MIB),
        HoldReport(ARRAY, 0, 0, 0, 50 * MIB),
        HoldReport(ArrayId("else"), 1, 0, 0, 50 * MIB),
    ]
    assert resume_point(state, ()) == 4 * MIB
    assert resume_point(state, reports) == 8 * MIB
    assert resume_point(state, reports, HoldReport(ARRAY, 1, 0, 0, 9 * MIB)) == 9 * MIB
    assert resume_point(state, [HoldReport(ARRAY, 1, 0, 0, 1 << 60)]) == 64 * MIB
    assert resume_point(mirror(), reports) == 0


@given(
    lo=st.integers(0, 64 * MIB - 1),
    size=st.integers(1, 64 * MIB),
    ten=st.booleans(),
    most=st.sampled_from([MIB - 1, MIB, 32 * MIB]),
)
def test_windows_are_never_empty_nor_beyond_the_end(
    lo: int, size: int, ten: bool, most: int
) -> None:
    """Whole chunks of the bitmap (here 1 MiB) wherever one is no larger than a window may be."""
    state = mirror(level=10 if ten else 1)
    hi = window_end(state, lo, size, most)
    grain = MIB if most >= MIB else 128
    assert lo < hi <= 64 * MIB
    assert hi % grain == 0
    assert hi - lo <= max(size, grain)


@given(
    size=st.integers(4096, 65536),
    window=st.integers(8, 65536),
    held_ms=st.integers(0, 10**6),
)
def test_window_sizes_stay_within_their_limits(size: int, window: int, held_ms: int) -> None:
    limits = SyncLimits()
    after = adapted(size, min(window, size), held_ms, 100, limits)
    assert limits.window_min_sectors <= after <= limits.window_max_sectors
    if held_ms > 100:
        assert after <= size
    if held_ms <= 100 and window >= size:
        assert after == min(size * 5 // 4, limits.window_max_sectors) or held_ms > 75
        assert after >= size


def test_the_pace_keeps_the_speed() -> None:
    assert pace_ms(2048, 1024) == 1000
    assert pace_ms(2048, 0) == 0
