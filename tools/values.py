"""Values on the command line: sizes, levels, layouts, UUIDs, names. Each is right or refused."""

from __future__ import annotations

import itertools
import re
from typing import Final

from mdcluster.errors import MdclusterError

INVALID_EXIT: Final = 2
"""mdadm's exit code for what it does not understand."""

NAME_MAX: Final = 32


_UNITS: Final = {"": 2, "K": 2, "M": 2 << 10, "G": 2 << 20, "T": 2 << 30, "s": 1}
_SIZE: Final = re.compile(r"([0-9]{1,18})([KMGTs]?)")
_UUID: Final = re.compile(r"(?:[0-9a-fA-F][:. -]?){31}[0-9a-fA-F]")
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_LEVELS: Final = {"raid1": 1, "1": 1, "mirror": 1, "raid10": 10, "10": 10}
_OTHER_LEVELS: Final = (
    *("linear", "raid0", "0", "stripe", "raid4", "4", "raid5", "5", "raid6", "6"),
    *("multipath", "mp", "faulty", "container"),
)
_ACTIONS: Final = ("check", "repair", "idle")
_OTHER_ACTIONS: Final = ("frozen", "resync", "recover")
_METADATA: Final = ("1.2", "1", "default")
_OTHER_METADATA: Final = ("0", "0.90", "1.0", "1.1", "ddf", "imsm")


class UsageError(MdclusterError):
    """The command line is not what the grammar allows; the text says what was meant."""

    def __init__(self, text: str, exit_code: int = INVALID_EXIT) -> None:
        self.exit_code = exit_code
        super().__init__(text)


def parse_size(text: str) -> int | None:
    """Sectors in ``64``, ``64K``, ``1M``, ``2G``, ``3T``, ``8s``; None if it is none.

    Without a suffix it is KiB (mdadm util.c parse_size).
    """
    match = _SIZE.fullmatch(text)
    if match is None or int(match[1]) == 0:
        return None
    return int(match[1]) * _UNITS[match[2]]


def chunk_sectors(text: str) -> int:
    """A chunk size: 4 KiB or more, a power of two."""
    sectors = parse_size(text)
    if sectors is None or sectors < 8 or sectors & sectors - 1:
        raise UsageError(f"invalid chunk/rounding value: {text}; expected a power of two, as 512K")
    return sectors


def bitmap_chunk_sectors(text: str) -> int:
    """What one bit stands for: a power of two, 4 KiB or more (mdadm Create.c)."""
    sectors = parse_size(text)
    if sectors is None or sectors < 8 or sectors & sectors - 1:
        raise UsageError(f"invalid bitmap chunksize: {text}; expected a power of two, as 64M")
    return sectors


def device_sectors(text: str) -> int | None:
    """``--size``: how much of each device; None for ``max``."""
    if text == "max":
        return None
    sectors = parse_size(text)
    if sectors is None or sectors < 8:
        raise UsageError(f"invalid size: {text}; expected KiB, or a number with K, M, G or T")
    return sectors


def level(text: str) -> int:
    """``raid1``, ``1``, ``mirror``, ``raid10`` or ``10``."""
    if text in _LEVELS:
        return _LEVELS[text]
    if text in _OTHER_LEVELS:
        raise UsageError(f"raid level {text} cannot be shared by nodes: use raid1 or raid10")
    hint = ", write -l1 or --level=1" if text.startswith("=") else ", expected raid1 or raid10"
    raise UsageError(f"invalid raid level: {text}{hint}")


def raid10_layout(text: str) -> int:
    """md's number for ``nN`` (mdadm util.c parse_layout_10); far and offset are refused."""
    match = re.fullmatch(r"([nfo])([0-9]{1,3})", text)
    if match is None or not 1 <= int(match[2]) <= 200:
        raise UsageError(f"layout for raid10 must be 'nNN' where NN is a number, not {text}")
    if match[1] != "n":
        raise UsageError(
            f"layout {text}: far and offset cannot be shared by nodes: use near, as n{match[2]}"
        )
    return 0x100 + int(match[2])


def count(text: str, what: str, least: int) -> int:
    """A number of devices."""
    if not re.fullmatch(r"[0-9]{1,4}", text) or int(text) < least:
        raise UsageError(f"invalid number of {what}: {text}")
    return int(text)


