"""The writer's pass over one array, step by step: what it does and what it must not do."""

from dataclasses import replace

import pytest

from mdcluster.core.effects import (
    Effect,
    LimitSync,
    MergeBits,
    SetBits,
    StartSync,
    StopSync,
    ZeroSlot,
)
from mdcluster.core.effects import Send as SendEffect
from mdcluster.core.env import Env
from mdcluster.core.events import BitsSet, SlotZeroed, SyncReached, SyncStopped
from mdcluster.core.messages import Hold, HoldAck, HoldReport
from mdcluster.core.model import (
    AddMember,
    ArrayChange,
    ArrayState,
    Checkpoint,
    EndLife,
    EndSync,
    FailMember,
    JoinRunner,
    Life,
    NodeId,
    ReAddMember,
    SyncKind,
)
from mdcluster.core.resync import STUCK_RETRY_MS, TRIES_MAX, Pass, SyncLimits, resume_point
from mdcluster.core.timing import Timing
from tests.unit.core.samples import (
    ARRAY,
    MIB,
    N1,
    N2,
    N3,
    N4,
    A,
    C,
    change,
    mirror,
    new,
    syncing,
)

TIMING = Timing()
LIMITS = SyncLimits()
END = 64 * MIB


class Bench:
    """A pass of N1 with its effects at hand: a driver and followers that do as told."""

    def __init__(
        self,
        state: ArrayState,
        others: tuple[Life, ...] = (N2, N3),
        *,
        start: int = 0,
        merge_all: bool = False,
        limits: SyncLimits = LIMITS,
        alone: tuple[Life, ...] = (),
    ) -> None:
        self.env = Env(N1, "one", TIMING, seed=1)
        self.env.now_ms = 1000
        self.state = state
        self.proposed: list[ArrayChange] = []
        self.now = Pass(
            self.env,
            limits,
            state,
            frozenset(others),
            start,
            merge_all,
            term=5,
            propose=self.proposed.append,
            moves_alone=lambda life: life in alone,
        )
        self.sent: dict[NodeId, Hold] = {}
        self.sends = 0

    def waits_for(self) -> str:
        wait = self.now.waiting()
        return wait.text if wait is not None else ""

    def take(self) -> list[Effect]:
        """The effects for the driver; the last Hold to each node is kept in `sent`."""
        kept: list[Effect] = []
        for effect in self.env.take_effects():
            if isinstance(effect, SendEffect) and isinstance(effect.message, Hold):
                self.sent[effect.to] = effect.message
                self.sends += 1
            elif isinstance(
                effect, LimitSync | MergeBits | SetBits | StartSync | StopSync | ZeroSlot
            ):
                kept.append(effect)
        return kept

    def held(self, life: Life) -> tuple[int, int]:
        """The range, in array sectors, that this node was last told to hold."""
        message = self.sent[life.node]
        return message.lo_sectors, message.hi_sectors

    def idle(self) -> bool:
        return self.now.idle

    def ack(self, *lives: Life, problem: str = "") -> list[Effect]:
        """Each confirms the last Hold it was sent."""
        for life in lives:
            m = self.sent[life.node]
            self.now.on_hold_ack(
                life, HoldAck(m.term, m.array, m.serial, m.lo_sectors, m.hi_sectors, problem)
            )
        return self.take()

    def bits(self, next_dirty: int = 0, problem: str = "") -> list[Effect]:
        self.now.on_bits_set(BitsSet(ARRAY, self.now.serial, next_dirty, problem))
        return self.take()

    def reached(
        self,
        hi: int,
        *,
        copied: int = 10,
        planned: int = 10,
        next_dirty: int | None = None,
        problem: str = "",
        mismatched: int = 0,
    ) -> list[Effect]:
        dirty = hi if next_dirty is None else next_dirty
        serial = self.now.serial
        self.now.on_sync_reached(
            SyncReached(ARRAY, serial, hi, planned, copied, dirty, problem, mismatched)
        )
        return self.take()

    def stopped(self) -> list[Effect]:
        self.now.on_sync_stopped(SyncStopped(ARRAY, self.now.serial))
        return self.take()

    def later(self, ms: int) -> list[Effect]:
        """Let time pass, with all timers that become due."""
        until_ms = self.env.now_ms + ms
        while (at_ms := self.env.timers.next_ms) is not None and at_ms <= until_ms:
            self.env.now_ms = max(self.env.now_ms, at_ms)
            for key in self.env.timers.take_due(self.env.now_ms):
                self.now.on_timer(key)
        self.env.now_ms = until_ms
        return self.take()

    def begin(self) -> list[Effect]:
        self.now.begin()
        return self.take()

    def zeroed(self, effects: list[Effect]) -> list[Effect]:
        """All slots are zeroed, as they are asked for; what follows."""
        while effects and isinstance(effects[0], ZeroSlot):
            self.now.on_slot_zeroed(SlotZeroed(ARRAY, effects[0].life, ""))
            effects = self.take()
        return effects

    def running(self) -> list[Effect]:
        """Begun, the bits set where they must be and slots zeroed."""
        effects = self.begin()
        while any(isinstance(effect, SetBits | MergeBits) for effect in effects):
            effects = self.bits()
        return self.zeroed(effects)

    def committed(self, *changes: ArrayChange) -> list[Effect]:
        self.state = change(self.state, *changes)
        self.now.on_state(self.state)
        return self.take()


