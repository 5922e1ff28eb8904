"""A superblock in words: `mdadm --examine`, `--examine --export`, and a dictionary for JSON.

Text agrees byte for byte with mdadm 4.2 (super1.c examine_super1, export_examine_super1,
getinfo_super1; util.c human_size) for superblocks we write; a test compares them. A name with
unprintable characters is the exception: mdadm sends them to the terminal, here they are escaped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Final

from mdcluster.metadata import superblock as sb
from mdcluster.metadata.superblock import Superblock, md_uuid

_LEVELS: Final = {
    -1: "linear",
    0: "raid0",
    1: "raid1",
    4: "raid4",
    5: "raid5",
    -4: "multipath",
    6: "raid6",
    10: "raid10",
    -5: "faulty",
    -100: "container",
}
_PARITY_LAYOUTS: Final = {
    0: "left-asymmetric",
    1: "right-asymmetric",
    2: "left-symmetric",
    3: "right-symmetric",
    4: "parity-first",
    5: "parity-last",
}
_RAID5_LAYOUTS: Final = _PARITY_LAYOUTS
_RAID6_LAYOUTS: Final = _PARITY_LAYOUTS | {
    8: "ddf-zero-restart",
    9: "ddf-N-restart",
    10: "ddf-N-continue",
    16: "left-asymmetric-6",
    17: "right-asymmetric-6",
    18: "left-symmetric-6",
    19: "right-symmetric-6",
    20: "parity-first-6",
}
_RAID0_LAYOUTS: Final = {1: "original", 2: "alternate", 0: "dangerous"}
_SECONDS_MASK: Final = (1 << 40) - 1
_MD_RESERVED_SECTORS: Final = (32 + 4) * 2  # what the kernel keeps after the superblock
_U64: Final = (1 << 64) - 1
_UNITS: Final = ((1 << 31, "M", 20, 10**6), (1 << 41, "G", 30, 10**9), (None, "T", 40, 10**12))


def printable(text: str) -> str:
    """`text` with what a terminal would act on or cannot show as backslash escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )


def level_name(level: int) -> str | None:
    """mdadm's word for a level, None for one it does not know."""
    return _LEVELS.get(level)


def array_size_bytes(superblock: Superblock) -> int | None:
    """The array's size in bytes, None for levels mdadm prints none for."""
    disks = superblock.raid_disks
    near, far = superblock.layout & 255, superblock.layout >> 8 & 255
    data, copies = {
        1: (1, 1),
        4: (disks - 1, 1),
        5: (disks - 1, 1),
        6: (disks - 2, 1),
        10: (disks, near * far),
    }.get(superblock.level, (0, 1))
    if data <= 0 or copies == 0:
        return None
    return (superblock.size_sectors << 9) * data // copies


