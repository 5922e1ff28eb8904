"""The inspector: what it prints, its exit codes, and that it opens nothing for writing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import pytest

from mdcluster.metadata import layout, rings
from mdcluster.metadata import superblock as sb
from mdcluster.metadata.errors import DamagedError, Where
from mdcluster.tools import inspect_payload, mdcinspect
from tests.unit.metadata.images import Images, record, write_images

VIEWS = ("superblock", "checkpoint", "bitmap", "rings")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@pytest.fixture
def pair(tmp_path: Path) -> Images:
    return write_images(tmp_path)


@pytest.mark.parametrize("view", VIEWS)
def test_a_sound_array_is_shown_read_only(
    view: str, pair: Images, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags_seen: list[int] = []
    real = os.open

    def watching(path: str, flags: int, *rest: int) -> int:
        flags_seen.append(flags)
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", watching)
    before = [Path(path).read_bytes() for path in pair.paths]
    assert mdcinspect.main([view, *pair.paths]) == 0
    assert len(flags_seen) >= 2
    assert not any(flags & WRITING for flags in flags_seen)
    assert [Path(path).read_bytes() for path in pair.paths] == before
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out
    assert mdcinspect.main(["--json", view, *pair.paths]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["problems"] == []
    assert document[view]


AUDITED = """
import sys
from mdcluster.tools import mdcinspect
def watch(event, args):
    if event == "open" and args[0] == sys.argv[2]:
        print(args[2], file=sys.stderr)
sys.addaudithook(watch)
sys.exit(mdcinspect.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("view", VIEWS)
def test_the_interpreter_opens_no_member_for_writing(view: str, pair: Images) -> None:
    """Whatever way a file is opened, the interpreter's audit hook sees it."""
    done = subprocess.run(
        [sys.executable, "-c", AUDITED, view, pair.paths[0]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    flags_seen = [int(line) for line in done.stderr.splitlines()]
    assert flags_seen
    assert not any(flags & WRITING for flags in flags_seen)


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
    assert array["union"] == {"dirty_chunks": 7, "extents_sectors": [[384, 1152], [2048, 2176]]}
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
