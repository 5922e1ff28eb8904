"""What stock kernels do where the driver's rules are at their limits (docs/KERNEL.md).

Each test asserts what Linux 6.1 and 6.12 were seen to do, good or bad, so that a kernel which
differs is noticed, and prints its figures. MEASURE_ROUNDS=25 repeats the races more often.
"""

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mdcluster.md.ioctl import DISK_FAULTY, DISK_SYNC, MdDevice
from mdcluster.md.kernel_array import KernelArray
from mdcluster.md.kernel_state import READ_ERRORS_MAX, kernel_version
from mdcluster.md.kernel_watch import Watch
from mdcluster.md.selftest import Bench, start, stop
from mdcluster.md.selftest_bench import (
    BLOCK,
    DATA_OFFSET_SECTORS,
    SECTOR,
    SLOT_SECTORS,
    Fault,
    TrialDisks,
    Writes,
    read,
    tool,
    write,
)
from mdcluster.metadata import bitmap as raw

SIZE_SECTORS = 32768
END = DATA_OFFSET_SECTORS + SIZE_SECTORS
CHUNK = 65536
WRITES = 16
ROUNDS = int(os.environ.get("MEASURE_ROUNDS", "3"))
LOOK_S = 1.0
LEVELS = pytest.mark.parametrize("level", [1, 10])
FRESH = [number * CHUNK for number in range(WRITES)]  # each the first write to its chunk
SOON_MS = 200  # all the writes are on their way before the first one fails
NO_META = Fault(0, DATA_OFFSET_SECTORS, writes_fail=True, writes_ms=SOON_MS)
NO_DATA = Fault(DATA_OFFSET_SECTORS, END, writes_fail=True, writes_ms=SOON_MS)
NOTHING = Fault(0, END, writes_fail=True, writes_ms=SOON_MS)
Make = Callable[[int], Bench]


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrialDisks]:
    subprocess.run(["modprobe", "-a", "raid1", "raid10"], check=True)
    made = TrialDisks(tmp_path_factory.mktemp("disks"), 2, END)
    yield made
    made.close()


@pytest.fixture
def make(disks: TrialDisks, tmp_path: Path) -> Iterator[Make]:
    """A fresh array of this level; the one before is stopped."""
    running: list[KernelArray] = []

    def clear() -> None:
        while running:
            stop(running.pop(), disks)
        for number in range(disks.count):
            disks.put(number, 0, bytes(END * SECTOR))

    def one(level: int) -> Bench:
        clear()
        running.append(start(disks, tmp_path, level=level, size=SIZE_SECTORS))
        return Bench(disks, running[0])

    yield one
    clear()


def told(text: str) -> None:
    """A figure."""
    print(f"\nfigure: Linux {os.uname().release}: {text}", flush=True)


# --- writes that fail ---------------------------------------------------------------------------


@LEVELS
def test_a_failing_bitmap_page_lets_writes_through(make: Make, level: int) -> None:
    """md sets the member faulty at once, and what is on its way to it is then no failure."""
    acknowledged = []
    for _ in range(max(4, ROUNDS)):
        bench = make(level)
        bench.disks.set(1, NO_META)
        writes = bench.writes(FRESH, b"x")
        time.sleep(LOOK_S)
        assert bench.second.dir.flags >= {"faulty", "blocked"}
        acknowledged.append(len(writes.acknowledged))
    told(f"raid{level}, a bitmap page fails: {acknowledged} of {WRITES} acknowledged unreleased")
    assert sum(acknowledged) > 0


@LEVELS
@pytest.mark.parametrize("fault", [NO_META, NO_DATA, NOTHING], ids=["pages", "data", "both"])
def test_where_no_page_is_to_be_written_all_wait(make: Make, level: int, fault: Fault) -> None:
    bench = make(level)
    bench.mark_all()
    bench.disks.set(1, fault)
    writes = bench.writes(FRESH, b"x")
    time.sleep(LOOK_S)
    failed = sorted(bench.second.dir.flags & {"faulty", "blocked"})
    if fault is NO_META:  # nothing is written there, nothing fails
        assert (len(writes.acknowledged), failed) == (WRITES, [])
    else:
        assert (len(writes.acknowledged), failed) == (0, ["blocked"])


