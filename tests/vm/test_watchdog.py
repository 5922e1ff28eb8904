"""Hosts that their own watchdog resets, under daemons that do not answer any more."""

import pytest

from tests.vm.cluster.proof import Proof
from tests.vm.lab import Disk

LAB = {"nodes": 3, "disks": tuple(Disk(f"d{number}", 24) for number in range(1, 3))}
CLUSTER = {"watchdog_ms": 12_000}
RESET_S = 60.0
"""io_lease_ms + grace_ms + watchdog_ms, the kernel's last feed, and slow guests."""

pytestmark = pytest.mark.kernel("6.12")


def fenced(proof: Proof, names: list[str]) -> list[str]:
    """How the dead were ended, as the writer has logged it."""
    return [event["how"] for name in names for event in proof.cluster.events(name, "node_fenced")]


def test_frozen_daemon_is_reset_with_its_host(proof: Proof) -> None:
    """Its kernel copies on and writes on, until the watchdog ends it; then it is taken over."""
    cluster = proof.cluster
    proof.fresh()
    with proof.load() as load:
        load.progress()
        proof.in_mid_resync()
        frozen = cluster.writer()
        left = proof.others(frozen)
        load.gone(frozen)
        cluster.freeze(frozen)
        proof.lab[frozen].wait_dead(RESET_S)
        cluster.gone(frozen)
        assert not fenced(proof, left), "others went on before it was reset"
        cluster.writer(left)
        cluster.until_running("data", *left)
        assert ["its watchdog has reset it" in how for how in fenced(proof, left)] == [True]
        load.progress(*left)
        proof.back(frozen, load=load)
        load.progress()
        cluster.until_in_sync()
    assert proof.verify(load)


@pytest.mark.long
def test_host_that_is_cut_off_is_reset(proof: Proof) -> None:
    """It gets no lease, feeds its watchdog no more, and is taken for dead after that only."""
    cluster = proof.cluster
    proof.in_sync()
    with proof.load() as load:
        load.progress()
        before = fenced(proof, proof.names)
        cut = proof.rng.choice(proof.names)
        left = proof.others(cut)
        load.gone(cut)
        proof.lab.network.isolate(cut)
        proof.lab[cut].wait_dead(RESET_S)
        cluster.gone(cut)
        assert not set(fenced(proof, left)) - set(before), "others went on before it was reset"
        cluster.until_running("data", *left)
        load.progress(*left)
        proof.lab.network.heal()
        proof.back(cut, load=load)
        load.progress()
        cluster.until_in_sync()
    assert proof.verify(load)
