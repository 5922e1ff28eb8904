"""The binding to md's sysfs, over a tree that looks like the kernel's."""

from pathlib import Path

import pytest

from mdcluster.md.sysfs import (
    ArrayDir,
    AttributeFault,
    MemberDir,
    block_name,
    external_arrays,
    read_attribute,
    write_attribute,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One array `md_data` of ours with a member sdb, one native array md0, one plain disk."""
    md = tmp_path / "block/md_data/md"
    texts = {
        "metadata_version": "external:mdcluster",
        "array_state": "write-pending",
        "suspend_lo": "128",
        "suspend_hi": "256",
        "resync_start": "none",
        "sync_completed": "2048 / 4096",
        "../dev": "9:127",
        "dev-sdb/state": "in_sync,blocked,external_bbl",
        "dev-sdb/slot": "1",
        "dev-sdb/errors": "3",
        "dev-sdb/recovery_start": "none",
        "dev-sdb/unacknowledged_bad_blocks": "8 16\n64 8",
        "dev-sdb/block/inflight": "       2        5",
        "dev-sdb/block/stat": " 1 0 100 0 2 0 28 0 0 0 0",
        "dev-sdb/block/dev": "8:16",
    }
    for name, text in texts.items():
        path = md / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    native = tmp_path / "block/md0/md"
    native.mkdir(parents=True)
    (native / "metadata_version").write_text("1.2\n")
    (tmp_path / "block/sdb").mkdir()
    (tmp_path / "dev/block").mkdir(parents=True)
    (tmp_path / "dev/block/8:16").symlink_to("../../devices/pci/block/sdb")
    return tmp_path


def test_an_array_is_read(root: Path) -> None:
    array = ArrayDir("md_data", root)
    assert array.exists() and array.state == "write-pending"
    assert array.suspended_sectors == (128, 256)
    assert array.resync_start_sectors is None
    assert array.sync_completed_sectors == 2048
    assert array.device_number == (9, 127)
    assert [member.name for member in array.members()] == ["sdb"]


def test_a_member_is_read(root: Path) -> None:
    member = ArrayDir("md_data", root).member("sdb")
    assert member.flags == {"in_sync", "blocked", "external_bbl"}
    assert (member.slot, member.errors, member.recovery_start_sectors) == (1, 3, None)
    assert member.unacknowledged == ((8, 16), (64, 8))
    assert (member.writes_in_flight, member.sectors_moved) == (5, 128)
    assert member.device_number == (8, 16)


@pytest.mark.parametrize(
    ("text", "done"), [("none", None), ("delayed", None), ("0 / 64", 0), ("64 / 64", 64)]
)
def test_progress_in_all_its_words(root: Path, text: str, done: int | None) -> None:
    array = ArrayDir("md_data", root)
    (array.path / "sync_completed").write_text(text)
    assert array.sync_completed_sectors == done


@pytest.mark.parametrize(("text", "slot"), [("none", -1), ("0", 0), ("journal", -1)])
def test_a_slot_in_all_its_words(root: Path, text: str, slot: int) -> None:
    member = ArrayDir("md_data", root).member("sdb")
    (member.path / "slot").write_text(text)
    assert member.slot == slot


def test_arrays_of_ours_are_found_among_others(root: Path) -> None:
    assert [array.name for array in external_arrays("mdcluster", root)] == ["md_data"]
    assert external_arrays("imsm", root) == ()
    assert external_arrays("mdcluster", root / "nowhere") == ()


def test_a_device_number_has_a_name(root: Path) -> None:
    assert block_name((8, 16), root) == "sdb"
    with pytest.raises(AttributeFault, match="8:17 cannot be read: No such file"):
        block_name((8, 17), root)


def test_errors_name_attribute_value_and_reason(root: Path) -> None:
    member = MemberDir(root / "block/md_data/md/dev-sdc")
    with pytest.raises(AttributeFault, match=r"dev-sdc/slot cannot be set to '1': No such") as info:
        member.write("slot", 1)
    assert info.value.attribute == "slot" and info.value.errno
    with pytest.raises(AttributeFault, match=r"dev-sdc/state cannot be read: .*ENOENT"):
        assert member.flags


def test_one_attribute_is_written_whole(root: Path) -> None:
    path = root / "block/md_data/md/array_state"
    path.write_text("")
    write_attribute(path, "active")
    assert read_attribute(path) == "active"
