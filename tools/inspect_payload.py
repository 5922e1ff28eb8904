"""The payload of a commit, decoded without knowing its schema: bounded, and fit for JSON."""

from __future__ import annotations

import math
from typing import Final

import msgpack  # type: ignore[import-untyped]

from mdcluster.metadata.errors import DamagedError, Where
from mdcluster.metadata.rings import PAYLOAD_BYTES_MAX

ITEMS_MAX: Final = 4096
DEPTH_MAX: Final = 16

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]


def decode_payload(payload: bytes, where: Where) -> Plain:
    """The msgpack value in `payload`, bytes as hex strings. Raises DamagedError."""
    try:
        value = msgpack.unpackb(
            payload,
            raw=False,
            strict_map_key=True,
            max_str_len=PAYLOAD_BYTES_MAX,
            max_bin_len=PAYLOAD_BYTES_MAX,
            max_array_len=ITEMS_MAX,
            max_map_len=ITEMS_MAX,
            max_ext_len=0,
        )
        return _plain(value, DEPTH_MAX)
    except ValueError as exc:
        raise DamagedError(
            where,
            f"the commit's state is no msgpack this program shows: {exc}",
            "the record itself is whole; it was perhaps written by another version",
        ) from exc


def _plain(value: object, depth: int) -> Plain:
    """`value` as JSON has it. Raises ValueError if nested too deep."""
    if depth == 0:
        raise ValueError(f"nested deeper than {DEPTH_MAX}")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list):
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, dict):
        return {_key(key): _plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise ValueError(f"unexpected {type(value).__name__}")


def _key(key: object) -> str:
    return key.hex() if isinstance(key, bytes) else str(key)


def outline(value: Plain, indent: str = "") -> list[str]:
    """`value` as indented lines, one for each scalar."""
    if isinstance(value, dict):
        pairs = [(f"{key}:", item) for key, item in value.items()]
    elif isinstance(value, list):
        pairs = [("-", item) for item in value]
    else:
        return [f"{indent}{_scalar(value)}"]
    lines: list[str] = []
    for label, item in pairs:
        if isinstance(item, (dict, list)) and item:
            lines.append(f"{indent}{_scalar(label)}")
            lines += outline(item, indent + "  ")
        else:
            lines.append(f"{indent}{_scalar(label)} {_scalar(item)}")
    return lines


def _scalar(value: Plain) -> str:
    """One line, with nothing in it that a terminal would act on."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    text = str(value)
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
