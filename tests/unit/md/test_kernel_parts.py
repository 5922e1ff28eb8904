"""What of the kernel driver needs no kernel: ioctl numbers, moves of holds, notes, names."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.core.model import DeviceId
from mdcluster.md import ioctl
from mdcluster.md.driver import DriverError
from mdcluster.md.kernel import KernelDriver
from mdcluster.md.kernel_notes import Notes, read_notes, write_notes
from mdcluster.md.kernel_state import KernelState, moves
from tests.unit.md.port_suite import ARRAY, array

END = 12
ranges = st.one_of(
    st.just((0, 0)),
    st.tuples(st.integers(0, END), st.integers(0, END)),
)


def test_ioctl_numbers_are_those_of_md_u_h() -> None:
    assert ioctl.RAID_VERSION == 0x800C0910
    assert ioctl.GET_ARRAY_INFO == 0x80480911
    assert ioctl.GET_DISK_INFO == 0x80140912
    assert ioctl.SET_DISK_FAULTY == 0x929
    assert (ioctl.STOP_ARRAY, ioctl.STOP_ARRAY_RO, ioctl.RESTART_ARRAY_RW) == (0x932, 0x933, 0x934)


def held(lo: int, hi: int) -> set[int]:
    return set(range(lo, hi))


@given(ranges, ranges)
def test_a_move_always_holds_what_old_and_new_have_in_common(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    now = {"suspend_lo": old[0], "suspend_hi": old[1]}
    common = held(*old) & held(*new)
    for attribute, value in moves(old, new):
        now[attribute] = value
        assert common <= held(now["suspend_lo"], now["suspend_hi"])
    assert held(now["suspend_lo"], now["suspend_hi"]) == held(*new)


@given(ranges)
def test_what_is_held_already_is_not_written_again(same: tuple[int, int]) -> None:
    if same[0] < same[1] or same == (0, 0):
        assert moves(same, same) == []


def test_a_window_that_slides_never_holds_from_the_start() -> None:
    assert moves((0, 0), (8, 12)) == [("suspend_lo", 8), ("suspend_hi", 12)]
    assert moves((4, 8), (8, 12)) == [("suspend_hi", 12), ("suspend_lo", 8)]
    assert moves((4, 8), (0, 0)) == [("suspend_hi", 0), ("suspend_lo", 0)]


def test_notes_survive_a_process(tmp_path: Path) -> None:
    notes = Notes(ARRAY, 1024, False, {(8, 16): (DeviceId("one"), "/dev/sdb")})
    path = tmp_path / "run/md_data.json"
    assert read_notes(path) is None
    write_notes(path, notes)
    assert read_notes(path) == notes
    assert [p.name for p in path.parent.iterdir()] == ["md_data.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"array": 1}', '{"members": 3}', "\xff"])
def test_damaged_notes_say_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "md_data.json"
    path.write_text(text)
    with pytest.raises(DriverError, match="what was noted of a running array cannot be read"):
        read_notes(path)


def a_running_array(root: Path, state: str) -> None:
    md = root / "block/md_data/md"
    md.mkdir(parents=True)
    (md / "metadata_version").write_text("external:mdcluster\n")
    (md / "array_state").write_text(f"{state}\n")


async def test_a_running_array_that_nobody_can_name_lets_no_daemon_go_on(tmp_path: Path) -> None:
    """Taken for one that does not run, its life in it would be ended while it writes."""
    a_running_array(tmp_path, "active")
    driver = KernelDriver(lambda: None, notes_dir=tmp_path / "run", root=tmp_path)
    with pytest.raises(DriverError, match=r"md_data .*mdadm --stop"):
        await driver.inherit(())


@pytest.mark.parametrize("state", ["active", "inactive"])
async def test_what_is_none_of_ours_or_does_not_run_is_not_taken_over(
    tmp_path: Path, state: str
) -> None:
    a_running_array(tmp_path, state)
    write_notes(tmp_path / "run/md_data.json", Notes(ARRAY, 1024, False, {}))
    driver = KernelDriver(lambda: None, notes_dir=tmp_path / "run", root=tmp_path)
    assert await driver.inherit(()) == ()
    assert driver.strangers == (("md_data",) if state == "active" else ())
    (tmp_path / "block/md_data/md").rename(tmp_path / "stopped")
    assert driver.strangers == ()


def test_nothing_is_held_before_an_array_runs(tmp_path: Path) -> None:
    """md has the files of a hold only then; whoever asks for the state meanwhile is answered."""
    a_running_array(tmp_path, "inactive")
    found = KernelState(array(), read_only=False, notes_dir=tmp_path / "run", root=tmp_path)
    assert found.suspended_sectors == (0, 0)
