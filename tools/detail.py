"""``mdcadm --detail``: text, --brief and --export, label by label as mdadm 4.2 prints them.

Source: mdadm Detail.c (Detail), super1.c (detail_super1, brief_detail_super1), util.c (enough,
human_size), lib.c (print_quoted). The rows ``Cluster Name``, ``Running On`` and ``Waiting`` are
ours; mdadm has the first one for arrays clustered by the kernel.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Final

from mdcluster.control.arrays import (
    ArrayDetail,
    ArrayWord,
    MemberInfo,
    MemberWord,
    SyncState,
    SyncWord,
)

from .output import device_of, duration, printable

_DOING: Final = {
    SyncWord.RESYNC: ("resyncing", "Resync"),
    SyncWord.BITMAP: ("resyncing", "Resync"),
    SyncWord.REPAIR: ("resyncing", "Resync"),
    SyncWord.RECOVER: ("recovering", "Rebuild"),
    SyncWord.CHECK: ("checking", "Check"),
}
_UNITS: Final[tuple[tuple[int | None, str, int, int], ...]] = (
    (1 << 31, "M", 20, 10**6),
    (1 << 41, "G", 30, 10**9),
    (None, "T", 40, 10**12),
)
_STATES: Final = {
    MemberWord.IN_SYNC: " active sync",
    MemberWord.RECOVERING: " spare rebuilding",
    MemberWord.SPARE: " spare",
    MemberWord.FAULTY: " faulty",
}


# --- what the states mean ----------------------------------------------------------------


def available(array: ArrayDetail) -> list[bool]:
    """For each role, whether a member in sync holds it."""
    roles = {member.role for member in array.members if member.state is MemberWord.IN_SYNC}
    return [role in roles for role in range(array.raid_disks)]


def enough(array: ArrayDetail) -> bool:
    """Whether what is in sync holds all the data (util.c enough)."""
    there = available(array)
    near, far = array.layout & 255, array.layout >> 8 & 255
    if array.level != 10 or not there or not near * far:
        return any(there)
    disks = len(there)
    firsts = range(0, near * disks, near)
    return all(any(there[(first + n) % disks] for n in range(near * far)) for first in firsts)


def test_code(array: ArrayDetail) -> int:
    """Exit code of --test: 0 all there, 1 degraded, 2 not usable."""
    if not enough(array):
        return 2
    return 0 if all(available(array)) else 1


def md_uuid(text: str) -> str:
    """A UUID as mdadm prints it; what is none stays as it is."""
    digits = text.replace("-", "").replace(":", "")
    if len(digits) != 32:
        return printable(text)
    return ":".join(digits[at : at + 8] for at in range(0, 32, 8))


def state_words(array: ArrayDetail) -> str:
    """``clean, degraded, recovering`` ... as after ``State :``."""
    if array.state is ArrayWord.INACTIVE:
        return "inactive"
    words: list[str] = [array.state]
    if array.readonly:
        words.append("readonly")
    if not all(available(array)):
        words.append("degraded" if enough(array) else "FAILED")
    sync = array.sync
    if sync is not None:
        words.append(_DOING[sync.kind][0])
    text = ", ".join(words)
    if sync is not None and sync.state is not SyncState.RUNNING:
        text += f" ({sync.state.upper()})"
    return text


# --- text --------------------------------------------------------------------------------


def detail_text(array: ArrayDetail) -> str:
    """The whole report, ending in a newline."""
    blocks = (_head(array), _counts(array), _shape(array), _names(array), _table(array))
    return "".join(f"{line}\n" for block in blocks for line in block)


def _row(label: str, value: object) -> str:
    return f"{label:>18} : {value}"


def human_size(size_bytes: int) -> str:
    """`` (64.00 MiB 67.11 MB)``; nothing below 5000 KiB (util.c human_size).

    As in mdcluster.metadata.examine, which takes too long to import for one line; a test
    compares them.
    """
    if size_bytes < 5000 << 10:
        return ""
    _, letter, shift, decimal = next(
        unit for unit in _UNITS if unit[0] is None or size_bytes < unit[0]
    )
    binary = (size_bytes * 200 // (1 << shift) + 1) // 2
    thousands = (size_bytes // (decimal // 200) + 1) // 2
    return f" ({_hundredths(binary)} {letter}iB {_hundredths(thousands)} {letter}B)"


def _hundredths(value: int) -> str:
    return f"{value // 100}.{value % 100:02d}"


def _near_or_far(layout: int) -> str:
    """A raid10's layout as in --create (util.c print_r10_layout)."""
    near, far = layout & 255, layout >> 8 & 255
    parts = [f"near={near}"] if near != 1 else []
    if far != 1:
        parts.append(f"{'offset' if layout & 0x10000 else 'far'}={far}")
    return ", ".join(parts) or "NO REDUNDANCY"


