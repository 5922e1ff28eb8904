"""Our words for a superblock against those of the installed mdadm, byte for byte."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdcluster.metadata import examine, layout
from mdcluster.metadata import superblock as sb
from mdcluster.metadata.superblock import Superblock
from tests.unit.metadata import images

MDADM = shutil.which("mdadm", path="/usr/sbin:/sbin:/usr/local/sbin:/usr/bin")
INSTALLED = pytest.mark.skipif(MDADM is None, reason="mdadm is not installed here")
GIB = 1 << 30
HOST = socket.gethostname()
FAULTY_TWO = (0, sb.ROLE_FAULTY, *[sb.ROLE_SPARE] * 126)

STATES: dict[str, Callable[[Superblock], Superblock]] = {
    "resyncing": lambda one: replace(one, resync_offset_sectors=4096),
    "clean": lambda one: replace(one, resync_offset_sectors=sb.MAX_SECTOR),
    "recovering": lambda one: one.with_recovery(8192),
    "faulty other": lambda one: replace(one, dev_roles=FAULTY_TWO),
    "faulty itself": lambda one: replace(one, dev_roles=FAULTY_TWO, dev_number=1),
    "spare": lambda one: replace(one, dev_number=64),
    "journal": lambda one: replace(one, dev_roles=(sb.ROLE_JOURNAL, *one.dev_roles[1:])),
    "guard off": lambda one: one.with_guard(False),
    "replacement": lambda one: replace(
        one.with_recovery(0),
        feature_map=one.feature_map | sb.FEATURE_REPLACEMENT | sb.FEATURE_RECOVERY,
        dev_roles=(0, 1, 0, *one.dev_roles[3:]),
        dev_number=2,
    ),
    "inconsistent": lambda one: replace(one, dev_roles=(0, 0, 0, 9, sb.ROLE_FAULTY)),
    "write-mostly": lambda one: replace(one, devflags=sb.WRITE_MOSTLY | sb.FAIL_FAST),
    "bad blocks": lambda one: replace(
        one,
        feature_map=one.feature_map | sb.FEATURE_BAD_BLOCKS,
        bblog_size_sectors=8,
        bblog_offset_sectors=16,
    ),
    "local name": lambda one: replace(one, set_name=f"{HOST}:data"[:32]),
    "no name": lambda one: replace(one, set_name=""),
    "late term": lambda one: replace(one, events=sb.events_of(900, 12)),
    "reshaping": lambda one: replace(
        one,
        feature_map=one.feature_map | sb.FEATURE_RESHAPE | sb.FEATURE_NEW_OFFSET,
        reshape_position_sectors=1 << 20,
        delta_disks=-1,
        new_level=5,
        new_layout=2,
        new_chunk_sectors=64,
        new_offset_sectors=-2048,
    ),
}


def run_mdadm(path: Path, *options: str) -> str:
    assert MDADM is not None
    done = subprocess.run(
        [MDADM, "--examine", *options, str(path)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def agree(path: Path, one: Superblock, size_bytes: int) -> None:
    with path.open("wb") as file:
        file.truncate(size_bytes)
        file.seek(sb.SUPER_OFFSET_BYTES)
        file.write(sb.encode(one))
    ours = f"{path}:\n" + examine.examine_text(one, size_bytes, HOST)
    assert ours == run_mdadm(path)
    assert " - correct" in ours
    assert examine.export_text(one) == run_mdadm(path, "--export")


def made(level: int, size_bytes: int) -> Superblock:
    disks = 2 if level == 1 else 4
    first = layout.fresh_superblocks(
        images.spec(level, disks), images.member_specs(disks, size_bytes)
    )[0]
    assert first is not None
    return first


@pytest.mark.mdadm
@INSTALLED
@pytest.mark.parametrize("level", [1, 10])
@pytest.mark.parametrize("state", STATES)
def test_agrees_with_mdadm_in_every_state(tmp_path: Path, level: int, state: str) -> None:
    one = STATES[state](made(level, 16 * images.MIB))
    agree(tmp_path / "image", one, 16 * images.MIB)


@pytest.mark.mdadm
@INSTALLED
@pytest.mark.parametrize("level", [1, 10])
@pytest.mark.parametrize("size_bytes", [10 * images.MIB, GIB, 3 * GIB, 3000 * GIB])
def test_agrees_with_mdadm_on_every_size(tmp_path: Path, level: int, size_bytes: int) -> None:
    agree(tmp_path / "image", made(level, size_bytes), size_bytes)


@pytest.mark.mdadm
@INSTALLED
@pytest.mark.parametrize(
    ("level", "layouts"), [(0, 2), (4, 0), (5, 2), (5, 99), (6, 10), (-1, 0), (77, 0)]
)
def test_other_levels_are_read_as_mdadm_reads_them(
    tmp_path: Path, level: int, layouts: int
) -> None:
    one = replace(
        made(10, GIB),
        level=level,
        layout=layouts,
        feature_map=sb.FEATURE_RAID0_LAYOUT if level == 0 else 0,
    )
    agree(tmp_path / "image", one, GIB)


@pytest.mark.mdadm
@INSTALLED
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    level=st.sampled_from([1, 10]),
    extra_sectors=st.integers(0, 1 << 22),
    resync=st.integers(0, (1 << 64) - 1),
    stamp=st.integers(0, (1 << 33) - 1),
    events=st.integers(0, (1 << 64) - 1),
    roles=st.lists(st.sampled_from([0, 1, 2, 3, 0xFFFD, 0xFFFE, 0xFFFF]), max_size=9),
)
def test_agrees_with_mdadm_on_random_arrays(
    tmp_path: Path,
    level: int,
    extra_sectors: int,
    resync: int,
    stamp: int,
    events: int,
    roles: list[int],
) -> None:
    size_bytes = 16 * images.MIB + 512 * extra_sectors
    one = replace(
        made(level, size_bytes),
        resync_offset_sectors=resync,
        utime=stamp,
        events=events,
        dev_roles=tuple(roles),
    )
    agree(tmp_path / "image", one, size_bytes)


def test_a_name_cannot_act_on_the_terminal() -> None:
    one = replace(images.superblock(), set_name="a\x1b[2J\udcff\nMD_UUID=0")
    assert "a\\x1b[2J\\udcff\\nMD_UUID=0\n" in examine.examine_text(one, images.SIZE_BYTES)
    assert "MD_NAME=a\\x1b[2J\\udcff\n" in examine.export_text(one)
    assert examine.printable("Grün 1") == "Grün 1"


def test_dictionary_for_json() -> None:
    facts = examine.as_dict(images.superblock().with_recovery(8))
    assert facts["array_uuid"] == "aaaaaaaa:bbbbcccc:ddddeeee:eeeeeeee"
    assert facts["recovery_offset_sectors"] == 8
    assert facts["resync_offset_sectors"] == 0
    assert (facts["term"], facts["seq"], facts["guarded"]) == (1, 2, True)
    assert (facts["level"], facts["array_state"], facts["state"]) == ("raid1", "AA", "active")


def test_absurd_values_are_shown_without_an_exception() -> None:
    one = replace(
        images.superblock(10),
        layout=0,
        ctime=(1 << 64) - 1,
        raid_disks=sb.MAX_DEVS,
        delta_disks=-(1 << 31),
        feature_map=(1 << 32) - 1,
    )
    assert "Raid Level : raid10" in examine.examine_text(one, 0)
    assert "MD_LEVEL=raid10" in examine.export_text(one)
