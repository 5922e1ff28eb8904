"""Everything the core may ask its shell to do.

The contract: effects are carried out in order, in one lane. What stands behind a Persist
waits until that is durable (persist before send). Exempt, at once, are urgent sends
(heartbeats: they promise nothing that must be durable), SetTimer, OpenGate, ShutGate and
AllowFeeding.
Effects that take time (driver, fencing) are started in order and complete by an event of
their own. Those of one array run one after the other, but for two that only start in that
order: a HoldRange drains writes that may need the next Apply, a LimitSync copies for long.
A Send to the node itself comes back as Received after the lane has come to it.
"""

from dataclasses import dataclass

from mdcluster.core.messages import Message
from mdcluster.core.model import (
    ZERO,
    AdoptArray,
    ArrayId,
    Claim,
    DeviceId,
    Entry,
    Life,
    NewMember,
    NodeId,
    Plan,
    Promise,
    Stamp,
    SyncKind,
)

NEVER = -1
ALWAYS = 1 << 62
"""As times of a clock in milliseconds."""

# --- messages, memory, time --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    to: NodeId
    message: Message
    urgent: bool = False


@dataclass(frozen=True, slots=True)
class PersistPromise:
    promise: Promise


@dataclass(frozen=True, slots=True)
class PersistEntry:
    entry: Entry
    projected: Stamp


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Wake the core by Tick at this time (replaces the earlier one)."""

    at_ms: int


# --- the gate, the watchdog ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenGate:
    """Open, or keep open, for this term until this time of this node's clock."""

    term: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class ShutGate:
    pass


@dataclass(frozen=True, slots=True)
class AllowFeeding:
    """The watchdog of this host may be fed until this time of its clock (ALWAYS: for good)."""

    until_ms: int


# --- members, through the gate (writer only) ----------------------------------------------


@dataclass(frozen=True, slots=True)
class WriteSuperblocks:
    """Ring record first, then the superblocks of all writable members -> SuperblocksWritten.

    A member in sync whose newest record is older than `projected` is an old copy: it is not
    written, or it would pass for the real one from then on, but reported as failed.
    A released array's superblocks are plain ones, without the guard bit; its area goes. One
    that is plain already is left alone and counts as written: it is not ours any more.
    """

    entry: Entry
    projected: Stamp = ZERO


@dataclass(frozen=True, slots=True)
class WriteNonces:
    """Check that the devices are free and large enough, write nonces -> NoncesWritten.

    adopt: they are to be, unchanged, the members of a plain array that this change describes.
    """

    op: int
    array: ArrayId
    members: tuple[NewMember, ...]
    force: bool
    adopt: AdoptArray | None = None


@dataclass(frozen=True, slots=True)
class DropNonces:
    """Abandoned: put back what stood where the nonces were written."""

    op: int


@dataclass(frozen=True, slots=True)
class EraseSuperblock:
    """Take what md and a cluster left off a device, unless somebody takes it now -> Erased.

    force: although it is another cluster's.
    """

    op: int
    array: ArrayId
    device: DeviceId
    path: str
    force: bool


# --- the md driver -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PrepareDevices:
    """Open and prove devices, or make ready to stop, or to be read-only -> Prepared."""

    op: int
    array: ArrayId
    claims: tuple[Claim, ...]
    stopping: bool
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class ForgetPrepared:
    op: int


@dataclass(frozen=True, slots=True)
class Apply:
    """Bring the local md to this state: start, stop, fail, add, remove ... -> Applied.

    Runs the array if this life is among its running ones, stops it otherwise. Only stops
    the use of a failed member; held writes stay held until Unblock and Activate.
    """

    entry: Entry


@dataclass(frozen=True, slots=True)
class LeaveArray:
    """Stop the array here -> ArrayLeft.

    With force open or not, held writes fail with an I/O error; without it -> ArrayKept, and
    nothing is changed, while it is in use.
    """

    array: ArrayId
    force: bool = True


@dataclass(frozen=True, slots=True)
class Unblock:
    """-blocked on these committed-faulty members."""

    array: ArrayId
    devices: tuple[DeviceId, ...]


