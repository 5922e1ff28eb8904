"""A cluster of guests to measure: settings as shipped but for time spans, programs in guests."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mdcluster.control.verbs import CreateArgs, Verb
from tests.cluster.images import fill_with_noise
from tests.vm.cluster.harness import VmCluster
from tests.vm.lab import Disk, Guest, Lab

INSIDE = Path(__file__).parent / "inside"
ARRAY = "data"
MEMBERS = ("d1", "d2")
SPAN = {"heartbeat_ms": 120, "hold_target_ms": 100, "checkpoint_ms": 1000}
"""Beside the proofs' own: what costs time or traffic is as it is by default."""
PROGRAM_S = 60.0


@dataclass(frozen=True, slots=True)
class Run:
    """What was asked for."""

    kernel: str


class BenchCluster(VmCluster):
    """The shipped daemon, and the few words that measurements need."""

    command = ("mdclusterd",)

    def begin(self) -> None:
        """All daemons run and have a writer."""
        for guest in self.lab.guests:
            self.configure(guest, timing=SPAN)
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

    def close_clients(self) -> None:
        """Nobody is connected to a daemon."""
        for client in self._clients.values():
            client.close()


@contextmanager
def cluster(
    run: Run,
    nodes: int,
    size_mib: int,
) -> Iterator[BenchCluster]:
    """Guests with daemons that share d1 and d2, in which no block of one is as in the other.

    size_mib: of the disks.
    """
    disks = tuple(Disk(disk, size_mib) for disk in MEMBERS)
    with Lab(nodes=nodes, disks=disks, kernel=run.kernel) as lab:
        made = BenchCluster(lab, settings="")
        for disk in MEMBERS:
            fill_with_noise(made.image(disk), 0)
        made.begin()
        yield made


# --- programs in guests ----------------------------------------------------------------------


def python(program: str) -> list[str]:
    """The command of a program of `inside/`."""
    return ["python", "-I", "-S", str(INSIDE / f"{program}.py")]


def ask(guest: Guest, program: str) -> dict[str, float]:
    """Run it to its end; what its last line says."""
    result = guest.run(python(program), timeout_s=PROGRAM_S)
    return dict(json.loads(result.lines[-1]))
