"""Members that fail, come and come back while clients write on all nodes."""

import uuid
from pathlib import Path

import pytest

from mdcluster.control.client import RefusedError
from mdcluster.control.verbs import ActionArgs, ActionWord, ReplaceArgs, Verb
from mdcluster.metadata.superblock import FEATURE_REPLACEMENT
from tests.blocks import BLOCK_BYTES, spread
from tests.cluster.images import assert_holds, assert_identical, fill_with_noise, superblock
from tests.cluster.proof import FAST, PACED, ProofCluster, ProofDaemon, copying, marks
from tests.cluster.workload import Workload, verify_everywhere

pytestmark = pytest.mark.cluster

IMAGE_MIB = 13
NAMES = ("a", "b", "c")


def started(cluster: ProofCluster) -> tuple[list[Path], int]:
    """Two images and the size of the array r over them, in sync; its size in sectors."""
    cluster.start_all()
    images = [cluster.image(f"m{leg}", IMAGE_MIB) for leg in range(2)]
    size = cluster.create("r", images).size_sectors
    cluster.until_in_sync("r")
    return images, size


def states(cluster: ProofCluster) -> list[str]:
    """Of all members, by their numbers."""
    return [member.state.value for member in cluster.detail("r").members]


def settled(cluster: ProofCluster, images: list[Path], load: Workload) -> None:
    """All in sync; every node sees what it must; stopped, all members are the same."""
    cluster.until_in_sync("r")
    verify_everywhere(cluster.sockets("r"), load.known)
    cluster.stop_array("r")
    assert_identical(images)
    for image in images:
        assert_holds(image, load.known)


