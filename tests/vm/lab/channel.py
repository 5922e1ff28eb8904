"""The host's end of a guest's agent: requests from any thread, each with an answer or an error."""

import itertools
import socket
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress

from tests.vm.lab.errors import GuestDeadError, LabError, LateError
from tests.vm.standalone.frames import FrameError, Message, Reader, pack


class Channel:
    """One connection to one boot of a guest; closed for good when the guest ends."""

    def __init__(self, guest: str, connection: socket.socket) -> None:
        self._guest = guest
        self._connection = connection
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._waiting: dict[int, Future[Message]] = {}
        self._closed = ""
        self._hello = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"{guest}-agent", daemon=True)
        self._thread.start()

    def wait_hello(self, timeout_s: float) -> bool:
        """Whether the agent has said that it listens, or the guest ended before."""
        return self._hello.wait(timeout_s)

    @property
    def closed(self) -> str:
        """Why nothing can be asked any more; empty while it can."""
        return self._closed

    def call(self, message: Message, timeout_s: float) -> Message:
        """The agent's answer to this message."""
        number = next(self._ids)
        answer: Future[Message] = Future()
        with self._lock:
            if self._closed:
                raise GuestDeadError(f"{self._guest}: {self._closed}")
            self._waiting[number] = answer
        try:
            self._send(pack({**message, "id": number}), timeout_s)
            found = answer.result(timeout_s)
        except FutureTimeoutError:
            raise LateError(
                f"{self._guest}: no answer to {message['do']} in {timeout_s:.0f} s"
            ) from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        if "error" in found:
            raise LabError(f"{self._guest}: {message['do']}: {found['error']}")
        return found

    def _send(self, data: bytes, timeout_s: float) -> None:
        """All of it; a request that was sent in part leaves nothing for others to be said."""
        try:
            with self._sending:
                self._connection.settimeout(timeout_s)
                self._connection.sendall(data)
        except TimeoutError:
            self.close("it took no more requests")
            raise LateError(f"{self._guest}: takes no more requests") from None
        except OSError as error:
            raise GuestDeadError(f"{self._guest}: {error}") from error

    def close(self, why: str) -> None:
        """Whoever waits is told why; nothing can be asked afterwards."""
        with self._lock:
            self._closed = self._closed or why
            waiting, self._waiting = self._waiting, {}
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._hello.set()
        for answer in waiting.values():
            answer.set_exception(GuestDeadError(f"{self._guest}: {why}"))

    def _read(self) -> None:
        reader = Reader()
        why = "the guest has ended"
        try:
            while data := self._recv():
                for message in reader.feed(data):
                    self._take(message)
        except (OSError, FrameError) as error:
            why = f"lost its agent: {error}"
        self.close(why)
        self._connection.close()

    def _recv(self) -> bytes:
        while True:
            with suppress(TimeoutError):
                return self._connection.recv(1 << 16)

    def _take(self, message: Message) -> None:
        if "hello" in message:
            if self._hello.is_set():
                raise FrameError("the agent was started again")
            self._hello.set()
            return
        with self._lock:
            answer = self._waiting.pop(message.get("id", 0), None)
        if answer is not None:
            answer.set_result(message)
