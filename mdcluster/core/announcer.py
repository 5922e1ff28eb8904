"""The writer's side of holds: what the others were told to hold, and who has confirmed it.

Rules of this file:

* Each announcement is newer than all before it (their serials grow, also over several passes
  of one writer), so a late or doubled message can undo nothing.
* Confirmed is only what was said to the latest announcement, by a node that holds exactly that
  and has no failed write held. What is not confirmed is asked again, with backoff.
* Of the nodes whose md moves a hold at some risk (`Report.serial_holds`) one is told at a time,
  the next when that one has answered or is fenced; so too to let go. The others are told at
  once. Nobody waits for the answers to a release, but that a node that moves alone gets its turn.
"""

from collections.abc import Callable

from mdcluster.core.env import Env, TimerKey
from mdcluster.core.geometry import hold_range
from mdcluster.core.holds import announcement
from mdcluster.core.messages import Hold, HoldAck
from mdcluster.core.model import ArrayState, Life


class Announcer:
    """Holds of one pass. Windows are in positions; what is sent, in array sectors.

    moves_alone: whether this life is among those that are told one at a time.
    """

    def __init__(
        self,
        env: Env,
        term: int,
        state: ArrayState,
        serial: int,
        others: frozenset[Life],
        moves_alone: Callable[[Life], bool],
    ) -> None:
        self._env, self._term, self._state, self._serial = env, term, state, serial
        self.others = set(others)
        self.window = (0, 0)
        self.since_ms = env.now_ms
        """When the present end of the window was first announced."""
        self._number = env.now_ms
        self._message: Hold | None = None
        self._due: dict[Life, Hold] = {}  # not answered yet, or not even told
        self._unconfirmed: set[Life] = set()  # those of them that the pass waits for
        self._moves_alone = moves_alone
        self._moving: Life | None = None  # told, alone
        self._free: set[Life] = set()  # those that move alone and are known to hold nothing
        self._problems: dict[Life, str] = {}
        self._resend_ms = 0
        self.key: TimerKey = ("resync", state.uuid, "hold")

    @property
    def confirmed(self) -> bool:
        """All that were told the latest have confirmed it (or are gone)."""
        return not self._unconfirmed

    @property
    def settled(self) -> bool:
        """Whether nobody is to be told anything any more."""
        return not self._due

    @property
    def overdue(self) -> bool:
        waited_ms = self._env.now_ms - self.since_ms
        return bool(self._unconfirmed) and waited_ms >= self._env.timing.hold_deadline_ms

    def announce(self, lo: int, hi: int) -> None:
        """All others hold [lo, hi), and only that; all below lo is complete."""
        if hi != self.window[1]:
            self.since_ms = self._env.now_ms
        self._tell((lo, hi), lo, self.others)

    def announce_whole(self, end: int) -> None:
        """Every node, this one as well, holds the whole array; all is complete."""
        self.since_ms = self._env.now_ms
        self._tell((0, end), end, {*self.others, self._env.me})

    def release(self, complete: int) -> None:
        """All others hold nothing. Nobody waits for the answers."""
        if self.window[0] < self.window[1]:
            self._tell((complete, complete), complete, self.others)
        self._expect_nothing()

    def release_whole(self, complete: int) -> None:
        """As `release`, this node as well (if it runs it), and whatever was announced before."""
        own = {self._env.me} & set(self._state.running)
        self._tell((complete, complete), complete, self.others | own)
        self._expect_nothing()

    def release_own(self, complete: int) -> None:
        """What this node held for the writer before it."""
        self._tell((complete, complete), complete, {self._env.me})
        self._expect_nothing()

    def _expect_nothing(self) -> None:
        self._unconfirmed.clear()
        self._problems.clear()
        self._due = {life: hold for life, hold in self._due.items() if self._moves_alone(life)}
        if not self._due:
            self._env.timers.cancel(self.key)

    def _tell(self, window: tuple[int, int], complete: int, lives: set[Life]) -> None:
        lo, hi = hold_range(self._state, *window)
        self.window = window
        self._number += 1
        serial = announcement(self._serial, self._number)
        self._message = Hold(self._term, self._state.uuid, serial, lo, hi, complete)
        self._unconfirmed = set(lives)
        self._problems.clear()
        self._resend_ms = self._env.timing.retry_min_ms
        if lo < hi:
            self._free -= lives
        self._due.update(dict.fromkeys(lives - self._free, self._message))
        self._send()

    def _send(self) -> None:
        """To all that have not answered; of those that move alone, to the one whose turn it is."""
        for life, hold in sorted(self._due.items()):
            if not self._moves_alone(life) or self._has_turn(life):
                self._env.send(life.node, hold)
        if self._due:
            self._env.after(self.key, self._resend_ms)

    def _has_turn(self, life: Life) -> bool:
        if self._moving not in self._due:
            self._moving = life
        return self._moving == life

    def _next_turn(self, after: Life) -> None:
        """This one has answered, or is gone: the next one in order is told."""
        if self._moving != after:
            return
        waiting = sorted(life for life in self._due if self._moves_alone(life))
        later = [life for life in waiting if life > after]
        self._moving = next(iter(later or waiting), None)
        if self._moving is not None and self._moving != after:
            self._env.send(self._moving.node, self._due[self._moving])
            self._resend_ms = self._env.timing.retry_min_ms
            self._env.after(self.key, self._resend_ms)

    def ask_again(self) -> None:
        self._resend_ms = min(2 * self._resend_ms, self._env.timing.retry_max_ms)
        self._send()

    def on_ack(self, sender: Life, msg: HoldAck) -> bool:
        """Whether this was the last confirmation that was missing."""
        told = self._due.get(sender)
        if told is None:
            return False
        if (msg.term, msg.serial) != (told.term, told.serial):
            return False
        if (msg.lo_sectors, msg.hi_sectors) != (told.lo_sectors, told.hi_sectors):
            return False
        if msg.problem:
            self._problems[sender] = msg.problem  # the timer asks again
            self._next_turn(sender)
            return False
        if told.lo_sectors == told.hi_sectors and self._moves_alone(sender):
            self._free.add(sender)
        return self._done_with(sender)

    def gone(self, life: Life) -> bool:
        """Nobody waits for it any more; whether it was the last one missing."""
        self.others.discard(life)
        return life in self._due and self._done_with(life)

    def _done_with(self, life: Life) -> bool:
        waited = life in self._unconfirmed
        del self._due[life]
        self._unconfirmed.discard(life)
        self._problems.pop(life, None)
        self._next_turn(life)
        if not self._due:
            self._env.timers.cancel(self.key)
        return waited and not self._unconfirmed

    def joined(self, life: Life) -> None:
        """It has to confirm what is announced now, if anything, like all others."""
        if life == self._env.me or life in self.others:
            return
        self.others.add(life)
        if self._message is not None and self.window[0] < self.window[1]:
            self._tell_too(life, self._message)

    def _tell_too(self, life: Life, message: Hold) -> None:
        """One that was not told the latest, or knows nothing of it any more, has to confirm it."""
        self._unconfirmed.add(life)
        self._due[life] = message
        self._resend_ms = self._env.timing.retry_min_ms
        if not self._moves_alone(life) or self._has_turn(life):
            self._env.send(life.node, message)
        self._env.after(self.key, self._resend_ms)

    def restarted(self, life: Life, complete: int) -> None:
        """Its daemon has started again, and holds everything until it hears what to hold."""
        if life not in self.others:
            return
        self.since_ms = self._env.now_ms
        self._free.discard(life)
        if self._message is None:
            self._tell((complete, complete), complete, {life})
        else:
            self._tell_too(life, self._message)

    def missing(self) -> str:
        """Who has not confirmed, and what it said: for people."""
        return ", ".join(
            f"{self._env.name_of(life.node)} ({self._problems.get(life, 'no answer')})"
            for life in sorted(self._unconfirmed)
        )

    @property
    def awaited(self) -> tuple[str, ...]:
        """Names of the nodes that have not confirmed."""
        return tuple(self._env.name_of(life.node) for life in sorted(self._unconfirmed))
