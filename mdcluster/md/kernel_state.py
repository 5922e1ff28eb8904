"""An array in the kernel's md as it is now: what it shows, holds, and where reads go. Blocking.

Rules of this file:

* ``active`` is written under `answering`, and only while `activated`: whoever fails a member takes
  that away first, so that nothing held is released behind its back;
* no range is suspended while a failure is pending: Linux 6.1 would wait for ever.
"""

import errno
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

from mdcluster.core.model import ArrayState, DeviceId, Member
from mdcluster.md.driver import DriverError, MemberStatus
from mdcluster.md.kernel_bits import OwnSlot
from mdcluster.md.raid import Geometry, geometry_of
from mdcluster.md.sysfs import SYS, ArrayDir, AttributeFault, MemberDir

DEV: Final = Path("/dev")
READ_ERRORS_MAX: Final = 20
"""MD_DEFAULT_MAX_CORRECTED_READ_ERRORS of drivers/md/md.c."""
TRY_S: Final = 0.005
GIVE_UP_S: Final = 10.0
_PENDING: Final = "write-pending"
_PASSING: Final = (errno.EBUSY, errno.EAGAIN)


def kernel_version() -> tuple[int, int]:
    """Of the kernel that runs here."""
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(takewhile(str.isdecimal, minor)) or 0)


def md_name(name: str) -> str:
    """The kernel's name of an array: the same on every host."""
    return f"md_{name}"


@dataclass(eq=False, slots=True)
class Attached:
    """A member that the kernel has. good: in sync by a commit; md may see that earlier."""

    entry: Member
    path: str
    number: tuple[int, int]
    dir: MemberDir
    good: bool
    failed: bool = False  # `fail` was called
    changing: bool = False  # we make it faulty for a moment, or take it away, ourselves

    @property
    def device(self) -> DeviceId:
        return self.entry.device

    def set_flag(self, word: str, shown: str, *, on: bool) -> None:
        """A word of `state`, and how it is shown there."""
        if on != (shown in self.dir.flags):
            self.dir.write("state", word if on else f"-{word}")


