"""--dry-run: told from the real planner, on any node, and nothing is changed by it."""

import json
from pathlib import Path

import pytest

from mdcluster.tools import mdcadm
from tests.cluster.harness import Daemon
from tests.cluster.images import superblock
from tests.cluster.proof import FAST, ProofCluster

pytestmark = pytest.mark.cluster

IMAGE_MIB = 13


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> "Said":
    return Said(capsys)


class Said:
    """One command after the other, and what each printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, daemon: Daemon, *words: str) -> tuple[int, str, str]:
        code = mdcadm.main(["--socket", str(daemon.socket), *words])
        out, err = self._capsys.readouterr()
        return code, out, err


def test_nothing_is_changed_and_all_is_told(tmp_path: Path, said: Said) -> None:
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        cluster.start_all()
        images = [cluster.image(f"m{leg}", IMAGE_MIB) for leg in range(2)]
        spare = cluster.image("spare", IMAGE_MIB)
        follower = next(d for d in cluster.living if d is not cluster.writer())
        words = ["--create", "/dev/md/r", "-l1", "-n2", *map(str, images), "--dry-run"]
        code, out, err = said(follower, *words)
        assert (code, err) == (0, "")
        assert "new array r: raid1, 2 raid devices" in out
        for name in ("a", "b", "c"):
            assert f"then : {name}: md: assemble and run r of 2 member(s)" in out
        assert not any(image.read_bytes().strip(b"\0") for image in images)

        cluster.create("r", images)
        before = cluster.until_in_sync("r")
        noted = [superblock(image) for image in images]
        code, out, _ = said(follower, "/dev/md/r", "--fail", str(images[1]), "--dry-run")
        assert code == 0
        assert f"entry : {images[1]} ({before.members[1].uuid}): in sync, role 1 -> faulty" in out
        assert out.count("hold its failed writes") == 3
        code, out, _ = said(follower, "/dev/md/r", "--add", str(spare), "--dry-run", "--json")
        (result,) = json.loads(out)["results"]
        assert (code, result["state"]) == (0, "planned")
        assert [one["node"] for one in result["plan"]["changes"][0]["nodes"]][1:] == ["a", "b", "c"]
        code, out, _ = said(follower, "--stop", "/dev/md/r", "--dry-run")
        assert code == 0 and "first : b: stops it in md" in out
        code, out, _ = said(follower, "--transfer", follower.name, "--dry-run")
        assert f"writer: {cluster.writer().name} -> {follower.name}" in out
        assert cluster.detail("r") == before
        assert [superblock(image) for image in images] == noted
        assert not spare.read_bytes().strip(b"\0")


def test_refusals_are_those_of_the_change(tmp_path: Path, said: Said) -> None:
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        cluster.start_all()
        images = [cluster.image(f"m{leg}", IMAGE_MIB) for leg in range(2)]
        cluster.create("r", images)
        cluster.until_in_sync("r")
        daemon = cluster.living[-1]
        assert said(daemon, "/dev/md/r", "--fail", str(images[1]))[0] == 0
        for words in (
            ("/dev/md/r", "--fail", str(images[0])),
            ("/dev/md/r", "--remove", str(images[0])),
            ("/dev/md/r", "--replace", str(images[0])),
            ("--grow", "/dev/md/r", "--size", "4M"),
            ("--action", "check", "/dev/md/r"),
            ("--release", "/dev/md/r"),
            ("--transfer", "nobody"),
            ("--fence-ack", daemon.name),
        ):
            planned = said(daemon, *words, "--dry-run")
            assert planned == said(daemon, *words)
            assert planned[0] == 1, words
        assert said(daemon, "--detail", "/dev/md/r", "--dry-run")[0] == 2
