"""Plain members: what may be taken in, what becomes of them, and how they are given back."""

import asyncio
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from mdcluster.core.model import (
    CLUSTER_KEY,
    AdoptArray,
    ArrayState,
    Claim,
    ClusterState,
    Entry,
    FailMember,
    MemberState,
    NodeId,
    ReleaseArray,
    Stamp,
    Voter,
)
from mdcluster.members import MembersError
from mdcluster.members.adoption import adoption, read_plain
from mdcluster.members.look import Hold
from mdcluster.members.nonceblock import NONCE_OFFSET_BYTES
from mdcluster.metadata import superblock as sb
from mdcluster.metadata.errors import MetadataError
from tests import plain
from tests.plain import PlainArray, plain_array
from tests.unit.members import kit
from tests.unit.members.kit import LIVES, Host, after, on_disk

OP = 7


@pytest.fixture
def array(tmp_path: Path) -> PlainArray:
    made = plain_array(tmp_path)
    plain.fill(made, bytes(range(256)) * 64)
    return made


def adopt(paths: tuple[str, ...], name: str | None = None, *, force: bool = False) -> AdoptArray:
    return adoption([read_plain(path, force) for path in paths], name)


def whole(paths: tuple[str, ...]) -> list[bytes]:
    return [Path(path).read_bytes() for path in paths]


def data_of(array: PlainArray) -> list[bytes]:
    pairs = zip(array.paths, array.superblocks, strict=True)
    return [Path(p).read_bytes()[one.data_offset_sectors * 512 :] for p, one in pairs]


def guarded(array: PlainArray) -> list[bool]:
    found = [on_disk(path).superblock for path in array.paths]
    return [one is not None and one.guarded for one in found]


def state_of(made: Entry) -> ArrayState:
    assert isinstance(made.state, ArrayState)
    return made.state


def in_cluster(host: Host, **changes: object) -> None:
    """The host's cluster is another one."""
    known = host.entries[CLUSTER_KEY]
    assert isinstance(known.state, ClusterState)
    host.entries[CLUSTER_KEY] = replace(known, state=replace(known.state, **changes))  # type: ignore[arg-type]


def entry(state: ArrayState, seq: int = 2, term: int = 1) -> Entry:
    return Entry(state.uuid, Stamp(term, seq), state)


async def take(host: Host, change: AdoptArray, *, force: bool = False) -> Entry:
    """Claimed by nonces, committed in (1, 2); not yet written to the members."""
    problem, nonces = await host.members.write_nonces(
        OP, change.array, change.members, force, change
    )
    assert problem == ""
    proved = await host.members.prepare(
        [Claim(m.device, m.path, n) for m, (_, n) in zip(change.members, nonces, strict=True)]
    )
    assert proved.problem == "" and proved.missing == ()
    made = entry(after(None, change, runners=LIVES))
    host.knows(made)
    return made


async def taken(host: Host, change: AdoptArray) -> Entry:
    made = await take(host, change)
    written, failed = await host.members.write_superblocks(made)
    assert failed == () and len(written) == len(change.members)
    return made


# --- what an array is --------------------------------------------------------------------------


def test_all_of_a_plain_array_is_kept(array: PlainArray) -> None:
    change = adopt(tuple(reversed(array.paths)))
    state = change.state
    assert (change.array, change.events) == (str(plain.ARRAY), plain.EVENTS)
    assert change.paths == array.paths
    assert (state.name, state.created_s) == ("data", plain.CTIME_S)
    assert (state.resync_sectors, state.size_sectors) == (None, array.superblocks[0].size_sectors)
    assert [(m.role, m.number, m.data_offset_sectors) for m in state.members] == [
        (0, 0, 10240),
        (1, 1, 10240),
    ]
    assert adopt(array.paths, "other").state.name == "other"


def test_members_may_have_data_offsets_of_their_own(array: PlainArray) -> None:
    one = array.change(1, lambda sb_: replace(sb_, data_offset_sectors=12288))
    array.change(
        1,
        lambda sb_: replace(
            one, data_size_sectors=one.data_size_sectors - 2048, size_sectors=20480
        ),
    )
    array.change(0, lambda sb_: replace(sb_, size_sectors=20480))
    offsets = [m.data_offset_sectors for m in adopt(array.paths).state.members]
    assert offsets == [10240, 12288]


