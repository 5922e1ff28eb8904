"""Plays recorded traces again: the same events and the same states, or where the first differs.

Nothing is waited for but what was recorded, so how fast this machine is makes no difference.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.unit.md.port_suite import PATIENCE_S
from tests.unit.md.trace_player import Line, Player, lines_of

TRACES: Final = Path(__file__).parent / "traces"
SERIES: Final = ("6.1", "6.12")
"""The kernels that traces were recorded on."""


def recorded(series: str) -> dict[str, list[Line]]:
    """The traces of a kernel, by the name of their script."""
    return lines_by_script((TRACES / f"{series}.jsonl").read_text())


def lines_by_script(recording: str) -> dict[str, list[Line]]:
    """A script that hangs ends where it does."""
    texts: dict[str, list[str]] = {}
    for text in recording.splitlines():
        if text.startswith("# "):
            trace = texts[text[2:]] = []
        elif not text.startswith("#! "):
            trace.append(text)
    return {name: list(lines_of(trace)) for name, trace in texts.items()}


def _comparable(line: Line, early: bool) -> Line:
    """Whether an array is clean counts from its first `activate` on: before, the driver of a kernel
    finds no thread of md. What fails in one step has no order between members."""
    left_out = ("clean", "pending") if early else ()
    now = {key: value for key, value in line.now.items() if key not in left_out}
    return replace(line, events=tuple(sorted(line.events)), now=now)


class Differs(AssertionError):
    """It does not come to what was recorded; at: the number of the step."""

    def __init__(self, at: int, played: Line, wanted: Line) -> None:
        super().__init__(f"step {at}:\n  played   {played}\n  recorded {wanted}")
        self.at = at


def comparable(trace: Iterable[Line]) -> list[Line]:
    """A trace without what differs from one run to another."""
    early, found = True, []
    for line in trace:
        early = early and line.do != "activate"
        found.append(_comparable(line, early))
    return found


async def replay(player: Player, trace: Iterable[Line], limit_s: float = PATIENCE_S) -> None:
    """Differs where it does not come to what was recorded."""
    trace = list(trace)
    early = True
    for at, (line, wanted) in enumerate(zip(trace, comparable(trace), strict=True)):
        early = early and line.do != "activate"

        async def reached(
            look: Callable[[], Line], wanted: Line = wanted, early: bool = early
        ) -> None:
            loop = asyncio.get_running_loop()
            latest_s = loop.time() + limit_s
            while _comparable(look(), early) != wanted and loop.time() < latest_s:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

        played = _comparable(await player.step(line.do, reached), early)
        if played != wanted:
            raise Differs(at, played, wanted)
