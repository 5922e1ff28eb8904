"""The identity of a node: made once, kept, never replaced; one daemon per state directory."""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.config import identity
from mdcluster.config.errors import IdentityError, StateInUseError
from mdcluster.config.identity import LOCK_FILE, NODE_FILE, StateLock, load_or_create


def start(state_dir: Path) -> identity.Identity:
    """One life of a daemon."""
    with StateLock.acquire(state_dir) as lock:
        return load_or_create(lock)


def test_made_once_and_kept(tmp_path: Path) -> None:
    state_dir = tmp_path / "a" / "b"
    first = start(state_dir)
    second = start(state_dir)
    assert (first.created, second.created) == (True, False)
    assert first.node == second.node
    assert first.node.version == 4
    assert state_dir.stat().st_mode & 0o777 == 0o700
    assert (state_dir / NODE_FILE).stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(state_dir)) == [LOCK_FILE, NODE_FILE]


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    start(tmp_path)
    path = tmp_path / NODE_FILE
    good = path.read_bytes()
    for index in range(len(good)):
        bad = good[:index] + bytes([good[index] ^ 1]) + good[index + 1 :]
        path.write_bytes(bad)
        with pytest.raises(IdentityError, match="is damaged"):
            start(tmp_path)
        assert path.read_bytes() == bad


@given(st.one_of(st.binary(max_size=600), st.uuids().map(lambda u: f"{u}\n".encode())))
def test_any_content_is_refused(data: bytes) -> None:
    with pytest.raises(IdentityError, match="restore the file"):
        identity._parse(Path("/s/node"), data)


@given(st.uuids())
def test_a_rendered_identity_reads_back(node: uuid.UUID) -> None:
    assert identity._parse(Path("/s/node"), identity.render_identity(node)) == node


def test_a_lost_identity_is_not_made_again(tmp_path: Path) -> None:
    start(tmp_path)
    (tmp_path / NODE_FILE).unlink()
    (tmp_path / "promise").write_bytes(b"term 7")
    with pytest.raises(IdentityError, match=r"holds state \('promise'\) but no identity"):
        start(tmp_path)
    assert not (tmp_path / NODE_FILE).exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / NODE_FILE).symlink_to("/etc/hostname")
    with pytest.raises(IdentityError, match="cannot be used"):
        start(tmp_path)


def test_a_full_file_system_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(IdentityError, match="No space left on device"):
        start(tmp_path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == [LOCK_FILE]
    assert start(tmp_path).created


def test_the_order_is_file_then_name_then_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, rename = os.fsync, os.rename

    def spy_fsync(fd: int) -> None:
        calls.append("fsync " + os.readlink(f"/proc/self/fd/{fd}").rpartition("/")[2][:6])
        fsync(fd)

    def spy_rename(old: str, new: str) -> None:
        calls.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "rename", spy_rename)
    start(tmp_path / "state")
    assert calls[:3] == ["fsync .node-", "rename", "fsync state"]


def test_a_second_daemon_is_refused_with_the_pid(tmp_path: Path) -> None:
    with StateLock.acquire(tmp_path) as lock:
        with pytest.raises(StateInUseError, match=f"in use by pid {os.getpid()}:") as caught:
            StateLock.acquire(tmp_path)
        assert caught.value.pid == os.getpid()
        (tmp_path / LOCK_FILE).write_bytes(b"\xff" * 64)
        with pytest.raises(StateInUseError, match="another process") as caught:
            StateLock.acquire(tmp_path)
        assert caught.value.pid == 0
        lock.release()
        lock.release()
    StateLock.acquire(tmp_path).release()


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mdcluster.config.identity import StateLock\n"
        "lock = StateLock.acquire(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StateInUseError) as caught:
            StateLock.acquire(tmp_path)
        assert caught.value.pid == holder.pid
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=10)
    StateLock.acquire(tmp_path).release()


@pytest.mark.parametrize("name", ["file/below", "nul\0", "file"])
def test_a_state_directory_that_cannot_be(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(IdentityError, match="cannot be used"):
        StateLock.acquire(tmp_path / name)
