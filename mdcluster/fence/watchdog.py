"""This host's watchdog, fed as long as the core allows: a host that must not go on is reset.

Rules of this file:

* opening, setting and closing a watchdog each feed it, so the device is opened at the first
  permission, never before: a daemon that dies and starts again and again feeds nothing;
* the clock is read right before each feed; the feeds come from the event loop, so that a loop
  that hangs has its host reset;
* a device that would not reset the host, or that stops when its process dies, is refused;
* the magic close, which stops it, is for the end of a life that can do no harm any more. Any
  other end leaves it running: a host whose daemon does not come back is reset.

Constants and structures: include/uapi/linux/watchdog.h. What the kernel does at open and close:
drivers/watchdog/watchdog_dev.c (watchdog_open, watchdog_release).
"""

import asyncio
import fcntl
import logging
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mdcluster.core.effects import ALWAYS
from mdcluster.core.timing import Timing
from mdcluster.errors import MdclusterError
from mdcluster.gate import boottime_ms

log = logging.getLogger(__name__)

INFO = struct.Struct("=II32s")
"""struct watchdog_info: options, firmware_version, identity."""
TIMEOUT = struct.Struct("=i")

WDIOC_GETSUPPORT = 0x80285700  # _IOR('W', 0, struct watchdog_info)
WDIOC_KEEPALIVE = 0x80045705  # _IOR('W', 5, int)
WDIOC_SETTIMEOUT = 0xC0045706  # _IOWR('W', 6, int)
WDIOC_GETTIMEOUT = 0x80045707  # _IOR('W', 7, int)
WDIOF_SETTIMEOUT = 0x0080
WDIOF_MAGICCLOSE = 0x0100
WDIOF_ALARMONLY = 0x0400
WDIOF_KEEPALIVEPING = 0x8000
MAGIC_CLOSE = b"V"

Ioctl = Callable[[int, int, bytes], bytes]


class WatchdogError(MdclusterError):
    """The watchdog device cannot be used."""


class Device(Protocol):
    """An open watchdog: it runs."""

    def set_up(self) -> None:
        """WatchdogError if it would not do what it is for."""

    def feed(self) -> None:
        """OSError if it cannot be fed."""

    def close(self, *, stop: bool) -> None:
        """stop: and let it run no longer, if its driver allows that."""


class WatchdogDevice:
    """A Linux watchdog; once set up it has exactly this timeout."""

    def __init__(self, path: Path, timeout_s: int, ioctl: Ioctl = fcntl.ioctl) -> None:
        """Raises WatchdogError: it cannot be opened."""
        self._path = path
        self._timeout_s = timeout_s
        self._ioctl = ioctl
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise WatchdogError(
                f"watchdog {path} cannot be opened: {error.strerror}; is another program using "
                "it (fuser -v), systemd itself (RuntimeWatchdogSec)?"
            ) from None

    def set_up(self) -> None:
        timeout_s = self._timeout_s
        try:
            told = self._ioctl(self._fd, WDIOC_GETSUPPORT, bytes(INFO.size))
            options, _, name = INFO.unpack(told)
            identity = name.split(b"\0")[0].decode("ascii", "replace")
            self._refuse_useless(options, identity)
            if options & WDIOF_SETTIMEOUT:
                self._ioctl(self._fd, WDIOC_SETTIMEOUT, TIMEOUT.pack(timeout_s))
            (got_s,) = TIMEOUT.unpack(self._ioctl(self._fd, WDIOC_GETTIMEOUT, bytes(TIMEOUT.size)))
        except OSError as error:
            raise WatchdogError(
                f"watchdog {self._path}: {error.strerror}; it is no watchdog, or does not take "
                f"a timeout of {timeout_s} s: change [timing] watchdog_ms"
            ) from None
        if got_s != timeout_s:
            raise WatchdogError(
                f"watchdog {self._path} ({identity}) has a timeout of {got_s} s, not of "
                f"{timeout_s} s: set [timing] watchdog_ms = {got_s * 1000} on all nodes, or use "
                "another watchdog"
            )

    def _refuse_useless(self, options: int, identity: str) -> None:
        why = ""
        if options & WDIOF_ALARMONLY:
            why = "only raises an alarm and does not reset the host"
        elif not options & WDIOF_MAGICCLOSE:
            why = "stops when the process that feeds it dies (no magic close)"
        elif not options & WDIOF_KEEPALIVEPING:
            why = "cannot be fed by ioctl"
        if why:
            raise WatchdogError(
                f"watchdog {self._path} ({identity}) {why}; use another one, e.g. softdog"
            )

    def feed(self) -> None:
        self._ioctl(self._fd, WDIOC_KEEPALIVE, bytes(TIMEOUT.size))

    def close(self, *, stop: bool) -> None:
        try:
            if stop:
                os.write(self._fd, MAGIC_CLOSE)
        finally:
            os.close(self._fd)


