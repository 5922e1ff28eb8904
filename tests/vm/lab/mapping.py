"""Device-mapper tables which make a disk of one guest fail, in the ways disks fail. Pure.

dm-delay has one device for reads and another for writes, so with a device that only fails as the
other of the two it makes reads or writes fail alone, on every kernel.

>>> table("/dev/vdb", "/dev/mapper/broken", 100, Faults(bad=(Stretch(10, 20),)))
'0 10 linear /dev/vdb 0\\n10 10 error\\n20 80 linear /dev/vdb 20\\n'
"""

import itertools
from dataclasses import dataclass

from tests.vm.lab.errors import LabError


@dataclass(frozen=True, slots=True)
class Stretch:
    """Sectors [start, end) of 512 bytes where I/O fails."""

    start: int
    end: int
    reads: bool = True
    writes: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end or not (self.reads or self.writes):
            raise LabError(f"no stretch of failing sectors: {self}")


@dataclass(frozen=True, slots=True)
class Faults:
    """All that is wrong with a disk at one time; by default nothing."""

    bad: tuple[Stretch, ...] = ()
    read_delay_ms: int = 0
    write_delay_ms: int = 0
    loses_writes: bool = False
    """Writes are acknowledged and dropped; with no other fault at the same time."""

    @property
    def any(self) -> bool:
        return self != Faults()


def table(device: str, broken: str, sectors: int, faults: Faults) -> str:
    """Lines for `dmsetup load`; broken is a device of the same size on which all I/O fails."""
    if faults.loses_writes:
        if faults != Faults(loses_writes=True):
            raise LabError("a disk that loses writes cannot have another fault as well")
        return f"0 {sectors} flakey {device} 0 0 86400 1 drop_writes\n"
    edges = {0, sectors}
    for one in faults.bad:
        edges |= {min(one.start, sectors), min(one.end, sectors)}
    pieces = itertools.pairwise(sorted(edges))
    return "".join(
        f"{start} {end - start} {_target(device, broken, start, faults)}\n" for start, end in pieces
    )


def _target(device: str, broken: str, start: int, faults: Faults) -> str:
    """What the sectors from this one on, up to the next edge, are."""
    here = [one for one in faults.bad if one.start <= start < one.end]
    reads_fail = any(one.reads for one in here)
    writes_fail = any(one.writes for one in here)
    if reads_fail and writes_fail:
        return "error"
    if not (reads_fail or writes_fail or faults.read_delay_ms or faults.write_delay_ms):
        return f"linear {device} {start}"
    reads = f"{broken if reads_fail else device} {start} {faults.read_delay_ms}"
    writes = f"{broken if writes_fail else device} {start} {faults.write_delay_ms}"
    return f"delay {reads} {writes}"
