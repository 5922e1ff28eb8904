"""What an idle cluster and a short command cost."""

import os
import subprocess
import time
from pathlib import Path

from tests.bench.figures import Figure, percentile, progress
from tests.bench.lab import clean_environment, installed, lab
from tests.cluster.harness import Daemon

RSS_AIM_MIB = 50
CPU_AIM_PERCENT = 1.0
DETAIL_AIM_MS = 100
IDLE_S = 6.0
SETTLE_S = 2.0
DETAILS = 20
IMAGE_MIB = 16


def idle(base: Path, nodes: int) -> list[Figure]:
    """The worst daemon of a cluster that runs one array which nobody uses."""
    with lab(base, nodes) as cluster:
        cluster.make("r", [cluster.image(f"i{leg}", IMAGE_MIB) for leg in range(2)], clean=True)
        progress(f"{nodes} nodes idle for {SETTLE_S + IDLE_S:g} s")
        time.sleep(SETTLE_S)  # what starting left to do
        before = {daemon.name: _cpu_s(daemon) for daemon in cluster.living}
        began_s = time.monotonic()
        time.sleep(IDLE_S)
        passed_s = time.monotonic() - began_s
        percents = {
            daemon.name: 100 * (_cpu_s(daemon) - before[daemon.name]) / passed_s
            for daemon in cluster.living
        }
        rss_mib = {daemon.name: _rss_mib(daemon) for daemon in cluster.living}
        writer = cluster.writer().name
    part, note = f"{nodes} nodes", f"over {IDLE_S:g} s, one array"
    follower = max(value for name, value in percents.items() if name != writer)
    return [
        Figure(part, "RSS of a daemon, worst", max(rss_mib.values()), "MiB", RSS_AIM_MIB),
        Figure(part, "CPU of the idle writer", percents[writer], "%", CPU_AIM_PERCENT, note=note),
        Figure(part, "CPU of an idle follower", follower, "%", CPU_AIM_PERCENT, note=note),
    ]


def _cpu_s(daemon: Daemon) -> float:
    """User and system time (proc(5), /proc/PID/schedstat: nanoseconds on a CPU, of all threads)."""
    tasks = Path(f"/proc/{daemon.pid}/task")
    spent_ns = 0
    for task in tasks.iterdir():
        spent_ns += int((task / "schedstat").read_text().split()[0])
    return spent_ns / 1e9


def _rss_mib(daemon: Daemon) -> float:
    text = Path(f"/proc/{daemon.pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def client(base: Path) -> list[Figure]:
    """`mdcadm --detail` from exec to exit, and the bare interpreter beside it."""
    with lab(base, 3) as cluster:
        cluster.make("r", [cluster.image(f"i{leg}", IMAGE_MIB) for leg in range(2)], clean=True)
        via = str(cluster.others(cluster.writer())[0].socket)
        detail = [installed("mdcadm"), "--socket", via, "--detail", "r"]
        python = [installed("python"), "-c", "pass"]
        _run_ms(detail)  # compiles what was never compiled
        detail_ms: list[float] = []
        python_ms: list[float] = []
        for number in range(DETAILS):
            progress(f"mdcadm --detail {number + 1} of {DETAILS}")
            detail_ms.append(_run_ms(detail))
            python_ms.append(_run_ms(python))
    note = f"n={DETAILS}"
    part, what = "client", "mdcadm --detail, exec to exit"
    return [
        Figure(part, f"{what}, p50", percentile(detail_ms, 0.5), "ms", DETAIL_AIM_MS, note=note),
        Figure(part, f"{what}, p99", percentile(detail_ms, 0.99), "ms", DETAIL_AIM_MS, note=note),
        Figure(part, "python -c pass, p50", percentile(python_ms, 0.5), "ms", note=note),
    ]


def _run_ms(command: list[str]) -> float:
    began_s = time.monotonic()
    pid = os.posix_spawn(
        command[0],
        command,
        clean_environment(),
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)],
    )
    _, status = os.waitpid(pid, 0)
    took_ms = (time.monotonic() - began_s) * 1000
    if os.waitstatus_to_exitcode(status):
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    return took_ms
