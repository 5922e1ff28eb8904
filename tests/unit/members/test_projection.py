"""Committed state to superblock; stock mdadm as the oracle where it is installed."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.core.model import (
    AddMember,
    ArrayState,
    BeginSync,
    Checkpoint,
    EndLife,
    EndSync,
    FailMember,
    RemoveMember,
    ReplaceMember,
    SetRaidDisks,
    Stamp,
    SyncKind,
)
from mdcluster.members.errors import MembersError
from mdcluster.members.projection import project
from mdcluster.metadata.errors import Where
from mdcluster.metadata.examine import array_state, device_role
from mdcluster.metadata.superblock import (
    FEATURE_RECOVERY,
    FEATURE_REPLACEMENT,
    MAX_SECTOR,
    ROLE_FAULTY,
    ROLE_SPARE,
    SUPER_OFFSET_BYTES,
    decode,
    encode,
)
from tests.unit.members import kit

STAMP = Stamp(3, 8)


def test_a_fresh_mirror_says_what_mdadm_would() -> None:
    state = kit.after(None, kit.creation("/a", "/b"))
    made = project(state, STAMP, state.members[1], 7)
    assert (made.events, made.utime, made.ctime) == (STAMP.events, 7, kit.NOW_S)
    assert (made.role, made.dev_number, made.guarded) == (1, 1, True)
    assert made.resync_offset_sectors == 0
    assert made.dev_roles[:3] == (0, 1, ROLE_SPARE) and len(made.dev_roles) == 128
    assert made.device_uuid == UUID(kit.device(1)) and made.set_name == "data"
    assert not project(state, STAMP, state.members[1], 7, owned=False).guarded


def test_failed_and_removed_members_keep_their_numbers_as_faulty() -> None:
    state = kit.after(None, kit.creation("/a", "/b", clean=True))
    state = kit.after(state, FailMember(kit.ARRAY, kit.device(1), "EIO"))
    state = kit.after(state, RemoveMember(kit.ARRAY, kit.device(1)))
    state = kit.after(state, AddMember(kit.ARRAY, kit.new_member("/c", 2, -1)))
    new = state.members[1]
    made = project(state, STAMP, new, 7)
    assert made.dev_roles[:3] == (0, ROLE_FAULTY, 1)
    assert made.feature_map & FEATURE_RECOVERY and made.recovery_offset_sectors == 0
    assert not project(state, STAMP, state.members[0], 7).feature_map & FEATURE_RECOVERY


def test_a_replacement_shares_the_role_of_the_member_it_replaces() -> None:
    state = kit.after(None, kit.creation("/a", "/b", clean=True), runners=kit.LIVES)
    state = kit.after(state, AddMember(kit.ARRAY, kit.new_member("/c", 2, -1)))
    state = kit.after(state, ReplaceMember(kit.ARRAY, kit.device(0)))
    made = project(state, STAMP, state.members[2], 7)
    assert made.dev_roles[:3] == (0, 1, 0) and made.role == 0
    assert made.feature_map & FEATURE_REPLACEMENT and made.feature_map & FEATURE_RECOVERY
    assert (device_role(made), array_state(made)) == ("Replacement device 0", "RA")
    assert not project(state, STAMP, state.members[0], 7).feature_map & FEATURE_REPLACEMENT
    state = kit.after(state, BeginSync(kit.ARRAY, SyncKind.RECOVER))
    state = kit.after(state, EndSync(kit.ARRAY, 1))
    made = project(state, STAMP, state.members[2], 7)
    assert made.dev_roles[:3] == (ROLE_FAULTY, 1, 0)
    assert not made.feature_map & (FEATURE_REPLACEMENT | FEATURE_RECOVERY)


def test_bits_of_dead_lives_do_not_show_as_a_resync_position() -> None:
    state = kit.after(None, kit.creation("/a", "/b", clean=True), runners=kit.LIVES)
    state = kit.after(state, EndLife(kit.ARRAY, kit.LIVES[1]))
    state = kit.after(state, BeginSync(kit.ARRAY, SyncKind.BITMAP))
    assert project(state, STAMP, state.members[0], 7).resync_offset_sectors == MAX_SECTOR


@pytest.mark.parametrize(
    ("level", "disks", "position", "expected"),
    [(1, 2, 4096, 4096), (10, 4, 4096, 8192), (10, 3, 3072, 4096), (10, 3, 1024, 1024)],
)
def test_the_position_is_in_mds_own_unit(
    level: int, disks: int, position: int, expected: int
) -> None:
    paths = [f"/{n}" for n in range(disks)]
    state = kit.after(
        None, kit.creation(*paths, level=level, raid_disks=disks), runners=kit.LIVES[:1]
    )
    state = kit.after(state, BeginSync(kit.ARRAY, SyncKind.RESYNC))
    state = kit.after(state, Checkpoint(kit.ARRAY, 1, position))
    assert project(state, STAMP, state.members[0], 7).resync_offset_sectors == expected


def test_an_id_that_is_no_uuid_is_refused() -> None:
    state = kit.after(None, kit.creation("/a", "/b"))
    with pytest.raises(MembersError, match="no UUID"):
        project(replace(state, uuid=type(state.uuid)("a0")), STAMP, state.members[0], 7)


@given(
    st.integers(2, 6),
    st.integers(0, 3),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 32) - 1),
)
def test_every_projection_survives_the_disk(disks: int, spares: int, seq: int, term: int) -> None:
    paths = [f"/{n}" for n in range(disks + spares)]
    state = kit.after(None, kit.creation(*paths, raid_disks=disks))
    for member in state.members:
        made = project(state, Stamp(term, seq), member, 7)
        assert decode(encode(made), Where("a disk")) == made
        assert Stamp.of_events(made.events) == Stamp(term, seq)


@pytest.mark.mdadm
@pytest.mark.skipif(shutil.which("mdadm") is None, reason="mdadm is not installed")
def test_mdadm_reads_it_back(tmp_path: Path) -> None:
    path = kit.image(tmp_path, "a")
    state = kit.after(None, kit.creation(path, "/b"))
    said = examined(path, state, 0)
    assert f"Events : {STAMP.events}" in said and "Device Role : Active device 0" in said
    assert "correct" in said and "Raid Level : raid1" in said and "State : active" in said
    state = kit.after(kit.after(None, kit.creation(path, "/b", clean=True)), SPARE)
    state = kit.after(state, ReplaceMember(kit.ARRAY, kit.device(0)))
    said = examined(path, state, 2)
    assert "Device Role : Replacement device 0" in said and "Array State : RA" in said
    state = kit.after(kit.after(None, kit.creation(path, "/b", clean=True)), SPARE)
    said = examined(path, kit.after(state, SetRaidDisks(kit.ARRAY, 4)), 2)
    assert "Raid Devices : 4" in said and "Array State : AAA." in said


SPARE = AddMember(kit.ARRAY, kit.new_member("/c", 2, -1))


def examined(path: str, state: ArrayState, number: int) -> str:
    """What mdadm says of this member."""
    with open(path, "r+b") as file:
        file.seek(SUPER_OFFSET_BYTES)
        file.write(encode(project(state, STAMP, state.members[number], 7)))
    return subprocess.run(
        ["mdadm", "--examine", path], capture_output=True, text=True, timeout=20, check=True
    ).stdout