def test_a_member_is_replaced_by_another(tmp_path: Path) -> None:
    """Failed, removed, and a new one added: a recovery, with everybody writing."""
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        images, size = started(cluster)
        new = cluster.image("new", IMAGE_MIB)
        fill_with_noise(new, 1)
        since = marks(map(cluster.proof, NAMES))
        blocks = spread(120, size * 512 // BLOCK_BYTES, len(NAMES))
        with Workload(cluster.sockets("r"), blocks) as load:
            load.progress(NAMES)
            cluster.change(Verb.FAIL, "r", str(images[1]))
            load.progress(NAMES)
            cluster.change(Verb.REMOVE, "r", str(images[1]))
            cluster.change(Verb.ADD, "r", str(new))
            cluster.until(lambda: states(cluster) == ["in_sync", "in_sync"], "it is recovered")
            load.progress(NAMES)
        settled(cluster, [images[0], new], load)
        assert copying(map(cluster.proof, NAMES), "recover", since).covered("new") == size


@pytest.mark.parametrize("removed", [False, True], ids=["faulty", "removed"])
def test_a_member_that_comes_back_gets_what_it_missed(tmp_path: Path, removed: bool) -> None:
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        images, size = started(cluster)
        since = marks(map(cluster.proof, NAMES))
        blocks = spread(24, size * 512 // BLOCK_BYTES // 8, len(NAMES))  # the first eighth
        with Workload(cluster.sockets("r"), blocks) as load:
            load.progress(NAMES)
            cluster.change(Verb.FAIL, "r", str(images[1]))
            load.progress(NAMES, writes=20)
            if removed:
                cluster.change(Verb.REMOVE, "r", str(images[1]))
                load.progress(NAMES, writes=20)
            cluster.change(Verb.READD, "r", str(images[1]))
            cluster.until(lambda: states(cluster) == ["in_sync", "in_sync"], "it is recovered")
            load.progress(NAMES)
        settled(cluster, images, load)
        done = copying(map(cluster.proof, NAMES), "recover", since)
        assert 0 < done.covered(images[1].name) <= size // 4


def test_a_new_disk_in_its_place_is_not_re_added(tmp_path: Path) -> None:
    """It has nothing of what the bitmaps take for granted: it is added, and gets all."""
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        images, size = started(cluster)
        blocks = spread(24, size * 512 // BLOCK_BYTES, len(NAMES))
        with Workload(cluster.sockets("r"), blocks) as load:
            load.progress(NAMES)
            cluster.change(Verb.FAIL, "r", str(images[1]))
            images[1].write_bytes(bytes(IMAGE_MIB << 20))
            for daemon in cluster.living:
                with pytest.raises(RefusedError, match="wiped or exchanged"):
                    cluster.change(Verb.READD, "r", str(images[1]), daemon)
            cluster.change(Verb.REMOVE, "r", str(images[1]))
            cluster.change(Verb.ADD, "r", str(images[1]))
            cluster.until(lambda: states(cluster) == ["in_sync", "in_sync"], "it is recovered")
            load.progress(NAMES)
        settled(cluster, images, load)


def test_a_follower_is_killed(tmp_path: Path) -> None:
    """Only what it may have been writing is copied again."""
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        images, size = started(cluster)
        writer = cluster.writer()
        follower = next(d for d in cluster.living if d is not writer)
        since = marks(map(cluster.proof, NAMES))
        blocks = spread(24, size * 512 // BLOCK_BYTES // 8, len(NAMES))
        with Workload(cluster.sockets("r"), blocks) as load:
            load.progress(NAMES)
            follower.kill()
            others = [name for name in NAMES if name != follower.name]
            cluster.until_running("r", others)
            load.progress(others)
            cluster.until_in_sync("r")
            follower.start()
            cluster.until_running("r", NAMES)
            load.progress(NAMES)
        settled(cluster, images, load)
        done = copying(map(cluster.proof, NAMES), "bitmap", since)
        assert 0 < done.covered(images[1].name) <= size // 4


def broken_on(daemon: ProofDaemon, image: Path) -> None:
    """From now on this node gets an error from every access to the member."""
    (daemon.faults / f"eio-{image.name}").touch()


@pytest.mark.parametrize("writer_sees_it", [True, False], ids=["writer", "follower"])
def test_a_member_that_one_node_cannot_use_fails(tmp_path: Path, writer_sees_it: bool) -> None:
    """Policy local_fault = fail: the member goes, for all, and all nodes serve on."""
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        images, size = started(cluster)
        victim = one_of(cluster, writer_sees_it)
        blocks = spread(120, size * 512 // BLOCK_BYTES, len(NAMES))
        with Workload(cluster.sockets("r"), blocks) as load:
            load.progress(NAMES)
            broken_on(victim, images[1])
            cluster.until(lambda: "faulty" in states(cluster), "the member has failed")
            load.progress(NAMES)
        verify_everywhere(cluster.sockets("r"), blocks)
        cluster.stop_array("r")
        assert_holds(images[0], blocks)


@pytest.mark.parametrize("writer_sees_it", [True, False], ids=["writer", "follower"])
def test_a_node_that_cannot_use_a_member_leaves(tmp_path: Path, writer_sees_it: bool) -> None:
    """Policy local_fault = leave: the array runs on with all members, on the other nodes."""
    settings = FAST + '[policy]\nlocal_fault = "leave"\n'
    with ProofCluster(tmp_path, settings=settings) as cluster:
        images, size = started(cluster)
        victim = one_of(cluster, writer_sees_it)
        others = [name for name in NAMES if name != victim.name]
        blocks = spread(120, size * 512 // BLOCK_BYTES, len(NAMES))
        with Workload(cluster.sockets("r"), blocks) as load:
            load.progress(NAMES)
            broken_on(victim, images[1])
            cluster.until(
                lambda: set(cluster.detail("r").running) == set(others), "the node has left"
            )
            load.progress(others)
        assert states(cluster) == ["in_sync", "in_sync"]
        cluster.until_in_sync("r")
        verify_everywhere(cluster.sockets("r", others), blocks)
        cluster.stop_array("r")
        assert_identical(images)
        assert_holds(images[0], blocks)


def one_of(cluster: ProofCluster, writer: bool) -> ProofDaemon:
    """The writer, or a follower."""
    found = cluster.writer()
    if not writer:
        found = next(daemon for daemon in cluster.living if daemon is not found)
    return cluster.proof(found.name)


def test_a_check_counts_what_a_repair_mends(tmp_path: Path) -> None:
    """While everybody writes: nothing that is just being written counts as different."""
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        images, size = started(cluster)
        blocks = spread(120, size * 512 // BLOCK_BYTES, len(NAMES))
        used = {block.number for block in blocks}
        spoiled = next(n for n in range(size * 512 // BLOCK_BYTES) if n not in used)
        spoil(images[1], spoiled)
        with Workload(cluster.sockets("r"), blocks) as load:
            load.progress(NAMES)
            for word, found in (("check", 8), ("check", 8), ("repair", 8), ("check", 0)):
                look(cluster, ActionWord(word))
                load.progress(NAMES)
                seen = [cluster.detail("r", cluster[name]).mismatched_sectors for name in NAMES]
                assert seen == [found] * len(NAMES)
        settled(cluster, images, load)


def spoil(image: Path, block: int) -> None:
    """Other content than the other members have, and nobody was told."""
    at = superblock(image).data_offset_sectors * 512 + block * BLOCK_BYTES
    with image.open("r+b") as file:
        file.seek(at)
        file.write(b"?" * BLOCK_BYTES)


def look(cluster: ProofCluster, word: ActionWord) -> None:
    """A whole check or repair, asked for at any node."""
    with cluster.living[0].client() as client:
        client.call(Verb.ACTION, ActionArgs(str(uuid.uuid4()), "r", word))
    for daemon in cluster.living:
        cluster.until(
            lambda daemon=daemon: cluster.detail("r", daemon).sync is None,  # type: ignore[misc]
            f"the {word} is over, as {daemon.name} sees it",
        )


def recovered(cluster: ProofCluster) -> int:
    """How far the recovery has come, in sectors; 0 if there is none."""
    sync = cluster.detail("r").sync
    return sync.position_sectors if sync is not None and sync.kind == "recover" else 0


def test_a_spare_replaces_a_member_in_use(tmp_path: Path) -> None:
    """With everybody writing; the writer is killed on the way; never a moment with one copy."""
    with ProofCluster(tmp_path, settings=PACED) as cluster:
        images, size = started(cluster)
        new = cluster.image("new", IMAGE_MIB)
        fill_with_noise(new, 1)
        blocks = spread(120, size * 512 // BLOCK_BYTES, len(NAMES))
        with Workload(cluster.sockets("r"), blocks) as load:
            load.progress(NAMES)
            cluster.change(Verb.ADD, "r", str(new))
            with cluster.living[0].client() as client:
                args = ReplaceArgs(str(uuid.uuid4()), "r", str(images[0]), str(new))
                client.call(Verb.REPLACE, args)
            assert states(cluster) == ["in_sync", "recovering", "in_sync"]
            assert superblock(new).feature_map & FEATURE_REPLACEMENT
            cluster.until(lambda: recovered(cluster) > size // 4, "a part of it is there")
            writer = cluster.writer()
            writer.kill()
            cluster.writer(not_=writer.name)
            load.progress([daemon.name for daemon in cluster.living])
            writer.start()
            cluster.until_running("r", NAMES)
            cluster.until(
                lambda: states(cluster) == ["in_sync", "in_sync", "faulty"], "it is replaced"
            )
            load.progress(NAMES)
            assert [m.path for m in cluster.detail("r").members][:2] == [str(new), str(images[1])]
        settled(cluster, [new, images[1]], load)
