"""The writer killed at random moments of a resync, with clients writing on all nodes."""

import random
import time
from pathlib import Path

import pytest

from tests.blocks import BLOCK_BYTES, spread
from tests.cluster.images import assert_holds, assert_identical, fill_with_noise
from tests.cluster.proof import (
    FAST,
    PACED,
    SLOW_COPY_MS,
    ProofCluster,
    assert_copied,
    assert_one_gate,
    marks,
)
from tests.cluster.workload import Workload, verify_everywhere

pytestmark = pytest.mark.cluster

ROUNDS = 10
IMAGE_MIB = 21
TAKEOVER_S = 5.0
WINDOW_S = 0.06
"""How long a window and the pause behind it take."""


@pytest.mark.parametrize("settings", [PACED, FAST], ids=["paced", "full speed"])
def test_writer_killed_in_mid_resync(tmp_path: Path, settings: str) -> None:
    """Ten times each: windows apart, and windows that overlap."""
    rng = random.Random(settings)
    with ProofCluster(tmp_path, settings=settings) as cluster:
        for name in cluster.daemons:
            if settings == FAST:
                (cluster.proof(name).faults / "slow-copy").write_text(str(SLOW_COPY_MS))
        cluster.start_all()
        for number in range(ROUNDS):
            one_round(cluster, number, rng)
        assert assert_one_gate(map(cluster.proof, cluster.daemons)) > ROUNDS


def one_round(cluster: ProofCluster, number: int, rng: random.Random) -> None:
    """A new array; its resync; the writer's end; the rest of the resync by another writer."""
    array = f"r{number}"
    images = [cluster.image(f"{array}-{leg}", IMAGE_MIB) for leg in range(2)]
    for image in images:
        fill_with_noise(image, number)
    daemons = [cluster.proof(name) for name in cluster.daemons]
    since = marks(daemons)
    made = cluster.create(array, images)
    size = made.size_sectors
    blocks = spread(240, size * 512 // BLOCK_BYTES, len(daemons), number)
    sockets = cluster.sockets(array)
    with Workload(sockets, blocks, number) as load:
        moment = rng.randrange(size)
        writer = cluster.until_synced_to(array, moment)
        time.sleep(rng.uniform(0, WINDOW_S))  # anywhere between the last window and the next
        writer.kill()
        cluster.writer(TAKEOVER_S, not_=writer.name)
        load.progress([daemon.name for daemon in cluster.living])
        writer.start()
        cluster.until_running(array, cluster.daemons)
        load.progress(cluster.daemons)
        cluster.until_in_sync(array)
    verify_everywhere(sockets, blocks)
    cluster.stop_array(array)
    assert_identical(images)
    for image in images:
        assert_holds(image, blocks)
    twice = assert_copied(daemons, images[1], made, blocks, since)
    print(f"round {number}: killed at {moment} of {size}, copied twice: {twice}; {load.tally}")
    for image in images:
        image.unlink()
