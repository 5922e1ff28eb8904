"""The policy `local_fault = "leave"`: who alone cannot write a member goes, not the member."""

import pytest

from tests.vm.cluster.proof import Proof
from tests.vm.lab import Disk

LAB = {"nodes": 3, "disks": tuple(Disk(f"d{number}", 24) for number in range(1, 3))}
CLUSTER = {"policy": "leave"}
SIZE_SECTORS = 24 * 2048
DATA_SECTORS = SIZE_SECTORS - 38912
"""What an array of this lab's disks uses of each ends with the disk."""

pytestmark = pytest.mark.kernel("6.1")


def test_node_that_cannot_write_a_member_goes(proof: Proof) -> None:
    """Its kernel holds the failed write, so its writers hang until its host is switched off."""
    cluster = proof.cluster
    proof.in_sync()
    name = proof.rng.choice(proof.names)
    left = proof.others(name)
    with proof.load() as load:
        load.progress()
        disk = proof.lab[name].disks[proof.rng.choice(proof.members())]
        disk.fail_range(DATA_SECTORS, SIZE_SECTORS, reads=False)  # the bitmap's pages stay fine
        cluster.until(lambda: bool(cluster.events(name, "array_left")), f"{name} leaves")
        load.progress(*left)
        assert proof.members() == ["d1", "d2"], "the member went"
        load.gone(name)
        cluster.power_cut(name)
        cluster.until_running("data", *left)
        load.progress(*left)
        assert proof.members() == ["d1", "d2"], "the member went"
        proof.back(name, load=load)
        cluster.until_in_sync()
        load.progress()
    assert proof.verify(load)
