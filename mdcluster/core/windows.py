"""The arithmetic of resync windows: how large, up to where, how often. No effects."""

from collections.abc import Iterable
from dataclasses import dataclass

from mdcluster.core.env import Env
from mdcluster.core.geometry import chunk_grain, end_sectors
from mdcluster.core.messages import HoldReport
from mdcluster.core.model import LOOKING, ArrayState

_ALIGN_SECTORS = 128
"""64 KiB: md copies so much at a time (RESYNC_BLOCK_SIZE of drivers/md/raid1-10.c)."""


@dataclass(frozen=True, slots=True)
class SyncLimits:
    """Bounds of a window, in sectors, and of the speed, in KiB/s (0: as fast as it goes)."""

    window_min_sectors: int = 2 * 2048
    window_max_sectors: int = 32 * 2048
    window_start_sectors: int = 8 * 2048
    speed_max_kib: int = 0


def window_end(state: ArrayState, lo_sectors: int, size_sectors: int, max_sectors: int) -> int:
    """Where a window of about this size that begins at `lo` ends.

    At the end of a chunk of the bitmap if such a window is not larger than `max`, else of a
    chunk of the array (md takes no other sync_max); at the end of the array at the latest.
    """
    grain = chunk_grain(state)
    if grain > max_sectors:
        grain = max(state.chunk_sectors, _ALIGN_SECTORS)
    hi = (lo_sectors + size_sectors) // grain * grain
    if hi <= lo_sectors:
        hi = (lo_sectors // grain + 1) * grain
    return min(hi, end_sectors(state))


def adapted(
    size_sectors: int, window_sectors: int, held_ms: int, target_ms: int, limits: SyncLimits
) -> int:
    """The size of the next windows, after one of `window_sectors` was held for `held_ms`.

    Proportional, at most half or a quarter more at once; a window that happened to be short
    (the end of the array, a clean range) does not let the next ones grow.
    """
    ideal = window_sectors * target_ms // max(held_ms, 1)
    bounded = max(size_sectors // 2, min(ideal, size_sectors * 5 // 4))
    if 2 * window_sectors < size_sectors:
        bounded = size_sectors if held_ms <= target_ms else min(bounded, size_sectors)
    return max(limits.window_min_sectors, min(bounded, limits.window_max_sectors))


def pace_ms(window_sectors: int, speed_max_kib: int) -> int:
    """How long a window of this size has to last so that the speed is kept; 0: no limit."""
    return window_sectors * 500 // speed_max_kib if speed_max_kib else 0


class Pace:
    """How large the windows of a pass are, as measured, and when the next one is due."""

    def __init__(self, env: Env, limits: SyncLimits) -> None:
        self._env, self._limits = env, limits
        self.size_sectors = limits.window_start_sectors
        self._held_since_ms: dict[int, int] = {}  # window end -> when it was announced
        self._copied_since_ms = 0

    @property
    def ahead(self) -> bool:
        """Whether the next window is announced while one is copied: at full speed only."""
        return not self._limits.speed_max_kib

    def window_end(self, state: ArrayState, lo_sectors: int) -> int:
        """Where the next window ends, if it begins at `lo`."""
        return window_end(state, lo_sectors, self.size_sectors, self._limits.window_max_sectors)

    def announced(self, complete: int, hi: int, since_ms: int) -> None:
        open_ends = {end: at for end, at in self._held_since_ms.items() if end > complete}
        self._held_since_ms = {**open_ends, hi: since_ms}

    def begins(self) -> None:
        """A window is being copied from now on."""
        self._copied_since_ms = self._env.now_ms

    def copied(self, lo: int, hi: int) -> int:
        """The window is done; returns when (ms) the next one is due, for the speed limit."""
        held_ms = self._env.now_ms - self._held_since_ms.pop(hi, self._copied_since_ms)
        target_ms = self._env.timing.hold_target_ms
        self.size_sectors = adapted(self.size_sectors, hi - lo, held_ms, target_ms, self._limits)
        return self._copied_since_ms + pace_ms(hi - lo, self._limits.speed_max_kib)


def resume_point(
    state: ArrayState, reports: Iterable[HoldReport], own: HoldReport | None = None
) -> int:
    """Where a new writer goes on: the highest position that anybody knows to be complete.

    That is the committed checkpoint, or what the writer before told any node of the same
    pass (it tells so only after all before it was copied and flushed). A check or a repair goes
    on at its checkpoint: what was found behind it, nobody was told.
    """
    sync = state.sync
    if sync is None:
        return 0
    complete = sync.position_sectors
    if sync.kind in LOOKING:
        return complete
    for report in (*reports, own):
        if report and (report.array, report.serial) == (state.uuid, sync.serial):
            complete = max(complete, report.complete_sectors)
    return min(complete, end_sectors(state))
