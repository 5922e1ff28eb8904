"""mdcinspect compare: who wins, by the daemon's rules, and what differs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mdcluster.tools import mdcinspect
from tests.plain import plain_array
from tests.unit.tools.committed import Committed, committed

Capture = pytest.CaptureFixture[str]


def compared(capsys: Capture, *paths: str, code: int) -> dict[str, object]:
    assert mdcinspect.main(["--json", "compare", *paths]) == code
    (array,) = json.loads(capsys.readouterr().out)["compare"]
    assert isinstance(array, dict)
    return array


def words(array: dict[str, object]) -> list[tuple[str, bool]]:
    members = array["members"]
    assert isinstance(members, list)
    return [(member["word"], member["wins"]) for member in members]


def fields(array: dict[str, object]) -> set[str]:
    rows = array["differences"]
    assert isinstance(rows, list)
    return {row["field"] for row in rows}


@pytest.fixture
def array(tmp_path: Path) -> Committed:
    return committed(tmp_path, 3)


def test_members_of_one_commit(array: Committed, capsys: Capture) -> None:
    found = compared(capsys, *array.paths, code=0)
    assert found["rule"] == "commits"
    assert words(found) == [("wins", True), ("wins", True), ("spare", False)]
    assert fields(found) == set()
    assert mdcinspect.main(["compare", *array.paths]) == 0
    out = capsys.readouterr().out
    assert "nothing else differs" in out
    assert "in sync by commit (1, 8)" in out


def test_an_old_copy_loses(array: Committed, capsys: Capture) -> None:
    array.commit(skip=(1,))
    found = compared(capsys, *array.paths, code=1)
    assert words(found)[1] == ("behind", False)
    assert {"events", "newest_commit"} <= fields(found)


def test_a_failed_member_loses(array: Committed, capsys: Capture) -> None:
    array.fail(1)
    found = compared(capsys, *array.paths, code=1)
    assert words(found)[:2] == [("wins", True), ("faulty", False)]
    assert words(found)[2] == ("recovering", False)  # the spare took the role


def test_a_removed_member_is_no_member(array: Committed, capsys: Capture) -> None:
    array.fail(1)
    array.remove(1)
    assert words(compared(capsys, *array.paths, code=1))[1] == ("removed", False)


def test_a_superblock_behind_its_rings_does_not_lose(array: Committed, capsys: Capture) -> None:
    """A late writer can put an older superblock over a newer one; the commit stands in a ring."""
    array.change(1, lambda one: replace(one, events=one.events - 2))
    assert mdcinspect.main(["compare", *array.paths]) == 1
    out = capsys.readouterr().out
    assert "in sync by commit (1, 8); its superblock is older than its rings" in out


def test_without_the_commit_the_events_count(array: Committed, capsys: Capture) -> None:
    for number in range(3):
        array.change(number, lambda one: replace(one, events=one.events + 2))
    found = compared(capsys, *array.paths, code=0)
    assert found["rule"] == "events"
    assert words(found) == [("wins", True), ("wins", True), ("spare", False)]


def test_plain_members_by_events(tmp_path: Path, capsys: Capture) -> None:
    plain = plain_array(tmp_path, disks=3)
    plain.change(1, lambda one: replace(one, events=one.events - 1))
    plain.change(2, lambda one: replace(one, events=one.events - 2))
    found = compared(capsys, *plain.paths, code=1)
    assert found["rule"] == "events"
    assert words(found) == [("wins", True), ("wins", True), ("behind", False)]
    assert {"events", "seq"} == fields(found)


def test_members_of_two_arrays_are_told_apart(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "a").mkdir()
    paths = [*committed(tmp_path / "a").paths, *plain_array(tmp_path).paths]
    assert mdcinspect.main(["compare", *paths]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "members of one array can be compared" in err
