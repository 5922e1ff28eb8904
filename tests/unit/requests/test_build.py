"""Arguments to changes: what is meant, what is refused and in which words, and any nonsense."""

from dataclasses import replace
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.control.verbs import (
    ActionArgs,
    ActionWord,
    AssembleArgs,
    CreateArgs,
    GrowArgs,
    MemberArgs,
    NodeArgs,
    ReplaceArgs,
    StopArgs,
)
from mdcluster.core.arrays import Refused, apply_change
from mdcluster.core.model import (
    AddMember,
    BeginSync,
    BindVoter,
    CreateArray,
    FailMember,
    HandOver,
    ReAddMember,
    RemoveMember,
    ReplaceMember,
    SetRaidDisks,
    SetSize,
    StartArray,
    StopArray,
    StopLooking,
    SyncKind,
)
from mdcluster.members.look import Look
from mdcluster.members.slots import area_layout
from mdcluster.metadata.cluster_area import Header
from mdcluster.metadata.superblock import SECTOR, Superblock
from mdcluster.requests import RequestError, Wish, build
from mdcluster.requests.build import Places
from tests.unit.members import kit as disks
from tests.unit.metadata import images
from tests.unit.requests import kit

A, B, C = "/dev/a", "/dev/b", "/dev/c"
NOWHERE = Places({}, {})


def args(**changes: Any) -> CreateArgs:
    facts: dict[str, Any] = {
        "proposal": "p",
        "name": "data",
        "level": 1,
        "raid_disks": 2,
        "devices": (A, B),
    }
    return CreateArgs(**(facts | changes))


def create(one: CreateArgs, looks: dict[str, Look] | None = None) -> CreateArray:
    numbers = count(1)
    looks = kit.looks(*(d for d in one.devices if d != "missing")) if looks is None else looks
    wish = build.create(one, looks, (), 7, lambda: UUID(int=next(numbers)))
    assert isinstance(wish.change, CreateArray)
    return wish.change


def refused(one: CreateArgs, looks: dict[str, Look] | None = None) -> str:
    with pytest.raises(RequestError) as caught:
        create(one, looks)
    return str(caught.value)


# --- create --------------------------------------------------------------------------------------


def test_a_mirror_is_planned_and_the_core_takes_it() -> None:
    change = create(args(devices=(A, B, C), spare_disks=1))
    assert [(m.path, m.role) for m in change.members] == [(A, 0), (B, 1), (C, -1)]
    assert len({m.device for m in change.members}) == 3
    assert change.chunk_sectors == 0 and change.layout == 0
    state = apply_change(None, change, others=())
    assert not isinstance(state, Refused)
    assert area_layout(state).end_bytes <= change.members[0].data_offset_sectors * SECTOR
    assert area_layout(state).slot_count == 64


def test_the_smallest_device_decides() -> None:
    looks = {A: kit.seen(A, 32 << 20), B: kit.seen(B, 20 << 20)}
    change = create(args(), looks)
    ends = [m.data_offset_sectors + m.data_size_sectors for m in change.members]
    assert ends == [(32 << 20) // SECTOR, (20 << 20) // SECTOR]
    assert 0 < change.size_sectors <= min(m.data_size_sectors for m in change.members)


def test_raid10_and_a_missing_member() -> None:
    change = create(args(level=10, raid_disks=4, devices=(A, "missing", B, C)))
    assert [m.role for m in change.members] == [0, 2, 3]
    assert (change.layout, change.chunk_sectors) == (0x102, 1024)
    assert change.size_sectors % 1024 == 0


def test_own_sizes_and_names() -> None:
    uuid = "aaaaaaaa:bbbbbbbb:cccccccc:dddddddd"
    change = create(
        args(name="/dev/md/data", size_sectors=4100, bitmap_chunk_sectors=256, uuid=uuid)
    )
    assert change.name == "data" and change.size_sectors == 4096
    assert change.bitmap_chunk_sectors == 256
    assert change.array == str(UUID(uuid.replace(":", "")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"devices": (A,)}, "haven't given enough devices"),
        ({"devices": (A, B, C)}, "listed more devices (3) than are in the array (2)"),
        ({"devices": (A, A)}, "/dev/a is named twice"),
        ({"devices": ("missing", "missing")}, "no real devices"),
        ({"devices": (A, B, "missing"), "spare_disks": 1}, "a spare cannot be missing"),
        ({"devices": (A, "sdb")}, "sdb is no absolute path"),
        ({"level": 5}, "level 5 is not supported"),
        ({"level": 10, "layout": 0x201}, "far is refused"),
        ({"level": 10, "chunk_sectors": 7}, "power of two"),
        ({"layout": 1}, "raid1 has neither layout"),
        ({"name": "a/b"}, "letters, digits"),
        ({"name": "x" * 33}, "1 to 32 characters"),
        ({"bitmap": "none"}, "write-intent bitmap"),
        ({"uuid": "1234"}, "1234 is no UUID"),
        ({"raid_disks": -1}, "listed more devices"),
        ({"size_sectors": 1 << 40}, "is too small: it has room for"),
        ({"size_sectors": 7}, "a size of 7 sectors is too small"),
        ({"bitmap_chunk_sectors": 9}, "bitmap chunk of 9 sectors"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], words: str) -> None:
    one = args(**changes)
    assert words in refused(one, kit.looks(A, B, C))


