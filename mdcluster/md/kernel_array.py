"""One array in the kernel's md, with metadata that we manage: set up, members, holds, reads.

Blocking: each method is called in a thread that may be lost (see :mod:`mdcluster.workers`), those
of one array one after the other, but for `suspend`. The recipes were tried on Linux 6.1 and 6.12
(docs/KERNEL.md). Rules of this file:

* metadata is ``external:mdcluster``: the kernel writes no superblock, and holds what must wait;
* ``external_bbl`` on every member before it gets a role: each failed write then is held, not only
  the first one;
* readonly -> frozen -> active is the only way to start without a resync; it stays frozen but while
  a sync that was asked for runs (:mod:`mdcluster.md.kernel_sync`);
* ``active`` is written under `answering`, and only while `activated`: whoever fails a member takes
  that away first, so that nothing held is released behind its back;
* a member is made faulty only when what was in flight to it has returned: md acknowledges writes
  that fail on a member which is faulty already;
* no range is suspended while a failure is pending: Linux 6.1 would wait for ever.
"""

import errno
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from mdcluster.core.model import ArrayState, DeviceId, Member, MemberState
from mdcluster.md.driver import ArrayBusyError, DriverError, MemberStatus
from mdcluster.md.ioctl import MdDevice
from mdcluster.md.kernel_bits import OwnSlot
from mdcluster.md.kernel_notes import Notes, write_notes
from mdcluster.md.raid import Geometry, geometry_of
from mdcluster.md.sysfs import SYS, ArrayDir, AttributeFault, MemberDir, block_name, write_attribute

KIND: Final = "mdcluster"
DEV: Final = Path("/dev")
NAME_MAX: Final = 31
"""DISK_NAME_LEN of include/linux/blkdev.h, less its end."""

SPEED_KIB: Final = 10_000_000
"""md's own throttle sleeps while ranges are held: the pace is that of the windows."""
BITMAP_AGE_S: Final = 5
TRY_S: Final = 0.005
GIVE_UP_S: Final = 10.0
_PENDING: Final = "write-pending"
_PASSING: Final = (errno.EBUSY, errno.EAGAIN)


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
    changing: bool = False  # we make it faulty for a moment ourselves

    @property
    def device(self) -> DeviceId:
        return self.entry.device


