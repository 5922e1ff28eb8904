"""``mdcadm --examine-bitmap``: the write-intent bitmaps on members, those of all nodes.

On a member of the cluster each node has a slot of its own (docs/FORMAT.md); they are printed as
mdadm prints the bitmaps of md's own cluster, with the node's name. On a plain member, or in a
bitmap file, it is md's bitmap. Source of labels and order: mdadm 4.2, bitmap.c (ExamineBitmap).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from mdcluster.metadata import bitmap, examine, native, scan
from mdcluster.metadata.device import READ_BYTES_MAX, DeviceReader
from mdcluster.metadata.errors import MetadataError
from mdcluster.metadata.superblock import (
    FEATURE_BITMAP,
    SECTOR,
    SUPER_OFFSET_BYTES,
    Superblock,
    md_uuid,
)

from .command import Command
from .output import Output, printable

_STATES: Final = {0: "OK", 2: "Out of date"}
_CHUNK_UNITS: Final = ("B", "KB", "MB", "GB", "TB")
NODES_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class Bits:
    """One node's bitmap, or the only one. events None: a slot of the cluster has none."""

    slot: int
    node: str
    events: int | None
    events_cleared: int | None
    state: int
    bits: int
    dirty: int


@dataclass(frozen=True, slots=True)
class Found:
    """What there is on one device. head None: slots of the cluster, without md's head."""

    device: str
    head: native.BitmapHead | None
    uuid: UUID
    cluster_name: str | None
    chunk_bytes: int
    sync_size_sectors: int
    slots: tuple[Bits, ...]


def run(command: Command, output: Output) -> int:
    """Print each device's bitmaps; exit code 1 if one of them has none."""
    found, code = [], 0
    for path in command.devices:
        try:
            one = _read(path)
        except MetadataError as exc:
            output.error(str(exc))
            code = 1
            continue
        if isinstance(one, str):
            output.error(one)
            code = 1
        else:
            found.append(one)
    if command.has("json"):
        output.print_json({"bitmaps": [_as_json(one) for one in found]})
        return code
    for one in found:
        output.print("".join(f"{line}\n" for line in _lines(one, command.brief)))
    return code


# --- reading --------------------------------------------------------------------------


def _read(path: str) -> Found | str:
    """The bitmaps of a device, or why there are none. Raises MetadataError."""
    member = scan.read_member(path, with_rings=False)
    one = member.superblock
    if one is not None and one.guarded and member.header is not None:
        return _slots(member)
    with DeviceReader(path) as device:
        if one is None:
            return _of_md(device, 0, None)
        if not one.feature_map & FEATURE_BITMAP:
            return f"{path} doesn't have bitmap"
        return _of_md(device, SUPER_OFFSET_BYTES + one.bitmap_offset * SECTOR, one)


def _slots(member: scan.Member) -> Found:
    header, one = member.header, member.superblock
    assert header is not None and one is not None
    area = header.area
    chunks = bitmap.chunk_count(header.covered_sectors, header.bitmap_chunk_sectors)
    names = {node.bitmap_slot: node.name for node in header.nodes}
    found = []
    with DeviceReader(member.path) as device:
        for slot in range(area.slot_count):
            raw = device.read(area.slot_offset_bytes(slot), area.slot_bytes)
            if slot in names or any(raw):
                dirty = bitmap.count(raw, chunks)
                found.append(Bits(slot, names.get(slot, ""), None, None, 0, chunks, dirty))
    return Found(
        member.path,
        None,
        one.set_uuid,
        header.cluster_name,
        header.bitmap_chunk_sectors * SECTOR,
        header.covered_sectors,
        tuple(found),
    )


def _of_md(device: DeviceReader, at: int, one: Superblock | None) -> Found | str:
    """md's bitmap at byte `at`; in a bitmap file (no superblock) that is its start."""
    length = native.BITMAP_HEAD_BYTES
    if at < 0 or at + length > device.size_bytes:
        return f"{device.path} doesn't have bitmap"
    head = native.decode_bitmap_head(device.read(at, length))
    if not head.plausible:
        if one is None:
            return f"{device.path}: neither a member with a bitmap nor a bitmap file"
        return f"{device.path}: invalid bitmap at byte {at}, it is damaged or missing"
    name = None
    if head.nodes:
        name = head.cluster_name.split(b"\0")[0].decode("utf-8", "replace")
    stride = one.bitmap_offset * SECTOR if one is not None else 0  # super1.c, locate_bitmap1
    slots = tuple(_bits(device, at, head, stride))
    uuid = UUID(bytes=head.uuid)
    return Found(device.path, head, uuid, name, head.chunk_bytes, head.sync_size_sectors, slots)


