"""Rounds: what listed nodes must do locally before a change can be committed.

* claim: a new device is opened by every node that is to use it, which reads back the nonce
  that the writer wrote to it (clones and wrong paths are found);
* open: a node opens the members of an array it is to run, and tells the age of each;
* stop: every node that runs the array stops it, or says that it is in use;
* readonly: every node that runs the array admits no more writes to it, or says that it is in use;
* probe: the other nodes try a member that one node saw failing;
* erase: the writer takes the superblock off a device that no array has.

Rules of this file: a round waits for its listed lives only, and only until its deadline; a
life that was fenced is not waited for; a round that fails is abandoned everywhere, and the
nonces are taken back.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from mdcluster.core.effects import DropNonces, EraseSuperblock, WriteNonces
from mdcluster.core.env import Env
from mdcluster.core.events import Erased, NoncesWritten
from mdcluster.core.messages import Abandon, Prepare, PrepareReply, Probe, ProbeReply
from mdcluster.core.model import (
    AdoptArray,
    ArrayId,
    Claim,
    DeviceId,
    EraseDevice,
    Life,
    NewMember,
    Stamp,
)

TIMER = "round"
ROUNDS_MAX = 256


class Kind(StrEnum):
    CLAIM = "claim"
    OPEN = "open"
    STOP = "stop"
    READONLY = "readonly"
    PROBE = "probe"
    ERASE = "erase"


@dataclass(frozen=True, slots=True)
class Reply:
    """One life's answer: a problem, or what it found and what it misses."""

    problem: str
    found: tuple[tuple[DeviceId, Stamp], ...] = ()
    missing: tuple[tuple[DeviceId, str], ...] = ()


@dataclass(slots=True)
class Round:
    op: int
    kind: Kind
    array: ArrayId
    waits_for: set[Life]
    done: "Done"
    deadline_ms: int
    wait_ms: int
    message: Prepare | Probe | None = None
    claims: tuple[Claim, ...] = ()
    replies: dict[Life, Reply] = field(default_factory=dict)


Done = Callable[[Round, str], None]
"""Called once, with '' if everybody answered, else with why the round ended without that."""


