"""The writer stopped between the check of its lease and the write that the check let through.

It is outlived by another writer and then goes on, so that its write lands late: while other
nodes write, with a later term in force. Each second time the write is one of a resync, else one
of a superblock.
"""

import random
from pathlib import Path

import pytest

from mdcluster.control.verbs import Verb
from mdcluster.md.embedded_sync import DEPTH
from tests.blocks import BLOCK_BYTES, Block, spread
from tests.cluster.images import assert_holds, assert_identical, fill_with_noise, superblock
from tests.cluster.proof import (
    FAST,
    PACED,
    SLOW_COPY_MS,
    ProofCluster,
    assert_copied,
    assert_one_gate,
    late_copies,
    marks,
)
from tests.cluster.workload import Workload, verify_everywhere, write_now

pytestmark = pytest.mark.cluster

ROUNDS = 10
IMAGE_MIB = 21
LATE_MS = 100
"""How late the stopped write still is after its process has woken up and heard of the new term."""


@pytest.mark.parametrize("settings", [PACED, FAST], ids=["paced", "full speed"])
def test_writer_frozen_between_check_and_write(tmp_path: Path, settings: str) -> None:
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
    array, kind = f"r{number}", ("copy", "superblock")[number % 2]
    images = [cluster.image(f"{array}-{leg}", IMAGE_MIB) for leg in range(2)]
    for image in images:
        fill_with_noise(image, number)
    daemons = [cluster.proof(name) for name in cluster.daemons]
    since = marks(daemons)
    made = cluster.create(array, images)
    size = made.size_sectors
    blocks = spread(240, size * 512 // BLOCK_BYTES, len(daemons), number)
    first, last = (Block(n, len(daemons)) for n in (0, size * 512 // BLOCK_BYTES - 1))
    blocks = [block for block in blocks if block.number not in (first.number, last.number)]
    sockets = cluster.sockets(array)
    with Workload(sockets, blocks, number) as load:
        moment = rng.randrange(size // 4 * 3)
        old = cluster.proof(cluster.until_synced_to(array, moment).name)
        term = old.status().term
        old.freeze_at(kind, LATE_MS)
        others = [daemon for daemon in cluster.living if daemon is not old]
        assert cluster.writer_among(others).status().term > term
        far = first if cluster.synced_to(array) > size // 2 else last
        for daemon in others:  # where no window is held
            write_now(sockets[daemon.name], far)
        old.thaw()
        cluster.until(old.thawed, "the late write is on its way")
        cluster.until_in_sync(array)
        if not old.status().lease_ms_left:  # else it may be copying as writer of a later term
            assert late_copies(old) <= DEPTH, "it copied on when its lease had run out"
        load.progress(cluster.daemons)
        cluster.until_in_sync(array)
        cluster.until(
            lambda: (
                {superblock(image).events for image in images} == {cluster.detail(array).events}
            ),
            "the superblocks show the newest commit",
        )
    verify_everywhere(sockets, [*blocks, first, last])
    cluster.stop_array(array)
    assert_identical(images)
    for image in images:
        assert_holds(image, [*blocks, first, last])
    twice = assert_copied(daemons, images[1], made, blocks, since)
    print(f"round {number}: {kind} at {moment} of {size}, copied twice: {twice}; {load.tally}")
    for image in images:
        image.unlink()


def test_a_superblock_that_lands_late_is_put_right(tmp_path: Path) -> None:
    """No later commit hides it: nothing happens to the array after the late write."""
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        cluster.start_all()
        images = [cluster.image(f"m{leg}", IMAGE_MIB) for leg in range(2)]
        cluster.create("r", images)
        cluster.until_in_sync("r")
        old = cluster.proof(cluster.writer().name)
        others = [daemon for daemon in cluster.living if daemon is not old]
        with cluster.changing(Verb.FAIL, "r", str(images[1]), others[0]):
            old.freeze_at("superblock", 5 * LATE_MS)
            cluster.writer_among(others)
            old.thaw()
            cluster.until(old.thawed, "the late write is on its way")
        cluster.until(
            lambda: superblock(images[0]).events == cluster.detail("r").events,
            "the superblock shows the newest commit",
        )
