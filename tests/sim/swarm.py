"""The fault mix of a seed, the faults themselves, and a run from birth to a quiet end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING

from mdcluster.core.events import Line, LinesChanged
from mdcluster.core.timing import Timing
from tests.sim.checkers import Violation
from tests.sim.disks import BLOCK_SECTORS, BLOCKS
from tests.sim.faults import FAULTS, SECOND_US, Faults
from tests.sim.hosts import Core, Host
from tests.sim.network import Weather
from tests.sim.world import SIM_TIMING, WATCHDOG_TIMING, Quirks, World

if TYPE_CHECKING:
    from tests.sim.words import Words

ADMIN = (
    "fail_member",
    "remove_member",
    "re_add_member",
    "re_add_member",
    "add_member",
    "add_member",
    "replace_member",
    "stop_or_start",
    "look",
    "raid_disks",
    "size",
    "transfer",
    "reload",
    "admit_again",
    "create_another",
    "release_or_adopt",
    "release_or_adopt",
)


STILL = 0.3
"""In how many seeds arrays are paused, or made read-only, and back."""
ERASURES = 0.2
"""In how many seeds devices are erased, or somebody tries to."""
LOOKS = 0.15
"""In how many seeds members are checked and repaired more often than others do."""
COMING_BACK = 0.3
"""In how many seeds members that failed are added again more often than in others."""
WATCHDOGS = 0.2
"""In how many seeds the hosts have watchdogs."""


@dataclass(slots=True)
class Mix:
    """What one seed is up to; every run uses a part of what there is (swarm testing)."""

    hosts: int = 3
    spectators: int = 0
    disks: int = 2
    spares: int = 0
    arrays: int = 1
    assume_clean: bool = False
    size_blocks: int = BLOCKS
    weather: Weather = field(default_factory=Weather)
    faults: tuple[str, ...] = ()
    fault_pause_us: int = SECOND_US
    admin: tuple[str, ...] = ()
    admin_pause_us: int = SECOND_US
    fence_by_hand: bool = False
    drift: bool = False
    trouble_us: int = 10 * SECOND_US
    quiet_us: int = 25 * SECOND_US
    late_voter: bool = False
    timing: Timing = SIM_TIMING
    quirks: Quirks = field(default_factory=Quirks)
    dry_runs: bool = False
    script: Callable[[Run], None] | None = None


def random_mix(seed: int) -> Mix:
    """The mix of this seed, from a generator of its own."""
    rng = Random(seed * 2_654_435_761 + 17)
    weather = Weather(
        delay_max_us=rng.choice((400, 1_000, 5_000, 20_000)),
        loss=rng.choice((0.0, 0.0, 0.0, 0.02, 0.1, 0.3)),
        duplicate=rng.choice((0.0, 0.0, 0.05, 0.2)),
        in_order=rng.random() < 0.6,
    )
    faults = tuple(rng.sample(FAULTS, rng.randrange(1, 8)))
    admin = tuple(rng.sample(ADMIN, rng.randrange(0, len(ADMIN))))
    if "lost_state" in faults:  # of a shrinking set of voters it might be a majority
        admin = tuple(kind for kind in admin if kind != "reload")
    outlives = rng.random() < 0.4
    quirks = Quirks(
        local_fault=rng.choice(("fail", "fail", "leave")),
        copies_short=rng.choice((0.0, 0.0, 0.05, 0.3)),
        sweep_us=rng.choice((300_000, 1_000_000, 3_000_000)),
        keeps_needed=rng.random() < 0.5,
        outlives=outlives,
        fence_agent=outlives and rng.random() < 0.6,
    )
    late_rng = Random(seed * 40_503 + 5)  # later inventions, beside what seeds drew before
    quirks.kernel_md = late_rng.random() < 0.6
    quirks.chunk_blocks = late_rng.choice((1, 1, 4, 8))
    quirks.serial_holds = late_rng.random() < 0.4
    quirks.window_max_blocks = late_rng.choice((32, 32, 4))
    mix = Mix(
        quirks=quirks,
        hosts=rng.choice((3, 3, 3, 4, 5)),
        spectators=int(rng.random() < 0.15),
        disks=rng.choice((2, 2, 3, 3)),
        spares=int(rng.random() < 0.25),
        arrays=rng.choice((1, 1, 1, 2)),
        assume_clean=rng.random() < 0.3,
        weather=weather,
        faults=faults,
        fault_pause_us=rng.choice((300_000, 700_000, 1_500_000, 3_000_000)),
        admin=admin,
        admin_pause_us=rng.choice((500_000, 1_500_000)),
        fence_by_hand=rng.random() < 0.2,
        drift=rng.random() < 0.5,
        late_voter=rng.random() < 0.3 and "lost_state" not in faults,
        size_blocks=rng.choice((BLOCKS, BLOCKS, 16, 7)),
    )
    if late_rng.random() < WATCHDOGS:
        mix.timing = WATCHDOG_TIMING
        mix.quiet_us += (WATCHDOG_TIMING.watchdog_fence_ms or 0) * 1000
    if late_rng.random() < STILL:
        mix.admin = (*mix.admin, "be_still")
    mix.dry_runs = late_rng.random() < 0.5
    if late_rng.random() < ERASURES:
        mix.admin = (*mix.admin, "erase", "erase")
    if late_rng.random() < LOOKS:
        mix.admin = (*mix.admin, "look", "look")
    if late_rng.random() < COMING_BACK:
        mix.admin = (*mix.admin, "come_back", "come_back")
    return mix


class Run:
    """One seed from birth to the quiet end."""

    def __init__(
        self,
        seed: int,
        core_factory: Callable[[Host], Core],
        mix: Mix | None = None,
        *,
        words: Words | None = None,
    ) -> None:
        self.mix = mix if mix is not None else random_mix(seed)
        self.world = World(
            seed,
            core_factory,
            self.mix.weather,
            timing=self.mix.timing,
            words=words,
            quirks=replace(self.mix.quirks),
        )
        self.world.workload.size_blocks = self.mix.size_blocks
        self.world.workload.dry_runs = self.mix.dry_runs
        self.world.fence_by_hand = self.mix.fence_by_hand
        self.rng = self.world.rng
        self.faults = Faults(self.world, self.boot)
        self.trouble = False
        self._people()

    def _people(self) -> None:
        mix, world = self.mix, self.world
        for index in range(mix.hosts + mix.late_voter):
            world.add_host(f"n{index}")
        for index in range(mix.spectators):
            world.add_host(f"s{index}", spectator=True)
        first = self._lines(mix.hosts)
        for host in world.hosts:
            world.set_lines(host, first)
            host.clock_offset_us = self.rng.randrange(SECOND_US, 1000 * SECOND_US)
            drift = world.timing.drift_ppm if mix.drift else 0
            host.rate_ppm = self.rng.randint(-drift, drift)
            host.persist_us = self.rng.choice((300, 1000, 5000))
            if world.timing.watchdog_ms:
                host.watchdog.rate_ppm = self.rng.randint(-drift, drift)

    def _lines(self, voters: int) -> tuple[Line, ...]:
        lines = [Line(f"n{i}", False, 100) for i in range(voters)]
        lines += [Line(h.name, True, 100) for h in self.world.hosts if h.spectator]
        return tuple(lines)

    # --- the run -------------------------------------------------------------------------

    def go(self) -> World:
        """Birth, creation, trouble, quiet; raises Violation."""
        world, mix = self.world, self.mix
        for host in world.hosts[: mix.hosts] + [h for h in world.hosts if h.spectator]:
            world.after_us(self.rng.randrange(1, 300_000), host.boot)
        for _ in range(mix.arrays):
            world.after_us(self.rng.randrange(1, 2 * SECOND_US), self._create)
        trouble_at_us = 3 * SECOND_US
        end_us = trouble_at_us + mix.trouble_us
        world.workload.io_until_us = end_us + mix.quiet_us
        for host in world.hosts:
            world.workload.start_io(host)
        self._often()
        self._sweep()
        world.run_until(trouble_at_us)
        self.trouble = True
        if mix.script is not None:
            mix.script(self)
        self._next_fault()
        self._next_wish()
        if mix.fence_by_hand:
            self._vouch()
        world.run_until(end_us)
        self._heal()
        if not world.run_until(end_us + mix.quiet_us, self._settled):
            world.check.fail("(9) no progress: " + "; ".join(self._waits()))
        self._end()
        return world

    def _create(self) -> None:
        self.world.workload.create(
            self.mix.disks, spares=self.mix.spares, assume_clean=self.mix.assume_clean
        )

    def _often(self) -> None:
        self.world.after_us(300_000, self._often)
        self.world.check.periodic()

    def _sweep(self) -> None:
        self.world.after_us(self.world.quirks.sweep_us, self._sweep)
        self.world.workload.clean_bits()

    def _vouch(self) -> None:
        self.world.after_us(self.rng.randrange(300_000, 1_500_000), self._vouch)
        self.world.workload.vouch_for_the_dead()

    def _end(self) -> None:
        """Applications come to rest, then everything is compared."""
        world = self.world
        world.workload.io_until_us = 0
        world.run_until(world.now_us + SECOND_US)
        world.check.periodic()
        for uuid in world.workload.arrays:
            state = world.array(uuid)
            if state is None or not state.active:
                continue
            disks = [d for m in state.in_sync if (d := world.disk_of(m.device)) is not None]
            blocks = range(state.size_sectors // BLOCK_SECTORS)
            told = [block for block in blocks if (uuid, block) not in world.workload.undefined]
            for disk in disks[1:]:
                if any(disk.data[block] != disks[0].data[block] for block in told):
                    world.check.fail(f"(6) members differ at the end: {disk.path}")

    # --- the quiet end ---------------------------------------------------------------------

    def _heal(self) -> None:
        self.trouble = False
        world = self.world
        world.say(None, "all faults heal")
        world.network.weather = Weather()
        world.network.heal()
        world.at_stage = None
        world.quirks.copies_short = 0.0
        for disk in world.disks.values():
            disk.mend()
        full = self._lines(self.mix.hosts + self.mix.late_voter)
        for host in world.hosts:
            host.store_full = False
            host.holds_late_us = host.answers_late_us = 0
            self.reload(host, full)
            if host.frozen:
                host.thaw()
            if not host.up:
                world.after_us(self.rng.randrange(1, 500_000), self.boot, host)
        self._admit()

    def _admit(self) -> None:
        """An administrator re-admits who lost its state, and restarts who gave an array up."""
        self.world.after_us(SECOND_US, self._admit)
        self.world.workload.admit_again()
        self.world.workload.go_on()
        for host in self.world.hosts:
            if host.up and host.gave_up:
                host.crash()
                self.world.after_us(SECOND_US // 2, self.boot, host)

    def _settled(self) -> bool:
        return not self._waits()

    def _waits(self) -> list[str]:
        """What is not as it should be in quiet times."""
        world = self.world
        waits = [f"{h.name} is down" for h in world.hosts if not h.up]
        if not any(h.up and h.gate_open() for h in world.hosts):
            waits.append("no writer")
        waits += [
            f"{w.proposal} {w.change} is not settled: {w.answer} {w.text}"
            for w in world.workload.wishes.values()
            if not w.settled
        ]
        for uuid in world.workload.arrays:
            waits += self._array_waits(uuid)
        return waits

    def _array_waits(self, uuid: str) -> list[str]:
        state = self.world.array(uuid)
        if state is not None and state.released:
            return self.world.check.not_forgotten(uuid)
        if state is None or not state.active:
            return []
        waits = [f"{uuid} is still"] if state.still else []
        if state.sync is not None or state.resync_sectors is not None:
            waits.append(f"{uuid} resyncs: {state.sync}, {state.resync_sectors}")
        if state.shown_sectors is not None:
            waits.append(f"{uuid} does not show all of its size: {state.shown_sectors}")
        if any(slot.dirty for slot in state.slots):
            waits.append(f"{uuid} has dirty slots: {state.slots}")
        waits += [f"{uuid} lists {x.boot_id}, dead" for x in state.running if self.world.dead(x)]
        waits += self.world.check.superblocks_behind(state)
        for host in self.world.hosts:
            if host.spectator or not host.up:
                continue
            array = host.md.arrays.get(state.uuid)
            if array is None or host.life not in state.running:
                waits.append(f"{uuid} does not run on {host.name}")
            elif not array.clean:
                waits.append(f"{uuid} holds writes of a failure on {host.name}")
            elif host.md.hold_all or array.hold != (0, 0):
                waits.append(f"{uuid} is held on {host.name}")
        return waits

    # --- faults, administrators ----------------------------------------------------------

    def boot(self, host: Host) -> None:
        if not host.up and host.lines:
            host.boot()

    def _next_fault(self) -> None:
        if not self.trouble or not self.mix.faults:
            return
        pause_us = self.mix.fault_pause_us
        self.world.after_us(self.rng.randrange(pause_us // 4, pause_us * 2), self._next_fault)
        kind = self.rng.choice(self.mix.faults)
        self.world.load["fault_" + kind] += 1
        getattr(self.faults, kind)()

    def _next_wish(self) -> None:
        if not self.trouble or not self.mix.admin:
            return
        pause_us = self.mix.admin_pause_us
        self.world.after_us(self.rng.randrange(pause_us // 4, pause_us * 2), self._next_wish)
        kind = self.rng.choice(self.mix.admin)
        if kind == "reload":
            self._reload_some()
        else:
            getattr(self.world.workload, kind)()

    def _reload_some(self) -> None:
        """Files differ between nodes for a while; voters come and go in any order."""
        voters = self.rng.randrange(2, self.mix.hosts + self.mix.late_voter + 1)
        lines = self._lines(max(voters, 2))
        self.world.load["reloads"] += 1
        for host in self.world.hosts:
            if self.rng.random() < 0.7:
                self.reload(host, lines)
        for host in self.world.hosts:
            if not host.boots and host.knows(host.name):
                self.world.after_us(self.rng.randrange(1, 300_000), self.boot, host)

    def reload(self, host: Host, lines: tuple[Line, ...]) -> None:
        if host.lines == lines:
            return
        self.world.set_lines(host, lines)
        self.world.say(host, "reads clusterips:", " ".join(x.name for x in lines))
        if host.up:
            host.deliver(LinesChanged(host.lines, host.lines_digest))
        self.world.network.reconsider(host)


def run_seed(
    seed: int,
    core_factory: Callable[[Host], Core],
    mix: Mix | None = None,
    *,
    words: Words | None = None,
) -> tuple[World, str]:
    """The world after the run of this seed, and what was violated ('' if nothing)."""
    run = Run(seed, core_factory, mix, words=words)
    try:
        run.go()
    except Violation as violation:
        return run.world, str(violation)
    return run.world, ""
