"""How a wait is shown: a bar on a terminal, lines in a pipe, no colours where none are wanted."""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mdcluster.control.arrays import Waited
from mdcluster.control.protocol import Request
from mdcluster.control.server import ReplySink
from tests.terminal import Terminal
from tests.unit.control.fake import FakeDaemon, answers
from tests.unit.control.samples import STATUS, SYNC

COLOUR = re.compile(rb"\x1b\[[\d;]*[34][0-8][\d;]*m")
HALF = SYNC._replace(position_sectors=SYNC.end_sectors // 2)


class Pass:
    """Half done until `go_on` is called."""

    def __init__(self) -> None:
        self._over = asyncio.Event()
        self.daemon: FakeDaemon

    async def wait(self, request: Request, sink: ReplySink) -> None:
        sink.waiting("", HALF)
        await self._over.wait()
        sink.done("", Waited(True))

    def go_on(self) -> None:
        self.daemon._loop.call_soon_threadsafe(self._over.set)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def sync(path: Path) -> Iterator[Pass]:
    made = Pass()
    with FakeDaemon(path, answers({"wait": made.wait})) as made.daemon:
        yield made
        made.go_on()


def waiting(path: Path, *words: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "mdcluster.tools.mdcadm",
        "--wait",
        "r",
        *words,
        f"--socket={path}",
    ]


def test_a_terminal_shows_a_bar_and_is_as_before_in_the_end(sync: Pass, path: Path) -> None:
    with Terminal(waiting(path)) as terminal:
        screen = terminal.until(lambda text: "50.0%" in text)
        assert re.search(r"/dev/md/r recover +\S*━+\S* +50.0% +132096 KiB/s +0:07 left", screen)
        sync.go_on()
        assert terminal.end() == 0
        assert COLOUR.search(terminal.sent)
        assert terminal.screen().strip() == ""
        assert terminal.sent.rindex(b"\x1b[?25h") > terminal.sent.rindex(b"\x1b[?25l")
        assert terminal.attributes() == terminal.mode


def test_an_interrupt_gives_the_terminal_back(sync: Pass, path: Path) -> None:
    with Terminal(waiting(path)) as terminal:
        terminal.until(lambda text: "50.0%" in text)
        terminal.press(b"\x03")
        assert terminal.end() == 130
        assert terminal.sent.rindex(b"\x1b[?25h") > terminal.sent.rindex(b"\x1b[?25l")
        assert b"interrupted" in terminal.sent


def test_no_color_has_a_bar_without_colours(sync: Pass, path: Path) -> None:
    with Terminal(waiting(path), env={"NO_COLOR": "1"}) as terminal:
        terminal.until(lambda text: "50.0%" in text and "━" in text)
        sync.go_on()
        assert terminal.end() == 0
        assert not COLOUR.search(terminal.sent)


@pytest.mark.parametrize("words", [(), ("--quiet",)])
def test_a_dumb_terminal_gets_lines(sync: Pass, path: Path, words: tuple[str, ...]) -> None:
    with Terminal(waiting(path, *words), env={"TERM": "dumb"}) as terminal:
        if not words:
            terminal.until_sent(b"recovery = 50.0%")
        sync.go_on()
        assert terminal.end() == 0
        assert b"\x1b" not in terminal.sent
        assert bool(terminal.sent) is (not words)


def test_a_pipe_gets_lines(sync: Pass, path: Path) -> None:
    process = subprocess.Popen(waiting(path), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "recovery = 50.0%" in line and line.startswith("mdcadm: /dev/md/r: [==========>")
    sync.go_on()
    assert process.wait(20) == 0
    assert process.stderr.read() == ""


def test_a_bar_is_not_sent_too_often(sync: Pass, path: Path) -> None:
    """Its thread draws it again whether it has moved or not: over a slow line that is felt."""
    with Terminal(waiting(path)) as terminal:
        terminal.until(lambda text: "50.0%" in text)
        times: list[float] = []
        while len(times) < 4:
            terminal.until_again(b"50.0%")
            times.append(time.monotonic())
        assert times[-1] - times[0] > 1.0
        sync.go_on()
        assert terminal.end() == 0


def test_reports_have_colours_on_a_terminal_that_wants_them(path: Path) -> None:
    command = [sys.executable, "-m", "mdcluster.tools.mdcadm", "--cluster", f"--socket={path}"]
    with FakeDaemon(path, answers({"status": STATUS})):
        for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
            with Terminal(command, env=env) as terminal:
                assert terminal.end() == 0
                assert b"suspect" in terminal.sent
                assert bool(COLOUR.search(terminal.sent)) is coloured, env
