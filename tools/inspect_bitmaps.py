"""The bitmap slots of members: which chunks are dirty, by member and slot, and all in all.

Slots are read one by one and in bounds: up to 64 of 1 MiB on each member. On a running array md
writes them all the time; a slot that changes while it is read says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from mdcluster.metadata import bitmap, examine
from mdcluster.metadata.cluster_area import Header
from mdcluster.metadata.device import DeviceReader
from mdcluster.metadata.errors import MetadataError
from mdcluster.metadata.scan import ArrayMembers, Member, Scan
from mdcluster.metadata.superblock import md_uuid
from mdcluster.tools.inspect_report import Report, Section, array_title, no_area

EXTENTS_PRINTED: Final = 16
EXTENTS_MAX: Final = 1024
"""In `--json`, of each slot: a bitmap of every other bit would otherwise give millions."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot as it was read. steady: two reads in a row were equal."""

    index: int
    bits: bytes
    steady: bool = True


def bitmaps(found: Scan) -> Report:
    """The dirty chunks of each bitmap slot, by member, and their union over fresh members."""
    report = Report(problems=list(found.problems))
    for array in found.arrays:
        _array_bitmaps(array, report)
    return report


def _array_bitmaps(array: ArrayMembers, report: Report) -> None:
    usable = {member.path for member in array.usable}
    rows: list[tuple[str, ...]] = []
    data: list[dict[str, object]] = []
    merged = b""
    header: Header | None = None
    for member in array.members:
        if member.header is None:
            report.problems += no_area(member)
            continue
        header = member.header
        for slot in read_slots(member, header, report.problems):
            if member.path in usable:
                merged = bitmap.union((merged, slot.bits))
            rows.append(_row(member.path, slot, header))
            data.append(_data(member.path, slot, header))
    if header is None:
        return
    columns = ("MEMBER", "SLOT", "NODE", "DIRTY CHUNKS", "DIRTY SECTORS [LO, HI)")
    lines = (_union_line(merged, header),)
    report.sections.append(Section(array_title(array), lines, columns, tuple(rows)))
    report.data.append(
        {
            "array_uuid": md_uuid(array.set_uuid),
            "chunk_sectors": header.bitmap_chunk_sectors,
            "covered_sectors": header.covered_sectors,
            "slots": data,
            "union": _dirty(merged, header),
        }
    )


def read_slots(member: Member, header: Header, problems: list[MetadataError]) -> Iterator[Slot]:
    """The slots that belong to a node by the node table, or have a bit set; errors as problems."""
    owned = {node.bitmap_slot for node in header.nodes}
    area = header.area
    try:
        with DeviceReader(member.path) as device:
            for index in range(area.slot_count):
                at = area.slot_offset_bytes(index)
                bits = device.read(at, area.slot_bytes)
                if index not in owned and not any(bits):
                    continue
                again = device.read(at, area.slot_bytes)
                yield Slot(index, again, bits == again)
    except MetadataError as exc:
        problems.append(exc)


def _chunks(header: Header) -> int:
    return bitmap.chunk_count(header.covered_sectors, header.bitmap_chunk_sectors)


def _extents(bits: bytes, header: Header, limit: int) -> list[tuple[int, int]]:
    found = bitmap.sector_extents(bits, header.covered_sectors, header.bitmap_chunk_sectors)
    return list(islice(found, limit))


def _dirty(bits: bytes, header: Header) -> dict[str, object]:
    return {
        "dirty_chunks": bitmap.count(bits, _chunks(header)),
        "extents": bitmap.extent_count(bits, _chunks(header)),
        "extents_sectors": [list(one) for one in _extents(bits, header, EXTENTS_MAX)],
    }


def _owner(slot: int, header: Header) -> str:
    names = [node.name for node in header.nodes if node.bitmap_slot == slot]
    return examine.printable(",".join(names)) or "-"


def _row(path: str, slot: Slot, header: Header) -> tuple[str, ...]:
    shown = _extents(slot.bits, header, EXTENTS_PRINTED)
    text = " ".join(f"[{lo}, {hi})" for lo, hi in shown)
    more = bitmap.extent_count(slot.bits, _chunks(header)) - len(shown)
    if more:
        text += f" and {more} more"
    dirty = f"{bitmap.count(slot.bits, _chunks(header))} of {_chunks(header)}"
    if not slot.steady:
        dirty += ", changing"
    return path, str(slot.index), _owner(slot.index, header), dirty, text or "-"


def _data(path: str, slot: Slot, header: Header) -> dict[str, object]:
    owner = {"device": path, "slot": slot.index, "node": _owner(slot.index, header)}
    return owner | {"steady": slot.steady} | _dirty(slot.bits, header)


def _union_line(merged: bytes, header: Header) -> str:
    dirty = bitmap.count(merged, _chunks(header))
    size_kib = header.bitmap_chunk_sectors // 2
    return f"  {dirty} of {_chunks(header)} chunks of {size_kib} KiB dirty on up-to-date members"