@LEVELS
def test_a_full_list_of_bad_blocks_lets_writes_through(make: Make, level: int) -> None:
    """512 extents a member: then md sets it faulty, and what fails later is acknowledged."""
    bench = make(level)
    bench.mark_all()
    for number in range(512):
        bench.second.dir.write("bad_blocks", f"{END - 4096 + 4 * number} 1")
    half = DATA_OFFSET_SECTORS + 8 * CHUNK // SECTOR
    late = Fault(half, END, writes_fail=True, writes_ms=10 * SOON_MS)
    bench.disks.set(1, Fault(DATA_OFFSET_SECTORS, half, writes_fail=True, writes_ms=SOON_MS), late)
    writes = bench.writes(FRESH, b"x")
    bench.array.until(lambda: "faulty" in bench.second.dir.flags, "the member is not faulty")
    time.sleep(10 * SOON_MS / 1000 + LOOK_S)
    assert bench.second.dir.flags >= {"faulty", "blocked"}
    soon = [offset for offset in writes.acknowledged if offset < 8 * CHUNK]
    told(f"raid{level}, list full: {len(writes.acknowledged) - len(soon)} of 8 late ones through")
    assert writes.acknowledged
    bench.disks.set(1)  # or it repeats the sectors of each for long
    bench.array.fail(bench.second.device, 1)
    bench.array.unblock(bench.second.device)
    bench.array.activate()
    bench.array.until(lambda: went_on(bench, writes), "the writes wait")
    assert bench.writes(FRESH, b"y").join(7), "what has no room in the list is waited for"


def went_on(bench: Bench, writes: Writes) -> bool:
    """Whether all are acknowledged; what md asks meanwhile is answered."""
    bench.array.answer()
    return not writes.waiting


@LEVELS
def test_raid10_waits_for_bad_blocks_of_a_faulty_member(make: Make, level: int) -> None:
    """-blocked is not enough (raid10.c, wait_blocked_dev): md is told to forget write errors."""
    bench = make(level)
    bench.mark_all()
    bench.disks.set(1, NO_DATA)
    first = bench.writes([0], b"x")
    bench.array.until(lambda: bool(bench.array.held_by_failure()), "no failure")
    time.sleep(LOOK_S)  # md repeats the write sector by sector
    bench.array.fail(bench.second.device, 1)
    bench.second.dir.write("state", "-blocked")
    bench.array.activate()
    bench.array.until(lambda: went_on(bench, first), "the write waits")
    assert bench.second.dir.unacknowledged
    again = bench.writes([0], b"y")
    assert again.join(7) == (level == 1)
    bench.array.unblock(bench.second.device)
    assert again.join(7)


def test_reads_are_pinned_anew_once_the_failed_writes_are_released(make: Make) -> None:
    """Linux waits for writes in flight where write-mostly changes: for good while they are held."""
    bench = make(1)
    bench.mark_all()
    bench.array.write_pin()
    first = next(iter(bench.array.members.values()))
    bench.disks.set(0, NO_DATA)
    writes = bench.writes(FRESH, b"x")
    bench.array.until(lambda: bool(bench.array.held_by_failure()), "no failure")
    bench.disks.set(0)  # or it repeats the sectors of each for long
    bench.array.fail(first.device, 1)
    bench.array.write_pin()
    assert not writes.acknowledged
    bench.array.unblock(first.device)
    bench.array.activate()
    bench.array.until(lambda: went_on(bench, writes), "the writes wait")
    assert bench.array.pinned
    assert ("write_mostly" in bench.second.dir.flags) == (kernel_version() < (6, 8))


