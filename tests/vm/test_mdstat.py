"""/proc/mdstat of a guest: true of the cluster with the daemon, the kernel's own without."""

import re

import pytest

from tests.vm.cluster.harness import SLOW_RESYNC
from tests.vm.cluster.proof import Proof
from tests.vm.lab import Disk, Guest, Mood

LAB = {"nodes": 3, "disks": tuple(Disk(f"d{number}", 24) for number in range(1, 4))}
CLUSTER = {"settings": f'{SLOW_RESYNC}[mdstat]\nbind = "/proc/mdstat"\n'}


def shown(guest: Guest) -> dict[str, str]:
    """The arrays in the file, each with its lines."""
    text = guest.read_text("/proc/mdstat")
    found = re.findall(r"^(md\w+) : .*\n(?: .*\n|\n)*", text, re.MULTILINE)
    parts = re.split(r"^(?=md\w+ : )", text, flags=re.MULTILINE)[1:]
    assert len(parts) == len(set(found)), text
    return dict(zip(found, parts, strict=True))


def is_the_kernels(guest: Guest) -> bool:
    return "super external:mdcluster" in shown(guest)["md_data"]


def test_programs_that_know_nothing_of_clusters(proof: Proof) -> None:
    cluster = proof.cluster
    proof.lab.fence.mood = Mood.FAILS  # its host is to live
    follower = next(name for name in proof.names if name != cluster.writer())
    guest = proof.lab[follower]
    guest.run("mdadm --create /dev/md0 -e 1.2 --run -l1 -n2 /dev/mapper/d3 missing")
    cluster.until(lambda: not is_the_kernels(guest), "the copy is there")
    proof.fresh()
    cluster.until(
        lambda: "resync = " in shown(guest).get("md_data", ""), "the writer's resync is seen"
    )
    now = shown(guest)
    assert "super 1.2 [2/2] [UU]" in now["md_data"] and "super 1.2 [2/1] [U_]" in now["md0"]

    real = guest.run(
        "mkdir -p /run/p; mount -t proc p /run/p; cat /run/p/mdstat; umount /run/p"
    ).out
    assert "super external:mdcluster" in real and "resync = " not in real, "the kernel's own"
    assert now["md0"].split("unused")[0].strip() in real
    assert "md_data" in guest.run("mdadm --detail --scan; cat /proc/mdstat").out

    cluster.kill(follower)
    cluster.until(lambda: is_the_kernels(guest), "the copy went with the daemon")
    cluster.start(follower)
    cluster.until(lambda: not is_the_kernels(guest), "the copy is there again")
    cluster.until_running("data", *proof.names)
    guest.run("mdadm --stop /dev/md0")
    cluster.until(lambda: [*shown(guest)] == ["md_data"], "what the kernel says shows through")
    assert cluster.stop(follower) == 0
    assert "md_data" not in shown(guest), "it stopped the array, and nothing is bound"
    cluster.start(follower)


pytestmark = pytest.mark.kernel("6.12")
