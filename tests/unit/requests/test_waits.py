"""Since when something waits."""

from mdcluster.control.arrays import Waiting
from mdcluster.requests.waits import Waits


def test_since_it_was_first_seen_without_a_break() -> None:
    waits = Waits()
    first = Waiting("data", "node2 has not answered for 300 ms", 0, "answer", ("node2",))
    later = first._replace(reason="node2 is still silent")
    other = Waiting("data", "node3 is to be fenced", 0, "fencing", ("node3",))

    assert waits.dated([first], 1000) == (first,)
    assert waits.dated([later, other], 1600) == (later._replace(since_ms=600), other)
    assert waits.dated([other], 2000) == (other._replace(since_ms=400),)
    assert waits.dated([first], 2500) == (first,), "it had ended meanwhile"


def test_what_is_known_from_elsewhere_stays() -> None:
    paused = Waiting("data", "paused", 5000)

    assert Waits().dated([paused], 100) == (paused,)
