"""A unix socket on the host that leads to a unix socket in a guest, through the guest's agent.

>>> Client(guest.tunnel("/run/mdcluster/control.sock"))
"""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.vm.lab.errors import LabError
from tests.vm.standalone.frames import Message, bytes_of, text_of

RECEIVE_S = 5.0
"""How long the agent waits for bytes before it is asked again."""
PIECE_BYTES = 1 << 16
Ask = Callable[[Message, float], Message]


class Tunnel:
    """Takes connections until it is closed; each lasts as long as both of its ends."""

    def __init__(self, path: Path, target: str, ask: Ask) -> None:
        """path: the socket on the host; target: the one in the guest, looked up each time."""
        self.path = path
        self._target = target
        self._ask = ask
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, name=f"tunnel {path.name}", daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        """The way there in this thread, the way back in another one."""
        with near, suppress(OSError, LabError):
            stream = self._ask({"do": "connect", "path": self._target}, 0.0)["stream"]
            threading.Thread(target=self._back, args=(near, stream), daemon=True).start()
            try:
                while data := near.recv(PIECE_BYTES):
                    self._ask({"do": "send", "stream": stream, "data": text_of(data)}, 0.0)
            finally:
                self._ask({"do": "hang_up", "stream": stream}, 0.0)

    def _back(self, near: socket.socket, stream: int) -> None:
        receive: Message = {"do": "receive", "stream": stream, "timeout_s": RECEIVE_S}
        with suppress(OSError, LabError):
            while True:
                answer = self._ask(receive, RECEIVE_S)
                if answer["data"] is None:
                    continue
                data = bytes_of(answer["data"])
                if not data:
                    break
                near.sendall(data)
        with suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)