def test_devices_that_cannot_be_taken() -> None:
    small = {A: kit.seen(A), B: kit.seen(B, 1 << 20)}
    assert "/dev/b: 1048576 bytes are too few for a member; at least" in refused(args(), small)
    gone = {A: kit.seen(A), B: Look(B, problem="/dev/b: cannot be opened: No such file")}
    assert "No such file" in refused(args(), gone)
    twice = {A: kit.seen(A, inode=5), B: kit.seen(B, inode=5)}
    assert "same device as /dev/a" in refused(args(), twice)
    other = {A: kit.seen(A), B: Look(B, (1, 9), 16 << 20, foreign="an xfs file system")}
    assert "appears to contain an xfs file system" in refused(args(), other)
    assert create(args(run=True), other).members[1].path == B


def test_a_bitmap_chunk_that_is_too_small_for_the_size() -> None:
    huge = {path: kit.seen(path, 1 << 42) for path in (A, B)}
    assert "bitmap chunk of 4K is too small for this size: at least" in refused(
        args(bitmap_chunk_sectors=8), huge
    )
    change = create(args(), huge)
    state = apply_change(None, change, others=())
    assert not isinstance(state, Refused) and area_layout(state).slot_count == 64


def test_a_name_that_is_taken() -> None:
    with pytest.raises(RequestError, match="the name is taken"):
        build.create(args(), kit.looks(A, B), (kit.mirror(),), 7)


# --- arrays and members --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["data", "/dev/md/data", "/dev/md_data", "md_data", kit.ARRAY, kit.ARRAY.upper()]
)
def test_arrays_by_every_name(text: str) -> None:
    assert build.stop(StopArgs("p", text), (kit.mirror(),)) == Wish(StopArray(kit.ARRAY))


def test_unknown_arrays_name_the_known() -> None:
    with pytest.raises(RequestError, match=r"there is no array nope .* its arrays are: data"):
        build.stop(StopArgs("p", "nope"), (kit.mirror(),))


def test_assemble() -> None:
    arrays = (kit.mirror(),)
    wish = build.assemble(AssembleArgs("p", "data", run=True), arrays, {})
    assert wish == Wish(StartArray(kit.ARRAY, False, True))
    with pytest.raises(RequestError, match="has the UUID"):
        build.assemble(AssembleArgs("p", "data", uuid=str(UUID(int=1))), arrays, {})
    with pytest.raises(RequestError, match="/dev/a is not a member of array data: it has no super"):
        build.assemble(AssembleArgs("p", "data", (A,)), arrays, kit.looks(A))


def test_what_is_assembled_under_a_wrong_name_tells_whose_it_is() -> None:
    plain = replace(images.superblock(), set_uuid=UUID(int=9), set_name="home:0", feature_map=0)
    ours = replace(plain, set_uuid=UUID(kit.ARRAY), set_name="data").with_guard(True)
    alien = replace(plain, set_name="old").with_guard(True)

    def said(name: str, superblock: Superblock, header: Header | None = None) -> str:
        looks = {A: replace(kit.seen(A), superblock=superblock, header=header)}
        with pytest.raises(RequestError) as caught:
            build.assemble(AssembleArgs("p", name, (A,)), (kit.mirror(),), looks)
        return str(caught.value)

    assert "start it by its name: mdcadm -A /dev/md/data" in said("nope", ours)
    assert "a member of the plain array home:0 (" in said("data", plain)
    assert said("data", alien, images.header()).endswith("of cluster lab")
    assert "mdcadm" not in said("nope", alien)


