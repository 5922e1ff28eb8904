"""What stands on member images, read past the daemons: data areas, contents, superblocks."""

from collections.abc import Iterable
from pathlib import Path

from mdcluster.metadata.scan import Member, read_member
from mdcluster.metadata.superblock import Superblock
from tests.blocks import BLOCK_BYTES, NOISE, Block

SECTOR_BYTES = 512
_STEP_BYTES = 1 << 20


def superblock(image: Path) -> Superblock:
    """The superblock of an image; AssertionError if it has none that is whole."""
    member: Member = read_member(str(image))
    assert member.superblock is not None, f"{image}: {member.problems}"
    return member.superblock


def data_area(image: Path) -> bytes:
    """All that users can reach of a member."""
    found = superblock(image)
    with image.open("rb") as file:
        file.seek(found.data_offset_sectors * SECTOR_BYTES)
        data = file.read(found.size_sectors * SECTOR_BYTES)
    assert len(data) == found.size_sectors * SECTOR_BYTES
    return data


def differences(images: Iterable[Path]) -> list[str]:
    """Where data areas differ, as places of 4 KiB; empty if they are identical."""
    first, *others = images
    wanted = data_area(first)
    found: list[str] = []
    for other in others:
        data = data_area(other)
        assert len(data) == len(wanted), f"{first} and {other} differ in size"
        if data == wanted:
            continue
        for at in range(0, len(data), BLOCK_BYTES):
            if data[at : at + BLOCK_BYTES] != wanted[at : at + BLOCK_BYTES]:
                found.append(f"{first.name} and {other.name} differ in block {at // BLOCK_BYTES}")
    return found


def assert_identical(images: Iterable[Path]) -> None:
    """All members hold the same, byte for byte."""
    found = differences(list(images))
    assert not found, f"{len(found)} blocks: {found[:10]}"


def assert_holds(image: Path, blocks: Iterable[Block]) -> None:
    """Every acknowledged write is on this member (raid1: positions are those of the array)."""
    data = data_area(image)
    for block in blocks:
        at = block.number * BLOCK_BYTES
        block.check(data[at : at + BLOCK_BYTES], block.acknowledged, image.name)


def fill_with_noise(image: Path, seed: int) -> None:
    """Make it differ from any other image, so that a resync that skips something shows."""
    block = (NOISE + f" {image.name} {seed} ".encode() * BLOCK_BYTES)[:BLOCK_BYTES]
    noise = block * 64
    with image.open("r+b") as file:
        for _ in range(image.stat().st_size // len(noise)):
            file.write(noise)
