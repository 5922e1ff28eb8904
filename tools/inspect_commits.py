"""The commits of an array as the cluster reads them, and what contradicts them on the members.

The superblocks are a projection of the commits (docs/adr/0005), so each can be held against the
commit whose (term, seq) it bears, by the very function that the writer makes it with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Final

from mdcluster.core.model import ArrayState, DeviceId, Entry, Member, MemberState, Stamp
from mdcluster.errors import MdclusterError
from mdcluster.members.area import ENTRY_CODEC
from mdcluster.members.projection import project
from mdcluster.metadata import scan
from mdcluster.metadata.errors import (
    DamagedError,
    ForeignError,
    ForkedError,
    MetadataError,
    StaleError,
    UnfinishedError,
    UnsupportedError,
    Where,
)
from mdcluster.metadata.rings import Record, record_offset_bytes
from mdcluster.metadata.scan import ArrayMembers
from mdcluster.metadata.superblock import SUPER_OFFSET_BYTES, Superblock

_OWN: Final = frozenset({"utime"})
"""Not of the commit: when it was written."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A record with its place; entry None: this program cannot read its state."""

    where: Where
    record: Record
    entry: Entry | None

    @property
    def array(self) -> ArrayState | None:
        """The state, if it is one of an array."""
        state = self.entry.state if self.entry is not None else None
        return state if isinstance(state, ArrayState) else None


def commits_of(member: scan.Member) -> list[Commit]:
    """All good records in the rings of one member."""
    if member.header is None:
        return []
    return [
        Commit(_where(member, record), record, _entry(record))
        for ring in member.rings
        for record in ring.records
    ]


def _where(member: scan.Member, record: Record) -> Where:
    assert member.header is not None
    area = member.header.area
    at = record_offset_bytes(area, record.voter_index, record.lane, record.index)
    return Where(member.path, at)


def _entry(record: Record) -> Entry | None:
    try:
        return ENTRY_CODEC.decode_as(Entry, record.payload)
    except MdclusterError:
        return None


def newest_commit(array: ArrayMembers) -> Commit | None:
    """The newest of the array that any member shows, one whose state can be read before others."""
    found = [commit for member in array.members for commit in commits_of(member)]
    found = [commit for commit in found if commit.record.lane == "array"]
    return max(found, key=lambda one: (one.record.at, one.entry is not None), default=None)


# --- findings -------------------------------------------------------------------------


def unreadable(commits: Sequence[Commit]) -> Iterator[MetadataError]:
    """States of another version, or that say they are something else than their record."""
    for commit in commits:
        record, entry = commit.record, commit.entry
        if entry is None:
            text = f"the state of commit {record.at} cannot be read by this version"
            yield UnsupportedError(commit.where, text, "use the mdcinspect of the daemons")
        elif (entry.key, entry.stamp) != (record.key, Stamp(*record.at)):
            text = (
                f"commit {record.at} of {record.key} holds the state of {entry.key} at "
                f"{(entry.stamp.term, entry.stamp.seq)}"
            )
            yield DamagedError(commit.where, text, "do not trust this voter's ring")


def forks(commits: Sequence[Commit]) -> Iterator[MetadataError]:
    """One (term, seq), two states: there can be no such commits."""
    first: dict[tuple[str, tuple[int, int]], Commit] = {}
    for commit in commits:
        other = first.setdefault((commit.record.key, commit.record.at), commit)
        if _state(commit) != _state(other):
            yield ForkedError(
                commit.where,
                f"commit {commit.record.at} of {commit.record.key} is not the same as "
                f"at {other.where}",
                "two writers of one term, or a disk that was written from elsewhere: keep all "
                "members as they are",
            )


def _state(commit: Commit) -> object:
    """Without what is cut off where it does not fit a record."""
    return commit.record.payload if commit.entry is None else commit.entry.state