def test_fail_and_remove_by_every_name() -> None:
    arrays = (kit.mirror(),)
    places = Places({disks.device(1): B}, {})
    for text in (B, "1", disks.device(1), disks.device(1).replace("-", ":")):
        (wish,) = build.fail(MemberArgs("p", "data", text), arrays, {}, places)
        assert isinstance(wish.change, FailMember) and wish.change.device == disks.device(1)
        (wish,) = build.remove(MemberArgs("p", "data", text), arrays, {}, places)
        assert wish.change == RemoveMember(kit.ARRAY, disks.device(1))
    with pytest.raises(RequestError, match="/dev/c is not a member of array data"):
        build.fail(MemberArgs("p", "data", C), arrays, kit.looks(C), places)


def test_keywords_stand_for_all_that_fit() -> None:
    state = disks.after(kit.mirror(), FailMember(kit.ARRAY, disks.device(1), "EIO"))
    here = Places({}, {disks.device(0): A})

    def removed(word: str, places: Places) -> list[str]:
        wishes = build.remove(MemberArgs("p", "data", word), (state,), {}, places)
        return [w.change.device for w in wishes if isinstance(w.change, RemoveMember)]

    assert removed("failed", here) == removed("faulty", here) == [disks.device(1)]
    assert removed("detached", here) == [disks.device(1)]
    assert removed("detached", Places({}, {disks.device(1): B})) == []
    assert build.fail(MemberArgs("p", "data", "detached"), (state,), {}, here) == ()
    both = Places({}, {disks.device(0): A, disks.device(1): B})
    wishes = build.re_add(MemberArgs("p", "data", "missing"), (state,), {}, both)
    assert wishes == (Wish(ReAddMember(kit.ARRAY, disks.device(1), B)),)
    gone = disks.after(state, RemoveMember(kit.ARRAY, disks.device(1)))
    assert build.re_add(MemberArgs("p", "data", "missing"), (gone,), {}, both) == wishes
    assert build.re_add(MemberArgs("p", "data", "faulty"), (gone,), {}, both) == ()
    named = Places({disks.device(1): B}, {})
    for word in (disks.device(1), B):
        assert build.re_add(MemberArgs("p", "data", word), (gone,), {}, named) == wishes


def test_add() -> None:
    arrays = (kit.mirror(),)
    wish = build.add(MemberArgs("p", "data", C), arrays, kit.looks(C), lambda: UUID(int=5))
    assert isinstance(wish.change, AddMember)
    member = wish.change.member
    assert (member.device, member.role) == (str(UUID(int=5)), -1)
    assert member.data_offset_sectors == arrays[0].members[0].data_offset_sectors
    with pytest.raises(RequestError, match=r"too small for array data: .*K are missing"):
        build.add(MemberArgs("p", "data", C), arrays, {C: kit.seen(C, 8 << 20)})


def test_nodes() -> None:
    names = dict(kit.view().names)
    assert build.transfer(NodeArgs("p", "n1"), names) == Wish(HandOver(kit.NODES[1]))
    assert build.transfer(NodeArgs("p", kit.NODES[2]), names).change == HandOver(kit.NODES[2])
    wish = build.admit(NodeArgs("p", "n1"), kit.CLUSTER, names)
    assert wish.change == BindVoter("n1", kit.NODES[1], replace=True)
    with pytest.raises(RequestError, match="the nodes are: n0, n1, n2"):
        build.transfer(NodeArgs("p", "n9"), names)
    with pytest.raises(RequestError, match="no voter"):
        build.admit(NodeArgs("p", "x"), kit.CLUSTER, {kit.spectator().node: "x"})


def test_replace() -> None:
    spare = AddMember(kit.ARRAY, disks.new_member(C, 2, -1))
    state = disks.after(kit.mirror(), spare)
    here = Places({disks.device(0): A, disks.device(1): B, disks.device(2): C}, {})

    def asked(device: str, by: str | None = None) -> Wish:
        return build.replacement(ReplaceArgs("p", "data", device, by), (state,), {}, here)

    assert asked(A) == Wish(ReplaceMember(kit.ARRAY, disks.device(0)))
    assert asked(B, C) == Wish(ReplaceMember(kit.ARRAY, disks.device(1), disks.device(2)))
    with pytest.raises(RequestError, match="/dev/x"):
        asked("/dev/x")
    with pytest.raises(RequestError, match="/dev/x"):
        asked(A, "/dev/x")
    with pytest.raises(RequestError):
        asked("")


