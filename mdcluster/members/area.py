"""One commit onto one member: cluster area if need be, own ring record, superblock. Blocking.

Order, and who lets it through:

1. proof: the superblock, the area's header or the nonce says that this is the device;
2. through the gate: a new area, all zero (only where none of this array and device stands, so
   that no bitmap slot in use is ever cleared), or a new node table in the header;
3. the record in this node's own ring: its own blocks, no gate. Before the superblock, so that
   whoever reads the superblock finds the commit behind it;
4. through the gate: the superblock, never an older one over a newer one;
5. through the gate: the nonce goes. It proves a device only until the superblock does.

Each member's header says which ring is whose on that member. Nodes keep their ring as long as
they are voters.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import UUID

from mdcluster.core.arrays import array_size_sectors
from mdcluster.core.model import (
    ZERO,
    ArrayState,
    ClusterState,
    Entry,
    Member,
    MemberState,
    NodeId,
    Stamp,
)
from mdcluster.members.errors import (
    MembersError,
    NewerFoundError,
    OldCopyError,
    WrongDeviceError,
)
from mdcluster.members.look import Hold, Identity, hold, identity_of
from mdcluster.members.nonceblock import NONCE_OFFSET_BYTES
from mdcluster.members.projection import project, uuid_of
from mdcluster.members.proof import Standing, prove
from mdcluster.members.slots import area_layout
from mdcluster.metadata import cluster_area, layout, rings
from mdcluster.metadata.cluster_area import Header, NodeEntry
from mdcluster.metadata.device import DeviceReader, DeviceWriter
from mdcluster.metadata.errors import MetadataError
from mdcluster.metadata.scan import read_member
from mdcluster.metadata.superblock import (
    BLOCK,
    SUPER_OFFSET_BYTES,
    Superblock,
    encode,
)
from mdcluster.wire.codec import Codec

ENTRY_CODEC = Codec([Entry])
Check = Callable[[], None]
_LANE: rings.Lane = "array"


@dataclass(frozen=True, slots=True)
class Writing:
    """What is written, by whom, for whom, when (seconds since the epoch).

    projected: every member in sync shows a commit at least this new.
    """

    entry: Entry
    state: ArrayState
    cluster: ClusterState
    me: NodeId
    now_s: int
    projected: Stamp = ZERO


@dataclass(frozen=True, slots=True)
class Memo:
    """What this node knows of a member's area. Good for one term: another node may write the
    header as writer of another one. ring_next: index of the own ring's next record."""

    term: int
    identity: Identity
    header: Header
    ring_next: int
    nonce: bool = False  # one stands there and has done its work


def check_writing(writing: Writing) -> None:
    """MembersError for what would stand against every member alike: that is no member's fault."""
    uuid_of(writing.cluster.uuid, "cluster")
    if writing.cluster.voter(writing.me) is None:
        raise MembersError(f"node {writing.me} is bound to no voter's line: it has no ring")
    area_layout(writing.state)
    size = len(payload_of(writing.entry))
    if size > rings.PAYLOAD_BYTES_MAX:
        raise MembersError(f"array {writing.state.name}: its state of {size} bytes fits no record")
    for member in writing.state.writable:
        project(writing.state, writing.entry.stamp, member, writing.now_s)


def write_member(
    path: str,
    member: Member,
    writing: Writing,
    memo: Memo | None,
    check: Check,
    *,
    held: bool = False,
) -> Memo:
    """Write the commit onto this member; durable on return.

    held: the caller keeps the device from stock md. A plain member is kept from it until its
    superblock is ours: each close on the way would have udev start it.
    Raises MembersError, MetadataError, or what `check` raises (the gate is shut).
    """
    assert not writing.state.released, "a released member is written by release_member"
    identity = identity_of(path)
    if memo and (memo.term, memo.identity) != (writing.entry.stamp.term, identity):
        memo = None
    check()
    kept, standing = Hold(), None
    if memo is None:
        standing = _prove(path, member, writing)
        if _is_plain(standing) and not held:
            kept = hold(path)
    try:
        return _write(path, member, writing, memo or standing, identity, check)
    finally:
        kept.release()


def _write(
    path: str,
    member: Member,
    writing: Writing,
    known: Memo | Standing | None,
    identity: Identity,
    check: Check,
) -> Memo:
    with DeviceWriter(path, check) as gated:
        if isinstance(known, Memo):
            memo = replace(known, header=_kept_header(known.header, writing, gated))
        else:
            assert known is not None
            memo = _settle(path, member, writing, identity, known, gated)
        memo = _write_ring(path, memo, writing)
        made = project(writing.state, writing.entry.stamp, member, writing.now_s)
        gated.write(SUPER_OFFSET_BYTES, encode(made))
        if memo.nonce:
            gated.write(NONCE_OFFSET_BYTES, bytes(BLOCK))
            memo = replace(memo, nonce=False)
    return memo


