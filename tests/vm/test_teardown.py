"""Whatever ends a run, no process and no file of its lab is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.vm.lab import Lab
from tests.vm.lab.boot import CHECKOUT
from tests.vm.lab.folder import LabFolder

SCRIPT = """
import threading, time
from tests.vm.lab import Lab

lab = Lab(nodes=1)
thread = threading.Thread(target=lab["node1"].start)
thread.start(); thread.join()
print(lab.folder, lab["node1"].pid, lab.network.pid, flush=True)
time.sleep(600)
"""
LIMIT_S = 60.0


def started() -> tuple["subprocess.Popen[str]", Path, list[int]]:
    """A run with a lab of one guest that was switched on, its folder and its processes."""
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    )
    assert run.stdout is not None
    folder, *pids = run.stdout.readline().split()
    assert Path(folder).is_dir()
    return run, Path(folder), [int(pid) for pid in pids]


def gone(pid: int) -> bool:
    """Whether it has ended; it may wait for somebody to take note of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def all_gone(pids: list[int]) -> bool:
    end_s = time.monotonic() + LIMIT_S
    while not all(map(gone, pids)):
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.smoke
def test_a_killed_run_leaves_no_process_and_the_next_removes_its_files() -> None:
    run, folder, pids = started()
    assert not any(map(gone, pids))

    run.kill()
    run.wait()

    assert all_gone(pids)
    LabFolder().remove()
    assert not folder.exists()


def test_an_interrupted_run_leaves_nothing() -> None:
    run, folder, pids = started()

    run.send_signal(signal.SIGINT)
    run.wait(LIMIT_S)

    assert all_gone(pids)
    assert not folder.exists()


def test_an_error_in_a_test_ends_the_guests() -> None:
    with pytest.raises(ZeroDivisionError), Lab(nodes=1) as lab:
        pid = lab["node1"].pid
        os.kill(pid, 0)
        1 / 0  # noqa: B018
    assert gone(pid)
    assert not lab.folder.exists()
