"""The data path: a resync beside `cp` of the same files, and what writers feel of it."""

import asyncio
import os
import random
import time
from functools import partial
from pathlib import Path
from statistics import median

from mdcluster.md.nbd_client import NbdClient
from tests.bench.figures import Figure, progress, spread
from tests.bench.lab import Lab, forget_cached, lab, noisy, run
from tests.cluster.harness import Daemon

RESYNC_AIM = 0.5
RESYNC_MIB = 256
ROUNDS = 3
WRITES = 400
BLOCK_BYTES = 4096


def resync(base: Path) -> list[Figure]:
    """Rounds of: a resync of two files, then cp of the one to the other, with fsync and without."""
    resync_mib_s: list[float] = []
    cp_mib_s: list[float] = []
    synced_mib_s: list[float] = []
    with lab(base, 3) as cluster:
        images = [cluster.image(f"i{leg}", RESYNC_MIB) for leg in range(2)]
        for number in range(ROUNDS):
            progress(f"resync and cp, round {number + 1} of {ROUNDS}")
            for image in images:
                noisy(image, RESYNC_MIB)
            writer = cluster.writer()
            began = len(writer.lines)
            cluster.make(f"r{number}", images, clean=False)
            resync_mib_s.append(_resync_mib_s(writer, began))
            cluster.end(f"r{number}")
            source, target = (str(image) for image in images)
            forget_cached(*images)
            cp_mib_s.append(_mib_s(["cp", "--reflink=never", source, target]))
            forget_cached(*images)
            synced_mib_s.append(_mib_s(["cp", "--reflink=never", source, target], fsync=images[1]))
    part, note = "resync", f"{RESYNC_MIB} MiB, median of {ROUNDS}"
    fast, cp, synced = median(resync_mib_s), median(cp_mib_s), median(synced_mib_s)
    what = "resync against cp, both ending in fsync"
    return [
        Figure(part, "embedded resync, flushed", fast, "MiB/s", note=note),
        Figure(part, "cp, without fsync", cp, "MiB/s", note=note),
        Figure(part, "cp, then fsync", synced, "MiB/s", note=note),
        Figure(part, what, fast / synced, "ratio", RESYNC_AIM, "at_least"),
        Figure(part, "resync (flushed) against cp (not)", fast / cp, "ratio"),
    ]


def _resync_mib_s(writer: Daemon, began: int) -> float:
    """By the writer's own log: from `sync_started` to `sync_finished`, its commits included."""
    writer.until_line(
        lambda line: line["event"] == "sync_finished" and line not in writer.lines[:began],
        "the resync ends",
    )
    at_s = {}
    for line in writer.lines[began:]:
        if line["event"] in ("sync_started", "sync_finished"):
            at_s[line["event"]] = _seconds(str(line["time"]))
    return RESYNC_MIB / (at_s["sync_finished"] - at_s["sync_started"])


def _seconds(stamp: str) -> float:
    """Of the day, from ...T12:34:56.789Z."""
    hours, minutes, seconds = stamp.partition("T")[2].rstrip("Z").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def _mib_s(command: list[str], fsync: Path | None = None) -> float:
    began_s = time.monotonic()
    run(*command)
    if fsync is not None:
        fd = os.open(fsync, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    return RESYNC_MIB / (time.monotonic() - began_s)


def latency(base: Path) -> list[Figure]:
    """4 KiB writes through NBD on a follower, one at a time: quiet, then during a resync."""
    with lab(base, 3) as cluster:
        images = [cluster.image(f"i{leg}", RESYNC_MIB) for leg in range(2)]
        quiet_ms = _one_array(cluster, "quiet", images, during_resync=False)
        busy_ms: list[float] = []
        for number in range(ROUNDS):
            busy_ms += _one_array(cluster, f"busy{number}", images, during_resync=True)
    return [
        *spread("NBD", "4 KiB write on a follower, quiet", quiet_ms, "ms"),
        *spread("NBD", "the same, resync at full speed", busy_ms, "ms"),
    ]


def _one_array(cluster: Lab, name: str, images: list[Path], *, during_resync: bool) -> list[float]:
    """A new array, the times of the writes to it (ms), and its end."""
    progress(f"NBD writes, array {name}")
    for image in images:
        noisy(image, RESYNC_MIB)
    cluster.make(name, images, clean=not during_resync)
    user = cluster.others(cluster.writer())[0]
    took_ms = asyncio.run(_writes(cluster, user, name, during_resync=during_resync))
    cluster.until(partial(_stopped, cluster, name), f"array {name} is stopped")
    return took_ms


def _stopped(cluster: Lab, name: str) -> bool:
    """Refused while the client that has gone is not seen to be gone."""
    cluster.end(name)
    return True


async def _writes(cluster: Lab, user: Daemon, name: str, *, during_resync: bool) -> list[float]:
    """Milliseconds of each write; at most WRITES, during a resync only those that fell into it."""
    rng = random.Random(name)
    writer = cluster.writer()
    seen = sum(line["event"] == "sync_finished" for line in writer.lines)
    socket = user.base / "run" / "nbd" / f"{name}.sock"
    took_ms: list[float] = []
    async with await NbdClient.connect(socket) as client:
        blocks = client.size_bytes // BLOCK_BYTES
        data = bytes(BLOCK_BYTES)
        for _ in range(WRITES):
            began_s = time.monotonic()
            await client.write(rng.randrange(blocks) * BLOCK_BYTES, data)
            took_ms.append((time.monotonic() - began_s) * 1000)
            if during_resync and _finished(writer) > seen:
                break
    return took_ms


def _finished(writer: Daemon) -> int:
    return sum(line["event"] == "sync_finished" for line in writer.lines)
