"""What the voters have left on the disks of an array: who they are, and what each committed last.

It is no quorum disk in the sense of a vote: promises, votes and leases stand in the voters' state
directories alone. The disks tell a cold start, or a person, which voters there are by the newest
header, in which life each ran the array, and which commits each wrote to its own ring; and they
hold the nonce by which a device is proved before it has a superblock.
"""

from __future__ import annotations

from mdcluster.members.nonceblock import (
    NONCE_OFFSET_BYTES,
    Nonce,
    decode_nonce,
    nonce_is_damaged,
)
from mdcluster.metadata import examine
from mdcluster.metadata.cluster_area import Header, NodeEntry
from mdcluster.metadata.device import DeviceReader
from mdcluster.metadata.errors import BadChecksumError, MetadataError, Where
from mdcluster.metadata.rings import LANE_NAMES, Record
from mdcluster.metadata.scan import ArrayMembers, Member, Scan, cluster_label, newest_record
from mdcluster.metadata.superblock import BLOCK, md_uuid
from mdcluster.tools.inspect_report import Report, Section, array_title, no_area, number_or


def quorum(found: Scan) -> Report:
    """Voters, lives and newest commits of each array, and the nonce on each device."""
    report = Report(problems=list(found.problems))
    nonces = _nonces(found, report.problems)
    for array in found.arrays:
        headers = [member.header for member in array.members if member.header is not None]
        for member in array.members:
            if member.header is None:
                report.problems += no_area(member)
        if headers:
            newest = max(headers, key=lambda one: one.generation)
            report.sections += [_array_section(array, newest), _voters_section(array, newest)]
            here = {path: one for path, one in nonces.items() if one.array == array.set_uuid}
            report.data.append(_array_data(array, newest, here))
    shown = {array["array_uuid"] for array in report.data}
    for uuid in sorted({md_uuid(one.array) for one in nonces.values()} - shown):
        here = {path: one for path, one in nonces.items() if md_uuid(one.array) == uuid}
        report.data.append(_unborn_data(uuid, here))
    if nonces:
        report.sections.append(_nonce_section(nonces))
    return report


def _array_section(array: ArrayMembers, header: Header) -> Section:
    lines = [
        f"  {cluster_label(header)}, header of generation {header.generation}",
        "  votes, promises and leases stand in the voters' state directories, not here",
    ]
    for lane in LANE_NAMES:
        if (record := newest_record(array, lane)) is not None:
            writer = _name_of(record, header)
            holders = len(_holders(array, record))
            lines.append(
                f"  newest commit of {lane}: (term, seq) = {record.at}, written by {writer}, "
                f"on {holders} of {len(array.members)} members"
            )
    return Section(array_title(array), tuple(examine.printable(line) for line in lines))


def _name_of(record: Record, header: Header) -> str:
    names = [node.name for node in header.nodes if node.node_uuid == record.node_uuid]
    return names[0] if names else f"node {record.node_uuid}"


def _holders(array: ArrayMembers, record: Record) -> list[str]:
    """The members in whose rings this very commit stands."""
    return [m.path for m in array.members if any(record in ring.records for ring in m.rings)]


def _voters_section(array: ArrayMembers, header: Header) -> Section:
    columns = ("VOTER", "NODE", "UUID", "LIFE", "SLOT", "COMMITS", "NEWEST (TERM, SEQ)", "ON")
    rows = tuple(_voter_row(array, header, node) for node in header.nodes)
    return Section("  voters:", (), columns, rows)


def _voter_row(array: ArrayMembers, header: Header, node: NodeEntry) -> tuple[str, ...]:
    commits = _commits_of(array, node)
    last = max(commits, key=lambda record: record.at, default=None)
    return (
        number_or(node.voter_index, "spectator"),
        examine.printable(node.name),
        str(node.node_uuid),
        str(node.boot_id) if node.boot_id.int else "-",
        number_or(node.bitmap_slot),
        str(len({record.at for record in commits})) if _has_ring(node, header) else "no ring",
        str(last.at) if last else "-",
        f"{len(_holders(array, last))} of {len(array.members)} members" if last else "-",
    )


def _has_ring(node: NodeEntry, header: Header) -> bool:
    return node.voter_index is not None and node.voter_index < header.area.ring_count


