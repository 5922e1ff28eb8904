"""mdcadm --watch: what fits a window, what is sent to a terminal, lines in a pipe."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from mdcluster.control.arrays import MdstatData, SyncInfo, SyncState, Waiting
from mdcluster.control.history import HistoryData, HistoryEntry
from mdcluster.control.protocol import EventLine, Request
from mdcluster.control.server import ReplySink
from mdcluster.control.status import NodeInfo, NodeRole, Quorum
from mdcluster.tools import watch
from mdcluster.tools.screen import Screen
from mdcluster.tools.watch_view import Scene, allot, cut, event_text, progress, snapshot, window
from tests.terminal import Terminal
from tests.unit.control.fake import FakeDaemon, answers
from tests.unit.control.samples import ARRAYS, MDSTAT, STATUS, SYNC
from tests.unit.tools import schemas

CALM = STATUS._replace(waiting=())
NAMED = tuple(
    array._replace(name=name)
    for array, name in zip(MDSTAT.arrays, ("data", "logs", "old"), strict=True)
)
EVENTS = (
    EventLine(
        "node_down",
        {"time": "2023-11-14T22:13:05Z", "on": "b", "node": "c", "node_uuid": "nc", "name": "c"},
    ),
    EventLine(
        "writer_changed", {"time": "2023-11-14T22:10:00.5Z", "on": "a", "node": "b", "term": 3}
    ),
)
SCENE = Scene(STATUS, NAMED, {"data": 3, "logs": 1}, EVENTS, "", 1_700_000_000.0)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def shown(scene: Scene, width: int, height: int) -> str:
    lines = window(scene, width, height)
    assert len(lines) <= height
    assert all(line.cell_len <= width for line in lines)
    return "\n".join(line.plain.rstrip() for line in lines)


# --- what fits -----------------------------------------------------------------------------------

WIDE = """\
blue at 22:13, seen from a: writer b, term 3, 2 of 3 voters, 2 needed                         q ends
Nodes: 2 of 3 alive
  b            writer    suspect links 1 of 2 up, 10.1.0.1:7600-10.1.0.2:7600 DOWN
  c            unknown   silent
  a*           voter     alive
Arrays: 3
  /dev/md/data  raid1  1/2  1022.00MiB  on 3 nodes  degraded
    sdb faulty, sdd[1] recovering, sda[0] in sync, #2 spare
    recover [==>                 ]  12.6%  132096 KiB/s  0:07 left
  /dev/md/logs  raid10  4/4  2044.00MiB  on 1 node
    sde[0] in sync, sdf[1] in sync, sdg[2] in sync, sdh[3] in sync
  /dev/md/old  raid1  1/2  inactive
    my disk.img[0] in sync
Waiting: 1
  data: c has not applied the change
      for 1.0 s; by c; ends when it has applied it, or is fenced
Events, the latest first
  22:13:05 b node_down c
  22:10:00 a writer_changed b: term=3"""

SMALL = """\
blue at 22:13, seen from a: writer b, te
Nodes: 2 of 3 alive
  b            writer    suspect links 1
  ... 2 more
Arrays: 3
  /dev/md/data  raid1  1/2  1022.00MiB
  ... 2 more
