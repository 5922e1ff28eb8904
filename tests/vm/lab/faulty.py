"""A shared disk as one guest has it, which can be made to fail there while others use it.

>>> node1.disks["d1"].fail_writes()
>>> node1.disks["d1"].heal()

Every shared disk is a device-mapper device in the guest, from its boot on. Its table can be
replaced while I/O is in flight; what is delayed then is done at once.
"""

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from tests.vm.lab.disks import MIB, Disk
from tests.vm.lab.errors import LabError
from tests.vm.lab.mapping import Faults, Stretch, table

if TYPE_CHECKING:
    from tests.vm.lab.guest import Guest

SECTOR_BYTES = 512
SWAP_LIMIT_S = 60.0


class FaultyDisk:
    """One disk in one guest; healthy again after every boot of the guest."""

    def __init__(self, guest: "Guest", disk: Disk, name: str) -> None:
        self._guest = guest
        self._lock = threading.Lock()
        self._faults = Faults()
        self.disk = disk
        self.name = name
        self.sectors = disk.size_mib * MIB // SECTOR_BYTES

    @property
    def path(self) -> str:
        """Under which everything in the guest should use it."""
        return f"/dev/mapper/{self.name}"

    @property
    def faults(self) -> Faults:
        return self._faults

    def booted(self) -> None:
        """The guest is switched on, with disks that work."""
        self._faults = Faults()

    # --- ways to fail ------------------------------------------------------------------------

    def fail(self) -> None:
        """All I/O fails."""
        self._add_bad(Stretch(0, self.sectors))

    def fail_reads(self) -> None:
        """Reads fail, writes work."""
        self._add_bad(Stretch(0, self.sectors, writes=False))

    def fail_writes(self) -> None:
        """Writes fail, reads work. An empty flush succeeds."""
        self._add_bad(Stretch(0, self.sectors, reads=False))

    def fail_range(self, start: int, end: int, *, reads: bool = True, writes: bool = True) -> None:
        """I/O on sectors [start, end) fails; in addition to what failed before."""
        self._add_bad(Stretch(start, end, reads, writes))

    def delay(self, *, reads_ms: int = 0, writes_ms: int = 0) -> None:
        """I/O takes longer by this; in addition to what fails."""
        with self._lock:
            self._apply(replace(self._faults, read_delay_ms=reads_ms, write_delay_ms=writes_ms))

    def lose_writes(self) -> None:
        """Writes are acknowledged and dropped; instead of every other fault."""
        with self._lock:
            self._apply(Faults(loses_writes=True))

    def vanish(self) -> None:
        """All I/O fails, and its name is gone; a user of it keeps a device that only fails."""
        self.fail()
        self._sh(f"rm {self.path}; dmsetup remove --deferred {self.name}")

    def heal(self) -> None:
        """It works, under its name."""
        with self._lock:
            self._sh(
                f"dmsetup info {self.name} >/dev/null 2>&1 "
                f"|| echo 0 {self.sectors} error | dmsetup create {self.name}; "
                f"dmsetup message {self.name} 0 @cancel_deferred_remove || true; "
                f"dmsetup mknodes {self.name}"
            )
            self._apply(Faults())

    def _add_bad(self, stretch: Stretch) -> None:
        with self._lock:
            self._apply(replace(self._faults, bad=(*self._faults.bad, stretch)))

    def _apply(self, faults: Faults) -> None:
        """Load the table and change over to it."""
        device, broken = f"/dev/disk/lab/{self.disk.name}", f"/dev/mapper/{self._broken}"
        lines = table(device, broken, self.sectors, faults)
        self._sh(
            f"dmsetup info {self._broken} >/dev/null 2>&1 "
            f"|| echo 0 {self.sectors} error | dmsetup create {self._broken}; "
            f"dmsetup load {self.name}; "
            f"dmsetup suspend --noflush --nolockfs {self.name}; dmsetup resume {self.name}",
            lines,
        )
        self._faults = faults

    @property
    def _broken(self) -> str:
        return f"broken-{self.name}"

    def _sh(self, script: str, lines: str = "") -> None:
        self._guest.run(["sh", "-ec", script], stdin=lines.encode(), timeout_s=SWAP_LIMIT_S)

    # --- content -----------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> bytes:
        """Past the guest's page cache; both multiples of 4096, at most 1 MiB."""
        return self._guest.read_direct(self.path, offset, size)

    def write(self, offset: int, data: bytes) -> None:
        """Past the guest's page cache, and flushed; both multiples of 4096, at most 1 MiB."""
        self._guest.write_direct(self.path, offset, data)


class FaultyDisks(dict[str, FaultyDisk]):
    """By the name of the shared disk, not by the name it has in this guest."""

    def __missing__(self, name: str) -> FaultyDisk:
        raise LabError(f"no disk {name} here; there are {', '.join(self) or 'none'}")
