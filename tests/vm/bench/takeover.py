"""The writer's guest killed in a resync, until another one copies, and how much it copies again.

By agent: the survivors have the dead one switched off. By watchdog: they wait until its own
watchdog must have reset it. Disks are slow, so that a resync at full speed lasts long enough.
"""

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from tests.bench.figures import Figure
from tests.blocks import BLOCK_BYTES
from tests.cluster.images import differences
from tests.vm.bench.cluster import ARRAY, MEMBERS, QUICK, SPAN, BenchCluster, Ears, Run, cluster
from tests.vm.bench.rounds import Round, numbers, ratios, typical
from tests.vm.cluster.harness import timing

NODES = 3
SIZE_MIB = 96
SPEED_MIB = 16
THROTTLE = f"throttling.bps-total={SPEED_MIB << 20}"
AIM_S = 1.2
AIM_EVICT_S = 1.0
"""Of it, by default, are waited until a silent node is evicted (evict_ms)."""
STEPS = ("writer_changed", "node_evicted", "node_fenced", "sync_started", "sync_moved")


@dataclass(frozen=True, slots=True)
class Fencing:
    """watchdog_ms: 0 for the agent."""

    name: str
    watchdog_ms: int = 0

    @property
    def waited_s(self) -> float:
        """How long the settings have the survivors wait before the dead one counts as such."""
        spans = timing(**{**SPAN, **QUICK, "watchdog_ms": self.watchdog_ms})
        return (spans.watchdog_fence_ms or spans.evict_ms) / 1000


AGENT = Fencing("fence agent")
FENCING = {"agent": AGENT, "watchdog": Fencing("watchdog", 5000)}


def measure(fencing: Fencing, run: Run) -> Iterator[Round]:
    rng = random.Random(0)
    slow, ms = THROTTLE, fencing.watchdog_ms
    with cluster(run, NODES, SIZE_MIB, spans=QUICK, throttle=slow, watchdog_ms=ms) as made:
        while True:
            made.make(SIZE_MIB, clean=False)
            reached = made.until_synced_to(rng.randrange(SIZE_MIB // 8, SIZE_MIB // 2) * 2048)
            assert reached < SIZE_MIB * 2048, "the array is resynced too soon"
            dead = made.writer()
            yield _once(made, dead)
            made.come_back(dead)
            made.until_running(ARRAY, *made.daemons)
            made.release()
            made.noise()


def _once(made: BenchCluster, dead: str) -> Round:
    left = [name for name in made.daemons if name != dead]
    before = {name: made.copied_bytes(name) for name in left}
    with Ears(made, left, *STEPS) as ears:
        killed_s = time.monotonic()
        made.power_cut(dead)
        copied = _alike_bytes(made)
        held = made.held_bytes(left[0])
        ears.until(lambda one: one.kind == "sync_moved")
        begun = next(one for one in ears.heard if one.kind == "sync_started")
        steps = {
            f"{kind}_s": next(one.at_s for one in ears.heard if one.kind == kind) - killed_s
            for kind in STEPS
        }
    made.until_in_sync()
    again = sum(made.copied_bytes(name) - before[name] for name in left)
    return {
        **steps,
        "twice_kib": (copied + again - (SIZE_MIB << 20)) / 1024,
        "held_kib": held / 1024,
        "copied_kib": copied / 1024,
        "again_kib": again / 1024,
        "from_kib": begun.fields["complete_sectors"] / 2,
    }


def _alike_bytes(made: BenchCluster) -> int:
    """What has been copied so far: all blocks were different before."""
    different = len(differences(made.image(disk) for disk in MEMBERS))
    return (SIZE_MIB << 20) - different * BLOCK_BYTES


def table(fencing: Fencing, rounds: Sequence[Round]) -> list[Figure]:
    part, of = f"writer killed, {fencing.name}", partial(numbers, rounds)
    waited_s = fencing.waited_s
    beyond_s = [one - waited_s for one in of("sync_moved_s")]
    aim_s = None if fencing.watchdog_ms else AIM_S
    beyond_aim_s = None if fencing.watchdog_ms else AIM_S - AIM_EVICT_S
    windows = "of what was held when it died, at most two windows"
    note = f"{waited_s:.1f} s of it as set"
    return [
        typical(part, "until another one copies", of("sync_moved_s"), "s", aim_s, note=note),
        typical(part, "beyond what is set", beyond_s, "s", beyond_aim_s),
        *(
            typical(part, f"until {kind.replace('_', ' ')}", of(f"{kind}_s"), "s")
            for kind in STEPS[:-1]
        ),
        typical(part, "copied twice", of("twice_kib"), "KiB"),
        typical(part, windows, ratios(rounds, "twice_kib", of="held_kib"), "ratio", 1.0),
    ]
