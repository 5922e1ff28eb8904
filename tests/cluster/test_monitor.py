"""--monitor beside three daemons: one alert an event, whatever happens to the daemons."""

import json
import os
import shlex
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from mdcluster.control.verbs import Verb
from tests.cluster.harness import LIMIT_S, Daemon
from tests.cluster.proof import FAST, ProofCluster
from tests.cluster.test_bad_input import create, mdcadm_of

pytestmark = pytest.mark.cluster


class Monitor:
    """Of one node. What it sees it shows, as lines of JSON; what it sends goes to a program."""

    def __init__(self, daemon: Daemon, base: Path) -> None:
        self._shown = base / f"{daemon.name}.shown"
        self._sent = base / f"{daemon.name}.sent"
        program = base / f"{daemon.name}.sh"
        program.write_text(f'#!/bin/sh\necho "$@" >>{shlex.quote(str(self._sent))}\n')
        program.chmod(0o755)
        words = ("--monitor", "--scan", "--test", "--delay=1", "--json", f"--program={program}")
        self.command = mdcadm_of(daemon, *words)

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._shown.open("wb") as out, subprocess.Popen(self.command, stdout=out) as process:
            try:
                yield
            finally:
                process.terminate()
                process.wait(LIMIT_S)

    def shown(self, event: str) -> bool:
        lines = self._shown.read_text().splitlines(keepends=True)
        return event in [json.loads(line)["event"] for line in lines if line.endswith("\n")]

    def sent(self) -> list[str]:
        return self._sent.read_text().splitlines() if self._sent.exists() else []


def test_one_alert_an_event_and_none_again_when_a_daemon_restarts(tmp_path: Path) -> None:
    with ProofCluster(tmp_path, settings=FAST) as cluster, ExitStack() as running:
        cluster.start_all()
        images = [cluster.image(f"m{leg}", 13) for leg in range(2)]
        assert create(cluster["a"], "r", *images).code == 0
        cluster.until_running("r", cluster.daemons)
        monitors = {d.name: Monitor(d, tmp_path) for d in cluster.living}
        for monitor in monitors.values():
            running.enter_context(monitor.running())

        def all_show(event: str, *names: str) -> None:
            seen = [monitors[name] for name in names or monitors]
            cluster.until(lambda: all(m.shown(event) for m in seen), f"{event} is shown")

        all_show("TestMessage")
        writer = cluster.writer()
        follower = next(d for d in cluster.living if d is not writer)
        cluster.change(Verb.FAIL, "r", str(images[1]))
        all_show("Fail")

        assert follower.stop() == 0
        all_show("NodeLost", writer.name)
        follower.start()
        cluster.until_running("r", cluster.daemons)
        all_show("NodeBack", writer.name)

        cluster.change(Verb.READD, "r", str(images[1]))
        all_show("SpareActive")
        cluster.stop_array("r")
        all_show("DeviceDisappeared")  # by now each has sent what it was to send before
        device, leg, name = "/dev/md/r", str(images[1]), "mdcluster"
        sent = Counter(line for m in monitors.values() for line in m.sent())
        others = ("Rebuild", "DeviceDisappeared")  # as far as it went before a look; the end
        told = {line: count for line, count in sent.items() if not line.startswith(others)}
        assert told == {
            f"TestMessage {device}": 3,
            f"Fail {device} {leg}": 1,
            f"NodeLost {name} {follower.name}": 1,
            f"NodeBack {name} {follower.name}": 1,
            f"SpareActive {device} {leg}": 1,
        }
        assert all(count == 1 for line, count in sent.items() if line not in told)
        assert {m for m in monitors if len(monitors[m].sent()) > 1} == {writer.name}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts take root")
def test_alerts_in_syslog(tmp_path: Path) -> None:
    """/dev/log is the test's own, in a mount namespace of the monitor's."""
    with (
        ProofCluster(tmp_path, 1) as cluster,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log,
    ):
        log.bind(str(tmp_path / "log"))
        log.settimeout(LIMIT_S)
        cluster.start_all()
        images = [cluster.image(f"m{leg}", 13) for leg in range(2)]
        assert create(cluster["a"], "r", *images).code == 0
        cluster.change(Verb.FAIL, "r", str(images[1]))
        words = mdcadm_of(cluster["a"], "--monitor", "--oneshot", "--syslog", "--test", "r")
        script = (
            "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && "
            f"ln -s {shlex.quote(str(tmp_path))}/log /dev/log && {shlex.join(words)}"
        )
        subprocess.run(["unshare", "--mount", "sh", "-c", script], timeout=LIMIT_S, check=True)
        said = [log.recv(4096).decode() for _ in range(2)]
    for line, (level, event) in zip(said, ((6, "TestMessage"), (2, "DegradedArray")), strict=True):
        assert line.startswith(f"<{3 << 3 | level}>"), "facility daemon, by severity"
        assert line.rstrip("\0").endswith(f": {event} event detected on md device /dev/md/r")
        assert " mdcadm[" in line