def test_a_raid10_is_resynced_from_whole_rows(tmp_path: Path) -> None:
    array = plain_array(tmp_path, level=10, disks=4, resync=5 * 1024, bitmap=False)
    state = adopt(array.paths).state
    assert (state.level, state.layout, state.chunk_sectors) == (10, 0x102, 1024)
    assert state.resync_sectors == 2 * 1024  # two rows of two chunks are whole


def test_an_array_that_was_not_stopped_is_resynced(tmp_path: Path) -> None:
    array = plain_array(tmp_path, resync=4096)
    assert adopt(array.paths).state.resync_sectors == 4096
    plain.write_bitmap(array.paths[1], array.superblocks[1], b"\x02")
    assert adopt(array.paths).state.resync_sectors == 0


def test_a_degraded_array_and_a_spare(tmp_path: Path) -> None:
    array = plain_array(tmp_path, disks=3)
    roles = (0, sb.ROLE_FAULTY, sb.ROLE_SPARE, *[sb.ROLE_SPARE] * 125)
    for role in (0, 2):
        array.change(role, lambda one: replace(one, dev_roles=roles, raid_disks=2))
    state = adopt((array.paths[0], array.paths[2])).state
    assert [(m.role, m.state) for m in state.members] == [
        (0, MemberState.IN_SYNC),
        (-1, MemberState.SPARE),
    ]


# --- what is refused ---------------------------------------------------------------------------


def test_every_active_member_must_be_named(array: PlainArray) -> None:
    with pytest.raises(MembersError, match="1 active members are not named, those of role 1"):
        adopt(array.paths[:1])


def test_a_stale_member_is_left_out(array: PlainArray) -> None:
    array.change(0, lambda one: replace(one, events=plain.EVENTS + 1))
    adopt(array.paths)  # one apart is as good as equal
    array.change(0, lambda one: replace(one, events=plain.EVENTS + 2))
    with pytest.raises(MembersError, match="plain1 is out of date"):
        adopt(array.paths)


def test_a_failed_member_is_left_out(array: PlainArray) -> None:
    array.change(0, lambda one: replace(one, dev_roles=(0, sb.ROLE_FAULTY, 0xFFFF, 0xFFFF)))
    with pytest.raises(MembersError, match="plain1 has failed in this array"):
        adopt(array.paths)


