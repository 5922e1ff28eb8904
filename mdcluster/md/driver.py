"""The md port: what mdcluster needs of an md implementation, and no more.

Two drivers speak it: :mod:`mdcluster.md.embedded` (user space, over files or block
devices) and the kernel's md. Every call is one step of the recipes that md's sysfs offers
for arrays with externally managed metadata; the semantics are those of a stock kernel:

* an array that was started holds its writes until the first `activate`;
* a write that meets a failing member is held until `unblock` of that member *and* `activate`;
* `activate` is one bit: it releases every held write of the array, whatever it waits for;
* nothing is copied while frozen; `limit_sync` is sync_max;
* with a bitmap, a RESYNC or BITMAP starts at 0, whatever the position, and copies what is dirty
  in the own slot, in whole chunks of the bitmap; one that was interrupted in the middle of a
  chunk begins with all of it again (drivers/md/md-bitmap.c, md_bitmap_end_sync). The position
  only says from where on the others hold their writes; see `next_dirty`;
* a RECOVER copies from the first member in sync to those that are not, and to no other; of new
  members it begins at its position, by the bitmap perhaps at 0; where no role is vacant what it
  has copied is dirty no more;
* while a member that has a role is not in sync nothing but RECOVER is done (drivers/md/md.c,
  md_check_recovery).

Positions and sizes in sectors of 512 bytes. Errors are :class:`DriverError`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from mdcluster.core.model import ArrayId, ArrayState, DeviceId, Doubt, Member, SyncKind
from mdcluster.errors import MdclusterError


class DriverError(MdclusterError):
    """An md operation failed: says which array, member, operation and why."""


class ArrayBusyError(DriverError):
    """The array is open; it cannot be stopped."""


class HungError(DriverError):
    """md will not come back from this operation, nor from others, before the host is restarted."""


@dataclass(frozen=True, slots=True)
class MemberStatus:
    device: DeviceId
    role: int
    in_sync: bool
    faulty: bool
    blocked: bool
    unacknowledged_errors: int


@dataclass(frozen=True, slots=True)
class ArrayStatus:
    array: ArrayId
    members: tuple[MemberStatus, ...]
    write_pending: bool
    thread_idle: bool
    writes_in_flight: int
    suspend_lo_sectors: int
    suspend_hi_sectors: int
    sync_kind: SyncKind | None
    sync_completed_sectors: int
    sync_max_sectors: int
    openers: int
    raid_disks: int
    size_sectors: int  # used of each member (component_size)
    shown_sectors: int  # of which applications see this much
    shut: bool = False  # read-only for applications (`set_read_only`)

    @property
    def clean(self) -> bool:
        """No write is held by a failure: the condition of holds and of `activate`."""
        return (
            not self.write_pending
            and self.thread_idle
            and not any(m.blocked or m.unacknowledged_errors for m in self.members)
        )


@dataclass(frozen=True, slots=True)
class SyncStep:
    """What one allowed stretch of a sync did.

    planned, copied: sectors to be copied, and copied; of a check, compared. They are equal exactly
    if all that was to be copied was. A driver that cannot count as exactly as that makes sure by
    what it can see, or raises. mismatched: sectors that a check or a repair found different in
    this stretch, on each member for itself (the kernel's mismatch_cnt counts whole requests of
    up to 64 KiB).
    """

    position_sectors: int
    planned_sectors: int
    copied_sectors: int
    next_dirty_sectors: int
    mismatched_sectors: int = 0


class DriverEvents(Protocol):
    """Called from the driver, always on the event loop's thread."""

    def member_failed(
        self, array: ArrayId, device: DeviceId, why: str, doubt: Doubt = Doubt.NONE
    ) -> None:
        """Its failed writes are held; doubt: not all of them. Told again if that comes up later."""


