"""What the commands print with --json of a cluster that works fits docs/json, on any node."""

import json
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import pytest

from tests.cluster.harness import Daemon
from tests.cluster.proof import FAST, ProofCluster
from tests.unit.tools import schemas

pytestmark = pytest.mark.cluster

SCRIPT = """
change   --create /dev/md/r -l1 -n2 -x1 A B C --dry-run
change   --create /dev/md/r -l1 -n2 -x1 A B C
wait     --wait r
detail   --detail r
mdstat   --mdstat
cluster  --cluster
why      --why
change   /dev/md/r --fail A --dry-run
change   /dev/md/r --fail A --remove A
monitor  --monitor --oneshot --scan
detail   --detail --scan
wait     --wait r
wait-clean --wait-clean r
change   /dev/md/r --add A
change   --pause r
why      --why r
detail   --detail r
change   --resume r
change   --stop r --dry-run
change   --stop r
mdstat   --mdstat
change   --stop none
history  --history
history  --history r
check-timing --check-timing
"""
FAIL = ("--wait", "--monitor", "none")
"""Where the exit code may be 1."""


def mdcadm(daemon: Daemon, words: list[str]) -> list[str]:
    return [sys.executable, "-m", "mdcluster.tools.mdcadm", *words, f"--socket={daemon.socket}"]


def test_every_document_fits_its_schema(tmp_path: Path) -> None:
    with ProofCluster(tmp_path, settings=FAST) as cluster:
        cluster.start_all()
        images = {name: str(cluster.image(name, 16)) for name in "ABC"}
        events = subprocess.Popen(
            mdcadm(cluster.writer(), ["--events"]), stdout=subprocess.PIPE, text=True
        )
        assert events.stdout is not None
        told = [json.loads(events.stdout.readline())]
        nodes = cycle(cluster.living)
        for line in SCRIPT.strip().splitlines():
            name, *words = (images.get(word, word) for word in line.split())
            done = subprocess.run(
                mdcadm(next(nodes), [*words, "--json"]),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0 or any(word in line for word in FAIL), (line, done.stderr)
            documents = done.stdout.splitlines() if name == "monitor" else [done.stdout]
            for document in documents:
                schemas.check(name, json.loads(document))
            assert documents, line
        follower = next(d for d in cluster.living if d is not cluster.writer())
        follower.kill()
        while told[-1]["event"] != "node_down":
            told.append(json.loads(events.stdout.readline()))
        events.terminate()
        events.wait(20)
        for one in told:
            schemas.check("events", one)
        assert {"stream_begun", "committed", "sync_started"} <= {one["event"] for one in told}
