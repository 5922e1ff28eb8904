"""The demo's clients: writers and readers on every node, and a look at the members themselves.

The clients are those of :mod:`tests.cluster.workload`: each 4 KiB block says who wrote it and as
which version, and readers on all nodes take nothing older than what was acknowledged. They go
through the NBD sockets of the arrays, as any NBD client would.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.blocks import BLOCK_BYTES, NOISE, Block, spread
from tests.cluster.images import SECTOR_BYTES, assert_holds, differences, superblock
from tests.cluster.workload import Tally, Workload, verify_everywhere
from tests.demo.errors import check

BLOCKS: Final = 600
WRITERS_PER_NODE: Final = 2
SCAN_SECTORS: Final = 16 * 2048


@dataclass(slots=True)
class DemoTally(Tally):
    """Also keeps how long the slowest write took: it is one that was held."""

    longest_write_ms: int = 0

    def took(self, began_s: float, what: str) -> None:
        Tally.took(self, began_s, what)  # super() does not find a class with slots
        if what.startswith("write"):
            ms = int((time.monotonic() - began_s) * 1000)
            self.longest_write_ms = max(self.longest_write_ms, ms)


class Clients:
    """Writers and readers on every node, and what came of their work.

    Two sets of blocks: `ahead`, in the upper half of the array, and `behind`, in the lower half.
    While a resync that is to be interrupted goes through the lower half, only those ahead are
    written: what bitmaps say is then to be copied anyway, and all that is copied behind is
    copied twice, and can be counted.
    """

    def __init__(self, sockets: dict[str, Path], size_sectors: int) -> None:
        self._sockets = sockets
        size_blocks = size_sectors * SECTOR_BYTES // BLOCK_BYTES
        self.blocks = spread(BLOCKS, size_blocks, len(sockets))
        self.ahead = [block for block in self.blocks if block.number >= size_blocks // 2]
        self.behind = [block for block in self.blocks if block.number < size_blocks // 2]
        self._tallies: list[DemoTally] = []

    def load(self, blocks: list[Block]) -> Workload:
        """To be entered: clients work until it is left, and what they found wrong is raised."""
        tally = DemoTally()
        self._tallies.append(tally)
        return Workload(self._sockets, blocks, writers=WRITERS_PER_NODE, tally=tally)

    def verify(self) -> int:
        """Read every block on every node; returns how many reads that were."""
        verify_everywhere(self._sockets, self.blocks)
        return len(self.blocks) * len(self._sockets)

    @property
    def writes(self) -> int:
        """Acknowledged."""
        return sum(tally.writes for tally in self._tallies)

    @property
    def reads(self) -> int:
        """Each found to be what it had to be."""
        return sum(tally.reads for tally in self._tallies)

    @property
    def in_doubt(self) -> int:
        """Writes whose answer never came."""
        return sum(tally.in_doubt for tally in self._tallies)

    @property
    def longest_write_ms(self) -> int:
        """How long the write took that was held longest."""
        return max((tally.longest_write_ms for tally in self._tallies), default=0)


def compare_legs(images: Iterable[Path], blocks: Iterable[Block]) -> int:
    """Byte for byte, and every acknowledged block on each; returns the bytes of one leg."""
    legs = list(images)
    found = differences(legs)
    check(not found, f"the legs differ in {len(found)} blocks: {'; '.join(found[:3])}")
    for leg in legs:
        assert_holds(leg, blocks)
    return superblock(legs[0]).size_sectors * SECTOR_BYTES


def copied_up_to(source: Path, target: Path, from_sectors: int) -> int:
    """Where on the target the copy of the source ends, in sectors of the array.

    Read from the target itself, past everybody: `fill_with_noise` made the two differ in every
    block, so a block of the source's noise was copied. Looked for from the given position on.
    """
    offset = superblock(target).data_offset_sectors
    with target.open("rb") as file:
        file.seek((offset + from_sectors) * SECTOR_BYTES)
        data = file.read(SCAN_SECTORS * SECTOR_BYTES)
    copied = NOISE + f" {source.name} ".encode()
    last = data.rfind(copied[:BLOCK_BYTES])
    end = (last // BLOCK_BYTES + 1) * BLOCK_BYTES if last >= 0 else 0
    return from_sectors + end // SECTOR_BYTES
