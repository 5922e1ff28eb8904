"""The runtime around a core that is told what to answer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mdcluster.core.effects import (
    Answer,
    Effect,
    HoldAll,
    Notify,
    OpenGate,
    PersistEntry,
    PersistPromise,
    Send,
    SetTimer,
    Stopped,
)
from mdcluster.core.events import (
    Asked,
    Event,
    PeerDown,
    PeerUp,
    PersistFailed,
    PersistRecovered,
    Received,
    ShutdownAsked,
    Tick,
)
from mdcluster.core.messages import Beat, Query
from mdcluster.core.model import (
    CLUSTER_KEY,
    ZERO,
    ClusterState,
    Entry,
    Life,
    NodeId,
    Promise,
    RemoveVoter,
    Stamp,
)
from mdcluster.gate import Gate, GateShutError
from mdcluster.runtime import observe
from mdcluster.runtime.loop import CODEC, Runtime
from mdcluster.runtime.store import Record, Store, StoreError

ME = Life(NodeId("me"), "boot")
PEER = Life(NodeId("peer"), "its boot")
LIMIT_S = 10


class FakeCore:
    """Answers each event as `on` says; notes all."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.times_ms: list[int] = []
        self.first: list[Effect] = []
        self.on: Callable[[Event], list[Effect]] = lambda event: []
        self.changed = asyncio.Event()
        self._inside = False

    def start(self) -> list[Effect]:
        assert self.events == [], "a step before the start"
        return self.first

    def step(self, event: Event, now_ms: int) -> list[Effect]:
        assert not self._inside, "a step within a step"
        self._inside = True
        self.events.append(event)
        self.times_ms.append(now_ms)
        self.changed.set()
        try:
            return self.on(event)
        finally:
            self._inside = False

    async def until(self, event: Event) -> None:
        async with asyncio.timeout(LIMIT_S):
            while event not in self.events:
                self.changed.clear()
                await self.changed.wait()


class FakeMesh:
    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.refused: list[tuple[str, str]] = []

    def send(self, node: str, payload: bytes) -> bool:
        self.sent.append((node, payload))
        return True

    def refuse_payload(self, node: str, why: str) -> None:
        self.refused.append((node, why))


class FakeExecutor:
    def __init__(self) -> None:
        self.started: list[Effect] = []
        self.closed = False

    def start(self, effect: Effect) -> None:
        self.started.append(effect)

    async def close(self) -> None:
        self.closed = True


class Rig:
    def __init__(self, path: Path) -> None:
        self.core = FakeCore()
        self.gate = Gate()
        self.store = Store.open(path, fresh=True)
        self.mesh = FakeMesh()
        self.executor = FakeExecutor()
        self.runtime = Runtime(ME, self.core, self.gate, self.store, retry_min_ms=1)
        self.runtime.attach(self.mesh, self.executor)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    yield made
    await made.runtime.close()
    made.store.close()


async def test_messages_of_peers_reach_the_core_decoded(rig: Rig) -> None:
    rig.runtime.start()
    rig.runtime.peer_up("peer", "its boot", "b", 7)
    rig.runtime.message("peer", CODEC.encode(Query(3)))
    rig.runtime.peer_down("peer")
    assert rig.core.events == [PeerUp(PEER, "b", 7), Received(PEER, Query(3)), PeerDown(PEER.node)]


async def test_what_comes_before_the_start_waits_for_it(rig: Rig) -> None:
    """A core that was not started yet would not withhold its vote."""
    rig.runtime.peer_up("peer", "its boot", "b", 7)
    rig.runtime.message("peer", CODEC.encode(Query(3)))
    assert rig.core.events == []
    rig.runtime.start()
    assert rig.core.events == [PeerUp(PEER, "b", 7), Received(PEER, Query(3))]


