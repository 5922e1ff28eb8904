"""Members on image files: commits, nonces, prepare rounds, slots, probes, and what is refused."""

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from mdcluster.core.model import (
    ZERO,
    AddMember,
    ArrayId,
    Claim,
    ClusterState,
    Entry,
    FailMember,
    JoinRunner,
    LeaveRunner,
    Outcome,
    SetSize,
    Stamp,
)
from mdcluster.members import MembersError, area
from mdcluster.members.area import ENTRY_CODEC, payload_of
from mdcluster.members.nonceblock import NONCE_OFFSET_BYTES
from mdcluster.metadata import rings
from mdcluster.metadata.cluster_area import Header
from mdcluster.metadata.superblock import BLOCK, SECTOR, SUPER_OFFSET_BYTES, Superblock, encode
from tests.unit.members import kit
from tests.unit.members.kit import ARRAY, Host, after, entry, image, on_disk


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    return image(tmp_path, "a"), image(tmp_path, "b")


def superblock(path: str) -> Superblock:
    found = on_disk(path).superblock
    assert found is not None
    return found


def header(path: str) -> Header:
    found = on_disk(path).header
    assert found is not None
    return found


def damage(path: str, offset_bytes: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset_bytes)
        file.write(data)


def block(path: str, offset_bytes: int, length_bytes: int = BLOCK) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset_bytes)
        return file.read(length_bytes)


# --- commits -------------------------------------------------------------------------------------


async def test_a_creation_leaves_whole_members(host: Host, pair: tuple[str, str]) -> None:
    state = await host.create(kit.creation(*pair))
    for number, path in enumerate(pair):
        seen = on_disk(path)
        assert seen.all_problems == ()
        assert superblock(path).device_uuid == UUID(kit.device(number))
        assert [n.name for n in header(path).nodes] == ["n0", "n1", "n2"]
        assert [n.bitmap_slot for n in header(path).nodes] == [0, 1, 2]
        (record,) = seen.rings[0].records
        assert ENTRY_CODEC.decode(record.payload) == entry(state)
        assert (record.term, record.seq) == (1, 2)


async def test_commits_follow_each_other_in_ring_and_superblock(
    host: Host, pair: tuple[str, str]
) -> None:
    state = await host.create(kit.creation(*pair))
    for seq in range(4, 16, 2):
        written, failed = await host.members.write_superblocks(entry(state, seq))
        assert (len(written), failed) == (2, ())
    ring = on_disk(pair[0]).rings[0]
    assert [r.seq for r in ring.records] == [8, 10, 12, 14]
    assert superblock(pair[1]).events == Stamp(1, 14).events


async def test_an_old_copy_is_not_written_or_it_would_pass_for_the_real_one(
    host: Host, pair: tuple[str, str]
) -> None:
    state = await host.create(kit.creation(*pair, clean=True))
    old = Path(pair[1]).read_bytes()
    await host.members.write_superblocks(entry(state, 4))
    Path(pair[1]).write_bytes(old)
    next_writer = Host(Path(pair[0]).parent, 1)
    next_writer.gate.open(2, 1000)
    next_writer.knows(entry(state, 4))
    written, failed = await next_writer.members.write_superblocks(
        entry(state, 2, term=2), Stamp(1, 4)
    )
    assert written == (kit.device(0),)
    assert [device for device, _ in failed] == [kit.device(1)]
    assert "an old copy" in failed[0][1]
    assert Path(pair[1]).read_bytes() == old


async def test_an_older_superblock_of_a_late_writer_makes_no_old_copy(
    host: Host, pair: tuple[str, str]
) -> None:
    """The rings show that the member was written to since."""
    state = await host.create(kit.creation(*pair, clean=True))
    old = block(pair[1], SUPER_OFFSET_BYTES, BLOCK)
    await host.members.write_superblocks(entry(state, 4))
    with Path(pair[1]).open("r+b") as file:
        file.seek(SUPER_OFFSET_BYTES)
        file.write(old)
    next_writer = Host(Path(pair[0]).parent, 1)
    next_writer.gate.open(2, 1000)
    next_writer.knows(entry(state, 4))
    written, failed = await next_writer.members.write_superblocks(
        entry(state, 2, term=2), Stamp(1, 4)
    )
    assert (len(written), failed) == (2, ())