def limits_of(effects: list[Effect]) -> list[int]:
    return [effect.hi_sectors for effect in effects if isinstance(effect, LimitSync)]


def resync(level: int = 1, raid_disks: int = 2) -> ArrayState:
    return syncing(mirror(level=level, raid_disks=raid_disks, clean=False), SyncKind.RESYNC)


def recovery() -> ArrayState:
    return syncing(change(mirror(spares=1), FailMember(ARRAY, A, "")), SyncKind.RECOVER)


def readded() -> ArrayState:
    back = change(mirror(), FailMember(ARRAY, A, ""), ReAddMember(ARRAY, A, "/dev/a"))
    return syncing(back, SyncKind.RECOVER)


def dead() -> ArrayState:
    return syncing(change(mirror(N1, N2, N3, N4), EndLife(ARRAY, N4)), SyncKind.BITMAP)


# --- bits come first ---------------------------------------------------------------------------


def test_a_resync_sets_its_bits_before_it_starts() -> None:
    bench = Bench(resync(), start=4 * MIB)
    assert bench.begin() == [SetBits(ARRAY, 1, 4 * MIB, END)]
    assert bench.bits(4 * MIB) == [StartSync(ARRAY, 1, SyncKind.RESYNC, 4 * MIB)]


def test_a_pass_begins_where_md_may_copy_first() -> None:
    """md takes no position here: bits may be left below it, and a chunk is copied whole."""
    bench = Bench(resync(), (N2,), start=8 * MIB + 128)
    assert bench.begin() == [SetBits(ARRAY, 1, 8 * MIB + 128, END)]
    assert bench.bits(8 * MIB + 128) == [StartSync(ARRAY, 1, SyncKind.RESYNC, 8 * MIB)]
    assert bench.held(N2) == (8 * MIB, 16 * MIB)
    bench = Bench(resync(), (N2,), start=8 * MIB)
    bench.begin()
    assert bench.bits(5 * MIB) == [StartSync(ARRAY, 1, SyncKind.RESYNC, 5 * MIB)]
    bench.ack(N2)
    bench.reached(13 * MIB, next_dirty=13 * MIB)
    assert bench.held(N2)[0] == 13 * MIB  # nothing is left out above the start


def test_while_a_role_is_vacant_the_first_window_begins_at_0_and_none_leaves_a_gap() -> None:
    """md then notes each own write as to be copied, wherever it is, at any time."""
    state = change(mirror(N1, N2, N4, raid_disks=3), EndLife(ARRAY, N4), FailMember(ARRAY, A, ""))
    bench = Bench(syncing(state, SyncKind.BITMAP), (N2,))
    bench.begin()
    start = bench.zeroed(bench.bits(next_dirty=20 * MIB))
    assert start == [StartSync(ARRAY, 1, SyncKind.BITMAP, 0)]
    assert bench.held(N2) == (0, 28 * MIB)
    assert bench.ack(N2) == [LimitSync(ARRAY, 1, 28 * MIB)]
    assert bench.reached(28 * MIB, next_dirty=50 * MIB) == []
    bench.ack(N2)
    lo, hi = bench.held(N2)
    assert lo == 28 * MIB and hi > 50 * MIB


def test_one_copy_left_needs_no_copying_of_bits() -> None:
    state = change(mirror(N1, N2, N4), EndLife(ARRAY, N4), FailMember(ARRAY, A, ""))
    bench = Bench(syncing(state, SyncKind.BITMAP), (N2,))
    bench.begin()
    assert bench.zeroed(bench.bits(next_dirty=20 * MIB)) == []
    assert bench.proposed == [EndSync(ARRAY, 1, (N4,))]


def test_a_resync_never_skips_whatever_the_bitmap_says() -> None:
    bench = Bench(resync())
    bench.begin()
    bench.bits(next_dirty=END)
    assert bench.now.progress() == (0, END)


def test_bits_that_cannot_be_set_are_tried_again_and_nothing_is_copied() -> None:
    bench = Bench(resync())
    bench.begin()
    assert bench.bits(problem="EIO") == []
    assert "EIO" in bench.waits_for()
    assert bench.later(TIMING.retry_min_ms - 1) == []
    assert bench.later(1) == [SetBits(ARRAY, 1, 0, END)]
    assert bench.bits() == [StartSync(ARRAY, 1, SyncKind.RESYNC, 0)]


