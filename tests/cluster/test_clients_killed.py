"""Clients that are killed (SIGKILL) at any moment of a change: it is made on all nodes, or on none.

The moments are drawn within the time that the command takes; a change that was made is not made
again by who asks once more, with the same id or as a new command.
"""

import random
import socket
import subprocess
import time
from pathlib import Path

import pytest

from mdcluster.control.arrays import ArrayDetail
from tests.cluster.harness import LIMIT_S, Daemon
from tests.cluster.proof import FAST, ProofCluster
from tests.cluster.test_bad_input import Relay, mdcadm, mdcadm_of, send_again

pytestmark = pytest.mark.cluster

IMAGE_MIB = 13
SEED = 20240
ROUNDS = 3
"""Of each pair of commands, that undo one another."""
State = tuple[object, ...]


def state_of(array: ArrayDetail) -> State:
    """What changes by commands alone."""
    members = tuple((m.path, m.state.value == "faulty") for m in array.members)
    return array.raid_disks, array.readonly, bool(array.paused_s), bool(array.running), members


def agreed(cluster: ProofCluster) -> State:
    """The state that all nodes tell, once all have applied the same and nothing is copied."""

    def same() -> bool:
        found = [cluster.detail("r", daemon) for daemon in cluster.living]
        return all(a.sync is None and a.events == found[0].events for a in found)

    cluster.until(same, "all nodes tell the same")
    return state_of(cluster.detail("r"))


def killed(daemon: Daemon, after_s: float, *words: str) -> None:
    client = subprocess.Popen(mdcadm_of(daemon, *words), stderr=subprocess.DEVNULL)
    time.sleep(after_s)  # the moment is what is tried here, not waited for
    client.kill()
    client.wait(LIMIT_S)


def done(daemon: Daemon, *words: str) -> float:
    """How long it took, in seconds."""
    began_s = time.monotonic()
    said = mdcadm(daemon, *words)
    assert said.code == 0, said
    return time.monotonic() - began_s


def test_all_or_nothing_at_any_moment(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        last = str(started(cluster)[1])
        for there, back in (
            (("--readonly", "r"), ("--readwrite", "r")),
            (("--pause", "r"), ("--resume", "r")),
            (("--stop", "r"), ("--assemble", "r")),
            (("r", "--fail", last), ("r", "--re-add", last)),
        ):
            before = agreed(cluster)
            took_s = done(cluster.living[0], *there)
            after = agreed(cluster)
            for _ in range(ROUNDS):
                done(rng.choice(cluster.living), *back)
                assert agreed(cluster) == before, back
                killed(rng.choice(cluster.living), rng.uniform(0, took_s), *there)
                assert agreed(cluster) in (before, after), there
                done(rng.choice(cluster.living), *there)  # a command of its own
                assert agreed(cluster) == after, there
            done(cluster.living[0], *back)
            assert agreed(cluster) == before, back


def test_both_changes_of_a_request_or_none(tmp_path: Path) -> None:
    """A device is added, and the array grows, though the client is gone after the first."""
    rng = random.Random(SEED)
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        images = started(cluster)
        relay = Relay(cluster.base / "relay.sock")
        words = ("--grow", "r", "-n3", "--add", str(images[2]))
        asked = cluster.living[1]
        client = subprocess.Popen(mdcadm_of(asked, *words, socket_path=relay.path))
        line = relay.take(client)
        before = agreed(cluster)
        vanish(asked, line, rng.uniform(0.0, 0.05))
        if agreed(cluster) != before:
            cluster.until(lambda: agreed(cluster)[0] == 3, "what was begun is ended")
        for daemon in (asked, *cluster.living):
            assert send_again(daemon, line)[0] == "done"
            cluster.until_in_sync("r")
            array = cluster.detail("r", daemon)
            assert (array.raid_disks, len(array.members)) == (3, 3)


def test_a_request_whose_last_change_is_refused_changes_nothing(tmp_path: Path) -> None:
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        images = started(cluster)
        before = agreed(cluster)
        said = mdcadm(cluster.living[0], "--grow", "r", "-n1", "--force", "--add", str(images[2]))
        assert said.code == 1 and "members are in use" in said.message
        assert agreed(cluster) == before


def started(cluster: ProofCluster) -> list[Path]:
    """Three images, the array r over the first two of them, in sync."""
    cluster.start_all()
    images = [cluster.image(f"m{leg}", IMAGE_MIB) for leg in range(3)]
    cluster.create("r", images[:2])
    cluster.until_in_sync("r")
    return images


def vanish(daemon: Daemon, line: bytes, after_s: float) -> None:
    """As a client that was killed so long after its request had left it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(daemon.socket))
        sock.sendall(line)
        time.sleep(after_s)
