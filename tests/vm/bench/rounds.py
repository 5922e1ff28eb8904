"""Rounds, and what is told of them: pure. A round is a flat dictionary of numbers and words."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from tests.bench.figures import Figure

Value = float | str | list[float]
Round = Mapping[str, Value]


class RoundsError(Exception):
    """Saved rounds cannot be read."""


def numbers(rounds: Sequence[Round], key: str) -> list[float]:
    """What every round says of it; rounds that do not know it are left out."""
    found = [one[key] for one in rounds if key in one]
    return [float(value) for value in found if isinstance(value, int | float)]


def ratios(rounds: Sequence[Round], key: str, of: str) -> list[float]:
    """Of two numbers of the same round, measured one after the other."""
    pairs = zip(numbers(rounds, key), numbers(rounds, of), strict=True)
    return [one / other for one, other in pairs]


def typical(
    part: str,
    what: str,
    values: Sequence[float],
    unit: str,
    aim: float | None = None,
    sense: Literal["at_most", "at_least"] = "at_most",
    note: str = "",
) -> Figure:
    """The median, with the least and the greatest beside it."""
    seen = f"{shown(min(values))} to {shown(max(values))}, n={len(values)}"
    words = "; ".join(word for word in (seen, note) if word)
    return Figure(part, what, median(values), unit, aim, sense, words)


def shown(value: float) -> str:
    """Three significant digits, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Document:
    """What a run has measured: saved by --json, printed again by --from."""

    facts: dict[str, str]
    rounds: dict[str, list[Round]]
    """By the name of the family."""

    def text(self, figures: Sequence[Figure]) -> str:
        lines = [asdict(figure) | {"verdict": figure.verdict} for figure in figures]
        return json.dumps({"facts": self.facts, "figures": lines, "rounds": self.rounds}, indent=2)


def parse(text: str) -> Document:
    """What `Document.text` wrote; RoundsError for anything else."""
    try:
        found: Any = json.loads(text)
        facts, rounds = dict(found["facts"]), dict(found["rounds"])
        assert all(isinstance(one, dict) for rows in rounds.values() for one in rows)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise RoundsError(f"no rounds of this bench: {error!r}") from None
    return Document({str(k): str(v) for k, v in facts.items()}, rounds)


def joined(documents: Sequence[Document]) -> Document:
    """As if they had been one run: rounds one after the other; the facts that are the same in all.

    What differs is named once for each.
    """
    facts: dict[str, str] = {}
    rounds: dict[str, list[Round]] = {}
    for document in documents:
        for key, fact in document.facts.items():
            if fact not in facts.get(key, "").split("; "):
                facts[key] = "; ".join(filter(None, (facts.get(key, ""), fact)))
        for family, rows in document.rounds.items():
            rounds[family] = [*rounds.get(family, []), *rows]
    return Document(facts, rounds)
