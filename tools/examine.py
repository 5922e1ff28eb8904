"""``mdcadm --examine``: the superblock on devices, read directly; no daemon is asked.

Source of the frame around each superblock: mdadm 4.2 Examine.c, super1.c (brief_examine_super1).
"""

from __future__ import annotations

import socket

from mdcluster.metadata import examine, scan
from mdcluster.metadata.errors import NoSuperblockError
from mdcluster.metadata.superblock import ROLE_FAULTY, Superblock, md_uuid

from .command import Command
from .detail import quoted
from .output import Output, device_of
from .values import UsageError


def run(command: Command, output: Output) -> int:
    """Print what is on each device; exit code 1 if one of them has no good superblock."""
    if "" in command.devices:
        raise UsageError("No devices to examine")
    members = [scan.read_member(path, with_rings=False) for path in command.devices]
    for member in members:
        if member.superblock is None:
            output.error(_why_none(member))
    good = [member for member in members if member.superblock is not None]
    if command.has("json"):
        output.print_json({"members": [_as_json(member) for member in members]})
    elif command.brief:
        output.print(_brief(good, verbose=command.verbosity > 0))
    else:
        for member in good:
            _print_one(member, command, output)
    return 0 if len(good) == len(members) else 1


def _print_one(member: scan.Member, command: Command, output: Output) -> None:
    assert member.superblock is not None
    if command.has("export"):
        output.print(examine.export_text(member.superblock))
        return
    text = examine.examine_text(member.superblock, member.size_bytes, socket.gethostname())
    output.print(f"{examine.printable(member.path)}:\n{text}")
    for problem in member.problems:
        output.error(str(problem))


def _why_none(member: scan.Member) -> str:
    if not member.problems or isinstance(member.problems[0], NoSuperblockError):
        return f"No md superblock detected on {member.path}."
    return str(member.problems[0])


def _as_json(member: scan.Member) -> dict[str, object]:
    superblock = member.superblock
    return {
        "device": examine.printable(member.path),
        "size_bytes": member.size_bytes,
        "superblock": None if superblock is None else examine.as_dict(superblock),
        "problems": [problem.as_dict() for problem in member.problems],
    }


def _brief(members: list[scan.Member], verbose: bool) -> str:
    """One ARRAY line for each array, whatever the number of its members."""
    groups: dict[str, list[tuple[str, Superblock]]] = {}
    for member in members:
        assert member.superblock is not None
        key = md_uuid(member.superblock.set_uuid)
        groups.setdefault(key, []).append((member.path, member.superblock))
    return "".join(_array_line(key, found, verbose) for key, found in groups.items())


def _array_line(uuid: str, found: list[tuple[str, Superblock]], verbose: bool) -> str:
    newest = max((superblock for _, superblock in found), key=lambda one: one.events)
    name = examine.printable(newest.set_name)
    line = "ARRAY "
    if name:
        line += device_of(name.partition(":")[2] or name) + " "
    if verbose:
        line += f" level={examine.level_name(newest.level)}"
    line += " metadata=1.2 "
    if verbose:
        line += f"num-devices={newest.raid_disks} "
    line += f"UUID={uuid}" + (f" name={quoted(name)}" if name else "") + "\n"
    spares = sum(superblock.role >= ROLE_FAULTY for _, superblock in found)
    more = f"   spares={spares}" if spares else ""
    if verbose:
        more += f"   devices={','.join(examine.printable(path) for path, _ in found)}"
    return line + (more + "\n" if more else "")
