"""What is on a set of devices: each member read and checked, members grouped into arrays.

Nothing is raised for a bad device: it is explained in its member's problems, so that one bad disk
never hides the others. Who is the freshest follows mdadm (Assemble.c): highest `events` wins, one
apart is as good as equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from mdcluster.metadata import layout
from mdcluster.metadata.cluster_area import Header, newest_header
from mdcluster.metadata.device import DeviceReader
from mdcluster.metadata.errors import (
    DamagedError,
    ForeignError,
    MetadataError,
    NoAreaError,
    NoSuperblockError,
    StaleError,
    TooSmallError,
    UnsupportedError,
    Where,
)
from mdcluster.metadata.rings import Lane, Record, Ring, decode_ring
from mdcluster.metadata.superblock import (
    MAGIC,
    ROLE_FAULTY,
    ROLE_MAX,
    SECTOR,
    SUPER_BYTES,
    SUPER_OFFSET_BYTES,
    Superblock,
    decode,
    md_uuid,
)

MAX_DEVICES: Final = 2048
EVENT_MARGIN: Final = 1  # mdadm Assemble.c: a member one event behind is as good as the newest
# mdadm super1.c compare_super1: what all members of one array have in common
_CONSTANTS: Final = (
    "ctime",
    "level",
    "layout",
    "size_sectors",
    "chunksize_sectors",
    "raid_disks",
)


@dataclass(frozen=True, slots=True)
class Member:
    """One device as it was read. `superblock` None: it is not a member (see the problems)."""

    path: str
    size_bytes: int = 0
    superblock: Superblock | None = None
    header: Header | None = None
    rings: tuple[Ring, ...] = ()
    problems: tuple[MetadataError, ...] = ()

    @property
    def newest_at(self) -> tuple[int, int]:
        """(term, seq) of the newest commit of the array that stands here; (0, 0) for none.

        In the superblock or in any ring: a late writer may have put an older superblock over a
        newer one, but nobody's ring is written by another.
        """
        found = [record.at for ring in self.rings for record in ring.records_of("array")]
        if self.superblock is not None:
            found.append((self.superblock.term, self.superblock.seq))
        return max(found, default=(0, 0))

    @property
    def all_problems(self) -> tuple[MetadataError, ...]:
        """Those of the device and of each of its rings."""
        return self.problems + tuple(exc for ring in self.rings for exc in ring.problems)


@dataclass(frozen=True, slots=True)
class ArrayMembers:
    """The members of one array; `usable` are those whose events are the newest, or one behind.

    `problems` are those that only comparing members shows: stale, failed, copied.
    """

    set_uuid: UUID
    members: tuple[Member, ...]
    freshest: Member
    usable: tuple[Member, ...]
    problems: tuple[MetadataError, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """All that was found: arrays in order of their UUID, and devices that are in none."""

    arrays: tuple[ArrayMembers, ...]
    others: tuple[Member, ...]

    @property
    def problems(self) -> tuple[MetadataError, ...]:
        """Every problem of every device and array."""
        found = [exc for member in self.others for exc in member.all_problems]
        for array in self.arrays:
            found += [exc for member in array.members for exc in member.all_problems]
            found += array.problems
        return tuple(found)


def scan(paths: Iterable[str], with_rings: bool = True) -> Scan:
    """Read the devices (the rings only if asked: 4 MiB each) and group them.

    Raises ValueError for more than MAX_DEVICES.
    """
    names = list(dict.fromkeys(paths))
    if len(names) > MAX_DEVICES:
        raise ValueError(f"{len(names)} devices at once, at most {MAX_DEVICES}")
    members = [read_member(path, with_rings) for path in names]
    groups: dict[UUID, list[Member]] = {}
    for member in members:
        if member.superblock is not None:
            groups.setdefault(member.superblock.set_uuid, []).append(member)
    return Scan(
        tuple(group_members(groups[key]) for key in sorted(groups, key=str)),
        tuple(member for member in members if member.superblock is None),
    )


def read_member(path: str, with_rings: bool = True) -> Member:
    """Read superblock, header and rings of one device, opened read-only.

    All of it is of one moment: it is read until two readings agree; if none do, because the
    array is written all the time, that is a problem of the member.
    """
    try:
        with DeviceReader(path) as device:
            member, unsteady = device.steadily(lambda: _read_all(device, with_rings))
    except MetadataError as exc:
        return Member(path, problems=(exc,))
    if unsteady is None:
        return member
    return replace(member, problems=(*member.problems, unsteady))


def _read_all(device: DeviceReader, with_rings: bool) -> Member:
    """The superblock before the rings: whoever writes it has written its commit there before."""
    problems: list[MetadataError] = []
    superblock = _superblock(device, problems)
    header = _header(device, superblock, problems)
    rings = _rings(device, header, problems) if header and with_rings else ()
    return Member(device.path, device.size_bytes, superblock, header, rings, tuple(problems))


def read_superblock(device: DeviceReader) -> Superblock:
    """The superblock of an open device. Raises MetadataError, explained as far as can be."""
    where = Where(device.path, SUPER_OFFSET_BYTES)
    raw = device.read(SUPER_OFFSET_BYTES, SUPER_BYTES)
    try:
        superblock = decode(raw, where)
    except NoSuperblockError as exc:
        raise _other_superblock(device) or exc from exc
    end = (superblock.data_offset_sectors + superblock.size_sectors) * SECTOR
    if superblock.level > 0 and end > device.size_bytes:
        raise TooSmallError(
            where,
            f"device has {device.size_bytes} bytes, its superblock needs {end}",
            "it was cut short or the superblock was copied from a larger one",
        )
    return superblock


def _other_superblock(device: DeviceReader) -> UnsupportedError | None:
    """Metadata of another version in its place (mdadm super1.c load_super1, super0.c)."""
    for version, offset in other_superblocks(device):
        where = Where(device.path, offset)
        return UnsupportedError(where, f"md metadata {version}", "only 1.2 is handled")
    return None


def other_superblocks(device: DeviceReader) -> Iterator[tuple[str, int]]:
    """Version and byte offset of what looks like md's metadata, other than 1.2."""
    sectors = device.size_bytes // SECTOR
    places = (
        ("1.1", 0),
        ("1.0", (sectors - 16 & ~7) * SECTOR),
        ("0.90", (sectors & ~127) * SECTOR - 65536),
    )
    for version, offset in places:
        if offset < 0 or offset + 4 > device.size_bytes:
            continue
        if int.from_bytes(device.read(offset, 4), "little") == MAGIC:
            yield version, offset


