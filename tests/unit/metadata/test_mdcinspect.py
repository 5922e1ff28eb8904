"""The inspector: what it prints, its exit codes, and that it opens nothing for writing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import msgpack  # type: ignore[import-untyped]
import pytest

from mdcluster.members.nonceblock import NONCE_OFFSET_BYTES, Nonce, encode_nonce
from mdcluster.metadata import layout, rings, scan
from mdcluster.metadata import superblock as sb
from mdcluster.metadata.errors import DamagedError, Where
from mdcluster.tools import inspect_payload, mdcinspect
from tests.unit.metadata.images import Images, record, write_images
from tests.unit.tools.committed import Committed, committed

VIEWS = tuple(mdcinspect.VIEWS)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@pytest.fixture
def sound(tmp_path: Path) -> Committed:
    return committed(tmp_path)


@pytest.fixture
def pair(tmp_path: Path) -> Images:
    return write_images(tmp_path)


@pytest.mark.parametrize("view", VIEWS)
def test_a_sound_array_is_shown_read_only(
    view: str, sound: Committed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags_seen: list[int] = []
    real = os.open

    def watching(path: str, flags: int, *rest: int) -> int:
        flags_seen.append(flags)
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", watching)
    before = [Path(path).read_bytes() for path in sound.paths]
    assert mdcinspect.main([view, *sound.paths]) == 0
    assert len(flags_seen) >= 2
    assert not any(flags & WRITING for flags in flags_seen)
    assert [Path(path).read_bytes() for path in sound.paths] == before
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out
    assert mdcinspect.main(["--json", view, *sound.paths]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["problems"] == []
    assert document[view]


STRACE = shutil.which("strace")
HARMLESS = {"openat", "fstat", "lseek", "ioctl", "fadvise64", "preadv", "preadv2", "close"}
"""The system calls that may meet a member at all; of ioctl only the question for its size."""


@pytest.mark.skipif(STRACE is None, reason="strace is not installed here")
@pytest.mark.parametrize("view", VIEWS)
def test_no_system_call_could_write_to_a_member(
    view: str, sound: Committed, tmp_path: Path
) -> None:
    """Of the whole run, whatever way python or a library goes."""
    before = [(Path(path).stat().st_mtime_ns, Path(path).read_bytes()) for path in sound.paths]
    log = tmp_path / "strace.log"
    command = [sys.executable, "-m", "mdcluster.tools.mdcinspect", view, *sound.paths]
    done = subprocess.run(
        [str(STRACE), "-f", "-y", "-s", "0", "-o", str(log), *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in log.read_text().splitlines() if any(p in line for p in sound.paths)]
    on_members = [line.split(maxsplit=1)[1] for line in lines if "execve(" not in line]
    assert len([line for line in on_members if line.startswith("openat(")]) >= len(sound.paths)
    for line in on_members:
        name = line.partition("(")[0]
        assert name in HARMLESS | {"stat", "newfstatat", "readlink"}, line
        if name == "openat":
            flags = set(line.split(", ")[2].split(")")[0].split("|"))
            assert flags <= {"O_RDONLY", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECT"}, line
        if name == "ioctl":
            assert "BLKGETSIZE64" in line, line
    after = [(Path(path).stat().st_mtime_ns, Path(path).read_bytes()) for path in sound.paths]
    assert after == before


def test_superblock_view(pair: Images, capsys: pytest.CaptureFixture[str]) -> None:
    mdcinspect.main(["superblock", pair.paths[1]])
    out = capsys.readouterr().out
    assert "   Device Role : Active device 1\n" in out
    assert "   Cluster Name : lab\n" in out
    assert "node2" in out


def test_checkpoint_view(pair: Images, capsys: pytest.CaptureFixture[str]) -> None:
    pair.change(0, lambda one: replace(one, resync_offset_sectors=2048, events=one.events + 4))
    assert mdcinspect.main(["--json", "checkpoint", *pair.paths]) == 1
    out, err = capsys.readouterr()
    first, second = json.loads(out)["checkpoint"][0]["members"]
    assert (first["resync_offset_sectors"], first["up_to_date"]) == (2048, True)
    assert (first["term"], first["seq"]) == (1, 6)
    assert second["up_to_date"] is False
    assert err.count("\n") == 1
    assert err.startswith(f"mdcinspect: {pair.paths[1]} at byte 4096: events ")
    mdcinspect.main(["checkpoint", *pair.paths])
    assert "2048 of 22528 sectors (9.1%)" in capsys.readouterr().out


def test_bitmap_view(pair: Images, capsys: pytest.CaptureFixture[str]) -> None:
    area = pair.headers[1].area
    bits = bytearray(area.slot_bytes)
    bits[2] = 1
    pair.write(1, area.slot_offset_bytes(2), bytes(bits))
    assert mdcinspect.main(["--json", "bitmap", *pair.paths]) == 0
    array = json.loads(capsys.readouterr().out)["bitmap"][0]
    union = {"dirty_chunks": 7, "extents": 2, "extents_sectors": [[384, 1152], [2048, 2176]]}
    assert array["union"] == union
    slots = {(slot["device"], slot["slot"]): slot for slot in array["slots"]}
    assert slots[pair.paths[0], 1]["dirty_chunks"] == 6
    assert slots[pair.paths[0], 1]["node"] == "node1"
    assert slots[pair.paths[1], 2]["extents_sectors"] == [[2048, 2176]]
    assert slots[pair.paths[0], 0]["dirty_chunks"] == 0


def test_rings_view(pair: Images, capsys: pytest.CaptureFixture[str]) -> None:
    assert mdcinspect.main(["rings", pair.paths[0]]) == 0
    out = capsys.readouterr().out
    assert "ring of voter 1 node1:" in out
    assert "  newest of array, (term, seq) = (1, 12):\n    members:\n" in out
    assert mdcinspect.main(["--json", "rings", pair.paths[0]]) == 0
    commits = json.loads(capsys.readouterr().out)["rings"]
    assert [commit["index"] for commit in commits] == [2, 3, 4, 5] * 2
    assert commits[3]["state"] == {"members": [{"uuid": "01", "role": 0}], "number": 5}


def test_quorum_view(pair: Images, capsys: pytest.CaptureFixture[str]) -> None:
    nonce = Nonce(pair.superblocks[0].set_uuid, pair.superblocks[1].device_uuid, b"n" * 16)
    pair.write(1, NONCE_OFFSET_BYTES, encode_nonce(nonce))
    area = pair.headers[0].area
    late = record(6, voter_index=1)
    pair.write(0, rings.record_offset_bytes(area, 1, "array", 6), rings.encode_record(late))
    assert mdcinspect.main(["quorum-disk", *pair.paths]) == 0
    out = capsys.readouterr().out
    assert "newest commit of array: (term, seq) = (1, 14), written by node1, on 1 of 2 m" in out
    assert "newest commit of cluster" not in out
    assert nonce.value.hex() in out
    assert mdcinspect.main(["--json", "quorum-disk", *pair.paths]) == 0
    (array,) = json.loads(capsys.readouterr().out)["quorum-disk"]
    assert array["cluster_name"] == "lab"
    assert array["newest"]["cluster"] is None
    assert array["newest"]["array"]["devices"] == pair.paths[:1]
    voters = [(v["name"], v["commits"], v["has_ring"]) for v in array["voters"]]
    assert voters == [("node0", 4, True), ("node1", 5, True), ("node2", 0, True)]
    assert array["voters"][0]["newest"]["devices"] == pair.paths
    assert [one["device"] for one in array["nonces"]] == pair.paths[1:]


def test_a_nonce_is_shown_before_there_is_an_array(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = tmp_path / "fresh.img"
    raw = bytearray(1 << 20)
    nonce = Nonce(UUID(int=5), UUID(int=6), b"n" * 16)
    raw[NONCE_OFFSET_BYTES : NONCE_OFFSET_BYTES + 4096] = encode_nonce(nonce)
    fresh.write_bytes(raw)
    assert mdcinspect.main(["--json", "quorum-disk", str(fresh)]) == 1  # no member yet
    out, err = capsys.readouterr()
    (array,) = json.loads(out)["quorum-disk"]
    assert (array["cluster_name"], array["voters"]) == (None, [])
    assert array["nonces"][0]["value"] == nonce.value.hex()
    assert err.count("\n") == 1
    raw[NONCE_OFFSET_BYTES + 70] ^= 1
    fresh.write_bytes(raw)
    assert mdcinspect.main(["quorum-disk", str(fresh)]) == 1
    assert "nonce block has a wrong checksum" in capsys.readouterr().err


def test_what_only_one_look_finds_is_no_damage(
    pair: Images, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that comes between the reading of two members makes one look out of date."""
    pair.change(0, lambda one: replace(one, events=one.events + 4))
    real = mdcinspect.scan

    def scanning(paths: list[str], with_rings: bool) -> scan.Scan:
        found: scan.Scan = real(paths, with_rings)
        pair.change(1, lambda one: replace(one, events=one.events + 4))
        return found

    monkeypatch.setattr(mdcinspect, "scan", scanning)
    assert mdcinspect.main(["checkpoint", *pair.paths]) == 0
    assert capsys.readouterr().err == ""


