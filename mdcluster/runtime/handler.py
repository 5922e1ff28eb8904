"""Answers the requests of the control socket: looks, or proposes and tells what became of it.

A change carries the client's proposal id. The same id again is the same change, whatever was
lost in between: what it meant is kept, and what became of it stands in the commits.
"""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from mdcluster.control.arrays import MdstatData, Waited, Waiting
from mdcluster.control.history import HistoryData
from mdcluster.control.protocol import Request
from mdcluster.control.server import ReplySink
from mdcluster.control.status import LinkInfo, WhyData
from mdcluster.control.verbs import (
    Args,
    ArrayArgs,
    AssembleArgs,
    ChangeArgs,
    CreateArgs,
    EventsArgs,
    HistoryArgs,
    NoArgs,
    NodeArgs,
    Verb,
    parse_args,
)
from mdcluster.core.effects import Answer
from mdcluster.core.events import Asked, FenceAcked, Wondered
from mdcluster.core.model import AdoptArray, ArrayId, ArrayState, NodeId, Outcome
from mdcluster.core.view import NodeView
from mdcluster.errors import MdclusterError
from mdcluster.gate import boottime_ms
from mdcluster.md.driver import ArrayStatus, DriverError, MdDriver
from mdcluster.members.registry import Registry
from mdcluster.mesh.roster import LinkState, LinkStatus
from mdcluster.requests import RequestError, Requests, Wish, plan, views
from mdcluster.requests.differences import Names
from mdcluster.requests.names import find_array, find_node
from mdcluster.requests.speed import Speeds
from mdcluster.requests.waits import Waits
from mdcluster.runtime import asking, observe
from mdcluster.runtime.loop import Runtime

KEPT_MAX: Final = 256
"""Wishes of proposals that are remembered, for retries."""
PROGRESS_S: Final = 0.25
"""How often `wait` looks and tells."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the handler looks at beside the core.

    reload: '' or why the files were not taken. history: what happened after this number.
    """

    driver: MdDriver
    registry: Registry
    links: Callable[[], list[LinkStatus]]
    spectators: Callable[[], frozenset[str]]
    reload: Callable[[], str]
    history: Callable[[int], HistoryData]
    version: str = ""


