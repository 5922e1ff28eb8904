"""The arrays of the cluster in the format of /proc/mdstat, which monitoring reads with regexes.

Source: linux drivers/md/md.c (md_seq_show, status_resync), raid1.c and raid10.c (status),
md-bitmap.c (md_bitmap_status).
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterator, Sequence
from typing import Final

from mdcluster.control.arrays import (
    ArrayWord,
    BitmapInfo,
    MdstatArray,
    MemberInfo,
    MemberWord,
    SyncInfo,
    SyncState,
    SyncWord,
)

from .output import printable

_PERSONALITIES: Final = ("raid1", "raid10")
_WORDS: Final = {
    SyncWord.RESYNC: "resync",
    SyncWord.BITMAP: "resync",
    SyncWord.REPAIR: "resync",
    SyncWord.RECOVER: "recovery",
    SyncWord.CHECK: "check",
}
_BITS_PER_PAGE: Final = 2048  # PAGE_COUNTER_RATIO of md-bitmap.h
_PAGE_KIB: Final = 4


_HEAD: Final = "Personalities :"
_TAIL: Final = "unused devices:"
_OURS: Final = "super external:mdcluster "


def mdstat(arrays: Sequence[MdstatArray], kernel: str = "") -> str:
    """The whole file, ending in a newline.

    kernel: what the file of this host's kernel says. Its arrays that are not the cluster's come
    first, as they are; those it runs for the cluster are left out: the cluster knows them better.
    """
    names, others, unused = _shown_through(kernel, {array.device for array in arrays})
    needed = [f"raid{array.level}" for array in arrays] if names else _PERSONALITIES
    names += [name for name in dict.fromkeys(needed) if name not in names]
    lines = [f"{_HEAD} {''.join(f'[{name}] ' for name in names)}", *others]
    for array in arrays:
        lines += _array(array)
    return "\n".join([*lines, unused]) + "\n"


def _shown_through(kernel: str, ours: Container[str]) -> tuple[list[str], list[str], str]:
    """Personalities, lines of the arrays that are not the cluster's, the line of unused devices."""
    names: list[str] = []
    unused = f"{_TAIL} <none>"
    arrays: list[list[str]] = []
    for line in kernel.splitlines():
        if line.startswith(_HEAD):
            names = re.findall(r"\[([^]]+)\]", line)
        elif line.startswith(_TAIL):
            unused = line
        elif re.match(r"\S+ : ", line):
            arrays.append([line])
        elif arrays:
            arrays[-1].append(line)
    others = (array for array in arrays if not (_name(array) in ours and _is_ours(array)))
    return names, [line for array in others for line in array], unused


def _name(array: list[str]) -> str:
    return array[0].split(" ", 1)[0]


def _is_ours(array: list[str]) -> bool:
    return any(_OURS in f"{line} " for line in array[1:2])


def _array(array: MdstatArray) -> Iterator[str]:
    running = array.state is not ArrayWord.INACTIVE
    level = f"{' (read-only)' * array.readonly} raid{array.level}" if running else ""
    members = "".join(f" {_member(member)}" for member in array.members)
    yield f"{array.device} : {'' if running else 'in'}active{level}{members}"
    blocks = f"      {array.array_sectors // 2} blocks super 1.2"
    if not running:
        yield blocks
        yield "       "
        return
    yield f"{blocks}{_shape(array)} {_roles(array)}"
    if array.sync is not None:
        yield f"      {sync_line(array.sync)}"
    yield f"      {'' if array.bitmap is None else _bitmap(array.bitmap)}"
    yield ""


def _member(member: MemberInfo) -> str:
    name = printable(os.path.basename(member.path)) or f"missing-{member.number}"
    name = "".join("_" if char.isspace() or char in "[]()" else char for char in name)
    flag = ""
    if member.state is MemberWord.FAULTY:
        flag = "(F)"
    elif member.role < 0:
        flag = "(S)"
    elif member.replacement:
        flag = "(R)"
    return f"{name}[{member.number}]{flag}"


def _shape(array: MdstatArray) -> str:
    if array.level != 10:
        return ""
    return f" {array.chunk_sectors // 2}K chunks {array.layout & 255} near-copies"


def _roles(array: MdstatArray) -> str:
    in_sync = {member.role for member in array.members if member.state is MemberWord.IN_SYNC}
    flags = "".join("U" if role in in_sync else "_" for role in range(array.raid_disks))
    return f"[{array.raid_disks}/{flags.count('U')}] [{flags}]"


def sync_line(sync: SyncInfo) -> str:
    """``[==>...]  resync = 12.6% (a/b) finish=0.1min speed=132096K/sec``, or why not."""
    if sync.state is not SyncState.RUNNING:
        return f"\tresync={sync.state.upper()}"
    milli = min(sync.position_sectors * 1000 // max(sync.end_sectors, 1), 1000)
    bar = "=" * (milli // 50) + ">" + "." * (20 - milli // 50)
    done_kib, end_kib = sync.position_sectors // 2, sync.end_sectors // 2
    eta_s = sync.eta_s
    if eta_s is None:
        eta_s = max(end_kib - done_kib, 0) // max(sync.speed_kib, 1)
    return (
        f"[{bar}]  {_WORDS[sync.kind]} ={milli // 10:3d}.{milli % 10}% ({done_kib}/{end_kib})"
        f" finish={eta_s // 60}.{eta_s % 60 // 6}min speed={sync.speed_kib}K/sec"
    )


def _bitmap(bitmap: BitmapInfo) -> str:
    pages = -(-bitmap.chunks // _BITS_PER_PAGE)
    used = min(pages, bitmap.chunks_dirty)
    return (
        f"bitmap: {used}/{pages} pages [{used * _PAGE_KIB}KB], {bitmap.chunk_sectors // 2}KB chunk"
    )
