"""How the demo is shown: lines that stay, and on a terminal a live picture below them.

`Lines` is for pipes, CI and NO_COLOR. `Screen` prints the same lines and keeps below them what the
daemons say of themselves: nodes, members, progress, the last events.
"""

import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mdcluster.control.arrays import ArrayList, MdstatArray, MdstatData, SyncInfo
from mdcluster.control.errors import ControlError
from mdcluster.control.status import ClusterStatus
from mdcluster.control.verbs import NoArgs, Verb
from tests.cluster.harness import Daemon
from tests.demo.cluster import DemoCluster, Happening
from tests.demo.workload import Clients

FRAMES_PER_S: Final = 8
LOOK_S: Final = 0.15
EVENTS_SHOWN: Final = 5
BAR_WIDTH: Final = 40
_WORDS: Final = {
    "committed": "commit {term}.{seq} of {key}",
    "io_held": "{node} holds its writes: no lease",
    "io_resumed": "{node} serves writes",
    "member_failed": "a member failed: {why}",
    "node_down": "lost the connection to {node}",
    "node_evicted": "{node} is taken out",
    "node_fenced": "{node} is fenced: {how}",
    "node_reported": "{node} reported what it runs",
    "node_suspect": "{node} is silent",
    "node_up": "{node} is there",
    "sync_finished": "{sync} of {array} finished",
    "sync_started": "{sync} of {array} begins",
    "writer_changed": "{node} is the writer of term {term}",
    "writer_lost": "no writer: {node} is silent",
    "writer_stood_down": "stands down: {why}",
}
"""Events in words; others are shown as kind and facts."""


