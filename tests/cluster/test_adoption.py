"""A plain md array goes through the cluster and comes back: nothing is copied, nothing is lost."""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mdcluster.md.nbd_client import NbdClient
from mdcluster.metadata import superblock as sb
from tests import plain
from tests.blocks import BLOCK_BYTES, spread
from tests.cluster.harness import LIMIT_S
from tests.cluster.images import assert_holds, assert_identical, data_area, superblock
from tests.cluster.proof import FAST, ProofCluster
from tests.cluster.workload import Workload, verify_everywhere
from tests.plain import PlainArray, plain_array

pytestmark = pytest.mark.cluster

NAMES = ("a", "b", "c")
OLD = bytes(range(256)) * 4096
"""What the array held before it was taken in: 1 MiB."""


def stock(cluster: ProofCluster) -> PlainArray:
    array = plain_array(cluster.images, mib=13)
    plain.fill(array, OLD)
    return array


def mdcadm(cluster: ProofCluster, node: str, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "mdcluster.tools.mdcadm", *words]
    command.append(f"--socket={cluster[node].socket}")
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


def done(ran: "subprocess.CompletedProcess[str]") -> str:
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


async def _read(socket: Path, length: int) -> bytes:
    async with await NbdClient.connect(socket) as client:
        return bytes(await client.read(0, length))


def reads(cluster: ProofCluster, node: str, length: int) -> bytes:
    return asyncio.run(_read(cluster.proof(node).nbd("data"), length))


def examine(path: str) -> str:
    out = subprocess.run(["mdadm", "--examine", path], capture_output=True, text=True, check=True)
    return out.stdout


def test_there_and_back(tmp_path: Path) -> None:
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        cluster.start_all()
        array = stock(cluster)
        said = done(mdcadm(cluster, "b", "--adopt", *array.paths))
        assert "/dev/md/data has been started with 2 drives." in said
        cluster.until_running("data", NAMES)
        for node in NAMES:
            assert reads(cluster, node, len(OLD)) == OLD
        assert all(superblock(Path(path)).guarded for path in array.paths)
        assert not cluster.detail("data").sync

        size = array.superblocks[0].size_sectors * 512 // BLOCK_BYTES
        blocks = [b for b in spread(40, size, len(NAMES)) if b.number * BLOCK_BYTES > len(OLD)]
        with Workload(cluster.sockets("data"), blocks) as load:
            load.progress(NAMES)
            refused = mdcadm(cluster, "a", "--release", "data")
            assert refused.returncode == 1 and "cannot release data" in refused.stderr
            load.progress(NAMES)
        verify_everywhere(cluster.sockets("data"), load.known)

        def released() -> bool:
            return mdcadm(cluster, "c", "--release", "data").returncode == 0

        cluster.until(released, "the clients that have gone are seen to be gone")
        images = [Path(path) for path in array.paths]
        assert_identical(images)
        for image, was in zip(images, array.superblocks, strict=True):
            now = superblock(image)
            assert (now.guarded, now.in_sync, now.feature_map) == (False, True, 0)
            assert (now.set_uuid, now.device_uuid) == (was.set_uuid, was.device_uuid)
            assert data_area(image)[: len(OLD)] == OLD
            assert_holds(image, load.known)
        for node in NAMES:
            assert "no array data" in mdcadm(cluster, node, "--detail", "data").stderr
        if shutil.which("mdadm"):
            text = examine(array.paths[0])
            assert "State : clean" in text and "correct" in text

        # And in once more, under another name: the same cluster, the same term, nothing copied.
        done(mdcadm(cluster, "a", "--adopt", "--name=again", *array.paths))
        assert cluster.detail("again").events > superblock(images[0]).events - 1
        done(mdcadm(cluster, "a", "--release", "again"))
        assert_identical(images)


def test_the_writer_dies_while_it_takes_in_and_gives_back(tmp_path: Path) -> None:
    """Frozen before a superblock and killed there: the next writer finishes what was begun."""
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        cluster.start_all()
        array = stock(cluster)
        for words, name in (("--adopt", *array.paths), "data"), (("--release", "data"), ""):
            writer = cluster.writer()
            other = next(node for node in NAMES if node != writer.name)
            client = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mdcluster.tools.mdcadm", *words),
                    f"--socket={cluster[other].socket}",
                ],
                stderr=subprocess.PIPE,
                text=True,
            )
            cluster.proof(writer.name).freeze_at("superblock", 0)
            os.kill(writer.pid, 9)
            writer.wait_end()
            _, text = client.communicate(timeout=LIMIT_S)
            assert client.returncode == 0, text
            writer.start()
            cluster.writer()
            if name:
                cluster.until_running(name, NAMES)
                cluster.until_in_sync(name)
        images = [Path(path) for path in array.paths]
        assert_identical(images)
        for image in images:
            assert not superblock(image).guarded and superblock(image).in_sync
            assert data_area(image)[: len(OLD)] == OLD


def test_what_cannot_be_adopted_says_why_and_changes_nothing(tmp_path: Path) -> None:
    with ProofCluster(tmp_path, nodes=1, settings=FAST) as cluster:
        cluster.start_all()
        array = stock(cluster)
        before = [Path(path).read_bytes() for path in array.paths]
        for words, why in (
            ((array.paths[0],), "1 active members are not named, those of role 1"),
            ((*array.paths, str(cluster.image("empty"))), "no md superblock"),
            ((*array.paths, "/nowhere"), "cannot be opened"),
            ((*array.paths, "relative"), "no absolute path"),
        ):
            ran = mdcadm(cluster, "a", "--adopt", *words)
            assert (ran.returncode, ran.stdout) == (1, "") and why in ran.stderr, ran.stderr
        array.change(1, lambda one: one.with_guard(True))
        ran = mdcadm(cluster, "a", "--adopt", *array.paths)
        assert ran.returncode == 1 and "belongs to cluster" in ran.stderr
        array.change(1, lambda one: one)
        assert [Path(path).read_bytes() for path in array.paths] == before
        assert superblock(Path(array.paths[0])).events == plain.EVENTS
        assert sb.GUARD_BIT == 1 << 31
