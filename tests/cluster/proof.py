"""A cluster whose daemons keep a record of what they write, and what the records must show."""

import json
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from mdcluster.control.arrays import ArrayDetail
from mdcluster.control.client import RefusedError
from mdcluster.control.errors import ControlError
from mdcluster.control.status import ClusterStatus, WhyData
from mdcluster.control.verbs import (
    ArrayArgs,
    CreateArgs,
    MemberArgs,
    NoArgs,
    StopArgs,
    Verb,
)
from tests.blocks import BLOCK_BYTES, Block
from tests.cluster.faulty_daemon_env import ENVIRONMENT
from tests.cluster.harness import LIMIT_S, Cluster, Daemon, TooLongError
from tests.cluster.images import SECTOR_BYTES, superblock

REPOSITORY = Path(__file__).parents[2]
POLL_S = 0.02
WINDOW_KIB = 1024
WINDOW_SECTORS = 2 * WINDOW_KIB
FAST = f"""
[timing]
checkpoint_ms = 200
[resync]
window_min_kib = {WINDOW_KIB}
window_max_kib = {WINDOW_KIB}
[log]
level = "debug"
"""
"""Windows of 1 MiB, the next one announced while one is copied."""
PACED = FAST.replace("[resync]", "[resync]\nspeed_max_kib = 16384")
"""Each window released before the next one: 16 MiB take a second."""
SLOW_COPY_MS = 40
"""What a window takes longer, where no speed limit makes a resync last."""


class ProofDaemon(Daemon):
    """Runs :mod:`tests.cluster.faulty_daemon`."""

    @property
    def faults(self) -> Path:
        return self.base / "faults"

    def command(self, *options: str) -> list[str]:
        around = ["env", f"PYTHONPATH={REPOSITORY}", f"{ENVIRONMENT}={self.faults}"]
        plain = super().command(*options)
        return [*around, sys.executable, "-m", "tests.cluster.faulty_daemon", *plain[3:]]

    def trace(self) -> list[dict[str, Any]]:
        """All that was recorded, over all lives; the last line may be half written yet."""
        text = (self.faults / "trace").read_text()
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def freeze_at(self, kind: str, late_ms: int) -> None:
        """Stop it at its next write of this kind, which is `late_ms` late when it goes on.

        Returns once it stands.
        """
        trigger = self.faults / "new"
        trigger.write_text(str(late_ms))
        trigger.rename(self.faults / f"freeze-{kind}")
        end_s = time.monotonic() + LIMIT_S
        while os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > end_s:
                raise TooLongError(f"{self.name} made no write of kind {kind}\n{self.log()}")
            time.sleep(POLL_S)

    def thawed(self) -> bool:
        """Whether the write that was stopped last is on its way."""
        last = [line["what"] for line in self.trace() if line["what"] in ("frozen", "thawed")]
        return last[-1:] == ["thawed"]

    def nbd(self, array: str) -> Path:
        return self.base / "run" / "nbd" / f"{array}.sock"


