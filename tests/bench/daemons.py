"""What an idle cluster and a short command cost."""

import os
import subprocess
import time
from pathlib import Path
from shutil import which

from tests.bench.figures import Figure, percentile, progress
from tests.bench.lab import clean_environment, installed, lab
from tests.cluster.harness import Daemon

RSS_AIM_MIB = 50
CPU_AIM_PERCENT = 1.0
DETAIL_AIM_MS = 60
FAIL_AIM_MS = 80
IDLE_S = 6.0
SETTLE_S = 2.0
COMMANDS = 30
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
    """Short commands from exec to exit, in turn with the bare interpreter and with mdadm.

    mdadm has no array of md to print here: it examines a member, which is a smaller thing.
    """
    taken: dict[str, list[float]] = {}

    def take(what: str, command: list[str]) -> None:
        taken.setdefault(what, []).append(_run_ms(command))

    with lab(base, 3) as cluster:
        images = [cluster.image(f"i{leg}", IMAGE_MIB) for leg in range(3)]
        cluster.make("r", images, clean=True)
        follower = cluster.others(cluster.writer())[0]
        mdcadm = [installed("mdcadm"), "--socket", str(follower.socket)]
        leg = str(images[2])
        _run_ms([*mdcadm, "--detail", "r"])  # compiles what was never compiled
        for number in range(COMMANDS):
            progress(f"commands, round {number + 1} of {COMMANDS}")
            take("detail", [*mdcadm, "--detail", "r"])
            take("fail", [*mdcadm, "r", "--fail", leg])
            cluster.put_back("r", leg)
            take("examine", [*mdcadm, "--examine", leg])
            take("python", [installed("python"), "-c", "pass"])
            if mdadm := which("mdadm", path="/usr/sbin:/sbin:/usr/bin:/bin"):
                take("mdadm", [mdadm, "--examine", leg])
    return [
        *_exec_to_exit("mdcadm --detail", taken["detail"], DETAIL_AIM_MS),
        *_exec_to_exit("mdcadm --fail", taken["fail"], FAIL_AIM_MS),
        *_exec_to_exit("mdcadm --examine of a member", taken["examine"])[:1],
        *_exec_to_exit("mdadm --examine of the same", taken.get("mdadm", []))[:1],
        *_exec_to_exit("python -c pass", taken["python"])[:1],
    ]


def _exec_to_exit(what: str, took_ms: list[float], aim_ms: float | None = None) -> list[Figure]:
    if not took_ms:
        return []
    note = f"n={len(took_ms)}, exec to exit"
    return [
        Figure("client", f"{what}, p50", percentile(took_ms, 0.5), "ms", aim_ms, note=note),
        Figure("client", f"{what}, p99", percentile(took_ms, 0.99), "ms", note=note),
    ]


def _run_ms(command: list[str]) -> float:
    began_s = time.monotonic()
    pid = os.posix_spawn(
        command[0],
        command,
        clean_environment(),
        file_actions=[(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_WRONLY, 0) for fd in (1, 2)],
    )
    _, status = os.waitpid(pid, 0)
    took_ms = (time.monotonic() - began_s) * 1000
    if os.waitstatus_to_exitcode(status):
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    return took_ms
