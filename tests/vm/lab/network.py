"""The network between the guests: what was cut, what is late, what has passed.

>>> lab.network.isolate("node1")             # it hears nobody, nobody hears it
>>> lab.network.cut("node1", "node2")        # what node1 sends does not reach node2
>>> lab.network.heal()
"""

import socket
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from tests.vm.lab.errors import LabError
from tests.vm.lab.processes import start
from tests.vm.standalone.fabric import Count
from tests.vm.standalone.frames import Message, Reader, pack

SWITCH = Path(__file__).parents[1] / "standalone" / "switch.py"
ANSWER_LIMIT_S = 20.0


class Network:
    """Orders to the switch; each is in force when its method returns."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.RLock()
        self._ours, theirs = socket.socketpair()
        self._ours.settimeout(ANSWER_LIMIT_S)
        with theirs:
            command = [sys.executable, "-I", "-S", str(SWITCH), str(theirs.fileno())]
            self._log = folder / "switch.log"
            self._process = start(command, self._log, fds=[theirs.fileno()])
        self._cut_from: set[str] = set()
        self._cut_to: set[str] = set()
        self._cut_pairs: set[tuple[str, str]] = set()
        self._delays_s: dict[tuple[str, str], float] = {}

    def plug(self, port: str, ours: Path, guests: Path) -> None:
        """Make the port ready for a guest that is about to be switched on."""
        self._ask({"do": "plug", "port": port, "ours": str(ours), "guests": str(guests)})

    # --- cuts --------------------------------------------------------------------------------

    def isolate(self, node: str) -> None:
        """It hears nobody, nobody hears it."""
        self.mute(node)
        self.deafen(node)

    def mute(self, node: str) -> None:
        """Nobody hears it any more; it hears the others."""
        with self._lock:
            self._cut_from.add(node)
            self._send_rules()

    def deafen(self, node: str) -> None:
        """It hears nobody any more; the others hear it."""
        with self._lock:
            self._cut_to.add(node)
            self._send_rules()

    def cut(self, source: str, target: str, *, both_ways: bool = False) -> None:
        """What the source sends does not reach the target; the other way only if asked for."""
        with self._lock:
            self._cut_pairs |= _pairs(source, target, both_ways)
            self._send_rules()

    def split(self, *sides: Iterable[str]) -> None:
        """Guests of different sides do not hear each other."""
        groups = [tuple(side) for side in sides]
        with self._lock:
            for number, group in enumerate(groups):
                for other in groups[number + 1 :]:
                    for one in group:
                        for two in other:
                            self._cut_pairs |= _pairs(one, two, both_ways=True)
            self._send_rules()

    def delay(self, source: str, target: str, late_s: float, *, both_ways: bool = False) -> None:
        """What goes from one to the other comes later by this; 0 ends it."""
        with self._lock:
            for pair in _pairs(source, target, both_ways):
                self._delays_s[pair] = late_s
            self._send_rules()

    def heal(self) -> None:
        """No cut and no delay is left."""
        with self._lock:
            for rules in (self._cut_from, self._cut_to, self._cut_pairs, self._delays_s):
                rules.clear()
            self._send_rules()

    def _send_rules(self) -> None:
        late = [(*pair, late_s) for pair, late_s in self._delays_s.items()]
        self._ask(
            {
                "do": "rules",
                "cut_from": sorted(self._cut_from),
                "cut_to": sorted(self._cut_to),
                "cut_pairs": sorted(self._cut_pairs),
                "delays": late,
            }
        )

    # --- counts ------------------------------------------------------------------------------

    def counts(self) -> dict[tuple[str, str], Count]:
        """What went from one guest to another so far."""
        listed = self._ask({"do": "counts"})["counts"]
        return {(one, other): Count(**count) for one, other, count in listed}

    # --- the process -------------------------------------------------------------------------

    def _ask(self, message: Message) -> Message:
        reader = Reader()
        with self._lock:
            self._ours.sendall(pack(message))
            while data := self._ours.recv(1 << 16):
                for answer in reader.feed(data):
                    if "error" in answer:
                        raise LabError(f"switch: {message['do']}: {answer['error']}")
                    return answer
        raise LabError(f"the switch has ended: {self._log.read_text(errors='replace')}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """End the switch."""
        self._ours.close()
        self._process.kill()
        self._process.wait()


def _pairs(source: str, target: str, both_ways: bool) -> set[tuple[str, str]]:
    return {(source, target), (target, source)} if both_ways else {(source, target)}
