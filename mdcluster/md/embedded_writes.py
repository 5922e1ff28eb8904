"""Which writes of an array may go on, which wait, and which are in flight.

New writes wait until the array was activated for the first time, while it is write-pending (a
member failed), while all is held, and where they meet the held range, a stretch that the own
copying has locked, or a write in flight.
A write that failed and is held by that counts as drained, as in md (6.1): whoever drains looks
afterwards whether the array is clean.
"""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Ticket:
    """One admitted write to the array sectors [lo, hi)."""

    lo_sectors: int
    hi_sectors: int
    held: bool = False

    def overlaps(self, lo_sectors: int, hi_sectors: int) -> bool:
        """Whether the two have a sector in common."""
        return self.lo_sectors < hi_sectors and lo_sectors < self.hi_sectors


class Writes:
    """The door of one array. All calls on the event loop's thread."""

    def __init__(self) -> None:
        self.suspend_lo_sectors = 0
        self.suspend_hi_sectors = 0
        self.all_held = False
        self.pending = False
        self.starting = True
        self._closed = False
        self._locked: set[tuple[int, int]] = set()
        self._in_flight: set[Ticket] = set()
        self._changed = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Admitted writes that are not finished, held ones included."""
        return len(self._in_flight)

    async def enter(self, lo_sectors: int, hi_sectors: int) -> Ticket:
        """Wait until a write to [lo, hi) may be issued. OSError once the array is closed."""
        while self._must_wait(lo_sectors, hi_sectors):
            await self._change()
        ticket = Ticket(lo_sectors, hi_sectors)
        self._in_flight.add(ticket)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The write is finished."""
        self._in_flight.discard(ticket)
        self.changed()

    async def released(self, ticket: Ticket | None = None) -> None:
        """Hold what met a failed member until `pending` is cleared."""
        if ticket is not None and self.pending:
            ticket.held = True
            self.changed()
        while self.pending:
            self.refuse_if_closed()
            await self._change()

    def changed(self) -> None:
        """Something that writes wait for may have come."""
        self._changed.set()
        self._changed = asyncio.Event()

    def suspend(self, lo_sectors: int, hi_sectors: int) -> None:
        """Let new writes in exactly [lo, hi) wait."""
        empty = lo_sectors >= hi_sectors
        self.suspend_lo_sectors = 0 if empty else lo_sectors
        self.suspend_hi_sectors = 0 if empty else hi_sectors
        self.changed()

    def meets(self, lo_sectors: int, hi_sectors: int) -> bool:
        """Whether a write in flight has a sector in [lo, hi)."""
        return any(ticket.overlaps(lo_sectors, hi_sectors) for ticket in self._in_flight)

    async def drain(self, lo_sectors: int = 0, hi_sectors: int | None = None) -> None:
        """Wait for the writes in flight now (that overlap [lo, hi)), except the held ones."""
        waiting = {
            t for t in self._in_flight if hi_sectors is None or t.overlaps(lo_sectors, hi_sectors)
        }
        while any(not ticket.held for ticket in waiting & self._in_flight):
            await self._change()

    @asynccontextmanager
    async def locked(self, lo_sectors: int, hi_sectors: int) -> AsyncIterator[None]:
        """Within, no write that is not held touches [lo, hi)."""
        stretch = (lo_sectors, hi_sectors)
        self._locked.add(stretch)
        try:
            await self.drain(lo_sectors, hi_sectors)
            yield
        finally:
            self._locked.discard(stretch)
            self.changed()

    def close(self) -> None:
        """The array is going: all who wait get an error, nothing of theirs is acknowledged."""
        self._closed = True
        self.changed()

    async def finished(self) -> None:
        """Wait, however long, until no admitted write is left. Close first: none is admitted then.

        Writes held by a failure end with an error once the array is closed.
        """
        while self._in_flight:
            await self._change()

    def refuse_if_closed(self) -> None:
        """OSError once the array is closed."""
        if self._closed:
            raise OSError(errno.ESHUTDOWN, "the array was closed")

    def _must_wait(self, lo_sectors: int, hi_sectors: int) -> bool:
        self.refuse_if_closed()
        if self.starting or self.pending or self.all_held:
            return True
        if lo_sectors < self.suspend_hi_sectors and self.suspend_lo_sectors < hi_sectors:
            return True
        if any(lo < hi_sectors and lo_sectors < hi for lo, hi in self._locked):
            return True
        return self.meets(lo_sectors, hi_sectors)  # or the members could end up different

    async def _change(self) -> None:
        changed = self._changed
        await changed.wait()
