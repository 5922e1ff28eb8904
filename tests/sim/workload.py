"""Applications that write and read, and administrators that propose changes and insist.

Each block of an array belongs to one host, which has at most one write of it outstanding;
every host reads every block. A proposal is asked again, with the same id, at any node, until
it is answered for good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mdcluster.core.effects import Answer
from mdcluster.core.events import Asked, FenceAcked, Wondered
from mdcluster.core.model import (
    AddMember,
    AdoptArray,
    ArrayId,
    ArrayState,
    BeginSync,
    BindVoter,
    Change,
    CreateArray,
    DeviceId,
    EraseDevice,
    FailMember,
    HandOver,
    Life,
    MemberState,
    NewMember,
    ReAddMember,
    ReleaseArray,
    RemoveMember,
    ReplaceMember,
    SetPaused,
    SetRaidDisks,
    SetReadonly,
    SetSize,
    StartArray,
    StopArray,
    StopLooking,
    SyncKind,
)
from tests.sim.disks import BLOCK_SECTORS, BLOCKS, SIZE_SECTORS, Disk
from tests.sim.mdmodel import MdArray, Write

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.world import World

DATA_OFFSET_SECTORS = 8192
INSIST_US = 1_500_000
ARRAYS = 3
DRY_RUN = "dry-"
DRY_RUNS = 0.5
"""How many administrators ask first what a change would do, where they do that."""


@dataclass(slots=True)
class Wish:
    """A proposal of an administrator."""

    proposal: str
    change: Change
    force: bool = False
    answer: str = ""
    text: str = ""
    asked: int = 0

    @property
    def settled(self) -> bool:
        return self.answer in ("done", "refused")


class Workload:
    def __init__(self, world: World) -> None:
        self.world = world
        self.pause_us = 30_000
        self.io_until_us = 0
        self.arrays: list[ArrayId] = []
        self.outstanding: dict[tuple[ArrayId, int], int] = {}  # -> host index
        self.undefined: set[tuple[ArrayId, int]] = set()  # the last write there got an error
        self.last_value = 0
        self.wishes: dict[str, Wish] = {}
        self.devices = 0
        self.size_blocks = BLOCKS  # of new arrays; their members have room for BLOCKS
        self.paths: dict[DeviceId, str] = {}
        self.dry_runs = False
        self.shut: set[ArrayId] = set()  # no write of an application reaches them
        self.paused: set[ArrayId] = set()  # nothing is copied in them

    # --- applications --------------------------------------------------------------------

    def start_io(self, host: Host) -> None:
        self.world.after_us(self.world.rng.randrange(1, self.pause_us), self._work, host)

    def _work(self, host: Host) -> None:
        world = self.world
        if world.now_us > self.io_until_us:
            return
        world.after_us(world.rng.randrange(self.pause_us // 2, self.pause_us), self._work, host)
        if not host.md_up or host.frozen:
            return
        for array in host.md.arrays.values():
            self._read(array, world.rng.randrange(array.shown))
            self._write(host, array)

    def _write(self, host: Host, array: MdArray) -> None:
        count = len(self.world.hosts)
        block = self.world.rng.randrange(array.shown) // count * count + host.index
        if block >= array.shown or (array.uuid, block) in self.outstanding:
            return
        self.outstanding[array.uuid, block] = host.index
        self.last_value += 1
        self.world.load["writes"] += 1
        array.submit(Write(block, self.last_value))

    def _read(self, array: MdArray, block: int) -> None:
        answer = array.read(block)
        self.world.load["reads"] += 1
        if answer is not None:
            self.world.check.app_read(array, block, *answer)

    def write_ended(self, array: MdArray, write: Write, *, acked: bool) -> None:
        self.outstanding.pop((array.uuid, write.block), None)
        if not acked:
            self.undefined.add((array.uuid, write.block))
        else:
            self.undefined.discard((array.uuid, write.block))
            self.world.load["writes_acked"] += 1
            if write.failed:
                self.world.load["writes_acked_after_failure"] += 1
            self.world.check.app_write_acked(array, write)

    def host_died(self, host: Host) -> None:
        for key in [k for k, index in self.outstanding.items() if index == host.index]:
            del self.outstanding[key]

    def clean_bits(self) -> None:
        for host in self.world.hosts:
            if host.md_up and not host.frozen:
                for array in host.md.arrays.values():
                    array.clean_bits()

    # --- administrators ------------------------------------------------------------------

    def wish(self, change: Change, *, force: bool = False, at: Host | None = None) -> str:
        proposal = f"wish-{len(self.wishes) + 1}"
        self.wishes[proposal] = Wish(proposal, change, force)
        if _opens(change):
            self.shut.discard(change.array)  # type: ignore[union-attr]
        if _resumes(change):
            self.paused.discard(change.array)  # type: ignore[union-attr]
        self._ask(proposal, at)
        return proposal

    def _ask(self, proposal: str, at: Host | None = None) -> None:
        wish = self.wishes[proposal]
        world = self.world
        if wish.settled:
            return
        pause_us = INSIST_US + world.rng.randrange(INSIST_US)
        world.after_us(pause_us, self._ask, proposal)
        able = [h for h in world.hosts if h.up and not h.frozen]
        if not able:
            return
        host = at if at in able else world.rng.choice(able)
        wish.asked += 1
        if self.dry_runs and wish.asked % 3 == 1 and world.rng.random() < DRY_RUNS:
            host.deliver(Wondered(f"{DRY_RUN}{proposal}", (wish.change,), wish.force))
        world.say(host, "is asked:", proposal, wish.change)
        host.deliver(Asked(proposal, wish.change, wish.force))

    def answered(self, host: Host, effect: Answer) -> None:
        if effect.proposal.startswith(DRY_RUN):
            self._advised(effect)
        wish = self.wishes.get(effect.proposal)
        if wish is None:
            return
        refused = effect.state == "refused" and not effect.text.startswith("no writer")
        refused = refused and not self.world.check.is_released(getattr(wish.change, "array", ""))
        late = effect.proposal in self.world.check.refused_once  # to another who asked, on its way
        if effect.proposal in self.world.check.settled and refused and not late:
            self.world.check.fail(f"(3) {effect.proposal} was done, now it is refused")
        if isinstance(wish.change, ReleaseArray) and effect.state == "done" and not wish.settled:
            self._given_back(wish.change.array)
        if effect.state == "done" and not wish.settled:
            if isinstance(wish.change, SetReadonly) and self._still_holds(wish, _opens):
                self.shut.add(wish.change.array)
                self.world.load["made_readonly"] += 1
            if isinstance(wish.change, SetPaused) and self._still_holds(wish, _resumes):
                self.paused.add(wish.change.array)
                self.world.load["paused"] += 1
        if not wish.settled:
            wish.answer, wish.text = effect.state, effect.text
        if effect.state == "done":
            self.world.load["wishes_done"] += 1
            self.world.check.answered_done(effect.proposal, wish.change)
        elif effect.state == "refused":
            self.world.load["wishes_refused"] += 1

    def _still_holds(self, wish: Wish, ends: Callable[[Change], bool]) -> bool:
        """Unless somebody has asked for the opposite since, or it may still be done."""
        assert isinstance(wish.change, SetReadonly | SetPaused)
        array, after = wish.change.array, False
        for other in self.wishes.values():
            opposite = ends(other.change) and getattr(other.change, "array", "") == array
            if opposite and (after or not other.settled):
                return False
            after = after or other is wish
        return wish.change.on

    def _advised(self, effect: Answer) -> None:
        """Of a dry run: it ends in a plan or a refusal, and stands in no commit."""
        if effect.state == "waiting":
            return
        self.world.load["dry_runs"] += 1
        if (effect.state == "done") != (effect.plan is not None):
            self.world.check.fail(f"(3) the dry run {effect.proposal} has no plan")
        for host in self.world.hosts:
            entries = host.core.view().entries if host.up and host.core else ()
            if any(o.proposal == effect.proposal for e in entries for o in e.recent):
                self.world.check.fail(f"(3) the dry run {effect.proposal} was committed")

    # --- what they wish --------------------------------------------------------------------

    def new_member(self, path: str, role: int = -1) -> NewMember:
        self.devices += 1
        device = DeviceId(f"dev-{self.devices}")
        self.paths[device] = path
        return NewMember(device, path, DATA_OFFSET_SECTORS, SIZE_SECTORS, role)

    def create(self, disks: int, *, spares: int = 0, assume_clean: bool = False) -> ArrayId:
        number = len(self.arrays)
        uuid = ArrayId(f"array-{number}")
        members = []
        for role in range(disks + spares):
            path = f"/disk/{number}-{role}"
            self.world.add_disk(path)
            members.append(self.new_member(path, role if role < disks else -1))
        if assume_clean:
            for member in members:
                self.world.disks[member.path].data = [0] * BLOCKS
        change = CreateArray(
            array=uuid,
            name=f"md{number}",
            level=1,
            layout=0,
            chunk_sectors=0,
            raid_disks=disks,
            size_sectors=self.size_blocks * BLOCK_SECTORS,
            bitmap_chunk_sectors=self.world.quirks.chunk_blocks * BLOCK_SECTORS,
            members=tuple(members),
            assume_clean=assume_clean,
            now_s=1_700_000_000,
        )
        self.arrays.append(uuid)
        self.wish(change)
        return uuid

    def create_another(self) -> None:
        """A new array has most to copy, and most to lose if that is disturbed."""
        if len(self.arrays) < ARRAYS:
            self.world.load["admin_create"] += 1
            self.create(self.world.rng.choice((2, 3)))

    def array(self) -> ArrayState | None:
        """Any array that has been applied somewhere."""
        known = (self.world.array(uuid) for uuid in self.arrays)
        states = [s for s in known if s is not None and not s.released]
        return self.world.rng.choice(states) if states else None

    def fail_member(self) -> None:
        state = self.array()
        if state is not None and len(state.in_sync) > 1:
            member = self.world.rng.choice(state.in_sync)
            self.world.load["admin_fail"] += 1
            self.wish(FailMember(state.uuid, member.device, "told to"))

    def remove_member(self) -> None:
        state = self.array()
        faulty = [m for m in state.members if m.state is MemberState.FAULTY] if state else []
        if state is not None and faulty:
            self.world.load["admin_remove"] += 1
            self.wish(RemoveMember(state.uuid, self.world.rng.choice(faulty).device))

    def re_add_member(self) -> None:
        state = self.array()
        faulty = [m for m in state.members if m.state is MemberState.FAULTY] if state else []
        faulty += state.removed if state else ()
        if state is not None and faulty:
            member = self.world.rng.choice(faulty)
            self.world.load["admin_re_add"] += 1
            self.wish(ReAddMember(state.uuid, member.device, self.paths.get(member.device, "")))

    def replace_member(self) -> None:
        """By any spare, or by one that may be none."""
        state = self.array()
        if state is not None and state.in_sync:
            rng = self.world.rng
            by = rng.choice([None, None, rng.choice(state.members).device])
            self.world.load["admin_replace"] += 1
            self.wish(ReplaceMember(state.uuid, rng.choice(state.in_sync).device, by))

    def add_member(self) -> None:
        """A disk no array uses, or a fresh one."""
        state = self.array()
        if state is None or len(state.members) >= 6:
            return
        prefix = f"/disk/{self.arrays.index(state.uuid)}-"
        free = [
            d for p, d in self.world.disks.items() if p.startswith(prefix) and not self._member(d)
        ]
        disk = self.world.rng.choice(free) if free else None
        if disk is None:
            count = sum(1 for p in self.world.disks if p.startswith(prefix))
            disk = self.world.add_disk(f"{prefix}{count}")
        self.world.load["admin_add"] += 1
        self.wish(AddMember(state.uuid, self.new_member(disk.path)), force=True)

    def come_back(self) -> None:
        """A member fails, is perhaps removed, and added again."""
        rng = self.world.rng
        self.fail_member()
        if rng.random() < 0.5:
            self.world.after_us(rng.randrange(50_000, 300_000), self.remove_member)
        self.world.after_us(rng.randrange(100_000, 700_000), self.re_add_member)

    def erase(self) -> None:
        """A member fails, is removed, and erased: in good time, or too early."""
        rng = self.world.rng
        self.fail_member()
        self.world.after_us(rng.randrange(100_000, 400_000), self.remove_member)
        self.world.after_us(rng.randrange(300_000, 900_000), self.erase_device)

    def erase_device(self) -> None:
        """Any disk that shows a superblock: members, which must stay, and what was one."""
        rng = self.world.rng
        shown = [d for d in self.world.disks.values() if d.device is not None and d.superblock]
        gone = [d for d in shown if not self._member(d)]
        if shown:
            disk = rng.choice(gone if gone and rng.random() < 0.7 else shown)
            assert disk.device is not None and disk.superblock is not None
            self.world.load["admin_erase"] += 1
            array = ArrayId(disk.superblock.key)
            self.wish(EraseDevice(array, disk.device, disk.path))

    def _member(self, disk: Disk) -> bool:
        device = disk.device
        states = self.world.check.newest_arrays()
        return device is not None and any(s.member(device) is not None for s in states)

    def stop_or_start(self) -> None:
        state = self.array()
        if state is None:
            return
        if state.active:
            self.world.load["admin_stop"] += 1
            self.wish(StopArray(state.uuid))
        else:
            self.world.load["admin_start"] += 1
            self.wish(StartArray(state.uuid))

    # --- to stock md and back ----------------------------------------------------------------

    def release_or_adopt(self) -> None:
        uuid = self.world.rng.choice(self.arrays) if self.arrays else None
        if uuid is not None and self.world.check.is_released(uuid):
            self.adopt(uuid)
        elif uuid is not None and self.world.array(uuid) is not None:
            self.release(uuid)

    def release(self, uuid: ArrayId) -> None:
        self.world.load["admin_release"] += 1
        self.wish(ReleaseArray(uuid), force=self.world.rng.random() < 0.3)

    def plain_disks(self, uuid: ArrayId) -> list[Disk]:
        """What stock md assembles of this array: members that have not failed, of one age."""
        disks = self.world.disks.values()
        found = [
            d for d in disks if d.plain and d.superblock is not None and d.superblock.key == uuid
        ]
        newest = max(found, key=lambda disk: disk.events, default=None)
        if newest is None:
            return []
        roles = _array_of(newest)
        good = {m.device for m in roles.writable}
        return [d for d in found if d.events == newest.events and d.device in good]

    def _given_back(self, uuid: ArrayId) -> None:
        self.world.check.given_back(uuid)
        for disk in self.plain_disks(uuid):
            disk.given_back = True
        self.world.load["given_back"] += 1
        self._use_natively(uuid)

    def _use_natively(self, uuid: ArrayId) -> None:
        """Stock md on some host writes to it: the cluster must not notice, nor be noticed."""
        disks = self.plain_disks(uuid)
        if not disks or not all(disk.given_back for disk in disks):
            return
        block = self.world.rng.randrange(_array_of(disks[0]).size_sectors // BLOCK_SECTORS)
        self.last_value += 1
        for disk in disks:
            disk.data[block] = self.last_value
            disk.native_events += 2
        self.world.check.acked[uuid, block] = self.last_value
        self.world.load["native_writes"] += 1
        self.world.after_us(self.world.rng.randrange(1, 500_000), self._use_natively, uuid)

    def adopt(self, uuid: ArrayId) -> None:
        """Stopped under stock md, and all its active members named."""
        disks = self.plain_disks(uuid)
        if not disks or not all(disk.given_back for disk in disks):
            return  # not told yet that it was given back, or asked for already
        for disk in disks:
            disk.given_back = False
        old, here = _array_of(disks[0]), {disk.device: disk for disk in disks}
        members = tuple(m for m in old.members if m.device in here)
        state = replace(
            old, members=members, active=True, released=False, last_serial=0, updated_s=0
        )
        paths = tuple(here[m.device].path for m in members)
        self.world.load["admin_adopt"] += 1
        events = max(disk.events for disk in disks)
        self.wish(AdoptArray(uuid, state, paths, events))

    def look(self) -> None:
        """A check or a repair, or the end of one."""
        state = self.array()
        if state is None:
            return
        self.world.load["admin_look"] += 1
        draw = self.world.rng.random()
        if draw < 0.2:
            self.wish(StopLooking(state.uuid))
        else:
            kind = SyncKind.CHECK if draw < 0.7 else SyncKind.REPAIR
            self.wish(BeginSync(state.uuid, kind))

    def be_still(self) -> None:
        """Read-only, or paused, and the opposite."""
        state = self.array()
        if state is None:
            return
        self.world.load["admin_be_still"] += 1
        if self.world.rng.random() < 0.6:
            self.wish(SetReadonly(state.uuid, not state.readonly or self.world.rng.random() < 0.2))
        else:
            self.wish(SetPaused(state.uuid, not state.paused_s, 1_700_000_000))

    def go_on(self) -> None:
        """Maintenance is over: everything is as it was."""
        asked = [w.change for w in self.wishes.values() if not w.settled]
        for uuid in self.arrays:
            state = self.world.array(uuid)
            for change in (SetReadonly(uuid, on=False), SetPaused(uuid, on=False)):
                wanted = state is not None and (
                    state.readonly if isinstance(change, SetReadonly) else state.paused_s
                )
                if wanted and change not in asked:
                    self.wish(change)

    def raid_disks(self) -> None:
        """More roles, or fewer."""
        state = self.array()
        if state is not None:
            self.world.load["admin_raid_disks"] += 1
            count = self.world.rng.randint(max(len(state.in_sync) - 1, 1), 4)
            self.wish(SetRaidDisks(state.uuid, count), force=True)

    def size(self) -> None:
        """More of each member, as far as they have it."""
        state = self.array()
        blocks = state.size_sectors // BLOCK_SECTORS if state is not None else BLOCKS
        if state is not None and blocks < BLOCKS:
            self.world.load["admin_size"] += 1
            blocks = self.world.rng.randint(blocks + 1, BLOCKS)
            self.wish(SetSize(state.uuid, blocks * BLOCK_SECTORS))

    def transfer(self, at: Host | None = None) -> None:
        """To anybody; asked for at a host, for one that is to happen at once."""
        self.world.load["admin_transfer"] += 1
        able = [h for h in self.world.hosts if h.up and not h.spectator and h is not at]
        if able:
            self.wish(HandOver(self.world.rng.choice(able).node), at=at)

    def admit_again(self) -> None:
        """Voters whose line is served by a node that is not the one bound to it."""
        cluster = self.world.check.newest_cluster()
        for host in self.world.hosts:
            voter = cluster.named(host.name) if cluster is not None else None
            if not host.up or voter is None or voter.node in (None, host.node):
                continue
            wished = (w.change for w in self.wishes.values() if not w.settled)
            if not any(isinstance(c, BindVoter) and c.node == host.node for c in wished):
                self.world.load["admin_bind"] += 1
                self.wish(BindVoter(host.name, host.node, replace=True))

    def vouch_for_the_dead(self) -> None:
        """An administrator has looked: whoever is down now, and only they, is dead.

        The word comes late: by then the node may have started again, and be heard or not.
        """
        for host in self.world.hosts:
            if host.md_up or not host.boots or host.life in self.world.acked_by_hand:
                continue
            for life, owner in self.world.lives.items():
                if owner is host:
                    self.world.acked_by_hand.add(life)
            self.world.load["fence_acks"] += 1
            late_us = self.world.rng.choice((1, 1, 300_000, 2_000_000))
            self.world.after_us(late_us, self._vouched, host.life)

    def _vouched(self, life: Life) -> None:
        owner = self.world.lives[life]
        apart = any(not host.knows(owner.name) for host in (*self.world.hosts, owner) if host.up)
        if owner.md_up and (owner.frozen or apart or self.world.network.cut):
            return  # said now it would be a lie: the node lives again, and is silent
        for other in self.world.hosts:
            if other.up and not other.frozen:
                other.deliver(FenceAcked(life.node))


def _opens(change: Change) -> bool:
    """Whether it may end that the array is read-only."""
    return isinstance(change, StopArray | ReleaseArray | AdoptArray) or (
        isinstance(change, SetReadonly) and not change.on
    )


def _resumes(change: Change) -> bool:
    """Whether it may end that the array is paused."""
    return isinstance(change, ReleaseArray | AdoptArray) or (
        isinstance(change, SetPaused) and not change.on
    )


def _array_of(disk: Disk) -> ArrayState:
    """What its superblock says."""
    assert disk.superblock is not None and isinstance(disk.superblock.state, ArrayState)
    return disk.superblock.state
