"""Bugs planted on purpose, each one rule of the design left out of the core.

`PLANTED` maps a name to the bug: how to plant it, and a world in which it shows fast. The
tests require that the checkers catch each one, and that the same worlds pass without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mdcluster.core.commits import Commits
from mdcluster.core.effects import Activate, ShutGate, ZeroSlot
from mdcluster.core.election import Election
from mdcluster.core.events import Asked, Fenced, Held, Sampled
from mdcluster.core.holds import Holds
from mdcluster.core.membership import Membership
from mdcluster.core.messages import Replicate, ReplicateAck
from mdcluster.core.model import ZERO, Entry, FailMember, HandOver, Life, NodeId, SyncKind
from mdcluster.core.replica import Replica
from mdcluster.core.resync import Pass
from mdcluster.core.tracks import Track
from tests.sim.disks import EVERY_HOST
from tests.sim.network import Weather
from tests.sim.swarm import SECOND_US, Mix, Run


@dataclass(frozen=True, slots=True)
class Planted:
    """One bug: attributes to replace, and the world that shows it."""

    patches: tuple[tuple[type, str, Any], ...]
    mix: Callable[[], Mix]
    shows: str = ""
    seeds: int = 60


@contextmanager
def planted(bug: Planted) -> Iterator[None]:
    """The core without one of its rules."""
    before = [(owner, name, owner.__dict__[name]) for owner, name, _ in bug.patches]
    for owner, name, value in bug.patches:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


# --- the bugs ----------------------------------------------------------------------------

_begin_term = Commits.begin_term
_begin_hand_over = Election.begin_hand_over
_give_word = Election.give_word
_on_held = Holds.on_held
_announce_ahead = Pass._announce_ahead
_set_bits = Pass._set_bits
_try_release = Replica._try_release


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
    self.on_confirmed(Fenced(life, "silent for long enough"))


def _lease_twice(self: Election) -> int:
    until_ms: int = _lease_until(self)
    return until_ms + self._env.timing.lease_ms if until_ms else 0


_lease_until: Callable[[Election], int] = Election.__dict__["lease_until_ms"].fget


# --- the worlds --------------------------------------------------------------------------


def _writer(run: Run) -> int:
    return next((h.index for h in run.world.hosts if h.up and h.gate_open()), 0)


def _others(run: Run, writer: int) -> list[int]:
    return [h.index for h in run.world.hosts if h.index != writer]


def _both_ways(a: int, *others: int) -> set[tuple[int, int]]:
    return {(a, b) for b in others} | {(b, a) for b in others}


def _forgetful_voter(run: Run) -> None:
    """One voter cut off the writer long ago, the other restarts as the writer is cut off."""
    world, writer = run.world, _writer(run)
    first, second = _others(run, writer)[:2]
    network = world.network
    network.cut_pairs(_both_ways(writer, first))

    def restart() -> None:
        host = world.hosts[second]
        host.crash()
        network.cut_pairs(_both_ways(writer, second))
        world.after_us(1_000, host.boot)

    world.after_us(run.rng.randrange(1_000_000, 1_700_000), restart)


def _hand_over(run: Run) -> None:
    """A planned transfer, now and again."""
    world = run.world
    target = run.rng.choice(_others(run, _writer(run)))
    world.workload.wish(HandOver(world.hosts[target].node))
    world.after_us(SECOND_US, _hand_over, run)


def _two_members_fail(run: Run) -> None:
    """Two of three members fail at nearly the same time; writes to the second are slow."""
    disks = list(run.world.disks.values())
    first, second = run.rng.sample(disks, 2)
    second.slow_us = 40_000

    def fail() -> None:
        first.bad_writes.add(EVERY_HOST)
        run.world.after_us(run.rng.randrange(1, 25_000), second.bad_writes.add, EVERY_HOST)

    run.world.after_us(300_000, fail)


def _follower_fails_in_resync(run: Run) -> None:
    """A follower alone cannot write to a member of a new array for a moment."""
    world = run.world
    follower = run.rng.choice(_others(run, _writer(run)))
    uuid = world.workload.create(2)
    paths = [p for p in world.disks if p.startswith(f"/disk/{world.workload.arrays.index(uuid)}")]
    for path in paths:
        world.disks[path].slow_us = 15_000
    disk = world.disks[run.rng.choice(paths)]

    def fail() -> None:
        copies = [h for h in world.hosts if (a := h.md.arrays.get(uuid)) is not None and a.sync]
        if not copies:
            world.after_us(1_000, fail)
        elif copies[0].index != follower:
            disk.bad_writes.add(follower)
            world.after_us(60_000, disk.mend)
            world.after_us(run.rng.randrange(100_000, 200_000), fail)

    fail()


def _late_apply(run: Run) -> None:
    """A member fails while messages to one follower are stuck."""
    world, writer = run.world, _writer(run)
    slow = run.rng.choice(_others(run, writer))
    world.network.clogged_until[writer, slow] = world.now_us + 350_000
    disk = run.rng.choice(list(world.disks.values()))
    disk.bad_writes.add(EVERY_HOST)


def _slow_crash(run: Run) -> None:
    """A host dies with writes under way; one disk is slower than the other."""
    world = run.world
    run.rng.choice(list(world.disks.values())).slow_us = 60_000
    host = world.hosts[run.rng.choice(_others(run, _writer(run)))]
    world.after_us(300_000, host.crash)
    world.after_us(2_500_000, run.boot, host)


def _long_freeze(run: Run) -> None:
    """A host that runs arrays is silent for long, but not dead."""
    host = run.world.hosts[run.rng.choice(_others(run, _writer(run)))]
    host.freeze()
    run.world.after_us(4_000_000, host.thaw)


def _isolated_writer(run: Run) -> None:
    writer = _writer(run)
    run.world.network.cut_pairs(_both_ways(writer, *_others(run, writer)))


def _lonely_commits(run: Run) -> None:
    """The writer is cut off with a change it alone persists, dies, and comes back to win."""
    world, writer = run.world, _writer(run)
    others = _others(run, writer)
    host = world.hosts[writer]
    state = world.workload.array()
    if state is None:
        return
    cut = {(writer, other) for other in others}
    world.network.cut_pairs(cut)
    host.deliver(Asked("lonely", FailMember(state.uuid, state.in_sync[0].device, "told to")))

    def restart() -> None:
        host.crash()
        world.network.heal_pairs(cut)
        world.hosts[run.rng.choice(others)].crash(power=True)
        host.boot()

    world.after_us(30_000, restart)


def _mix(script: Callable[[Run], None], **facts: Any) -> Callable[[], Mix]:
    def make() -> Mix:
        given = {"weather": Weather(), "trouble_us": 5 * SECOND_US, **facts}
        return Mix(script=script, **given)

    return make


PLANTED: dict[str, Planted] = {
    "starting_voter_votes_at_once": Planted(
        ((Election, "withheld", property(lambda self: False)),), _mix(_forgetful_voter), "(1)"
    ),
    "transfer_keeps_gate": Planted(
        (
            (Election, "begin_hand_over", _without_shut(_begin_hand_over)),
            (Election, "give_word", _without_shut(_give_word)),
        ),
        _mix(_hand_over),
        "(1)",
    ),
    "ack_before_persist": Planted(((Replica, "_ack", _ack_at_once),), _mix(_hand_over), "(3)"),
    "window_done_when_next_announced": Planted(
        ((Pass, "_announce_ahead", _announce_and_complete),), _mix(_hand_over), "(6)"
    ),
    "slot_zeroed_too_early": Planted(((Pass, "_set_bits", _zero_first),), _mix(_slow_crash), "(7)"),
    "release_without_resampling": Planted(
        ((Replica, "on_sampled", _one_sample),), _mix(_two_members_fail, disks=3), "(5)"
    ),
    "hold_confirmed_over_held_write": Planted(
        ((Holds, "on_held", _held_is_held),),
        _mix(_follower_fails_in_resync, weather=Weather(loss=0.25)),
        "(6)",
    ),
    "old_term_entry_counts_as_committed": Planted(
        ((Commits, "begin_term", _old_counts),), _mix(_lonely_commits), "(3)"
    ),
    "release_on_own_apply": Planted(
        ((Replica, "may_release", lambda self, key: key in self.applied),), _mix(_late_apply), "(5)"
    ),
    "gate_open_beyond_lease": Planted(
        ((Election, "lease_until_ms", property(_lease_twice)),), _mix(_isolated_writer), "(1)"
    ),
    "silence_taken_for_fencing": Planted(
        ((Membership, "evict", _fenced_by_silence),), _mix(_long_freeze), "(7)"
    ),
}
