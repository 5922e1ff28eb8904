"""Type hints, compiled once into the functions that encode and decode each type.

A :class:`Shape` is a pair of functions between a value of the program and the plain value
msgpack carries (None, bool, int, str, bytes, list). What is on the wire:

===========================  =======================================================
``int``                      integer, -2**63 .. 2**64 - 1 (a bool is no int)
``bool`` ``str`` ``bytes``   itself; str <= 1024 UTF-8 bytes, bytes <= 64 KiB
``Enum``                     the member's value (str or int)
``Literal``                  the value (str, int, bool or None)
``X | None``                 nil or X
``tuple[X, ...]``            array, at most 4096 items
``tuple[X, Y]``              array of exactly these
frozen dataclass             array of its fields in order, all of them
``A | B`` of dataclasses     array of the class name, then the fields
===========================  =======================================================

Both directions check the same rules, so that nothing is sent which the other side must
refuse. Classes that contain themselves are refused: nesting is finite by construction.
"""

import dataclasses
import enum
import types
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, NewType, Union, get_args, get_origin, get_type_hints

from mdcluster.errors import MdclusterError
from mdcluster.wire.errors import SchemaError

INT_MIN = -(2**63)
INT_MAX = 2**64 - 1
STR_MAX_BYTES = 1024
BYTES_MAX_BYTES = 64 * 1024
ITEMS_MAX = 4096

Convert = Callable[[Any], Any]