async def test_a_shut_gate_says_nothing_of_any_member(host: Host, pair: tuple[str, str]) -> None:
    state = await host.create(kit.creation(*pair))
    before = [block(path, 0, kit.SIZE_BYTES) for path in pair]
    host.now_ms = 1000
    assert await host.members.write_superblocks(entry(state, 4)) == ((), ())
    assert [block(path, 0, kit.SIZE_BYTES) for path in pair] == before


async def test_the_gate_is_asked_right_before_the_superblock(
    host: Host, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = await host.create(kit.creation(*pair))
    real = area._write_ring

    def lease_ends(*args: Any) -> Any:
        made = real(*args)
        host.now_ms = 1000
        return made

    monkeypatch.setattr(area, "_write_ring", lease_ends)
    assert await host.members.write_superblocks(entry(state, 4)) == ((), ())
    assert superblock(pair[0]).events == Stamp(1, 2).events
    newest = on_disk(pair[0]).rings[0].newest("array")
    assert newest is not None and newest.seq == 4  # its own block: no gate


async def test_a_faulty_member_is_left_alone(host: Host, pair: tuple[str, str]) -> None:
    state = await host.create(kit.creation(*pair, clean=True))
    state = after(state, FailMember(ARRAY, kit.device(1), "EIO"))
    written, failed = await host.members.write_superblocks(entry(state, 4))
    assert (written, failed) == ((kit.device(0),), ())
    assert superblock(pair[1]).events == Stamp(1, 2).events
    assert superblock(pair[0]).dev_roles[1] == 0xFFFE


async def test_one_missing_member_fails_alone(host: Host, pair: tuple[str, str]) -> None:
    state = await host.create(kit.creation(*pair))
    os.unlink(pair[1])
    written, failed = await host.members.write_superblocks(entry(state, 4))
    assert written == (kit.device(0),)
    assert [device for device, _ in failed] == [kit.device(1)]
    assert "b" in failed[0][1]


async def test_an_exchanged_device_is_never_written(
    tmp_path: Path, host: Host, pair: tuple[str, str]
) -> None:
    state = await host.create(kit.creation(*pair))
    other = image(tmp_path, "other")
    os.rename(other, pair[1])
    written, failed = await host.members.write_superblocks(entry(state, 4))
    assert written == (kit.device(0),)
    assert "exchanged" in failed[0][1]
    assert not any(block(pair[1], 0, kit.SIZE_BYTES))


async def test_a_device_given_away_is_not_taken_back(
    tmp_path: Path, host: Host, pair: tuple[str, str]
) -> None:
    state = await host.create(kit.creation(*pair))
    assert not any(block(pair[0], NONCE_OFFSET_BYTES))
    theirs = replace(superblock(pair[0]), set_uuid=UUID(int=7), device_uuid=UUID(int=8))
    damage(pair[0], SUPER_OFFSET_BYTES, encode(theirs))
    damage(pair[1], SUPER_OFFSET_BYTES, bytes(BLOCK))  # as a mkfs may leave it
    before = [block(path, 0, kit.SIZE_BYTES) for path in pair]
    assert "exchanged" in await host.members.probe(state, kit.device(0))
    assert "exchanged" in await host.members.clear_own_slot(state, 0)
    host.gate.open(2, 1000)
    written, failed = await host.members.write_superblocks(entry(state, 2, term=2))
    assert written == () and all("exchanged" in why for _, why in failed)
    assert [block(path, 0, kit.SIZE_BYTES) for path in pair] == before


async def test_a_new_writer_goes_on_with_its_own_ring(
    tmp_path: Path, host: Host, pair: tuple[str, str]
) -> None:
    state = await host.create(kit.creation(*pair))
    next_writer = Host(tmp_path, 1)
    next_writer.gate.open(2, 1000)
    next_writer.knows(entry(state))
    written, failed = await next_writer.members.write_superblocks(entry(state, 2, term=2))
    assert (len(written), failed) == (2, ())
    seen = on_disk(pair[0])
    assert seen.all_problems == ()
    assert [ring.voter_index for ring in seen.rings] == [0, 1]
    assert superblock(pair[0]).events == Stamp(2, 2).events


async def test_an_older_commit_never_replaces_a_newer_superblock(
    tmp_path: Path, host: Host, pair: tuple[str, str]
) -> None:
    state = await host.create(kit.creation(*pair))
    later = Host(tmp_path, 1)
    later.gate.open(5, 1000)
    later.knows(entry(state))
    await later.members.write_superblocks(entry(state, 2, term=5))
    late = Host(tmp_path)
    late.knows(entry(state))
    assert await late.members.write_superblocks(entry(state, 4)) == ((), ())
    assert superblock(pair[0]).events == Stamp(5, 2).events


async def test_a_torn_superblock_is_written_again(
    tmp_path: Path, host: Host, pair: tuple[str, str]
) -> None:
    state = await host.create(kit.creation(*pair))
    damage(pair[0], SUPER_OFFSET_BYTES + 300, b"\xff" * 64)
    written, failed = await host.members.write_superblocks(entry(state, 4))
    assert (len(written), failed) == (2, ())
    assert on_disk(pair[0]).all_problems == ()


async def test_damaged_headers_do_not_cost_the_bits_behind_them(
    tmp_path: Path, host: Host, pair: tuple[str, str]
) -> None:
    state = await host.create(kit.creation(*pair))
    at = host.members.slot_offset_sectors(state, 1) * SECTOR
    damage(pair[0], at, b"\x5a" * 16)
    damage(pair[0], header(pair[0]).area.offset_bytes, bytes(2 * BLOCK))
    again = Host(tmp_path)
    again.knows(entry(state))
    await again.members.registry.scan()
    _, failed = await again.members.write_superblocks(entry(state, 4))
    assert failed == ()
    assert block(pair[0], at, 16) == b"\x5a" * 16
    assert on_disk(pair[0]).all_problems == ()


async def test_the_node_table_follows_who_runs_it(host: Host, pair: tuple[str, str]) -> None:
    state = await host.create(kit.creation(*pair))
    state = after(state, LeaveRunner(ARRAY, kit.LIVES[1]))
    await host.members.write_superblocks(entry(state, 4))
    assert [n.bitmap_slot for n in header(pair[0]).nodes] == [0, None, 2]
    assert header(pair[0]).generation == 2
    state = after(state, JoinRunner(ARRAY, kit.LIVES[1]))
    await host.members.write_superblocks(entry(state, 6))
    assert [n.voter_index for n in header(pair[0]).nodes] == [0, 1, 2]
    assert [n.bitmap_slot for n in header(pair[0]).nodes] == [0, 1, 2]


async def test_what_is_no_members_fault_fails_no_member(host: Host, pair: tuple[str, str]) -> None:
    state = await host.create(kit.creation(*pair))
    known = host.entries["cluster"]
    host.entries["cluster"] = replace(known, state=ClusterState("", "lab", ()))
    assert await host.members.write_superblocks(entry(state, 4)) == ((), ())
    host.entries["cluster"] = replace(known, state=ClusterState(str(kit.CLUSTER), "lab", ()))
    assert await host.members.write_superblocks(entry(state, 4)) == ((), ())
    assert superblock(pair[0]).events == Stamp(1, 2).events


def test_a_record_keeps_the_latest_outcomes_that_fit() -> None:
    state = after(None, kit.creation("/a", "/b"))
    long = tuple(Outcome(f"p{n}", "x" * 1000) for n in range(64))
    one = entry(state)
    payload = payload_of(replace(one, recent=long))
    assert len(payload) <= rings.PAYLOAD_BYTES_MAX
    kept = ENTRY_CODEC.decode_as(Entry, payload)
    assert kept.recent and kept.recent[-1] == long[-1] and kept.state == state


# --- nonces --------------------------------------------------------------------------------------


async def test_nonces_are_put_back_byte_for_byte(host: Host, pair: tuple[str, str]) -> None:
    damage(pair[0], NONCE_OFFSET_BYTES, b"old content" * 300)
    before = [block(path, 0, kit.SIZE_BYTES) for path in pair]
    change = kit.creation(*pair)
    problem, nonces = await host.members.write_nonces(9, ARRAY, change.members, False)
    assert problem == "" and len({value for _, value in nonces}) == 2
    assert [block(path, 0, kit.SIZE_BYTES) for path in pair] != before
    await host.members.drop_nonces(9)
    assert [block(path, 0, kit.SIZE_BYTES) for path in pair] == before


async def test_nothing_is_put_back_over_a_committed_member(
    host: Host, pair: tuple[str, str]
) -> None:
    await host.create(kit.creation(*pair))
    before = block(pair[0], 0, kit.SIZE_BYTES)
    await host.members.drop_nonces(1)
    assert block(pair[0], 0, kit.SIZE_BYTES) == before


async def test_a_re_add_is_of_the_very_member(
    tmp_path: Path, host: Host, pair: tuple[str, str]
) -> None:
    """What else stands at its path has nothing of what the bitmaps take for granted."""
    state = await host.create(kit.creation(*pair))
    host.knows(entry(after(state, FailMember(ARRAY, kit.device(1), "told to")), seq=4))
    member = kit.new_member(pair[1], 1, 1)
    assert (await host.members.write_nonces(3, ARRAY, [member], False))[0] == ""
    await host.members.drop_nonces(3)
    blank = image(tmp_path, "blank")
    other = kit.new_member(blank, 1, 1)
    for again in (other, kit.new_member(pair[0], 1, 1)):
        problem, _ = await host.members.write_nonces(4, ARRAY, [again], True)
        assert "does not show the superblock of that member" in problem
    damage(pair[1], SUPER_OFFSET_BYTES, bytes(BLOCK))
    problem, _ = await host.members.write_nonces(5, ARRAY, [member], True)
    assert "wiped or exchanged" in problem


async def refusal(host: Host, *paths: str, force: bool = False) -> str:
    problem, nonces = await host.members.write_nonces(
        3, ArrayId(str(UUID(int=9))), kit.creation(*paths).members, force
    )
    assert problem and nonces == ()
    return problem


async def test_devices_that_cannot_be_taken(
    tmp_path: Path, host: Host, pair: tuple[str, str]
) -> None:
    small = image(tmp_path, "small", 6 * kit.MIB)
    link = str(tmp_path / "link")
    os.symlink(pair[0], link)
    os.mkfifo(tmp_path / "fifo")
    assert "named twice" in await refusal(host, pair[0], link)
    assert "too small: 6144K, 10240K are missing" in await refusal(host, pair[0], small)
    assert "No such file" in await refusal(host, pair[0], str(tmp_path / "none"))
    assert "neither a block device" in await refusal(host, str(tmp_path / "fifo"), pair[1])
    assert "neither a block device" in await refusal(host, str(tmp_path), pair[1])
    assert not any(any(block(path, 0, kit.SIZE_BYTES)) for path in pair)


async def test_devices_in_use_by_others_need_force(
    tmp_path: Path, host: Host, pair: tuple[str, str]
) -> None:
    damage(pair[0], 1080, b"\x53\xef")
    assert "appears to contain an ext2fs file system" in await refusal(host, *pair)
    members = kit.creation(*pair).members
    problem, nonces = await host.members.write_nonces(4, ARRAY, members, True)
    assert problem == "" and len(nonces) == 2


async def test_a_raid_member_needs_force_and_one_of_ours_is_refused_even_so(
    tmp_path: Path, host: Host, pair: tuple[str, str]
) -> None:
    await host.create(kit.creation(*pair))
    stranger = Host(tmp_path)
    spare = image(tmp_path, "c")
    assert "appears to be part of a raid array (data, of a cluster)" in await refusal(
        stranger, pair[0], spare
    )
    assert "is a member of array data" in await refusal(host, pair[0], spare, force=True)


async def test_a_shut_gate_marks_nothing(host: Host, pair: tuple[str, str]) -> None:
    host.gate.shut()
    assert "gate is shut" in await refusal(host, *pair)
    assert not any(any(block(path, 0, kit.SIZE_BYTES)) for path in pair)


async def test_a_new_member_of_a_running_array(
    tmp_path: Path, host: Host, pair: tuple[str, str]
) -> None:
    state = await host.create(kit.creation(*pair, clean=True))
    third = image(tmp_path, "c")
    new = kit.new_member(third, 2, -1)
    problem, _ = await host.members.write_nonces(2, ARRAY, (new,), False)
    assert problem == ""
    state = after(state, AddMember(ARRAY, new))
    written, failed = await host.members.write_superblocks(entry(state, 4))
    assert (len(written), failed) == (3, ())
    assert on_disk(third).all_problems == () and superblock(third).role == 0xFFFF


# --- prepare -------------------------------------------------------------------------------------


async def claims_of(host: Host, *paths: str) -> list[Claim]:
    members = kit.creation(*paths).members
    problem, nonces = await host.members.write_nonces(1, ARRAY, members, False)
    assert problem == ""
    named = {member.device: member.path for member in members}
    return [Claim(device, named[device], value) for device, value in nonces]


async def test_other_nodes_find_devices_under_other_names(
    tmp_path: Path, host: Host, pair: tuple[str, str]
) -> None:
    claims = await claims_of(host, *pair)
    os.rename(pair[0], tmp_path / "moved")
    proved = await Host(tmp_path, 1).members.prepare(claims)
    assert proved.problem == "" and proved.missing == ()
    assert proved.found == ((kit.device(0), ZERO), (kit.device(1), ZERO))


async def test_a_clone_and_a_wrong_path_are_found(
    tmp_path: Path, host: Host, pair: tuple[str, str]
) -> None:
    claims = await claims_of(host, *pair)
    other = Host(tmp_path, 1)
    os.unlink(pair[1])
    proved = await other.members.prepare(claims)
    assert [device for device, _ in proved.missing] == [kit.device(1)]
    assert "No such file" in proved.missing[0][1] or "nonce" in proved.missing[0][1]
    (tmp_path / "clone").write_bytes(Path(pair[0]).read_bytes())
    proved = await other.members.prepare(claims)
    assert "clone" in proved.problem and pair[0] in proved.problem


async def test_known_devices_show_their_stamp(
    tmp_path: Path, host: Host, pair: tuple[str, str]
) -> None:
    state = await host.create(kit.creation(*pair))
    other = Host(tmp_path, 1)
    claims = [Claim(m.device, "", b"") for m in state.members]
    proved = await other.members.prepare(claims)
    assert proved.found == tuple((m.device, Stamp(1, 2)) for m in state.members)
    assert await other.members.paths_of(state) == dict(
        zip((m.device for m in state.members), pair, strict=True)
    )
    (tmp_path / "clone").write_bytes(Path(pair[0]).read_bytes())
    proved = await other.members.prepare(claims)
    assert "the UUID" in proved.problem and "clone" in proved.problem


async def test_stamps_of_another_cluster_do_not_count(
    tmp_path: Path, host: Host, pair: tuple[str, str]
) -> None:
    state = await host.create(kit.creation(*pair))
    other = Host(tmp_path, 1)
    known = other.entries["cluster"]
    cluster = ClusterState(str(UUID(int=0xBAD)), "else", ())
    other.entries["cluster"] = replace(known, state=cluster)
    proved = await other.members.prepare([Claim(state.members[0].device, "", b"")])
    assert proved.found == () and "belongs to cluster lab" in proved.missing[0][1]


# --- slots and probes ----------------------------------------------------------------------------


async def test_slots_are_zeroed_one_at_a_time(host: Host, pair: tuple[str, str]) -> None:
    state = await host.create(kit.creation(*pair))
    offsets = [host.members.slot_offset_sectors(state, n) * SECTOR for n in range(3)]
    for path in pair:
        for at in offsets:
            damage(path, at, b"\xff" * 64)
    assert await host.members.zero_slot(state, 1) == ""
    for path in pair:
        assert [any(block(path, at)) for at in offsets] == [True, False, True]
    host.gate.shut()
    assert "gate is shut" in await host.members.zero_slot(state, 2)
    assert any(block(pair[0], offsets[2]))
    assert await host.members.clear_own_slot(state, 2) == ""
    assert not any(block(pair[0], offsets[2]))


async def test_a_slot_that_does_not_exist(host: Host, pair: tuple[str, str]) -> None:
    state = await host.create(kit.creation(*pair))
    with pytest.raises(MembersError, match="slot 64 does not exist"):
        host.members.slot_offset_sectors(state, 64)


async def test_a_probe_changes_no_byte(tmp_path: Path, host: Host, pair: tuple[str, str]) -> None:
    state = await host.create(kit.creation(*pair))
    other = Host(tmp_path, 1)
    before = block(pair[0], 0, kit.SIZE_BYTES)
    assert await host.members.probe(state, kit.device(0)) == ""
    assert await other.members.probe(state, kit.device(0)) == ""
    assert block(pair[0], 0, kit.SIZE_BYTES) == before
    os.unlink(pair[1])
    assert "b" in await host.members.probe(state, kit.device(1))
    assert "not to be found" in await host.members.probe(state, kit.device(7))


async def test_a_hanging_device_delays_only_itself(
    tmp_path: Path, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path, timing=replace(kit.TIMING, write_deadline_ms=500))
    state = await host.create(kit.creation(*pair))
    go, real = threading.Event(), area.write_member

    def hang(path: str, *args: Any, **named: Any) -> Any:
        if path == pair[1]:
            go.wait(30)
        return real(path, *args, **named)

    monkeypatch.setattr("mdcluster.members.members.write_member", hang)
    try:
        written, failed = await host.members.write_superblocks(entry(state, 4))
        assert written == (kit.device(0),)
        assert "no answer within 500 ms" in failed[0][1]
        written, failed = await host.members.write_superblocks(entry(state, 6))
        assert written == (kit.device(0),) and host.members.workers.outstanding == 1
    finally:
        go.set()
        await host.members.workers.idle()
    written, failed = await host.members.write_superblocks(entry(state, 8))
    assert (len(written), failed) == (2, ())


async def test_the_header_follows_the_size(host: Host, pair: tuple[str, str]) -> None:
    state = replace(await host.create(kit.creation(*pair, clean=True)), running=(), slots=())
    small = replace(state, size_sectors=2048)
    grown = after(small, SetSize(ARRAY, 4096))
    await host.members.write_superblocks(entry(small, 4))
    assert [header(path).covered_sectors for path in pair] == [2048, 2048]
    await host.members.write_superblocks(entry(grown, 6))
    for path in pair:
        assert header(path).covered_sectors == 4096
        found = on_disk(path)
        assert found.all_problems == () and found.superblock is not None
        assert found.superblock.size_sectors == 4096
        assert found.superblock.resync_offset_sectors == 2048
