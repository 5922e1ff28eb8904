"""The ARRAY lines of a mdadm.conf(5). Source of the syntax: that page, and mdadm config.c."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from mdcluster.errors import MdclusterError

FILE_BYTES_MAX: Final = 1 << 20
NO_FILES: Final = ("none", "partitions", "containers")
"""What --config may name instead of a file."""
_WORD: Final = re.compile(r"""(?:"[^"]*"|'[^']*'|[^\s"'])+""")
_QUOTED: Final = re.compile(r""""([^"]*)"|'([^']*)'""")


class ConfError(MdclusterError):
    """The file cannot be read as one."""


class ArrayLine(NamedTuple):
    """device: '' if none is named; uuid and name as they are written, '' if they are not."""

    device: str
    uuid: str
    name: str


def read_arrays(path: str) -> list[ArrayLine]:
    """In their order; arrays to be ignored are left out."""
    if path in NO_FILES:
        return []
    try:
        with open(path, "rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfError(f"{path} cannot be read: {why}") from None
    if len(raw) > FILE_BYTES_MAX:
        raise ConfError(f"{path} is larger than {FILE_BYTES_MAX >> 20} MiB")
    return parse_arrays(raw.decode("utf-8", "replace"))


def parse_arrays(text: str) -> list[ArrayLine]:
    found = []
    for words in _lines(text):
        if len(words[0]) >= 3 and "array".startswith(words[0].lower()):
            line = _array_line(words[1:])
            if line.device.lower() != "<ignore>":
                found.append(line)
    return found


def _lines(text: str) -> list[list[str]]:
    """Words by logical line: one that begins with a space continues the one before."""
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
    return lines


def _array_line(words: list[str]) -> ArrayLine:
    device, given = "", {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals:
            given[key.lower()] = value
        elif not device:
            device = word
    return ArrayLine(device, given.get("uuid", ""), given.get("name", ""))
