"""--history: the same commits on every node, who asked for them, kept over restarts."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mdcluster.tools import mdcadm
from tests.cluster.harness import Daemon
from tests.cluster.proof import FAST, ProofCluster

pytestmark = pytest.mark.cluster

Capture = pytest.CaptureFixture[str]
IMAGE_MIB = 13
HOST = os.uname().nodename


def ran(daemon: Daemon, capsys: Capture, *words: str) -> str:
    assert mdcadm.main([*words, f"--socket={daemon.socket}"]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def entries(daemon: Daemon, capsys: Capture, *words: str) -> list[dict[str, Any]]:
    document = json.loads(ran(daemon, capsys, "--history", "--json", *words))
    assert document["dropped"] == 0
    found: list[dict[str, Any]] = document["entries"]
    return found


def test_what_was_done_is_told_on_every_node_and_after_restarts(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        cluster.start_all()
        writer = cluster.writer()
        follower, other = (daemon for daemon in cluster.living if daemon is not writer)
        images = [str(cluster.image(f"m{leg}", IMAGE_MIB)) for leg in range(2)]
        monkeypatch.setenv("SUDO_USER", "ann")
        ran(follower, capsys, "--create", "/dev/md/r", "-l1", "-n2", *images)
        cluster.until_in_sync("r")
        monkeypatch.setenv("SUDO_USER", "bob")
        ran(other, capsys, "/dev/md/r", "--fail", images[0])
        told = {}
        for daemon in cluster.living:
            daemon.until("changed", by=f"bob@{HOST}")
            found = [e for e in entries(daemon, capsys, "r") if e["event"] == "changed"]
            told[daemon.name] = [(e["term"], e["by"], e["text"]) for e in found]
            assert all(e["on"] == daemon.name and e["array"] == "r" for e in found)
        assert told["a"] == told["b"] == told["c"]
        first, *middle, last = told["a"]
        assert first[1].startswith("ann@") and first[2].startswith("new array r: raid1")
        assert any(by == writer.name and "pass: none -> resync" in text for _, by, text in middle)
        assert last[1].startswith("bob@") and "in sync, role 0 -> faulty" in last[2]

        assert mdcadm.main(["/dev/md/r", "--fail", images[1], f"--socket={other.socket}"]) == 1
        capsys.readouterr()
        asked, refused = entries(other, capsys, "r")[-2:]
        assert (asked["event"], refused["event"]) == ("asked", "refused")
        assert asked["by"] == refused["by"] == f"bob@{HOST}"
        assert images[1] in asked["text"] and "why=" in refused["text"]

        before = entries(follower, capsys)
        follower.kill()
        follower.start()
        follower.until("writer_changed")
        after = entries(follower, capsys)
        assert after[: len(before)] == before
        assert [e["number"] for e in after] == list(range(1, len(after) + 1))
        assert [e["event"] for e in after].count("daemon_started") == 2
        lines = ran(follower, capsys, "--history", "/dev/md/r").splitlines()
        assert sum(f"(asked by bob@{HOST})" in line for line in lines) == 1  # not asked of this one
