"""``mdcadm --query`` and ``--examine-badblocks``: short answers about a device, without a daemon.

Source: mdadm 4.2, Query.c and super1.c (examine_badblocks_super1).
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Final

from mdcluster.metadata import examine, scan
from mdcluster.metadata.device import DeviceReader
from mdcluster.metadata.errors import MetadataError
from mdcluster.metadata.superblock import (
    FEATURE_BAD_BLOCKS,
    SECTOR,
    SUPER_OFFSET_BYTES,
    Superblock,
)

from .command import Command
from .examine import shown
from .output import Output, printable

_SYSFS: Final = Path("/sys/dev/block")
_LOG_SECTORS_MAX: Final = 100
"""mdadm takes a longer one for none."""
_LOG_END: Final = (1 << 64) - 1


def query(command: Command, output: Output) -> int:
    """In a line or two: is it an md array, is it a member; exit code 1 if it cannot be opened."""
    code, documents = 0, []
    for path in command.devices:
        try:
            number = _number_of(path)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            output.error(f"cannot open {path}: {why}")
            code = 1
            continue
        array = _array(number)
        one = _superblock(path)
        documents.append(_query_data(path, array, one, number))
        if not command.has("json"):
            output.print(_query_text(path, array, one, number))
    if command.has("json"):
        output.print_json({"devices": documents})
    return code


def _superblock(path: str) -> Superblock | None:
    """That of a member, one with a wrong checksum too."""
    found = shown(scan.read_member(path, with_rings=False))
    return None if found is None else found.superblock


def _number_of(path: str) -> str | None:
    """`major:minor` of a block device, None for a file. OSError if it cannot be opened."""
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    status = os.stat(path)
    if not stat.S_ISBLK(status.st_mode):
        return None
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def _array(number: str | None) -> dict[str, object] | None:
    """Level, devices, spares and size of an active md array; None for anything else."""
    if number is None:
        return None
    md = _SYSFS / number / "md"
    try:
        disks = int((md / "raid_disks").read_text().split()[0])
        states = [path.read_text() for path in md.glob("dev-*/state")]
        return {
            "level": (md / "level").read_text().strip(),
            "raid_devices": disks,
            "spares": sum("spare" in state.split(",") for state in states),
            "size_bytes": int((_SYSFS / number / "size").read_text()) * SECTOR,
        }
    except (OSError, ValueError, IndexError):
        return None


def _user_of(number: str | None) -> str | None:
    """The array that has this device as a member on this host, by its path."""
    if number is None:
        return None
    try:
        holders = sorted(os.listdir(_SYSFS / number / "holders"))
    except OSError:
        return None
    return next((f"/dev/{name}" for name in holders if name.startswith("md")), None)


def _query_text(
    path: str, array: dict[str, object] | None, one: Superblock | None, number: str | None
) -> str:
    name = printable(path)
    text = f"{name}: is not an md array\n"
    if array is not None:
        spares = array["spares"]
        size = examine.human_size_brief(int(str(array["size_bytes"])), binary=True)
        text = (
            f"{name}: {size} {array['level']} {array['raid_devices']} devices, "
            f"{spares} spare{'' if spares == 1 else 's'}. Use mdadm --detail for more detail.\n"
        )
    if one is None:
        return text
    user = _user_of(number)
    activity = "active" if user else "inactive"
    return text + (
        f"{name}: device {one.dev_number} in {one.raid_disks} device {activity} "
        f"{examine.level_name(one.level) or '(null)'} {user or 'array'}.  "
        "Use mdadm --examine for more detail.\n"
    )


def _query_data(
    path: str, array: dict[str, object] | None, one: Superblock | None, number: str | None
) -> dict[str, object]:
    member = None if one is None else examine.as_dict(one)
    names = ("array_uuid", "name", "level", "raid_devices", "device_number", "device_role")
    return {
        "device": printable(path),
        "array": array,
        "member": None if member is None else {name: member[name] for name in (*names, "guarded")},
        "used_by": _user_of(number),
    }


# --- bad blocks -----------------------------------------------------------------------


def badblocks(command: Command, output: Output) -> int:
    """The bad block log of each member; exit code 1 for a device that is none."""
    code, documents = 0, []
    for path in command.devices:
        one = _superblock(path)
        if one is None:
            code = 1
            output.error(f"No md superblock detected on {path}")
            continue
        try:
            extents = _bad_extents(path, one)
        except MetadataError as exc:
            code = 1
            output.error(str(exc))
            continue
        listed = None if extents is None else [list(extent) for extent in extents]
        documents.append({"device": printable(path), "extents_sectors": listed})
        if not command.has("json"):
            output.print(_bad_text(printable(path), one, extents))
    if command.has("json"):
        output.print_json({"members": documents})
    return code


def _bad_extents(path: str, one: Superblock) -> list[tuple[int, int]] | None:
    """(sector, sectors) of each entry; None if the member has no log at all."""
    sectors = one.bblog_size_sectors
    if not 0 < sectors <= _LOG_SECTORS_MAX or not one.bblog_offset_sectors:
        return None
    if not one.feature_map & FEATURE_BAD_BLOCKS:
        return []
    at = SUPER_OFFSET_BYTES + one.bblog_offset_sectors * SECTOR
    found: list[tuple[int, int]] = []
    with DeviceReader(path) as device:
        for (entry,) in struct.iter_unpack("<Q", device.read(max(at, 0), sectors * SECTOR)):
            if entry == _LOG_END:
                break
            found.append((entry >> 10 << one.bblog_shift, (entry & 0x3FF) << one.bblog_shift))
    return found


def _bad_text(path: str, one: Superblock, extents: list[tuple[int, int]] | None) -> str:
    if extents is None:
        return f"No bad-blocks list configured on {path}\n"
    if not one.feature_map & FEATURE_BAD_BLOCKS:
        return f"Bad-blocks list is empty in {path}\n"
    rows = "".join(f"{sector:20} for {sectors} sectors\n" for sector, sectors in extents)
    return f"Bad-blocks on {path}:\n{rows}"
