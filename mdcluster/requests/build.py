"""The arguments of a verb to the changes that are proposed to the core. Pure.

What stands on the devices is given as :class:`mdcluster.members.look.Look`, read on this node
before; `devices_named` tells which ones to read. The core and the writer check again what they
depend on: the checks here are for an early answer in words that name the user's own words.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

from mdcluster.control.verbs import (
    MISSING,
    ActionArgs,
    ActionWord,
    AdoptArgs,
    AssembleArgs,
    CreateArgs,
    EraseArgs,
    GrowArgs,
    MemberArgs,
    NodeArgs,
    ReleaseArgs,
    ReplaceArgs,
    StillArgs,
    StopArgs,
    Verb,
)
from mdcluster.core.adoption import adoption_problem
from mdcluster.core.creation import erase_problem
from mdcluster.core.model import (
    MEMBERS_MAX,
    AddMember,
    AdoptArray,
    ArrayId,
    ArrayState,
    BeginSync,
    BindVoter,
    Change,
    ClusterState,
    CreateArray,
    DeviceId,
    EraseDevice,
    FailMember,
    HandOver,
    Member,
    MemberState,
    NewMember,
    NodeId,
    ReAddMember,
    ReleaseArray,
    RemoveMember,
    ReplaceMember,
    SetPaused,
    SetRaidDisks,
    SetReadonly,
    SetSize,
    StartArray,
    StopArray,
    StopLooking,
    SyncKind,
)
from mdcluster.core.statecheck import (
    SECTORS_MAX,
    bitmap_problem,
    level_problem,
    name_problem,
)
from mdcluster.members.look import Look
from mdcluster.members.nonces import objection
from mdcluster.metadata import bitmap
from mdcluster.metadata.errors import MetadataError
from mdcluster.metadata.layout import (
    AREA_OFFSET_BYTES,
    DEFAULT_CHUNK_SECTORS,
    MIB_SECTORS,
    PROFILES,
    RAID1_ROUND_SECTORS,
    RAID10_NEAR2,
    AreaLayout,
    array_size_sectors,
    plan_layout,
)
from mdcluster.metadata.superblock import SECTOR
from mdcluster.requests.errors import RequestError
from mdcluster.requests.names import (
    belongs_to,
    find_array,
    find_member,
    find_node,
    plain_name,
    shown,
    uuid_in,
)

Looks = Mapping[str, Look]
NewUuid = Callable[[], UUID]

FAULTY_WORDS = ("failed", "faulty")
DETACHED = "detached"
KEYWORDS = (*FAULTY_WORDS, DETACHED, MISSING)


@dataclass(frozen=True, slots=True)
class Wish:
    """One change to be proposed, and whether doubts are overruled."""

    change: Change
    force: bool = False


@dataclass(frozen=True, slots=True)
class Places:
    """known: where devices of this node were seen last; present: those to be seen right now."""

    known: Mapping[DeviceId, str]
    present: Mapping[DeviceId, str]


def devices_named(
    args: CreateArgs | AssembleArgs | MemberArgs | ReplaceArgs | GrowArgs | EraseArgs,
) -> tuple[str, ...]:
    """The paths in a request whose devices are to be looked at, each once."""
    if isinstance(args, ReplaceArgs):
        names: tuple[str, ...] = (args.device, args.by or "")
    elif isinstance(args, MemberArgs | EraseArgs):
        names = (args.device,)
    else:
        names = args.devices
    return tuple(dict.fromkeys(name for name in names if name.startswith("/")))


# --- create ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plan:
    """Sizes in sectors."""

    chunk: int
    layout: int
    data_offset: int
    component: int
    bitmap_chunk: int


def create(
    args: CreateArgs,
    looks: Looks,
    arrays: Sequence[ArrayState],
    now_s: int,
    new_uuid: NewUuid = uuid4,
) -> Wish:
    """The change that makes the array; RequestError says why it cannot be made."""
    name, force = plain_name(args.name), args.force or args.run
    _check_create(name, args, arrays)
    devices = _devices_of(args, looks)
    plan = _plan(args, [seen for seen in devices if seen is not None])
    array = ArrayId(str(_array_uuid(args.uuid, new_uuid)))
    members = tuple(
        NewMember(
            DeviceId(str(new_uuid())),
            seen.path,
            plan.data_offset,
            seen.size_bytes // SECTOR - plan.data_offset,
            role if role < args.raid_disks else -1,
        )
        for role, seen in enumerate(devices)
        if seen is not None
    )
    present = [seen for seen in devices if seen is not None]
    if problem := objection(array, members, present, arrays, force):
        raise RequestError(f"cannot create {name}: {problem}")
    change = CreateArray(
        array=array,
        name=name,
        level=args.level,
        layout=plan.layout,
        chunk_sectors=plan.chunk,
        raid_disks=args.raid_disks,
        size_sectors=plan.component,
        bitmap_chunk_sectors=plan.bitmap_chunk,
        members=members,
        assume_clean=args.assume_clean,
        now_s=now_s,
    )
    return Wish(change, force)


def _check_create(name: str, args: CreateArgs, arrays: Sequence[ArrayState]) -> None:
    problem = name_problem(name)
    if any(state.name == name for state in arrays):
        problem = "the name is taken by another array of this cluster"
    if args.bitmap != "internal":
        problem = (
            f"bitmap {shown(args.bitmap)}: an array of a cluster has a write-intent bitmap of its "
            "own for each node; leave out --bitmap, or say internal"
        )
    wanted = args.raid_disks + args.spare_disks
    if not 0 <= args.spare_disks <= MEMBERS_MAX:
        problem = f"{args.spare_disks} spare devices; it takes 0 to {MEMBERS_MAX}"
    elif len(args.devices) > wanted:
        problem = (
            f"you have listed more devices ({len(args.devices)}) than are in the array ({wanted})"
        )
    elif len(args.devices) < wanted:
        problem = (
            "you haven't given enough devices (real or missing) to create this array: "
            f"{len(args.devices)} of {wanted}"
        )
    if problem:
        raise RequestError(f"cannot create {shown(name)}: {problem}")


def _array_uuid(text: str | None, new_uuid: NewUuid) -> UUID:
    if text is None:
        return new_uuid()
    uuid = uuid_in(text)
    if uuid is None:
        raise RequestError(f"{shown(text)} is no UUID: expected 32 hex digits")
    return uuid


def _devices_of(args: CreateArgs, looks: Looks) -> list[Look | None]:
    """By position; None for a missing one."""
    found: list[Look | None] = []
    names: set[str] = set()
    for role, name in enumerate(args.devices):
        if name == MISSING:
            if role >= args.raid_disks:
                raise RequestError("a spare cannot be missing: leave it out")
            found.append(None)
            continue
        if name in names:
            raise RequestError(f"{shown(name)} is named twice")
        names.add(name)
        found.append(_look_at(name, looks))
    if not names:
        raise RequestError("no real devices given: name at least one")
    return found


def _look_at(name: str, looks: Looks) -> Look:
    seen = looks.get(name)
    if seen is None:
        raise RequestError(f"{shown(name)} is no absolute path of a device")
    if seen.problem:
        raise RequestError(seen.problem)
    return seen


def _plan(args: CreateArgs, devices: Sequence[Look]) -> _Plan:
    """Sizes that fit the smallest device."""
    level, disks = args.level, args.raid_disks
    chunk = 0 if level == 1 else DEFAULT_CHUNK_SECTORS
    if level != 1 and args.chunk_sectors is not None:
        chunk = args.chunk_sectors
    layout = (RAID10_NEAR2 if level == 10 else 0) if args.layout is None else args.layout
    if problem := level_problem(level, layout, chunk, disks) or _huge(args, chunk):
        raise RequestError(f"cannot create {shown(args.name)}: {problem}")
    least = min(devices, key=lambda seen: seen.size_bytes)
    try:
        plan = plan_layout(least.size_bytes, level, disks, layout, chunk, least.path)
    except MetadataError as error:
        raise RequestError(f"{least.path}: {error.what}; {error.advice}") from None
    upper = array_size_sectors(level, layout, disks, least.size_bytes // SECTOR)
    bits = plan.bitmap_chunk_sectors
    if args.bitmap_chunk_sectors is not None:
        bits = _bitmap_chunk(args.bitmap_chunk_sectors, upper)
    area = AreaLayout(AREA_OFFSET_BYTES, *PROFILES[0], bitmap.slot_bytes(upper, bits))
    area_end = -(-area.end_bytes // (MIB_SECTORS * SECTOR)) * MIB_SECTORS
    offset = max(plan.data_offset_sectors, area_end)
    if args.data_offset_sectors is not None:
        offset = _data_offset(args.data_offset_sectors, area_end)
    rounding = chunk or RAID1_ROUND_SECTORS
    room = max(least.size_bytes // SECTOR - offset, 0) // rounding * rounding
    return _Plan(chunk, layout, offset, _component(args, room, chunk, least), bits)


def _data_offset(wanted: int, least: int) -> int:
    """As wanted, if the cluster's area ends before it."""
    if wanted % 8 or not least <= wanted <= SECTORS_MAX:
        raise RequestError(
            f"a data offset of {wanted // 2}K: commits and bitmaps need at least {least // 2}K, "
            "and it is a multiple of 4K"
        )
    return wanted


