"""Commits in words: what differs, who asked, and nothing where nothing differs."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from mdcluster.core.model import ArrayState, ClusterState, Entry, NodeId, Outcome, Stamp, Voter
from mdcluster.requests.differences import Names
from mdcluster.runtime import observe
from mdcluster.runtime.asking import BY_MAX
from mdcluster.runtime.changes import WHAT_MAX, Changes
from tests.unit.core.samples import mirror

NAMES = Names("a", {NodeId("na"): "a"}, {}, ("a",))
BOOTS = {"boot-a": "a", "boot-b": "b"}
STATE = mirror()
Told = list[tuple[str, observe.Facts]]


@pytest.fixture
def told() -> Iterator[Told]:
    found: Told = []

    def receive(kind: str, facts: observe.Facts) -> None:
        found.append((kind, facts))

    observe.observed.connect(receive)
    yield found
    observe.observed.disconnect(receive)


def entry(seq: int, state: ArrayState, *proposals: str) -> Entry:
    return Entry(state.uuid, Stamp(3, seq), state, tuple(map(Outcome, proposals)))


def changes(*known: Entry) -> Changes:
    return Changes(known, lambda: NAMES, lambda: BOOTS)


def test_what_differs_and_who_asked(told: Told) -> None:
    one = changes(entry(2, STATE, "old"))
    one.take(entry(4, replace(STATE, paused_s=9), "old", "root@host/1-2-3/1"))
    one.take(entry(6, replace(STATE, readonly=True), "boot-b:1:7", "boot-a/3/1", "none/1"))
    assert told == [
        (
            "changed",
            {
                "key": STATE.uuid,
                "term": 3,
                "seq": 4,
                "by": "root@host",
                "what": "paused: no -> yes",
            },
        ),
        (
            "changed",
            {
                "key": STATE.uuid,
                "term": 3,
                "seq": 6,
                "by": "b, a",
                "what": "writable: yes -> no; paused: yes -> no",
            },
        ),
    ]


def test_the_same_an_older_one_and_a_checkpoint_tell_nothing(told: Told) -> None:
    paused = replace(STATE, paused_s=9)
    one = changes(entry(4, paused))
    for late in (entry(4, paused), entry(2, STATE), entry(6, paused)):
        one.take(late)
    one.take(entry(8, replace(paused, resync_sectors=2048)))
    assert told == []


def test_the_first_word_of_an_array_tells_all_of_it_in_bounds(told: Told) -> None:
    one = changes()
    one.take(entry(2, STATE, *(f"{'x' * 60}@{n}/1" for n in range(9))))
    (_, facts) = told[0]
    what, by = str(facts["what"]), str(facts["by"])
    assert what.startswith(f"new array {STATE.name}: raid1") and len(what) <= WHAT_MAX
    assert len(by) == BY_MAX


def test_voters(told: Told) -> None:
    voters = (Voter("a", NodeId("na")), Voter("b", None))
    one = changes()
    one.take(Entry("cluster", Stamp(1, 2), ClusterState("u", "blue", voters)))
    assert told[0][1]["what"] == "voter a is a; voter b is unbound"
