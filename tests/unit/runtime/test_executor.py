"""What takes time: order per array, and what must not wait for what."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import pytest

from mdcluster.core.effects import (
    NEVER,
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
    Event,
    Fenced,
    FenceWaits,
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
from mdcluster.core.model import (
    ArrayId,
    ArrayState,
    DeviceId,
    Entry,
    Life,
    Member,
    MemberState,
    NodeId,
    Stamp,
    SyncKind,
)
from mdcluster.md.driver import (
    ArrayBusyError,
    ArrayStatus,
    DriverError,
    DriverEvents,
    HungError,
    MemberStatus,
    SyncStep,
)
from mdcluster.md.plan import BeforeRun
from mdcluster.runtime.executor import Executor

ARRAY, DEVICE = ArrayId("array"), DeviceId("device")
LIFE = Life(NodeId("node"), "boot")
LIMIT_S = 10
GOOD = MemberStatus(DEVICE, 0, True, False, False, 0)
STATUS = ArrayStatus(ARRAY, (GOOD,), False, True, 0, 0, 0, None, 0, 0, 0, 2, 64, 64)
STATE = ArrayState(
    ARRAY, "demo", 1, 0, 0, 2, 2048, 128, (), None, None, 0, (), (LIFE,), True, 1, 1, 2
)


class FakeDriver:
    """Notes calls; a call named in `gates` waits until it is let through."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.errors: dict[str, DriverError] = {}
        self.now = STATUS
        self.running = True
        self.stops_clean = True
        self.said: dict[str, tuple[object, ...]] = {}  # the last arguments of each call
        self.listener: DriverEvents | None = None
        self.changed = asyncio.Event()

    async def _call(self, name: str) -> None:
        self.calls.append(name)
        self.changed.set()
        if name in self.gates:
            await self.gates[name].wait()
        if name in self.errors:
            raise self.errors[name]

    def __getattr__(self, name: str) -> object:
        async def call(*args: object, **options: object) -> None:
            await self._call(name)
            self.said[name] = args[1:]

        return call

    async def stop(self, array: ArrayId, *, force: bool = False) -> bool:
        await self._call("stop")
        self.running = False
        return self.stops_clean

    async def limit_sync(self, array: ArrayId, hi_sectors: int) -> SyncStep:
        await self._call("limit_sync")
        return SyncStep(hi_sectors, 8, 8, hi_sectors)

    async def stop_sync(self, array: ArrayId) -> None:
        if "limit_sync" in self.gates:
            self.errors["limit_sync"] = DriverError("the sync was stopped")
            self.gates["limit_sync"].set()
        await self._call("stop_sync")

    def status(self, array: ArrayId) -> ArrayStatus:
        return self.now

    def arrays(self) -> tuple[ArrayId, ...]:
        return (ARRAY,) if self.running else ()

    def next_dirty(self, array: ArrayId, from_sectors: int) -> int:
        return from_sectors + 64

    def listen(self, events: DriverEvents) -> None:
        self.listener = events


