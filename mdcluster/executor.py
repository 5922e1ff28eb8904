"""Carries out what takes time: the driver, the members, fencing. Each ends as an event.

Order (queues by key; work of different keys runs side by side):

* per array, one after the other: Apply, LeaveArray, Unblock, SampleStates, Activate,
  PinReads, SetBits, MergeBits, ZeroSlot, StartSync, StopSync;
* HoldRange and LimitSync start in that order, too, but what is behind does not wait for
  their end: a hold drains writes that may need the next Apply, a copy runs for long;
* superblocks, probes, prepare rounds and fencing have queues of their own: a slow device
  delays only what depends on it.
"""

import logging
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from mdcluster.core.effects import (
    Activate,
    Apply,
    DropNonces,
    Effect,
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
    ArrayLeft,
    BitsSet,
    Event,
    Held,
    MemberFailed,
    Prepared,
    Sampled,
    SyncReached,
    SyncStopped,
)
from mdcluster.core.model import ArrayId, ArrayState, DeviceId
from mdcluster.errors import MdclusterError
from mdcluster.md.driver import ArrayStatus, MdDriver
from mdcluster.ports import Applier, Fencing, MemberPort
from mdcluster.queues import Queues, Work

log = logging.getLogger(__name__)

Feed = Callable[[Event], None]
E = TypeVar("E")


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
    ) -> None:
        self._driver = driver
        self._members = members
        self._applier = applier
        self._fencing = fencing
        self._feed = feed
        self._queues = Queues(broken)
        self._holding_all = False
        self._stops: dict[ArrayId, int] = {}  # StopSyncs so far: a LimitSync before one is void
        self._starters = self._table()
        driver.listen(self)

    async def close(self) -> None:
        await self._queues.close()

    def member_failed(self, array: ArrayId, device: DeviceId, why: str) -> None:
        """Called by the driver (DriverEvents)."""
        self._feed(MemberFailed(array, device, why))

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
            ZeroSlot: lambda e: self._put_event(e.array, members.zero_slot, e),
            StartSync: self._in_array(self._start_sync),
            StopSync: self._begin_stop_sync,
            LimitSync: self._begin_limit_sync,
            HoldRange: lambda e: self._launch(e.array, (e.array, "hold"), partial(self._hold, e)),
            HoldAll: self._hold_all,
            WriteSuperblocks: lambda e: self._put_event(
                ("meta", e.entry.key), members.write_superblocks, e
            ),
            WriteNonces: lambda e: self._put_event(("nonces", e.op), members.write_nonces, e),
            DropNonces: lambda e: self._queues.put(
                ("nonces", e.op), partial(members.drop_nonces, e)
            ),
            PrepareDevices: lambda e: self._queues.put(
                ("prepare", e.op), partial(self._prepare, e)
            ),
            ForgetPrepared: lambda e: self._queues.put(
                ("prepare", e.op), partial(members.forget, e)
            ),
            ProbeMember: lambda e: self._put_event(("probe", e.array, e.device), members.probe, e),
            Fence: self._begin_fence,
        }

    def _in_array(self, work: Callable[[E], Awaitable[None]]) -> Callable[[Any], None]:
        def put(effect: Any) -> None:
            self._queues.put(effect.array, partial(work, effect))

        return put

    def _put_event(self, key: Hashable, call: Callable[[E], Awaitable[Event]], effect: E) -> None:
        """Work whose result is the event itself; what is foreseen is in it already."""

        async def work() -> None:
            self._feed(await call(effect))

        self._queues.put(key, work)

    def _launch(self, array: ArrayId, key: Hashable, work: Work) -> None:
        """Start in the array's order, end in an order of its own."""

        async def start() -> None:
            self._queues.put(key, work)

        self._queues.put(array, start)

    def _runs(self, array: ArrayId) -> bool:
        return array in self._driver.arrays()

    # --- states ------------------------------------------------------------------------------

    async def _apply(self, effect: Apply) -> None:
        entry, problem = effect.entry, ""
        assert isinstance(entry.state, ArrayState)
        try:
            await self._applier.apply(entry.state)
            if self._holding_all and self._runs(entry.state.uuid):
                await self._driver.hold_all(entry.state.uuid, True)
        except MdclusterError as error:
            problem = str(error)
        self._feed(Applied(entry.key, entry.stamp, problem))

    async def _leave(self, effect: LeaveArray) -> None:
        """An array that cannot be stopped takes the node with it: others count on it."""
        clean = await self._applier.leave(effect.array)
        self._feed(ArrayLeft(effect.array, clean))

    async def _prepare(self, effect: PrepareDevices) -> None:
        if effect.stopping and self._runs(effect.array):
            openers = self._driver.status(effect.array).openers
            if openers:
                problem = f"the array is open by {openers} client(s)"
                self._feed(Prepared(effect.op, problem, (), ()))
                return
        self._feed(await self._members.prepare(effect))

    async def _unblock(self, effect: Unblock) -> None:
        for device in effect.devices:
            with self._logged("unblock", effect.array):
                await self._driver.unblock(effect.array, device)

    async def _sample(self, effect: SampleStates) -> None:
        array = effect.array
        what = held_by_failure(self._driver.status(array)) if self._runs(array) else ""
        self._feed(Sampled(array, not what, what))

    async def _activate(self, effect: Activate) -> None:
        with self._logged("activate", effect.array):
            await self._driver.activate(effect.array)

    # --- holds and reads ---------------------------------------------------------------------

    def _hold_all(self, effect: HoldAll) -> None:
        """At once: not behind anything that is under way in an array."""
        self._holding_all = effect.on
        for array in self._driver.arrays():
            self._queues.put((array, "all"), partial(self._hold_whole, array, effect.on))

    async def _hold_whole(self, array: ArrayId, on: bool) -> None:
        with self._logged("hold all writes", array):
            await self._driver.hold_all(array, on)

    async def _hold(self, effect: HoldRange) -> None:
        """An array that does not run here holds every range."""
        array, clean, problem = effect.array, True, ""
        try:
            if self._runs(array):
                await self._driver.hold(array, effect.lo_sectors, effect.hi_sectors)
                clean = self._driver.status(array).clean
        except MdclusterError as error:
            clean, problem = False, str(error)
        self._feed(Held(array, effect.lo_sectors, effect.hi_sectors, clean, problem))

    async def _pin_reads(self, effect: PinReads) -> None:
        if self._runs(effect.array):
            with self._logged("pin reads", effect.array):
                await self._driver.pin_reads(effect.array, effect.on)

    # --- bits --------------------------------------------------------------------------------

    async def _set_bits(self, effect: SetBits) -> None:
        array, problem, dirty = effect.array, "", effect.lo_sectors
        try:
            await self._driver.set_bits(array, effect.lo_sectors, effect.hi_sectors)
            dirty = self._driver.next_dirty(array, effect.lo_sectors)
        except MdclusterError as error:
            problem = str(error)
        self._feed(BitsSet(array, effect.serial, dirty, problem))

    async def _merge_bits(self, effect: MergeBits) -> None:
        array, problem, dirty = effect.array, "", 0
        try:
            offsets = self._members.slot_offsets(array, effect.slots)
            await self._driver.merge_bits(array, offsets)
            dirty = self._driver.next_dirty(array, 0)
        except MdclusterError as error:
            problem = str(error)
        self._feed(BitsSet(array, effect.serial, dirty, problem))

    # --- syncs -------------------------------------------------------------------------------

    async def _start_sync(self, effect: StartSync) -> None:
        """Without an answer if it begins; the first LimitSync shows."""
        with self._logged("start the resync", effect.array):
            await self._driver.start_sync(effect.array, effect.kind, effect.position_sectors)

    def _begin_limit_sync(self, effect: LimitSync) -> None:
        copy = partial(self._limit_sync, effect, self._stops.get(effect.array, 0))
        self._launch(effect.array, (effect.array, "sync"), copy)

    async def _limit_sync(self, effect: LimitSync, stops: int) -> None:
        array, serial = effect.array, effect.serial
        if self._stops.get(array, 0) != stops:
            return  # a StopSync came after it
        try:
            step = await self._driver.limit_sync(array, effect.hi_sectors)
        except MdclusterError as error:
            self._feed(SyncReached(array, serial, 0, 0, 0, 0, str(error) or "stopped"))
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
            )
        )

    def _begin_stop_sync(self, effect: StopSync) -> None:
        self._stops[effect.array] = self._stops.get(effect.array, 0) + 1
        self._queues.put(effect.array, partial(self._stop_sync, effect))

    async def _stop_sync(self, effect: StopSync) -> None:
        """Answered only when nothing is copied any more: others wait for that."""
        if self._runs(effect.array):
            await self._driver.stop_sync(effect.array)
        await self._queues.idle((effect.array, "sync"))
        self._feed(SyncStopped(effect.array, effect.serial))

    # --- fencing -----------------------------------------------------------------------------

    def _begin_fence(self, effect: Fence) -> None:
        """The core asks again while it waits; once at a time is enough."""
        if not self._queues.busy(effect):
            self._queues.put(effect, partial(self._fence, effect))

    async def _fence(self, effect: Fence) -> None:
        self._feed(await self._fencing.fence(effect.life))

    @contextmanager
    def _logged(self, what: str, array: ArrayId) -> Iterator[None]:
        """For what has no answer: the core sees that it failed by what comes next."""
        try:
            yield
        except MdclusterError as error:
            log.error("array %s: %s: %s", array, what, error)


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
