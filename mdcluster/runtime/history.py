"""What happened, kept for `mdcadm --history`, also over restarts: bounded, and in nobody's way.

Lines of JSON in the state directory, `history` and, once that is full, the one before it,
`history.old`. A thread writes them, without a sync: after a loss of power the last ones may be
missing; nothing that decides anything reads them. What the disk does not take is kept in memory.
"""

import json
import logging
import os
import queue
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mdcluster.control.errors import ProtocolError
from mdcluster.control.history import NAME_MAX, PAGE_MAX, TEXT_MAX, HistoryData, HistoryEntry
from mdcluster.control.shape import build, plain

FILE = "history"
KEPT_MAX: Final = 4096
FILE_MAX_BYTES: Final = 512 * 1024
WAITING_MAX: Final = 1024
CLOSE_S: Final = 1.0
NUMBER_MAX: Final = 1 << 53
_QUIET: Final = frozenset({"sync_moved", "committed"})
"""Kinds that come often; what a commit has changed is told as `changed`."""
_REPEATED: Final = frozenset({"apply_failed", "refused", "waiting"})
"""Kinds that are told again while the same goes on; kept once, if nothing else was told."""
REMEMBERED: Final = 32
_NAMES: Final = ("time", "on", "array", "array_uuid", "node", "by")
_LEFT_OUT: Final = (*_NAMES, "term", "name", "node_uuid", "seq", "serial")

log = logging.getLogger("mdcluster.history")


class History:
    """For one state directory, which the caller has locked. A sink of the event stream."""

    def __init__(self, state_dir: Path, term: Callable[[], int]) -> None:
        self._path = state_dir / FILE
        self._old = state_dir / f"{FILE}.old"
        self._term = term
        self._kept: deque[HistoryEntry] = deque(maxlen=KEPT_MAX)
        for path in (self._old, self._path):
            for entry in _read(path):
                if not self._kept or entry.number > self._kept[-1].number:
                    self._kept.append(entry)
        self._number = self._kept[-1].number if self._kept else 0
        self._told: deque[tuple[str, ...]] = deque(maxlen=REMEMBERED)
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._failed = False
        self._thread = threading.Thread(target=self._write_all, name="history", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Let what waits be written, for a moment."""
        self._lines.put(None)
        self._thread.join(CLOSE_S)

    def wanted(self, kind: str) -> bool:
        return kind not in _QUIET

    def publish(self, kind: str, **fields: Any) -> None:
        """Something happened: fields as those of an event line."""
        text = _text(fields)[:TEXT_MAX]
        if kind not in _REPEATED:
            self._told.clear()
        elif self._is_known(kind, str(fields.get("array", "")), text):
            return
        self._number += 1
        term = fields.get("term")
        names = {key: str(fields.get(key, ""))[:NAME_MAX] for key in _NAMES}
        entry = HistoryEntry(
            self._number,
            event=kind,
            term=term if isinstance(term, int) else self._term(),
            text=text,
            **names,
        )
        self._kept.append(entry)
        if self._lines.qsize() < WAITING_MAX:
            self._lines.put(json.dumps(plain(entry), separators=(",", ":")).encode() + b"\n")

    def _is_known(self, *what: str) -> bool:
        """Whether it was told of late; with other numbers it is the same."""
        known = tuple(re.sub(r"\d+", "#", part) for part in what)
        if known in self._told:
            return True
        self._told.append(known)
        return False

    def after(self, number: int) -> HistoryData:
        """The entries after this number, and which there are."""
        found = [entry for entry in self._kept if entry.number > number][:PAGE_MAX]
        first = self._kept[0].number if self._kept else 0
        return HistoryData(tuple(found), first, self._number)

    # --- the thread ------------------------------------------------------------------------

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._write(line)
            except OSError as error:
                if not self._failed:
                    log.warning("%s cannot be written: %s", self._path, error.strerror)
                self._failed = True
            else:
                self._failed = False

    def _write(self, line: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(self._path, flags, 0o600), "ab") as file:
            if file.tell() + len(line) > FILE_MAX_BYTES and file.tell():
                os.replace(self._path, self._old)
                self._write(line)
                return
            file.write(line)


def _text(fields: dict[str, Any]) -> str:
    """What it says beside the fields of their own."""
    what = fields.get("what")
    if what is not None:
        return str(what)
    return " ".join(f"{key}={value}" for key, value in fields.items() if key not in _LEFT_OUT)


def _read(path: Path) -> Iterator[HistoryEntry]:
    """What can be read; a line that cannot (torn, or of another version) is left out."""
    data = b""
    with suppress(OSError), open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        data = file.read(2 * FILE_MAX_BYTES)
    for line in data.splitlines():
        with suppress(ValueError, ProtocolError, RecursionError):
            entry = build(HistoryEntry, json.loads(line), FILE, strict=False)
            if 0 < entry.number < NUMBER_MAX:
                yield entry
