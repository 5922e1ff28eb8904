"""The core under test, as a simulated host starts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mdcluster.core.node import Node
from mdcluster.core.windows import SyncLimits
from tests.sim.disks import BLOCK_SECTORS

if TYPE_CHECKING:
    from tests.sim.hosts import Host

CLUSTER_NAME = "sim"


def node_core(host: Host) -> Node:
    """The real core with what the host's state directory remembers."""
    store, quirks = host.store, host.world.quirks
    limits = SyncLimits(
        window_min_sectors=2 * BLOCK_SECTORS,
        window_max_sectors=quirks.window_max_blocks * BLOCK_SECTORS,
        window_start_sectors=min(8, quirks.window_max_blocks) * BLOCK_SECTORS,
    )
    return Node(
        me=host.life,
        name=host.name,
        timing=host.world.timing,
        lines=host.lines,
        lines_digest=host.lines_digest,
        seed=host.world.seed * 64 + host.index * 8 + host.starts,
        spectator=host.spectator,
        promise=store.promise,
        entries=tuple(store.entries.values()),
        projected=dict(store.projected),
        cluster_name=CLUSTER_NAME,
        now_ms=host.clock_ms(),
        local_fault=quirks.local_fault,
        limits=limits,
        serial_holds=quirks.serial_holds,
        start=host.starts,
        inherited=tuple(host.md.arrays),
        outlives=host.outlives,
    )
