"""A cluster-true /proc/mdstat, for programs that know nothing of clusters.

`RUN_DIR/mdstat` is replaced as a whole when it has changed; that is looked at every TICK_S. When
asked to, a second copy is bound over the kernel's file. A mount holds on to one inode, so this
copy is written in place: all of it by one `pwrite`, padded with empty lines to whole pages, never
made shorter. Who reads it meanwhile gets the old or the new text, or, if that takes several reads,
the beginning of one and the rest of the other; the kernel's file is no better, its text is made
anew for each read.

The kernel's own file is opened before anything is bound over it, and read by that descriptor.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from mdcluster.control.arrays import MdstatData
from mdcluster.daemon.overlay import Overlay
from mdcluster.tools.mdstat import mdstat
from mdcluster.workers import AccessLateError, Workers

log = logging.getLogger("mdcluster.daemon")

KERNEL_FILE: Final = Path("/proc/mdstat")
TICK_S: Final = 1.0
DEADLINE_MS: Final = 15_000
PAGE_BYTES: Final = 4096
KERNEL_BYTES_MAX: Final = 1 << 20


class MdstatCopy:
    """`run` until it is cancelled, then `close`.

    source: the cluster's arrays as they are now. bind: over which file (the kernel's arrays are
    read from this one, too), None: over none.
    """

    def __init__(
        self, run_dir: Path, source: Callable[[], MdstatData], bind: Path | None = None
    ) -> None:
        self._file = run_dir / "mdstat"
        self._source = source
        self._overlay = None if bind is None else Overlay(run_dir / "mdstat.bound", bind)
        own = None if self._overlay is None else self._overlay.file
        self._kernel = _KernelFile(bind or KERNEL_FILE, own)
        self._workers = Workers()  # the kernel may not answer
        self._text = ""
        self._problem = ""

    async def run(self) -> None:
        """Look every TICK_S; what goes wrong is logged once, and tried again."""
        while True:
            call = partial(self._publish, self._source())
            try:
                await self._workers.run(str(self._file), DEADLINE_MS, call)
                self._problem = ""
            except (OSError, AccessLateError) as error:
                if str(error) != self._problem:
                    log.error("%s is not up to date: %s", self._file, error)
                self._problem = str(error)
            await asyncio.sleep(TICK_S)

    def _publish(self, data: MdstatData) -> None:
        if self._overlay is not None and not self._text:
            self._overlay.clear()
        text = mdstat(data.arrays, self._kernel.read())
        if text != self._text:
            _replace(self._file, text.encode())
            if self._overlay is not None:
                rewrite(self._overlay.file, text.encode())
            self._text = text
        if self._overlay is not None and self._kernel.opened:  # else its file could not be read
            self._overlay.tend()

    def close(self) -> None:
        """The kernel's file shows again, and no old copy is taken for a new one."""
        if self._overlay is not None:
            self._overlay.close()
            self._overlay.file.unlink(missing_ok=True)
        self._kernel.close()
        with contextlib.suppress(OSError):
            self._file.unlink()


class _KernelFile:
    """The kernel's file, which is there once its md module is loaded. own: what it must not be."""

    def __init__(self, path: Path, own: Path | None) -> None:
        self._path = path
        self._own = own
        self._fd = -1

    @property
    def opened(self) -> bool:
        return self._fd >= 0

    def read(self) -> str:
        """All of it; '' while there is none. OSError if this daemon's copy is in its place."""
        if self._fd < 0:
            try:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return ""
            self._check()
        try:
            return self._read()
        except OSError:
            self.close()  # the module was taken out
            return ""

    def _check(self) -> None:
        found = os.fstat(self._fd)
        own = self._own
        if own is not None and own.exists() and os.path.samestat(found, own.stat()):
            self.close()
            raise OSError(f"{own} is still bound over {self._path}: umount {self._path}")

    def _read(self) -> str:
        content = b""
        while len(content) < KERNEL_BYTES_MAX:
            part = os.pread(self._fd, 1 << 16, len(content))
            if not part:
                break
            content += part
        return content.decode(errors="replace")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    new.chmod(0o644)
    new.rename(path)


def rewrite(path: Path, content: bytes) -> None:
    """In place, as the head of this module says."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        pages_bytes = -(-len(content) // PAGE_BYTES) * PAGE_BYTES
        size_bytes = max(pages_bytes, os.fstat(fd).st_size)
        os.pwrite(fd, content.ljust(size_bytes, b"\n"), 0)
    finally:
        os.close(fd)
