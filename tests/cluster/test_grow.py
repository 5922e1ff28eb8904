"""--grow under load: another member, one less, more of each; nothing is lost on the way."""

import uuid
from pathlib import Path

import pytest

from mdcluster.control.client import RefusedError
from mdcluster.control.verbs import CreateArgs, GrowArgs, Verb
from tests.blocks import BLOCK_BYTES, Block, spread
from tests.cluster.images import assert_holds, assert_identical, fill_with_noise, superblock
from tests.cluster.proof import FAST, ProofCluster, copying, marks
from tests.cluster.workload import Workload, verify_everywhere

pytestmark = pytest.mark.cluster

IMAGE_MIB = 13
NAMES = ("a", "b", "c")
SMALL_SECTORS = 8192
SMALL_BLOCKS = SMALL_SECTORS * 512 // BLOCK_BYTES


def grow(cluster: ProofCluster, **asked: object) -> None:
    args = GrowArgs(str(uuid.uuid4()), "r", **asked)  # type: ignore[arg-type]
    with cluster.living[-1].client() as client:
        client.call(Verb.GROW, args)


def states(cluster: ProofCluster) -> list[str]:
    return [member.state.value for member in cluster.detail("r").members]


def settled(cluster: ProofCluster, images: list[Path], known: list[Block]) -> None:
    """All in sync; every node sees what it must; stopped, all members are the same."""
    cluster.until_in_sync("r")
    verify_everywhere(cluster.sockets("r"), known)
    cluster.stop_array("r")
    assert_identical(images)
    for image in images:
        assert_holds(image, known)


def test_one_member_more_then_one_less(tmp_path: Path) -> None:
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        cluster.start_all()
        images = [cluster.image(f"m{leg}", IMAGE_MIB) for leg in range(2)]
        new = cluster.image("new", IMAGE_MIB)
        fill_with_noise(new, 1)
        size = cluster.create("r", images).size_sectors
        cluster.until_in_sync("r")
        blocks = spread(120, size * 512 // BLOCK_BYTES, len(NAMES))
        with Workload(cluster.sockets("r"), blocks) as load:
            load.progress(NAMES)
            grow(cluster, raid_disks=3, devices=(str(new),))
            cluster.until(lambda: states(cluster) == ["in_sync"] * 3, "three members are in sync")
            load.progress(NAMES)
            with pytest.raises(RefusedError, match="3 members are in use"):
                grow(cluster, raid_disks=2)
            cluster.change(Verb.FAIL, "r", str(images[0]))
            cluster.change(Verb.REMOVE, "r", str(images[0]))
            grow(cluster, raid_disks=2)
            load.progress(NAMES)
            for name in NAMES:
                seen = cluster.detail("r", cluster[name])
                assert seen.raid_disks == 2
                assert [(m.role, m.path) for m in seen.members] == [
                    (0, str(images[1])),
                    (1, str(new)),
                ]
        settled(cluster, [images[1], new], load.known)
        for image in (images[1], new):
            assert superblock(image).raid_disks == 2


def test_more_of_each_member(tmp_path: Path) -> None:
    """The new part is resynced, that alone, and then used from all nodes."""
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        cluster.start_all()
        images = [cluster.image(f"m{leg}", IMAGE_MIB) for leg in range(2)]
        for image in images:
            fill_with_noise(image, 1)
        paths = tuple(map(str, images))
        args = CreateArgs(str(uuid.uuid4()), "r", 1, 2, paths, size_sectors=SMALL_SECTORS)
        cluster.living[0].ask(Verb.CREATE, args)
        cluster.until_running("r", NAMES)
        cluster.until_in_sync("r")
        since = marks(map(cluster.proof, NAMES))
        with Workload(cluster.sockets("r"), spread(60, SMALL_BLOCKS, len(NAMES))) as load:
            load.progress(NAMES)
            grow(cluster, size_max=True)
            load.progress(NAMES)
            for name in NAMES:
                cluster.until(
                    lambda name=name: (
                        cluster.detail("r", cluster[name]).array_sectors  # type: ignore[misc]
                        > SMALL_SECTORS
                    ),
                    f"{name} shows the new size",
                )
            cluster.until_in_sync("r")
        size = cluster.detail("r").size_sectors
        resynced = copying(map(cluster.proof, NAMES), "resync", since)
        assert resynced.covered(images[1].name) == size - SMALL_SECTORS
        blocks = spread(240, size * 512 // BLOCK_BYTES, len(NAMES), 7)
        new = [block for block in blocks if block.number >= SMALL_BLOCKS]
        with Workload(cluster.sockets("r"), new, 7) as behind:
            behind.progress(NAMES)
        settled(cluster, images, [*load.known, *behind.known])
        for image in images:
            assert superblock(image).size_sectors == size
