"""``mdcadm --events``: what happens, one JSON object a line, until somebody has had enough."""

from __future__ import annotations

from collections.abc import Collection

from mdcluster.control.arrays import ArrayList
from mdcluster.control.client import Client
from mdcluster.control.kinds import KINDS
from mdcluster.control.protocol import EventLine
from mdcluster.control.verbs import NoArgs, Verb

from .command import Command
from .output import Output, nobody_reads
from .stream import BEGUN, LOST, RESUMED, Stream
from .values import UsageError

LOOK_S = 1.0
"""How often it is looked whether anybody still reads."""


def run(command: Command, path: str, output: Output) -> int:
    """Until it is interrupted (130), nobody reads any more (0), or no daemon comes back (1)."""
    kinds = kinds_of(command.given.get("kinds", ""))
    wanted = names_of(command.names, path)
    stream = Stream(path, kinds)
    try:
        while output.read_by_somebody():
            lines, _ = stream.step(LOOK_S)
            for line in lines:
                if concerns(line, wanted):
                    output.print_json_line({"event": line.event, **line.fields})
    except BrokenPipeError:
        nobody_reads()
    except KeyboardInterrupt:
        return 130
    finally:
        stream.close()
    return 0


def kinds_of(text: str) -> tuple[str, ...]:
    """``a,b``: these kinds; '' for all. UsageError for one that there is not."""
    kinds = tuple(dict.fromkeys(filter(None, text.split(","))))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise UsageError(f"no events are of kind {unknown[0]!r}; the kinds are: {', '.join(KINDS)}")
    return kinds


def names_of(given: tuple[str, ...], path: str) -> frozenset[str]:
    """The names of the arrays given by name or UUID. One that is unknown may still come."""
    if not given:
        return frozenset()
    with Client(path) as client:
        known = client.ask(Verb.ARRAYS, NoArgs(), ArrayList).arrays
    names = {array.uuid: array.name for array in known}
    return frozenset(names.get(name.lower(), name) for name in given)


def concerns(line: EventLine, arrays: Collection[str]) -> bool:
    """Whether the line is about one of these arrays (all, if none is given) or the stream."""
    if not arrays or line.event in (BEGUN, LOST, RESUMED):
        return True
    return line.fields.get("array") in arrays
