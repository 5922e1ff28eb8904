"""The nouns of the cluster: identities, stamps, arrays, members, the cluster entry.

Everything here is an immutable value. The same values travel in messages, stand in the
state directory and in the rings on the members, so their field order is part of the
protocol (see docs/PROTOCOL.md). All positions and sizes are in sectors of 512 bytes.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

NodeId = NewType("NodeId", str)
DeviceId = NewType("DeviceId", str)
ArrayId = NewType("ArrayId", str)

CLUSTER_KEY = "cluster"
"""Key of the one entry that is not an array: the voters and who is bound to which line."""

NODES_MAX = 32
ARRAYS_MAX = 64
MEMBERS_MAX = 32
GONE_MAX = 128
"""How many released arrays the cluster entry remembers (docs/adr/0007)."""

RECENT_MAX = 64
"""How many finished proposals an entry remembers, to answer retries exactly once."""


@dataclass(frozen=True, slots=True, order=True)
class Stamp:
    """Place of a commit in the history of its entry; ordered by term, then seq."""

    term: int
    seq: int

    @property
    def events(self) -> int:
        """The md event count that stands for this stamp: term << 32 | seq."""
        return self.term << 32 | self.seq

    @classmethod
    def of_events(cls, events: int) -> "Stamp":
        return cls(events >> 32, events & 0xFFFFFFFF)

    def next(self, term: int) -> "Stamp":
        """The stamp that follows in `term`: seq in steps of 2 (mdadm treats one apart as equal)."""
        return Stamp(term, self.seq + 2 if term == self.term else 2)


ZERO = Stamp(0, 0)


@dataclass(frozen=True, slots=True, order=True)
class Life:
    """One node in one boot. What was promised to a life ends with it."""

    node: NodeId
    boot_id: str


# --- arrays -----------------------------------------------------------------------------


class MemberState(StrEnum):
    IN_SYNC = "in_sync"
    RECOVERING = "recovering"  # written everywhere, read nowhere, until it is in_sync
    SPARE = "spare"
    FAULTY = "faulty"


@dataclass(frozen=True, slots=True)
class Member:
    """One device of an array, named by its device UUID."""

    device: DeviceId
    number: int  # dev_number of the superblock, unique in the array, never used twice
    role: int  # slot 0..raid_disks-1; -1 for a spare or a faulty member
    state: MemberState
    data_offset_sectors: int
    data_size_sectors: int
    recovery_sectors: int = 0  # RECOVERING only: valid below this
    by_bitmap: bool = False  # RECOVERING: a re-add, only the dirty chunks are copied; FAULTY:
    # the bitmaps still tell all that it has missed, so it may be re-added
    replacement: bool = False  # RECOVERING: another one is in sync in its role until it is, too


class SyncKind(StrEnum):
    RESYNC = "resync"  # all of [position, end): make the members equal
    RECOVER = "recover"  # rebuild the RECOVERING members
    BITMAP = "bitmap"  # what the bitmaps of dead lives say is dirty
    CHECK = "check"  # compare the members, copy nothing
    REPAIR = "repair"  # compare them, and make equal what differs


LOOKING = frozenset({SyncKind.CHECK, SyncKind.REPAIR})
"""Passes that somebody asked for; no state needs them, and they give way to all that one does."""


@dataclass(frozen=True, slots=True)
class SyncPass:
    """A resync that was begun by a commit and has not been ended by one."""

    serial: int  # grows with every pass of this array
    kind: SyncKind
    position_sectors: int  # checkpoint: complete and flushed below this. raid1: array sectors;
    # raid10: sectors of each device (md counts a raid10 resync in array sectors, so what is
    # written to superblocks is converted)


@dataclass(frozen=True, slots=True)
class Slot:
    """Which life owns a bitmap slot; dirty once that life has ended and its bits remain.

    stay: a life may leave an array and run it again; the number of this time, from 1.
    """

    index: int
    life: Life
    dirty: bool = False
    stay: int = 0


@dataclass(frozen=True, slots=True)
class ArrayState:
    """The whole committed state of one array."""

    uuid: ArrayId
    name: str
    level: int  # 1 or 10
    layout: int  # raid10: 0x102 is near 2; raid1: 0
    chunk_sectors: int  # raid10 only, else 0
    raid_disks: int
    size_sectors: int  # used per member (component size)
    bitmap_chunk_sectors: int
    members: tuple[Member, ...]
    resync_sectors: int | None  # equal below this, None: everywhere (resync_offset)
    sync: SyncPass | None
    last_serial: int
    slots: tuple[Slot, ...]
    running: tuple[Life, ...]  # the lives that may write to it
    active: bool  # meant to run (False after --stop)
    created_s: int  # seconds since the epoch, for the superblock
    updated_s: int
    next_number: int
    paused_s: int = 0  # no pass begins or goes on, no spare takes over, since then; 0: not so
    released: bool = False  # given back to plain md: its superblocks are, or are about to be, plain
    released_at: Stamp = ZERO  # by that commit; in all its plain superblocks, whoever writes them
    slot_count: int = 64  # bitmap slots of its cluster area, which tells the area's shape
    mismatched_sectors: int = 0  # what the latest check or repair found different, as far as it
    # came (md's mismatch_cnt)
    shown_sectors: int | None = None  # the component size that applications see, while not every
    # node has all of size_sectors; None: all of it
    stays: int = 0  # how often some life began to run it
    readonly: bool = False  # no application writes to it, on any node
    removed: tuple[Member, ...] = ()  # faulty when they were taken out; the bitmaps still tell all
    # that they miss, so they may be re-added

    def member(self, device: DeviceId) -> Member | None:
        return next((m for m in self.members if m.device == device), None)

    def former(self, device: DeviceId) -> Member | None:
        """One that was removed, and may be re-added."""
        return next((m for m in self.removed if m.device == device), None)

    @property
    def in_sync(self) -> tuple[Member, ...]:
        return tuple(m for m in self.members if m.state is MemberState.IN_SYNC)

    @property
    def writable(self) -> tuple[Member, ...]:
        """Members whose superblocks follow the commits: all but the faulty."""
        return tuple(m for m in self.members if m.state is not MemberState.FAULTY)

    @property
    def degraded(self) -> int:
        """How many roles have no member in sync."""
        return self.raid_disks - len(self.in_sync)

    @property
    def still(self) -> bool:
        """Whether nothing may be copied in it: for maintenance, or as nothing is written."""
        return self.readonly or self.paused_s > 0

    def slot_of(self, life: Life) -> Slot | None:
        return next((s for s in self.slots if s.life == life), None)


# --- the cluster entry -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Voter:
    """A line of clusterips that votes, and the UUID bound to it ('' until first seen)."""

    name: str
    node: NodeId | None
    priority: int = 100


@dataclass(frozen=True, slots=True)
class Gone:
    """An array that was released: its entries up to this stamp are void, wherever they turn up.

    serial: of its last pass; should it be adopted again, nothing late is taken for a new pass.
    """

    array: ArrayId
    stamp: Stamp
    serial: int


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The committed voter set. Spectators are not listed: nothing ever waits for them."""

    uuid: str
    name: str
    voters: tuple[Voter, ...]
    gone: tuple["Gone", ...] = ()  # arrays that were released, the latest last

    def voter(self, node: NodeId) -> Voter | None:
        return next((v for v in self.voters if v.node == node), None)

    def named(self, name: str) -> Voter | None:
        return next((v for v in self.voters if v.name == name), None)


