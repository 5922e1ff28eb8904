"""Real processes: who is writer, when one dies or freezes, and what a daemon refuses."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from mdcluster.control.verbs import NodeArgs, ReloadArgs, Verb
from tests.cluster.harness import DAEMON, LIMIT_S, Cluster, free_ports, until_readable

pytestmark = pytest.mark.cluster

TAKEOVER_S = 5.0
"""Generous for a loaded test machine; the benches measure the usual 0.7 s."""


def refused(command: list[str]) -> tuple[int, str]:
    """Exit code and standard error of a daemon that is not to start."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    return done.returncode, done.stderr


def test_one_writer_and_another_when_it_is_killed(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start_all()
        first = cluster.writer()
        term = first.status().term
        began_s = time.monotonic()
        first.kill()
        second = cluster.writer(TAKEOVER_S, not_=first.name)
        assert time.monotonic() - began_s < TAKEOVER_S
        assert second.status().term > term
        first.start()
        assert cluster.writer().status().term >= second.status().term
        assert "start 2" in first.text


def test_a_frozen_writer_wakes_up_as_a_follower(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start_all()
        first = cluster.writer()
        others = [daemon for daemon in cluster.living if daemon is not first]
        first.freeze()
        elected = [d for d in others if d.until_line(_writer_but(first.name), "a new writer")]
        assert len(elected) == 2
        first.thaw()
        first.until("stalled")
        assert cluster.writer(not_=first.name) in others


def _writer_but(name: str):  # type: ignore[no-untyped-def]
    return lambda line: line["event"] == "writer_changed" and line["node"] != name


def test_an_orderly_stop_hands_over_and_leaves_no_doubt(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start_all()
        first = cluster.writer()
        assert first.stop() == 0
        assert "stopped in order" in first.text
        second = cluster.writer(not_=first.name)
        assert second.stop() == 0
        (last,) = cluster.living
        assert last.stop() == 0


def test_an_administrator_moves_the_writer(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start_all()
        first = cluster.writer()
        target = next(daemon for daemon in cluster.living if daemon is not first)
        target.ask(Verb.TRANSFER, NodeArgs("move-1", target.name))
        assert cluster.writer(not_=first.name) is target


def test_a_second_daemon_is_refused_and_the_first_not_disturbed(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start_all()
        daemon = cluster["a"]
        code, said = refused(daemon.command())
        assert code == 2
        assert f"pid {daemon.pid}" in said
        assert "in use" in said
        assert len(said.splitlines()) == 1
        assert daemon.status().node == "a"


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=1) as cluster:
        daemon = cluster["a"]
        with socket.create_server(("127.0.0.1", daemon.port)):
            code, said = refused(daemon.command())
        assert code == 4
        assert f"127.0.0.1:{daemon.port}" in said
        assert "another mdclusterd" in said
        cluster.start_all()


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("clusterips", "300.0.0.1 a\n", ("clusterips:1:1:",)),
        ("clusterips", "127.0.0.1:1 b\n127.0.0.1:2 c\n", ("no line", "'a'")),
        ("mdcluster.toml", "[timing]\nlease_ms = 1\n", ("mdcluster.toml", "lease_ms")),
        ("mdcluster.toml", "[timings]\n", ("unknown section", "timing")),
    ],
)
def test_mistakes_in_files_end_the_start(
    tmp_path: Path, file: str, content: str, words: tuple[str, ...]
) -> None:
    with Cluster(tmp_path, nodes=1) as cluster:
        daemon = cluster["a"]
        (cluster.clusterips if file == "clusterips" else daemon.config).write_text(content)
        code, said = refused(daemon.command())
        assert code == 1
        for word in words:
            assert word in said
        assert "Traceback" not in said
        assert not daemon.state_dir.exists()


def test_a_damaged_journal_is_refused_and_left_alone(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=1) as cluster:
        daemon = cluster["a"]
        cluster.start_all()
        daemon.kill()
        journal = daemon.state_dir / "journal"
        data = bytearray(journal.read_bytes())
        data[40] ^= 1
        journal.write_bytes(bytes(data))
        code, said = refused(daemon.command())
        assert code == 3
        assert "is damaged at byte" in said
        assert journal.read_bytes() == bytes(data)


def test_check_prints_the_proof_and_starts_nothing(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=1) as cluster:
        daemon = cluster["a"]
        done = subprocess.run(
            daemon.command("--check"), capture_output=True, text=True, timeout=LIMIT_S, check=True
        )
        assert "one gate" in done.stdout
        assert not daemon.state_dir.exists()
        version = subprocess.run(
            [*DAEMON, "--version"], capture_output=True, text=True, timeout=LIMIT_S, check=True
        )
        assert version.stdout.startswith("mdclusterd 0.")


def test_a_full_state_directory_costs_the_vote_and_is_told(tmp_path: Path) -> None:
    """Nobody can promise without writing: no writer, a clear reason, and no half a record."""
    with Cluster(tmp_path, nodes=1) as cluster:
        daemon = cluster["a"]
        daemon.start(file_max_bytes=110)
        line = daemon.until("state_directory_failed")
        assert "File too large" in line["why"]
        assert daemon.status().writer == ""
        waiting = daemon.status().waiting
        assert any("refuses" in w.reason for w in waiting), waiting
        daemon.kill()
        assert (daemon.state_dir / "journal").stat().st_size <= 110
        cluster.start_all()
        assert not any("cut off" in line.get("text", "") for line in daemon.lines)


def test_a_state_directory_that_has_room_again_is_used_again(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=1) as cluster:
        daemon = cluster["a"]
        daemon.start(file_max_bytes=110)
        daemon.until("state_directory_failed")
        resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (1 << 40, resource.RLIM_INFINITY))
        daemon.until("state_directory_recovered")
        assert cluster.writer() is daemon


def throw(port: int, garbage: bytes) -> None:
    """Send it and wait until the daemon hangs up, which it may do in the middle."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
        assert until_readable(sock)


def test_garbage_and_strangers_on_the_port_change_nothing(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start_all()
        writer = cluster.writer()
        term = writer.status().term
        for garbage in (b"GET / HTTP/1.0\r\n\r\n", os.urandom(70_000), b"\xff" + bytes(63)):
            throw(writer.port, garbage)
        assert cluster.writer() is writer
        assert writer.status().term == term
        warnings = [line for line in writer.lines if "refused (" in line.get("text", "")]
        assert warnings


def test_a_changed_file_is_read_on_request_and_a_bad_one_is_not_used(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start_all()
        daemon = cluster["b"]
        good = cluster.clusterips.read_text()
        cluster.clusterips.write_text(good + "999.1.1.1 x\n")
        daemon.signal(signal.SIGHUP)
        daemon.until_line(lambda line: "not reloaded" in line.get("text", ""), "the mistake")
        assert cluster.writer().alive
        cluster.clusterips.write_text(good + f"127.0.0.1:{free_ports(1)[0]} x spectator\n")
        daemon.ask(Verb.RELOAD, ReloadArgs("reload-1"))
        daemon.until_line(lambda line: "4 nodes" in line.get("text", ""), "the new file")
        cluster.writer()
