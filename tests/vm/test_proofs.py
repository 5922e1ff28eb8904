"""Real md on three guests with clients on all of them, broken at random moments.

After each: the members are the same byte for byte, and every acknowledged write is on them; in
between, no reader on any node saw old after new.
"""

import pytest

from mdcluster.control.client import RefusedError
from mdcluster.control.verbs import Verb
from tests.vm.cluster.daemon import NO_HOLDS
from tests.vm.cluster.proof import Proof
from tests.vm.lab import Disk, Mood

LAB = {
    "nodes": 3,
    "disks": tuple(Disk(f"d{number}", 24) for number in range(1, 5)),
    "attach": {"node3": ("d1", "d2", "d3")},
}
only = pytest.mark.kernel


def test_resync(proof: Proof) -> None:
    proof.fresh()
    with proof.load() as load:
        load.progress()
        proof.cluster.until_in_sync()
        load.progress()
    assert proof.verify(load)


@only("6.1")
def test_recovery(proof: Proof) -> None:
    cluster = proof.cluster
    proof.in_sync()
    gone, new = ("d2", "d3") if "d2" in proof.members() else ("d3", "d2")
    proof.noise(new)
    with proof.load() as load:
        load.progress()
        cluster.change(Verb.FAIL, gone, via=proof.rng.choice(proof.names))
        load.progress()
        cluster.change(Verb.REMOVE, gone)
        cluster.change(Verb.ADD, new)
        cluster.until_in_sync()
        load.progress()
    assert proof.members() == ["d1", new]
    assert proof.verify(load)


def test_writer_killed_in_resync(proof: Proof) -> None:
    """Fenced by an agent, taken over."""
    cluster = proof.cluster
    proof.fresh()
    with proof.load() as load:
        load.progress()
        dead = cluster.writer()
        left = proof.others(dead)
        proof.in_mid_resync()
        cluster.power_cut(dead)
        load.gone(dead)
        cluster.writer(left)
        cluster.until_running("data", *left)
        load.progress(*left)
        proof.back(dead, load=load)
        load.progress()
        cluster.until_in_sync()
    assert proof.verify(load)


@only("6.1")
def test_nothing_is_taken_over_unfenced(proof: Proof) -> None:
    """No provider can fence the writer that is gone: its windows wait, and it is said so."""
    cluster = proof.cluster
    proof.fresh()
    with proof.load() as load:
        load.progress()
        proof.in_mid_resync()
        proof.lab.fence.mood = Mood.FAILS
        dead = cluster.writer()
        left = proof.others(dead)
        cluster.power_cut(dead)
        load.gone(dead)
        heir = cluster.writer(left)
        cluster.until(lambda: "--fence-ack" in cluster.why(heir), f"{heir} waits for {dead}")
        assert dead in cluster.why(heir)
        before = cluster.detail(via=heir).sync
        proof.a_while(2.0)
        assert before is not None
        now = cluster.detail(via=heir).sync
        assert now is not None
        assert now.position_sectors == before.position_sectors, "copied although it may write"
        cluster.fence_ack(dead, via=heir)
        cluster.until_running("data", *left)
        load.progress(*left)
        proof.back(dead, load=load)
        cluster.until_in_sync()
        load.progress()
    assert proof.verify(load)


@only("6.12")
def test_follower_killed(proof: Proof) -> None:
    """What its bitmap says is resynced before it comes back."""
    cluster = proof.cluster
    proof.in_sync()
    with proof.load() as load:
        load.progress()
        dead = proof.rng.choice(proof.others(cluster.writer()))
        left = proof.others(dead)
        proof.a_while()
        cluster.power_cut(dead)
        load.gone(dead)
        cluster.until_running("data", *left)
        load.progress(*left)
        cluster.until_in_sync()
        proof.back(dead, load=load)
        load.progress()
    assert proof.verify(load)


@only("6.1")
def test_member_fails_on_one_host(proof: Proof) -> None:
    """Policy `fail`: others can write it, it goes nevertheless; no node reads it any more."""
    cluster = proof.cluster
    proof.in_sync()
    disk = proof.rng.choice(proof.members())
    guest = proof.lab[proof.rng.choice(proof.names)]
    with proof.load() as load:
        load.progress()
        guest.disks[disk].fail_writes()
        cluster.until(lambda: cluster.members().get(disk) == "faulty", f"{disk} is failed")
        load.progress()
        guest.disks[disk].heal()
        cluster.change(Verb.REMOVE, disk)
        cluster.change(Verb.ADD, disk)
        cluster.until_in_sync()
        load.progress()
    assert proof.verify(load)


