"""What mdcinspect shows: each view turns members that were read into a report.

A report is sections for people (text, or a table), data for `--json`, and problems, which make
the exit code. Nothing here prints or opens anything for writing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from mdcluster.metadata import bitmap, examine
from mdcluster.metadata.cluster_area import Header, NodeEntry
from mdcluster.metadata.device import DeviceReader
from mdcluster.metadata.errors import MetadataError, NoAreaError, Where
from mdcluster.metadata.layout import AREA_OFFSET_BYTES, covered_sectors
from mdcluster.metadata.rings import LANE_NAMES, Record, Ring, record_offset_bytes
from mdcluster.metadata.scan import ArrayMembers, Member, Scan
from mdcluster.metadata.superblock import FEATURE_RECOVERY, Superblock, md_uuid
from mdcluster.tools.inspect_payload import decode_payload, outline

EXTENTS_SHOWN: Final = 16


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


def superblocks(found: Scan) -> Report:
    """Each member's superblock in mdadm's words, and the header of its cluster area."""
    report = Report(problems=list(found.problems))
    for member in _members(found):
        if member.superblock is None:
            continue
        text = examine.examine_text(member.superblock, member.size_bytes).splitlines()
        header = member.header
        report.sections.append(Section(f"{member.path}:", tuple(text)))
        if header is not None:
            report.sections.append(_header_section(header))
        report.data.append(
            {
                "device": member.path,
                "size_bytes": member.size_bytes,
                "superblock": examine.as_dict(member.superblock),
                "cluster_area": None if header is None else _header_data(header),
            }
        )
    return report


def _members(found: Scan) -> list[Member]:
    return [member for array in found.arrays for member in array.members]


def _header_section(header: Header) -> Section:
    area = header.area
    facts = (
        ("Cluster Name", examine.printable(header.cluster_name)),
        ("Cluster UUID", header.cluster_uuid),
        ("Area", f"{area.size_bytes // 1024} KiB at byte {area.offset_bytes}"),
        ("Generation", header.generation),
        ("Rings", area.ring_count),
        ("Bitmap Slots", f"{area.slot_count} of {area.slot_bytes // 1024} KiB"),
        ("Bitmap Chunk", f"{header.bitmap_chunk_sectors // 2} KiB"),
    )
    return Section(
        "  Cluster area:",
        tuple(f"{label:>15} : {value}" for label, value in facts),
        ("NODE", "UUID", "VOTER", "BITMAP SLOT", "LIFE") if header.nodes else (),
        tuple(_node_row(node) for node in header.nodes),
    )


def _node_row(node: NodeEntry) -> tuple[str, ...]:
    return (
        examine.printable(node.name),
        str(node.node_uuid),
        _number(node.voter_index, "spectator"),
        _number(node.bitmap_slot),
        f"{node.boot_id}.{node.boot_counter}" if node.boot_id.int else "-",
    )


def _number(value: int | None, none: str = "-") -> str:
    return none if value is None else str(value)


def _header_data(header: Header) -> dict[str, object]:
    return {
        "cluster_name": header.cluster_name.encode("utf-8", "replace").decode(),
        "cluster_uuid": str(header.cluster_uuid),
        "generation": header.generation,
        "offset_bytes": header.area.offset_bytes,
        "size_bytes": header.area.size_bytes,
        "rings": header.area.ring_count,
        "bitmap_slots": header.area.slot_count,
        "bitmap_slot_bytes": header.area.slot_bytes,
        "bitmap_chunk_sectors": header.bitmap_chunk_sectors,
        "covered_sectors": header.covered_sectors,
        "nodes": [
            {
                "name": node.name.encode("utf-8", "replace").decode(),
                "uuid": str(node.node_uuid),
                "voter_index": node.voter_index,
                "bitmap_slot": node.bitmap_slot,
                "boot_id": str(node.boot_id) if node.boot_id.int else None,
                "boot_counter": node.boot_counter,
            }
            for node in header.nodes
        ],
    }


def checkpoints(found: Scan) -> Report:
    """How far resync and recovery of each array are, by member, and who is up to date."""
    report = Report(problems=list(found.problems))
    for array in found.arrays:
        rows = []
        data = []
        usable = {member.path for member in array.usable}
        for member in array.members:
            superblock = member.superblock
            if superblock is None:
                continue
            fresh = "yes" if member.path in usable else "no"
            rows.append((member.path, *_checkpoint_row(superblock), fresh))
            data.append(_checkpoint_data(member.path, superblock, member.path in usable))
        columns = ("MEMBER", "ROLE", "EVENTS", "TERM", "SEQ", "RESYNC", "RECOVERY", "UP TO DATE")
        report.sections.append(Section(_array_title(array), (), columns, tuple(rows)))
        report.data.append({"array_uuid": md_uuid(array.set_uuid), "members": data})
    return report


def _array_title(array: ArrayMembers) -> str:
    superblock = array.freshest.superblock
    name = examine.printable(superblock.set_name) if superblock else ""
    return f"Array {md_uuid(array.set_uuid)} {name}".rstrip() + ":"


def _position(sectors: int | None, whole: int) -> str:
    """`81920 of 122880 sectors (66.7%)`, or `done`."""
    if sectors is None:
        return "done"
    share = 100.0 * min(sectors, whole) / whole if whole else 0.0
    return f"{sectors} of {whole} sectors ({share:.1f}%)"


def _checkpoint_row(superblock: Superblock) -> tuple[str, ...]:
    recovering = superblock.feature_map & FEATURE_RECOVERY
    recovery = superblock.recovery_offset_sectors if recovering else None
    resync = None if superblock.in_sync else superblock.resync_offset_sectors
    guarded = superblock.guarded
    return (
        examine.device_role(superblock),
        str(superblock.events),
        str(superblock.term) if guarded else "-",
        str(superblock.seq) if guarded else "-",
        _position(resync, covered_sectors(superblock)),
        _position(recovery, superblock.size_sectors),
    )


def _checkpoint_data(path: str, superblock: Superblock, usable: bool) -> dict[str, object]:
    wanted = (
        *("device_uuid", "device_role", "role", "state", "events", "term", "seq", "guarded"),
        *("resync_offset_sectors", "recovery_offset_sectors", "component_size_sectors"),
    )
    facts = examine.as_dict(superblock)
    return {"device": path} | {key: facts[key] for key in wanted} | {"up_to_date": usable}


def bitmaps(found: Scan) -> Report:
    """The dirty chunks of each bitmap slot, by member, and their union over fresh members."""
    report = Report(problems=list(found.problems))
    for array in found.arrays:
        usable = {member.path for member in array.usable}
        rows: list[tuple[str, ...]] = []
        data: list[dict[str, object]] = []
        merged: list[bytes] = []
        header: Header | None = None
        for member in array.members:
            if member.header is None:
                report.problems += _no_area(member)
                continue
            header = member.header
            slots = _read_slots(member, header, report)
            merged += slots.values() if member.path in usable else ()
            for slot, bits in slots.items():
                rows.append(_slot_row(member.path, slot, bits, header))
                data.append(_slot_data(member.path, slot, bits, header))
        if header is None:
            continue
        columns = ("MEMBER", "SLOT", "NODE", "DIRTY CHUNKS", "DIRTY SECTORS [LO, HI)")
        lines = (_union_line(merged, header),)
        report.sections.append(Section(_array_title(array), lines, columns, tuple(rows)))
        report.data.append(
            {
                "array_uuid": md_uuid(array.set_uuid),
                "chunk_sectors": header.bitmap_chunk_sectors,
                "covered_sectors": header.covered_sectors,
                "slots": data,
                "union": _dirty(bitmap.union(merged), header),
            }
        )
    return report


def _no_area(member: Member) -> list[MetadataError]:
    """One line for a member without an area, unless another problem says why already."""
    if member.problems:
        return []
    where = Where(member.path, AREA_OFFSET_BYTES)
    return [NoAreaError(where, "no cluster area", "it is a member of a plain md array")]


def _read_slots(member: Member, header: Header, report: Report) -> dict[int, bytes]:
    """The slots that belong to a node by the node table, or have a bit set."""
    owned = {node.bitmap_slot for node in header.nodes}
    slots: dict[int, bytes] = {}
    area = header.area
    try:
        with DeviceReader(member.path) as device:
            for slot in range(area.slot_count):
                bits = device.read(area.slot_offset_bytes(slot), area.slot_bytes)
                if slot in owned or any(bits):
                    slots[slot] = bits
    except MetadataError as exc:
        report.problems.append(exc)
    return slots


def _chunks(header: Header) -> int:
    return bitmap.chunk_count(header.covered_sectors, header.bitmap_chunk_sectors)


def _extents(bits: bytes, header: Header) -> list[tuple[int, int]]:
    return list(bitmap.sector_extents(bits, header.covered_sectors, header.bitmap_chunk_sectors))


def _dirty(bits: bytes, header: Header) -> dict[str, object]:
    return {
        "dirty_chunks": bitmap.count(bits, _chunks(header)),
        "extents_sectors": [list(extent) for extent in _extents(bits, header)],
    }


def _owner(slot: int, header: Header) -> str:
    names = [node.name for node in header.nodes if node.bitmap_slot == slot]
    return examine.printable(",".join(names)) or "-"


def _slot_row(path: str, slot: int, bits: bytes, header: Header) -> tuple[str, ...]:
    extents = _extents(bits, header)
    text = " ".join(f"[{lo}, {hi})" for lo, hi in extents[:EXTENTS_SHOWN])
    if len(extents) > EXTENTS_SHOWN:
        text += f" and {len(extents) - EXTENTS_SHOWN} more"
    dirty = f"{bitmap.count(bits, _chunks(header))} of {_chunks(header)}"
    return path, str(slot), _owner(slot, header), dirty, text or "-"


def _slot_data(path: str, slot: int, bits: bytes, header: Header) -> dict[str, object]:
    owner = {"device": path, "slot": slot, "node": _owner(slot, header)}
    return owner | _dirty(bits, header)


def _union_line(merged: Sequence[bytes], header: Header) -> str:
    dirty = bitmap.count(bitmap.union(merged), _chunks(header))
    size_kib = header.bitmap_chunk_sectors // 2
    return f"  {dirty} of {_chunks(header)} chunks of {size_kib} KiB dirty on up-to-date members"


def rings(found: Scan) -> Report:
    """The commits in each voter's ring, oldest first, with the last one's state written out."""
    report = Report(problems=list(found.problems))
    for member in _members(found):
        if member.header is None:
            report.problems += _no_area(member)
            continue
        for ring in member.rings:
            report.sections.append(_ring_section(member, ring, member.header, report))
        if not member.rings:
            report.sections.append(Section(f"{member.path}: no commits in any ring"))
    return report


def _ring_section(member: Member, ring: Ring, header: Header, report: Report) -> Section:
    lines: list[str] = []
    rows = []
    last = [record for lane in LANE_NAMES if (record := ring.newest(lane))]
    for record in ring.records:
        rows.append(_record_row(record))
        offset = record_offset_bytes(header.area, ring.voter_index, record.lane, record.index)
        facts: dict[str, object] = {"device": member.path, **_record_data(record)}
        try:
            state = decode_payload(record.payload, Where(member.path, offset))
        except MetadataError as exc:
            report.problems.append(exc)
        else:
            facts["state"] = state
            if record in last:
                lines.append(f"  newest of {record.lane}, (term, seq) = {record.at}:")
                lines += outline(state, "    ")
        report.data.append(facts)
    names = [node.name for node in header.nodes if node.voter_index == ring.voter_index]
    title = f"{member.path}, ring of voter {ring.voter_index} {','.join(names)}".rstrip()
    columns = ("LANE", "INDEX", "TERM", "SEQ", "NODE", "BYTES")
    return Section(examine.printable(title) + ":", tuple(lines), columns, tuple(rows))


def _record_row(record: Record) -> tuple[str, ...]:
    numbers = (str(record.index), str(record.term), str(record.seq))
    return (record.lane, *numbers, str(record.node_uuid), str(len(record.payload)))


def _record_data(record: Record) -> dict[str, object]:
    return {
        "voter_index": record.voter_index,
        "lane": record.lane,
        "key": record.key,
        "index": record.index,
        "term": record.term,
        "seq": record.seq,
        "node_uuid": str(record.node_uuid),
        "cluster_uuid": str(record.cluster_uuid),
        "array_uuid": md_uuid(record.array_uuid),
        "payload_bytes": len(record.payload),
    }
