"""Data of the answers about arrays: what each verb gives.

``arrays``: ArrayList; ``detail``: ArrayDetail; ``mdstat``: MdstatData; ``create`` and
``assemble``: Started; ``wait``: SyncInfo (or nothing) while it waits, Waited at its end. Sizes
and positions are in sectors of 512 bytes; UUIDs in the canonical form (8-4-4-4-12).
"""

from enum import StrEnum
from typing import NamedTuple


class Waiting(NamedTuple):
    """Something that does not go on: what it is (an array, a node, the cluster), and why.

    cause: a value of :class:`mdcluster.core.waits.Cause`. by: who is waited for: names of nodes,
    UUIDs of devices. ends: completes "this ends when ...".
    """

    subject: str
    reason: str
    since_ms: int = 0
    cause: str = ""
    by: tuple[str, ...] = ()
    ends: str = ""


class ArrayBrief(NamedTuple):
    """active: meant to run; running: on how many nodes it does."""

    name: str
    uuid: str
    level: int
    raid_disks: int
    active: bool
    running: int = 0
    degraded: int = 0


class ArrayList(NamedTuple):
    """All arrays of the cluster."""

    arrays: tuple[ArrayBrief, ...]


class MemberWord(StrEnum):
    """As :class:`mdcluster.core.model.MemberState`."""

    IN_SYNC = "in_sync"
    RECOVERING = "recovering"
    SPARE = "spare"
    FAULTY = "faulty"


class MemberInfo(NamedTuple):
    """A member; ``path``, ``major``, ``minor`` as on this node, '' and 0 where it has none.

    replacement: it is recovering to take the role of another one, which has it until then.
    """

    number: int
    role: int
    state: MemberWord
    uuid: str = ""
    path: str = ""
    major: int = 0
    minor: int = 0
    replacement: bool = False


class SyncWord(StrEnum):
    """As :class:`mdcluster.core.model.SyncKind`."""

    RESYNC = "resync"
    RECOVER = "recover"
    BITMAP = "bitmap"
    CHECK = "check"
    REPAIR = "repair"


class SyncState(StrEnum):
    """Whether a pass goes on."""

    RUNNING = "running"
    PENDING = "pending"  # begun, and nothing is copied now
    DELAYED = "delayed"  # waits for another array's pass


class SyncInfo(NamedTuple):
    """``eta_s`` is None while it cannot be told."""

    kind: SyncWord
    state: SyncState
    position_sectors: int
    end_sectors: int
    speed_kib: int = 0
    eta_s: int | None = None


class BitmapInfo(NamedTuple):
    """chunks: of one slot; dirty: in this node's; dirty_slots: of lives that have ended."""

    chunk_sectors: int
    chunks: int
    chunks_dirty: int = 0
    slots: int = 0
    slots_dirty: int = 0


class ArrayWord(StrEnum):
    """md's array states."""

    CLEAN = "clean"
    ACTIVE = "active"
    INACTIVE = "inactive"


class ArrayDetail(NamedTuple):
    """All that ``--detail`` prints. size: used of each member; array: what users see.

    set_name: the name in the superblocks, where it is not ``name`` alone (``HOST:NAME``).
    running: names of the nodes that may write to it. created and updated: seconds since the epoch.
    mismatched: what the latest check or repair found different (md's mismatch_cnt). paused: since
    when nothing is copied in it, in seconds since the epoch; 0: it is not paused.
    """

    name: str
    uuid: str
    level: int
    layout: int
    chunk_sectors: int
    raid_disks: int
    size_sectors: int
    array_sectors: int
    state: ArrayWord
    members: tuple[MemberInfo, ...]
    events: int
    created_s: int
    updated_s: int
    cluster: str = ""
    set_name: str = ""
    sync: SyncInfo | None = None
    bitmap: BitmapInfo | None = None
    running: tuple[str, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    mismatched_sectors: int = 0
    readonly: bool = False
    paused_s: int = 0


class MdstatArray(NamedTuple):
    """One array of ``--mdstat``; ``device`` as in /proc/mdstat (``md_NAME``).

    mismatched: as in :class:`ArrayDetail`.
    """

    device: str
    state: ArrayWord
    level: int
    layout: int
    chunk_sectors: int
    raid_disks: int
    array_sectors: int
    members: tuple[MemberInfo, ...]
    sync: SyncInfo | None = None
    bitmap: BitmapInfo | None = None
    readonly: bool = False
    name: str = ""
    uuid: str = ""
    mismatched_sectors: int = 0


class MdstatData(NamedTuple):
    """What --mdstat prints."""

    arrays: tuple[MdstatArray, ...]


class Waited(NamedTuple):
    """The end of ``wait``: False if there was nothing to wait for."""

    waited: bool


class Started(NamedTuple):
    """What ``create`` and ``assemble`` give: which nodes run it, with how many members."""

    name: str
    running: tuple[str, ...] = ()
    active_disks: int = 0
    raid_disks: int = 0
    spare_disks: int = 0
