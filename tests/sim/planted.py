"""Bugs planted on purpose, each one rule of the design left out of the core.

`PLANTED` maps a name to the bug: how to plant it, and a world in which it shows fast. The
tests require that the checkers catch each one, and that the same worlds pass without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mdcluster.core import arrays, keeper, resync, writer
from mdcluster.core.announcer import Announcer
from mdcluster.core.commits import Commits
from mdcluster.core.departures import SHUTDOWN_TIMER, Departures
from mdcluster.core.effects import Activate, ShutGate, Stopped, ZeroSlot
from mdcluster.core.election import Election
from mdcluster.core.evaluation import Evaluation
from mdcluster.core.events import Fenced, Held, Sampled, SyncReached
from mdcluster.core.feeding import Feeding
from mdcluster.core.geometry import needs_sync
from mdcluster.core.holds import Holds
from mdcluster.core.keeper import Keeper
from mdcluster.core.ledger import is_quorum
from mdcluster.core.membership import Membership
from mdcluster.core.messages import Replicate, ReplicateAck
from mdcluster.core.model import (
    ZERO,
    ArrayId,
    ArrayState,
    BeginSync,
    DeviceId,
    EndLife,
    Entry,
    ForgetArray,
    Life,
    NodeId,
    ShowSize,
    SyncKind,
    SyncPass,
)
from mdcluster.core.node import Node
from mdcluster.core.replica import Replica
from mdcluster.core.resync import Pass
from mdcluster.core.timing import Timing
from mdcluster.core.tracks import Commit, Stage, Track
from tests.sim import scenes
from tests.sim.mdmodel import Md, MdArray
from tests.sim.network import Weather
from tests.sim.swarm import Mix
from tests.sim.world import WATCHDOG_TIMING, Quirks


@dataclass(frozen=True, slots=True)
class Planted:
    """One bug: attributes to replace, and the world that shows it."""

    patches: tuple[tuple[Any, str, Any], ...]
    mix: Callable[[], Mix]
    shows: str = ""
    seeds: int = 60


@contextmanager
def planted(bug: Planted) -> Iterator[None]:
    """The core without one of its rules."""
    before = [(owner, name, owner.__dict__.get(name)) for owner, name, _ in bug.patches]
    for owner, name, value in bug.patches:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            if value is None:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


# --- the bugs ----------------------------------------------------------------------------

_begin_sync = arrays._HANDLERS[BeginSync]
_begin_term = Commits.begin_term
_begin_hand_over = Election.begin_hand_over
_give_word = Election.give_word
_on_held = Holds.on_held
_announce_ahead = Pass._announce_ahead
_next_window = Pass._next_window
_set_bits = Pass._set_bits
_step_problem = resync._step_problem
_tend_array = Keeper._tend_array
_try_report = Node._try_report
_vouch = Membership.vouch


def _without_shut(call: Callable[..., None]) -> Callable[..., None]:
    """The same, but the gate stays as it is."""

    def without(self: Election, *args: Any) -> None:
        kept = self._env.take_effects()
        call(self, *args)
        kept += [e for e in self._env.take_effects() if not isinstance(e, ShutGate)]
        self._env.emit(*kept)

    return without


def _ack_at_once(self: Replica, sender: NodeId, msg: Replicate) -> None:
    ack = ReplicateAck(msg.term, msg.entry.key, msg.entry.stamp)
    self._env.send(sender, ack, urgent=True)


def _announce_and_complete(self: Pass, copying: tuple[int, int]) -> None:
    self._complete = copying[1]
    _announce_ahead(self, copying)


def _zero_first(self: Pass) -> None:
    if self.kind is SyncKind.BITMAP:
        for slot in self._to_zero:
            self._env.emit(ZeroSlot(self.array, slot.life, slot.index))
    _set_bits(self)


def _one_sample(self: Replica, ev: Sampled) -> None:
    if self._unlocking.pop(ev.array, None) is not None:
        self._env.emit(Activate(ev.array))


def _held_is_held(self: Holds, event: Held) -> None:
    _on_held(self, replace(event, clean=True))


def _old_counts(self: Commits, newest: Any) -> None:
    """Entries of older terms are taken as committed as they are."""
    entries: list[Entry] = list(newest)
    if any(old.stamp == ZERO for old in entries):
        _begin_term(self, entries)
        return
    self.end_term()
    for old in entries:
        track = self.tracks.setdefault(old.key, Track(old.key))
        track.entry = old
        self._committed(track, old)
    self._election.become_ready()
    self._ready()


def _fenced_by_silence(self: Membership, life: Life) -> None:
    self.fencing[life] = ""
    self.on_confirmed(Fenced(life, "silent for long enough", self.heard_ms(life)))


def _lease_twice(self: Election) -> int:
    until_ms: int = _lease_until(self)
    return until_ms + self._env.timing.lease_ms if until_ms else 0


_lease_until: Callable[[Election], int] = Election.__dict__["lease_until_ms"].fget


def _no_bits(self: Pass) -> None:
    if self.kind is SyncKind.RESYNC and not self._dirty:
        self._zero()
    else:
        _set_bits(self)


def _bits_first(state: ArrayState) -> SyncKind | None:
    if any(slot.dirty for slot in state.slots):
        return SyncKind.BITMAP
    return needs_sync(state)


def _begins_any(state: ArrayState, change: BeginSync, context: Any) -> Any:
    if change.kind is not SyncKind.BITMAP:
        return _begin_sync(state, change, context)
    serial = state.last_serial + 1
    return replace(state, sync=SyncPass(serial, change.kind, 0), last_serial=serial)


def _at_its_position(self: Pass, first_dirty: int) -> None:
    if self._by_bitmap:
        self._complete = max(self._complete, min(first_dirty, self._end))


def _looks_unheld(self: Pass) -> None:
    if self.kind is SyncKind.CHECK:
        self._holds.others.clear()
    _next_window(self)


def _shows_at_once(self: Keeper, track: Track, state: ArrayState) -> None:
    if state.shown_sectors is not None:
        self._commits.own(ShowSize(state.uuid))
    _tend_array(self, track, state)


def _not_counted(event: SyncReached, hi: int) -> str:
    return _step_problem(replace(event, copied_sectors=event.planned_sectors), hi)


def _joins_writable(self: MdArray, state: ArrayState, find: Callable[[DeviceId], Any]) -> str:
    """Who did not run the array when it was made read-only takes it as any other."""
    known = self.uuid in self.host.md.arrays
    return _follow(self, state if known else replace(state, readonly=False), find)


def _old_voters_decide(self: Election, newest: dict[str, Entry]) -> bool:
    return is_quorum(self._ledger.cluster, self._votes, self._env.names)


def _report_at_once(self: Node) -> None:
    gated, self.gated = self.gated, 0
    _try_report(self)
    self.gated = gated


def _goes_on(self: Keeper, array: ArrayId) -> bool:
    return True


def _only_suspects(self: Membership) -> frozenset[NodeId]:
    return self.suspects


def _ends_the_silent(self: Keeper, track: Track, state: ArrayState) -> None:
    for life in state.running:
        if life in self._membership.fencing:
            self._commits.own(EndLife(state.uuid, life))
    _tend_array(self, track, state)


def _stop_at_once(self: Departures) -> None:
    if self.shutting_down and self._env.timers.at_ms((SHUTDOWN_TIMER,)) is not None:
        self._env.timers.cancel((SHUTDOWN_TIMER,))
        self._env.emit(Stopped())


def _not_noted(self: Departures, array: ArrayId) -> None:
    return None


def _leaves_nothing(self: Departures, why: str) -> None:
    return None


def _met_in_another_life(self: Membership, life: Life) -> bool:
    return self.lives.get(life.node, life) != life


def _vouched_for_all(self: Membership, life: Life) -> None:
    for other in sorted(self.listed()):
        if other.node == life.node and other in self.fencing:
            _vouch(self, other)


def _inherit_unheld(self: Md) -> tuple[ArrayId, ...]:
    arrays = _inherit(self)
    for array in self.arrays.values():
        array.hold = (0, 0)
    return arrays


def _inherit_copying(self: Md) -> tuple[ArrayId, ...]:
    """What is being copied is copied on."""
    syncs = {uuid: array.sync for uuid, array in self.arrays.items()}
    arrays = _inherit(self)
    for uuid, array in self.arrays.items():
        array.sync = syncs[uuid]
    return arrays


def _inherit_with_empty_slots(self: Md) -> tuple[ArrayId, ...]:
    for array in self.arrays.values():
        for leg in array.legs:
            leg.disk.bits[array.slot] = 0
    return _inherit(self)


_inherit = Md.inherit
_follow = MdArray.follow


def _all_heard_answered(self: Keeper, state: ArrayState) -> bool:
    return all(self._membership.answered(x) for x in state.running if _heard(self, x))


def _heard(self: Any, life: Life) -> bool:
    """Taken for all there is to know of a life: whether its daemon is there."""
    up: set[NodeId] = self._membership.up
    return life == self._env.me or life.node in up


def _missing_if_heard(self: Commits, track: Track, commit: Commit) -> list[Life]:
    return [life for life in _missing(self, track, commit) if _heard(self, life)]


def _others_if_heard(self: Keeper, state: ArrayState) -> set[Life]:
    return {life for life in _others(self, state) if _heard(self, life)}


_missing = Commits.missing
_others = Keeper._others


def _started_anew(self: Departures, array: ArrayId) -> None:
    return None


def _never_hands_over(self: Keeper, state: ArrayState) -> None:
    return None


def _may_forget_at_once(self: Evaluation, change: ForgetArray) -> bool:
    track = self._tracks().get(change.array)
    return track is not None and track.committed is not None and track.stage is Stage.IDLE


def _fence_after(t: Timing, periods: int, grace_ms: int) -> int:
    """watchdog_fence_ms with other summands."""
    silent_ms = t.io_lease_ms + grace_ms + periods * t.watchdog_ms
    return t.outlast(silent_ms + t.device_timeout_ms)


def _grants_to_all(self: Membership, node: NodeId) -> int:
    peer = self.peers.get(node)
    return peer.ask if peer is not None else 0


def _whatever_was_heard(self: Membership, ev: Fenced) -> None:
    if ev.life in self.fencing or ev.life in self.listed():
        self.fencing.setdefault(ev.life, "")
        self._end(ev.life, ev.how)


LONG_GRACE = replace(WATCHDOG_TIMING, grace_ms=6500)
"""So long that it shows where it is left out, though no feed is late."""

KERNEL: dict[str, Any] = {"quirks": Quirks(outlives=True)}

PLANTED: dict[str, Planted] = {
    "watchdog_counted_once": Planted(
        ((Timing, "watchdog_fence_ms", property(lambda t: _fence_after(t, 1, t.grace_ms))),),
        scenes.mix_of(scenes.late_feed, timing=WATCHDOG_TIMING, trouble_us=12_000_000),
        "(7)",
    ),
    "watchdog_without_grace": Planted(
        ((Timing, "watchdog_fence_ms", property(lambda t: _fence_after(t, 3, 0))),),
        scenes.mix_of(scenes.cut_off, timing=LONG_GRACE, trouble_us=18_000_000),
        "(7)",
    ),
    "fed_without_lease": Planted(
        ((Feeding, "_is_harmless", lambda self: True),),
        scenes.mix_of(scenes.cut_off, timing=WATCHDOG_TIMING, trouble_us=12_000_000),
        "(7)",
    ),
    "condemned_keeps_its_lease": Planted(
        ((Membership, "_grantable", _grants_to_all),),
        scenes.mix_of(scenes.cannot_follow, timing=WATCHDOG_TIMING, trouble_us=16_000_000),
        "(7)",
    ),
    "confirmed_for_an_earlier_silence": Planted(
        ((Membership, "on_confirmed", _whatever_was_heard),),
        scenes.mix_of(scenes.slow_providers, timing=LONG_GRACE, trouble_us=30_000_000),
        "(7)",
    ),
    "starting_voter_votes_at_once": Planted(
        ((Election, "withheld", property(lambda self: False)),),
        scenes.mix_of(scenes.forgetful_voter),
        "(1)",
    ),
    "transfer_keeps_gate": Planted(
        (
            (Election, "begin_hand_over", _without_shut(_begin_hand_over)),
            (Election, "give_word", _without_shut(_give_word)),
        ),
        scenes.mix_of(scenes.hand_over),
        "(1)",
    ),
    "ack_before_persist": Planted(
        ((Replica, "_ack", _ack_at_once),), scenes.mix_of(scenes.hand_over), "(3)"
    ),
    "window_done_when_next_announced": Planted(
        ((Pass, "_announce_ahead", _announce_and_complete),), scenes.mix_of(scenes.hand_over), "(6)"
    ),
    "slot_zeroed_too_early": Planted(
        ((Pass, "_set_bits", _zero_first),), scenes.mix_of(scenes.slow_crash), "(7)"
    ),
    "release_without_resampling": Planted(
        ((Replica, "on_sampled", _one_sample),),
        scenes.mix_of(scenes.two_members_fail, disks=3),
        "(5)",
    ),
    "hold_confirmed_over_held_write": Planted(
        ((Holds, "on_held", _held_is_held),),
        scenes.mix_of(scenes.follower_fails_in_resync, weather=Weather(loss=0.25)),
        "(6)",
    ),
    "old_term_entry_counts_as_committed": Planted(
        ((Commits, "begin_term", _old_counts),), scenes.mix_of(scenes.lonely_commits), "(3)"
    ),
    "release_on_own_apply": Planted(
        ((Replica, "may_release", lambda self, key: key in self.applied),),
        scenes.mix_of(scenes.late_apply),
        "(5)",
    ),
    "gate_open_beyond_lease": Planted(
        ((Election, "lease_until_ms", property(_lease_twice)),),
        scenes.mix_of(scenes.isolated_writer),
        "(1)",
    ),
    "silence_taken_for_fencing": Planted(
        ((Membership, "evict", _fenced_by_silence),), scenes.mix_of(scenes.long_freeze), "(7)"
    ),
    "bits_not_set_before_resync_by_position": Planted(
        ((Pass, "_set_bits", _no_bits),), scenes.mix_of(scenes.nothing_more), "(6)"
    ),
    "check_not_held": Planted(
        ((Pass, "_next_window", _looks_unheld),), scenes.mix_of(scenes.looks), "(6)"
    ),
    "size_shown_at_once": Planted(
        (
            (Keeper, "_tend_array", _shows_at_once),
            (Evaluation, "too_early", lambda self, track, change: ""),
        ),
        scenes.mix_of(scenes.grows, size_blocks=7),
        "(6)",
    ),
    "sectors_not_counted": Planted(
        ((resync, "_step_problem", _not_counted),), scenes.mix_of(scenes.short_copies), "(6)"
    ),
    "bits_before_recovery": Planted(
        (
            (keeper, "needs_sync", _bits_first),
            (arrays, "_HANDLERS", {**arrays._HANDLERS, BeginSync: _begins_any}),
            (arrays, "validate", lambda state: []),
        ),
        scenes.mix_of(
            scenes.dies_as_a_member_fails, disks=3, spares=1, quirks=Quirks(kernel_md=True), hosts=4
        ),
        "(6)",
    ),
    "spare_takes_over_in_a_bitmap_pass": Planted(
        ((arrays, "_spares_wait", lambda state: False),),
        scenes.mix_of(
            scenes.fails_in_bitmap_pass, disks=3, spares=1, quirks=Quirks(kernel_md=True), hosts=4
        ),
        "(6)",
    ),
    "begins_where_it_was": Planted(
        ((Pass, "_place", _at_its_position),),
        scenes.mix_of(
            scenes.interrupted_chunks,
            quirks=Quirks(kernel_md=True, chunk_blocks=8, window_max_blocks=4),
        ),
        "(6)",
    ),
    "leaves_gaps_while_a_role_is_vacant": Planted(
        ((resync, "vacant_roles", lambda state: ()),),
        scenes.mix_of(
            scenes.dies_as_a_member_fails,
            disks=3,
            quirks=Quirks(kernel_md=True, window_max_blocks=2),
            hosts=5,
        ),
        "(6)",
    ),
    "all_move_holds_at_once": Planted(
        ((Announcer, "_has_turn", lambda self, life: True),),
        scenes.mix_of(scenes.nothing_more, quirks=Quirks(serial_holds=True)),
        "(9)",
    ),
    "holds_let_go_by_themselves": Planted(
        ((Holds, "_moves_alone", property(lambda self: False, lambda self, on: None)),),
        scenes.mix_of(scenes.fails_and_recovers, spares=1, quirks=Quirks(serial_holds=True)),
        "(9)",
    ),
    "candidate_ignores_newer_voter_set": Planted(
        ((Election, "_has_won", _old_voters_decide),),
        scenes.mix_of(scenes.newer_voters, hosts=5, trouble_us=9_000_000),
        "(3)",
    ),
    "report_before_copying_ended": Planted(
        ((Node, "_try_report", _report_at_once),),
        scenes.mix_of(scenes.late_superblock, disks=3),
        "superblock",
    ),
    "join_while_copying": Planted(
        ((Keeper, "_paused_for_join", _goes_on),), scenes.mix_of(scenes.join_in_resync), "(6)"
    ),
    "pins_dropped_at_election": Planted(
        ((Membership, "unsettled", property(_only_suspects)),),
        scenes.mix_of(scenes.two_deaths, hosts=5, quirks=Quirks(stable_after_us=1_200_000)),
        "(7)",
    ),
    "life_ended_without_fencing": Planted(
        ((Keeper, "_tend_array", _ends_the_silent),), scenes.mix_of(scenes.long_freeze), "(7)"
    ),
    "stops_while_listed": Planted(
        ((Departures, "try_stop", _stop_at_once),), scenes.mix_of(scenes.orderly_stops), "(9)"
    ),
    "stops_while_prepared": Planted(
        ((Departures, "prepares", _not_noted),), scenes.mix_of(scenes.stop_while_joining), "(9)"
    ),
    "spectator_keeps_its_arrays": Planted(
        ((Departures, "leave_all", _leaves_nothing),),
        scenes.mix_of(scenes.becomes_spectator),
        "(8)",
    ),
    "met_before_is_met_later": Planted(
        ((Membership, "_has_successor", _met_in_another_life),),
        scenes.mix_of(scenes.restarts_out_of_sight),
        "(7)",
    ),
    "late_word_ends_the_next_life": Planted(
        ((Membership, "vouch", _vouched_for_all),), scenes.mix_of(scenes.late_word, hosts=5), "(7)"
    ),
    "what_was_released_comes_back": Planted(
        ((writer, "without_gone", lambda entries, cluster: entries),),
        scenes.mix_of(scenes.released_while_away, assume_clean=True),
        "(3)",
    ),
    "forgotten_before_it_is_plain": Planted(
        ((Evaluation, "may_forget", _may_forget_at_once),),
        scenes.mix_of(scenes.released_over_a_bad_disk, assume_clean=True),
        "(3)",
    ),
    "voters_change_before_they_have_all": Planted(
        ((Evaluation, "_if_held", lambda self, voters: voters),),
        scenes.mix_of(scenes.voters_leave_early, hosts=5, assume_clean=True),
        "(3)",
    ),
    "new_daemon_does_not_hold": Planted(
        ((Md, "inherit", _inherit_unheld),),
        scenes.mix_of(scenes.daemon_restarts, weather=Weather(loss=0.3), **KERNEL),
        "(6)",
    ),
    "reports_before_it_has_caught_up": Planted(
        ((Replica, "catching_up", property(lambda self: ())),),
        scenes.mix_of(scenes.daemon_restarts, weather=Weather(loss=0.3), **KERNEL),
        "(4)",
    ),
    "new_daemon_clears_its_slot": Planted(
        ((Md, "inherit", _inherit_with_empty_slots),),
        scenes.mix_of(scenes.power_fails_after_restart, **KERNEL),
        "no bit set",
    ),
    "new_daemon_copies_on": Planted(
        ((Md, "inherit", _inherit_copying), (Md, "hold_still", lambda self: True)),
        scenes.mix_of(scenes.daemon_of_the_writer_restarts, **KERNEL),
        "(6)",
    ),
    "copying_of_a_dead_daemon_ignored": Planted(
        (
            (Keeper, "_all_answered", _all_heard_answered),
            (Keeper, "_others", _others_if_heard),
            (Commits, "missing", _missing_if_heard),
        ),
        scenes.mix_of(scenes.daemon_of_the_writer_dies, **KERNEL),
        "(6)",
    ),
    "listed_life_starts_anew": Planted(
        ((Departures, "not_running", _started_anew),),
        scenes.mix_of(scenes.stopped_behind_its_back, **KERNEL),
        "no bit set",
    ),
    "a_pause_is_forgotten": Planted(
        ((ArrayState, "still", property(lambda self: self.readonly)),),
        scenes.mix_of(scenes.paused),
        "(6)",
    ),
    "joins_writable": Planted(
        ((MdArray, "follow", _joins_writable),),
        scenes.mix_of(scenes.read_only, trouble_us=12_000_000),
        "(4)",
    ),
    "added_again_before_all_released_it": Planted(
        ((Replica, "in_use", lambda self, array, device: False),),
        scenes.mix_of(scenes.comes_back_early),
        "(9)",
    ),
    "members_are_erased": Planted(
        ((Evaluation, "_erase_refusal", lambda self, change: None),),
        scenes.mix_of(scenes.erases_members),
        "(3)",
    ),
    "erased_while_in_use": Planted(
        ((Evaluation, "too_early", lambda self, track, change: ""),),
        scenes.mix_of(scenes.erases, disks=3),
        "(3)",
    ),
    "never_hands_over_to_a_runner": Planted(
        ((Keeper, "_hand_over_to_a_runner", _never_hands_over),),
        scenes.mix_of(scenes.writer_without_disks, trouble_us=15_000_000),
        "(9)",
    ),
}
