"""How fast passes go and when they will end, from positions seen over the last seconds."""

from collections import deque
from dataclasses import dataclass, field

from mdcluster.core.model import ARRAYS_MAX, ArrayId

SPAN_MS = 10_000
SAMPLES_MAX = 64
SAMPLE_MIN_MS = 200


@dataclass(slots=True)
class _Track:
    serial: int
    seen: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=SAMPLES_MAX))


class Speeds:
    """Feed `note` whenever a position is known; ask `kib_per_s`."""

    def __init__(self) -> None:
        self._tracks: dict[ArrayId, _Track] = {}

    def note(self, array: ArrayId, serial: int, position_sectors: int, now_ms: int) -> None:
        """The pass is complete up to here at this time; another serial begins anew."""
        track = self._tracks.get(array)
        if track is None or track.serial != serial:
            self._tracks.pop(array, None)
            while len(self._tracks) >= ARRAYS_MAX:
                del self._tracks[next(iter(self._tracks))]
            track = self._tracks[array] = _Track(serial)
        if track.seen and now_ms - track.seen[-1][0] < SAMPLE_MIN_MS:
            return
        track.seen.append((now_ms, position_sectors))
        while len(track.seen) > 2 and now_ms - track.seen[0][0] > SPAN_MS:
            track.seen.popleft()

    def kib_per_s(self, array: ArrayId, serial: int) -> int:
        """Over the time noted, at most SPAN_MS; 0 while it cannot be told."""
        track = self._tracks.get(array)
        if track is None or track.serial != serial or len(track.seen) < 2:
            return 0
        (start_ms, start), (end_ms, end) = track.seen[0], track.seen[-1]
        return max(end - start, 0) * 1000 // 2 // max(end_ms - start_ms, 1)
