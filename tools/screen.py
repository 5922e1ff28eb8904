"""A terminal as a window of lines: only those that changed are written again.

rich's Live writes all of them each time; over a slow line that is felt.
"""

from __future__ import annotations

import os
import termios
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, TextIO

from rich.console import Console
from rich.text import Text

_END: Final = (b"q", b"Q", b"\x03", b"\x04")
_LOCAL_FLAGS: Final = 3
_CHARACTERS: Final = 6


class Screen:
    """Takes the terminal while it is entered; it is as before afterwards, whatever happened.

    keys: where they come from; not used if it is no terminal.
    """

    def __init__(self, out: TextIO, keys: TextIO) -> None:
        self._console = Console(file=out, highlight=False, markup=False, emoji=False)
        self._out = out
        self._keys = keys if keys.isatty() else None
        self._before: list[Any] = []
        self._shown: list[str] = []
        self._size = (0, 0)

    def __enter__(self) -> Screen:
        if self._keys is not None:
            self._before = termios.tcgetattr(self._keys)
            mode = termios.tcgetattr(self._keys)
            mode[_LOCAL_FLAGS] &= ~(termios.ICANON | termios.ECHO)
            mode[_CHARACTERS][termios.VSUSP] = b"\0"  # stopped, it would leave the terminal so
            termios.tcsetattr(self._keys, termios.TCSADRAIN, mode)
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)
        self._out.flush()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # hung up: there is nothing to put back
            self._console.show_cursor(True)
            self._console.set_alt_screen(False)
            self._out.flush()
        if self._keys is not None:
            with suppress(termios.error):
                termios.tcsetattr(self._keys, termios.TCSADRAIN, self._before)

    @property
    def inputs(self) -> list[TextIO]:
        """For select: readable when a key was pressed."""
        return [] if self._keys is None else [self._keys]

    def ended(self) -> bool:
        """After `inputs` became readable: whether a key that ends it was pressed."""
        assert self._keys is not None
        try:
            pressed = os.read(self._keys.fileno(), 256)
        except OSError:
            return True
        return not pressed or any(key in pressed for key in _END)

    def size(self) -> tuple[int, int]:
        """Columns and lines, as they are now."""
        try:
            size = os.get_terminal_size(self._out.fileno())
        except (OSError, ValueError):
            return 80, 24
        return size.columns or 80, size.lines or 24

    def draw(self, lines: Sequence[Text], size: tuple[int, int]) -> None:
        """Show these lines, made for a window of this size."""
        columns, rows = size
        made = [self._made(line, columns) for line in lines]
        made += ["\x1b[K"] * (rows - len(made))
        begin = ""
        if size != self._size:
            self._size, self._shown, begin = size, ["\x1b[K"] * rows, "\x1b[2J"
        changed = [
            f"\x1b[{row};1H{line}"
            for row, (line, old) in enumerate(zip(made, self._shown, strict=True), 1)
            if line != old
        ]
        self._shown = made
        if begin or changed:
            self._out.write(begin + "".join(changed))
            self._out.flush()

    def _made(self, line: Text, columns: int) -> str:
        """The rest of the row is wiped; not behind its last cell, where the cursor still is."""
        with self._console.capture() as capture:
            self._console.print(line, end="", no_wrap=True, overflow="ignore", crop=False)
        return capture.get() + ("\x1b[K" if line.cell_len < columns else "")
