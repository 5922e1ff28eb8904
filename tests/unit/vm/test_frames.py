"""Messages on the stream between the lab and a guest: bounded, and refused when broken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vm.standalone.frames import (
    FRAME_MAX_BYTES,
    FrameError,
    Message,
    Reader,
    bytes_of,
    pack,
    text_of,
)

messages = st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=4)


@given(st.lists(messages, max_size=4), st.integers(1, 64))
def test_a_stream_cut_anywhere_gives_the_same_messages(sent: list[Message], piece: int) -> None:
    stream = b"".join(map(pack, sent))
    reader = Reader()
    got = []
    for start in range(0, len(stream), piece):
        got += list(reader.feed(stream[start : start + piece]))

    assert got == sent


@given(st.binary(max_size=100))
def test_bytes_survive_json(data: bytes) -> None:
    assert bytes_of(text_of(data)) == data


def test_too_long_a_message_is_refused_on_both_sides() -> None:
    with pytest.raises(FrameError, match="too long"):
        pack({"data": "x" * FRAME_MAX_BYTES})
    with pytest.raises(FrameError, match="announced"):
        list(Reader().feed((FRAME_MAX_BYTES + 1).to_bytes(4, "big")))


@pytest.mark.parametrize("body", [b"nonsense", b"[1]", b"\xff\xff"])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        list(Reader().feed(len(body).to_bytes(4, "big") + body))
