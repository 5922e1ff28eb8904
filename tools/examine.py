"""``mdcadm --examine``: the superblock on devices, read directly; no daemon is asked.

Source of the frame around each superblock: mdadm 4.2 Examine.c, super1.c (brief_examine_super1).
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final, NamedTuple

from mdcluster.metadata import examine, scan
from mdcluster.metadata.device import DeviceReader
from mdcluster.metadata.errors import (
    BadChecksumError,
    DeviceError,
    MetadataError,
    NoSuperblockError,
    Where,
)
from mdcluster.metadata.superblock import (
    ROLE_FAULTY,
    SUPER_BYTES,
    SUPER_OFFSET_BYTES,
    Superblock,
    decode,
    md_uuid,
    stored_checksum,
)

from .command import Command
from .detail import quoted
from .output import Output, device_of
from .values import UsageError


class Shown(NamedTuple):
    """A member and what is printed of it. stored: its checksum, if that is wrong."""

    member: scan.Member
    superblock: Superblock
    stored: int | None = None


def run(command: Command, output: Output) -> int:
    """Print what is on each device; exit code 1 if one of them has no superblock.

    As mdadm, one with a wrong checksum is printed and says so; that is also said on stderr.
    Without devices, with --scan, all block devices of this host are looked at.
    """
    paths = [path for path in command.devices if path]
    if not paths:
        if not command.has("scan"):
            raise UsageError("No devices to examine")
        paths = _all_devices()
    members = [scan.read_member(path, with_rings=False) for path in paths]
    found = [shown(member) for member in members]
    code = 0
    for member, one in zip(members, found, strict=True):
        passed_over = one is None and _passed_over(member, command)
        if one is None and not passed_over:
            code = 1
        if member.superblock is None and not passed_over:
            output.error(_why_none(member))
    good = [one for one in found if one is not None]
    if command.has("json"):
        pairs = zip(members, found, strict=True)
        output.print_json({"members": [_as_json(member, one) for member, one in pairs]})
    elif command.brief:
        output.print(_brief(good, verbose=command.verbosity > 0))
    else:
        for one in good:
            _print_one(one, command, output)
    return code


def _passed_over(member: scan.Member, command: Command) -> bool:
    """What is no member is no error in a summary; with --scan neither is what cannot be opened."""
    if any(isinstance(problem, DeviceError) for problem in member.problems):
        return command.has("scan")
    return command.brief


def _all_devices() -> list[str]:
    """All block devices, as mdadm without DEVICE lines in its configuration."""
    try:
        lines = Path("/proc/partitions").read_text().splitlines()[2:]
    except OSError as error:
        raise UsageError(f"cannot read /proc/partitions: {error.strerror}", 1) from None
    paths = [f"/dev/{line.split()[-1]}" for line in lines if line.strip()]
    return paths[: scan.MAX_DEVICES]


def shown(member: scan.Member) -> Shown | None:
    """What there is to print of a member, None if it has no superblock at all."""
    if member.superblock is not None:
        return Shown(member, member.superblock)
    if not any(isinstance(problem, BadChecksumError) for problem in member.problems):
        return None
    try:
        with DeviceReader(member.path) as device:
            raw = device.read(SUPER_OFFSET_BYTES, SUPER_BYTES)
        where = Where(member.path, SUPER_OFFSET_BYTES)
        return Shown(member, decode(raw, where, whole=False), stored_checksum(raw))
    except MetadataError:
        return None


def _print_one(one: Shown, command: Command, output: Output) -> None:
    member = one.member
    if command.has("export"):
        output.print(examine.export_text(one.superblock))
        return
    host = socket.gethostname()
    text = examine.examine_text(one.superblock, member.size_bytes, host, one.stored)
    output.print(f"{examine.printable(member.path)}:\n{text}")
    if one.stored is None:
        for problem in member.problems:
            output.error(str(problem))


def _why_none(member: scan.Member) -> str:
    if not member.problems or isinstance(member.problems[0], NoSuperblockError):
        return f"No md superblock detected on {member.path}."
    return str(member.problems[0])


def _as_json(member: scan.Member, one: Shown | None) -> dict[str, object]:
    return {
        "device": examine.printable(member.path),
        "size_bytes": member.size_bytes,
        "superblock": None if one is None else examine.as_dict(one.superblock),
        "problems": [problem.as_dict() for problem in member.problems],
    }


_SAME: Final = ("set_uuid", "ctime", "level", "layout", "size_sectors", "chunksize_sectors")
"""What makes members of one array for mdadm (super1.c, compare_super1), and `raid_disks`."""


def _brief(members: list[Shown], verbose: bool) -> str:
    """One ARRAY line for each array, whatever the number of its members; as mdadm, last first."""
    groups: dict[tuple[object, ...], list[Shown]] = {}
    for one in members:
        key = tuple(getattr(one.superblock, name) for name in (*_SAME, "raid_disks"))
        groups.setdefault(key, []).append(one)
    return "".join(_array_line(found, verbose) for found in reversed(groups.values()))


def _array_line(found: list[Shown], verbose: bool) -> str:
    newest = max((one.superblock for one in found), key=lambda one: one.events)
    name = examine.printable(newest.set_name)
    line = "ARRAY "
    if name:
        line += device_of(name.partition(":")[2] or name) + " "
    if verbose:
        line += f" level={examine.level_name(newest.level)}"
    line += " metadata=1.2 "
    if verbose:
        line += f"num-devices={newest.raid_disks} "
    line += f"UUID={md_uuid(newest.set_uuid)}" + (f" name={quoted(name)}" if name else "") + "\n"
    spares = sum(one.superblock.role >= ROLE_FAULTY for one in found)
    more = f"   spares={spares}" if spares else ""
    if verbose:
        more += f"   devices={','.join(examine.printable(one.member.path) for one in found)}"
    return line + (more + "\n" if more else "")