async def test_what_the_codec_refuses_is_counted_and_goes_no_further(rig: Rig) -> None:
    rig.runtime.start()
    rig.runtime.peer_up("peer", "its boot", "b", 7)
    rig.core.events.clear()
    for payload in (b"", b"\xc1", b"\x92\xa5Query\xa1x", b"\x92\xa7Unknown\x01", b"\xff" * 5000):
        rig.runtime.message("peer", payload)
    assert rig.core.events == []
    assert len(rig.mesh.refused) == 5
    assert "Query.term" in rig.mesh.refused[2][1]


async def test_messages_of_nobody_are_dropped(rig: Rig) -> None:
    rig.runtime.start()
    rig.runtime.message("peer", CODEC.encode(Query(3)))
    assert rig.core.events == []


async def test_one_beat_to_all_peers_is_encoded_once(rig: Rig) -> None:
    beat = Beat(1, 2, 3, ())
    rig.core.first = [Send(NodeId(n), beat, True) for n in ("b", "c")]
    rig.runtime.start()
    assert [node for node, _ in rig.mesh.sent] == ["b", "c"]
    assert rig.mesh.sent[0][1] is rig.mesh.sent[1][1]


async def test_a_vote_leaves_only_when_the_promise_is_on_disk(rig: Rig) -> None:
    promise = Promise(4, PEER.node)
    terms_on_disk: list[int] = []

    def send(node: str, payload: bytes) -> bool:
        terms_on_disk.append(rig.store.memory.promise.term)
        rig.runtime.feed(ShutdownAsked())
        return True

    rig.mesh.send = send  # type: ignore[method-assign]
    rig.core.first = [PersistPromise(promise), Send(PEER.node, Query(4))]
    rig.runtime.start()
    await rig.core.until(ShutdownAsked())
    assert terms_on_disk == [4]


async def test_a_message_to_oneself_comes_back_in_its_turn(rig: Rig) -> None:
    rig.core.first = [PersistPromise(Promise(1, None)), Send(ME.node, Query(1))]
    rig.runtime.start()
    assert rig.core.events == []
    await rig.core.until(Received(ME, Query(1)))


async def test_an_event_during_a_step_waits_for_its_end(rig: Rig) -> None:
    rig.runtime.start()

    def on(event: Event) -> list[Effect]:
        if isinstance(event, ShutdownAsked):
            rig.runtime.feed(PeerDown(PEER.node))
            return [Send(ME.node, Query(1))]
        return []

    rig.core.on = on
    rig.runtime.feed(ShutdownAsked())
    assert rig.core.events == [ShutdownAsked(), PeerDown(PEER.node), Received(ME, Query(1))]


async def test_the_timer_ticks_at_its_time_and_not_before(rig: Rig) -> None:
    now_ms = rig.runtime._clock_ms()
    rig.core.first = [SetTimer(now_ms + 1000), SetTimer(now_ms + 20)]
    rig.runtime.start()
    await rig.core.until(Tick())
    assert rig.core.times_ms[0] >= now_ms + 20


async def test_a_later_timer_replaces_an_earlier_one(rig: Rig) -> None:
    now_ms = rig.runtime._clock_ms()
    rig.core.first = [SetTimer(now_ms + 5), SetTimer(now_ms + 40)]
    rig.runtime.start()
    await rig.core.until(Tick())
    assert rig.core.times_ms[0] >= now_ms + 40


async def test_the_first_step_after_a_freeze_tells_of_it_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    now_ms = [1000]
    core = rig.core
    runtime = Runtime(ME, core, rig.gate, rig.store, stalled_ms=400, clock_ms=lambda: now_ms[0])
    told: list[observe.Facts] = []

    def note(kind: str, facts: observe.Facts) -> None:
        told.append(facts)

    core.first = [SetTimer(61_000)]
    runtime.start()
    with observe.observed.connected_to(note, sender="stalled"):
        runtime.feed(ShutdownAsked())
        assert told == []
        now_ms[0] = 64_000  # a message is handled before the timer that is due
        runtime.feed(ShutdownAsked())
        runtime.feed(ShutdownAsked())
    assert [facts["late_ms"] for facts in told] == [3000]
    await runtime.close()
    rig.store.close()


