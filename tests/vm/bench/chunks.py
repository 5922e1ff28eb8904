"""A follower that dies with dirty chunks, until they are clean, and how much is copied."""

import json
import random
import time
from collections.abc import Iterator, Sequence
from functools import partial

from mdcluster.metadata.scan import scan
from mdcluster.tools import inspect_bitmaps
from tests.bench.figures import Figure
from tests.vm.bench.cluster import ARRAY, MEMBERS, QUICK, BenchCluster, Ears, Run, ask, cluster
from tests.vm.bench.rounds import Round, numbers, typical
from tests.vm.bench.takeover import AGENT, AIM_EVICT_S, AIM_S

NODES = 3
SIZE_MIB = 96
CHUNK_BYTES = 64 << 10
"""As the daemon chooses it for such an array."""
DIRTY = 200
STEPS = ("node_evicted", "node_fenced", "sync_started", "sync_finished")


def measure(run: Run) -> Iterator[Round]:
    rng = random.Random(0)
    with cluster(run, NODES, SIZE_MIB, spans=QUICK) as made:
        made.make(SIZE_MIB, clean=False)
        made.until_in_sync()
        while True:
            made.until(lambda: not _dirty_chunks(made), "no chunk is dirty")
            dead = made.followers()[0]
            _dirty(made, dead, rng)
            yield _once(made, dead)
            made.come_back(dead)
            made.until_running(ARRAY, *made.daemons)


def _dirty(made: BenchCluster, name: str, rng: random.Random) -> None:
    chunks = rng.sample(range((SIZE_MIB << 20) // CHUNK_BYTES), DIRTY)
    places = [chunk * CHUNK_BYTES for chunk in chunks]
    orders = {"device": f"/dev/md/{ARRAY}", "places": places}
    ask(made.lab[name], "writes", json.dumps(orders))


def _once(made: BenchCluster, dead: str) -> Round:
    left = [name for name in made.daemons if name != dead]
    with Ears(made, left, *STEPS) as ears:
        killed_s = time.monotonic()
        made.power_cut(dead)
        dirty = _dirty_chunks(made)
        before = {name: made.copied_bytes(name) for name in left}
        ears.until(lambda one: one.kind == "sync_finished")
        steps = {
            f"{kind}_s": next(one.at_s for one in ears.heard if one.kind == kind) - killed_s
            for kind in STEPS
        }
    made.until_in_sync()
    copied = sum(made.copied_bytes(name) - before[name] for name in left)
    return {
        **steps,
        "dirty_chunks": dirty,
        "copied_chunks": copied / CHUNK_BYTES,
    }


def _dirty_chunks(made: BenchCluster) -> int:
    """In all slots together, as they stand on the disks."""
    found = inspect_bitmaps.bitmaps(scan(str(made.image(disk)) for disk in MEMBERS))
    union = found.data[0]["union"]
    assert isinstance(union, dict)
    return int(union["dirty_chunks"])


def table(rounds: Sequence[Round]) -> list[Figure]:
    part, of = f"follower killed, {DIRTY} chunks", partial(numbers, rounds)
    beyond_s = [one - AGENT.waited_s for one in of("sync_finished_s")]
    dirty, copied = of("dirty_chunks"), of("copied_chunks")
    more = [one - other for one, other in zip(copied, dirty, strict=True)]
    note = f"{AGENT.waited_s:.1f} s of it as set"
    return [
        typical(part, "until they are clean", of("sync_finished_s"), "s", AIM_S, note=note),
        typical(part, "beyond what is set", beyond_s, "s", AIM_S - AIM_EVICT_S),
        *(
            typical(part, f"until {kind.replace('_', ' ')}", of(f"{kind}_s"), "s")
            for kind in STEPS[:-1]
        ),
        typical(part, "dirty chunks on the disks when it died", dirty, ""),
        typical(part, "chunks copied", copied, "", note=f"of {CHUNK_BYTES >> 10} KiB"),
        typical(part, "copied and not dirty", [abs(one) for one in more], "chunks", 0.0),
    ]
