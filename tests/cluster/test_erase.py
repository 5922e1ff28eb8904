"""--zero-superblock: whatever of the cluster is on a device goes, but never a member's."""

from pathlib import Path

import pytest

from mdcluster.control.verbs import Verb
from mdcluster.members.look import look
from tests.cluster.proof import FAST, ProofCluster
from tests.cluster.test_dry_run import Said

pytestmark = pytest.mark.cluster

IMAGE_MIB = 13
ERASE = "--zero-superblock"
IN_USE = 2


def test_only_what_no_array_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = Said(capsys)
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        cluster.start_all()
        images = [cluster.image(f"m{leg}", IMAGE_MIB) for leg in range(4)]
        cluster.create("r", images)
        cluster.until_in_sync("r")
        cluster.change(Verb.FAIL, "r", str(images[0]))  # a spare takes its role
        for daemon in cluster.living:
            code, out, err = said(daemon, ERASE, "--force", *map(str, images))
            assert (code, out) == (IN_USE, "")
            for image in images:
                words = f"mdcadm: Couldn't open {image} for write - not zeroing: "
                assert f"{words}{image} is a member of array r (" in err
        assert all(look(str(image)).superblock for image in images)

        gone = [images[0], images[3]]
        for image in gone:
            cluster.change(Verb.REMOVE, "r", str(image))
        follower = next(d for d in cluster.living if d is not cluster.writer())
        code, out, _ = said(follower, ERASE, *map(str, gone), "--dry-run")
        assert code == 0 and out.count("takes superblocks and the cluster's blocks off") == 2
        assert all(look(str(image)).superblock for image in gone)
        code, _, err = said(follower, ERASE, *map(str, gone), str(images[1]))
        assert code == IN_USE
        for image in gone:
            assert f"mdcadm: erased the superblock on {image}\n" in err
        for image in gone:
            seen = look(str(image))
            assert (seen.left_by, seen.superblock, seen.in_md) == (None, None, "")
        assert said(follower, "--examine", str(gone[0]))[0] == 1

        cluster.change(Verb.ADD, "r", str(gone[0]))
        cluster.until_in_sync("r")
        cluster.stop_array("r")
        code, _, err = said(follower, ERASE, str(gone[0]))
        assert code == IN_USE and "is a member of array r (" in err
