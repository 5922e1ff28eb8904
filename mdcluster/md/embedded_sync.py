"""The copying of one sync pass of the embedded driver, stretch by stretch, up to a limit.

Each stretch is locked against local writes, read from the first member in sync and written to
the targets, two stretches at a time so that reading and writing overlap. The gate is asked in
the I/O thread right before each write. Nothing is copied while a failure is pending.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import suppress
from typing import Final

from mdcluster.core.model import LOOKING, SyncKind
from mdcluster.md.driver import DriverError, GateCheck, SyncStep
from mdcluster.md.embedded_array import EmbeddedArray
from mdcluster.md.embedded_members import Attached
from mdcluster.md.faults import Purpose
from mdcluster.md.member_io import SECTOR_BYTES, MemberIo, aligned_buffer
from mdcluster.md.raid import Piece

STRETCH_SECTORS: Final = 2048
DEPTH: Final = 2
BY_BITMAP: Final = (SyncKind.RESYNC, SyncKind.BITMAP)
_EQUALIZING: Final = (SyncKind.RESYNC, SyncKind.BITMAP, SyncKind.REPAIR)


class Sync:
    """One started sync. Positions are sync positions (see :mod:`mdcluster.md.raid`)."""

    def __init__(
        self, array: EmbeddedArray, kind: SyncKind, position_sectors: int, gate_check: GateCheck
    ) -> None:
        self.kind = kind
        self.position_sectors = position_sectors
        self.limit_sectors = position_sectors
        self._array = array
        self._gate_check = gate_check
        self._stopping = False
        self._broken = False
        self._running: asyncio.Task[SyncStep] | None = None
        self._used: set[MemberIo] = set()
        self._copied = 0
        self._mismatched = 0
        array.resyncing = kind in _EQUALIZING

    async def limit(self, hi_sectors: int) -> SyncStep:
        """Copy up to `hi`. DriverError if it fails or is stopped, GateShutError from the gate."""
        if self._running is not None and not self._running.done():
            raise DriverError(f"array {self._array.name}: the sync is already under way")
        hi_sectors = min(hi_sectors, self._array.geometry.size_sectors)
        self.limit_sectors = max(self.limit_sectors, hi_sectors)
        self._running = asyncio.create_task(self._copy_to(hi_sectors))
        return await asyncio.shield(self._running)

    def interrupt(self) -> None:
        """The step under way, and any later one, raises; `stop` is to follow."""
        self._stopping = True

    async def stop(self) -> None:
        """Return once no copying write is outstanding, late ones included."""
        self._stopping = True
        if self._running is not None:
            await asyncio.gather(self._running, return_exceptions=True)
        for io in self._used:
            await io.copies_returned()
        self._array.resyncing = False

    def next_dirty(self, from_sectors: int) -> int:
        """The next sync position with something to copy; the size of a member if none."""
        geometry = self._array.geometry
        if not self.by_bitmap:
            return min(from_sectors, geometry.size_sectors)
        return next_dirty(self._array, from_sectors)

    @property
    def by_bitmap(self) -> bool:
        """Whether only what is dirty in the own slot is copied (md ignores positions then)."""
        if self.kind is SyncKind.RECOVER:
            targets = self._array.members.recovering
            return bool(targets) and all(m.entry.by_bitmap for m in targets)
        return self.kind in BY_BITMAP

    # --- one step -----------------------------------------------------------------------------

    async def _copy_to(self, hi_sectors: int) -> SyncStep:
        lo, hi = self._array.geometry.copy_range(self.position_sectors, hi_sectors)
        plan = list(self._extents(lo, hi))
        planned = sum(_length(stretch) for stretch in self._stretches(plan))
        self._broken, self._copied, self._mismatched = False, 0, 0
        self._refuse_if_pending()
        stretches = self._stretches(plan)
        await _all_of(self._work(stretches) for _ in range(DEPTH))
        self._refuse_if_stopped()
        if self.kind is not SyncKind.CHECK:
            await self._flush()
            if not self._array.members.incomplete:
                self._array.bitmap.copied(lo, hi)
                with suppress(OSError):  # reported as a failed member; bits too many do no harm
                    await self._array.bitmap.clear_idle()
        self.position_sectors = max(self.position_sectors, hi_sectors)
        position = self.position_sectors
        dirty = self.next_dirty(position)
        return SyncStep(position, planned, self._copied, dirty, self._mismatched)

    def _extents(self, lo: int, hi: int) -> Iterator[tuple[int, int]]:
        if self.by_bitmap:
            yield from self._array.bitmap.needed(lo, hi)
        elif lo < hi:
            yield lo, hi

    def _stretches(self, extents: list[tuple[int, int]]) -> Iterator[list[Piece]]:
        """What there is to copy: neighbouring pieces, a buffer full at a time."""
        for lo, hi in extents:
            for at in range(lo, hi, STRETCH_SECTORS):
                pieces = self._array.geometry.pieces(at, min(at + STRETCH_SECTORS, hi))
                if stretch := [piece for piece in pieces if self._targets(piece)]:
                    yield stretch

    async def _work(self, stretches: Iterator[list[Piece]]) -> None:
        """Copy what no other worker has taken. The buffer is its own, and dropped on an error."""
        buffer = aligned_buffer(STRETCH_SECTORS * SECTOR_BYTES)
        for stretch in stretches:
            if self._stopping or self._broken:
                return
            lo, hi = stretch[0].lo_sectors, stretch[-1].hi_sectors
            try:
                async with self._array.writes.locked(lo, hi):
                    self._refuse_if_pending()
                    if self.kind in LOOKING:
                        await _all_of(self._compare(piece) for piece in stretch)
                    else:
                        await _all_of(
                            self._copy(piece, buffer[(piece.lo_sectors - lo) * SECTOR_BYTES :])
                            for piece in stretch
                        )
            except BaseException:
                self._broken = True
                raise
            self._copied += _length(stretch)

    async def _copy(self, piece: Piece, buffer: memoryview) -> None:
        source, at = self._source(piece)
        data = await self._read(source, at, piece, buffer)
        targets = self._targets(piece)
        self._used.update(member.io for member, _ in targets)
        await _all_of(self._write(member, at, data) for member, at in targets)

    async def _compare(self, piece: Piece) -> None:
        """As md's process_checks: a repair writes only where something differs."""
        source, at = self._source(piece)
        data = await self._read(source, at, piece)
        for member, at in self._targets(piece):
            other = await self._read(member, at, piece)
            if other == data:
                continue
            self._mismatched += _differing_sectors(data, other)
            if self.kind is SyncKind.REPAIR:
                self._used.add(member.io)
                await self._write(member, at, data)

    def _source(self, piece: Piece) -> tuple[Attached, int]:
        found = self._array.choose(piece, first=True)
        if found is None:
            raise DriverError(
                f"array {self._array.name}: no member in sync to copy sector"
                f" {piece.lo_sectors} from"
            )
        return found[0], found[0].at(found[1])

    def _targets(self, piece: Piece) -> list[tuple[Attached, int]]:
        """Where a piece is written to: (member, sector on it)."""
        source = self._array.choose(piece, first=True)
        targets = []
        for copy in piece.copies:
            for member in self._array.members.of_role(copy.role):
                if source and member is source[0]:
                    continue
                if self.kind is SyncKind.RECOVER and member.in_sync:
                    continue
                if self.kind in LOOKING and not member.in_sync:
                    continue
                targets.append((member, member.at(copy)))
        return targets

    async def _read(
        self, member: Attached, at: int, piece: Piece, into: memoryview | None = None
    ) -> memoryview:
        try:
            return await member.io.read(at, piece.length_sectors, Purpose.COPY, into)
        except OSError as error:
            raise self._failed(member, f"read of sector {at}", error) from error

    async def _write(self, member: Attached, at: int, data: memoryview) -> None:
        try:
            await member.io.write(at, data, Purpose.COPY, check=self._gate_check)
        except OSError as error:
            raise self._failed(member, f"write of sector {at}", error) from error

    async def _flush(self) -> None:
        targets = [m for m in self._array.members if m.role >= 0 and not m.failed]

        async def flush(member: Attached) -> None:
            try:
                await member.io.flush(Purpose.COPY)
            except OSError as error:
                raise self._failed(member, "flush", error) from error

        await _all_of(flush(member) for member in targets)
        self._refuse_if_pending()

    def _failed(self, member: Attached, what: str, error: OSError) -> DriverError:
        why = f"{what}: {error.strerror or error}"
        self._array.members.failed(member, why)
        return DriverError(f"array {self._array.name}: {member.io.path}: {why}")

    def _refuse_if_stopped(self) -> None:
        if self._stopping:
            raise DriverError(f"array {self._array.name}: the {self.kind} was stopped")

    def _refuse_if_pending(self) -> None:
        if self._array.members.failure_pending:
            raise DriverError(
                f"array {self._array.name}: failure pending: nothing is copied until the failed"
                " member was committed faulty and the array released"
            )


def next_dirty(array: EmbeddedArray, from_sectors: int) -> int:
    """The next sync position that is to be copied by the bitmap; the size of a member if none."""
    geometry = array.geometry
    lo, hi = geometry.copy_range(from_sectors, geometry.size_sectors)
    found = next(array.bitmap.needed(lo, hi), None)
    if found is None:
        return geometry.size_sectors
    return max(from_sectors, geometry.sync_position(found[0]))


async def _all_of(calls: Iterable[Coroutine[None, None, None]]) -> None:
    """Wait for all, then raise the first error: nothing goes on behind the caller's back."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _length(stretch: list[Piece]) -> int:
    return sum(piece.length_sectors for piece in stretch)


def _differing_sectors(one: memoryview, two: memoryview) -> int:
    return sum(
        one[at : at + SECTOR_BYTES] != two[at : at + SECTOR_BYTES]
        for at in range(0, len(one), SECTOR_BYTES)
    )