# --- entries -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a proposal; an empty refusal means it was committed."""

    proposal: str
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One ordered change carrying the whole new state of an array or of the cluster."""

    key: str  # CLUSTER_KEY or an ArrayId
    stamp: Stamp
    state: ArrayState | ClusterState
    recent: tuple[Outcome, ...] = ()


@dataclass(frozen=True, slots=True)
class Promise:
    """A voter's durable promise: refuses terms below, voted for at most one in this one."""

    term: int
    voted_for: NodeId | None


# --- changes: what may be proposed --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewMember:
    """A device a user named: its fresh UUID, where the user saw it, what fits on it."""

    device: DeviceId
    path: str
    data_offset_sectors: int
    data_size_sectors: int
    role: int = -1  # -1: a spare


@dataclass(frozen=True, slots=True)
class CreateArray:
    array: ArrayId
    name: str
    level: int
    layout: int
    chunk_sectors: int
    raid_disks: int
    size_sectors: int
    bitmap_chunk_sectors: int
    members: tuple[NewMember, ...]
    assume_clean: bool
    now_s: int


@dataclass(frozen=True, slots=True)
class AdoptArray:
    """--adopt: a plain md array as its superblocks describe it; nobody runs it yet.

    paths: where the user saw each of `state.members`, in their order. events: the highest event
    count on them; the stamps of the array's commits are above it.
    """

    array: ArrayId
    state: ArrayState
    paths: tuple[str, ...]
    events: int

    @property
    def members(self) -> tuple[NewMember, ...]:
        pairs = zip(self.state.members, self.paths, strict=True)
        return tuple(
            NewMember(m.device, path, m.data_offset_sectors, m.data_size_sectors, m.role)
            for m, path in pairs
        )


