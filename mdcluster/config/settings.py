"""``/etc/mdcluster.toml``: optional settings; every key has a default, no key is unknown.

A section is a frozen dataclass and its keys are the dataclass's fields, so that what is read,
what is documented and what is checked cannot drift apart; ``[a.b]`` is the field b of section a.
Timings are refused here unless :func:`mdcluster.core.timing.violations` finds them safe.
"""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from mdcluster.config import fencing
from mdcluster.config.clusterips import did_you_mean
from mdcluster.config.errors import MISTAKES_MAX, Mistake, SettingsError, Wrong
from mdcluster.config.fencing import Agent, Fencing
from mdcluster.core.timing import Timing, limits, violations

SETTINGS_FILE = "/etc/mdcluster.toml"
FILE_BYTES_MAX = 64 * 1024
PATH_CHARS_MAX = 1024
MEMBERS_MAX = 256
WINDOW_KIB_LIMITS = (64, 1024 * 1024)
SPEED_KIB_MAX = 1 << 30


@dataclass(frozen=True, slots=True)
class Paths:
    """Directories, all absolute.

    state_dir: identity, promise and commits of this node; must survive a reboot.
    run_dir: control socket and pid file.
    lock_dir: process locks of embedded arrays, one directory for all daemons of a machine.
    nbd_dir: one unix socket per running embedded array.
    """

    state_dir: Path = Path("/var/lib/mdcluster")
    run_dir: Path = Path("/run/mdcluster")
    lock_dir: Path = Path("/run/mdcluster")
    nbd_dir: Path = Path("/run/mdcluster/nbd")


@dataclass(frozen=True, slots=True)
class Driver:
    """The md driver. ``members``: globs or directories scanned for members of arrays."""

    kind: str = "embedded"
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """What goes when one node alone cannot write a member: ``fail`` it, or ``leave`` (the node)."""

    local_fault: str = "fail"


@dataclass(frozen=True, slots=True)
class Resync:
    """Speed limit in KiB/s (0: none) and least and greatest window in KiB."""

    speed_max_kib: int = 0
    window_min_kib: int = 1024
    window_max_kib: int = 32 * 1024


@dataclass(frozen=True, slots=True)
class Mdstat:
    """``bind``: over which file the cluster-true copy is bound, /proc/mdstat; none: over none."""

    bind: Path | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """``format``: ``text`` or ``json``, one object a line; ``level``: the least that is logged."""

    format: str = "text"
    level: str = "info"


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a daemon."""

    cluster_name: str = "mdcluster"
    timing: Timing = field(default_factory=Timing)
    paths: Paths = field(default_factory=Paths)
    driver: Driver = field(default_factory=Driver)
    policy: Policy = field(default_factory=Policy)
    resync: Resync = field(default_factory=Resync)
    mdstat: Mdstat = field(default_factory=Mdstat)
    log: Log = field(default_factory=Log)
    fence: Fencing = field(default_factory=Fencing)


def load_settings(path: Path | str = SETTINGS_FILE, *, required: bool = False) -> Settings:
    """Read a settings file; one that does not exist means defaults, unless it is ``required``.

    Raises:
        SettingsError: it cannot be read or has mistakes; all are in ``mistakes``.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and not required:
            return Settings()
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError([Mistake(str(path), 0, 0, f"cannot be read: {why}")]) from None
    return parse_settings(data, str(path))


def parse_settings(data: bytes | str, file: str = SETTINGS_FILE) -> Settings:
    """Parse the content of a settings file; ``file`` is only its name in messages.

    Raises:
        SettingsError: with every mistake found, at most 100.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if len(raw) > FILE_BYTES_MAX:
        text = f"the file is longer than {FILE_BYTES_MAX} bytes"
        raise SettingsError([Mistake(file, 0, 0, text)])
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        column = error.start - raw.rfind(b"\n", 0, error.start)
        text = "expected UTF-8 text, found other bytes"
        raise SettingsError([Mistake(file, line, column, text)]) from None
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError([_syntax_mistake(file, text, error)]) from None
    return _Reader(file, text).read(document)


def _syntax_mistake(file: str, text: str, error: ValueError | RecursionError) -> Mistake:
    """The place is only in tomllib's message, which is why it is read from there."""
    if isinstance(error, RecursionError):
        return Mistake(file, 0, 0, "values are nested too deeply")
    what, _, where = str(error)[:300].rpartition(" (at ")
    if place := re.fullmatch(r"line (\d+), column (\d+)\)", where):
        return Mistake(file, int(place[1]), int(place[2]), f"not TOML: {what}")
    if where == "end of document)":
        line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
        return Mistake(file, line, column, f"not TOML: {what}")
    return Mistake(file, 0, 0, f"not TOML: {str(error)[:200]}")


