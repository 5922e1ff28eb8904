"""The switch's process, with sockets in the place of guests."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.vm.test_fabric import frame
from tests.vm.lab.network import Network

LIMIT_S = 5.0


class Card:
    """A guest's network card."""

    def __init__(self, network: Network, folder: Path, name: str) -> None:
        self.name = name
        self._ours, self._switchs = folder / f"{name}.guest", folder / f"{name}.switch"
        network.plug(name, ours=self._switchs, guests=self._ours)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._ours))
        self._socket.settimeout(LIMIT_S)

    def send(self, target: str | None, size: int = 60) -> None:
        self._socket.sendto(frame(self.name, target, size), str(self._switchs))

    def receive(self) -> bytes:
        return self._socket.recv(1 << 16)

    def hears_nothing(self) -> bool:
        self._socket.settimeout(0.1)
        try:
            self._socket.recv(1 << 16)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(LIMIT_S)
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    network = Network(tmp_path)
    yield network
    network.close()


@pytest.fixture
def cards(network: Network, tmp_path: Path) -> Iterator[dict[str, Card]]:
    """Three of them, whose addresses the switch knows."""
    cards = {name: Card(network, tmp_path, name) for name in ("node1", "node2", "node3")}
    for card in cards.values():
        card.send(None)
        for other in cards.values():
            if other is not card:
                assert other.receive() == frame(card.name, None)
    yield cards
    for card in cards.values():
        card.close()


def test_frames_arrive_and_are_counted(network: Network, cards: dict[str, Card]) -> None:
    before = network.counts()["node1", "node2"]
    cards["node1"].send("node2", size=1500)

    assert cards["node2"].receive() == frame("node1", "node2", 1500)
    after = network.counts()["node1", "node2"]
    assert (after.frames - before.frames, after.octets - before.octets) == (1, 1500)
    assert cards["node3"].hears_nothing()


def test_cuts_and_delays_and_their_end(network: Network, cards: dict[str, Card]) -> None:
    network.cut("node1", "node2")
    cards["node1"].send(None)
    assert cards["node3"].receive()
    assert cards["node2"].hears_nothing()

    network.split(["node1"], ["node2", "node3"])
    cards["node2"].send(None)
    assert cards["node3"].receive()
    assert cards["node1"].hears_nothing()

    network.heal()
    network.delay("node1", "node2", 0.2)
    began_s = time.monotonic()
    cards["node1"].send("node2")
    assert cards["node2"].receive()
    assert time.monotonic() - began_s >= 0.2


def test_a_guest_that_takes_nothing_gets_a_queue_and_the_rest_is_dropped(
    network: Network, cards: dict[str, Card]
) -> None:
    for _ in range(700):
        cards["node1"].send("node2")
    cards["node3"].send("node1")
    assert cards["node1"].receive(), "others are served meanwhile"

    dropped = network.counts()["node1", "node2"].dropped
    assert 0 < dropped < 200
    for _ in range(700 - dropped):
        assert cards["node2"].receive() == frame("node1", "node2")
    assert cards["node2"].hears_nothing()


def test_a_guest_that_was_started_again_is_reached(
    network: Network, cards: dict[str, Card], tmp_path: Path
) -> None:
    cards["node2"].close()
    cards["node1"].send("node2")
    cards["node2"] = Card(network, tmp_path, "node2")

    cards["node1"].send("node2")

    assert cards["node2"].receive() == frame("node1", "node2")
