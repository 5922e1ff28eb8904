"""Deadlines, one access a device at a time, and threads that do not return."""

import asyncio
import gc
import threading

import pytest

from mdcluster.workers import AccessLateError, Workers


async def test_results_and_errors_come_back() -> None:
    workers = Workers()
    assert await workers.run("a", 1000, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await workers.run("a", 1000, lambda: 1 // 0)
    assert workers.outstanding == 0


async def test_one_at_a_time_on_a_device_and_others_at_once() -> None:
    workers, inside, go = Workers(), threading.Semaphore(0), threading.Event()
    seen: list[str] = []

    def enter(name: str) -> None:
        seen.append(name)
        inside.release()
        go.wait(10)

    tasks = [
        asyncio.create_task(workers.run(key, 10_000, lambda name=name: enter(name)))  # type: ignore[misc]
        for key, name in (("a", "a1"), ("a", "a2"), ("b", "b1"))
    ]
    await asyncio.to_thread(inside.acquire)
    await asyncio.to_thread(inside.acquire)
    assert sorted(seen) == ["a1", "b1"] and workers.outstanding == 2
    go.set()
    await asyncio.gather(*tasks)
    assert sorted(seen) == ["a1", "a2", "b1"] and workers.outstanding == 0


async def test_a_late_access_keeps_its_device_until_it_returns() -> None:
    workers, go = Workers(), threading.Event()
    with pytest.raises(AccessLateError, match="no answer within 20 ms"):
        await workers.run("a", 20, lambda: go.wait(10))
    assert workers.is_late("a")
    with pytest.raises(AccessLateError, match="has missed its deadline"):
        await workers.run("a", 10_000, lambda: None)
    assert await workers.run("b", 1000, lambda: 1) == 1
    go.set()
    await workers.idle()
    assert await workers.run("a", 1000, lambda: 2) == 2


async def test_waiting_for_a_turn_has_the_same_deadline() -> None:
    workers, go = Workers(), threading.Event()
    first = asyncio.create_task(workers.run("a", 10_000, lambda: go.wait(10)))
    await asyncio.sleep(0)
    with pytest.raises(AccessLateError):
        await workers.run("a", 20, lambda: None)
    go.set()
    assert await first
    assert await workers.run("a", 1000, lambda: 3) == 3


async def test_lost_threads_are_bounded() -> None:
    workers, go = Workers(threads_max=2), threading.Event()
    for key in "ab":
        with pytest.raises(AccessLateError):
            await workers.run(key, 10, lambda: go.wait(10))
    with pytest.raises(AccessLateError, match="2 accesses to devices do not return"):
        await workers.run("c", 1000, lambda: None)
    go.set()
    await workers.idle()
    assert await workers.run("c", 1000, lambda: 4) == 4


async def test_threads_that_came_back_are_used_again_and_end_with_their_owner() -> None:
    workers = Workers()
    first = await workers.run("a", 1000, threading.current_thread)
    assert await workers.run("b", 1000, threading.current_thread) is first
    del workers
    gc.collect()
    await asyncio.to_thread(first.join, 10)
    assert not first.is_alive()
