"""Where the data of raid1 and raid10 near-2 lies: pure arithmetic, no I/O.

raid1: every role holds every sector. raid10 near 2 (layout 0x102): the two copies of array
chunk k are the chunks 2k and 2k+1 of the sequence that runs over all devices row by row
(drivers/md/raid10.c, __raid10_find_phys), so with an odd number of devices a pair may wrap
from the last device to the first one of the next row.

Two kinds of position, as in md: *array sectors* (what applications address; holds and bitmaps) and
*sync positions* (checkpoints; per-device sectors for raid10, equal to array sectors for
raid1). Offsets on members count from the start of their data.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mdcluster.core.model import ArrayState
from mdcluster.errors import MdclusterError

RAID10_NEAR2 = 0x102
_COPIES = 2


class GeometryError(MdclusterError):
    """Level, layout or sizes that this mapping does not know."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One place where a stretch of array sectors is stored."""

    role: int
    offset_sectors: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Array sectors [lo, hi) that lie in one run on each device.

    copies: in md's order, which is also that in which it reads and copies: for raid1 the roles.
    """

    lo_sectors: int
    hi_sectors: int
    copies: tuple[Copy, ...]

    @property
    def length_sectors(self) -> int:
        """How long the piece is."""
        return self.hi_sectors - self.lo_sectors


@dataclass(frozen=True, slots=True)
class Geometry:
    """The shape of one array. size_sectors: the part of each device that is used."""

    level: int
    raid_disks: int
    chunk_sectors: int
    size_sectors: int

    @property
    def array_sectors(self) -> int:
        """What applications see (raid10.c, raid10_size)."""
        if self.level == 1:
            return self.size_sectors
        rows = self.size_sectors // self.chunk_sectors
        return rows * self.raid_disks // _COPIES * self.chunk_sectors

    @property
    def groups(self) -> frozenset[frozenset[int]]:
        """The sets of roles that share data: of each, one member in sync must remain."""
        if self.level == 1:
            return frozenset({frozenset(range(self.raid_disks))})
        count = self.raid_disks
        return frozenset(frozenset(((2 * k) % count, (2 * k + 1) % count)) for k in range(count))

    def pieces(self, lo_sectors: int, hi_sectors: int) -> Iterator[Piece]:
        """The array sectors [lo, hi) cut where the devices change."""
        if self.level == 1:
            if lo_sectors < hi_sectors:
                copies = tuple(Copy(role, lo_sectors) for role in range(self.raid_disks))
                yield Piece(lo_sectors, hi_sectors, copies)
            return
        grown: Piece | None = None
        while lo_sectors < hi_sectors:
            end = min(hi_sectors, (lo_sectors // self.chunk_sectors + 1) * self.chunk_sectors)
            piece = Piece(lo_sectors, end, self._copies_of(lo_sectors))
            if grown is not None and _follows(grown, piece):
                grown = Piece(grown.lo_sectors, end, grown.copies)
            else:
                if grown is not None:
                    yield grown
                grown = piece
            lo_sectors = end
        if grown is not None:
            yield grown

    def _copies_of(self, sector: int) -> tuple[Copy, ...]:
        chunk, within = divmod(sector, self.chunk_sectors)
        places = (divmod(_COPIES * chunk + copy, self.raid_disks) for copy in range(_COPIES))
        return tuple(Copy(role, row * self.chunk_sectors + within) for row, role in places)

    def array_range(self, lo_sectors: int, hi_sectors: int) -> tuple[int, int]:
        """The array sectors with a copy in the sync positions [lo, hi), outward: to be held."""
        if self.level == 1 or lo_sectors >= hi_sectors:
            return self._clip(lo_sectors, hi_sectors) if self.level == 1 else (0, 0)
        first = lo_sectors // self.chunk_sectors * self.raid_disks // _COPIES
        return self._clip(first * self.chunk_sectors, self._end_of(hi_sectors))

    def copy_range(self, lo_sectors: int, hi_sectors: int) -> tuple[int, int]:
        """The array sectors to copy for the sync positions [lo, hi): whose first copy is there.

        Neighbouring windows share nothing, leave out nothing, and all below `hi` is complete.
        """
        if self.level == 1 or lo_sectors >= hi_sectors:
            return self._clip(lo_sectors, hi_sectors) if self.level == 1 else (0, 0)
        first = -(-(lo_sectors // self.chunk_sectors) * self.raid_disks // _COPIES)
        return self._clip(first * self.chunk_sectors, self._end_of(hi_sectors))

    def _end_of(self, hi_sectors: int) -> int:
        rows = -(-hi_sectors // self.chunk_sectors)
        return -(-rows * self.raid_disks // _COPIES) * self.chunk_sectors

    def _clip(self, lo_sectors: int, hi_sectors: int) -> tuple[int, int]:
        lo = min(max(lo_sectors, 0), self.array_sectors)
        return lo, max(lo, min(hi_sectors, self.array_sectors))

    def sync_position(self, array_sector: int) -> int:
        """The sync position from which on `array_sector` has not been copied (start of its row)."""
        if array_sector >= self.array_sectors:
            return self.size_sectors
        if self.level == 1:
            return array_sector
        row = _COPIES * (array_sector // self.chunk_sectors) // self.raid_disks
        return row * self.chunk_sectors


def _follows(piece: Piece, after: Piece) -> bool:
    """Whether `after` lies right behind `piece` on the same devices."""
    return all(
        one.role == two.role and one.offset_sectors + piece.length_sectors == two.offset_sectors
        for one, two in zip(piece.copies, after.copies, strict=True)
    )


def geometry_of(state: ArrayState) -> Geometry:
    """The geometry of a committed state. GeometryError for what is not supported."""
    if state.level == 1 and state.raid_disks >= 1:
        return Geometry(1, state.raid_disks, 0, state.size_sectors)
    if state.level == 10 and state.layout == RAID10_NEAR2 and state.raid_disks >= _COPIES:
        if state.chunk_sectors >= 8 and state.chunk_sectors & (state.chunk_sectors - 1) == 0:
            return Geometry(10, state.raid_disks, state.chunk_sectors, state.size_sectors)
        raise GeometryError(
            f"array {state.name}: a chunk of {state.chunk_sectors} sectors is not a power of two"
            " of 8 or more"
        )
    raise GeometryError(
        f"array {state.name}: level {state.level} with layout {state.layout:#x} on"
        f" {state.raid_disks} devices is not supported; raid1 and raid10 near 2 are"
    )


def array_range_of(state: ArrayState, lo_sectors: int, hi_sectors: int) -> tuple[int, int]:
    """The array sectors to hold while the sync positions [lo, hi) are copied."""
    return geometry_of(state).array_range(lo_sectors, hi_sectors)
