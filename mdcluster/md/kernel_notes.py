"""What a process that takes over a running array of the kernel must know of it, below /run.

The kernel shows members by their numbers; which device (UUID) each is was read from superblocks
that may be unreadable by now. So it is noted when a member is attached, in a file that lives as
long as the array can: until the host is booted again.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mdcluster.core.model import ArrayId, DeviceId
from mdcluster.md.driver import DriverError

NOTES_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Notes:
    """Of one array. members: each device's path, by (major, minor)."""

    array: ArrayId
    slot_offset_sectors: int
    read_only: bool
    members: Mapping[tuple[int, int], tuple[DeviceId, str]]


def write_notes(path: Path, notes: Notes) -> None:
    """Replaced whole, or not at all. DriverError if that cannot be done."""
    text = json.dumps(
        {
            "array": notes.array,
            "slot_offset_sectors": notes.slot_offset_sectors,
            "read_only": notes.read_only,
            "members": [[*number, *named] for number, named in notes.members.items()],
        }
    )
    fresh = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh.write_text(text)
        os.replace(fresh, path)
    except OSError as error:
        raise DriverError(f"{path} cannot be written: {error.strerror}") from None


def read_notes(path: Path) -> Notes | None:
    """None if there are none; DriverError if they cannot be understood."""
    try:
        with path.open("rb") as file:
            raw = json.loads(file.read(NOTES_BYTES_MAX))
        return _parsed(raw)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DriverError(
            f"{path}: what was noted of a running array cannot be read: {error}"
        ) from None


def _parsed(raw: Any) -> Notes:
    members = {
        (int(major), int(minor)): (DeviceId(str(device)), str(path))
        for major, minor, device, path in raw["members"]
    }
    return Notes(
        ArrayId(str(raw["array"])),
        int(raw["slot_offset_sectors"]),
        bool(raw["read_only"]),
        members,
    )
