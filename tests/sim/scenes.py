"""Worlds in which a planted bug shows fast: one script each, run when the trouble begins.

A script is called once, with the :class:`Run`; `mix_of` makes the mix of a seed from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mdcluster.core.effects import PrepareDevices, WriteSuperblocks
from mdcluster.core.events import Asked, FenceAcked, Line
from mdcluster.core.model import (
    ArrayId,
    BeginSync,
    EraseDevice,
    FailMember,
    HandOver,
    ReAddMember,
    ReleaseArray,
    RemoveMember,
    SetPaused,
    SetReadonly,
    SetSize,
    StopArray,
    SyncKind,
)
from tests.sim.disks import EVERY_HOST, SIZE_SECTORS, Disk
from tests.sim.faults import SECOND_US
from tests.sim.hosts import Host
from tests.sim.network import Weather
from tests.sim.swarm import Mix, Run


def _writer(run: Run) -> int:
    return next((h.index for h in run.world.hosts if h.up and h.gate_open()), 0)


def _others(run: Run, writer: int) -> list[int]:
    return [h.index for h in run.world.hosts if h.index != writer]


def _both_ways(a: int, *others: int) -> set[tuple[int, int]]:
    return {(a, b) for b in others} | {(b, a) for b in others}


def forgetful_voter(run: Run) -> None:
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


def hand_over(run: Run) -> None:
    """A planned transfer, now and again."""
    world = run.world
    target = run.rng.choice(_others(run, _writer(run)))
    world.workload.wish(HandOver(world.hosts[target].node))
    world.after_us(SECOND_US, hand_over, run)


def two_members_fail(run: Run) -> None:
    """Two of three members fail at nearly the same time; writes to the second are slow."""
    disks = list(run.world.disks.values())
    first, second = run.rng.sample(disks, 2)
    second.slow_us = 40_000

    def fail() -> None:
        first.bad_writes.add(EVERY_HOST)
        run.world.after_us(run.rng.randrange(1, 25_000), second.bad_writes.add, EVERY_HOST)

    run.world.after_us(300_000, fail)


def follower_fails_in_resync(run: Run) -> None:
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


def looks(run: Run) -> None:
    """Checks, while applications write."""
    world = run.world
    for uuid in world.workload.arrays:
        world.workload.wish(BeginSync(uuid, SyncKind.CHECK))
    world.after_us(2 * SECOND_US, looks, run)


def grows(run: Run) -> None:
    """A larger size, while messages to one follower are stuck."""
    world, writer = run.world, _writer(run)
    slow = run.rng.choice(_others(run, writer))
    world.network.clogged_until[writer, slow] = world.now_us + 350_000
    for uuid in world.workload.arrays:
        world.workload.wish(SetSize(uuid, SIZE_SECTORS), at=world.hosts[writer])


def late_apply(run: Run) -> None:
    """A member fails while messages to one follower are stuck."""
    world, writer = run.world, _writer(run)
    slow = run.rng.choice(_others(run, writer))
    world.network.clogged_until[writer, slow] = world.now_us + 350_000
    disk = run.rng.choice(list(world.disks.values()))
    disk.bad_writes.add(EVERY_HOST)


def slow_crash(run: Run) -> None:
    """A host dies with writes under way; one disk is slower than the other."""
    world = run.world
    run.rng.choice(list(world.disks.values())).slow_us = 60_000
    host = world.hosts[run.rng.choice(_others(run, _writer(run)))]
    world.after_us(300_000, host.crash)
    world.after_us(2_500_000, run.boot, host)


def long_freeze(run: Run) -> None:
    """A host that runs arrays is silent for long, but not dead."""
    host = run.world.hosts[run.rng.choice(_others(run, _writer(run)))]
    host.freeze()
    run.world.after_us(4_000_000, host.thaw)


def isolated_writer(run: Run) -> None:
    writer = _writer(run)
    run.world.network.cut_pairs(_both_ways(writer, *_others(run, writer)))


def lonely_commits(run: Run) -> None:
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


def when_copying(run: Run, uuid: ArrayId, call: Callable[[Host], None]) -> None:
    """As soon as some host copies this array."""

    def look() -> None:
        for host in run.world.hosts:
            array = host.md.arrays.get(uuid)
            if host.up and array is not None and array.sync is not None and array.sync.copying:
                call(host)
                return
        run.world.after_us(500, look)

    look()


def when_syncing(run: Run, kind: SyncKind, call: Callable[[Host], None]) -> None:
    """As soon as some host copies in a pass of this kind."""

    def look() -> None:
        for host in run.world.hosts:
            for array in host.md.arrays.values() if host.up else ():
                if array.sync is not None and array.sync.copying and array.sync.kind is kind:
                    call(host)
                    return
        run.world.after_us(500, look)

    look()


def _slow(run: Run, slow_us: int) -> list[Disk]:
    """All disks, slow from now on: writes are torn by a crash, and passes take their time."""
    disks = list(run.world.disks.values())
    for disk in disks:
        disk.slow_us = slow_us
    return disks


def dies_as_a_member_fails(run: Run) -> None:
    """A host dies with writes under way; before it is fenced a member of three fails."""
    disks = _slow(run, 30_000)
    host = run.world.hosts[run.rng.choice(_others(run, _writer(run)))]
    run.world.after_us(300_000, host.crash)
    run.world.after_us(500_000, disks[2].bad_writes.add, EVERY_HOST)


def fails_in_bitmap_pass(run: Run) -> None:
    """A member fails, and a spare is there, while the bits of a dead host are resynced."""
    disks = _slow(run, 30_000)
    host = run.world.hosts[run.rng.choice(_others(run, _writer(run)))]
    run.world.after_us(300_000, host.crash)

    def fail(_: Host) -> None:
        run.rng.choice(disks[1:3]).bad_writes.add(EVERY_HOST)

    when_syncing(run, SyncKind.BITMAP, fail)


def fails_and_recovers(run: Run) -> None:
    """A member fails for good, and a spare takes its role."""
    list(run.world.disks.values())[1].bad_writes.add(EVERY_HOST)


def interrupted_chunks(run: Run) -> None:
    """Windows end within chunks of the bitmap, and md is interrupted again and again."""
    run.world.quirks.copies_short = 0.3
    _new_array(run, 0)


def _new_array(run: Run, slow_us: int) -> tuple[ArrayId, list[str]]:
    """A new array of two disks, whose resync takes its time."""
    world = run.world
    uuid = world.workload.create(2)
    number = world.workload.arrays.index(uuid)
    paths = [p for p in world.disks if p.startswith(f"/disk/{number}-")]
    for path in paths:
        world.disks[path].slow_us = slow_us
    return uuid, paths


def short_copies(run: Run) -> None:
    """A new array is resynced, md leaves blocks out, and no application writes them anew."""
    run.world.quirks.copies_short = 0.5
    run.world.workload.io_until_us = 0
    _new_array(run, 0)


def join_in_resync(run: Run) -> None:
    """Followers die and come back, slow to hold, while a new array is resynced."""
    world = run.world
    uuid, _ = _new_array(run, 25_000)

    def restart(writer: Host) -> None:
        if not run.trouble:
            return
        host = world.hosts[run.rng.choice(_others(run, writer.index))]
        host.crash()
        world.after_us(10_000, run.boot, host)
        world.after_us(11_000, setattr, host, "holds_late_us", 150_000)
        world.after_us(600_000, when_copying, run, uuid, restart)

    when_copying(run, uuid, restart)


def late_superblock(run: Run) -> None:
    """The writer writes superblocks for very long, is cut off meanwhile, and comes back."""
    world = run.world
    writer = world.hosts[_writer(run)]
    state = world.workload.array()
    if state is None:
        return
    for disk in world.disks.values():
        disk.slow_us = 3_000_000

    def cut(_: Host) -> None:
        for disk in world.disks.values():
            disk.slow_us = 0
        pairs = _both_ways(writer.index, *_others(run, writer.index))
        world.network.cut_pairs(pairs)
        world.after_us(1_300_000, world.network.heal_pairs, pairs)

    world.at_stage = ((WriteSuperblocks,), cut)
    world.workload.wish(FailMember(state.uuid, state.in_sync[0].device, "told to"), at=writer)


def two_deaths(run: Run) -> None:
    """A host dies with writes under way, nobody vouches for that; later the writer dies, too."""
    world = run.world
    world.fence_by_hand = True
    run.rng.choice(list(world.disks.values())).slow_us = 60_000
    first = world.hosts[run.rng.choice(_others(run, _writer(run)))]
    world.after_us(300_000, first.crash)

    def second() -> None:
        world.hosts[_writer(run)].crash()

    world.after_us(1_300_000, second)


def late_word(run: Run) -> None:
    """A host dies, an administrator vouches for that, and his word reaches the writer late.

    By then the host lives again, and its daemon is frozen.
    """
    world = run.world
    world.fence_by_hand = True
    writer = _writer(run)
    first, second = _others(run, writer)[:2]
    host, relay = world.hosts[first], world.hosts[second]
    host.crash()
    world.network.clogged_until[second, writer] = world.now_us + 1_900_000
    world.after_us(20_000, relay.deliver, FenceAcked(host.node))
    world.after_us(50_000, run.boot, host)
    world.after_us(700_000, host.freeze)
    world.after_us(4_000_000, host.thaw)


def restarts_out_of_sight(run: Run) -> None:
    """A host restarts and joins where the next writer does not see it, and is still not seen."""
    world = run.world
    writer = _writer(run)
    first, heir = _others(run, writer)[:2]
    host, pairs = world.hosts[first], _both_ways(first, heir)
    host.crash()
    world.network.cut_pairs(pairs)
    world.after_us(50_000, run.boot, host)
    change = HandOver(world.hosts[heir].node)
    at_us = run.rng.randrange(1_200_000, 2_500_000)

    def hand_over() -> None:
        world.workload.wish(change, at=world.hosts[writer])

    world.after_us(at_us, hand_over)
    world.after_us(at_us + 1_500_000, world.network.heal_pairs, pairs)


def newer_voters(run: Run) -> None:
    """Three of five voters make do without the two that are down, then two go on alone.

    The last of the three has read the old file again and would vote for those that return.
    """
    world, network = run.world, run.world.network
    hosts = world.hosts
    full = hosts[0].lines
    small = tuple(Line(x.name, x.name in ("n3", "n4"), x.priority) for x in full)
    world.workload.wish(HandOver(hosts[1].node), at=hosts[_writer(run)])

    def shrink() -> None:
        for host in (hosts[0], hosts[3]):
            host.crash()
        for host in (hosts[1], hosts[2], hosts[4]):
            run.reload(host, small)

    pairs = {(a, b) for a in (0, 3, 4) for b in (1, 2)}
    pairs |= {(b, a) for a, b in pairs}

    def part() -> None:
        network.cut_pairs(pairs)
        run.reload(hosts[4], full)
        for host in (hosts[0], hosts[3]):
            host.start_again()

    def change() -> None:
        state = world.workload.array()
        if state is not None:
            device = state.in_sync[0].device
            world.workload.wish(FailMember(state.uuid, device, "told to"), at=hosts[1])

    world.after_us(SECOND_US, shrink)
    world.after_us(3_500_000, part)
    world.after_us(3_600_000, change)
    world.after_us(4_100_000 + run.rng.randrange(400_000), network.heal_pairs, pairs)


def orderly_stops(run: Run) -> None:
    """One daemon after the other is asked to stop."""
    run.rng.choice(run.world.hosts).shut_down()
    run.world.after_us(SECOND_US, orderly_stops, run)


def stop_while_joining(run: Run) -> None:
    """A follower starts, and is asked to stop as soon as it prepares to run the array."""
    world = run.world
    host = world.hosts[run.rng.choice(_others(run, _writer(run)))]
    host.crash()
    world.after_us(10_000, run.boot, host)
    world.at_stage = ((PrepareDevices,), Host.shut_down)


def becomes_spectator(run: Run) -> None:
    """A voter is to be a spectator from now on: no array may stay behind on it."""
    world = run.world
    host = world.hosts[_others(run, _writer(run))[0]]
    lines = tuple(Line(x.name, x.name == host.name, x.priority) for x in host.lines)
    for other in world.hosts:
        run.reload(other, lines)

    def look() -> None:
        if host.md.arrays:
            world.check.fail(f"(8) {host.name}, a spectator by now, still runs arrays")

    world.after_us(3_000_000, look)


def writer_without_disks(run: Run) -> None:
    """The writer dies with writes under way; the next one cannot see the disks.

    Only a node that runs the array can resync it: the role must go there.
    """
    world = run.world
    dead = world.hosts[_writer(run)]
    blind = world.hosts[run.rng.choice(_others(run, dead.index))]
    for disk in world.disks.values():
        disk.bad_reads.add(blind.index)
        disk.bad_writes.add(blind.index)
    blind.crash()
    world.after_us(100_000, run.boot, blind)
    dead.crash()
    world.after_us(8_000_000, run.boot, dead)

    def look() -> None:
        for state in world.check.newest_committed():
            if any(slot.dirty for slot in state.slots):
                world.check.fail(f"(9) the role stays with a writer that cannot see {state.name}")

    world.after_us(14_000_000, look)


def _when_settled(run: Run, proposal: str, then: Callable[[], None]) -> None:
    """Go on once this wish was answered."""

    def look() -> None:
        if run.world.workload.wishes[proposal].settled:
            then()
        else:
            run.world.after_us(20_000, look)

    look()


def released_while_away(run: Run) -> None:
    """A voter that was down when an array was released is needed, once the writer is, too."""
    world, writer = run.world, _writer(run)
    away = world.hosts[_others(run, writer)[0]]
    uuid = world.workload.arrays[0]

    def stopped() -> None:
        away.crash()
        _when_settled(run, world.workload.wish(ReleaseArray(uuid)), released)

    def released() -> None:
        world.hosts[writer].crash()
        run.boot(away)

    _when_settled(run, world.workload.wish(StopArray(uuid)), stopped)


def released_over_a_bad_disk(run: Run) -> None:
    """A superblock cannot be made plain until the disk is mended."""
    world = run.world
    uuid = world.workload.arrays[0]

    def stopped() -> None:
        run.rng.choice(list(world.disks.values())).bad_writes.add(EVERY_HOST)
        world.workload.wish(ReleaseArray(uuid))

    _when_settled(run, world.workload.wish(StopArray(uuid)), stopped)


def voters_leave_early(run: Run) -> None:
    """Those who have stored a change leave the voters before the others have heard of it."""
    world, writer = run.world, _writer(run)
    others = _others(run, writer)
    deaf, leaving = others[:2], others[2:]
    for disk in world.disks.values():
        disk.slow_us = 3_000_000
    world.network.cut_pairs(_both_ways(writer, *deaf))
    world.workload.fail_member()
    kept = {writer, *deaf}
    lines = tuple(Line(h.name, False, 100) for h in world.hosts if h.index in kept)

    def leave() -> None:
        world.network.heal()
        for host in world.hosts:
            run.reload(host, lines)

    assert leaving
    world.after_us(100_000, leave)


def cut_off(run: Run) -> None:
    """A follower hears nothing any more; its watchdog must end it."""
    follower = run.rng.choice(_others(run, _writer(run)))
    others = [h.index for h in run.world.hosts if h.index != follower]
    run.world.network.cut_pairs(_both_ways(follower, *others))


def late_feed(run: Run) -> None:
    """A follower that is cut off freezes between the last check of its lease and the feed.

    It feeds when it thaws, right before its watchdog fires.
    """
    world = run.world
    host = world.hosts[run.rng.choice(_others(run, _writer(run)))]
    others = [h.index for h in world.hosts if h is not host]

    def stand_still() -> None:
        host.freeze()
        world.at_us(host.watchdog.fires_at_us - 1_000, host.thaw)

    world.network.cut_pairs(_both_ways(host.index, *others))
    world.after_us(500_000, setattr, host.watchdog, "after_check", stand_still)


def cannot_follow(run: Run) -> None:
    """A follower beats, but its disks are gone: it cannot apply what is committed."""
    world = run.world
    writer = world.hosts[_writer(run)]
    host = world.hosts[run.rng.choice(_others(run, writer.index))]
    state = world.workload.array()
    if state is None:
        return
    host.applies_nothing = True
    world.workload.wish(FailMember(state.uuid, state.in_sync[0].device, "told to"), at=writer)


def slow_providers(run: Run) -> None:
    """A follower is silent, answers again, and falls silent for good, all while it is asked
    whether the first silence was long enough."""
    world = run.world
    host = world.hosts[run.rng.choice(_others(run, _writer(run)))]
    others = [h.index for h in world.hosts if h is not host]
    pairs = _both_ways(host.index, *others)
    world.fence_slow_us = (world.timing.watchdog_fence_ms or 0) * 1000
    world.network.cut_pairs(pairs)
    world.after_us(1_800_000, world.network.heal_pairs, pairs)
    world.after_us(6_000_000, world.network.cut_pairs, pairs)


def daemon_restarts(run: Run) -> None:
    """A follower's daemon, only that, is restarted in a resync, again and again."""
    uuid, _ = _new_array(run, 60_000)

    def restart(writer: Host) -> None:
        if not run.trouble:
            return
        host = run.world.hosts[run.rng.choice(_others(run, writer.index))]
        host.crash()
        run.world.after_us(run.rng.randrange(2_000, 200_000), run.boot, host)
        run.world.after_us(run.rng.randrange(700_000, 1_500_000), when_copying, run, uuid, restart)

    when_copying(run, uuid, restart)


