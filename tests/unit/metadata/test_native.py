"""What stock md keeps beside its superblock; mdadm reads the same."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from mdcluster.metadata import native
from mdcluster.metadata import superblock as sb
from mdcluster.metadata.device import DeviceReader
from mdcluster.metadata.errors import UnsupportedError
from mdcluster.metadata.native import Beside, check_features, read_beside
from tests import plain


def beside(path: str, superblock: sb.Superblock) -> Beside:
    with DeviceReader(path) as device:
        return read_beside(device, superblock)


def test_an_array_that_was_stopped_is_clean(tmp_path: Path) -> None:
    array = plain.plain_array(tmp_path)
    assert beside(array.paths[0], array.superblocks[0]) == Beside()


@pytest.mark.parametrize("bits", [b"\x01", b"\x00\x10", bytes(20) + b"\x01"])
def test_a_bit_that_is_set_says_so(tmp_path: Path, bits: bytes) -> None:
    array = plain.plain_array(tmp_path)
    one = array.superblocks[0]
    covered_bytes = -(-one.size_sectors // 128 // 8)
    plain.write_bitmap(array.paths[0], one, bits)
    assert beside(array.paths[0], one).dirty is (len(bits) <= covered_bytes)


def test_bits_behind_the_end_do_not_count(tmp_path: Path) -> None:
    """The helper fills the rest of the block with ones, as md may leave it."""
    array = plain.plain_array(tmp_path, mib=17)
    one = replace(array.superblocks[0], size_sectors=128 * 9)
    plain.write_bitmap(array.paths[0], one, b"\x00\xfe")
    assert not beside(array.paths[0], one).dirty
    plain.write_bitmap(array.paths[0], one, b"\x00\x01")
    assert beside(array.paths[0], one).dirty


def test_a_bitmap_that_md_would_not_trust_is_dirty(tmp_path: Path) -> None:
    array = plain.plain_array(tmp_path)
    path, one = array.paths[0], array.superblocks[0]
    plain.write_bitmap(path, one, uuid=UUID(int=1))
    assert beside(path, one).dirty
    plain.write_bitmap(path, one, events=plain.EVENTS - 1)
    assert beside(path, one).dirty
    plain.write_bitmap(path, one, state=2)
    assert beside(path, one).dirty
    plain.patch(path, 8192, bytes(512))
    assert beside(path, one).dirty


def test_entries_of_the_bad_block_log_are_counted(tmp_path: Path) -> None:
    array = plain.plain_array(tmp_path)
    path = array.paths[0]
    one = replace(array.superblocks[0], feature_map=sb.FEATURE_BITMAP | sb.FEATURE_BAD_BLOCKS)
    assert beside(path, one).bad_blocks == 0
    plain.write_log(path, struct.pack("<QQ", 100 << 10 | 8, 300 << 10 | 1))
    assert beside(path, one).bad_blocks == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"bitmap_offset": 600},
        {"bitmap_offset": -16},
        {"bitmap_offset": 2},
        {"bblog_offset_sectors": 500, "feature_map": sb.FEATURE_BAD_BLOCKS},
    ],
)
def test_what_lies_where_the_area_would_be_is_refused(
    tmp_path: Path, changes: dict[str, int]
) -> None:
    array = plain.plain_array(tmp_path)
    with pytest.raises(UnsupportedError, match="where the cluster area would be"):
        beside(array.paths[0], replace(array.superblocks[0], **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("bit", [2, 4, 16, 64, 128, 256, 512, 1024, sb.GUARD_BIT])
def test_features_that_cannot_be_adopted(tmp_path: Path, bit: int) -> None:
    one = replace(plain.plain_array(tmp_path).superblocks[0], feature_map=bit | 1)
    with pytest.raises(UnsupportedError, match="it has"):
        check_features(one, "/dev/x")
    if bit == sb.GUARD_BIT:
        check_features(one, "/dev/x", guarded=True)


def test_mdadm_reads_the_images_so(tmp_path: Path) -> None:
    """The oracle: these are what stock tools take for an array with bitmap and log."""
    if shutil.which("mdadm") is None:
        pytest.skip("mdadm is not installed")
    array = plain.plain_array(tmp_path)
    plain.write_bitmap(array.paths[0], array.superblocks[0], b"\x07")
    alone = tmp_path / "bitmap"  # mdadm takes a file for a bitmap file, not for a member
    alone.write_bytes(Path(array.paths[0]).read_bytes()[8192 : 8192 + 4096])
    said = [
        subprocess.run(["mdadm", *words], capture_output=True, text=True, check=False).stdout
        for words in (("--examine", array.paths[0]), ("--examine-bitmap", str(alone)))
    ]
    assert "Internal Bitmap : 8 sectors from superblock" in said[0]
    assert "Bad Block Log : 512 entries available at offset 16 sectors" in said[0]
    assert "State : clean" in said[0]
    assert "3 dirty" in said[1]
    assert native.NEAR_BYTES == 258048