class KernelState:
    """notes_dir: for those who take it over. root, dev: where sysfs and the device nodes are."""

    def __init__(
        self,
        state: ArrayState,
        *,
        read_only: bool,
        notes_dir: Path,
        root: Path = SYS,
        dev: Path = DEV,
    ) -> None:
        self.state = state
        self.geometry: Geometry = geometry_of(state)
        self.read_only = read_only
        self.shut = state.readonly and not read_only  # for applications
        self.shown_sectors = state.shown_sectors or state.size_sectors
        self.dir = ArrayDir(md_name(state.name), root)
        self.members: dict[DeviceId, Attached] = {}
        self.slot: OwnSlot | None = None
        self.pinned = True
        self.held_sectors = (0, 0)
        self.all_held = False
        self.activated = False
        self.syncing = False
        self.was_degraded = False  # md has marked what it wrote meanwhile as needed
        self.answering = threading.Lock()
        self._suspending = threading.Lock()
        self._whole = False
        self._pin_due = False
        self.members_changed: Callable[[], None] = lambda: None
        self._root, self._dev = root, dev
        self._notes = notes_dir / f"{self.dir.name}.json"
        self._thread: Path | None = None  # of the raid thread in /proc

    @property
    def name(self) -> str:
        return self.state.name

    @property
    def device_path(self) -> str:
        """The block device of the array."""
        return str(self._dev / self.dir.name)

    # --- looking -------------------------------------------------------------------------------

    def member_statuses(self) -> tuple[MemberStatus, ...]:
        """In the order of roles, spares last."""
        found = sorted(
            self.members.values(), key=lambda m: (m.entry.role < 0, m.entry.role, m.entry.number)
        )
        return tuple(status_of(member) for member in found)

    @property
    def holders(self) -> int:
        """Devices of the kernel that stand on it. (Mounts and programs show when it is stopped.)"""
        try:
            return len(os.listdir(self.dir.path.parent / "holders"))
        except OSError:
            return 0

    @property
    def suspended_sectors(self) -> tuple[int, int]:
        """[lo, hi) in which writes wait; md has these files only once the array runs."""
        try:
            return self.dir.suspended_sectors
        except AttributeFault as error:
            if error.errno != errno.ENOENT:
                raise
            return 0, 0

    @property
    def write_pending(self) -> bool:
        return self.dir.state == _PENDING

    @property
    def writes_in_flight(self) -> int:
        """On members that are not faulty."""
        return sum(
            m.dir.writes_in_flight for m in self.members.values() if "faulty" not in m.dir.flags
        )

    @property
    def thread_idle(self) -> bool:
        """Whether the raid thread sleeps: no failed access is being repeated."""
        if self._thread is None:
            self._thread = self._find_thread()
        try:
            text = (self._thread / "stat").read_text() if self._thread else ""
        except OSError:
            self._thread = None
            return False
        state = re.search(r"\) (\S)", text)
        return state is not None and state[1] in "SI"

    def _find_thread(self) -> Path | None:
        """md_register_thread of drivers/md/md.c names it so; kernels since 5.17 show all of it."""
        wanted = f"{self.dir.name}_raid{self.state.level}"
        for place in Path("/proc").iterdir():
            try:
                if place.name.isdecimal() and (place / "comm").read_text().strip() == wanted:
                    return place
            except OSError:
                continue
        return None

    def held_by_failure(self) -> str:
        """Which member's failure is not released yet, in words ('' for none)."""
        for member in self.members.values():
            status = status_of(member)
            if status.blocked or (status.unacknowledged_errors and not status.faulty):
                return f"the failure of {member.path} is pending"
        return ""

    @property
    def mismatched_sectors(self) -> int:
        """What the check or repair under way has found different so far, in whole requests."""
        return int(self.dir.read("mismatch_cnt"))

    @property
    def unanswered(self) -> str:
        """Why md lets nobody write although nothing has failed, in words ('' if it does)."""
        waits = self.write_pending and not self.activated
        return "writes wait until the array is activated" if waits else ""

    @property
    def calm(self) -> bool:
        """No failure, nothing on its way: nothing can be hidden behind a write-pending."""
        return not self.held_by_failure() and self.thread_idle and not self.writes_in_flight

    # --- members -------------------------------------------------------------------------------

    def attached(self, device: DeviceId) -> Attached:
        member = self.members.get(device)
        if member is None:
            raise DriverError(f"array {self.name}: device {device} is not attached on this node")
        return member

    def replacement_of(self, member: Attached) -> Attached | None:
        """The one that is to take its role, or has just done so."""
        for other in self.members.values():
            same = other is not member and other.entry.role == member.entry.role >= 0
            if same and other.entry.replacement and not other.failed:
                return other
        return None

    def is_last_good(self, member: Attached) -> bool:
        """Whether data would be lost to reads without it."""
        good = {
            m.entry.role
            for m in self.members.values()
            if m is not member and m.good and not m.failed and "faulty" not in m.dir.flags
        }
        return member.good and any(
            member.entry.role in roles and roles.isdisjoint(good) for roles in self.geometry.groups
        )

    def activate(self) -> None:
        """Admit writes, and release the held ones, unless a failure is (again) pending."""
        with self.answering:
            if self.read_only or self.held_by_failure():
                return
            self.activated = True
            if not self.shut:
                self.dir.write("array_state", "active")
        if self._pin_due:
            self.write_pin()

    def answer(self) -> None:
        """The same for a write-pending that came by itself: if it was activated before."""
        with self.answering:
            waits = self.activated and not self.shut and self.write_pending
            if waits and not self.held_by_failure():
                self.dir.write("array_state", "active")

    # --- holds -----------------------------------------------------------------------------

    def suspend(self, patience_s: float = GIVE_UP_S) -> None:
        """Make md hold what is to be held: [0, end) or `held_sectors`; what was in flight has
        returned then. Old and new are both held wherever they meet.

        While a failure is pending it waits, patience_s at most: md may never come back from it.
        """
        with self._suspending:
            self.until(
                lambda: not self.held_by_failure(),
                "failure pending: it was not released",
                patience_s,
            )
            old, new = self.dir.suspended_sectors, self._to_hold()
            for attribute, value in moves(old, new):
                self.dir.write(attribute, value)

    @property
    def holds_as_asked(self) -> bool:
        lo, hi = self._to_hold()
        held_lo, held_hi = self.dir.suspended_sectors
        return (held_lo, held_hi) == (lo, hi) or (lo >= hi and held_lo >= held_hi)

    def _to_hold(self) -> tuple[int, int]:
        if self.all_held or self._whole:
            return 0, self.geometry.array_sectors
        return self.held_sectors

    @contextmanager
    def whole_held(self) -> Iterator[None]:
        """All writes wait within. Of an array that was not activated they do so anyway."""
        self._whole = self.activated
        try:
            if self._whole:
                self.suspend()
            yield
        finally:
            if self._whole:
                self._whole = False
                self.suspend()

    # --- where reads go ----------------------------------------------------------------------

    def write_pin(self) -> None:
        """Read from the first member in sync only, or from all.

        raid1: the others are write-mostly. (With `resync_start` below the end raid1 reads from the
        first member, too, but Linux 6.12 even if that one is being recovered: raid1.c,
        choose_first_rdev.) raid10: above resync_start the first copy is read (raid10.c,
        read_balance); while a sync runs that is the sync's position.

        Linux waits for all writes in flight where write-mostly changes (since 6.7: md.c,
        rdev_attr_store): while a failure holds any, it is put off until `activate`.
        """
        self._pin_due = not self.read_only and bool(self.held_by_failure())
        if not self._pin_due:
            self._avoid_others()
        self.guard_reads()
        if not self.syncing:
            pinned = self.pinned and self.state.level != 1
            self.dir.write("resync_start", 0 if pinned else "none")

    def _avoid_others(self) -> None:
        first = None
        if self.pinned and self.state.level == 1:
            good = [m for m in self.members.values() if m.good and "in_sync" in m.dir.flags]
            first = min(good, key=lambda m: m.entry.role, default=None)
        for member in self.members.values():
            avoided = first is not None and member is not first and member.good
            member.set_flag("writemostly", "write_mostly", on=avoided or self._one_reader)

    @property
    def _one_reader(self) -> bool:
        """A raid1 before Linux 6.8 ignores max_read_errors. `failfast` does the same there, but
        lets failing writes through, unless the member is write-mostly."""
        return self.state.level == 1 and kernel_version() < (6, 8)

    def guard_reads(self) -> None:
        """A read error fails the member: md would mend it by writing to it what another one had,
        past the gate (raid1.c, fix_read_error). The last one that has the data is not failed: md
        would then refuse all writes, and there is nothing to mend it with.
        """
        good = [m for m in self.members.values() if m.good and not m.failed]
        alone = any(self.is_last_good(m) for m in good)
        self.dir.write("max_read_errors", READ_ERRORS_MAX if alone else 0)
        for member in self.members.values():
            member.set_flag("failfast", "failfast", on=self._one_reader and not alone)

    def balance(self) -> None:
        """Nothing to be resynced, for md: or it would begin that as soon as it is not frozen, and
        since Linux 6.11 before any recovery; and a raid10 takes no member before (raid10_add_disk).
        """
        self.dir.write("resync_start", "none")

    @contextmanager
    def balanced(self) -> Iterator[None]:
        """`balance` within, `write_pin` behind it."""
        self.balance()
        try:
            yield
        finally:
            self.write_pin()

    # --- patience --------------------------------------------------------------------------

    def retry(self, step: Callable[[], None]) -> None:
        """Until md has finished with the member; AttributeFault of the last try."""
        end_s = time.monotonic() + GIVE_UP_S
        while True:
            try:
                step()
                return
            except AttributeFault as error:
                if time.monotonic() >= end_s or error.errno not in _PASSING:
                    raise
            time.sleep(TRY_S)

    def until(
        self, condition: Callable[[], bool], problem: str, patience_s: float = GIVE_UP_S
    ) -> None:
        """DriverError with the problem if it does not come in time."""
        end_s = time.monotonic() + patience_s
        while not condition():
            if time.monotonic() >= end_s:
                raise DriverError(f"array {self.name}: {problem} within {patience_s:g} s")
            time.sleep(TRY_S)


def status_of(member: Attached) -> MemberStatus:
    """As the kernel has it now; one that vanished from under us is faulty."""
    entry, place = member.entry, member.dir
    try:
        flags, errors = place.flags, len(place.unacknowledged)
    except AttributeFault:
        flags, errors = frozenset({"faulty"}), 0
    faulty = "faulty" in flags and not member.changing
    return MemberStatus(
        member.device,
        entry.role,
        in_sync=member.good and "in_sync" in flags,
        faulty=faulty,
        blocked="blocked" in flags,
        unacknowledged_errors=0 if faulty else errors,
    )


def moves(old: tuple[int, int], new: tuple[int, int]) -> list[tuple[str, int]]:
    """The writes that take the suspended range from old to new, in an order that always holds
    what both have in common (each write is in force, and drained, when it returns)."""
    (old_lo, old_hi), (lo, hi) = old, new
    if lo >= hi:
        return [("suspend_hi", 0)] * (old_hi != 0) + [("suspend_lo", 0)] * (old_lo != 0)
    low = [("suspend_lo", lo)] * (lo != old_lo)
    high = [("suspend_hi", hi)] * (hi != old_hi)
    return low + high if old_lo >= old_hi or lo < old_lo else high + low
