"""Copying in a simulated shell: the steps of a pass, block by block, as far as md would go.

A step may be cut short, leave blocks out, or be overtaken by a stop; it says how much it was to
copy and how much it has copied. Each block is read, and behind the gate written, by itself.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from mdcluster.core.effects import Effect, LimitSync, StartSync, StopSync
from mdcluster.core.events import Event, SyncReached, SyncStopped
from mdcluster.core.model import LOOKING, ArrayId, SyncKind
from tests.sim.disks import BLOCK_SECTORS, SIZE_SECTORS
from tests.sim.mdmodel import BY_POSITION, Leg, MdArray, Sync

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.world import World

GATE_SHUT = "the gate is shut"
INTERRUPTED = "interrupted: a member came or went"


class Copying:
    """The part of an :class:`ArrayShell` that copies."""

    host: Host
    world: World

    def done(self, effect: Effect, event: Event | None) -> None:
        raise NotImplementedError

    def md(self, array: ArrayId) -> MdArray | None:
        raise NotImplementedError

    def gate_lets_through(self) -> bool:
        raise NotImplementedError

    def start_sync(self, effect: StartSync) -> None:
        array = self.md(effect.array)
        if array is not None:
            kind, position = effect.kind, effect.position_sectors
            if self.world.quirks.kernel_md:
                kind = SyncKind.RECOVER if array.recovering else kind
                position = position if kind in BY_POSITION else 0
            array.sync = Sync(effect.serial, kind, position)
        self.done(effect, None)

    def stop_sync(self, effect: StopSync) -> None:
        """Answered when nothing is copied any more: the present block, and steps not begun."""
        array = self.md(effect.array)
        if array is not None and array.sync is not None:
            array.sync.stopping = True
            if array.sync.copying:
                self.host.later(500, self.stop_sync, effect)
                return
            array.sync = None
        self.done(effect, SyncStopped(effect.array, effect.serial))

    def limit_sync(self, effect: LimitSync) -> None:
        array = self.md(effect.array)
        sync = array.sync if array is not None else None
        if sync is not None and sync.stopping:
            self._unanswered(effect)
            return
        if array is None or sync is None or sync.serial != effect.serial:
            self._reached(effect, 0, 0, 0, SIZE_SECTORS, "no such pass is running")
            return
        if sync.interrupted or (array.recovering and sync.kind is not SyncKind.RECOVER):
            self._reached(effect, 0, 0, 0, SIZE_SECTORS, INTERRUPTED)
            return
        mask = array.plan(sync, sync.position, effect.hi_sectors)
        blocks = [block for block in range(SIZE_SECTORS // BLOCK_SECTORS) if mask >> block & 1]
        planned = len(blocks)
        if self.host.outlives and not self.gate_lets_through():
            # Asked once, here: md copies on by itself.
            self._reached(effect, 0, 0, 0, SIZE_SECTORS, GATE_SHUT)
            return
        if blocks and self.world.rng.random() < self.world.quirks.copies_short:
            self.world.load["copies_cut_short"] += 1
            if self._cut_short(effect, sync, planned):
                return
            left_out = blocks.pop(self.world.rng.randrange(planned))  # md says so
            sync.left_out |= array.whole(1 << left_out)
        self.world.load["windows"] += 1
        sync.copying, sync.mismatched = True, 0
        self._copy_next(effect, array, sync, deque(blocks), (planned, 0))

    def _cut_short(self, effect: LimitSync, sync: Sync, planned: int) -> bool:
        """The step ends at once, with a problem or just short of its end; or it goes on."""
        draw = self.world.rng.random()
        if draw < 0.3:
            self._reached(effect, 0, planned, 0, SIZE_SECTORS, "the resync was interrupted")
        elif draw < 0.6:
            self._reached(effect, sync.position, planned, 0, SIZE_SECTORS, "")
        return draw < 0.6

    def _unanswered(self, effect: LimitSync) -> None:
        """A step that a stop overtakes may stay without an answer."""
        self.done(effect, None)

    def _reached(
        self,
        effect: LimitSync,
        at: int,
        planned: int,
        copied: int,
        next_dirty: int,
        problem: str,
        mismatched: int = 0,
    ) -> None:
        planned, copied = planned * BLOCK_SECTORS, copied * BLOCK_SECTORS
        event = SyncReached(
            effect.array, effect.serial, at, planned, copied, next_dirty, problem, mismatched
        )
        self.done(effect, event)

    def _copy_next(
        self,
        effect: LimitSync,
        array: MdArray,
        sync: Sync,
        blocks: deque[int],
        count: tuple[int, int],
    ) -> None:
        """Read one block and, behind the gate, write it; count: (planned, copied)."""
        again = (effect, array, sync, blocks, count)
        if sync.stopping:
            sync.copying = False
            if self.world.rng.random() < 0.5:
                self._unanswered(effect)
            else:
                self._reached(effect, sync.position, *count, SIZE_SECTORS, "stopped")
            return
        if not blocks:
            sync.copying = False
            sync.position = effect.hi_sectors
            next_dirty = array.next_dirty(effect.hi_sectors)
            self._reached(
                effect, effect.hi_sectors, *count, next_dirty, "", sync.mismatched * BLOCK_SECTORS
            )
            return
        block = blocks[0]
        if any(write.block == block and write.pending for write in array.in_flight):
            self.host.md_later(1000, self._copy_next, *again)  # md's own barrier
            return
        sources = [leg for leg in array.legs if leg.in_sync and not leg.faulty]
        problem = INTERRUPTED if sync.interrupted else "" if sources else "no member in sync"
        if not problem and not sources[0].disk.reads_for(self.host.index):
            problem = "read error"
        if not problem and not self.host.outlives and not self.gate_lets_through():
            problem = GATE_SHUT
        if problem:
            sync.copying = False
            self._reached(effect, block * BLOCK_SECTORS, *count, SIZE_SECTORS, problem)
            return
        sync.busy_block = block
        self.world.check.copying(self.host, array, block, sources[0])
        value = sources[0].disk.data[block]
        delay_us = self.world.rng.randrange(200, 1500) + sources[0].disk.slow_us
        self.host.md_later(delay_us, self._copy_write, *again, sources[0], value)

    def _copy_write(
        self,
        effect: LimitSync,
        array: MdArray,
        sync: Sync,
        blocks: deque[int],
        count: tuple[int, int],
        source: Leg,
        value: int,
    ) -> None:
        block = blocks.popleft()
        self.world.check.copying(self.host, array, block, source)
        recovers = sync.kind is SyncKind.RECOVER  # then md writes to who recovers, only
        targets = [x for x in array.legs if not x.faulty and not (recovers and x.in_sync)]
        if sync.kind in LOOKING:
            self.world.load["blocks_compared"] += 1
            targets = [leg for leg in targets if leg.in_sync and leg.disk.data[block] != value]
            sync.mismatched += len(targets)
        problem = ""
        for leg in targets if sync.kind is not SyncKind.CHECK else ():
            if leg.disk.writes_for(self.host.index) and leg.disk.device == leg.device:
                self.world.check.disk_written(self.host, leg.disk)
                leg.disk.data[block] = value
            else:
                problem = f"write error on {leg.device}"
                array.member_error(leg, "write error of the resync")
        sync.busy_block = -1
        if problem:
            sync.copying = False
            array.resubmit()
            self._reached(effect, block * BLOCK_SECTORS, *count, SIZE_SECTORS, problem)
            return
        if sync.kind not in LOOKING:
            array.copied(block)
            self.world.load["blocks_copied"] += 1
        array.resubmit()
        self._copy_next(effect, array, sync, blocks, (count[0], count[1] + 1))
