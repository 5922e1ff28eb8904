"""The codec: round trips, every refusal with its path, and fuzz."""

import dataclasses
import timeit
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdcluster.errors import MdclusterError
from mdcluster.wire.codec import Codec
from mdcluster.wire.errors import SchemaError, WireError
from tests.unit.wire import samples as s

CODEC = Codec(s.CLASSES)
MEMBER = s.Member(b"\x01" * 16, s.MemberState.ACTIVE, 0, 0)
ARRAY = s.ArrayEntry("md0", s.Level.RAID1, (MEMBER,) * 4, 2048)
REPLICATE = s.Replicate(s.Term(3), (s.Term(3), 8), ARRAY, None, "full")
HEARTBEAT = s.Heartbeat(s.Term(3), 1234567, s.NodeId("a" * 36), ())


def raw_of(obj: object) -> list[Any]:
    raw: list[Any] = msgpack.unpackb(CODEC.encode(obj))
    return raw


INTS = st.integers(-(2**63), 2**64 - 1)
TERMS = INTS.map(s.Term)
NAMES = st.text(max_size=40).map(s.NodeId)
MEMBERS = st.builds(
    s.Member, st.binary(max_size=32), st.sampled_from(s.MemberState), st.none() | INTS, INTS
)
ENTRIES = st.builds(
    s.ArrayEntry,
    st.text(max_size=40),
    st.sampled_from(s.Level),
    st.lists(MEMBERS, max_size=4).map(tuple),
    INTS,
) | st.builds(s.ClusterEntry, st.lists(NAMES, max_size=4).map(tuple), st.booleans())
MODES: st.SearchStrategy[Any] = st.sampled_from(["full", 7, None, True])
MESSAGES = st.one_of(
    st.builds(s.Heartbeat, TERMS, INTS, st.none() | NAMES, st.just(())),
    st.builds(s.Replicate, TERMS, st.tuples(TERMS, INTS), ENTRIES, st.none() | ENTRIES, MODES),
    st.tuples(INTS, INTS).map(lambda p: s.Window(lo_sectors=min(p), hi_sectors=max(p))),
    st.just(s.Bye()),
)


@given(MESSAGES)
@settings(max_examples=200, deadline=None)
def test_round_trip_is_exact(message: object) -> None:
    data = CODEC.encode(message)
    again = CODEC.decode(data)
    assert again == message
    assert type(again) is type(message)
    assert CODEC.encode(again) == data


def accepted_or_refused(data: bytes) -> None:
    """The only two outcomes; what is accepted is canonical."""
    try:
        obj = CODEC.decode(data)
    except WireError as refused:
        assert len(str(refused)) < 600
        return
    assert CODEC.encode(obj) == data


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_bytes(data: bytes) -> None:
    accepted_or_refused(data)


@given(MESSAGES, st.data())
@settings(max_examples=400, deadline=None)
def test_mutated_messages(message: object, data: st.DataObject) -> None:
    bad = bytearray(CODEC.encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(bad) - 1))
        action = data.draw(st.sampled_from(["set", "cut", "insert", "double"]))
        if action == "set":
            bad[at] = data.draw(st.integers(0, 255))
        elif action == "cut" and len(bad) > 1:
            del bad[max(at, 1) :]
        elif action == "insert":
            bad.insert(at, data.draw(st.integers(0, 255)))
        else:
            bad += bad[at:]
    accepted_or_refused(bytes(bad))


PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | INTS | st.text(max_size=8) | st.binary(max_size=8) | st.floats(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(st.sampled_from([c.__name__ for c in s.CLASSES]), st.lists(PLAIN, max_size=6))
@settings(max_examples=300, deadline=None)
def test_right_names_with_any_fields(name: str, fields: list[Any]) -> None:
    accepted_or_refused(msgpack.packb([name, *fields]))


def changed(obj: Any, **fields: Any) -> Any:
    """A copy with fields of any type."""
    return dataclasses.replace(obj, **fields)


def replaced(*path_and_value: Any) -> bytes:
    """REPLICATE with the plain value at a path of indices replaced."""
    *path, value = path_and_value
    raw = raw_of(REPLICATE)
    spot = raw
    for step in path[:-1]:
        spot = spot[step]
    spot[path[-1]] = value
    return bytes(msgpack.packb(raw))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (replaced(3, 3, 3, 1, "x"), r"Replicate\.entry\.members\[3\]\.state: expected one of 'act"),
        (replaced(3, 3, 2, 2, True), r"Replicate\.entry\.members\[2\]\.role: expected an integer"),
        (replaced(3, 3, 0, [1]), r"Replicate\.entry\.members\[0\]: expected 4 fields, got 1"),
        (replaced(3, 3, "no"), r"Replicate\.entry\.members: expected a sequence"),
        (replaced(3, 2, 2), r"Replicate\.entry\.level: expected one of 1, 10, got 2"),
        (replaced(3, 2, True), r"Replicate\.entry\.level: expected one of 1, 10, got True"),
        (replaced(3, 0, "Bye"), r"Replicate\.entry: expected one of ArrayEntry, ClusterEntry, got"),
        (replaced(3, []), r"Replicate\.entry: expected a class name"),
        (replaced(2, [1, 2, 3]), r"Replicate\.at: expected exactly 2 items, got list of 3"),
        (replaced(2, [1, None]), r"Replicate\.at\[1\]: expected an integer"),
        (replaced(5, 1), r"Replicate\.mode: expected one of 'full', 7, None, True, got 1"),
        (replaced(5, [1]), r"Replicate\.mode: expected one of"),
        (replaced(1, 1.5), r"Replicate\.term: expected an integer of 64 bits, got float"),
        (replaced(3, 1, "x" * 1025), r"message: no valid msgpack: .*1025"),
        (replaced(0, "Nonsense"), r"message: expected one of Bye, .*got class 'Nonsense'"),
        (msgpack.packb(["Bye", 1]), r"Bye: expected 0 fields, got 1"),
        (msgpack.packb(["Heartbeat", 1, 2, None]), r"Heartbeat: expected 4 fields, got 3"),
        (msgpack.packb(["Window", 5, 4]), r"Window: refused by Window: lo_sectors is beyond"),
        (msgpack.packb({"Bye": 1}), r"message: no valid msgpack: .*max_map_len"),
        (msgpack.packb(msgpack.ExtType(1, b"x")), r"message: no valid msgpack"),
        (b"", r"message: no valid msgpack"),
        (msgpack.packb(["Bye"]) + b"\x00", r"message: no valid msgpack: .*extra data"),
        (b"\xdc\x00\x01\xa3Bye", r"message: not in its one canonical form"),
        (b"\x91" * 5000, r"message: no valid msgpack"),
        (b"\x91" * 600 + b"\x01", r"message: "),
        (b"\x91\xa1\xff", r"message: no valid msgpack"),
        (b"\xdd\xff\xff\xff\xff", r"message: no valid msgpack"),
    ],
)
def test_refusal_names_the_place(data: bytes, expected: str) -> None:
    with pytest.raises(WireError, match=f"^{expected}"):
        CODEC.decode(data)
    assert issubclass(WireError, MdclusterError)


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (changed(HEARTBEAT, term=2**64), r"Heartbeat\.term: expected an integer"),
        (changed(HEARTBEAT, term=True), r"Heartbeat\.term: expected an integer"),
        (changed(HEARTBEAT, writer="é" * 513), r"Heartbeat\.writer: .*got 1026"),
        (changed(HEARTBEAT, writer="\ud800"), r"Heartbeat\.writer: .*surrogate"),
        (changed(HEARTBEAT, flags=(1,)), r"Heartbeat\.flags: expected exactly 0"),
        (
            dataclasses.replace(REPLICATE, entry=s.ClusterEntry((s.NodeId("a"),) * 4097, True)),
            r"Replicate\.entry\.voters: expected at most 4096 items, got 4097",
        ),
        (
            dataclasses.replace(
                REPLICATE,
                entry=dataclasses.replace(
                    ARRAY, members=(MEMBER, dataclasses.replace(MEMBER, device=b"x" * 65537))
                ),
            ),
            r"Replicate\.entry\.members\[1\]\.device: expected at most 65536 bytes, got 65537",
        ),
        (MEMBER, r"Member: expected one of"),
        (None, r"NoneType: expected one of"),
    ],
)
def test_nothing_is_sent_that_must_be_refused(obj: object, expected: str) -> None:
    with pytest.raises(WireError, match=f"^{expected}"):
        CODEC.encode(obj)


def test_the_limits_themselves_pass() -> None:
    entry = s.ClusterEntry((s.NodeId("é" * 512), *(s.NodeId("a"),) * 4095), formed=True)
    member = dataclasses.replace(MEMBER, device=b"x" * 65536, recovery_offset_sectors=2**64 - 1)
    array = dataclasses.replace(ARRAY, members=(member,))
    message = s.Replicate(s.Term(-(2**63)), (s.Term(0), 0), entry, array, None)
    assert CODEC.decode(CODEC.encode(message)) == message


def test_size_limit_both_ways() -> None:
    small = Codec(s.CLASSES, size_max_bytes=64)
    assert small.decode(small.encode(HEARTBEAT)) == HEARTBEAT
    with pytest.raises(WireError, match=r"Replicate: \d+ bytes encoded, at most 64 can be sent"):
        small.encode(REPLICATE)
    with pytest.raises(WireError, match=r"message: \d+ bytes, at most 64 accepted"):
        small.decode(CODEC.encode(REPLICATE))


def test_decode_as() -> None:
    assert CODEC.decode_as(s.Bye, CODEC.encode(s.Bye())) == s.Bye()
    with pytest.raises(WireError, match="expected a Heartbeat, got a Bye"):
        CODEC.decode_as(s.Heartbeat, CODEC.encode(s.Bye()))


@dataclass(frozen=True)
class Endless:
    inner: "tuple[Endless, ...]"


@dataclass
class Thawed:
    x: int


@dataclass(frozen=True)
class Floating:
    x: float


@dataclass(frozen=True)
class Mixed:
    x: int | str


@dataclass(frozen=True)
class Dangling:
    x: "NotThere"  # type: ignore[name-defined]  # noqa: F821


@dataclass(frozen=True)
class Derived:
    x: int = dataclasses.field(init=False, default=1)


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (Endless, "Endless: contains itself"),
        (Thawed, "Thawed: only frozen dataclasses"),
        (int, "int: only frozen dataclasses"),
        (Floating, r"Floating\.x: type .*float.* has no form on the wire"),
        (Mixed, r"Mixed\.x: only dataclasses can be alternatives"),
        (Dangling, "Dangling: a type hint cannot be resolved: .*NotThere"),
        (Derived, "Derived: every field must be an argument"),
    ],
)
def test_classes_that_cannot_travel(cls: type, expected: str) -> None:
    with pytest.raises(SchemaError, match=f"^{expected}"):
        Codec([cls])


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(SchemaError, match="class name Bye twice"):
        Codec([s.Bye, s.Bye])
    with pytest.raises(SchemaError, match="at least one class"):
        Codec([])


def test_small_messages_are_cheap() -> None:
    """A bound far above the target (20 us), to catch a change of order only."""
    data = CODEC.encode(HEARTBEAT)
    seconds = min(timeit.repeat(lambda: CODEC.decode(data), number=200, repeat=5)) / 200
    assert seconds < 200e-6
