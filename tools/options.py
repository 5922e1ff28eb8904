"""The options of ``mdcadm`` as tables: mdadm's names, letters and modes, and a few of our own.

Source of names, letters and modes: mdadm 4.2, ReadMe.c (long_options, short_options) and mdadm.c
(what sets the mode, what is valid in which one).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Mode(StrEnum):
    CREATE = "create"
    ASSEMBLE = "assemble"
    MANAGE = "manage"
    MISC = "misc"
    GROW = "grow"


class Option(NamedTuple):
    """A long option.

    value: what it takes, as shown in the help ('' for nothing). forces: the mode it sets, and
    no other may be set. sets: the mode it sets if none is set yet. modes: where it may be used.
    """

    name: str
    text: str
    value: str = ""
    forces: Mode | None = None
    sets: Mode | None = None
    modes: tuple[Mode, ...] = tuple(Mode)


_CREATE: Final = (Mode.CREATE,)
_START: Final = (Mode.CREATE, Mode.ASSEMBLE)
_MISC: Final = (Mode.MISC,)
_MANAGE: Final = (Mode.MANAGE,)
_SHAPE: Final = (Mode.CREATE, Mode.GROW)

_ALL: Final = (
    Option("create", "make a new array", forces=Mode.CREATE),
    Option("assemble", "start an array that exists", forces=Mode.ASSEMBLE),
    Option("manage", "change the members of an array (implied)", forces=Mode.MANAGE),
    Option("grow", "change the number of devices, or the size used of each", forces=Mode.GROW),
    Option("misc", "report on arrays and devices (implied)", forces=Mode.MISC),
    Option("detail", "print all about an array", forces=Mode.MISC),
    Option("examine", "print the superblock on a member", forces=Mode.MISC),
    Option("cluster", "print writer, term, lease, nodes and links", forces=Mode.MISC),
    Option("mdstat", "print all arrays in the format of /proc/mdstat", forces=Mode.MISC),
    Option("why", "print what waits, and for what", forces=Mode.MISC),
    Option("check-timing", "print the proof that the timings are safe", forces=Mode.MISC),
    Option("reload", "read clusterips again", forces=Mode.MISC),
    Option("adopt", "take a plain md array in: all its active members", forces=Mode.MISC),
    Option("release", "give an array back: a plain md array again", forces=Mode.MISC),
    Option("transfer", "make NODE the writer", "NODE", forces=Mode.MISC),
    Option("fence-ack", "vouch that NODE is stopped for certain", "NODE", forces=Mode.MISC),
    Option("admit", "let NODE vote again after it lost its state", "NODE", forces=Mode.MISC),
    Option("stop", "stop an array on all nodes", sets=Mode.MISC, modes=(*_MISC, *_MANAGE)),
    Option("run", "start it even if degraded; create it despite oddities", sets=Mode.MISC),
    Option("action", "check, repair, or idle to end that", "WORD", sets=Mode.MISC, modes=_MISC),
    Option("wait", "wait until nothing is resynced", sets=Mode.MISC, modes=_MISC),
    Option("fail", "mark the devices that follow faulty", sets=Mode.MANAGE, modes=_MANAGE),
    Option("remove", "take the devices that follow out", sets=Mode.MANAGE, modes=_MANAGE),
    Option("add", "take the devices that follow in", sets=Mode.MANAGE, modes=(*_MANAGE, Mode.GROW)),
    Option(
        "replace",
        "have a spare take the role of the devices that follow",
        modes=_MANAGE,
        sets=Mode.MANAGE,
    ),
    Option("with", "the spares for that, in the same order", modes=_MANAGE),
    Option("re-add", "take members in again that were out", sets=Mode.MANAGE, modes=_MANAGE),
    Option("level", "raid1 or raid10", "LEVEL", modes=_CREATE),
    Option("raid-devices", "number of active devices", "N", modes=_SHAPE),
    Option("spare-devices", "number of spares", "N", modes=_CREATE),
    Option("chunk", "chunk size of raid10, in KiB or with K, M", "SIZE", modes=_CREATE),
    Option("layout", "layout of raid10: n2", "LAYOUT", modes=_CREATE),
    Option("size", "how much of each device, in KiB or with K, M, G, T", "SIZE", modes=_SHAPE),
    Option("assume-clean", "take the members as equal: no first resync", modes=_CREATE),
    Option("bitmap-chunk", "size of what one bit stands for", "SIZE", modes=_CREATE),
    Option("bitmap", "internal (default) or none", "KIND", modes=_START),
    Option("metadata", "superblock version: 1.2", "VERSION", modes=(*_START, *_MISC)),
    Option("name", "name of the array", "NAME", modes=(*_START, *_MISC)),
    Option("uuid", "UUID of the array", "UUID", modes=_START),
    Option("scan", "all arrays", modes=(Mode.ASSEMBLE, Mode.MISC)),
    Option("force", "override what is refused for safety"),
    Option("test", "exit code tells the state of the array", modes=_MISC),
    Option("config", "settings file for --check-timing", "FILE", modes=_MISC),
    Option("brief", "ARRAY lines only"),
    Option("export", "KEY=value lines"),
    Option("json", "one JSON document"),
    Option("verbose", "say more"),
    Option("quiet", "say less"),
    Option("socket", "control socket of the daemon", "PATH"),
    Option("help", "this text"),
    Option("version", "print the version"),
)
OPTIONS: Final = {option.name: option for option in _ALL}

ANY_MODE: Final = ("brief", "export", "json", "verbose", "quiet", "socket", "help", "version")
"""These neither need a mode nor set one."""

SYNONYMS: Final = {
    "set-faulty": "fail",
    "raid-disks": "raid-devices",
    "spare-disks": "spare-devices",
    "parity": "layout",
    "rounding": "chunk",
}

SHORT: Final = {
    "C": "create",
    "A": "assemble",
    "G": "grow",
    "D": "detail",
    "E": "examine",
    "S": "stop",
    "R": "run",
    "W": "wait",
    "r": "remove",
    "a": "add",
    "f": "fail",
    "l": "level",
    "n": "raid-devices",
    "x": "spare-devices",
    "c": "chunk",
    "p": "layout",
    "z": "size",
    "e": "metadata",
    "N": "name",
    "u": "uuid",
    "s": "scan",
    "t": "test",
    "b": "bitmap",
    "Y": "export",
    "v": "verbose",
    "q": "quiet",
    "h": "help",
    "V": "version",
}

SHORT_BY_MODE: Final[dict[tuple[str, Mode | None], str]] = {
    ("f", Mode.CREATE): "force",
    ("f", Mode.ASSEMBLE): "force",
    ("f", Mode.MISC): "force",
    ("b", Mode.MISC): "brief",
    ("b", None): "brief",
    ("c", Mode.MISC): "config",
    ("c", Mode.ASSEMBLE): "config",
    ("a", Mode.CREATE): "auto",
    ("a", Mode.ASSEMBLE): "auto",
    ("W", Mode.CREATE): "write-mostly",
    ("W", Mode.MANAGE): "write-mostly",
}
"""Letters that mean something else in some modes, as in mdadm."""

FOREIGN_SHORT: Final = {
    "B": "build",
    "F": "monitor",
    "I": "incremental",
    "Q": "query",
    "X": "examine-bitmap",
    "o": "readonly",
    "w": "readwrite",
    "U": "update",
    "Z": "array-size",
    "k": "consistency-policy",
    "m": "super-minor",
    "d": "delay",
    "i": "pid-file",
    "1": "oneshot",
    "y": "syslog",
}

# fmt: off
FOREIGN: Final = frozenset((
    "build", "monitor", "follow", "incremental", "query", "examine-bitmap",
    "examine-badblocks", "auto-detect", "zero-superblock", "detail-platform", "kill-subarray",
    "update-subarray", "udev-rules", "dump", "restore", "help-options", "auto", "write-behind",
    "write-mostly", "failfast", "nofailfast", "homehost", "symlinks", "data-offset", "nodes",
    "home-cluster", "write-journal", "consistency-policy", "super-minor", "update",
    "freeze-reshape", "add-spare", "add-journal", "readonly", "readwrite",
    "no-degraded", "wait-clean", "cluster-confirm", "no-devices", "sparc2.2",
    "prefer", "mail", "program", "alert", "increment", "delay", "daemonise", "daemonize",
    "oneshot", "pid-file", "syslog", "no-sharing", "backup-file", "invalid-backup",
    "array-size", "continue", "rebuild-map", "path", "offroot",
))
# fmt: on
"""Options of mdadm that mean nothing here (yet): named, so that nobody hunts for a typing error."""