@only("6.12")
def test_opposite_members_fail_on_two_hosts(proof: Proof) -> None:
    """One member goes, the last good one never does: the node that cannot write it gives up."""
    cluster = proof.cluster
    proof.in_sync()
    first, second = proof.rng.sample(proof.names, 2)
    one, other = proof.members()
    with proof.load() as load:
        load.progress()
        for name, disk in ((first, one), (second, other)):
            load.excuse(name)
            proof.lab[name].disks[disk].fail_writes()
        cluster.until(lambda: len(proof.members()) == 1, "one member is failed")
        (last,) = proof.members()
        load.progress(next(name for name in proof.names if name not in (first, second)))
        proof.a_while()
        assert proof.members() == [last]
        hit = first if last == one else second
        cluster.power_cut(hit)
        load.gone(hit)
        for name in proof.others(hit):
            for disk in (one, other):
                proof.lab[name].disks[disk].heal()
        cluster.until_running("data", *proof.others(hit))  # or it is fenced while it boots
        proof.back(hit, load=load)
        gone = other if last == one else one
        cluster.change(Verb.REMOVE, gone)
        cluster.change(Verb.ADD, gone)
        cluster.until_in_sync()
        load.progress()
    assert proof.verify(load)


@only("6.12")
def test_member_that_one_host_does_not_see(proof: Proof) -> None:
    """It is refused: whoever cannot write it would leave it behind."""
    proof.in_sync()
    before = proof.cluster.members()
    with pytest.raises(RefusedError, match="node3"):
        proof.cluster.change(Verb.ADD, "d4", via="node1")
    assert proof.cluster.members() == before


@only("6.12")
def test_writer_frozen_and_thawed(proof: Proof) -> None:
    """Longer than its lease: another one leads, and copies only once the old one is heard of."""
    cluster = proof.cluster
    proof.lab.fence.mood = Mood.FAILS
    proof.fresh()
    with proof.load() as load:
        load.progress()
        proof.in_mid_resync()
        frozen = cluster.writer()
        proof.lab[frozen].freeze()
        left = proof.others(frozen)
        cluster.writer(left)
        proof.a_while()  # writes into its window wait, as it may still copy there
        proof.lab[frozen].thaw()
        cluster.until_running("data", *proof.names)
        cluster.until_in_sync()
        load.progress()
    assert proof.verify(load)


@pytest.mark.parametrize(
    "what",
    [
        pytest.param("writer", marks=only("6.12")),
        pytest.param("follower", marks=only("6.1")),
        pytest.param("writer mute", marks=only("6.1")),
        pytest.param("writer deaf", marks=only("6.12")),
    ],
)
def test_network_cut(proof: Proof, what: str) -> None:
    """The others go on without it; it holds its writes, and goes on when it is heard again."""
    cluster, network = proof.cluster, proof.lab.network
    proof.lab.fence.mood = Mood.FAILS
    proof.fresh()
    with proof.load() as load:
        load.progress()
        proof.in_mid_resync()
        writer = cluster.writer()
        cut = proof.rng.choice(proof.others(writer)) if what == "follower" else writer
        break_it = {"writer mute": network.mute, "writer deaf": network.deafen}
        break_it.get(what, network.isolate)(cut)
        left = proof.others(cut)
        cluster.writer(left)
        proof.a_while()
        network.heal()
        cluster.until_running("data", *proof.names)
        cluster.until_in_sync()
        load.progress()
    assert proof.verify(load)


@only("6.12")
def test_power_cycle_with_one_missing(proof: Proof) -> None:
    """All at once in the middle of writes; two come back, then the third."""
    cluster = proof.cluster
    proof.in_sync()
    with proof.load() as load:
        load.progress()
        proof.a_while()
        for name in proof.names:
            cluster.power_cut(name)
            load.gone(name)
        missing = proof.rng.choice(proof.names)
        proof.back(*proof.others(missing), load=load)
        load.progress()
        proof.back(missing, load=load)
        cluster.until_in_sync()
        load.progress()
    assert proof.verify(load)


@only("6.1")
def test_daemon_killed_and_restarted(proof: Proof) -> None:
    """Its arrays run on in the kernel meanwhile; the next one takes them over as they are."""
    cluster = proof.cluster
    proof.lab.fence.mood = Mood.FAILS  # its host is to live
    proof.fresh()
    with proof.load() as load:
        load.progress()
        proof.in_mid_resync()
        for name in (cluster.writer(), proof.rng.choice(proof.names)):
            cluster.kill(name)
            proof.a_while()
            cluster.start(name)
            cluster.until_running("data", *proof.names)
            load.progress()
        cluster.until_in_sync()
    assert proof.verify(load)


@only("6.12")
def test_control_without_holds(proof: Proof) -> None:
    """What the others prove can fail: where ranges are not held, blocks differ."""
    cluster = proof.cluster
    proof.lab.each(lambda guest: guest.run(f"touch {NO_HOLDS}"))
    proof.fresh()
    writer = cluster.writer()
    copied_to = proof.lab[writer].disks["d2"]
    copied_to.delay(writes_ms=4000)  # what lies between the read and the write of a copy
    with pytest.raises(AssertionError, match=r"blocks: |acknowledged|was known"):
        with proof.load(0, tuple(proof.others(writer))) as load:
            load.progress(writes=200)
        assert cluster.detail().sync is not None, "it was over before"
        # The last writes have met copies on their way, and nobody writes these blocks again.
        copied_to.heal()
        cluster.until_in_sync()
        proof.verify(load)
    proof.lab.each(lambda guest: guest.run(f"rm {NO_HOLDS}"))
    cluster.forget()  # the next one begins anew
