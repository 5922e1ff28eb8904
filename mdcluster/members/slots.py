"""Where bitmap slots lie, and how they are zeroed. Blocking.

All members of an array have the same area; the offsets follow from the committed state alone, so
that nobody has to read a member to know them.
"""

from collections.abc import Callable

from mdcluster.core.arrays import array_size_sectors
from mdcluster.core.model import ArrayState, Member
from mdcluster.members.errors import MembersError
from mdcluster.members.projection import uuid_of
from mdcluster.members.proof import prove
from mdcluster.metadata.device import DeviceReader, DeviceWriter
from mdcluster.metadata.errors import MetadataError
from mdcluster.metadata.layout import AreaLayout, area_with
from mdcluster.metadata.superblock import SECTOR


def area_layout(state: ArrayState) -> AreaLayout:
    """The area that each member has before its data; MembersError if it does not fit."""
    array_sectors = array_size_sectors(state)
    data_start_bytes = min(m.data_offset_sectors for m in state.members) * SECTOR
    try:
        area = area_with(state.slot_count, array_sectors, state.bitmap_chunk_sectors)
    except MetadataError as error:
        raise MembersError(f"array {state.name}: {error}") from None
    if area.end_bytes > data_start_bytes:
        raise MembersError(
            f"array {state.name}: no room for the cluster area before the data at byte "
            f"{data_start_bytes}"
        )
    return area


def slot_offset_sectors(state: ArrayState, index: int) -> int:
    """Where slot `index` begins on each member, for the driver; MembersError if it has none."""
    area = area_layout(state)
    if not 0 <= index < area.slot_count:
        raise MembersError(
            f"array {state.name}: bitmap slot {index} does not exist, its members have "
            f"{area.slot_count}"
        )
    return area.slot_offset_bytes(index) // SECTOR


def zero_slot(
    path: str, state: ArrayState, member: Member, index: int, check: Callable[[], None]
) -> None:
    """Zero one slot of one member, durable on return.

    Raises WrongDeviceError, MetadataError, or as `check` does.
    """
    prove(path, uuid_of(state.uuid, "array"), uuid_of(member.device, "device"))
    area = area_layout(state)
    at_bytes = slot_offset_sectors(state, index) * SECTOR
    with DeviceReader(path) as reader:
        if not any(reader.read(at_bytes, area.slot_bytes)):
            return
    with DeviceWriter(path, check) as writer:
        writer.write(at_bytes, bytes(area.slot_bytes))
