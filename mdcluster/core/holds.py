"""What this node holds for the writer's resync, and what it knows of it.

Rules of this file:

* Announcements are ordered by (term, announcement serial); an older one is ignored, however
  late or often it arrives; the same again is confirmed again.
* A hold is confirmed only by the outcome of the very last HoldRange asked of the driver, and
  only if no write is held by a failure there (else 'failure pending'; asked again, it is
  sampled again).
* Holds outlive their writer: only a newer announcement moves them, or the released end of
  the pass. They are never dropped on a time-out. Where md moves a hold at some risk
  (`moves_alone`) not even the end moves it: the writer says when it is this node's turn.
* What the process before this one held is not known: an array that it left running is held
  whole, as if by an announcement older than any.
"""

from dataclasses import dataclass, replace

from mdcluster.core.effects import HoldRange
from mdcluster.core.env import Env
from mdcluster.core.events import Held
from mdcluster.core.messages import Hold, HoldAck, HoldReport
from mdcluster.core.model import ARRAYS_MAX, ArrayId, ArrayState, Life

FAILURE_PENDING = "failure pending"

WHOLE_SECTORS = 1 << 62
"""More than any array has."""

_NUMBER_BITS = 42
"""Announcements are numbered from the writer's clock in ms on: 139 years, 2 million passes."""


def announcement(serial: int, number: int) -> int:
    """The serial that Hold and HoldAck carry: the pass, then the number of the announcement.

    Without it a late duplicate of a release could end a hold that was confirmed since.
    """
    assert 0 <= number < 1 << _NUMBER_BITS
    return serial << _NUMBER_BITS | number


def pass_of(announced: int) -> int:
    """The serial of the pass that an announcement belongs to."""
    return announced >> _NUMBER_BITS


@dataclass(frozen=True, slots=True)
class _Announced:
    writer: Life
    hold: Hold
    complete_sectors: int  # the highest told of this pass
    confirmed: bool = False
    inherited: bool = False  # of which pass, if any, nobody here knows

    @property
    def key(self) -> tuple[int, int]:
        return self.hold.term, self.hold.serial


