"""Everything that can happen to a node. Time comes beside the event, never inside it."""

from dataclasses import dataclass

from mdcluster.core.messages import Message
from mdcluster.core.model import ArrayId, Change, DeviceId, Doubt, Life, NodeId, Stamp


@dataclass(frozen=True, slots=True)
class Line:
    """One line of clusterips, as far as the core cares."""

    name: str
    spectator: bool
    priority: int


# --- the mesh ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerUp:
    """start: which start of its daemon this is. The same life with another one was restarted."""

    life: Life
    name: str
    start: int = 0


@dataclass(frozen=True, slots=True)
class PeerDown:
    node: NodeId


@dataclass(frozen=True, slots=True)
class Received:
    """A message of a peer; also the node's own, which comes back once what it says is durable."""

    sender: Life
    message: Message


# --- time, files, people -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """The time asked for by the latest SetTimer has come (early or late is fine)."""


@dataclass(frozen=True, slots=True)
class LinesChanged:
    """clusterips was read again."""

    lines: tuple[Line, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A client of this node's control socket proposes a change (same id: a retry)."""

    proposal: str
    change: Change
    force: bool = False


@dataclass(frozen=True, slots=True)
class Wondered:
    """A client asks what these changes of one entry would do; none of them is made."""

    proposal: str
    changes: tuple[Change, ...]
    force: bool = False


@dataclass(frozen=True, slots=True)
class FenceAcked:
    """An administrator vouches that this node is dead and nothing of it can still land."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class ShutdownAsked:
    """The daemon is to stop in order: hand over, stop arrays, say goodbye."""


@dataclass(frozen=True, slots=True)
class PersistFailed:
    """The state directory refuses: nothing after it in the lane has been sent."""

    why: str


@dataclass(frozen=True, slots=True)
class PersistRecovered:
    """What was held up by PersistFailed has been stored after all."""


# --- completions of effects --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SuperblocksWritten:
    array: ArrayId
    stamp: Stamp
    written: tuple[DeviceId, ...]
    failed: tuple[tuple[DeviceId, str], ...]


@dataclass(frozen=True, slots=True)
class NoncesWritten:
    """problem: why the devices cannot be taken ('' if all nonces were written)."""

    op: int
    problem: str
    nonces: tuple[tuple[DeviceId, bytes], ...]


@dataclass(frozen=True, slots=True)
class Erased:
    op: int
    problem: str


@dataclass(frozen=True, slots=True)
class Prepared:
    op: int
    problem: str
    found: tuple[tuple[DeviceId, Stamp], ...]
    missing: tuple[tuple[DeviceId, str], ...]


@dataclass(frozen=True, slots=True)
class Applied:
    key: str
    stamp: Stamp
    problem: str


@dataclass(frozen=True, slots=True)
class ArrayLeft:
    """The array is stopped here. clean: every write was finished on every member."""

    array: ArrayId
    clean: bool


@dataclass(frozen=True, slots=True)
class ArrayKept:
    """It was to be stopped without force, but is in use (why says by whom): it runs on."""

    array: ArrayId
    why: str


@dataclass(frozen=True, slots=True)
class Held:
    """The range is held and in-flight writes have drained.

    clean: no member is blocked or has unacknowledged errors, no raid thread at work, not
    write-pending. Only then may the core confirm the hold. hung: md will not come back from it
    (nor from much else) before this host is restarted: the node counts as dead from now on.
    """

    array: ArrayId
    lo_sectors: int
    hi_sectors: int
    clean: bool
    problem: str
    hung: bool = False


@dataclass(frozen=True, slots=True)
class Sampled:
    """One sample of all member states: is anything still held by a failure?"""

    array: ArrayId
    clean: bool
    what: str


@dataclass(frozen=True, slots=True)
class SyncReached:
    """Copied and flushed on every target up to `position`; the copying thread sleeps there.

    planned/copied: sectors of this step, as counted. next_dirty: where the next sector to
    copy lies (the end of the array if none): the clean range before it needs no window.
    mismatched: what a check or a repair found different in this step; a check copies nothing,
    its sectors count as copied once they were compared.
    """

    array: ArrayId
    serial: int
    position_sectors: int
    planned_sectors: int
    copied_sectors: int
    next_dirty_sectors: int
    problem: str
    mismatched_sectors: int = 0


@dataclass(frozen=True, slots=True)
class SyncStopped:
    array: ArrayId
    serial: int


@dataclass(frozen=True, slots=True)
class BitsSet:
    """Durable in the own slot: a range that was set, or the bits of other slots."""

    array: ArrayId
    serial: int
    next_dirty_sectors: int
    problem: str


@dataclass(frozen=True, slots=True)
class SlotZeroed:
    array: ArrayId
    life: Life
    problem: str


@dataclass(frozen=True, slots=True)
class Probed:
    op: int
    problem: str


@dataclass(frozen=True, slots=True)
class MemberFailed:
    """md reports a failed write (held until released) or a failed read of a member.

    doubt: what is to be thought of its contents.
    """

    array: ArrayId
    device: DeviceId
    why: str
    doubt: Doubt = Doubt.NONE


@dataclass(frozen=True, slots=True)
class Fenced:
    """Stopped for certain, and nothing that life sent can still land.

    heard_ms: that of the Fence; what is confirmed is void if the life was heard since.
    """

    life: Life
    how: str
    heard_ms: int


@dataclass(frozen=True, slots=True)
class FenceWaits:
    """No provider could fence it yet; the text says what each waits for."""

    life: Life
    why: str
    heard_ms: int


Event = (
    PeerUp
    | PeerDown
    | Received
    | Tick
    | LinesChanged
    | Asked
    | Wondered
    | FenceAcked
    | ShutdownAsked
    | PersistFailed
    | PersistRecovered
    | SuperblocksWritten
    | NoncesWritten
    | Erased
    | Prepared
    | Applied
    | ArrayLeft
    | ArrayKept
    | Held
    | Sampled
    | SyncReached
    | SyncStopped
    | BitsSet
    | SlotZeroed
    | Probed
    | MemberFailed
    | Fenced
    | FenceWaits
)
