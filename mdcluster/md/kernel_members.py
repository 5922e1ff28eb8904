"""What is done to the members of an array in the kernel's md. Blocking.

Rules of this file:

* ``external_bbl`` on every member before it gets a role: each failed write then is held, not only
  the first one;
* a member is made faulty only when what was in flight to it has returned: md acknowledges writes
  that fail on a member which is faulty already.
"""

import os
import stat
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

from mdcluster.core.model import DeviceId, Member, MemberState
from mdcluster.md.driver import DriverError
from mdcluster.md.ioctl import MdDevice
from mdcluster.md.kernel_notes import Notes, write_notes
from mdcluster.md.kernel_state import TRY_S, Attached, KernelState, status_of
from mdcluster.md.raid import geometry_of
from mdcluster.md.sysfs import block_name

BAD_BLOCKS_MAX = 512
"""MAX_BADBLOCKS of include/linux/badblocks.h."""


class KernelMembers(KernelState):
    """An array, and every step that changes its members."""

    def attach(self, entry: Member, path: str) -> Attached:
        """With its role if it is in sync; a recovering one gets its role when md runs."""
        number = _device_number(path)
        self.dir.write("new_dev", f"{number[0]}:{number[1]}")
        place = self.dir.member(block_name(number, self._root).replace("/", "!"))
        member = Attached(entry, path, number, place, good=entry.state is MemberState.IN_SYNC)
        try:
            place.write("offset", entry.data_offset_sectors)
            place.write("size", self.state.size_sectors // 2)
            place.write("state", "external_bbl")
            if member.good:
                place.write("slot", entry.role)
        except DriverError:
            place.write("state", "remove")
            raise
        self.members[entry.device] = member
        self.note_members()
        return member

    def note_members(self) -> None:
        """Members have come or gone."""
        numbers = {m.number: (m.device, m.path) for m in self.members.values()}
        offset = self.slot.offset_sectors if self.slot is not None else -1
        write_notes(self._notes, Notes(self.state.uuid, offset, self.read_only, numbers))
        self.members_changed()

    # --- out of use ----------------------------------------------------------------------------

    def fail(self, device: DeviceId, drain_s: float) -> None:
        """`faulty`, once what is in flight to it has returned (or drain_s have passed)."""
        member = self.attached(device)
        if member.failed:
            return
        if self.is_last_good(member):
            raise DriverError(
                f"array {self.name}: {member.path} is the last good member, it cannot be failed"
            )
        with self.answering:
            self.activated = False
        member.failed = True
        self.was_degraded = True
        if "faulty" in member.dir.flags:
            return
        if self.syncing:
            self.dir.write("sync_action", "frozen")
        if member.entry.role >= 0 and not self.read_only:
            member.dir.write("state", "blocked")
            end_s = time.monotonic() + drain_s
            while member.dir.writes_in_flight and time.monotonic() < end_s:
                time.sleep(TRY_S)
        with MdDevice(self.device_path) as array:
            array.set_disk_faulty(member.number)
        self.guard_reads()

    def unblock(self, device: DeviceId) -> None:
        """`-blocked`; the last good member's failed writes are let go, and fail.

        What md remembers as failed is dealt with first, of a faulty member as well: a raid10 would
        else wait for it in each later write to that block (raid10.c, wait_blocked_dev).
        """
        member = self.members.get(device)
        if member is None:
            return
        status = status_of(member)
        holds = not status.faulty and (status.blocked or status.unacknowledged_errors)
        if holds and not self.is_last_good(member):
            raise DriverError(
                f"array {self.name}: {member.path} is not faulty, its held writes stay held"
            )
        if status.faulty:
            member.dir.write("state", "-write_error")  # md looks at no bad block of it any more
        else:
            self._acknowledge(member)
        member.dir.write("state", "-blocked")

    def _acknowledge(self, member: Attached) -> None:
        """All its bad blocks; one read shows a page of them, and md remembers BAD_BLOCKS_MAX."""
        for _ in range(BAD_BLOCKS_MAX):
            extents = member.dir.unacknowledged
            for first, length in extents:
                member.dir.write("bad_blocks", f"{first} {length}")
            if not extents:
                return

    def remove(self, device: DeviceId) -> None:
        """A faulty member or a spare. md may need a moment to let go of it."""
        member = self.attached(device)
        if member.entry.role >= 0 and not member.failed and "faulty" not in member.dir.flags:
            raise DriverError(f"array {self.name}: {member.path} is in use, fail it first")
        self.retry(partial(member.dir.write, "state", "remove"))
        del self.members[device]
        self.note_members()

    # --- into use ------------------------------------------------------------------------------

    def add(self, entry: Member, path: str) -> None:
        """A spare, a write target of its role (RECOVERING), or in sync."""
        if entry.device in self.members:
            raise DriverError(f"array {self.name}: {path} is attached already")
        self._check_role(entry)
        wanted = replace(entry, state=MemberState.RECOVERING) if entry.role >= 0 else entry
        member = self.attach(wanted, path)
        if entry.role < 0:
            return
        try:
            in_sync = entry.state is MemberState.IN_SYNC
            self.give_role(member, None if in_sync else 0)
            if in_sync:
                self._finish_recovery([member])
                member.good, member.entry = True, entry
                self.write_pin()
        except DriverError:
            if member.dir.slot < 0:
                member.dir.write("state", "remove")
                del self.members[entry.device]
                self.note_members()
            raise

    def _check_role(self, entry: Member) -> None:
        """A role has one member; a replacement stands beside one in sync."""
        others = [
            m for m in self.members.values() if m.entry.role == entry.role >= 0 and not m.failed
        ]
        if others and not (entry.replacement and [m.good for m in others] == [True]):
            raise DriverError(f"array {self.name}: role {entry.role} is {others[0].path}'s")

    def give_role(self, member: Attached, valid_sectors: int | None) -> None:
        """Written from here on, read below `valid_sectors` (None: it is copied whole).

        `insync` before `slot` keeps md from a full recovery: only what the bitmap says is copied
        (slot_store of drivers/md/md.c: saved_raid_disk).
        """
        member.dir.write("recovery_start", "none" if valid_sectors is None else valid_sectors)
        if member.entry.by_bitmap and valid_sectors is not None:
            member.dir.write("state", "insync")
        if member.entry.replacement:
            for other in self.members.values():
                if other.entry.role == member.entry.role and other.good and not other.failed:
                    other.dir.write("state", "want_replacement")
        with self.balanced() if self.state.level == 10 else nullcontext():
            member.dir.write("slot", member.entry.role)

    def take_in(self, devices: Iterable[DeviceId]) -> None:
        """Members that were recovered: read from here on. All writes are held meanwhile."""
        members = [self.attached(device) for device in devices]
        for member in members:
            if member.failed or member.entry.role < 0:
                what = "failed" if member.failed else "a spare"
                raise DriverError(f"array {self.name}: {member.path} is {what}, not recovered")
        fresh = [m for m in members if "in_sync" not in m.dir.flags]
        if fresh and not self.read_only:
            if why := self.held_by_failure():
                raise DriverError(f"array {self.name}: failure pending: {why}")
            with self.whole_held():
                self.change_role(fresh, None)
                self._finish_recovery(fresh)
        for member in members:
            member.good = True
            member.entry = replace(member.entry, state=MemberState.IN_SYNC, replacement=False)
        self.write_pin()

    # --- the shape -----------------------------------------------------------------------------

    def set_raid_disks(self, raid_disks: int) -> None:
        """raid1_reshape of drivers/md/raid1.c: members close ranks. It waits for a write-pending,
        which another thread answers."""
        if self.state.level != 1:
            raise DriverError(f"array {self.name}: the number of a raid10's roles stays")
        held = [m for m in self.members.values() if m.dir.slot >= 0]
        if self.syncing or len(held) > raid_disks:
            why = "a sync is under way" if self.syncing else f"{len(held)} members have a role"
            raise DriverError(f"array {self.name}: not {raid_disks} roles: {why}")
        self.dir.write("raid_disks", raid_disks)
        self.was_degraded = True
        self.state = replace(self.state, raid_disks=raid_disks)
        self.geometry = geometry_of(self.state)
        for member in held:
            member.entry = replace(member.entry, role=member.dir.slot)

    def set_size(self, size_sectors: int, *, visible: bool) -> None:
        """array_size is pinned before component_size grows, and let go when all nodes have it."""
        if size_sectors != self.state.size_sectors:
            self._check_size(size_sectors)
            self._show(self.shown_sectors)
            for member in self.members.values():
                member.dir.write("size", size_sectors // 2)
            self.dir.write("component_size", size_sectors // 2)
            self.state = replace(self.state, size_sectors=size_sectors)
            self.geometry = geometry_of(self.state)
            if self.slot is not None:
                self.slot.resize()
            self.write_pin()
        if visible:
            self.dir.write("array_size", "default")
            self.shown_sectors = size_sectors

    def _check_size(self, size_sectors: int) -> None:
        small = [m for m in self.members.values() if m.entry.data_size_sectors < size_sectors]
        why = ""
        if self.syncing:
            why = "a sync is under way"
        elif size_sectors < self.state.size_sectors:
            why = f"it has {self.state.size_sectors} already"
        elif small:
            why = f"{small[0].path} has {small[0].entry.data_size_sectors}"
        elif self.slot is not None and not self.slot.reaches(size_sectors):
            why = "its bitmap slot does not reach that far"
        if why:
            raise DriverError(
                f"array {self.name}: not {size_sectors} sectors of each member: {why}"
            )

    def _show(self, size_sectors: int) -> None:
        """To applications: so much of each member."""
        shown = geometry_of(replace(self.state, size_sectors=size_sectors)).array_sectors
        self.dir.write("array_size", shown // 2)

    def change_role(self, members: Iterable[Attached], valid_sectors: int | None) -> None:
        """Out of the role and in again, for md takes `recovery_start` only without one.

        All writes are held: none can miss the member meanwhile.
        """
        for member in members:
            member.changing = True
            try:
                with MdDevice(self.device_path) as array:
                    array.set_disk_faulty(member.number)
                member.dir.write("state", "-blocked")
                if self.activated:
                    self.dir.write("array_state", "active")
                self.retry(partial(member.dir.write, "slot", "none"))
                member.dir.write("state", "re-add")
                self.give_role(member, valid_sectors)
            finally:
                member.changing = False

    def _finish_recovery(self, members: Iterable[Attached]) -> None:
        """Let md see that nothing is left to copy. It must find nothing else to do, either."""
        with self.balanced():
            self.dir.write("sync_max", "max")
            self.dir.write("sync_action", "recover")
            try:
                self.until(
                    lambda: all("in_sync" in m.dir.flags for m in members),
                    "md did not take a recovered member in",
                )
            finally:
                self.dir.write("sync_action", "frozen")


def _device_number(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise DriverError(f"{path} cannot be used: {error.strerror}") from None
    if not stat.S_ISBLK(status.st_mode):
        raise DriverError(f"{path} is no block device; the kernel's md takes nothing else")
    return os.major(status.st_rdev), os.minor(status.st_rdev)
