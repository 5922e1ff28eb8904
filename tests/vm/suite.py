"""pytest inside a guest, its progress shown while it runs."""

import shlex
import time

import pytest

from tests.vm.lab import Guest

LOOK_S = 2.0


def run_inside(
    guest: Guest, capsys: pytest.CaptureFixture[str], *arguments: str, limit_s: float
) -> str:
    """What it prints, which is also shown line by line; the test fails if it does, or is late."""
    words = ["python", "-m", "pytest", "-v", "-p", "no:cacheprovider", *arguments]
    process = guest.spawn("suite", f"exec {shlex.join(words)}")
    shown, end_s = 0, time.monotonic() + limit_s
    rc = None
    while rc is None and time.monotonic() < end_s:
        rc = process.poll(LOOK_S)
        text = process.output()
        whole = text.rfind("\n") + 1
        if whole > shown:
            with capsys.disabled():
                print(f"\n{text[shown:whole]}", end="", flush=True)
            shown = whole
    output = process.output()
    if rc is None:
        where = guest.run("head -n 5 /proc/[0-9]*/task/*/stack | grep -B1 -A4 md_", check=False)
        guest.power_cut()  # what hangs in md cannot be ended
        pytest.fail(f"not done after {limit_s:.0f} s\n{output}\n{where.out}")
    if rc != 0:
        pytest.fail(f"pytest in {guest.name} ended with {rc}:\n{output}")
    return output
