"""Dry runs at the writer: what changes would do, found out as if they were made. None is.

Rules of this file: refusals, states and rounds are those of the pipelines (commits.py,
preparing.py), of what is committed now; the only round that is held is the one that opens the
members of an array to be started, for it changes nothing. What only a round could tell (a device
that one node does not see, an array in use elsewhere) the plan names as what has to be done first.
"""

from collections.abc import Callable

from mdcluster.core.arrays import Refused
from mdcluster.core.commits import Commits, key_of
from mdcluster.core.env import Env
from mdcluster.core.messages import Advice, Consult
from mdcluster.core.model import (
    AdoptArray,
    ArrayChange,
    ArrayState,
    ClusterState,
    CreateArray,
    Life,
    Outlook,
    Plan,
    StartArray,
)
from mdcluster.core.preparing import Opened, Preparing
from mdcluster.core.tracks import Ask, Stage, Track
from mdcluster.core.waits import Wait

Advise = Callable[[Plan | str], None]
"""Takes the plan, or why the changes would be refused."""


class Foresight:
    """waiting: all that does not go on."""

    def __init__(
        self,
        env: Env,
        commits: Commits,
        preparing: Preparing,
        waiting: Callable[[], list[Wait]],
    ) -> None:
        self._env = env
        self._commits = commits
        self._preparing = preparing
        self._waiting = waiting
        self._opening: set[str] = set()  # dry runs of a start whose round is under way

    def end_term(self) -> None:
        self._opening.clear()

    def on_consult(self, sender: Life, msg: Consult) -> None:
        """Answered at once, or when the members of an array to be started have been opened."""

        def advise(found: Plan | str) -> None:
            plan, refusal = (None, found) if isinstance(found, str) else (found, "")
            self._env.send(sender.node, Advice(msg.term, msg.proposal, refusal, plan))

        asks = [Ask(msg.proposal, change, msg.force, None) for change in msg.changes]
        first = asks[0].change if asks else None
        track = self._commits.tracks.get(key_of(first)) if first is not None else None
        if any(key_of(ask.change) != key_of(asks[0].change) for ask in asks):
            advise("the changes are not of one array")
        elif refusal := self._commits.no_room(track):
            advise(refusal)
        elif isinstance(first, StartArray):
            self._start(track, asks, first, advise)
        else:
            advise(self._plan(track, asks))

    def _start(self, track: Track | None, asks: list[Ask], change: StartArray, to: Advise) -> None:
        state = track.committed.state if track and track.committed else None
        refusal = self._plan(track, asks)
        if isinstance(refusal, str) or not isinstance(state, ArrayState) or state.running:
            to(refusal)
            return

        if asks[0].proposal in self._opening:
            return
        self._opening.add(asks[0].proposal)

        def opened(found: Opened | str) -> None:
            self._opening.discard(asks[0].proposal)
            to(found if isinstance(found, str) else self._plan(track, asks, found))

        self._preparing.try_open(change, state, asks[0].force, opened)

    def _plan(
        self, track: Track | None, asks: list[Ask], opened: Opened | None = None
    ) -> Plan | str:
        """One after the other, each made of what those before it led to."""
        key = key_of(asks[0].change) if asks else ""
        track = track or Track(key)
        before = track.committed.state if track.committed else None
        made: list[ArrayChange] = list(opened.failures) if opened else []
        outlooks = []
        for ask in asks:
            outlook = self._outlook(track, ask, before, made, opened)
            if isinstance(outlook, str):
                return outlook
            outlooks.append(outlook)
            before = outlook.after
            made.append(ask.change)  # type: ignore[arg-type]
        return Plan(tuple(outlooks), tuple(self._waits(track, asks)))

    def _outlook(
        self,
        track: Track,
        ask: Ask,
        before: ArrayState | ClusterState | None,
        made: list[ArrayChange],
        opened: Opened | None,
    ) -> Outlook | str:
        refusal = self._commits.evaluation.too_early(track, ask.change)
        state = before if isinstance(before, ArrayState) else None
        kind, asked = self._preparing.need(ask.change, state) or ("", set())
        runners = opened.runners if opened else ()
        if isinstance(ask.change, CreateArray | AdoptArray):
            runners = tuple(sorted(asked))
        after = self._commits.evaluation.evaluate(track, ask, runners, made)
        if refusal or isinstance(after, Refused):
            return refusal or after.why  # type: ignore[union-attr]
        must = {life for s in (before, after) if isinstance(s, ArrayState) for life in s.running}
        return Outlook(before, after, str(kind), tuple(sorted(asked)), tuple(sorted(must)))

    def _waits(self, track: Track, asks: list[Ask]) -> list[str]:
        """What would have to be over before the first of them is begun."""
        waits = [wait.text for wait in self._waiting() if wait.key == track.key]
        busy = len(track.queue) + (track.stage is not Stage.IDLE)
        if busy:
            waits.append(f"{busy} change(s) asked for before it")
        for ask in asks:
            if term := self._commits.evaluation.term_needed(ask.change):
                waits.append(f"another writer, of a term above {term}: this one stands down first")
        return list(dict.fromkeys(waits))
