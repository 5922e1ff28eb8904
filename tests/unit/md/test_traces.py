"""What was recorded of a kernel's md, played again on the embedded driver: same events and states.

Where the two differ stands in DIFFERS: the step from which on, and how. Up to it all must be equal.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from mdcluster.core.model import ArrayState
from tests.unit.md.embedded_lab import EmbeddedLab
from tests.unit.md.port_suite import PATIENCE_S
from tests.unit.md.trace_player import Line, Player, line_of, quiet_for, unfolded

DIFFERS: Final = {
    "start": (2, "a write before run: on a kernel an error, there is no device yet"),
    "last good member": (10, "a kernel holds its failed write until it is unblocked"),
    "read error": (6, "a kernel has set the member faulty by itself"),
    "read error of the last one": (10, "a kernel does not tell of it"),
    "hold": (9, "a kernel holds a write that ends where the range begins"),
    "hold over a failed write": (6, "Linux 6.12: it returns only when that is released"),
    "resync above what is dirty": (6, "the kernel's driver refuses what md would copy from there"),
    "resync meets a bad member": (9, "a copying write fails that the bench does not make fail"),
    "a member faulty in a resync": (11, "a kernel's md ends the resync, its step is refused"),
    "recovery": (25, "read of a member not taken in: md reads it once it has finished"),
    "added by bitmap": (15, "a kernel copies a chunk more than the embedded driver"),
    "added while it copies": (13, "an addition interrupts a kernel's resync"),
    "spare": (11, "a kernel does not let the spare go"),
    "replacement": (11, "a kernel's md sets the old one faulty by itself, and tells of it"),
}


class EmbeddedBench(EmbeddedLab):
    """The embedded driver, as a bench for scripts."""

    async def restart(self, state: ArrayState) -> None:
        raise AssertionError("arrays of the embedded driver do not outlive it")

    async def finished(self, call: "asyncio.Task[Any]") -> None:
        await asyncio.wait_for(asyncio.shield(call), PATIENCE_S)

    async def quiet(self, look: Callable[[], object]) -> None:
        await quiet_for(look, 0.02, 0.005)


def _recorded() -> dict[str, list[Line]]:
    traces: dict[str, list[Line]] = {}
    for text in (Path(__file__).parent / "traces/6.12.jsonl").read_text().splitlines():
        if text.startswith("# "):
            lines = traces[text[2:]] = []
        else:
            lines.append(line_of(text))
    return traces


TRACES: Final = _recorded()


def _comparable(line: Line, left_out: tuple[str, ...]) -> Line:
    now = {key: value for key, value in line.now.items() if key not in left_out}
    return replace(line, events=tuple(sorted(line.events)), now=now)


def first_difference(recorded: list[Line], played: list[Line]) -> int | None:
    """Which step. Whether an array is clean counts from its first `activate` on: before, the driver
    of a kernel finds no thread of md. What fails in one step has no order between members."""
    early = True
    for at, pair in enumerate(zip(unfolded(recorded), unfolded(played), strict=True)):
        early = early and pair[0].do != "activate"
        left_out = ("clean", "pending") if early else ()
        one, two = (_comparable(x, left_out) for x in pair)
        if one != two:
            return at
    return None


@pytest.mark.parametrize("name", TRACES)
async def test_embedded_does_as_the_kernel(name: str, tmp_path: Path) -> None:
    bench = EmbeddedBench(tmp_path)
    try:
        played = await Player(bench).play(line.do for line in TRACES[name])
    finally:
        await bench.close()
    expected = DIFFERS[name][0] if name in DIFFERS else None
    assert first_difference(TRACES[name], played) == expected


def test_a_changed_line_is_noticed() -> None:
    lines = TRACES["failed write"]
    assert first_difference(lines, lines) is None
    for at, line in enumerate(lines):
        changed = [*lines[:at], replace(line, events=("failed 0",)), *lines[at + 1 :]]
        assert first_difference(lines, changed) == at
