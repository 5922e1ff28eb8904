"""The life of an array in the kernel's md, with metadata that we manage: set up, run, stopped, or
taken over while it runs. Blocking.

Each method is called in a thread that may be lost (see :mod:`mdcluster.workers`), those of one
array one after the other, but for `suspend`. The recipes were tried on Linux 6.1 and 6.12
(docs/KERNEL.md). Rules of this file:

* metadata is ``external:mdcluster``: the kernel writes no superblock, and holds what must wait;
* readonly -> frozen -> active is the only way to start without a resync; it stays frozen but while
  a sync that was asked for runs (:mod:`mdcluster.md.kernel_sync`).
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from mdcluster.core.model import DeviceId, Member, MemberState
from mdcluster.md.driver import ArrayBusyError, DriverError
from mdcluster.md.ioctl import MdDevice
from mdcluster.md.kernel_bits import OwnSlot
from mdcluster.md.kernel_members import KernelMembers
from mdcluster.md.kernel_notes import Notes
from mdcluster.md.kernel_state import Attached, md_name
from mdcluster.md.sysfs import AttributeFault, MemberDir, write_attribute

log = logging.getLogger(__name__)

KIND: Final = "mdcluster"
NAME_MAX: Final = 31
"""DISK_NAME_LEN of include/linux/blkdev.h, less its end."""

SPEED_KIB: Final = 10_000_000
"""md's own throttle sleeps while ranges are held: the pace is that of the windows."""
BITMAP_AGE_S: Final = 5