def without_commit(member: scan.Member) -> Iterator[MetadataError]:
    """A superblock that is newer than every commit on the member, which is written before it."""
    one, header = member.superblock, member.header
    if one is None or header is None or not one.guarded:
        return
    rings = {node.voter_index for node in header.nodes if node.voter_index is not None}
    if any(index >= header.area.ring_count for index in rings):
        return  # its writer may be one for whom there is no ring
    newest = max((r.at for ring in member.rings for r in ring.records_of("array")), default=(0, 0))
    if newest < (one.term, one.seq):
        yield StaleError(
            Where(member.path, SUPER_OFFSET_BYTES),
            f"superblock of commit {(one.term, one.seq)}, the newest in the rings is {newest}",
            "a ring was damaged or put back; the next commit is written there again",
        )


def behind_rings(member: scan.Member) -> Iterator[MetadataError]:
    """A superblock older than a commit in the rings of its own member."""
    one = member.superblock
    if one is None or not one.guarded or member.newest_at <= (one.term, one.seq):
        return
    yield UnfinishedError(
        Where(member.path, SUPER_OFFSET_BYTES),
        f"superblock of commit {(one.term, one.seq)}, a ring has {member.newest_at}",
        "a write was cut short or came late; the next writer writes it again",
    )


def unlike_commit(array: ArrayMembers) -> Iterator[MetadataError]:
    """Superblocks that are not what their commit makes of them."""
    known: dict[tuple[int, int], ArrayState] = {}
    for member in array.members:
        for commit in commits_of(member):
            if commit.record.lane == "array" and commit.array is not None:
                known.setdefault(commit.record.at, commit.array)
    for member in array.members:
        one = member.superblock
        if one is None or not one.guarded or (one.term, one.seq) not in known:
            continue
        state = known[one.term, one.seq]
        if not state.released:
            yield from _unlike(member.path, one, state)


def _unlike(path: str, one: Superblock, state: ArrayState) -> Iterator[MetadataError]:
    where, at = Where(path, SUPER_OFFSET_BYTES), Stamp(one.term, one.seq)
    member = state.member(DeviceId(str(one.device_uuid)))
    if member is None or member.state is MemberState.FAULTY:
        what = "does not know it" if member is None else "says it is faulty"
        text = f"superblock of commit {(one.term, one.seq)}, which {what}"
        yield DamagedError(where, text, "it was copied from elsewhere")
        return
    try:
        made = project(state, at, member, one.utime)
    except MdclusterError as error:
        text = f"commit {(one.term, one.seq)} gives no superblock: {error}"
        yield DamagedError(where, text, "do not trust the ring it stands in")
        return
    if differing := differing_fields(one, made):
        text = f"superblock is not that of its commit {(one.term, one.seq)}: {', '.join(differing)}"
        yield DamagedError(where, text, "something else wrote it; the next commit replaces it")


def differing_fields(one: Superblock, other: Superblock) -> list[str]:
    """The names of what is not equal in two superblocks of one commit."""
    names = [field.name for field in fields(Superblock) if field.name not in _OWN]
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def unknown_members(array: ArrayMembers, newest: Commit | None) -> Iterator[MetadataError]:
    """Members that the newest commit does not know any more."""
    state = newest.array if newest is not None else None
    for member in array.members if state is not None else ():
        one = member.superblock
        if one is not None and one.guarded and _in_state(one, state) is None:
            assert newest is not None
            yield ForeignError(
                Where(member.path, SUPER_OFFSET_BYTES),
                f"commit {newest.record.at} does not know this device: it was removed",
                "it may be wiped, or added again",
            )


def _in_state(one: Superblock, state: ArrayState | None) -> Member | None:
    return None if state is None else state.member(DeviceId(str(one.device_uuid)))


def state_of(member: scan.Member, newest: Commit | None) -> Member | None:
    """What the newest commit says of a member; None if there is none, or it does not know it."""
    state = newest.array if newest is not None else None
    return None if member.superblock is None else _in_state(member.superblock, state)


def missing_members(array: ArrayMembers, newest: Commit | None) -> list[Member]:
    """Those that the newest commit uses and that were not given."""
    state = newest.array if newest is not None else None
    here = {str(m.superblock.device_uuid) for m in array.members if m.superblock is not None}
    return [m for m in (state.writable if state is not None else ()) if m.device not in here]