def test_bits_of_dead_lives_are_merged_and_clean_ranges_need_no_window() -> None:
    bench = Bench(dead())
    assert bench.begin() == [MergeBits(ARRAY, 1, (3,))]
    zero = bench.bits(next_dirty=8 * MIB)
    assert zero == [ZeroSlot(ARRAY, N4, 3)]
    assert bench.zeroed(zero) == [StartSync(ARRAY, 1, SyncKind.BITMAP, 8 * MIB)]
    assert bench.held(N2) == (8 * MIB, 16 * MIB)


def test_a_takeover_of_a_bitmap_pass_merges_all_other_slots() -> None:
    assert Bench(dead(), merge_all=True).begin() == [MergeBits(ARRAY, 1, (1, 2, 3))]


def test_a_slot_that_became_dirty_during_the_pass_is_copied_from_the_start_by_the_next_writer() -> (
    None
):
    """N4's bits were copied below 40 MiB by the writer before; N3's have yet to be."""
    state = change(dead(), Checkpoint(ARRAY, 1, 32 * MIB), EndLife(ARRAY, N3))
    bench = Bench(state, (N2,), start=40 * MIB, merge_all=True)
    assert bench.begin() == [MergeBits(ARRAY, 1, (1, 2, 3))]
    assert bench.bits(problem="EIO") == []  # nothing is zeroed before its bits are durable
    assert bench.later(TIMING.retry_min_ms) == [MergeBits(ARRAY, 1, (1, 2, 3))]
    assert bench.bits(next_dirty=MIB) == [ZeroSlot(ARRAY, N3, 2)]
    assert bench.sent.get(N2.node) is None  # and nothing held, still less copied, before it is
    zero = [ZeroSlot(ARRAY, N3, 2)]
    assert bench.zeroed([*zero]) == [StartSync(ARRAY, 1, SyncKind.BITMAP, MIB)]
    assert bench.held(N2)[0] == MIB
    assert copy_all(bench, N2) == [StopSync(ARRAY, 1)]
    assert bench.proposed == [EndSync(ARRAY, 1, (N3, N4))]


def dirty_resync() -> ArrayState:
    state = change(mirror(N1, N2, N3, N4, clean=False), EndLife(ARRAY, N4))
    return syncing(state, SyncKind.RESYNC)


def test_a_resync_takes_the_bits_of_dead_lives_along() -> None:
    """From the start on, where there may be some; clean ranges below its position are skipped."""
    bench = Bench(dirty_resync(), (N2,), start=32 * MIB, merge_all=True)
    assert bench.begin() == [SetBits(ARRAY, 1, 32 * MIB, END)]
    assert bench.bits(next_dirty=5 * MIB) == [MergeBits(ARRAY, 1, (1, 2, 3))]
    assert bench.bits(next_dirty=5 * MIB) == [StartSync(ARRAY, 1, SyncKind.RESYNC, 5 * MIB)]
    bench.ack(N2)
    zero: list[Effect] = [
        ZeroSlot(ARRAY, N4, 3)
    ]  # what lies above is still to be resynced, on record
    assert bench.reached(13 * MIB, next_dirty=32 * MIB) == zero
    assert bench.zeroed(zero) == []
    assert bench.held(N2)[0] == 32 * MIB
    assert copy_all(bench, N2) == [StopSync(ARRAY, 1)]
    assert bench.proposed == [EndSync(ARRAY, 1, (N4,))]


def test_a_resync_that_begins_again_sets_the_bits_again_and_zeroes_nothing_twice() -> None:
    bench = Bench(dirty_resync(), (N2,))
    bench.running()
    bench.ack(N2)
    assert bench.reached(8 * MIB, problem="EIO") == [StopSync(ARRAY, 1)]
    bench.stopped()
    assert bench.later(TIMING.retry_min_ms) == [SetBits(ARRAY, 1, 0, END)]
    assert bench.bits() == [MergeBits(ARRAY, 1, (3,))]
    assert bench.bits() == [StartSync(ARRAY, 1, SyncKind.RESYNC, 0)]


def test_a_resync_resumed_at_its_end_merges_once() -> None:
    bench = Bench(dirty_resync(), (N2,), start=END)
    assert bench.begin() == [MergeBits(ARRAY, 1, (3,))]
    assert bench.bits(next_dirty=END) == [ZeroSlot(ARRAY, N4, 3)]
    assert bench.zeroed([ZeroSlot(ARRAY, N4, 3)]) == []
    assert bench.proposed == [EndSync(ARRAY, 1, (N4,))]


