"""Real daemons on loopback: started, watched through their control sockets, and always ended.

>>> with Cluster(tmp_path, nodes=3) as cluster:
...     cluster.start_all()
...     writer = cluster.writer()

Nothing here sleeps to synchronise: what is waited for is a line of the event stream, the end of
a process, or a reply; every wait has a limit, and its error shows what the daemons logged.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mdcluster.control.client import Client
from mdcluster.control.errors import ControlError
from mdcluster.control.status import ClusterStatus
from mdcluster.control.verbs import Args, NoArgs, Verb

LIMIT_S = 20.0
"""Longest wait for anything; a cluster that works needs a tenth of it."""
DAEMON = (sys.executable, "-m", "mdcluster.daemon.main")


class TooLongError(AssertionError):
    """What was waited for did not happen in time."""


def free_ports(count: int) -> list[int]:
    """Loopback ports that nobody uses now; all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@dataclass(slots=True)
class Daemon:
    """One `mdclusterd` with directories of its own; it may be started again and again."""

    name: str
    base: Path
    clusterips: Path
    port: int
    lines: list[dict[str, Any]] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _reader: threading.Thread | None = None

    @property
    def config(self) -> Path:
        return self.base / "mdcluster.toml"

    @property
    def state_dir(self) -> Path:
        return self.base / "state"

    @property
    def socket(self) -> Path:
        return self.base / "run" / "control.sock"

    @property
    def pid(self) -> int:
        assert self.process is not None, f"{self.name} was not started"
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def command(self, *options: str) -> list[str]:
        files = ["--config", str(self.config), "--clusterips", str(self.clusterips)]
        return [*DAEMON, *files, "--name", self.name, "--log-format", "json", *options]

    def start(self, *, file_max_bytes: int = 0) -> None:
        """Start the process; file_max_bytes: no file of it may grow beyond (a full disk)."""
        assert not self.alive, f"{self.name} runs already"

        self.lines.clear()
        limit = ["prlimit", f"--fsize={file_max_bytes}:unlimited"] if file_max_bytes else []
        self.process = subprocess.Popen(
            [*limit, *self.command()], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        self._reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self._reader.start()

    def _read(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stderr is not None
        for raw in process.stderr:
            try:
                line = json.loads(raw)
            except ValueError:
                line = {"event": "raw", "text": raw.decode(errors="replace").rstrip()}
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    # --- waiting -----------------------------------------------------------------------------

    def until(self, event: str, limit_s: float = LIMIT_S, **facts: object) -> dict[str, Any]:
        """The first log line of this event with these facts, now or to come."""
        return self.until_line(
            lambda line: (
                line["event"] == event
                and all(line.get(key) == value for key, value in facts.items())
            ),
            f"{event} {facts or ''}",
            limit_s,
        )

    def until_line(
        self, wanted: Callable[[dict[str, Any]], bool], what: str, limit_s: float = LIMIT_S
    ) -> dict[str, Any]:
        end_s = time.monotonic() + limit_s
        seen = 0
        with self._changed:
            while True:
                for line in self.lines[seen:]:
                    if wanted(line):
                        return line
                seen = len(self.lines)
                left_s = end_s - time.monotonic()
                if left_s <= 0 or not (self.alive or self._reads_on()):
                    raise TooLongError(f"{self.name}: {what} did not come\n{self.log()}")
                self._changed.wait(left_s)

    def _reads_on(self) -> bool:
        return self._reader is not None and self._reader.is_alive()

    def wait_end(self, limit_s: float = LIMIT_S) -> int:
        """The exit code of the process, once it has ended and all it logged was read."""
        assert self.process is not None and self._reader is not None
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise TooLongError(f"{self.name} has not ended\n{self.log()}") from None
        self._reader.join(limit_s)
        return code

    def log(self, lines_max: int = 40) -> str:
        return "\n".join(f"  {self.name}: {line}" for line in self.lines[-lines_max:])

    @property
    def text(self) -> str:
        """All texts of the log, for looking up a message."""
        return "\n".join(str(line.get("text", "")) for line in self.lines)

    # --- asking ------------------------------------------------------------------------------

    def client(self) -> Client:
        return Client(self.socket, silence_s=LIMIT_S)

    def ask(self, verb: Verb, args: Args) -> Any:
        """The data of the final answer; `RefusedError` if it is refused."""
        with self.client() as client:
            return client.call(verb, args).data

    def status(self) -> ClusterStatus:
        with self.client() as client:
            return client.ask(Verb.STATUS, NoArgs(), ClusterStatus)

    # --- harming -----------------------------------------------------------------------------

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and its end."""
        self.signal(signal.SIGKILL)
        self.wait_end()

    def freeze(self) -> None:
        """SIGSTOP; returns once every thread of it stands."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def stop(self, limit_s: float = LIMIT_S) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_end(limit_s)

    def end(self) -> None:
        """Whatever state it is in: gone afterwards."""
        if self.alive:
            self.signal(signal.SIGKILL)
            self.wait_end()


class Cluster:
    """Daemons that share a clusterips file, a lock directory and images."""

    def __init__(self, base: Path, nodes: int = 3, *, settings: str = "") -> None:
        """settings: more of mdcluster.toml, for all nodes."""
        self.base = base
        self.images = base / "images"
        self.images.mkdir()
        self.clusterips = base / "clusterips"
        self._settings = settings
        self.daemons: dict[str, Daemon] = {}
        names = [chr(ord("a") + number) for number in range(nodes)]
        for name, port in zip(names, free_ports(nodes), strict=True):
            self.daemons[name] = self._daemon(name, port)
        self.write_clusterips()

    def _daemon(self, name: str, port: int) -> Daemon:
        daemon = Daemon(name, self.base / name, self.clusterips, port)
        daemon.base.mkdir()
        daemon.config.write_text(
            f"[paths]\nstate_dir = '{daemon.state_dir}'\nrun_dir = '{daemon.base}/run'\n"
            f"lock_dir = '{self.base}/lock'\n[driver]\nmembers = ['{self.images}']\n"
            f"{self._settings}"
        )
        return daemon

    def write_clusterips(self, names: Iterable[str] | None = None) -> None:
        """Lines of these nodes (default: all)."""
        chosen = self.daemons if names is None else names
        lines = (f"127.0.0.1:{self.daemons[name].port} {name}\n" for name in chosen)
        self.clusterips.write_text("".join(lines))

    def __getitem__(self, name: str) -> Daemon:
        return self.daemons[name]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for daemon in self.daemons.values():
            daemon.end()

    @property
    def living(self) -> list[Daemon]:
        return [daemon for daemon in self.daemons.values() if daemon.alive]

    def image(self, name: str, mib: int = 64) -> Path:
        """A sparse file that may become a member."""
        path = self.images / name
        with path.open("xb") as file:
            file.truncate(mib << 20)
        return path

    def start_all(self) -> None:
        """Start every node and wait for their first writer."""
        for daemon in self.daemons.values():
            daemon.start()
        self.writer()

    def writer(self, limit_s: float = LIMIT_S, *, not_: str = "") -> Daemon:
        """The writer under whose lease every other living node is; not the one named `not_`."""
        end_s = time.monotonic() + limit_s
        while True:
            found = self._agreed_writer()
            if found is not None and found.name != not_:
                return found
            if time.monotonic() > end_s or not self.living:
                logs = "\n".join(daemon.log() for daemon in self.daemons.values())
                raise TooLongError(f"no writer that all agree on\n{logs}")
            self._any_news(end_s)

    def _agreed_writer(self) -> Daemon | None:
        """Who says so itself, with all others that answer agreeing."""
        seen: list[ClusterStatus] = []
        for daemon in self.living:
            try:
                seen.append(daemon.status())
            except ControlError:  # not listening yet
                return None
        writers = {status.writer for status in seen}
        selves = [s for s in seen if s.node == s.writer and s.lease_ms_left]
        if len(writers) != 1 or len(selves) != 1:
            return None
        return self.daemons[selves[0].node]

    def _any_news(self, end_s: float) -> None:
        """Until some daemon logs something, or for an instant: a lease makes no line."""
        daemon = next(iter(self.daemons.values()))
        with daemon._changed:
            daemon._changed.wait(min(0.05, max(end_s - time.monotonic(), 0)))


def until_readable(sock: socket.socket, limit_s: float = LIMIT_S) -> bool:
    """Whether the socket has something to read, or was closed, in time."""
    return bool(select.select([sock], [], [], limit_s)[0])
