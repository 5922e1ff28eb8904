"""Figures: numbers with a unit, what they aim at, and the table they are printed as."""

import json
import math
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TextIO


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. aim: what `value` must not exceed (`at_most`) or fall below."""

    part: str
    what: str
    value: float
    unit: str
    aim: float | None = None
    sense: Literal["at_most", "at_least"] = "at_most"
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.aim is None:
            return ""
        met = self.value <= self.aim if self.sense == "at_most" else self.value >= self.aim
        return "met" if met else "MISSED"

    @property
    def aim_text(self) -> str:
        if self.aim is None:
            return ""
        return f"{'<=' if self.sense == 'at_most' else '>='} {_plain(self.aim)}"


def percentile(values: Iterable[float], share: float) -> float:
    """The nearest-rank percentile: a value that was really measured (share in 0..1)."""
    ordered = sorted(values)
    assert ordered, "nothing was measured"
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def spread(
    part: str, what: str, values: Sequence[float], unit: str, aim_p99: float | None = None
) -> list[Figure]:
    """p50, p99 and max of the same measurement."""
    note = f"n={len(values)}"
    return [
        Figure(part, f"{what}, p50", percentile(values, 0.50), unit, note=note),
        Figure(part, f"{what}, p99", percentile(values, 0.99), unit, aim_p99, note=note),
        Figure(part, f"{what}, max", max(values), unit, note=note),
    ]


def _plain(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


HEAD = ("part", "measured", "value", "unit", "aim", "verdict", "note")


def _row(figure: Figure) -> tuple[str, ...]:
    value, aim = _plain(figure.value), figure.aim_text
    return (figure.part, figure.what, value, figure.unit, aim, figure.verdict, figure.note)


def show(figures: Sequence[Figure], facts: dict[str, str], *, as_json: bool) -> None:
    """On standard output: JSON, a table for people on a terminal, plain columns in a pipe."""
    if as_json:
        rows = [asdict(figure) | {"verdict": figure.verdict} for figure in figures]
        print(json.dumps({"facts": facts, "figures": rows}, indent=2))
    elif sys.stdout.isatty():
        _rich(figures, facts)
    else:
        print("\n".join(plain(figures, facts, shutil.get_terminal_size((200, 24)).columns)))


def plain(figures: Sequence[Figure], facts: dict[str, str], width: int = 200) -> list[str]:
    """Lines of columns; no line is cut in a pipe."""
    rows = [HEAD, *map(_row, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    numbers = (HEAD.index("value"), HEAD.index("aim"))
    lines = [f"{key}: {value}"[:width] for key, value in facts.items()]
    for row in rows:
        cells = [
            cell.rjust(widths[at]) if at in numbers else cell.ljust(widths[at])
            for at, cell in enumerate(row)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _rich(figures: Sequence[Figure], facts: dict[str, str]) -> None:
    from rich.console import Console  # noqa: PLC0415 - only where somebody sees it
    from rich.table import Table  # noqa: PLC0415

    table = Table(title="mdcluster, side by side on this machine", title_justify="left")
    for name in HEAD:
        table.add_column(name, justify="right" if name in ("value", "aim") else "left")
    colours = {"met": "green", "MISSED": "bold red", "": ""}
    part = ""
    for figure in figures:
        if part and figure.part != part:
            table.add_section()
        part = figure.part
        row = list(_row(figure))
        if colour := colours[figure.verdict]:
            row[5] = f"[{colour}]{row[5]}[/]"
        table.add_row(*row)
    console = Console()
    for key, value in facts.items():
        console.print(f"{key}: {value}", highlight=False)
    console.print(table)


def progress(text: str, stream: TextIO = sys.stderr) -> None:
    """What is measured now, for who waits at a terminal."""
    if stream.isatty():
        stream.write(f"\r\x1b[K{text}")
        stream.flush()
