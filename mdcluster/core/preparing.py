"""What a change needs from the nodes before it can be committed: which round, and its verdict.

Rules of this file: a device is used only after every node that is to use it has read the
writer's nonce back from it; a life runs an array only after it has opened every member, none
of them older than what is known to be projected; an array is stopped only after every life
that runs it has stopped; a member that one node saw failing is tried by the others first; a
device is erased by the writer, and it is said to be only then.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mdcluster.core.arrays import survives_without
from mdcluster.core.commits import Commits
from mdcluster.core.env import Env
from mdcluster.core.ledger import Ledger, may_vote
from mdcluster.core.membership import Membership
from mdcluster.core.model import (
    ZERO,
    AddMember,
    AdoptArray,
    ArrayId,
    ArrayState,
    Change,
    CreateArray,
    DeviceId,
    EraseDevice,
    FailMember,
    JoinRunner,
    Life,
    MemberState,
    NewMember,
    ReAddMember,
    ReleaseArray,
    SetReadonly,
    StartArray,
    StopArray,
)
from mdcluster.core.rounds import Done, Kind, Reply, Round, Rounds
from mdcluster.core.tracks import Ask, Track

Missing = dict[DeviceId, str]


@dataclass(frozen=True, slots=True)
class Opened:
    """runners: who can run an array, once these failures of members are part of it."""

    runners: tuple[Life, ...]
    failures: tuple[FailMember, ...]


class Preparing:
    """Starts the round a proposal needs, and takes its result back to the commits."""

    def __init__(
        self,
        env: Env,
        ledger: Ledger,
        membership: Membership,
        rounds: Rounds,
        *,
        local_fault: str,
        note_missing: Callable[[str, Life, Missing], None],
    ) -> None:
        self._env = env
        self._ledger = ledger
        self._membership = membership
        self._rounds = rounds
        self._local_fault = local_fault
        self._note_missing = note_missing
        self.commits: Commits  # set by the composer: the two know each other

    def start(self, track: Track, ask: Ask) -> bool:
        """Begin the round this proposal needs; False if it needs none."""
        newest = track.committed.state if track.committed else None
        state = newest if isinstance(newest, ArrayState) else None
        need = self.need(ask.change, state)
        if need is not None:
            self._begin(track, ask, state, *need)
        return need is not None

    def need(self, change: Change, state: ArrayState | None) -> tuple[Kind, set[Life]] | None:
        """The round that a change of this state needs, and the lives that are asked in it."""
        if isinstance(change, CreateArray | AdoptArray):
            return Kind.CLAIM, self.candidates()
        if isinstance(change, EraseDevice):
            return Kind.ERASE, {self._env.me}
        if state is None:
            return None
        if isinstance(change, AddMember | ReAddMember):
            return Kind.CLAIM, self._users(state)
        if isinstance(change, StartArray) and not state.running:
            return Kind.OPEN, self.candidates()
        if isinstance(change, JoinRunner):
            return Kind.OPEN, {change.life}
        if isinstance(change, StopArray | ReleaseArray) and self._running(state):
            return Kind.STOP, self._running(state)
        if isinstance(change, SetReadonly) and change.on and self._running(state):
            return Kind.READONLY, self._running(state)
        if isinstance(change, FailMember) and (others := self._probers(state, change)):
            return Kind.PROBE, others
        return None

    def _begin(
        self, track: Track, ask: Ask, state: ArrayState | None, kind: Kind, lives: set[Life]
    ) -> None:
        change = ask.change
        if isinstance(change, CreateArray | AdoptArray):
            self._claim(track, ask, change.members, lives)
            return
        if isinstance(change, EraseDevice):
            self._erase(track, ask, change)
            return
        assert state is not None
        if isinstance(change, AddMember):
            self._claim(track, ask, (change.member,), lives)
        elif isinstance(change, ReAddMember):
            self._claim(track, ask, (_known(state, change),), lives)
        elif kind is Kind.OPEN:
            self._open(track, ask, state, lives)
        elif kind is Kind.STOP:
            verb = "stop" if isinstance(change, StopArray) else "release"
            self._quiet(track, state, verb, self._rounds.stop, lives)
        elif kind is Kind.READONLY:
            self._quiet(track, state, "make read-only", self._rounds.shut, lives)
        else:
            assert isinstance(change, FailMember)
            self._probe(track, state, change, lives)

    # --- who ------------------------------------------------------------------------------

    def candidates(self) -> set[Life]:
        """The lives that could run an array now: voters the writer hears, itself among them."""
        lives = {self._env.me}
        for node, life in self._membership.lives.items():
            if self._membership.alive(node) and may_vote(self._ledger.cluster, node, None):
                lives.add(life)
        return {x for x in lives if x not in self._membership.fenced}

    def _running(self, state: ArrayState) -> set[Life]:
        return {x for x in state.running if x not in self._membership.fenced}

    def _users(self, state: ArrayState) -> set[Life]:
        return self._running(state) or {self._env.me}

    # --- claim ----------------------------------------------------------------------------

    def _claim(
        self, track: Track, ask: Ask, members: tuple[NewMember, ...], lives: set[Life]
    ) -> None:
        def done(round_: Round, why: str) -> None:
            if why and round_.message is not None and isinstance(ask.change, ReAddMember):
                why += "; until its failure is applied everywhere it is not added again, see --why"
            problem = why or self._problem(round_)
            if problem:
                self._rounds.abandon(round_)
                self.commits.round_failed(track, "refused", problem)
            elif not self.commits.round_done(track, tuple(sorted(round_.replies))):
                self._rounds.abandon(round_)

        adopt = ask.change if isinstance(ask.change, AdoptArray) else None
        array = ask.change.array  # type: ignore[union-attr]
        self._rounds.claim(array, members, lives, ask.force, done, adopt)

    def _problem(self, round_: Round) -> str:
        """What stands against a claim, in one line, naming the nodes."""
        for life, reply in sorted(round_.replies.items()):
            name = self._env.name_of(life.node)
            if reply.problem:
                return f"node {name}: {reply.problem}"
            for device, why in reply.missing:
                return f"node {name} cannot use device {device}: {why}"
        return ""

    def _erase(self, track: Track, ask: Ask, change: EraseDevice) -> None:
        def done(round_: Round, why: str) -> None:
            if why:
                self.commits.round_failed(track, "refused", why)
            else:
                self.commits.round_done(track, ())

        self._rounds.erase(change, ask.force, self._env.me, done)

    # --- open -----------------------------------------------------------------------------

    def _open(self, track: Track, ask: Ask, state: ArrayState, lives: set[Life]) -> None:
        def done(round_: Round, why: str) -> None:
            for life, missing in self._missing(round_, ask.force).items():
                self._note_missing(round_.array, life, missing)
            found = self._opened(ask.change, round_, why, ask.force)
            if isinstance(found, Opened):
                self.commits.round_done(track, found.runners, found.failures)
            else:
                self._rounds.abandon(round_)
                self.commits.round_failed(track, "refused", found)

        self._rounds.open(state.uuid, _openable(state), lives, done)

    def try_open(
        self,
        change: StartArray,
        state: ArrayState,
        force: bool,
        done: Callable[["Opened | str"], None],
    ) -> None:
        """A dry run of a start: the members are opened everywhere, and let go again."""

        def tried(round_: Round, why: str) -> None:
            self._rounds.abandon(round_)
            done(self._opened(change, round_, why, force))

        self._rounds.open(state.uuid, _openable(state), self.candidates(), tried)

    def _opened(self, change: Change, round_: Round, why: str, force: bool) -> "Opened | str":
        """Who runs the array after this round, and which members go first; or why it fails."""
        found = self._missing(round_, force)
        able = tuple(sorted(life for life, missing in found.items() if not missing))
        if able:
            return Opened(able, ())
        gone = _missing_everywhere(list(found.values())) if found else {}
        start = isinstance(change, StartArray)
        if isinstance(change, StartArray) and gone and change.run:
            failures = [FailMember(change.array, d, w) for d, w in sorted(gone.items())]
            runners = [x for x, m in found.items() if set(m) <= set(gone)]
            return Opened(tuple(sorted(runners)), tuple(failures))
        text = why or _why_not(found, self._env) or self._problem(round_)
        return text + "; to start it without them, use --run" if start else text

    def _missing(self, round_: Round, force: bool) -> dict[Life, Missing]:
        """What each life that could look misses of the array; nothing: it can run it."""
        return {
            life: self._lacks(round_, reply, force)
            for life, reply in sorted(round_.replies.items())
            if not reply.problem
        }

    def _lacks(self, round_: Round, reply: Reply, force: bool) -> Missing:
        missing = dict(reply.missing)
        projected = self._ledger.projected.get(round_.array, ZERO)
        for device, stamp in reply.found:
            if self.is_stale(stamp < projected) and not force:
                missing[device] = (
                    f"its superblock (events {stamp.events}) is older than what was written to "
                    f"every member (events {projected.events}): an old copy"
                )
        return missing

    @staticmethod
    def is_stale(older: bool) -> bool:
        """A member older than the known projection is refused without --force."""
        return older

    # --- stop -----------------------------------------------------------------------------

    def _quiet(
        self,
        track: Track,
        state: ArrayState,
        verb: str,
        ask: Callable[[ArrayId, set[Life], Done], None],
        lives: set[Life],
    ) -> None:
        def done(round_: Round, why: str) -> None:
            problem = why or self._problem(round_)
            if problem:
                self._rounds.abandon(round_)
                self.commits.round_failed(
                    track, "refused", f"cannot {verb} {state.name}: {problem}"
                )
            elif not self.commits.round_done(track, ()):
                self._rounds.abandon(round_)  # not done after all: it goes on as before

        ask(state.uuid, lives, done)

    # --- probe ----------------------------------------------------------------------------

    def _probers(self, state: ArrayState, change: FailMember) -> set[Life]:
        """Who can tell whether it is the member or the node; if nobody can, the member goes."""
        member = state.member(change.device)
        if change.seen_by is None or member is None or member.state is MemberState.FAULTY:
            return set()
        return {x for x in self._running(state) if x.node != change.seen_by}

    def _probe(
        self, track: Track, state: ArrayState, change: FailMember, others: set[Life]
    ) -> None:

        def done(round_: Round, why: str) -> None:
            fine = not why and not any(r.problem for r in round_.replies.values())
            last = not survives_without(state, change.device)
            if fine and (last or self._local_fault == "leave"):
                reason = "it is the last good member" if last else "policy local_fault = leave"
                text = f"leave: the other nodes can use {change.device}, and {reason}"
                self.commits.round_failed(track, "refused", text)
            else:
                self.commits.round_done(track, ())

        self._rounds.probe(state.uuid, change.device, others, done)


def _openable(state: ArrayState) -> tuple[DeviceId, ...]:
    return tuple(m.device for m in state.members if m.state is not MemberState.FAULTY)


def _known(state: ArrayState, change: ReAddMember) -> NewMember:
    member = state.member(change.device) or state.former(change.device)
    assert member is not None  # the change was checked against this state
    return NewMember(
        change.device, change.path, member.data_offset_sectors, member.data_size_sectors
    )


def _missing_everywhere(all_missing: list[Missing]) -> Missing:
    common = set(all_missing[0])
    for missing in all_missing[1:]:
        common &= set(missing)
    return {d: all_missing[0][d] for d in common}


def _why_not(missing: dict[Life, Missing], env: Env) -> str:
    parts = [
        f"node {env.name_of(life.node)} misses {device} ({why})"
        for life, gone in sorted(missing.items())
        for device, why in sorted(gone.items())
    ]
    return "; ".join(parts[:4])
