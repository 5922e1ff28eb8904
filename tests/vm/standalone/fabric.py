"""What an Ethernet switch decides: where a frame goes, when, and which cuts it meets. No I/O.

Run in a process of its own without site packages: it imports the standard library alone.

>>> fabric = Fabric()
>>> fabric.add("node1"), fabric.add("node2")
>>> fabric.cut_pairs.add(("node1", "node2"))
>>> fabric.forward("node1", frame)
[]
"""

from dataclasses import asdict, dataclass, field

HEADER_BYTES = 14
"""Target and source address, and the type: a shorter frame is dropped."""
ADDRESS_BYTES = 6
GROUP_BIT = 1
"""Of an address's first byte: a broadcast or a multicast, for everybody."""


@dataclass(slots=True)
class Count:
    """What passed a port, or a pair of them."""

    frames: int = 0
    octets: int = 0
    dropped: int = 0

    def add(self, frame: bytes) -> None:
        self.frames += 1
        self.octets += len(frame)


@dataclass(slots=True)
class Fabric:
    """The ports, what was cut, and where each address was last seen."""

    ports: set[str] = field(default_factory=set)
    cut_from: set[str] = field(default_factory=set)
    """Of these ports nothing comes in: others do not hear the guest."""
    cut_to: set[str] = field(default_factory=set)
    """To these ports nothing goes out: the guest does not hear others."""
    cut_pairs: set[tuple[str, str]] = field(default_factory=set)
    """Nothing goes from the first to the second."""
    delays_s: dict[tuple[str, str], float] = field(default_factory=dict)
    """From the first to the second later by this."""
    counts: dict[tuple[str, str], Count] = field(default_factory=dict)
    """Of each pair; dropped: what met a cut, or a full queue."""
    _seen_at: dict[bytes, str] = field(default_factory=dict)

    def add(self, port: str) -> None:
        """A port; its cuts stay when the guest there is started again."""
        self.ports.add(port)

    def forward(self, source: str, frame: bytes) -> list[tuple[str, float]]:
        """The ports where the frame goes out, and by how much later."""
        if len(frame) < HEADER_BYTES:
            return []
        self._seen_at[frame[ADDRESS_BYTES : 2 * ADDRESS_BYTES]] = source
        target = None if frame[0] & GROUP_BIT else self._seen_at.get(frame[:ADDRESS_BYTES])
        others = [target] if target is not None else sorted(self.ports)
        return [
            (other, self.delays_s.get((source, other), 0.0))
            for other in others
            if other != source and self._passes(source, other, frame)
        ]

    def _passes(self, source: str, target: str, frame: bytes) -> bool:
        count = self.count(source, target)
        pair = (source, target)
        if source in self.cut_from or target in self.cut_to or pair in self.cut_pairs:
            count.dropped += 1
            return False
        count.add(frame)
        return True

    def count(self, source: str, target: str) -> Count:
        return self.counts.setdefault((source, target), Count())

    def report(self) -> list[tuple[str, str, dict[str, int]]]:
        """All counts, as JSON can carry them."""
        return [(*pair, asdict(count)) for pair, count in sorted(self.counts.items())]
