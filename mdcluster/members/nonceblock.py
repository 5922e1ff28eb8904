"""The block by which a device is recognised on every host before it has a superblock.

4 KiB, right before the cluster area, where neither a superblock nor anything of the area
stands: magic, version, array, device, nonce, and a SHA-256 over these cut to 16 bytes.
"""

import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from mdcluster.metadata.cluster_area import digest
from mdcluster.metadata.layout import AREA_OFFSET_BYTES
from mdcluster.metadata.superblock import BLOCK

NONCE_OFFSET_BYTES: Final = AREA_OFFSET_BYTES - BLOCK
NONCE_BYTES: Final = 16
_MAGIC: Final = b"MDCLNONC"
_VERSION: Final = 1
_BLOCK: Final = struct.Struct("<8sI4x16s16s16s")


@dataclass(frozen=True, slots=True)
class Nonce:
    """Which device, of which array to be, this is; `value` was drawn for one attempt."""

    array: UUID
    device: UUID
    value: bytes


def encode_nonce(nonce: Nonce) -> bytes:
    """The 4096 bytes of the block."""
    head = _BLOCK.pack(_MAGIC, _VERSION, nonce.array.bytes, nonce.device.bytes, nonce.value)
    return (head + digest(head)).ljust(BLOCK, b"\0")


def nonce_is_damaged(raw: bytes) -> bool:
    """Whether a nonce was written in a block that :func:`decode_nonce` reads none from."""
    return raw[: len(_MAGIC)] == _MAGIC and decode_nonce(raw) is None


def decode_nonce(raw: bytes) -> Nonce | None:
    """The nonce in a block, None if there is none (whatever else stands there)."""
    head, seal = raw[: _BLOCK.size], raw[_BLOCK.size : _BLOCK.size + 16]
    if len(raw) < BLOCK or raw[:8] != _MAGIC or seal != digest(head):
        return None
    _magic, version, array, device, value = _BLOCK.unpack(head)
    if version != _VERSION:
        return None
    return Nonce(UUID(bytes=array), UUID(bytes=device), value)
