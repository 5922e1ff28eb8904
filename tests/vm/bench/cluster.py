"""A cluster of guests to measure: settings as shipped but for time spans, programs in guests."""

import json
import select
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mdcluster.control.client import Client
from mdcluster.control.protocol import SOCKET_PATH, EventLine
from mdcluster.control.verbs import CreateArgs, ReleaseArgs, StillArgs, Verb
from tests.cluster.images import fill_with_noise
from tests.vm.cluster.harness import LIMIT_S, TooLongError, VmCluster
from tests.vm.lab import Disk, Guest, Lab

INSIDE = Path(__file__).parent / "inside"
ARRAY = "data"
MEMBERS = ("d1", "d2")
ROOM_MIB = 32
"""Of each disk beside the data: superblock, cluster area, bitmaps."""
SPAN = {"heartbeat_ms": 120, "hold_target_ms": 100, "checkpoint_ms": 1000}
"""Beside the proofs' own: what costs time or traffic is as it is by default."""
QUICK = {
    "lease_ms": 2000,
    "election_min_ms": 2100,
    "election_max_ms": 2600,
    "suspect_ms": 1200,
    "io_lease_ms": 2500,
    "grace_ms": 500,
    "evict_ms": 3200,
    "write_deadline_ms": 5000,
    "device_timeout_ms": 5100,
}
"""Where it is timed how a death is noticed: as short as slow guests bear."""
PROGRAM_S = 60.0
SECTOR = 512


@dataclass(frozen=True, slots=True)
class Run:
    """What was asked for."""

    kernel: str


class BenchCluster(VmCluster):
    """The shipped daemon, and the few words that measurements need."""

    command = ("mdclusterd",)
    _contents = 0

    def begin(self, spans: Mapping[str, int]) -> None:
        """All daemons run and have a writer."""
        for guest in self.lab.guests:
            self.configure(guest, timing={**SPAN, **spans})
        self.start()
        self.writer()

    def make(self, size_mib: int, *, clean: bool) -> None:
        """A raid1 over d1 and d2 that all guests run; unless clean, its resync has begun."""
        args = CreateArgs(
            self.proposal(),
            ARRAY,
            1,
            len(MEMBERS),
            tuple(f"/dev/mapper/{disk}" for disk in MEMBERS),
            size_sectors=size_mib * 2048,
            assume_clean=clean,
            run=True,
        )
        self.client(self.writer()).call(Verb.CREATE, args)
        self.until_running(ARRAY, *self.daemons)

    def noise(self) -> None:
        """No block of d1 is as in d2, nor as before."""
        self._contents += 1
        for disk in MEMBERS:
            fill_with_noise(self.image(disk), self._contents)

    def release(self) -> None:
        """The cluster has forgotten it; its resync, if any, is waited for."""
        self.until_in_sync()
        args = ReleaseArgs(self.proposal(), ARRAY, force=True)
        self.client(self.writer()).call(Verb.RELEASE, args)

    def still(self, verb: Verb) -> None:
        """Pause its passes, or resume them."""
        self.client(self.writer()).call(verb, StillArgs(self.proposal(), ARRAY))

    def followers(self) -> list[str]:
        writer = self.writer()
        return [name for name in self.daemons if name != writer]

    def close_clients(self) -> None:
        """Nobody is connected to a daemon."""
        for client in self._clients.values():
            client.close()

    # --- what the kernels say --------------------------------------------------------------

    def member_state(self, name: str, disk: str) -> str:
        """The attribute that says how this guest's md has this disk."""
        look = f"grep -lx {disk} /sys/block/md_{ARRAY}/md/dev-*/block/dm/name"
        found = Path(self.lab[name].run(look).lines[0])
        return str(found.parents[2] / "state")

    def held_bytes(self, name: str) -> int:
        """In what range writes wait on this guest."""
        files = (f"/sys/block/md_{ARRAY}/md/suspend_{end}" for end in ("lo", "hi"))
        lo, hi = self.lab[name].run(f"cat {' '.join(files)}").lines
        return (int(hi) - int(lo)) * SECTOR

    def copied_bytes(self, name: str) -> int:
        """What this guest has written to d2 alone since it was booted.

        Metadata and applications' writes go to both members, what is copied comes from d1.
        """
        one, other = (self._written_sectors(name, disk) for disk in MEMBERS)
        return (other - one) * SECTOR

    def _written_sectors(self, name: str, disk: str) -> int:
        """Documentation/block/stat.rst."""
        path = self.lab[name].disks[disk].path
        stat = self.lab[name].run(f"cat /sys/dev/block/$(stat -L -c %Hr:%Lr {path})/stat")
        return int(stat.out.split()[6])


