"""What happens, told to whoever looks: logs, the event stream, metrics. Never the commit path.

One blinker signal, :data:`observed`; its sender is the kind ("writer_changed", ...), `facts` its
names and values in order. Receivers are held weakly: keep them. What one of them raises is
logged and harms nobody else.
"""

import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from blinker import Signal

from mdcluster.core.model import CLUSTER_KEY, NodeId

Facts = dict[str, str | int]
REPEAT_S = 10.0
SAID_MAX = 256

observed = Signal("something happened on this node")

_LOG = logging.getLogger("mdcluster")
_QUIET = frozenset({"sync_moved", "committed"})
"""Kinds that come often: logged at level debug."""
_LOUD = frozenset(
    {
        "apply_failed",
        "array_kept",
        "array_not_running",
        "member_failed",
        "node_down",
        "node_suspect",
        "refused",
        "stalled",
        "state_directory_failed",
        "waiting",
    }
)


def tell(kind: str, facts: Facts) -> None:
    """Hand an observation to all receivers."""
    for receiver in observed.receivers_for(kind):
        try:
            receiver(kind, facts=facts)
        except Exception:  # noqa: BLE001 - an observer's fault stays its own
            _LOG.exception("an observer of %s failed", kind)


class Log:
    """Writes observations to the log, nodes by their names where they are known.

    What repeats itself is said every REPEAT_S, with how often it was left out.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._said: OrderedDict[tuple[object, ...], tuple[float, int]] = OrderedDict()
        observed.connect(self.receive)

    def name(self, node: NodeId, name: str) -> None:
        """A node's name, from now on shown in place of its UUID."""
        self._names[node] = name

    def receive(self, kind: str, facts: Facts) -> None:
        level = logging.DEBUG if kind in _QUIET else logging.INFO
        if kind in _LOUD:
            level = logging.WARNING
        if not _LOG.isEnabledFor(level):
            return
        repeated = self._repeated((kind, *facts.items()))
        if repeated is None:
            return
        named = {k: self._names.get(v, v) if isinstance(v, str) else v for k, v in facts.items()}
        if repeated:
            named["repeated"] = repeated
        _LOG.log(level, kind, extra={"facts": named})

    def _repeated(self, what: tuple[object, ...]) -> int | None:
        """None: the very same was said a moment ago; else how often it was left out since."""
        now_s = time.monotonic()
        said_s, count = self._said.pop(what, (-REPEAT_S, 0))
        quiet = now_s - said_s < REPEAT_S
        self._said[what] = (said_s, count + 1) if quiet else (now_s, 0)
        while len(self._said) > SAID_MAX:
            self._said.popitem(last=False)
        return None if quiet else count


class EventSink(Protocol):
    """Where the event stream goes: :class:`mdcluster.control.server.ControlServer`."""

    def wanted(self, kind: str) -> bool: ...

    def publish(self, kind: str, **fields: Any) -> None: ...


class EventStream:
    """Publishes observations to the clients of the control socket.

    Each line says when (``time``, UTC) and where (``on``, a node's name). Nodes and arrays are
    told by name; where the core has their UUID, that stands beside it (``node_uuid``, ...).

    name_of: the name of a node or an array with this UUID, or None if there is none (any more).
    """

    def __init__(self, sink: EventSink, on: str, name_of: Callable[[str], str | None]) -> None:
        self._sink = sink
        self._on = on
        self._name_of = name_of
        observed.connect(self.receive)

    def receive(self, kind: str, facts: Facts) -> None:
        if not self._sink.wanted(kind):
            return
        told = {"time": utc(time.time()), "on": self._on, **facts}
        if "key" in told:  # of an entry: an array's, or the cluster's
            told["array"] = told.pop("key")
        if told.get("array") == CLUSTER_KEY:
            del told["array"]
        for fact in ("node", "array"):
            uuid = told.get(fact)
            if isinstance(uuid, str) and (name := self._name_of(uuid)) is not None:
                told |= {fact: name, f"{fact}_uuid": uuid}
        self._sink.publish(kind, **told)


def utc(time_s: float) -> str:
    """``2026-01-31T12:00:00.000Z``, of seconds since the epoch."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time_s))
    return f"{whole}.{int(time_s * 1000) % 1000:03d}Z"


class _Formatter(logging.Formatter):
    """What text and json share: `time level node event`, then facts or a text."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self.node = node

    def parts(self, record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
        """(event, facts). A plain log line is the event of its module, with a text."""
        facts = getattr(record, "facts", None)
        if facts is not None:
            return record.getMessage(), facts
        parts = {"text": record.getMessage()}
        if record.exc_info:
            parts["trace"] = self.formatException(record.exc_info)
        return record.name.removeprefix("mdcluster."), parts


class TextFormatter(_Formatter):
    """`2026-01-31T12:00:00.000Z info alpha writer_changed writer=beta term=3`."""

    def format(self, record: logging.LogRecord) -> str:
        event, facts = self.parts(record)
        head = f"{utc(record.created)} {record.levelname.lower()} {self.node} {event}"
        return " ".join([head, *(f"{key}={_shown(value)}" for key, value in facts.items())])


class JsonFormatter(_Formatter):
    """One object a line: time, level, on (the node that logs), event, and the facts."""

    def format(self, record: logging.LogRecord) -> str:
        event, facts = self.parts(record)
        head = {"time": utc(record.created), "level": record.levelname.lower(), "on": self.node}
        return json.dumps({**facts, **head, "event": event}, default=str)


def _shown(value: object) -> str:
    """Quoted if it would not read as one word."""
    text = str(value)
    plain = text and not any(c.isspace() or c in '"=' or not c.isprintable() for c in text)
    return text if plain else json.dumps(text, ensure_ascii=False)


def log_to_stderr(node: str, format_: str, level: str) -> None:
    """Set up logging of this process: ``text`` or ``json`` lines on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(node) if format_ == "json" else TextFormatter(node))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
