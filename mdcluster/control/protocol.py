"""The lines on the control socket: requests, replies, events, and their limits.

Line-delimited JSON (UTF-8) over a unix stream socket. A client sends ``{"id", "verb", "args"}``,
perhaps with ``"dry_run": true``; the daemon answers with any number of ``waiting`` replies and one
final ``done`` or ``refused``, each ``{"id", "state", "text", "data"}``. After ``events`` it also
sends ``{"event": kind, ...}`` lines. The verbs and their arguments are in
:mod:`mdcluster.control.verbs`; docs/CONTROL.md tells it in prose. Pure, and of the standard
library alone: the client starts with it.
"""

import json
from enum import StrEnum
from typing import Any, NamedTuple

from mdcluster.control.errors import ProtocolError
from mdcluster.control.shape import plain

SOCKET_PATH = "/run/mdcluster/control.sock"
SOCKET_ENV = "MDCLUSTER_SOCKET"

LINE_MAX_BYTES = 1024 * 1024
CLIENTS_MAX = 64
IN_FLIGHT_MAX = 16
"""Requests of one client that have no final reply yet."""
ID_MAX = (1 << 53) - 1
"""Largest request id: what every JSON reader keeps exactly."""
KEEPALIVE_S = 5.0
"""The daemon repeats the last ``waiting`` reply of a request this often."""
SILENCE_MAX_S = 20.0
"""A client gives up on a daemon that has not sent a line for this long."""
NO_ID = 0
"""The id of a reply to a line that had none that could be read."""


class State(StrEnum):
    DONE = "done"
    REFUSED = "refused"
    WAITING = "waiting"  # not final: the text says what it waits for


class Request(NamedTuple):
    """``id`` is chosen by the client, 1 to 2^53 - 1, unique among its requests in flight.

    dry_run: a change is not made; the answer tells what it would do.
    """

    id: int
    verb: str
    args: dict[str, Any]
    dry_run: bool = False


class Reply(NamedTuple):
    """``data`` is what the verb gives (JSON values); ``text`` is for people, one line."""

    id: int
    state: State
    text: str = ""
    data: Any = None

    @property
    def final(self) -> bool:
        return self.state is not State.WAITING


class EventLine(NamedTuple):
    """Something that happened: its kind, and what belongs to it (JSON values)."""

    event: str
    fields: dict[str, Any]


def encode(message: Request | Reply | EventLine) -> bytes:
    """One line with its newline; :class:`ProtocolError` if it would be longer than allowed."""
    if isinstance(message, EventLine):
        raw: dict[str, Any] = {**plain(message.fields), "event": message.event}
    else:
        raw = plain(message)
        if isinstance(message, Request) and not message.dry_run:
            del raw["dry_run"]  # an older daemon refuses the field, as it should if it is meant
    try:
        line = json.dumps(raw, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as bad:
        raise ProtocolError(f"{type(message).__name__} cannot be sent as JSON: {bad}") from None
    if len(line) > LINE_MAX_BYTES:
        raise ProtocolError(
            f"{type(message).__name__}: a line of {len(line)} bytes, "
            f"at most {LINE_MAX_BYTES} can be sent"
        )
    return line


def decode_request(line: bytes) -> Request:
    """The request in a line; :class:`ProtocolError` says what is wrong with it."""
    raw = _object(line)
    number = request_id(raw)
    if number == NO_ID:
        raise ProtocolError(f"field 'id': expected an integer from 1 to {ID_MAX}")
    verb, args = raw.get("verb"), raw.get("args", {})
    if not isinstance(verb, str) or not verb:
        raise ProtocolError("field 'verb': expected the name of a verb")
    if not isinstance(args, dict):
        raise ProtocolError("field 'args': expected an object")
    unknown = sorted(set(raw) - set(Request._fields))
    if unknown:
        known = ", ".join(Request._fields)
        raise ProtocolError(f"unknown field {unknown[0][:80]!r}; the fields are: {known}")
    dry_run = raw.get("dry_run", False)
    if type(dry_run) is not bool:
        raise ProtocolError("field 'dry_run': expected true or false")
    return Request(number, verb, args, dry_run)


def decode_answer(line: bytes) -> Reply | EventLine:
    """What the daemon sent; :class:`ProtocolError` if it is neither a reply nor an event."""
    raw = _object(line)
    kind = raw.get("event")
    if kind is not None:
        if not isinstance(kind, str):
            raise ProtocolError("field 'event': expected a string")
        return EventLine(kind, {key: value for key, value in raw.items() if key != "event"})
    number, state, text = raw.get("id"), raw.get("state"), raw.get("text", "")
    if type(number) is not int or not NO_ID <= number <= ID_MAX:
        raise ProtocolError(f"field 'id': expected an integer from {NO_ID} to {ID_MAX}")
    if not isinstance(state, str) or state not in tuple(State):
        raise ProtocolError(f"field 'state': expected one of {', '.join(State)}")
    if not isinstance(text, str):
        raise ProtocolError("field 'text': expected a string")
    return Reply(number, State(state), text, raw.get("data"))


def request_id(raw: object) -> int:
    """The id in a parsed line, or ``NO_ID`` if there is none that could be answered to."""
    number = raw.get("id") if isinstance(raw, dict) else None
    return number if type(number) is int and 1 <= number <= ID_MAX else NO_ID


def id_of_line(line: bytes) -> int:
    """The id of a line that may be bad otherwise, so that its error reaches who asked."""
    try:
        return request_id(_object(line))
    except ProtocolError:
        return NO_ID


def _object(line: bytes) -> dict[str, Any]:
    if len(line) > LINE_MAX_BYTES:
        raise ProtocolError(f"a line of more than {LINE_MAX_BYTES} bytes")
    try:
        raw = json.loads(line.decode(), parse_constant=_no_constant)
    except RecursionError:
        raise ProtocolError("not a line of JSON: nested too deeply") from None
    except ValueError as bad:  # also what is not UTF-8
        raise ProtocolError(f"not a line of JSON: {bad}") from None
    if not isinstance(raw, dict):
        raise ProtocolError("expected a JSON object on one line")
    return raw


def _no_constant(word: str) -> object:
    raise ValueError(f"{word} is no JSON number")
