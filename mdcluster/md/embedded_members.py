"""The members of one array of the embedded driver: which are good, and what an error changes.

The rules stand in :mod:`mdcluster.md.embedded_array`; here is the state of each member and every
transition of it: failed (by an error), faulty (by `fail`), blocked, taken in, removed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from mdcluster.core.model import DeviceId, MemberState
from mdcluster.core.model import Member as MemberEntry
from mdcluster.md.driver import DriverError, MemberStatus
from mdcluster.md.embedded_writes import Writes
from mdcluster.md.member_io import LateError, MemberIo
from mdcluster.md.raid import Copy, Geometry

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(eq=False, slots=True)
class Attached:
    """A member in use here."""

    entry: MemberEntry
    io: MemberIo
    in_sync: bool
    failed: bool = False  # met an error: out of use, whatever was committed about it
    faulty: bool = False  # `fail` was called
    blocked: bool = False
    unacknowledged_errors: int = 0
    reported: bool = False

    @property
    def role(self) -> int:
        """Its place in the array, -1 for a spare."""
        return self.entry.role

    @property
    def readable(self) -> bool:
        """Its data is up to date and it answers."""
        return self.in_sync and not self.failed

    def at(self, copy: Copy) -> int:
        """Where on the member a copy lies, in sectors."""
        return self.entry.data_offset_sectors + copy.offset_sectors


class MemberSet:
    """All attached members.

    report: called once per failed member; on_failure: when one with a role goes out of use.
    """

    def __init__(
        self,
        name: str,
        geometry: Geometry,
        members: Iterable[Attached],
        writes: Writes,
        *,
        report: Callable[[DeviceId, str], None],
        on_failure: Callable[[], None],
    ) -> None:
        self.name = name
        self.geometry = geometry
        self._members = {member.entry.device: member for member in members}
        self._writes = writes
        self._detached: list[MemberIo] = []  # with writes that have not returned
        self._report = report
        self._on_failure = on_failure

    def __iter__(self) -> Iterator[Attached]:
        return iter(list(self._members.values()))

    def __contains__(self, device: DeviceId) -> bool:
        return device in self._members

    def put(self, member: Attached) -> None:
        """Attach it."""
        self._members[member.entry.device] = member

    def drop(self, member: Attached) -> None:
        """Detach it; its writes are waited for by `writes_returned` all the same."""
        del self._members[member.entry.device]
        self._detached = [io for io in (*self._detached, member.io) if io.writes_in_flight]
        self._writes.changed()

    async def writes_returned(self) -> None:
        """Wait, however long, until nothing sent to any member, detached or not, can still land."""
        for io in (*(member.io for member in self), *self._detached):
            await io.writes_returned()

    async def tried(self, member: Attached, access: Awaitable[_T], what: str) -> _T:
        """The access; if it fails, so does the member. The last good one is waited for.

        A late write that was answered EIO could undo a later one when it lands; and there is
        no other member to go to.
        """
        try:
            return await access
        except LateError as late:
            self.failed(member, f"{what}: {late.strerror}")
            if member.failed:
                raise
            landed: asyncio.Future[_T] = late.landed
            return await asyncio.shield(landed)
        except OSError as error:
            self.failed(member, f"{what}: {error.strerror or error}")
            raise

    def of_role(self, role: int) -> list[Attached]:
        """The members with this role that are in use: two while one replaces the other."""
        return [m for m in self._members.values() if m.role == role and not m.failed]

    def close_ranks(self, shape: Geometry) -> None:
        """Those with a role keep their order and take the roles 0, 1, ... of the new shape."""
        ranked = sorted((m for m in self if m.role >= 0), key=lambda m: m.role)
        if len(ranked) > shape.raid_disks:
            raise DriverError(
                f"array {self.name}: {len(ranked)} members are in use, that is more than "
                f"{shape.raid_disks}"
            )
        for role, member in enumerate(ranked):
            member.entry = replace(member.entry, role=role)
        self.geometry = shape

    @property
    def degraded(self) -> bool:
        """Whether a role has no member that is in sync and answers."""
        roles = {m.role for m in self._members.values() if m.readable}
        return not roles.issuperset(range(self.geometry.raid_disks))

    @property
    def incomplete(self) -> bool:
        """Whether a role has no member that gets the writes."""
        roles = {m.role for m in self._members.values() if not m.failed}
        return not roles.issuperset(range(self.geometry.raid_disks))

    @property
    def recovering(self) -> list[Attached]:
        """Members that have a role, answer, and are not in sync."""
        members = self._members.values()
        return [m for m in members if m.role >= 0 and not m.in_sync and not m.failed]

    @property
    def failure_pending(self) -> bool:
        """Whether a failure waits to be committed, applied and released."""
        return self._writes.pending or any(m.blocked for m in self._members.values())

    @property
    def writes_in_flight(self) -> int:
        """Writes outstanding on the members that are not faulty."""
        return sum(m.io.writes_in_flight for m in self._members.values() if not m.faulty)

    def is_last_good(self, member: Attached) -> bool:
        """Whether data would be lost to reads without it."""
        good = {m.role for m in self._members.values() if m.readable and m is not member}
        return member.readable and any(
            member.role in group and group.isdisjoint(good) for group in self.geometry.groups
        )

    def failed(self, member: Attached, why: str) -> None:
        """An access failed: take the member out of use, hold writes, report it."""
        if member.failed:
            return
        last = self.is_last_good(member)
        if not last:
            self._take_out(member)
            member.unacknowledged_errors += 1
        if not (last and member.reported):
            member.reported = True
            kept = " (the last good member: kept)" if last else ""
            _LOG.warning("array %s: %s failed: %s%s", self.name, member.io.path, why, kept)
            self._report(member.entry.device, why)

    def _take_out(self, member: Attached) -> None:
        member.failed = True
        if member.role >= 0:
            member.blocked = True
            self._on_failure()
        self._writes.changed()

    def fail(self, device: DeviceId) -> bool:
        """`faulty`; a member in use becomes blocked and the array write-pending. False if it is
        faulty already."""
        member = self.attached(device)
        if member.faulty:
            return False
        if self.is_last_good(member):
            raise DriverError(
                f"array {self.name}: {member.io.path} is the last good member, it cannot be failed"
            )
        if not member.failed:
            self._take_out(member)
        member.faulty, member.in_sync = True, False
        member.unacknowledged_errors = 0
        return True

    def unblock(self, device: DeviceId) -> None:
        """`-blocked`. A device that is not here has nothing to unblock."""
        member = self._members.get(device)
        if member is None:
            return
        if member.blocked and not member.faulty:
            raise DriverError(
                f"array {self.name}: {member.io.path} is not faulty, its held writes stay held"
            )
        member.blocked = False
        self._writes.changed()

    def activate(self) -> None:
        """`active`: admit writes, and release the held ones, unless a member is blocked again."""
        self._writes.starting = False
        self._writes.pending = any(m.blocked and m.role >= 0 for m in self._members.values())
        self._writes.changed()

    def remove(self, device: DeviceId) -> None:
        """Detach a faulty member or a spare."""
        member = self.attached(device)
        if member.role >= 0 and not member.faulty:
            raise DriverError(f"array {self.name}: {member.io.path} is in use, fail it first")
        self.drop(member)
        member.io.close()

    def take_in(self, device: DeviceId) -> None:
        """A recovered member may be read from here on."""
        member = self.attached(device)
        if member.failed or member.role < 0:
            what = "failed" if member.failed else "a spare"
            raise DriverError(f"array {self.name}: {member.io.path} is {what}, not recovered")
        member.in_sync = True
        member.entry = replace(member.entry, state=MemberState.IN_SYNC)

    def attached(self, device: DeviceId) -> Attached:
        """DriverError if it is not a member here."""
        member = self._members.get(device)
        if member is None:
            raise DriverError(f"array {self.name}: device {device} is not attached on this node")
        return member

    def status(self) -> tuple[MemberStatus, ...]:
        """In the order of roles, spares last."""
        found = sorted(self._members.values(), key=lambda m: (m.role < 0, m.role, m.entry.number))
        return tuple(
            MemberStatus(
                m.entry.device, m.role, m.in_sync, m.faulty, m.blocked, m.unacknowledged_errors
            )
            for m in found
        )
