"""The lines on the control socket: what is accepted, what is refused, and how it says so."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdcluster.control.arrays import ArrayDetail, MemberInfo, SyncInfo
from mdcluster.control.errors import ProtocolError
from mdcluster.control.protocol import (
    ID_MAX,
    LINE_MAX_BYTES,
    NO_ID,
    EventLine,
    Reply,
    Request,
    State,
    decode_answer,
    decode_request,
    encode,
    id_of_line,
)
from mdcluster.control.shape import ITEMS_MAX, STR_MAX, build, plain
from mdcluster.control.verbs import ARGS, CreateArgs, MemberArgs, Verb, changes, parse_args
from tests.unit.control.samples import DETAIL


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def test_messages_survive_the_line() -> None:
    request = Request(7, "detail", {"array": "däta\n"})
    assert decode_request(encode(request)) == request
    reply = Reply(7, State.WAITING, "for b", {"a": [1, None]})
    assert decode_answer(encode(reply)) == reply
    event = EventLine("writer", {"node": "a", "term": 3})
    assert decode_answer(encode(event)) == event
    assert encode(event).count(b"\n") == 1


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"\n", "not a line of JSON"),
        (b"{\n", "not a line of JSON"),
        (b"\xff\xfe\n", "not a line of JSON"),
        (b"[1]\n", "expected a JSON object"),
        (b"[" * 200_000 + b"\n", "not a line of JSON"),
        (b'{"id": 1, "verb": "status", "args": {"x": NaN}}\n', "NaN"),
        (b'{"id": ' + b"9" * 5000 + b"}\n", "not a line of JSON"),
        (line(verb="status"), "'id'"),
        (line(id=0, verb="status"), "'id'"),
        (line(id=True, verb="status"), "'id'"),
        (line(id=1.5, verb="status"), "'id'"),
        (line(id=ID_MAX + 1, verb="status"), "'id'"),
        (line(id=1), "'verb'"),
        (line(id=1, verb=3), "'verb'"),
        (line(id=1, verb="status", args=[]), "'args'"),
        (line(id=1, verb="status", more=1), "unknown field 'more'"),
    ],
)
def test_bad_requests_are_explained(bad: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        decode_request(bad)


def test_a_line_that_is_too_long_is_neither_sent_nor_read() -> None:
    with pytest.raises(ProtocolError, match="at most 1048576"):
        encode(Reply(1, State.DONE, "x" * LINE_MAX_BYTES))
    with pytest.raises(ProtocolError, match="more than 1048576"):
        decode_request(b" " * (LINE_MAX_BYTES + 1))


def test_an_error_finds_its_way_to_who_asked() -> None:
    assert id_of_line(line(id=5, verb=1)) == 5
    assert id_of_line(b"rubbish") == NO_ID


@pytest.mark.parametrize("bad", [line(id=-1, state="done"), line(id=1, state="maybe"), line(id=1)])
def test_bad_answers_are_explained(bad: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_answer(bad)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@given(st.binary(max_size=200) | JSON_VALUES.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=300, deadline=None)
def test_garbage_ends_in_a_clear_error(raw: bytes) -> None:
    for decode in (decode_request, decode_answer):
        try:
            decode(raw)
        except ProtocolError as error:
            assert str(error)


@given(st.sampled_from(list(Verb)), JSON_VALUES.filter(lambda value: isinstance(value, dict)))
@settings(max_examples=300, deadline=None)
def test_garbage_arguments_end_in_a_clear_error(verb: Verb, args: dict[str, Any]) -> None:
    try:
        parse_args(Request(1, verb, args))
    except ProtocolError as error:
        assert verb in str(error)


@given(st.sampled_from(sorted(ARGS)), st.data())
@settings(max_examples=200, deadline=None)
def test_fields_of_a_wrong_kind_are_refused(verb: Verb, data: st.DataObject) -> None:
    names = list(ARGS[verb]._fields)
    if not names:
        return
    args = {name: data.draw(JSON_VALUES) for name in names}
    try:
        parsed = parse_args(Request(1, verb, args))
    except ProtocolError as error:
        assert verb in str(error)
    else:
        assert plain(parsed) == args


def test_every_verb_has_arguments() -> None:
    assert set(ARGS) == set(Verb)
    asking = {"status", "arrays", "detail", "mdstat", "why", "wait", "events", "history"}
    for verb, args in ARGS.items():
        assert ("proposal" in args._fields) == (verb not in asking), verb


def test_arguments_are_checked_field_by_field() -> None:
    good = {"proposal": "p", "array": "x", "device": "/dev/sdb"}
    args = parse_args(Request(1, "fail", good))
    assert args == MemberArgs("p", "x", "/dev/sdb")
    assert changes(args)
    for change, said in (
        ({"force": 1}, "fail.force: expected true or false, got 1"),
        ({"device": None}, "fail.device: expected a string, got null"),
        ({"device": "x" * (STR_MAX + 1)}, "at most"),
        ({"devices": []}, "unknown field 'devices'"),
    ):
        with pytest.raises(ProtocolError, match=said):
            parse_args(Request(1, "fail", {**good, **change}))
    with pytest.raises(ProtocolError, match="'device' is missing"):
        parse_args(Request(1, "fail", {"proposal": "p", "array": "x"}))
    with pytest.raises(ProtocolError, match="unknown verb 'format'"):
        parse_args(Request(1, "format", {}))


def test_lists_and_numbers_are_bounded() -> None:
    base = plain(CreateArgs("p", "x", 1, 2, ("a", "b")))
    for change, said in (
        ({"devices": ["a"] * (ITEMS_MAX + 1)}, "items, at most"),
        ({"devices": "ab"}, "expected a list"),
        ({"devices": [1]}, r"devices\[0\]: expected a string"),
        ({"raid_disks": True}, "expected an integer"),
        ({"size_sectors": 1 << 70}, "64 bits"),
    ):
        with pytest.raises(ProtocolError, match=said):
            build(CreateArgs, {**base, **change}, "create")


def test_data_survives_and_an_older_client_skips_what_it_does_not_know() -> None:
    raw = json.loads(json.dumps(plain(DETAIL)))
    assert build(ArrayDetail, raw, "detail") == DETAIL
    raw["colour"] = "green"
    raw["members"][0]["smell"] = None
    assert build(ArrayDetail, raw, "detail", strict=False) == DETAIL
    with pytest.raises(ProtocolError, match="colour"):
        build(ArrayDetail, raw, "detail")


def test_enum_words_are_checked() -> None:
    raw = {"kind": "resync", "state": "asleep", "position_sectors": 0, "end_sectors": 1}
    with pytest.raises(ProtocolError, match="expected one of running, pending, delayed"):
        build(SyncInfo, raw, "sync")
    with pytest.raises(ProtocolError, match=r"member: expected an object, got a list"):
        build(MemberInfo, [], "member")
