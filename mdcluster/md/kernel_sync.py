"""One sync of an array in the kernel's md, stretch by stretch up to `sync_max`. Blocking.

md copies by itself; what is decided here is how far. Rules of this file:

* the gate is asked right before `sync_max` is raised: what md may copy then, it copies, even if
  this process dies or its lease ends meanwhile (others count on that: they hold the window);
* md passes through all before the position that it is given, copying what its bitmap marks:
  nothing may be marked there;
* a stretch is done when md has come to its end, what it copied is flushed, no failure came up and
  at least what was planned has moved on the members;
* when it has finished it is frozen at once, for then md would begin what is due next by itself.
"""

import os
import select
from collections.abc import Iterable
from typing import Final

from mdcluster.core.model import SyncKind
from mdcluster.md.driver import DriverError, GateCheck, SyncStep
from mdcluster.md.kernel_members import KernelMembers
from mdcluster.md.kernel_state import Attached

LOOK_MS: Final = 20
"""How often to look when md tells nothing (sync_completed is notified at most stops)."""
_ACTIONS: Final = {
    SyncKind.RESYNC: "resync",
    SyncKind.BITMAP: "resync",
    SyncKind.RECOVER: "recover",
    SyncKind.CHECK: "check",
    SyncKind.REPAIR: "repair",
}
_BY_BITMAP: Final = (SyncKind.RESYNC, SyncKind.BITMAP)
_LOOKING: Final = (SyncKind.CHECK, SyncKind.REPAIR)
"""These count what differs; md's thread begins at 0 again, some time after it is said to run."""