class Lines:
    """A line a step with the time since the start, notes below it."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""

    def watch(self, cluster: DemoCluster, clients: Clients | None) -> None:
        """From now on this is what goes on."""

    def step(self, text: str) -> None:
        """Something begins."""
        self._line(f"{self.elapsed} s  {text}")

    def note(self, text: str) -> None:
        """What came of it."""
        self._line(f"{'':10}{text}")

    def failed(self, text: str) -> None:
        """The end, if it is no good one."""
        self._line(f"{self.elapsed} s  FAILED: {text}")

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        """The end, if it is a good one."""
        self._line(f"{self.elapsed} s  everything held")
        width = max(len(what) for what, _ in rows)
        for what, how_much in rows:
            self._line(f"{'':10}{what:<{width}}  {how_much}")

    @property
    def elapsed(self) -> str:
        return f"{time.monotonic() - self._began_s:6.1f}"

    def _line(self, text: str) -> None:
        print(text, flush=True)


View = Lines


@dataclass(slots=True)
class Seen:
    """What a look at the daemons gave; a node that does not answer has no status."""

    statuses: dict[str, ClusterStatus] = field(default_factory=dict)
    array: MdstatArray | None = None
    names: dict[str, str] = field(default_factory=dict)


class Screen(Lines):
    """The lines scroll by; the picture stays below them until the end."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._step = ""
        self._cluster: DemoCluster | None = None
        self._clients: Clients | None = None
        self._seen = Seen()
        self._over = threading.Event()
        self._live = Live(
            console=console,
            get_renderable=self._picture,
            refresh_per_second=FRAMES_PER_S,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._looker = threading.Thread(target=self._look_on, daemon=True)

    def __enter__(self) -> Self:
        self._live.start()
        self._looker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._live.stop()

    def watch(self, cluster: DemoCluster, clients: Clients | None) -> None:
        self._cluster, self._clients = cluster, clients

    def step(self, text: str) -> None:
        self._step = text
        self._print(f"{self.elapsed} s  ", (text, "bold"))

    def note(self, text: str) -> None:
        self._print(f"{'':10}", (text, "dim"))

    def failed(self, text: str) -> None:
        self._end()
        self._print(f"{self.elapsed} s  ", (f"FAILED: {text}", "red"))

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        self._end()
        self._print(f"{self.elapsed} s  ", ("everything held", "bold green"))
        table = Table(show_header=False)
        for row in rows:
            table.add_row(*row)
        self._console.print(table)

    def _end(self) -> None:
        """No picture any more; there is nothing to look at."""
        self._over.set()
        self._cluster = None
        self._live.stop()

    def _print(self, *parts: str | tuple[str, str]) -> None:
        self._console.print(Text.assemble(*parts))

    # --- looking -------------------------------------------------------------------------

    def _look_on(self) -> None:
        while not self._over.wait(LOOK_S):
            if (cluster := self._cluster) is not None:
                self._seen = _look(cluster, self._seen)

    # --- the picture ---------------------------------------------------------------------

    def _picture(self) -> Group:
        cluster, seen = self._cluster, self._seen
        if cluster is None:
            return Group()
        parts: list[Text | Table] = [Text(""), _nodes(cluster, seen)]
        if seen.array is not None:
            parts += [Text(""), _array(seen.array)]
        if (clients := self._clients) is not None:
            parts.append(_work(clients))
        parts.append(Text(""))
        parts += [_event(one, seen.names) for one in cluster.feed.recent(EVENTS_SHOWN)]
        parts += [Text(""), Text(f"{self.elapsed} s  {self._step}", "bold cyan", no_wrap=True)]
        return Group(*parts)


def make_view() -> Lines:
    """A screen on a terminal, else lines."""
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
        return Screen(Console(file=sys.stdout, highlight=False))
    return Lines()


def _look(cluster: DemoCluster, before: Seen) -> Seen:
    """Ask every daemon for itself, and one of them for the array."""
    seen = Seen(names=dict(before.names))
    for daemon in cluster.daemons.values():
        try:
            _ask(daemon, seen)
        except ControlError:  # it does not run
            continue
    return seen


def _ask(daemon: Daemon, seen: Seen) -> None:
    with daemon.client() as client:
        status = client.ask(Verb.STATUS, NoArgs(), ClusterStatus)
        seen.statuses[daemon.name] = status
        seen.names |= {node.uuid: node.name for node in status.nodes if node.uuid}
        seen.names[status.node_uuid] = daemon.name
        if seen.array is None or status.writer == daemon.name:
            known = client.ask(Verb.ARRAYS, NoArgs(), ArrayList).arrays
            seen.names |= {array.uuid: array.name for array in known}
            arrays = client.ask(Verb.MDSTAT, NoArgs(), MdstatData).arrays
            seen.array = arrays[0] if arrays else None


def _nodes(cluster: DemoCluster, seen: Seen) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for head in ("node", "", "term", "lease", "process"):
        table.add_column(head, min_width=8)
    for name, daemon in cluster.daemons.items():
        status = seen.statuses.get(name) if daemon.alive else None
        process = Text(f"pid {daemon.pid}") if daemon.alive else Text("dead", "bold red")
        if status is None:
            table.add_row(name, Text("down", "red"), "", "", process)
            continue
        role = Text("writer", "bold green") if status.writer == name else Text("voter")
        if not status.writer:
            role = Text("no writer", "yellow")
        lease = "" if status.lease_ms_left is None else f"{status.lease_ms_left} ms"
        table.add_row(name, role, str(status.term), lease, process)
    return table


def _array(array: MdstatArray) -> Table:
    """Members with their states, and the bar of a pass beside."""
    grid = Table.grid(padding=(0, 3, 0, 0))
    colours = {"in_sync": "green", "faulty": "red"}
    members = Text("  ").join(
        Text.assemble(
            member.path.rpartition("/")[2] + " ",
            (member.state.value.replace("_", " "), colours.get(member.state.value, "yellow")),
        )
        for member in array.members
    )
    grid.add_row(f"md_{array.device.removeprefix('md_')}: raid{array.level}", members)
    if array.sync is not None:
        grid.add_row(array.sync.kind.value, _bar(array.sync))
    return grid


def _work(clients: Clients) -> Text:
    return Text(
        f"clients: {clients.writes} writes acknowledged, {clients.reads} reads verified,"
        f" longest held write {clients.longest_write_ms} ms"
    )


def _bar(sync: SyncInfo) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    done = sync.position_sectors / max(sync.end_sectors, 1)
    bar = ProgressBar(sync.end_sectors, sync.position_sectors, width=BAR_WIDTH)
    speed = f"{sync.speed_kib / 1024:.1f} MiB/s" if sync.speed_kib else sync.state.value
    grid.add_row(bar, f"{done:4.0%}", speed)
    return grid


def _event(happening: Happening, names: dict[str, str]) -> Text:
    return Text.assemble(
        (f"  {happening.node}  ", "cyan"), (words(happening, names), "dim"), overflow="ellipsis"
    )


def words(happening: Happening, names: dict[str, str]) -> str:
    """An event for people; nodes by their names where they are known."""
    facts = {
        key: names.get(value, value) if isinstance(value, str) else value
        for key, value in happening.facts.items()
    }
    if facts.get("name"):  # told along, for nodes that are new
        facts["node"] = facts.pop("name")
    form = _WORDS.get(happening.kind)
    if form is not None:
        try:
            return form.format(**facts)
        except KeyError:  # an event of another version
            pass
    told = ", ".join(f"{key} {value}" for key, value in facts.items())
    return f"{happening.kind.replace('_', ' ')}: {told}"