def test_a_re_added_member_gets_the_bits_of_all_slots() -> None:
    bench = Bench(readded())
    assert bench.begin() == [MergeBits(ARRAY, 1, (1, 2))]
    assert bench.bits(next_dirty=MIB) == [StartSync(ARRAY, 1, SyncKind.RECOVER, MIB)]


def test_a_new_member_is_copied_from_its_start_without_bits() -> None:
    bench = Bench(recovery())
    assert bench.begin() == [StartSync(ARRAY, 1, SyncKind.RECOVER, 0)]
    bench.ack(N2, N3)
    bench.reached(8 * MIB, next_dirty=END)
    assert bench.now.progress() == (8 * MIB, END)


# --- windows -----------------------------------------------------------------------------------


def test_nothing_is_copied_before_every_other_node_has_confirmed() -> None:
    bench = Bench(resync())
    assert limits_of(bench.running()) == []
    assert bench.held(N2) == bench.held(N3) == (0, 8 * MIB)
    assert bench.ack(N2) == []
    assert "node3 (no answer)" in bench.waits_for()
    assert bench.ack(N3) == [LimitSync(ARRAY, 1, 8 * MIB)]


def test_an_ack_counts_only_for_exactly_what_was_announced_by_whom_it_was_asked() -> None:
    bench = Bench(resync(), (N2,))
    bench.running()
    m = bench.sent[N2.node]
    good = HoldAck(m.term, m.array, m.serial, m.lo_sectors, m.hi_sectors, "")
    stranger = Life(N2.node, "another boot")
    for sender, ack in (
        (N4, good),
        (stranger, good),
        (N2, replace(good, term=4)),
        (N2, replace(good, serial=good.serial - 1)),
        (N2, replace(good, hi_sectors=good.hi_sectors - 8)),
        (N2, replace(good, lo_sectors=8)),
    ):
        bench.now.on_hold_ack(sender, ack)
        assert bench.take() == []
    bench.now.on_hold_ack(N2, good)
    assert bench.take() == [LimitSync(ARRAY, 1, 8 * MIB)]


def test_without_other_nodes_nobody_is_asked() -> None:
    bench = Bench(resync(), ())
    assert limits_of(bench.running()) == [8 * MIB]


def test_the_next_window_is_announced_while_one_is_copied() -> None:
    bench = Bench(resync(), (N2,))
    bench.running()
    bench.ack(N2)
    assert bench.held(N2) == (0, 16 * MIB)  # the present window is covered still
    assert bench.ack(N2) == []  # confirmed, but the copying is not done
    assert limits_of(bench.reached(8 * MIB)) == [16 * MIB]
    assert bench.held(N2)[0] == 8 * MIB  # what is complete is free again
    assert bench.sent[N2.node].complete_sectors == 8 * MIB


def test_an_announced_window_is_not_copied_before_it_is_confirmed() -> None:
    bench = Bench(resync(), (N2, N3))
    bench.running()
    bench.ack(N2, N3)
    bench.ack(N2)
    assert limits_of(bench.reached(8 * MIB)) == []
    assert bench.held(N2) == (8 * MIB, 16 * MIB)  # freed of the complete part meanwhile
    assert bench.ack(N2) == []
    assert bench.ack(N3) == [LimitSync(ARRAY, 1, 16 * MIB)]


def test_a_failed_and_held_write_stops_all_copying_until_it_is_gone() -> None:
    bench = Bench(resync(), (N2,))
    bench.running()
    assert bench.ack(N2, problem="failure pending") == []
    assert "node2 (failure pending)" in bench.waits_for()
    before = bench.sends
    assert bench.later(TIMING.retry_min_ms) == []
    assert bench.sends == before + 1  # asked again
    assert bench.ack(N2, problem="failure pending") == []
    bench.later(2 * TIMING.retry_min_ms)
    assert bench.ack(N2) == [LimitSync(ARRAY, 1, 8 * MIB)]


def test_nodes_that_move_holds_alone_are_told_one_after_the_other() -> None:
    bench = Bench(resync(), (N2, N3), alone=(N1, N2, N3))
    bench.running()
    assert set(bench.sent) == {N1.node}  # its own hold is let go first
    bench.ack(N1)
    assert N3.node not in bench.sent
    bench.ack(N2, problem="failure pending")  # an answer, too: it has moved
    assert bench.held(N3) == (0, 8 * MIB)
    assert limits_of(bench.ack(N3)) == []
    first = bench.sent[N3.node]
    assert limits_of(bench.ack(N2)) == [8 * MIB]
    assert bench.held(N2) == (0, 16 * MIB) and bench.sent[N3.node] is first
    bench.now.on_gone(N2)  # fenced: nobody waits for its move any more
    bench.take()
    assert bench.held(N3) == (0, 16 * MIB)


