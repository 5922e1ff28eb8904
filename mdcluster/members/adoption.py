"""Plain members of stock mdadm, read to be taken in: what array they are, or why they cannot be.

The node that is asked and the writer read the members for themselves and come to the same
change, or it is refused: what was written to them in between shows. mdadm's rules count
(Assemble.c): the highest events are the newest, one apart is as good as equal, roles are what
the newest says. docs/FORMAT.md tells what is kept of a plain array and what is not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from mdcluster.core.geometry import array_size_sectors, data_sets
from mdcluster.core.model import AdoptArray, ArrayId, ArrayState, DeviceId, Member, MemberState
from mdcluster.core.statecheck import level_problem, name_problem
from mdcluster.members.errors import MembersError
from mdcluster.members.look import Identity, hold, identity_of
from mdcluster.metadata import bitmap
from mdcluster.metadata.cluster_area import Header
from mdcluster.metadata.device import DeviceReader
from mdcluster.metadata.errors import Where
from mdcluster.metadata.layout import PROFILES, plan_area
from mdcluster.metadata.native import Beside, check_features, read_beside
from mdcluster.metadata.scan import EVENT_MARGIN, read_member
from mdcluster.metadata.superblock import (
    MAX_SECTOR,
    ROLE_FAULTY,
    ROLE_MAX,
    ROLE_SPARE,
    SECTOR,
    Superblock,
)

_SECONDS_MASK = (1 << 40) - 1
"""ctime and utime: the rest are microseconds."""

_SAME = ("set_uuid", "ctime", "level", "layout", "size_sectors", "chunksize_sectors", "raid_disks")


@dataclass(frozen=True, slots=True)
class Plain:
    """One member of a plain array as it was read. header: left by a cluster (only if forced)."""

    path: str
    identity: Identity
    size_bytes: int
    superblock: Superblock
    beside: Beside
    header: Header | None


def read_plain(path: str, force: bool) -> Plain:
    """Read one member. force: take one that carries the guard bit of a cluster that is no more.

    Raises MembersError, MetadataError. Blocking.
    """
    identity = identity_of(path)
    try:
        hold(path).release()
    except MembersError as error:
        raise MembersError(f"{error}; stop the array first, on every host: mdadm --stop") from None
    found = read_member(path, with_rings=False)
    superblock = found.superblock
    if superblock is None:
        raise MembersError(str(found.problems[0]) if found.problems else f"{path}: no superblock")
    if superblock.guarded and not force:
        owner = f" {found.header.cluster_name}" if found.header is not None else ""
        raise MembersError(
            f"{path} belongs to cluster{owner}; --force takes it over if that cluster, or its "
            "memory of this array, is lost for good"
        )
    check_features(superblock, path, guarded=force)
    with DeviceReader(path) as device:
        beside = read_beside(device, superblock)
    header = found.header if superblock.guarded else None
    return Plain(path, identity, found.size_bytes, superblock, beside, header)


def adoption(plains: Sequence[Plain], name: str | None) -> AdoptArray:
    """The change that takes these members in; MembersError, MetadataError if it cannot be.

    name: instead of the one in the superblocks. Members are in the order of their numbers.
    """
    if not plains:
        raise MembersError("no devices given to adopt")
    newest = max(plains, key=lambda one: one.superblock.events)
    members = sorted(plains, key=lambda one: one.superblock.dev_number)
    for problem in (*_disagreements(members, newest), *_missing(members, newest.superblock)):
        raise MembersError(problem)
    state = _state(members, newest.superblock, name)
    if problem := name_problem(state.name):
        raise MembersError(f"{problem}; give --name")
    return AdoptArray(
        state.uuid, state, tuple(one.path for one in members), newest.superblock.events
    )


def _disagreements(members: Sequence[Plain], newest: Plain) -> Iterator[str]:
    """What stands against taking each of these for a member of the same array, as it is now."""
    known: dict[Identity | UUID, str] = {}
    numbers: dict[int, str] = {}
    of = newest.superblock
    for one in members:
        sb, path = one.superblock, one.path
        for key in (one.identity, sb.device_uuid):
            if key in known:
                yield f"{path} is the same device as {known[key]}, or a clone of it"
            known[key] = path
        differs = next((f for f in _SAME if getattr(sb, f) != getattr(of, f)), None)
        if differs is not None:
            yield f"{path} and {newest.path} are not of the same array ({differs} differs)"
        if sb.dev_number in numbers:
            yield f"{path} and {numbers[sb.dev_number]} both are number {sb.dev_number}"
        numbers[sb.dev_number] = path
        if sb.events + EVENT_MARGIN < of.events:
            yield (
                f"{path} is out of date (events {sb.events}, {newest.path} has {of.events}): "
                "leave it out, and --add it afterwards"
            )
        if _role(sb, of) == ROLE_FAULTY:
            yield f"{path} has failed in this array: leave it out, and --add it afterwards"
        if one.beside.bad_blocks:
            yield (
                f"{path} has {one.beside.bad_blocks} entries in its bad block log, which would be "
                "lost: replace the device under mdadm first, or give them up with "
                "mdadm --assemble --update=force-no-bbl"
            )
        yield from _misplaced(one)


def _misplaced(one: Plain) -> Iterator[str]:
    sb, sectors = one.superblock, one.size_bytes // SECTOR
    if sb.data_size_sectors < sb.size_sectors or (
        sb.data_offset_sectors + sb.data_size_sectors > sectors
    ):
        yield f"{one.path} is smaller than its superblock says: it cannot be a whole member"


def _role(sb: Superblock, newest: Superblock) -> int:
    """What the newest superblock says of this member (mdadm: by its number)."""
    roles = newest.dev_roles
    return roles[sb.dev_number] if sb.dev_number < len(roles) else ROLE_SPARE


def _missing(members: Sequence[Plain], newest: Superblock) -> Iterator[str]:
    """Shapes that are not supported, roles held twice, active members that were not named."""
    if newest.level not in (1, 10):
        yield f"{members[0].path}: level {newest.level} is not supported: raid1 and raid10 only"
        return
    shape = level_problem(*_shape(newest), newest.raid_disks)
    if shape:
        yield f"{members[0].path}: {shape}"
    here: dict[int, str] = {}
    for one in members:
        role = _role(one.superblock, newest)
        if ROLE_MAX < role < ROLE_FAULTY:
            yield f"{one.path} is a journal: arrays with one cannot be adopted"
        elif role <= ROLE_MAX and role in here:
            yield f"{one.path} and {here[role]} both have role {role}"
        here[role] = one.path
    active = {r for r in newest.dev_roles if r < newest.raid_disks}
    if lacking := sorted(active - set(here)):
        yield (
            f"{len(lacking)} active members are not named, those of role "
            f"{', '.join(map(str, lacking))}: all of them are needed"
        )
    for wanted in data_sets(newest.level, newest.raid_disks):
        if not wanted & set(here):
            yield f"no member for the data of roles {sorted(wanted)}: the array is failed"


def _shape(sb: Superblock) -> tuple[int, int, int]:
    """Level, layout, chunk: md keeps a chunk size in raid1 superblocks that means nothing."""
    return (sb.level, sb.layout, sb.chunksize_sectors) if sb.level == 10 else (sb.level, 0, 0)


def _state(members: Sequence[Plain], newest: Superblock, name: str | None) -> ArrayState:
    level, layout, chunk = _shape(newest)
    state = ArrayState(
        uuid=ArrayId(str(newest.set_uuid)),
        name=newest.set_name.rpartition(":")[2] if name is None else name,
        level=level,
        layout=layout,
        chunk_sectors=chunk,
        raid_disks=newest.raid_disks,
        size_sectors=newest.size_sectors,
        bitmap_chunk_sectors=bitmap.MIN_CHUNK_SECTORS,
        members=tuple(_member(one.superblock, newest) for one in members),
        resync_sectors=None,
        sync=None,
        last_serial=0,
        slots=(),
        running=(),
        active=True,
        created_s=newest.ctime & _SECONDS_MASK,
        updated_s=newest.utime & _SECONDS_MASK,
        next_number=1 + max(one.superblock.dev_number for one in members),
    )
    slot_count, bitmap_chunk = _area(members, array_size_sectors(state))
    return replace(
        state,
        slot_count=slot_count,
        bitmap_chunk_sectors=bitmap_chunk,
        resync_sectors=_resync_sectors(members, state),
    )


def _member(sb: Superblock, newest: Superblock) -> Member:
    role = _role(sb, newest)
    spare = role > ROLE_MAX
    return Member(
        device=DeviceId(str(sb.device_uuid)),
        number=sb.dev_number,
        role=-1 if spare else role,
        state=MemberState.SPARE if spare else MemberState.IN_SYNC,
        data_offset_sectors=sb.data_offset_sectors,
        data_size_sectors=sb.data_size_sectors,
    )


def _area(members: Sequence[Plain], covered_sectors: int) -> tuple[int, int]:
    """Bitmap slots and chunk of the area, as they fit the member with the least room.

    One that a cluster has left its area on keeps that area's shape.
    """
    least = min(members, key=lambda one: one.superblock.data_offset_sectors)
    left = least.header
    if left is not None and left.area.slot_count in {slots for _, slots in PROFILES}:
        return left.area.slot_count, left.bitmap_chunk_sectors
    start_bytes = least.superblock.data_offset_sectors * SECTOR
    area, chunk = plan_area(start_bytes, covered_sectors, Where(least.path))
    return area.slot_count, chunk


def _resync_sectors(members: Sequence[Plain], state: ArrayState) -> int | None:
    """Where copies may differ from on: mdadm's position, or all if a bitmap has bits set.

    A member taken over from a cluster may have bits in its slots that nobody has merged: all.
    """
    if any(one.beside.dirty or one.superblock.guarded for one in members):
        return 0
    position = min(one.superblock.resync_offset_sectors for one in members)
    if position == MAX_SECTOR:
        return None
    if state.level == 10:  # md counts it in sectors of the array
        row = state.raid_disks * state.chunk_sectors
        position = position * 2 // row * state.chunk_sectors
    return min(position, state.size_sectors)
