"""The lane: persist before send, urgent at once, in order, bounded."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from mdcluster.core.effects import (
    Effect,
    Notify,
    OpenGate,
    PersistEntry,
    PersistPromise,
    Send,
    SetTimer,
    ShutGate,
)
from mdcluster.core.messages import Query
from mdcluster.core.model import NodeId, Promise
from mdcluster.runtime.lane import Lane, LaneFullError
from mdcluster.runtime.store import PromiseRecord, Record, StartRecord, StoreError

ME, PEER = NodeId("me"), NodeId("peer")
LIMIT_S = 10


class Journal:
    """Stores when it is let; refuses when it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[Record]] = []
        self.let = threading.Semaphore(0)
        self.failures: list[Exception] = []
        self.begun = threading.Event()

    def append(self, records: list[Record]) -> None:
        self.begun.set()
        if self.failures:
            raise self.failures.pop(0)
        assert self.let.acquire(timeout=LIMIT_S)
        self.batches.append(list(records))


class Owner:
    """Notes what the lane carries out, and wakes who waits for it."""

    def __init__(self) -> None:
        self.out: list[object] = []
        self.changed = asyncio.Event()
        self.on_effect: Callable[[Effect], None] = lambda effect: None

    def _note(self, what: object) -> None:
        self.out.append(what)
        self.changed.set()

    def carry_out(self, effect: Effect) -> None:
        self._note(effect)
        self.on_effect(effect)

    def persisted(self, effect: PersistPromise | PersistEntry) -> None:
        self._note("durable")

    def persist_failed(self, why: str) -> None:
        self._note(f"failed: {why}")

    def persist_recovered(self) -> None:
        self._note("recovered")

    def broken(self, error: BaseException) -> None:
        self._note(error)

    async def until(self, count: int) -> list[object]:
        async with asyncio.timeout(LIMIT_S):
            while len(self.out) < count:
                self.changed.clear()
                await self.changed.wait()
        return self.out


class Rig:
    def __init__(self, lane_max: int = 100) -> None:
        self.journal = Journal()
        self.owner = Owner()
        self.lane = Lane(
            ME, self.owner, self.journal, retry_min_s=0.001, retry_max_s=0.01, lane_max=lane_max
        )


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    made.lane.start()
    yield made
    made.journal.let.release(1000)
    await made.lane.close()


def persist(term: int) -> PersistPromise:
    return PersistPromise(Promise(term, None))


def send(term: int, to: NodeId = PEER, *, urgent: bool = False) -> Send:
    return Send(to, Query(term), urgent)


async def test_without_a_persist_all_goes_out_at_once(rig: Rig) -> None:
    effects: list[Effect] = [send(1), SetTimer(5), send(2, ME)]
    rig.lane.take(effects)
    assert rig.owner.out == [SetTimer(5), send(1), send(2, ME)]


async def test_a_send_waits_until_what_stands_before_it_is_durable(rig: Rig) -> None:
    rig.lane.take([persist(1), send(1)])
    assert rig.owner.out == []
    rig.journal.let.release()
    assert await rig.owner.until(2) == ["durable", send(1)]
    assert rig.journal.batches == [[PromiseRecord(Promise(1, None))]]


async def test_urgent_sends_timer_gate_and_observations_pass_a_persist(rig: Rig) -> None:
    at_once: list[Effect] = [
        send(9, urgent=True),
        SetTimer(7),
        OpenGate(1, 5),
        ShutGate(),
        Notify("waiting", ()),
    ]
    rig.lane.take([persist(1), send(1), *at_once])
    assert rig.owner.out == at_once


async def test_what_waits_goes_into_one_sync_and_keeps_its_order(rig: Rig) -> None:
    rig.lane.take([persist(1), send(1)])
    await asyncio.to_thread(rig.journal.begun.wait, LIMIT_S)
    rig.lane.take([persist(2), send(2), persist(3), send(3, ME)])
    rig.journal.let.release(2)
    out = await rig.owner.until(6)
    assert out == ["durable", send(1), "durable", send(2), "durable", send(3, ME)]
    assert [len(batch) for batch in rig.journal.batches] == [1, 2]


async def test_effects_of_an_effect_stand_behind_what_waits(rig: Rig) -> None:
    def again(effect: Effect) -> None:
        if effect == send(1, ME):
            rig.lane.take([send(3)])

    rig.owner.on_effect = again
    rig.lane.take([send(1, ME), send(2)])
    assert rig.owner.out == [send(1, ME), send(2), send(3)]


async def test_a_refusal_is_told_once_and_tried_again(rig: Rig) -> None:
    rig.journal.failures = [StoreError("full"), StoreError("full"), StoreError("full")]
    rig.journal.let.release()
    rig.lane.take([persist(1), send(1)])
    out = await rig.owner.until(4)
    assert out == ["failed: full", "durable", send(1), "recovered"]


async def test_a_bug_in_the_journal_ends_the_lane(rig: Rig) -> None:
    bug = AssertionError("asked to forget")
    rig.journal.failures = [bug]
    rig.lane.take([persist(1), send(1)])
    assert await rig.owner.until(1) == [bug]
    rig.lane.take([send(2)])
    assert rig.owner.out == [bug]


async def test_records_of_the_shell_take_their_turn(rig: Rig) -> None:
    rig.lane.remember(StartRecord(1, 500))
    rig.lane.take([send(1)])
    assert rig.owner.out == []
    rig.journal.let.release()
    assert await rig.owner.until(1) == [send(1)]


async def test_a_full_lane_drops_messages_to_peers_first() -> None:
    rig = Rig(lane_max=4)
    rig.lane.start()
    rig.lane.take([persist(1), send(1), send(2), send(1, ME), send(3)])
    assert (rig.lane.depth, rig.lane.dropped) == (2, 3)
    rig.journal.let.release()
    assert await rig.owner.until(2) == ["durable", send(1, ME)]
    await rig.lane.close()


async def test_a_lane_full_of_what_must_not_be_dropped_ends_the_node() -> None:
    rig = Rig(lane_max=3)
    rig.lane.start()
    rig.lane.take([persist(1), *(send(n, ME) for n in range(4))])
    (error,) = rig.owner.out
    assert isinstance(error, LaneFullError)
    rig.journal.let.release()
    await rig.lane.close()


async def test_close_does_not_wait_for_a_journal_that_refuses(rig: Rig) -> None:
    rig.journal.failures = [StoreError("full")] * 10_000
    rig.lane.take([persist(1)])
    await rig.owner.until(1)
    async with asyncio.timeout(LIMIT_S):
        await rig.lane.close()
