"""``mdcinspect compare``: members of one array side by side, what differs, who wins and why.

The rules are the daemon's. Of a cluster's array the newest commit on any member counts: it says
which members are in sync, and one that shows nothing as new as what was written to all is refused
as an old copy (`members/area.py`, `core/preparing.py`). Of a plain array the events count, as for
mdadm and for `--adopt` (`metadata/scan.py`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from mdcluster.core.model import MemberState
from mdcluster.metadata import examine
from mdcluster.metadata.errors import ForeignError, Where
from mdcluster.metadata.scan import EVENT_MARGIN, ArrayMembers, Member, Scan
from mdcluster.metadata.superblock import ROLE_MAX, SUPER_OFFSET_BYTES, md_uuid
from mdcluster.tools import inspect_commits as commits
from mdcluster.tools.inspect_report import Report, Section, array_title

_OF_EACH: Final = frozenset({"device_uuid", "device_number", "device_role", "role", "checksum"})
"""Of a superblock: what is meant to differ from member to member."""


class Verdict(NamedTuple):
    """What a member is worth. wins: its data are read."""

    wins: bool
    word: str
    why: str


def compare(found: Scan) -> Report:
    """One table of verdicts and one of differences for each array; more than one is a problem."""
    report = Report(problems=list(found.problems))
    for array in found.arrays:
        newest = commits.newest_commit(array)
        rule, verdicts = _judge(array, newest)
        differing = differences(array)
        report.sections.append(_verdict_section(array, rule, verdicts))
        report.sections.append(_difference_section(array, differing))
        report.data.append(_data(array, newest, rule, verdicts, differing))
    for array in found.arrays[1:]:
        first = found.arrays[0]
        where = Where(array.freshest.path, SUPER_OFFSET_BYTES)
        uuid, other = md_uuid(array.set_uuid), md_uuid(first.set_uuid)
        text = f"member of array {uuid}, {first.freshest.path} is one of {other}"
        report.problems.append(ForeignError(where, text, "members of one array can be compared"))
    return report


# --- who wins -------------------------------------------------------------------------


def _judge(array: ArrayMembers, newest: commits.Commit | None) -> tuple[str, list[Verdict]]:
    """The rule in words, and each member's verdict in their order."""
    top = array.freshest.superblock
    assert top is not None
    if _by_commits(array, newest):
        assert newest is not None
        at = newest.record.at
        rule = (
            f"the newest commit {newest.record.at}, on {newest.where}, says who is in sync; "
            "the cluster goes by what a quorum of voters has stored, which is that or newer"
        )
        return rule, [_by_commit(member, newest, at) for member in array.members]
    rule = (
        f"the highest events win, {top.events} on {array.freshest.path}; one behind is as good, "
        "and the roles are what that member says"
    )
    return rule, [_by_events(array, member) for member in array.members]


def _by_commits(array: ArrayMembers, newest: commits.Commit | None) -> bool:
    """Whether the newest commit is known, not only that some superblock bears its stamp."""
    top = array.freshest.superblock
    if newest is None or newest.array is None or top is None or not top.guarded:
        return False
    return bool(newest.record.at == max(member.newest_at for member in array.members))


def _by_commit(member: Member, newest: commits.Commit, at: tuple[int, int]) -> Verdict:
    one, known = member.superblock, commits.state_of(member, newest)
    assert one is not None
    stamp = newest.record.at
    if known is None:
        return Verdict(False, "removed", f"commit {stamp} does not know it")
    if known.state is MemberState.FAULTY:
        return Verdict(False, "faulty", f"commit {stamp} says it failed; its data are not used")
    if member.newest_at < at:
        return Verdict(
            False,
            "behind",
            f"its newest commit is {member.newest_at}: written again if {at} was not yet written "
            "to every member, else an old copy, refused without --force",
        )
    if known.state is MemberState.SPARE:
        return Verdict(False, "spare", f"commit {stamp} gives it no role; it has no data")
    if known.state is MemberState.RECOVERING:
        text = f"commit {stamp} has it recovered up to sector {known.recovery_sectors}; not read"
        return Verdict(False, "recovering", text)
    text = f"in sync by commit {stamp}"
    if (one.term, one.seq) < member.newest_at:
        text += "; its superblock is older than its rings, and is written again"
    return Verdict(True, "wins", text)