def uuid(text: str) -> str:
    """The UUID in the canonical form (8-4-4-4-12), from any form mdadm takes."""
    if _UUID.fullmatch(text) is None:
        raise UsageError(f"Bad uuid: {text}; expected 32 hexadecimal digits")
    digits = re.sub(r"[:. -]", "", text).lower()
    cuts = (0, 8, 12, 16, 20, 32)
    return "-".join(digits[low:high] for low, high in itertools.pairwise(cuts))


def metadata(text: str) -> str:
    """``1.2``, the only version written here."""
    if text in _METADATA:
        return "1.2"
    if text in _OTHER_METADATA:
        raise UsageError(f"metadata {text} cannot be shared by nodes: use 1.2")
    raise UsageError(f"unrecognised metadata identifier: {text}; expected 1.2")


def action(text: str) -> str:
    """``--action``: what people may have md do with the members as they are."""
    if text in _ACTIONS:
        return text
    hint = "the writer does that by itself; " if text in _OTHER_ACTIONS else ""
    raise UsageError(f"invalid action {text}: {hint}expected {', '.join(_ACTIONS)}")


def bitmap(text: str) -> str:
    """``internal`` (``clustered`` is the same here) or ``none``."""
    if text in ("internal", "clustered"):
        return "internal"
    if text == "none":
        return "none"
    if "/" in text:
        raise UsageError(f"bitmap file {text}: a file cannot be shared by nodes: use internal")
    raise UsageError(f"bitmap must be 'internal' or 'none', not '{text}'")


NO_HOST: Final = ("any", "<none>", "<ignore>", "")
NODES_MAX: Final = 32
"""As many nodes have a bitmap of their own on each member (metadata.layout.PROFILES)."""


def homehost(text: str) -> None:
    """An array of the cluster is at home on no single host."""
    if text not in NO_HOST:
        raise UsageError(
            f"homehost {text}: an array of the cluster is at home on all its nodes: "
            "leave it out, or say any"
        )


def without_host(text: str) -> str:
    """The name in mdadm's HOST:NAME."""
    return text.rpartition(":")[2]


def nodes(text: str) -> int:
    """How many nodes have a bitmap at least; 2 to 32."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < 2:
        raise UsageError(f"clustered array needs two nodes at least: {text}")
    if int(text) > NODES_MAX:
        raise UsageError(f"{text} nodes: there is room for the bitmaps of {NODES_MAX}")
    return int(text)


def data_offset(text: str) -> int:
    """Sectors; whole blocks of 4 KiB."""
    if text == "variable":
        raise UsageError("data-offset variable: data begins at one offset on all members")
    sectors = parse_size(text)
    if sectors is None or sectors % 8:
        raise UsageError(f"invalid data-offset: {text}; expected a multiple of 4K, as 128M")
    return sectors


def consistency_policy(text: str) -> None:
    """``bitmap``: what every array of the cluster has."""
    if text in ("resync", "journal", "ppl"):
        raise UsageError(f"consistency policy {text} cannot be shared by nodes: use bitmap")
    if text != "bitmap":
        raise UsageError(f"Invalid consistency policy: {text}; expected bitmap")


def array_name(text: str) -> str:
    """What names the array: ``NAME`` of ``/dev/md/NAME``, ``N`` of ``/dev/mdN``, or a UUID.

    A new array's name is checked by :func:`new_name`.
    """
    name = text
    if text.startswith("/dev/md/"):
        name = text.removeprefix("/dev/md/")
    elif match := re.fullmatch(r"(?:/dev/)?md_?([0-9]+)|/dev/md_(.+)", text):
        name = match[1] or match[2]
    if not name or "/" in name:
        raise UsageError(f"{text} does not appear to be an md device: give /dev/md/NAME", 1)
    return uuid(name) if _UUID.fullmatch(name) else name


def new_name(text: str) -> str:
    """The name for a new array; letters, digits and ``_ . + -``, up to 32."""
    if len(text) > NAME_MAX:
        raise UsageError(f"name '{text}' is too long, {NAME_MAX} chars max.")
    if _NAME.fullmatch(text) is None:
        raise UsageError(
            f"name '{text}' cannot name a device: letters, digits, '_', '.', '+' and '-' can"
        )
    return text