class KernelSync:
    """One started sync; positions are sync positions (see :mod:`mdcluster.md.raid`)."""

    def __init__(
        self, array: KernelMembers, kind: SyncKind, position_sectors: int, gate_check: GateCheck
    ) -> None:
        self.kind = kind
        self.position_sectors = self.limit_sectors = position_sectors
        self._array = array
        self._gate_check = gate_check
        self._end = array.geometry.size_sectors
        # Where md is, in array sectors: at the start all below is certain to be complete.
        self._at_sectors = array.geometry.array_range(position_sectors, self._end)[0]
        self._mismatched_sectors = 0
        self._stopping = False
        self._finished = False

    @property
    def by_bitmap(self) -> bool:
        """Whether md copies only what its bitmap marks."""
        if self.kind is SyncKind.RECOVER:
            targets = self._targets()
            return bool(targets) and all(m.entry.by_bitmap for m in targets)
        return self.kind in _BY_BITMAP

    def start(self) -> None:
        """md's thread runs up to the position, and sleeps there."""
        array = self._array
        if self.kind is SyncKind.RECOVER:
            self._set_recovery_start()
            if array.slot is not None and self.by_bitmap:
                array.slot.merge_own()  # all that the members have missed
        elif targets := self._targets():
            raise DriverError(
                f"array {array.name}: {targets[0].path} has to recover before any {self.kind}"
            )
        if self._below_is_marked():
            raise DriverError(
                f"array {array.name}: the bitmap marks what lies below the position"
                f" {self.position_sectors} of the {self.kind}"
            )
        array.syncing = True
        try:
            self._begin()
        except DriverError:
            self._freeze()
            raise

    def _begin(self) -> None:
        put = self._array.dir.write
        at = self.position_sectors if self.kind is SyncKind.RECOVER else self._at_sectors
        if self.kind in _BY_BITMAP:
            put("resync_start", 0)
        else:
            self._array.balance()
        put("sync_max", "max")
        put("sync_min", at if self.kind in _LOOKING else 0)
        put("sync_max", at)
        put("sync_action", _ACTIONS[self.kind])
        self._array.until(self._has_begun, f"md did not begin the {self.kind}")

    def _has_begun(self) -> bool:
        """Since Linux 6.7 its thread is started by a work queue, some time later."""
        array = self._array
        return array.dir.sync_completed_sectors is not None and (
            array.dir.read("sync_action") == _ACTIONS[self.kind]
        )

    def _set_recovery_start(self) -> None:
        """md goes on at the position that the cluster knows, not at the one it remembers."""
        wanted = 0 if self.by_bitmap else self.position_sectors
        moved = [m for m in self._targets() if m.dir.recovery_start_sectors != wanted]
        if moved:
            with self._array.whole_held():
                self._array.change_role(moved, wanted)

    def _below_is_marked(self) -> bool:
        slot = self._array.slot
        if slot is None or not self.by_bitmap:
            return False
        return slot.needed_sectors(0, self._at_sectors) > 0

    def limit(self, hi_sectors: int) -> SyncStep:
        """Copy up to `hi`. DriverError if it fails or is stopped, GateShutError from the gate."""
        array, lo, hi = self._array, self.position_sectors, min(hi_sectors, self._end)
        self._refuse_if_pending()
        self._refuse_if_stopped()
        if self._finished or hi <= lo:
            return SyncStep(lo, 0, 0, self.next_dirty(lo))
        end_sectors = self._copy_range(lo, hi)[1]
        planned = self._planned(lo, hi, end_sectors)
        before = self._moved()
        self._gate_check()
        self.limit_sectors = hi
        if hi < self._end:
            array.dir.write("sync_max", self._md_position(hi))
            self._wait(self._md_position(hi))
        else:
            self._to_the_end()
        self._flush()
        self._refuse_if_pending()
        found = self._found()
        moved = (self._moved() - before) // self._copies()
        if array.slot is not None and self.kind is not SyncKind.CHECK:
            array.slot.copied(self._at_sectors, end_sectors)
        self.position_sectors, self._at_sectors = hi, end_sectors
        return SyncStep(hi, planned, min(moved, planned), self.next_dirty(hi), found)

    def _to_the_end(self) -> None:
        """The last stretch; md then sees recovered members as in sync."""
        self._array.dir.write("sync_max", "max")
        self._wait(None)
        self._array.dir.write("sync_action", "frozen")
        self._finished = True
        self._check_complete()

    def _check_complete(self) -> None:
        array = self._array
        if self.kind in _BY_BITMAP:
            complete = array.dir.resync_start_sectors is None
        elif self.kind is SyncKind.RECOVER:
            complete = all("in_sync" in m.dir.flags for m in self._targets())
        else:
            complete = True
        if not complete:
            self._finished = False
            raise DriverError(f"array {array.name}: md has ended the {self.kind} before its end")

    def interrupt(self) -> None:
        """The step under way, and any later one, raises; `stop` is to follow."""
        self._stopping = True
        self._array.dir.write("sync_action", "frozen")

    def stop(self) -> None:
        """Frozen: nothing is copied any more when it returns. Positions are the cluster's."""
        self._stopping = True
        self._freeze()

    def _freeze(self) -> None:
        self._array.dir.write("sync_action", "frozen")
        self._array.syncing = False
        self._array.write_pin()

    def next_dirty(self, from_sectors: int) -> int:
        """The next sync position with something to copy; the size of a member if none."""
        if self._array.slot is None or not self.by_bitmap:
            return min(from_sectors, self._end)
        return next_dirty(self._array, from_sectors)

    # --- waiting ------------------------------------------------------------------------------

    def _wait(self, md_sectors: int | None) -> None:
        """Until md is there (None: has finished). It drains before it says that it is there."""
        place = self._array.dir.path / "sync_completed"
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            poller = select.poll()
            poller.register(fd, select.POLLPRI | select.POLLERR)
            while not self._is_at(md_sectors):
                self._refuse_if_stopped()
                self._refuse_if_pending()
                os.pread(fd, 64, 0)  # or the poll tells of what was there before
                if not self._is_at(md_sectors):
                    poller.poll(LOOK_MS)
        finally:
            os.close(fd)

    def _is_at(self, md_sectors: int | None) -> bool:
        done = self._array.dir.sync_completed_sectors
        running = self._array.dir.read("sync_action") == _ACTIONS[self.kind]
        if md_sectors is None:
            return not running
        self._refuse_if_stopped()
        if not running:
            raise DriverError(
                f"array {self._array.name}: md has ended the {self.kind} before {md_sectors}"
            )
        return done is not None and done >= md_sectors

    def _refuse_if_stopped(self) -> None:
        if self._stopping:
            raise DriverError(f"array {self._array.name}: the {self.kind} was stopped")

    def _refuse_if_pending(self) -> None:
        if why := self._array.held_by_failure():
            raise DriverError(
                f"array {self._array.name}: failure pending: nothing is copied until the failed"
                f" member was committed faulty and the array released ({why})"
            )

    def _flush(self) -> None:
        for member in self._copied():
            try:
                fd = os.open(member.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            except OSError as error:
                raise DriverError(
                    f"array {self._array.name}: {member.path}: flush: {error.strerror}"
                ) from None

    # --- how much -----------------------------------------------------------------------------

    def _targets(self) -> list[Attached]:
        """Recovering members in a role."""
        members = self._array.members.values()
        return [m for m in members if m.entry.role >= 0 and not m.good and not m.failed]

    def _copied(self) -> list[Attached]:
        members = self._array.members.values()
        return [m for m in members if m.entry.role >= 0 and not m.failed]

    def _copies(self) -> int:
        """On how many members each planned sector moves at the least."""
        if self.kind is SyncKind.RECOVER:
            return max(1, len(self._targets()))
        return len(self._copied()) if self._array.geometry.level == 1 else 2

    def _found(self) -> int:
        """Sectors that differed since the last time it was asked."""
        if self.kind not in _LOOKING:
            return 0
        before, self._mismatched_sectors = self._mismatched_sectors, self._array.mismatched_sectors
        return self._mismatched_sectors - before

    def _moved(self) -> int:
        return sum(m.dir.sectors_moved for m in self._counted())

    def _counted(self) -> Iterable[Attached]:
        return self._targets() if self.kind is SyncKind.RECOVER else self._copied()

    def _planned(self, lo: int, hi: int, end_sectors: int) -> int:
        """raid10 recovers by devices: the sectors of each; otherwise sectors of the array."""
        slot = self._array.slot
        if self.kind is SyncKind.RECOVER:
            if self.by_bitmap and slot is not None and self._array.geometry.level == 1:
                return slot.needed_sectors(lo, hi)
            return 0 if self.by_bitmap else hi - lo
        if slot is not None and self.by_bitmap:
            return slot.needed_sectors(self._at_sectors, end_sectors)
        return end_sectors - self._at_sectors

    def _copy_range(self, lo: int, hi: int) -> tuple[int, int]:
        return self._array.geometry.copy_range(lo, hi)

    def _md_position(self, position: int) -> int:
        """md counts a recovery by device, all else by the array."""
        if self.kind is SyncKind.RECOVER:
            return position
        return self._copy_range(0, position)[1]


def next_dirty(array: KernelMembers, from_sectors: int) -> int:
    """The next sync position that is to be copied by the bitmap; the size of a member if none."""
    size = array.geometry.size_sectors
    lo, _ = array.geometry.copy_range(from_sectors, size)
    found = array.slot.next_needed(lo) if array.slot is not None else None
    return size if found is None else max(from_sectors, array.geometry.sync_position(found))
