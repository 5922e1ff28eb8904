"""The whole cluster stopped and started again, each time without another node or member.

Before each stop a member has failed and the clients have written on, so that a member with older
versions of their blocks lies around. It must never be what they read.
"""

import os
import shutil
import signal
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

from mdcluster.control.client import RefusedError
from mdcluster.control.verbs import AssembleArgs, Verb
from tests.blocks import BLOCK_BYTES, ContentError, spread
from tests.cluster.images import assert_holds, assert_identical
from tests.cluster.proof import FAST, ProofCluster
from tests.cluster.workload import Workload, verify_everywhere

pytestmark = pytest.mark.cluster

IMAGE_MIB = 13
NAMES = ("a", "b", "c")


@dataclass(frozen=True, slots=True)
class Case:
    """How it stops, and what is not there when it starts again. Images: 0 good, 1 good, 2 stale."""

    kill: bool
    node: str = ""
    image: int = -1


CASES = [
    Case(kill=True, node="a"),
    Case(kill=False, node="b"),
    Case(kill=True, image=0),
    Case(kill=False, image=1),
    Case(kill=True, image=2),
    Case(kill=False, node="c"),
    Case(kill=True, node="b", image=1),
]


class Story:
    """One array of three mirrors through all cases."""

    def __init__(self, cluster: ProofCluster) -> None:
        self.cluster = cluster
        self.images = [cluster.image(f"m{leg}", IMAGE_MIB) for leg in range(3)]
        size = cluster.create("r", self.images, raid_disks=3).size_sectors
        self.blocks = spread(120, size * 512 // BLOCK_BYTES, len(NAMES))
        cluster.until_in_sync("r")

    def write(self) -> None:
        """Every block a few times on average, all acknowledged."""
        with Workload(self.cluster.sockets("r"), self.blocks) as load:
            load.progress(NAMES, writes=100)

    def leave_one_stale(self, stale: Path) -> None:
        self.write()
        self.cluster.change(Verb.FAIL, "r", str(stale))
        self.write()
        with pytest.raises(ContentError, match="old after new"):
            assert_holds(stale, self.blocks)

    def stop_all(self, *, kill: bool) -> None:
        """At once, as far as signals go."""
        for daemon in self.cluster.living:
            daemon.signal(signal.SIGKILL if kill else signal.SIGTERM)
        for daemon in self.cluster.daemons.values():
            daemon.wait_end()

    def start(self, names: tuple[str, ...]) -> None:
        for name in names:
            self.cluster[name].start()
        self.cluster.until_running("r", names)

    def repair(self) -> None:
        """Take all back in that were left behind."""
        self.cluster.change(Verb.READD, "r", "faulty")
        in_sync = self.cluster.until_in_sync("r")
        assert [member.state for member in in_sync.members] == ["in_sync"] * 3


@pytest.mark.parametrize("case", CASES, ids=str)
def test_never_served_from_the_stale_member(tmp_path: Path, case: Case) -> None:
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        cluster.start_all()
        story = Story(cluster)
        stale = story.images[2]
        story.leave_one_stale(stale)
        story.stop_all(kill=case.kill)
        if case.image >= 0:
            story.images[case.image].rename(tmp_path / "away")
        up = tuple(name for name in NAMES if name != case.node)
        story.start(up)
        verify_everywhere(cluster.sockets("r", up), story.blocks)
        with Workload(cluster.sockets("r"), story.blocks) as load:
            load.progress(up)
            if case.image >= 0:
                (tmp_path / "away").rename(story.images[case.image])
            if case.node:
                cluster[case.node].start()
            cluster.until_running("r", NAMES)
            load.progress(NAMES)
        verify_everywhere(cluster.sockets("r"), story.blocks)
        story.repair()
        verify_everywhere(cluster.sockets("r"), story.blocks)
        cluster.stop_array("r")
        assert_identical(story.images)
        assert_holds(story.images[0], story.blocks)


def test_nothing_is_served_while_only_the_stale_member_is_there(tmp_path: Path) -> None:
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        cluster.start_all()
        story = Story(cluster)
        story.leave_one_stale(story.images[2])
        story.stop_all(kill=True)
        for image in story.images[:2]:
            image.rename(tmp_path / image.name)
        for name in NAMES:
            cluster[name].start()
        cluster.until(lambda: cluster.why().count("misses") == 6, "each node misses two members")
        cluster.until(lambda: cluster.detail("r").running == (), "the old lives have ended")
        args = AssembleArgs(str(uuid.uuid4()), "r", (str(story.images[2]),))
        with pytest.raises(RefusedError, match=r"misses .*none of 1 devices here shows"):
            cluster["a"].ask(Verb.ASSEMBLE, args)
        assert cluster.serving("r") == set()
        for image in story.images[:2]:
            (tmp_path / image.name).rename(image)
        cluster.until_running("r", NAMES)
        verify_everywhere(cluster.sockets("r"), story.blocks)


def test_an_old_copy_of_a_member_is_refused(tmp_path: Path) -> None:
    """As after a disk was restored from a snapshot: the commits count it as in sync."""
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        cluster.start_all()
        story = Story(cluster)
        story.write()
        copy = tmp_path / "copy"
        shutil.copyfile(story.images[0], copy)
        story.leave_one_stale(story.images[2])
        story.stop_all(kill=False)
        os.replace(copy, story.images[0])
        for name in NAMES:
            cluster[name].start()
        cluster.until(lambda: "an old copy" in cluster.why(), "a reason is given")
        cluster.until_running("r", NAMES)
        verify_everywhere(cluster.sockets("r"), story.blocks)
        story.repair()
        verify_everywhere(cluster.sockets("r"), story.blocks)
        cluster.stop_array("r")
        assert_identical(story.images)
