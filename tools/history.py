"""``mdcadm --history``: what has happened, as the local daemon kept it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final, NamedTuple

from mdcluster.control.client import Client
from mdcluster.control.history import HistoryData, HistoryEntry
from mdcluster.control.verbs import HistoryArgs, Verb

from .output import one_line

PAGES_MAX: Final = 64
"""More than a daemon keeps."""
NUMBER_MAX: Final = 1 << 53


class History(NamedTuple):
    """dropped: how many entries there were before the first that is kept."""

    dropped: int
    entries: tuple[HistoryEntry, ...]


def fetch(client: Client) -> History:
    """All that is kept. ControlError if the daemon does not tell."""
    entries: list[HistoryEntry] = []
    first = 0
    for _ in range(PAGES_MAX):
        after = entries[-1].number if entries else 0
        page = client.ask(Verb.HISTORY, HistoryArgs(after), HistoryData)
        first = first or page.first
        entries += (entry for entry in page.entries if entry.number > after)
        if not page.entries or entries[-1].number >= page.last:
            break
    return History(max(first - 1, 0), tuple(entries))


def latest(client: Client, count: int) -> tuple[HistoryEntry, ...]:
    """The last `count` entries, or fewer."""
    last = client.ask(Verb.HISTORY, HistoryArgs(NUMBER_MAX), HistoryData).last
    return client.ask(Verb.HISTORY, HistoryArgs(max(last - count, 0)), HistoryData).entries


def about(history: History, arrays: tuple[str, ...]) -> History:
    """What is about these arrays, named by name or UUID; one may be gone since."""
    wanted = {name.lower() for name in arrays} | set(arrays)
    found = (e for e in history.entries if e.array in wanted or e.array_uuid in wanted)
    return history._replace(entries=tuple(found))


def text(history: History) -> str:
    """A line for each, ending in a newline; before them, that older ones are not kept."""
    lines = []
    if history.dropped:
        lines.append(f"({history.dropped} older entries are no longer kept)")
    lines += _lines(history.entries)
    return "".join(f"{line}\n" for line in lines) or "nothing is known to have happened\n"


def _lines(entries: tuple[HistoryEntry, ...]) -> Iterator[str]:
    for entry in entries:
        yield one_line(
            f"{local_time(entry.time)} {entry.on} term {entry.term} "
            f"{words(entry.event, entry.array, entry.node, entry.text, entry.by)}"
        )


def words(event: str, array: str, node: str, text: str, by: str) -> str:
    """``changed data: ... (asked by root@a)``: what happened, for people."""
    about = ", ".join(filter(None, (array, node)))
    asked = f" (asked by {by})" if by else ""
    return f"{event}{' ' if about else ''}{about}{': ' if text else ''}{text}{asked}"


def local_time(text: str, shape: str = "%Y-%m-%d %H:%M:%S") -> str:
    """``2026-01-31 12:00:00``; ``?`` for what is no time."""
    try:
        return datetime.fromisoformat(text).astimezone().strftime(shape)
    except (ValueError, OverflowError, OSError):
        return "?"
