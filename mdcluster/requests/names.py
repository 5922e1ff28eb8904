"""What people call arrays, devices and nodes, resolved to what the core calls them. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from mdcluster.core.model import ArrayState, DeviceId, Member, NodeId
from mdcluster.members.look import Look
from mdcluster.requests.errors import RequestError

_HEX = re.compile(r"[0-9a-fA-F]{32}")
_SEPARATORS = str.maketrans("", "", ":.- ")
_SHOWN_MAX = 80


def shown(text: str) -> str:
    """What a user wrote, short and printable."""
    cut = text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "..."
    return ascii(cut)[1:-1]


def uuid_in(text: str) -> UUID | None:
    """A UUID written canonically or as mdadm does (8:8:8:8), None if it is none."""
    digits = text.translate(_SEPARATORS)
    return UUID(digits) if _HEX.fullmatch(digits) else None


def plain_name(text: str) -> str:
    """The name of an array in `/dev/md/NAME`, `/dev/md_NAME`, `md_NAME` or NAME."""
    for prefix in ("/dev/md/", "/dev/md_"):
        if text.startswith(prefix):
            return text[len(prefix) :]
    return text


def find_array(arrays: Iterable[ArrayState], text: str) -> ArrayState:
    """The array of this name, path or UUID."""
    known = tuple(arrays)
    name, uuid = plain_name(text), uuid_in(text)
    for state in known:
        if state.name == name or (uuid is not None and uuid_in(state.uuid) == uuid):
            return state
    for state in known:
        if f"md_{state.name}" == text:
            return state
    names = ", ".join(sorted(state.name for state in known)) or "none"
    raise RequestError(f"there is no array {shown(text)} in this cluster; its arrays are: {names}")


def find_node(names: Mapping[NodeId, str], text: str) -> NodeId:
    """The node of this name or UUID, of those that were seen."""
    uuid = uuid_in(text)
    for node, name in sorted(names.items()):
        if text in (name, node) or (uuid is not None and uuid_in(node) == uuid):
            return node
    known = ", ".join(sorted(names.values())) or "none"
    raise RequestError(f"there is no node {shown(text)} to be seen; the nodes are: {known}")


def find_member(
    state: ArrayState, text: str, paths: Mapping[DeviceId, str], seen: Look | None
) -> Member:
    """The member at this path, or with this device UUID or number.

    paths: where devices are on this node. seen: what stands at the path now, if it is one.
    """
    uuid = uuid_in(text)
    for member in state.members:
        if uuid is not None and uuid_in(member.device) == uuid:
            return member
        if text.isdecimal() and len(text) <= 4 and member.number == int(text):
            return member
    if seen is not None and seen.device is not None:
        member_seen = state.member(seen.device)
        if member_seen is not None:
            return member_seen
    elif (gone := _by_path(state.members, text, paths)) is not None:
        return gone  # it cannot be read any more: its last known place has to do
    why = f": {belongs_to(seen)}" if seen is not None else ""
    raise RequestError(f"{shown(text)} is not a member of array {state.name}{why}")


def belongs_to(seen: Look) -> str:
    """What a device is a member of, by what stands on it."""
    superblock, header = seen.superblock, seen.header
    if superblock is None:
        return seen.problem or (f"it has {seen.in_md}" if seen.in_md else "it has no superblock")
    array = f"array {shown(superblock.set_name)} ({superblock.set_uuid})"
    if not superblock.guarded:
        return f"it is a member of the plain {array}"
    cluster = f" of cluster {shown(header.cluster_name)}" if header is not None else " of a cluster"
    return f"it is a member of {array}{cluster}"


def _by_path(members: Sequence[Member], text: str, paths: Mapping[DeviceId, str]) -> Member | None:
    return next((m for m in members if paths.get(m.device) == text), None)
