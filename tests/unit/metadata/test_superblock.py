"""The md superblock: round trips, checksum, and what is said about bytes that are none."""

from __future__ import annotations

import struct
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdcluster.metadata import superblock as sb
from mdcluster.metadata.errors import (
    BadChecksumError,
    MetadataError,
    MisplacedError,
    NoSuperblockError,
    TooLargeError,
    TooSmallError,
    UnsupportedError,
    Where,
)
from tests.unit.metadata import images

WHERE = Where("/dev/x", sb.SUPER_OFFSET_BYTES)
U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
I32 = st.integers(-(1 << 31), (1 << 31) - 1)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
SUPERBLOCKS = st.builds(
    sb.Superblock,
    set_uuid=st.uuids(),
    set_name=NAMES,
    ctime=U64,
    level=I32,
    layout=U32,
    size_sectors=U64,
    chunksize_sectors=U32,
    raid_disks=st.integers(0, sb.MAX_DEVS),
    data_offset_sectors=U64,
    data_size_sectors=U64,
    dev_number=U32,
    device_uuid=st.uuids(),
    utime=U64,
    events=U64,
    resync_offset_sectors=U64,
    dev_roles=st.lists(U16, max_size=200).map(tuple),
    feature_map=U32,
    recovery_offset_sectors=U64,
    bitmap_offset=I32,
    devflags=st.integers(0, 255),
    cnt_corrected_read=U32,
    bblog_shift=st.integers(0, 255),
    bblog_size_sectors=U16,
    bblog_offset_sectors=I32,
    new_level=I32,
    reshape_position_sectors=U64,
    delta_disks=I32,
    new_layout=U32,
    new_chunk_sectors=U32,
    new_offset_sectors=I32,
    pad0=U32,
    pad3=st.binary(min_size=32, max_size=32),
)


@given(SUPERBLOCKS)
def test_every_value_survives_a_round_trip(value: sb.Superblock) -> None:
    raw = sb.encode(value)
    assert len(raw) == sb.SUPER_BYTES
    assert sb.decode(raw, WHERE) == value
    assert sb.encode(sb.decode(raw, WHERE)) == raw


def test_fields_stand_where_md_p_h_puts_them() -> None:
    raw = sb.encode(replace(images.superblock(), resync_offset_sectors=77, dev_number=1))
    at = {
        "magic": (0, "<I", sb.MAGIC),
        "feature_map": (8, "<I", sb.GUARD_BIT),
        "ctime": (64, "<Q", 1_700_000_000),
        "level": (72, "<i", 1),
        "raid_disks": (92, "<I", 2),
        "data_offset": (128, "<Q", 10240),
        "super_offset": (144, "<Q", 8),
        "dev_number": (160, "<I", 1),
        "utime": (192, "<Q", 1_700_000_000),
        "events": (200, "<Q", 1 << 32 | 2),
        "resync_offset": (208, "<Q", 77),
        "max_dev": (220, "<I", 128),
        "dev_roles": (256, "<HHH", 0),
    }
    for name, (offset, kind, value) in at.items():
        assert struct.unpack_from(kind, raw, offset)[0] == value, name
    assert raw[16:32] == images.ARRAY.bytes
    assert raw[32:42] == b"alpha:data"


@pytest.mark.parametrize("roles", [0, 1, 2, 3, 127, 128, sb.MAX_DEVS])
def test_checksum_covers_odd_and_full_role_tables(roles: int) -> None:
    value = replace(images.superblock(), dev_roles=(7,) * roles)
    raw = bytearray(sb.encode(value))
    assert sb.decode(bytes(raw), WHERE) == value
    if roles:
        raw[sb.HEAD_BYTES + 2 * roles - 1] ^= 1
        with pytest.raises(BadChecksumError, match="checksum"):
            sb.decode(bytes(raw), WHERE)


@given(st.binary(max_size=5000))
def test_random_bytes_are_refused_by_a_metadata_error(raw: bytes) -> None:
    with pytest.raises(MetadataError):
        sb.decode(raw, WHERE)


@given(st.binary(min_size=sb.SUPER_BYTES - 8, max_size=sb.SUPER_BYTES - 8))
@settings(max_examples=30)
def test_random_bytes_behind_the_magic_are_refused(raw: bytes) -> None:
    with pytest.raises(MetadataError):
        sb.decode(struct.pack("<II", sb.MAGIC, 1) + raw, WHERE)


@given(st.integers(0, 8 * (256 + 2 * 128) - 1))
def test_any_flipped_bit_is_noticed(bit: int) -> None:
    raw = bytearray(sb.encode(images.superblock()))
    raw[bit // 8] ^= 1 << bit % 8
    with pytest.raises(MetadataError):
        sb.decode(bytes(raw), WHERE)


def test_errors_name_the_device_the_byte_and_the_reason() -> None:
    raw = sb.encode(images.superblock())
    with pytest.raises(NoSuperblockError, match=r"/dev/x at byte 4096: no md superblock"):
        sb.decode(bytes(sb.SUPER_BYTES), WHERE)
    with pytest.raises(TooSmallError, match="4096 bytes are needed"):
        sb.decode(raw[:-1], WHERE)
    with pytest.raises(UnsupportedError, match="version 0"):
        sb.decode(raw[:4] + bytes(4) + raw[8:], WHERE)
    with pytest.raises(UnsupportedError, match="65535 device roles"):
        sb.decode(raw[:220] + struct.pack("<I", 65535) + raw[224:], WHERE)
    moved = sb.encode(replace(images.superblock(), super_offset_sectors=0))
    with pytest.raises(MisplacedError, match="sector 0, not 8"):
        sb.decode(moved, WHERE)
    with pytest.raises(UnsupportedError, match="5000 raid disks"):
        sb.decode(sb.encode(replace(images.superblock(), raid_disks=5000)), WHERE)


@pytest.mark.parametrize(
    "change",
    [
        {"set_name": "n" * 33},
        {"events": 1 << 64},
        {"level": 1 << 31},
        {"dev_roles": (0,) * (sb.MAX_DEVS + 1)},
        {"dev_roles": (-1,)},
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object]) -> None:
    value = replace(images.superblock(), **change)  # type: ignore[arg-type]
    with pytest.raises(TooLargeError):
        sb.encode(value)


def test_guard_recovery_role_and_events() -> None:
    value = images.superblock()
    assert value.guarded
    assert not value.with_guard(False).guarded
    assert value.with_guard(False).with_guard(True) == value
    half = value.with_recovery(8192)
    assert half.feature_map & sb.FEATURE_RECOVERY
    assert half.recovery_offset_sectors == 8192
    assert half.with_recovery(None) == value
    assert (value.term, value.seq) == (1, 2)
    assert not value.in_sync
    assert replace(value, dev_number=5).role == sb.ROLE_SPARE
    assert replace(value, dev_number=9999).role == sb.ROLE_SPARE
    with pytest.raises(ValueError, match="must each fit 32 bits"):
        sb.events_of(1, 1 << 32)
    assert sb.md_uuid(UUID(int=1)) == "00000000:00000000:00000000:00000001"