def _sized(sectors: int) -> str:
    return f"{sectors // 2}{human_size(sectors << 9)}"


def _date(seconds: int) -> str:
    """C's ctime() cut to 24 characters; the number itself where the year has five digits."""
    try:
        return time.ctime(seconds)[:24]
    except (OverflowError, ValueError, OSError):
        return str(seconds)


def _head(array: ArrayDetail) -> Iterator[str]:
    yield f"{device_of(printable(array.name))}:"
    yield _row("Version", "1.2")
    if array.created_s:
        yield _row("Creation Time", _date(array.created_s))
    yield _row("Raid Level", f"raid{array.level}")
    if array.array_sectors:
        yield _row("Array Size", _sized(array.array_sectors))
    yield _row("Used Dev Size", _sized(array.size_sectors))
    yield _row("Raid Devices", array.raid_disks)
    yield _row("Total Devices", len(array.members))
    yield _row("Persistence", "Superblock is persistent")
    yield ""
    if array.bitmap is not None:
        yield _row("Intent Bitmap", "Internal(Clustered)")
        yield ""
    if array.updated_s:
        yield _row("Update Time", _date(array.updated_s))
    yield _row("State", f"{state_words(array)} ")  # with mdadm's blank at the end


def _counts(array: ArrayDetail) -> Iterator[str]:
    """As the kernel counts (md.c get_array_info): a rebuilding member is a working spare."""
    states = [member.state for member in array.members]
    active, failed = states.count(MemberWord.IN_SYNC), states.count(MemberWord.FAULTY)
    working = len(states) - failed
    yield _row("Active Devices", active)
    if working:
        yield _row("Working Devices", working)
    yield _row("Failed Devices", failed)
    yield _row("Spare Devices", working - active)
    yield ""


