"""Requests of several changes: what is asked of the core, and when it counts as done."""

from collections.abc import Callable
from typing import Any, cast

from mdcluster.control.protocol import Reply
from mdcluster.control.server import ReplySink
from mdcluster.control.verbs import GrowArgs, Verb, request_of
from mdcluster.core.effects import Answer
from mdcluster.core.events import Asked
from mdcluster.core.model import AddMember, SetRaidDisks
from mdcluster.requests import Requests
from mdcluster.runtime.handler import Handler, Surroundings
from mdcluster.runtime.loop import Runtime
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
        hear(Answer(asked.proposal, self._answers.pop(0), ""))
        return lambda: None


class Devices:
    paths = {disks.device(0): "/dev/a"}  # noqa: RUF012 - read only

    async def look(self, paths: Any) -> Any:
        return kit.looks(*paths)


async def grow(core: Core) -> Reply:
    """The last reply to a request that adds a device, and then a role for it."""
    view = kit.view(kit.mirror())
    requests = Requests(cast(Any, Devices()), lambda: view)
    around = cast(Surroundings, None)
    handler = Handler(cast(Runtime, core), lambda: view, requests, around)
    replies: list[Reply] = []
    args = GrowArgs("p", "data", raid_disks=3, devices=("/dev/c",))
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
    assert (await grow(core)).state == "refused"
    assert [asked.proposal for asked in core.asked] == ["p/1"]