def test_grow() -> None:
    arrays = (kit.mirror(),)
    numbers = count(50)

    def asked(**facts: Any) -> tuple[Wish, ...]:
        one = GrowArgs("p", "data", **facts)
        return build.grow(one, arrays, kit.looks(C), lambda: UUID(int=next(numbers)))

    added, disks = asked(raid_disks=3, devices=(C,), force=True)
    assert isinstance(added.change, AddMember) and added.change.member.path == C
    assert disks == Wish(SetRaidDisks(kit.ARRAY, 3), force=True)
    (size,) = asked(size_sectors=arrays[0].size_sectors + 17)
    assert size.change == SetSize(kit.ARRAY, arrays[0].size_sectors + 16)
    (size,) = asked(size_max=True)
    assert isinstance(size.change, SetSize)
    room = min(m.data_size_sectors for m in arrays[0].members)
    assert room - 128 < size.change.size_sectors <= room
    for wrong, words in (
        ({}, "either a number"),
        ({"raid_disks": 3, "size_max": True}, "at the same time"),
        ({"size_max": True, "size_sectors": 8}, "at the same time"),
        ({"size_max": True, "devices": (C,)}, "takes no devices"),
        ({"raid_disks": 3, "devices": (C, C)}, "named twice"),
        ({"raid_disks": 3, "devices": ("x",)}, "no absolute path"),
    ):
        with pytest.raises(RequestError, match=words):
            asked(**wrong)


def test_actions() -> None:
    def asked(word: ActionWord) -> Wish:
        return build.action(ActionArgs("p", "data", word), (kit.mirror(),))

    assert asked(ActionWord.CHECK) == Wish(BeginSync(kit.ARRAY, SyncKind.CHECK))
    assert asked(ActionWord.REPAIR) == Wish(BeginSync(kit.ARRAY, SyncKind.REPAIR))
    assert asked(ActionWord.IDLE) == Wish(StopLooking(kit.ARRAY))


# --- nonsense ------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(-3, 64), st.integers(-(1 << 64), 1 << 64), st.just(1 << 20))
TEXTS = st.one_of(st.sampled_from(["missing", "data", A, B, C, "", "failed"]), st.text(max_size=40))


CREATIONS = st.builds(
    CreateArgs,
    proposal=st.just("p"),
    name=TEXTS,
    level=st.one_of(st.sampled_from([1, 10]), NUMBERS),
    raid_disks=NUMBERS,
    devices=st.lists(st.one_of(st.sampled_from([A, B, C, "missing"]), TEXTS), max_size=6).map(
        tuple
    ),
    spare_disks=st.one_of(st.just(0), NUMBERS),
    layout=st.one_of(st.none(), NUMBERS),
    chunk_sectors=st.one_of(st.none(), st.just(128), NUMBERS),
    size_sectors=st.one_of(st.none(), NUMBERS),
    bitmap=st.just("internal"),
    bitmap_chunk_sectors=st.one_of(st.none(), st.just(128), NUMBERS),
    uuid=st.one_of(st.none(), TEXTS),
    assume_clean=st.booleans(),
    force=st.booleans(),
    run=st.booleans(),
)
SOUND = st.builds(
    lambda one, disks, spares: one._replace(
        name="data",
        level=1 if disks % 2 else 10,
        raid_disks=disks,
        devices=(A, B, C)[: disks + spares],
        spare_disks=min(spares, 3 - disks),
        uuid=None,
    ),
    CREATIONS,
    st.integers(1, 3),
    st.integers(0, 2),
)


@given(
    one=st.one_of(CREATIONS, SOUND),
    sizes=st.lists(st.integers(0, 1 << 50), min_size=3, max_size=3),
)
def test_nonsense_is_refused_or_makes_a_sound_array(one: CreateArgs, sizes: list[int]) -> None:
    looks = {p: kit.seen(p, size) for p, size in zip((A, B, C), sizes, strict=True)}
    try:
        wish = build.create(one, looks, (), 7)
    except RequestError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return
    assert isinstance(wish.change, CreateArray)
    state = apply_change(None, wish.change, others=(), force=True)
    if not isinstance(state, Refused):
        area = area_layout(state)
        assert area.end_bytes <= min(m.data_offset_sectors for m in state.members) * SECTOR
        for member in state.members:
            assert member.data_size_sectors >= state.size_sectors


@given(TEXTS, TEXTS, st.sampled_from([build.fail, build.remove, build.re_add]))
def test_nonsense_about_members_is_refused(array: str, device: str, verb: Any) -> None:
    try:
        wishes = verb(MemberArgs("p", array, device), (kit.mirror(),), {}, NOWHERE)
    except RequestError as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(wish, Wish) for wish in wishes)


def test_data_begins_where_it_is_said_if_the_area_ends_before() -> None:
    least = {member.data_offset_sectors for member in create(args()).members}
    wanted = least.pop() + 2048
    assert not least
    made = create(args(data_offset_sectors=wanted))
    assert {member.data_offset_sectors for member in made.members} == {wanted}
    for bad in (8, wanted + 1, 1 << 62):
        assert "data offset" in refused(args(data_offset_sectors=bad))
