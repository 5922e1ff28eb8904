"""Carries out what takes time: the driver, the members, fencing. Each ends as an event.

Order (queues by key; work of different keys runs side by side):

* per array, one after the other: Apply, LeaveArray, PrepareDevices that stop and what forgets
  them, Unblock, SampleStates, Activate, PinReads, SetBits, MergeBits, ZeroSlot, StartSync,
  StopSync;
* HoldRange and LimitSync start in that order, too, but what is behind does not wait for
  their end: a hold drains writes that may need the next Apply, a copy runs for long;
* superblocks, probes, prepare rounds and fencing have queues of their own: a slow device
  delays only what depends on it.

Whatever has an answer gets exactly one, also when the work ends in an error: the core counts.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from mdcluster.core.effects import (
    Activate,
    Apply,
    DropNonces,
    Effect,
    EraseSuperblock,
    Fence,
    ForgetPrepared,
    HoldAll,
    HoldRange,
    LeaveArray,
    LimitSync,
    MergeBits,
    PinReads,
    PrepareDevices,
    ProbeMember,
    SampleStates,
    SetBits,
    StartSync,
    StopSync,
    Unblock,
    WriteNonces,
    WriteSuperblocks,
    ZeroSlot,
)
from mdcluster.core.events import (
    Applied,
    ArrayKept,
    ArrayLeft,
    BitsSet,
    Erased,
    Event,
    Held,
    MemberFailed,
    NoncesWritten,
    Prepared,
    Probed,
    Sampled,
    SlotZeroed,
    SuperblocksWritten,
    SyncReached,
    SyncStopped,
)
from mdcluster.core.model import ArrayId, DeviceId, Doubt
from mdcluster.md.driver import ArrayStatus, HungError, MdDriver
from mdcluster.runtime.ports import Applier, Fencing, MemberPort
from mdcluster.runtime.queues import Queues, Work
from mdcluster.runtime.standing import FORESEEN, StandingArrays, text_of

log = logging.getLogger(__name__)

Feed = Callable[[Event], None]
E = TypeVar("E")

STOP_AGAIN_MIN_S = 0.1
STOP_AGAIN_MAX_S = 5.0


class Executor:
    """Effects in by :meth:`start`, events out by `feed`. Lives in the event loop."""

    def __init__(
        self,
        driver: MdDriver,
        members: MemberPort,
        applier: Applier,
        fencing: Fencing,
        feed: Feed,
        broken: Callable[[BaseException], None],
        *,
        inherited: Iterable[ArrayId] = (),
    ) -> None:
        """inherited: arrays that the driver took over from an earlier process."""
        self._driver = driver
        self._members = members
        self._fencing = fencing
        self._feed = feed
        self._queues = Queues(broken)
        self._arrays = StandingArrays(driver, applier, self._queues.put)
        for array in inherited:
            self._arrays.inherit(array)
        self._not_started: dict[ArrayId, str] = {}  # why the last StartSync failed
        self._stops: dict[ArrayId, int] = {}  # StopSyncs so far: a LimitSync before one is void
        self._starters = self._table()
        driver.listen(self)

    async def close(self) -> None:
        self._arrays.close()
        await self._queues.close()

    def member_failed(
        self, array: ArrayId, device: DeviceId, why: str, doubt: Doubt = Doubt.NONE
    ) -> None:
        """Called by the driver (DriverEvents)."""
        self._feed(MemberFailed(array, device, why, doubt))

    def start(self, effect: Effect) -> None:
        """Begin, or queue, one effect. `QueueFullError` if too much waits."""
        starter = self._starters.get(type(effect))
        if starter is None:
            raise TypeError(f"no effect for the executor: {effect!r}")
        starter(effect)

    def _table(self) -> dict[type[Effect], Callable[[Any], None]]:
        """How each effect is started; see the rules at the head."""
        members = self._members
        return {
            Apply: lambda e: self._queues.put(e.entry.key, partial(self._apply, e)),
            LeaveArray: self._in_array(self._leave),
            Unblock: self._in_array(self._unblock),
            SampleStates: self._in_array(self._sample),
            Activate: self._in_array(self._activate),
            PinReads: self._in_array(self._pin_reads),
            SetBits: self._in_array(self._set_bits),
            MergeBits: self._in_array(self._merge_bits),
            ZeroSlot: lambda e: self._put_event(
                e.array, members.zero_slot, e, lambda why: SlotZeroed(e.array, e.life, why)
            ),
            StartSync: self._in_array(self._start_sync),
            StopSync: self._begin_stop_sync,
            LimitSync: self._begin_limit_sync,
            HoldRange: self._begin_hold,
            HoldAll: self._hold_all,
            WriteSuperblocks: lambda e: self._put_event(
                ("meta", e.entry.key),
                members.write_superblocks,
                e,
                lambda _: SuperblocksWritten(ArrayId(e.entry.key), e.entry.stamp, (), ()),
            ),
            WriteNonces: lambda e: self._put_event(
                ("nonces", e.op),
                members.write_nonces,
                e,
                lambda why: NoncesWritten(e.op, why, ()),
            ),
            DropNonces: lambda e: self._queues.put(("nonces", e.op), partial(self._drop_nonces, e)),
            EraseSuperblock: lambda e: self._put_event(
                ("erase", e.op), members.erase, e, lambda why: Erased(e.op, why)
            ),
            PrepareDevices: self._begin_prepare,
            ForgetPrepared: lambda e: self._arrays.forget_stop(e.op),
            ProbeMember: lambda e: self._put_event(
                ("probe", e.array, e.device), members.probe, e, lambda why: Probed(e.op, why)
            ),
            Fence: self._begin_fence,
        }

    def _in_array(self, work: Callable[[E], Awaitable[None]]) -> Callable[[Any], None]:
        def put(effect: Any) -> None:
            self._queues.put(effect.array, partial(work, effect))

        return put

    def _put_event(
        self,
        key: Hashable,
        call: Callable[[E], Awaitable[Event]],
        effect: E,
        failed: Callable[[str], Event],
    ) -> None:
        """Work whose result is the event itself; failed: the event if it ends in an error."""

        async def work() -> None:
            try:
                event = await call(effect)
            except FORESEEN as error:
                log.error("%s: %s", type(effect).__name__, text_of(error))
                event = failed(text_of(error))
            self._feed(event)

        self._queues.put(key, work)

    def _launch(self, array: ArrayId, key: Hashable, work: Work) -> None:
        """Start in the array's order, end in an order of its own."""

        async def start() -> None:
            self._queues.put(key, work)

        self._queues.put(array, start)

    def _runs(self, array: ArrayId) -> bool:
        return self._arrays.runs(array)

    # --- states ------------------------------------------------------------------------------

    async def _apply(self, effect: Apply) -> None:
        entry, problem = effect.entry, ""
        try:
            await self._arrays.apply(entry)
        except FORESEEN as error:
            problem = text_of(error)
        self._feed(Applied(entry.key, entry.stamp, problem))

    async def _leave(self, effect: LeaveArray) -> None:
        """An array that cannot be stopped by force takes the node with it: others count on it."""
        try:
            clean = await self._arrays.leave(effect.array, force=effect.force)
        except FORESEEN as error:
            if effect.force:
                raise
            self._feed(ArrayKept(effect.array, text_of(error)))
            return
        self._feed(ArrayLeft(effect.array, clean))

    def _begin_prepare(self, effect: PrepareDevices) -> None:
        op, array = effect.op, effect.array
        if not effect.stopping and not effect.readonly:
            self._queues.put(array, partial(self._arrays.void_stops, array))
            self._put_event(
                ("prepare", op),
                self._members.prepare,
                effect,
                lambda why: Prepared(op, why, (), ()),
            )
        elif self._arrays.expect_stop(op, array):
            self._queues.put(array, partial(self._prepare_stop, effect))
        else:
            self._feed(Prepared(op, "too many stops are being prepared", (), ()))

    async def _prepare_stop(self, effect: PrepareDevices) -> None:
        prepare = self._arrays.shut if effect.readonly else self._arrays.stop
        problem = await prepare(effect.op, effect.array)
        self._feed(Prepared(effect.op, problem, (), ()))

    async def _drop_nonces(self, effect: DropNonces) -> None:
        """Without an answer: what is left behind is no superblock, and is written over."""
        try:
            await self._members.drop_nonces(effect)
        except FORESEEN as error:
            log.error("nonces are not taken back: %s", text_of(error))

    async def _unblock(self, effect: Unblock) -> None:
        for device in effect.devices if self._runs(effect.array) else ():
            with self._logged("unblock", effect.array):
                await self._driver.unblock(effect.array, device)

    async def _sample(self, effect: SampleStates) -> None:
        array = effect.array
        what = held_by_failure(self._driver.status(array)) if self._runs(array) else ""
        self._feed(Sampled(array, not what, what))

    async def _activate(self, effect: Activate) -> None:
        with self._logged("activate", effect.array):
            await self._arrays.activate(effect.array)

    # --- holds and reads ---------------------------------------------------------------------

    def _hold_all(self, effect: HoldAll) -> None:
        """At once: not behind anything that is under way in an array."""
        self._arrays.holding_all = effect.on
        for array in self._driver.arrays():
            self._queues.put((array, "all"), partial(self._hold_whole, array))

    async def _hold_whole(self, array: ArrayId) -> None:
        """As it was said last: the array may have been started since this was queued."""
        with self._logged("hold all writes", array):
            if self._runs(array):
                await self._driver.hold_all(array, self._arrays.holding_all)

    def _begin_hold(self, effect: HoldRange) -> None:
        array = effect.array

        async def start() -> None:
            self._arrays.note_hold(array, effect.lo_sectors, effect.hi_sectors)
            self._queues.put((array, "hold"), partial(self._hold, effect))

        self._queues.put(array, start)

    async def _hold(self, effect: HoldRange) -> None:
        """An array that does not run here holds every range; it is remembered for its start."""
        array, clean, problem, hung = effect.array, True, "", False
        try:
            if self._runs(array):
                await self._driver.hold(array, effect.lo_sectors, effect.hi_sectors)
                clean = self._driver.status(array).clean
        except FORESEEN as error:
            clean, problem, hung = False, text_of(error), isinstance(error, HungError)
        self._feed(Held(array, effect.lo_sectors, effect.hi_sectors, clean, problem, hung))

    async def _pin_reads(self, effect: PinReads) -> None:
        with self._logged("pin reads", effect.array):
            await self._arrays.pin_reads(effect.array, effect.on)

    # --- bits --------------------------------------------------------------------------------

    async def _set_bits(self, effect: SetBits) -> None:
        array, problem, dirty = effect.array, "", 0
        try:
            await self._driver.set_bits(array, effect.lo_sectors, effect.hi_sectors)
            dirty = self._driver.next_dirty(array, 0)
        except FORESEEN as error:
            problem = text_of(error)
        self._feed(BitsSet(array, effect.serial, dirty, problem))

    async def _merge_bits(self, effect: MergeBits) -> None:
        array, problem, dirty = effect.array, "", 0
        try:
            offsets = self._members.slot_offsets(array, effect.slots)
            await self._driver.merge_bits(array, offsets)
            dirty = self._driver.next_dirty(array, 0)
        except FORESEEN as error:
            problem = text_of(error)
        self._feed(BitsSet(array, effect.serial, dirty, problem))

    # --- syncs -------------------------------------------------------------------------------

    async def _start_sync(self, effect: StartSync) -> None:
        """Without an answer; if it did not begin, the first LimitSync tells why."""
        self._not_started.pop(effect.array, None)
        try:
            await self._driver.start_sync(effect.array, effect.kind, effect.position_sectors)
        except FORESEEN as error:
            log.error("array %s: start the resync: %s", effect.array, text_of(error))
            self._not_started[effect.array] = text_of(error)

    def _begin_limit_sync(self, effect: LimitSync) -> None:
        copy = partial(self._limit_sync, effect, self._stops.get(effect.array, 0))
        self._launch(effect.array, (effect.array, "sync"), copy)

    async def _limit_sync(self, effect: LimitSync, stops: int) -> None:
        array, serial = effect.array, effect.serial
        if self._stops.get(array, 0) != stops:
            return  # a StopSync came after it
        if array in self._not_started:
            self._feed(SyncReached(array, serial, 0, 0, 0, 0, self._not_started[array]))
            return
        try:
            step = await self._driver.limit_sync(array, effect.hi_sectors)
        except FORESEEN as error:
            self._feed(SyncReached(array, serial, 0, 0, 0, 0, text_of(error)))
            return
        self._feed(
            SyncReached(
                array,
                serial,
                step.position_sectors,
                step.planned_sectors,
                step.copied_sectors,
                step.next_dirty_sectors,
                "",
                step.mismatched_sectors,
            )
        )

    def _begin_stop_sync(self, effect: StopSync) -> None:
        self._stops[effect.array] = self._stops.get(effect.array, 0) + 1
        self._queues.put(effect.array, partial(self._stop_sync, effect))

    async def _stop_sync(self, effect: StopSync) -> None:
        """Answered only when nothing is copied any more: others wait for that."""
        again_s = STOP_AGAIN_MIN_S
        while self._runs(effect.array):
            try:
                await self._driver.stop_sync(effect.array)
                break
            except FORESEEN as error:
                log.error("array %s: stop the resync: %s", effect.array, text_of(error))
            await asyncio.sleep(again_s)
            again_s = min(2 * again_s, STOP_AGAIN_MAX_S)
        self._not_started.pop(effect.array, None)
        await self._queues.idle((effect.array, "sync"))
        self._feed(SyncStopped(effect.array, effect.serial))

    # --- fencing -----------------------------------------------------------------------------

    def _begin_fence(self, effect: Fence) -> None:
        """The core asks again while it waits; once at a time is enough."""
        key = ("fence", effect.life)
        if not self._queues.busy(key):
            self._queues.put(key, partial(self._fence, effect))

    async def _fence(self, effect: Fence) -> None:
        self._feed(await self._fencing.fence(effect))

    @contextmanager
    def _logged(self, what: str, array: ArrayId) -> Iterator[None]:
        """For what has no answer: the core sees that it failed by what comes next."""
        try:
            yield
        except FORESEEN as error:
            log.error("array %s: %s: %s", array, what, text_of(error))


def held_by_failure(status: ArrayStatus) -> str:
    """What stands against `active` ('' for nothing): DESIGN.md, Faults.

    Not write-pending itself, which is what `active` ends; nor I/O on committed-faulty members.
    """
    for member in status.members:
        if member.blocked or (member.unacknowledged_errors and not member.faulty):
            return f"member {member.device} is blocked by a failure that is not released"
    if not status.thread_idle:
        return "an access is being repeated"
    if status.writes_in_flight:
        return f"{status.writes_in_flight} write(s) in flight on remaining members"
    return ""
