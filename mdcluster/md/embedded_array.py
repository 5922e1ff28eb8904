"""One array of the embedded driver: its members, application I/O, and what follows an error.

Rules, as md has them for arrays with external metadata and external bad block lists:

* an array that was started admits no write before the first `activate`;
* a member that failed an access is never read or written again; it is `blocked` and reported
  once; the array is write-pending until it was failed, unblocked and the array activated;
* a write is done on the members that are left and then held until the array is no longer
  write-pending, also one that was admitted before the failure;
* the last good member of a group of roles that share data never goes: its errors are EIO, and
  no deadline ends the waiting for it.

`activate` is a little stricter than the kernel's bit: while a member is still blocked it
releases nothing, so an error between the last look and `activate` cannot slip through.
"""

import asyncio
import errno
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from mdcluster.core.model import ArrayState, DeviceId
from mdcluster.md.driver import DriverError
from mdcluster.md.embedded_bitmap import SlotBitmap
from mdcluster.md.embedded_members import Attached, MemberSet
from mdcluster.md.embedded_writes import Ticket, Writes
from mdcluster.md.faults import Purpose
from mdcluster.md.member_io import (
    SECTOR_BYTES,
    aligned_buffer,
    aligned_copy,
)
from mdcluster.md.raid import Copy, Geometry, Piece, geometry_of

_PIECES_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class ArraySettings:
    """What an array needs besides its state and members. report: called once per failed member."""

    slot_offset_sectors: int
    read_only: bool
    clear_after_s: float
    report: Callable[[DeviceId, str], None]


