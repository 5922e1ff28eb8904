"""The writer's machine for one pass (resync, recovery, bits of dead lives) over one array.

Rules of this file:

* Nothing is copied in a window before every other node that could write has confirmed a hold
  that covers it; while it is copied, every announcement covers it still. It covers all that md
  may copy: by a bitmap md starts at 0, whatever it is told, and copies what is dirty, in whole
  chunks. So a pass begins, and begins again, at the start of the first dirty chunk; and while
  a role is vacant (md then notes each own write as to be copied) the first window begins at 0,
  and no window leaves out what lies before it.
* Complete means copied and flushed, all that was planned; checkpoints and what followers are
  told never exceed it. Nothing is left out but what the bitmap says is clean.
* Before md copies by a bitmap (it then ignores positions) the bits are set, durable: those of
  [complete, end) for a resync, those of other slots for dead lives and re-added members.
* A slot is zeroed only once its bits are durable in the own slot, and before anything is
  copied: what a later writer finds dirty is then only what was not copied yet. In a resync,
  that may give way to a recovery which clears the own slot, only once what its bits say is
  copied, or lies where the resync has yet to come.
* A check copies nothing and is held all the same: what a node is just writing would differ. It
  and a repair count what differs; neither looks at bitmaps.
* A recovery ends while every node, this one included, holds the whole array, and the holds go
  only when the end is applied everywhere.
* A hold that is not confirmed by its deadline is released everywhere and tried again later; so
  is a window that could not be copied. Every retry backs off.

At full speed the next window is announced while the present one is copied. With a speed limit
each window is released before the pause that keeps the speed.

Messages: see :mod:`mdcluster.core.holds` for the followers' side and the serials of holds.
Positions everywhere but in Hold and HoldAck. A SyncStopped is the last word of all steps before
it: one that was cut short may go unanswered, none is answered later.
"""

from collections.abc import Callable
from enum import Enum, auto

from mdcluster.core.announcer import Announcer
from mdcluster.core.effects import LimitSync, MergeBits, SetBits, StartSync, StopSync, ZeroSlot
from mdcluster.core.env import Env, TimerKey
from mdcluster.core.events import BitsSet, SlotZeroed, SyncReached, SyncStopped
from mdcluster.core.geometry import chunk_start, end_sectors, redundant, vacant_roles
from mdcluster.core.holds import Holds
from mdcluster.core.messages import HoldAck, HoldReport
from mdcluster.core.model import (
    LOOKING,
    ArrayChange,
    ArrayState,
    Checkpoint,
    DeviceId,
    EndSync,
    Life,
    MemberState,
    SyncKind,
)
from mdcluster.core.waits import Cause, Wait
from mdcluster.core.windows import Pace, SyncLimits, resume_point

__all__ = ["Holds", "Pass", "SyncLimits", "resume_point"]

TRIES_MAX = 8
"""Failures in a row after which a pass is stuck: from then on it is tried at STUCK_RETRY_MS."""

STUCK_RETRY_MS = 60_000

CHECKPOINT_PATIENCE = 10
"""For how many intervals a checkpoint may be on its way before another one is proposed."""


class Phase(Enum):
    """Where a pass is. Each up to CLOSING may fall back to HALTED, and begin again there."""

    NEW = auto()
    BITS = auto()  # bits are being set or merged in the own slot
    ZEROING = auto()  # the slots of dead lives, one after the other
    RUNNING = auto()  # windows
    HALTED = auto()  # copying is being stopped, then a pause, then BITS again
    CLOSING = auto()  # recovery: everybody is to hold everything
    ENDING = auto()  # the end is proposed
    RELEASING = auto()  # it has ended; nodes that move holds alone let go, one after the other
    OVER = auto()