def test_clones_strangers_and_short_devices(array: PlainArray, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copy(array.paths[1], clone)
    with pytest.raises(MembersError, match="clone"):
        adopt((*array.paths, str(clone)))
    array.change(1, lambda one: replace(one, set_uuid=UUID(int=9)))
    with pytest.raises(MembersError, match=r"not of the same array \(set_uuid differs\)"):
        adopt(array.paths)
    array.change(1, lambda one: one)
    with open(array.paths[1], "r+b") as file:
        file.truncate(8 * plain.MIB)
    with pytest.raises(MembersError, match="needs 16777216"):
        adopt(array.paths)


def test_a_bad_block_log_with_entries(array: PlainArray) -> None:
    flags = sb.FEATURE_BITMAP | sb.FEATURE_BAD_BLOCKS
    array.change(0, lambda one: replace(one, feature_map=flags))
    adopt(array.paths)
    plain.write_log(array.paths[0], struct.pack("<Q", 5 << 10 | 8))
    with pytest.raises(MembersError, match="force-no-bbl"):
        adopt(array.paths)


def test_shapes_names_and_room(array: PlainArray, tmp_path: Path) -> None:
    with pytest.raises(MembersError, match="give --name"):
        adopt(array.paths, "two words")
    for role in (0, 1):
        array.change(role, lambda one: replace(one, data_offset_sectors=1024))
    with pytest.raises(MetadataError, match=r"begins 512 KiB.*needs 808 KiB before the data"):
        adopt(array.paths)
    for role in (0, 1):
        array.change(role, lambda one: replace(one, level=5))
    with pytest.raises(MembersError, match="level 5 is not supported"):
        adopt(array.paths)
    with pytest.raises(MembersError, match="no devices"):
        adoption([], None)
    with pytest.raises(MembersError, match="no md superblock"):
        adopt((kit.image(tmp_path, "empty"),))


@pytest.mark.parametrize("bytes_", [b"\xff" * 256, b"\x00" * 64])
def test_a_damaged_superblock_is_refused(array: PlainArray, bytes_: bytes) -> None:
    plain.patch(array.paths[0], sb.SUPER_OFFSET_BYTES, bytes_)
    with pytest.raises(MembersError, match="plain0"):
        adopt(array.paths)


# --- taking it in ------------------------------------------------------------------------------


async def test_taken_in_it_is_the_clusters(array: PlainArray, tmp_path: Path) -> None:
    host, before = Host(tmp_path), data_of(array)
    await taken(host, adopt(array.paths))
    assert data_of(array) == before
    for path, was in zip(array.paths, array.superblocks, strict=True):
        found = on_disk(path)
        assert found.superblock is not None and found.header is not None
        assert found.superblock.guarded and not found.superblock.feature_map & sb.FEATURE_BITMAP
        assert found.superblock.events == Stamp(1, 2).events > plain.EVENTS
        assert found.superblock.device_uuid == was.device_uuid
        assert found.header.area.slot_count == 64
        assert not any(Path(path).read_bytes()[NONCE_OFFSET_BYTES:][:4096])
        with pytest.raises(MembersError, match="belongs to cluster lab"):
            read_plain(path, force=False)


async def test_what_is_abandoned_is_as_it_was(array: PlainArray, tmp_path: Path) -> None:
    host, before = Host(tmp_path), whole(array.paths)
    await take(host, adopt(array.paths))
    assert whole(array.paths) != before
    assert await host.members.drop_nonces(OP) == ""
    assert whole(array.paths) == before


async def test_a_nonce_left_behind_is_not_put_back(array: PlainArray, tmp_path: Path) -> None:
    """Its writer died; the next one that is abandoned leaves no trace of either."""
    before = whole(array.paths)
    await take(Host(tmp_path), adopt(array.paths))
    other = Host(tmp_path, 1)
    await take(other, adopt(array.paths))
    await other.members.drop_nonces(OP)
    assert whole(array.paths) == before


async def test_members_that_changed_meanwhile(array: PlainArray, tmp_path: Path) -> None:
    host, change = Host(tmp_path), adopt(array.paths)
    for role in (0, 1):
        array.change(role, lambda one: replace(one, events=plain.EVENTS + 4))
    problem, _ = await host.members.write_nonces(OP, change.array, change.members, False, change)
    assert "have changed since" in problem
    assert not any(Path(array.paths[0]).read_bytes()[NONCE_OFFSET_BYTES:][:4096])


async def test_the_next_writer_goes_on_in_the_middle(array: PlainArray, tmp_path: Path) -> None:
    """Killed with one member written: the other one is plain, and shows its nonce."""
    first, before = Host(tmp_path), data_of(array)
    made = await take(first, adopt(array.paths))
    alone = replace(state_of(made), members=state_of(made).members[:1])
    await first.members.write_superblocks(replace(made, state=alone))
    assert guarded(array) == [True, False]
    second = Host(tmp_path, 1)
    again = replace(made, stamp=Stamp(2, 2))
    second.knows(again)
    written, failed = await second.members.write_superblocks(again)
    assert (len(written), failed) == (2, ())
    assert guarded(array) == [True, True]
    assert data_of(array) == before


async def test_stock_md_started_it_meanwhile(
    array: PlainArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer died after the commit, and somebody uses the plain array by now."""
    made, before = await take(Host(tmp_path), adopt(array.paths)), whole(array.paths)

    def busy(path: str) -> Hold:
        if path == array.paths[1]:
            raise MembersError(f"{path}: Device or resource busy")
        return Hold()

    monkeypatch.setattr("mdcluster.members.area.hold", busy)
    second = Host(tmp_path, 1)
    second.knows(made)
    written, failed = await second.members.write_superblocks(made)
    assert [device for device, _ in failed] == [state_of(made).members[1].device]
    assert "busy" in failed[0][1] and len(written) == 1
    assert whole(array.paths)[1] == before[1]


async def test_held_from_its_nonce_to_its_superblock(
    array: PlainArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each close of what was written has udev look, and mdadm take what looks plain."""
    held: list[str] = []

    class Watched(Hold):
        def __init__(self, path: str) -> None:
            super().__init__()
            self.path = path
            held.append(path)

        def release(self) -> None:
            if self.path in held:
                held.remove(self.path)

    monkeypatch.setattr("mdcluster.members.nonces.hold", Watched)
    host = Host(tmp_path)
    made = await take(host, adopt(array.paths))
    assert sorted(held) == sorted(array.paths)
    await host.members.write_superblocks(made)
    assert held == [] and guarded(array) == [True, True]
    back = given_back(made)
    await host.members.write_superblocks(back)
    await take(host, adopt(array.paths))
    assert len(held) == 2
    await host.members.drop_nonces(OP)
    assert held == []
    await take(host, adopt(array.paths))
    await host.members.paths_of(state_of(made))  # committed by another writer: to be run here
    assert held == []


async def test_an_area_with_fewer_rings_than_voters(tmp_path: Path) -> None:
    """1 MiB before the data, as old mdadm left it: four rings, and a fifth voter does without."""
    array = plain_array(tmp_path, data_offset_sectors=2048)
    host = Host(tmp_path, 2)
    others = tuple(Voter(f"m{i}", NodeId(str(UUID(int=0x900 + i)))) for i in range(4))
    in_cluster(host, voters=(*others, Voter("n2", kit.NODES[2])))
    made = await taken(host, adopt(array.paths))
    state = state_of(made)
    assert state.slot_count == 8
    found = on_disk(array.paths[0])
    assert found.superblock is not None and found.superblock.guarded
    assert found.rings == ()
    assert await host.members.probe(state, state.members[0].device) == ""


# --- giving it back ----------------------------------------------------------------------------


def given_back(made: Entry, stamp: Stamp = Stamp(1, 4)) -> Entry:  # noqa: B008
    """As the writer's pipeline commits it: the stamp of the release stays with it."""
    released = after(state_of(made), ReleaseArray(state_of(made).uuid))
    return Entry(made.key, stamp, replace(released, released_at=stamp))


async def test_given_back_it_is_plain(array: PlainArray, tmp_path: Path) -> None:
    host, before = Host(tmp_path), data_of(array)
    made = given_back(await taken(host, adopt(array.paths)))
    written, failed = await host.members.write_superblocks(made)
    assert (len(written), failed) == (2, ())
    assert data_of(array) == before
    for path in array.paths:
        found = on_disk(path)
        assert found.superblock is not None and found.header is None
        assert (found.superblock.feature_map, found.superblock.in_sync) == (0, True)
        assert found.superblock.events == Stamp(1, 4).events
    again = adopt(array.paths)
    assert (again.array, again.events) == (str(plain.ARRAY), Stamp(1, 4).events)


async def test_a_plain_member_is_left_alone(array: PlainArray, tmp_path: Path) -> None:
    """It may be in use by stock md already; a retry, or another writer, changes nothing."""
    host = Host(tmp_path)
    made = await taken(host, adopt(array.paths))
    await host.members.write_superblocks(given_back(made))
    array.change(0, lambda one: replace(one, events=Stamp(1, 4).events + 5))
    before = whole(array.paths)
    second = Host(tmp_path, 1)
    written, failed = await second.members.write_superblocks(given_back(made, Stamp(2, 2)))
    assert (len(written), failed) == (2, ())
    assert whole(array.paths) == before
    old = replace(made, stamp=Stamp(3, 2))  # nor does one that has not heard of the release
    written, failed = await second.members.write_superblocks(old)
    assert written == () and all("it was released" in why for _, why in failed)
    assert whole(array.paths) == before


async def test_whoever_finishes_a_release_writes_its_stamp(
    array: PlainArray, tmp_path: Path
) -> None:
    """Or stock md would take the members that the second writer made plain for the newer ones."""
    host = Host(tmp_path)
    back = given_back(await taken(host, adopt(array.paths)))
    await host.members.write_superblocks(replace(back, stamp=Stamp(2, 2)))
    found = [on_disk(path).superblock for path in array.paths]
    assert [one.events for one in found if one is not None] == 2 * [Stamp(1, 4).events]


async def test_release_goes_on_in_the_middle(array: PlainArray, tmp_path: Path) -> None:
    """Killed between superblock and header, or with a torn superblock: a retry completes it."""
    host = Host(tmp_path)
    made = await taken(host, adopt(array.paths))
    back = given_back(made)
    torn = whole(array.paths)[1][sb.SUPER_OFFSET_BYTES :][:2048]
    array.change(0, lambda one: one)  # plain, but the header of the area is there
    plain.patch(array.paths[1], sb.SUPER_OFFSET_BYTES, torn[:300] + bytes(100))
    written, failed = await Host(tmp_path, 1).members.write_superblocks(replace(back))
    assert (len(written), failed) == (2, ())
    for path in array.paths:
        assert on_disk(path).header is None
    assert on_disk(array.paths[1]).superblock is not None


async def test_the_gate_is_asked(array: PlainArray, tmp_path: Path) -> None:
    host = Host(tmp_path)
    made = await taken(host, adopt(array.paths))
    host.gate.shut()
    before = whole(array.paths)
    assert await host.members.write_superblocks(given_back(made)) == ((), ())
    assert whole(array.paths) == before


async def test_a_failed_member_stays_guarded(array: PlainArray, tmp_path: Path) -> None:
    """It is out of date: stock md must not take it for the array."""
    host = Host(tmp_path)
    made = await taken(host, adopt(array.paths))
    state = state_of(made)
    degraded = after(state, FailMember(state.uuid, state.members[1].device, "x"))
    back = replace(degraded, released=True, active=False, running=(), slots=())
    await host.members.write_superblocks(entry(back, 6))
    assert guarded(array) == [False, True]


async def test_a_cluster_that_is_no_more_is_taken_over(array: PlainArray, tmp_path: Path) -> None:
    """The way out if every state directory is lost: by force, and all of it is resynced."""
    await taken(Host(tmp_path), adopt(array.paths))
    heir = Host(tmp_path, 1)
    in_cluster(heir, uuid=str(UUID(int=0xC2)), name="heir")
    change = adopt(array.paths, force=True)
    assert change.state.resync_sectors == 0
    problem, _ = await heir.members.write_nonces(OP, change.array, change.members, False, change)
    assert "belongs to cluster lab" in problem
    made = replace(await take(heir, change, force=True), stamp=Stamp(2, 2))
    written, failed = await heir.members.write_superblocks(made)
    assert (len(written), failed) == (2, ())
    found = on_disk(array.paths[0])
    assert found.header is not None and found.header.cluster_name == "heir"
    assert not found.problems


def test_mdadm_agrees(array: PlainArray, tmp_path: Path) -> None:
    """Stock mdadm prints the members in all three states; only the plain ones are clean to it."""
    if shutil.which("mdadm") is None:
        pytest.skip("mdadm is not installed")

    def examine(path: str) -> dict[str, str]:
        out = subprocess.run(
            ["mdadm", "--examine", path], capture_output=True, text=True, check=True
        )
        pairs = (line.partition(" : ") for line in out.stdout.splitlines())
        return {name.strip(): value.strip() for name, _, value in pairs}

    async def go() -> list[dict[str, str]]:
        host, seen = Host(tmp_path), [examine(array.paths[0])]
        made = await taken(host, adopt(array.paths))
        seen.append(examine(array.paths[0]))
        await host.members.write_superblocks(given_back(made))
        return [*seen, examine(array.paths[0])]

    before, inside, out = asyncio.run(go())
    assert [int(one["Feature Map"], 16) for one in (before, inside, out)] == [1, sb.GUARD_BIT, 0]
    assert all(one["State"] == "clean" for one in (before, inside, out))
    for name in (
        "Array UUID",
        "Device UUID",
        "Creation Time",
        "Raid Level",
        "Data Offset",
        "Used Dev Size",
    ):
        assert before.get(name) == inside.get(name) == out.get(name), name
    assert out["Checksum"].endswith("correct")
    assert "Internal Bitmap" not in out