def daemon_of_the_writer_dies(run: Run) -> None:
    """In the middle of a window; its kernel copies on, and serves its applications."""
    uuid, _ = _new_array(run, 60_000)

    def die(writer: Host) -> None:
        writer.crash()
        run.world.after_us(4_000_000, run.boot, writer)

    when_copying(run, uuid, die)


def daemon_of_the_writer_restarts(run: Run) -> None:
    """As before, but a new daemon is there at once, before md is at the end of its window."""
    uuid, _ = _new_array(run, 150_000)

    def die(writer: Host) -> None:
        writer.crash()
        run.world.after_us(run.rng.randrange(2_000, 20_000), run.boot, writer)

    run.world.after_us(SECOND_US, when_copying, run, uuid, die)


def power_fails_after_restart(run: Run) -> None:
    """A follower's daemon is restarted over slow writes, and the power of its host fails."""
    world = run.world
    for disk in world.disks.values():
        disk.slow_us = 60_000
    host = world.hosts[run.rng.choice(_others(run, _writer(run)))]
    world.after_us(300_000, host.crash)
    world.after_us(310_000, run.boot, host)

    def fail() -> None:
        host.crash(power=True)
        for disk in world.disks.values():
            disk.mend()

    world.after_us(run.rng.randrange(312_000, 370_000), fail)
    world.after_us(3_500_000, run.boot, host)


