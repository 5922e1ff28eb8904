"""Named tuples to plain JSON values and back, every field checked.

Only what the control protocol needs: ``bool``, ``int`` (64 bits), ``float``, ``str``, string
enums, nested named tuples, ``tuple[X, ...]`` and ``X | None``. A field may be left out where it
has a default. Frozen dataclasses can be sent too.
"""

import types
from enum import StrEnum
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from mdcluster.control.errors import ProtocolError

STR_MAX = 8192
ITEMS_MAX = 4096
INT_MAX = (1 << 64) - 1
"""Positions on disk are unsigned 64 bits."""

T = TypeVar("T")

_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def plain(value: Any) -> Any:
    """What ``json.dumps`` takes for a record, however deep; anything else as it is."""
    names = getattr(value, "_fields", getattr(value, "__dataclass_fields__", None))
    if names is not None:
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def build(cls: type[T], raw: object, where: str, *, strict: bool = True) -> T:
    """The ``cls`` that ``raw`` describes; :class:`ProtocolError` names the field that does not fit.

    strict: refuse unknown keys (requests, so that nothing asked for is silently ignored); without
    it they are skipped (answers, so that an older client understands a newer daemon).
    """
    if not isinstance(raw, dict):
        raise ProtocolError(f"{where}: expected an object, got {_found(raw)}")
    kinds = get_type_hints(cls)
    optional = getattr(cls, "_field_defaults", {})
    unknown = sorted(key for key in raw if key not in kinds)
    if strict and unknown:
        known = ", ".join(kinds) or "none"
        raise ProtocolError(f"{where}: unknown field {unknown[0][:80]!r}; the fields are: {known}")
    values = {}
    for name, kind in kinds.items():
        if name in raw:
            values[name] = _value(kind, raw[name], f"{where}.{name}", strict)
        elif name not in optional:
            raise ProtocolError(f"{where}: field {name!r} is missing")
    return cls(**values)


def _value(kind: Any, raw: object, where: str, strict: bool) -> Any:
    if isinstance(kind, types.UnionType):
        if raw is None:
            return None
        (kind,) = (part for part in get_args(kind) if part is not types.NoneType)
    if get_origin(kind) is tuple:
        if not isinstance(raw, list):
            raise ProtocolError(f"{where}: expected a list, got {_found(raw)}")
        if len(raw) > ITEMS_MAX:
            raise ProtocolError(f"{where}: {len(raw)} items, at most {ITEMS_MAX} are allowed")
        item = get_args(kind)[0]
        return tuple(_value(item, one, f"{where}[{i}]", strict) for i, one in enumerate(raw))
    if hasattr(kind, "_fields"):
        return build(kind, raw, where, strict=strict)
    if issubclass(kind, StrEnum):
        if raw not in tuple(kind):
            raise ProtocolError(f"{where}: expected one of {', '.join(kind)}, got {_found(raw)}")
        return kind(raw)
    return _scalar(kind, raw, where)


def _scalar(kind: type, raw: object, where: str) -> object:
    if kind is float and type(raw) is int:
        raw = float(max(-INT_MAX, min(raw, INT_MAX)))
    if type(raw) is not kind:
        raise ProtocolError(f"{where}: expected {_WORDS[kind]}, got {_found(raw)}")
    if isinstance(raw, str) and len(raw) > STR_MAX:
        raise ProtocolError(f"{where}: {len(raw)} characters, at most {STR_MAX} are allowed")
    if isinstance(raw, int) and not -INT_MAX <= raw <= INT_MAX:
        raise ProtocolError(f"{where}: {raw:#x} does not fit 64 bits")
    return raw


def _found(raw: object) -> str:
    """What stands there instead, short enough for a message."""
    if isinstance(raw, dict):
        return "an object"
    if isinstance(raw, list):
        return "a list"
    text = "null" if raw is None else repr(raw)
    return text if len(text) <= 80 else text[:77] + "..."
