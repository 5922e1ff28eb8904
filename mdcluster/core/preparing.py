"""What a change needs from the nodes before it can be committed: which round, and its verdict.

Rules of this file: a device is used only after every node that is to use it has read the
writer's nonce back from it; a life runs an array only after it has opened every member, none
of them older than what is known to be projected; an array is stopped only after every life
that runs it has stopped; a member that one node saw failing is tried by the others first.
"""

from collections.abc import Callable

from mdcluster.core.arrays import survives_without
from mdcluster.core.commits import Commits
from mdcluster.core.env import Env
from mdcluster.core.ledger import Ledger, may_vote
from mdcluster.core.membership import Membership
from mdcluster.core.model import (
    ZERO,
    AddMember,
    AdoptArray,
    ArrayState,
    CreateArray,
    DeviceId,
    FailMember,
    JoinRunner,
    Life,
    MemberState,
    NewMember,
    ReAddMember,
    ReleaseArray,
    StartArray,
    StopArray,
)
from mdcluster.core.rounds import Reply, Round, Rounds
from mdcluster.core.tracks import Ask, Track

Missing = dict[DeviceId, str]


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
        change = ask.change
        state = track.committed.state if track.committed else None
        if isinstance(change, CreateArray | AdoptArray):
            self._claim(track, ask, change.members, self.candidates())
            return True
        if not isinstance(state, ArrayState):
            return False
        if isinstance(change, AddMember):
            self._claim(track, ask, (change.member,), self._users(state))
        elif isinstance(change, ReAddMember):
            self._claim(track, ask, (_known(state, change),), self._users(state))
        elif isinstance(change, StartArray) and not state.running:
            self._open(track, ask, state, self.candidates())
        elif isinstance(change, JoinRunner):
            self._open(track, ask, state, {change.life})
        elif isinstance(change, StopArray | ReleaseArray) and self._running(state):
            verb = "stop" if isinstance(change, StopArray) else "release"
            self._stop(track, state, verb)
        elif isinstance(change, FailMember) and change.seen_by is not None:
            return self._probe(track, ask, state, change)
        else:
            return False
        return True

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

    # --- open -----------------------------------------------------------------------------

    def _open(self, track: Track, ask: Ask, state: ArrayState, lives: set[Life]) -> None:
        devices = tuple(m.device for m in state.members if m.state is not MemberState.FAULTY)

        def done(round_: Round, why: str) -> None:
            able, missing = self._sort(round_, ask.force)
            gone: Missing = {}
            if missing and not able:
                gone = _missing_everywhere(list(missing.values()))
            start = isinstance(ask.change, StartArray)
            if able:
                self.commits.round_done(track, tuple(able))
            elif start and gone and ask.change.run:  # type: ignore[union-attr]
                failures = [FailMember(state.uuid, d, w) for d, w in sorted(gone.items())]
                runners = [x for x, m in missing.items() if set(m) <= set(gone)]
                self.commits.round_done(track, tuple(sorted(runners)), failures)
            else:
                text = why or _why_not(missing, self._env) or self._problem(round_)
                if start:
                    text += "; to start it without them, use --run"
                self._rounds.abandon(round_)
                self.commits.round_failed(track, "refused", text)

        self._rounds.open(state.uuid, devices, lives, done)

    def _sort(self, round_: Round, force: bool) -> tuple[list[Life], dict[Life, Missing]]:
        """Who can run the array, and who misses what."""
        able: list[Life] = []
        lacking: dict[Life, Missing] = {}
        for life, reply in sorted(round_.replies.items()):
            if reply.problem:
                continue
            missing = self._lacks(round_, reply, force)
            self._note_missing(round_.array, life, missing)
            if missing:
                lacking[life] = missing
            else:
                able.append(life)
        return able, lacking

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

    def _stop(self, track: Track, state: ArrayState, verb: str) -> None:
        def done(round_: Round, why: str) -> None:
            problem = why or self._problem(round_)
            if problem:
                self._rounds.abandon(round_)
                self.commits.round_failed(
                    track, "refused", f"cannot {verb} {state.name}: {problem}"
                )
            elif not self.commits.round_done(track, ()):
                self._rounds.abandon(round_)  # not released after all: it goes on running

        self._rounds.stop(state.uuid, self._running(state), done)

    # --- probe ----------------------------------------------------------------------------

    def _probe(self, track: Track, ask: Ask, state: ArrayState, change: FailMember) -> bool:
        """Is it the member or the node? False: nobody else can tell, the member goes."""
        others = {x for x in self._running(state) if x.node != change.seen_by}
        member = state.member(change.device)
        if not others or member is None or member.state is MemberState.FAULTY:
            return False

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
        return True


def _known(state: ArrayState, change: ReAddMember) -> NewMember:
    member = state.member(change.device)
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