class EmbeddedArray:
    """A set-up array. Read, write, flush, trim are the block device (OSError)."""

    def __init__(
        self, state: ArrayState, members: Iterable[Attached], settings: ArraySettings
    ) -> None:
        self.name = state.name
        self.geometry: Geometry = geometry_of(state)
        self.shown_sectors = state.shown_sectors or state.size_sectors
        self.writes = Writes()
        self.members = MemberSet(
            state.name,
            self.geometry,
            members,
            self.writes,
            report=settings.report,
            on_failure=self._hold_for_failure,
        )
        self.pinned = state.resync_sectors is not None or any(slot.dirty for slot in state.slots)
        self.resyncing = False
        self._torn = False
        self.slot_offset_sectors = settings.slot_offset_sectors
        self._read_only = settings.read_only or settings.slot_offset_sectors < 0
        self.shut = state.readonly
        self._retrying = 0
        self._turn = itertools.count()
        self.align_bytes = max([SECTOR_BYTES, *(member.io.align_bytes for member in self.members)])
        self.bitmap = SlotBitmap(
            self.geometry.array_sectors,
            state.bitmap_chunk_sectors,
            self._write_slot,
            self._prepare_clear,
            settings.clear_after_s,
        )

    # --- the block device ------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        """Size of the array, as applications see it."""
        return replace(self.geometry, size_sectors=self.shown_sectors).array_sectors * SECTOR_BYTES

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""
        return self._read_only or self.shut

    @property
    def spectated(self) -> bool:
        """Whether nothing at all is written, neither bits nor data, for as long as it runs."""
        return self._read_only

    async def read(self, offset_bytes: int, length_bytes: int) -> memoryview:
        """Read whole blocks of `align_bytes`."""
        lo, hi = self._sectors(offset_bytes, length_bytes)
        self.writes.refuse_if_closed()
        pieces = list(self.geometry.pieces(lo, hi))
        if len(pieces) == 1:
            return await self._read_piece(pieces[0])
        result = aligned_buffer(length_bytes)

        async def read_into(piece: Piece) -> None:
            at = (piece.lo_sectors - lo) * SECTOR_BYTES
            data = await self._read_piece(piece)
            result[at : at + len(data)] = data

        for batch in _batches(pieces):
            await asyncio.gather(*map(read_into, batch))
        return result

    async def write(
        self, offset_bytes: int, data: memoryview | bytes, *, fua: bool = False
    ) -> None:
        """Write whole blocks; returns when it may be acknowledged."""
        lo, hi = self._sectors(offset_bytes, len(data))
        if self.read_only:
            raise OSError(errno.EROFS, "the array is read-only on this node")
        ticket = await self.writes.enter(lo, hi)
        try:
            await self._write(ticket, data, fua)
        except asyncio.CancelledError:
            self._torn = True
            raise
        finally:
            self.writes.leave(ticket)

    async def flush(self) -> None:
        """Make what was acknowledged durable on all members."""
        self.writes.refuse_if_closed()
        if not self._read_only:
            await self._flush_members()
            await self.writes.released()

    async def trim(self, offset_bytes: int, length_bytes: int) -> None:
        """A hint that is not taken: what the members hold stays equal."""
        self._sectors(offset_bytes, length_bytes)

    def _sectors(self, offset_bytes: int, length_bytes: int) -> tuple[int, int]:
        if offset_bytes % self.align_bytes or length_bytes % self.align_bytes or length_bytes <= 0:
            raise OSError(errno.EINVAL, f"the array is accessed in blocks of {self.align_bytes}")
        if offset_bytes < 0 or offset_bytes + length_bytes > self.size_bytes:
            raise OSError(errno.EINVAL, "beyond the end of the array")
        return offset_bytes // SECTOR_BYTES, (offset_bytes + length_bytes) // SECTOR_BYTES

    # --- writing ---------------------------------------------------------------------------

    async def _write(self, ticket: Ticket, data: memoryview | bytes, fua: bool) -> None:
        chunks = await self.bitmap.begin(ticket.lo_sectors, ticket.hi_sectors)
        everywhere = False
        try:
            buffer = aligned_copy(data)
            missed = False
            for batch in _batches(self.geometry.pieces(ticket.lo_sectors, ticket.hi_sectors)):
                parts = [
                    (p, buffer[(p.lo_sectors - ticket.lo_sectors) * SECTOR_BYTES :]) for p in batch
                ]
                results = await asyncio.gather(
                    *(self._write_piece(p, part, fua) for p, part in parts),
                    return_exceptions=True,
                )
                missed = missed or not all(_unless_failed(results))
            everywhere = not missed
            await self.writes.released(ticket)
        finally:
            self.bitmap.end(chunks, everywhere=everywhere)

    async def _write_piece(self, piece: Piece, data: memoryview, fua: bool) -> bool:
        """False if a role has missed it; OSError if no good member has it."""
        part = data[: piece.length_sectors * SECTOR_BYTES]
        members = [(m, copy) for copy in piece.copies for m in self.members.of_role(copy.role)]
        done = await asyncio.gather(
            *(self._write_member(m, m.at(copy), part, durable=fua) for m, copy in members)
        )
        good = [m for (m, _), ok in zip(members, done, strict=True) if ok and m.readable]
        if not good:
            raise OSError(errno.EIO, f"array {self.name}: no good member took the write")
        return all(done) and {copy.role for _, copy in members} == {c.role for c in piece.copies}

    async def _write_member(
        self,
        member: Attached,
        at: int,
        data: memoryview,
        *,
        durable: bool,
        purpose: Purpose = Purpose.DATA,
    ) -> bool:
        """Whether the member took it."""
        if member.failed:
            return False
        writing = member.io.write(at, data, purpose, durable=durable)
        try:
            await self.members.tried(member, writing, f"{purpose} write of sector {at}")
        except OSError:
            return False
        return True

    async def _flush_members(self) -> bool:
        """True if a role has missed it; OSError if a group has no good member."""

        async def flush(member: Attached) -> bool:
            if member.failed:
                return False
            try:
                await self.members.tried(member, member.io.flush(), "flush")
            except OSError:
                return False
            return True

        members = [
            m for role in range(self.geometry.raid_disks) for m in self.members.of_role(role)
        ]
        done = await asyncio.gather(*map(flush, members))
        good = {m.role for m, ok in zip(members, done, strict=True) if ok and m.readable}
        if any(group.isdisjoint(good) for group in self.geometry.groups):
            raise OSError(errno.EIO, f"array {self.name}: no good member took the flush")
        return self.members.incomplete or not all(done)

    # --- reading ---------------------------------------------------------------------------

    async def _read_piece(self, piece: Piece) -> memoryview:
        tried: set[DeviceId] = set()
        while (found := self.choose(piece, tried)) is not None:
            member, copy = found
            self._retrying += bool(tried)
            reading = member.io.read(member.at(copy), piece.length_sectors)
            try:
                return await self.members.tried(
                    member, reading, f"read of sector {member.at(copy)}"
                )
            except OSError:
                pass  # reported; another member may have it
            finally:
                self._retrying -= bool(tried)
                tried.add(member.entry.device)
        raise OSError(errno.EIO, f"array {self.name}: no good member to read from")

    def choose(
        self, piece: Piece, tried: set[DeviceId] | None = None, *, first: bool = False
    ) -> tuple[Attached, Copy] | None:
        """The member to read a piece from; while pinned, or if asked so, the first in sync."""
        good = [
            (m, copy)
            for copy in piece.copies
            for m in self.members.of_role(copy.role)
            if m.readable and m.entry.device not in (tried or ())
        ]
        if not good:
            return None
        # What a write in flight has left on some members only must not come and go.
        unequal = self.writes.meets(piece.lo_sectors, piece.hi_sectors)
        if first or unequal or self.pinned or self.resyncing:
            return good[0]
        return good[next(self._turn) % len(good)]

    # --- members -----------------------------------------------------------------------------

    @property
    def finished_everywhere(self) -> bool:
        """Whether every admitted write that is over was finished on every non-faulty member."""
        return not self._torn and not self.members.failure_pending

    @property
    def thread_idle(self) -> bool:
        """No access is being repeated."""
        return not self._retrying

    async def attach(self, member: Attached) -> None:
        """Take a member in. With a role: it has our bits, and every write from the return on."""
        entry = member.entry
        if entry.device in self.members:
            raise DriverError(f"array {self.name}: {member.io.path} is already a member")
        others = [m for m in self.members if m.role == entry.role >= 0 and not m.faulty]
        if others and not (entry.replacement and [m.in_sync for m in others] == [True]):
            raise DriverError(
                f"array {self.name}: {others[0].io.path} already has role {entry.role}"
            )
        self.check(member)
        self.members.put(member)
        if entry.role < 0 or self._read_only:
            return
        try:
            await self.bitmap.rewrite()
        except OSError as error:
            self.members.drop(member)
            raise DriverError(
                f"array {self.name}: the bitmap cannot be written: {error}"
            ) from error
        await self.writes.drain()

    async def set_raid_disks(self, raid_disks: int) -> None:
        """A write finds the roles of one shape or of the other: those in flight come first."""
        if self.geometry.level != 1 or raid_disks < 1:
            raise DriverError(f"array {self.name}: it cannot have {raid_disks} raid devices")
        shape = replace(self.geometry, raid_disks=raid_disks)
        async with self.writes.locked(0, self.geometry.array_sectors):
            self.members.close_ranks(shape)
            self.geometry = shape

    def set_size(self, size_sectors: int, *, visible: bool) -> None:
        """What is in flight lies within both sizes."""
        if size_sectors < self.geometry.size_sectors:
            raise DriverError(
                f"array {self.name}: its size cannot shrink to {size_sectors} sectors"
            )
        shape = replace(self.geometry, size_sectors=size_sectors)
        for member in self.members:
            self._check_size(member, shape)
        if not self.bitmap.cover(shape.array_sectors):
            raise DriverError(
                f"array {self.name}: its bitmap slot does not reach up to {size_sectors} sectors"
            )
        self.geometry = self.members.geometry = shape
        if visible:
            self.shown_sectors = size_sectors

    def _check_size(self, member: Attached, shape: Geometry) -> None:
        entry, io = member.entry, member.io
        need = (entry.data_offset_sectors + shape.size_sectors) * SECTOR_BYTES
        if entry.data_offset_sectors < 0 or io.size_bytes < need:
            raise DriverError(
                f"array {self.name}: {io.path} has {io.size_bytes} bytes, the array needs {need}"
            )

    def check(self, member: Attached) -> None:
        """DriverError if the member is too small, too coarse, or its slot meets its data."""
        entry, io = member.entry, member.io
        self._check_size(member, self.geometry)
        if io.align_bytes > self.align_bytes:
            raise DriverError(
                f"array {self.name}: {io.path} is written in blocks of {io.align_bytes} bytes,"
                f" the running array in {self.align_bytes}; stop it and assemble it again"
            )
        offsets = [entry.data_offset_sectors, max(self.slot_offset_sectors, 0)]
        if any(offset * SECTOR_BYTES % self.align_bytes for offset in offsets):
            raise DriverError(
                f"array {self.name}: {io.path}: data and bitmap must start at a multiple of"
                f" {self.align_bytes} bytes"
            )
        if not -1 <= entry.role < self.geometry.raid_disks:
            raise DriverError(f"array {self.name}: {io.path} has role {entry.role}")
        slot_end = self.slot_offset_sectors + self.bitmap.size_bytes // SECTOR_BYTES
        if self.slot_offset_sectors >= 0 and slot_end > entry.data_offset_sectors:
            raise DriverError(
                f"array {self.name}: the bitmap slot ends at sector {slot_end} of {io.path},"
                f" behind the start of its data ({entry.data_offset_sectors})"
            )

    def _hold_for_failure(self) -> None:
        if not self._read_only:
            self.writes.pending = True
            self.bitmap.need_all()

    # --- the bitmap slot --------------------------------------------------------------------

    async def _write_slot(self, offset_bytes: int, content: bytes) -> None:
        data = aligned_copy(content)
        at = self.slot_offset_sectors + offset_bytes // SECTOR_BYTES
        members = [m for m in self.members if m.role >= 0 and not m.failed]
        done = await asyncio.gather(
            *(
                self._write_member(m, at, data, durable=True, purpose=Purpose.BITMAP)
                for m in members
            )
        )
        good = {m.role for m, ok in zip(members, done, strict=True) if ok and m.readable}
        if any(group.isdisjoint(good) for group in self.geometry.groups):
            raise OSError(errno.EIO, f"array {self.name}: no good member took the bitmap")

    async def load_bits(self) -> None:
        """Take over what stands in the own slot; until it is copied, reads are pinned."""
        self.bitmap.load(await self.read_slot(self.slot_offset_sectors))
        self.pinned = self.pinned or self.bitmap.any_needed()

    async def read_slot(self, offset_sectors: int) -> bytes:
        """The union of a slot over the members in sync. DriverError if none of them answers."""
        union = 0
        answers = 0
        for member in self.members:
            if not member.readable:
                continue
            length = self.bitmap.size_bytes // SECTOR_BYTES
            reading = member.io.read(offset_sectors, length, Purpose.BITMAP)
            try:
                data = await self.members.tried(member, reading, "read of the bitmap")
            except OSError:
                continue
            union |= int.from_bytes(data, "little")
            answers += 1
        if not answers:
            raise DriverError(f"array {self.name}: no member's bitmap can be read")
        return union.to_bytes(self.bitmap.size_bytes, "little")

    async def _prepare_clear(self) -> bool:
        """Before bits are cleared: what they stand for is durable on every member, or they stay."""
        if self._read_only or self.members.degraded or self.members.failure_pending:
            return False
        try:
            missed = await self._flush_members()
        except OSError:
            return False
        return not missed and not self.members.degraded and not self.members.failure_pending


def _unless_failed(results: Iterable[bool | BaseException]) -> list[bool]:
    """The results, or the first error among them."""
    good = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        good.append(result)
    return good


def _batches(pieces: Iterable[Piece]) -> Iterable[list[Piece]]:
    """At most so many pieces are under way for one request."""
    source = iter(pieces)
    while batch := list(itertools.islice(source, _PIECES_AT_ONCE)):
        yield batch
