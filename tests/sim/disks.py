"""Shared disks of the simulated world: superblock, rings, bitmap slots and a few dozen blocks.

A block stands for `BLOCK_SECTORS` sectors and holds one number: 0 when fresh, else the
sequence number of the write that put it there (each block has one writing host, so a larger
number is a newer write). Bitmap slots have a bit for each block; a chunk of the bitmap may be
several blocks, whose bits are then set and cleared together.
"""

from dataclasses import dataclass, field, replace

from mdcluster.core.model import ArrayId, ArrayState, DeviceId, Entry, NodeId

BLOCK_SECTORS = 128
BLOCKS = 24
SIZE_SECTORS = BLOCK_SECTORS * BLOCKS
SLOTS = 64
EVERY_HOST = -1


def block_range(lo_sectors: int, hi_sectors: int) -> range:
    """The blocks that [lo, hi) touches."""
    return range(lo_sectors // BLOCK_SECTORS, -(-min(hi_sectors, SIZE_SECTORS) // BLOCK_SECTORS))


def whole_chunks(mask: int, chunk_blocks: int) -> int:
    """The bits of all chunks of which some bit is set."""
    chunk, out = (1 << chunk_blocks) - 1, 0
    for first in range(0, BLOCKS, chunk_blocks):
        if mask >> first & chunk:
            out |= chunk << first
    return out & (1 << BLOCKS) - 1


def mask_of(blocks: range) -> int:
    """Bits of these blocks."""
    return sum(1 << block for block in blocks)


def first_dirty_sectors(mask: int, from_sectors: int) -> int:
    """Where the next set bit at or above `from_sectors` begins, or the end of the array."""
    rest = mask >> (from_sectors // BLOCK_SECTORS)
    if not rest:
        return SIZE_SECTORS
    block = from_sectors // BLOCK_SECTORS + (rest & -rest).bit_length() - 1
    return max(block * BLOCK_SECTORS, from_sectors)


@dataclass(slots=True)
class Disk:
    """One shared disk. Failures are per host index (or EVERY_HOST)."""

    path: str
    device: DeviceId | None = None
    nonce: bytes = b""
    superblock: Entry | None = None
    torn: bool = False
    rings: dict[tuple[NodeId, ArrayId], Entry] = field(default_factory=dict)
    bits: list[int] = field(default_factory=lambda: [0] * SLOTS)
    data: list[int] = field(default_factory=lambda: [0] * BLOCKS)
    bad_writes: set[int] = field(default_factory=set)
    bad_reads: set[int] = field(default_factory=set)
    slow_us: int = 0
    plain: bool = False  # a superblock without the guard bit
    given_back: bool = False  # and whoever asked for that was told: it is theirs
    native_events: int = 0  # what stock md added to the events while it was theirs
    before_nonce: "tuple[DeviceId | None, bytes, Entry | None, bool] | None" = None

    def writes_for(self, host: int) -> bool:
        return not self.bad_writes or (
            EVERY_HOST not in self.bad_writes and host not in self.bad_writes
        )

    def reads_for(self, host: int) -> bool:
        return not self.bad_reads or (
            EVERY_HOST not in self.bad_reads and host not in self.bad_reads
        )

    def mend(self) -> None:
        self.bad_writes.clear()
        self.bad_reads.clear()
        self.slow_us = 0

    def write_nonce(self, device: DeviceId, nonce: bytes) -> None:
        """Claim the disk for a new device; what stood there can be put back."""
        self.before_nonce = (self.device, self.nonce, self.superblock, self.torn)
        self.device, self.nonce, self.superblock, self.torn = device, nonce, None, False

    def claim(self, nonce: bytes) -> None:
        """A plain member that is to be adopted: only a nonce is written to it."""
        self.before_nonce = (self.device, b"", self.superblock, self.torn)
        self.nonce = nonce

    @property
    def events(self) -> int:
        return (self.superblock.stamp.events if self.superblock else 0) + self.native_events

    def drop_nonce(self) -> None:
        if self.before_nonce is not None:
            self.device, self.nonce, self.superblock, self.torn = self.before_nonce
            self.before_nonce = None

    def erase(self) -> None:
        self.device, self.nonce, self.superblock, self.torn = None, b"", None, False
        self.before_nonce = None

    def write_superblock(self, entry: Entry) -> None:
        self.superblock, self.torn, self.before_nonce = entry, False, None
        self.plain = isinstance(entry.state, ArrayState) and entry.state.released
        self.native_events = 0
        if isinstance(entry.state, ArrayState) and entry.state.released:
            self.superblock = replace(entry, stamp=entry.state.released_at)
            self.nonce = b""
