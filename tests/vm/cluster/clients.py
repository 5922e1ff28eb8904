"""Runs in a guest: writers and a reader of one array, which know what every block may hold.

    python -I tests/vm/cluster/clients.py '{"device": "/dev/md/data", ...}'

Nodes tell each other every write that was acknowledged, so a reader holds what it reads against the
writes of all nodes: who hears that a version was acknowledged must never read an older one. What a
node knows to be acknowledged is one number a block, in memory; it is saved on the guest's own disk
several times a second, so it survives a power cut, its own or that of the node it was heard from.

Its last line tells what came of it; before, one stands in the status file, several times a second.
"""

import json
import mmap
import os
import random
import signal
import socket
import sys
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.blocks import BLOCK_BYTES, ContentError, decode_block, encode_block, torn

PORT = 4711
SAVE_S = 0.25
END_S = 8.0
"""How long a request may last on before it is told of as stuck."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What to do, as JSON on the command line.

    numbers: of all blocks; block i belongs to node i % nodes. known: where what is acknowledged
    is saved. life: differs from that of every earlier run, and grows; versions start above it.
    """

    device: str
    node: int
    peers: list[str]
    numbers: list[int]
    known: str
    status: str
    life: int
    writers: int = 2
    pause_ms: int = 4
    read_only: bool = False


@dataclass(slots=True)
class Tally:
    """What came of it so far."""

    writes: int = 0
    reads: int = 0
    torn_reads: int = 0
    errors: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    longest_write_ms: int = 0
    longest_read_ms: int = 0
    stuck: list[str] = field(default_factory=list)


class Clients:
    """All threads of this node."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._nodes = len(orders.peers)
        self._known = array("Q", bytes(8 * len(orders.numbers)))
        self._tally = Tally()
        self._end = threading.Event()
        self._busy: dict[str, tuple[float, str]] = {}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((orders.peers[orders.node], PORT))
        self._load()

    def run(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self._end.set())
        works = [("hear", self._hear), ("read", self._read)]
        if not self._orders.read_only:
            works += [(f"write {n}", self._writer(n)) for n in range(self._orders.writers)]
        threads = [threading.Thread(target=work, name=name, daemon=True) for name, work in works]
        for thread in threads:
            thread.start()
        while not self._end.wait(SAVE_S):
            self._save()
        end_s = time.monotonic() + END_S
        for thread in threads[1:]:
            thread.join(max(end_s - time.monotonic(), 0))
        self._tally.stuck = [what for _, what in list(self._busy.values())]
        self._save()
        print(json.dumps(asdict(self._tally)), flush=True)
        os._exit(0)  # whoever is stuck in the kernel would keep us

    # --- what is known -----------------------------------------------------------------------

    def _load(self) -> None:
        try:
            data = Path(self._orders.known).read_bytes()
        except FileNotFoundError:
            return
        if len(data) == 8 * len(self._known):
            self._known = array("Q", data)

    def _save(self) -> None:
        """Numbers only grow, so a state saved in part is one that was, too."""
        file = os.open(self._orders.known, os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(file, bytes(self._known), 0)
        os.fdatasync(file)
        os.close(file)
        status = Path(self._orders.status)
        now_s = time.monotonic()
        late = {what: round(now_s - since_s, 1) for since_s, what in list(self._busy.values())}
        text = json.dumps({**asdict(self._tally), "busy": late})
        status.with_suffix(".new").write_text(text)
        status.with_suffix(".new").rename(status)

    def _hear(self) -> None:
        while True:
            index, version = map(int, self._socket.recv(64).split())
            if 0 <= index < len(self._known):
                self._known[index] = max(self._known[index], version)

    def _tell(self, index: int, version: int) -> None:
        text = f"{index} {version}".encode()
        for node, peer in enumerate(self._orders.peers):
            if node != self._orders.node:
                try:
                    self._socket.sendto(text, (peer, PORT))
                except OSError:  # cut off: it does not know, so it checks less
                    continue

    # --- reading and writing ------------------------------------------------------------------

    def _writer(self, number: int) -> Callable[[], None]:
        def work() -> None:
            orders = self._orders
            mine = range(orders.node, len(orders.numbers), self._nodes)[number :: orders.writers]
            rng = random.Random(f"{orders.life} {orders.node} {number}")
            version = orders.life << 24
            with mmap.mmap(-1, BLOCK_BYTES) as buffer:
                file = os.open(orders.device, os.O_WRONLY | os.O_DIRECT)
                while not self._end.wait(orders.pause_ms / 1000):
                    index, version = rng.choice(mine), version + 1
                    at = orders.numbers[index]
                    buffer[:] = encode_block(orders.node, at, version)
                    began_s = self._begin(f"write of block {at}")
                    os.pwritev(file, [buffer], at * BLOCK_BYTES)
                    self._known[index] = version
                    self._tell(index, version)
                    tally = self._tally
                    tally.writes += 1
                    tally.longest_write_ms = max(tally.longest_write_ms, self._done(began_s))
                os.close(file)

        return lambda: self._guarded(work)

    def _read(self) -> None:
        def work() -> None:
            orders = self._orders
            rng = random.Random(f"{orders.life} {orders.node} reads")
            with mmap.mmap(-1, BLOCK_BYTES) as buffer:
                file = os.open(orders.device, os.O_RDONLY | os.O_DIRECT)
                while not self._end.wait(orders.pause_ms / 1000):
                    self._read_one(file, buffer, rng.randrange(len(orders.numbers)))
                os.close(file)

        self._guarded(work)

    def _read_one(self, file: int, buffer: mmap.mmap, index: int) -> None:
        """A read that meets a write may be torn: then it is no sample, unless it stays so."""
        at, tally = self._orders.numbers[index], self._tally
        for _ in range(20):
            at_least = self._known[index]
            began_s = self._begin(f"read of block {at}")
            os.preadv(file, [buffer], at * BLOCK_BYTES)
            tally.longest_read_ms = max(tally.longest_read_ms, self._done(began_s))
            if not torn(buffer[:]):
                break
            tally.torn_reads += 1
        version = decode_block(buffer[:], index % self._nodes, at)
        if version < at_least:
            raise ContentError(f"block {at}: version {version:#x} after {at_least:#x} was known")
        tally.reads += 1

    def _begin(self, what: str) -> float:
        began_s = time.monotonic()
        self._busy[threading.current_thread().name] = (began_s, what)
        return began_s

    def _done(self, began_s: float) -> int:
        self._busy.pop(threading.current_thread().name, None)
        return int((time.monotonic() - began_s) * 1000)

    def _guarded(self, work: Callable[[], None]) -> None:
        name = threading.current_thread().name
        try:
            work()
        except ContentError as error:
            self._tally.problems.append(f"{name}: {error}"[:500])
        except OSError as error:
            self._tally.errors.append(f"{name}: {error}"[:500])
        finally:
            self._busy.pop(name, None)


if __name__ == "__main__":
    Clients(Orders(**json.loads(sys.argv[1]))).run()
