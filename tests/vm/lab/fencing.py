"""The host's side of the fence device: cuts guests' power when a guest asks for it.

Each guest reaches it by a virtio-serial port of its own, as a power switch is reached by a network
that the cluster does not use. An answer is given only when what was asked for is so: after "off"
the QEMU of the guest is reaped. For tests, the device can be out of order.
"""

import enum
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from tests.vm.lab.errors import LabError
from tests.vm.lab.guest import Guest
from tests.vm.standalone.frames import FrameError, Message, Reader, pack

ACTIONS = ("off", "on", "reboot", "status")


class Mood(enum.Enum):
    """How the fence device behaves."""

    WORKS = enum.auto()
    FAILS = enum.auto()
    """It answers that it could not, and does nothing."""
    SILENT = enum.auto()
    """It does nothing and does not answer."""
    LIES = enum.auto()
    """It says that it has done it, and does nothing."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the device was asked for, and by whom."""

    by: str
    action: str
    target: str


class FenceDevice:
    """Serves all guests of a lab."""

    def __init__(self, guests: Mapping[str, Guest]) -> None:
        self._guests = guests
        self.mood = Mood.WORKS
        self.asked: list[Asked] = []
        """Everything it was asked for so far, in order."""
        self._one_at_a_time = threading.Lock()

    def mend(self) -> None:
        """It works, and was not asked for anything yet."""
        self.mood = Mood.WORKS
        self.asked.clear()

    def serve(self, guest: str, connection: socket.socket) -> None:
        """Answer what comes from this boot of the guest, until it ends; in a thread of its own."""
        work: Callable[[], None] = lambda: self._serve(guest, connection)  # noqa: E731
        threading.Thread(target=work, name=f"{guest}-fence", daemon=True).start()

    def _serve(self, guest: str, connection: socket.socket) -> None:
        reader = Reader()
        with connection, suppress(OSError, FrameError):
            while data := connection.recv(1 << 16):
                for message in reader.feed(data):
                    answer = self.answer(guest, message)
                    if answer is not None:
                        connection.sendall(pack({"id": message.get("id"), **answer}))

    def answer(self, by: str, message: Message) -> Message | None:
        """What the device says once it has done it; None: nothing."""
        asked = Asked(by, str(message.get("action")), str(message.get("target")))
        self.asked.append(asked)
        if asked.action not in ACTIONS or asked.target not in self._guests:
            return {"ok": False, "why": f"no action {asked.action} for {asked.target}"}
        if self.mood is Mood.SILENT:
            return None
        if self.mood is Mood.FAILS:
            return {"ok": False, "why": "the fence device is out of order"}
        if self.mood is Mood.LIES and asked.action != "status":
            return {"ok": True, "on": asked.action != "off"}
        with self._one_at_a_time:
            return self._do(asked.action, self._guests[asked.target])

    def _do(self, action: str, target: Guest) -> Message:
        try:
            if action in ("off", "reboot"):
                target.power_cut()
            if action in ("on", "reboot") and not target.alive:
                target.start()
        except LabError as error:
            return {"ok": False, "why": str(error)}
        return {"ok": True, "on": target.alive}