def test_letting_go_takes_turns_and_outlives_the_pass() -> None:
    bench = Bench(recovery(), (N2, N3), alone=(N1, N2, N3))
    bench.running()
    bench.ack(N1)
    for _ in range(60):
        for life in (N1, N2, N3):
            for hi in limits_of(bench.ack(life) if life.node in bench.sent else []):
                bench.reached(hi)
        if bench.proposed:
            break
    assert bench.proposed == [EndSync(ARRAY, 1)]
    bench.committed(EndSync(ARRAY, 1))
    for life in (N1, N2, N3):
        assert bench.held(life) == (0, 0) and not bench.now.done
        assert "lets go" in bench.waits_for()
        bench.ack(life)
    assert bench.now.done


def test_holds_are_asked_again_with_backoff() -> None:
    bench = Bench(resync(), (N2,))
    bench.running()
    for wait_ms in (50, 100, 200, 400, 800):
        before = bench.sends
        bench.later(wait_ms - 1)
        assert bench.sends == before
        bench.later(1)
        assert bench.sends == before + 1


def test_a_hold_not_confirmed_by_its_deadline_is_released_and_tried_later() -> None:
    bench = Bench(resync(), (N2, N3))
    bench.running()
    bench.ack(N2)
    old = bench.sent[N2.node]
    while bench.held(N2) != (0, 0):
        bench.later(10)
        assert bench.env.now_ms < 1000 + 2 * TIMING.hold_deadline_ms
    assert "not confirmed in time" in bench.waits_for()
    assert bench.sent[N2.node].serial > old.serial
    bench.later(TIMING.retry_min_ms)
    assert bench.held(N2) == (0, 8 * MIB)
    assert bench.ack(N2) == []  # asked anew, of everybody
    assert bench.ack(N3) == [LimitSync(ARRAY, 1, 8 * MIB)]


def test_raid10_holds_cover_whole_stripes_in_array_sectors() -> None:
    bench = Bench(resync(level=10, raid_disks=4), (N2,))
    assert bench.begin() == [SetBits(ARRAY, 1, 0, END)]
    bench.bits()
    assert bench.held(N2) == (0, 16 * MIB)
    assert bench.ack(N2) == [LimitSync(ARRAY, 1, 8 * MIB)]


def test_a_clean_range_is_skipped_and_counts_as_complete() -> None:
    bench = Bench(dead(), (N2,))
    bench.running()
    bench.ack(N2)
    assert bench.reached(8 * MIB, next_dirty=40 * MIB) == []
    assert bench.held(N2)[0] == 40 * MIB
    assert bench.sent[N2.node].complete_sectors == 40 * MIB
    assert limits_of(bench.ack(N2)) == [50 * MIB]  # it went fast: windows grow


def test_a_clean_range_within_what_is_announced_stays_held_while_it_is_passed() -> None:
    bench = Bench(dead(), (N2,))
    bench.running()
    bench.ack(N2)
    bench.ack(N2)
    assert bench.reached(8 * MIB, next_dirty=12 * MIB) == [LimitSync(ARRAY, 1, 16 * MIB)]
    assert bench.held(N2)[0] == 8 * MIB


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"problem": "gate shut"}, "gate shut"),
        ({"copied": 9}, "9 sectors copied of 10"),
    ],
)
def test_a_window_that_was_not_wholly_copied_is_copied_again(
    step: dict[str, int | str], words: str
) -> None:
    bench = Bench(resync(), (N2,))
    bench.running()
    bench.ack(N2)
    assert bench.reached(8 * MIB, **step) == [StopSync(ARRAY, 1)]  # type: ignore[arg-type]
    assert bench.held(N2) == (0, 16 * MIB)  # held until the copying has ended for certain
    assert bench.stopped() == []
    assert bench.held(N2) == (0, 0)
    assert words in bench.waits_for()
    assert bench.later(TIMING.retry_min_ms) == [SetBits(ARRAY, 1, 0, END)]
    assert bench.bits() == [StartSync(ARRAY, 1, SyncKind.RESYNC, 0)]
    assert bench.now.progress() == (0, END)


def test_a_step_to_another_place_is_not_complete() -> None:
    bench = Bench(resync(), (N2,))
    bench.running()
    bench.ack(N2)
    assert bench.reached(4 * MIB) == [StopSync(ARRAY, 1)]
    assert bench.now.progress() == (0, END)


def test_a_pass_that_fails_again_and_again_says_so_and_slows_down() -> None:
    bench = Bench(resync(), ())
    bench.running()
    for _ in range(TRIES_MAX):
        assert bench.reached(8 * MIB, problem="EIO") == [StopSync(ARRAY, 1)]
        bench.stopped()
        bench.later(TIMING.retry_max_ms)
        bench.bits()
    assert "failed 8 times: EIO" in bench.waits_for()
    assert bench.later(STUCK_RETRY_MS - TIMING.retry_max_ms) == [SetBits(ARRAY, 1, 0, END)]