def release_member(path: str, member: Member, writing: Writing, check: Check) -> None:
    """Give this member back: a plain superblock, then the area's header goes; durable on return.

    A plain one is not ours any more and may be in use: only a header that we left is taken away.
    Raises as write_member.
    """
    state = writing.state
    array, device = uuid_of(state.uuid, "array"), uuid_of(member.device, "device")
    standing = prove(path, array, device)
    check()
    with DeviceWriter(path, check) as gated:
        if standing.superblock is None or standing.superblock.guarded:
            _refuse_older(path, standing.superblock, writing)
            plain = project(state, state.released_at, member, writing.now_s, owned=False)
            gated.write(SUPER_OFFSET_BYTES, encode(plain))
        if standing.header is not None:
            for copy in range(layout.HEADER_COPIES):
                at = standing.header.area.header_offset_bytes(copy)
                gated.write(at, bytes(layout.HEADER_BYTES))


def _settle(
    path: str,
    member: Member,
    writing: Writing,
    identity: Identity,
    standing: Standing,
    gated: DeviceWriter,
) -> Memo:
    """First writing in this term, of a proved device: its area, and the end of the own ring."""
    state, term = writing.state, writing.entry.stamp.term
    cluster = uuid_of(writing.cluster.uuid, "cluster")
    header = standing.header
    if header is not None and header.cluster_uuid != cluster:
        header = None
    if header is not None and header.area != area_layout(state):
        raise MembersError(f"{path}: its cluster area {header.area} is not that of the array")
    if header is None:
        header = _fresh_header(member, writing)
        guarded = standing.superblock is not None and standing.superblock.guarded
        if standing.header is None and guarded:
            # Both header copies are damaged: the slots behind them may be in use.
            gated.write(_place(header), cluster_area.encode_header(header))
        else:
            for offset, data in cluster_area.blank_area(header):
                gated.write(offset, data)
    else:
        _refuse_older(path, standing.superblock, writing)
        _refuse_old_copy(path, member, standing.superblock, writing)
        header = _kept_header(header, writing, gated)
    voter = _ring_of(header, uuid_of(writing.me, "node"))
    if voter is None:
        return Memo(term, identity, header, 0, standing.by_nonce)
    with DeviceReader(path) as reader:
        raw = reader.read_steady(header.area.ring_offset_bytes(voter), layout.RING_BYTES)
    ring = rings.decode_ring(raw, voter, header, path)
    return Memo(term, identity, header, ring.next_index(_LANE), standing.by_nonce)


def _prove(path: str, member: Member, writing: Writing) -> Standing:
    """The guard bit goes only with a release: what is plain again is somebody else's.

    Unless our nonce stands there: then it is being adopted.
    """
    array, device = uuid_of(writing.state.uuid, "array"), uuid_of(member.device, "device")
    standing = prove(path, array, device)
    if _is_plain(standing) and not standing.by_nonce:
        raise WrongDeviceError(
            f"{path}: its superblock is that of a plain md array: it was released, or an old copy "
            "of it was put back; --remove it here, then --add it"
        )
    return standing


def _is_plain(standing: Standing) -> bool:
    return standing.superblock is not None and not standing.superblock.guarded


def _refuse_older(path: str, superblock: Superblock | None, writing: Writing) -> None:
    if superblock is not None and superblock.events > writing.entry.stamp.events:
        raise NewerFoundError(
            f"{path}: its superblock has events {superblock.events}, newer than the commit "
            f"{writing.entry.stamp.events} to be written: this cluster has forgotten commits"
        )


def _refuse_old_copy(
    path: str, member: Member, superblock: Superblock | None, writing: Writing
) -> None:
    """A late writer may have put an older superblock over a newer one, but no ring of others."""
    if member.state is not MemberState.IN_SYNC:
        return
    newest = Stamp.of_events(superblock.events) if superblock is not None else ZERO
    if newest < writing.projected:
        newest = max(newest, Stamp(*read_member(path).newest_at))
    if newest < writing.projected:
        raise OldCopyError(
            f"{path}: the newest commit on it (events {newest.events}) is older than what was "
            f"written to every member (events {writing.projected.events}): an old copy"
        )


