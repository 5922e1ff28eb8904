"""What can be asked of the daemon: each verb and its arguments.

One class for the arguments of each verb (:data:`ARGS`); the data of the answers are in
:mod:`mdcluster.control.arrays` and :mod:`mdcluster.control.status`. All are named tuples: making
a dataclass takes seven times as long, and the client starts anew for each command.

Sizes are in sectors of 512 bytes. Arrays are named as people do: name, UUID or ``/dev/md/NAME``;
devices by path, device UUID, or mdadm's words ``failed``, ``faulty``, ``detached``, ``missing``;
nodes by name or UUID.
"""

from enum import StrEnum
from typing import NamedTuple

from mdcluster.control.errors import ProtocolError
from mdcluster.control.protocol import Request
from mdcluster.control.shape import build, plain

MISSING = "missing"
"""In place of a device of ``create``: this role has no member yet."""


class Verb(StrEnum):
    """What can be asked for."""

    STATUS = "status"
    ARRAYS = "arrays"
    DETAIL = "detail"
    MDSTAT = "mdstat"
    WHY = "why"
    WAIT = "wait"
    EVENTS = "events"
    HISTORY = "history"
    CREATE = "create"
    ADOPT = "adopt"
    RELEASE = "release"
    ASSEMBLE = "assemble"
    STOP = "stop"
    READONLY = "readonly"
    READWRITE = "readwrite"
    PAUSE = "pause"
    RESUME = "resume"
    ACTION = "action"
    GROW = "grow"
    FAIL = "fail"
    REMOVE = "remove"
    ADD = "add"
    READD = "readd"
    REPLACE = "replace"
    ERASE = "erase"
    TRANSFER = "transfer"
    FENCE_ACK = "fence_ack"
    ADMIT = "admit"
    RELOAD = "reload"


# --- arguments ---------------------------------------------------------------------------


class NoArgs(NamedTuple):
    """Nothing to say."""


class ArrayArgs(NamedTuple):
    """For detail and wait."""

    array: str


class EventsArgs(NamedTuple):
    """kinds: only these; empty for all."""

    kinds: tuple[str, ...] = ()


class HistoryArgs(NamedTuple):
    """Entries with a higher number than this; 0: from the oldest that is kept."""

    after: int = 0


class CreateArgs(NamedTuple):
    """``None`` for what the daemon is to choose.

    The first ``raid_disks`` of ``devices`` take the roles 0, 1, ... (``missing``: none yet), the
    rest are spares. run: go on where a device looks as if it were in use by something else.
    """

    proposal: str
    name: str
    level: int
    raid_disks: int
    devices: tuple[str, ...]
    spare_disks: int = 0
    layout: int | None = None
    chunk_sectors: int | None = None
    size_sectors: int | None = None
    bitmap: str = "internal"
    bitmap_chunk_sectors: int | None = None
    uuid: str | None = None
    assume_clean: bool = False
    force: bool = False
    run: bool = False
    data_offset_sectors: int | None = None


class AdoptArgs(NamedTuple):
    """devices: all active members of a plain md array. name: instead of the one they carry.

    force: take members over that a cluster left behind which is no more.
    """

    proposal: str
    devices: tuple[str, ...]
    name: str | None = None
    force: bool = False


class ReleaseArgs(NamedTuple):
    """The array becomes a plain md array and is forgotten. force: although it is degraded."""

    proposal: str
    array: str
    force: bool = False


class AssembleArgs(NamedTuple):
    """devices: take these only (empty: as found). uuid: refuse if the array has another one.

    run: start even if degraded. force: take members that are out of date. readonly: no application
    may write to it, on any node.
    """

    proposal: str
    array: str
    devices: tuple[str, ...] = ()
    uuid: str | None = None
    force: bool = False
    run: bool = False
    readonly: bool = False


class StopArgs(NamedTuple):
    """The array stops on all nodes."""

    proposal: str
    array: str


class StillArgs(NamedTuple):
    """For readonly, readwrite, pause and resume: true on every node when it is answered."""

    proposal: str
    array: str