def test_events_of_another_pass_change_nothing() -> None:
    bench = Bench(resync(), ())
    bench.running()
    bench.now.on_sync_reached(SyncReached(ARRAY, 7, 8 * MIB, 1, 1, 8 * MIB, ""))
    bench.now.on_bits_set(BitsSet(ARRAY, 7, 0, ""))
    bench.now.on_sync_stopped(SyncStopped(ARRAY, 7))
    assert bench.take() == [] and bench.now.progress() == (0, END)


# --- speed -------------------------------------------------------------------------------------


def test_windows_shrink_when_writes_are_held_too_long_and_grow_again() -> None:
    bench = Bench(resync(), ())
    bench.running()
    bench.later(4 * TIMING.hold_target_ms)
    bench.reached(8 * MIB)
    bench.later(4 * TIMING.hold_target_ms)
    small = limits_of(bench.reached(16 * MIB))[0] - 16 * MIB
    assert small < 8 * MIB
    position = 16 * MIB
    sizes = [small]
    while position + sizes[-1] < END:
        position += sizes[-1]
        bench.later(1)
        sizes.append(limits_of(bench.reached(position))[0] - position)
    assert min(sizes) < small and sizes[-2] > min(sizes)
    assert all(LIMITS.window_min_sectors <= s <= LIMITS.window_max_sectors for s in sizes[:-1])


def test_a_speed_limit_releases_each_window_before_it_pauses() -> None:
    bench = Bench(resync(), (N2,), limits=SyncLimits(speed_max_kib=8192))
    bench.running()
    assert bench.ack(N2) == [LimitSync(ARRAY, 1, 8 * MIB)]
    assert bench.held(N2) == (0, 8 * MIB)  # nothing ahead
    bench.later(100)
    assert bench.reached(8 * MIB) == []
    assert bench.held(N2) == (0, 0)
    assert "pauses 900 ms: speed limit" in bench.waits_for()
    bench.later(899)
    assert bench.held(N2) == (0, 0)
    bench.later(1)
    assert bench.held(N2)[0] == 8 * MIB


# --- checkpoints -------------------------------------------------------------------------------


def test_checkpoints_come_with_time_and_never_exceed_what_is_complete() -> None:
    bench = Bench(resync(), ())
    bench.running()
    bench.reached(8 * MIB)
    assert bench.proposed == []
    bench.later(TIMING.checkpoint_ms)
    bench.reached(16 * MIB)
    assert bench.proposed == [Checkpoint(ARRAY, 1, 16 * MIB)]
    bench.later(TIMING.checkpoint_ms)
    bench.reached(16 * MIB + 4 * MIB)
    assert len(bench.proposed) == 1  # the first is still on its way
    bench.committed(Checkpoint(ARRAY, 1, 16 * MIB))
    bench.later(TIMING.checkpoint_ms)
    complete = bench.now.progress()[0]
    bench.reached(complete + 2 * MIB)
    assert all(c.position_sectors <= bench.now.progress()[0] for c in checkpoints(bench))


@pytest.mark.parametrize("kind", [SyncKind.CHECK, SyncKind.REPAIR])
def test_a_check_is_held_like_a_resync_and_counts(kind: SyncKind) -> None:
    bench = Bench(syncing(mirror(), kind))
    assert bench.begin() == [StartSync(ARRAY, 1, kind, 0)]  # no bits: they say nothing of it
    assert bench.held(N2) == bench.held(N3) == (0, 8 * MIB)
    assert bench.ack(N2) == []
    assert limits_of(bench.ack(N3)) == [8 * MIB]
    bench.ack(N2, N3)
    bench.later(TIMING.checkpoint_ms)
    bench.reached(8 * MIB, mismatched=24)
    assert bench.proposed == [Checkpoint(ARRAY, 1, 8 * MIB, 24)]
    bench.ack(N2, N3)
    bench.reached(16 * MIB, mismatched=8, copied=9)  # not all of it: it is looked at again
    bench.stopped()
    bench.later(1000)
    for _ in range(40):
        allowed = limits_of(bench.ack(N2, N3))
        for hi in allowed:
            bench.reached(hi)
    assert EndSync(ARRAY, 1, (), 24) in bench.proposed


def test_a_new_writer_goes_on_where_what_was_found_is_known() -> None:
    state = change(syncing(mirror(), SyncKind.CHECK), Checkpoint(ARRAY, 1, 8 * MIB, 3))
    told = HoldReport(ARRAY, 1, 0, 0, 32 * MIB)
    assert resume_point(state, [told], told) == 8 * MIB
    bench = Bench(state, (), start=8 * MIB, merge_all=True)
    assert bench.begin()[0] == StartSync(ARRAY, 1, SyncKind.CHECK, 8 * MIB)