def _bits(device: DeviceReader, at: int, first: native.BitmapHead, stride: int) -> Iterator[Bits]:
    """Of each node of md's own cluster, one after the other; else the only one."""
    length = native.BITMAP_HEAD_BYTES
    for slot in range(min(max(first.nodes, 1), NODES_MAX)):
        start = at + slot * stride
        if start < 0 or start + length > device.size_bytes:
            return
        head = native.decode_bitmap_head(device.read(start, length))
        room = min(device.size_bytes - start - length, READ_BYTES_MAX - 8192)
        body = device.read(start + length, min(-(-head.chunks // 8), room))
        bits = min(head.chunks, 8 * len(body))
        dirty = bitmap.count(body, bits)
        yield Bits(slot, "", head.events, head.events_cleared, head.state, bits, dirty)


# --- output ---------------------------------------------------------------------------


def _line(label: str, value: object) -> str:
    return f"{label:>16} : {value}"


def _lines(found: Found, brief: bool) -> Iterator[str]:
    head = found.head
    yield _line("Filename", printable(found.device))
    if head is not None:
        yield _line("Magic", f"{head.magic:08x}")
        yield _line("Version", head.version)
    yield _line("UUID", md_uuid(found.uuid))
    if found.cluster_name is None:
        yield from _condition(found.slots[0])
    yield _line("Chunksize", _chunk(found.chunk_bytes))
    if head is not None:
        yield _line("Daemon", f"{head.daemon_sleep_s}s flush period")
    behind = head.write_behind if head is not None else 0
    yield _line("Write Mode", f"Allow write behind, max {behind}" if behind else "Normal")
    size = found.sync_size_sectors
    yield _line("Sync Size", f"{size // 2}{examine.human_size(size * SECTOR)}")
    if found.cluster_name is None:
        if not brief:
            yield _count(found.slots[0])
        return
    yield _line("Cluster nodes", head.nodes if head is not None else len(found.slots))
    yield _line("Cluster name", f"{printable(found.cluster_name):<64}")
    for one in found.slots:
        yield _line("Node Slot", one.slot)
        if one.node:
            yield _line("Node Name", printable(one.node))
        yield from _condition(one)
        if not brief:
            yield _count(one)


def _condition(one: Bits) -> Iterator[str]:
    if one.events is not None:
        yield _line("Events", one.events)
        yield _line("Events Cleared", one.events_cleared)
    yield _line("State", _STATES.get(one.state, "Unknown"))


def _count(one: Bits) -> str:
    share = 100.0 * one.dirty / (one.bits or 1)
    return _line("Bitmap", f"{one.bits} bits (chunks), {one.dirty} dirty ({share:2.1f}%)")


def _chunk(size_bytes: int) -> str:
    unit = 0
    while size_bytes >> 10 and unit < len(_CHUNK_UNITS) - 1:
        size_bytes >>= 10
        unit += 1
    return f"{size_bytes} {_CHUNK_UNITS[unit]}"


def _as_json(found: Found) -> dict[str, object]:
    return {
        "device": printable(found.device),
        "kind": "cluster" if found.head is None else "md",
        "array_uuid": md_uuid(found.uuid),
        "cluster_name": None if found.cluster_name is None else printable(found.cluster_name),
        "chunk_bytes": found.chunk_bytes,
        "sync_size_sectors": found.sync_size_sectors,
        "slots": [
            {
                "slot": one.slot,
                "node": printable(one.node) or None,
                "events": one.events,
                "events_cleared": one.events_cleared,
                "state": _STATES.get(one.state, "Unknown"),
                "bits": one.bits,
                "dirty": one.dirty,
            }
            for one in found.slots
        ],
    }
