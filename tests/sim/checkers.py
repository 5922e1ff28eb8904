"""The invariants of DESIGN.md section 2, checked by wall truth wherever the world changes.

Each method is called by a model at the moment the thing happens; the number of the
invariant stands in the message. `periodic` compares members now and then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NoReturn

from mdcluster.core.departures import SHUTDOWN_MS
from mdcluster.core.effects import Effect, PersistEntry, PersistPromise, Send
from mdcluster.core.messages import ApplyEntry, ProposeReply, ReplicateAck, Report, Vote
from mdcluster.core.model import (
    CLUSTER_KEY,
    RECENT_MAX,
    ZERO,
    AddMember,
    AdoptArray,
    ArrayId,
    ArrayState,
    Change,
    ClusterState,
    CreateArray,
    DeviceId,
    Entry,
    Life,
    MemberState,
    NodeId,
    ReAddMember,
    RemoveMember,
    Stamp,
)
from tests.sim.disks import BLOCK_SECTORS, Disk

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.mdmodel import Leg, MdArray, Write
    from tests.sim.world import World

EFFECTS_MAX = 400
MESSAGES_PER_S_MAX = 4000
NEVER_VAIN = (CreateArray, AdoptArray, AddMember, RemoveMember, ReAddMember)
"""Changes that are never done without a commit."""


class Violation(AssertionError):
    """An invariant does not hold; the text says which, when and where."""


class Checkers:
    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: dict[tuple[str, Stamp], Entry] = {}
        self.newest_seen: dict[str, Entry] = {}
        self.applied_newest: dict[str, Entry] = {}  # by some md
        self.committed_newest: dict[str, Entry] = {}  # as some writer says
        self.cluster_history: list[ClusterState] = []
        self.durable_term: dict[NodeId, int] = {}
        self.durable: dict[tuple[NodeId, str], Stamp] = {}
        self.applied_by_life: dict[tuple[Life, str], Stamp] = {}
        self.gate_terms: dict[int, Life] = {}
        self.settled: dict[str, tuple[str, Stamp]] = {}
        self.refused_once: set[str] = set()  # proposals refused before they were done
        self.acked: dict[tuple[str, int], int] = {}
        self.pinned_seen: dict[tuple[str, int], tuple[int, tuple[DeviceId, ...]]] = {}
        self.stable_seen: dict[tuple[str, int], int] = {}
        self.sent_in: tuple[int, int] = (0, 0)
        self.fenced_alive: set[Life] = set()

    def fail(self, text: str) -> NoReturn:
        raise Violation(f"at {self.world.now_us / 1e6:.6f} s: {text}")

    def bounded(self, what: str, count: int, limit: int) -> None:
        if count > limit:
            self.fail(f"(10) {what}: {count}, more than {limit}")

    # --- (1) the gate --------------------------------------------------------------------

    def gate_opened(self, host: Host) -> None:
        term = host.gate[0]
        holder = self.gate_terms.setdefault(term, host.life)
        if holder != host.life:
            self.fail(f"(1) two gates of term {term}: {holder.boot_id}, {host.life.boot_id}")
        if host.spectator:
            self.fail(f"(8) {host.name}, a spectator, opens its gate")
        self._one_gate(host)

    def gated_write(self, host: Host) -> None:
        self._one_gate(host)

    def _one_gate(self, host: Host) -> None:
        if not host.gate_open():
            return
        for other in self.world.hosts:
            if other is not host and other.up and other.gate_open():
                self.fail(
                    f"(1) two open gates: {host.name} (term {host.gate[0]}) and "
                    f"{other.name} (term {other.gate[0]})"
                )

    # --- (2) stamps, (3) acknowledged changes ----------------------------------------------

    def _see(self, entry: Entry) -> None:
        """Every entry anybody stores or applies: one state per stamp, nothing lost."""
        key = (entry.key, entry.stamp)
        known = self.seen.get(key)
        if known is entry:
            return
        if known is not None:
            if known != entry:
                self.fail(f"(2) two states of {entry.key} carry {entry.stamp}")
            return
        self.seen[key] = entry
        newest = self.newest_seen.get(entry.key)
        if newest is None or newest.stamp < entry.stamp:
            self._stays_gone(entry, newest)
            self._lives_ended(entry, newest)
            self.newest_seen[entry.key] = entry
            self._nothing_undone(entry)

    # --- what was given back ----------------------------------------------------------------

    def _stays_gone(self, entry: Entry, before: Entry | None) -> None:
        """What was released comes back by an adoption only, and begins anew then."""
        if before is None or not _released(before) or _released(entry):
            return
        wishes = self.world.workload.wishes
        asked = [wishes[o.proposal].change for o in entry.recent if o.proposal in wishes]
        if not any(isinstance(change, AdoptArray) for change in asked):
            self.fail(f"(3) {entry.key} was released, and is back at {entry.stamp}")
        self.settled = {p: at for p, at in self.settled.items() if at[0] != entry.key}
        self.world.load["adopted"] += 1

    def is_released(self, uuid: str) -> bool:
        newest = self.newest_seen.get(uuid)
        return newest is not None and _released(newest)

    def given_back(self, uuid: ArrayId) -> None:
        """Whoever asked for the release is told that it is done."""
        newest = self.newest_seen[uuid].state
        assert isinstance(newest, ArrayState)
        for member in newest.writable if newest.released else ():
            disk = self.world.disk_of(member.device)
            if disk is not None and not disk.plain:
                self.fail(f"(3) {newest.name} was released, but {disk.path} is not plain")
        for host in self.world.hosts:
            array = host.md.arrays.get(uuid) if host.md_up and not host.spectator else None
            if array is not None and not array.closing:  # closing: stopped, and only that
                self.fail(f"(3) {newest.name} was released, but {host.name} runs it")

    def not_forgotten(self, uuid: str) -> list[str]:
        """Who still remembers a released array, in quiet times."""
        cluster, newest = self.newest_cluster(), self.newest_seen[uuid]
        gone = {g.array: g.stamp for g in cluster.gone} if cluster is not None else {}
        if newest.stamp > gone.get(ArrayId(uuid), ZERO):
            return [f"{uuid} is released, but not forgotten"]
        return [
            f"{host.name} remembers {uuid}"
            for host in self.world.hosts
            if host.up and not host.spectator and uuid in host.store.entries
        ]

    def _shape(self, entry: Entry, before: Entry | None) -> None:
        """For the load; and no size is ever taken back."""
        was, state = before.state if before else None, entry.state
        if not isinstance(was, ArrayState) or not isinstance(state, ArrayState):
            return
        if state.size_sectors < was.size_sectors:
            self.fail(f"(2) {state.name} shrinks from {was.size_sectors} sectors")
        for member in was.members:
            now = state.member(member.device)
            done = member.replacement and now is not None and now.state is MemberState.IN_SYNC
            self.world.load["members replaced"] += done
        self.world.load["roles changed"] += state.raid_disks != was.raid_disks
        if was.shown_sectors is not None and state.shown_sectors is None:
            self.world.load["sizes_shown"] += 1

    def _nothing_undone(self, entry: Entry) -> None:
        if len(entry.recent) >= RECENT_MAX:
            return
        have = {outcome.proposal for outcome in entry.recent}
        for proposal, (key, stamp) in self.settled.items():
            if key == entry.key and stamp <= entry.stamp and proposal not in have:
                self.fail(f"(3) {entry.key} {entry.stamp} has lost acknowledged {proposal}")

    def answered_done(self, proposal: str, change: Change) -> None:
        """A client was told that its change is committed (or had been true before)."""
        for entry in self.committed_newest.values():
            if any(outcome.proposal == proposal for outcome in entry.recent):
                self.settled.setdefault(proposal, (entry.key, entry.stamp))
                self._nothing_undone(self.newest_seen[entry.key])
                return
        if isinstance(change, NEVER_VAIN):
            self.fail(f"(3) {proposal} was called done but no entry carries it")

    def persisted(self, host: Host, effect: PersistPromise | PersistEntry) -> None:
        if isinstance(effect, PersistPromise):
            if effect.promise.term < self.durable_term.get(host.node, 0):
                self.fail(f"(2) {host.name}: its promised term goes back to {effect.promise.term}")
            self.durable_term[host.node] = effect.promise.term
            return
        entry = effect.entry
        self._see(entry)
        where = (host.node, entry.key)
        if entry.stamp < self.durable.get(where, ZERO):
            self.fail(f"(2) {host.name}: stored {entry.key} goes back to {entry.stamp}")
        self.durable[where] = entry.stamp

    def sending(self, host: Host, effect: Send) -> None:
        """What leaves the host must be durable if it says so."""
        message = effect.message
        if isinstance(message, ProposeReply) and message.state == "refused":
            key = self.settled.get(message.proposal, ("",))[0]
            if key and not self.is_released(ArrayId(key)):
                self.fail(f"(3) {message.proposal} was done, now it is refused: {message.text}")
            self.refused_once.add(message.proposal)
        kind = type(message)
        if kind is ReplicateAck:
            ack: ReplicateAck = message  # type: ignore[assignment]
            have = host.store.entries.get(ack.key)
            if have is None or have.stamp < ack.stamp:
                self.fail(f"(3) {host.name} acknowledges {ack.key} {ack.stamp}, not persisted")
        elif kind is Vote:
            vote: Vote = message  # type: ignore[assignment]
            if vote.granted and host.store.promise.term < vote.term:
                self.fail(f"(2) {host.name} votes in term {vote.term}, not persisted")
        elif kind is Report:
            behind = [a.uuid for a in host.md.arrays.values() if not a.caught_up]
            if any(array in host.store.entries for array in behind):
                self.fail(f"(4) {host.name} reports, but has not caught up with {behind}")
        elif kind is ApplyEntry:
            self._called_committed(host, message.entry)  # type: ignore[union-attr]
        second, count = self.sent_in
        now_s = self.world.now_us // 1_000_000
        self.sent_in = (now_s, count + 1 if now_s == second else 1)
        if count > MESSAGES_PER_S_MAX * len(self.world.hosts):
            self.fail(f"(10) more than {count} messages in one second")

    # --- (4) applied in order, committed ---------------------------------------------------

    def applied(self, host: Host, entry: Entry, problem: str) -> None:
        self._see(entry)
        where = (host.life, entry.key)
        before = self.applied_by_life.get(where, ZERO)
        if entry.stamp < before:
            self.fail(f"(4) {host.name} applies {entry.key} {entry.stamp} after {before}")
        self.applied_by_life[where] = entry.stamp
        self._called_committed(host, entry)
        newest = self.applied_newest.get(entry.key)
        if newest is None or newest.stamp < entry.stamp:
            self.applied_newest[entry.key] = entry
        if problem:
            self.world.load["apply_problems"] += 1

    def _called_committed(self, host: Host, entry: Entry) -> None:
        """A writer tells others to apply this entry."""
        newest = self.committed_newest.get(entry.key)
        if newest is not None and newest.stamp >= entry.stamp:
            return
        if not self._committed(entry):
            self.fail(f"(3) {host.name} takes {entry.key} {entry.stamp} as committed")
        self._shape(entry, newest)
        self.committed_newest[entry.key] = entry
        last = self.cluster_history[-1] if self.cluster_history else None
        if isinstance(entry.state, ClusterState) and entry.state != last:
            self.cluster_history.append(entry.state)

    def _committed(self, entry: Entry) -> bool:
        """A majority of a recent voter set has it on stable storage."""
        sets = self.cluster_history[-2:]
        for newer in (entry, self.newest_seen.get(CLUSTER_KEY)):
            if newer is not None and isinstance(newer.state, ClusterState):
                sets = [*sets, newer.state]
        return any(self._durable_on_most(entry, voters) for voters in sets)

    def _durable_on_most(self, entry: Entry, cluster: ClusterState) -> bool:
        count = sum(
            1
            for voter in cluster.voters
            if voter.node is not None
            and self.durable.get((voter.node, entry.key), ZERO) >= entry.stamp
        )
        return 2 * count > sum(1 for voter in cluster.voters if voter.node is not None)

    def stopped(self, host: Host, kept: tuple[ArrayId, ...]) -> None:
        """A daemon says that it may end: unless its time was out, in order."""
        if host.stop_asked_ms < 0:
            self.fail(f"(9) {host.name} stops unasked")
        if host.clock_ms() - host.stop_asked_ms >= SHUTDOWN_MS:
            self.world.load["stops_out_of_time"] += 1
            return
        self.world.load["stopped_in_order"] += 1
        self.world.load["left_running"] += len(kept)
        for array in host.md.arrays.values():
            if not host.outlives or array.uuid not in kept:
                self.fail(f"(9) {host.name} stops in order and still runs {array.uuid}")
            if array.sync is not None:
                self.fail(f"(6) {host.name} stops in order and still copies {array.uuid}")
        for state in self.newest_committed():
            if host.life in state.running and state.uuid not in kept:
                self.fail(f"(9) {host.name} stops in order but runs {state.name} as committed")

    def newest_committed(self) -> Iterable[ArrayState]:
        for entry in self.committed_newest.values():
            if isinstance(entry.state, ArrayState):
                yield entry.state

    def host_died(self, host: Host) -> None:
        self.world.load["deaths"] += 1

    # --- (5) failed members ----------------------------------------------------------------

    def app_write_acked(self, array: MdArray, write: Write) -> None:
        name = array.host.name
        if not any(leg.in_sync for leg in write.landed):
            self.fail(f"(5) {name} acknowledged a write that no member in sync has")
        for leg in write.failed:
            for other in self.world.hosts:
                running = other.md.arrays.get(array.uuid) if other.md_up else None
                there = running.leg(leg.device) if running is not None else None
                if there is not None and not there.faulty and there.in_sync:
                    self.fail(
                        f"(5) {name} acknowledged a write of block {write.block} that failed on "
                        f"{leg.device}, which {other.name} still uses"
                    )
        self.acked[array.uuid, write.block] = write.value

    def app_read(self, array: MdArray, block: int, value: int, leg: Leg) -> None:
        where = (array.uuid, block)
        acked = self.acked.get(where)
        if acked is not None and value < acked:
            self.fail(
                f"(5) {array.host.name} reads {value} from block {block} of {leg.device}, "
                f"acknowledged was {acked}"
            )
        self._stable(array, block, value)
        if array.pinned and leg.device == array.readable()[0]:
            seen = self.pinned_seen.get(where)
            view = array.readable()
            if seen is not None and 0 < value < seen[0] and view == seen[1]:
                self.fail(f"(7) {array.host.name} reads {value} after {seen[0]} from block {block}")
            self.pinned_seen[where] = (value, view)

    def _stable(self, array: MdArray, block: int, value: int) -> None:
        """Once its writer is dead for long enough, a block does not change back any more."""
        after_us = self.world.quirks.stable_after_us
        hosts = self.world.hosts
        writer = hosts[block % len(hosts)]
        died_us = self.world.dead_at_us.get(writer.life, self.world.now_us)
        if not after_us or writer.md_up or self.world.now_us - died_us < after_us:
            return
        where = (array.uuid, block)
        seen = self.stable_seen.get(where, 0)
        if 0 < value < seen:
            name = array.host.name
            self.fail(f"(7) {name} reads {value} after {seen} from block {block}, not pinned")
        self.stable_seen[where] = value

    def pinned(self, host: Host, array: MdArray) -> None:
        self.world.load["pins"] += 1

    # --- (6) windows -----------------------------------------------------------------------

    def copying(self, host: Host, array: MdArray, block: int, source: Leg) -> None:
        """A block is read or written by a resync: nobody else may write to it."""
        if array.uuid in self.world.workload.paused:
            self.fail(f"(6) {host.name} copies in {array.uuid}, which is paused")
        for other in self.world.hosts:
            there = other.md.arrays.get(array.uuid) if other.md_up else None
            if there is None:
                continue
            writes = there.in_flight + there.held
            busy = [w for w in writes if w.block == block and not w.doomed]
            if other is host:
                busy = [w for w in busy if w in there.held and source in w.failed]
            if busy:
                self.fail(
                    f"(6) {host.name} copies block {block} over a write of {other.name} "
                    f"({'held' if busy[0] in there.held else 'in flight'})"
                )
            if other is not host and not self._holds(there, block):
                self.fail(f"(6) {host.name} copies block {block}, {other.name} does not hold it")

    @staticmethod
    def _holds(array: MdArray, block: int) -> bool:
        lo, hi = array.hold
        inside = lo <= block * BLOCK_SECTORS and (block + 1) * BLOCK_SECTORS <= hi
        return inside or array.host.md.hold_all or not array.started

    def hold_moves(self, array: MdArray) -> None:
        """A host moves a hold: an error at this very moment may hang its md for ever."""
        self.world.load["holds_moved"] += 1
        for other in self.world.hosts if self.world.quirks.serial_holds else ():
            there = (
                other.md.arrays.get(array.uuid) if other.up and other is not array.host else None
            )
            if there is not None and there.moving:
                self.fail(f"(9) {array.host.name} and {other.name} move holds at once: md may hang")

    def app_write_issued(self, array: MdArray, write: Write) -> None:
        if array.uuid in self.world.workload.shut:
            self.fail(f"(4) {array.host.name} writes to {array.uuid}, which is read-only")
        for other in self.world.hosts:
            there = other.md.arrays.get(array.uuid) if other.md_up else None
            if there is None or other is array.host:
                continue
            if there.size <= write.block:
                self.fail(
                    f"(6) {array.host.name} writes block {write.block}, {other.name} has no more "
                    f"than {there.size} yet"
                )
            if there.sync is not None and there.sync.busy_block == write.block:
                self.fail(
                    f"(6) {array.host.name} writes block {write.block} while {other.name} copies it"
                )

    # --- (7) dead lives and their bits -------------------------------------------------------

    def _lives_ended(self, entry: Entry, before: Entry | None) -> None:
        state = entry.state
        if before is None or not isinstance(state, ArrayState):
            return
        was = before.state
        if not isinstance(was, ArrayState):
            return
        for slot in state.slots:
            if slot.dirty and slot.life in was.running and self._may_write(slot.life, state):
                self.fail(f"(7) {slot.life.boot_id} is ended in {state.name} but not fenced")

    def _may_write(self, life: Life, state: ArrayState) -> bool:
        """The life is there, or frozen, and has not stopped this array."""
        owner = self.world.lives.get(life)
        alive = owner is not None and owner.md_up and owner.life == life
        return alive and owner is not None and state.uuid in owner.md.arrays

    def confirmed_by_time(self, host: Host, life: Life) -> None:
        """A provider said that a watchdog has ended this life, and the writer may believe it."""
        if host.core is None or life not in host.core.view().fenced:
            return
        world = self.world
        world.load["fenced_by_time"] += 1
        died_us = world.dead_at_us.get(life)
        if died_us is None and not world.lives[life].md.arrays:
            self.fenced_alive.add(life)  # it can do no harm, and must not begin to
        elif died_us is None:
            self.fail(f"(7) {life.boot_id} is fenced by its watchdog, but lives")
        elif world.now_us < died_us + world.timing.device_timeout_ms * 1000:
            self.fail(f"(7) what {life.boot_id} sent may still land, but it is called fenced")

    def slot_zeroed(self, host: Host, array: MdArray, index: int, life: Life) -> None:
        state = self.newest_array(array.uuid)
        if state is not None and self._may_write(life, state):
            self.fail(f"(7) {host.name} zeroes slot {index} of {life.boot_id}, which is alive")
        disks = [leg.disk for leg in array.legs if leg.in_sync and not leg.faulty]
        mine, others = 0, 0
        for disk in disks:
            mine |= disk.bits[index]
            for slot, bits in enumerate(disk.bits):
                if slot != index:
                    others |= bits
        missing = [m for m in state.members if m.by_bitmap] if state is not None else []
        disks += [d for m in missing if (d := self.world.disk_of(m.device)) is not None]
        for block in _blocks(mine & ~others):
            if len({disk.data[block] for disk in disks}) > 1:
                self.fail(f"(7) {host.name} zeroes slot {index}: block {block} still differs")

    # --- members, disks ----------------------------------------------------------------------

    def disk_written(self, host: Host, disk: Disk) -> None:
        if disk.given_back:
            self.fail(f"(3) {host.name} writes to {disk.path}, which was given back")
        if host.spectator:
            self.fail(f"(8) {host.name}, a spectator, writes to {disk.path}")

    def erased(self, host: Host, disk: Disk) -> None:
        """No array has it, and no node that lives uses it; for spectators nothing waits."""
        self.disk_written(host, disk)
        for state in self.newest_arrays():
            has = disk.device is not None and state.member(disk.device) is not None
            if has and not state.released:  # what was faulty then is nobody's
                self.fail(f"(3) {host.name} erases {disk.path}, a member of {state.name}")
        for other in self.world.hosts:
            arrays = other.md.arrays.values() if other.md_up and not other.spectator else ()
            if any(leg.disk is disk and not leg.faulty for a in arrays for leg in a.legs):
                self.fail(f"(3) {host.name} erases {disk.path}, which {other.name} uses")
        self.world.load["erased"] += 1

    def superblock_written(self, host: Host, disk: Disk, entry: Entry) -> None:
        old = disk.superblock
        if old is None or old.key != entry.key or disk.torn or old.stamp <= entry.stamp:
            return
        if host.gate_open():
            self.fail(f"(2) {disk.path}: superblock goes back from {old.stamp} to {entry.stamp}")
        self.world.load["late_superblocks"] += 1

    def superblocks_behind(self, state: ArrayState) -> list[str]:
        """Members whose superblock is not the newest commit: a cold start reads them."""
        newest = self.committed_newest[state.uuid].stamp
        disks = [d for m in state.writable if (d := self.world.disk_of(m.device)) is not None]
        behind = [d for d in disks if d.superblock is None or d.superblock.stamp < newest]
        return [f"the superblock of {disk.path} is older than {newest}" for disk in behind]

    def assembled(self, host: Host, array: MdArray, state: ArrayState) -> None:
        if host.life in self.fenced_alive:
            self.fail(f"(7) {host.life.boot_id} was called fenced, and starts {state.name}")
        newest = self.applied_newest.get(state.uuid)
        if newest is None or not isinstance(newest.state, ArrayState) or _released(newest):
            return  # adopted: what it was before does not count any more
        for leg in array.legs:
            member = newest.state.member(leg.device)
            stale = member is None or member not in newest.state.in_sync
            if leg.in_sync and stale and host.life not in newest.state.running:
                self.fail(f"(5) {host.name} starts {state.name} with stale member {leg.device}")

    def newest_array(self, uuid: str) -> ArrayState | None:
        """As committed: where every node has left it, no md applies it any more."""
        known = (self.applied_newest.get(uuid), self.committed_newest.get(uuid))
        entry = max((e for e in known if e is not None), key=lambda e: e.stamp, default=None)
        return entry.state if entry is not None and isinstance(entry.state, ArrayState) else None

    def newest_arrays(self) -> Iterable[ArrayState]:
        for entry in self.newest_seen.values():
            if isinstance(entry.state, ArrayState):
                yield entry.state

    def newest_cluster(self) -> ClusterState | None:
        return self.cluster_history[-1] if self.cluster_history else None

    def periodic(self) -> None:
        """Members in sync have what was acknowledged; where they differ a bit says so."""
        for entry in list(self.applied_newest.values()):
            if isinstance(entry.state, ArrayState):
                self._compare(entry.state)

    def _compare(self, state: ArrayState) -> None:
        disks = [(m.device, self.world.disk_of(m.device)) for m in state.in_sync]
        good = [(device, disk) for device, disk in disks if disk is not None]
        excused = self._under_way(state)
        size = state.size_sectors // BLOCK_SECTORS
        for device, disk in good:
            for block in range(size):
                acked = self.acked.get((state.uuid, block))
                if acked is not None and disk.data[block] < acked:
                    self.fail(
                        f"(3) block {block} of {device} has {disk.data[block]}, "
                        f"acknowledged was {acked}"
                    )
        bits = 0
        for _, disk in good:
            for mask in disk.bits:
                bits |= mask
        done = size if state.resync_sectors is None else state.resync_sectors // BLOCK_SECTORS
        for block in range(done):
            if bits >> block & 1 or block in excused:
                continue
            if len({disk.data[block] for _, disk in good}) > 1:
                values = ", ".join(f"{device}: {disk.data[block]}" for device, disk in good)
                self.fail(f"(6) block {block} differs with no bit set: {values}")

    def _under_way(self, state: ArrayState) -> set[int]:
        """Blocks being written or copied right now."""
        blocks: set[int] = set()
        for host in self.world.hosts:
            array = host.md.arrays.get(state.uuid) if host.md_up else None
            if array is not None:
                blocks.update(w.block for w in array.in_flight + array.held)
                if array.sync is not None:
                    blocks.add(array.sync.busy_block)
        return blocks

    def stepped(self, host: Host, effects: list[Effect]) -> None:
        if len(effects) > EFFECTS_MAX:
            self.fail(f"(10) {host.name}: {len(effects)} effects in one step")


def _released(entry: Entry) -> bool:
    return isinstance(entry.state, ArrayState) and entry.state.released


def _blocks(mask: int) -> list[int]:
    return [block for block in range(mask.bit_length()) if mask >> block & 1]