def checkpoints(bench: Bench) -> list[Checkpoint]:
    return [c for c in bench.proposed if isinstance(c, Checkpoint)]


# --- who runs it -------------------------------------------------------------------------------


def test_a_fenced_node_is_waited_for_no_more() -> None:
    bench = Bench(resync(), (N2, N3))
    bench.running()
    bench.ack(N2)
    bench.now.on_gone(N3)
    assert bench.take() == [LimitSync(ARRAY, 1, 8 * MIB)]


def test_a_node_that_joins_confirms_the_present_window_before_the_next_step() -> None:
    bench = Bench(resync(), (N2,))
    bench.running()
    bench.ack(N2)
    bench.now.on_joined(N4)
    bench.take()
    assert bench.held(N4) == bench.held(N2) == (0, 16 * MIB)
    bench.ack(N2)
    assert bench.reached(8 * MIB) == []
    assert limits_of(bench.ack(N2)) == []
    assert limits_of(bench.ack(N4)) == [16 * MIB]


def test_a_suspended_pass_finishes_its_window_and_lets_go() -> None:
    bench = Bench(resync(), (N2,))
    bench.running()
    bench.ack(N2)
    bench.now.suspend("node4 joins")
    assert not bench.idle()  # a window is being copied
    assert bench.ack(N2) == []
    assert bench.reached(8 * MIB) == []
    assert bench.idle() and bench.held(N2) == (0, 0)
    assert "node4 joins" in bench.waits_for()
    bench.committed(JoinRunner(ARRAY, N4))
    bench.now.on_joined(N4)
    bench.now.resume("node4 joins")
    bench.take()
    assert not bench.idle()
    assert bench.ack(N2) == []
    assert limits_of(bench.ack(N4)) != []


def test_a_lost_writer_role_stops_the_copying_and_keeps_the_holds() -> None:
    bench = Bench(resync(), (N2,))
    bench.running()
    bench.ack(N2)
    bench.now.stop()
    assert bench.take() == [StopSync(ARRAY, 1)]
    assert bench.held(N2) == (0, 16 * MIB)
    assert bench.env.timers.next_ms is None
    assert bench.reached(8 * MIB) == []
    assert bench.ack(N2) == []
    assert bench.now.done
    assert bench.now.report().complete_sectors == 0


@pytest.mark.parametrize("answered", [True, False])
def test_a_change_of_the_members_begins_again_at_what_is_complete(answered: bool) -> None:
    bench = Bench(resync(raid_disks=3), (N2,))
    bench.running()
    bench.ack(N2)
    bench.ack(N2)
    bench.reached(8 * MIB)
    assert bench.committed(FailMember(ARRAY, C, "")) == [StopSync(ARRAY, 1)]
    assert bench.held(N2)[0] == 8 * MIB  # the copying may not have ended yet
    if answered:
        bench.reached(16 * MIB, problem="interrupted")
    assert bench.held(N2)[0] == 8 * MIB
    bench.stopped()
    assert bench.held(N2) == (0, 0)
    assert bench.later(1) == [SetBits(ARRAY, 1, 8 * MIB, END)]
    assert bench.bits(8 * MIB) == [StartSync(ARRAY, 1, SyncKind.RESYNC, 0)]  # a role is vacant
    assert bench.held(N2) == (0, 18 * MIB)


def test_a_new_spare_does_not_disturb_a_resync() -> None:
    bench = Bench(resync(), (N2,))
    bench.running()
    bench.ack(N2)
    assert bench.committed(AddMember(ARRAY, new(C))) == []


def test_a_pass_without_premise_is_over() -> None:
    bench = Bench(recovery(), (N2,))
    bench.running()
    bench.ack(N2)
    assert bench.committed(FailMember(ARRAY, C, "")) == [StopSync(ARRAY, 1)]
    assert bench.now.done and bench.held(N2) == (0, 0)


# --- the end -----------------------------------------------------------------------------------


def copy_all(bench: Bench, *lives: Life) -> list[Effect]:
    """Play all windows up to the end; the effects of the last step."""
    effects = bench.ack(*lives)
    for _ in range(100):
        ends = limits_of(effects)
        effects = bench.reached(ends[-1]) if ends else bench.ack(*lives)
        if bench.now.progress()[0] == END:
            return effects
    raise AssertionError("the pass does not come to its end")


def test_a_resync_ends_with_its_commit() -> None:
    bench = Bench(resync(), (N2,))
    bench.running()
    assert copy_all(bench, N2) == [StopSync(ARRAY, 1)]
    assert bench.held(N2) == (0, 0)
    assert bench.proposed == [EndSync(ARRAY, 1)]
    bench.later(TIMING.retry_max_ms)
    assert bench.proposed == [EndSync(ARRAY, 1)] * 2  # until it is done
    bench.committed(EndSync(ARRAY, 1))
    assert bench.now.done and bench.env.timers.next_ms is None


