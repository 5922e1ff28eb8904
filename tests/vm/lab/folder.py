"""The folder of one lab, and the removal of those whose owner was killed before it could do so."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "mdcluster-vm-"
OWNER = ".owner"


class LabFolder:
    """Held by a lock as long as its owner lives; the kernel drops the lock of a killed one."""

    def __init__(self) -> None:
        _sweep()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        # Locked before it has its name: others never see it without its lock.
        nameless = self.path / f"{OWNER}.new"
        self._lock = os.open(nameless, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        nameless.rename(self.path / OWNER)

    def remove(self) -> None:
        """May be called again."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def _sweep() -> None:
    for owner in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{OWNER}"):
        try:
            lock = os.open(owner, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # gone already, or another user's
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(owner.parent, ignore_errors=True)
        except BlockingIOError:
            pass  # its owner lives
        finally:
            os.close(lock)