def _commits_of(array: ArrayMembers, node: NodeEntry) -> list[Record]:
    """The array's commits in the node's ring on any member, its own only."""
    return [
        record
        for member in array.members
        for ring in member.rings
        if ring.voter_index == node.voter_index
        for record in ring.records_of("array")
        if record.node_uuid == node.node_uuid
    ]


def _array_data(array: ArrayMembers, header: Header, nonces: dict[str, Nonce]) -> dict[str, object]:
    newest = {lane: newest_record(array, lane) for lane in LANE_NAMES}
    return {
        "array_uuid": md_uuid(array.set_uuid),
        "cluster_name": header.cluster_name.encode("utf-8", "replace").decode(),
        "cluster_uuid": str(header.cluster_uuid),
        "generation": header.generation,
        "newest": {lane: _newest_data(array, header, record) for lane, record in newest.items()},
        "voters": [_voter_data(array, header, node) for node in header.nodes],
        "nonces": _nonce_data(nonces),
    }


def _unborn_data(uuid: str, nonces: dict[str, Nonce]) -> dict[str, object]:
    """An array of which only nonces tell: it is being created, or was not after all."""
    return {
        "array_uuid": uuid,
        "cluster_name": None,
        "cluster_uuid": None,
        "generation": None,
        "newest": dict.fromkeys(LANE_NAMES),
        "voters": [],
        "nonces": _nonce_data(nonces),
    }


def _newest_data(
    array: ArrayMembers, header: Header, record: Record | None
) -> dict[str, object] | None:
    if record is None:
        return None
    return {
        "term": record.term,
        "seq": record.seq,
        "node_uuid": str(record.node_uuid),
        "node": _name_of(record, header).encode("utf-8", "replace").decode(),
        "devices": _holders(array, record),
    }


def _voter_data(array: ArrayMembers, header: Header, node: NodeEntry) -> dict[str, object]:
    commits = _commits_of(array, node)
    last = max(commits, key=lambda record: record.at, default=None)
    return {
        "name": node.name.encode("utf-8", "replace").decode(),
        "uuid": str(node.node_uuid),
        "voter_index": node.voter_index,
        "has_ring": _has_ring(node, header),
        "boot_id": str(node.boot_id) if node.boot_id.int else None,
        "bitmap_slot": node.bitmap_slot,
        "commits": len({record.at for record in commits}),
        "newest": _newest_data(array, header, last),
    }


# --- nonces ---------------------------------------------------------------------------


def _nonces(found: Scan, problems: list[MetadataError]) -> dict[str, Nonce]:
    """The nonce of each device that has one."""
    members = [*found.others, *(member for array in found.arrays for member in array.members)]
    nonces = {member.path: read_nonce(member, problems) for member in members}
    return {path: nonce for path, nonce in nonces.items() if nonce is not None}


def read_nonce(member: Member, problems: list[MetadataError]) -> Nonce | None:
    """The nonce on a device, None if there is none or it is damaged (which is a problem)."""
    if member.size_bytes < NONCE_OFFSET_BYTES + BLOCK:
        return None
    try:
        with DeviceReader(member.path) as device:
            raw = device.read(NONCE_OFFSET_BYTES, BLOCK)
    except MetadataError as exc:
        problems.append(exc)
        return None
    if nonce_is_damaged(raw):
        where = Where(member.path, NONCE_OFFSET_BYTES)
        advice = "it proves nothing; what was begun with it is tried again or given up"
        problems.append(BadChecksumError(where, "nonce block has a wrong checksum", advice))
    return decode_nonce(raw)


def _nonce_section(nonces: dict[str, Nonce]) -> Section:
    rows = tuple(
        (path, md_uuid(one.array), md_uuid(one.device), one.value.hex())
        for path, one in nonces.items()
    )
    text = "  each proves its device until that has the superblock of a member"
    return Section("Nonces:", (text,), ("DEVICE", "ARRAY", "DEVICE UUID", "NONCE"), rows)


def _nonce_data(nonces: dict[str, Nonce]) -> list[dict[str, object]]:
    return [
        {"device": path, "device_uuid": md_uuid(one.device), "value": one.value.hex()}
        for path, one in nonces.items()
    ]