def _fresh_header(member: Member, writing: Writing) -> Header:
    state = writing.state
    return Header(
        uuid_of(writing.cluster.uuid, "cluster"),
        writing.cluster.name,
        uuid_of(state.uuid, "array"),
        uuid_of(member.device, "device"),
        1,
        area_layout(state),
        state.bitmap_chunk_sectors,
        array_size_sectors(state),
        node_table((), writing),
    )


def _kept_header(header: Header, writing: Writing, gated: DeviceWriter) -> Header:
    """The header, written anew if the nodes, their slots or the size have changed."""
    nodes, covered = node_table(header.nodes, writing), array_size_sectors(writing.state)
    if (nodes, covered) == (header.nodes, header.covered_sectors):
        return header
    header = replace(header, generation=header.generation + 1, nodes=nodes, covered_sectors=covered)
    gated.write(_place(header), cluster_area.encode_header(header))
    return header


def _place(header: Header) -> int:
    return header.area.header_offset_bytes(header.copy)


def node_table(before: tuple[NodeEntry, ...], writing: Writing) -> tuple[NodeEntry, ...]:
    """The voters that are bound to a node, each with its ring (kept, or the lowest free one),
    and the slot of the life that runs the array there."""
    nodes = {uuid_of(v.node, "node"): v for v in writing.cluster.voters if v.node}
    indexes = {n.node_uuid: n.voter_index for n in before if n.node_uuid in nodes}
    free = (i for i in range(layout.MAX_NODES) if i not in set(indexes.values()))
    slots = {uuid_of(s.life.node, "node"): s for s in writing.state.slots if not s.dirty}
    table = []
    for node, voter in nodes.items():
        index = indexes.get(node)
        slot = slots.get(node)
        table.append(
            NodeEntry(
                node,
                voter.name,
                next(free) if index is None else index,
                None if slot is None else slot.index,
                UUID(int=0) if slot is None else _boot_uuid(slot.life.boot_id),
            )
        )
    return tuple(table)


def _boot_uuid(boot_id: str) -> UUID:
    """For people only: a life whose boot id is no UUID is shown without one."""
    try:
        return UUID(boot_id)
    except ValueError:
        return UUID(int=0)


def _ring_of(header: Header, node: UUID) -> int | None:
    """The node's ring; None if the area of an adopted array has fewer rings than there are voters.

    Rings help a cold start and a reader, never a quorum: it does without.
    """
    for entry in header.nodes:
        if entry.node_uuid == node and entry.voter_index is not None:
            return entry.voter_index if entry.voter_index < header.area.ring_count else None
    return None


def _write_ring(path: str, memo: Memo, writing: Writing) -> Memo:
    header = memo.header
    node = uuid_of(writing.me, "node")
    voter = _ring_of(header, node)
    if voter is None:
        return memo
    stamp = writing.entry.stamp
    record = rings.Record(
        header.cluster_uuid,
        header.array_uuid,
        node,
        voter,
        _LANE,
        memo.ring_next,
        stamp.term,
        stamp.seq,
        payload_of(writing.entry),
    )
    at = rings.record_offset_bytes(header.area, voter, _LANE, record.index)
    with DeviceWriter(path, own_block) as own:
        own.write(at, rings.encode_record(record))
    return replace(memo, ring_next=memo.ring_next + 1)


def own_block() -> None:
    """A block that only this node writes: it needs no gate."""


def payload_of(entry: Entry) -> bytes:
    """The entry as it travels, with as many of its latest outcomes as fit a record."""
    payload = ENTRY_CODEC.encode(entry)
    while len(payload) > rings.PAYLOAD_BYTES_MAX and entry.recent:
        entry = replace(entry, recent=entry.recent[len(entry.recent) // 2 + 1 :])
        payload = ENTRY_CODEC.encode(entry)
    return payload


def probe_member(path: str, array: UUID, device: UUID, node: UUID) -> str:
    """Can this node write and read the member? '' or why not. Blocking.

    What it writes are the very bytes that stand in a block of its own ring; a node that has no
    ring there (it was no voter at the last commit) only reads.
    """
    try:
        standing = prove(path, array, device)
        voter = _ring_of(standing.header, node) if standing.header is not None else None
        if standing.header is None or voter is None:
            return ""
        at = standing.header.area.ring_offset_bytes(voter)
        with DeviceReader(path) as reader, DeviceWriter(path, own_block) as own:
            block = reader.read(at, BLOCK)
            own.write(at, block)
            if reader.read(at, BLOCK) != block:
                return f"{path}: what was written at byte {at} does not read back"
    except (MembersError, MetadataError) as error:
        return str(error)
    return ""
