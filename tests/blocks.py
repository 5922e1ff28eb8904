"""Blocks whose content says who wrote them, where, and as which version of that block.

A checksum is over all of it. A block has one owner, so its versions come in order, and there are
two numbers to it: the newest version acknowledged, and the newest one issued. Whoever reads it,
on whichever node, must find

* a version that is not older than what was acknowledged when the read began (never old after new),
* nor newer than what was issued when it returned,
* in a block whose checksum, place and owner are right (never garbage).

Of the standard library alone: guests of the vm tier start with it.
"""

import random
import struct
import zlib
from dataclasses import dataclass

BLOCK_BYTES = 4096
_RECORD = struct.Struct("<8sIIQI")
_MAGIC = b"mdc-test"
NOISE = b"mdc-nois"
"""How blocks begin that no client has written yet, where images were made to differ."""
_FILL = b"abcdefghijklmnopqrstuvwxyz 0123456789 "


class ContentError(AssertionError):
    """A block holds what it must not hold."""


def encode_block(owner: int, number: int, version: int) -> bytes:
    """4 KiB that say who wrote what; all bytes differ between versions."""
    fill = (_FILL[version % 26 :] * (BLOCK_BYTES // 12 + 1))[: BLOCK_BYTES - _RECORD.size]
    head = _RECORD.pack(_MAGIC, owner, number, version, 0)
    crc = zlib.crc32(fill, zlib.crc32(head))
    return _RECORD.pack(_MAGIC, owner, number, version, crc) + fill


def decode_block(data: bytes | memoryview, owner: int, number: int) -> int:
    """The version of a block; 0 if it was never written. ContentError for anything else."""
    raw = bytes(data)
    if not any(raw) or raw.startswith(NOISE):
        return 0
    magic, owner_found, number_found, version, _ = _RECORD.unpack_from(raw)
    if magic != _MAGIC or raw != encode_block(owner_found, number_found, version):
        raise ContentError(f"block {number}: garbage, it begins with {raw[:32].hex()}")
    if (owner_found, number_found) != (owner, number):
        raise ContentError(
            f"block {number} of writer {owner} holds block {number_found} of {owner_found}"
        )
    return int(version)


@dataclass(slots=True)
class Block:
    """What is known of one block."""

    number: int
    owner: int
    issued: int = 0
    acknowledged: int = 0

    def check(self, data: bytes | memoryview, at_least: int, where: str) -> None:
        """ContentError unless the data are a version that may be there."""
        version = decode_block(data, self.owner, self.number)
        if version < at_least:
            raise ContentError(
                f"{where}: block {self.number}: version {version} after {at_least} had been"
                f" acknowledged (issued: {self.issued}): old after new"
            )
        if version > self.issued:
            raise ContentError(f"{where}: block {self.number}: {version} was never issued")


def torn(data: bytes | memoryview) -> bool:
    """Whether it is neither a block as written nor a block never written."""
    raw = bytes(data)
    _, owner, number, version, _ = _RECORD.unpack_from(raw)
    return any(raw) and not raw.startswith(NOISE) and raw != encode_block(owner, number, version)


def spread(count: int, device_blocks: int, owners: int, seed: int = 0) -> list[Block]:
    """Blocks all over a device, some of them neighbours, dealt out in turn."""
    rng = random.Random(seed)
    places = rng.sample(range(device_blocks // 2), count // 2)
    numbers = sorted(number for place in places for number in (2 * place, 2 * place + 1))
    return [Block(number, index % owners) for index, number in enumerate(numbers)]