def _shape(array: ArrayDetail) -> Iterator[str]:
    if array.level == 10:
        yield _row("Layout", _near_or_far(array.layout))
        yield _row("Chunk Size", f"{array.chunk_sectors // 2}K")
        yield ""
    yield _row("Consistency Policy", "resync" if array.bitmap is None else "bitmap")
    yield ""
    sync = array.sync
    if sync is not None and sync.state is SyncState.RUNNING:
        percent = min(sync.position_sectors * 100 // max(sync.end_sectors, 1), 100)
        yield f"    {_DOING[sync.kind][1]:>7} Status : {percent}% complete"
        yield ""


def _names(array: ArrayDetail) -> Iterator[str]:
    yield _row("Name", printable(array.set_name or array.name))
    if array.cluster:
        yield _row("Cluster Name", printable(array.cluster))
    yield _row("UUID", md_uuid(array.uuid))
    yield _row("Events", array.events)
    if array.running:
        yield _row("Running On", printable(", ".join(array.running)))
    if array.mismatched_sectors:
        yield _row("Mismatches", f"{array.mismatched_sectors} sectors at the last check or repair")
    for wait in array.waiting:
        text = f"{wait.subject}: {wait.reason} (for {duration(wait.since_ms)})"
        yield _row("Waiting", printable(text))
    yield ""


def _table(array: ArrayDetail) -> Iterator[str]:
    """One row a role, a removed one where nobody holds it, a second one for a replacement; then
    spares and faulty members."""
    yield "    Number   Major   Minor   RaidDevice State"
    first = {m.role: m for m in array.members if m.role >= 0 and not m.replacement}
    second = {m.role: m for m in array.members if m.role >= 0 and m.replacement}
    shown = []
    for role in range(array.raid_disks):
        rows = [by_role[role] for by_role in (first, second) if role in by_role]
        shown += rows
        if not rows:
            yield f"       -   {0:5d}    {0:5d}    {role:5d}      removed"
        for member in rows:
            yield _member_row(array, member, f"{role:5d}")
    others = [m for m in array.members if not any(m is one for one in shown)]
    if others:
        yield ""
    for member in sorted(others, key=lambda one: one.number):
        yield _member_row(array, member, "    -")


def _member_row(array: ArrayDetail, member: MemberInfo, role: str) -> str:
    state = _STATES[member.state]
    if member.state is MemberWord.IN_SYNC:
        state += _set_name(array, member.role)
    path = printable(member.path) or "missing"
    place = f"{member.number:5d}   {member.major:5d}    {member.minor:5d}    {role}"
    return f"   {place}     {state}   {path}"


def _set_name(array: ArrayDetail, role: int) -> str:
    """`` set-A``: which copy a member of a raid10 holds, where copies make sets."""
    copies = array.layout & 255
    plain_near = array.level == 10 and array.layout >> 8 == 1 and 0 < copies <= 26
    if not plain_near or array.raid_disks % copies:
        return ""
    return f" set-{chr(ord('A') + role % copies)}"


# --- lines for programs ------------------------------------------------------------------


def quoted(text: str) -> str:
    """In quotes if it has blanks or quotes in it (lib.c print_quoted, without mixed ones)."""
    if not any(char in text for char in " \t'\""):
        return text
    quote = "'" if '"' in text else '"'
    return f"{quote}{text}{quote}"


def brief_text(array: ArrayDetail, verbose: bool = False, no_devices: bool = False) -> str:
    """The ARRAY line of --brief and --scan."""
    inactive = array.state is ArrayWord.INACTIVE
    words = ["INACTIVE-ARRAY" if inactive else "ARRAY", device_of(printable(array.name))]
    if verbose:
        words += [f"level=raid{array.level}", f"num-devices={array.raid_disks}"]
    words.append("metadata=1.2")
    idle = (MemberWord.SPARE, MemberWord.RECOVERING)
    spares = sum(member.state in idle for member in array.members)
    if spares:
        words.append(f"spares={spares}")
    name = quoted(printable(array.set_name or array.name))
    words += [f"name={name}", f"UUID={md_uuid(array.uuid)}"]
    line = " ".join(words)
    paths = sorted(printable(member.path) for member in array.members if member.path)
    if verbose and paths and not no_devices:
        line += f"\n   devices={','.join(paths)}"
    return line + "\n"


def export_text(array: ArrayDetail) -> str:
    """KEY=value lines, as udev rules and scripts import them."""
    name = printable(array.name)
    lines = [
        f"MD_LEVEL=raid{array.level}",
        f"MD_DEVICES={array.raid_disks}",
        "MD_METADATA=1.2",
        f"MD_UUID={md_uuid(array.uuid)}",
        f"MD_DEVNAME={device_of(name).removeprefix('/dev/md/')}",
        f"MD_NAME={printable(array.set_name or array.name)}",
    ]
    for member in array.members:
        base = os.path.basename(member.path) or f"missing_{member.number}"
        key = "dev_" + "".join(char if char.isascii() and char.isalnum() else "_" for char in base)
        lines.append(f"MD_DEVICE_{key}_ROLE={member.role if member.role >= 0 else 'spare'}")
        if member.path:
            lines.append(f"MD_DEVICE_{key}_DEV={printable(member.path)}")
    return "\n".join(lines) + "\n"