def test_damage_is_exit_1_and_one_line_each(
    pair: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    area = pair.headers[0].area
    broken = rings.encode_record(record(6, payload=b"\xc1"))
    pair.write(0, rings.record_offset_bytes(area, 0, "array", 6), broken)
    pair.patch(0, rings.record_offset_bytes(area, 1, "array", 5) + 300, b"?")
    assert mdcinspect.main(["rings", pair.paths[0]]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert any("no msgpack this program shows" in line for line in lines)
    assert any("wrong checksum" in line for line in lines)


@pytest.mark.parametrize("view", ["bitmap", "rings"])
def test_a_plain_array_has_no_area(
    view: str, pair: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    pair.change(0, lambda one: one.with_guard(False))
    pair.patch(0, layout.AREA_OFFSET_BYTES, bytes(8192))
    assert mdcinspect.main([view, pair.paths[0]]) == 1
    assert capsys.readouterr().err.count("no cluster area; it is a member of a plain md") == 1


def test_what_cannot_be_opened_is_exit_2(
    pair: Images, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = str(tmp_path / "absent\x1b[2J")
    assert mdcinspect.main(["superblock", pair.paths[0], absent]) == 2
    out, err = capsys.readouterr()
    assert "Device Role : Active device 0" in out
    assert "absent\\x1b[2J: cannot open it: No such file or directory" in err
    for wrong in ([], ["superblock"], ["nonsense", "x"]):
        with pytest.raises(SystemExit) as caught:
            mdcinspect.main(wrong)
        assert caught.value.code == 2


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        mdcinspect.main(["--help"])
    assert caught.value.code == 0
    assert "mdcinspect checkpoint /dev/sdb /dev/sdc" in capsys.readouterr().out
    for name in mdcinspect.VIEWS:
        with pytest.raises(SystemExit) as caught:
            mdcinspect.main([name, "--help"])
        assert caught.value.code == 0
        assert f"example:\n  mdcinspect {name} " in capsys.readouterr().out.replace("--json ", "")


def test_a_terminal_gets_a_table_of_rich(
    pair: Images, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert mdcinspect.main(["checkpoint", pair.paths[0]]) == 0
    assert "UP TO DATE" in " ".join(capsys.readouterr().out.split())


def test_a_closed_pipe_is_no_traceback(pair: Images) -> None:
    command = [sys.executable, "-m", "mdcluster.tools.mdcinspect", "rings", pair.paths[0]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


def nested(depth: int) -> object:
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        msgpack.packb(1) + b"\0",
        msgpack.packb(nested(17)),
        b"\x91" * 2000 + b"\x01",
        msgpack.packb([0] * 5000),
        msgpack.packb({1: 2}),
        msgpack.packb(msgpack.Timestamp(1)),
        b"\xdd\xff\xff\xff\xff",
        b"\xa1\xff",
    ],
)
def test_strange_payloads_are_damage_and_nothing_else(payload: bytes) -> None:
    with pytest.raises(DamagedError, match="no msgpack"):
        inspect_payload.decode_payload(payload, Where("/dev/x", 7))


def test_payload_outline() -> None:
    value = inspect_payload.decode_payload(
        msgpack.packb({"a": [1, {"b\n": None}], "c": [], "d": True, "e": float("nan"), b"k": -1}),
        Where("/dev/x"),
    )
    assert inspect_payload.outline(value) == [
        *("a:", "  - 1", "  -", "    b\\n: -", "c: []", "d: yes", "e: nan", "6b: -1"),
    ]
    assert sb.md_uuid(record(0).array_uuid) == "aaaaaaaa:bbbbcccc:ddddeeee:eeeeeeee"