class Rounds:
    """The writer's rounds under way, by op (unique for this life)."""

    def __init__(self, env: Env, name: Callable[[Life], str]) -> None:
        self._env = env
        self._name = name
        self._term = 0
        self._op = 0
        self.rounds: dict[int, Round] = {}
        self._abandoned: dict[int, None] = {}  # the latest, oldest first

    def begin_term(self, term: int) -> None:
        """Ops carry the term, so that those of two writers are never taken for one another."""
        self._term = term
        self._op = term << 32
        self._abandoned = {}

    def end_term(self) -> None:
        """Nothing is committed any more: undo what can be undone here."""
        for round_ in self.rounds.values():
            if round_.kind is Kind.CLAIM:
                self._env.emit(DropNonces(round_.op))
        self.rounds = {}
        self._env.timers.cancel_all(TIMER)

    # --- begin ---------------------------------------------------------------------------

    def claim(
        self,
        array: ArrayId,
        members: tuple[NewMember, ...],
        lives: set[Life],
        force: bool,
        done: Done,
        adopt: AdoptArray | None = None,
    ) -> None:
        """Write nonces to new devices, then have them found by all these lives.

        adopt: what these devices must still be then, plain members that are to be taken in.
        """
        round_ = self._new(Kind.CLAIM, array, lives, done, self._env.timing.prepare_deadline_ms)
        paths = {m.device: m.path for m in members}
        round_.claims = tuple(Claim(d, p, b"") for d, p in paths.items())
        self._env.emit(WriteNonces(round_.op, array, members, force, adopt))

    def open(
        self, array: ArrayId, devices: tuple[DeviceId, ...], lives: set[Life], done: Done
    ) -> None:
        """Have known members opened by these lives."""
        round_ = self._new(Kind.OPEN, array, lives, done, self._env.timing.prepare_deadline_ms)
        claims = tuple(Claim(d, "", b"") for d in devices)
        self._ask(round_, Prepare(self._term, round_.op, array, claims))

    def stop(self, array: ArrayId, lives: set[Life], done: Done) -> None:
        """Have the array stopped by these lives."""
        round_ = self._new(Kind.STOP, array, lives, done, self._env.timing.prepare_deadline_ms)
        self._ask(round_, Prepare(self._term, round_.op, array, (), stopping=True))

    def shut(self, array: ArrayId, lives: set[Life], done: Done) -> None:
        """Have no more writes to the array admitted by these lives."""
        round_ = self._new(Kind.READONLY, array, lives, done, self._env.timing.prepare_deadline_ms)
        self._ask(round_, Prepare(self._term, round_.op, array, (), readonly=True))

    def probe(self, array: ArrayId, device: DeviceId, lives: set[Life], done: Done) -> None:
        """Have a member tried by these lives."""
        round_ = self._new(Kind.PROBE, array, lives, done, self._env.timing.probe_deadline_ms)
        self._ask(round_, Probe(self._term, round_.op, array, device))

    def erase(self, change: EraseDevice, force: bool, me: Life, done: Done) -> None:
        """Have the writer itself erase a device."""
        array, device, path = change.array, change.device, change.path
        round_ = self._new(Kind.ERASE, array, {me}, done, self._env.timing.prepare_deadline_ms)
        self._env.emit(EraseSuperblock(round_.op, array, device, path, force))

    def _new(
        self, kind: Kind, array: ArrayId, lives: set[Life], done: Done, deadline_ms: int
    ) -> Round:
        self._op += 1
        wait_ms = 4 * self._env.timing.retry_min_ms
        round_ = Round(
            self._op, kind, array, set(lives), done, self._env.now_ms + deadline_ms, wait_ms
        )
        self.rounds[self._op] = round_
        self._env.after((TIMER, str(self._op)), min(wait_ms, deadline_ms))
        return round_

    def _ask(self, round_: Round, message: Prepare | Probe) -> None:
        round_.message = message
        for life in sorted(round_.waits_for):
            self._env.send(life.node, message)
        self._check(round_)

    # --- answers -------------------------------------------------------------------------

    def on_nonces(self, ev: NoncesWritten) -> None:
        round_ = self.rounds.get(ev.op)
        if round_ is None:
            self._env.emit(DropNonces(ev.op))
            return
        if ev.problem:
            self._end(round_, ev.problem)
            return
        nonces = dict(ev.nonces)
        claims = tuple(Claim(c.device, c.path, nonces.get(c.device, b"")) for c in round_.claims)
        self._ask(round_, Prepare(self._term, round_.op, round_.array, claims))

    def on_erased(self, ev: Erased) -> None:
        round_ = self.rounds.get(ev.op)
        if round_ is not None:
            self._end(round_, ev.problem)

    def on_prepare_reply(self, sender: Life, msg: PrepareReply) -> None:
        self._reply(sender, msg.op, Reply(msg.problem, msg.found, msg.missing))

    def on_probe_reply(self, sender: Life, msg: ProbeReply) -> None:
        self._reply(sender, msg.op, Reply(msg.problem))

    def _reply(self, sender: Life, op: int, reply: Reply) -> None:
        round_ = self.rounds.get(op)
        if round_ is not None and sender in round_.waits_for:
            round_.replies[sender] = reply
            self._check(round_)
        elif op in self._abandoned:
            self._env.send(sender.node, Abandon(self._term, op))  # the first one got lost

    def on_fenced(self, life: Life) -> None:
        for round_ in list(self.rounds.values()):
            if life in round_.waits_for:
                round_.waits_for.discard(life)
                if round_.message is not None:
                    self._check(round_)

    def on_timer(self, op: int) -> None:
        """Ask again, with backoff; at the deadline what is not complete is abandoned."""
        round_ = self.rounds.get(op)
        if round_ is None:
            return
        missing = sorted(round_.waits_for - set(round_.replies))
        if self._env.now_ms >= round_.deadline_ms:
            names = ", ".join(self._name(x) for x in missing) or "the writer's own disks"
            self._end(round_, f"no answer in time from {names}")
            return
        if round_.message is not None:
            for life in missing:
                self._env.send(life.node, round_.message)
        round_.wait_ms *= 2
        left_ms = round_.deadline_ms - self._env.now_ms
        self._env.after((TIMER, str(op)), min(round_.wait_ms, left_ms))

    def _check(self, round_: Round) -> None:
        if round_.waits_for <= set(round_.replies):
            self._end(round_, "")

    def _end(self, round_: Round, why: str) -> None:
        del self.rounds[round_.op]
        self._env.timers.cancel((TIMER, str(round_.op)))
        if round_.kind is Kind.READONLY:
            self._note_over(round_.op)  # whoever asks much later has missed what came of it
        round_.done(round_, why)

    def awaited(self, array: str) -> list[str]:
        """Names of the nodes that have not answered in rounds of this array."""
        lives = {
            life
            for round_ in self.rounds.values()
            if round_.array == array
            for life in round_.waits_for - set(round_.replies)
        }
        return sorted(self._name(life) for life in lives)

    def give_way(self, array: ArrayId) -> None:
        """A failure is to be committed: a node that wants to join this array can wait."""
        for round_ in list(self.rounds.values()):
            if round_.array == array and round_.kind is Kind.OPEN:
                self._end(round_, "a failure went first")

    def _note_over(self, op: int) -> None:
        self._abandoned[op] = None
        if len(self._abandoned) > ROUNDS_MAX:
            del self._abandoned[next(iter(self._abandoned))]

    def abandon(self, round_: Round) -> None:
        """What the round prepared will not be committed."""
        self._note_over(round_.op)
        if round_.kind is Kind.CLAIM:
            self._env.emit(DropNonces(round_.op))
        if round_.kind is not Kind.PROBE:
            for life in sorted(round_.waits_for):
                self._env.send(life.node, Abandon(self._term, round_.op))
