"""What happened is kept over restarts, in bounds, whatever becomes of the file."""

import json
import logging
from pathlib import Path

import pytest

from mdcluster.control.history import PAGE_MAX, TEXT_MAX, HistoryData, HistoryEntry
from mdcluster.control.protocol import LINE_MAX_BYTES, Reply, State, encode
from mdcluster.runtime import history
from mdcluster.runtime.history import History

TERM = 7


def opened(path: Path) -> History:
    return History(path, lambda: TERM)


def everything(one: History) -> list[HistoryEntry]:
    found: list[HistoryEntry] = []
    while page := one.after(found[-1].number if found else 0).entries:
        found += page
    return found


def test_it_is_there_again_after_a_restart(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.publish("node_up", time="T", on="a", node="b", node_uuid="nb", name="b")
    first.publish(
        "changed", time="T", on="a", array="r", array_uuid="u", term=3, by="x@a", what="w"
    )
    first.close()
    again = opened(tmp_path)
    again.publish("refused", time="T", on="a", change="StopArray", why="in use")
    again.close()
    assert opened(tmp_path).after(0) == HistoryData(
        (
            HistoryEntry(1, "T", "a", "node_up", TERM, node="b"),
            HistoryEntry(2, "T", "a", "changed", 3, "r", "u", by="x@a", text="w"),
            HistoryEntry(3, "T", "a", "refused", TERM, text="change=StopArray why=in use"),
        ),
        1,
        3,
    )


def test_kinds_that_come_often_are_left_to_the_stream(tmp_path: Path) -> None:
    one = opened(tmp_path)
    assert not one.wanted("sync_moved") and not one.wanted("committed")
    assert one.wanted("changed")


def test_the_oldest_goes_when_the_files_are_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "FILE_MAX_BYTES", 2000)
    one = opened(tmp_path)
    for number in range(60):
        one.publish("node_up", on="a", node=f"n{number}")
    one.close()
    assert len(everything(one)) == 60
    sizes = [(tmp_path / name).stat().st_size for name in ("history", "history.old")]
    assert all(0 < size <= 2000 for size in sizes)
    again = opened(tmp_path).after(0)
    assert 1 < again.first < 60 == again.last
    assert [entry.number for entry in again.entries] == list(range(again.first, 61))


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    one = opened(tmp_path)
    for node in "abc":
        one.publish("node_up", on="a", node=node)
    one.close()
    path = tmp_path / "history"
    lines = path.read_bytes().splitlines(keepends=True)
    far = json.dumps({**json.loads(lines[1]), "number": 1 << 60}).encode()
    junk = [b"{}", b"\xff\x00", b"[" * 100_000, far, lines[0].strip(), b'{"number": "1"}']
    path.write_bytes(
        b"\n".join([lines[0].strip(), *junk, lines[2].strip()]) + b"\n" + lines[1][:20]
    )
    again = opened(tmp_path)
    assert [entry.node for entry in again.after(0).entries] == ["a", "c"]
    assert again.after(0).last == 3


def test_a_directory_that_takes_nothing_costs_the_restart_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "history").mkdir()
    one = opened(tmp_path)
    with caplog.at_level(logging.WARNING):
        for node in "abc":
            one.publish("node_up", on="a", node=node)
        one.close()
    assert len(one.after(0).entries) == 3
    assert caplog.text.count("cannot be written") == 1


def test_the_same_again_and_again_is_kept_once(tmp_path: Path) -> None:
    one = opened(tmp_path)
    for number in range(5):
        one.publish("waiting", on="a", array="r", why=f"{number} ms: node c")
        one.publish("waiting", on="a", array="s", why=f"{number} ms: node c")
    assert len(everything(one)) == 2
    one.publish("node_down", on="a", node="c")
    one.publish("waiting", on="a", array="r", why="9 ms: node c")
    assert len(everything(one)) == 4


def test_an_answer_is_never_too_long(tmp_path: Path) -> None:
    one = opened(tmp_path)
    for _ in range(2 * PAGE_MAX):
        one.publish("apply_failed", on="a", array="r" * 32, why="\x1b" * 4 * TEXT_MAX, term=1)
        one.publish("node_up", on="a", name="x", why="\x1b" * 4 * TEXT_MAX)
    page = one.after(0)
    assert len(page.entries) == PAGE_MAX
    assert len(encode(Reply(1, State.DONE, "", page))) < LINE_MAX_BYTES
    assert len(everything(one)) > 2 * PAGE_MAX


def test_no_link_is_followed(tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("")
    (tmp_path / "history").symlink_to(target)
    one = opened(tmp_path)
    one.publish("node_up", on="a", node="b")
    one.close()
    assert target.read_text() == ""
