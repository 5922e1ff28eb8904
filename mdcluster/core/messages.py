"""What nodes say to each other. Each message is stamped with the sender's term.

The list of classes at the end is the closed set the wire codec knows.
"""

from dataclasses import dataclass

from mdcluster.core.model import (
    ArrayId,
    Change,
    Claim,
    DeviceId,
    Entry,
    Life,
    NodeId,
    Plan,
    Stamp,
)

# --- election ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PreVote:
    """Would you vote for me in `term`? Changes nothing at the receiver."""

    term: int
    lines_digest: str


@dataclass(frozen=True, slots=True)
class PreVoteReply:
    term: int
    granted: bool
    why: str


@dataclass(frozen=True, slots=True)
class RequestVote:
    """transfer: the term of the writer that named the sender its successor, 0 otherwise."""

    term: int
    lines_digest: str
    transfer: int


@dataclass(frozen=True, slots=True)
class Vote:
    """A durable promise to refuse terms below, with all that the voter has persisted."""

    term: int
    granted: bool
    why: str
    vector: tuple[Entry, ...]
    projected: tuple[tuple[str, Stamp], ...]


@dataclass(frozen=True, slots=True)
class Transfer:
    """The writer's gate is shut for good in this term: stand for election now."""

    term: int
    target: NodeId


# --- liveness ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Beat:
    """Writer -> everybody. granted_ask renews the I/O lease the receiver asked for in that ask."""

    term: int
    round: int
    granted_ask: int
    suspects: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class BeatAck:
    """ask: serial of the I/O lease request that this ack is; digest: of what is applied here."""

    term: int
    round: int
    ask: int
    digest: int
    file_digest: str


@dataclass(frozen=True, slots=True)
class Query:
    """Writer -> a node whose state it does not know in this term: report."""

    term: int


@dataclass(frozen=True, slots=True)
class HoldReport:
    array: ArrayId
    serial: int
    lo_sectors: int
    hi_sectors: int
    complete_sectors: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a node runs, has applied, holds, and knows of a resync; its own copying has ended.

    serial_holds: of the nodes that say so only one may move a hold at a time: in kernels before
    6.7 a move drains writes with the array's reconfig_mutex held (mddev_suspend of
    drivers/md/md.c), and an error at that very moment hangs md for ever.
    """

    term: int
    applied: tuple[tuple[str, Stamp], ...]
    running: tuple[ArrayId, ...]
    holds: tuple[HoldReport, ...]
    serial_holds: bool


# --- commits -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Propose:
    term: int
    proposal: str
    change: Change
    force: bool = False


@dataclass(frozen=True, slots=True)
class ProposeReply:
    """state: 'done', 'refused' or 'waiting'; text says why, or what it waits for."""

    term: int
    proposal: str
    state: str
    text: str


@dataclass(frozen=True, slots=True)
class Consult:
    """A dry run: what would these changes of one entry do, made in this order? None is made."""

    term: int
    proposal: str
    changes: tuple[Change, ...]
    force: bool


@dataclass(frozen=True, slots=True)
class Advice:
    """plan: None if they would be refused, as `refusal` says."""

    term: int
    proposal: str
    refusal: str
    plan: Plan | None


@dataclass(frozen=True, slots=True)
class Replicate:
    term: int
    entry: Entry


@dataclass(frozen=True, slots=True)
class ReplicateAck:
    """The entry is on stable storage here."""

    term: int
    key: str
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Prepare:
    """Open the devices and read back the nonces, or (stopping) make ready to stop."""

    term: int
    op: int
    array: ArrayId
    claims: tuple[Claim, ...]
    stopping: bool = False  # instead: make ready to stop; refuse while in use
    readonly: bool = False  # instead: admit no more writes; refuse while in use


@dataclass(frozen=True, slots=True)
class PrepareReply:
    """found: per device the stamp of its superblock (ZERO for one with a nonce only)."""

    term: int
    op: int
    problem: str
    found: tuple[tuple[DeviceId, Stamp], ...]
    missing: tuple[tuple[DeviceId, str], ...]


@dataclass(frozen=True, slots=True)
class Abandon:
    """The prepared operation will not be committed: close, forget."""

    term: int
    op: int


@dataclass(frozen=True, slots=True)
class ApplyEntry:
    """The entry is committed. projected: every writable member's superblock is at least there."""

    term: int
    entry: Entry
    projected: Stamp


@dataclass(frozen=True, slots=True)
class ApplyAck:
    """problem: '' if applied; else what stands against it (the node holds its I/O)."""

    term: int
    key: str
    stamp: Stamp
    problem: str


@dataclass(frozen=True, slots=True)
class Release:
    """All listed nodes have applied `stamp` or are fenced: held writes may go on."""

    term: int
    key: str
    stamp: Stamp


# --- members and resync ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Probe:
    """Can you still write and read this member? (A write of the node's own block.)"""

    term: int
    op: int
    array: ArrayId
    device: DeviceId


@dataclass(frozen=True, slots=True)
class ProbeReply:
    term: int
    op: int
    problem: str


@dataclass(frozen=True, slots=True)
class Hold:
    """Hold writes in [lo, hi), and only there; the pass is complete and flushed below `complete`.

    lo == hi: hold nothing.
    """

    term: int
    array: ArrayId
    serial: int
    lo_sectors: int
    hi_sectors: int
    complete_sectors: int


@dataclass(frozen=True, slots=True)
class HoldAck:
    """problem: '' once confirmed; 'failure pending' if a failed write is held here."""

    term: int
    array: ArrayId
    serial: int
    lo_sectors: int
    hi_sectors: int
    problem: str


# --- people -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Vouch:
    """Relayed to the writer: an administrator vouches that `life` is dead (--fence-ack).

    A life, not a node: a word that comes late must not end the next life of the node.
    """

    term: int
    life: Life


MESSAGES: tuple[type, ...] = (
    PreVote,
    PreVoteReply,
    RequestVote,
    Vote,
    Transfer,
    Beat,
    BeatAck,
    Query,
    Report,
    Propose,
    ProposeReply,
    Consult,
    Advice,
    Replicate,
    ReplicateAck,
    Prepare,
    PrepareReply,
    Abandon,
    ApplyEntry,
    ApplyAck,
    Release,
    Probe,
    ProbeReply,
    Hold,
    HoldAck,
    Vouch,
)

Message = (
    PreVote
    | PreVoteReply
    | RequestVote
    | Vote
    | Transfer
    | Beat
    | BeatAck
    | Query
    | Report
    | Propose
    | ProposeReply
    | Consult
    | Advice
    | Replicate
    | ReplicateAck
    | Prepare
    | PrepareReply
    | Abandon
    | ApplyEntry
    | ApplyAck
    | Release
    | Probe
    | ProbeReply
    | Hold
    | HoldAck
    | Vouch
)
