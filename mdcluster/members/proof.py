"""Is the device at a path the one that is meant? Asked before it is written to. Blocking."""

from dataclasses import dataclass
from uuid import UUID

from mdcluster.members.errors import WrongDeviceError
from mdcluster.members.nonceblock import NONCE_OFFSET_BYTES, decode_nonce
from mdcluster.metadata import cluster_area, layout
from mdcluster.metadata.cluster_area import Header
from mdcluster.metadata.device import DeviceReader
from mdcluster.metadata.scan import read_member
from mdcluster.metadata.superblock import BLOCK, MAGIC, SUPER_OFFSET_BYTES, Superblock


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands on a member, as far as it is of this array and device."""

    superblock: Superblock | None
    header: Header | None
    by_nonce: bool


def prove(path: str, array: UUID, device: UUID) -> Standing:
    """WrongDeviceError unless it says of itself that it is this device of this array.

    By its superblock; by the header of its area, where a superblock stands that is torn (but
    not where one of another array or something else stands: the device was given away, and the
    header is what is left of us); or by the nonce of an operation that is under way, whatever
    else stands there: that is about to be overwritten.
    """
    superblock = read_member(path, with_rings=False).superblock
    with DeviceReader(path) as reader:
        by_nonce = _has_nonce(reader, array, device)
        header = _header(reader)
        torn = superblock is None and _looks_like_md(reader)
    ours = superblock is not None and _is(
        superblock.set_uuid, superblock.device_uuid, array, device
    )
    if header is not None and not (
        (ours or torn) and _is(header.array_uuid, header.device_uuid, array, device)
    ):
        header = None
    if not (ours or header is not None or by_nonce):
        raise WrongDeviceError(
            f"{path}: this is not device {device} of the array; it was exchanged"
        )
    return Standing(superblock if ours else None, header, by_nonce)


def _is(found_array: UUID, found_device: UUID, array: UUID, device: UUID) -> bool:
    return (found_array, found_device) == (array, device)


def _looks_like_md(reader: DeviceReader) -> bool:
    return int.from_bytes(reader.read(SUPER_OFFSET_BYTES, 4), "little") == MAGIC


def _has_nonce(reader: DeviceReader, array: UUID, device: UUID) -> bool:
    if reader.size_bytes < NONCE_OFFSET_BYTES + BLOCK:
        return False
    nonce = decode_nonce(reader.read(NONCE_OFFSET_BYTES, BLOCK))
    return nonce is not None and _is(nonce.array, nonce.device, array, device)


def _header(reader: DeviceReader) -> Header | None:
    """The newest header, whatever the superblock says."""
    length = layout.HEADER_BYTES * layout.HEADER_COPIES
    if reader.size_bytes < layout.AREA_OFFSET_BYTES + length:
        return None
    raw = reader.read_steady(layout.AREA_OFFSET_BYTES, length)
    copies = [raw[: layout.HEADER_BYTES], raw[layout.HEADER_BYTES :]]
    return cluster_area.newest_header(copies, reader.path)[0]
