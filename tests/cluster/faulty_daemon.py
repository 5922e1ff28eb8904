"""``mdclusterd`` with a recorder and faults on request: `python -m tests.cluster.faulty_daemon`.

The same service as the shipped one; only its gate and its driver are watched. What to do stands
in the directory that the environment variable MDCLUSTER_FAULTS names:

* ``trace``: appended to, a JSON line each: gate opened, shut, refused; sync started; every
  stretch that a sync writes to a member. It is complete whatever kills the process.
* ``freeze-copy``, ``freeze-superblock``: if there, the next write of that kind is stopped
  (SIGSTOP, by itself) right between the check of the lease and the write; the file is gone then.
  Once the process goes on, that write waits as many milliseconds as the file says.
* ``slow-copy``: every stretch that a sync writes takes as many milliseconds longer as it says.
* ``eio-NAME``: while it is there, this node gets EIO from every access to the member NAME.
"""

import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdcluster.core.model import ArrayId, SyncKind
from mdcluster.daemon import main, service
from mdcluster.gate import Gate, GateShutError, boottime_ms
from mdcluster.md import open as opening
from mdcluster.md.embedded import EmbeddedDriver
from mdcluster.md.faults import Access, Direction, Faults, Purpose
from mdcluster.metadata import device
from mdcluster.metadata.superblock import SUPER_OFFSET_BYTES
from tests.cluster.faulty_daemon_env import ENVIRONMENT

_WRITE_ALL = device.DeviceWriter._write_all


class Recorder:
    """The trace, and the freezing. Used from many threads: each line is one append."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._fd = os.open(directory / "trace", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, what: str, **facts: object) -> None:
        line = json.dumps({"what": what, "ms": boottime_ms(), "pid": os.getpid(), **facts})
        os.write(self._fd, line.encode() + b"\n")

    def freeze_if_asked(self, kind: str) -> None:
        """Stop this very thread before its next step, and with it the process."""
        trigger = self.directory / f"freeze-{kind}"
        try:
            late_ms = int(trigger.read_text())
            trigger.unlink()  # of several threads, one gets it
        except FileNotFoundError:
            return
        self.note("frozen", kind=kind)
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        time.sleep(late_ms / 1000)
        self.note("thawed", kind=kind)

    def slow_copy_s(self) -> float:
        try:
            return int((self.directory / "slow-copy").read_text()) / 1000
        except FileNotFoundError:
            return 0.0

    def faulty(self, name: str) -> bool:
        return (self.directory / f"eio-{name}").exists()


RECORDER = Recorder(Path(os.environ[ENVIRONMENT]))


class WatchedGate(Gate):
    """Tells what it lets through."""

    def open(self, term: int, until_ms: int) -> None:
        super().open(term, until_ms)
        RECORDER.note("gate", term=term, until_ms=until_ms)

    def shut(self) -> None:
        super().shut()
        RECORDER.note("gate", term=self.term, until_ms=0)

    def check(self) -> None:
        """Of superblocks, bitmaps of others and nonces; the write follows at once."""
        self.check_copy()
        asker = sys._getframe(1)
        at = asker.f_locals.get("offset_bytes") if asker.f_code is _WRITE_ALL.__code__ else None
        if at == SUPER_OFFSET_BYTES:
            RECORDER.freeze_if_asked("superblock")

    def check_copy(self) -> None:
        """Of what a sync writes: its freezing is that of `WatchedFaults`."""
        try:
            super().check()
        except GateShutError as error:
            RECORDER.note("refused", why=str(error))
            raise


class WatchedFaults(Faults):
    """Asked right before each access; for copying between the gate's check and the write."""

    def visit(self, access: Access) -> None:
        super().visit(access)
        name = os.path.basename(access.path)
        if RECORDER.faulty(name):
            raise OSError(errno.EIO, "Input/output error (injected)", access.path)
        if (access.direction, access.purpose) == (Direction.WRITE, Purpose.COPY):
            RECORDER.freeze_if_asked("copy")
            time.sleep(RECORDER.slow_copy_s())
            RECORDER.note("copy", member=name, lo=access.lo_sectors, hi=access.hi_sectors)


class WatchedDriver(EmbeddedDriver):
    """Tells which pass it copies for."""

    def __init__(self, nbd_dir: Path, gate_check: Callable[[], None], **settings: Any) -> None:
        gate = getattr(gate_check, "__self__")  # noqa: B009 - the bound method of a gate
        assert isinstance(gate, WatchedGate)
        super().__init__(nbd_dir, gate.check_copy, faults=WatchedFaults(), **settings)

    async def start_sync(self, array: ArrayId, kind: SyncKind, position_sectors: int) -> None:
        await super().start_sync(array, kind, position_sectors)
        RECORDER.note("sync", kind=kind.value, position=position_sectors)


def watched_open(path: str, flags: int) -> tuple[int, bool]:
    """In place of the one opening of members for metadata, probes and searches."""
    if RECORDER.faulty(os.path.basename(path)):
        raise OSError(errno.EIO, "Input/output error (injected)", path)
    return _OPEN(path, flags)


_OPEN = device._open

if __name__ == "__main__":
    setattr(device, "_open", watched_open)  # noqa: B010
    setattr(service, "Gate", WatchedGate)  # noqa: B010 - not for sale in the service's interface
    setattr(opening, "EmbeddedDriver", WatchedDriver)  # noqa: B010
    RECORDER.note("start", at_s=time.time())
    sys.exit(main.main())
