"""mdcinspect on the members of a live array: nothing is wrong with what is only at work."""

from pathlib import Path

import pytest

from mdcluster.control.verbs import Verb
from mdcluster.tools import mdcinspect
from tests.blocks import BLOCK_BYTES, spread
from tests.cluster.proof import FAST, ProofCluster
from tests.cluster.workload import Workload

pytestmark = pytest.mark.cluster

NAMES = ("a", "b", "c")
ROUNDS = 5


def test_live_members_are_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While a resync makes checkpoints and all nodes write, after it, and once it is stopped."""
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        cluster.start_all()
        images = [cluster.image(f"m{leg}", 13) for leg in range(2)]
        paths = [str(image) for image in images]
        size = cluster.create("r", images).size_sectors
        for _ in range(ROUNDS):
            assert mdcinspect.main(["verify", *paths]) == 0, capsys.readouterr().err
        cluster.until_in_sync("r")
        blocks = spread(60, size * 512 // BLOCK_BYTES, len(NAMES))
        with Workload(cluster.sockets("r"), blocks) as load:
            load.progress(NAMES)
            for view in mdcinspect.VIEWS:
                assert mdcinspect.main([view, *paths]) == 0, capsys.readouterr().err
            cluster.change(Verb.FAIL, "r", paths[1])
            load.progress(NAMES)
        assert mdcinspect.main(["compare", *paths]) == 1
        assert "says it failed" in capsys.readouterr().out
        assert mdcinspect.main(["verify", paths[0]]) == 0, capsys.readouterr().err
        cluster.stop_array("r")
        assert mdcinspect.main(["verify", paths[0]]) == 0, capsys.readouterr().err
