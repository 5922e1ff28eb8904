"""--readonly and --pause: true on every node when answered, over writers and restarts."""

import json
import uuid
from pathlib import Path

import pytest

from mdcluster.control.client import RefusedError
from mdcluster.control.verbs import StillArgs, Verb
from mdcluster.md.nbd_client import NbdClient
from tests.cluster.harness import Daemon
from tests.cluster.proof import FAST, PACED, ProofCluster

pytestmark = pytest.mark.cluster

IMAGE_MIB = 13


def change(daemon: Daemon, verb: Verb) -> None:
    daemon.ask(verb, StillArgs(str(uuid.uuid4()), "r"))


async def writes(path: Path) -> bool:
    """Whether an application may write."""
    client = await NbdClient.connect(path, "r")
    try:
        await client.write(0, b"\0" * 4096, fua=False)
    except OSError:
        return False
    finally:
        await client.close()
    return True


async def test_read_only_on_every_node(tmp_path: Path) -> None:
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        cluster.start_all()
        images = [cluster.image(f"m{leg}", IMAGE_MIB) for leg in range(2)]
        cluster.create("r", images)
        cluster.until_in_sync("r")
        sockets = cluster.sockets("r")
        client = await NbdClient.connect(sockets["b"], "r")
        with pytest.raises(RefusedError, match="in use"):
            change(cluster.living[0], Verb.READONLY)
        await client.close()
        assert [await writes(path) for path in sockets.values()] == [True] * 3
        cluster.until(lambda: _made(cluster, Verb.READONLY), "it is read-only")
        assert [await writes(path) for path in sockets.values()] == [False] * 3
        assert cluster.detail("r").readonly
        gone = cluster.writer()
        gone.kill()
        gone.start()
        cluster.until_running("r", sockets)
        assert [await writes(path) for path in sockets.values()] == [False] * 3
        change(cluster.living[0], Verb.READWRITE)
        assert [await writes(path) for path in sockets.values()] == [True] * 3


def _made(cluster: ProofCluster, verb: Verb) -> bool:
    """Clients that have gone may be seen late."""
    try:
        change(cluster.living[0], verb)
    except RefusedError as error:
        if "in use" not in str(error):
            raise
        return False
    return True


def test_a_pause_outlasts_the_writer(tmp_path: Path) -> None:
    with ProofCluster(tmp_path, settings=PACED) as cluster:
        cluster.start_all()
        images = [cluster.image(f"m{leg}", IMAGE_MIB) for leg in range(2)]
        cluster.create("r", images)
        change(cluster.living[0], Verb.PAUSE)
        before = cluster.detail("r")
        assert before.paused_s and before.sync is not None
        assert before.sync.state.value == "pending"
        assert "--resume r" in cluster.why()
        cluster.writer().kill()
        cluster.until(lambda: cluster.detail("r").sync == before.sync, "it is paused still")
        change(cluster.living[0], Verb.RESUME)
        cluster.until(lambda: cluster.detail("r").sync is None, "the resync is over")
        assert json.dumps(cluster.detail("r").paused_s) == "0"
