"""A new array from what a user named, or why not. Pure; the wording follows mdadm."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from mdcluster.core.geometry import data_sets, redundant
from mdcluster.core.model import (
    ARRAYS_MAX,
    MEMBERS_MAX,
    ArrayState,
    CreateArray,
    DeviceId,
    Member,
    MemberState,
    NewMember,
)
from mdcluster.core.statecheck import SECTORS_MAX, bitmap_problem, level_problem, name_problem


def create(change: CreateArray) -> ArrayState:
    """The state of an array whose `creation_problem` is ''; nobody runs it yet."""
    members = tuple(
        member_of(
            new, number, new.role, MemberState.IN_SYNC if new.role >= 0 else MemberState.SPARE
        )
        for number, new in enumerate(change.members)
    )
    state = ArrayState(
        uuid=change.array,
        name=change.name,
        level=change.level,
        layout=change.layout,
        chunk_sectors=change.chunk_sectors,
        raid_disks=change.raid_disks,
        size_sectors=change.size_sectors,
        bitmap_chunk_sectors=change.bitmap_chunk_sectors,
        members=members,
        resync_sectors=None,
        sync=None,
        last_serial=0,
        slots=(),
        running=(),
        active=True,
        created_s=change.now_s,
        updated_s=change.now_s,
        next_number=len(members),
    )
    if change.assume_clean or not redundant(state):
        return state
    return replace(state, resync_sectors=0)


def member_of(new: NewMember, number: int, role: int, state: MemberState) -> Member:
    return Member(
        device=new.device,
        number=number,
        role=role,
        state=state,
        data_offset_sectors=new.data_offset_sectors,
        data_size_sectors=new.data_size_sectors,
    )


def creation_problem(change: CreateArray, others: Iterable[ArrayState], force: bool) -> str:
    """The first thing that stands against the new array, or ''."""
    return next(_problems(change, tuple(others), force), "")


def _problems(change: CreateArray, others: tuple[ArrayState, ...], force: bool) -> Iterator[str]:
    name = f"cannot create {change.name!r}"
    if problem := name_problem(change.name) or _shape_problem(change, force):
        yield f"{name}: {problem}"
    if len(others) >= ARRAYS_MAX:
        yield f"{name}: the cluster has {len(others)} arrays already, no more than {ARRAYS_MAX}"
    if any(other.uuid == change.array for other in others):
        yield f"{name}: an array with UUID {change.array} exists already"
    if any(other.name == change.name for other in others):
        yield f"{name}: the name is taken by another array of this cluster"
    yield from (f"{name}: {problem}" for problem in _member_problems(change, others))


def _shape_problem(change: CreateArray, force: bool) -> str:
    shape = level_problem(change.level, change.layout, change.chunk_sectors, change.raid_disks)
    if problem := shape or bitmap_problem(change.bitmap_chunk_sectors):
        return problem
    if change.raid_disks == 1 and not force:
        return "1 is an unusual number of raid devices, probably a mistake; --force if it is meant"
    if not 0 < change.size_sectors <= SECTORS_MAX:
        return f"a component size of {change.size_sectors // 2}K is out of range"
    if change.chunk_sectors and change.size_sectors % change.chunk_sectors:
        return (
            f"component size {change.size_sectors // 2}K is no multiple of the chunk size "
            f"{change.chunk_sectors // 2}K"
        )
    return ""


def _member_problems(change: CreateArray, others: tuple[ArrayState, ...]) -> Iterator[str]:
    if len(change.members) > MEMBERS_MAX:
        yield f"{len(change.members)} devices are more than the {MEMBERS_MAX} an array can have"
    devices: set[DeviceId] = set()
    paths: set[str] = set()
    roles: set[int] = set()
    for new in change.members:
        if new.device in devices or new.path in paths:
            yield f"{new.path} is named twice"
        if new.role in roles or not -1 <= new.role < change.raid_disks:
            yield f"{new.path}: role {new.role} is taken or out of range"
        devices.add(new.device)
        paths.add(new.path)
        roles |= {new.role} - {-1}
        if problem := device_problem(new, change.size_sectors, others):
            yield problem
    for wanted in data_sets(change.level, change.raid_disks):
        if not roles & wanted:
            yield f"no device for the data of roles {sorted(wanted)}: name at least one of them"


def erase_problem(device: DeviceId, path: str, arrays: Iterable[ArrayState]) -> str:
    """Why the device must not be erased ('' if no array has it as a member, in use or not)."""
    for state in arrays:
        if (member := state.member(device)) is not None:
            word = "in sync" if member.state is MemberState.IN_SYNC else member.state.value
            return (
                f"{path} is a member of array {state.name} ({word}): --fail and --remove it there "
                "first, or --release the array"
            )
    return ""


def device_problem(new: NewMember, size_sectors: int, others: Iterable[ArrayState]) -> str:
    """Why the device cannot be a member of an array of this component size ('' if it can)."""
    owner = next((other for other in others if other.member(new.device)), None)
    if owner is not None:
        return f"{new.path} is a member of array {owner.name} already"
    if not 0 <= new.data_offset_sectors <= SECTORS_MAX or new.data_size_sectors > SECTORS_MAX:
        return f"{new.path}: data offset or size is out of range"
    missing = size_sectors - new.data_size_sectors
    if missing > 0:
        return (
            f"{new.path} is too small: {new.data_size_sectors // 2}K for data, "
            f"{size_sectors // 2}K needed, {-(-missing // 2)}K missing"
        )
    return ""