class ProofCluster(Cluster):
    """Daemons of that kind, with words for what the proofs do to them."""

    def _daemon(self, name: str, port: int) -> ProofDaemon:
        plain = super()._daemon(name, port)
        daemon = ProofDaemon(plain.name, plain.base, plain.clusterips, plain.port)
        daemon.faults.mkdir()
        return daemon

    def proof(self, name: str) -> ProofDaemon:
        daemon = self.daemons[name]
        assert isinstance(daemon, ProofDaemon)
        return daemon

    def sockets(self, array: str, names: Iterable[str] = ()) -> dict[str, Path]:
        return {name: self.proof(name).nbd(array) for name in names or self.daemons}

    def create(self, name: str, images: Iterable[Path], raid_disks: int = 2) -> ArrayDetail:
        """A raid1 on all living nodes, its first resync about to begin."""
        paths = tuple(str(image) for image in images)
        spares = len(paths) - raid_disks
        args = CreateArgs(str(uuid.uuid4()), name, 1, raid_disks, paths, spares)
        self.living[0].ask(Verb.CREATE, args)
        self.until_running(name, [daemon.name for daemon in self.living])
        return self.detail(name)

    def change(self, verb: Verb, array: str, device: str, via: Daemon | None = None) -> None:
        """Fail, remove, add or re-add a member."""
        args = MemberArgs(str(uuid.uuid4()), array, device)
        (via or self.living[0]).ask(verb, args)

    @contextmanager
    def changing(self, verb: Verb, array: str, device: str, via: Daemon) -> Iterator[None]:
        """The same, begun on entry and done on exit."""
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(self.change, verb, array, device, via)
            yield
            done.result(LIMIT_S)

    def stop_array(self, array: str) -> None:
        """Once the clients that have gone are seen to be gone."""

        def stopped() -> bool:
            try:
                self.living[0].ask(Verb.STOP, StopArgs(str(uuid.uuid4()), array))
            except RefusedError as error:
                if "open" not in str(error):
                    raise
                return False
            return True

        self.until(stopped, f"array {array} is stopped")

    def detail(self, array: str, via: Daemon | None = None) -> ArrayDetail:
        """The array as the writer (or `via`) sees it."""
        daemon = via or self.writer()
        with daemon.client() as client:
            return client.ask(Verb.DETAIL, ArrayArgs(array), ArrayDetail)

    def until(self, reached: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
        """Ask again and again; the state of a daemon is no line of its log."""
        end_s = time.monotonic() + limit_s
        while not self._quietly(reached):
            if time.monotonic() > end_s:
                raise TooLongError(f"not within {limit_s} s: {what}\n{self.logs()}")
            time.sleep(POLL_S)

    def _quietly(self, reached: Callable[[], bool]) -> bool:
        try:
            return reached()
        except RefusedError:
            raise
        except ControlError:  # just now not there
            return False

    def logs(self) -> str:
        return "\n".join(daemon.log() for daemon in self.daemons.values())

    def until_running(self, array: str, names: Iterable[str], limit_s: float = LIMIT_S) -> None:
        """Until exactly these nodes are listed, and their clients are let in."""
        wanted = set(names)
        self.until(
            lambda: set(self.detail(array).running) == wanted and self.serving(array) == wanted,
            f"array {array} runs on {sorted(wanted)}",
            limit_s,
        )

    def serving(self, array: str) -> set[str]:
        """The nodes on which a client can connect to the array."""
        found = set()
        for name, path in self.sockets(array).items():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
                one.settimeout(LIMIT_S)
                if one.connect_ex(str(path)) == 0:
                    found.add(name)
        return found

    def why(self) -> str:
        """All that waits, as the writer sees it."""
        with self.writer().client() as client:
            found = client.ask(Verb.WHY, NoArgs(), WhyData)
        return "\n".join(f"{w.subject}: {w.reason} until {w.ends}" for w in found.waiting)

    def until_in_sync(self, array: str, limit_s: float = LIMIT_S) -> ArrayDetail:
        """Until no pass is open, none is due, no slot of a dead life waits."""

        def settled() -> bool:
            now = self.detail(array)
            dirty = now.bitmap.slots_dirty if now.bitmap else 0
            busy = [m for m in now.members if m.state in ("recovering",)]
            return now.sync is None and not dirty and not busy

        self.until(settled, f"array {array} is in sync", limit_s)
        return self.detail(array)

    def until_synced_to(self, array: str, position_sectors: int) -> Daemon:
        """Until whoever is writer has resynced so much of it; returns the writer then."""
        heard = {daemon.name: 0 for daemon in self.daemons.values()}

        def far_enough(line: dict[str, Any]) -> bool:
            if line.get("array") != array:
                return False
            if line["event"] == "sync_moved":
                return int(line["complete_sectors"]) >= position_sectors
            return str(line["event"]) == "sync_finished"

        def reached() -> bool:
            found = False
            for daemon in self.daemons.values():
                new = daemon.lines[heard[daemon.name] :]
                heard[daemon.name] += len(new)
                found = found or any(map(far_enough, new))
            return found

        self.until(reached, f"array {array} is resynced up to {position_sectors}")
        return self.writer()

    def synced_to(self, array: str) -> int:
        """The newest position of its resync that any daemon has told, in sectors."""
        return max(
            int(line["complete_sectors"])
            for daemon in self.daemons.values()
            for line in daemon.lines
            if line["event"] == "sync_moved" and line["array"] == array
        )

    def writer_among(self, daemons: Iterable[Daemon], limit_s: float = LIMIT_S) -> Daemon:
        """The writer that these agree on, one of them; the others are not asked."""
        asked = list(daemons)
        found: list[Daemon] = []

        def agreed() -> bool:
            seen: list[ClusterStatus] = [daemon.status() for daemon in asked]
            writers = {status.writer for status in seen}
            found[:] = [
                self.daemons[s.node] for s in seen if s.node == s.writer and s.lease_ms_left
            ]
            return len(writers) == 1 and len(found) == 1

        self.until(agreed, f"a writer among {[d.name for d in asked]}", limit_s)
        return found[0]


# --- what the records must show ------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Copying:
    """What passes of one kind wrote to the members, over all nodes, in sectors of the members."""

    sectors_by_member: dict[str, list[tuple[int, int]]]

    def total(self, member: str) -> int:
        return sum(hi - lo for lo, hi in self.sectors_by_member.get(member, ()))

    def covered(self, member: str) -> int:
        """Each sector counted once."""
        count, end = 0, 0
        for lo, hi in sorted(self.sectors_by_member.get(member, ())):
            count += max(hi - max(lo, end), 0)
            end = max(end, hi)
        return count

    def twice(self, member: str, dirty: Iterable[tuple[int, int]] = ()) -> int:
        """How many sectors were written more than once (each extra time counts).

        dirty: ranges of the member whose bits may be set in a slot: the next writer copies
        them again wherever they are, by the bitmap.
        """
        excused = sorted(dirty)
        count, end = 0, 0
        for lo, hi in sorted(self.sectors_by_member.get(member, ())):
            again = (lo, min(hi, end))
            count += max(again[1] - again[0], 0) - sum(_common(again, one) for one in excused)
            end = max(end, hi)
        return count


def _common(one: tuple[int, int], other: tuple[int, int]) -> int:
    return max(min(one[1], other[1]) - max(one[0], other[0]), 0)


def chunks_of(
    blocks: Iterable[Block], made: ArrayDetail, offset_sectors: int
) -> set[tuple[int, int]]:
    """The bitmap chunks that clients write to, as ranges of a member (raid1)."""
    assert made.bitmap is not None
    chunk, sectors = made.bitmap.chunk_sectors, BLOCK_BYTES // SECTOR_BYTES
    firsts = {block.number * sectors // chunk for block in blocks}
    at = [offset_sectors + first * chunk for first in firsts]
    return {(lo, lo + chunk) for lo in at}


def assert_copied(
    daemons: Iterable[ProofDaemon],
    target: Path,
    made: ArrayDetail,
    blocks: Iterable[Block],
    since: dict[str, int],
) -> int:
    """The whole resync was done, at most two windows of it twice at each takeover.

    Returns how many sectors were. A machine that stands still for longer than a lease makes a
    takeover that the test did not mean.
    """
    daemons = list(daemons)
    done = copying(daemons, "resync", since)
    takeovers = max(len(terms(daemons, since)) - 1, 1)
    dirty = chunks_of(blocks, made, superblock(target).data_offset_sectors)
    twice = done.twice(target.name, dirty)
    assert done.covered(target.name) == made.size_sectors
    assert twice <= 2 * WINDOW_SECTORS * takeovers, f"{twice} sectors were copied twice"
    return twice


def copying(daemons: Iterable[ProofDaemon], kind: str, marks: dict[str, int]) -> Copying:
    """What was copied by passes of this kind since the marks (lengths of the traces then)."""
    found: dict[str, list[tuple[int, int]]] = {}
    for daemon in daemons:
        current = ""
        for number, line in enumerate(daemon.trace()):
            if line["what"] == "sync":
                current = line["kind"]
            elif line["what"] == "copy" and current == kind and number >= marks[daemon.name]:
                found.setdefault(line["member"], []).append((line["lo"], line["hi"]))
    return Copying(found)


def marks(daemons: Iterable[ProofDaemon]) -> dict[str, int]:
    """How long each trace is now."""
    return {daemon.name: len(daemon.trace()) for daemon in daemons}


def late_copies(daemon: ProofDaemon) -> int:
    """What its sync has written since it was stopped last, before it began another one."""
    count = 0
    for line in daemon.trace():
        if line["what"] in ("frozen", "sync"):
            count = 0
        count += line["what"] == "copy"
    return count


def terms(daemons: Iterable[ProofDaemon], since: dict[str, int]) -> set[int]:
    """The terms in which a gate was open."""
    return {
        line["term"]
        for daemon in daemons
        for line in daemon.trace()[since[daemon.name] :]
        if line["what"] == "gate" and line["until_ms"]
    }


def assert_one_gate(daemons: Iterable[ProofDaemon]) -> int:
    """No gate was open while another one was; returns how many terms had one.

    All daemons run on one machine, so their clocks are one clock.
    """
    spans: dict[int, tuple[int, int, str]] = {}  # term: first opened, open until, by whom
    for daemon in daemons:
        for line in daemon.trace():
            if line["what"] != "gate" or not line["term"]:
                continue
            term = line["term"]
            first, until, name = spans.get(term, (line["ms"], 0, daemon.name))
            assert name == daemon.name, f"term {term}: gates on {name} and {daemon.name}"
            until = min(until, line["ms"]) if line["until_ms"] == 0 else line["until_ms"]
            spans[term] = (first, until, name)
    ordered = sorted(spans.items())
    for (term, old), (later, new) in pairwise(ordered):
        assert old[1] <= new[0], (
            f"the gate of term {term} on {old[2]} was open until {old[1]} ms, that of term {later}"
            f" on {new[2]} opened at {new[0]} ms"
        )
    return len(spans)
