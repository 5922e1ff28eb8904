"""The steps of the demo, in order; each ends in checks that it was so."""

import shutil
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from mdcluster.control.arrays import ArrayDetail
from tests.cluster.harness import Daemon
from tests.cluster.images import SECTOR_BYTES, fill_with_noise
from tests.cluster.workload import Workload
from tests.demo.cluster import ARRAY, IMAGE_MIB, SPEED_KIB, WINDOW_KIB, DemoCluster, Happening
from tests.demo.errors import check
from tests.demo.view import View
from tests.demo.workload import Clients, compare_legs, copied_up_to

KILL_AT: Final = 0.4
"""How much of the resync is done when its writer dies."""
TAKEOVER_MAX_S: Final = 5.0
"""Beyond it the demo fails; a machine with some room takes well below one second."""
WINDOW_SECTORS: Final = 2 * WINDOW_KIB
TWICE_MAX_SECTORS: Final = 2 * WINDOW_SECTORS
EXAMINED: Final = (
    "Magic",
    "Version",
    "Array UUID",
    "Name",
    "Raid Level",
    "Array Size",
    "Data Offset",
    "State",
    "Checksum",
    "Events",
    "Device Role",
    "Array State",
)
"""What is shown of mdadm's words."""


@dataclass(slots=True)
class Figures:
    """What the table at the end shows."""

    election_s: float = 0.0
    takeover_s: float = 0.0
    twice_sectors: int = 0
    verified: int = 0


