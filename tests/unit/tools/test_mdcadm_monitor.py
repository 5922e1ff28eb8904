"""mdcadm --monitor from its words to programs, mails and its end, against a fake daemon."""

import json
import os
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mdcluster.tools import mdcadm, messenger
from mdcluster.tools.alerts import Alert
from tests.unit.control.fake import FakeDaemon, answers
from tests.unit.control.samples import MDSTAT, STATUS

ARRAYS = MDSTAT._replace(
    arrays=tuple(a._replace(name=a.device[3:], uuid=a.device) for a in MDSTAT.arrays)
)
HERE = STATUS._replace(writer=STATUS.node)
LIMIT_S = 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def daemon(path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(path, answers({"status": HERE, "mdstat": ARRAYS})) as made:
        yield made


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def call(path: Path, *words: str) -> int:
    code: int = mdcadm.main([*words, "--config=none", f"--socket={path}"])
    return code


@pytest.mark.usefixtures("daemon")
def test_a_program_gets_mdadms_arguments(path: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = script(tmp_path / "told", f'echo "$#:$*" >> {log}')
    assert call(path, "-F", "-s1t", "-p", str(program)) == 0
    lines = log.read_text().splitlines()
    assert lines[0] == "2:TestMessage /dev/md/data"
    assert "2:DegradedArray /dev/md/data" in lines
    assert not [line for line in lines if "old" in line and "TestMessage" not in line]


@pytest.mark.usefixtures("daemon")
def test_lines_and_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(path, "--monitor", "--oneshot", "/dev/md/data") == 0
    assert capsys.readouterr().out.endswith(": DegradedArray on /dev/md/data unknown device\n")
    assert call(path, "--monitor", "--oneshot", "data", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    del told["time"]
    expected = {"event": "DegradedArray", "severity": "critical", "device": "/dev/md/data"}
    assert told == expected


@pytest.mark.usefixtures("daemon")
def test_mail(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "mail"
    sendmail = script(tmp_path / "sendmail", f"cat >> {kept}")
    ways = messenger.Ways(mail="root", sendmail=(str(sendmail), "-t"))
    monkeypatch.setattr("mdcluster.tools.monitor.Ways", lambda *a: ways)
    assert call(path, "--monitor", "--oneshot", "data", "-m", "root") == 0
    head, _, body = kept.read_text().partition("\n\n")
    assert head.splitlines() == [
        "From: mdcadm monitoring <root>",
        "To: root",
        f"Subject: DegradedArray event on /dev/md/data:{os.uname().nodename}",
    ]
    assert "DegradedArray event detected on md device /dev/md/data" in body
    assert body.index("md_data : active raid1") < body.index("md_logs : active raid10")


def test_elsewhere_nothing_is_sent_but_the_test(path: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = script(tmp_path / "told", f'echo "$1" >> {log}')
    status = STATUS._replace(writer="b", node="a")
    with FakeDaemon(path, answers({"status": status, "mdstat": ARRAYS})):
        assert call(path, "--monitor", "-1", "data", "-t", "-p", str(program)) == 0
        assert log.read_text() == "TestMessage\n"
        assert call(path, "--monitor", "-1", "data", "-p", str(program), "--everywhere") == 0
        assert log.read_text() == "TestMessage\nDegradedArray\n"


def test_a_program_that_is_not_there_or_hangs(
    path: Path,
    daemon: FakeDaemon,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(path, "-F", "-1", "data", "-p", "/nonexistent") == 0
    assert "cannot run /nonexistent: No such file" in capsys.readouterr().err
    monkeypatch.setattr(messenger, "PROGRAM_MAX_S", 0.1)
    slow = script(tmp_path / "slow", "exec sleep 60")
    assert call(path, "-F", "-1", "data", "-p", str(slow)) == 0
    assert "was ended: it took longer than" in capsys.readouterr().err


def test_refusals(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line, code, text in (
        ("-F", 1, "need --scan or at least one device"),
        ("-F -s", 1, "No mail address or alert command - not monitoring."),
        ("-F x -i /tmp/x", 1, "not in daemon mode"),
        ("-F -s -p x -r 0", 2, "increment"),
        ("-F -1 x", 1, "no daemon listens"),
        ("-F x --config=/nonexistent -1", 1, "cannot be read"),
    ):
        config = [] if "--config" in line else ["--config=none"]
        assert mdcadm.main([*line.split(), *config, f"--socket={path}"]) == code, line
        assert text in capsys.readouterr().err or "-r" in line


def test_it_goes_on_in_the_background_until_it_is_ended(daemon: FakeDaemon, path: Path) -> None:
    pid_file = path.parent / "pid"
    log = path.parent / "log"
    os.mkfifo(log)
    program = script(path.parent / "told", f'echo "$1 $2" > {log}')
    words = ["-F", "data", "-f", "-i", str(pid_file), "-p", str(program), "--config=none"]
    command = [sys.executable, "-m", "mdcluster.tools.mdcadm", *words, f"--socket={path}"]
    assert subprocess.run(command, check=False, timeout=LIMIT_S).returncode == 0
    pid = int(pid_file.read_text())
    pidfd = os.pidfd_open(pid)
    assert log.read_text() == "DegradedArray /dev/md/data\n"
    os.kill(pid, signal.SIGTERM)
    ready, _, _ = select.select([pidfd], [], [], LIMIT_S)
    os.close(pidfd)
    assert ready, "the monitor has not ended"
    assert not pid_file.exists()


def test_messages() -> None:
    def text(*parts: Any) -> str:
        line: str = messenger.message(Alert(*parts))
        return line

    assert text("Fail", "/dev/md/d", "/dev/sdb") == (
        "Fail event detected on md device /dev/md/d, component device /dev/sdb"
    )
    assert text("RebuildFinished", "/dev/md/d", "", "mismatches found: 8\nx") == (
        "RebuildFinished event detected on md device /dev/md/d: mismatches found: 8; x"
    )
