"""Arrays for the tests of the on-disk formats: values, and image files made of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import msgpack  # type: ignore[import-untyped]

from mdcluster.metadata import bitmap, cluster_area, layout, rings
from mdcluster.metadata import superblock as sb
from mdcluster.metadata.device import DeviceWriter

MIB = 1 << 20
SIZE_BYTES = 16 * MIB
CLUSTER = UUID(int=0xC1)
ARRAY = UUID("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")
NODES = tuple(UUID(int=0x100 + number) for number in range(3))


def device_uuid(number: int) -> UUID:
    return UUID(int=0xD0 + number)


def spec(level: int = 1, raid_disks: int = 2, **changes: object) -> layout.ArraySpec:
    facts: dict[str, object] = {"events": sb.events_of(1, 2)} | changes
    return layout.ArraySpec(
        ARRAY,
        "alpha:data",
        level,
        raid_disks,
        1_700_000_000,
        **facts,  # type: ignore[arg-type]
    )


def member_specs(count: int, size_bytes: int = SIZE_BYTES) -> list[layout.MemberSpec]:
    return [layout.MemberSpec(device_uuid(number), size_bytes) for number in range(count)]


def superblock(level: int = 1, raid_disks: int = 2) -> sb.Superblock:
    made = layout.fresh_superblocks(spec(level, raid_disks), member_specs(raid_disks))[0]
    assert made is not None
    return made


def header(of: sb.Superblock | None = None, generation: int = 1) -> cluster_area.Header:
    of = of or superblock()
    plan = layout.plan_layout(SIZE_BYTES, of.level, of.raid_disks)
    nodes = tuple(
        cluster_area.NodeEntry(node, f"node{number}", number, number, UUID(int=7 + number), 1)
        for number, node in enumerate(NODES)
    )
    first = cluster_area.fresh_header(CLUSTER, "lab", of, plan, nodes)
    return cluster_area.Header(
        first.cluster_uuid,
        first.cluster_name,
        first.array_uuid,
        first.device_uuid,
        generation,
        first.area,
        first.bitmap_chunk_sectors,
        first.covered_sectors,
        first.nodes,
    )


def record(
    index: int,
    lane: rings.Lane = "array",
    voter_index: int = 0,
    term: int = 1,
    cluster: UUID = CLUSTER,
    array: UUID = ARRAY,
    payload: bytes | None = None,
) -> rings.Record:
    state = {"members": [{"uuid": b"\x01", "role": 0}], "number": index}
    return rings.Record(
        cluster,
        array,
        NODES[voter_index],
        voter_index,
        lane,
        index,
        term,
        2 * index + 2,
        msgpack.packb(state) if payload is None else payload,
    )


def open_gate() -> None:
    """A check that lets every write through."""


@dataclass(frozen=True)
class Images:
    """The members of one array as files."""

    paths: list[str]
    superblocks: list[sb.Superblock]
    headers: list[cluster_area.Header]

    def write(self, number: int, offset_bytes: int, data: bytes) -> None:
        with DeviceWriter(self.paths[number], open_gate) as device:
            device.write(offset_bytes, data)

    def patch(self, number: int, offset_bytes: int, data: bytes) -> None:
        """Damage: any bytes anywhere."""
        with open(self.paths[number], "r+b") as file:
            file.seek(offset_bytes)
            file.write(data)

    def change(
        self, number: int, change: Callable[[sb.Superblock], sb.Superblock]
    ) -> sb.Superblock:
        """Write a member's superblock anew."""
        made = change(self.superblocks[number])
        self.write(number, sb.SUPER_OFFSET_BYTES, sb.encode(made))
        return made


def write_images(folder: Path, level: int = 1, raid_disks: int = 2) -> Images:
    """A whole array: superblocks, areas, six commits of voters 0 and 1, one dirty slot."""
    members = member_specs(raid_disks)
    made = [one for one in layout.fresh_superblocks(spec(level, raid_disks), members) if one]
    images = Images([], made, [header(one) for one in made])
    for number, (one, area) in enumerate(zip(made, images.headers, strict=True)):
        path = folder / f"member{number}.img"
        with path.open("wb") as file:
            file.truncate(SIZE_BYTES)
        images.paths.append(str(path))
        with DeviceWriter(str(path), open_gate) as device:
            for offset, data in cluster_area.blank_area(area):
                device.write(offset, data)
            for voter in (0, 1):
                for index in range(6):
                    commit = record(index, voter_index=voter)
                    offset = rings.record_offset_bytes(area.area, voter, "array", index)
                    device.write(offset, rings.encode_record(commit))
            bits = bytearray(area.area.slot_bytes)
            bitmap.set_range(bits, 3, 9)
            device.write(area.area.slot_offset_bytes(1), bytes(bits))
            device.write(sb.SUPER_OFFSET_BYTES, sb.encode(one))
    return images
