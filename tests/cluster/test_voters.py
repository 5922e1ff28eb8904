"""The voter set follows clusterips, by commits, while arrays run."""

import signal
from pathlib import Path

from tests.cluster.proof import ProofCluster


def test_a_node_is_added_and_removed_while_an_array_runs(tmp_path: Path) -> None:
    """The removed node stops the array and leaves in order: nobody has to fence it."""
    with ProofCluster(tmp_path, nodes=4) as cluster:
        old = [cluster[name] for name in "abc"]
        cluster.write_clusterips("abc")
        for daemon in old:
            daemon.start()
        cluster.writer()
        cluster.create("data", [cluster.image("one"), cluster.image("two")])

        cluster.write_clusterips()
        for daemon in old:
            daemon.signal(signal.SIGHUP)
        cluster["d"].start()
        cluster.until_running("data", "abcd")
        assert old[0].status().quorum.voters == 4

        cluster.write_clusterips("abc")
        for daemon in old:
            daemon.signal(signal.SIGHUP)
        cluster.until_running("data", "abc")
        cluster.until(lambda: old[0].status().quorum.voters == 3, "three voters")
        cluster.until(lambda: not cluster.writer().status().waiting, "nothing waits")
        assert "node_evicted" not in {line["event"] for daemon in old for line in daemon.lines}
        assert cluster["d"].stop() == 0