@dataclass(frozen=True, slots=True)
class SampleStates:
    """Read all member states again -> Sampled."""

    array: ArrayId


@dataclass(frozen=True, slots=True)
class Activate:
    """`active`: one bit that releases every held write of the array."""

    array: ArrayId


@dataclass(frozen=True, slots=True)
class HoldRange:
    """Hold writes in exactly [lo, hi) (nothing if lo == hi), drain -> Held."""

    array: ArrayId
    lo_sectors: int
    hi_sectors: int


@dataclass(frozen=True, slots=True)
class HoldAll:
    """This node lost touch (or found it again): hold all writes of all arrays, or not."""

    on: bool


@dataclass(frozen=True, slots=True)
class PinReads:
    """Serve reads from the first in-sync member only (resync_start = 0), or balance."""

    array: ArrayId
    on: bool


@dataclass(frozen=True, slots=True)
class ProbeMember:
    op: int
    array: ArrayId
    device: DeviceId


@dataclass(frozen=True, slots=True)
class SetBits:
    """Set the bits of [lo, hi) in the own slot, durable -> BitsSet."""

    array: ArrayId
    serial: int
    lo_sectors: int
    hi_sectors: int


@dataclass(frozen=True, slots=True)
class MergeBits:
    """Read these slots as the union over in-sync members, set them in the own slot -> BitsSet."""

    array: ArrayId
    serial: int
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ZeroSlot:
    """-> SlotZeroed."""

    array: ArrayId
    life: Life
    index: int


@dataclass(frozen=True, slots=True)
class StartSync:
    """Begin to copy at `position`; stands still until LimitSync allows more."""

    array: ArrayId
    serial: int
    kind: SyncKind
    position_sectors: int


@dataclass(frozen=True, slots=True)
class LimitSync:
    """Copy up to here (sync_max) -> SyncReached when copied and flushed."""

    array: ArrayId
    serial: int
    hi_sectors: int


@dataclass(frozen=True, slots=True)
class StopSync:
    """frozen -> SyncStopped, after the last write of the copying has returned."""

    array: ArrayId
    serial: int


# --- the rest ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fence:
    """-> Fenced or FenceWaits, with the same heard_ms.

    name: the node's line of clusterips. heard_ms: since when, on this node's clock, it has had
    no request of that life that it could grant. succeeded_ms: when it first saw the node live
    another life, or NEVER.
    """

    life: Life
    name: str
    heard_ms: int
    succeeded_ms: int


@dataclass(frozen=True, slots=True)
class Answer:
    """To the local client: 'done', 'refused' or 'waiting' (more will follow), and why.

    plan: what came of a dry run.
    """

    proposal: str
    state: str
    text: str
    plan: Plan | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """All that ShutdownAsked asked for is done: the process may end.

    running: arrays in use, which md runs on without this process; nothing is copied in them.
    """

    running: tuple[ArrayId, ...] = ()


@dataclass(frozen=True, slots=True)
class Notify:
    """An observation for logs, metrics, the event stream; nothing depends on it.

    kind: writer_changed, node_up, node_suspect, node_down, node_fenced, array_started,
    array_stopped, member_failed, member_added, sync_started, sync_moved, sync_finished,
    committed, waiting, refused ...; facts: names and values, in order.
    """

    kind: str
    facts: tuple[tuple[str, str | int], ...]


Effect = (
    Send
    | PersistPromise
    | PersistEntry
    | SetTimer
    | OpenGate
    | ShutGate
    | AllowFeeding
    | WriteSuperblocks
    | WriteNonces
    | DropNonces
    | EraseSuperblock
    | PrepareDevices
    | ForgetPrepared
    | Apply
    | LeaveArray
    | Unblock
    | SampleStates
    | Activate
    | HoldRange
    | HoldAll
    | PinReads
    | ProbeMember
    | SetBits
    | MergeBits
    | ZeroSlot
    | StartSync
    | LimitSync
    | StopSync
    | Fence
    | Answer
    | Stopped
    | Notify
)