class Mismatch(Exception):
    """A value that does not fit its shape; the path to it grows while the stack unwinds."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text
        self.steps: list[str] = []

    def __str__(self) -> str:
        """The path below the message, and what was expected there."""
        return f"{''.join(reversed(self.steps))}: {self.text}"


class Shape(NamedTuple):
    """How values of one type travel; both functions raise :class:`Mismatch`."""

    encode: Convert
    decode: Convert


def describe(value: object) -> str:
    """A short, bounded description of a value that may come from anywhere."""
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, int):
        return str(value) if abs(value) <= INT_MAX else f"{value.bit_length()} bits"
    if isinstance(value, str):
        return repr(value) if len(value) <= 40 else f"{value[:40]!r}... ({len(value)} characters)"
    if isinstance(value, bytes | list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _same(check: Convert) -> Shape:
    """A type that is the same on both sides."""
    return Shape(check, check)


def _check_int(value: Any) -> Any:
    if type(value) is not int or not INT_MIN <= value <= INT_MAX:
        raise Mismatch(f"expected an integer of 64 bits, got {describe(value)}")
    return value


def _check_bool(value: Any) -> Any:
    if type(value) is not bool:
        raise Mismatch(f"expected a bool, got {describe(value)}")
    return value


def _check_none(value: Any) -> Any:
    if value is not None:
        raise Mismatch(f"expected nothing, got {describe(value)}")
    return value


def _check_str(value: Any) -> Any:
    if type(value) is not str:
        raise Mismatch(f"expected a string, got {describe(value)}")
    if value.isascii():
        size_bytes = len(value)
    else:
        try:
            size_bytes = len(value.encode())
        except UnicodeEncodeError:
            raise Mismatch("expected a string of whole characters, got a lone surrogate") from None
    if size_bytes > STR_MAX_BYTES:
        raise Mismatch(f"expected at most {STR_MAX_BYTES} bytes of UTF-8, got {size_bytes}")
    return value


def _check_bytes(value: Any) -> Any:
    if type(value) is not bytes:
        raise Mismatch(f"expected bytes, got {describe(value)}")
    if len(value) > BYTES_MAX_BYTES:
        raise Mismatch(f"expected at most {BYTES_MAX_BYTES} bytes, got {len(value)}")
    return value


_SCALARS: dict[object, Shape] = {
    int: _same(_check_int),
    bool: _same(_check_bool),
    str: _same(_check_str),
    bytes: _same(_check_bytes),
    type(None): _same(_check_none),
}


def _choice(values: Sequence[Any]) -> str:
    return "one of " + ", ".join(repr(v) for v in values)


def _enum_shape(cls: type[enum.Enum], where: str) -> Shape:
    members = {(type(m.value), m.value): m for m in cls}
    # IntEnum and StrEnum values are plain int and str; anything else has no canonical form.
    if not members or any(kind not in {int, str} for kind, _ in members):
        raise SchemaError(f"{where}: the values of enum {cls.__name__} must be str or int")
    expected = _choice([m.value for m in cls])

    def encode(value: Any) -> Any:
        if type(value) is not cls:
            raise Mismatch(f"expected a {cls.__name__}, got {describe(value)}")
        return value.value

    def decode(value: Any) -> Any:
        kind = type(value)
        if kind is int or kind is str:
            member = members.get((kind, value))
            if member is not None:
                return member
        raise Mismatch(f"expected {expected}, got {describe(value)}")

    return Shape(encode, decode)


def _literal_shape(values: tuple[Any, ...], where: str) -> Shape:
    if any(type(v) not in {int, str, bool, type(None)} for v in values):
        raise SchemaError(f"{where}: only str, int, bool and None are possible in a Literal")
    allowed = frozenset((type(v), v) for v in values)
    expected = _choice(values)

    def check(value: Any) -> Any:
        if type(value) not in {int, str, bool, type(None)} or (type(value), value) not in allowed:
            raise Mismatch(f"expected {expected}, got {describe(value)}")
        return value

    return _same(check)


def _optional_shape(inner: Shape) -> Shape:
    inner_encode, inner_decode = inner

    def encode(value: Any) -> Any:
        return None if value is None else inner_encode(value)

    def decode(value: Any) -> Any:
        return None if value is None else inner_decode(value)

    return Shape(encode, decode)


def _items(convert: Convert, source: type[Any], target: type[Any]) -> Convert:
    """Every item of a list or tuple through ``convert``."""

    def run(values: Any) -> Any:
        if not isinstance(values, source):
            raise Mismatch(f"expected a sequence, got {describe(values)}")
        if len(values) > ITEMS_MAX:
            raise Mismatch(f"expected at most {ITEMS_MAX} items, got {len(values)}")
        out: list[Any] = []
        try:
            for value in values:
                out.append(convert(value))
        except Mismatch as bad:
            bad.steps.append(f"[{len(out)}]")
            raise
        return target(out)

    return run


def _fixed(converts: tuple[Convert, ...], source: type[Any], target: type[Any]) -> Convert:
    """A tuple of exactly these types."""

    def run(values: Any) -> Any:
        if not isinstance(values, source) or len(values) != len(converts):
            raise Mismatch(f"expected exactly {len(converts)} items, got {describe(values)}")
        out: list[Any] = []
        try:
            for convert, value in zip(converts, values, strict=True):
                out.append(convert(value))
        except Mismatch as bad:
            bad.steps.append(f"[{len(out)}]")
            raise
        return target(out)

    return run


class Record(NamedTuple):
    """One dataclass, compiled: its fields to and from a list."""

    cls: type
    name: str
    width: int
    pack: Callable[[Any], list[Any]]
    unpack: Callable[[list[Any], int], Any]  # the list, and where in it the fields begin


def _record(cls: type, shapes: dict[str, Shape], keyword: bool) -> Record:
    names = tuple(shapes)
    width = len(names)
    encodes = tuple((name, shape.encode) for name, shape in shapes.items())
    decodes = tuple(shape.decode for shape in shapes.values())

    def pack(value: Any) -> list[Any]:
        out: list[Any] = []
        try:
            for name, encode in encodes:
                out.append(encode(getattr(value, name)))
        except Mismatch as bad:
            bad.steps.append(f".{names[len(out)]}")
            raise
        return out

    def unpack(values: list[Any], start: int) -> Any:
        if len(values) - start != width:
            raise Mismatch(f"expected {width} fields, got {len(values) - start}")
        out: list[Any] = []
        try:
            for decode in decodes:
                out.append(decode(values[start + len(out)]))
        except Mismatch as bad:
            bad.steps.append(f".{names[len(out)]}")
            raise
        try:
            return cls(**dict(zip(names, out, strict=True))) if keyword else cls(*out)
        except (ValueError, AssertionError, MdclusterError) as bad:
            # The class's own __post_init__ refused values that have the right types.
            raise Mismatch(f"refused by {cls.__name__}: {bad}") from None

    return Record(cls, cls.__name__, width, pack, unpack)


def _record_shape(record: Record) -> Shape:
    cls, _, _, pack, unpack = record

    def encode(value: Any) -> Any:
        if type(value) is not cls:
            raise Mismatch(f"expected a {cls.__name__}, got {describe(value)}")
        return pack(value)

    def decode(value: Any) -> Any:
        if type(value) is not list:
            raise Mismatch(f"expected the fields of a {cls.__name__}, got {describe(value)}")
        return unpack(value, 0)

    return Shape(encode, decode)


def union_shape(records: Sequence[Record]) -> Shape:
    """One of several dataclasses: an array of the class name, then the fields."""
    by_cls = {record.cls: (record.name, record.pack) for record in records}
    by_name = {record.name: record.unpack for record in records}
    expected = "one of " + ", ".join(sorted(by_name)[:8]) + (" ..." if len(by_name) > 8 else "")

    def encode(value: Any) -> Any:
        found = by_cls.get(type(value))
        if found is None:
            raise Mismatch(f"expected {expected}, got {describe(value)}")
        name, pack = found
        return [name, *pack(value)]

    def decode(value: Any) -> Any:
        if type(value) is not list or not value or type(value[0]) is not str:
            raise Mismatch(f"expected a class name and its fields, got {describe(value)}")
        name = value[0]
        unpack = by_name.get(name)
        if unpack is None:
            raise Mismatch(f"expected {expected}, got class {describe(name)}")
        return unpack(value, 1)

    return Shape(encode, decode)


class Compiler:
    """Derives shapes from type hints; each dataclass once."""

    def __init__(self) -> None:
        self._records: dict[type, Record] = {}
        self._open: list[type] = []

    def record(self, cls: type) -> Record:
        """The compiled form of a frozen dataclass; :class:`SchemaError` if it cannot have one."""
        done = self._records.get(cls)
        if done is not None:
            return done
        where = cls.__name__
        params = getattr(cls, "__dataclass_params__", None)
        if params is None or not params.frozen:
            raise SchemaError(f"{where}: only frozen dataclasses travel")
        if cls in self._open:
            raise SchemaError(f"{where}: contains itself; messages have a finite depth")
        fields = dataclasses.fields(cls)
        if any(not f.init for f in fields):
            raise SchemaError(f"{where}: every field must be an argument of the constructor")
        try:
            hints = get_type_hints(cls)
        except NameError as bad:
            raise SchemaError(f"{where}: a type hint cannot be resolved: {bad}") from None
        self._open.append(cls)
        shapes = {f.name: self.shape(hints[f.name], f"{where}.{f.name}") for f in fields}
        self._open.pop()
        done = _record(cls, shapes, keyword=any(f.kw_only for f in fields))
        self._records[cls] = done
        return done

    def shape(self, hint: Any, where: str) -> Shape:
        """The shape of any supported type hint."""
        while isinstance(hint, NewType):
            hint = hint.__supertype__
        if hint in _SCALARS:
            return _SCALARS[hint]
        origin = get_origin(hint)
        if origin is Literal:
            return _literal_shape(get_args(hint), where)
        if origin in {Union, types.UnionType}:
            return self._union(get_args(hint), where)
        if origin is tuple:
            return self._tuple(get_args(hint), where)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return _enum_shape(hint, where)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            return _record_shape(self.record(hint))
        raise SchemaError(f"{where}: type {hint!r} has no form on the wire")

    def _union(self, hints: tuple[Any, ...], where: str) -> Shape:
        rest = [hint for hint in hints if hint is not type(None)]
        if len(rest) == 1:
            inner = self.shape(rest[0], where)
        elif all(isinstance(h, type) and dataclasses.is_dataclass(h) for h in rest):
            inner = self.union([self.record(hint) for hint in rest], where)
        else:
            raise SchemaError(f"{where}: only dataclasses can be alternatives, besides None")
        return inner if len(rest) == len(hints) else _optional_shape(inner)

    def union(self, records: Sequence[Record], where: str) -> Shape:
        """Tagged alternatives; their names must differ."""
        names = [record.name for record in records]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SchemaError(f"{where}: class name {twice[0]} twice in one union")
        return union_shape(records)

    def _tuple(self, hints: tuple[Any, ...], where: str) -> Shape:
        if len(hints) == 2 and hints[1] is Ellipsis:
            inner = self.shape(hints[0], f"{where}[]")
            return Shape(_items(inner.encode, tuple, list), _items(inner.decode, list, tuple))
        inners = [self.shape(hint, f"{where}[{i}]") for i, hint in enumerate(hints)]
        return Shape(
            _fixed(tuple(s.encode for s in inners), tuple, list),
            _fixed(tuple(s.decode for s in inners), list, tuple),
        )
