"""Fencing of embedded nodes: the lock that a daemon's process held tells whether it lives.

An embedded array lives in its daemon's process: with the process gone, nothing it sent can
still land (its writes are system calls of its own). Each daemon holds flock(2) on
``<lock_dir>/<node uuid>.lock`` for all its life; the kernel drops it with the process, whatever
the death. Behind each other it names the lives that held it, each written after the lock was
taken: one that is not the last is over, the last is if nobody holds the lock, and of one that
is not named (another lock_dir, another machine) nothing is known.

Only for daemons that share one kernel and one lock directory; elsewhere there is no file, and
without a file nothing is confirmed.
"""

import asyncio
import errno
import fcntl
import os
import re
import stat
from pathlib import Path

from mdcluster.core.effects import Fence
from mdcluster.core.model import Life, NodeId
from mdcluster.errors import MdclusterError
from mdcluster.fence.provider import Confirmed, Waits

DEADLINE_S = 2.0
LIVES_MAX = 32
_FILE_MAX_BYTES = 16 * 1024
_LINE = re.compile(rb"mdcluster-life 1 ([0-9a-f-]{36}) ([!-~]{1,64})\n")
_NODE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class LockError(MdclusterError):
    """The process lock cannot be taken: in use, or its directory is of no use."""


class ProcessLock:
    """This process's lock on its life, until `release` or its end."""

    def __init__(self, path: Path, fd: int) -> None:
        """Use :meth:`hold`."""
        self.path = path
        self._fd = fd

    @classmethod
    def hold(cls, lock_dir: Path, life: Life) -> "ProcessLock":
        """Take the lock and write our life into it. Never waits.

        A prober may hold the lock shared for an instant; it is tried a few times.

        Raises:
            LockError: another process holds it, or the directory cannot be used.
        """
        path = _lock_path(lock_dir, life)
        try:
            lock_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise LockError(
                f"the process lock {path} cannot be made: {error.strerror}; check [paths] lock_dir"
            ) from None
        try:
            _lock_waiting_for_probers(fd)
            _enter(fd, life)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise LockError(
                    f"the process lock {path} is held: another daemon runs as node {life.node}"
                ) from None
            raise LockError(f"the process lock {path}: {error.strerror}") from None
        return cls(path, fd)

    def release(self) -> None:
        """Our life is over, nothing of it is under way any more. The file stays, and tells."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class ProcessFence:
    """Confirms the end of lives by their locks; ends nobody itself."""

    name = "process"
    deadline_s = DEADLINE_S

    def __init__(self, lock_dir: Path) -> None:
        self._lock_dir = lock_dir

    async def fence(self, ask: Fence) -> Confirmed | Waits:
        return await asyncio.to_thread(look, self._lock_dir, ask.life)


def look(lock_dir: Path, life: Life) -> Confirmed | Waits:
    """Whether the process of `life` is gone, by its lock."""
    try:
        path = _lock_path(lock_dir, life)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return Waits(
            f"there is no process lock {path}: that node did not run on this machine, or with "
            "another lock_dir"
        )
    except (OSError, LockError) as error:
        return Waits(f"the process lock of node {life.node} cannot be read: {error}")
    try:
        return _judge(fd, path, life)
    except OSError as error:
        return Waits(f"the process lock {path} cannot be read: {error.strerror}")
    finally:
        os.close(fd)  # and with it the lock, if we have it


def _judge(fd: int, path: Path, life: Life) -> Confirmed | Waits:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return Waits(f"{path} is no regular file")
    free = _try_shared(fd)  # before it is read: what is named then had the lock by then
    lives = [Life(NodeId(node), boot_id) for node, boot_id in _lives(fd)]
    if life not in lives:
        return Waits(f"{path} does not name that life of the node")
    if life != lives[-1]:
        return Confirmed(f"its process is gone: {path} was taken by a later life of the node")
    if free:
        return Confirmed(f"its process is gone: nobody holds {path}")
    return Waits(f"its process lives and holds {path}; kill it, or wait until it answers")


def _lives(fd: int) -> list[tuple[str, str]]:
    found = _LINE.findall(os.pread(fd, _FILE_MAX_BYTES, 0))
    return [(node.decode(), boot_id.decode()) for node, boot_id in found]


def _enter(fd: int, life: Life) -> None:
    """Name our life behind the others; only every LIVES_MAX starts are old ones left out."""
    line = f"mdcluster-life 1 {life.node} {life.boot_id}\n".encode()
    lives = _lives(fd)
    if len(lives) < 2 * LIVES_MAX:
        os.pwrite(fd, line, os.fstat(fd).st_size)
        return
    kept = b"".join(f"mdcluster-life 1 {n} {b}\n".encode() for n, b in lives[-LIVES_MAX:])
    os.ftruncate(fd, 0)
    os.pwrite(fd, kept + line, 0)


def _try_shared(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def _lock_waiting_for_probers(fd: int) -> None:
    """flock exclusively; a prober's shared lock is gone in an instant, a daemon's is not."""
    for attempt in range(20):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if attempt == 19 or error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            os.sched_yield()


def _lock_path(lock_dir: Path, life: Life) -> Path:
    """A node's UUID may come from the network: it must not lead elsewhere."""
    if not _NODE.fullmatch(life.node):
        raise LockError(f"{life.node[:60]!r} is no UUID of a node")
    return lock_dir / f"{life.node}.lock"
