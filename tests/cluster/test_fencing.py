"""Real daemons fence each other by an agent; and one whose watchdog is of no use does not run."""

import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdcluster.control.status import WhyData
from mdcluster.control.verbs import NoArgs, Verb
from tests.cluster.harness import LIMIT_S, Cluster, Daemon
from tests.cluster.proof import ProofCluster

pytestmark = pytest.mark.cluster

AGENT = """#!/bin/sh
# A fence agent for processes: plug=PIDFILE.
while IFS='=' read -r name value; do
    case $name in
        action) action=$value ;;
        plug) pid=$(cat "$value") || exit 1 ;;
    esac
done
echo "$action $pid" >>"$0.log"
[ -e "$0.broken" ] && { echo "no route to the power switch" >&2; exit 1; }
state=$(sed 's/.*) //; s/ .*//' "/proc/$pid/stat" 2>/dev/null)
case $action in
    off) kill -KILL "$pid" ;;
    status) case $state in ''|Z) exit 2 ;; esac ;;
    *) exit 1 ;;
esac
"""


@pytest.fixture
def agent(tmp_path: Path) -> Path:
    path = tmp_path / "fence_process"
    path.write_text(AGENT)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def cluster(tmp_path: Path, agent: Path) -> Iterator[ProofCluster]:
    """Three daemons that have nothing but the agent; array r runs on all."""
    nodes = "".join(f"[fence.agent.nodes.{x}]\nplug = '{tmp_path}/{x}.pid'\n" for x in "abc")
    settings = (
        f"[fence]\norder = ['agent']\n[fence.agent]\ncommand = '{agent}'\nsettle_ms = 0\n{nodes}"
    )
    with ProofCluster(tmp_path, settings=settings) as made:
        made.start_all()
        for daemon in made.daemons.values():
            (tmp_path / f"{daemon.name}.pid").write_text(str(daemon.pid))
        made.create("r", [made.image(f"m{leg}", 13) for leg in range(2)])
        made.until_running("r", "abc")
        yield made


def test_a_frozen_node_is_switched_off(cluster: ProofCluster, agent: Path) -> None:
    """What waits for it goes on within seconds, and it comes back as another life."""
    writer = cluster.writer()
    victim, other = (d for d in cluster.living if d is not writer)
    victim.freeze()
    cluster.change(Verb.FAIL, "r", str(cluster.images / "m1"), other)
    assert "agent: fence_process has switched" in writer.until("node_fenced")["how"]
    victim.wait_end()
    assert agent.with_name("fence_process.log").read_text().split("\n")[:2] == [
        f"off {victim.pid}",
        f"status {victim.pid}",
    ]
    victim.start()
    cluster.until_running("r", "abc")


def why(daemon: Daemon) -> str:
    """What this daemon says is waited for."""
    with daemon.client() as client:
        return str(client.ask(Verb.WHY, NoArgs(), WhyData))


def test_an_agent_that_fails_is_told_and_tried_again(cluster: ProofCluster, agent: Path) -> None:
    broken = agent.with_name("fence_process.broken")
    broken.touch()
    writer = cluster.writer()
    victim, other = (d for d in cluster.living if d is not writer)
    victim.freeze()
    with cluster.changing(Verb.FAIL, "r", str(cluster.images / "m1"), other):
        said = f"could not switch {victim.name} off: exit code 1 (no route to the power switch)"
        try:
            cluster.until(lambda: said in why(writer), "the failure of the agent is told")
            assert victim.alive
        finally:
            broken.unlink()
    victim.wait_end()


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("/dev/none", "No such file or directory; load its driver"),
        ("/dev/null", "it is no watchdog"),
    ],
)
def test_without_its_watchdog_a_daemon_does_not_run(tmp_path: Path, device: str, why: str) -> None:
    settings = f"[timing]\nwatchdog_ms = 10000\n[fence]\nwatchdog = '{device}'\n"
    with Cluster(tmp_path, nodes=1, settings=settings) as cluster:
        daemon = cluster["a"]
        daemon.start()
        assert daemon.wait_end() == 1
        assert f"watchdog {device}: " in daemon.text
        assert why in daemon.text
        assert "Traceback" not in daemon.text


def test_a_host_that_is_in_no_clusterips_is_never_switched_off(tmp_path: Path) -> None:
    settings = "[fence.agent]\ncommand = '/bin/true'\n[fence.agent.nodes]\naa = {}\n"
    with Cluster(tmp_path, nodes=1, settings=settings) as cluster:
        done = subprocess.run(
            cluster["a"].command("--check"),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
    assert done.returncode == 1
    assert "[fence.agent.nodes.aa]: clusterips has no such node; its nodes are a" in done.stderr