def test_a_recovery_ends_only_while_everybody_holds_everything() -> None:
    bench = Bench(recovery(), (N2, N3))
    bench.running()
    assert copy_all(bench, N2, N3) == [StopSync(ARRAY, 1)]
    assert bench.held(N1) == bench.held(N2) == bench.held(N3) == (0, END)
    bench.ack(N2, N3)
    assert bench.proposed == []
    bench.ack(N1)
    assert bench.proposed == [EndSync(ARRAY, 1)]
    bench.later(10 * TIMING.hold_deadline_ms)
    assert bench.held(N2) == (0, END)  # never let go while the end is being committed
    bench.committed(EndSync(ARRAY, 1))
    assert bench.now.done
    assert bench.held(N1) == bench.held(N2) == bench.held(N3) == (0, 0)


def test_a_recovery_whose_last_holds_are_not_confirmed_lets_go_and_asks_again() -> None:
    bench = Bench(recovery(), (N2, N3))
    bench.running()
    copy_all(bench, N2, N3)
    bench.ack(N1, N2)
    while bench.held(N2) != (0, 0):
        bench.later(10)
        assert bench.env.now_ms < 1000 + 2 * TIMING.hold_deadline_ms
    assert bench.held(N1) == (0, 0) and bench.proposed == []
    bench.later(TIMING.retry_min_ms)
    bench.ack(N1, N2, N3)
    assert bench.proposed == [EndSync(ARRAY, 1)]


def test_slots_are_zeroed_one_by_one_once_their_bits_are_durable_and_before_any_copying() -> None:
    state = change(mirror(N1, N2, N3, N4), EndLife(ARRAY, N4), EndLife(ARRAY, N3))
    bench = Bench(syncing(state, SyncKind.BITMAP), (N2,))
    assert bench.begin() == [MergeBits(ARRAY, 1, (2, 3))]
    bench.now.on_slot_zeroed(SlotZeroed(ARRAY, N3, ""))  # not asked for yet
    assert bench.take() == []
    assert bench.bits() == [ZeroSlot(ARRAY, N3, 2)]
    bench.now.on_slot_zeroed(SlotZeroed(ARRAY, N4, ""))
    assert bench.take() == []
    bench.now.on_slot_zeroed(SlotZeroed(ARRAY, N3, "EIO"))
    assert bench.take() == []
    assert "slot of node3 not zeroed: EIO" in bench.waits_for()
    assert bench.later(TIMING.retry_min_ms) == [ZeroSlot(ARRAY, N3, 2)]
    bench.now.on_slot_zeroed(SlotZeroed(ARRAY, N3, ""))
    assert bench.take() == [ZeroSlot(ARRAY, N4, 3)]
    assert bench.sent.get(N2.node) is None  # nothing is held yet
    bench.now.on_slot_zeroed(SlotZeroed(ARRAY, N4, ""))
    assert bench.take() == [StartSync(ARRAY, 1, SyncKind.BITMAP, 0)]
    assert copy_all(bench, N2) == [StopSync(ARRAY, 1)]
    assert bench.proposed == [EndSync(ARRAY, 1, (N3, N4))]


def test_nothing_dirty_needs_no_window_but_the_slots_are_zeroed() -> None:
    bench = Bench(dead(), (N2,))
    bench.begin()
    zero = bench.bits(next_dirty=END)
    assert zero == [ZeroSlot(ARRAY, N4, 3)]
    assert bench.proposed == []
    assert bench.zeroed(zero) == []
    assert bench.proposed == [EndSync(ARRAY, 1, (N4,))]


def test_a_life_that_ends_during_the_pass_is_left_to_the_next_one() -> None:
    bench = Bench(dead(), (N2, N3))
    bench.running()
    bench.ack(N2, N3)
    assert bench.reached(8 * MIB) == []
    bench.now.on_gone(N3)
    assert bench.committed(EndLife(ARRAY, N3)) == []
    assert copy_all(bench, N2) == [StopSync(ARRAY, 1)]
    assert bench.proposed == [EndSync(ARRAY, 1, (N4,))]


def test_a_pass_resumed_at_its_end_only_ends() -> None:
    bench = Bench(resync(), (N2,), start=END)
    assert bench.begin() == []
    assert bench.proposed == [EndSync(ARRAY, 1)]


def test_an_array_that_stops_here_stops_its_pass() -> None:
    bench = Bench(resync(), ())
    bench.running()
    bench.now.on_state(replace(bench.state, running=(N2,)))
    assert bench.take() == [StopSync(ARRAY, 1)] and bench.now.done
