"""What was recorded of a kernel's md, played again on the embedded driver: same events and states.

Where the two differ stands in DIFFERS: the step from which on, and how. Up to it all must be equal.
Nothing is waited for but what was recorded, so how fast this machine is makes no difference.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from mdcluster.core.model import ArrayState, DeviceId
from mdcluster.md.faults import Direction, Purpose
from tests.unit.md.embedded_lab import EmbeddedLab
from tests.unit.md.port_suite import PATIENCE_S
from tests.unit.md.trace_player import Line, Player, lines_of

DIFFERS: Final = {
    "start": (2, "a write before run: on a kernel an error, there is no device yet"),
    "last good member": (10, "a kernel holds its failed write until it is unblocked"),
    "read error": (6, "a kernel has set the member faulty by itself"),
    "read error of the last one": (10, "a kernel does not tell of it"),
    "hold": (9, "a kernel holds a write that ends where the range begins"),
    "hold over a failed write": (6, "Linux 6.12: it returns only when that is released"),
    "recovery": (25, "read of a member not taken in: md reads it once it has finished"),
    "added by bitmap": (15, "a kernel copies a chunk more than the embedded driver"),
    "resync meets a bad member": (18, "what a write missed, the embedded driver copies once more"),
    "a member faulty in a resync": (17, "degraded, the embedded driver keeps its bits longer"),
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


def _recorded() -> dict[str, list[Line]]:
    texts: dict[str, list[str]] = {}
    for text in (Path(__file__).parent / "traces/6.12.jsonl").read_text().splitlines():
        if text.startswith("# "):
            trace = texts[text[2:]] = []
        elif not text.startswith("#! "):
            trace.append(text)
    return {name: list(lines_of(trace)) for name, trace in texts.items()}


TRACES: Final = _recorded()


def _comparable(line: Line, early: bool) -> Line:
    """Whether an array is clean counts from its first `activate` on: before, the driver of a kernel
    finds no thread of md. What fails in one step has no order between members."""
    left_out = ("clean", "pending") if early else ()
    now = {key: value for key, value in line.now.items() if key not in left_out}
    return replace(line, events=tuple(sorted(line.events)), now=now)


async def replay(player: Player, trace: Iterable[Line], limit_s: float = PATIENCE_S) -> None:
    """AssertionError where it does not come to what was recorded."""
    early = True
    for at, line in enumerate(trace):
        early = early and line.do != "activate"
        wanted = _comparable(line, early)

        async def reached(
            look: Callable[[], Line], wanted: Line = wanted, early: bool = early
        ) -> None:
            loop = asyncio.get_running_loop()
            latest_s = loop.time() + limit_s
            while _comparable(look(), early) != wanted and loop.time() < latest_s:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

        played = await player.step(line.do, reached)
        assert _comparable(played, early) == wanted, f"step {at}"


@pytest.mark.parametrize("name", TRACES)
async def test_embedded_does_as_the_kernel(name: str, tmp_path: Path) -> None:
    bench = EmbeddedBench(tmp_path)
    end = DIFFERS[name][0] if name in DIFFERS else None
    try:
        await replay(Player(bench), TRACES[name][:end])
    finally:
        await bench.close()


@pytest.mark.parametrize("at", range(4, 8))
async def test_a_changed_line_is_noticed(at: int, tmp_path: Path) -> None:
    bench = EmbeddedBench(tmp_path)
    lines = TRACES["failed write"]
    changed = [*lines[:at], replace(lines[at], events=("failed 0",))]
    try:
        await replay(Player(bench), lines[:at])
        with pytest.raises(AssertionError, match="step 0"):
            await replay(Player(bench), changed[at:], 0.1)
    finally:
        await bench.close()
