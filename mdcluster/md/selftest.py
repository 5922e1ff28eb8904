"""Whether md of this host's kernel behaves as the driver needs it: tried on loop devices in a few
seconds (``mdclusterd --self-test``). What each check means stands in docs/KERNEL.md.

It makes arrays of its own, over files in a temporary folder, by the driver's own means
(:class:`mdcluster.md.kernel_array.KernelArray`), and touches nothing else. As root.
"""

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from mdcluster.core.model import SyncKind
from mdcluster.md.driver import ArrayBusyError, DriverError
from mdcluster.md.kernel import MODULES
from mdcluster.md.kernel_array import KernelArray
from mdcluster.md.kernel_state import Attached
from mdcluster.md.kernel_sync import KernelSync
from mdcluster.md.selftest_bench import (
    BITMAP_CHUNK_SECTORS,
    BLOCK,
    DATA_OFFSET_SECTORS,
    SECTOR,
    SLOT_SECTORS,
    Fault,
    TrialDisks,
    Writes,
    have,
    read,
    tool,
    trial_state,
)
from mdcluster.metadata import bitmap as raw

SIZE_SECTORS: Final = 8192
DISKS: Final = 2
WRITES: Final = 16
LOOK_S: Final = 0.5
"""How long something must not happen."""
PATIENCE_S: Final = 10.0
CHECK_LIMIT_S: Final = 60.0
STOP_LIMIT_S: Final = 10.0
CHUNK_BYTES: Final = BITMAP_CHUNK_SECTORS * SECTOR


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one check. passed: None if it could not be tried here."""

    check: str
    passed: bool | None
    detail: str

    def __str__(self) -> str:
        word = {True: "ok", False: "FAILED", None: "skipped"}[self.passed]
        return f"{word:8}{self.check}: {self.detail}"


class MisbehavesError(DriverError):
    """md does something else than the driver relies on."""


def self_test() -> Iterator[Outcome]:
    """All checks, each told when it is done; the first that hangs is the last."""
    if why := _cannot_try():
        yield Outcome("ground", False, why)
        return
    for name, check, breaks in CHECKS:
        if breaks and not have("dmsetup"):
            yield Outcome(name, None, "dmsetup is not installed: no disk can be broken")
            continue
        outcome = _in_time(name, check, breakable=have("dmsetup"))
        yield outcome
        if outcome.detail.startswith("md did not come back"):
            return


def as_json(outcomes: Iterable[Outcome]) -> str:
    """With the release of the kernel."""
    kernel = os.uname().release
    return json.dumps({"kernel": kernel, "checks": [asdict(o) for o in outcomes]}, indent=2)


def passed(outcomes: Iterable[Outcome]) -> bool:
    """Nothing failed, and something was tried."""
    results = [outcome.passed for outcome in outcomes]
    return False not in results and True in results


def _cannot_try() -> str:
    if os.geteuid() != 0:
        return "run as root: it sets up arrays on loop devices"
    if not have("losetup"):
        return "losetup is not installed (util-linux): there are no disks to try it on"
    try:
        if have("modprobe"):
            tool("modprobe", "-a", *MODULES)
    except DriverError as error:
        return f"this kernel has no md with raid1 and raid10: {error}"
    return ""


Check = Callable[["Bench"], str]


def _in_time(name: str, check: Check, *, breakable: bool) -> Outcome:
    """In a thread that may be lost: a kernel that misbehaves may never come back."""
    late = f"md did not come back within {CHECK_LIMIT_S:g} s; restart this host"
    found = [Outcome(name, False, late)]

    def work() -> None:
        try:
            with _bench(breakable=breakable) as bench:
                found[0] = Outcome(name, True, check(bench))
        except (DriverError, OSError) as error:
            found[0] = Outcome(name, False, str(error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(CHECK_LIMIT_S)
    return found[0]


# --- the bench ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bench:
    """A raid1 that runs, and its disks; its first write was answered."""

    disks: TrialDisks
    array: KernelArray

    @property
    def second(self) -> Attached:
        return list(self.array.members.values())[1]

    def data(self, number: int, offset_bytes: int, length_bytes: int) -> bytes:
        """Of the data area of a disk."""
        at = DATA_OFFSET_SECTORS + offset_bytes // SECTOR
        return self.disks.get(number, at, length_bytes)

    def put(self, number: int, offset_bytes: int, data: bytes) -> None:
        self.disks.put(number, DATA_OFFSET_SECTORS + offset_bytes // SECTOR, data)

    def writes(self, offsets: Iterable[int], fill: bytes) -> Writes:
        return Writes(self.array.device_path, offsets, fill * BLOCK)

    def mark_all(self) -> None:
        slot = self.array.slot
        assert slot is not None
        slot.set(0, self.array.geometry.array_sectors)

    def hold(self, lo_sectors: int, hi_sectors: int) -> None:
        self.array.held_sectors = (lo_sectors, hi_sectors)
        self.array.suspend()


@contextmanager
def _bench(*, breakable: bool) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="mdcluster-selftest-") as name:
        folder = Path(name)
        sectors = DATA_OFFSET_SECTORS + SIZE_SECTORS
        disks = TrialDisks(folder, DISKS, sectors, breakable=breakable)
        try:
            bench = Bench(disks, start(disks, folder))
            try:
                yield bench
            finally:
                stop(bench.array, disks)
        finally:
            disks.close()


def start(
    disks: TrialDisks, folder: Path, *, level: int = 1, size: int = SIZE_SECTORS
) -> KernelArray:
    """An array over all these disks, active, with its first write done."""
    state = trial_state(size, level=level, disks=disks.count, name=f"trial{os.getpid()}")
    array = KernelArray(state, read_only=False, notes_dir=folder / "notes")
    array.assemble({m.device: disks.path(m.number) for m in state.members}, SLOT_SECTORS)
    array.run()
    array.activate()
    first = Writes(array.device_path, [0], b"\0" * BLOCK)
    array.until(lambda: array.write_pending, "the first write was not held in write-pending")
    if first.acknowledged:
        raise MisbehavesError("a write was acknowledged while the array was write-pending")
    array.answer()
    if not first.join(PATIENCE_S):
        raise MisbehavesError("`active` did not release the first write")
    return array


def stop(array: KernelArray, disks: TrialDisks) -> None:
    """Whatever the check left behind: mended, released, stopped."""
    if disks.breakable:
        for number in range(disks.count):
            disks.set(number)
    release(array)
    array.held_sectors, array.all_held = (0, 0), False
    array.suspend()
    end_s = time.monotonic() + STOP_LIMIT_S
    while True:
        try:
            array.answer()
            array.stop()
            return
        except ArrayBusyError:  # a writer that was just released has it open
            if time.monotonic() >= end_s:
                raise
            time.sleep(0.05)


def release(array: KernelArray) -> None:
    """Every pending failure, as after its commit."""
    for member in array.members.values():
        status = member.dir.flags
        if "blocked" in status or (member.dir.unacknowledged and "faulty" not in status):
            if not array.is_last_good(member):
                array.fail(member.device, PATIENCE_S)
            array.unblock(member.device)
    array.activate()


# --- the checks --------------------------------------------------------------------------------


def external_metadata(bench: Bench) -> str:
    """An array whose metadata are ours; md writes none, and its first write waits for us."""
    area = bench.disks.get(0, 0, SLOT_SECTORS * SECTOR)
    if area != bytes(len(area)):
        raise MisbehavesError("md has written into the area of the superblock")
    kind = bench.array.dir.read("metadata_version")
    return f"{kind}; the first write waited for `active`; no superblock was written"


def frozen_stays_frozen(bench: Bench) -> str:
    """Members that differ, everything marked: nothing is copied unless asked for."""
    bench.mark_all()
    bench.put(1, 2 * CHUNK_BYTES, b"d" * BLOCK)
    time.sleep(LOOK_S)
    if bench.data(1, 2 * CHUNK_BYTES, BLOCK) != b"d" * BLOCK:
        raise MisbehavesError("md has begun a resync of a frozen array by itself")
    return f"nothing copied within {LOOK_S:g} s although all is marked"


def holds_hold(bench: Bench) -> str:
    """Writes in a held range wait, those elsewhere do not; reads never do."""
    array, inside, outside = bench.array, 32 * BLOCK, 64 * BLOCK
    began_s = time.monotonic()
    bench.hold(inside // SECTOR, (inside + BLOCK) // SECTOR)
    took_ms = (time.monotonic() - began_s) * 1000
    writes = bench.writes([inside, outside], b"h")
    array.until(lambda: outside in writes.acknowledged, "a write outside of a held range waits")
    read(array.device_path, inside, BLOCK)
    time.sleep(LOOK_S)
    if inside in writes.acknowledged or bench.data(0, inside, 1) == b"h":
        raise MisbehavesError("a write went into a held range")
    bench.hold(0, 0)
    if not writes.join(PATIENCE_S):
        raise MisbehavesError("the end of a hold did not let its write go on")
    return f"a hold took {took_ms:.0f} ms; the write inside waited, the one outside did not"


def marked_is_copied(bench: Bench) -> str:
    """md copies what `bitmap_set_bits` has marked, and nothing else."""
    array, chunks = bench.array, (3, 4, 17)
    for number in range(SIZE_SECTORS // BITMAP_CHUNK_SECTORS):
        bench.put(1, number * CHUNK_BYTES, b"d" * BLOCK)
    assert array.slot is not None
    for chunk in chunks:
        array.slot.set(chunk * BITMAP_CHUNK_SECTORS, (chunk + 1) * BITMAP_CHUNK_SECTORS)
    on_disk = [list(raw.extents(bench.disks.get(n, SLOT_SECTORS, BLOCK), 4096)) for n in (0, 1)]
    if not all({c for lo, hi in found for c in range(lo, hi)} >= set(chunks) for found in on_disk):
        raise MisbehavesError(f"bitmap_set_bits {chunks} is not on the members: {on_disk}")
    sync = KernelSync(array, SyncKind.RESYNC, 0, lambda: None)
    sync.start()
    sync.limit(SIZE_SECTORS)
    sync.stop()
    copied = tuple(
        number
        for number in range(SIZE_SECTORS // BITMAP_CHUNK_SECTORS)
        if bench.data(1, number * CHUNK_BYTES, 1) == b"\0"
    )
    if set(copied) - {0} != set(chunks):  # chunk 0: that of the first write
        raise MisbehavesError(f"marked were chunks {chunks}, copied were {copied}")
    return f"{len(chunks)} chunks marked, exactly these copied"


def failed_writes_wait(bench: Bench) -> str:
    """All writes that fail on a member wait until its failure is released."""
    array = bench.array
    bench.mark_all()  # no page of the bitmap is to be written meanwhile: a known hole
    bench.disks.set(1, Fault(DATA_OFFSET_SECTORS, bench.disks.sectors, writes_fail=True))
    offsets = [number * CHUNK_BYTES for number in range(WRITES)]
    writes = bench.writes(offsets, b"f")
    array.until(lambda: bool(array.held_by_failure()), "the failure of a member does not show")
    time.sleep(LOOK_S)
    if writes.acknowledged or writes.failed:
        raise MisbehavesError(
            f"{len(writes.acknowledged)} of {WRITES} writes that failed on one member were"
            " acknowledged before its failure was released"
        )
    release(array)
    end_s = time.monotonic() + PATIENCE_S
    while writes.waiting and time.monotonic() < end_s:
        array.answer()
        time.sleep(0.005)
    if len(writes.acknowledged) != WRITES:
        raise MisbehavesError(f"{writes.waiting} writes still wait after the release")
    if any(bench.data(0, offset, BLOCK) != b"f" * BLOCK for offset in offsets):
        raise MisbehavesError("an acknowledged write is not on the member that works")
    return f"{WRITES} of {WRITES} failing writes waited for the release"


CHECKS: Final[tuple[tuple[str, Check, bool], ...]] = (
    ("external metadata", external_metadata, False),
    ("frozen stays frozen", frozen_stays_frozen, False),
    ("holds hold", holds_hold, False),
    ("marked is copied", marked_is_copied, False),
    ("failed writes wait", failed_writes_wait, True),
)
"""Name, what is done, whether disks have to break."""
