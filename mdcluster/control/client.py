"""A small synchronous client of the local daemon; imports little, for ``mdcadm`` must start fast.

>>> with Client(socket_path()) as client:
...     status = client.ask(Verb.STATUS, NoArgs(), ClusterStatus)
"""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TypeVar

from mdcluster.control.errors import (
    ControlError,
    LostError,
    NoDaemonError,
    ProtocolError,
    SilentError,
)
from mdcluster.control.protocol import (
    LINE_MAX_BYTES,
    NO_ID,
    SILENCE_MAX_S,
    SOCKET_ENV,
    SOCKET_PATH,
    EventLine,
    Reply,
    State,
    decode_answer,
    encode,
)
from mdcluster.control.shape import build
from mdcluster.control.verbs import Args, EventsArgs, Verb, changes, request_of

CONNECT_MAX_S = 2.0
ATTEMPTS_MAX = 7
RETRY_FIRST_S = 0.1

T = TypeVar("T")
Progress = Callable[[Reply], None]


def socket_path(option: str | None = None) -> str:
    """The control socket: as given, else of the environment, else the default."""
    return option or os.environ.get(SOCKET_ENV) or SOCKET_PATH


class RefusedError(ControlError):
    """The daemon said no; the text is its reason. ``verb`` is what was asked."""

    def __init__(self, verb: Verb, text: str) -> None:
        self.verb = verb
        super().__init__(text or f"{verb}: refused without a reason")


class Client:
    """One connection, opened on the first request; not for use from several threads.

    silence_s: how long the daemon may send nothing while a reply is due. attempts_max: how often
    a request whose connection was lost is sent.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        silence_s: float = SILENCE_MAX_S,
        attempts_max: int = ATTEMPTS_MAX,
    ) -> None:
        self.path = os.fspath(path)
        self._silence_s = silence_s
        self._attempts_max = attempts_max
        self._socket: socket.socket | None = None
        self._buffer = bytearray()
        self._last_id = NO_ID

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the next request opens a new one."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._buffer.clear()

    def ask(self, verb: Verb, args: Args, data: type[T], progress: Progress | None = None) -> T:
        """Like :meth:`call`, with the data of the answer checked and typed."""
        reply = self.call(verb, args, progress)
        return build(data, reply.data, f"answer to {verb}", strict=False)

    def call(
        self, verb: Verb, args: Args, progress: Progress | None = None, *, dry_run: bool = False
    ) -> Reply:
        """The final ``done`` reply; :class:`RefusedError` for ``refused``.

        ``progress`` sees every ``waiting`` reply. A connection that is lost (the daemon restarts)
        is opened again and the request repeated, a few times and later each time: a change carries
        its proposal id, so it is never executed twice. Raises :class:`NoDaemonError`,
        :class:`LostError`, :class:`ProtocolError`. dry_run: nothing is changed, the data of the
        reply are a :class:`mdcluster.control.plan.PlanData`.
        """
        lost: LostError | None = None
        for attempt in range(self._attempts_max):
            if attempt:
                time.sleep(RETRY_FIRST_S * 2 ** (attempt - 1))
            try:
                return self._exchange(verb, args, progress, dry_run)
            except NoDaemonError:
                self.close()
                if lost is None:  # nothing was ever sent
                    raise
            except LostError as error:
                self.close()
                lost = error
                if isinstance(error, SilentError):
                    break
        assert lost is not None
        if changes(args) and not dry_run:
            raise LostError(
                f"{lost}; whether the change was made is not known: look before you try again"
            )
        raise lost

    def events(self, kinds: tuple[str, ...] = ()) -> Iterator[EventLine]:
        """Events as they come, until the daemon ends the stream (:class:`LostError`)."""
        number = self._send(Verb.EVENTS, EventsArgs(kinds))
        while True:
            answer = self._receive()
            if isinstance(answer, EventLine):
                yield answer
            elif answer.id in (number, NO_ID) and answer.final:
                self._check(Verb.EVENTS, answer)
                return

    def subscribe(self, kinds: tuple[str, ...] = ()) -> None:
        """Ask for events; they come with `take`. One connection for this alone is simplest."""
        self._send(Verb.EVENTS, EventsArgs(kinds))

    def fileno(self) -> int:
        """For select: readable when `take` would not wait."""
        return self._connected().fileno()

    def take(self) -> list[Reply | EventLine]:
        """What the daemon has sent by now, after one read; :class:`LostError` if it hung up."""
        if len(self._buffer) > LINE_MAX_BYTES:
            raise ProtocolError(f"the daemon sent a line of more than {LINE_MAX_BYTES} bytes")
        self._buffer += self._read()
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        return [decode_answer(bytes(line)) for line in lines]

    def _exchange(self, verb: Verb, args: Args, progress: Progress | None, dry_run: bool) -> Reply:
        number = self._send(verb, args, dry_run)
        while True:
            answer = self._receive()
            if isinstance(answer, EventLine) or answer.id not in (number, NO_ID):
                continue
            if answer.final:
                return self._check(verb, answer)
            if progress is not None:
                progress(answer)

    def _check(self, verb: Verb, reply: Reply) -> Reply:
        if reply.state is State.REFUSED:
            raise RefusedError(verb, reply.text)
        return reply

    def _send(self, verb: Verb, args: Args, dry_run: bool = False) -> int:
        self._last_id += 1
        line = encode(request_of(self._last_id, verb, args, dry_run=dry_run))
        try:
            self._connected().sendall(line)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise LostError(f"cannot send to the daemon on {self.path}: {error}") from None
            # The daemon hung up first; it may have said why: that is read next.
        return self._last_id

    def _receive(self) -> Reply | EventLine:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > LINE_MAX_BYTES:
                raise ProtocolError(f"the daemon sent a line of more than {LINE_MAX_BYTES} bytes")
            self._buffer += self._read()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return decode_answer(line)

    def _read(self) -> bytes:
        try:
            data = self._connected().recv(65536)
        except TimeoutError:
            raise SilentError(
                f"the daemon on {self.path} has been silent for {self._silence_s:g} s: "
                "it is frozen or overloaded"
            ) from None
        except OSError as error:
            raise LostError(f"lost the daemon on {self.path}: {error.strerror}") from None
        if not data:
            raise LostError(f"the daemon on {self.path} closed the connection without an answer")
        return data

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = self._connect()
        return self._socket

    def _connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        made.settimeout(CONNECT_MAX_S)
        try:
            made.connect(self.path)
        except OSError as error:
            made.close()
            raise NoDaemonError(self._why_not(error)) from None
        made.settimeout(self._silence_s)
        return made

    def _why_not(self, error: OSError) -> str:
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return (
                f"no daemon listens on {self.path}; start it (systemctl start mdclusterd), "
                f"or name its socket with --socket or {SOCKET_ENV}"
            )
        if isinstance(error, PermissionError):
            return f"no permission to connect to {self.path}; run this as root"
        if isinstance(error, TimeoutError | BlockingIOError):
            return f"the daemon on {self.path} takes no connections: it is frozen or overloaded"
        return f"cannot connect to {self.path}: {error.strerror or error}"
