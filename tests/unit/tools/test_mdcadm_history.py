"""mdcadm --history: lines and documents, all pages, and what is no longer kept."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mdcluster.control.history import HistoryData, HistoryEntry
from mdcluster.control.protocol import Request
from mdcluster.control.server import ReplySink
from mdcluster.tools import mdcadm
from mdcluster.tools.actions import proposal
from tests.unit.control.fake import FakeDaemon, answers
from tests.unit.tools import schemas

TIME = "2026-01-31T12:00:00.000Z"
UUID = "8a2d4b1c-0f3e-4a5b-9c6d-7e8f90a1b2c3"
ENTRIES = (
    HistoryEntry(5, TIME, "a", "writer_changed", 3, node="b"),
    HistoryEntry(
        6, TIME, "a", "changed", 3, "data", UUID, by="root@a", text="/dev/sda: in sync -> faulty"
    ),
    HistoryEntry(8, "?", "a", "member_failed", 3, "x\x1b[2J", text="why=no\nway"),
)
TEXT = """\
(4 older entries are no longer kept)
2026-01-31 12:00:00 a term 3 writer_changed b
2026-01-31 12:00:00 a term 3 changed data: /dev/sda: in sync -> faulty (asked by root@a)
? a term 3 member_failed x\\x1b[2J: why=no; way
"""
PAGE = 2
Run = Callable[..., tuple[int, str, str]]


async def paged(request: Request, sink: ReplySink) -> None:
    found = [entry for entry in ENTRIES if entry.number > request.args["after"]]
    sink.done("", HistoryData(tuple(found[:PAGE]), 5, 8))


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    path = tmp_path / "control.sock"
    with FakeDaemon(path, answers({"history": paged})):

        def call(*words: str) -> tuple[int, str, str]:
            code = mdcadm.main(["--history", *words, f"--socket={path}"])
            captured = capsys.readouterr()
            return code, captured.out, captured.err

        yield call


def test_lines(run: Run) -> None:
    assert run() == (0, TEXT, "")


@pytest.mark.parametrize("name", ["data", "/dev/md/data", UUID])
def test_of_one_array(run: Run, name: str) -> None:
    code, out, _ = run(name)
    assert code == 0
    assert out.splitlines()[1:] == TEXT.splitlines()[2:3]


def test_a_document(run: Run) -> None:
    code, out, _ = run("--json")
    document = json.loads(out)
    assert code == 0
    schemas.check("history", document)
    assert document["dropped"] == 4 and len(document["entries"]) == len(ENTRIES)


def test_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "control.sock"
    with FakeDaemon(path, answers({"history": HistoryData((), 0, 0)})):
        assert mdcadm.main(["--history", f"--socket={path}"]) == 0
    assert capsys.readouterr().out == "nothing is known to have happened\n"


def test_a_daemon_that_tells_the_same_page_for_ever_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "control.sock"
    with FakeDaemon(path, answers({"history": HistoryData(ENTRIES[:1], 5, 8)})) as daemon:
        assert mdcadm.main(["--history", f"--socket={path}"]) == 0
    assert capsys.readouterr().out.count("writer_changed") == 1
    assert len(daemon.requests) < 100


def test_a_proposal_says_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "x/y @" + "z" * 100)
    who, _, rest = proposal().partition("/")
    user, _, host = who.partition("@")
    assert user == "x_y__" + "z" * 27 and host
    assert len(rest) == 36
    monkeypatch.delenv("SUDO_USER")
    assert proposal().partition("@")[0]