class Handler:
    """For one daemon; `handle` is what :class:`mdcluster.control.server.ControlServer` calls."""

    def __init__(
        self,
        runtime: Runtime,
        view: Callable[[], NodeView],
        requests: Requests,
        around: Surroundings,
    ) -> None:
        self._runtime = runtime
        self._view = view
        self._requests = requests
        self._around = around
        self._speeds = Speeds()
        self._waits = Waits()
        self._kept: OrderedDict[str, tuple[Wish, ...]] = OrderedDict()
        self._going_on: set[asyncio.Task[Answer | None]] = set()
        self._changed = asyncio.Event()
        observe.observed.connect(self._observe)

    async def handle(self, request: Request, sink: ReplySink) -> None:
        """Give the request its replies. MdclusterError: refused, with that text."""
        verb, args = Verb(request.verb), parse_args(request)
        if request.dry_run:
            await self._foresee(verb, args, sink)
        elif isinstance(args, ArrayArgs):
            await self._about_array(verb, args, sink)
        elif isinstance(args, HistoryArgs):
            sink.done("", self._around.history(args.after))
        elif isinstance(args, NoArgs | EventsArgs):
            if verb is Verb.WHY:
                await self._around.registry.refresh()
            sink.done("", self._look(verb))
        else:
            assert isinstance(args, ChangeArgs)
            await self._asked(verb, args, sink)

    # --- looking ---------------------------------------------------------------------------

    def _look(self, verb: Verb) -> Any:
        view, here = self._view(), self._here()
        views.note_progress(view, self._speeds, here.now_ms)
        match verb:
            case Verb.STATUS:
                status = views.status(view, here, self._around.version)
                return status._replace(waiting=self._waiting(view))
            case Verb.ARRAYS:
                return views.arrays(view)
            case Verb.MDSTAT:
                return views.mdstat(view, here, self._speeds)
            case Verb.WHY:
                return self._why(view)
            case _:
                raise RequestError(f"{verb} cannot be asked of this daemon")

    def mdstat(self) -> MdstatData:
        """All arrays, without what only the driver knows (clean or active: /proc/mdstat has
        neither)."""
        view, registry = self._view(), self._around.registry
        here = views.Here(boottime_ms(), registry.paths, registry.numbers)
        views.note_progress(view, self._speeds, here.now_ms)
        return views.mdstat(view, here, self._speeds)

    def _waiting(self, view: NodeView) -> tuple[Waiting, ...]:
        return self._why(view).waiting

    def _why(self, view: NodeView) -> WhyData:
        """All that waits, and since when."""
        around = self._around
        claims, strangers = around.registry.claims, around.driver.strangers
        found = views.why(view, self._runtime.persist_problem, claims, strangers)
        return found._replace(waiting=self._waits.dated(found.waiting, boottime_ms()))

    async def _about_array(self, verb: Verb, args: ArrayArgs, sink: ReplySink) -> None:
        state = self._array(args.array)
        if verb is Verb.WAIT:
            await self._wait(state, sink)
            return
        view, here = self._view(), self._here()
        views.note_progress(view, self._speeds, here.now_ms)
        waiting = tuple(w for w in self._waiting(view) if w.subject == state.name)
        detail = views.detail(view, here, state, self._speeds)
        sink.done("", detail._replace(waiting=waiting))

    async def _wait(self, state: ArrayState, sink: ReplySink) -> None:
        """Until no pass is under way or due; one that does not run, or is still, has none."""
        waited = False
        while True:
            view = self._view()
            views.note_progress(view, self._speeds, boottime_ms())
            found = next((s for s in views.states_of(view) if s.uuid == state.uuid), None)
            sync = None
            if found is not None and found.running and not found.still:
                sync = views.sync_info(view, found, self._speeds)
            if sync is None:
                sink.done("", Waited(waited))
                return
            waited = True
            reasons = "; ".join(w.reason for w in views.waiting(view, state.uuid))
            sink.waiting(reasons, sync)
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), PROGRESS_S)

    def _array(self, name: str) -> ArrayState:
        return find_array(views.states_of(self._view()), name)

    def _observe(self, kind: str, facts: observe.Facts) -> None:
        """Something happened: who waits looks again; speeds are of what was seen."""
        view = self._view()
        self._waiting(view)
        if kind != "sync_moved":
            self._changed.set()
        else:
            views.note_progress(view, self._speeds, boottime_ms())

    def _here(self) -> views.Here:
        registry = self._around.registry
        return views.Here(
            now_ms=boottime_ms(),
            paths=registry.paths,
            numbers=registry.numbers,
            statuses=self._statuses(),
            links=self._links(),
            spectators=self._around.spectators(),
        )

    def _statuses(self) -> dict[ArrayId, ArrayStatus]:
        """Of an array that just now comes or goes there may be none."""
        found = {}
        for array in self._around.driver.arrays():
            with suppress(DriverError):
                found[array] = self._around.driver.status(array)
        return found

    def _links(self) -> Mapping[str, tuple[LinkInfo, ...]]:
        links: defaultdict[str, tuple[LinkInfo, ...]] = defaultdict(tuple)
        for link in self._around.links():
            up = link.state is LinkState.UP
            links[link.name] += (LinkInfo(link.local, link.remote, up),)
        return links

    # --- changing --------------------------------------------------------------------------

    async def _asked(self, verb: Verb, args: ChangeArgs, sink: ReplySink) -> None:
        """A change; who asks for it is told, and if it is refused."""
        facts = asking.facts(verb, args)
        if args.proposal not in self._kept:  # else it is asked again
            observe.tell("asked", facts)
        try:
            if verb is Verb.FENCE_ACK and isinstance(args, NodeArgs):
                self._fence_ack(args, sink)
            elif verb is Verb.RELOAD:
                self._reload(sink)
            else:
                await self._change(verb, args, args.proposal, sink)
        except MdclusterError as error:
            observe.tell("refused", {**facts, "why": str(error)})
            raise

    def _reload(self, sink: ReplySink) -> None:
        problem = self._around.reload()
        if problem:
            raise RequestError(f"not reloaded: {problem}")
        sink.done("read again")

    def _fence_ack(self, args: NodeArgs, sink: ReplySink) -> None:
        node, name = self._dead_node(args)
        self._runtime.feed(FenceAcked(node))
        sink.done(f"{name} is taken as dead")

    def _dead_node(self, args: NodeArgs) -> tuple[NodeId, str]:
        names = views.names_of(self._view())
        node = find_node(names, args.node)
        if node == self._runtime.me.node:
            raise RequestError("this is the node that answers; it is not dead")
        return node, names[node]

    async def _change(self, verb: Verb, args: Args, proposal: str, sink: ReplySink) -> None:
        settled = self._settled(proposal)
        if settled is not None and proposal not in self._kept:
            # Asked before this daemon started: it stands in a commit.
            if settled.refusal:
                raise RequestError(settled.refusal)
            sink.done("was done already", self._outcome(args))
            return
        if self._runtime.persist_problem and proposal not in self._kept:
            # Nothing this node is asked for could be told from it before it can write again.
            raise RequestError(
                f"{self._runtime.persist_problem}; nothing was changed: ask another node meanwhile"
            )
        retried = proposal in self._kept
        wishes = await self._meant(verb, args, proposal)
        if len(wishes) > 1 and not retried:
            await self._all_possible(proposal, wishes, sink)
        # A client that goes leaves nothing half done: what was begun goes on.
        each = asyncio.create_task(self._each(proposal, wishes, sink))
        self._going_on.add(each)
        each.add_done_callback(self._going_on.discard)
        answer = await asyncio.shield(each)
        if answer is not None and answer.state == "refused":
            raise RequestError(answer.text)
        sink.done(answer.text if answer is not None else "", self._outcome(args, wishes))

    async def _all_possible(self, proposal: str, wishes: tuple[Wish, ...], sink: ReplySink) -> None:
        """Or none is made: the first would stand alone if the last is refused."""
        changes = tuple(wish.change for wish in wishes)
        event = Wondered(f"before/{proposal}", changes, wishes[-1].force)
        answer = await self._ask(event, sink)
        if answer.state == "refused":
            self._kept.pop(proposal, None)
            raise RequestError(answer.text)

    async def _each(
        self, proposal: str, wishes: tuple[Wish, ...], sink: ReplySink
    ) -> Answer | None:
        """One after the other, until one is refused; the last answer."""
        answer: Answer | None = None
        for number, wish in enumerate(wishes):
            part = _part(proposal, len(wishes) - 1 - number)
            answer = await self._propose(part, wish, sink)
            if answer.state == "refused":
                break
        return answer

    def _settled(self, proposal: str) -> Outcome | None:
        recent = (outcome for entry in self._view().entries for outcome in entry.recent)
        return next((outcome for outcome in recent if outcome.proposal == proposal), None)

    async def _meant(self, verb: Verb, args: Args, proposal: str) -> tuple[Wish, ...]:
        """What the proposal means: as it did the first time, if this is a retry."""
        kept = self._kept.get(proposal)
        if kept is None:
            kept = self._kept[proposal] = await self._requests.wishes(verb, args)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        return kept

    async def _foresee(self, verb: Verb, args: Args, sink: ReplySink) -> None:
        """A dry run: the way of the change, up to where it would be proposed."""
        if not isinstance(args, ChangeArgs):
            raise RequestError(f"{verb} changes nothing: a dry run is of a change")
        wishes: tuple[Wish, ...] = ()
        if verb is Verb.FENCE_ACK and isinstance(args, NodeArgs):
            told = plan.taken_as_dead(self._dead_node(args)[1], self.names())
        elif verb is Verb.RELOAD:
            told = plan.read_again(self.names())
        elif wishes := await self._requests.wishes(verb, args):
            changes, force = tuple(wish.change for wish in wishes), wishes[-1].force
            answer = await self._ask(Wondered(f"dry-run/{uuid4()}", changes, force), sink)
            if answer.state == "refused" or answer.plan is None:
                sink.refused(answer.text)
                return
            told = plan.in_words(changes, answer.plan, self.names())
        else:
            told = plan.nothing(self.names())
        sink.done("nothing was changed", told)

    def names(self) -> Names:
        """How nodes and devices are called now."""
        view = self._view()
        nodes = views.names_of(view)
        writer = self._runtime.me.node if view.role == views.WRITER else view.writer
        return Names(
            writer=nodes.get(writer, "the writer") if writer is not None else "the writer",
            nodes=nodes,
            paths=self._around.registry.paths,
            voters=tuple(voter.name for voter in view.cluster.voters),
        )

    async def _propose(self, proposal: str, wish: Wish, sink: ReplySink) -> Answer:
        return await self._ask(Asked(proposal, wish.change, wish.force), sink)

    async def _ask(self, event: Asked | Wondered, sink: ReplySink) -> Answer:
        final: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def hear(answer: Answer) -> None:
            if final.done():
                return
            if answer.state == "waiting":
                sink.waiting(answer.text)
            else:
                final.set_result(answer)

        forget = self._runtime.ask(event, hear)
        try:
            return await final
        finally:
            forget()

    def _outcome(self, args: Args, wishes: tuple[Wish, ...] = ()) -> Any:
        """How far an array came that was created, adopted or assembled."""
        adopted = [w.change.array for w in wishes if isinstance(w.change, AdoptArray)]
        if adopted:
            name: str = adopted[0]
        elif isinstance(args, CreateArgs):
            name = args.name
        elif isinstance(args, AssembleArgs):
            name = args.array
        else:
            return None
        view = self._view()
        with suppress(RequestError):  # stopped again by somebody else, meanwhile
            return views.started(view, find_array(views.states_of(view), name))
        return None


def _part(proposal: str, number: int) -> str:
    """Ids of the changes of one request, counted from the last, which has the request's own:
    once that one is done, all are."""
    return f"{proposal}/{number}" if number else proposal
