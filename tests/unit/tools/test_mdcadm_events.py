"""mdcadm --events: filters, restarts of the daemon, readers that go, against a fake daemon."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mdcluster.control.kinds import KINDS
from mdcluster.control.protocol import EventLine
from mdcluster.runtime import observe
from mdcluster.tools import events, mdcadm, stream
from mdcluster.tools.values import UsageError
from tests.unit.control.fake import FakeDaemon, answers
from tests.unit.control.samples import ARRAYS, DETAIL

ROOT = Path(__file__).parents[3]
LIMIT_S = 20


class Reader:
    """One `mdcadm --events` in a process of its own."""

    def __init__(self, path: Path, *words: str) -> None:
        command = [sys.executable, "-m", "mdcluster.tools.mdcadm", "--events", *words]
        self.process = subprocess.Popen(
            [*command, f"--socket={path}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdout is not None
        self.out = self.process.stdout

    def line(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out.readline())
        return found

    def end(self, limit_s: float = LIMIT_S) -> tuple[int, str]:
        assert self.process.stderr is not None
        code = self.process.wait(limit_s)
        return code, self.process.stderr.read().decode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def daemon(path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(path, answers({"arrays": ARRAYS})) as made:
        yield made


def test_lines_come_as_they_happen(daemon: FakeDaemon, path: Path) -> None:
    reader = Reader(path)
    assert reader.line()["event"] == stream.BEGUN
    daemon.publish("writer_changed", node="b", term=4)
    assert reader.line() == {"event": "writer_changed", "node": "b", "term": 4}
    reader.process.send_signal(signal.SIGINT)
    assert reader.end() == (130, "")


def test_kinds_and_arrays_are_chosen(daemon: FakeDaemon, path: Path) -> None:
    reader = Reader(path, f"/dev/md/{DETAIL.uuid}", "new", "--kinds=committed,node_up")
    reader.line()
    for kind, array in (("node_up", ""), ("committed", "x"), ("sync_moved", "data")):
        daemon.publish(kind, array=array)
    daemon.publish("committed", array="new")
    daemon.publish("committed", array="data")
    assert [reader.line()["array"] for _ in range(2)] == ["new", "data"]
    reader.process.terminate()
    reader.end()


def test_a_restart_of_the_daemon_is_told_and_survived(path: Path) -> None:
    with FakeDaemon(path, answers({})):
        reader = Reader(path)
        assert reader.line()["event"] == stream.BEGUN
    lost = reader.line()
    assert lost["event"] == stream.LOST and "closed the connection" in lost["why"]
    with FakeDaemon(path, answers({})) as again:
        resumed = reader.line()
        assert resumed["event"] == stream.RESUMED and resumed["gap_ms"] >= 0
        again.publish("node_up", node="c")
        assert reader.line()["node"] == "c"
    assert reader.line()["event"] == stream.LOST
    reader.process.send_signal(signal.SIGINT)
    assert reader.end() == (130, "")


@pytest.mark.parametrize("told", [True, False])
def test_nobody_reads_any_more(daemon: FakeDaemon, path: Path, told: bool) -> None:
    reader = Reader(path)
    reader.line()
    reader.out.close()
    if told:
        daemon.publish("node_up", node="c")
    assert reader.end() == (0, "")


def test_no_daemon_at_the_beginning_ends_it(path: Path) -> None:
    code, said = Reader(path).end()
    assert code == 1 and "no daemon listens" in said and said.count("\n") == 1


def test_it_is_given_up_in_the_end_and_waits_longer_each_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [0.0]
    waited: list[float] = []

    def select(*args: Any) -> tuple[list[Any], list[Any], list[Any]]:
        waited.append(args[3])
        now_s[0] += args[3]
        return [], [], []

    with FakeDaemon(path, answers({})):
        one = stream.Stream(str(path), now_s=lambda: now_s[0])
        while not one.up:
            one.step(1)
    while one.up:
        one.step(1)
    monkeypatch.setattr("mdcluster.tools.stream.select.select", select)
    with pytest.raises(Exception, match="no daemon for 600 s"):
        while True:
            one.step(1000)
    assert waited[0] == pytest.approx(stream.FIRST_S)
    assert max(waited) == pytest.approx(stream.LONGEST_S)
    assert len(waited) < 2 * stream.GIVE_UP_S / stream.LONGEST_S


def test_a_kind_that_there_is_not_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="the kinds are"):
        events.kinds_of("node_up,node_wup")
    assert events.kinds_of("node_up,,node_up") == ("node_up",)
    assert mdcadm.main(["--detail", "x", "--kinds=node_up"]) == 2
    assert "only meaningful with --events" in capsys.readouterr().err


def test_every_kind_that_is_told_is_known() -> None:
    told = set()
    for file in [*(ROOT / "mdcluster").rglob("*.py"), *(ROOT / "daemon").glob("*.py")]:
        text = file.read_text()
        told |= set(re.findall(r"(?:notify|tell)\(\s*\"(\w+)\"", text))
        told |= set(re.findall(r"self\._notify\(\"(\w+)\"\)", text))
    told |= {"io_held", "io_resumed"}  # one of the two
    assert told == set(KINDS)


def test_the_daemon_tells_names(monkeypatch: pytest.MonkeyPatch) -> None:
    published: list[tuple[str, dict[str, Any]]] = []

    class Sink:
        def wanted(self, kind: str) -> bool:
            return kind != "sync_moved"

        def publish(self, kind: str, **fields: Any) -> None:
            del fields["time"]
            published.append((kind, fields))

    one = observe.EventStream(Sink(), "a", {"u1": "data", "n2": "b"}.get)
    one.receive("committed", {"key": "u1", "seq": 4})
    one.receive("committed", {"key": "cluster", "seq": 4})
    one.receive("node_up", {"node": "n2"})
    one.receive("member_failed", {"array": "gone", "device": "d1"})
    one.receive("sync_moved", {"array": "data"})
    assert published == [
        ("committed", {"on": "a", "array": "data", "array_uuid": "u1", "seq": 4}),
        ("committed", {"on": "a", "seq": 4}),
        ("node_up", {"on": "a", "node": "b", "node_uuid": "n2"}),
        ("member_failed", {"on": "a", "array": "gone", "device": "d1"}),
    ]


def test_what_concerns_an_array() -> None:
    line = EventLine("committed", {"array": "data"})
    assert events.concerns(line, ()) and events.concerns(line, {"data"})
    assert not events.concerns(line, {"other"})
    assert events.concerns(EventLine(stream.LOST, {}), {"other"})
