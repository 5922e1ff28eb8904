"""A terminal for tests: a program runs on it, what it shows is read, keys are pressed."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final

LIMIT_S: Final = 20.0
_PART: Final = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


class Terminal:
    """`sent`: all bytes so far. The program is killed at the end, if it still runs."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        columns: int = 80,
        rows: int = 24,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.sent = b""
        self._code: int | None = None
        self.columns, self.rows = columns, rows
        around = {**os.environ, "TERM": "xterm-256color", **(env or {})}
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            self._resize(0)
            os.execvpe(command[0], list(command), around)
        self.mode = termios.tcgetattr(self._fd)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)

    def resize(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self._resize(self._fd)

    def _resize(self, fd: int) -> None:
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", self.rows, self.columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self._fd, keys)

    def hang_up(self) -> None:
        """Close it: the program gets SIGHUP, and errors from then on."""
        os.close(self._fd)
        self._fd = os.open(os.devnull, os.O_RDONLY)

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self._fd)

    def until(self, wanted: Callable[[str], bool], limit_s: float = LIMIT_S) -> str:
        """The screen, once it is as wanted."""
        end_s = time.monotonic() + limit_s
        while not wanted(self.screen()):
            if not self._read(end_s):
                raise AssertionError(f"not shown in time or at all:\n{self.screen()}")
        return self.screen()

    def until_sent(self, text: bytes, limit_s: float = LIMIT_S) -> None:
        end_s = time.monotonic() + limit_s
        while text not in self.sent:
            assert self._read(end_s), f"{text!r} was not sent: {self.sent!r}"

    def until_again(self, text: bytes) -> None:
        """Until it is sent from now on."""
        before = len(self.sent)
        self.until(lambda _: text in self.sent[before:])

    def end(self, limit_s: float = LIMIT_S) -> int:
        """The exit code, once the program has ended and all of it was read."""
        end_s = time.monotonic() + limit_s
        while self._read(end_s):
            pass
        assert time.monotonic() < end_s, f"it goes on:\n{self.screen()}"
        _, status = os.waitpid(self.pid, 0)
        self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def _read(self, end_s: float) -> bool:
        """False at the end of time, or of the program."""
        if not select.select([self._fd], [], [], max(end_s - time.monotonic(), 0))[0]:
            return False
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: nobody has the other end any more
            return False
        self.sent += data
        return bool(data)

    def screen(self) -> str:
        """The window as it is now, without blanks at the ends of lines; lines that scrolled
        out of it are not kept."""
        rows = [""] * self.rows
        row = column = 0
        for mode, digits, letter, move, text in _PART.findall(self.sent.decode(errors="replace")):
            if move:
                column = 0
                row += move == "\n"
            elif text:
                line = rows[row].ljust(column)
                rows[row] = line[:column] + text + line[column + len(text) :]
                column += len(text)
            elif letter == "H":
                at = [int(part) for part in digits.split(";") if part] or [1, 1]
                row, column = at[0] - 1, at[-1] - 1
            elif letter == "K":
                rows[row] = "" if digits == "2" else rows[row][:column]
            elif letter == "A":
                row -= int(digits or 1)
            elif letter == "J" or (mode and digits == "1049"):
                rows = [""] * self.rows
            while row >= self.rows:
                rows, row = [*rows[1:], ""], row - 1
        return "\n".join(line.rstrip() for line in rows)
