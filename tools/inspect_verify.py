"""``mdcinspect verify``: everything that can be held against something else, on each member.

Checksums, the order of commits, superblocks against headers and commits, bitmap slots against
what they cover and whose they are, places that overlap, roles and UUIDs that stand twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from mdcluster.core.model import ArrayState
from mdcluster.metadata import bitmap, checks, native
from mdcluster.metadata.device import DeviceReader
from mdcluster.metadata.errors import DamagedError, ForeignError, MetadataError, Where
from mdcluster.metadata.layout import AREA_OFFSET_BYTES, HEADER_BYTES, HEADER_COPIES
from mdcluster.metadata.scan import ArrayMembers, Member, Scan
from mdcluster.metadata.superblock import (
    FEATURE_BITMAP,
    FEATURE_REPLACEMENT,
    ROLE_MAX,
    SECTOR,
    SUPER_OFFSET_BYTES,
    md_uuid,
)
from mdcluster.tools import inspect_commits as commits
from mdcluster.tools.inspect_bitmaps import read_slots
from mdcluster.tools.inspect_quorum import read_nonce
from mdcluster.tools.inspect_report import Report, Section, array_title

PARTS: Final = ("device", "superblock", "area", "rings", "bitmaps", "places", "array")
_AREA_HEADER_END: Final = AREA_OFFSET_BYTES + HEADER_COPIES * HEADER_BYTES


@dataclass(slots=True)
class Findings:
    """What is wrong with one member, by the part of it. looked: parts that are there at all."""

    path: str
    looked: set[str] = field(default_factory=set)
    by_part: dict[str, list[MetadataError]] = field(default_factory=dict)

    def add(self, part: str, problems: Iterator[MetadataError] | list[MetadataError]) -> None:
        self.looked.add(part)
        self.by_part.setdefault(part, []).extend(problems)

    def count(self, part: str) -> int | None:
        """None where there is nothing to be wrong."""
        return len(self.by_part.get(part, ())) if part in self.looked else None

    @property
    def problems(self) -> list[MetadataError]:
        return [problem for part in PARTS for problem in self.by_part.get(part, ())]


def verify(found: Scan) -> Report:
    """All findings of all members, and a table of what was looked at."""
    report = Report()
    for member in found.others:
        findings = _read_findings(member)
        report.problems += findings.problems
        report.sections.append(Section(f"{member.path}: no member of an array"))
        report.data.append(_data(None, [findings]))
    for array in found.arrays:
        _verify_array(array, report)
    report.problems += _namesakes(found)
    return report


def _verify_array(array: ArrayMembers, report: Report) -> None:
    newest = commits.newest_commit(array)
    members = {member.path: _member_findings(member, newest) for member in array.members}
    for one in members.values():
        one.add("array", [])
    for problem in _array_problems(array, newest):
        members[problem.where.path].add("array", [problem])
    found = list(members.values())
    columns = ("MEMBER", *(part.upper() for part in PARTS))
    rows = tuple((one.path, *(_cell(one.count(part)) for part in PARTS)) for one in found)
    lines = tuple(_summary(array, newest))
    report.sections.append(Section(array_title(array), lines, columns, rows))
    report.problems += [problem for one in found for problem in one.problems]
    report.data.append(_data(array, found, newest))


def _cell(count: int | None) -> str:
    return {None: "-", 0: "ok"}.get(count, f"{count} wrong")


def _summary(array: ArrayMembers, newest: commits.Commit | None) -> Iterator[str]:
    if newest is not None:
        yield f"  newest commit: (term, seq) = {newest.record.at}, on {newest.where}"
    for member in commits.missing_members(array, newest):
        role = f"role {member.role}" if member.role >= 0 else "no role"
        yield f"  not among the devices given: {member.device} ({role}, {member.state})"


def _data(
    array: ArrayMembers | None, found: list[Findings], newest: commits.Commit | None = None
) -> dict[str, object]:
    record = newest.record if newest is not None else None
    absent = commits.missing_members(array, newest) if array is not None else []
    return {
        "array_uuid": md_uuid(array.set_uuid) if array is not None else None,
        "newest": None if record is None else {"term": record.term, "seq": record.seq},
        "members": [
            {"device": one.path, "findings": {part: one.count(part) for part in PARTS}}
            for one in found
        ],
        "absent": [{"device_uuid": m.device, "role": m.role, "state": m.state} for m in absent],
    }


# --- one member -----------------------------------------------------------------------


def _read_findings(member: Member) -> Findings:
    """What already came up when it was read."""
    findings = Findings(member.path)
    findings.add("device", [])
    if member.superblock is not None:
        findings.add("superblock", [])
    if member.header is not None:
        findings.add("area", [])
        findings.add("rings", [])
    for problem in member.all_problems:
        findings.add(_part_of(problem), [problem])
    return findings


def _part_of(problem: MetadataError) -> str:
    at = problem.where.offset_bytes
    if at is None:
        return "device"
    if at == SUPER_OFFSET_BYTES:
        return "superblock"
    return "area" if at < _AREA_HEADER_END else "rings"


def _member_findings(member: Member, newest: commits.Commit | None) -> Findings:
    findings = _read_findings(member)
    one, header = member.superblock, member.header
    assert one is not None, "members of an array have a superblock"
    findings.add("superblock", checks.bounds(one, member.path))
    beside: list[MetadataError] = []
    places = checks.regions(one, header, _bitmap_head(member, beside))
    findings.add("device", beside)
    findings.add("places", checks.overlaps(places, member.size_bytes, member.path))
    if header is None:
        return findings
    nonce: list[MetadataError] = []
    read_nonce(member, nonce)
    findings.add("area", nonce)
    findings.add("area", checks.area_agrees(one, header, member.path))
    findings.add("area", checks.node_table(header, member.path))
    findings.add("rings", commits.unreadable(commits.commits_of(member)))
    if not findings.count("rings"):  # else what is damaged says it
        findings.add("rings", commits.without_commit(member))
    findings.add("superblock", commits.behind_rings(member))
    findings.add("bitmaps", _slot_problems(member, newest))
    return findings


def _bitmap_head(member: Member, problems: list[MetadataError]) -> native.BitmapHead | None:
    one = member.superblock
    if one is None or not one.feature_map & FEATURE_BITMAP:
        return None
    at = SUPER_OFFSET_BYTES + one.bitmap_offset * SECTOR
    if not 0 <= at <= member.size_bytes - native.BITMAP_HEAD_BYTES:
        return None
    try:
        with DeviceReader(member.path) as device:
            return native.decode_bitmap_head(device.read(at, native.BITMAP_HEAD_BYTES))
    except MetadataError as exc:
        problems.append(exc)
        return None


def _slot_problems(member: Member, newest: commits.Commit | None) -> list[MetadataError]:
    """Bits beyond the end, and bits in slots that by the newest commit are nobody's."""
    header = member.header
    assert header is not None
    problems: list[MetadataError] = []
    owned = _slots_in_use(member, newest)
    chunks = bitmap.chunk_count(header.covered_sectors, header.bitmap_chunk_sectors)
    for slot in read_slots(member, header, problems):
        where = Where(member.path, header.area.slot_offset_bytes(slot.index))
        dirty = bitmap.count(slot.bits, chunks)
        if beyond := bitmap.count(slot.bits) - dirty:
            text = f"bitmap slot {slot.index} has {beyond} bits set beyond its {chunks} chunks"
            problems.append(DamagedError(where, text, "what it covers was damaged or has shrunk"))
        if dirty and owned is not None and slot.index not in owned:
            text = f"bitmap slot {slot.index} has {dirty} bits set and belongs to nobody"
            advice = "it is cleared before it is given away; if damage set the bits, no data differ"
            problems.append(DamagedError(where, text, advice))
    return problems


