"""What a node knows, as the answers to `status`, `arrays`, `detail`, `mdstat`, `why`. Pure.

The core's view says what is committed and applied; the driver and the registry add what only
this host knows: paths, dirty chunks, writes in flight. Nothing here waits for a device.
"""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mdcluster.control.arrays import (
    ArrayBrief,
    ArrayDetail,
    ArrayList,
    ArrayWord,
    BitmapInfo,
    MdstatArray,
    MdstatData,
    MemberInfo,
    MemberWord,
    Started,
    SyncInfo,
    SyncState,
    SyncWord,
    Waiting,
)
from mdcluster.control.status import (
    ClusterStatus,
    LinkInfo,
    NodeInfo,
    NodeRole,
    Quorum,
    WhyData,
)
from mdcluster.core.arrays import array_size_sectors, end_sectors, needs_sync
from mdcluster.core.geometry import shown_array_sectors
from mdcluster.core.model import (
    ZERO,
    ArrayId,
    ArrayState,
    DeviceId,
    Member,
    MemberState,
    NodeId,
    SyncKind,
)
from mdcluster.core.view import NodeView
from mdcluster.core.waits import Cause
from mdcluster.md.driver import ArrayStatus
from mdcluster.members.registry import Claim
from mdcluster.metadata import bitmap
from mdcluster.requests.speed import Speeds

WRITER = "writer"


@dataclass(frozen=True, slots=True)
class Here:
    """What only this host knows.

    paths, numbers: of devices that were seen (major and minor of block devices). statuses: of
    the arrays the driver runs. dirty_chunks: in this node's bitmap slots. links: by node name.
    spectators: names of clusterips lines that are. now_ms: on the core's clock.
    """

    now_ms: int
    paths: Mapping[DeviceId, str] = field(default_factory=dict)
    numbers: Mapping[DeviceId, tuple[int, int]] = field(default_factory=dict)
    statuses: Mapping[ArrayId, ArrayStatus] = field(default_factory=dict)
    dirty_chunks: Mapping[ArrayId, int] = field(default_factory=dict)
    links: Mapping[str, tuple[LinkInfo, ...]] = field(default_factory=dict)
    spectators: frozenset[str] = frozenset()


def states_of(view: NodeView) -> tuple[ArrayState, ...]:
    """Every array: as applied here, or as persisted where nothing was applied yet; by name."""
    known = {e.state.uuid: e.state for e in view.entries if isinstance(e.state, ArrayState)}
    known |= {state.uuid: state for state in view.states}
    return tuple(sorted(known.values(), key=lambda state: state.name))


def names_of(view: NodeView) -> dict[NodeId, str]:
    """Names of all nodes that were ever seen or are bound to a line, this one among them."""
    names = {v.node: v.name for v in view.cluster.voters if v.node is not None}
    return names | dict(view.names) | {view.me.node: view.name}


# --- the cluster ---------------------------------------------------------------------------------


def status(view: NodeView, here: Here, version: str = "") -> ClusterStatus:
    """Who is writer, term, lease, quorum, nodes."""
    writing = view.role == WRITER
    return ClusterStatus(
        name=view.cluster.name,
        uuid=view.cluster.uuid,
        node=view.name,
        node_uuid=view.me.node,
        role=_role(view, here, view.me.node, view.name),
        writer=_writer(view),
        term=view.term,
        lease_ms_left=max(view.lease_until_ms - here.now_ms, 0) if writing else None,
        quorum=_quorum(view),
        nodes=tuple(_nodes(view, here)),
        waiting=waiting(view),
        version=version,
    )


def _writer(view: NodeView) -> str:
    writer = view.me.node if view.role == WRITER else view.writer
    return "" if writer is None else names_of(view).get(writer, writer)


def _alive(view: NodeView) -> frozenset[NodeId]:
    return view.up | {view.me.node}


