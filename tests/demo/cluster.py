"""The demo's cluster: three daemons of :mod:`tests.cluster.harness`, watched and commanded.

What happens is read from the event streams of the control sockets; what changes is asked for
with ``mdcadm``, whose main function runs in this process: so the time a change takes is the
cluster's, not that of starting Python.
"""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from mdcluster.control.arrays import ArrayDetail
from mdcluster.control.client import Client
from mdcluster.control.errors import ControlError
from mdcluster.control.verbs import ArrayArgs, Verb
from mdcluster.tools.mdcadm import main as mdcadm_main
from tests.cluster.harness import Cluster, Daemon, TooLongError
from tests.demo.errors import CheckError

ARRAY: Final = "data"
SPEED_KIB: Final = 6 * 1024
WINDOW_KIB: Final = 1024
SETTINGS: Final = f"""
[cluster]
name = "demo"
[resync]
speed_max_kib = {SPEED_KIB}
window_min_kib = {WINDOW_KIB}
window_max_kib = {WINDOW_KIB}
"""
"""A resync slow enough to be watched, in windows of one size."""
IMAGE_MIB: Final = 40
EVENTS_KEPT: Final = 2000
LOOK_AGAIN_S: Final = 0.1
"""Not all that changes makes an event (a lease does not): look again this often."""
LIMIT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Happening:
    """An event that a node told, and when it was heard (s, monotonic)."""

    at_s: float
    node: str
    kind: str
    facts: dict[str, Any]


class Feed:
    """The event streams of all daemons as one; a stream that ends is opened again."""

    def __init__(self, daemons: list[Daemon]) -> None:
        self._news = threading.Condition()
        self._kept: deque[Happening] = deque(maxlen=EVENTS_KEPT)
        self._closed = threading.Event()
        for daemon in daemons:
            threading.Thread(target=self._listen, args=(daemon,), daemon=True).start()

    def close(self) -> None:
        """Open no stream again; those that are open end with their daemons."""
        self._closed.set()

    def recent(self, count: int) -> list[Happening]:
        """The last events but those of every window."""
        with self._news:
            told = (one for one in reversed(self._kept) if one.kind != "sync_moved")
            return [one for _, one in zip(range(count), told, strict=False)][::-1]

    def heard(self, wanted: Callable[[Happening], bool], since_s: float = 0.0) -> list[Happening]:
        """Such events since then, in their order."""
        with self._news:
            return [one for one in self._kept if one.at_s >= since_s and wanted(one)]

    def wait(
        self, wanted: Callable[[Happening], bool], what: str, since_s: float = 0.0
    ) -> Happening:
        """The first such event since then, heard already or to come within LIMIT_S."""
        self.until(lambda: bool(self.heard(wanted, since_s)), what)
        return self.heard(wanted, since_s)[0]

    def until(self, reached: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
        """Until something is so: looked at after every event."""
        end_s = time.monotonic() + limit_s
        while not reached():
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                raise TooLongError(f"not within {limit_s:g} s: {what}")
            with self._news:
                self._news.wait(min(LOOK_AGAIN_S, left_s))

    def _listen(self, daemon: Daemon) -> None:
        while not self._closed.is_set():
            try:
                for happening in self._events(daemon):
                    with self._news:
                        self._kept.append(happening)
                        self._news.notify_all()
            except ControlError:  # not there yet, or gone
                self._closed.wait(0.02)

    def _events(self, daemon: Daemon) -> Iterator[Happening]:
        with Client(daemon.socket, silence_s=3600) as client:
            for line in client.events():
                yield Happening(time.monotonic(), daemon.name, line.event, line.fields)


class DemoCluster(Cluster):
    """Three nodes on loopback, and images in a directory that all of them look into."""

    def __init__(self, base: Path) -> None:
        super().__init__(base, settings=SETTINGS)
        self.feed = Feed(list(self.daemons.values()))
        self.changes_s: list[float] = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # no impatience leaves a daemon behind
        self.feed.close()
        super().__exit__(kind, error, trace)

    def __enter__(self) -> Self:
        return self

    @property
    def nbd(self) -> dict[str, Path]:
        """Where each node serves the array."""
        return {n: d.base / "run" / "nbd" / f"{ARRAY}.sock" for n, d in self.daemons.items()}

    def other_than(self, daemon: Daemon) -> Daemon:
        """Another living node: commands may be given anywhere."""
        return next(one for one in self.living if one is not daemon)

    def mdcadm(self, daemon: Daemon, *words: str) -> str:
        """What mdcadm prints when this node carries the command out; CheckError if it fails."""
        out = StringIO()
        began_s = time.monotonic()
        with redirect_stdout(out), redirect_stderr(out):
            code: int = mdcadm_main(["--socket", str(daemon.socket), *words])
        self.changes_s.append(time.monotonic() - began_s)
        if code:
            raise CheckError(f"mdcadm {' '.join(words)}: exit code {code}: {out.getvalue()}")
        return out.getvalue().strip()

    def detail(self, daemon: Daemon | None = None) -> ArrayDetail:
        """The array as a node sees it; by default the writer."""
        with (daemon or self.writer()).client() as client:
            return client.ask(Verb.DETAIL, ArrayArgs(ARRAY), ArrayDetail)

    def until_running(self, count: int) -> None:
        """Until so many nodes run the array."""
        self.feed.until(lambda: self._runs_on(count), f"{count} nodes run the array")

    def _runs_on(self, count: int) -> bool:
        try:
            return len(self.detail().running) == count
        except ControlError:
            return False

    def until_in_sync(self) -> ArrayDetail:
        """Until no copying is under way or due: the array as it is then."""

        def settled() -> bool:
            now = self.detail()
            dirty = now.bitmap.slots_dirty if now.bitmap else 0
            return now.sync is None and not dirty

        self.feed.until(settled, "the array is in sync", 2 * LIMIT_S)
        return self.detail()