def test_a_failing_write_is_repeated_by_sectors(make: Make) -> None:
    """narrow_write_error of raid1.c: one block of the device after the other, in md's thread."""
    bench = make(1)
    bench.mark_all()
    before = writes_of(bench, 1)
    bench.disks.set(1, Fault(DATA_OFFSET_SECTORS, END, writes_fail=True))
    writes = Writes(bench.array.device_path, [0], b"x" * CHUNK)
    time.sleep(LOOK_S)
    requests, sectors = (new - old for new, old in zip(writes_of(bench, 1), before, strict=True))
    told(f"a failing write of 64 KiB: {requests} requests, {sectors} sectors on the member")
    assert not writes.acknowledged
    assert (requests, sectors) == (1 + CHUNK // SECTOR, 2 * CHUNK // SECTOR)


def writes_of(bench: Bench, number: int) -> tuple[int, int]:
    """Requests and sectors written to a member."""
    member = list(bench.array.members.values())[number]
    words = (member.dir.block / "stat").read_text().split()
    return int(words[4]), int(words[6])


# --- the bitmap ---------------------------------------------------------------------------------


@LEVELS
def test_whether_bits_are_on_disk_before_the_writes(make: Make, level: int) -> None:
    """Since Linux 6.5 who finds a page clean does not wait for who is just writing it."""
    early = []
    for _ in range(max(3, ROUNDS)):
        bench = make(level)
        for number in (0, 1):
            bench.disks.set(number, Fault(0, DATA_OFFSET_SECTORS, writes_ms=700))
        writes = bench.writes(FRESH[:6], b"x")
        time.sleep(0.5)
        done = list(writes.acknowledged)
        slots = [bench.disks.get(n, SLOT_SECTORS, BLOCK) for n in (0, 1)]
        set_bits = {
            c for slot in slots for lo, hi in raw.extents(slot, 4096) for c in range(lo, hi)
        }
        early.append(len([offset for offset in done if offset // CHUNK not in set_bits]))
        assert writes.join(60)
    told(f"raid{level}: {early} of 6 acknowledged with their bit on no member")
    if kernel_version() < (6, 5):
        assert sum(early) == 0


# --- reads that fail ----------------------------------------------------------------------------


def read_error(bench: Bench) -> tuple[bytes, bytes]:
    """Member 0 fails a read; while md repairs it another host writes. What is on both then."""
    old, new = b"o" * BLOCK, b"n" * BLOCK
    for number in (0, 1):
        bench.put(number, 0, old)
    at = DATA_OFFSET_SECTORS
    if bench.array.geometry.level == 1:
        bench.second.dir.write("state", "writemostly")  # the first one is read
    bench.disks.set(0, Fault(at, at + 8, reads_fail=True, writes_ms=500))
    reader = threading.Thread(target=read, args=(bench.array.device_path, 0, BLOCK), daemon=True)
    reader.start()
    time.sleep(0.25)
    for number in (0, 1):
        bench.put(number, 0, new)
    reader.join(10)
    time.sleep(0.5)
    return bench.data(0, 0, 1), bench.data(1, 0, 1)


def unguarded(bench: Bench) -> Bench:
    """As md is by itself: the driver's own cure is taken away."""
    bench.array.dir.write("max_read_errors", READ_ERRORS_MAX)
    for member in bench.array.members.values():
        member.set_flag("failfast", "failfast", on=False)
        member.set_flag("writemostly", "write_mostly", on=False)
    return bench


@LEVELS
def test_a_read_error_undoes_what_another_host_writes(make: Make, level: int) -> None:
    """md writes to the member what it has read from another one some time before."""
    bench = unguarded(make(level))
    assert read_error(bench) == (b"o", b"n")


@LEVELS
def test_no_block_is_rewritten_where_read_errors_fail_the_member(make: Make, level: int) -> None:
    """`max_read_errors = 0`; the raid1 of Linux before 6.8 does not know it."""
    bench = unguarded(make(level))
    bench.array.dir.write("max_read_errors", 0)
    left = read_error(bench)
    if level == 1 and kernel_version() < (6, 8):
        assert left == (b"o", b"n")
    else:
        assert left == (b"n", b"n")
        assert next(iter(bench.array.members.values())).dir.flags >= {"faulty", "blocked"}


@LEVELS
def test_the_driver_lets_no_block_be_rewritten(make: Make, level: int) -> None:
    bench = make(level)
    assert read_error(bench) == (b"n", b"n")
    assert next(iter(bench.array.members.values())).dir.flags >= {"faulty", "blocked"}


@LEVELS
@pytest.mark.parametrize("mostly", [False, True], ids=["failfast", "failfast+writemostly"])
def test_failfast_cures_reads_and_spoils_writes(make: Make, level: int, mostly: bool) -> None:
    """With it a failing write is no longer held at all, but on write-mostly members of a raid1."""

    def set_flags(bench: Bench) -> None:
        unguarded(bench)
        for member in bench.array.members.values():
            member.dir.write("state", "failfast")
            if mostly:
                member.dir.write("state", "writemostly")

    bench = make(level)
    set_flags(bench)
    assert read_error(bench) == (b"n", b"n")
    bench = make(level)
    bench.mark_all()
    set_flags(bench)
    bench.disks.set(1, NO_DATA)
    writes = bench.writes(FRESH, b"x")
    time.sleep(LOOK_S)
    through = f"{len(writes.acknowledged)} of {WRITES} failing writes through"
    told(f"raid{level}, failfast, writemostly={mostly}: {through}")
    if mostly and level == 1:
        assert not writes.acknowledged


# --- races --------------------------------------------------------------------------------------


def writers(bench: Bench, count: int, ended: threading.Event) -> list[threading.Thread]:
    """Random blocks all over the array, until it ends or a write fails."""

    def work(seed: int) -> None:
        place = random.Random(seed)
        blocks = bench.array.geometry.array_sectors * SECTOR // BLOCK
        try:
            while not ended.is_set():
                write(bench.array.device_path, place.randrange(blocks) * BLOCK, os.urandom(BLOCK))
        except OSError:
            return

    made = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(count)]
    for thread in made:
        thread.start()
    return made


@pytest.mark.parametrize("preempt", ["voluntary", "full"])
def test_no_write_lands_in_a_confirmed_hold(make: Make, preempt: str) -> None:
    switch = Path("/sys/kernel/debug/sched/preempt")
    if not switch.exists():
        subprocess.run(["mount", "-t", "debugfs", "debugfs", "/sys/kernel/debug"], check=True)
    before = switch.read_text().partition("(")[2].partition(")")[0]
    bench, ended, inside = make(1), threading.Event(), 0
    bench.mark_all()
    place = random.Random(1)
    try:
        switch.write_text(preempt)
        writers(bench, 6, ended)
        for _ in range(10 * ROUNDS):
            lo = place.randrange(SIZE_SECTORS - 8192)
            bench.hold(lo, lo + 8192)
            first = bench.data(0, lo * SECTOR, 8192 * SECTOR)
            time.sleep(0.01)
            inside += first != bench.data(0, lo * SECTOR, 8192 * SECTOR)
            inside += first != bench.data(1, lo * SECTOR, 8192 * SECTOR)
    finally:
        ended.set()
        bench.hold(0, 0)
        switch.write_text(before)
    told(f"preempt={preempt}: {10 * ROUNDS} moves, {inside} holds with a write inside")
    assert inside == 0


@pytest.mark.parametrize("rule", [True, False], ids=["rule", "control"])
def test_answering_by_the_rule_releases_no_fault_unseen(make: Make, rule: bool) -> None:
    """Who answers every write-pending at once (the control) lets writes through."""
    lost = 0
    for number in range(ROUNDS):
        bench, ended = make(1), threading.Event()
        bench.mark_all()
        acknowledged = [0] * WRITES
        threads = [
            threading.Thread(target=count_up, args=(bench, n, acknowledged, ended), daemon=True)
            for n in range(WRITES)
        ]
        watch = Watch(bench.array, lambda *_: None)
        if rule:
            watch.start()
        else:
            threading.Thread(target=answer_all, args=(bench.array, ended), daemon=True).start()
        for thread in threads:
            thread.start()
        time.sleep(random.Random(number).uniform(0.1, 0.3))
        hi = DATA_OFFSET_SECTORS + 128 * (3 + 4 * (number % 4))
        bad = Fault(DATA_OFFSET_SECTORS, hi, writes_fail=True, writes_ms=50 * (number % 3))
        bench.disks.set(1, bad)
        time.sleep(1.2)
        done = list(acknowledged)
        there = [int.from_bytes(bench.data(1, n * CHUNK, 8), "little") for n in range(WRITES)]
        lost += sum(max(0, d - t) for d, t in zip(done, there, strict=True))
        ended.set()
        watch.stop()
    told(f"{'rule' if rule else 'control'}: {lost} writes acknowledged that one member lacks")
    assert (lost == 0) == rule


def count_up(bench: Bench, number: int, done: list[int], ended: threading.Event) -> None:
    """One block again and again, each time with the next number in it."""
    value = 0
    try:
        while not ended.is_set():
            value += 1
            data = value.to_bytes(8, "little") * (BLOCK // 8)
            write(bench.array.device_path, number * CHUNK, data)
            done[number] = value
    except OSError:
        return


def answer_all(array: KernelArray, ended: threading.Event) -> None:
    while not ended.is_set():
        if array.write_pending:
            array.dir.write("array_state", "active")
        time.sleep(0.002)


# --- what passes through ------------------------------------------------------------------------


@LEVELS
def test_flushes_reach_every_member_and_discards_wait_in_holds(make: Make, level: int) -> None:
    bench = make(level)
    path = bench.array.device_path
    write(path, 0, b"z" * CHUNK)
    before = [flushes_of(bench.disks.loop(n)) for n in (0, 1)]
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    assert all(flushes_of(bench.disks.loop(n)) > before[n] for n in (0, 1))
    bench.hold(0, 256)
    discard = subprocess.Popen(["blkdiscard", "--length", str(CHUNK), path])
    time.sleep(LOOK_S)
    assert discard.poll() is None
    assert bench.data(0, 0, 1) == b"z"
    bench.hold(0, 0)
    assert discard.wait(20) == 0
    assert bench.data(0, 0, CHUNK) == bench.data(1, 0, CHUNK) == bytes(CHUNK)


def flushes_of(device: str) -> int:
    """Documentation/block/stat.rst; counted for devices with a queue of requests."""
    return int(Path(f"/sys/block/{Path(device).name}/stat").read_text().split()[15])


@LEVELS
def test_a_discard_that_fails_on_one_member_is_no_failure(make: Make, level: int) -> None:
    """md ignores it: the members differ from then on in what nobody needs any more."""
    bench = make(level)
    write(bench.array.device_path, 0, b"z" * CHUNK)
    bench.disks.set(1, NO_DATA)
    tool("blkdiscard", "--length", str(CHUNK), bench.array.device_path)
    assert not bench.array.held_by_failure()
    assert (bench.data(0, 0, 1), bench.data(1, 0, 1)) == (b"\0", b"z")


# --- mdadm --------------------------------------------------------------------------------------


def test_the_ioctls_tell_what_sysfs_tells(make: Make) -> None:
    bench = make(10)
    members = list(bench.array.members.values())
    with MdDevice(bench.array.device_path) as opened:
        info = opened.array_info()
        disks = [opened.disk_info(number) for number in range(2)]
    assert (info.level, info.raid_disks, info.active_disks, info.failed_disks) == (10, 2, 2, 0)
    assert (info.layout, info.chunk_bytes) == (0x102, CHUNK)
    assert info.size_kib == SIZE_SECTORS // 2
    assert sorted(disk.device for disk in disks) == sorted(m.number for m in members)
    assert all(disk.has(DISK_SYNC) and not disk.has(DISK_FAULTY) for disk in disks)


def test_what_mdadm_does_to_a_running_array(make: Make) -> None:
    """It looks; it changes and stops nothing."""
    bench = make(1)
    path, member = bench.array.device_path, bench.disks.path(1)
    before = [m.dir.flags for m in bench.array.members.values()]
    for words, rc in (
        (("--detail", path), 0),
        (("--detail", "--scan"), 0),
        (("--incremental", member), 1),
        (("--assemble", "/dev/md88", bench.disks.path(0), member), 1),
        (("--zero-superblock", member), 2),
        ((path, "--fail", member), 1),
        ((path, "--remove", member), 1),
        (("--grow", path, "--raid-devices=3"), 1),
        (("--readonly", path), 1),
        (("--stop", path), 1),
    ):
        done = subprocess.run(["mdadm", *words], capture_output=True, check=False)
        assert done.returncode == rc, (words, done)
    assert [m.dir.flags for m in bench.array.members.values()] == before
    assert bench.array.dir.read("sync_action") == "frozen"
