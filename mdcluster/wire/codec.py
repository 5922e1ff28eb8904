"""A closed set of frozen dataclasses to bytes and back, everything checked.

>>> codec = Codec([Heartbeat, Vote])
>>> codec.decode(codec.encode(Heartbeat(term=3)))
Heartbeat(term=3)

A message is a msgpack array of the class name and its fields in order (see
:mod:`mdcluster.wire.schema`). The name, not a number, is the tag: classes may be added or moved
without a change of what others mean, and a refusal can say what it met.

The bytes are canonical: each object has one encoding, and no other is accepted
(``encode(decode(x)) == x`` for every accepted ``x``), so that bytes may be compared and hashed.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgpack  # type: ignore[import-untyped]

from mdcluster.wire import schema
from mdcluster.wire.errors import SchemaError, WireError

SIZE_MAX_BYTES = 1024 * 1024

T = TypeVar("T")


class Codec:
    """Encodes and decodes the given classes, and refuses everything else.

    ``size_max_bytes`` bounds one encoded object. Made once, at import: deriving the schema takes
    milliseconds; a class that cannot travel raises :class:`~mdcluster.wire.errors.SchemaError`.
    """

    def __init__(self, classes: Sequence[type], *, size_max_bytes: int = SIZE_MAX_BYTES) -> None:
        if not classes:
            raise SchemaError("a codec needs at least one class")
        compiler = schema.Compiler()
        records = [compiler.record(cls) for cls in classes]
        self._shape = compiler.union(records, "codec")
        self._names = frozenset(record.name for record in records)
        self._size_max_bytes = size_max_bytes

    def encode(self, obj: object) -> bytes:
        """The canonical bytes of ``obj``; :class:`WireError` where a value breaks the schema."""
        try:
            data: bytes = msgpack.packb(self._shape.encode(obj))
        except schema.Mismatch as bad:
            raise WireError(f"{type(obj).__name__}{bad}") from None
        if len(data) > self._size_max_bytes:
            raise WireError(
                f"{type(obj).__name__}: {len(data)} bytes encoded, "
                f"at most {self._size_max_bytes} can be sent"
            )
        return data

    def decode(self, data: bytes) -> object:
        """The object in ``data``; :class:`WireError` for anything that is not exactly one."""
        if len(data) > self._size_max_bytes:
            raise WireError(f"message: {len(data)} bytes, at most {self._size_max_bytes} accepted")
        raw = _unpack(data)
        try:
            return self._shape.decode(raw)
        except schema.Mismatch as bad:
            named = isinstance(raw, list) and raw and isinstance(raw[0], str)
            name = raw[0] if named and raw[0] in self._names else "message"
            raise WireError(f"{name}{bad}") from None

    def decode_as(self, cls: type[T], data: bytes) -> T:
        """Like :meth:`decode`, where only one class of the set can be meant."""
        obj = self.decode(data)
        if not isinstance(obj, cls):
            raise WireError(f"message: expected a {cls.__name__}, got a {type(obj).__name__}")
        return obj


def _unpack(data: bytes) -> Any:
    """One msgpack value in its shortest form and nothing behind it.

    Packing it again finds in one step what msgpack lets pass: longer forms of a number or a
    length, duplicate keys. Errors of msgpack derive from ValueError.
    """
    try:
        raw = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_str_len=schema.STR_MAX_BYTES,
            max_bin_len=schema.BYTES_MAX_BYTES,
            max_array_len=schema.ITEMS_MAX,
            max_map_len=0,
            max_ext_len=0,
        )
        again = msgpack.packb(raw)
    except (ValueError, OverflowError, TypeError) as bad:
        raise WireError(f"message: no valid msgpack: {bad or type(bad).__name__}") from None
    if again != data:
        raise WireError("message: not in its one canonical form")
    return raw
