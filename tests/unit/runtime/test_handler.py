"""Requests of several changes: what is asked of the core, and when it counts as done."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from mdcluster.control.protocol import Reply
from mdcluster.control.server import ReplySink
from mdcluster.control.verbs import GrowArgs, Verb, request_of
from mdcluster.core.effects import Answer
from mdcluster.core.events import Asked, Wondered
from mdcluster.core.model import AddMember, SetRaidDisks
from mdcluster.requests import RequestError, Requests
from mdcluster.runtime.handler import Handler, Surroundings
from mdcluster.runtime.loop import Runtime
from mdcluster.runtime.observe import Facts, observed
from tests.unit.members import kit as disks
from tests.unit.requests import kit


class Core:
    """Answers each proposal as it is told."""

    persist_problem = ""

    def __init__(self, *answers: str, possible: str = "done") -> None:
        self.asked: list[Asked] = []
        self.wondered: list[Wondered] = []
        self.slow: list[Callable[[], None]] = []
        self.slowed = asyncio.Event()
        self._answers = list(answers)
        self._possible = possible

    def ask(self, asked: Asked | Wondered, hear: Callable[[Answer], None]) -> Callable[[], None]:
        if isinstance(asked, Wondered):
            self.wondered.append(asked)
            state = self._possible
        else:
            self.asked.append(asked)
            state = self._answers.pop(0)
        answer = Answer(asked.proposal, state, "why" if state == "refused" else "")
        if state == "later":
            self.slow.append(lambda: hear(Answer(asked.proposal, "done", "")))
            self.slowed.set()
        else:
            hear(answer)
        return lambda: None


class Devices:
    paths = {disks.device(0): "/dev/a"}  # noqa: RUF012 - read only

    async def look(self, paths: Any) -> Any:
        return kit.looks(*paths)


def handler_of(core: Core) -> Handler:
    view = kit.view(kit.mirror())
    requests = Requests(cast(Any, Devices()), lambda: view)
    around = cast(Surroundings, None)
    return Handler(cast(Runtime, core), lambda: view, requests, around)


def grow_args(proposal: str = "p") -> GrowArgs:
    """Of a request that adds a device, and then a role for it."""
    return GrowArgs(proposal, "/dev/md/data", raid_disks=3, devices=("/dev/c",))


async def grow(core: Core, proposal: str = "p", times: int = 1) -> Reply:
    """The last reply to it."""
    handler = handler_of(core)
    replies: list[Reply] = []
    args = grow_args(proposal)
    for _ in range(times):
        await handler.handle(request_of(1, Verb.GROW, args), ReplySink(1, replies.append))
    return replies[-1]


async def test_a_request_is_done_when_its_last_change_is() -> None:
    """The last change has the request's own id: what is asked again is done only if that one is."""
    core = Core("done", "done")
    assert (await grow(core)).state == "done"
    assert [asked.proposal for asked in core.asked] == ["p/1", "p"]
    assert isinstance(core.asked[0].change, AddMember)
    assert core.asked[1].change == SetRaidDisks(kit.ARRAY, 3)


async def test_the_first_refusal_ends_it() -> None:
    core = Core("refused")
    with pytest.raises(RequestError, match="why"):
        await grow(core)
    assert [asked.proposal for asked in core.asked] == ["p/1"]


async def test_nothing_is_asked_for_if_not_all_of_it_is_possible() -> None:
    core = Core(possible="refused")
    with pytest.raises(RequestError, match="why"):
        await grow(core)
    assert not core.asked
    (wondered,) = core.wondered
    assert [type(change) for change in wondered.changes] == [AddMember, SetRaidDisks]


async def test_a_retry_is_not_wondered_about_again() -> None:
    """Its first part may be done by now, and so not possible any more."""
    core = Core("done", "done", "done", "done")
    await grow(core, times=2)
    assert len(core.wondered) == 1 and len(core.asked) == 4


async def test_what_was_begun_goes_on_without_the_client() -> None:
    core = Core("later", "done")
    handler = handler_of(core)
    sink = ReplySink(1, lambda reply: None)
    task = asyncio.create_task(handler.handle(request_of(1, Verb.GROW, grow_args()), sink))
    await core.slowed.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [asked.proposal for asked in core.asked] == ["p/1"]
    core.slow.pop()()
    await asyncio.gather(*handler._going_on)
    assert [asked.proposal for asked in core.asked] == ["p/1", "p"]


async def test_who_asks_is_told_once_and_that_it_was_refused() -> None:
    told: list[tuple[str, Facts]] = []

    def receive(kind: str, facts: Facts) -> None:
        told.append((kind, facts))

    observed.connect(receive)
    try:
        asked = {"change": "grow", "array": "data", "device": "/dev/c", "by": "root@host"}
        await grow(Core("done", "done"), "root@host/1")
        assert told == [("asked", asked)]
        told.clear()
        with pytest.raises(RequestError):
            await grow(Core("refused"), "root@host/2")
        assert told == [("asked", asked), ("refused", {**asked, "why": "why"})]
        told.clear()
        await grow(Core("done", "done", "done", "done"), "root@host/3", times=2)
        assert told == [("asked", asked)]
    finally:
        observed.disconnect(receive)
