"""Where the switch between the guests sends a frame, and what a cut stops."""

from tests.vm.standalone.fabric import Count, Fabric

BROADCAST = b"\xff" * 6
NAMES = ("node1", "node2", "node3")


def address(name: str) -> bytes:
    return b"\x52\x54\x00\x00\x00" + name[-1].encode()


def frame(source: str, target: str | None, size: int = 60) -> bytes:
    """To one guest, or to all."""
    head = (address(target) if target else BROADCAST) + address(source) + b"\x08\x00"
    return head.ljust(size, b"\0")


def fabric_of_three(*, known: bool = True) -> Fabric:
    fabric = Fabric()
    for name in NAMES:
        fabric.add(name)
    if known:
        for name in NAMES:
            fabric.forward(name, frame(name, None))
        fabric.counts.clear()
    return fabric


def targets(fabric: Fabric, source: str, target: str | None) -> list[str]:
    return [name for name, _ in fabric.forward(source, frame(source, target))]


def test_a_frame_to_an_unknown_address_goes_everywhere_else() -> None:
    fabric = fabric_of_three(known=False)

    assert targets(fabric, "node1", "node2") == ["node2", "node3"]


def test_a_frame_to_a_known_address_goes_there_alone() -> None:
    fabric = fabric_of_three()

    assert targets(fabric, "node1", "node2") == ["node2"]
    assert targets(fabric, "node1", None) == ["node2", "node3"]
    assert targets(fabric, "node1", "node1") == []


def test_an_address_moves_with_its_guest() -> None:
    fabric = fabric_of_three()
    fabric.forward("node3", frame("node2", None))  # node2's address, now at the third port

    assert targets(fabric, "node1", "node2") == ["node3"]


def test_a_frame_too_short_for_addresses_is_dropped() -> None:
    assert fabric_of_three().forward("node1", b"\xff" * 13) == []


def test_cuts_stop_one_way() -> None:
    fabric = fabric_of_three()
    fabric.cut_pairs = {("node1", "node2")}
    assert targets(fabric, "node1", None) == ["node3"]
    assert targets(fabric, "node2", "node1") == ["node1"]

    fabric.cut_pairs, fabric.cut_from = set(), {"node1"}
    assert targets(fabric, "node1", None) == []
    assert targets(fabric, "node2", None) == ["node1", "node3"]

    fabric.cut_from, fabric.cut_to = set(), {"node1"}
    assert targets(fabric, "node1", None) == ["node2", "node3"]
    assert targets(fabric, "node2", None) == ["node3"]


def test_counts_are_kept_for_each_pair() -> None:
    fabric = fabric_of_three()
    fabric.forward("node1", frame("node1", "node2", size=100))
    fabric.cut_to = {"node2"}
    fabric.forward("node1", frame("node1", "node2"))

    assert fabric.counts == {("node1", "node2"): Count(frames=1, octets=100, dropped=1)}
    assert fabric.report() == [("node1", "node2", {"frames": 1, "octets": 100, "dropped": 1})]


def test_a_delay_is_told_for_its_pair_alone() -> None:
    fabric = fabric_of_three()
    fabric.delays_s = {("node1", "node2"): 0.5}

    assert fabric.forward("node1", frame("node1", None)) == [("node2", 0.5), ("node3", 0.0)]