Waiting: 1
  data: c has not applied the change
      for 1.0 s; by c; ends when it has"""


def test_a_wide_window_has_room_for_all() -> None:
    assert shown(SCENE, 100, 40) == WIDE
    lines = WIDE.replace("                    q ends", "").splitlines()
    assert snapshot(SCENE).splitlines() == [line.rstrip() for line in lines]


def test_a_small_window_counts_what_it_has_no_room_for() -> None:
    assert shown(SCENE, 40, 10) == SMALL
    assert shown(SCENE, 60, 1).startswith("blue at 22:13")
    assert shown(SCENE, 1, 3) == "b"
    many = SCENE._replace(arrays=tuple(NAMED[0]._replace(name=f"d{n:02}") for n in range(64)))
    lines = shown(many, 80, 24).splitlines()
    assert 22 <= len(lines) <= 24  # an array is shown whole or not at all
    assert lines[lines.index("Arrays: 64") + 1].startswith("  /dev/md/d00  raid1")
    assert f"  ... {64 - sum('/dev/md/d' in line for line in lines)} more" in lines
    assert "Waiting: 1" in lines and lines[-1].startswith("  22:10:00")


def test_a_hundred_nodes_and_no_room_leave_the_header() -> None:
    crowd = STATUS._replace(
        nodes=tuple(NodeInfo(f"n{n}", str(n), NodeRole.VOTER, n > 2) for n in range(32)),
        quorum=Quorum(32, 17, 16),
        writer="",
    )
    scene = SCENE._replace(status=crowd, problem="no daemon listens")
    lines = shown(scene, 80, 24).splitlines()
    assert "no writer, term 3, NO QUORUM: 16 of 32 voters" in lines[0]
    assert lines[1] == "RECONNECTING: no daemon listens"
    assert lines[3].split() == ["n0", "voter", "silent"]
    for height in range(1, 60):
        for width in (1, 7, 39, 80):
            shown(scene, width, height)


def test_an_empty_cluster_and_a_daemon_not_heard_yet() -> None:
    assert shown(Scene(None, (), {}, (), "no daemon", 0.0), 30, 24) == "RECONNECTING: no daemon"
    assert shown(Scene(CALM, (), {}, (), "", 0.0), 80, 24).splitlines()[-1].startswith("  a*")


def test_names_from_disks_do_not_reach_the_terminal() -> None:
    evil = NAMED[0]._replace(name="x\x1b[2J\n", members=())
    event = EventLine("committed", {"time": "?", "array": "\x1b]0;x\x07"})
    text = snapshot(SCENE._replace(arrays=(evil,), events=(event,)))
    assert "\x1b" not in text and "\x07" not in text
    assert event_text(EventLine("x", {"time": 10**400})) == "? - x"


def test_allot_and_cut() -> None:
    assert allot([(3, 2, 2), (9, 2, 4), (1, 1, 2)], 20) == [3, 9, 1]
    assert allot([(9, 2, 2), (9, 2, 4), (9, 2, 1)], 12) == [4, 6, 2]
    blocks = [[Text("a"), Text("b")], [Text("c")], [Text("d")]]
    assert [line.plain for line in cut(blocks, 4)] == ["a", "b", "c", "d"]
    assert [line.plain for line in cut(blocks, 3)] == ["a", "b", "  ... 2 more"]
    assert [line.plain for line in cut(blocks, 2)] == ["a", "  ... 2 more"]
    assert [line.plain for line in cut(blocks[:1], 1)] == ["  ..."]
    assert cut(blocks, 0) == []


def test_progress() -> None:
    pending = SYNC._replace(state=SyncState.PENDING)
    assert progress(pending) == "recover: pending"
    whole = SyncInfo(SYNC.kind, SYNC.state, 9, 9, 5, 12_000)
    assert progress(whole) == f"recover [{'=' * 20}] 100.0%  5 KiB/s  3:20:00 left"


# --- on a terminal -------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


class World:
    """What the fake daemon answers, to be changed while it runs."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "status": CALM,
            "mdstat": MdstatData(NAMED),
            "arrays": ARRAYS,
        }

    def daemon(self, path: Path) -> FakeDaemon:
        return FakeDaemon(path, answers(self.answers))


def watching(path: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "mdcluster.tools.mdcadm", "--watch", *words, f"--socket={path}"]


@pytest.mark.parametrize(("key", "code"), [(b"q", 0), (b"\x03", 130)])
def test_a_key_ends_it_and_the_terminal_is_as_before(path: Path, key: bytes, code: int) -> None:
    with World().daemon(path), Terminal(watching(path)) as terminal:
        screen = terminal.until(lambda text: "my disk.img" in text)
        assert screen.splitlines()[1] == "Nodes: 2 of 3 alive"
        assert terminal.attributes() != terminal.mode
        terminal.press(b"\x1a?")  # neither stops nor ends it
        terminal.press(key)
        assert terminal.end() == code
        assert terminal.attributes() == terminal.mode
        assert terminal.sent.count(b"\x1b[?1049h") == terminal.sent.count(b"\x1b[?1049l") == 1
        assert terminal.sent.rindex(b"\x1b[?25h") > terminal.sent.rindex(b"\x1b[?25l")
        assert terminal.sent.endswith(b"\x1b[?1049l") or b"\x1b[?1049l" in terminal.sent[-20:]


def test_a_signal_restores_the_terminal_too(path: Path) -> None:
    with World().daemon(path), Terminal(watching(path)) as terminal:
        terminal.until(lambda text: "my disk.img" in text)
        os.kill(terminal.pid, signal.SIGTERM)
        terminal.end()
        assert terminal.attributes() == terminal.mode
        assert b"\x1b[?1049l" in terminal.sent