def _superblock(device: DeviceReader, problems: list[MetadataError]) -> Superblock | None:
    try:
        return read_superblock(device)
    except MetadataError as exc:
        problems.append(exc)
        return None


def _header(
    device: DeviceReader, superblock: Superblock | None, problems: list[MetadataError]
) -> Header | None:
    """The newest header copy that belongs here.

    A guarded array must have one. In a plain array what stands there may be anything, an older
    array's area for one, so it is shown if it is right and is no problem if it is not.
    """
    found: list[MetadataError] = []
    header = _header_read(device, superblock, found)
    if superblock is not None and superblock.guarded:
        problems += found
    elif superblock is None:  # the area may tell whose device this was
        problems += [exc for exc in found if not isinstance(exc, (NoAreaError, TooSmallError))]
    return header


def _header_read(
    device: DeviceReader, superblock: Superblock | None, problems: list[MetadataError]
) -> Header | None:
    length = layout.HEADER_BYTES * layout.HEADER_COPIES
    data_start = superblock.data_offset_sectors * SECTOR if superblock else device.size_bytes
    try:
        raw = device.read(layout.AREA_OFFSET_BYTES, length)
        copies = [raw[: layout.HEADER_BYTES], raw[layout.HEADER_BYTES :]]
        header, bad = newest_header(copies, device.path)
        problems += bad
        if header is not None:
            check_header(header, superblock, data_start, device.path)
    except MetadataError as exc:
        problems.append(exc)
        return None
    return header


def check_header(
    header: Header, superblock: Superblock | None, data_start_bytes: int, path: str
) -> None:
    """Does the area belong to this array and device, and end before the data?

    Raises ForeignError or DamagedError.
    """
    where = Where(path, header.area.header_offset_bytes(header.copy))
    if header.area.end_bytes > data_start_bytes:
        raise DamagedError(
            where,
            f"cluster area ends at byte {header.area.end_bytes}, data start at {data_start_bytes}",
            "do not write to this member; its superblock or header is not its own",
        )
    if superblock is None:
        return
    if header.array_uuid != superblock.set_uuid:
        raise ForeignError(
            where,
            f"cluster area of array {md_uuid(header.array_uuid)}, "
            f"the superblock is of {md_uuid(superblock.set_uuid)}",
            "left over from an earlier array; it does not count",
        )
    if header.device_uuid != superblock.device_uuid:
        raise ForeignError(
            where,
            f"cluster area of device {md_uuid(header.device_uuid)}, "
            f"the superblock is of {md_uuid(superblock.device_uuid)}",
            "one of them was copied from another device",
        )


def _rings(device: DeviceReader, header: Header, problems: list[MetadataError]) -> tuple[Ring, ...]:
    rings = []
    for voter_index in range(header.area.ring_count):
        offset = header.area.ring_offset_bytes(voter_index)
        try:
            raw = device.read(offset, layout.RING_BYTES)
        except MetadataError as exc:
            problems.append(exc)
            continue
        ring = decode_ring(raw, voter_index, header, device.path)
        if ring.records or ring.problems:
            rings.append(ring)
    return tuple(rings)


