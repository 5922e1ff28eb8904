"""A report of mdcinspect: sections for people, data for `--json`, problems for its exit code."""

from __future__ import annotations

from dataclasses import dataclass, field

from mdcluster.metadata import examine
from mdcluster.metadata.errors import MetadataError, NoAreaError, Where
from mdcluster.metadata.layout import AREA_OFFSET_BYTES
from mdcluster.metadata.scan import ArrayMembers, Member
from mdcluster.metadata.superblock import md_uuid


@dataclass(frozen=True, slots=True)
class Section:
    """A title with lines of text below it, then a table if it has columns."""

    title: str
    lines: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


@dataclass(slots=True)
class Report:
    """Filled by one view."""

    sections: list[Section] = field(default_factory=list)
    data: list[dict[str, object]] = field(default_factory=list)
    problems: list[MetadataError] = field(default_factory=list)


def array_title(array: ArrayMembers) -> str:
    """`Array UUID NAME:`, the name as the freshest member has it."""
    superblock = array.freshest.superblock
    name = examine.printable(superblock.set_name) if superblock else ""
    return f"Array {md_uuid(array.set_uuid)} {name}".rstrip() + ":"


def number_or(value: int | None, none: str = "-") -> str:
    return none if value is None else str(value)


def no_area(member: Member) -> list[MetadataError]:
    """One line for a member without an area, unless another problem says why already."""
    if member.problems:
        return []
    where = Where(member.path, AREA_OFFSET_BYTES)
    return [NoAreaError(where, "no cluster area", "it is a member of a plain md array")]
