"""What an idle daemon costs in a guest: memory, processor, traffic. One array that nobody uses."""

import time
from collections.abc import Iterator, Sequence

from tests.bench.figures import Figure
from tests.vm.bench.cluster import BenchCluster, Run, cluster
from tests.vm.bench.rounds import Round, numbers, typical
from tests.vm.lab import Guest

NODES = 3
SIZE_MIB = 12
RSS_AIM_MIB = 45.0
IDLE_S = 6.0
LOOK = (
    "cat /proc/{pid}/task/*/schedstat | awk '{{s += $1}} END {{print s}}'; "
    "awk '/^VmRSS/ {{print $2}}' /proc/{pid}/status; "
    "cat /sys/class/net/eth0/statistics/tx_bytes; awk '{{print $1}}' /proc/uptime"
)
"""Nanoseconds on a processor, KiB, bytes sent, seconds."""


def measure(run: Run) -> Iterator[Round]:
    with cluster(run, NODES, SIZE_MIB) as made:
        made.make(SIZE_MIB, clean=True)
        while True:
            yield _once(made)


def _once(made: BenchCluster) -> Round:
    writer = made.writer()
    made.close_clients()
    before = made.lab.each(lambda guest: _look(made, guest))
    time.sleep(IDLE_S)
    after = made.lab.each(lambda guest: _look(made, guest))
    found: dict[str, float] = {"rss_mib": max(look[1] for look in after) / 1024}
    for guest, old, new in zip(made.lab.guests, before, after, strict=True):
        who = "writer" if guest.name == writer else "follower"
        passed_s = new[3] - old[3]
        cpu_percent = (new[0] - old[0]) / 1e7 / passed_s
        sent = (new[2] - old[2]) / passed_s
        found[f"{who}_percent"] = max(cpu_percent, found.get(f"{who}_percent", 0.0))
        found[f"{who}_bytes_s"] = max(sent, found.get(f"{who}_bytes_s", 0.0))
    return found


def _look(made: BenchCluster, guest: Guest) -> list[float]:
    return [float(line) for line in guest.run(LOOK.format(pid=made.daemons[guest.name].pid)).lines]


def table(rounds: Sequence[Round]) -> list[Figure]:
    part, over = f"idle, {NODES} guests", f"over {IDLE_S:g} s"
    figures = [typical(part, "RSS, worst", numbers(rounds, "rss_mib"), "MiB", RSS_AIM_MIB)]
    for who in ("writer", "follower"):
        percent, sent = numbers(rounds, f"{who}_percent"), numbers(rounds, f"{who}_bytes_s")
        figures += [
            typical(part, f"CPU of the {who}", percent, "%", note=over),
            typical(part, f"sent by the {who}", sent, "B/s", note="Ethernet, all frames"),
        ]
    return figures
