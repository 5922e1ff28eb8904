"""The core under test, as a simulated host starts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdcluster.core.node import Node

if TYPE_CHECKING:
    from tests.sim.hosts import Host

CLUSTER_NAME = "sim"


def node_core(host: Host) -> Node:
    """The real core with what the host's state directory remembers."""
    store = host.store
    return Node(
        me=host.life,
        name=host.name,
        timing=host.world.timing,
        lines=host.lines,
        lines_digest=host.lines_digest,
        seed=host.world.seed * 64 + host.index * 8 + host.boots,
        spectator=host.spectator,
        promise=store.promise,
        entries=tuple(store.entries.values()),
        projected=dict(store.projected),
        cluster_name=CLUSTER_NAME,
        now_ms=host.clock_ms(),
        local_fault=host.world.quirks.local_fault,
    )