def test_a_terminal_that_hangs_up_ends_it_without_a_word(path: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    command = ["sh", "-c", f'exec "$@" 2>{said}', "sh", *watching(path)]
    with World().daemon(path), Terminal(command) as terminal:
        terminal.until(lambda text: "my disk.img" in text)
        terminal.hang_up()
        assert terminal.end() in (0, 1)
    assert said.read_text() == ""


def test_only_what_changed_is_sent(path: Path) -> None:
    world = World()
    with world.daemon(path) as daemon, Terminal(watching(path)) as terminal:
        terminal.until(lambda text: "12.6%" in text)
        before = len(terminal.sent)
        sync = SYNC._replace(position_sectors=SYNC.end_sectors // 2)
        world.answers["mdstat"] = MdstatData((NAMED[0]._replace(sync=sync), *NAMED[1:]))
        daemon.publish("sync_moved", array="data")
        terminal.until(lambda text: "50.0%" in text)
        told = terminal.sent[before:]
        assert b"recover" in told and b"in sync" not in told and b"node" not in told
        assert len(told) < 100
        terminal.press(b"q")
        assert terminal.end() == 0


def test_it_begins_with_what_happened_before(path: Path) -> None:
    world = World()
    entry = HistoryEntry(
        7, "2026-01-31T12:00:00Z", "a", "changed", 3, "r", by="x@a", text="paused: no"
    )
    world.answers["history"] = HistoryData((entry,), 7, 7)
    with world.daemon(path) as daemon, Terminal(watching(path)) as terminal:
        screen = terminal.until(lambda text: "changed r" in text)
        assert "  12:00:00 a changed r: paused: no (asked by x@a)" in screen
        asked = [one.args["after"] for one in daemon.requests if one.verb == "history"]
        assert asked[1:] == [0]
        terminal.press(b"q")
        assert terminal.end() == 0


def test_a_window_that_becomes_smaller_is_drawn_anew(path: Path) -> None:
    with World().daemon(path) as daemon, Terminal(watching(path)) as terminal:
        terminal.until(lambda text: "my disk.img" in text)
        terminal.resize(40, 8)
        daemon.publish("node_up", node="c")
        screen = terminal.until(lambda text: "... 2 more" in text)
        assert max(map(len, screen.splitlines())) <= 40
        terminal.press(b"q")
        assert terminal.end() == 0


def test_a_restart_of_the_daemon_is_shown_and_survived(path: Path) -> None:
    world = World()
    with world.daemon(path):
        terminal = Terminal(watching(path))
        terminal.until(lambda text: "my disk.img" in text)
    with terminal:
        screen = terminal.until(lambda text: "RECONNECTING: " in text)
        assert "my disk.img" in screen
        with world.daemon(path):
            screen = terminal.until(lambda text: "RECONNECTING" not in text)
            screen = terminal.until(lambda text: "stream_resumed" in text)
            terminal.press(b"q")
            assert terminal.end() == 0


def test_a_daemon_that_does_not_answer_is_told_and_left(path: Path) -> None:
    world = World()

    async def never(request: Request, sink: ReplySink) -> None:
        await asyncio.Event().wait()

    world.answers["mdstat"] = never
    with world.daemon(path), Terminal(watching(path)) as terminal:
        screen = terminal.until(lambda text: "RECONNECTING" in text)
        assert "Nodes: 2 of 3 alive" in screen
        assert "has been silent for 2 s" in " ".join(screen.split())
        world.answers["mdstat"] = MdstatData(NAMED)
        terminal.until(lambda text: "my disk.img" in text and "RECONNECTING" not in text)
        terminal.press(b"q")
        assert terminal.end() == 0


def test_colours_only_where_they_are_wanted(path: Path) -> None:
    red = re.compile(rb"\x1b\[[\d;]*3[1-6][\d;]*m")
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        with World().daemon(path), Terminal(watching(path), env=env) as terminal:
            terminal.until(lambda text: "my disk.img" in text)
            terminal.press(b"q")
            assert terminal.end() == 0
            assert bool(red.search(terminal.sent)) is coloured, env


def test_a_dumb_terminal_gets_plain_lines(path: Path) -> None:
    with World().daemon(path), Terminal(watching(path), env={"TERM": "dumb"}) as terminal:
        terminal.until_sent(b"my disk.img[0] in sync")
        terminal.press(b"\x03")
        assert terminal.end() == 130
        assert b"\x1b" not in terminal.sent


def test_the_last_column_is_not_wiped(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+") as out, (tmp_path / "in").open("w+") as keys:
        screen = Screen(out, keys)
        screen.draw([Text("abcd"), Text("abc")], (4, 2))
        assert screen.inputs == []
        out.seek(0)
        assert out.read() == "\x1b[2J\x1b[1;1Habcd\x1b[2;1Habc\x1b[K"


# --- in a pipe -----------------------------------------------------------------------------------


class Reader:
    def __init__(self, path: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            watching(path, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.out = self.process.stdout

    def block(self) -> list[str]:
        lines = []
        while line := self.out.readline().rstrip("\n"):
            lines.append(line)
        return lines

    def end(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(20)
        assert self.process.stderr is not None
        return code, self.process.stderr.read()


def test_a_pipe_gets_a_snapshot_for_each_change(path: Path) -> None:
    world = World()
    with world.daemon(path) as daemon:
        reader = Reader(path)
        assert "Arrays: 3" in reader.block()
        world.answers["status"] = CALM._replace(lease_ms_left=1)  # changes nothing
        daemon.publish("sync_moved", array="data")
        world.answers["status"] = CALM._replace(writer="a", term=4)
        daemon.publish("writer_changed", node="a", term=4)
        blocks = [reader.block()]
        while "writer a, term 4" not in blocks[-1][0]:
            blocks.append(reader.block())
        assert len(blocks) <= 2  # what the stream told of its begin may be one of its own
        assert reader.end() == (130, "")


def test_json_lines_fit_the_schema(path: Path) -> None:
    world = World()
    with world.daemon(path) as daemon:
        reader = Reader(path, "--json")
        first = json.loads(reader.out.readline())
        assert first["cluster"]["writer"] == "b" and len(first["arrays"]) == 3
        world.answers["mdstat"] = MdstatData(())
        daemon.publish("array_left", time="2026-01-31T12:00:00.000Z", on="a", array="data")
        documents = [first]
        while documents[-1]["arrays"]:
            documents.append(json.loads(reader.out.readline()))
    documents.append(json.loads(reader.out.readline()))
    assert "daemon" in documents[-1]["problem"]
    for document in documents:
        schemas.check("watch", document)
    told = [event["event"] for document in documents for event in document["events"]]
    assert told.count("array_left") == 1
    assert reader.end() == (130, "")


def test_no_daemon_at_the_beginning_ends_it(path: Path) -> None:
    done = subprocess.run(watching(path), capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1 and "no daemon listens" in done.stderr
    assert done.stderr.count("\n") == 1


def test_it_ends_when_nobody_reads(path: Path) -> None:
    with World().daemon(path):
        reader = Reader(path)
        reader.block()
        reader.out.close()
        assert reader.process.wait(20) == 0


# --- what is a change ----------------------------------------------------------------------------


def test_clocks_are_no_change_and_a_percent_is() -> None:
    waiting = STATUS.waiting[0]
    later = STATUS._replace(lease_ms_left=9, waiting=(waiting._replace(since_ms=9900),))
    assert watch.told(SCENE._replace(status=later, now_s=0)) == watch.told(SCENE)
    other = STATUS._replace(waiting=(waiting._replace(reason="something else"),))
    assert watch.told(SCENE._replace(status=other)) != watch.told(SCENE)
    brief = STATUS._replace(waiting=(waiting, Waiting("array logs", "a quorum", 200)))
    assert watch.told(SCENE._replace(status=brief)) == watch.told(SCENE)
    assert shown(SCENE._replace(status=brief), 80, 40) == shown(SCENE, 80, 40)
    first, second = (
        SCENE._replace(status=STATUS._replace(waiting=(waiting._replace(reason=f"at {n}"),)))
        for n in (1, 20)
    )
    assert watch.told(first) == watch.told(second)
    for sectors, same in ((1, True), (SYNC.end_sectors // 100 + 1, False)):
        moved = SYNC._replace(position_sectors=SYNC.position_sectors + sectors, speed_kib=1)
        arrays = (NAMED[0]._replace(sync=moved), *NAMED[1:])
        assert (watch.told(SCENE._replace(arrays=arrays)) == watch.told(SCENE)) is same
