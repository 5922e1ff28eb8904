"""``mdcadm --cluster`` and ``--why`` for people: who is writer, who is alive, what waits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

from mdcluster.control.arrays import Waiting
from mdcluster.control.status import ClusterStatus, LinkInfo, NodeInfo, WhyData

from .output import Output, duration, one_line

_TITLES: Final = ("NODE", "ROLE", "STATE", "SINCE", "LINKS")
COLOUR: Final = {"alive": "green", "suspect": "yellow", "silent": "red"}


def cluster_text(status: ClusterStatus, output: Output) -> str:
    """The whole report, ending in a newline; colours only where ``output`` takes them."""
    lines = [*_head(status), "", *_nodes(status, output)]
    if status.waiting:
        lines += ["", "Waiting", *(f"  {line}" for line in why_lines(status.waiting))]
    return "\n".join(lines) + "\n"


def why_lines(waiting: Sequence[Waiting]) -> Iterator[str]:
    """Two lines for each thing that does not go on: why; then since when, by whom, until when."""
    for wait in waiting:
        yield one_line(f"{wait.subject}: {wait.reason}")
        by = f"by {', '.join(wait.by)}" if wait.by else ""
        ends = f"ends when {wait.ends}" if wait.ends else ""
        facts = "; ".join(filter(None, [f"for {duration(wait.since_ms)}", by, ends]))
        yield f"    {one_line(facts)}"


def why_text(data: WhyData) -> str:
    """What --why prints, ending in a newline."""
    lines = [*why_lines(data.waiting)] or ["nothing waits"]
    if data.writer not in ("", data.node):
        lines.append(
            one_line(
                f"as {data.node} sees it; of changes and passes the writer knows: {data.writer}"
            )
        )
    return "".join(f"{line}\n" for line in lines)


def _head(status: ClusterStatus) -> Iterator[str]:
    lease = status.lease_ms_left
    quorum = status.quorum
    verdict = "" if quorum.alive >= quorum.needed else " - NO QUORUM"
    yield f"   Cluster : {one_line(status.name)} ({status.uuid})"
    yield f" This node : {one_line(status.node)} ({status.role})"
    yield f"    Writer : {one_line(status.writer) or 'none'}"
    yield f"      Term : {status.term}"
    yield f"     Lease : {'unknown' if lease is None else f'{lease} ms left'}"
    yield (
        f"    Quorum : {quorum.alive} of {quorum.voters} voters alive, "
        f"{quorum.needed} needed{verdict}"
    )


def _nodes(status: ClusterStatus, output: Output) -> Iterator[str]:
    rows = [_TITLES]
    rows += [_row(node, status.node_uuid) for node in status.nodes]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_TITLES))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        cells[-1] = row[-1]
        if row is _TITLES:
            cells = [output.paint(cell, "bold") for cell in cells]
        else:
            cells[2] = output.paint(cells[2], COLOUR[row[2]])
        yield "  ".join(cells)


def _row(node: NodeInfo, this: str) -> tuple[str, str, str, str, str]:
    mark = "*" if node.uuid == this else ""
    return (
        one_line(node.name) + mark,
        node.role,
        node_state(node),
        _date(node.since_s),
        ", ".join(map(_link, node.links)) or "-",
    )


def node_state(node: NodeInfo) -> str:
    """A word of COLOUR."""
    return "silent" if not node.alive else "suspect" if node.suspect else "alive"


def _date(seconds: int) -> str:
    if not seconds:
        return "-"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def _link(link: LinkInfo) -> str:
    rtt = "" if link.rtt_us is None else f" {link.rtt_us / 1000:.1f} ms"
    return one_line(f"{link.local}-{link.remote} {'up' if link.up else 'DOWN'}{rtt}")
