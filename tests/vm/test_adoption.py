"""Real mdadm and real md on both sides: an array taken into the cluster, and given back."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.vm.lab import Disk, Guest, Lab

LAB = {"nodes": 1, "disks": (Disk("d1", 64), Disk("d2", 64)), "udev": True}
ROOT = Path(__file__).parents[2]
PYTHON = f"{ROOT}/.venv/bin/python"
LIMIT_S = 240.0
"""Without KVM, beside others, a guest may be slow."""
TRIGGER = "udevadm trigger --action=add --subsystem-match=block; udevadm settle --timeout=60"
NAMED = "/dev/mapper/d1 /dev/mapper/d2"


def until(reached: Callable[[], bool], tell: Callable[[], str]) -> None:
    """Ask again and again: what is waited for is the state of another machine."""
    end_s = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < end_s, f"not within {LIMIT_S} s: {tell()}"
        time.sleep(0.2)


def mdcadm(node: Guest, words: str, *, check: bool = True) -> str:
    command = f"{PYTHON} -m mdcluster.tools.mdcadm {words}"
    ran = node.run(command, check=check, timeout_s=LIMIT_S)
    return f"{ran.out}{ran.err}"


def active(node: Guest) -> bool:
    """Whether the kernel runs any array."""
    return " active " in node.read_text("/proc/mdstat")


def mdstat_arrays(node: Guest) -> str:
    """All arrays that the kernel knows, inactive ones as well."""
    return "".join(x for x in node.read_text("/proc/mdstat").splitlines() if x.startswith("md"))


def stop_native(node: Guest) -> None:
    node.run("udevadm settle --timeout=60; mdadm --stop --scan; udevadm settle --timeout=60")
    assert not active(node)


@contextmanager
def cluster_of_one(node: Guest) -> Iterator[None]:
    """Its daemon runs, over the disks of the lab."""
    node.write_text("/etc/clusterips", "10.77.0.1 node1\n")
    node.write_text("/etc/mdcluster.toml", "[driver]\nmembers = ['/dev/mapper/d*']\n")
    daemon = node.spawn("daemon", f"{PYTHON} -m mdcluster.daemon.main")
    try:
        until(lambda: "writer_changed" in daemon.output(), daemon.tail)
        until(lambda: "nothing waits" in mdcadm(node, "--why", check=False), daemon.tail)
        yield
    finally:
        daemon.kill()


def native_array(node: Guest) -> str:
    """A mirror of stock mdadm, full of noise, stopped; the checksum of its contents."""
    node.run(
        "mdadm --create /dev/md/data --run --level=1 --raid-devices=2 --bitmap=internal "
        f"--homehost=stock --name=data {NAMED}"
    )
    node.run("mdadm --wait /dev/md/data", check=False)
    node.run("dd if=/dev/urandom of=/dev/md/data bs=1M oflag=direct conv=fsync", check=False)
    contents = checksum(node)
    stop_native(node)
    return contents


def checksum(node: Guest) -> str:
    return node.run("md5sum /dev/md/data").out.split()[0]


def attempts(node: Guest) -> int:
    """How often the kernel was asked to take a member that it refused."""
    return node.run("dmesg").out.count("not importing")


def test_there_and_back(lab: Lab) -> None:
    node = lab["node1"]
    contents = native_array(node)
    with cluster_of_one(node):
        assert "has been started with 2 drives" in mdcadm(node, f"--adopt {NAMED}")
        node.run("udevadm settle --timeout=60")
        assert mdstat_arrays(node) == ""  # udev looked at each close, and took nothing
        assert "State : clean" in mdcadm(node, "--detail /dev/md/data")
        refused_by_stock_tools(node)
        mdcadm(node, "--release /dev/md/data")
        stop_native(node)  # udev may have started it: it is a plain array again
        equal_and_clean(node, contents)

        # In use by the kernel it cannot be taken in; stopped it can, with the events it has by now.
        assert "busy" in mdcadm(node, f"--adopt {NAMED}", check=False)
        node.run("dd if=/dev/zero of=/dev/md/data bs=1M count=1 oflag=direct conv=fsync")
        contents = checksum(node)
        stop_native(node)
        mdcadm(node, f"--adopt --name=again {NAMED}")
        mdcadm(node, "--release again")
        stop_native(node)
        equal_and_clean(node, contents)
        stop_native(node)


def refused_by_stock_tools(node: Guest) -> None:
    """Printed, but not started: by mdadm, by the kernel, by udev."""
    assert "State : clean" in node.run("mdadm --examine /dev/mapper/d1").out
    before = attempts(node)
    for command in (
        f"mdadm --assemble --run /dev/md/data {NAMED}",
        "mdadm --incremental --run /dev/mapper/d1",
    ):
        node.run(command, check=False)  # mdadm may say "started with 0 drives (out of 2)", and 0
        assert not active(node)
    node.run(TRIGGER)
    assert attempts(node) > before
    stop_native(node)


def equal_and_clean(node: Guest, contents: str) -> None:
    """Assembled by stock mdadm: the contents are these, and the legs are the same."""
    node.run(f"mdadm --assemble /dev/md/data {NAMED}")
    assert checksum(node) == contents
    assert "State : clean" in node.run("mdadm --detail /dev/md/data").out
    md = node.run("readlink -f /dev/md/data").out.strip().replace("/dev/", "/sys/block/") + "/md"
    node.run(f"echo check > {md}/sync_action")
    node.run("mdadm --wait /dev/md/data", check=False)
    assert node.read_text(f"{md}/mismatch_cnt").strip() == "0"


def test_the_udev_rule_keeps_members_away(lab: Lab) -> None:
    node = lab["node1"]
    node.run(f"cp {ROOT}/daemon/udev/63-mdcluster.rules /etc/udev/rules.d/; udevadm control -R")
    contents = native_array(node)
    with cluster_of_one(node):
        mdcadm(node, f"--adopt {NAMED}")
        node.run("udevadm settle --timeout=60")
        before = attempts(node)
        node.run(TRIGGER)
        assert "MDCLUSTER_MEMBER=1" in node.run("udevadm info /dev/mapper/d1").out
        assert attempts(node) == before  # nobody has even tried
        mdcadm(node, "--release data")
    node.run(TRIGGER)
    assert "MDCLUSTER_MEMBER" not in node.run("udevadm info /dev/mapper/d1").out
    assert active(node)  # mdadm takes it for one of another host, and calls it data_0
    stop_native(node)
    equal_and_clean(node, contents)
    stop_native(node)
