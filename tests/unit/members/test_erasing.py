"""--zero-superblock on image files: what goes, what stays, and what is refused."""

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from mdcluster.core.model import CLUSTER_KEY, ClusterState, FailMember, RemoveMember
from mdcluster.gate import GateShutError
from mdcluster.members import MembersError
from mdcluster.members.erasing import erase
from mdcluster.members.look import look
from mdcluster.members.nonceblock import NONCE_OFFSET_BYTES
from mdcluster.metadata import superblock as sb
from mdcluster.metadata.layout import AREA_OFFSET_BYTES, HEADER_BYTES, HEADER_COPIES
from tests.unit.members import kit
from tests.unit.members.kit import ARRAY, Host, after, entry, image

MDADM = shutil.which("mdadm", path="/usr/sbin:/sbin:/usr/local/sbin:/usr/bin")
GONE = kit.device(1)


def put(path: str, offset_bytes: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset_bytes)
        file.write(data)


def taken(path: str, offset_bytes: int, length_bytes: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset_bytes)
        return file.read(length_bytes)


async def removed(host: Host, folder: Path) -> str:
    """A member that was: the array and the cluster go on without it."""
    paths = image(folder, "a"), image(folder, "b")
    state = await host.create(kit.creation(*paths, clean=True))
    change = FailMember(ARRAY, GONE, "told to"), RemoveMember(ARRAY, GONE)
    host.knows(entry(after(state, *change), seq=6))
    return paths[1]


def mdadm(*words: str) -> int:
    assert MDADM is not None
    return subprocess.run([MDADM, *words], capture_output=True, timeout=30, check=False).returncode


async def test_all_that_makes_it_a_member_goes_and_no_more(tmp_path: Path) -> None:
    host = Host(tmp_path)
    path = await removed(host, tmp_path)
    size = os.path.getsize(path)
    places = (size - 16 * sb.SECTOR & ~4095, (size & ~65535) - 65536)  # 1.0, 0.90
    for at in places:
        put(path, at, sb.MAGIC.to_bytes(4, "little") + bytes(range(200)))
    before = Path(path).read_bytes()
    assert await host.members.erase(ARRAY, GONE, path, False) == ""
    seen = look(path)
    assert (seen.superblock, seen.header, seen.nonce, seen.in_md) == (None, None, None, "")
    blocks = [(at, sb.BLOCK) for at in (*places, sb.SUPER_OFFSET_BYTES)]
    blocks.append((AREA_OFFSET_BYTES, HEADER_COPIES * HEADER_BYTES))
    left = bytearray(before)
    for at, length in blocks:
        assert any(before[at : at + length])
        left[at : at + length] = bytes(length)
    assert Path(path).read_bytes() == left
    assert "is the device of that superblock" in await host.members.erase(ARRAY, GONE, path, True)


@pytest.mark.mdadm
@pytest.mark.skipif(MDADM is None, reason="mdadm is not installed here")
async def test_it_leaves_a_plain_device_as_mdadm_does(tmp_path: Path) -> None:
    """Bytes of the superblock; the cluster's area is nothing to mdadm."""
    host = Host(tmp_path)
    path = await removed(host, tmp_path)
    found = look(path).superblock
    assert found is not None
    plain = str(tmp_path / "plain.img")
    shutil.copy(path, plain)
    put(plain, sb.SUPER_OFFSET_BYTES, sb.encode(replace(found, feature_map=0)))
    assert mdadm("--examine", plain) == 0
    assert mdadm("--zero-superblock", plain) == 0
    os.rename(plain, tmp_path.parent / "plain.img")
    assert await host.members.erase(ARRAY, GONE, path, False) == ""
    head = sb.SUPER_OFFSET_BYTES + sb.BLOCK
    assert taken(path, 0, head) == taken(str(tmp_path.parent / "plain.img"), 0, head) == bytes(head)
    assert mdadm("--examine", path) == mdadm("--examine", str(tmp_path.parent / "plain.img")) == 1


async def test_no_member_whatever_its_state_and_with_force(tmp_path: Path) -> None:
    host = Host(tmp_path)
    paths = image(tmp_path, "a"), image(tmp_path, "b"), image(tmp_path, "c")
    state = await host.create(kit.creation(*paths, clean=True))
    host.knows(entry(after(state, FailMember(ARRAY, kit.device(0), "told to")), seq=4))
    for number, path in enumerate(paths):
        before = Path(path).read_bytes()
        why = await host.members.erase(ARRAY, kit.device(number), path, True)
        assert "is a member of array data" in why
        assert Path(path).read_bytes() == before


async def test_one_of_another_cluster_only_by_force(tmp_path: Path) -> None:
    host = Host(tmp_path)
    path = await removed(host, tmp_path)
    other = Host(tmp_path)
    cluster = host.entries[CLUSTER_KEY]
    assert isinstance(cluster.state, ClusterState)
    state = replace(cluster.state, uuid=str(UUID(int=0xC2)), name="other")
    other.knows(replace(cluster, state=state))
    why = await other.members.erase(ARRAY, GONE, path, False)
    assert why == f"{path} belongs to cluster lab; --force if that is no more"
    assert await other.members.erase(ARRAY, GONE, path, True) == ""


async def test_what_is_just_being_taken_and_a_clone_stay(tmp_path: Path) -> None:
    host = Host(tmp_path)
    path = await removed(host, tmp_path)
    new = kit.new_member(path, 7, -1)
    assert (await host.members.write_nonces(9, ARRAY, [new], True))[0] == ""
    assert "just being taken" in await host.members.erase(ARRAY, GONE, path, True)
    assert await host.members.drop_nonces(9) == ""
    shutil.copy(path, tmp_path / "clone")
    why = await host.members.erase(ARRAY, GONE, path, False)
    assert path in why and str(tmp_path / "clone") in why
    os.unlink(tmp_path / "clone")
    assert await host.members.erase(ARRAY, GONE, path, False) == ""


async def test_a_claim_that_nobody_has_goes_alone(tmp_path: Path) -> None:
    """Its writer died: what else stands there is not the cluster's."""
    path = image(tmp_path, "new")
    put(path, sb.SUPER_OFFSET_BYTES, b"somebody's")
    first, host = Host(tmp_path), Host(tmp_path)
    await removed(first, tmp_path)
    for key, known in first.entries.items():
        host.entries[key] = known
    new = kit.new_member(path, 7, -1)
    assert (await first.members.write_nonces(9, ARRAY, [new], True))[0] == ""
    assert await host.members.erase(ARRAY, new.device, path, False) == ""
    assert taken(path, NONCE_OFFSET_BYTES, sb.BLOCK) == bytes(sb.BLOCK)
    assert taken(path, sb.SUPER_OFFSET_BYTES, 10) == b"somebody's"


async def test_not_without_the_gate_nor_what_has_changed(tmp_path: Path) -> None:
    host = Host(tmp_path)
    path = await removed(host, tmp_path)
    seen, before = look(path), Path(path).read_bytes()
    host.gate.shut()
    assert "the gate is shut" in await host.members.erase(ARRAY, GONE, path, False)
    with pytest.raises(GateShutError):
        erase(seen, host.gate.check)
    assert Path(path).read_bytes() == before
    put(path, sb.SUPER_OFFSET_BYTES, bytes(sb.BLOCK))
    put(path, AREA_OFFSET_BYTES, bytes(HEADER_COPIES * HEADER_BYTES))
    with pytest.raises(MembersError, match="has changed just now"):
        erase(seen, lambda: None)