class KernelArray(KernelMembers):
    """An array from `assemble` or `inherit` to `stop`."""

    _opened: MdDevice | None = None

    # --- set up --------------------------------------------------------------------------------

    def assemble(self, paths: Mapping[DeviceId, str], slot_offset_sectors: int) -> None:
        """Configured, not running. Whatever fails, nothing is left of it."""
        self._check_name()
        self._create()
        try:
            self._configure()
            for entry in self.state.writable:
                if entry.device in paths:
                    self.attach(entry, paths[entry.device])
            self._need_every_copy()
            roles = {m.entry.role for m in self.members.values() if m.good}
            self.was_degraded = len(roles) < self.state.raid_disks
            if not self.read_only:
                self._configure_bitmap(slot_offset_sectors)
            self.dir.write("resync_start", 0)
        except DriverError:
            self._clear()
            raise

    def _check_name(self) -> None:
        if len(self.dir.name) > NAME_MAX or "/" in self.name:
            raise DriverError(
                f"array {self.name}: its name is too long for the kernel's {self.dir.name}: at most"
                f" {NAME_MAX - len(md_name(''))} characters"
            )

    def _create(self) -> None:
        if self.dir.exists():
            if self.dir.state != "clear":
                raise DriverError(
                    f"array {self.name}: the kernel has an array {self.dir.name} already, in state"
                    f" {self.dir.state}; stop it (mdadm --stop {self.device_path})"
                )
            self._clear()
        write_attribute(self._root / "module/md_mod/parameters/new_array", self.dir.name)

    def _configure(self) -> None:
        state, put = self.state, self.dir.write
        put("metadata_version", f"external:{KIND}")
        put("level", f"raid{state.level}")
        if state.level == 10:
            put("layout", state.layout)
            put("chunk_size", state.chunk_sectors * 512)
        put("raid_disks", state.raid_disks)
        put("component_size", state.size_sectors // 2)

    def _configure_bitmap(self, slot_offset_sectors: int) -> None:
        put = self.dir.write
        put("bitmap/metadata", "external")
        put("bitmap/chunksize", self.state.bitmap_chunk_sectors * 512)
        put("bitmap/time_base", BITMAP_AGE_S)
        self.slot = OwnSlot(self, slot_offset_sectors)
        put("bitmap/space", self.slot.size_sectors)  # or md may change the chunk when it grows
        put("bitmap/location", f"+{slot_offset_sectors}")
        self.slot.load()
        self.note_members()

    def _need_every_copy(self) -> None:
        good = {m.entry.role for m in self.members.values() if m.good}
        for roles in self.geometry.groups:
            if roles.isdisjoint(good):
                raise DriverError(
                    f"array {self.name}: no member in sync has any of the roles {sorted(roles)}"
                )

    def run(self) -> None:
        """What was set before is in force before anybody can write."""
        if self.dir.state not in ("inactive", "clear"):
            return
        self.dir.write("array_state", "readonly")
        self.dir.write("sync_action", "frozen")
        for member in self.members.values():
            if member.entry.state is MemberState.RECOVERING:
                self.give_role(member, 0)
        if self.shown_sectors != self.state.size_sectors:
            self._show(self.shown_sectors)
        if not self.read_only:
            self.suspend()
            if not self.shut:
                self.dir.write("array_state", "active")
            self.dir.write("safe_mode_delay", 0)
            self.prepare_syncs()
        self.write_pin()
        self._thread = self._find_thread()
        self._link()
        self._keep_open()

    def _keep_open(self) -> None:
        """So nobody stops it or makes it read-only behind the daemon: md refuses both for what is
        open (drivers/md/md.c, do_md_stop and md_set_readonly)."""
        try:
            self._opened = MdDevice(self.device_path)
        except DriverError as error:
            log.warning("array %s: it is not kept from being stopped: %s", self.name, error)

    def let_go(self) -> None:
        """Of the array, which runs on."""
        if self._opened is not None:
            self._opened.close()
        self._opened = None

    def prepare_syncs(self) -> None:
        """Full speed, and no waiting for arrays on other partitions of the same disks."""
        self.dir.write("sync_speed_max", SPEED_KIB)
        self.dir.write("sync_speed_min", SPEED_KIB)
        self.dir.write("sync_force_parallel", 1)

    def _link(self) -> None:
        """/dev/md/NAME, where mdadm's users look; udev may have made it."""
        link = self._dev / "md" / self.name
        link.parent.mkdir(exist_ok=True)
        if not os.path.lexists(link):
            link.symlink_to(f"../{self.dir.name}")

    def _unlink(self) -> None:
        link = self._dev / "md" / self.name
        if link.is_symlink() and os.readlink(link) == f"../{self.dir.name}":
            link.unlink(missing_ok=True)

    def set_read_only(self, on: bool) -> None:
        """md_set_readonly of drivers/md/md.c: refused while it is open, and ends what is frozen.

        It is written to again at once if it was activated and no member failed since.
        """
        if not on:
            with self.answering:
                self.shut = False
                again = self.activated and not self.held_by_failure()
                if again and self.dir.state == "readonly":
                    self.dir.write("array_state", "active")
            return
        if self.held_by_failure():
            raise ArrayBusyError(
                f"array {self.name}: the failure of a member is not committed and released yet"
            )
        self.let_go()
        with self.answering:
            try:
                if self.dir.state != "readonly":
                    self.dir.write("array_state", "readonly")
            except AttributeFault as error:
                raise ArrayBusyError(
                    f"array {self.name} is in use on this node (mounted, or open by a program):"
                    f" {error}"
                ) from None
            finally:
                self._keep_open()
            self.shut = True
        self.dir.write("sync_action", "frozen")

    def stop(self) -> None:
        """ArrayBusyError while anybody has it open. Members that md lets go of have not failed."""
        members = list(self.members.values())
        for member in members:
            member.changing = True
        self.let_go()
        try:
            self.dir.write("array_state", "clear")
        except AttributeFault as error:
            if not self.dir.exists():
                return
            self._keep_open()
            for member in members:
                member.changing = False
            raise ArrayBusyError(
                f"array {self.name} is in use on this node (mounted, or open by a program): {error}"
            ) from None
        self._unlink()
        self._notes.unlink(missing_ok=True)

    def _clear(self) -> None:
        if self.dir.exists():
            self.dir.write("array_state", "clear")

    # --- taken over ----------------------------------------------------------------------------

    def inherit(self, notes: Notes) -> None:
        """It runs: know its members, stop its copying, hold all its writes, release nothing."""
        for place in self.dir.members():
            number = place.device_number
            if number not in notes.members:
                raise DriverError(
                    f"array {self.name}: {place.name} is attached in the kernel, but which device"
                    f" that is was not noted; stop the array by hand (mdadm --stop"
                    f" {self.device_path})"
                )
            device, path = notes.members[number]
            self.members[device] = self._known(device, path, number, place)
        if not self.read_only:
            self.slot = OwnSlot(self, notes.slot_offset_sectors)
        self.was_degraded = True  # for all that is known
        self.shut = not self.read_only and self.dir.state == "readonly"
        self.dir.write("sync_action", "frozen")
        self.write_pin()
        self.held_sectors = (0, self.geometry.array_sectors)
        if not self.read_only and not self.held_by_failure():
            self.suspend()  # else write-pending holds them until `activate`, which suspends first
        self._keep_open()

    def _known(
        self, device: DeviceId, path: str, number: tuple[int, int], place: MemberDir
    ) -> Attached:
        """As the kernel has it; in sync only if the cluster says so as well."""
        flags, slot = place.flags, place.slot
        listed = self.state.member(device)
        entry = replace(
            listed or Member(device, 0, slot, MemberState.IN_SYNC, 0, self.state.size_sectors),
            role=slot,
        )
        good = "in_sync" in flags and entry.state is MemberState.IN_SYNC
        failed = "faulty" in flags and "blocked" not in flags
        return Attached(entry, path, number, place, good, failed)