def _quorum(view: NodeView) -> Quorum:
    voters = view.cluster.voters
    names = names_of(view)
    up = {names.get(node) for node in _alive(view)}
    alive = sum(v.node in _alive(view) or (v.node is None and v.name in up) for v in voters)
    return Quorum(len(voters), len(voters) // 2 + 1, alive)


def _nodes(view: NodeView, here: Here) -> Iterator[NodeInfo]:
    """Voters in their order, then whoever else was seen."""
    names = names_of(view)
    nodes = {name: node for node, name in sorted(names.items())}
    for voter in view.cluster.voters:
        yield _node(view, here, voter.node or nodes.get(voter.name), voter.name)
    voters = {v.name for v in view.cluster.voters}
    for node, name in sorted(names.items(), key=lambda pair: (pair[1], pair[0])):
        if name not in voters:
            yield _node(view, here, node, name)


def _node(view: NodeView, here: Here, node: NodeId | None, name: str) -> NodeInfo:
    return NodeInfo(
        name=name,
        uuid=node or "",
        role=_role(view, here, node, name),
        alive=node in _alive(view),
        suspect=node in view.suspects,
        boot_id=view.me.boot_id if node == view.me.node else "",
        links=here.links.get(name, ()),
    )


def _role(view: NodeView, here: Here, node: NodeId | None, name: str) -> NodeRole:
    if node == view.me.node and view.role in (WRITER, "spectator"):
        return NodeRole(view.role)
    if node is not None and node == view.writer:
        return NodeRole.WRITER
    if name in here.spectators:
        return NodeRole.SPECTATOR
    return NodeRole.UNKNOWN if view.cluster.named(name) is None else NodeRole.VOTER


def waiting(view: NodeView, array: ArrayId | None = None) -> tuple[Waiting, ...]:
    """What does not go on, of the cluster or of one array; arrays and nodes by their names."""
    states = states_of(view)
    names = {str(node): name for node, name in names_of(view).items()}
    names |= {str(state.uuid): state.name for state in states}
    found = [
        Waiting(names.get(w.key, w.key), w.text, 0, w.cause.value, w.by, w.ends)
        for w in dict.fromkeys(view.waiting)
        if array is None or w.key == array
    ]
    still = (_still(state) for state in states if array is None or state.uuid == array)
    return (*found, *itertools.chain.from_iterable(still))


def _still(state: ArrayState) -> Iterator[Waiting]:
    """Why nothing is copied in it, and what ends that."""
    if state.paused_s:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.paused_s))
        text = f"paused since {since}: nothing is copied, no spare takes over"
        ends = f"somebody resumes it: mdcadm --resume {state.name}"
        since_ms = max(int(time.time()) - state.paused_s, 0) * 1000
        yield Waiting(state.name, text, since_ms, Cause.PAUSED.value, (), ends)
    if state.readonly:
        ends = f"somebody says so: mdcadm --readwrite {state.name}"
        yield Waiting(state.name, "read-only on every node", 0, Cause.READONLY.value, (), ends)


def why(
    view: NodeView,
    persist_problem: str = "",
    claims: Sequence[Claim] = (),
    strangers: Sequence[str] = (),
) -> WhyData:
    """All that waits. persist_problem: why this node cannot write its state directory. claims: of
    the members seen here. strangers: what md runs here as an array of the cluster, unknown to it.
    """
    found = (*waiting(view), *_unknown(view, claims))
    for name in strangers:
        text = (
            f"the kernel runs {name} as an array of the cluster, of which this node knows nothing"
        )
        ends = f"it is stopped (mdadm --stop /dev/{name}), or the node has its state directory back"
        found = (*found, Waiting(name, text, 0, Cause.UNKNOWN.value, (view.name,), ends))
    if persist_problem:
        cause, ends = Cause.STATE_DIRECTORY.value, "it can be written again"
        found = (*found, Waiting(view.name, persist_problem, 0, cause, (view.name,), ends))
    return WhyData(found, view.name, _writer(view))


def _unknown(view: NodeView, claims: Sequence[Claim]) -> Iterator[Waiting]:
    """Arrays that members say are of a cluster of this name, and that no commit known here is
    about: this node has lost its memory, or all of them have, and the cluster is a new one."""
    known = {state.uuid for state in states_of(view)} | {gone.array for gone in view.cluster.gone}
    found: dict[ArrayId, list[Claim]] = {}
    for claim in claims:
        if claim.cluster == view.cluster.name and claim.array not in known:
            found.setdefault(claim.array, []).append(claim)
    for array, members in sorted(found.items()):
        text = f"no commit known here is about array {array}, whose members are on this host"
        if view.cluster.uuid not in ("", members[0].cluster_uuid):
            text += f"; they are of an earlier cluster of this name ({members[0].cluster_uuid})"
        ends = "a voter that knows it is back; or it is taken over: mdcadm --adopt --force"
        by = tuple(sorted(member.device for member in members))
        yield Waiting(members[0].array_name, text, 0, Cause.UNKNOWN.value, by, ends)


# --- arrays --------------------------------------------------------------------------------------


def arrays(view: NodeView) -> ArrayList:
    """One line an array."""
    return ArrayList(
        tuple(
            ArrayBrief(
                name=state.name,
                uuid=state.uuid,
                level=state.level,
                raid_disks=state.raid_disks,
                active=state.active,
                running=len(state.running),
                degraded=state.degraded,
            )
            for state in states_of(view)
        )
    )


def detail(view: NodeView, here: Here, state: ArrayState, speeds: Speeds) -> ArrayDetail:
    """All that is known of one array."""
    names = names_of(view)
    stamps = {e.key: e.stamp for e in view.entries} | dict(view.applied)
    return ArrayDetail(
        name=state.name,
        uuid=state.uuid,
        level=state.level,
        layout=state.layout,
        chunk_sectors=state.chunk_sectors,
        raid_disks=state.raid_disks,
        size_sectors=state.size_sectors,
        array_sectors=shown_array_sectors(state),
        state=_word(state, here),
        members=members(state, here),
        events=stamps.get(state.uuid, ZERO).events,
        created_s=state.created_s,
        updated_s=state.updated_s,
        cluster=view.cluster.name,
        sync=sync_info(view, state, speeds),
        bitmap=_bitmap(state, here),
        running=tuple(sorted(names.get(life.node, life.node) for life in state.running)),
        waiting=waiting(view, state.uuid),
        mismatched_sectors=state.mismatched_sectors,
        readonly=state.readonly,
        paused_s=state.paused_s,
    )


