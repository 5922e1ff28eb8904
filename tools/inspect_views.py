"""What stands on members, member by member: superblocks, checkpoints, rings of commits."""

from __future__ import annotations

from mdcluster.metadata import examine
from mdcluster.metadata.cluster_area import Header, NodeEntry
from mdcluster.metadata.errors import MetadataError, Where
from mdcluster.metadata.layout import covered_sectors
from mdcluster.metadata.rings import LANE_NAMES, Record, Ring, record_offset_bytes
from mdcluster.metadata.scan import Member, Scan
from mdcluster.metadata.superblock import FEATURE_RECOVERY, Superblock, md_uuid
from mdcluster.tools.inspect_payload import decode_payload, outline
from mdcluster.tools.inspect_report import Report, Section, array_title, no_area, number_or


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
        number_or(node.voter_index, "spectator"),
        number_or(node.bitmap_slot),
        f"{node.boot_id}.{node.boot_counter}" if node.boot_id.int else "-",
    )


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
        report.sections.append(Section(array_title(array), (), columns, tuple(rows)))
        report.data.append({"array_uuid": md_uuid(array.set_uuid), "members": data})
    return report


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


def rings(found: Scan) -> Report:
    """The commits in each voter's ring, oldest first, with the last one's state written out."""
    report = Report(problems=list(found.problems))
    for member in _members(found):
        if member.header is None:
            report.problems += no_area(member)
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
