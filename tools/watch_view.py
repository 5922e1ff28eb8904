"""What ``--watch`` shows, as lines that fit a window. Pure; nothing here prints.

Nothing is in it that changes by itself (the lease, round trips, seconds of the clock): what does
not change is not sent again.
"""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from rich.text import Text

from mdcluster.control.arrays import (
    ArrayWord,
    MdstatArray,
    MemberInfo,
    MemberWord,
    SyncInfo,
    SyncState,
    Waiting,
)
from mdcluster.control.protocol import EventLine
from mdcluster.control.status import ClusterStatus, NodeInfo
from mdcluster.metadata.examine import human_size_brief

from .cluster import COLOUR, node_state, why_lines
from .history import local_time, words
from .output import device_of, one_line

SECTOR: Final = 512
WIDTH_MAX: Final = 8192
PROBLEM_LINES_MAX: Final = 3
BAR: Final = 20
LASTING_MS: Final = 1000
_HINT: Final = "q ends"
_LEFT_OUT: Final = (
    *("time", "on", "array", "array_uuid", "node", "node_uuid", "name", "by", "seq", "serial"),
)
"""Fields of events that have a place of their own, or tell people nothing more."""
_MEMBER: Final = {
    MemberWord.IN_SYNC: ("in sync", ""),
    MemberWord.RECOVERING: ("recovering", "yellow"),
    MemberWord.SPARE: ("spare", ""),
    MemberWord.FAULTY: ("faulty", "red"),
}
_ORDER: Final = (
    MemberWord.FAULTY,
    MemberWord.RECOVERING,
    MemberWord.IN_SYNC,
    MemberWord.SPARE,
)

Block = list[Text]
"""Lines that belong together: a node, an array with its members."""


class Scene(NamedTuple):
    """All that is shown. status: None until a daemon has answered.

    running: on how many nodes an array runs, by its name. events: the newest first. problem: why
    this is not how things are now ('' if it is). now_s: seconds since the epoch.
    """

    status: ClusterStatus | None
    arrays: tuple[MdstatArray, ...]
    running: Mapping[str, int]
    events: tuple[EventLine, ...]
    problem: str
    now_s: float


class Section(NamedTuple):
    """share: of the room that is left, against the other sections'."""

    title: Text
    blocks: list[Block]
    share: int


def window(scene: Scene, width: int, height: int) -> list[Text]:
    """At most `height` lines of at most `width` cells; what has no room is counted."""
    lines = list(_head(scene, width))
    hint = Text(_HINT, "dim")
    if lines and lines[0].cell_len + 2 + hint.cell_len <= width:
        lines[0].append(" " * (width - lines[0].cell_len - hint.cell_len)).append(hint)
    sections = [section for section in _sections(scene) if section.blocks]
    room = height - len(lines)
    while sections and sum(map(_least, sections)) > room:
        sections.pop()
    wants = [(sum(map(len, one.blocks)), _least(one) - 1, one.share) for one in sections]
    got = allot(wants, room - len(sections))
    for section, count in zip(sections, got, strict=True):
        lines += [section.title, *cut(section.blocks, count)]
    for line in lines:
        line.truncate(width)
    return lines[:height]


def snapshot(scene: Scene) -> str:
    """All of it as plain text, ending in a newline."""
    lines = list(_head(scene))
    for section in _sections(scene):
        if section.blocks:
            lines += [section.title, *(line for block in section.blocks for line in block)]
    return "".join(f"{line.plain}\n" for line in lines)


def _least(section: Section) -> int:
    """Its title, a line, and what else there is or that there is more."""
    return 1 + min(sum(map(len, section.blocks)), 2)


def allot(wants: Sequence[tuple[int, int, int]], room: int) -> list[int]:
    """Lines for each of (wanted, at least, share): what one does not need goes to the others."""
    got = [least for _, least, _ in wants]
    while True:
        before = sum(got)
        for index, (wanted, _, share) in enumerate(wants):
            got[index] += max(min(share, wanted - got[index], room - sum(got)), 0)
        if sum(got) == before:
            return got


def cut(blocks: Sequence[Block], room: int) -> list[Text]:
    """Whole blocks, and at the end how many more there are; of the first, what has room."""
    if sum(map(len, blocks)) <= room:
        return [line for block in blocks for line in block]
    lines: list[Text] = []
    shown = 0
    for block in blocks:
        if lines and len(lines) + len(block) > room - 1:
            break
        lines += block
        shown += 1
    more = f"  ... {len(blocks) - shown} more" if shown < len(blocks) else "  ..."
    return [*lines[: room - 1], Text(more, "dim")] if room > 0 else []


# --- the parts -----------------------------------------------------------------------------------


def _head(scene: Scene, width: int = WIDTH_MAX) -> Iterator[Text]:
    status = scene.status
    if status is not None:
        writer = one_line(status.writer)
        yield Text.assemble(
            (one_line(status.name), "bold"),
            f" at {_clock(scene.now_s)}, seen from {one_line(status.node)}: ",
            f"writer {writer}" if writer else ("no writer", "red"),
            f", term {status.term}, ",
            _quorum(status),
        )
    if scene.problem:
        told = textwrap.wrap(f"RECONNECTING: {one_line(scene.problem)}", width)
        yield from (Text(line, "red") for line in told[:PROBLEM_LINES_MAX])


def _clock(now_s: float) -> str:
    return time.strftime("%H:%M", time.localtime(now_s))


def _quorum(status: ClusterStatus) -> Text:
    quorum = status.quorum
    lost = quorum.alive < quorum.needed
    text = f"{quorum.alive} of {quorum.voters} voters, {quorum.needed} needed"
    return Text(f"NO QUORUM: {text}" if lost else text, "red" if lost else "")


