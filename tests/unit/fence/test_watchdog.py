"""The watchdog: fed under a lease only, opened late, stopped only when nothing can go wrong."""

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mdcluster.core.effects import ALWAYS
from mdcluster.core.timing import Timing
from mdcluster.fence import watchdog as wd
from mdcluster.fence.watchdog import NoWatchdog, Watchdog, WatchdogDevice, WatchdogError

FEED_MS = 5


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1000

    def __call__(self) -> int:
        return self.now_ms


class FakeDevice:
    """Writes down what happens to it, and when."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.log: list[str] = []
        self.fed = asyncio.Event()
        self.refuses: OSError | None = None
        self.useless = False

    def open(self) -> "FakeDevice":
        self.log.append("open")
        return self

    def set_up(self) -> None:
        if self.useless:
            raise WatchdogError("it is of no use")

    def feed(self) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.log.append(f"feed {self.clock.now_ms}")
        self.fed.set()

    def close(self, *, stop: bool) -> None:
        self.log.append("stop" if stop else "leave")

    async def next_feed(self) -> None:
        self.fed.clear()
        await asyncio.wait_for(self.fed.wait(), 5)

    async def no_feed(self, ticks: int = 5) -> None:
        """As many ticks pass; their timers are those of the loop."""
        before = list(self.log)
        for _ in range(ticks):
            done = asyncio.Event()
            asyncio.get_running_loop().call_later(FEED_MS / 1000, done.set)
            await done.wait()
        assert self.log == before


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def device(clock: Clock) -> FakeDevice:
    return FakeDevice(clock)


@pytest.fixture
async def watchdog(clock: Clock, device: FakeDevice) -> Watchdog:
    return Watchdog(device.open, FEED_MS, clock)


async def test_it_is_opened_at_the_first_permission_and_fed(
    watchdog: Watchdog, device: FakeDevice
) -> None:
    watchdog.allow(0)
    watchdog.allow(1000)  # over at this very millisecond
    await device.no_feed()
    assert device.log == []
    watchdog.allow(1001)
    assert device.log == ["open", "feed 1000"]
    await device.next_feed()
    watchdog.close(stop=False)
    assert device.log[-1] == "leave"


async def test_it_is_not_fed_when_the_time_is_over(
    watchdog: Watchdog, device: FakeDevice, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    watchdog.allow(1500)
    clock.now_ms = 1499
    await device.next_feed()
    clock.now_ms = 1500
    await device.no_feed()
    assert "not fed any more" in caplog.text
    watchdog.close(stop=False)
    await device.no_feed()


async def test_it_is_fed_at_once_when_the_lease_comes_back(
    watchdog: Watchdog, device: FakeDevice, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    watchdog.allow(1500)
    clock.now_ms = 1700
    await device.no_feed()
    watchdog.allow(1690)  # too late: nothing
    assert "feed 1700" not in device.log
    watchdog.allow(2000)
    assert device.log[-1] == "feed 1700"
    assert "is fed again" in caplog.text
    watchdog.close(stop=False)


async def test_permission_may_shrink(watchdog: Watchdog, device: FakeDevice) -> None:
    said = []
    for until_ms in (ALWAYS, 900):
        watchdog.allow(until_ms)
        said.append(watchdog.harmless)
    assert said == [True, False]
    await device.no_feed()
    watchdog.close(stop=False)


async def test_a_feed_that_fails_is_told_and_tried_again(
    watchdog: Watchdog, device: FakeDevice, caplog: pytest.LogCaptureFixture
) -> None:
    watchdog.allow(ALWAYS)
    device.refuses = OSError(errno.EIO, "Input/output error")
    await device.no_feed()
    assert "cannot be fed: Input/output error" in caplog.text
    device.refuses = None
    await device.next_feed()
    watchdog.close(stop=True)
    assert device.log[-1] == "stop"


@pytest.mark.parametrize(("until_ms", "end"), [(ALWAYS, "stop"), (5000, "leave")])
async def test_a_useless_device_is_stopped_only_if_nothing_depends_on_it(
    watchdog: Watchdog, device: FakeDevice, until_ms: int, end: str
) -> None:
    device.useless = True
    with pytest.raises(WatchdogError):
        watchdog.allow(until_ms)
    assert device.log == ["open", end]
    watchdog.close(stop=False)
    assert device.log == ["open", end]


def test_without_a_watchdog_nothing_happens() -> None:
    nothing = wd.watchdog_of(None, Timing())
    assert isinstance(nothing, NoWatchdog)
    nothing.allow(ALWAYS)
    nothing.close(stop=True)


def test_a_device_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(WatchdogError, match=r"watchdog .*/none: No such file.*modprobe softdog"):
        wd.watchdog_of(tmp_path / "none", Timing(watchdog_ms=10_000))
    with pytest.raises(WatchdogError, match="no character device"):
        wd.watchdog_of(tmp_path, Timing(watchdog_ms=10_000))


# --- the device -------------------------------------------------------------------------------

GOOD = wd.WDIOF_SETTIMEOUT | wd.WDIOF_MAGICCLOSE | wd.WDIOF_KEEPALIVEPING


def kernel(
    asked: list[int], options: int = GOOD, timeout_s: int | None = None
) -> Callable[[int, int, bytes], bytes]:
    """The ioctls of a watchdog driver; timeout_s: the only one it knows."""
    state = {"timeout_s": timeout_s if timeout_s is not None else 60}

    def ioctl(fd: int, request: int, argument: bytes) -> bytes:
        asked.append(request)
        if request == wd.WDIOC_GETSUPPORT:
            assert len(argument) == wd.INFO.size == 40
            return wd.INFO.pack(options, 1, b"Test Watchdog")
        if request == wd.WDIOC_SETTIMEOUT and timeout_s is None:
            (state["timeout_s"],) = wd.TIMEOUT.unpack(argument)
        if request == wd.WDIOC_KEEPALIVE:
            return argument
        return wd.TIMEOUT.pack(state["timeout_s"])

    return ioctl


def opened(tmp_path: Path, ioctl: Callable[[int, int, bytes], bytes]) -> WatchdogDevice:
    path = tmp_path / "watchdog"
    path.touch()
    return WatchdogDevice(path, 10, ioctl)


def test_the_timeout_is_set_and_read_back(tmp_path: Path) -> None:
    asked: list[int] = []
    device = opened(tmp_path, kernel(asked))
    assert asked == []
    device.set_up()
    device.feed()
    assert asked == [
        wd.WDIOC_GETSUPPORT,
        wd.WDIOC_SETTIMEOUT,
        wd.WDIOC_GETTIMEOUT,
        wd.WDIOC_KEEPALIVE,
    ]
    device.close(stop=True)
    assert (tmp_path / "watchdog").read_bytes() == b"V"


def test_left_running_it_gets_no_magic_close(tmp_path: Path) -> None:
    device = opened(tmp_path, kernel([]))
    device.set_up()
    device.close(stop=False)
    assert (tmp_path / "watchdog").read_bytes() == b""


def test_one_that_is_set_by_its_driver_only_may_fit(tmp_path: Path) -> None:
    asked: list[int] = []
    opened(tmp_path, kernel(asked, GOOD & ~wd.WDIOF_SETTIMEOUT, 10)).set_up()
    assert wd.WDIOC_SETTIMEOUT not in asked


@pytest.mark.parametrize(
    ("options", "timeout_s", "why"),
    [
        (GOOD, 16, r"\(Test Watchdog\) has a timeout of 16 s, not of 10 s: set .*= 16000"),
        (GOOD & ~wd.WDIOF_MAGICCLOSE, None, "stops when the process that feeds it dies"),
        (GOOD | wd.WDIOF_ALARMONLY, None, "does not reset the host"),
        (GOOD & ~wd.WDIOF_KEEPALIVEPING, None, "cannot be fed"),
    ],
)
def test_one_that_would_not_do_is_refused(
    tmp_path: Path, options: int, timeout_s: int | None, why: str
) -> None:
    with pytest.raises(WatchdogError, match=why):
        opened(tmp_path, kernel([], options, timeout_s)).set_up()


def test_what_is_no_watchdog_is_refused(tmp_path: Path) -> None:
    device = WatchdogDevice(Path("/dev/null"), 10)
    with pytest.raises(WatchdogError, match="it is no watchdog"):
        device.set_up()
    device.close(stop=False)
    with pytest.raises(WatchdogError, match="cannot be opened: No such file"):
        WatchdogDevice(tmp_path / "none", 10)


def test_the_numbers_are_those_of_the_kernel() -> None:
    """_IOC of asm-generic/ioctl.h: direction, size, type, number."""

    def ioc(direction: int, number: int, size: int) -> int:
        return direction << 30 | size << 16 | ord("W") << 8 | number

    assert ioc(2, 0, 40) == wd.WDIOC_GETSUPPORT
    assert ioc(2, 5, 4) == wd.WDIOC_KEEPALIVE
    assert ioc(3, 6, 4) == wd.WDIOC_SETTIMEOUT
    assert ioc(2, 7, 4) == wd.WDIOC_GETTIMEOUT


def test_a_killed_feeder_leaves_nothing_behind(tmp_path: Path) -> None:
    """The descriptor is not inherited by what the daemon starts: its end is the close."""
    device = opened(tmp_path, kernel([]))
    (fd,) = [int(x) for x in os.listdir("/proc/self/fd") if _is(int(x), tmp_path / "watchdog")]
    assert not os.get_inheritable(fd)
    device.close(stop=False)


def _is(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False