class ActionWord(StrEnum):
    """md's sync_action, as far as a person may set it."""

    CHECK = "check"
    REPAIR = "repair"
    IDLE = "idle"


class ActionArgs(NamedTuple):
    """Begin to compare the members of an array, or end that (``idle``)."""

    proposal: str
    array: str
    action: ActionWord


class GrowArgs(NamedTuple):
    """More or fewer raid devices (``devices`` are added first), or more of each member.

    size_max: as much as the smallest member has. One of raid_disks, size_sectors and size_max.
    """

    proposal: str
    array: str
    raid_disks: int | None = None
    size_sectors: int | None = None
    size_max: bool = False
    devices: tuple[str, ...] = ()
    force: bool = False


class MemberArgs(NamedTuple):
    """For fail, remove, add, readd."""

    proposal: str
    array: str
    device: str
    force: bool = False


class ReplaceArgs(NamedTuple):
    """by: the spare that takes the role of the device; any if it is left out."""

    proposal: str
    array: str
    device: str
    by: str | None = None
    force: bool = False


class EraseArgs(NamedTuple):
    """Of a device that no array of the cluster has: its superblocks go, and what the cluster left.

    force: although it is of another cluster.
    """

    proposal: str
    device: str
    force: bool = False


class NodeArgs(NamedTuple):
    """For transfer, fence_ack, admit."""

    proposal: str
    node: str


class ReloadArgs(NamedTuple):
    """Configuration is read again."""

    proposal: str


ChangeArgs = (
    CreateArgs
    | AdoptArgs
    | ReleaseArgs
    | AssembleArgs
    | StopArgs
    | StillArgs
    | ActionArgs
    | GrowArgs
    | MemberArgs
    | ReplaceArgs
    | EraseArgs
    | NodeArgs
    | ReloadArgs
)
"""Of verbs that change something: a retry carries the same proposal id."""
Args = NoArgs | ArrayArgs | EventsArgs | HistoryArgs | ChangeArgs

ARGS: dict[Verb, type[Args]] = {
    Verb.STATUS: NoArgs,
    Verb.ARRAYS: NoArgs,
    Verb.DETAIL: ArrayArgs,
    Verb.MDSTAT: NoArgs,
    Verb.WHY: NoArgs,
    Verb.WAIT: ArrayArgs,
    Verb.EVENTS: EventsArgs,
    Verb.HISTORY: HistoryArgs,
    Verb.CREATE: CreateArgs,
    Verb.ADOPT: AdoptArgs,
    Verb.RELEASE: ReleaseArgs,
    Verb.ASSEMBLE: AssembleArgs,
    Verb.STOP: StopArgs,
    Verb.READONLY: StillArgs,
    Verb.READWRITE: StillArgs,
    Verb.PAUSE: StillArgs,
    Verb.RESUME: StillArgs,
    Verb.ACTION: ActionArgs,
    Verb.GROW: GrowArgs,
    Verb.FAIL: MemberArgs,
    Verb.REMOVE: MemberArgs,
    Verb.ADD: MemberArgs,
    Verb.READD: MemberArgs,
    Verb.REPLACE: ReplaceArgs,
    Verb.ERASE: EraseArgs,
    Verb.TRANSFER: NodeArgs,
    Verb.FENCE_ACK: NodeArgs,
    Verb.ADMIT: NodeArgs,
    Verb.RELOAD: ReloadArgs,
}


def parse_args(request: Request) -> Args:
    """The checked arguments of a request; :class:`ProtocolError` for an unknown verb too."""
    if request.verb not in tuple(Verb):
        raise ProtocolError(f"unknown verb {request.verb[:80]!r}; the verbs are: {', '.join(Verb)}")
    return build(ARGS[Verb(request.verb)], request.args, request.verb)


def request_of(number: int, verb: Verb, args: Args, *, dry_run: bool = False) -> Request:
    """The request that carries these arguments."""
    assert isinstance(args, ARGS[verb]), (verb, args)
    return Request(number, verb, plain(args), dry_run)


def changes(args: Args) -> bool:
    """Whether the verb changes something, so that a retry carries the same proposal id."""
    return hasattr(args, "proposal")
