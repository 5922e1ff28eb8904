"""--watch on a terminal, over a resync, the restart of its daemon and the loss of the writer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.harness import Daemon
from tests.cluster.proof import PACED, ProofCluster
from tests.terminal import Terminal
from tests.unit.tools import schemas

pytestmark = pytest.mark.cluster

IMAGE_MIB = 64
QUIET_BYTES_MAX = 400
"""Of one line that has changed on a terminal, with room for others."""


def command(daemon: Daemon, *words: str) -> list[str]:
    program = [sys.executable, "-m", "mdcluster.tools.mdcadm", "--watch", *words]
    return [*program, f"--socket={daemon.socket}"]


def test_a_resync_a_restart_and_a_lost_writer_are_seen(tmp_path: Path) -> None:
    with ProofCluster(tmp_path, settings=PACED) as cluster:
        cluster.start_all()
        writer = cluster.writer()
        follower = next(daemon for daemon in cluster.living if daemon is not writer)
        with Terminal(command(follower)) as terminal:
            terminal.until(lambda text: f"writer {writer.name}" in text)
            terminal.until(lambda text: "Nodes: 3 of 3 alive" in text)
            cluster.create("r", [cluster.image(f"m{leg}", IMAGE_MIB) for leg in range(2)])
            terminal.until(lambda text: "/dev/md/r  raid1  2/2" in text and "on 3 nodes" in text)
            terminal.until(lambda text: "resync [=" in text and "KiB/s" in text)
            before = len(terminal.sent)
            terminal.until(lambda text: "resync [===========" in text)
            drawn = terminal.sent[before:].count(b"resync [")
            assert len(terminal.sent) - before < QUIET_BYTES_MAX * max(drawn, 1)
            cluster.until_in_sync("r")
            terminal.until(lambda text: "resync" not in text.partition("Events")[0])

            follower.kill()
            terminal.until(lambda text: "RECONNECTING: " in text)
            follower.start()
            terminal.until(lambda text: "RECONNECTING" not in text and "3 of 3 alive" in text)
            writer.kill()
            new = cluster.writer(not_=writer.name)
            terminal.until(lambda text: f"writer {new.name}, term" in text)
            terminal.until(lambda text: "Nodes: 2 of 3 alive" in text and "silent" in text)
            terminal.press(b"q")
            assert terminal.end() == 0
            assert terminal.attributes() == terminal.mode


def test_json_lines_of_a_real_daemon_fit_their_schema(tmp_path: Path) -> None:
    with ProofCluster(tmp_path, settings=PACED) as cluster:
        cluster.start_all()
        process = subprocess.Popen(command(cluster["a"], "--json"), stdout=subprocess.PIPE)
        assert process.stdout is not None
        documents = [json.loads(process.stdout.readline())]
        cluster.create("r", [cluster.image(f"m{leg}", IMAGE_MIB) for leg in range(2)])
        while not documents[-1]["arrays"] or documents[-1]["arrays"][0]["sync"]:
            documents.append(json.loads(process.stdout.readline()))
        process.terminate()
        process.wait(20)
        for document in documents:
            schemas.check("watch", document)
        assert any(one["arrays"] and one["arrays"][0]["sync"] for one in documents)