class Pass:
    """One pass, on the node that is writer of `term`, from `start_sectors` to its end.

    others: the listed running lives but this one, without the fenced. start_sectors: see
    :func:`resume_point`. merge_all: the pass was begun by another writer, whose slot may hold
    the only copy of merged bits. moves_alone: see :class:`Announcer`. propose: takes the changes
    to commit (retries are harmless).
    """

    def __init__(
        self,
        env: Env,
        limits: SyncLimits,
        state: ArrayState,
        others: frozenset[Life],
        start_sectors: int,
        merge_all: bool,
        *,
        term: int,
        propose: Callable[[ArrayChange], None],
        moves_alone: Callable[[Life], bool] = lambda _: False,
    ) -> None:
        sync = state.sync
        assert sync is not None and 0 <= start_sectors <= end_sectors(state)
        self._env, self._state = env, state
        self._propose = propose
        self._holds = Announcer(env, term, state, sync.serial, others, moves_alone)
        self.array, self.serial, self.kind = state.uuid, sync.serial, sync.kind
        self._end = end_sectors(state)
        self._complete = max(start_sectors, sync.position_sectors)
        self._phase = Phase.NEW
        dirty = tuple(slot for slot in state.slots if slot.dirty)
        everything = merge_all or self.kind is SyncKind.RECOVER
        self._to_merge = tuple(s for s in state.slots if s.life != env.me) if everything else dirty
        self._dirty = dirty if self.kind is not SyncKind.RECOVER else ()
        self._bits_from = self._complete
        if self._dirty:
            self._complete = 0  # they may have left bits below; only dirty ranges are copied
        self._to_zero = list(self._dirty)
        self._bits_asked = 0
        self._bits_set = False  # those of a resync by position, or there are none
        # known of all below `complete`
        self._mismatched = state.mismatched_sectors if self.kind in LOOKING else 0
        self._copying: tuple[int, int] | None = None
        self._clean_to = 0  # nothing is dirty between complete and here
        self._due_ms = 0  # no new window before
        self._pace = Pace(env, limits)
        self._started = False
        self._stopping = 0  # StopSync effects not yet answered
        self._tries = 0
        self._hold_tries = 0
        self._problem = ""
        self._reasons: set[str] = set()
        self._checkpoint_ms = env.now_ms
        self._checkpointed = self._checkpoint_asked = sync.position_sectors
        self._targets = self._copied_members(state)

    # --- what the composer asks ------------------------------------------------------------

    @property
    def others(self) -> frozenset[Life]:
        """The lives that this pass has hold their writes."""
        return frozenset(self._holds.others)

    @property
    def done(self) -> bool:
        """The pass has ended (by its commit, or its premise is gone) or was stopped."""
        return self._phase is Phase.OVER

    @property
    def copying(self) -> bool:
        """Whether a window is being copied right now."""
        return self._copying is not None

    @property
    def idle(self) -> bool:
        """Nothing is being copied and nothing will be before `resume`: a node may join."""
        resting = self._phase not in (Phase.CLOSING, Phase.ENDING)
        still = self._copying is None and not self._stopping
        return self.done or (bool(self._reasons) and resting and still)

    @property
    def still(self) -> bool:
        """Nothing is being copied, and what was begun has ended."""
        return self.done or (self._copying is None and not self._stopping)

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.array, self.serial, self._complete, self._mismatched)

    def progress(self) -> tuple[int, int]:
        """Complete and flushed below the first, of the second, in positions (sectors)."""
        return self._complete, self._end

    def report(self) -> HoldReport:
        """What this node knows, for its own Report; hold it here after `stop` (Holds.note)."""
        return HoldReport(self.array, self.serial, 0, 0, self._complete)

    def waiting(self) -> Wait | None:
        """What the pass waits for; None while it simply copies."""
        if self.done:
            return None
        if self._tries >= TRIES_MAX:
            text = f"failed {self._tries} times: {self._problem}; tried every minute"
            return self._wait(Cause.RETRY, text, "it succeeds, or the member at fault is failed")
        if self._reasons:
            text = f"waits: {'; '.join(sorted(self._reasons))}"
            return self._wait(Cause.CHANGE, text, "that is over", ())
        why = f": {self._problem}" * bool(self._problem)
        if self._phase is Phase.HALTED:
            return self._wait(Cause.RETRY, f"begins again soon{why}", "it has begun again")
        if not self._holds.confirmed and not self._copying:
            text = f"waits for holds: {self._holds.missing()}"
            ends = "all of them confirm that they hold their writes, or are fenced"
            return self._wait(Cause.HOLDS, text, ends, self._holds.awaited)
        if self._phase is Phase.RUNNING and self._env.now_ms < self._due_ms:
            text = f"pauses {self._due_ms - self._env.now_ms} ms: {self._why_paused()}"
            return self._wait(Cause.PACE, text, "the pause is over")
        words = {
            Phase.NEW: "has not begun",
            Phase.BITS: f"sets bits in the own slot{why}",
            Phase.CLOSING: f"is complete; {self._why_paused()}: asks for the last ones again",
            Phase.ZEROING: f"zeroes the slots of dead nodes{why}",
            Phase.ENDING: "is complete; its end is being committed",
            Phase.RELEASING: "has ended; one node after the other lets go of its hold",
        }
        if self._phase not in words:
            return None
        return self._wait(Cause.PASS, words[self._phase], "that is done")

    def _wait(self, cause: Cause, text: str, ends: str, by: tuple[str, ...] | None = None) -> Wait:
        where = f"{self.kind} at {self._complete} of {self._end} sectors"
        by = (self._env.name,) if by is None else by
        return Wait(self.array, cause, f"{where} {text}", by, ends)

    def _tell_waiting(self) -> None:
        wait = self.waiting()
        if wait is not None:
            self._env.notify("waiting", array=self._state.name, why=wait.text)

    def _why_paused(self) -> str:
        return "holds were not confirmed in time" if self._hold_tries else "speed limit"

    # --- the life of a pass ------------------------------------------------------------------

    def begin(self) -> None:
        assert self._phase is Phase.NEW
        self._notify("sync_started")
        self._holds.release_own(self._complete)
        self._set_bits()

    def suspend(self, why: str) -> None:
        """Begin no new window from here on (a node joins, a failure is being committed)."""
        self._reasons.add(why)
        self._advance()

    def resume(self, why: str) -> None:
        """Undo `suspend` for this reason."""
        self._reasons.discard(why)
        self._advance()

    def stop(self) -> None:
        """This node is writer no more: copy nothing, tell nobody anything."""
        if not self.done:
            self._stop_copying()
            self._finish()

    def on_state(self, state: ArrayState) -> None:
        """A newer state, committed and applied everywhere."""
        if self.done:
            return
        if self._env.me not in state.running:
            self.stop()
            return
        if self._phase is Phase.RELEASING:
            return
        if state.sync is None or state.sync.serial != self.serial:
            self._stop_copying()
            self._phase = Phase.RELEASING
            self._env.timers.cancel(self._key("go"))
            self._holds.release_whole(self._complete)
            self._notify("sync_finished")
            self._let_go()
            return
        self._state = state
        self._checkpointed = max(self._checkpointed, state.sync.position_sectors)
        targets = self._copied_members(state)
        if targets != self._targets:
            self._targets = targets
            self._tries = 0
            if self._phase in (Phase.BITS, Phase.RUNNING, Phase.HALTED):
                self._halt(0)  # what is copied, and where bits lie, has changed

    def on_gone(self, life: Life) -> None:
        """It is fenced, or has left in order: nobody waits for it any more."""
        if self._holds.gone(life):
            self._confirmed()
        self._let_go()

    def on_joined(self, life: Life) -> None:
        """It runs the array now: it holds what is announced before the next step.

        It may write as soon as it runs: `suspend` and wait for `idle` before the commit.
        """
        if not self.done:
            self._holds.joined(life)

    def on_restarted(self, life: Life) -> None:
        """Its daemon has started again and has reported: what was said to it is said once more."""
        if not self.done:
            self._holds.restarted(life, self._complete)

    def _copied_members(self, state: ArrayState) -> frozenset[DeviceId]:
        recovering = self.kind is SyncKind.RECOVER
        return frozenset(
            m.device
            for m in state.members
            if m.state is MemberState.IN_SYNC or (recovering and m.state is MemberState.RECOVERING)
        )

    def _let_go(self) -> None:
        if self._phase is Phase.RELEASING and self._holds.settled:
            self._finish()

    def _finish(self) -> None:
        self._phase = Phase.OVER
        self._env.timers.cancel_all("resync", self.array)

    def _notify(self, kind: str) -> None:
        self._env.notify(
            kind,
            array=self._state.name,
            sync=self.kind.value,
            serial=self.serial,
            complete_sectors=self._complete,
            end_sectors=self._end,
        )

    def _key(self, what: str) -> TimerKey:
        return ("resync", self.array, what)

    def on_timer(self, key: TimerKey) -> None:
        """A timer ("resync", array, what) of this array is due."""
        if self.done:
            return
        if key[2] == "hold":
            self._on_hold_timer()
        elif self._phase is Phase.RUNNING:
            self._advance()
        elif self._phase in (Phase.HALTED, Phase.BITS):
            self._set_bits()
        elif self._phase is Phase.CLOSING:
            self._close()
        elif self._phase is Phase.ZEROING:
            self._zero()
        elif self._phase is Phase.ENDING:
            self._propose_end()

    def _backoff_ms(self, tries: int) -> int:
        timing = self._env.timing
        return min(timing.retry_min_ms << min(tries, 20), timing.retry_max_ms)

    def _failed(self, problem: str) -> int:
        """Take note of a failure; returns after how many ms to try again."""
        self._problem = problem
        self._tries += 1
        if self._tries == TRIES_MAX:
            self._tell_waiting()
        stuck = self._tries >= TRIES_MAX
        return STUCK_RETRY_MS if stuck else self._backoff_ms(self._tries - 1)

    # --- bits --------------------------------------------------------------------------------

    def _set_bits(self) -> None:
        self._phase = Phase.BITS
        lo = self._bits_from = max(self._complete, self._bits_from)
        if lo < self._end and self.kind is SyncKind.RESYNC and not self._bits_set:
            self._bits_asked += 1
            self._env.emit(SetBits(self.array, self.serial, lo, self._end))
        elif self._by_bitmap:
            self._bits_asked += 1
            self._bits_set = True
            slots = tuple(slot.index for slot in self._to_merge)
            self._env.emit(MergeBits(self.array, self.serial, slots))
        else:
            self._start()

    @property
    def _by_bitmap(self) -> bool:
        """Whether clean ranges need no copying: not for a resync, nor for a new member."""
        if self.kind is not SyncKind.RECOVER:
            return bool(self._dirty)
        members = [m for m in self._state.members if m.state is MemberState.RECOVERING]
        return all(m.by_bitmap for m in members)

    def on_bits_set(self, event: BitsSet) -> None:
        if event.serial != self.serial or not self._bits_asked:
            return
        self._bits_asked -= 1
        if self._phase is not Phase.BITS or self._bits_asked:
            return
        if event.problem:
            delay_ms = self._failed(f"bits could not be set: {event.problem}")
            self._env.after(self._key("go"), delay_ms)
            return
        if self.kind is SyncKind.RESYNC and self._dirty and not self._bits_set:
            self._bits_set = True
            self._set_bits()
            return
        self._bits_set = False
        self._place(min(event.next_dirty_sectors, self._end))
        if self.kind is SyncKind.RESYNC and self._complete < self._bits_from:
            self._start()
        else:
            self._zero()

    def _place(self, first_dirty: int) -> None:
        """Begin where md may copy first (the rule at the head of this file)."""
        if self.kind is SyncKind.RESYNC:
            first_dirty = min(self._bits_from, first_dirty)  # beyond, all is to be copied
        elif self.kind is SyncKind.BITMAP and not redundant(self._state):
            first_dirty = self._end  # there is nothing to copy it to
        self._complete = self._clean_to = first_dirty
        if first_dirty < self._end:
            self._clean_to = chunk_start(self._state, first_dirty)
            self._complete = 0 if vacant_roles(self._state) else self._clean_to

    def _zero(self) -> None:
        self._phase = Phase.ZEROING
        if self._to_zero:
            slot = self._to_zero[0]
            self._env.emit(ZeroSlot(self.array, slot.life, slot.index))
        else:
            self._start()

    def on_slot_zeroed(self, event: SlotZeroed) -> None:
        if self._phase is not Phase.ZEROING or not self._to_zero:
            return
        if event.life != self._to_zero[0].life:
            return
        if event.problem:
            delay_ms = self._failed(f"slot of {event.life.node} not zeroed: {event.problem}")
            self._holds.release(self._complete)
            self._env.after(self._key("go"), delay_ms)
            return
        self._tries, self._problem = 0, ""
        del self._to_zero[0]
        self._zero()

    def _start(self) -> None:
        self._phase = Phase.RUNNING
        if self._complete < self._end and not self._started:
            self._started = True
            self._env.emit(StartSync(self.array, self.serial, self.kind, self._complete))
        self._advance()

    # --- windows -----------------------------------------------------------------------------

    def _advance(self) -> None:
        """Whatever comes next, as far as it may be done now."""
        if self._phase is not Phase.RUNNING:
            return
        if self._copying is not None:
            self._announce_ahead(self._copying)
        elif self._to_zero and self._complete >= self._bits_from:
            self._zero()
        elif self._reasons:
            self._holds.release(self._complete)
        elif self._env.now_ms < self._due_ms:
            self._holds.release(self._complete)
            self._env.timers.set(self._key("go"), self._due_ms)
        elif self._complete >= self._end:
            self._copied_all()
        else:
            self._next_window()

    def _next_window(self) -> None:
        lo, hi = self._holds.window
        if lo == hi or hi <= self._complete:
            self._announce(self._window_end(self._complete))
        elif lo < self._complete and not self._holds.confirmed:
            self._announce(hi)  # what is complete need not wait for the laggard
        if self._holds.confirmed:
            self._copy(self._holds.window[1])

    def _window_end(self, lo: int) -> int:
        return self._pace.window_end(self._state, max(lo, self._clean_to))

    def _announce(self, hi: int) -> None:
        self._holds.announce(self._complete, hi)
        self._pace.announced(self._complete, hi, self._holds.since_ms)

    def _copy(self, hi: int) -> None:
        lo_held, hi_held = self._holds.window
        assert self._holds.confirmed and lo_held <= self._complete < hi <= hi_held
        self._copying = (self._complete, hi)
        self._pace.begins()
        self._hold_tries = 0
        self._env.emit(LimitSync(self.array, self.serial, hi))
        self._announce_ahead(self._copying)

    def _announce_ahead(self, copying: tuple[int, int]) -> None:
        """Release what is complete; at full speed announce the next window as well."""
        lo, hi = self._holds.window
        ahead = hi
        if hi == copying[1] and self._pace.ahead and not self._reasons:
            ahead = self._window_end(hi)
        if (copying[0], ahead) != (lo, hi):
            self._announce(ahead)

    def on_sync_reached(self, event: SyncReached) -> None:
        if event.serial != self.serial or self._copying is None:
            return
        (lo, hi), self._copying = self._copying, None
        if self._phase is Phase.HALTED:
            self._rest()
        if self._phase is not Phase.RUNNING:
            return
        if problem := _step_problem(event, hi):
            self._halt(self._failed(problem))
            return
        self._tries, self._problem = 0, ""
        self._due_ms = self._pace.copied(lo, hi)
        self._complete = hi
        self._mismatched += event.mismatched_sectors
        self._skip(event.next_dirty_sectors)
        self._notify("sync_moved")
        self._checkpoint()
        self._advance()

    def _skip(self, next_dirty_sectors: int) -> None:
        """Leave out a clean range that reaches beyond what is announced.

        md passes through it unheld, and what a write of this node makes dirty there meanwhile
        it does not copy. But it does while a role is vacant: then the next window covers all.
        """
        resync_from = self._bits_from if self.kind is SyncKind.RESYNC else 0
        clean_to = min(next_dirty_sectors, self._end if self._by_bitmap else resync_from)
        if clean_to <= max(self._holds.window[1], self._complete):
            return
        if vacant_roles(self._state):
            self._clean_to = clean_to
        else:
            self._complete = clean_to

    def _checkpoint(self) -> None:
        now_ms = self._env.now_ms
        pending = self._checkpointed < self._checkpoint_asked
        wait_ms = self._env.timing.checkpoint_ms * (CHECKPOINT_PATIENCE if pending else 1)
        if now_ms - self._checkpoint_ms < wait_ms:
            return
        if self._checkpointed < self._complete < self._end:
            self._checkpoint_ms, self._checkpoint_asked = now_ms, self._complete
            self._propose(self.checkpoint())

    def _halt(self, delay_ms: int) -> None:
        """Stop copying; then, after a pause, begin again at what is complete."""
        self._phase = Phase.HALTED
        self._due_ms = self._env.now_ms + delay_ms
        self._stop_copying()
        self._rest()

    def _stop_copying(self) -> None:
        if self._started:
            self._started = False
            self._stopping += 1
            self._env.emit(StopSync(self.array, self.serial))

    def on_sync_stopped(self, event: SyncStopped) -> None:
        """No step of before is under way any more, answered or not."""
        if event.serial != self.serial:
            return
        self._stopping = max(self._stopping - 1, 0)
        if self._phase is Phase.HALTED and not self._stopping:
            self._copying = None
            self._rest()

    def _rest(self) -> None:
        """Holds are given up only when nothing is being copied any more."""
        if not self._stopping and self._copying is None:
            self._holds.release(self._complete)
            self._env.timers.set(self._key("go"), self._due_ms)

    # --- holds -------------------------------------------------------------------------------

    def on_hold_ack(self, sender: Life, msg: HoldAck) -> None:
        if self._holds.on_ack(sender, msg):
            self._confirmed()
        self._let_go()

    def _confirmed(self) -> None:
        if self._phase is Phase.CLOSING:
            self._propose_end()
        else:
            self._advance()

    def _on_hold_timer(self) -> None:
        may_let_go = self._copying is None and self._phase in (Phase.RUNNING, Phase.CLOSING)
        if self._holds.overdue and may_let_go:
            self._give_up_holds()
        else:
            self._holds.ask_again()

    def _give_up_holds(self) -> None:
        """Nobody's writes wait for a node that does not answer: let go, try again later."""
        self._tell_waiting()
        self._due_ms = self._env.now_ms + self._backoff_ms(self._hold_tries)
        self._hold_tries += 1
        if self._phase is Phase.CLOSING:
            self._holds.release_whole(self._complete)
        else:
            self._holds.release(self._complete)
        self._env.timers.set(self._key("go"), self._due_ms)

    # --- the end -----------------------------------------------------------------------------

    def _copied_all(self) -> None:
        self._stop_copying()
        self._env.timers.cancel(self._key("go"))
        self._hold_tries = 0
        if self.kind is SyncKind.RECOVER:
            self._close()
            return
        self._holds.release(self._complete)
        self._propose_end()

    def _close(self) -> None:
        """Everybody holds everything, this node as well, while the members are taken in."""
        self._phase = Phase.CLOSING
        self._holds.announce_whole(self._end)

    def _propose_end(self) -> None:
        """Proposed again with backoff until `on_state` shows the end."""
        self._phase = Phase.ENDING
        slots = tuple(slot.life for slot in self._dirty)
        self._propose(EndSync(self.array, self.serial, slots, self._mismatched))
        self._env.after(self._key("go"), self._env.timing.retry_max_ms)


def _step_problem(event: SyncReached, hi: int) -> str:
    """Why the window up to `hi` is not complete ('' if it is)."""
    if event.problem:
        return event.problem
    if event.position_sectors != hi:
        return f"copied up to {event.position_sectors} instead of {hi}"
    if event.copied_sectors != event.planned_sectors:
        return f"{event.copied_sectors} sectors copied of {event.planned_sectors} planned"
    return ""
