"""mdcinspect verify: each way in which whole blocks contradict each other is one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from mdcluster.metadata import superblock as sb
from mdcluster.metadata.cluster_area import Header, NodeEntry, encode_header
from mdcluster.tools import inspect_verify, mdcinspect
from tests.plain import plain_array
from tests.unit.tools.committed import Committed, committed


@pytest.fixture
def array(tmp_path: Path) -> Committed:
    return committed(tmp_path)


def test_a_sound_array(array: Committed, capsys: pytest.CaptureFixture[str]) -> None:
    assert mdcinspect.main(["verify", *array.paths]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "newest commit: (term, seq) = (1, 8)" in out
    assert out.count("wrong") == 0
    assert mdcinspect.main(["--json", "verify", array.paths[0]]) == 0
    (one,) = json.loads(capsys.readouterr().out)["verify"]
    assert one["newest"] == {"term": 1, "seq": 8}
    assert one["members"][0]["findings"] == dict.fromkeys(inspect_verify.PARTS, 0)
    assert [absent["role"] for absent in one["absent"]] == [1]


def test_a_plain_array_is_sound_without_an_area(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = plain_array(tmp_path)
    assert mdcinspect.main(["--json", "verify", *plain.paths]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    findings = json.loads(out)["verify"][0]["members"][1]["findings"]
    assert {part for part, count in findings.items() if count == 0} == {
        *("device", "superblock", "places", "array")
    }


def superblock(**changes: object) -> Callable[[Committed], object]:
    return lambda array: array.change(1, lambda one: replace(one, **changes))  # type: ignore[arg-type]


def header(change: Callable[[Header], Header]) -> Callable[[Committed], object]:
    def damage(array: Committed) -> None:
        now = array.member(1).header
        assert now is not None
        made = change(replace(now, generation=now.generation + 1))
        array.patch(1, made.area.header_offset_bytes(made.copy), encode_header(made))

    return damage


def nodes(*changes: dict[str, object]) -> Callable[[Committed], object]:
    def change(one: Header) -> Header:
        made = [
            replace(node, **fields)  # type: ignore[arg-type]
            for node, fields in zip(one.nodes, (*changes, {}, {}), strict=False)
        ]
        return replace(one, nodes=tuple(made))

    return header(change)


def bits(slot: int, at_byte: int) -> Callable[[Committed], object]:
    def damage(array: Committed) -> None:
        now = array.member(1).header
        assert now is not None
        array.patch(1, now.area.slot_offset_bytes(slot) + at_byte, b"\x01")

    return damage


DAMAGES: list[tuple[str, str, Callable[[Committed], object], str]] = [
    ("bad-checksum", "superblock", lambda a: a.patch(1, 4200, b"\xff"), "checksum"),
    ("unfinished", "superblock", superblock(events=(1 << 32) + 6), "a ring has (1, 8)"),
    ("damaged", "superblock", superblock(dev_number=500), "is not in its table of 128 roles"),
    ("damaged", "superblock", superblock(data_size_sectors=20000), "are used of"),
    ("damaged", "superblock", superblock(resync_offset_sectors=9 << 30), "resync is at sector"),
    (
        "damaged",
        "superblock",
        superblock(feature_map=sb.GUARD_BIT | sb.FEATURE_RECOVERY, recovery_offset_sectors=1 << 40),
        "recovery is at sector 1099511627776 of 22528",
    ),
    (
        "damaged",
        "superblock",
        superblock(dev_roles=(0, 1, 7, *[sb.ROLE_SPARE] * 125)),
        "role 7 is given away in an array of 2 devices",
    ),
    (
        "damaged",
        "superblock",
        superblock(dev_roles=(0, 1, 1, 1, *[sb.ROLE_SPARE] * 124)),
        "role 1 is given away 3 times",
    ),
    ("foreign", "array", superblock(layout=7), "another layout"),
    ("damaged", "array", superblock(devflags=1), "not that of its commit (1, 8): devflags"),
    ("damaged", "array", superblock(set_name="other"), "but another set_name"),
    ("foreign", "array", superblock(dev_number=0), "device number 0 is also that of"),
    (
        "foreign",
        "array",
        superblock(dev_roles=(0, 0, *[sb.ROLE_SPARE] * 126)),
        "role 0 is also that of",
    ),
    ("unfinished", "area", superblock(feature_map=0), "that of a plain one"),
    ("overlap", "places", superblock(data_size_sectors=1 << 30), "the data ends at byte"),
    (
        "overlap",
        "places",
        superblock(bblog_size_sectors=8, bblog_offset_sectors=4),
        "the bad block log begins within the superblock",
    ),
    ("foreign", "area", header(lambda h: replace(h, device_uuid=UUID(int=1))), "area of device"),
    ("damaged", "area", header(lambda h: replace(h, covered_sectors=128)), "bitmaps cover 128"),
    ("damaged", "area", nodes({"bitmap_slot": 1}), "bitmap slot 1 stands 2 times"),
    ("damaged", "area", nodes({"voter_index": 2}), "ring 2 stands 2 times"),
    ("misplaced", "area", nodes({"bitmap_slot": 64}), "bitmap slot 64 does not exist"),
    ("bad-checksum", "area", lambda a: a.patch(1, 262144 - 4096, b"MDCLNONC"), "nonce block"),
    ("torn", "rings", lambda a: a.patch(1, 270336 + 16384 * 5 - 8, b"\xff"), "torn"),
    (
        "stale",
        "rings",
        lambda a: a.change_record(1, 8, term=0),
        "has (term, seq) (0, 8)",
    ),
    ("unsupported", "rings", lambda a: a.change_record(1, 4, payload=b"\x01"), "this version"),
    ("damaged", "rings", lambda a: a.change_record(1, 4, seq=5), "holds the state of"),
    ("damaged", "bitmaps", bits(9, 3), "slot 9 has 1 bits set and belongs to nobody"),
    ("damaged", "bitmaps", bits(1, 4000), "has 1 bits set beyond its 176 chunks"),
]


@pytest.mark.parametrize(("kind", "part", "damage", "text"), DAMAGES, ids=lambda one: str(one)[:50])
def test_damage_is_found(
    kind: str,
    part: str,
    damage: Callable[[Committed], object],
    text: str,
    array: Committed,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(array)
    assert mdcinspect.main(["--json", "verify", *array.paths]) == 1
    out, err = capsys.readouterr()
    document = json.loads(out)
    found = [one for one in document["problems"] if text in one["what"]]
    assert [one["kind"] for one in found] == [kind], document["problems"]
    assert err.count("\n") == len(document["problems"])
    counts = [
        member["findings"][part]
        for one in document["verify"]
        for member in one["members"]
        if member["device"] == found[0]["device"]
    ]
    assert counts[0] >= 1


def test_two_states_of_one_commit(array: Committed, capsys: pytest.CaptureFixture[str]) -> None:
    (other,) = [one for ring in array.member(0).rings for one in ring.records if one.seq == 4]
    array.change_record(1, 4, payload=other.payload.replace(b"data", b"atad"))
    assert mdcinspect.main(["verify", *array.paths]) == 1
    err = capsys.readouterr().err
    assert "commit (1, 4) of aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee is not the same as at" in err


def test_a_member_that_was_removed(array: Committed, capsys: pytest.CaptureFixture[str]) -> None:
    array.fail(1)
    array.remove(1)
    assert mdcinspect.main(["verify", *array.paths]) == 1
    assert "does not know this device: it was removed" in capsys.readouterr().err
    assert mdcinspect.main(["verify", array.paths[0]]) == 0


def test_clones_and_arrays_of_one_name(
    array: Committed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clone = tmp_path / "clone.img"
    clone.write_bytes(Path(array.paths[0]).read_bytes())
    assert mdcinspect.main(["verify", *array.paths, str(clone)]) == 1
    assert "same device UUID" in capsys.readouterr().err
    (tmp_path / "plain").mkdir()
    plain = plain_array(tmp_path / "plain", name="data")
    assert mdcinspect.main(["verify", *array.paths, *plain.paths]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "they are two arrays" in err


def test_an_area_with_fewer_rings_than_voters(array: Committed) -> None:
    """A writer for whom there is no ring leaves no commit behind its superblocks."""
    for number in (0, 1):
        member = array.member(number)
        assert member.header is not None
        table = (*member.header.nodes, NodeEntry(UUID(int=9), "n9", 32))
        made = replace(member.header, generation=2, nodes=table)
        array.patch(number, made.area.header_offset_bytes(0), encode_header(made))
        array.change(number, lambda one: replace(one, events=one.events + 2))
    assert mdcinspect.main(["verify", *array.paths]) == 0
