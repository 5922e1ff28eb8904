"""The section ``[fence]`` of the settings: how silent nodes are fenced, and in which order.

Options of a fence agent are passed on to it as they are; the few rules here keep them from
being anything but one line each, and from giving the agent another task.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mdcluster.config.clusterips import did_you_mean
from mdcluster.config.errors import Wrong
from mdcluster.core.timing import Timing

PROVIDERS = ("reboot", "agent", "watchdog", "process")
OPTIONS_MAX = 32
OPTION_CHARS_MAX = 256
NODES_MAX = 64
INPUT_BYTES_MAX = 3500
"""All options of one run: they go to the agent in one write (PIPE_BUF)."""
RESERVED = ("action", "option")
DEADLINE_LIMITS = (100, 600_000)
SETTLE_LIMITS = (0, 3_600_000)

Options = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Agent:
    """``[fence.agent]``: an executable that switches hosts off, with the options of all runs.

    nodes: by name of clusterips the options of that host, ``[fence.agent.nodes.NAME]``; only
    hosts named here are switched off. deadline_ms: of each run. verify: ask for the status
    afterwards, and believe nothing but "off". settle_ms: when nothing can land any more of what a
    host sent before it was off; None: after timing.device_timeout_ms.
    """

    command: Path
    options: Options = field(default_factory=dict)
    nodes: Mapping[str, Options] = field(default_factory=dict)
    deadline_ms: int = 20_000
    settle_ms: int | None = None
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Fencing:
    """``[fence]``. watchdog: this host's watchdog device. order: None: all that there is."""

    watchdog: Path | None = None
    order: tuple[str, ...] | None = None
    agent: Agent | None = None

    def providers(self, driver_kind: str) -> tuple[str, ...]:
        """The providers in the order in which they are asked; an administrator comes last.

        What ends nobody comes first: arrays of the kernel live and die with a boot of their host,
        embedded ones with a process.
        """
        if self.order is not None:
            return self.order
        found = ["reboot" if driver_kind == "kernel" else "process"]
        found += ["agent"] if self.agent is not None else []
        found += ["watchdog"] if self.watchdog is not None else []
        return tuple(found)


def order(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > len(PROVIDERS):
        raise Wrong(f"an array of some of {', '.join(PROVIDERS)}, each once")
    for word in value:
        if not isinstance(word, str) or word not in PROVIDERS:
            hint = did_you_mean(word, PROVIDERS) if isinstance(word, str) else ""
            hint = "; it always comes last" if word == "manual" else hint
            raise Wrong(f"some of {', '.join(PROVIDERS)}, not {ascii(word)[:60]}{hint}")
    if len(set(value)) < len(value):
        raise Wrong("each provider once")
    return tuple(value)


def options(value: object) -> Options:
    """Names and values; nothing of a value is ever repeated in a message: it may be a password."""
    if not isinstance(value, dict) or len(value) > OPTIONS_MAX:
        raise Wrong(f"a table of up to {OPTIONS_MAX} options")
    found = {}
    for name, given in value.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name):
            raise Wrong(f"names of options, not {ascii(name)[:60]}")
        if name in RESERVED:
            raise Wrong(f"no option {name!r}: what the agent is to do is not for settings to say")
        found[name] = _text(name, given)
    return found


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    text = str(value) if isinstance(value, int) and abs(value) < 1 << 63 else value
    if not isinstance(text, str) or len(text) > OPTION_CHARS_MAX or not text.isprintable():
        raise Wrong(
            f"a string of up to {OPTION_CHARS_MAX} printable characters, an integer or a boolean "
            f"for {name}"
        )
    return text


def nodes(value: object) -> dict[str, Options]:
    if not isinstance(value, dict) or len(value) > NODES_MAX:
        raise Wrong(f"a table with the options of each of up to {NODES_MAX} nodes")
    return {name: options(given) for name, given in value.items()}


def mistakes(fencing: Fencing, timing: Timing, driver_kind: str) -> Iterator[tuple[str, str, str]]:
    """What no key shows alone, as (section, key, text)."""
    order_ = fencing.providers(driver_kind)
    yield from _watchdog_mistakes(fencing, timing)
    for word, there in (("watchdog", fencing.watchdog), ("agent", fencing.agent)):
        if word in order_ and there is None:
            yield "fence", "order", f'fence.order names "{word}", but there is no fence.{word}'
        if word not in order_ and there is not None:
            yield "fence", "order", f'fence.{word} is set, but fence.order does not name "{word}"'
    if "process" in order_ and driver_kind == "kernel":
        text = "the end of a daemon's process says nothing of arrays of the kernel"
        yield "fence", "order", f'fence.order names "process", but {text}'
    if "reboot" in order_ and driver_kind != "kernel":
        text = "embedded arrays end with a process; that another one has begun is seen by its lock"
        yield "fence", "order", f'fence.order names "reboot", but {text}'
    yield from _agent_mistakes(fencing.agent)


def _watchdog_mistakes(fencing: Fencing, timing: Timing) -> Iterator[tuple[str, str, str]]:
    if fencing.watchdog is not None and not timing.watchdog_ms:
        yield (
            "fence",
            "watchdog",
            f"fence.watchdog is {fencing.watchdog}, but timing.watchdog_ms is 0: set it to the "
            "timeout of the watchdogs, e.g. 10000, on all nodes; or leave fence.watchdog out",
        )
    if fencing.watchdog is None and timing.watchdog_ms:
        yield (
            "timing",
            "watchdog_ms",
            f"timing.watchdog_ms is {timing.watchdog_ms}, so the other nodes rely on a watchdog "
            "here, but fence.watchdog names none: set it, e.g. to /dev/watchdog (modprobe softdog "
            "where there is no hardware); or set watchdog_ms = 0 on all nodes",
        )


def _agent_mistakes(agent: Agent | None) -> Iterator[tuple[str, str, str]]:
    for name, own in agent.nodes.items() if agent is not None else ():
        assert agent is not None
        every = {**agent.options, **own}
        if sum(len(f"{k}={v}\n".encode()) for k, v in every.items()) > INPUT_BYTES_MAX:
            text = f"the options for {name[:60]} are longer than {INPUT_BYTES_MAX} bytes in all"
            yield "fence.agent", "nodes", text
