"""A script written for mdadm, run by mdcadm against three daemons, each line on another node."""

import shlex
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster
from tests.cluster.images import superblock

pytestmark = pytest.mark.cluster

UUID = "8a2d4b1c:0f3e4a5b:9c6d7e8f:90a1b2c3"
SCRIPT = f"""
-CR r -l1 -n2 -x1 A B C -b clustered --nodes=3 --homehost=any --data-offset=16M -u {UUID} -ayes
-W /dev/md/r
/dev/md/r --fail A --remove A
-Wq r
--zero-superblock A
/dev/md/r -a A
/dev/md/r --fail C --remove failed --add-spare C
-Wq r
-Dq r
/dev/md/r --replace B
-Wq r
/dev/md/r --remove faulty
/dev/md/r --fail A --remove A --re-add A
-Wq r
-Ss
-As --uuid={UUID} --no-degraded
--wait-clean --scan
-S /dev/md/r
-A /dev/md/r A C --name=any:r --uuid={UUID}
-S r
-AR r
-Dt r
"""
NOTHING_TO_WAIT_FOR = 1


def mdcadm(line: str, socket: Path, base: Path) -> "subprocess.CompletedProcess[str]":
    words = [str(base / word) if word in "ABC" else word for word in shlex.split(line)]
    return subprocess.run(
        [sys.executable, "-m", "mdcluster.tools.mdcadm", "--socket", str(socket), *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_script_for_mdadm_does_the_same_on_any_node(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start_all()
        images = {name: cluster.image(name, 32) for name in "ABC"}
        nodes = cycle(cluster.living)
        for line in SCRIPT.strip().splitlines():
            done = mdcadm(line, next(nodes).socket, images["A"].parent)
            allowed = (0, NOTHING_TO_WAIT_FOR) if line.startswith("-W") else (0,)
            assert done.returncode in allowed, (line, done.stderr)
        assert superblock(images["A"]).data_offset_sectors == 16 << 11
        assert superblock(images["A"]).set_name == "r"
