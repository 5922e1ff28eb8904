"""Providers that go by time: not a millisecond too early, and they say how long they wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.core.effects import NEVER, Fence
from mdcluster.core.model import Life, NodeId
from mdcluster.core.timing import Timing
from mdcluster.fence.bytime import RebootFence, WatchdogFence, by_reboot, by_watchdog
from mdcluster.fence.provider import Confirmed, Waits

TIMING = Timing(watchdog_ms=10_000)
FENCE_MS = TIMING.watchdog_fence_ms or 0
LIFE = Life(NodeId("u"), "boot")


def ask(heard_ms: int, succeeded_ms: int = NEVER) -> Fence:
    return Fence(LIFE, "c", heard_ms, succeeded_ms)


@given(st.integers(0, 1 << 40), st.integers(0, 100_000))
def test_the_watchdog_has_fired_after_its_time(heard_ms: int, later_ms: int) -> None:
    early = by_watchdog(TIMING, ask(heard_ms), heard_ms + FENCE_MS - 1 - later_ms % FENCE_MS)
    assert isinstance(early, Waits)
    late = by_watchdog(TIMING, ask(heard_ms), heard_ms + FENCE_MS + later_ms)
    assert isinstance(late, Confirmed)


def test_it_says_how_long_it_waits() -> None:
    said = by_watchdog(TIMING, ask(1000), 1000 + FENCE_MS - 1234)
    assert isinstance(said, Waits)
    assert said.why.startswith("1234 ms more, until the watchdog of c has reset it")


def test_without_watchdogs_time_proves_nothing() -> None:
    said = by_watchdog(Timing(), ask(0), 1 << 60)
    assert isinstance(said, Waits)
    assert "watchdog_ms is 0" in said.why


def test_a_reboot_proves_the_end_of_the_former_boot_once_its_writes_have_landed() -> None:
    landed_ms = TIMING.landed_ms
    assert isinstance(by_reboot(TIMING, ask(0), 1 << 60), Waits)
    early = by_reboot(TIMING, ask(0, 5000), 5000 + landed_ms - 7)
    assert isinstance(early, Waits)
    assert "c has booted again; 7 ms more" in early.why
    assert isinstance(by_reboot(TIMING, ask(0, 5000), 5000 + landed_ms), Confirmed)


@pytest.mark.parametrize("kind", [WatchdogFence, RebootFence])
async def test_they_ask_the_clock_of_the_core(
    kind: type[WatchdogFence] | type[RebootFence],
) -> None:
    assert isinstance(await kind(TIMING, lambda: 0).fence(ask(0, 0)), Waits)
    assert isinstance(await kind(TIMING, lambda: 1 << 40).fence(ask(0, 0)), Confirmed)