class FakeMembers:
    """All that is asked of it but a prepare ends in `error`."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def prepare(self, effect: PrepareDevices) -> Prepared:
        if self.error is not None:
            raise self.error
        return Prepared(effect.op, "", (), ())

    def __getattr__(self, name: str) -> object:
        async def call(*args: object) -> None:
            assert self.error is not None, name
            raise self.error

        return call

    def slot_offsets(self, array: ArrayId, slots: Sequence[int]) -> tuple[int, ...]:
        return tuple(slots)


class FakeArrays:
    def __init__(self, driver: FakeDriver) -> None:
        self._driver = driver

    async def apply(self, state: ArrayState, before_run: BeforeRun) -> None:
        await self._driver._call("apply")
        wanted = bool(state.running)
        if wanted and not self._driver.running:
            await before_run(state.uuid)
        self._driver.running = wanted

    async def leave(self, array: ArrayId, *, force: bool) -> bool:
        await self._driver._call("leave" if force else "leave if not in use")
        self._driver.running = False
        return True


class FakeFencing:
    def __init__(self) -> None:
        self.asked = 0
        self.let = asyncio.Event()

    async def fence(self, ask: Fence) -> Fenced | FenceWaits:
        self.asked += 1
        await self.let.wait()
        return Fenced(ask.life, "seen", ask.heard_ms)


class Rig:
    def __init__(self) -> None:
        self.driver = FakeDriver()
        self.fencing = FakeFencing()
        self.members = FakeMembers()
        self.events: list[Event] = []
        self.broken: list[BaseException] = []
        self._changed = self.driver.changed
        self.executor = Executor(
            self.driver,  # type: ignore[arg-type]
            self.members,  # type: ignore[arg-type]
            FakeArrays(self.driver),
            self.fencing,
            self._feed,
            self._break,
        )

    def _feed(self, event: Event) -> None:
        self.events.append(event)
        self._changed.set()

    def start(self, *effects: Effect) -> None:
        for effect in effects:
            self.executor.start(effect)

    async def until(self, *events: Event) -> None:
        await self.when(lambda: all(event in self.events for event in events))

    async def when(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not happened():
                self._changed.clear()
                await self._changed.wait()

    def _break(self, error: BaseException) -> None:
        self.broken.append(error)
        self._changed.set()

    def gate(self, name: str) -> asyncio.Event:
        return self.driver.gates.setdefault(name, asyncio.Event())


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    made = Rig()
    yield made
    await made.executor.close()
    assert made.broken == []


def apply(seq: int) -> tuple[Apply, Applied]:
    stamp = Stamp(1, seq)
    return Apply(Entry(ARRAY, stamp, STATE)), Applied(ARRAY, stamp, "")


async def test_effects_of_an_array_run_one_after_the_other(rig: Rig) -> None:
    let = rig.gate("apply")
    first, applied = apply(2)
    rig.start(first, Unblock(ARRAY, (DEVICE,)), SampleStates(ARRAY), Activate(ARRAY))
    sampled = Sampled(ARRAY, True, "")
    second, then = apply(4)
    rig.start(second)
    assert rig.events == []
    let.set()
    await rig.until(then)
    assert rig.driver.calls == ["apply", "unblock", "activate", "apply"]
    assert rig.events == [applied, sampled, then]


async def test_an_apply_does_not_wait_for_a_hold_that_drains(rig: Rig) -> None:
    let = rig.gate("hold")
    effect, applied = apply(2)
    rig.start(HoldRange(ARRAY, 0, 8), effect)
    await rig.until(applied)
    let.set()
    await rig.until(Held(ARRAY, 0, 8, True, ""))


async def test_a_hold_over_a_failed_write_is_not_clean(rig: Rig) -> None:
    rig.driver.now = replace(STATUS, write_pending=True)
    rig.start(HoldRange(ARRAY, 0, 8))
    await rig.until(Held(ARRAY, 0, 8, False, ""))


async def test_a_hold_that_never_returns_is_a_hang(rig: Rig) -> None:
    rig.driver.errors["hold"] = HungError("md is stuck")
    rig.start(HoldRange(ARRAY, 0, 8))
    await rig.until(Held(ARRAY, 0, 8, False, "md is stuck", hung=True))


async def test_an_array_that_does_not_run_here_holds_anything(rig: Rig) -> None:
    rig.driver.running = False
    rig.start(HoldRange(ARRAY, 0, 8), SampleStates(ARRAY))
    await rig.until(Held(ARRAY, 0, 8, True, ""), Sampled(ARRAY, True, ""))
    assert rig.driver.calls == []


@pytest.mark.parametrize(
    ("status", "clean"),
    [
        (replace(STATUS, write_pending=True), True),  # what `active` is there to end
        (replace(STATUS, writes_in_flight=1), False),
        (replace(STATUS, thread_idle=False), False),
        (replace(STATUS, members=(replace(GOOD, blocked=True, faulty=True),)), False),
        (replace(STATUS, members=(replace(GOOD, unacknowledged_errors=1),)), False),
        (replace(STATUS, members=(replace(GOOD, unacknowledged_errors=1, faulty=True),)), True),
    ],
)
async def test_samples(rig: Rig, status: ArrayStatus, clean: bool) -> None:
    rig.driver.now = status
    rig.start(SampleStates(ARRAY))
    await rig.when(lambda: bool(rig.events))
    (event,) = rig.events
    assert isinstance(event, Sampled)
    assert event.clean is clean
    assert bool(event.what) is not clean


async def test_copying_holds_up_nothing_and_a_stop_comes_after_its_last_word(rig: Rig) -> None:
    rig.gate("limit_sync")
    effect, applied = apply(2)
    sync = StartSync(ARRAY, 7, SyncKind.RESYNC, 0)
    rig.start(sync, LimitSync(ARRAY, 7, 64), LimitSync(ARRAY, 7, 128), effect)
    await rig.until(applied)
    await rig.when(lambda: "limit_sync" in rig.driver.calls)
    rig.start(StopSync(ARRAY, 7))
    await rig.until(SyncStopped(ARRAY, 7))
    stopped = SyncReached(ARRAY, 7, 0, 0, 0, 0, "the sync was stopped")
    assert rig.events == [applied, stopped, SyncStopped(ARRAY, 7)]
    assert rig.driver.calls.count("limit_sync") == 1


async def test_a_window_that_was_copied_is_told(rig: Rig) -> None:
    rig.start(StartSync(ARRAY, 7, SyncKind.RESYNC, 0), LimitSync(ARRAY, 7, 64))
    await rig.until(SyncReached(ARRAY, 7, 64, 8, 8, 64, ""))


async def test_bits_that_cannot_be_set_are_told(rig: Rig) -> None:
    rig.start(SetBits(ARRAY, 7, 0, 64))
    await rig.until(BitsSet(ARRAY, 7, 64, ""))
    rig.driver.errors["set_bits"] = DriverError("write error")
    rig.start(SetBits(ARRAY, 8, 0, 64))
    await rig.until(BitsSet(ARRAY, 8, 0, "write error"))


async def test_hold_all_is_at_once_and_covers_what_starts_later(rig: Rig) -> None:
    let = rig.gate("apply")
    effect, applied = apply(2)
    rig.start(effect, HoldAll(True))
    await rig.when(lambda: "hold_all" in rig.driver.calls)
    assert rig.events == []
    rig.driver.running = False
    let.set()
    await rig.until(applied)
    assert rig.driver.calls == ["apply", "hold_all", "pin_reads", "hold", "hold_all"]
    assert rig.driver.said["hold_all"] == (True,)


# --- what an earlier process left running -------------------------------------------------------


async def test_an_inherited_array_is_held_whole_until_it_is_told_otherwise(rig: Rig) -> None:
    rig.executor = Executor(
        rig.driver,  # type: ignore[arg-type]
        rig.members,  # type: ignore[arg-type]
        FakeArrays(rig.driver),
        rig.fencing,
        rig._feed,
        rig._break,
        inherited=(ARRAY,),
    )
    first, applied = apply(2)
    effect, prepared = stopping()
    rig.start(first, effect)
    await rig.until(applied, prepared)
    rig.start(ForgetPrepared(OP))
    await rig.when(lambda: "hold_all" in rig.driver.calls)
    assert rig.driver.said["hold"] == (0, STATE.size_sectors)
    assert "activate" not in rig.driver.calls
    rig.start(HoldRange(ARRAY, 0, 0), stopping(OP + 1)[0])
    await rig.until(Held(ARRAY, 0, 0, True, ""), stopping(OP + 1)[1])
    rig.driver.calls.clear()
    rig.start(ForgetPrepared(OP + 1))
    await rig.when(lambda: "hold_all" in rig.driver.calls)
    assert rig.driver.said["hold"] == (0, 0)


async def test_what_is_not_to_be_left_by_force_is_kept_while_in_use(rig: Rig) -> None:
    await run_an_array(rig)
    rig.driver.errors["leave if not in use"] = ArrayBusyError("2 clients")
    rig.start(LeaveArray(ARRAY, force=False))
    await rig.until(ArrayKept(ARRAY, "2 clients"))
    assert rig.driver.running
    del rig.driver.errors["leave if not in use"]
    rig.start(LeaveArray(ARRAY, force=False))
    await rig.until(ArrayLeft(ARRAY, True))


# --- prepared stops, and what survives them -----------------------------------------------------

OP = (1 << 32) + 7
"""As a writer of term 1 numbers its rounds."""


def stopping(op: int = OP) -> tuple[PrepareDevices, Prepared]:
    return PrepareDevices(op, ARRAY, (), True), Prepared(op, "", (), ())


async def run_an_array(rig: Rig) -> None:
    rig.driver.running = False
    effect, applied = apply(2)
    rig.start(effect, Activate(ARRAY))
    await rig.until(applied)
    await rig.when(lambda: "activate" in rig.driver.calls)
    rig.driver.calls.clear()
    rig.driver.said.clear()


async def test_an_array_in_use_is_not_prepared_for_its_stop(rig: Rig) -> None:
    await run_an_array(rig)
    rig.driver.errors["stop"] = ArrayBusyError("2 clients")
    rig.start(stopping()[0])
    await rig.until(Prepared(OP, "2 clients", (), ()))
    assert rig.driver.running
    rig.start(ForgetPrepared(OP), SampleStates(ARRAY))
    await rig.until(Sampled(ARRAY, True, ""))
    assert rig.driver.calls == ["stop"]


async def test_a_prepared_stop_stops_and_its_commit_finds_that_done(rig: Rig) -> None:
    await run_an_array(rig)
    effect, prepared = stopping()
    rig.start(effect)
    await rig.until(prepared)
    assert not rig.driver.running
    stamp = Stamp(1, 4)
    rig.start(Apply(Entry(ARRAY, stamp, replace(STATE, running=(), active=False))))
    await rig.until(Applied(ARRAY, stamp, ""))
    rig.start(ForgetPrepared(OP), SampleStates(ARRAY))  # too late: nothing is set up again
    await rig.until(Sampled(ARRAY, True, ""))
    assert rig.driver.calls == ["stop", "apply"]


async def test_what_was_prepared_in_vain_goes_on_as_it_was(rig: Rig) -> None:
    await run_an_array(rig)
    rig.start(PinReads(ARRAY, False), HoldRange(ARRAY, 0, 8))
    effect, prepared = stopping()
    rig.start(effect)
    await rig.until(prepared)
    rig.start(HoldRange(ARRAY, 8, 16), HoldAll(True))
    await rig.until(Held(ARRAY, 8, 16, True, ""))
    rig.driver.calls.clear()
    rig.start(ForgetPrepared(OP))
    await rig.when(lambda: "activate" in rig.driver.calls)
    assert rig.driver.calls == ["apply", "pin_reads", "hold", "hold_all", "activate"]
    said = {name: rig.driver.said[name] for name in ("pin_reads", "hold", "hold_all")}
    assert said == {"pin_reads": (False,), "hold": (8, 16), "hold_all": (True,)}


async def test_two_prepared_stops_are_both_to_be_forgotten(rig: Rig) -> None:
    await run_an_array(rig)
    for op in (OP, OP + 1):
        effect, prepared = stopping(op)
        rig.start(effect, effect)
        await rig.until(prepared)
    rig.start(ForgetPrepared(OP), SampleStates(ARRAY))
    await rig.until(Sampled(ARRAY, True, ""))
    assert rig.driver.calls == ["stop"]
    rig.start(ForgetPrepared(OP + 1))
    await rig.when(lambda: rig.driver.running)


async def test_a_late_state_does_not_start_what_its_writer_is_stopping(rig: Rig) -> None:
    await run_an_array(rig)
    effect, prepared = stopping()
    rig.start(effect)
    await rig.until(prepared)
    member = Member(DEVICE, 0, 0, MemberState.IN_SYNC, 0, 2048)
    for seq, state in ((4, MemberState.IN_SYNC), (6, MemberState.FAULTY)):
        now = replace(STATE, members=(replace(member, state=state),))
        rig.start(Apply(Entry(ARRAY, Stamp(1, seq), now)))
        await rig.until(Applied(ARRAY, Stamp(1, seq), ""))
    assert rig.driver.calls == ["stop"]
    rig.start(ForgetPrepared(OP))
    await rig.when(lambda: rig.driver.running)
    rig.start(SampleStates(ARRAY))
    await rig.until(Sampled(ARRAY, True, ""))
    assert "activate" not in rig.driver.calls  # a member was failed: the release comes first


async def test_a_new_writer_that_lists_it_starts_it_again(rig: Rig) -> None:
    await run_an_array(rig)
    effect, prepared = stopping()
    rig.start(effect)
    await rig.until(prepared)
    stamp = Stamp(2, 2)
    rig.start(Apply(Entry(ARRAY, stamp, STATE)))
    await rig.until(Applied(ARRAY, stamp, ""))
    assert rig.driver.running
    assert rig.driver.calls[-1] == "activate"


async def test_a_start_after_the_stop_is_no_late_state(rig: Rig) -> None:
    await run_an_array(rig)
    effect, prepared = stopping()
    opening = PrepareDevices(OP + 1, ARRAY, (), False)
    rig.start(effect, opening)
    await rig.until(prepared, Prepared(OP + 1, "", (), ()))
    second, applied = apply(6)
    rig.start(second)
    await rig.until(applied)
    assert rig.driver.running


async def test_what_cannot_be_set_up_again_is_tried_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdcluster.runtime.standing.AGAIN_MIN_S", 0.01)
    await run_an_array(rig)
    effect, prepared = stopping()
    rig.start(effect)
    await rig.until(prepared)
    rig.driver.errors["apply"] = DriverError("not found")
    rig.start(ForgetPrepared(OP))
    await rig.when(lambda: rig.driver.calls.count("apply") == 2)
    assert not rig.driver.running
    del rig.driver.errors["apply"]
    await rig.when(lambda: rig.driver.running)


async def test_a_stop_that_lost_a_member_is_no_prepared_stop(rig: Rig) -> None:
    await run_an_array(rig)
    rig.driver.stops_clean = False
    rig.start(stopping()[0])
    await rig.when(lambda: bool(rig.events[-1:]) and isinstance(rig.events[-1], Prepared))
    assert rig.events[-1] != stopping()[1]
    assert rig.driver.running
    rig.start(LeaveArray(ARRAY))
    await rig.until(ArrayLeft(ARRAY, False))


async def test_what_was_left_is_not_set_up_again(rig: Rig) -> None:
    await run_an_array(rig)
    effect, prepared = stopping()
    rig.start(effect)
    await rig.until(prepared)
    rig.start(LeaveArray(ARRAY), ForgetPrepared(OP), SampleStates(ARRAY))
    await rig.until(ArrayLeft(ARRAY, True), Sampled(ARRAY, True, ""))
    assert rig.driver.calls == ["stop", "leave"]
    effect2, applied = apply(8)
    rig.start(effect2)
    await rig.until(applied)
    assert rig.driver.said["hold"] == (0, 0)
    assert "activate" not in rig.driver.calls


# --- every effect has its answer ----------------------------------------------------------------


async def test_a_sync_that_did_not_begin_is_told_by_the_first_limit(rig: Rig) -> None:
    rig.driver.errors["start_sync"] = DriverError("another one is running")
    rig.start(StartSync(ARRAY, 7, SyncKind.RESYNC, 0), LimitSync(ARRAY, 7, 64))
    await rig.until(SyncReached(ARRAY, 7, 0, 0, 0, 0, "another one is running"))
    del rig.driver.errors["start_sync"]
    rig.start(StopSync(ARRAY, 7), StartSync(ARRAY, 8, SyncKind.RESYNC, 0), LimitSync(ARRAY, 8, 64))
    await rig.until(SyncReached(ARRAY, 8, 64, 8, 8, 64, ""))
    assert rig.events.count(SyncStopped(ARRAY, 7)) == 1


async def test_a_sync_that_does_not_stop_is_asked_until_it_does(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mdcluster.runtime.executor.STOP_AGAIN_MIN_S", 0.01)
    rig.driver.errors["stop_sync"] = DriverError("busy")
    rig.start(StopSync(ARRAY, 7))
    await rig.when(lambda: rig.driver.calls.count("stop_sync") == 3)
    assert rig.events == []
    del rig.driver.errors["stop_sync"]
    await rig.until(SyncStopped(ARRAY, 7))
    rig.driver.running = False
    rig.start(StopSync(ARRAY, 9))
    await rig.until(SyncStopped(ARRAY, 9))
    assert len(rig.events) == 2


@pytest.mark.parametrize("error", [OSError(5, "broken"), DriverError("broken"), TimeoutError()])
async def test_work_on_members_has_one_answer_whatever_happens(rig: Rig, error: Exception) -> None:
    rig.members.error = error
    entry = Entry(ARRAY, Stamp(1, 2), STATE)
    rig.start(
        WriteSuperblocks(entry),
        WriteNonces(3, ARRAY, (), False),
        DropNonces(3),
        ZeroSlot(ARRAY, LIFE, 1),
        ProbeMember(4, ARRAY, DEVICE),
        PrepareDevices(5, ARRAY, (), False),
        Fence(LIFE, "n", 7, NEVER),
    )
    await rig.when(lambda: len(rig.events) == 5)
    assert SuperblocksWritten(ARRAY, Stamp(1, 2), (), ()) in rig.events
    why = str(error) or "TimeoutError"
    assert NoncesWritten(3, why, ()) in rig.events
    assert SlotZeroed(ARRAY, LIFE, why) in rig.events
    assert Probed(4, why) in rig.events
    assert Prepared(5, why, (), ()) in rig.events


async def test_fencing_of_a_life_is_under_way_once(rig: Rig) -> None:
    rig.start(Fence(LIFE, "n", 7, NEVER), Fence(LIFE, "n", 9, NEVER))
    rig.fencing.let.set()
    await rig.until(Fenced(LIFE, "seen", 7))
    assert rig.fencing.asked == 1


async def test_failures_of_members_come_from_the_driver(rig: Rig) -> None:
    assert rig.driver.listener is not None
    rig.driver.listener.member_failed(ARRAY, DEVICE, "write error")
    assert rig.events == [MemberFailed(ARRAY, DEVICE, "write error")]


async def test_what_nobody_foresaw_is_handed_to_the_owner(rig: Rig) -> None:
    rig.driver.errors["apply"] = DriverError("not found")
    rig.start(apply(2)[0])
    await rig.until(Applied(ARRAY, Stamp(1, 2), "not found"))
    bug = ValueError("bug")
    rig.driver.errors["apply"] = bug  # type: ignore[assignment]
    rig.start(apply(4)[0])
    await rig.when(lambda: bool(rig.broken))
    assert rig.broken.pop() is bug