class KernelArray:
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

    # --- set up --------------------------------------------------------------------------------

    def assemble(self, paths: Mapping[DeviceId, str], slot_offset_sectors: int) -> None:
        """Configured, not running. Whatever fails, nothing is left of it."""
        self._check_name()
        self._create()
        try:
            self._configure()
            for entry in self.state.writable:
                if entry.device in paths:
                    self._attach(entry, paths[entry.device])
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
        put("bitmap/location", f"+{slot_offset_sectors}")
        self.slot = OwnSlot(self, slot_offset_sectors)
        self.slot.load()
        self._changed()

    def _need_every_copy(self) -> None:
        good = {m.entry.role for m in self.members.values() if m.good}
        for roles in self.geometry.groups:
            if roles.isdisjoint(good):
                raise DriverError(
                    f"array {self.name}: no member in sync has any of the roles {sorted(roles)}"
                )

    def _attach(self, entry: Member, path: str) -> Attached:
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
        self._changed()
        return member

    def _changed(self) -> None:
        """Members have come or gone."""
        numbers = {m.number: (m.device, m.path) for m in self.members.values()}
        offset = self.slot.offset_sectors if self.slot is not None else -1
        write_notes(self._notes, Notes(self.state.uuid, offset, self.read_only, numbers))
        self.members_changed()

    def run(self) -> None:
        """What was set before is in force before anybody can write."""
        if self.dir.state not in ("inactive", "clear"):
            return
        self.dir.write("array_state", "readonly")
        self.dir.write("sync_action", "frozen")
        for member in self.members.values():
            if member.entry.state is MemberState.RECOVERING:
                self._give_role(member, 0)
        if not self.read_only:
            self.suspend()
            self.dir.write("array_state", "active")
            self.dir.write("safe_mode_delay", 0)
            self.prepare_syncs()
        self.write_pin()
        self._thread = self._find_thread()
        self._link()

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

    def stop(self) -> None:
        """ArrayBusyError while anybody has it open."""
        try:
            self.dir.write("array_state", "clear")
        except AttributeFault as error:
            if not self.dir.exists():
                return
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
        self.dir.write("sync_action", "frozen")
        self.write_pin()
        self.held_sectors = (0, self.geometry.array_sectors)
        if not self.read_only and not self.held_by_failure():
            self.suspend()  # else write-pending holds them until `activate`, which suspends first

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

    def unblock(self, device: DeviceId) -> None:
        """`-blocked`; the last good member's failed writes are let go, and fail."""
        member = self.members.get(device)
        if member is None:
            return
        status = status_of(member)
        if not status.faulty and (status.blocked or status.unacknowledged_errors):
            if not self.is_last_good(member):
                raise DriverError(
                    f"array {self.name}: {member.path} is not faulty, its held writes stay held"
                )
            for first, length in member.dir.unacknowledged:
                member.dir.write("bad_blocks", f"{first} {length}")
        member.dir.write("state", "-blocked")

    def activate(self) -> None:
        """Admit writes, and release the held ones, unless a failure is (again) pending."""
        with self.answering:
            if self.read_only or self.held_by_failure():
                return
            self.activated = True
            self.dir.write("array_state", "active")

    def answer(self) -> None:
        """The same for a write-pending that came by itself: if it was activated before."""
        with self.answering:
            if self.activated and not self.held_by_failure() and self.write_pending:
                self.dir.write("array_state", "active")

    def remove(self, device: DeviceId) -> None:
        """A faulty member or a spare. md may need a moment to let go of it."""
        member = self.attached(device)
        if member.entry.role >= 0 and not member.failed and "faulty" not in member.dir.flags:
            raise DriverError(f"array {self.name}: {member.path} is in use, fail it first")
        self._retry(partial(member.dir.write, "state", "remove"))
        del self.members[device]
        self._changed()

    def add(self, entry: Member, path: str) -> None:
        """A spare, a write target of its role (RECOVERING), or in sync."""
        if entry.device in self.members:
            raise DriverError(f"array {self.name}: {path} is attached already")
        for other in self.members.values():
            if other.entry.role == entry.role >= 0 and not other.failed:
                raise DriverError(f"array {self.name}: role {entry.role} is {other.path}'s")
        wanted = replace(entry, state=MemberState.RECOVERING) if entry.role >= 0 else entry
        member = self._attach(wanted, path)
        if entry.role < 0:
            return
        try:
            in_sync = entry.state is MemberState.IN_SYNC
            self._give_role(member, None if in_sync else 0)
            if in_sync:
                self._finish_recovery([member])
        except DriverError:
            if member.dir.slot < 0:
                member.dir.write("state", "remove")
                del self.members[entry.device]
                self._changed()
            raise

    def _give_role(self, member: Attached, valid_sectors: int | None) -> None:
        """Written from here on, read below `valid_sectors` (None: it is copied whole).

        `insync` before `slot` keeps md from a full recovery: only what the bitmap says is copied
        (slot_store of drivers/md/md.c: saved_raid_disk).
        """
        member.dir.write("recovery_start", "none" if valid_sectors is None else valid_sectors)
        if member.entry.by_bitmap and valid_sectors is not None:
            member.dir.write("state", "insync")
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
            member.entry = replace(member.entry, state=MemberState.IN_SYNC)

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
                self._retry(partial(member.dir.write, "slot", "none"))
                member.dir.write("state", "re-add")
                self._give_role(member, valid_sectors)
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
        """Below resync_start md balances, above it reads the first member in sync (raid1.c,
        read_balance). While a sync runs it is the sync's position."""
        if not self.syncing:
            self.dir.write("resync_start", 0 if self.pinned else "none")
            self._read_mostly(None)

    def balance(self) -> None:
        """Nothing to be resynced, for md: or it would begin that as soon as it is not frozen, and
        since Linux 6.11 before any recovery; and a raid10 takes no member before (raid10_add_disk).

        Reads of a raid1 go to the first member in sync all the same: the others are write-mostly.
        """
        if self.pinned and self.state.level == 1:
            good = [m for m in self.members.values() if m.good and "in_sync" in m.dir.flags]
            self._read_mostly(min(good, key=lambda m: m.entry.role, default=None))
        self.dir.write("resync_start", "none")

    def _read_mostly(self, first: Attached | None) -> None:
        """From this one; None: from all."""
        for member in self.members.values():
            avoided = first is not None and member is not first and member.good
            if avoided != ("write_mostly" in member.dir.flags):
                member.dir.write("state", "writemostly" if avoided else "-writemostly")

    @contextmanager
    def balanced(self) -> Iterator[None]:
        """`balance` within, `write_pin` behind it."""
        self.balance()
        try:
            yield
        finally:
            self.write_pin()

    # --- patience --------------------------------------------------------------------------

    def _retry(self, step: Callable[[], None]) -> None:
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


def _device_number(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise DriverError(f"{path} cannot be used: {error.strerror}") from None
    if not stat.S_ISBLK(status.st_mode):
        raise DriverError(f"{path} is no block device; the kernel's md takes nothing else")
    return os.major(status.st_rdev), os.minor(status.st_rdev)
