"""The clients of all guests, seen from the host: started, watched, stopped, and held to account.

>>> with Load(lab.guests, spread(...), "/persist/known") as load:
...     load.progress("node1", "node2")
>>> load.verify(images)
"""

import json
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.blocks import Block
from tests.cluster.images import assert_holds, assert_identical
from tests.vm.lab import Guest, GuestProcess, LabError

CLIENTS = Path(__file__).with_name("clients.py")
STATUS = "/run/lab/clients.json"
PROGRESS_S = 150.0
POLL_S = 0.2
END_S = 30.0


class LoadError(AssertionError):
    """A client read what it must not read, met an error, or does not go on."""


@dataclass(slots=True)
class Load:
    """Clients on these guests, from enter to exit; a guest that comes back gets new ones.

    blocks: all that are ever written; block i belongs to guest i modulo their number. What is
    known of them grows over several loads.
    """

    guests: list[Guest]
    blocks: list[Block]
    known: str
    """The file on each guest's own disk with what is known to be acknowledged of this content."""
    device: str = "/dev/md/data"
    pause_ms: int = 10
    names: tuple[str, ...] = ()
    """The guests that are to have clients; default: all."""
    tally: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By guest: what its clients told last."""
    _running: dict[str, GuestProcess] = field(default_factory=dict)
    _excused: set[str] = field(default_factory=set)
    life: int = field(default_factory=lambda: int(time.time()) - 1_700_000_000)

    def __enter__(self) -> Self:
        for guest in self.guests:
            if not self.names or guest.name in self.names:
                self.start(guest)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in list(self._running):
            self.stop(name, quiet=kind is not None)

    def start(self, guest: Guest, *, read_only: bool = False) -> None:
        """New clients, which know what was saved there; their versions are higher than before."""
        self.life += 1
        orders = {
            "device": self.device,
            "node": self.guests.index(guest),
            "peers": [one.address for one in self.guests],
            "numbers": [block.number for block in self.blocks],
            "known": self.known,
            "status": STATUS,
            "life": self.life,
            "pause_ms": self.pause_ms,
            "read_only": read_only,
        }
        guest.run(f"rm -f {STATUS}")
        command = ["nice", "-n", "10", "python", "-I", "-S", str(CLIENTS), json.dumps(orders)]
        self._running[guest.name] = guest.spawn("clients", command)
        self._excused.discard(guest.name)

    def gone(self, name: str) -> None:
        """This guest was cut off its power: its clients are no more."""
        self._running.pop(name, None)

    def excuse(self, name: str) -> None:
        """Errors on this guest are as they should be: it may not use the array any more."""
        self._excused.add(name)

    def stop(self, name: str, *, quiet: bool = False) -> dict[str, Any]:
        """Orderly; LoadError for what the clients complain of, unless quiet."""
        process = self._running.pop(name)
        try:
            process.signal(15)  # type: ignore[arg-type]
            process.wait(END_S)
            self.tally[name] = json.loads(process.output().splitlines()[-1])
        except (LabError, ValueError, IndexError):
            if not quiet:
                raise
            return {}
        if not quiet:
            self._check(name)
        return self.tally[name]

    def status(self, name: str) -> dict[str, Any]:
        """What its clients told last; nothing yet, or not any more: {}."""
        process = self._running[name]
        try:
            self.tally[name] = json.loads(process.guest.read_text(STATUS))
        except (LabError, ValueError):
            return {}
        self._check(name)
        return self.tally[name]

    def _check(self, name: str) -> None:
        tally = self.tally[name]
        complaints = tally["problems"] + tally["stuck"]
        if name not in self._excused:
            complaints += tally["errors"]
        if complaints:
            raise LoadError(f"{name}: {complaints}; all: {tally}")

    def progress(self, *names: str, writes: int = 5, limit_s: float = PROGRESS_S) -> None:
        """Until each of these (default: all that run) has acknowledged as many more writes."""
        chosen = names or tuple(self._running)
        start = {name: self.status(name).get("writes", 0) for name in chosen}
        end_s = time.monotonic() + limit_s
        left = list(chosen)
        while left:
            left = [n for n in left if self.status(n).get("writes", 0) < start[n] + writes]
            if left and time.monotonic() > end_s:
                raise LoadError(f"writes do not go on within {limit_s} s: {self.tally}")
            time.sleep(POLL_S if left else 0)

    def running(self, name: str) -> bool:
        return name in self._running

    def collect(self) -> None:
        """Learn what was acknowledged from every guest that runs, also of guests that do not."""
        for guest in self.guests:
            if not guest.alive or (self.names and guest.name not in self.names):
                continue
            data = guest.read_bytes(self.known)
            for block, (version,) in zip(self.blocks, struct.iter_unpack("<Q", data), strict=True):
                block.acknowledged = block.issued = max(block.acknowledged, version)

    def verify(self, images: Iterable[Path]) -> int:
        """The members hold the same, and all that was acknowledged; how many blocks were written.

        A write in doubt may be there, too: nobody else could have made its content.
        """
        assert not self._running, "clients still run"
        images = list(images)
        self.collect()
        for block in self.blocks:
            block.issued = 1 << 63
        for image in images:
            assert_holds(image, self.blocks)
        assert_identical(images)
        return sum(block.acknowledged > 0 for block in self.blocks)
