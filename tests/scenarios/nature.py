"""What a script may do to the world: links, disks, state directories, md, fencing."""

from dataclasses import replace

from mdcluster.core import model as m
from mdcluster.core.events import FenceAcked, Fenced, MemberFailed, PersistFailed, PersistRecovered
from mdcluster.core.timing import Timing
from tests.scenarios.hosts import Host, life_of
from tests.scenarios.script import ScenarioError
from tests.scenarios.words import KINDS
from tests.scenarios.world import Disk, World


class Nature:
    """Commands, the method `do_...` of each; what goes wrong, and when it ends."""

    world: World
    hosts: dict[str, Host]

    def _host(self, name: str) -> Host:
        if name not in self.hosts:
            raise ScenarioError(f"there is no node {name}")
        return self.hosts[name]

    def _live(self, name: str) -> Host:
        host = self._host(name)
        if host.core is None:
            raise ScenarioError(f"{name} does not run")
        return host

    def _dead(self, name: str) -> Host:
        host = self._host(name)
        if host.core is not None:
            raise ScenarioError(f"{name} runs")
        return host

    def _known_kind(self, kind: str) -> None:
        if kind != "*" and kind not in KINDS:
            raise ScenarioError(f"there is no effect or message {kind}")

    # --- the network and the disks -----------------------------------------------------------

    def do_cut(self, a: str, b: str) -> None:
        """cut a b: nothing passes between them (silently, as a cable that was pulled)."""
        self.world.cuts |= {(a, b), (b, a)}

    def do_cut_one_way(self, a: str, b: str) -> None:
        self.world.cuts.add((a, b))

    def do_heal(self, a: str, b: str) -> None:
        self.world.cuts -= {(a, b), (b, a)}
        self.world.meet(self._host(a), self._host(b))

    def do_hold_messages(self, kind: str, sender: str, to: str) -> None:
        """hold-messages ApplyEntry a c: they are kept (`*`: any) until deliver or drop."""
        self._known_kind(kind)
        self.world.catch.append((kind, sender, to))

    def do_deliver(self) -> None:
        """deliver: messages pass again, and what was kept arrives, in order."""
        self.world.catch = []
        kept, self.world.caught = self.world.caught, []
        for parcel in kept:
            self.world.later(1, lambda parcel=parcel: self.world.deliver(parcel))  # type: ignore[misc]

    def do_drop(self) -> None:
        """drop: messages pass again, and what was kept is lost."""
        self.world.catch, self.world.caught = [], []

    def do_disks(self, *devices: str) -> None:
        for device in devices:
            self.world.disks[m.DeviceId(device)] = Disk()

    def do_plain_disks(self, *devices: str) -> None:
        """plain-disks d1 d2: members of an array of stock mdadm."""
        for device in devices:
            self.world.disks[m.DeviceId(device)] = Disk(plain=True)

    def do_disk_fails(self, device: str, where: str) -> None:
        """disk-fails d1 b: host b (`*`: any) gets errors from it."""
        self._disk(device).fails_for.add(where)

    def do_disk_works(self, device: str) -> None:
        self._disk(device).fails_for.clear()

    def do_wrong_path(self, device: str, where: str) -> None:
        """wrong-path d3 c: on host c the path leads to another device."""
        self._disk(device).wrong_at.add(where)

    def do_old_copy(self, device: str, stamp: str) -> None:
        """old-copy d1 1.2: its superblock is that of this older stamp."""
        term, _, seq = stamp.partition(".")
        self._disk(device).stamp = m.Stamp(int(term), int(seq))

    def _disk(self, device: str) -> Disk:
        return self.world.disks[m.DeviceId(device)]

    # --- what md and the shell do ------------------------------------------------------------

    def do_member_fails(self, name: str, array: str, device: str) -> None:
        """member-fails b r0 d1: a write of host b met an error on d1; it is held."""
        host, a, d = self._live(name), m.ArrayId(array), m.DeviceId(device)
        host.blocked.setdefault(a, set()).add(d)
        host.pending.add(a)
        host.unseen.discard(a)
        host.event(MemberFailed(a, d, "write error"))

    def do_member_rewritten(self, name: str, array: str, device: str) -> None:
        """member-rewritten b r0 d1: md of host b has mended read errors of d1 by writing to it."""
        event = MemberFailed(m.ArrayId(array), m.DeviceId(device), "read errors", m.Doubt.REWRITTEN)
        self._live(name).event(event)

    def do_member_missed(self, name: str, array: str, device: str) -> None:
        """member-missed b r0 d1: md of host b sets d1 faulty by itself; a write went past it."""
        host, a, d = self._live(name), m.ArrayId(array), m.DeviceId(device)
        host.blocked.setdefault(a, set()).add(d)
        host.pending.add(a)
        host.unseen.discard(a)
        host.event(MemberFailed(a, d, "the kernel has set it faulty", m.Doubt.MISSED))

    def do_unseen_failure(self, name: str, array: str) -> None:
        """unseen-failure b r0: a failed write is held there, not yet reported by md."""
        self._live(name).unseen.add(m.ArrayId(array))

    def do_dirty(self, name: str, array: str, *chunks: str) -> None:
        """dirty b r0 3 7: host b was writing in these chunks of 1 MiB."""
        self._live(name).own_bits(m.ArrayId(array)).update(map(int, chunks))

    def do_differ(self, array: str, *chunks: str) -> None:
        """differ r0 3 7: the members differ in these chunks of 1 MiB, and no bit says so."""
        self.world.differing.setdefault(m.ArrayId(array), set()).update(map(int, chunks))

    def do_open(self, name: str, array: str) -> None:
        self._live(name).busy_arrays.add(m.ArrayId(array))

    def do_close(self, name: str, array: str) -> None:
        self._live(name).busy_arrays.discard(m.ArrayId(array))

    def do_hold_effects(self, name: str, *kinds: str) -> None:
        """hold-effects a LimitSync: such effects begin, and end by `complete` only."""
        for kind in kinds:
            self._known_kind(kind)
            self._live(name).parking.add(kind)

    def do_complete(self, name: str, kind: str, *problem: str) -> None:
        """complete a LimitSync [what goes wrong]: the oldest one that is held."""
        host = self._live(name)
        item = next((x for x in host.parked if type(x[1]).__name__ == kind), None)
        if item is None:
            raise ScenarioError(f"no {kind} is under way at {name}")
        host.complete(item, " ".join(problem))

    def do_pass_effects(self, name: str) -> None:
        """pass-effects a: all that was held completes, and nothing is held any more."""
        host = self._live(name)
        host.parking.clear()
        for item in list(host.parked):
            if item in host.parked:
                host.complete(item, "")

    def do_next_fails(self, name: str, kind: str, *problem: str) -> None:
        """next-fails a LimitSync short: the next one goes wrong (`short`: copies too little)."""
        self._known_kind(kind)
        self._live(name).problems[kind] = " ".join(problem)

    def do_persist_stalls(self, name: str) -> None:
        self._live(name).stalled = True

    def do_persist_resumes(self, name: str) -> None:
        self._live(name).stalled = False
        self._live(name)._run_lane()

    def do_persist_fails(self, name: str, *why: str) -> None:
        """persist-fails b no space left: nothing passes until persist-recovers."""
        self._live(name).stalled = True
        self._live(name).event(PersistFailed(" ".join(why)))

    def do_persist_recovers(self, name: str) -> None:
        self.do_persist_resumes(name)
        self._live(name).event(PersistRecovered())

    def do_fence_confirms(self, name: str) -> None:
        """fence-confirms a: the dead lives of host a have ended for certain."""
        host = self._host(name)
        last = host.boots - 1 if host.runs_md else host.boots
        for boot in range(1, last + 1):
            life = life_of(host.node, boot)
            self.world.fence_works.add(life)
            for other in self.hosts.values():
                if other.core is not None and life in other.core.membership.fencing:
                    heard_ms = other.core.membership.heard_ms(life)
                    other.event(Fenced(life, "it has ended", heard_ms))

    def do_watchdogs(self, ms: str) -> None:
        """watchdogs 2000: every host has one, with this timeout; before `cluster` or `start`."""
        self.world.timing = replace(Timing(), watchdog_ms=int(ms))

    def do_agent(self, name: str, what: str) -> None:
        """agent c works (or fails): there is a fence agent that can switch host c off."""
        self.world.agent_works[name] = what == "works"

    def do_vouch(self, at: str, name: str) -> None:
        """vouch b a: at node b an administrator vouches that a is dead."""
        self._live(at).event(FenceAcked(self._host(name).node))
