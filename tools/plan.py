"""What a dry run tells, for people: each change, and who does what for it, in order."""

from __future__ import annotations

from typing import Final

from mdcluster.control.plan import ChangePlan, NodePlan, PlanData
from mdcluster.control.shape import build

from .output import printable

_WIDTH: Final = 9


def text(data: object, said: str) -> str:
    """said: what mdadm says when it is done."""
    plan = build(PlanData, data, "answer to a dry run", strict=False)
    lines = [f"dry run, nothing is changed: {said.rstrip('.')}"]
    lines += [_line("waits", why) for why in plan.waits]
    for change in plan.changes:
        lines += _change(change)
    if not any(change.entry or change.nodes or change.afterwards for change in plan.changes):
        lines.append("  nothing to do")
    return "".join(f"{printable(line)}\n" for line in lines)


def _change(change: ChangePlan) -> list[str]:
    lines = [f"  {change.change}"]
    lines += _nodes("first", change.first)
    lines += [_line("entry", what) for what in change.entry]
    lines += [_line("commit", change.commit)] if change.commit else []
    lines += _nodes("then", change.nodes)
    lines += [_line("release", change.release)] if change.release else []
    return [*lines, *(_line("after", what) for what in change.afterwards)]


def _nodes(word: str, plans: tuple[NodePlan, ...]) -> list[str]:
    return [_line(word, f"{plan.node}: {step}") for plan in plans for step in plan.steps]


def _line(word: str, what: str) -> str:
    return f"  {word:>{_WIDTH}} : {what}"