def group_members(members: Sequence[Member]) -> ArrayMembers:
    """Compare the members of one array (each with a superblock, all of one set UUID)."""
    pairs = [(member, member.superblock) for member in members if member.superblock is not None]
    freshest, newest = max(pairs, key=lambda pair: pair[1].events)
    problems: list[MetadataError] = [*_copies(pairs), *_clusters(members)]
    usable = []
    for member, superblock in pairs:
        problem = _unusable(member, superblock, freshest, newest)
        if problem is None:
            usable.append(member)
        else:
            problems.append(problem)
    return ArrayMembers(newest.set_uuid, tuple(members), freshest, tuple(usable), tuple(problems))


def _copies(pairs: Sequence[tuple[Member, Superblock]]) -> list[MetadataError]:
    """Two paths with one device UUID: two ways to one disk, or a clone. Never use both."""
    first: dict[UUID, str] = {}
    problems: list[MetadataError] = []
    for member, superblock in pairs:
        other = first.setdefault(superblock.device_uuid, member.path)
        if other != member.path:
            problems.append(
                ForeignError(
                    Where(member.path, SUPER_OFFSET_BYTES),
                    f"same device UUID {md_uuid(superblock.device_uuid)} as {other}",
                    "name one path only; a clone must be wiped or taken away",
                )
            )
    return problems


def _clusters(members: Sequence[Member]) -> list[MetadataError]:
    """Areas of two clusters in one array: one of them was taken over while parts were away."""
    headers = [(member, member.header) for member in members if member.header is not None]
    return [
        ForeignError(
            Where(member.path, header.area.header_offset_bytes(header.copy)),
            f"cluster area of {cluster_label(header)}, {headers[0][0].path} has one of "
            f"{cluster_label(headers[0][1])}",
            "find out which cluster owns the array before either writes to it",
        )
        for member, header in headers
        if header.cluster_uuid != headers[0][1].cluster_uuid
    ]


def cluster_label(header: Header) -> str:
    """`cluster NAME (UUID)`, for messages."""
    return f"cluster {header.cluster_name!r} ({header.cluster_uuid})"


def require_cluster(member: Member, cluster_uuid: UUID) -> Header:
    """The header of a member that must belong to our cluster.

    Raises NoAreaError (a plain array: adopt it) or ForeignError (another cluster's).
    """
    where = Where(member.path, layout.AREA_OFFSET_BYTES)
    if member.header is None:
        raise NoAreaError(where, "no cluster area", "adopt the array first if it is a plain one")
    if member.header.cluster_uuid != cluster_uuid:
        raise ForeignError(
            where,
            f"member belongs to {cluster_label(member.header)}, this is cluster {cluster_uuid}",
            "release the array there first",
        )
    return member.header


def newest_record(array: ArrayMembers, lane: Lane) -> Record | None:
    """The commit with the highest (term, seq) in any ring of any member, good ones only.

    It shows a cold start what somebody committed; whether it counts a quorum decides.
    """
    rings = (ring for member in array.members for ring in member.rings)
    newest = (record for ring in rings if (record := ring.newest(lane)) is not None)
    return max(newest, key=lambda record: record.at, default=None)


def _unusable(
    member: Member, superblock: Superblock, freshest: Member, newest: Superblock
) -> MetadataError | None:
    """Why this member may not be used as it is, seen from the freshest; None if it may."""
    where = Where(member.path, SUPER_OFFSET_BYTES)
    if superblock.events + EVENT_MARGIN < newest.events:
        return StaleError(
            where,
            f"events {_events(superblock)} are behind {_events(newest)} on {freshest.path}",
            "its data are out of date; re-add it so that it is copied again",
        )
    number = superblock.dev_number
    known = newest.dev_roles[number] if number < len(newest.dev_roles) else ROLE_FAULTY
    if known == ROLE_FAULTY and superblock.role <= ROLE_MAX:
        return StaleError(
            where,
            f"{freshest.path} says this member (number {number}) has failed",
            "re-add it so that it is copied again",
        )
    differing = [name for name in _CONSTANTS if getattr(superblock, name) != getattr(newest, name)]
    if differing:
        return ForeignError(
            where,
            f"same array UUID as {freshest.path}, but another {', '.join(differing)}",
            "one of them is of another array or was altered; mdadm would not assemble them",
        )
    return None


def _events(superblock: Superblock) -> str:
    if superblock.guarded:
        return f"{superblock.events} (term {superblock.term}, seq {superblock.seq})"
    return str(superblock.events)
