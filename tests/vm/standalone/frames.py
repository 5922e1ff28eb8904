"""Messages on a byte stream between the lab and the agent in a guest: a length, then JSON.

>>> reader = Reader()
>>> list(reader.feed(pack({"id": 1})))
[{'id': 1}]
"""

import base64
import json
from collections.abc import Iterator
from typing import Any

FRAME_MAX_BYTES = 4 << 20
"""A longer message is refused, by the sender and by the reader."""
CHUNK_MAX_BYTES = 1 << 20
"""Longest piece of a file in one message; a third more as base64."""

Message = dict[str, Any]


class FrameError(ValueError):
    """This stream does not carry messages (any more)."""


def pack(message: Message) -> bytes:
    """The message as it goes on the stream."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > FRAME_MAX_BYTES:
        raise FrameError(f"a message of {len(body)} bytes is too long")
    return len(body).to_bytes(4, "big") + body


class Reader:
    """Cuts a stream into messages; holds at most one unfinished message."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that these bytes complete."""
        self._data += data
        while len(self._data) >= 4:
            size = int.from_bytes(self._data[:4], "big")
            if size > FRAME_MAX_BYTES:
                raise FrameError(f"a message of {size} bytes is announced")
            if len(self._data) < 4 + size:
                return
            body = bytes(self._data[4 : 4 + size])
            del self._data[: 4 + size]
            yield _parsed(body)


def _parsed(body: bytes) -> Message:
    try:
        message = json.loads(body)
    except ValueError as error:
        raise FrameError(f"not JSON: {body[:80]!r}") from error
    if not isinstance(message, dict):
        raise FrameError(f"not a message: {body[:80]!r}")
    return message


def text_of(data: bytes) -> str:
    """Bytes as JSON can carry them."""
    return base64.b64encode(data).decode()


def bytes_of(text: str) -> bytes:
    return base64.b64decode(text)
