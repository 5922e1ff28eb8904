"""Who this node is: a UUID in the state directory, made once and never made again by itself.

A lost or damaged identity is reported, not replaced: a node that came back under a new UUID,
or with promises it forgot, could vote twice. The file also holds a checksum, since one changed
digit would be another valid UUID. One daemon at a time: the state directory is locked (flock(2),
which ends with its process whatever the death).
"""

import errno
import fcntl
import os
import re
import tempfile
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from mdcluster.config.errors import IdentityError, StateInUseError

NODE_FILE = "node"
LOCK_FILE = "lock"
_TEMP_PREFIX = ".node-"
_LINE = re.compile(
    rb"mdcluster-node 1 ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}) crc32 ([0-9a-f]{8})\n"
)
_FILE_BYTES_MAX = 256
_NOT_STATE = frozenset({LOCK_FILE, NODE_FILE, "lost+found"})


@dataclass(frozen=True, slots=True)
class Identity:
    """The persistent identity of a node; ``created`` tells that this start made it."""

    node: uuid.UUID
    created: bool


class StateLock:
    """The state directory, held by this process until :meth:`release` or its end."""

    def __init__(self, state_dir: Path, fd: int) -> None:
        """Take over a locked file descriptor; use :meth:`acquire`."""
        self.state_dir = state_dir
        self._fd = fd

    @classmethod
    def acquire(cls, state_dir: Path) -> Self:
        """Make the directory (0700) if need be and lock it; never waits.

        Raises:
            StateInUseError: another process holds it; its pid is in the error.
            IdentityError: the directory or the lock file cannot be made or opened.
        """
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(state_dir / LOCK_FILE, flags, 0o600)
        except (OSError, ValueError) as error:
            raise _unusable(state_dir, error) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            pid = _pid_in(fd)
            os.close(fd)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise _in_use(state_dir, pid) from None
            raise _unusable(state_dir, error) from None
        return cls(state_dir, fd)

    def release(self) -> None:
        """Give the directory up; the file stays, for removing it would race. Repeatable."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def load_or_create(lock: StateLock) -> Identity:
    """The identity in a locked state directory; made if the directory holds no state at all.

    Raises:
        IdentityError: the file is damaged, is missing beside other state, or cannot be
            read or written. Nothing is changed then.
    """
    path = lock.state_dir / NODE_FILE
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            return Identity(_parse(path, file.read(_FILE_BYTES_MAX + 1)), created=False)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _unusable(path, error) from None
    _refuse_lost(lock.state_dir)
    node = uuid.uuid4()
    try:
        _write_once(path, render_identity(node))
    except OSError as error:
        raise _unusable(path, error) from None
    return Identity(node, created=True)


def render_identity(node: uuid.UUID) -> bytes:
    """The content of the identity file."""
    text = str(node)
    return f"mdcluster-node 1 {text} crc32 {zlib.crc32(text.encode()):08x}\n".encode()


def _parse(path: Path, data: bytes) -> uuid.UUID:
    line = _LINE.fullmatch(data)
    if line is None or zlib.crc32(line[1]) != int(line[2], 16):
        raise IdentityError(
            f"{path} is damaged ({len(data)} bytes, no valid identity); it is not replaced, since "
            "this node's votes are bound to it: restore the file from a backup, or, to join as a "
            f"new node, move {path.parent} away as a whole"
        )
    return uuid.UUID(line[1].decode())


def _refuse_lost(state_dir: Path) -> None:
    try:
        with os.scandir(state_dir) as entries:
            others = sorted(
                entry.name
                for entry in entries
                if entry.name not in _NOT_STATE and not entry.name.startswith(_TEMP_PREFIX)
            )
    except OSError as error:
        raise _unusable(state_dir, error) from None
    if others:
        raise IdentityError(
            f"{state_dir} holds state ({', '.join(map(ascii, others[:5]))}) but no identity file "
            f"{NODE_FILE!r}: restore it from a backup, or, to join as a new node, move {state_dir} "
            "away as a whole"
        )


def _write_once(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, durably, with mode 0600."""
    fd, temp = tempfile.mkstemp(prefix=_TEMP_PREFIX, dir=path.parent)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temp, path)
    except OSError:
        os.unlink(temp)
        raise
    for directory in (path.parent, path.parent.parent):  # the directory may be new as well
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _pid_in(fd: int) -> int:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if re.fullmatch(rb"[0-9]{1,10}", text) else 0


def _in_use(state_dir: Path, pid: int) -> StateInUseError:
    holder = f"pid {pid}" if pid else "another process"
    return StateInUseError(
        f"the state directory {state_dir} is in use by {holder}: one daemon runs on one state "
        "directory; stop that one, or give this one its own [paths] state_dir",
        pid,
    )


def _unusable(path: Path, error: Exception) -> IdentityError:
    why = error.strerror if isinstance(error, OSError) else str(error)
    return IdentityError(
        f"{path} cannot be used: {why}; check the owner, the free space and [paths] state_dir"
    )