_TYPE_NAMES: dict[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a float",
    str: "a string",
    list: "an array",
    dict: "a table",
}


def _found(value: object) -> str:
    """What stands in the file instead, in few words."""
    kind = _TYPE_NAMES.get(type(value), "a date or time")
    if isinstance(value, int) and value.bit_length() > 64:  # str() of a huge one may be refused
        return f"{kind} of more than 64 bits"
    if isinstance(value, list | dict):
        return kind
    shown = ascii(value) if isinstance(value, str) else str(value)
    return f"{kind}, {shown.lower() if isinstance(value, bool) else shown[:60]}"


def _integer(low: int, high: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Wrong(f"an integer from {low} to {high}")
        return value

    return check


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise Wrong("true or false")
    return value


def _choice(*words: str) -> Callable[[object], str]:
    expected = " or ".join(f'"{word}"' for word in words)

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in words:
            raise Wrong(expected + (did_you_mean(value, words) if isinstance(value, str) else ""))
        return value

    return check


def _name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", value):
        raise Wrong("a name of up to 32 letters, digits, '.', '_' and '-'")
    return value


def _absolute(value: object) -> str:
    if (
        not isinstance(value, str)
        or not value.startswith("/")
        or len(value) > PATH_CHARS_MAX
        or not value.isprintable()
    ):
        raise Wrong(f"an absolute path of up to {PATH_CHARS_MAX} characters")
    return value


def _path(value: object) -> Path:
    return Path(_absolute(value))


def _path_or_none(value: object) -> Path | None:
    return None if value == "" else _path(value)


def _globs(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MEMBERS_MAX:
        raise Wrong(f"an array of up to {MEMBERS_MAX} absolute globs or directories")
    return tuple(_absolute(item) for item in value)


_Checks = dict[str, Callable[[object], object]]
_SECTIONS: dict[str, _Checks] = {
    "cluster": {"name": _name},
    "timing": {f.name: _integer(*limits(f.name)) for f in fields(Timing)},
    "paths": {f.name: _path for f in fields(Paths)},
    "driver": {"kind": _choice("embedded", "kernel"), "members": _globs},
    "policy": {"local_fault": _choice("fail", "leave")},
    "resync": {
        "speed_max_kib": _integer(0, SPEED_KIB_MAX),
        "window_min_kib": _integer(*WINDOW_KIB_LIMITS),
        "window_max_kib": _integer(*WINDOW_KIB_LIMITS),
    },
    "mdstat": {"bind": _path_or_none},
    "log": {
        "format": _choice("text", "json"),
        "level": _choice("debug", "info", "warning", "error"),
    },
    "fence": {"watchdog": _path, "order": fencing.order},
    "fence.agent": {
        "command": _path,
        "options": fencing.options,
        "nodes": fencing.nodes,
        "deadline_ms": _integer(*fencing.DEADLINE_LIMITS),
        "settle_ms": _integer(*fencing.SETTLE_LIMITS),
        "verify": _boolean,
    },
}
_TOP = [name for name in _SECTIONS if "." not in name]


class _Reader:
    """Turns one TOML document into settings; collects mistakes on the way."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._places = _places(text)
        self._mistakes: list[Mistake] = []

    def read(self, document: dict[str, Any]) -> Settings:
        for section in document:
            if section not in _TOP:
                self._mistake(
                    section,
                    "",
                    f"unknown section or key {_quoted(section)}{did_you_mean(section, _TOP)}; "
                    f"expected one of {', '.join(_TOP)}",
                )
        values = {name: self._section(name, _table_of(document, name)) for name in _SECTIONS}
        settings = Settings(
            cluster_name=values["cluster"].get("name", Settings().cluster_name),
            timing=Timing(**values["timing"]),
            paths=_paths(values["paths"]),
            driver=Driver(**values["driver"]),
            policy=Policy(**values["policy"]),
            resync=Resync(**values["resync"]),
            mdstat=Mdstat(**values["mdstat"]),
            log=Log(**values["log"]),
            fence=Fencing(**values["fence"], agent=self._agent(values["fence.agent"])),
        )
        self._check_together(settings)
        if self._mistakes:
            raise SettingsError(self._mistakes[:MISTAKES_MAX])
        return settings

    def _mistake(self, section: str, key: str, text: str) -> None:
        places = self._places
        own = places.get((section, key)) or places.get((f"{section}.{key}", ""))
        line, column = own or (0, 0)
        if len(self._mistakes) < MISTAKES_MAX:
            self._mistakes.append(Mistake(self._file, line, column, text))

    def _section(self, name: str, table: object) -> dict[str, Any]:
        if not isinstance(table, dict):
            self._mistake(name, "", f"expected a section [{name}], found {_found(table)}")
            return {}
        checks = _SECTIONS[name]
        values: dict[str, Any] = {}
        for key, value in table.items():
            if f"{name}.{key}" in _SECTIONS:
                continue  # read as a section of its own
            if key not in checks:
                self._mistake(
                    name,
                    key,
                    f"unknown key {_quoted(key)} in [{name}]{did_you_mean(key, checks)}; "
                    f"expected one of {', '.join(checks)}",
                )
                continue
            try:
                values[key] = checks[key](value)
            except Wrong as wrong:
                self._mistake(name, key, f"{name}.{key}: expected {wrong}; found {_found(value)}")
        return values

    def _agent(self, values: dict[str, Any]) -> Agent | None:
        if values and "command" not in values:
            text = "fence.agent.command is missing: the path of a fence agent"
            self._mistake("fence.agent", "", text)
        return Agent(**values) if "command" in values else None

    def _check_together(self, settings: Settings) -> None:
        """What no key shows alone. Wrong keys count as their defaults here: only hints then."""
        if self._mistakes:
            return
        for text in violations(settings.timing):
            self._mistake("timing", "", text)
        found = fencing.mistakes(settings.fence, settings.timing, settings.driver.kind)
        for section, key, text in found:
            self._mistake(section, key, text)
        resync = settings.resync
        if resync.window_min_kib > resync.window_max_kib:
            self._mistake(
                "resync",
                "window_min_kib",
                f"resync.window_min_kib = {resync.window_min_kib} is above "
                f"resync.window_max_kib = {resync.window_max_kib}; lower it or raise that",
            )


def _table_of(document: dict[str, Any], section: str) -> object:
    """The table of a section; one that does not exist is empty, whatever its owner is."""
    table: object = document
    for name in section.split("."):
        table = table.get(name, {}) if isinstance(table, dict) else {}
    return table


def _paths(values: dict[str, Path]) -> Paths:
    run_dir = values.get("run_dir", Paths().run_dir)
    derived = {"lock_dir": run_dir, "nbd_dir": run_dir / "nbd"}
    return Paths(**(derived | values))


def _quoted(word: str) -> str:
    return ascii(word if len(word) <= 60 else word[:57] + "...")


_HEADER = re.compile(r"[ \t]*\[[ \t]*([A-Za-z0-9_-]{1,64}(?:\.[A-Za-z0-9_-]{1,64}){0,3})[ \t]*\]")
_KEY = re.compile(r"[ \t]*(?:([A-Za-z0-9_-]{1,64})[ \t]*\.[ \t]*)?([A-Za-z0-9_-]{1,64})[ \t]*=")


def _places(text: str) -> dict[tuple[str, str], tuple[int, int]]:
    """Line and column of each section ``(section, "")`` and key ``(section, key)``.

    tomllib tells no places. Plainly written files are found right; in strings of several lines,
    quoted keys and inline tables the place may be missing, and is then left out of the message.
    """
    places: dict[tuple[str, str], tuple[int, int]] = {}
    section = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if header := _HEADER.match(line):
            section = header[1]
            places.setdefault((section, ""), (number, header.start(1) + 1))
        elif key := _KEY.match(line):
            owner = section or key[1] or key[2]
            name = key[2] if section or key[1] else ""
            places.setdefault((owner, name), (number, key.start(2) + 1))
    return places
