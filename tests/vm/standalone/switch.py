"""The process of the Ethernet switch between the guests: one unix datagram socket a port.

Run as `python -I -S switch.py FD`, where FD is a stream socket to the lab, for its orders; the
process ends when that does. It is a process of its own so that a test that computes does not
delay the cluster's messages.
"""

import heapq
import itertools
import os
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.vm.standalone.fabric import Fabric
from tests.vm.standalone.frames import Message, Reader, pack

FRAME_MAX_BYTES = 1 << 16
QUEUE_MAX = 512
"""Frames that wait for a guest which does not take them; the next is dropped."""
BATCH = 64


class Port:
    """One guest's end: what it sends, what waits to be taken by it."""

    def __init__(self, name: str, ours: str, guests: str) -> None:
        self.name = name
        self._guests = guests
        self._connected = False
        self.queue: deque[bytes] = deque()
        Path(ours).unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(ours)

    def receive(self) -> bytes | None:
        """A frame that the guest sent."""
        try:
            return self.socket.recv(FRAME_MAX_BYTES)
        except OSError:
            return None

    def send(self, frame: bytes) -> bool:
        """Hand it over or keep it; whether it was not dropped."""
        if len(self.queue) >= QUEUE_MAX:
            return False
        self.queue.append(frame)
        return self.flush()

    def flush(self) -> bool:
        """Hand over what waits, as far as the guest takes it; False: the guest is not there."""
        try:
            if not self._connected:
                self.socket.connect(self._guests)
                self._connected = True
            while self.queue:
                self.socket.send(self.queue[0])
                self.queue.popleft()
        except BlockingIOError:
            return True
        except OSError:
            self.queue.clear()
            return False
        return True


class Switch:
    """Forwards frames, carries out orders."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._reader = Reader()
        self._fabric = Fabric()
        self._ports: dict[str, Port] = {}
        self._later: list[tuple[float, int, str, str, bytes]] = []
        self._serial = itertools.count()
        self._ended = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(orders, selectors.EVENT_READ, self._take_orders)

    def serve(self) -> None:
        while not self._ended:
            for key, events in self._selector.select(self._wait_s()):
                act: Callable[[int], None] = key.data
                act(events)
            self._hand_over_due()

    def _wait_s(self) -> float | None:
        return max(0.0, self._later[0][0] - time.monotonic()) if self._later else None

    # --- frames ------------------------------------------------------------------------------

    def _serve_port(self, port: Port, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            port.flush()
            self._watch(port)
        for _ in range(BATCH if events & selectors.EVENT_READ else 0):
            frame = port.receive()
            if frame is None:
                break
            for target, delay_s in self._fabric.forward(port.name, frame):
                self._hand_over(port.name, target, frame, delay_s)

    def _hand_over(self, source: str, target: str, frame: bytes, delay_s: float) -> None:
        if delay_s:
            entry = (time.monotonic() + delay_s, next(self._serial), source, target, frame)
            heapq.heappush(self._later, entry)
            return
        port = self._ports[target]
        if not port.send(frame):
            self._fabric.count(source, target).dropped += 1
        self._watch(port)

    def _hand_over_due(self) -> None:
        while self._later and self._later[0][0] <= time.monotonic():
            _, _, source, target, frame = heapq.heappop(self._later)
            self._hand_over(source, target, frame, 0.0)

    def _watch(self, port: Port) -> None:
        """Wake up when the guest takes more only while something waits for it."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if port.queue else 0)
        key = self._selector.get_key(port.socket)
        if key.events != events:
            self._selector.modify(port.socket, events, key.data)

    # --- orders ------------------------------------------------------------------------------

    def _take_orders(self, _events: int) -> None:
        data = self._orders.recv(1 << 16)
        self._ended = not data
        for message in self._reader.feed(data):
            try:
                answer = self._obey(message)
            except (OSError, KeyError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            self._orders.sendall(pack(answer))

    def _obey(self, message: Message) -> Message:
        fabric = self._fabric
        match message["do"]:
            case "plug":
                self._plug(message["port"], message["ours"], message["guests"])
            case "rules":
                fabric.cut_from = set(message["cut_from"])
                fabric.cut_to = set(message["cut_to"])
                fabric.cut_pairs = {(one, other) for one, other in message["cut_pairs"]}
                fabric.delays_s = {(one, other): late for one, other, late in message["delays"]}
            case "counts":
                return {"counts": fabric.report()}
        return {}

    def _plug(self, name: str, ours: str, guests: str) -> None:
        """A guest is about to be switched on: its old connection is of no use."""
        old = self._ports.pop(name, None)
        if old is not None:
            self._selector.unregister(old.socket)
            old.socket.close()
        with suppress(FileNotFoundError):
            os.unlink(guests)
        port = self._ports[name] = Port(name, ours, guests)
        self._fabric.add(name)
        self._selector.register(
            port.socket, selectors.EVENT_READ, lambda events: self._serve_port(port, events)
        )


if __name__ == "__main__":
    Switch(socket.socket(fileno=int(sys.argv[1]))).serve()
