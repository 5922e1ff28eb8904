"""Requests of several changes: what is asked of the core, and when it counts as done."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from mdcluster.control.protocol import Reply
from mdcluster.control.server import ReplySink
from mdcluster.control.verbs import GrowArgs, Verb, request_of
from mdcluster.core.effects import Answer
from mdcluster.core.events import Asked
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

    def __init__(self, *answers: str) -> None:
        self.asked: list[Asked] = []
        self._answers = list(answers)

    def ask(self, asked: Asked, hear: Callable[[Answer], None]) -> Callable[[], None]:
        self.asked.append(asked)
        state = self._answers.pop(0)
        hear(Answer(asked.proposal, state, "why" if state == "refused" else ""))
        return lambda: None


class Devices:
    paths = {disks.device(0): "/dev/a"}  # noqa: RUF012 - read only

    async def look(self, paths: Any) -> Any:
        return kit.looks(*paths)


async def grow(core: Core, proposal: str = "p", times: int = 1) -> Reply:
    """The last reply to a request that adds a device, and then a role for it."""
    view = kit.view(kit.mirror())
    requests = Requests(cast(Any, Devices()), lambda: view)
    around = cast(Surroundings, None)
    handler = Handler(cast(Runtime, core), lambda: view, requests, around)
    replies: list[Reply] = []
    args = GrowArgs(proposal, "/dev/md/data", raid_disks=3, devices=("/dev/c",))
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
