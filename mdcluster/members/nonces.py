"""Taking devices for a new array or a new member: may they be taken, and marking them. Blocking.

Each device is marked by a block with a nonce that every node must read back before the device
is used: a clone shows it twice, a wrong path not at all. What stood there is kept and put back
if the operation is abandoned.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from mdcluster.core.model import ArrayId, ArrayState, NewMember
from mdcluster.members.errors import MembersError
from mdcluster.members.look import Hold, Identity, Look, hold
from mdcluster.members.nonceblock import (
    NONCE_BYTES,
    NONCE_OFFSET_BYTES,
    Nonce,
    decode_nonce,
    encode_nonce,
)
from mdcluster.members.projection import uuid_of
from mdcluster.metadata.device import DeviceReader, DeviceWriter
from mdcluster.metadata.superblock import BLOCK, SECTOR, md_uuid

Check = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Marked:
    """A block that was replaced by a nonce; the device is held until it has a superblock."""

    path: str
    nonce: Nonce
    before: bytes
    hold: Hold = field(default_factory=Hold, compare=False)


def objection(
    array: ArrayId,
    members: Sequence[NewMember],
    looks: Sequence[Look],
    arrays: Iterable[ArrayState],
    force: bool,
) -> str:
    """Why these devices cannot be taken ('' if they can). looks: in the order of members."""
    names: dict[Identity, str] = {}
    known = tuple(arrays)
    for member, seen in zip(members, looks, strict=True):
        if seen.problem or seen.identity is None:
            return seen.problem or f"{member.path}: cannot be read"
        if seen.identity in names:
            other = names[seen.identity]
            return f"{member.path} is the same device as {other}: it is named twice"
        names[seen.identity] = member.path
        problem = _too_small(member, seen) or _taken(array, member, seen, known, force)
        if problem:
            return problem
    return ""


def _too_small(member: NewMember, seen: Look) -> str:
    needed = (member.data_offset_sectors + member.data_size_sectors) * SECTOR
    least = max(needed, NONCE_OFFSET_BYTES + BLOCK)
    if seen.size_bytes >= least:
        return ""
    missing = -(-(least - seen.size_bytes) // 1024)
    return f"{member.path} is too small: {seen.size_bytes // 1024}K, {missing}K are missing"


def _taken(
    array: ArrayId, member: NewMember, seen: Look, arrays: tuple[ArrayState, ...], force: bool
) -> str:
    state = next((state for state in arrays if state.uuid == array), None)
    if state is not None and (state.member(member.device) or state.former(member.device)):
        if (seen.array, seen.device) == (array, member.device):
            return ""  # a re-add: it is the very member, with all that it had
        return (
            f"{member.path} does not show the superblock of that member: it was wiped or "
            "exchanged; --remove the member, then --add this one"
        )
    for other in arrays:
        present = other.member(seen.device) if seen.device is not None else None
        if present is None:
            continue
        return (
            f"{member.path} is a member of array {other.name} (it is {present.state}); "
            "--fail and --remove it there first"
        )
    if seen.superblock is not None and seen.array == array:
        return ""  # it was removed from this array and comes back as a new member
    if force:
        return ""
    if seen.superblock is not None:
        name = seen.superblock.set_name or md_uuid(seen.superblock.set_uuid)
        owner = ", of a cluster" if seen.superblock.guarded else ""
        return _appears(member.path, f"to be part of a raid array ({name}{owner})")
    if seen.in_md:
        return _appears(member.path, f"to be part of a raid array ({seen.in_md})")
    if seen.foreign:
        return _appears(member.path, f"to contain {seen.foreign}")
    return ""


def _appears(path: str, what: str) -> str:
    return f"{path} appears {what}; use --force if it is to be overwritten"


def mark(path: str, array: ArrayId, member: NewMember, value: bytes, check: Check) -> Marked:
    """Write the nonce and read it back. Raises MembersError, MetadataError, or as `check` does."""
    assert len(value) == NONCE_BYTES
    nonce = Nonce(uuid_of(array, "array"), uuid_of(member.device, "device"), value)
    held = hold(path)
    try:
        with DeviceReader(path) as reader:
            before = reader.read(NONCE_OFFSET_BYTES, BLOCK)
            if decode_nonce(before) is not None:
                before = bytes(BLOCK)  # left behind by a writer that died
            with DeviceWriter(path, check) as writer:
                writer.write(NONCE_OFFSET_BYTES, encode_nonce(nonce))
            if decode_nonce(reader.read(NONCE_OFFSET_BYTES, BLOCK)) != nonce:
                raise MembersError(f"{path}: what was written to it does not read back")
    except BaseException:
        held.release()
        raise
    return Marked(path, nonce, before, held)


def unmark(marked: Marked, check: Check) -> None:
    """Put back what stood there, unless something else has been written since."""
    try:
        with DeviceReader(marked.path) as reader:
            if decode_nonce(reader.read(NONCE_OFFSET_BYTES, BLOCK)) != marked.nonce:
                return
        with DeviceWriter(marked.path, check) as writer:
            writer.write(NONCE_OFFSET_BYTES, marked.before)
    finally:
        marked.hold.release()