def _scaled(size_bytes: int) -> tuple[str, int, int]:
    """mdadm's choice of unit, and hundredths of it: binary and decimal, rounded."""
    limit_unit = next(unit for unit in _UNITS if unit[0] is None or size_bytes < unit[0])
    _, letter, shift, decimal = limit_unit
    binary = (size_bytes * 200 // (1 << shift) + 1) // 2
    return letter, binary, (size_bytes // (decimal // 200) + 1) // 2


def _hundredths(value: int) -> str:
    return f"{value // 100}.{value % 100:02d}"


def human_size(size_bytes: int) -> str:
    """` (64.00 MiB 67.11 MB)` as mdadm appends it; nothing below 5000 KiB."""
    if size_bytes < 5000 * 1024:
        return ""
    letter, binary, decimal = _scaled(size_bytes)
    return f" ({_hundredths(binary)} {letter}iB {_hundredths(decimal)} {letter}B)"


def human_size_brief(size_bytes: int, *, binary: bool = False) -> str:
    """`67.11MB` as in `--export`, `64.00MiB` if binary (`--query`); nothing below 5000 KiB."""
    if size_bytes < 5000 * 1024:
        return ""
    letter, in_binary, decimal = _scaled(size_bytes)
    return f"{_hundredths(in_binary)}{letter}iB" if binary else f"{_hundredths(decimal)}{letter}B"


def _date(stamp: int) -> str:
    """C's ctime() of the seconds in an md time stamp, cut to 24 characters as mdadm does."""
    try:
        return time.ctime(stamp & _SECONDS_MASK)[:24]
    except (OverflowError, ValueError, OSError):
        return str(stamp & _SECONDS_MASK)


def _raid10_layout(layout: int) -> str:
    near, far = layout & 255, layout >> 8 & 255
    parts = [f" near={near}"] if near != 1 else []
    if far != 1:
        parts.append(f" {'offset' if layout & 0x10000 else 'far'}={far}")
    return ",".join(parts) + ("NO REDUNDANCY" if near * far == 1 else "")


def layout_name(level: int, layout: int) -> str | None:
    """mdadm's word for a layout, None for levels that have none."""
    if level == 10:
        return _raid10_layout(layout).strip()
    names = {5: _RAID5_LAYOUTS, 6: _RAID6_LAYOUTS}.get(level)
    return None if names is None else names.get(layout, "-unknown-")


def unused_space_sectors(superblock: Superblock, device_sectors: int) -> tuple[int, int] | None:
    """Free sectors before and after the data; None where mdadm prints none (getinfo_super1).

    The space of an internal bitmap is taken as its offset only: its size is in a block of its own.
    """
    used = superblock.data_size_sectors if superblock.level <= 0 else superblock.size_sectors
    start, data = superblock.super_offset_sectors, superblock.data_offset_sectors
    has_log = superblock.bblog_offset_sectors and superblock.bblog_size_sectors
    log = start + superblock.bblog_offset_sectors
    if data < start:
        end = min(start, log) if has_log else start
        before, after = data, max(end - used - data, 0)
    else:
        log_end = log + superblock.bblog_size_sectors if has_log else 0
        before = max(data - max(start + _MD_RESERVED_SECTORS, log_end), 0)
        after = (device_sectors - used - data) & _U64
    if superblock.role == sb.ROLE_JOURNAL:
        after = (device_sectors - data) % 8
    return None if (before, after) == (0, 0) or after == 1 else (before, after)


def array_state(superblock: Superblock) -> str:
    """One letter for each role: A active, `.` missing, R replacing, ? inconsistent."""
    count = Counter(superblock.dev_roles)
    letters = {0: ".", 1: "A", 2: "R" if superblock.level != 0 else "?"}
    shrinking = superblock.feature_map & sb.FEATURE_RESHAPE and superblock.delta_disks < 0
    extra = -superblock.delta_disks if shrinking else 0
    disks = min(superblock.raid_disks + extra, sb.MAX_DEVS)
    return "".join(letters.get(count[role], "?") for role in range(disks))


def device_role(superblock: Superblock) -> str:
    """`Active device 0`, `spare`, ... A faulty member is a spare to mdadm."""
    role = superblock.role
    if role >= sb.ROLE_FAULTY:
        return "spare"
    if role == sb.ROLE_JOURNAL:
        return "Journal"
    kind = "Replacement" if superblock.feature_map & sb.FEATURE_REPLACEMENT else "Active"
    return f"{kind} device {role}"


def examine_text(
    superblock: Superblock,
    device_size_bytes: int,
    homehost: str = "",
    stored_checksum: int | None = None,
) -> str:
    """What `mdadm --examine` prints below the line with the device's name, ending in a newline.

    `homehost` adds `(local to host ...)` after a name that starts with it. `stored_checksum`:
    what stands there, of a superblock with a wrong one.
    """
    blocks = (
        _identity(superblock, homehost),
        _sizes(superblock, device_size_bytes // sb.SECTOR),
        _extras(superblock),
        _reshape(superblock),
        _condition(superblock, stored_checksum),
        _shape(superblock),
        _roles(superblock),
    )
    return "".join(f"{line}\n" for block in blocks for line in block)


def _line(label: str, value: object) -> str:
    return f"{label:>15} : {value}"


def _identity(superblock: Superblock, homehost: str) -> Iterator[str]:
    name = printable(superblock.set_name)
    if 0 < len(homehost) < 32 and superblock.set_name.startswith(f"{homehost}:"):
        name += f"  (local to host {homehost})"
    yield _line("Magic", f"{sb.MAGIC:08x}")
    yield _line("Version", "1.2")
    yield _line("Feature Map", f"0x{superblock.feature_map:x}")
    yield _line("Array UUID", md_uuid(superblock.set_uuid))
    yield _line("Name", name)
    yield _line("Creation Time", _date(superblock.ctime))
    yield _line("Raid Level", level_name(superblock.level) or "-unknown-")
    yield _line("Raid Devices", superblock.raid_disks)
    yield ""


def _sizes(superblock: Superblock, device_sectors: int) -> Iterator[str]:
    data, used = superblock.data_size_sectors, superblock.size_sectors
    yield _line("Avail Dev Size", f"{data} sectors{human_size(data << 9)}")
    if superblock.level != 0:  # mdadm compares unsigned: negative levels count here
        size = array_size_bytes(superblock)
        if size is not None:
            yield _line("Array Size", f"{size >> 10} KiB{human_size(size)}")
        if used != data:
            yield _line("Used Dev Size", f"{used} sectors{human_size(used << 9)}")
    if superblock.data_offset_sectors:
        yield _line("Data Offset", f"{superblock.data_offset_sectors} sectors")
    new_offset = superblock.feature_map & sb.FEATURE_NEW_OFFSET
    if superblock.new_offset_sectors and new_offset:
        moved = (superblock.data_offset_sectors + superblock.new_offset_sectors) & _U64
        yield _line("New Offset", f"{moved} sectors")
    yield _line("Super Offset", f"{superblock.super_offset_sectors} sectors")
    if superblock.feature_map & sb.FEATURE_RECOVERY:
        yield _line("Recovery Offset", f"{superblock.recovery_offset_sectors} sectors")
    space = unused_space_sectors(superblock, device_sectors)
    if space is not None and not new_offset:
        yield _line("Unused Space", f"before={space[0]} sectors, after={space[1]} sectors")
    yield _line("State", "clean" if superblock.in_sync else "active")
    yield _line("Device UUID", md_uuid(superblock.device_uuid))
    yield ""


def _extras(superblock: Superblock) -> Iterator[str]:
    if superblock.feature_map & sb.FEATURE_BITMAP:
        yield _line("Internal Bitmap", f"{superblock.bitmap_offset} sectors from superblock")
    elif superblock.feature_map & (sb.FEATURE_PPL | sb.FEATURE_MULTIPLE_PPLS):
        offset, size = superblock.bitmap_offset & 0xFFFF, superblock.bitmap_offset >> 16 & 0xFFFF
        yield _line("PPL", f"{size} sectors at offset {offset} sectors from superblock")


def _reshape(superblock: Superblock) -> Iterator[str]:
    if superblock.feature_map & sb.FEATURE_RESHAPE:
        position, delta = superblock.reshape_position_sectors, superblock.delta_disks
        yield _line("Reshape pos'n", f"{position // 2}{human_size(position << 9)}")
        if delta:
            before = superblock.raid_disks - delta
            yield _line("Delta Devices", f"{delta} ({before}->{superblock.raid_disks})")
        if superblock.new_level != superblock.level:
            yield _line("New Level", level_name(superblock.new_level) or "-unknown-")
        new_layout = layout_name(superblock.level, superblock.new_layout)
        if superblock.new_layout != superblock.layout and new_layout is not None:
            yield _line("New Layout", new_layout)
        if superblock.new_chunk_sectors != superblock.chunksize_sectors:
            yield _line("New Chunksize", f"{superblock.new_chunk_sectors // 2}K")
        yield ""
    if superblock.devflags:
        names = ((sb.WRITE_MOSTLY, " write-mostly"), (sb.FAIL_FAST, " failfast"))
        flags = "".join(name for bit, name in names if superblock.devflags & bit)
        yield f"          Flags :{flags}"


def _condition(superblock: Superblock, stored: int | None) -> Iterator[str]:
    yield _line("Update Time", _date(superblock.utime))
    if superblock.bblog_size_sectors and superblock.bblog_offset_sectors:
        entries = superblock.bblog_size_sectors * 512 // 8
        text = f"{entries} entries available at offset {superblock.bblog_offset_sectors} sectors"
        bad = superblock.feature_map & sb.FEATURE_BAD_BLOCKS
        yield _line("Bad Block Log", text + (" - bad blocks present." if bad else ""))
    right = superblock.checksum
    shown = "correct" if stored in (None, right) else f"expected {right:x}"
    yield _line("Checksum", f"{right if stored is None else stored:x} - {shown}")
    yield _line("Events", superblock.events)
    yield ""


def _shape(superblock: Superblock) -> Iterator[str]:
    level, layout = superblock.level, superblock.layout
    if level == 0 and superblock.feature_map & sb.FEATURE_RAID0_LAYOUT:
        yield _line("Layout", _RAID0_LAYOUTS.get(layout, "-unknown-"))
    elif level == 10:
        yield f"         Layout :{_raid10_layout(layout)}"
    elif level in (5, 6):
        yield _line("Layout", layout_name(level, layout))
    if level in (0, 4, 5, 6, 10):
        yield _line("Chunk Size", f"{superblock.chunksize_sectors // 2}K")
    elif level == -1:
        yield _line("Rounding", f"{superblock.chunksize_sectors // 2}K")
    yield ""


def _roles(superblock: Superblock) -> Iterator[str]:
    state = array_state(superblock)
    yield f"   Device Role : {device_role(superblock)}"
    yield f"   Array State : {state} ('A' == active, '.' == missing, 'R' == replacing)"
    beyond = any(len(state) < role <= sb.ROLE_MAX for role in superblock.dev_roles)
    if "?" in state or beyond:
        yield "WARNING Array state is inconsistent - each number should appear only once"
        yield "".join(
            f" {number}:{'-' if role >= sb.ROLE_FAULTY else role}"
            for number, role in enumerate(superblock.dev_roles)
        )


def export_text(superblock: Superblock) -> str:
    """What `mdadm --examine --export` prints: KEY=value lines."""
    name = superblock.set_name.split("\n")[0]
    size = array_size_bytes(superblock)
    pairs = [
        ("MD_LEVEL", level_name(superblock.level) or "(null)"),
        ("MD_DEVICES", superblock.raid_disks),
        ("MD_NAME", printable(name) or None),
        ("MD_ARRAY_SIZE", None if size is None else human_size_brief(size)),
        ("MD_UUID", md_uuid(superblock.set_uuid)),
        ("MD_UPDATE_TIME", superblock.utime & _SECONDS_MASK),
        ("MD_DEV_UUID", md_uuid(superblock.device_uuid)),
        ("MD_EVENTS", superblock.events),
    ]
    return "".join(f"{key}={value}\n" for key, value in pairs if value is not None)


def as_dict(superblock: Superblock) -> dict[str, object]:
    """The superblock for `--json`: md's own numbers, and mdadm's words for them."""
    recovering = superblock.feature_map & sb.FEATURE_RECOVERY
    used = [role for role in superblock.dev_roles if role != sb.ROLE_SPARE]
    return {
        "array_uuid": md_uuid(superblock.set_uuid),
        "name": superblock.set_name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
        "level": level_name(superblock.level) or str(superblock.level),
        "layout": layout_name(superblock.level, superblock.layout),
        "raid_devices": superblock.raid_disks,
        "chunk_sectors": superblock.chunksize_sectors,
        "component_size_sectors": superblock.size_sectors,
        "array_size_bytes": array_size_bytes(superblock),
        "data_offset_sectors": superblock.data_offset_sectors,
        "data_size_sectors": superblock.data_size_sectors,
        "super_offset_sectors": superblock.super_offset_sectors,
        "feature_map": superblock.feature_map,
        "guarded": superblock.guarded,
        "device_uuid": md_uuid(superblock.device_uuid),
        "device_number": superblock.dev_number,
        "device_role": device_role(superblock),
        "role": superblock.role,
        "roles_in_use": used,
        "array_state": array_state(superblock),
        "state": "clean" if superblock.in_sync else "active",
        "resync_offset_sectors": None if superblock.in_sync else superblock.resync_offset_sectors,
        "recovery_offset_sectors": superblock.recovery_offset_sectors if recovering else None,
        "creation_time_s": superblock.ctime & _SECONDS_MASK,
        "update_time_s": superblock.utime & _SECONDS_MASK,
        "events": superblock.events,
        "term": superblock.term,
        "seq": superblock.seq,
        "checksum": superblock.checksum,
    }
