"""The writer's side of holds: what the others were told to hold, and who has confirmed it.

Rules of this file:

* Each announcement is newer than all before it (their serials grow, also over several passes
  of one writer), so a late or doubled message can undo nothing.
* Confirmed is only what was said to the latest announcement, by a node that holds exactly that
  and has no failed write held. What is not confirmed is asked again, with backoff.
"""

from mdcluster.core.env import Env, TimerKey
from mdcluster.core.geometry import hold_range
from mdcluster.core.holds import announcement
from mdcluster.core.messages import Hold, HoldAck
from mdcluster.core.model import ArrayState, Life


class Announcer:
    """Holds of one pass. Windows are in positions; what is sent, in array sectors."""

    def __init__(
        self, env: Env, term: int, state: ArrayState, serial: int, others: frozenset[Life]
    ) -> None:
        self._env, self._term, self._state, self._serial = env, term, state, serial
        self.others = set(others)
        self.window = (0, 0)
        self.since_ms = env.now_ms
        """When the present end of the window was first announced."""
        self._number = env.now_ms
        self._message: Hold | None = None
        self._unconfirmed: set[Life] = set()
        self._problems: dict[Life, str] = {}
        self._resend_ms = 0
        self.key: TimerKey = ("resync", state.uuid, "hold")

    @property
    def confirmed(self) -> bool:
        """All that were told the latest have confirmed it (or are gone)."""
        return not self._unconfirmed

    @property
    def overdue(self) -> bool:
        waited_ms = self._env.now_ms - self.since_ms
        return bool(self._unconfirmed) and waited_ms >= self._env.timing.hold_deadline_ms

    def announce(self, lo: int, hi: int) -> None:
        """All others hold [lo, hi), and only that; all below lo is complete."""
        if hi != self.window[1]:
            self.since_ms = self._env.now_ms
        self._tell((lo, hi), lo, set(self.others))

    def announce_whole(self, end: int) -> None:
        """Every node, this one as well, holds the whole array; all is complete."""
        self.since_ms = self._env.now_ms
        self._tell((0, end), end, {*self.others, self._env.me})

    def release(self, complete: int) -> None:
        """All others hold nothing. Nobody waits for the answers."""
        if self.window[0] < self.window[1]:
            self._tell((complete, complete), complete, set(self.others))
        self._expect_nothing()

    def release_whole(self, complete: int) -> None:
        """As `release`, this node as well, and whatever was announced before."""
        self._tell((complete, complete), complete, {*self.others, self._env.me})
        self._expect_nothing()

    def release_own(self, complete: int) -> None:
        """What this node held for the writer before it."""
        self._tell((complete, complete), complete, {self._env.me})
        self._expect_nothing()

    def _expect_nothing(self) -> None:
        self._unconfirmed.clear()
        self._problems.clear()
        self._env.timers.cancel(self.key)

    def _tell(self, window: tuple[int, int], complete: int, lives: set[Life]) -> None:
        lo, hi = hold_range(self._state, *window)
        self.window = window
        self._number += 1
        serial = announcement(self._serial, self._number)
        self._message = Hold(self._term, self._state.uuid, serial, lo, hi, complete)
        self._unconfirmed = lives
        self._problems.clear()
        self._resend_ms = self._env.timing.retry_min_ms
        self._send()

    def _send(self) -> None:
        if self._message is None or not self._unconfirmed:
            return
        for life in sorted(self._unconfirmed):
            self._env.send(life.node, self._message)
        self._env.after(self.key, self._resend_ms)

    def ask_again(self) -> None:
        self._resend_ms = min(2 * self._resend_ms, self._env.timing.retry_max_ms)
        self._send()

    def on_ack(self, sender: Life, msg: HoldAck) -> bool:
        """Whether this was the last confirmation that was missing."""
        told = self._message
        if told is None or sender not in self._unconfirmed:
            return False
        if (msg.term, msg.serial) != (told.term, told.serial):
            return False
        if (msg.lo_sectors, msg.hi_sectors) != (told.lo_sectors, told.hi_sectors):
            return False
        if msg.problem:
            self._problems[sender] = msg.problem  # the timer asks again
            return False
        return self._done_with(sender)

    def gone(self, life: Life) -> bool:
        """Nobody waits for it any more; whether it was the last one missing."""
        self.others.discard(life)
        return life in self._unconfirmed and self._done_with(life)

    def _done_with(self, life: Life) -> bool:
        self._unconfirmed.discard(life)
        self._problems.pop(life, None)
        if self._unconfirmed:
            return False
        self._env.timers.cancel(self.key)
        return True

    def joined(self, life: Life) -> None:
        """It has to confirm what is announced now, if anything, like all others."""
        if life == self._env.me or life in self.others:
            return
        self.others.add(life)
        if self._message is not None and self.window[0] < self.window[1]:
            self._unconfirmed.add(life)
            self._resend_ms = self._env.timing.retry_min_ms
            self._env.send(life.node, self._message)
            self._env.after(self.key, self._resend_ms)

    def missing(self) -> str:
        """Who has not confirmed, and what it said: for people."""
        return ", ".join(
            f"{life.node} ({self._problems.get(life, 'no answer')})"
            for life in sorted(self._unconfirmed)
        )
