"""What was recorded of a kernel's md, played again on the embedded driver: same events and states.

Where the two differ stands in DIFFERS: the step from which on, and how (of both kernels, or of the
one that is named). Up to it all must be equal; arrays of the embedded driver do not outlive it.
Nothing is waited for but what was recorded, so how fast this machine is makes no difference.
"""

from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from mdcluster.core.model import ArrayState, DeviceId
from mdcluster.md.faults import Direction, Purpose
from tests.unit.md.embedded_lab import EmbeddedLab
from tests.unit.md.trace_player import Line, Player
from tests.unit.md.trace_replay import SERIES, recorded, replay

LIMIT_S: Final = 20.0
"""For what was recorded to happen; longest where it does not."""

DIFFERS: Final = {
    "last good member": (10, "a kernel holds its failed write until it is unblocked"),
    "read error": (6, "a kernel has set the member faulty by itself"),
    "read error of the last one": (10, "a kernel does not tell of it"),
    "hold": (9, "a kernel holds a write that ends where the range begins"),
    "hold over a failed write": (6, "Linux 6.12: it returns only when that is released"),
    "recovery": (25, "read of a member not taken in: md reads it once it has finished"),
    "added by bitmap": (15, "a kernel copies a chunk more than the embedded driver"),
    "resync meets a bad member": (18, "what a write missed, the embedded driver copies once more"),
    "a member faulty in a resync": (17, "degraded, the embedded driver keeps its bits longer"),
    "a degraded array's bits": (8, "a kernel's driver tells of none that md has set by itself"),
    "raid10": (23, "bits of when it was degraded are still set on a kernel"),
    "spare": (11, "a kernel does not let the spare go"),
    "replacement": (11, "a kernel's md sets the old one faulty by itself, and tells of it"),
}


class EmbeddedBench(EmbeddedLab):
    """The embedded driver, as a bench for scripts."""

    def break_writes(self, device: DeviceId) -> None:
        """All of the data area, as a disk does: those of a copying, too."""
        super().break_writes(device)
        path = self.path(device)
        rule = self.faults.fail(path, Direction.WRITE, purpose=Purpose.COPY)
        self._rules[device].append(rule)

    async def restart(self, state: ArrayState) -> None:
        raise AssertionError("arrays of the embedded driver do not outlive it")


def _comparable(series: str, name: str, trace: list[Line]) -> list[Line]:
    known = DIFFERS.get(f"{series} {name}") or DIFFERS.get(name)
    restart = next((at for at, line in enumerate(trace) if line.do == "restart"), len(trace))
    return trace[: min(known[0] if known else restart, restart)]


CASES: Final = [
    pytest.param(_comparable(series, name, trace), id=f"{series} {name}")
    for series in SERIES
    for name, trace in recorded(series).items()
]


@pytest.mark.parametrize("trace", CASES)
async def test_embedded_does_as_the_kernel(trace: list[Line], tmp_path: Path) -> None:
    bench = EmbeddedBench(tmp_path)
    try:
        await replay(Player(bench), trace, LIMIT_S)
    finally:
        await bench.close()


@pytest.mark.parametrize("at", range(4, 8))
async def test_a_changed_line_is_noticed(at: int, tmp_path: Path) -> None:
    bench = EmbeddedBench(tmp_path)
    lines = recorded("6.12")["failed write"]
    changed = [*lines[:at], replace(lines[at], events=("failed 0",))]
    try:
        await replay(Player(bench), lines[:at])
        with pytest.raises(AssertionError, match="step 0"):
            await replay(Player(bench), changed[at:], 0.1)
    finally:
        await bench.close()
