"""Child processes that the kernel kills when we end, however we end.

>>> process = start(["qemu-system-x86_64", ...], log=folder / "qemu.log")
"""

import queue
import shutil
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from tests.vm.lab.errors import LabError


@dataclass(frozen=True, slots=True)
class Order:
    """What to start."""

    command: Sequence[str]
    log: Path
    fds: Sequence[int]
    started: "Future[subprocess.Popen[bytes]]" = field(default_factory=Future)


class Parent:
    """Starts all processes from one thread that lasts as long as we do.

    The kernel kills a child with PR_SET_PDEATHSIG when the *thread* that started it ends, so a
    guest that a test starts in a short thread of its own would die with that thread.
    """

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self, order: Order) -> "subprocess.Popen[bytes]":
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="parent", daemon=True)
                self._thread.start()
        self._orders.put(order)
        return order.started.result()

    def _serve(self) -> None:
        while True:
            order = self._orders.get()
            try:
                order.started.set_result(_popen(order))
            except (OSError, LabError) as error:
                order.started.set_exception(LabError(f"{order.command[0]}: {error}"))


def _popen(order: Order) -> "subprocess.Popen[bytes]":
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise LabError("setpriv is missing: install util-linux")
    with order.log.open("ab") as output:
        return subprocess.Popen(
            [setpriv, "--pdeathsig", "KILL", *order.command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=order.fds,
            start_new_session=True,
        )


_parent = Parent()


def start(command: Sequence[str], log: Path, fds: Sequence[int] = ()) -> "subprocess.Popen[bytes]":
    """Start it, with what it prints appended to the log, and with these descriptors."""
    return _parent.start(Order(command, log, fds))