def mdstat(view: NodeView, here: Here, speeds: Speeds) -> MdstatData:
    """All arrays in the shape of /proc/mdstat."""
    return MdstatData(
        tuple(
            MdstatArray(
                device=f"md_{state.name}",
                state=_word(state, here),
                level=state.level,
                layout=state.layout,
                chunk_sectors=state.chunk_sectors,
                raid_disks=state.raid_disks,
                array_sectors=shown_array_sectors(state),
                members=members(state, here),
                sync=sync_info(view, state, speeds),
                bitmap=_bitmap(state, here),
                readonly=state.readonly,
                name=state.name,
                uuid=state.uuid,
                mismatched_sectors=state.mismatched_sectors,
            )
            for state in states_of(view)
        )
    )


def started(view: NodeView, state: ArrayState) -> Started:
    """What became of `create` or `assemble`."""
    names = names_of(view)
    return Started(
        state.name,
        tuple(sorted(names.get(life.node, life.node) for life in state.running)),
        len(state.in_sync),
        state.raid_disks,
        sum(m.state in (MemberState.SPARE, MemberState.RECOVERING) for m in state.members),
    )


def members(state: ArrayState, here: Here) -> tuple[MemberInfo, ...]:
    """By role, then spares and faulty members by number, as mdadm lists them."""

    def place(member: Member) -> tuple[int, bool, int]:
        role = member.role if member.role >= 0 else state.raid_disks
        return (role, member.replacement, member.number)

    return tuple(_member(member, here) for member in sorted(state.members, key=place))


def _member(member: Member, here: Here) -> MemberInfo:
    major, minor = here.numbers.get(member.device, (0, 0))
    return MemberInfo(
        number=member.number,
        role=member.role,
        state=MemberWord(member.state.value),
        uuid=member.device,
        path=here.paths.get(member.device, ""),
        major=major,
        minor=minor,
        replacement=member.replacement,
    )


def _word(state: ArrayState, here: Here) -> ArrayWord:
    """As md's array_state: active while copies may differ, by writes or by a resync to come."""
    if not state.active or not state.running:
        return ArrayWord.INACTIVE
    local = here.statuses.get(state.uuid)
    writing = local is not None and (local.writes_in_flight > 0 or local.write_pending)
    return ArrayWord.ACTIVE if writing or state.resync_sectors is not None else ArrayWord.CLEAN


def _bitmap(state: ArrayState, here: Here) -> BitmapInfo:
    chunks = bitmap.chunk_count(array_size_sectors(state), state.bitmap_chunk_sectors)
    return BitmapInfo(
        chunk_sectors=state.bitmap_chunk_sectors,
        chunks=chunks,
        chunks_dirty=min(here.dirty_chunks.get(state.uuid, 0), chunks),
        slots=len(state.slots),
        slots_dirty=sum(slot.dirty for slot in state.slots),
    )


def sync_info(view: NodeView, state: ArrayState, speeds: Speeds) -> SyncInfo | None:
    """The pass under way, or the one due; the writer knows its position best."""
    pass_, end = state.sync, end_sectors(state)
    if pass_ is None:
        due = needs_sync(state)
        if due is None:
            return None
        return SyncInfo(SyncWord(due.value), SyncState.PENDING, _due_from(state, due), end)
    complete = {array: done for array, done, _ in view.passes}.get(state.uuid, 0)
    position = min(max(pass_.position_sectors, complete), end)
    speed_kib = speeds.kib_per_s(state.uuid, pass_.serial)
    return SyncInfo(
        SyncWord(pass_.kind.value),
        SyncState.RUNNING if state.running else SyncState.PENDING,
        position,
        end,
        speed_kib,
        (end - position) // 2 // speed_kib if speed_kib else None,
    )


def _due_from(state: ArrayState, kind: SyncKind) -> int:
    if kind is SyncKind.RESYNC:
        return state.resync_sectors or 0
    return min((m.recovery_sectors for m in state.members if kind is SyncKind.RECOVER), default=0)


def note_progress(view: NodeView, speeds: Speeds, now_ms: int) -> None:
    """Feed the speeds with every pass that is under way; call it now and then."""
    complete = {array: done for array, done, _ in view.passes}
    for state in states_of(view):
        if state.sync is not None:
            position = max(state.sync.position_sectors, complete.get(state.uuid, 0))
            speeds.note(state.uuid, state.sync.serial, position, now_ms)