class NoWatchdog:
    """None is configured: nothing to feed."""

    harmless = True

    def allow(self, until_ms: int) -> None:
        """Nobody asks."""

    def close(self, *, stop: bool) -> None:
        """There is nothing to close."""


class Watchdog:
    """Feeds a device within an event loop. Make it, `allow` as the core says, `close` it."""

    def __init__(
        self,
        open_device: Callable[[], Device],
        feed_ms: int,
        clock_ms: Callable[[], int] = boottime_ms,
    ) -> None:
        self._open_device = open_device
        self._feed_s = feed_ms / 1000
        self._clock_ms = clock_ms
        self._device: Device | None = None
        self._until_ms = 0
        self._starved = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def harmless(self) -> bool:
        """Whether the core said last that this life can do no harm."""
        return self._until_ms == ALWAYS

    def allow(self, until_ms: int) -> None:
        """It may be fed until this time (CLOCK_BOOTTIME).

        Raises:
            WatchdogError: at the first permission, if the device cannot be used.
        """
        self._until_ms = until_ms
        if self._device is None and self._clock_ms() < until_ms:
            self._start()
        elif self._starved:
            self._feed()

    def _start(self) -> None:
        device = self._open_device()
        try:
            device.set_up()
        except WatchdogError:
            device.close(stop=self.harmless)
            raise
        self._device = device
        self._tick()

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._feed_s, self._tick)
        self._feed()

    def _feed(self) -> None:
        if self._device is None:
            return
        try:
            if self._clock_ms() < self._until_ms:
                self._device.feed()
                self._tell(starved=False)
                return
        except OSError as error:
            log.error("the watchdog cannot be fed: %s", error.strerror or error)
            return
        self._tell(starved=True)

    def _tell(self, *, starved: bool) -> None:
        if starved != self._starved:
            self._starved = starved
            if starved:
                log.critical(
                    "the watchdog is not fed any more: no I/O lease for too long; this host is "
                    "reset unless it gets one in time"
                )
            else:
                log.warning("the watchdog is fed again")

    def close(self, *, stop: bool) -> None:
        """stop: this life is over and did no harm; else the host is reset unless fed again."""
        if self._timer is not None:
            self._timer.cancel()
        if self._device is not None:
            self._device.close(stop=stop)
            self._device = None


def watchdog_of(path: Path | None, timing: Timing) -> Watchdog | NoWatchdog:
    """The watchdog that the settings name; it is opened when the core first allows it.

    Raises:
        WatchdogError: there is no such device.
    """
    if path is None:
        return NoWatchdog()
    try:
        is_device = stat.S_ISCHR(path.stat().st_mode)
    except OSError as error:
        raise WatchdogError(
            f"watchdog {path}: {error.strerror}; load its driver (e.g. modprobe softdog), or "
            "correct [fence] watchdog"
        ) from None
    if not is_device:
        raise WatchdogError(f"watchdog {path} is no character device; correct [fence] watchdog")
    timeout_s = timing.watchdog_ms // 1000
    return Watchdog(lambda: WatchdogDevice(path, timeout_s), timing.watchdog_feed_ms)
