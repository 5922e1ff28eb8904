"""Binds a file over another one for as long as somebody keeps it up to date, and no longer.

A child makes the mount and takes it away again: when the pipe to its parent is closed, however
that ended, and when it has not heard of it for PATIENCE_S. It does so in the mount namespace of
process 1, for a service may have one of its own. A mount that outlived both is taken away first.

    python3 overlay.py FILE TARGET      # the child; says "clear", mounts when it hears something
"""

import ctypes
import logging
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

log = logging.getLogger("mdcluster.daemon")

PATIENCE_S: Final = 10.0
END_S: Final = 5.0
"""How long the child may take to start, and to end."""
RETRY_MIN_S: Final = 1.0
RETRY_MAX_S: Final = 300.0
NAMESPACE: Final = "/proc/1/ns/mnt"
STALE_MAX: Final = 16
CLONE_NEWNS: Final = 0x00020000  # linux/sched.h
MS_BIND: Final = 0x1000  # linux/mount.h
MNT_DETACH: Final = 2


class Overlay:
    """file: what is to be seen at `target`. None of its methods is for an event loop."""

    def __init__(self, file: Path, target: Path) -> None:
        self.file = file
        self._target = target
        self._child: subprocess.Popen[bytes] | None = None
        self._pause_s = RETRY_MIN_S
        self._next_s = 0.0
        self._began_s = 0.0

    def clear(self) -> None:
        """Take away what is left of an earlier mount. Do so before the target is opened."""
        command = [sys.executable, "-I", __file__, str(self.file), str(self._target)]
        pipe = subprocess.PIPE
        self._began_s = time.monotonic()
        self._child = child = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
        assert child.stdin is not None and child.stdout is not None
        os.set_blocking(child.stdin.fileno(), False)
        select.select([child.stdout], [], [], END_S)

    def tend(self) -> None:
        """The file is up to date: mount it, or leave it mounted for PATIENCE_S more."""
        if self._child is None and time.monotonic() >= self._next_s:
            self.clear()
        if self._child is None:
            return
        if self._child.poll() is not None:
            self._ended(self._child)
            return
        assert self._child.stdin is not None
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(self._child.stdin.fileno(), b"\n")

    def _ended(self, child: "subprocess.Popen[bytes]") -> None:
        assert child.stderr is not None
        if time.monotonic() - self._began_s > PATIENCE_S:  # it was mounted
            self._pause_s = RETRY_MIN_S
        why = child.stderr.read(4096).decode(errors="replace").strip() or "it was killed"
        log.error(
            "%s is not bound over %s any more, tried again in %g s: %s",
            self.file, self._target, self._pause_s, why,
        )  # fmt: skip
        self._close(child)
        self._child = None
        self._next_s = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, RETRY_MAX_S)

    def close(self) -> None:
        """The target is itself again when this returns."""
        child, self._child = self._child, None
        if child is None:
            return
        self._close(child)
        try:
            child.wait(END_S)
        except subprocess.TimeoutExpired:
            log.error("%s may still be bound over %s: umount it", self.file, self._target)

    @staticmethod
    def _close(child: "subprocess.Popen[bytes]") -> None:
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


# --- the child -----------------------------------------------------------------------------------


def hold(file: str, target: str) -> None:
    """Mount, wait, take away. OSError says what cannot be done."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    libc = ctypes.CDLL(None, use_errno=True)
    if not os.path.samefile(NAMESPACE, "/proc/self/ns/mnt"):
        namespace = os.open(NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        _check(libc.setns(namespace, CLONE_NEWNS), f"enter {NAMESPACE}")
    for _ in range(STALE_MAX):
        if not is_over(file, target):
            break
        _check(libc.umount2(target.encode(), MNT_DETACH), f"take an old {file} off {target}")
    print("clear", flush=True)
    if not os.read(0, 4096):
        return
    _check(libc.mount(file.encode(), target.encode(), None, MS_BIND, None), "mount --bind")
    try:
        while select.select([0], [], [], PATIENCE_S)[0]:
            if not os.read(0, 4096):
                return
        raise OSError(f"mdclusterd did nothing for {PATIENCE_S:g} s")
    finally:
        if is_over(file, target):
            _check(libc.umount2(target.encode(), MNT_DETACH), f"umount {target}")


def _check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(f"{what}: {os.strerror(ctypes.get_errno())}")


def is_over(file: str, target: str) -> bool:
    """Whether what was mounted last at the target is a file of that name.

    Source: proc_pid_mountinfo(5).
    """
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        places = [line.split(" ")[3:5] for line in mounts]
    wanted = os.path.realpath(target)
    roots = [_plain(root) for root, place in places if _plain(place) == wanted]
    return bool(roots) and os.path.basename(roots[-1].removesuffix("//deleted")) == (
        os.path.basename(file)
    )


def _plain(path: str) -> str:
    """Blanks and the like stand there in octal."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        path = path.replace(code, chr(int(code[1:], 8)))
    return path


if __name__ == "__main__":
    try:
        hold(sys.argv[1], sys.argv[2])
    except OSError as error:
        sys.exit(str(error))