class Holds:
    """The follower's side of every pass; one per node. The writer keeps its knowledge here too."""

    def __init__(self, env: Env, *, moves_alone: bool = False) -> None:
        self._env = env
        self._moves_alone = moves_alone
        self._announced: dict[ArrayId, _Announced] = {}
        self._ended: dict[ArrayId, int] = {}  # the last pass known to be over
        self._asked: dict[ArrayId, int] = {}  # HoldRange effects not yet answered

    def inherit(self, array: ArrayId) -> None:
        """md runs it since before this process began; all of it is held."""
        whole = Hold(0, array, 0, 0, WHOLE_SECTORS, 0)
        self._announced[array] = _Announced(self._env.me, whole, 0, inherited=True)

    def on_hold(self, sender: Life, msg: Hold) -> None:
        """An announcement for an array that runs here, from the writer of msg.term."""
        if not 0 <= msg.lo_sectors <= msg.hi_sectors or msg.complete_sectors < 0:
            return
        over = pass_of(msg.serial) <= self._ended.get(msg.array, 0)
        if over and msg.lo_sectors < msg.hi_sectors:
            return
        present = self._announced.get(msg.array)
        if present is None and over:
            if not self._asked.get(msg.array, 0):  # else asked again, it is moved by then
                self._ack(_Announced(sender, msg, msg.complete_sectors), "")
        elif present is None:
            if len(self._announced) < ARRAYS_MAX:
                self._take(_Announced(sender, msg, msg.complete_sectors))
        elif (msg.term, msg.serial) > present.key:
            same_pass = pass_of(msg.serial) == pass_of(present.hold.serial)
            known = present.complete_sectors if same_pass else 0
            self._take(_Announced(sender, msg, max(known, msg.complete_sectors)))
        elif msg == present.hold:
            self._again(present)

    def _take(self, announced: _Announced) -> None:
        self._announced[announced.hold.array] = announced
        self._ask(announced.hold.array, announced.hold.lo_sectors, announced.hold.hi_sectors)

    def _again(self, present: _Announced) -> None:
        hold = present.hold
        if self._asked.get(hold.array, 0):
            return  # the answer is on its way
        if present.confirmed:
            self._ack(present, "")
        else:
            self._ask(hold.array, hold.lo_sectors, hold.hi_sectors)

    def _ask(self, array: ArrayId, lo_sectors: int, hi_sectors: int) -> None:
        self._asked[array] = self._asked.get(array, 0) + 1
        self._env.emit(HoldRange(array, lo_sectors, hi_sectors))

    def on_held(self, event: Held) -> None:
        """The driver has carried out a HoldRange (they complete in the order asked)."""
        left = max(self._asked.get(event.array, 0) - 1, 0)
        self._asked[event.array] = left
        present = self._announced.get(event.array)
        if present is None or left:
            return
        hold = present.hold
        if (event.lo_sectors, event.hi_sectors) != (hold.lo_sectors, hold.hi_sectors):
            return
        problem = event.problem or ("" if event.clean else FAILURE_PENDING)
        present = replace(present, confirmed=not problem)
        self._announced[event.array] = present
        self._ack(present, problem)

    def _ack(self, present: _Announced, problem: str) -> None:
        hold = present.hold
        ack = HoldAck(hold.term, hold.array, hold.serial, hold.lo_sectors, hold.hi_sectors, problem)
        self._env.send(present.writer.node, ack)

    def note(self, report: HoldReport) -> None:
        """The writer's own pass has stopped here: keep what it knew, for the next writer."""
        present = self._announced.get(report.array)
        if present is None or pass_of(present.hold.serial) < report.serial:
            told = announcement(report.serial, 0)
            held = present.hold if present else Hold(0, report.array, 0, 0, 0, 0)
            hold = replace(held, serial=told, complete_sectors=report.complete_sectors)
            self._announced[report.array] = _Announced(
                self._env.me, hold, report.complete_sectors, confirmed=True
            )
        elif pass_of(present.hold.serial) == report.serial:
            complete = max(present.complete_sectors, report.complete_sectors)
            self._announced[report.array] = replace(present, complete_sectors=complete)

    @property
    def moving(self) -> bool:
        """Whether a hold is being moved right now, so that no other node should."""
        return self._moves_alone and any(self._asked.values())

    def reports(self) -> tuple[HoldReport, ...]:
        """What stands in this node's Report: holds in array sectors, complete as a position."""
        return tuple(
            HoldReport(
                array,
                pass_of(held.hold.serial),
                held.hold.lo_sectors,
                held.hold.hi_sectors,
                held.complete_sectors,
            )
            for array, held in sorted(self._announced.items())
        )

    def left(self, array: ArrayId) -> None:
        """The array was stopped here: its md holds nothing any more."""
        self._announced.pop(array, None)
        self._asked.pop(array, None)

    def on_state(self, state: ArrayState) -> None:
        """A state that is released (all have applied it), or that stopped the array here.

        Only then: a follower takes a recovered member in while all others still hold.
        """
        runs_here = state.active and self._env.me in state.running
        going = state.sync.serial if state.sync is not None and runs_here else None
        ended = state.last_serial if going is None else going - 1
        if runs_here:
            self._ended[state.uuid] = max(self._ended.get(state.uuid, 0), ended)
        present = self._announced.get(state.uuid)
        if present is None:
            return
        if runs_here and pass_of(present.hold.serial) > ended:
            return
        if present.inherited and going is not None:
            return  # perhaps of the pass that is going: its writer says what is to be held
        holds = runs_here and present.hold.lo_sectors < present.hold.hi_sectors
        if holds and self._moves_alone:
            return
        del self._announced[state.uuid]
        if holds:
            self._ask(state.uuid, 0, 0)
