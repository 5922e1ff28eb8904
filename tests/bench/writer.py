"""How fast the cluster decides: a new writer after a kill, a commit acknowledged by all."""

import mmap
import os
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from mdcluster.control.verbs import MemberArgs, Verb
from mdcluster.metadata.layout import RECORD_BYTES
from mdcluster.metadata.superblock import SUPER_BYTES
from tests.bench.figures import Figure, percentile, progress, spread
from tests.bench.lab import Lab, lab
from tests.cluster.harness import Daemon

TAKEOVER_AIM_MS = 1000
COMMIT_AIM_MS = 5
IMAGE_MIB = 16
COMMITS = 100
JOURNAL_BYTES = 2048
"""About what one commit of an array adds to a journal."""


def takeover(base: Path, nodes: int, kills: int) -> list[Figure]:
    """SIGKILL to the writer until another node says that it is it; an array runs meanwhile."""
    with lab(base, nodes) as cluster:
        cluster.make("r", [cluster.image(f"i{leg}", IMAGE_MIB) for leg in range(2)], clean=True)
        took_ms: list[float] = []
        for number in range(kills):
            progress(f"{nodes} nodes: kill {number + 1} of {kills}")
            took_ms.append(_kill_writer(cluster))
    part = f"{nodes} nodes"
    return spread(part, "new writer after SIGKILL", took_ms, "ms", TAKEOVER_AIM_MS)


def _kill_writer(cluster: Lab) -> float:
    """Milliseconds; everybody is back afterwards."""
    writer = cluster.writer()
    others = cluster.others(writer)
    seen = {daemon.name: len(daemon.lines) for daemon in others}
    began_s = time.monotonic()
    writer.kill()
    successor = _first_to_say(others, seen)
    took_ms = (time.monotonic() - began_s) * 1000
    assert successor is not writer
    writer.start()
    cluster.until(lambda: len(cluster.detail("r").running) == len(cluster.daemons), "all are back")
    return took_ms


def _first_to_say(daemons: list[Daemon], seen: dict[str, int]) -> Daemon:
    """Who says first that it is the writer itself."""
    with ThreadPoolExecutor(len(daemons)) as pool:
        waits = [pool.submit(_elected, daemon, daemons, seen) for daemon in daemons]
        names = {wait.result() for wait in waits}
    return next(daemon for daemon in daemons if daemon.name in names)


def _elected(daemon: Daemon, among: list[Daemon], seen: dict[str, int]) -> str:
    """The name of the new writer, once this daemon knows it."""
    old = daemon.lines[: seen[daemon.name]]
    names = {other.name for other in among}
    line = daemon.until_line(
        lambda line: (
            line["event"] == "writer_changed"
            and line["node"] in names
            and not any(line is one for one in old)
        ),
        "a new writer",
    )
    return str(line["node"])


def commits(base: Path, nodes: int) -> list[Figure]:
    """A spare taken out again and again: one commit each, and the same bare writes beside it.

    Named by its UUID: a path would be looked at first, and that is no part of a commit.
    """
    with lab(base, nodes) as cluster, ExitStack() as owned:
        cluster.make("r", [cluster.image(f"i{leg}", IMAGE_MIB) for leg in range(2)], clean=True)
        spare = str(cluster.image("spare", IMAGE_MIB))
        bare = owned.enter_context(BareWrites(base / "bare", nodes // 2 + 1, members=2))
        client = owned.enter_context(cluster.writer().client())
        commit_ms: list[float] = []
        bare_ms: list[float] = []
        for number in range(COMMITS):
            progress(f"{nodes} nodes: commit {number + 1} of {COMMITS}")
            client.call(Verb.ADD, MemberArgs(str(uuid.uuid4()), "r", spare))
            device = next(m.uuid for m in cluster.detail("r").members if m.state == "spare")
            remove = partial(client.call, Verb.REMOVE, MemberArgs(str(uuid.uuid4()), "r", device))
            commit_ms.append(_timed_ms(remove))
            bare_ms.append(_timed_ms(bare.once))
    part = f"{nodes} nodes"
    beyond = {q: percentile(commit_ms, q) - percentile(bare_ms, q) for q in (0.50, 0.99)}
    return [
        *spread(part, "commit acknowledged by all", commit_ms, "ms"),
        *spread(part, "the same writes, bare", bare_ms, "ms")[:2],
        Figure(part, "commit beyond its writes, p50", beyond[0.50], "ms"),
        Figure(part, "commit beyond its writes, p99", beyond[0.99], "ms", COMMIT_AIM_MS),
    ]


def _timed_ms(call: Callable[[], object]) -> float:
    began_s = time.monotonic()
    call()
    return (time.monotonic() - began_s) * 1000


class BareWrites:
    """What one commit must at least put on disk: a quorum's journals (fdatasync), all at once;
    then on each member, all at once, ring record and superblock (O_DIRECT|O_DSYNC), in turn."""

    def __init__(self, base: Path, journals: int, members: int) -> None:
        base.mkdir()
        self._pool = ThreadPoolExecutor(max(journals, members))
        flags = os.O_WRONLY | os.O_CREAT
        self._journals = [
            os.open(base / f"journal{n}", flags | os.O_APPEND, 0o600) for n in range(journals)
        ]
        self._members = [
            _open_direct(base / f"member{n}", flags | os.O_DSYNC) for n in range(members)
        ]
        self._buffer = mmap.mmap(-1, max(RECORD_BYTES, SUPER_BYTES))

    def __enter__(self) -> "BareWrites":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for fd in (*self._journals, *self._members):
            os.close(fd)

    def once(self) -> None:
        list(self._pool.map(self._journal, self._journals))
        list(self._pool.map(self._member, self._members))

    def _journal(self, fd: int) -> None:
        os.write(fd, bytes(JOURNAL_BYTES))
        os.fdatasync(fd)

    def _member(self, fd: int) -> None:
        with memoryview(self._buffer) as view:
            os.pwrite(fd, view[:RECORD_BYTES], 1 << 20)
            os.pwrite(fd, view[:SUPER_BYTES], 4096)


def _open_direct(path: Path, flags: int) -> int:
    """With room allocated, as on a member in use; without O_DIRECT where there is none."""
    path.write_bytes(bytes(2 << 20))
    try:
        return os.open(path, flags | os.O_DIRECT, 0o600)
    except OSError:
        return os.open(path, flags, 0o600)
