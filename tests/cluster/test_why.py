"""What `--why` tells of arrays of the cluster that its nodes know nothing of."""

import json
import shutil
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster
from tests.cluster.test_bad_input import create, mdcadm

pytestmark = pytest.mark.cluster


def test_an_array_of_a_cluster_that_forgot_it_is_told_until_it_is_taken_over(
    tmp_path: Path,
) -> None:
    with Cluster(tmp_path) as cluster:
        images = [cluster.image(f"m{leg}", 13) for leg in range(2)]
        cluster.start_all()
        assert create(cluster["a"], "r", *images).code == 0
        for daemon in cluster.daemons.values():
            daemon.kill()
            shutil.rmtree(daemon.state_dir)
        cluster.start_all()

        for daemon in cluster.living:
            (told,) = json.loads(mdcadm(daemon, "--why", "--json").out)["waiting"]
            assert (told["subject"], told["cause"]) == ("r", "unknown")
            assert len(told["by"]) == 2 and "earlier cluster of this name" in told["reason"]
        assert "ends when" in mdcadm(cluster["a"], "--why").out

        said = mdcadm(cluster["a"], "--adopt", "--force", *map(str, images))
        assert said.code == 0, said
        assert "no commit known here" not in mdcadm(cluster["a"], "--why").out
