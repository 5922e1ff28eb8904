"""The arrays of this node over stops and starts: what was said of them last, and who stopped them.

An array may be set up again within the life of this process: after a stop that was prepared and
never committed, or when a state could not be applied at once. Rules of this file:

* holds, pinned reads and held writes are in force again before anybody can use it; what was
  inherited from an earlier process is held whole until something else is asked for;
* it goes on writing by itself only if it was activated before, and no member was failed since;
* prepared to be stopped, it stays stopped whatever else its writer commits, until that writer
  commits the stop, gives it up or asks for new devices, or a later term commits anything;
* prepared to be read-only, it admits no write, likewise;
* what stays down although it is listed is tried again, later each time.

All but what is said to be immediate runs in the array's own queue, one after the other.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from mdcluster.core.geometry import array_size_sectors
from mdcluster.core.model import ArrayId, ArrayState, DeviceId, Entry, MemberState
from mdcluster.errors import MdclusterError
from mdcluster.md.driver import MdDriver
from mdcluster.runtime.ports import Applier
from mdcluster.runtime.queues import Work

log = logging.getLogger(__name__)

FORESEEN: Final = (MdclusterError, OSError)
"""What work on arrays and members may end in without being a bug."""
STOPS_MAX: Final = 1024
AGAIN_MIN_S: Final = 0.2
AGAIN_MAX_S: Final = 30.0
AGAIN_TRIES: Final = 100


def text_of(error: BaseException) -> str:
    """Never empty: an empty text stands for no problem."""
    return str(error) or type(error).__name__


@dataclass(slots=True, eq=False)
class _Standing:
    """One array that this node runs, or is about to run or to stop."""

    state: ArrayState | None = None  # the last one that was to be applied
    held_sectors: tuple[int, int] | None = (0, 0)  # None: all there are
    pinned: bool = True
    activated: bool = False
    clean: bool = True  # no stop so far has left a write unfinished
    stopped_by: set[int] = field(default_factory=set)  # ops of prepared stops
    shut_by: set[int] = field(default_factory=set)  # ops that it is to be read-only for
    tries: int = 0
    again: asyncio.TimerHandle | None = None

    def note(self, state: ArrayState) -> None:
        """The next state: if a member is failed by it, writes wait for the release."""
        if self.state is not None and _good(self.state) - _good(state):
            self.activated = False
        self.state = state

    @property
    def wanted(self) -> ArrayState | None:
        """The state, read-only if that was prepared."""
        if self.state is None or not self.shut_by:
            return self.state
        return replace(self.state, readonly=True)


class StandingArrays:
    """For one executor. put: queue work behind what is under way in an array."""

    def __init__(
        self, driver: MdDriver, applier: Applier, put: Callable[[ArrayId, Work], None]
    ) -> None:
        self._driver = driver
        self._applier = applier
        self._put = put
        self._standing: dict[ArrayId, _Standing] = {}
        self._stops: dict[int, ArrayId] = {}  # prepared stops by op, refused ones included
        self.holding_all = False

    def inherit(self, array: ArrayId) -> None:
        """Immediate: the driver has taken it over, and holds all of it."""
        self._standing[array] = _Standing(held_sectors=None)

    def close(self) -> None:
        """Immediate: try nothing again."""
        for array in list(self._standing):
            self._drop(array)

    def runs(self, array: ArrayId) -> bool:
        return array in self._driver.arrays()

    # --- what was said last ----------------------------------------------------------------

    def note_hold(self, array: ArrayId, lo_sectors: int, hi_sectors: int) -> None:
        """The last range that is to be held, whether the array runs or not."""
        if one := self._standing.get(array):
            one.held_sectors = (lo_sectors, hi_sectors)

    async def pin_reads(self, array: ArrayId, on: bool) -> None:
        if one := self._standing.get(array):
            one.pinned = on
        if self.runs(array):
            await self._driver.pin_reads(array, on)

    async def activate(self, array: ArrayId) -> None:
        if one := self._standing.get(array):
            one.activated = True
        if self.runs(array):
            await self._driver.activate(array)

    # --- states ----------------------------------------------------------------------------

    async def apply(self, entry: Entry) -> None:
        """One of FORESEEN if it cannot be applied now."""
        state = entry.state
        assert isinstance(state, ArrayState)
        one = self._standing.setdefault(state.uuid, _Standing())
        one.note(state)
        if state.running and any(_term_of(op) >= entry.stamp.term for op in one.stopped_by):
            return  # it does not run: all there is to apply is what it will be when it does
        self._forget_stops(state.uuid)
        if state.readonly or not any(_term_of(op) >= entry.stamp.term for op in one.shut_by):
            self._forget(one.shut_by)
        await self._bring(one)

    async def _bring(self, one: _Standing) -> None:
        """Make the driver follow the state; started again, it goes on where it was."""
        state = one.wanted
        assert state is not None
        array, ran = state.uuid, self.runs(state.uuid)
        await self._applier.apply(state, self._before_run)
        if not self.runs(array):
            self._drop(array)
        elif one.activated and not ran:
            await self._driver.activate(array)
        one.tries = 0

    async def _before_run(self, array: ArrayId) -> None:
        """Nobody can use it yet; a HoldAll that comes from now on finds it among the arrays."""
        one = self._standing[array]
        assert one.state is not None
        lo_sectors, hi_sectors = one.held_sectors or (0, array_size_sectors(one.state))
        await self._driver.pin_reads(array, one.pinned)
        await self._driver.hold(array, lo_sectors, hi_sectors)
        await self._driver.hold_all(array, self.holding_all)

    async def leave(self, array: ArrayId, *, force: bool) -> bool:
        """True if every write was finished everywhere. Nothing is set up again afterwards.

        Without force: ArrayBusyError, and nothing is changed, while it is in use.
        """
        one = self._standing.get(array)
        clean = await self._applier.leave(array, force=force)
        self._drop(array)
        return clean and (one is None or one.clean)

    def _drop(self, array: ArrayId) -> None:
        one = self._standing.pop(array, None)
        if one is not None and one.again is not None:
            one.again.cancel()
        for op in [op for op, stopped in self._stops.items() if stopped == array]:
            del self._stops[op]

    # --- prepared stops --------------------------------------------------------------------

    def expect_stop(self, op: int, array: ArrayId) -> bool:
        """Immediate: `forget_stop` will find this op. False if there are too many."""
        if op not in self._stops and len(self._stops) >= STOPS_MAX:
            return False
        self._stops[op] = array
        return True

    async def stop(self, op: int, array: ArrayId) -> str:
        """Why it cannot be stopped, or '': then it stays stopped for this op."""
        one = self._standing.setdefault(array, _Standing())
        if self.runs(array):
            try:
                clean = await self._driver.stop(array)
            except FORESEEN as error:
                return text_of(error)
            if not clean:
                one.clean = False
                await self._restore(array)
                return "a member failed while the array was being stopped; try again"
        one.stopped_by.add(op)
        return ""

    async def shut(self, op: int, array: ArrayId) -> str:
        """Why writes cannot end, or '': then none is admitted for this op."""
        one = self._standing.setdefault(array, _Standing())
        if self.runs(array):
            try:
                await self._driver.set_read_only(array, True)
            except FORESEEN as error:
                return text_of(error)
        one.shut_by.add(op)
        return ""

    def forget_stop(self, op: int) -> None:
        """Immediate: what this op stopped is set up again, unless another stopped it, too.

        And what it made read-only is written to again.
        """
        array = self._stops.pop(op, None)
        if array is not None:
            self._put(array, partial(self._resume, array, op))

    async def _resume(self, array: ArrayId, op: int) -> None:
        if one := self._standing.get(array):
            one.stopped_by.discard(op)
            one.shut_by.discard(op)
            await self._restore(array)

    async def void_stops(self, array: ArrayId) -> None:
        """Its writer goes on with it: a stop prepared before was committed, or given up."""
        self._forget_stops(array)

    def _forget_stops(self, array: ArrayId) -> None:
        if one := self._standing.get(array):
            self._forget(one.stopped_by)

    def _forget(self, ops: set[int]) -> None:
        for op in ops:
            self._stops.pop(op, None)
        ops.clear()

    async def _restore(self, array: ArrayId) -> None:
        """Set it up again as it was last committed; if that fails, try later."""
        one = self._standing.get(array)
        if one is None or one.wanted is None or one.stopped_by:
            return
        try:
            if not self.runs(array):
                await self._bring(one)
            elif self._driver.status(array).shut and not one.wanted.readonly:
                await self._driver.set_read_only(array, False)
        except FORESEEN as error:
            self._try_again(array, one, text_of(error))

    def _try_again(self, array: ArrayId, one: _Standing, why: str) -> None:
        one.tries += 1
        if one.tries >= AGAIN_TRIES:
            log.error(
                "array %s: not set up again after %d tries: %s; stop it and assemble it again",
                array,
                one.tries,
                why,
            )
            return
        delay_s = min(AGAIN_MIN_S * 2 ** min(one.tries - 1, 20), AGAIN_MAX_S)
        log.error("array %s: not set up again, tried in %g s: %s", array, delay_s, why)
        restore = partial(self._restore, array)
        loop = asyncio.get_running_loop()
        one.again = loop.call_later(delay_s, self._put, array, restore)


def _good(state: ArrayState) -> set[DeviceId]:
    return {m.device for m in state.members if m.state is not MemberState.FAULTY}


def _term_of(op: int) -> int:
    """The term of the writer that gave this number (core/rounds.py)."""
    return op >> 32
