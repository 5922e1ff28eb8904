"""What the kernel's md tells of one array by itself: failures, and writes that it holds.

Two threads an array, for either may wait long:

* the watcher polls `state`, `unacknowledged_bad_blocks` and `errors` of each member and tells each
  failure once. md notifies most of it at once; a look every LOOK_MS catches the rest.
* the responder answers a write-pending that came by itself (the first write, the end of a sync):
  only of an array that was activated, and only after two samples SAMPLE_GAP_S apart in which
  nothing was failed, in flight or being repeated. It writes `array_state` in a thread of its own
  because whoever changes the array may wait for that very answer while holding md's lock.
"""

import contextlib
import os
import select
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mdcluster.core.model import DeviceId, Doubt
from mdcluster.md.driver import DriverError
from mdcluster.md.kernel_state import Attached, KernelState, status_of

LOOK_MS: Final = 200
SAMPLE_GAP_S: Final = 0.1
_MEMBER_FILES: Final = ("state", "unacknowledged_bad_blocks")

Report = Callable[[DeviceId, str, Doubt], None]
"""Called in the watcher's thread, once for each failure, and once more if it comes into doubt:
DriverEvents.member_failed."""


class Watch:
    """The two threads of one array, from `start` to `stop`."""

    def __init__(self, array: KernelState, report: Report) -> None:
        self._array = array
        self._report = report
        self._told: dict[DeviceId, Doubt] = {}
        self._closing = threading.Event()
        self._wrote = False
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._threads = [
            threading.Thread(target=self._watch, name=f"watch {array.dir.name}", daemon=True),
            threading.Thread(target=self._respond, name=f"answer {array.dir.name}", daemon=True),
        ]

    def start(self) -> None:
        self._array.members_changed = self.wake
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask both to end; they do so at their next look."""
        self._closing.set()
        self.wake()

    def wake(self) -> None:
        """Look again now: the members have changed."""
        with contextlib.suppress(OSError):
            os.write(self._wake_w, b"w")

    # --- failures ------------------------------------------------------------------------------

    def _watch(self) -> None:
        files: dict[Path, int] = {}
        try:
            while not self._closing.is_set():
                self._follow(files)
                self._wait(files)
                self.look()
        finally:
            for fd in files.values():
                os.close(fd)

    def _follow(self, files: dict[Path, int]) -> None:
        """Have the files of all present members open, and of no others."""
        members = list(self._array.members.values())
        wanted = {m.dir.path / name for m in members for name in _MEMBER_FILES}
        for path in files.keys() - wanted:
            os.close(files.pop(path))
        for path in wanted - files.keys():
            with contextlib.suppress(OSError):  # it is being removed
                files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def _wait(self, files: dict[Path, int]) -> None:
        poller = select.poll()
        poller.register(self._wake_r, select.POLLIN)
        for fd in files.values():
            with contextlib.suppress(OSError):
                os.pread(fd, 1, 0)  # what was is seen: tell of what comes
                poller.register(fd, select.POLLPRI | select.POLLERR)
        self.look()  # what came between the last look and these reads
        poller.poll(LOOK_MS)
        with contextlib.suppress(OSError):
            os.read(self._wake_r, 64)

    def look(self) -> None:
        """Tell what has failed since the last look."""
        for member in list(self._array.members.values()):
            why, doubt = self._why_failed(member)
            if not why:
                self._told.pop(member.device, None)
            elif self._told.get(member.device) != doubt:
                self._told[member.device] = doubt
                self._report(member.device, why, doubt)

    def _why_failed(self, member: Attached) -> tuple[str, Doubt]:
        """'' while it works, or while the failure is known by a commit."""
        if member.failed or member.changing:
            return "", Doubt.NONE
        status = status_of(member)
        errors = _corrected_errors(member)
        if status.faulty and self._was_replaced(member):
            return "", Doubt.NONE
        if errors:
            text = f"{errors} read error(s), which the kernel has answered by rewriting the blocks"
            return text, Doubt.REWRITTEN
        if status.faulty:
            return "the kernel has set it faulty", Doubt.MISSED
        if status.blocked or status.unacknowledged_errors:
            return "a write failed, and is held", Doubt.NONE
        return "", Doubt.NONE

    def _was_replaced(self, member: Attached) -> bool:
        """md has put the new one in its place."""
        new = self._array.replacement_of(member)
        return new is not None and "in_sync" in new.dir.flags

    # --- writes that wait ----------------------------------------------------------------------

    def _respond(self) -> None:
        while not self._closing.is_set():
            try:
                fd = os.open(self._array.dir.path / "array_state", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return  # the array is gone
            try:
                self._answer_until_gone(fd)
            except (OSError, DriverError):
                self._closing.wait(LOOK_MS / 1000)
            finally:
                os.close(fd)

    def _answer_until_gone(self, fd: int) -> None:
        poller = select.poll()
        poller.register(fd, select.POLLPRI | select.POLLERR)
        while not self._closing.is_set():
            if os.pread(fd, 64, 0).startswith(b"write-pending") and self._array.activated:
                self._answer()
            poller.poll(LOOK_MS)

    def _answer(self) -> None:
        """The very first write finds nothing in flight: it need not wait for a second sample."""
        if not self._calm_for(SAMPLE_GAP_S if self._wrote else 0.0):
            return
        self._array.answer()
        self._wrote = True

    def _calm_for(self, gap_s: float) -> bool:
        """Two samples, this far apart; soon looked at again if they are not both calm."""
        for wait_s in (gap_s, 0.0):
            if not self._array.calm:
                self._closing.wait(0.005)
                return False
            self._closing.wait(wait_s)
        return True


def _corrected_errors(member: Attached) -> int:
    """Read errors that md has answered by writing (raid1.c and raid10.c, fix_read_error)."""
    try:
        return member.dir.errors
    except DriverError:
        return 0