def _sections(scene: Scene) -> Iterator[Section]:
    status = scene.status
    if status is not None:
        nodes = sorted(status.nodes, key=node_state, reverse=True)  # suspect, silent, alive
        alive = sum(node.alive for node in nodes)
        title = f"Nodes: {alive} of {len(nodes)} alive"
        yield Section(Text(title, "bold"), [[_node(n, status.node_uuid)] for n in nodes], 2)
    arrays = sorted(scene.arrays, key=_rank)
    title = f"Arrays: {len(arrays)}"
    yield Section(Text(title, "bold"), [list(_array(one, scene)) for one in arrays], 4)
    if status is not None:
        blocks = [list(_wait(wait)) for wait in lasting(status.waiting)]
        yield Section(Text(f"Waiting: {len(blocks)}", "bold"), blocks, 2)
    told = [[Text(f"  {event_text(line)}")] for line in scene.events]
    yield Section(Text("Events, the latest first", "bold"), told, 1)


def lasting(waiting: Sequence[Waiting]) -> list[Waiting]:
    """Without what waits for a moment only, as something always does."""
    return [wait for wait in waiting if wait.since_ms >= LASTING_MS]


def _wait(wait: Waiting) -> Iterator[Text]:
    what, more = why_lines([wait._replace(since_ms=_coarse(wait.since_ms))])
    yield Text(f"  {what}", "yellow")
    yield Text(f"  {more}")


def _coarse(since_ms: int) -> int:
    """In whole seconds, and ten of them once it is a while: it need not be sent so often."""
    step_ms = 1000 if since_ms < 10_000 else 10_000
    return since_ms // step_ms * step_ms


def _node(node: NodeInfo, this: str) -> Text:
    state = node_state(node)
    name = one_line(node.name) + ("*" if node.uuid == this else "")
    text = Text.assemble(f"  {name:<12} {node.role:<9} ", (f"{state:<7}", COLOUR[state]))
    if node.links:
        down = [link for link in node.links if not link.up]
        text.append(f" links {len(node.links) - len(down)} of {len(node.links)} up")
        for link in down:
            text.append(f", {one_line(link.local)}-{one_line(link.remote)} DOWN", "yellow")
    text.rstrip()
    return text


def _rank(array: MdstatArray) -> tuple[int, str]:
    """What is in trouble stands first."""
    running = array.state is not ArrayWord.INACTIVE
    good = in_sync(array) == array.raid_disks and array.sync is None
    return (2 if not running else 1 if good else 0, array.name)


def in_sync(array: MdstatArray) -> int:
    """How many roles have a member in sync."""
    return len({m.role for m in array.members if m.state is MemberWord.IN_SYNC})


def _array(array: MdstatArray, scene: Scene) -> Iterator[Text]:
    name = device_of(one_line(array.name)) if array.name else one_line(array.device)
    size = human_size_brief(array.array_sectors * SECTOR, binary=True)
    active = array.state is not ArrayWord.INACTIVE
    good = in_sync(array)
    missing = active and good < array.raid_disks
    line = Text.assemble(
        f"  {name}  raid{array.level}  ",
        (f"{good}/{array.raid_disks}", "yellow" if missing else "green" if active else ""),
        f"  {size}" if size else "",
    )
    if not active:
        line.append("  inactive", "dim")
    elif array.name in scene.running:
        count = scene.running[array.name]
        line.append(f"  on {count} node{'s' * (count != 1)}")
    if missing:
        line.append("  degraded" if good else "  FAILED", "yellow" if good else "red")
    if array.readonly:
        line.append("  read-only")
    if array.mismatched_sectors:
        line.append(f"  {array.mismatched_sectors} sectors mismatched", "yellow")
    yield line
    if array.members:
        members = sorted(array.members, key=lambda m: (_ORDER.index(m.state), m.role, m.number))
        yield Text("    ").append(Text(", ").join(map(_member, members)))
    if array.sync is not None:
        yield Text(f"    {progress(array.sync)}", "cyan")


def _member(member: MemberInfo) -> Text:
    name = one_line(os.path.basename(member.path)) or f"#{member.number}"
    role = f"[{member.role}]" if member.role >= 0 else ""
    word, style = _MEMBER[member.state]
    return Text(f"{name}{role} {'replacing' if member.replacement else word}", style)


def progress(sync: SyncInfo) -> str:
    """``recover [==>      ]  12.6%  132096 KiB/s  0:07 left``, or why it does not go on."""
    if sync.state is not SyncState.RUNNING:
        return f"{sync.kind}: {sync.state}"
    milli = min(sync.position_sectors * 1000 // max(sync.end_sectors, 1), 1000)
    done = milli * BAR // 1000
    bar = ("=" * done + ">" * (done < BAR)).ljust(BAR)
    eta = "" if sync.eta_s is None else f"  {span(sync.eta_s)} left"
    speed = f"  {sync.speed_kib} KiB/s" if sync.speed_kib else ""
    return f"{sync.kind} [{bar}] {milli // 10:3d}.{milli % 10}%{speed}{eta}"


def span(seconds: int) -> str:
    """``0:07``, ``3:20:00``."""
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d}"
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def event_text(line: EventLine) -> str:
    """``14:03:07 a node_down c``, in local time."""
    fields = {key: str(value) for key, value in line.fields.items()}
    rest = " ".join(f"{key}={value}" for key, value in fields.items() if key not in _LEFT_OUT)
    about = (fields.get("array", ""), fields.get("node", ""))
    told = words(line.event, *about, fields.get("what", rest), fields.get("by", ""))
    return one_line(
        f"{local_time(fields.get('time', ''), '%H:%M:%S')} {fields.get('on', '-')} {told}"
    )
