"""A mdadm.conf(5): its ARRAY lines, and what it says about monitoring.

Source of the syntax: that page, and mdadm 4.2, config.c (keywords may be shortened to three).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from mdcluster.errors import MdclusterError

FILES: Final = ("/etc/mdadm/mdadm.conf", "/etc/mdadm.conf")
FILE_BYTES_MAX: Final = 1 << 20
NO_FILES: Final = ("none", "partitions", "containers")
"""What --config may name instead of a file."""
_KEYWORDS: Final = ("mailaddr", "mailfrom", "program", "monitordelay", "array")
_WORD: Final = re.compile(r"""(?:"[^"]*"|'[^']*'|[^\s"'])+""")
_QUOTED: Final = re.compile(r""""([^"]*)"|'([^']*)'""")


class ConfError(MdclusterError):
    """The file cannot be read as one; the text says why."""


class ArrayLine(NamedTuple):
    """device: '' if none is named; uuid and name as they are written, '' if they are not."""

    device: str
    uuid: str
    name: str
    spares: int | None = None


class Conf(NamedTuple):
    """'' and 0 for what is not said. spares: by name or UUID of the array."""

    mail: str = ""
    mail_from: str = ""
    program: str = ""
    delay_s: int = 0
    spares: Mapping[str, int] = {}


def read_arrays(path: str) -> list[ArrayLine]:
    """In their order; arrays to be ignored are left out."""
    return [] if path in NO_FILES else parse_arrays(_read(path))


def parse_arrays(text: str) -> list[ArrayLine]:
    found = (_array_line(words) for keyword, words in _lines(text) if keyword == "array")
    return [line for line in found if line.device.lower() != "<ignore>"]


def load(path: str | None) -> Conf:
    """The file that was named, or mdadm's own if there is one (``none``: no file)."""
    if path in NO_FILES:
        return Conf()
    if path:
        return parse(_read(path))
    for file in FILES:
        try:
            return parse(_read(file))
        except ConfError as error:
            if not isinstance(error.__context__, OSError):
                raise
    return Conf()


def parse(text: str) -> Conf:
    """What is of no use here is skipped, as mdadm does; the first of its kind counts."""
    found: dict[str, str] = {}
    spares: dict[str, int] = {}
    for keyword, words in _lines(text):
        if keyword == "array":
            spares |= _spares(_array_line(words))
        elif words:
            found.setdefault(keyword, " ".join(words) if keyword == "mailfrom" else words[0])
    return Conf(
        found.get("mailaddr", ""),
        found.get("mailfrom", ""),
        found.get("program", ""),
        _number(found.get("monitordelay", ""), 6) or 0,
        spares,
    )


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfError(f"{path} cannot be read: {why}") from None
    if len(raw) > FILE_BYTES_MAX:
        raise ConfError(f"{path} is larger than {FILE_BYTES_MAX >> 20} MiB")
    return raw.decode("utf-8", "replace")


def _lines(text: str) -> Iterator[tuple[str, list[str]]]:
    """Keyword, and the words behind it, of each line that matters; one that begins with a space
    continues the one before."""
    lines: list[list[str]] = []
    for line in text.splitlines():
        words: list[str] = []
        for word in _WORD.findall(line):
            if word.startswith("#"):
                break
            words.append(_QUOTED.sub(lambda quoted: quoted[1] or quoted[2] or "", word))
        if words and line[:1].isspace() and lines:
            lines[-1] += words
        elif words:
            lines.append(words)
    for first, *rest in lines:
        for keyword in _KEYWORDS:
            if len(first) >= 3 and keyword.startswith(first.lower()):
                yield keyword, rest
                break


def _array_line(words: list[str]) -> ArrayLine:
    device, given = "", {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals:
            given[key.lower()] = value
        elif not device:
            device = word
    spares = _number(given.get("spares", ""), 4)
    return ArrayLine(device, given.get("uuid", ""), given.get("name", ""), spares)


def _spares(line: ArrayLine) -> dict[str, int]:
    """``/dev/md/data spares=1 UUID=...`` -> {data: 1, UUID: 1}."""
    if line.spares is None:
        return {}
    names = [line.device.rpartition("/")[2].lower()] if line.device else []
    hexes = "".join(c for c in line.uuid.lower() if c in "0123456789abcdef")
    if len(hexes) == 32:
        names.append("-".join((hexes[:8], hexes[8:12], hexes[12:16], hexes[16:20], hexes[20:])))
    return dict.fromkeys(names, line.spares)


def _number(text: str, digits_max: int) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= digits_max else None
