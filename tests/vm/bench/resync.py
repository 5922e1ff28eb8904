"""A resync beside an idle follower, and one of plain md: same guest, same disks, same size.

Both are timed by the kernel's own log, from "md: resync of RAID array" to "resync done". What a
window costs beside the copying decides how large windows may be for a follower's writes to be held
no longer than hold_target_ms; where all but the disks is slower, the target is scaled as well.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from tests.bench.figures import Figure
from tests.vm.bench.cluster import ARRAY, MEMBERS, BenchCluster, Ears, Run, ask, cluster
from tests.vm.bench.rounds import Round, numbers, ratios, typical
from tests.vm.cluster.harness import TIMING

AIM_RATIO = 0.95
BEGUN = r"\[ *(\d+\.\d+)\] md: resync of RAID array {device}$"
DONE = r"\[ *(\d+\.\d+)\] md: {device}: resync done\.$"


@dataclass(frozen=True, slots=True)
class Target:
    """How long a window may be held, and of an array how large."""

    hold_ms: int
    size_mib: int

    @property
    def spans(self) -> dict[str, int]:
        grace_ms = max(TIMING["grace_ms"], self.hold_ms)
        return {"hold_target_ms": self.hold_ms, "grace_ms": grace_ms}


TARGETS = {
    "": Target(100, 64),
    "-scaled": Target(1600, 256),
}


def measure(target: Target, run: Run) -> Iterator[Round]:
    size_mib = target.size_mib
    with cluster(run, 2, size_mib, spans=target.spans) as made:
        while True:
            writer = made.lab[made.writer()]
            paths = (writer.disks[disk].path for disk in MEMBERS)
            plain = ask(writer, "plain", str(size_mib << 10), *paths)["device"]
            windows = _ours(made, writer.name, size_mib)
            log = writer.run("dmesg").out
            yield {
                "plain_s": took_s(log, plain),
                "ours_s": took_s(log, f"md_{ARRAY}"),
                "pass_s": _pass_s(made, writer.name),
                "windows": windows,
            }
            made.release()


def _ours(made: BenchCluster, writer: str, size_mib: int) -> int:
    """Make the array, and wait until it is in sync; in how many windows."""
    with Ears(made, [writer], "sync_moved", "sync_finished") as ears:
        made.make(size_mib, clean=False)
        ears.until(lambda one: one.kind == "sync_finished")
        return sum(one.kind == "sync_moved" for one in ears.heard)


def took_s(log: str, device: str) -> float:
    """The latest resync of this array, by its kernel's log."""
    begun, done = (
        re.findall(pattern.format(device=device), log, re.MULTILINE) for pattern in (BEGUN, DONE)
    )
    assert begun and len(begun) == len(done), f"not one whole resync of {device} each: {log[-999:]}"
    return float(done[-1]) - float(begun[-1])


def _pass_s(made: BenchCluster, writer: str) -> float:
    """All of the latest pass, by the daemon's log."""
    begun, done = (
        datetime.fromisoformat(made.events(writer, f"sync_{what}")[-1]["time"])
        for what in ("started", "finished")
    )
    return (done - begun).total_seconds()


def table(target: Target, rounds: Sequence[Round]) -> list[Figure]:
    size_mib, of = target.size_mib, partial(numbers, rounds)
    part = f"resync, {size_mib} MiB, held {target.hold_ms} ms"
    speeds = {key: [size_mib / one for one in of(f"{key}_s")] for key in ("ours", "plain", "pass")}
    pairs = zip(of("ours_s"), of("plain_s"), of("windows"), strict=True)
    each_ms = [1000 * (ours - plain) / windows for ours, plain, windows in pairs]
    count = typical("", "", of("windows"), "")
    ratio = ratios(rounds, "plain_s", of="ours_s")
    return [
        typical(part, "idle follower", speeds["ours"], "MiB/s"),
        typical(part, "plain md, same guest", speeds["plain"], "MiB/s"),
        typical(part, "against plain md", ratio, "ratio", AIM_RATIO, "at_least"),
        typical(part, "a window costs", each_ms, "ms", note=f"{count.value:g} windows"),
        typical(part, "the whole pass with its commits", speeds["pass"], "MiB/s"),
    ]
