"""Devices: read-only opens, steady reads, and no write without the caller's check."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mdcluster.metadata import device
from mdcluster.metadata.device import DeviceReader, DeviceWriter
from mdcluster.metadata.errors import DeviceError, TooSmallError, UnsteadyError
from tests.unit.metadata.images import open_gate


class GateShutError(Exception):
    """What a caller's gate raises."""


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "member.img"
    file.write_bytes(bytes(range(256)) * 64 + b"tail")
    return str(file)


def test_reads_any_range_and_nothing_beyond(path: str) -> None:
    with DeviceReader(path) as reader:
        assert reader.size_bytes == 16388
        assert reader.read(250, 10) == bytes([*range(250, 256), *range(4)])
        assert reader.read(16384, 4) == b"tail"
        assert reader.read(5, 0) == b""
        assert reader.read_steady(4096, 4096) == bytes(range(256)) * 16
        with pytest.raises(TooSmallError, match="device ends at byte 16388; 16389 bytes"):
            reader.read(16384, 5)
        with pytest.raises(ValueError, match="cannot read"):
            reader.read(-1, 5)
        with pytest.raises(ValueError, match="cannot read"):
            reader.read(0, device.READ_BYTES_MAX + 1)


def test_falls_back_where_o_direct_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(name: str, flags: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real(name, flags)

    monkeypatch.setattr(os, "open", refusing)
    with DeviceReader(path) as reader:
        assert not reader.direct
        assert reader.read(16380, 8) == bytes(range(252, 256)) + b"tail"
    with DeviceWriter(path, open_gate) as writer:
        writer.write(0, b"w" * 4096)
    assert Path(path).read_bytes()[:4097] == b"w" * 4096 + b"\0"


def test_what_cannot_be_opened_is_explained(path: str, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for bad, text in (
        (f"{path}x", "No such file or directory; check the path"),
        (str(tmp_path), "neither a block device nor a regular file"),
        ("/dev/null", "neither a block device nor a regular file"),
        (str(fifo), "neither a block device nor a regular file"),
        ("a\0b", "null byte"),
    ):
        with pytest.raises(DeviceError, match=text):
            DeviceReader(bad)


def test_unsteady_bytes_are_read_again_but_not_for_ever(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DeviceReader(path) as reader:
        answers = iter([b"aa", b"ab", b"ab"])
        monkeypatch.setattr(reader, "_read_aligned", lambda *_: next(answers))
        assert reader.read_steady(0, 2) == b"ab"
        count = iter(range(10, 100))
        monkeypatch.setattr(reader, "_read_aligned", lambda *_: b"%d" % next(count))
        with pytest.raises(UnsteadyError, match="differed in each of 5 reads"):
            reader.read_steady(0, 2)
        assert next(count) == 10 + device.READ_ATTEMPTS


def test_several_reads_are_of_one_moment(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write between the reads of one run shows, though each block by itself is steady."""
    writes = iter([False, True, False, False])
    with DeviceReader(path) as reader:

        def both() -> bytes:
            first = reader.read(0, 1)
            if next(writes, True):
                Path(path).write_bytes(bytes([first[0] + 1]) * 16384)
            return first + reader.read(4096, 1)

        assert reader.steadily(both) == (b"\1\1", None)
        given, unsteady = reader.steadily(both)
        assert given == b"\5\6"
        assert "differed in each of 5 runs" in str(unsteady)


def test_a_shut_gate_writes_nothing(path: str) -> None:
    before = Path(path).read_bytes()

    def shut() -> None:
        raise GateShutError

    with DeviceWriter(path, shut) as writer, pytest.raises(GateShutError):
        writer.write(0, bytes(4096))
    assert Path(path).read_bytes() == before


def test_the_check_comes_before_each_system_call(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real = os.pwrite

    def short(fd: int, data: memoryview, offset: int) -> int:
        order.append(f"pwrite {offset}")
        return real(fd, data[:4096], offset)

    monkeypatch.setattr(os, "pwrite", short)
    with DeviceWriter(path, lambda: order.append("check")) as writer:
        writer.write(4096, b"n" * 8192)
    assert order == ["check", "pwrite 4096", "check", "pwrite 8192"]
    assert Path(path).read_bytes()[4096:12288] == b"n" * 8192


def test_a_write_is_aligned_and_never_lengthens_a_file(path: str) -> None:
    with DeviceWriter(path, open_gate) as writer:
        for offset, data in ((1, bytes(4096)), (0, bytes(100)), (0, b""), (-4096, bytes(4096))):
            with pytest.raises(ValueError, match="not aligned"):
                writer.write(offset, data)
        with pytest.raises(TooSmallError):
            writer.write(16384, bytes(4096))
    assert os.path.getsize(path) == 16388


def test_errors_of_the_system_name_the_byte(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", failing)
    monkeypatch.setattr(os, "pwrite", failing)
    with DeviceReader(path) as reader, pytest.raises(DeviceError, match="at byte 8: cannot read"):
        reader.read(8, 8)
    with DeviceWriter(path, open_gate) as writer:
        with pytest.raises(DeviceError, match="at byte 4096: cannot write: Input/output error"):
            writer.write(4096, bytes(4096))
        monkeypatch.setattr(os, "pwrite", lambda *_: 100)
        with pytest.raises(DeviceError, match="wrote only 100 bytes"):
            writer.write(4096, bytes(4096))
