"""A running lab, commanded from another terminal by a unix socket in the lab's folder.

One request and one answer a connection, so a client that goes away leaves nothing behind.
"""

import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.vm.lab.errors import LabError
from tests.vm.lab.folder import PREFIX
from tests.vm.lab.lab import Lab
from tests.vm.lab.result import Result
from tests.vm.standalone.frames import FrameError, Message, Reader, pack

SOCKET = "control.sock"
Action = Callable[[Lab, list[str]], str | None]


def _run(lab: Lab, node: str, command: list[str], timeout_s: float) -> Result:
    """One word is a line for sh, several are a program with its arguments."""
    return lab[node].run(
        command[0] if len(command) == 1 else command, timeout_s=timeout_s, check=False
    )


def _status(lab: Lab, _args: list[str]) -> str:
    lines = [f"{lab.kernel.version} in {lab.folder}"]
    lines += [f"{one.name} {one.address} {'runs' if one.alive else 'off'}" for one in lab.guests]
    counts = lab.network.counts().items()
    lines += [f"{source} -> {target}: {count}" for (source, target), count in counts]
    return "\n".join(lines)


ACTIONS: dict[str, tuple[str, Action]] = {
    "power-cut": ("NODE", lambda lab, args: lab[args[0]].power_cut()),
    "start": ("NODE", lambda lab, args: lab[args[0]].boot()),
    "restart": ("NODE", lambda lab, args: lab[args[0]].restart()),
    "freeze": ("NODE", lambda lab, args: lab[args[0]].freeze()),
    "thaw": ("NODE", lambda lab, args: lab[args[0]].thaw()),
    "refresh": ("NODE", lambda lab, args: lab[args[0]].refresh()),
    "isolate": ("NODE", lambda lab, args: lab.network.isolate(args[0])),
    "cut": ("FROM TO", lambda lab, args: lab.network.cut(args[0], args[1])),
    "heal": ("", lambda lab, args: lab.network.heal()),
    "disk-fail": ("NODE DISK", lambda lab, args: lab[args[0]].disks[args[1]].fail()),
    "disk-vanish": ("NODE DISK", lambda lab, args: lab[args[0]].disks[args[1]].vanish()),
    "disk-heal": ("NODE DISK", lambda lab, args: lab[args[0]].disks[args[1]].heal()),
    "tail": ("NODE", lambda lab, args: lab[args[0]].tail(lines=100)),
    "status": ("", _status),
}
"""What can be asked for besides running a command: its arguments, and what does it."""


class ControlServer:
    """Serves one lab until it is closed."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(lab.folder / SOCKET))
        self._listener.listen(16)
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                work = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                work.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, FrameError):
            message = _receive(connection)
            try:
                answer = self._obey(message)
            except (LabError, LookupError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            connection.sendall(pack(answer))

    def _obey(self, message: Message) -> Message:
        if message["do"] == "run":
            done = _run(self._lab, message["node"], message["command"], message["timeout_s"])
            stuck = f"\n{done.stuck}" if done.stuck else ""
            return {"rc": done.rc, "out": done.out, "err": done.err + stuck}
        return {"out": ACTIONS[message["do"]][1](self._lab, message["args"]) or ""}


def find_lab(folder: str | None) -> Path:
    """The folder of the lab that runs; which one must be said if there are several."""
    if folder:
        return Path(folder)
    found = [
        path.parent
        for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{SOCKET}")
        if _answers(path)
    ]
    if len(found) != 1:
        which = ", ".join(map(str, sorted(found))) or "none"
        raise LabError(f"there must be one lab, or --lab must say which; now: {which}")
    return found[0]


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def order(folder: Path, message: Message) -> Message:
    """What the lab in this folder answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(folder / SOCKET))
        connection.sendall(pack(message))
        answer = _receive(connection)
    if "error" in answer:
        raise LabError(answer["error"])
    return answer


def _receive(connection: socket.socket) -> Message:
    reader = Reader()
    while data := connection.recv(1 << 16):
        for message in reader.feed(data):
            return message
    raise FrameError("the other side has ended")