def _by_events(array: ArrayMembers, member: Member) -> Verdict:
    one, top = member.superblock, array.freshest.superblock
    assert one is not None and top is not None
    mine = [problem for problem in array.problems if problem.where.path == member.path]
    if member not in array.usable:
        word = "behind" if one.events + EVENT_MARGIN < top.events else "out"
        return Verdict(False, word, mine[-1].what if mine else "another array")
    if one.role > ROLE_MAX:
        return Verdict(False, "spare", "it has no role, so no data")
    return Verdict(True, "wins", f"events {one.events} are the highest, or one behind")


# --- what differs ---------------------------------------------------------------------


def differences(array: ArrayMembers) -> dict[str, list[object]]:
    """By field: the value on each member in order, for fields that are not equal on all."""
    facts = [_facts(member) for member in array.members]
    names = dict.fromkeys(name for one in facts for name in one)
    table = {name: [one.get(name) for one in facts] for name in names}
    return {name: row for name, row in table.items() if any(value != row[0] for value in row)}


def _facts(member: Member) -> dict[str, object]:
    assert member.superblock is not None
    facts = examine.as_dict(member.superblock)
    facts = {name: value for name, value in facts.items() if name not in _OF_EACH}
    header = member.header
    if header is not None:
        facts |= {
            "area.cluster_uuid": str(header.cluster_uuid),
            "area.cluster_name": header.cluster_name.encode("utf-8", "replace").decode(),
            "area.generation": header.generation,
            "area.size_bytes": header.area.size_bytes,
            "area.bitmap_chunk_sectors": header.bitmap_chunk_sectors,
            "area.covered_sectors": header.covered_sectors,
            "area.nodes": [node.name.encode("utf-8", "replace").decode() for node in header.nodes],
        }
    if member.superblock.guarded:
        facts["newest_commit"] = list(member.newest_at)
    return facts | {"device_size_bytes": member.size_bytes}


# --- output ---------------------------------------------------------------------------


def _verdict_section(array: ArrayMembers, rule: str, verdicts: list[Verdict]) -> Section:
    rows = []
    for member, verdict in zip(array.members, verdicts, strict=True):
        one = member.superblock
        assert one is not None
        at = str(member.newest_at) if one.guarded else "-"
        facts = examine.device_role(one), str(one.events), at
        rows.append((member.path, *facts, verdict.word, verdict.why))
    columns = ("MEMBER", "ROLE", "EVENTS", "NEWEST COMMIT", "VERDICT", "WHY")
    return Section(array_title(array), (f"  {rule}",), columns, tuple(rows))


def _difference_section(array: ArrayMembers, differing: dict[str, list[object]]) -> Section:
    if not differing:
        return Section("  nothing else differs")
    columns = ("FIELD", *(member.path for member in array.members))
    rows = tuple(
        (name, *(examine.printable("-" if value is None else str(value)) for value in values))
        for name, values in differing.items()
    )
    return Section("  what differs:", (), columns, rows)


def _data(
    array: ArrayMembers,
    newest: commits.Commit | None,
    rule: str,
    verdicts: list[Verdict],
    differing: dict[str, list[object]],
) -> dict[str, object]:
    members = []
    for member, verdict in zip(array.members, verdicts, strict=True):
        one = member.superblock
        assert one is not None
        term, seq = member.newest_at
        members.append(
            {
                "device": member.path,
                "device_uuid": md_uuid(one.device_uuid),
                "device_role": examine.device_role(one),
                "events": one.events,
                "newest": {"term": term, "seq": seq},
                **verdict._asdict(),
            }
        )
    return {
        "array_uuid": md_uuid(array.set_uuid),
        "rule": "commits" if _by_commits(array, newest) else "events",
        "rule_text": rule,
        "members": members,
        "differences": [
            {
                "field": name,
                "values": [
                    {"device": member.path, "value": value}
                    for member, value in zip(array.members, values, strict=True)
                ],
            }
            for name, values in differing.items()
        ],
    }
