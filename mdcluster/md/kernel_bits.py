"""The own bitmap slot of an array in the kernel's md. Blocking.

md keeps the bits, in memory and in the slot on each member, raw (drivers/md/md-bitmap.c with
external metadata). A sync copies only the chunks that md has marked as *needed*: those that it
found set when the array was started, or that `bitmap_set_bits` has set; what an application has
just written is set, but not needed. `needed` here is what md is known to have marked so.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from mdcluster.md.driver import DriverError
from mdcluster.metadata import bitmap as raw
from mdcluster.metadata.device import DeviceReader
from mdcluster.metadata.errors import MetadataError

if TYPE_CHECKING:
    from mdcluster.md.kernel_state import KernelState

TEXT_BYTES_MAX: Final = 4000
"""One write to a sysfs attribute is at most a page."""
_SECTOR: Final = 512


class OwnSlot:
    """offset_sectors: where the slot lies on each member."""

    def __init__(self, array: "KernelState", offset_sectors: int) -> None:
        self.offset_sectors = offset_sectors
        self._array = array
        self._chunk = array.state.bitmap_chunk_sectors
        self._covered = array.geometry.array_sectors
        self._count = raw.chunk_count(self._covered, self._chunk)
        self._bytes = raw.slot_bytes(self._covered, self._chunk)
        self._needed = bytearray(self._bytes)

    def reaches(self, size_sectors: int) -> bool:
        """Whether the bits of an array with so much of each member fit where the slot lies."""
        geometry = replace(self._array.geometry, size_sectors=size_sectors)
        return raw.slot_bytes(geometry.array_sectors, self._chunk) <= self._bytes

    def resize(self) -> None:
        """The array has grown; md has done the same with its bits."""
        self._covered = self._array.geometry.array_sectors
        self._count = raw.chunk_count(self._covered, self._chunk)

    @property
    def size_sectors(self) -> int:
        """The room of the slot."""
        return self._bytes // _SECTOR

    def load(self) -> None:
        """Before md starts: all that it will find set is needed."""
        self._mark(self._read(self.offset_sectors))

    def set(self, lo_sectors: int, hi_sectors: int) -> None:
        """Array sectors, outward to chunks; durable on return."""
        chunks = raw.chunks_of(lo_sectors, hi_sectors, self._chunk)
        if chunks:
            self._tell([(chunks.start, chunks.stop)])

    def merge(self, offsets_sectors: Iterable[int]) -> None:
        """What is set in these slots on any member in sync; durable on return."""
        bits = raw.union(self._read(offset) for offset in offsets_sectors)
        self._tell(raw.extents(bits, self._count))

    def merge_own(self) -> None:
        """What stands in the own slot: all that a member has missed while it was away."""
        self.merge([self.offset_sectors])

    def copied(self, lo_sectors: int, hi_sectors: int) -> None:
        """md has copied [lo, hi): chunks that end in it are needed no more."""
        first = lo_sectors // self._chunk
        end = self._count if hi_sectors >= self._covered else hi_sectors // self._chunk
        if first < end:
            raw.clear_range(self._needed, first, end)

    def needed_sectors(self, lo_sectors: int, hi_sectors: int) -> int:
        """How much of [lo, hi) md has to copy."""
        return sum(max(0, min(hi, hi_sectors) - max(lo, lo_sectors)) for lo, hi in self._extents())

    def next_needed(self, from_sectors: int) -> int | None:
        """The first sector from there on that is to be copied."""
        for lo, hi in self._extents():
            if hi > from_sectors:
                return max(lo, from_sectors)
        return None

    def _extents(self) -> Iterator[tuple[int, int]]:
        return raw.sector_extents(bytes(self._needed), self._covered, self._chunk)

    def _mark(self, bits: bytes) -> None:
        for first, end in raw.extents(bits, self._count):
            raw.set_range(self._needed, first, end)

    def _tell(self, extents: Iterable[tuple[int, int]]) -> None:
        """md sets them, in memory and on the members, and moves resync_start back there."""
        text = ""
        for first, end in extents:
            word = f"{first}-{end - 1} " if end - first > 1 else f"{first} "
            if len(text) + len(word) > TEXT_BYTES_MAX:
                self._array.dir.write("bitmap_set_bits", text)
                text = ""
            text += word
            raw.set_range(self._needed, first, end)
        if text:
            self._array.dir.write("bitmap_set_bits", text)
        self._array.write_pin()

    def _read(self, offset_sectors: int) -> bytes:
        """The union over the members in sync."""
        found = []
        for member in self._array.members.values():
            if member.good and not member.failed:
                try:
                    with DeviceReader(member.path) as reader:
                        found.append(reader.read(offset_sectors * _SECTOR, self._bytes))
                except MetadataError as error:
                    raise DriverError(
                        f"array {self._array.name}: bitmap slot at sector {offset_sectors}: {error}"
                    ) from error
        return raw.union(found)