def stopped_behind_its_back(run: Run) -> None:
    """While a follower's daemon is away its array is stopped by force, with writes under way."""
    world = run.world
    for disk in world.disks.values():
        disk.slow_us = 30_000
    host = world.hosts[run.rng.choice(_others(run, _writer(run)))]

    def stop() -> None:
        host.crash()
        host.md.crash()
        world.workload.host_died(host)
        world.workload.io_until_us = 0  # nobody writes these blocks anew
        host.md.arrays.clear()
        for disk in world.disks.values():
            disk.mend()

    world.after_us(300_000, stop)
    world.after_us(310_000, run.boot, host)


def read_only(run: Run) -> None:
    """Nobody may write any more, and then a follower starts again."""
    world, writer = run.world, _writer(run)
    world.workload.pause_us = 200_000
    uuid = world.workload.arrays[0]

    def insist() -> None:
        """Until it is; while applications have it open it is refused."""
        state = world.array(uuid)
        if uuid in world.workload.shut:
            follower = world.hosts[run.rng.choice(_others(run, writer))]
            follower.crash()
            world.after_us(SECOND_US // 2, run.boot, follower)
            return
        if state is not None and not state.readonly:
            world.workload.wish(SetReadonly(uuid, on=True))
        world.after_us(SECOND_US // 4, insist)

    insist()


def paused(run: Run) -> None:
    """A new array is paused in its resync, and its writer dies."""
    world = run.world
    uuid, _ = _new_array(run, 60_000)

    def pause(_: Host) -> None:
        proposal = world.workload.wish(SetPaused(uuid, on=True, now_s=1))
        _when_settled(run, proposal, die)

    def die() -> None:
        world.hosts[_writer(run)].crash()

    when_copying(run, uuid, pause)


def erases(run: Run) -> None:
    """A member goes, and is erased, while messages to a follower are stuck that still uses it."""
    world, writer = run.world, run.world.hosts[_writer(run)]
    slow = run.rng.choice(_others(run, writer.index))
    state = world.workload.array()
    if state is None:
        return
    device = state.in_sync[0].device
    erase = EraseDevice(state.uuid, device, world.workload.paths[device])
    world.network.clogged_until[writer.index, slow] = world.now_us + 400_000
    world.workload.wish(FailMember(state.uuid, device, "told to"), at=writer)

    def then(change: RemoveMember | EraseDevice) -> None:
        world.workload.wish(change, at=writer)

    world.after_us(100_000, then, RemoveMember(state.uuid, device))
    world.after_us(200_000, then, erase)


def comes_back_early(run: Run) -> None:
    """A member fails and is added again, while messages to a follower are stuck."""
    world, writer = run.world, run.world.hosts[_writer(run)]
    state = world.workload.array()
    if state is None:
        return
    device = state.in_sync[0].device
    slow = run.rng.choice(_others(run, writer.index))
    world.network.clogged_until[writer.index, slow] = world.now_us + 400_000
    world.workload.wish(FailMember(state.uuid, device, "told to"), at=writer)
    back = ReAddMember(state.uuid, device, world.workload.paths[device])

    def again() -> None:
        world.workload.wish(back, at=writer)

    world.after_us(60_000, again)


def erases_members(run: Run) -> None:
    """Somebody erases whatever shows a superblock."""
    run.world.workload.erase_device()


def nothing_more(run: Run) -> None:
    """What every run does is enough."""


def mix_of(script: Callable[[Run], None], **facts: Any) -> Callable[[], Mix]:
    def make() -> Mix:
        given = {"weather": Weather(), "trouble_us": 5 * SECOND_US, **facts}
        return Mix(script=script, **given)

    return make