@dataclass(frozen=True, slots=True)
class ReleaseArray:
    """--release: stopped everywhere, its superblocks made plain, and then forgotten."""

    array: ArrayId


@dataclass(frozen=True, slots=True)
class StartArray:
    """--assemble: meant to run from now on; each live node joins as it is able to."""

    array: ArrayId
    force: bool = False
    run: bool = False  # start even if degraded now
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class StopArray:
    array: ArrayId


class Doubt(StrEnum):
    """Why a member that fails on one node goes, whatever the other nodes can do with it."""

    NONE = ""
    MISSED = "missed"
    """md set it faulty by itself, and may have acknowledged writes that it lacks."""
    REWRITTEN = "rewritten"
    """md wrote to it what another one had, past the gate: it comes back by a full recovery only."""


@dataclass(frozen=True, slots=True)
class SetReadonly:
    """--readonly, --readwrite: whether applications may write to it, on every node."""

    array: ArrayId
    on: bool


@dataclass(frozen=True, slots=True)
class SetPaused:
    """--pause, --resume: whether anything is copied in it, and spares take over by themselves."""

    array: ArrayId
    on: bool
    now_s: int = 0


@dataclass(frozen=True, slots=True)
class FailMember:
    array: ArrayId
    device: DeviceId
    why: str
    seen_by: NodeId | None = None  # None: an administrator's command, or what it holds is in doubt
    rewritten: bool = False  # Doubt.REWRITTEN: no bitmap tells what it holds


@dataclass(frozen=True, slots=True)
class RemoveMember:
    array: ArrayId
    device: DeviceId


@dataclass(frozen=True, slots=True)
class AddMember:
    array: ArrayId
    member: NewMember


@dataclass(frozen=True, slots=True)
class ReAddMember:
    """A member that was in the array before: only what changed since is copied."""

    array: ArrayId
    device: DeviceId
    path: str


@dataclass(frozen=True, slots=True)
class ReplaceMember:
    """A spare (this one, or any) is to take the role of a member in sync, which then goes."""

    array: ArrayId
    device: DeviceId
    by: DeviceId | None = None


@dataclass(frozen=True, slots=True)
class JoinRunner:
    """The life has the array's members open and may run it; it gets a bitmap slot."""

    array: ArrayId
    life: Life


@dataclass(frozen=True, slots=True)
class LeaveRunner:
    """The life, alive, has stopped the array in order (no bits left behind).

    stay: as its slot has it; the word of it may come when the life runs it again. 0: any.
    """

    array: ArrayId
    life: Life
    stay: int = 0