async def test_a_fault_of_the_core_shuts_the_gate_and_ends_the_node(rig: Rig) -> None:
    rig.core.first = [OpenGate(1, rig.runtime._clock_ms() + 60_000)]
    rig.runtime.start()
    assert rig.gate.is_open

    def on(event: Event) -> list[Effect]:
        raise AssertionError("two writers")

    rig.core.on = on
    rig.runtime.feed(ShutdownAsked())
    assert rig.runtime.ended.is_set()
    assert rig.gate.term == 1
    with pytest.raises(GateShutError):
        rig.gate.check()
    assert "two writers" in str(rig.runtime.fault)
    rig.core.on = lambda event: []
    rig.runtime.feed(PeerDown(PEER.node))
    assert rig.core.events == [ShutdownAsked()]


async def test_a_gate_asked_to_go_back_ends_the_node(rig: Rig) -> None:
    far_ms = rig.runtime._clock_ms() + 60_000
    rig.core.first = [OpenGate(5, far_ms), OpenGate(4, far_ms)]
    rig.runtime.start()
    assert not rig.gate.is_open
    assert "term 4 is over" in str(rig.runtime.fault)


async def test_answers_reach_who_asked_until_they_lose_interest(rig: Rig) -> None:
    asked = Asked("p1", RemoveVoter("b"))
    rig.core.on = lambda event: [Answer("p1", "waiting", "a quorum"), Answer("p2", "done", "")]
    rig.runtime.start()
    answers: list[Answer] = []
    forget = rig.runtime.ask(asked, answers.append)
    assert answers == [Answer("p1", "waiting", "a quorum")]
    forget()
    rig.runtime.feed(asked)
    assert len(answers) == 1


async def test_the_end_and_what_takes_time(rig: Rig) -> None:
    rig.core.first = [HoldAll(True), Stopped()]
    rig.runtime.start()
    assert rig.executor.started == [HoldAll(True)]
    assert rig.runtime.stopped_in_order
    assert rig.runtime.ended.is_set()
    await rig.runtime.close()
    assert rig.executor.closed


async def test_a_state_directory_that_refuses_is_told_to_the_core(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = iter([StoreError("full")])
    append = rig.store.append

    def refusing(records: list[Record]) -> None:
        for refusal in refusals:
            raise refusal
        append(records)

    monkeypatch.setattr(rig.store, "append", refusing)
    rig.core.first = [PersistPromise(Promise(1, None))]
    rig.runtime.start()
    await rig.core.until(PersistRecovered())
    assert rig.core.events == [PersistFailed("full"), PersistRecovered()]
    assert rig.store.memory.promise.term == 1


async def test_the_birth_of_the_cluster_is_news_once_it_is_durable(rig: Rig) -> None:
    births: list[bool] = []
    rig.runtime.on_formed = lambda: births.append(True)
    entry = Entry(CLUSTER_KEY, Stamp(1, 2), ClusterState("u", "demo", ()))
    newer = Entry(CLUSTER_KEY, Stamp(1, 4), ClusterState("u", "demo", ()))
    effects: list[Effect] = [PersistEntry(entry, ZERO), PersistEntry(newer, ZERO)]
    rig.core.first = [*effects, Send(ME.node, Query(1))]
    rig.runtime.start()
    await rig.core.until(Received(ME, Query(1)))
    assert births == [True]


async def test_a_faulty_observer_harms_nobody(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[str, observe.Facts]] = []

    def bad(kind: str, facts: observe.Facts) -> None:
        raise ValueError("boom")

    def good(kind: str, facts: observe.Facts) -> None:
        seen.append((kind, facts))

    with observe.observed.connected_to(bad), observe.observed.connected_to(good):
        rig.core.first = [Notify("writer_changed", (("node", "b"), ("term", 3)))]
        rig.runtime.start()
    assert seen == [("writer_changed", {"node": "b", "term": 3})]
    assert "boom" in caplog.text
    assert rig.runtime.fault is None