class MdDriver(Protocol):
    """One md implementation on this host."""

    @property
    def serial_holds(self) -> bool:
        """Whether this node may move a hold only while no other one does (kernels before 6.7)."""

    @property
    def outlives_daemon(self) -> bool:
        """Whether arrays run on when this process ends, and are found again by `inherit`."""

    @property
    def strangers(self) -> tuple[str, ...]:
        """What runs here as an array of the cluster and is none that `inherit` was told of, by the
        names that the kernel has for it; as long as it runs."""

    async def inherit(self, states: Iterable[ArrayState]) -> tuple[ArrayId, ...]:
        """Take over, once, before anything else, what an earlier process left running here.

        states: what is known of this cluster's arrays. Returns those that were taken over, by now
        in `arrays`: all of the states that run, for one that is not returned counts as stopped. One
        that runs and is none of them is one of `strangers`, or taken over if the driver can. When
        it returns, for each that was taken over:

        * every write is held, as by `hold` of the whole array, and no other range is asked for;
          those in flight may still be under way (a failed one never returns before it is
          released). Until then what was held before is held without a gap;
        * nothing is copied, as by `stop_sync`: the last write of a copying has returned, however
          long that takes. md would go on up to the last `limit_sync`;
        * reads are pinned; nothing is released: no `unblock`, no `activate` before it is asked for;
        * its bitmap slot, and all in it, is as it was.

        A member that holds writes (blocked, or with unacknowledged errors, `faulty` or not) is
        reported once more by `member_failed`, to who listens after this. DriverError: md cannot be
        made to hold still, or it is not known what runs; this process must not go on.
        """

    async def assemble(
        self,
        state: ArrayState,
        paths: dict[DeviceId, str],
        slot_offset_sectors: int,
        *,
        read_only: bool,
    ) -> None:
        """Set up the array, frozen, not yet running. paths: the members to use (FAULTY and
        missing ones are left out). slot_offset_sectors: where the own bitmap slot lies on
        each member; -1 for none (spectators). Applications are to see `shown_sectors` of the
        state, if it has that, instead of all of `size_sectors`; `read_only` is for spectators, an
        array that is read-only by its state has its slot all the same."""

    async def run(self, array: ArrayId) -> None:
        """readonly -> frozen -> clean; applications may use it, writes wait for `activate`.

        What is set between `assemble` and `run` (hold, hold_all, pin_reads) is in force before
        the first access of an application.
        """

    async def set_read_only(self, array: ArrayId, on: bool) -> None:
        """Whether applications may write; they get an error if not, and nothing is held.

        On: ArrayBusyError, and nothing is changed, while it is open, a write is not finished or a
        failure not released; on return none is admitted any more. A sync that was started is
        interrupted (its `limit_sync` raises). Off: writes are admitted as they would be without
        it; holds, failures and `activate` of meanwhile count. An array that is assembled in a
        state that is read-only begins so. The same again does nothing.
        """

    async def stop(self, array: ArrayId, *, force: bool = False) -> bool:
        """Stop it; then nothing that this node sent to a member can still land.

        Without force: ArrayBusyError, and nothing is changed, while it is open, a write is not
        finished or a failure not released. With force users are cut off and writes that are held
        or not admitted fail; admitted ones, and those that a hung device keeps, are waited for
        without limit. True if every admitted write was finished on every member in use.
        """

    async def fail(self, array: ArrayId, device: DeviceId) -> None:
        """Stop the use of a member (`faulty`). Its held writes stay held.

        A sync that runs is interrupted, as by `add` (drivers/md/raid1.c, raid1_error).
        """

    async def unblock(self, array: ArrayId, device: DeviceId) -> None: ...

    async def activate(self, array: ArrayId) -> None: ...

    async def remove(self, array: ArrayId, device: DeviceId) -> None: ...

    async def add(self, array: ArrayId, member: Member, path: str) -> None:
        """Attach as spare, or as write target of its role (RECOVERING) or in sync.

        md attaches nothing while a sync runs (drivers/md/md.c, slot_store: EBUSY). One that does
        is interrupted: its `limit_sync` raises, and `stop_sync` and a new start follow.

        A `replacement` (RECOVERING) stands beside the member in sync that has its role, which is
        read and written as before (md: want_replacement).
        """

    async def take_in(self, array: ArrayId, devices: Iterable[DeviceId]) -> None:
        """Members that were recovered are in sync from here on: reads may use them.

        All of a pass at once: md would begin to recover one that is left behind. After a
        replacement the member it replaces may be faulty at once, as in the kernel, or with the
        `fail` that follows.
        """

    async def set_raid_disks(self, array: ArrayId, raid_disks: int) -> None:
        """So many roles from here on (raid1), with no write lost or acknowledged in part.

        Members close ranks, as in the kernel (raid1_reshape): those with a role keep their order
        and take the roles 0, 1, ...; what is above is vacant, and the array degraded by it.
        DriverError, with nothing changed, for another level, for more members with a role than
        roles (faulty ones that are not removed count), or while a sync is started.
        """

    async def set_size(self, array: ArrayId, size_sectors: int, *, visible: bool) -> None:
        """Use so much of each member, never less than before (component_size).

        Holds, bits, syncs and status know the new size on return. Not visible: applications see
        what they saw before (array_size pinned first); visible: all (`default`). Called twice
        for a growth: on every node not visible, and when all have it, visible. What is new reads
        as whatever the members hold, and nothing is resynced by itself. (On a kernel
        `bitmap/space` must say how long the slot is: md_bitmap_resize of drivers/md/md-bitmap.c
        otherwise takes a larger chunk where the bits need another sector.)
        DriverError, with nothing changed, if a member is too small, the bitmap slot does not
        reach that far (one page of 4 KiB more than it has now), or while a sync is started.
        """

    async def hold(self, array: ArrayId, lo_sectors: int, hi_sectors: int) -> None:
        """Hold writes in exactly [lo, hi); returns after in-flight writes have drained.

        A write that ends at lo may wait, too. Over a write that a failure holds it returns, and
        `status` is not clean; or it waits until that write is released (kernels from 6.7 on).
        HungError if it will never return.
        """

    async def hold_all(self, array: ArrayId, on: bool) -> None:
        """Beside `hold`: hold every write (a node that lost touch)."""

    async def pin_reads(self, array: ArrayId, on: bool) -> None: ...

    async def set_bits(self, array: ArrayId, lo_sectors: int, hi_sectors: int) -> None:
        """Durable in the own slot, on every writable member, when it returns."""

    async def merge_bits(self, array: ArrayId, slot_offsets_sectors: tuple[int, ...]) -> None:
        """Set in the own slot what is set in these slots on any in-sync member, durable."""

    async def start_sync(self, array: ArrayId, kind: SyncKind, position_sectors: int) -> None:
        """Begin at `position`, limited to it.

        For RESYNC and BITMAP that must not be above `next_dirty(array, 0)`: from there on md
        copies. CHECK writes nothing; REPAIR writes what differs; both look at all from the
        position on, whatever the bitmap. DriverError for all kinds but RECOVER while a member
        with a role is not in sync.
        """

    async def limit_sync(self, array: ArrayId, hi_sectors: int) -> SyncStep:
        """Copy up to `hi`, and from there the next time; returns copied and flushed.

        `hi` may lie within a chunk of the bitmap. The gate is checked before each write; where
        md writes by itself, before it is allowed this step.
        """

    async def stop_sync(self, array: ArrayId) -> None:
        """Returns after the last write of the copying has returned."""

    def next_dirty(self, array: ArrayId, from_sectors: int) -> int:
        """The next sector the running sync has to copy, or the end of the array.

        Never above it; perhaps below, for bits that are not cleared yet.
        """

    def status(self, array: ArrayId) -> ArrayStatus: ...

    def arrays(self) -> tuple[ArrayId, ...]: ...

    def listen(self, events: DriverEvents) -> None: ...

    async def close(self) -> None:
        """Stop all arrays by force; where they outlive this process, only let go of them."""


GateCheck = Callable[[], None]
"""Called right before each gated write; raises GateShutError when it must not happen."""
