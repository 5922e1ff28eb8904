"""Log lines an administrator can follow, and the words systemd hears."""

import json
import logging
import socket
import sys
from pathlib import Path

import pytest

from mdcluster.core.model import NodeId
from mdcluster.daemon.sdnotify import SystemdNotifier
from mdcluster.runtime import observe
from mdcluster.runtime.observe import JsonFormatter, TextFormatter


def record(text: str, facts: observe.Facts | None = None) -> logging.LogRecord:
    made = logging.LogRecord("mdcluster.mesh", logging.WARNING, "f", 1, text, (), None)
    made.created, made.msecs = 0.25, 250
    if facts is not None:
        made.facts = facts
    return made


def test_a_line_of_text() -> None:
    line = TextFormatter("alpha").format(
        record("member_failed", {"device": "d1", "why": 'bad "sector" 7', "term": 3})
    )
    head = "1970-01-01T00:00:00.250Z warning alpha member_failed"
    assert line == head + ' device=d1 why="bad \\"sector\\" 7" term=3'


def test_a_text_cannot_break_out_of_its_line() -> None:
    line = TextFormatter("alpha").format(record("one\ntwo level=x"))
    assert line == '1970-01-01T00:00:00.250Z warning alpha mesh text="one\\ntwo level=x"'


def test_a_line_of_json_keeps_facts_and_head_apart() -> None:
    line = json.loads(JsonFormatter("alpha").format(record("node_up", {"node": "beta"})))
    assert line == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "warning",
        "on": "alpha",
        "event": "node_up",
        "node": "beta",
    }


def test_a_bug_brings_its_trace() -> None:
    made = record("this node stops")
    try:
        raise ValueError("boom")
    except ValueError:
        made.exc_info = sys.exc_info()
    assert "ValueError: boom" in json.loads(JsonFormatter("a").format(made))["trace"]


def test_what_repeats_itself_is_said_once_in_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [100.0]
    monkeypatch.setattr("mdcluster.runtime.observe.time.monotonic", lambda: now_s[0])
    caplog.set_level(logging.INFO)
    log = observe.Log()
    log.name(NodeId("1234"), "beta")
    for _ in range(5):
        observe.tell("apply_failed", {"node": "1234"})
    now_s[0] += observe.REPEAT_S
    observe.tell("apply_failed", {"node": "1234"})
    facts = [getattr(r, "facts", None) for r in caplog.records if r.message == "apply_failed"]
    assert facts == [{"node": "beta"}, {"node": "beta", "repeated": 4}]


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        monkeypatch.setenv("WATCHDOG_USEC", "10000000")
        notifier = SystemdNotifier()
        notifier.tell("READY=1", "STATUS=up")
        assert sock.recv(100) == b"READY=1\nSTATUS=up"
        assert notifier.watchdog_s == 10.0


def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    notifier = SystemdNotifier()
    notifier.tell("READY=1")
    assert notifier.watchdog_s == 0.0