def _slots_in_use(member: Member, newest: commits.Commit | None) -> set[int] | None:
    """By the newest commit; None if it says nothing of this member, or nobody clears it there."""
    state: ArrayState | None = newest.array if newest is not None else None
    device = commits.state_of(member, newest)
    if state is None or device is None or device not in state.in_sync:
        return None
    return {slot.index for slot in state.slots}


# --- the members of one array ---------------------------------------------------------


def _array_problems(array: ArrayMembers, newest: commits.Commit | None) -> Iterator[MetadataError]:
    yield from array.problems
    yield from _twice(array)
    yield from _same_events(array)
    yield from commits.forks([one for m in array.members for one in commits.commits_of(m)])
    yield from commits.unlike_commit(array)
    yield from commits.unknown_members(array, newest)


def _twice(array: ArrayMembers) -> Iterator[MetadataError]:
    """One number, or one role without a replacement, on two members that are up to date."""
    numbers: dict[int, str] = {}
    roles: dict[int, Member] = {}
    for member in array.usable:
        one = member.superblock
        assert one is not None
        where = Where(member.path, SUPER_OFFSET_BYTES)
        if (other := numbers.setdefault(one.dev_number, member.path)) != member.path:
            text = f"device number {one.dev_number} is also that of {other}"
            yield ForeignError(where, text, "one of them was copied from the other")
        if one.role > ROLE_MAX or (first := roles.setdefault(one.role, member)) is member:
            continue
        assert first.superblock is not None
        if not (one.feature_map | first.superblock.feature_map) & FEATURE_REPLACEMENT:
            text = f"role {one.role} is also that of {first.path}, and neither is a replacement"
            yield ForeignError(where, text, "only one of them has its data up to date")


def _same_events(array: ArrayMembers) -> Iterator[MetadataError]:
    """Members of the same commit that do not agree on what belongs to the array."""
    first: dict[int, Member] = {}
    for member in array.members:
        one = member.superblock
        if one is None or not one.guarded:
            continue
        other = first.setdefault(one.events, member)
        assert other.superblock is not None
        names = ("set_name", "resync_offset_sectors", "dev_roles")
        differing = [n for n in names if getattr(one, n) != getattr(other.superblock, n)]
        if differing:
            yield DamagedError(
                Where(member.path, SUPER_OFFSET_BYTES),
                f"of the same commit {(one.term, one.seq)} as {other.path}, but another "
                f"{', '.join(differing)}",
                "the next commit replaces both",
            )


def _namesakes(found: Scan) -> Iterator[MetadataError]:
    """Arrays of one name and different UUIDs: parts of an older array, most likely."""
    first: dict[str, ArrayMembers] = {}
    for array in found.arrays:
        one = array.freshest.superblock
        if one is None or not one.set_name:
            continue
        other = first.setdefault(one.set_name, array)
        if other is not array:
            yield ForeignError(
                Where(array.freshest.path, SUPER_OFFSET_BYTES),
                f"array {one.set_name!r} is {md_uuid(array.set_uuid)} here and "
                f"{md_uuid(other.set_uuid)} on {other.freshest.path}",
                "they are two arrays; the older one's members may be wiped",
            )
