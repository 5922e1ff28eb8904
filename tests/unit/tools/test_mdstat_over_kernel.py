"""The cluster's arrays beside those of this host's kernel, as programs read them."""

import re

import pytest

from mdcluster.control.arrays import ArrayWord, SyncState
from mdcluster.tools.mdstat import mdstat
from tests.unit.control.samples import MDSTAT

HEAD = "Personalities : [raid6] [raid5] [raid4] [raid1] "
PLAIN = """\
md0 : active raid5 sdd1[3] sdc1[1] sdb1[0]
      2093056 blocks super 1.2 level 5, 512k chunk, algorithm 2 [3/3] [UUU]
      [==>..................]  check = 12.6% (131072/1046528) finish=0.1min speed=131072K/sec
      bitmap: 0/1 pages [0KB], 65536KB chunk
"""
OURS = """\
md_data : active raid1 sdf[1] sde[0]
      1046528 blocks super external:mdcluster [2/2] [UU]
      """
NAMESAKE = OURS.replace("external:mdcluster", "1.2")
TAIL = "unused devices: sdz[0](S)"


def kernel(*blocks: str) -> str:
    return "\n".join([HEAD, *blocks, TAIL, ""])


def test_what_is_not_the_clusters_is_shown_through_as_it_is() -> None:
    (array,) = (a for a in MDSTAT.arrays if a.device == "md_data")
    text = mdstat([array._replace(level=10)], kernel(PLAIN, OURS))
    assert text.startswith(f"{HEAD}[raid10] \n{PLAIN}")
    assert text.endswith(f"\n{TAIL}\n")
    (ours,) = re.findall(r"^md_data : .*\n.*", text, re.MULTILINE)
    assert "super 1.2" in ours, "as the cluster knows it"


@pytest.mark.parametrize("other", [NAMESAKE, OURS.replace("md_data", "md_other")])
def test_only_what_the_kernel_runs_for_the_cluster_is_left_out(other: str) -> None:
    assert other in mdstat(MDSTAT.arrays, kernel(other))


def test_without_arrays_of_the_cluster_it_is_the_kernels_own() -> None:
    assert mdstat((), kernel(PLAIN)) == kernel(PLAIN)


@pytest.mark.parametrize("odd", ["", "\n", "md0 : active\n", "no such thing", "md_data : x"])
def test_whatever_the_kernel_says_the_clusters_arrays_are_there(odd: str) -> None:
    assert mdstat(MDSTAT.arrays, odd).count("md_data : active") == 1


# --- as monitoring reads it ------------------------------------------------------------------

STATUS_LINE = re.compile(r"(\d+) blocks .*\[(\d+)/(\d+)\] \[([U_]+)\]")
SYNC = tuple(map(re.compile, (r"\((\d+/\d+)\)", r"= (.+)%", r"finish=(.+)min", r"speed=(.+)[A-Z]")))


def seen_by_an_exporter(text: str) -> dict[str, str]:
    """State or pass of each array, read as github.com/prometheus/procfs reads them."""
    lines, found = text.split("\n"), {}
    for at, line in enumerate(lines):
        if not line.strip() or line[0] == " " or line.startswith(("Personalities", "unused")):
            continue
        name, _, state, *_ = line.split()
        assert len(lines) > at + 3 and lines[at + 1].split()[0].isdecimal()
        if state == "active":
            assert STATUS_LINE.search(lines[at + 1])
        sync = lines[at + 2 + ("bitmap" in lines[at + 2])]
        passes = [w for w in ("recovery", "resync", "check", "reshape") if w in sync]
        if passes and not any(word in sync for word in ("PENDING", "DELAYED")):
            assert all(pattern.search(sync) for pattern in SYNC), sync
        found[name] = passes[0] if passes else state
    return found


def test_an_exporter_understands_all_of_it() -> None:
    data, *_ = MDSTAT.arrays
    assert data.sync is not None
    still = data._replace(device="md_still", sync=None)
    waits = data._replace(device="md_waits", sync=data.sync._replace(state=SyncState.PENDING))
    off = data._replace(device="md_off", sync=None, state=ArrayWord.INACTIVE)
    text = mdstat((data, still, waits, off), kernel(PLAIN, OURS))
    assert seen_by_an_exporter(text + "\n" * 4096) == {
        "md0": "check",
        "md_data": "recovery",
        "md_still": "active",
        "md_waits": "resync",
        "md_off": "inactive",
    }