@contextmanager
def cluster(
    run: Run,
    nodes: int,
    size_mib: int,
    settings: str = "",
    *,
    spans: Mapping[str, int] | None = None,
    throttle: str = "",
    watchdog_ms: int = 0,
) -> Iterator[BenchCluster]:
    """Guests with daemons that share d1 and d2, full of noise, with room for such an array.

    settings: more of mdcluster.toml. spans: more of [timing]. throttle: of the disks.
    """
    disks = tuple(Disk(disk, size_mib + ROOM_MIB, throttle) for disk in MEMBERS)
    with Lab(nodes=nodes, disks=disks, kernel=run.kernel) as lab:
        made = BenchCluster(lab, settings, watchdog_ms=watchdog_ms)
        made.noise()
        made.begin(spans or {})
        yield made


# --- what daemons tell -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heard:
    """An event. at_s: when it had come to the host, by its CLOCK_MONOTONIC."""

    node: str
    kind: str
    at_s: float
    fields: dict[str, Any]


class Ears:
    """Events of these kinds on these guests, from enter to exit."""

    def __init__(self, made: BenchCluster, names: Iterable[str], *kinds: str) -> None:
        paths = {name: made.lab[name].tunnel(SOCKET_PATH) for name in names}
        self._clients = {name: Client(path) for name, path in paths.items()}
        self._kinds = kinds
        self.heard: list[Heard] = []

    def __enter__(self) -> Self:
        for client in self._clients.values():
            client.subscribe(self._kinds)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for client in self._clients.values():
            client.close()

    def until(self, wanted: Callable[[Heard], bool], limit_s: float = LIMIT_S) -> Heard:
        """The first that is as wanted, of all that was and will be heard."""
        end_s = time.monotonic() + limit_s
        looked_at = 0
        while True:
            for one in self.heard[looked_at:]:
                looked_at += 1
                if wanted(one):
                    return one
            if time.monotonic() > end_s:
                raise TooLongError(f"not heard within {limit_s} s; heard: {self.heard}")
            self._listen(end_s - time.monotonic())

    def _listen(self, limit_s: float) -> None:
        names = {client.fileno(): name for name, client in self._clients.items()}
        for number in select.select(list(names), [], [], max(limit_s, 0.0))[0]:
            name, at_s = names[number], time.monotonic()
            lines = self._clients[name].take()
            events = [line for line in lines if isinstance(line, EventLine)]
            self.heard += [Heard(name, line.event, at_s, line.fields) for line in events]


# --- programs in guests ----------------------------------------------------------------------


def python(program: str, *words: str, bare: bool = True) -> list[str]:
    """The command of a program of `inside/`; bare: without mdcluster."""
    return ["python", *(["-I", "-S"] if bare else []), str(INSIDE / f"{program}.py"), *words]


def ask(guest: Guest, program: str, *words: str, bare: bool = True) -> dict[str, Any]:
    """Run it to its end; what its last line says."""
    result = guest.run(python(program, *words, bare=bare), timeout_s=PROGRAM_S)
    return dict(json.loads(result.lines[-1]))


class Watcher:
    """`inside/watch.py` in a guest: armed when it was made."""

    def __init__(self, guest: Guest, attribute: str, word: str) -> None:
        self.guest = guest
        name = f"watch-{time.monotonic_ns()}"
        self._process = guest.spawn(name, python("watch", attribute, word))
        self._line(0)

    def at_ns(self) -> int:
        """When it was so, by the guest's clock; TooLongError if it does not become so in time."""
        return int(self._line(1)["at_ns"])

    def _line(self, number: int) -> dict[str, Any]:
        end_s = time.monotonic() + PROGRAM_S
        while time.monotonic() < end_s:
            lines = self._process.output().splitlines()
            if len(lines) > number:
                return dict(json.loads(lines[number]))
            time.sleep(0.1)
        raise TooLongError(f"{self.guest.name}: the watcher tells nothing: {self._process.tail()}")
