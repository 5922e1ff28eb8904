"""Finding devices: globs, directories, other names for one device, bounded rescans."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.members import MembersError, Registry
from mdcluster.members.look import Look, candidates, look
from mdcluster.members.nonceblock import NONCE_BYTES, Nonce, decode_nonce, encode_nonce
from mdcluster.workers import Workers
from tests.unit.members import kit
from tests.unit.members.kit import Host, image


def registry(*patterns: str) -> Registry:
    return Registry(patterns, Workers(), 1000)


def test_each_device_once_whatever_its_names(tmp_path: Path) -> None:
    a, b = image(tmp_path, "a"), image(tmp_path, "b")
    link = str(tmp_path / "link")
    os.symlink(a, link)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    assert candidates([str(tmp_path)]) == (a, b)
    assert candidates([f"{tmp_path}/[bl]*", f"{tmp_path}/none"]) == (b, link)
    assert candidates([str(tmp_path)], hints=[link]) == (link, b)
    assert candidates(["/nowhere", "/nowhere/*"]) == ()


def test_what_stands_on_a_device_is_told(tmp_path: Path) -> None:
    plain = image(tmp_path, "plain")
    assert look(plain).problem == look(plain).in_md == look(plain).foreign == ""
    with open(plain, "r+b") as file:
        file.write(b"XFSB")
    assert look(plain).foreign == "an xfs file system"
    with open(plain, "r+b") as file:
        file.write((0xA92B4EFC).to_bytes(4, "little"))
    assert "1.1" in look(plain).in_md
    tiny = image(tmp_path, "tiny", 100)
    assert look(tiny).problem == "" and look(tiny).size_bytes == 100
    assert "No such file" in look(str(tmp_path / "none")).problem
    assert "null" in look("a\0b").problem


async def test_found_by_uuid_wherever_it_is(tmp_path: Path) -> None:
    a, b = image(tmp_path, "a"), image(tmp_path, "b")
    await Host(tmp_path).create(kit.creation(a, b))
    places = registry(str(tmp_path))
    assert places.path_of(kit.device(0)) is None
    assert await places.find(kit.device(0)) == a
    moved = str(tmp_path / "z")
    os.rename(a, moved)
    await places.scan()
    assert await places.find(kit.device(0)) == moved


async def test_what_is_not_there_is_not_looked_for_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(tmp_path, "a")
    places = registry(str(tmp_path))
    looked: list[str] = []

    def count(path: str) -> Look:
        looked.append(path)
        return look(path)

    monkeypatch.setattr("mdcluster.members.registry.look", count)
    for _ in range(3):
        with pytest.raises(MembersError, match="not to be found on this node"):
            await places.find(kit.device(5))
    assert len(looked) == 1


async def test_two_devices_of_one_uuid_are_both_refused(tmp_path: Path) -> None:
    a, b = image(tmp_path, "a"), image(tmp_path, "b")
    await Host(tmp_path).create(kit.creation(a, b))
    (tmp_path / "clone").write_bytes(Path(a).read_bytes())
    places = registry(str(tmp_path))
    await places.scan()
    assert places.path_of(kit.device(0)) is None
    assert places.path_of(kit.device(1)) == b


@given(st.uuids(), st.uuids(), st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES))
def test_nonce_blocks_come_back(array: object, device: object, value: bytes) -> None:
    nonce = Nonce(array, device, value)  # type: ignore[arg-type]
    raw = encode_nonce(nonce)
    assert len(raw) == 4096 and decode_nonce(raw) == nonce
    assert decode_nonce(raw[:40] + bytes([raw[40] ^ 1]) + raw[41:]) is None


@given(st.binary(max_size=5000))
def test_anything_else_is_no_nonce(raw: bytes) -> None:
    assert decode_nonce(raw) is None
