"""Where ``mdcadm`` prints: reports on stdout, messages on stderr, one line each."""

from __future__ import annotations

import json
import os
import select
import time
from contextlib import suppress
from typing import Any, TextIO

from mdcluster.control.shape import plain

NAME = "mdcadm"
_COLOURS = {"green": "32", "yellow": "33", "red": "31", "bold": "1"}


class Output:
    """quiet: say only what went wrong."""

    def __init__(self, out: TextIO, err: TextIO, quiet: bool = False) -> None:
        self.out = out
        self.err = err
        self.quiet = quiet

    def print(self, text: str) -> None:
        """A report, or a part of one, as it is."""
        self.out.write(text)

    def print_json(self, value: Any) -> None:
        """One document: dataclasses as objects, sizes in sectors, UUIDs as they came."""
        json.dump(plain(value), self.out, indent=2, sort_keys=False)
        self.out.write("\n")

    def print_json_line(self, value: Any) -> None:
        """One document on one line, and out it goes: for streams."""
        json.dump(plain(value), self.out, separators=(",", ":"))
        self.out.write("\n")
        self.out.flush()

    def say(self, text: str) -> None:
        """A message, as mdadm gives them."""
        if not self.quiet:
            self.error(text)

    def error(self, text: str) -> None:
        """A message that --quiet does not hide."""
        with suppress(OSError):  # there is no other place to tell it
            self.err.write(f"{NAME}: {one_line(text)}\n")
            self.err.flush()

    def read_by_somebody(self) -> bool:
        """False once the other end of a pipe is closed: then a stream has no reason to go on."""
        try:
            poll = select.poll()
            poll.register(self.out, select.POLLERR)
        except (OSError, ValueError):  # no file at all
            return True
        return not any(found & select.POLLERR for _, found in poll.poll(0))

    @property
    def terminal(self) -> bool:
        return self.out.isatty()

    def paint(self, text: str, colour: str) -> str:
        """In colour on a terminal, unless NO_COLOR is set (no-color.org) or it is a dumb one."""
        plain_wanted = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        if plain_wanted or not self.terminal:
            return text
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def nobody_reads() -> None:
    """The pipe is closed: stdout leads nowhere from here on, or python complains at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def one_line(text: str) -> str:
    """What fits a message: no line ends, nothing a terminal would act on."""
    joined = "; ".join(line.strip() for line in text.splitlines() if line.strip())
    return printable(joined)


def printable(text: str) -> str:
    """What a terminal would act on as backslash escapes (a name comes from a disk)."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def utc(time_s: float) -> str:
    """``2026-01-31T12:00:00.000Z``, of seconds since the epoch."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time_s))
    return f"{whole}.{int(time_s * 1000) % 1000:03d}Z"


def duration(ms: int) -> str:
    """``250 ms``, ``12.5 s``, ``3 min``, ``2.0 h``."""
    if ms < 1000:
        return f"{ms} ms"
    if ms < 120_000:
        return f"{ms / 1000:.1f} s"
    if ms < 7_200_000:
        return f"{ms // 60_000} min"
    return f"{ms / 3_600_000:.1f} h"


def device_of(name: str) -> str:
    """The device of an array, as users see it (mdadm print_escape)."""
    return "/dev/md/" + name.replace(" ", "_").replace("\t", "_").replace("/", "-")
