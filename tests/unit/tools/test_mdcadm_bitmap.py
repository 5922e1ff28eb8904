"""--examine-bitmap, --examine-badblocks and --query against the installed mdadm, line by line."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from mdcluster.metadata import superblock as sb
from mdcluster.tools import mdcadm
from tests import plain
from tests.unit.metadata import images

Capture = pytest.CaptureFixture[str]
MDADM = shutil.which("mdadm", path="/usr/sbin:/sbin:/usr/local/sbin:/usr/bin")
INSTALLED = pytest.mark.skipif(MDADM is None, reason="mdadm is not installed here")
LOOPS = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="loop devices need root"
)


def same(capsys: Capture, *words: str) -> str:
    """What both print to stdout, with the same exit code."""
    theirs = subprocess.run(
        [str(MDADM), *words], capture_output=True, text=True, timeout=20, check=False
    )
    capsys.readouterr()
    assert mdcadm.main(list(words)) == theirs.returncode
    ours = capsys.readouterr().out
    assert ours == theirs.stdout
    return ours


@contextmanager
def loop(path: str) -> Iterator[str]:
    """A read-only loop device: mdadm looks for a member's bitmap on block devices only."""
    made = subprocess.run(
        ["losetup", "--read-only", "--find", "--show", path],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    device = made.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], timeout=20, check=True)


@pytest.mark.mdadm
@INSTALLED
@LOOPS
@pytest.mark.parametrize("options", [["-X"], ["-X", "--brief"], ["--examine-bitmap"]])
def test_a_plain_members_bitmap(options: list[str], tmp_path: Path, capsys: Capture) -> None:
    array = plain.plain_array(tmp_path)
    plain.write_bitmap(array.paths[0], array.superblocks[0], b"\x07\x80", state=2)
    with loop(array.paths[0]) as device:
        out = same(capsys, *options, device)
    assert ("4 dirty" in out) == ("--brief" not in options)
    assert "State : Out of date" in out


@pytest.mark.mdadm
@INSTALLED
@LOOPS
def test_bitmaps_of_md_s_own_cluster(tmp_path: Path, capsys: Capture) -> None:
    array = plain.plain_array(tmp_path, log=False)
    for slot in range(3):
        head = struct.pack(
            "<II16sQQQIIIIII64s",
            *(0x6D746962, 5, plain.ARRAY.bytes, 18 + slot, 17, 22528, 0, 65536, 5, 0, 8, 3),
            b"lab",
        )
        at = sb.SUPER_OFFSET_BYTES + 8 * 512 * (slot + 1)
        plain.patch(array.paths[0], at, head.ljust(256, b"\0") + bytes([1 << slot, slot]))
    with loop(array.paths[0]) as device:
        out = same(capsys, "-X", device)
    assert "Cluster nodes : 3" in out
    assert "Node Slot : 2" in out


@pytest.mark.mdadm
@INSTALLED
def test_a_bitmap_file(tmp_path: Path, capsys: Capture) -> None:
    array = plain.plain_array(tmp_path)
    raw = Path(array.paths[0]).read_bytes()[8192 : 8192 + 4096]
    file = tmp_path / "bitmap"
    file.write_bytes(raw)
    assert "176 bits (chunks), 0 dirty" in same(capsys, "-X", str(file))


def test_the_slots_of_all_nodes(tmp_path: Path, capsys: Capture) -> None:
    pair = images.write_images(tmp_path)
    assert mdcadm.main(["-X", pair.paths[0]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "Cluster n" in line] == [
        "   Cluster nodes : 3",
        f"    Cluster name : {'lab':<64}",
    ]
    at = lines.index("       Node Slot : 1")
    assert lines[at + 1 : at + 4] == [
        "       Node Name : node1",
        "           State : OK",
        "          Bitmap : 176 bits (chunks), 6 dirty (3.4%)",
    ]
    assert mdcadm.main(["-X", "--json", pair.paths[0]]) == 0
    (one,) = json.loads(capsys.readouterr().out)["bitmaps"]
    assert [(slot["slot"], slot["dirty"]) for slot in one["slots"]] == [(0, 0), (1, 6), (2, 0)]


def test_without_a_bitmap(tmp_path: Path, capsys: Capture) -> None:
    array = plain.plain_array(tmp_path, bitmap=False)
    noise = tmp_path / "noise"
    noise.write_bytes(b"?" * 8192)
    assert mdcadm.main(["-X", array.paths[0], str(noise), str(tmp_path / "absent")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 3


@pytest.mark.mdadm
@INSTALLED
def test_bad_blocks(tmp_path: Path, capsys: Capture) -> None:
    array = plain.plain_array(tmp_path)
    assert "is empty" in same(capsys, "--examine-badblocks", array.paths[0])
    entries = struct.pack("<QQ", 100 << 10 | 8, 5000 << 10 | 3)
    plain.write_log(array.paths[0], entries)
    for shift in (0, 1):
        array.change(
            0,
            lambda one, shift=shift: replace(  # type: ignore[misc]
                one, feature_map=one.feature_map | sb.FEATURE_BAD_BLOCKS, bblog_shift=shift
            ),
        )
        assert f"{5000 << shift} for {3 << shift} sectors" in same(
            capsys, "--examine-badblocks", array.paths[0]
        )
    array.change(1, lambda one: replace(one, bblog_size_sectors=0))
    assert "No bad-blocks list" in same(capsys, "--examine-badblocks", array.paths[1])
    mdcadm.main(["--examine-badblocks", "--json", *array.paths])
    first, second = json.loads(capsys.readouterr().out)["members"]
    assert first["extents_sectors"] == [[200, 16], [10000, 6]]
    assert second["extents_sectors"] is None
    assert mdcadm.main(["--examine-badblocks", str(tmp_path / "absent")]) == 1


@pytest.mark.mdadm
@INSTALLED
def test_query(tmp_path: Path, capsys: Capture) -> None:
    array = plain.plain_array(tmp_path, level=10, disks=4)
    noise = tmp_path / "noise"
    noise.write_bytes(b"?" * 8192)
    out = same(capsys, "--query", array.paths[3], str(noise))
    assert "device 3 in 4 device inactive raid10 array." in out
    assert same(capsys, "-Q", str(tmp_path / "absent")) == ""
    assert mdcadm.main(["-Q", "--json", array.paths[0], str(noise)]) == 0
    member, other = json.loads(capsys.readouterr().out)["devices"]
    assert (member["member"]["device_number"], member["used_by"]) == (0, None)
    assert (other["array"], other["member"]) == (None, None)


@pytest.mark.mdadm
@INSTALLED
@pytest.mark.parametrize("options", [[], ["-b"], ["-bv"], ["--scan"], ["--export"]])
def test_examine_of_plain_torn_and_foreign_devices(
    options: list[str], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "other").mkdir()
    array = plain.plain_array(tmp_path)
    other = plain.plain_array(tmp_path / "other", level=10, disks=4, name="x")
    torn = tmp_path / "torn"
    shutil.copy(array.paths[0], torn)
    plain.patch(str(torn), sb.SUPER_OFFSET_BYTES + 190, b"\x77")
    noise = tmp_path / "noise"
    noise.write_bytes(b"?" * 8192)
    paths = [*array.paths, *other.paths, str(torn), str(noise), str(tmp_path / "absent")]
    same(capsys, "--examine", *options, *paths)