@dataclass(frozen=True, slots=True)
class EndLife:
    """The life was fenced or is over: its slot becomes dirty. stay: as of LeaveRunner."""

    array: ArrayId
    life: Life
    stay: int = 0


@dataclass(frozen=True, slots=True)
class BeginSync:
    array: ArrayId
    kind: SyncKind


@dataclass(frozen=True, slots=True)
class Checkpoint:
    array: ArrayId
    serial: int
    position_sectors: int
    mismatched_sectors: int = 0  # found different so far by a check or a repair


@dataclass(frozen=True, slots=True)
class EndSync:
    """The pass is complete and flushed; slots: the dead lives whose slots were zeroed."""

    array: ArrayId
    serial: int
    slots: tuple[Life, ...] = ()
    mismatched_sectors: int = 0


@dataclass(frozen=True, slots=True)
class StopLooking:
    """--action=idle: a check or a repair that is under way ends where it is."""

    array: ArrayId


@dataclass(frozen=True, slots=True)
class SetRaidDisks:
    """--grow --raid-devices: so many roles from now on (raid1); spares take the new ones."""

    array: ArrayId
    raid_disks: int


@dataclass(frozen=True, slots=True)
class SetSize:
    """--grow --size: so much of each member; applications see it once every node has it."""

    array: ArrayId
    size_sectors: int


@dataclass(frozen=True, slots=True)
class ShowSize:
    """Every node that runs the array has its new size: applications may see and use it."""

    array: ArrayId


@dataclass(frozen=True, slots=True)
class BindVoter:
    """The first sight of a line's node, or the re-admission of one that lost its state."""

    name: str
    node: NodeId
    replace: bool = False


@dataclass(frozen=True, slots=True)
class AddVoter:
    name: str
    priority: int


@dataclass(frozen=True, slots=True)
class RemoveVoter:
    name: str


@dataclass(frozen=True, slots=True)
class ForgetArray:
    """Every member of the released array is plain: the cluster forgets it. The writer's own."""

    array: ArrayId
    stamp: Stamp
    serial: int


@dataclass(frozen=True, slots=True)
class EraseDevice:
    """--zero-superblock: what md and a cluster left on a device that no array has. Done by the
    writer; the commit only says so.

    array, device: the member that it was, as it says itself. path: where the user saw it.
    """

    array: ArrayId
    device: DeviceId
    path: str


@dataclass(frozen=True, slots=True)
class HandOver:
    """Planned transfer of the writer role; done once the target is writer. Never committed."""

    target: NodeId


ArrayChange = (
    CreateArray
    | AdoptArray
    | ReleaseArray
    | StartArray
    | StopArray
    | SetReadonly
    | SetPaused
    | FailMember
    | RemoveMember
    | AddMember
    | ReAddMember
    | ReplaceMember
    | JoinRunner
    | LeaveRunner
    | EndLife
    | BeginSync
    | Checkpoint
    | EndSync
    | StopLooking
    | SetRaidDisks
    | SetSize
    | ShowSize
)
Reshape = SetRaidDisks | SetSize | ShowSize
VoterChange = BindVoter | AddVoter | RemoveVoter
ClusterChange = VoterChange | ForgetArray | EraseDevice | HandOver
Change = ArrayChange | ClusterChange


@dataclass(frozen=True, slots=True)
class Outlook:
    """What one change would do: the state it is made of, and who takes part.

    need: what has to be done first (`mdcluster.core.rounds.Kind`, '' for nothing), and by whom.
    must: the lives that have to apply it, or be fenced, before it is done.
    """

    before: ArrayState | ClusterState | None
    after: ArrayState | ClusterState
    need: str
    asked: tuple[Life, ...]
    must: tuple[Life, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Changes as the writer would make them now, one after the other, and what they wait for."""

    outlooks: tuple[Outlook, ...]
    waits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """How every node finds and proves a device: the nonce that the writer wrote to it.

    An empty nonce: the device is known, found by the UUID in its superblock.
    """

    device: DeviceId
    path: str
    nonce: bytes