def _huge(args: CreateArgs, chunk: int) -> str:
    """Numbers that would make the arithmetic of layouts meaningless."""
    if chunk > SECTORS_MAX or (args.size_sectors or 0) > SECTORS_MAX:
        return "chunk or size is out of range"
    return ""


def _bitmap_chunk(wanted: int, covered_sectors: int) -> int:
    if problem := bitmap_problem(wanted):
        raise RequestError(problem)
    least = wanted
    while bitmap.slot_bytes(covered_sectors, least) > bitmap.SLOT_BYTES_MAX:
        least *= 2
    if least != wanted:
        raise RequestError(
            f"bitmap chunk of {wanted // 2}K is too small for this size: at least {least // 2}K"
        )
    return wanted


def _component(args: CreateArgs, room: int, chunk: int, least: Look) -> int:
    if args.size_sectors is None:
        size = room
    else:
        rounding = chunk or 8
        size = args.size_sectors // rounding * rounding
        if size <= 0:
            raise RequestError(f"a size of {args.size_sectors} sectors is too small")
    if size > room or not room:
        missing = -(-(max(size, 1) - room) // 2)
        raise RequestError(
            f"{least.path} is too small: it has room for {room // 2}K, {missing}K are missing"
        )
    return size


# --- assemble, stop ----------------------------------------------------------------------------


def assemble(args: AssembleArgs, arrays: Sequence[ArrayState], looks: Looks) -> Wish:
    """Start an array of the cluster; the devices named must be members of it."""
    state = _array_to_start(args, arrays, looks)
    if args.uuid is not None and uuid_in(args.uuid) != uuid_in(state.uuid):
        raise RequestError(
            f"array {state.name} has the UUID {state.uuid}, not {shown(args.uuid)}: not started"
        )
    for name in args.devices:
        seen = _look_at(name, looks)
        if seen.array is None or uuid_in(seen.array) != uuid_in(state.uuid):
            raise RequestError(
                f"{shown(name)} is not a member of array {state.name}: {_whose(seen, arrays)}"
            )
    return Wish(StartArray(state.uuid, args.force, args.run, args.readonly), args.force)


def _array_to_start(args: AssembleArgs, arrays: Sequence[ArrayState], looks: Looks) -> ArrayState:
    """RequestError says of a name that there is not what its members are of."""
    try:
        return find_array(arrays, args.array)
    except RequestError as error:
        if not args.devices:
            raise
        name = args.devices[0]
        text = f"{error}; {shown(name)}: {_whose(_look_at(name, looks), arrays)}"
        raise RequestError(text) from None


def _whose(seen: Look, arrays: Sequence[ArrayState]) -> str:
    """What it is a member of, and how that is started if it is of this cluster."""
    state = next((one for one in arrays if one.uuid == seen.array), None)
    how = f"; start it by its name: mdcadm -A /dev/md/{state.name}" if state else ""
    return f"{belongs_to(seen)}{how}"


def adopted(args: AdoptArgs, change: AdoptArray, arrays: Sequence[ArrayState]) -> Wish:
    """Take in what was read from the members; RequestError if the cluster cannot have it."""
    if problem := adoption_problem(change, arrays):
        raise RequestError(problem)
    return Wish(change, args.force)


def release(args: ReleaseArgs, arrays: Sequence[ArrayState]) -> Wish:
    """Give an array back to plain md."""
    return Wish(ReleaseArray(find_array(arrays, args.array).uuid), args.force)


def stop(args: StopArgs, arrays: Sequence[ArrayState]) -> Wish:
    """Stop an array on all nodes."""
    return Wish(StopArray(find_array(arrays, args.array).uuid))


def still(verb: Verb, args: StillArgs, arrays: Sequence[ArrayState], now_s: int) -> Wish:
    """Whether applications may write to an array, or whether anything is copied in it."""
    array = find_array(arrays, args.array).uuid
    if verb in (Verb.READONLY, Verb.READWRITE):
        return Wish(SetReadonly(array, on=verb is Verb.READONLY))
    return Wish(SetPaused(array, verb is Verb.PAUSE, now_s))


def action(args: ActionArgs, arrays: Sequence[ArrayState]) -> Wish:
    """Compare the members of an array, repair what differs, or end that."""
    array = find_array(arrays, args.array).uuid
    if args.action is ActionWord.IDLE:
        return Wish(StopLooking(array))
    return Wish(BeginSync(array, SyncKind(args.action.value)))


# --- members -----------------------------------------------------------------------------------


def add(
    args: MemberArgs, arrays: Sequence[ArrayState], looks: Looks, new_uuid: NewUuid = uuid4
) -> Wish:
    """A new member: a spare that takes a vacant role at once."""
    state = find_array(arrays, args.array)
    seen = _look_at(args.device, looks)
    offset = min(member.data_offset_sectors for member in state.members)
    room = seen.size_bytes // SECTOR - offset
    if room < state.size_sectors:
        missing = -(-(state.size_sectors - room) // 2)
        raise RequestError(
            f"{seen.path} is too small for array {state.name}: {missing}K are missing, at least "
            f"{(offset + state.size_sectors) // 2}K are needed"
        )
    member = NewMember(DeviceId(str(new_uuid())), seen.path, offset, room)
    if problem := objection(state.uuid, (member,), (seen,), arrays, args.force):
        raise RequestError(f"{state.name}: cannot add it: {problem}")
    return Wish(AddMember(state.uuid, member), args.force)


def grow(
    args: GrowArgs, arrays: Sequence[ArrayState], looks: Looks, new_uuid: NewUuid = uuid4
) -> tuple[Wish, ...]:
    """New members first, as spares; then the shape."""
    state = find_array(arrays, args.array)
    asked = (args.raid_disks is not None, args.size_sectors is not None, args.size_max)
    if sum(asked) != 1:
        raise RequestError(
            "cannot change component size at the same time as other changes: give either a number "
            "of raid devices or a size"
        )
    if args.raid_disks is None:
        if args.devices:
            raise RequestError("a size takes no devices: --add them first")
        return (Wish(SetSize(state.uuid, _new_size(args, state)), args.force),)
    if len(set(args.devices)) != len(args.devices):
        raise RequestError("a device is named twice")
    wishes = [
        add(MemberArgs(args.proposal, args.array, name, args.force), arrays, looks, new_uuid)
        for name in args.devices
    ]
    return (*wishes, Wish(SetRaidDisks(state.uuid, args.raid_disks), args.force))


def _new_size(args: GrowArgs, state: ArrayState) -> int:
    """In whole chunks, as mdadm rounds it; the largest is never less than what is used now."""
    if args.size_sectors is not None:
        rounding = state.chunk_sectors or 8
        return args.size_sectors // rounding * rounding
    room = min(member.data_size_sectors for member in state.members)
    rounding = state.chunk_sectors or RAID1_ROUND_SECTORS
    return max(room // rounding * rounding, state.size_sectors)


def re_add(
    args: MemberArgs,
    arrays: Sequence[ArrayState],
    looks: Looks,
    places: Places,
) -> tuple[Wish, ...]:
    """Members that were there before; `failed`, `faulty`: all that are found here; `missing`: also
    those that were removed."""
    state = find_array(arrays, args.array)
    if args.device in (*FAULTY_WORDS, MISSING):
        here, gone = places.present, state.removed if args.device == MISSING else ()
        found = [m for m in (*_faulty(state), *gone) if m.device in here]
        return tuple(
            Wish(ReAddMember(state.uuid, m.device, here[m.device]), args.force) for m in found
        )
    seen = looks.get(args.device)
    known = replace(state, members=(*state.members, *state.removed))
    member = find_member(known, args.device, places.known, seen)
    path = args.device if seen is not None else places.known.get(member.device)
    if path is None:
        raise RequestError(f"member {member.device} is not to be found on this node: name its path")
    return (Wish(ReAddMember(state.uuid, member.device, path), args.force),)


def replacement(
    args: ReplaceArgs,
    arrays: Sequence[ArrayState],
    looks: Looks,
    places: Places,
) -> Wish:
    """A spare takes the role of a member, which stays in use until then."""
    state = find_array(arrays, args.array)
    old, by = (
        find_member(state, name, places.known, looks.get(name)).device if name else None
        for name in (args.device, args.by)
    )
    if old is None:
        raise RequestError("no device named that is to be replaced")
    return Wish(ReplaceMember(state.uuid, old, by), args.force)


def fail(
    args: MemberArgs,
    arrays: Sequence[ArrayState],
    looks: Looks,
    places: Places,
) -> tuple[Wish, ...]:
    """Set members faulty; `detached`: all whose device is gone from this node."""
    state = find_array(arrays, args.array)
    if args.device == DETACHED:
        gone = [m for m in state.writable if m.device not in places.present]
    else:
        gone = [find_member(state, args.device, places.known, looks.get(args.device))]
    why = "an administrator set it faulty"
    return tuple(Wish(FailMember(state.uuid, m.device, why), args.force) for m in gone)


def remove(
    args: MemberArgs,
    arrays: Sequence[ArrayState],
    looks: Looks,
    places: Places,
) -> tuple[Wish, ...]:
    """Take members out; `failed`, `faulty`: all that are; `detached`: those of them gone here."""
    state = find_array(arrays, args.array)
    if args.device in FAULTY_WORDS:
        gone = _faulty(state)
    elif args.device == DETACHED:
        gone = [m for m in _faulty(state) if m.device not in places.present]
    else:
        gone = [find_member(state, args.device, places.known, looks.get(args.device))]
    return tuple(Wish(RemoveMember(state.uuid, m.device), args.force) for m in gone)


def erase(args: EraseArgs, arrays: Sequence[ArrayState], looks: Looks) -> Wish:
    """Take all that makes a device a member off it; RequestError if an array has it."""
    seen = _look_at(args.device, looks)
    if seen.left_by is None:
        raise RequestError(f"{seen.path} has nothing of a cluster: it is for mdadm")
    array, device = seen.left_by
    if problem := erase_problem(device, seen.path, arrays):
        raise RequestError(problem)
    return Wish(EraseDevice(array, device, seen.path), args.force)


def _faulty(state: ArrayState) -> list[Member]:
    return [m for m in state.members if m.state is MemberState.FAULTY]


# --- nodes -------------------------------------------------------------------------------------


def transfer(args: NodeArgs, names: Mapping[NodeId, str]) -> Wish:
    """Hand the writer role over to a node."""
    return Wish(HandOver(find_node(names, args.node)))


def admit(args: NodeArgs, cluster: ClusterState, names: Mapping[NodeId, str]) -> Wish:
    """Bind the node that now shows itself under a voter's name to its line."""
    node = find_node(names, args.node)
    name = names[node]
    if cluster.named(name) is None:
        raise RequestError(f"node {shown(name)} is no voter of this cluster: see clusterips")
    return Wish(BindVoter(name, node, replace=True))