@dataclass(slots=True)
class Story:
    """`run` it once, inside the cluster."""

    cluster: DemoCluster
    view: View
    figures: Figures = field(default_factory=Figures)

    def run(self) -> list[tuple[str, str]]:
        """All steps; rows of the table: what, how much. CheckError, AssertionError: it failed."""
        self.elect()
        clients = self.create()
        with clients.load(clients.ahead) as load:
            self.kill_in_mid_resync(load)
            with clients.load(clients.behind) as more:
                self.replace_member(more)
        self.verify(clients)
        uuid = self.cluster.detail().uuid
        self.stop()
        self.compare(clients, uuid)
        return self.table(clients)

    # --- steps ---------------------------------------------------------------------------

    def elect(self) -> None:
        """From three processes to one writer."""
        cluster = self.cluster
        ports = ", ".join(f"{d.name} on 127.0.0.1:{d.port}" for d in cluster.daemons.values())
        self.view.step(f"start three mdclusterd: {ports}")
        cluster.start_all()
        writer = cluster.writer()
        chosen = writer.until("writer_changed", node=writer.name)
        met = min(_moment(d.until("node_up")) for d in cluster.daemons.values())
        self.figures.election_s = _moment(chosen) - met
        self.view.note(
            f"{writer.name} is the writer of term {chosen['term']},"
            f" {self.figures.election_s:.2f} s after two of them had met"
        )

    def create(self) -> Clients:
        """A RAID1 over two images with different contents, so that the resync has to work."""
        images = [self._image("disk1"), self._image("disk2")]
        node = self.cluster.other_than(self.cluster.writer())
        words = ("--create", ARRAY, "--level=1", "--raid-devices=2", *map(str, images))
        self._mdadm_like(node, *words)
        self.cluster.until_running(len(self.cluster.daemons))
        found = self.cluster.detail()
        mib = found.array_sectors * SECTOR_BYTES >> 20
        self.view.note(
            f"{mib} MiB, running on {', '.join(found.running)};"
            f" its first resync goes at {SPEED_KIB // 1024} MiB/s to last a while"
        )
        clients = Clients(self.cluster.nbd, found.array_sectors)
        self.view.watch(self.cluster, clients)
        return clients

    def kill_in_mid_resync(self, load: Workload) -> None:
        """kill -9 of the writer; another one goes on where it was; the dead one comes back."""
        cluster, feed = self.cluster, self.cluster.feed
        writer = cluster.writer()
        self.view.step("NBD clients on all nodes write and verify blocks while the resync runs")
        load.progress(cluster.daemons)
        reached = feed.wait(
            lambda h: _moved(h) and h.facts["complete_sectors"] >= KILL_AT * h.facts["end_sectors"],
            "the resync moves on",
        )
        self.view.step(f"kill -9 of the writer, {writer.name}, in mid-resync")
        killed_at_s = time.time()
        writer.kill()
        moved = feed.heard(lambda h: _moved(h) and h.node == writer.name)
        told = int(moved[-1].facts["complete_sectors"])
        copied = copied_up_to(self._disk("disk1"), self._disk("disk2"), told)

        successor = cluster.writer(not_=writer.name)
        elected = successor.until("writer_changed", node=successor.name)
        self.figures.takeover_s = _moment(elected) - killed_at_s
        self._check_resumed(writer, successor, copied, reached.at_s)
        load.progress(daemon.name for daemon in cluster.living)
        self._bring_back(writer, load)
        self.view.step("the rest of the resync")
        cluster.until_in_sync()
        self._check_copied_once(successor, copied, reached.at_s)

    def _check_resumed(self, old: Daemon, new: Daemon, copied: int, since_s: float) -> None:
        """Where the successor goes on: one window before the end of its first one."""
        first = self.cluster.feed.wait(
            lambda h: _moved(h) and h.node == new.name,
            f"{new.name} goes on with the resync",
            since_s,
        )
        start = int(first.facts["complete_sectors"]) - WINDOW_SECTORS
        end = int(first.facts["end_sectors"])
        takeover_s = self.figures.takeover_s
        self.view.note(f"{new.name} is the writer {takeover_s:.2f} s later")
        self.view.note(
            f"{old.name} had copied {_mib(copied)} of {_mib(end)},"
            f" {new.name} continues at {_mib(start)}"
        )
        check(
            takeover_s <= TAKEOVER_MAX_S,
            f"a new writer took {takeover_s:.1f} s, more than {TAKEOVER_MAX_S:g} s",
        )
        check(start <= copied, f"left out: copied to {copied}, continued at {start} sectors")

    def _check_copied_once(self, new: Daemon, copied: int, since_s: float) -> None:
        """Add up the windows of the successor, in whatever passes it took."""
        moved = self.cluster.feed.heard(
            lambda h: h.kind == "sync_moved" and h.node == new.name, since_s
        )
        ends = [int(one.facts["complete_sectors"]) for one in moved]
        end = int(moved[0].facts["end_sectors"])
        check(ends[-1] == end, f"{new.name} went only to {ends[-1]} of {end} sectors")
        twice = self.figures.twice_sectors = max(windows_copied(ends) - (end - copied), 0)
        self.view.note(f"both members are in sync; {_mib(twice)} of it was copied twice")
        check(twice <= TWICE_MAX_SECTORS, f"{_mib(twice)} copied twice, more than two windows")

    def _bring_back(self, daemon: Daemon, load: Workload) -> None:
        self.view.step(f"start {daemon.name} again")
        daemon.start()
        self.cluster.until_running(len(self.cluster.daemons))
        load.progress([daemon.name])
        self.view.note(f"{daemon.name} has rejoined and runs the array")

    def replace_member(self, load: Workload) -> None:
        """The member that the resync read from goes; a third image takes its place."""
        disk1, new = self._disk("disk1"), self._image("disk3")
        cluster = self.cluster
        node = cluster.other_than(cluster.writer())
        self._mdadm_like(node, ARRAY, "--fail", str(disk1))
        load.progress(cluster.daemons)
        states = _states(cluster.detail(node))
        check(states["disk1"] == "faulty", f"disk1 is not faulty: {states}")
        self.view.note("disk1 is faulty on every node; writes go on, on disk2 alone")

        self._mdadm_like(node, ARRAY, "--remove", str(disk1))
        self._mdadm_like(node, ARRAY, "--add", str(new))
        load.progress(cluster.daemons)
        states = _states(cluster.until_in_sync())
        check(states == {"disk2": "in_sync", "disk3": "in_sync"}, f"not recovered: {states}")
        self.view.note("recovered: disk2 and disk3 are in sync")

    def verify(self, clients: Clients) -> None:
        """What was acknowledged is what every node reads."""
        self.view.step("read every block on every node")
        count = clients.verify()
        self.figures.verified = clients.reads + count
        self.view.note(
            f"{count} blocks as acknowledged; {clients.writes} writes were,"
            f" {clients.in_doubt} were cut off by the kill"
        )

    def stop(self) -> None:
        """The array, then the daemons, the writer last: no exit code but 0."""
        cluster = self.cluster
        self._mdadm_like(cluster.writer(), "--stop", ARRAY)
        writer = cluster.writer()
        self.view.step("stop the daemons, the writer last")
        others = [daemon for daemon in cluster.living if daemon is not writer]
        for daemon in (*others, writer):
            code = daemon.stop()
            check(code == 0, f"{daemon.name} ended with exit code {code}\n{daemon.log()}")

    def compare(self, clients: Clients, uuid: str) -> None:
        """The members as they lie there, and what mdadm says about one of them."""
        self.view.step("compare the legs byte for byte, past all daemons")
        legs = [self._disk("disk2"), self._disk("disk3")]
        size = compare_legs(legs, clients.blocks)
        self.view.note(
            f"disk2 and disk3 are identical in all {size} bytes,"
            f" and hold all {len(clients.blocks)} blocks as acknowledged"
        )
        self._examine(legs[0], uuid)

    def _examine(self, image: Path, uuid: str) -> None:
        mdadm = shutil.which("mdadm") or shutil.which("mdadm", path="/usr/sbin:/sbin")
        if mdadm is None:
            self.view.step("mdadm is not installed here; it would read these images")
            return
        self.view.step(f"mdadm --examine {image.name}")
        done = subprocess.run(
            [mdadm, "--examine", str(image)],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        check(done.returncode == 0, f"mdadm --examine {image}: {done.stdout}{done.stderr}")
        said = dict(_pairs(done.stdout))
        for key in EXAMINED:
            self.view.note(f"{key:>12} : {said.get(key, '-')}")
        plain = uuid.replace("-", "")
        words = ":".join(plain[at : at + 8] for at in range(0, 32, 8))
        check(said.get("Array UUID") == words, f"mdadm reads another UUID than {words}")
        check(said.get("Raid Level") == "raid1", "mdadm reads another level")
        check("correct" in said.get("Checksum", ""), "mdadm finds the checksum wrong")

    def table(self, clients: Clients) -> list[tuple[str, str]]:
        figures = self.figures
        changes_ms = [1000 * seconds for seconds in self.cluster.changes_s]
        median_ms, max_ms = statistics.median(changes_ms), max(changes_ms)
        return [
            ("election, from two nodes that met", f"{figures.election_s:.2f} s"),
            (
                f"state changes by mdadm's commands ({len(changes_ms)})",
                f"median {median_ms:.0f} ms, longest {max_ms:.0f} ms",
            ),
            ("takeover, from kill -9 to a new writer", f"{figures.takeover_s:.2f} s"),
            (
                "resynced twice",
                f"{_mib(figures.twice_sectors)} (two windows: {_mib(TWICE_MAX_SECTORS)})",
            ),
            ("writes acknowledged", str(clients.writes)),
            ("reads verified", str(figures.verified)),
            ("longest held write", f"{clients.longest_write_ms / 1000:.2f} s"),
        ]

    # --- helpers -------------------------------------------------------------------------

    def _mdadm_like(self, node: Daemon, *words: str) -> None:
        """Announce a command as typed, carry it out, show its answer."""
        typed = " ".join(word.rpartition("/")[2] if "/" in word else word for word in words)
        self.view.step(f"on {node.name}: mdcadm {typed}")
        for line in self.cluster.mdcadm(node, *words).splitlines():
            self.view.note(line)

    def _image(self, name: str) -> Path:
        image = self.cluster.image(name, IMAGE_MIB)
        fill_with_noise(image, 0)
        return image

    def _disk(self, name: str) -> Path:
        return self.cluster.images / name


def _moment(line: dict[str, Any]) -> float:
    """When a line was logged, in seconds since the epoch."""
    return datetime.fromisoformat(line["time"]).timestamp()


def _moved(happening: Happening) -> bool:
    return happening.kind == "sync_moved" and happening.facts["sync"] == "resync"


def windows_copied(ends: list[int]) -> int:
    """How many sectors at most were copied in windows that ended there, one after the other.

    A step of more than a window left out what was clean; a step back began another pass.
    """
    befores = [ends[0] - WINDOW_SECTORS, *ends]
    steps = [end - before for before, end in zip(befores, ends, strict=False)]
    return sum(min(step, WINDOW_SECTORS) if step > 0 else WINDOW_SECTORS for step in steps)


def _states(detail: ArrayDetail) -> dict[str, str]:
    return {member.path.rpartition("/")[2]: member.state.value for member in detail.members}


def _mib(sectors: int) -> str:
    return f"{sectors / 2048:.2f} MiB"


def _pairs(text: str) -> list[tuple[str, str]]:
    """`key : value` lines."""
    split = (line.partition(" : ") for line in text.splitlines())
    return [(key.strip(), value.strip()) for key, _, value in split if value]
