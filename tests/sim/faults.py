"""What goes wrong, by name: each method makes one fault happen now, and mends it later."""

from __future__ import annotations

from collections.abc import Callable

from tests.sim.disks import EVERY_HOST
from tests.sim.hosts import Host
from tests.sim.world import STAGES, World

SECOND_US = 1_000_000
FAULTS = (
    "crash",
    "power",
    "restart_at_once",
    "freeze",
    "partition",
    "one_way",
    "isolate",
    "clog",
    "disk_write",
    "disk_read",
    "disk_one_host",
    "disk_slow",
    "store_full",
    "lost_state",
    "cold_start",
    "shutdown",
    "stage",
    "stage",
    "hold_slow",
    "copy_short",
    "disks_unseen",
    "answers_late",
)


class Faults:
    """The faults of one run. boot: start the daemon of a host again, if it is down."""

    def __init__(self, world: World, boot: Callable[[Host], None]) -> None:
        self.world = world
        self.rng = world.rng
        self.boot = boot

    def _any_host(self) -> Host:
        """Any host; the one with the open gate more often than others."""
        for host in self.world.hosts:
            if host.up and host.gate_open() and self.rng.random() < 0.3:
                return host
        return self.rng.choice(self.world.hosts)

    def crash(self) -> None:
        host = self._any_host()
        host.crash()
        self.world.after_us(self.rng.randrange(20_000, 4 * SECOND_US), self.boot, host)

    def power(self) -> None:
        host = self._any_host()
        host.crash(power=True)
        self.world.after_us(self.rng.randrange(300_000, 5 * SECOND_US), self.boot, host)

    def restart_at_once(self) -> None:
        host = self._any_host()
        host.crash()
        self.world.after_us(self.rng.randrange(1_000, 50_000), self.boot, host)

    def freeze(self) -> None:
        host = self._any_host()
        host.freeze()
        self.world.after_us(self.rng.randrange(100_000, 4 * SECOND_US), host.thaw)

    def _cut(self, pairs: set[tuple[int, int]]) -> None:
        network = self.world.network
        self.world.say(None, "cuts", sorted(pairs))
        network.cut_pairs(pairs)
        self.world.after_us(self.rng.randrange(100_000, 5 * SECOND_US), network.heal_pairs, pairs)

    def partition(self) -> None:
        side = {h.index for h in self.world.hosts if self.rng.random() < 0.5}
        rest = {h.index for h in self.world.hosts} - side
        self._cut({(a, b) for a in side for b in rest} | {(b, a) for a in side for b in rest})

    def one_way(self) -> None:
        a, b = self.rng.sample(range(len(self.world.hosts)), 2)
        self._cut({(a, b)})

    def isolate(self) -> None:
        a = self._any_host().index
        rest = [h.index for h in self.world.hosts if h.index != a]
        self._cut({(a, b) for b in rest} | {(b, a) for b in rest})

    def clog(self) -> None:
        a, b = self.rng.sample(range(len(self.world.hosts)), 2)
        until_us = self.world.now_us + self.rng.randrange(100_000, 3 * SECOND_US)
        self.world.say(None, "clogs", a, b)
        self.world.network.clogged_until[a, b] = until_us

    def _spoil(self, which: str, host: int) -> None:
        """A disk refuses reads or writes of a host, or of all, for a while."""
        disks = list(self.world.disks.values())
        if not disks:
            return
        disk = self.rng.choice(disks)
        self.world.say(None, disk.path, which, "for host", host)
        getattr(disk, which).add(host)
        self.world.after_us(self.rng.randrange(200_000, 4 * SECOND_US), disk.mend)

    def disk_write(self) -> None:
        self._spoil("bad_writes", EVERY_HOST)

    def disk_read(self) -> None:
        self._spoil("bad_reads", EVERY_HOST)

    def disk_one_host(self) -> None:
        self._spoil(self.rng.choice(("bad_writes", "bad_reads")), self._any_host().index)

    def disk_slow(self) -> None:
        disks = list(self.world.disks.values())
        if disks:
            disk = self.rng.choice(disks)
            disk.slow_us = self.rng.randrange(5_000, 200_000)
            self.world.after_us(self.rng.randrange(200_000, 3 * SECOND_US), disk.mend)

    def store_full(self) -> None:
        host = self._any_host()
        host.store_full = True
        self.world.say(host, "state directory is full")

        def freed() -> None:
            host.store_full = False

        self.world.after_us(self.rng.randrange(100_000, 3 * SECOND_US), freed)

    def lost_state(self) -> None:
        """One at a time, after the last has all back: a minority's loss is survived."""
        keys = self.world.check.committed_newest.keys()
        whole = [h for h in self.world.hosts if keys and keys <= h.store.entries.keys()]
        voters = [h for h in self.world.hosts if h.boots and not h.spectator]
        if len(whole) < len(voters) or not all(self._bound(h) for h in voters):
            return
        host = self.rng.choice(voters)
        host.crash(power=host.outlives)
        host.lose_state()
        self.world.after_us(self.rng.randrange(50_000, 2 * SECOND_US), self.boot, host)
        self.world.after_us(3 * SECOND_US, self.world.workload.admit_again)

    def _bound(self, host: Host) -> bool:
        cluster = self.world.check.newest_cluster()
        return cluster is not None and cluster.voter(host.node) is not None

    def shutdown(self) -> None:
        self._any_host().shut_down()

    def stage(self) -> None:
        """At the next effect of some kind the role moves, or whoever is concerned ends."""

        def act(host: Host) -> None:
            kind = self.rng.choice(("hand over", "hand over", "stop", "kill"))
            self.world.load["stage_" + kind] += 1
            self.world.say(host, "at this stage:", kind)
            if kind == "hand over":
                self.world.workload.transfer(at=host)
            elif kind == "stop":
                host.shut_down()
            else:
                host.crash()
                self.world.after_us(self.rng.randrange(20_000, SECOND_US), self.boot, host)

        self.world.at_stage = (tuple(self.rng.sample(STAGES, 4)), act)

    def hold_slow(self) -> None:
        """Writes drain slowly on one host, or its kernel has other things to do."""
        self._for_a_while("holds_late_us", self.rng.randrange(50_000, 3 * SECOND_US))

    def answers_late(self) -> None:
        """Superblocks are written, but the host takes its time to say so."""
        self._for_a_while("answers_late_us", self.rng.randrange(100_000, 4 * SECOND_US))

    def _for_a_while(self, what: str, value: int) -> None:
        host = self._any_host()
        self.world.say(host, what, value)
        setattr(host, what, value)
        self.world.after_us(self.rng.randrange(300_000, 3 * SECOND_US), setattr, host, what, 0)

    def copy_short(self) -> None:
        """Copies do less than they were to, and say so."""
        quirks = self.world.quirks
        quirks.copies_short = self.rng.choice((0.1, 0.3, 1.0))
        after_us = self.rng.randrange(300_000, 3 * SECOND_US)
        self.world.after_us(after_us, setattr, quirks, "copies_short", 0.0)

    def disks_unseen(self) -> None:
        """A host, often the writer, sees no disk of an array."""
        host, state = self._any_host(), self.world.workload.array()
        disks = [self.world.disk_of(m.device) for m in state.members] if state is not None else []
        for disk in [disk for disk in disks if disk is not None]:
            disk.bad_reads.add(host.index)
            disk.bad_writes.add(host.index)
            self.world.after_us(self.rng.randrange(SECOND_US, 12 * SECOND_US), disk.mend)

    def cold_start(self) -> None:
        for host in self.world.hosts:
            host.crash(power=self.rng.random() < 0.3)
            self.world.after_us(self.rng.randrange(50_000, 3 * SECOND_US), self.boot, host)
