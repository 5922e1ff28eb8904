"""Runs a foreign program with bounds: what it writes, how long, and all that it started."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

INPUT_MAX = 4096
"""PIPE_BUF: as much goes into a pipe at once, without anybody reading it."""
OUTPUT_MAX = 64 * 1024
TOLD_MAX = 300
TERM_S = 1.0
"""From SIGTERM to SIGKILL, and from that to giving up: one that hangs in the kernel stays."""
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """code: the exit code, or None if it was killed. told: how it ended, in one line."""

    code: int | None
    told: str


async def run_bounded(command: Path, given: bytes, deadline_s: float) -> Outcome:
    """Run a program with `given` on its standard input, at most INPUT_MAX bytes.

    One that writes more than OUTPUT_MAX, or has not ended by its deadline (or when the caller is
    cancelled), is killed with all of its process group.

    Raises:
        OSError: it cannot be started.
    """
    source, (output, sink) = _filled_pipe(given), os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            command,
            stdin=source,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
            cwd="/",
            env=ENVIRONMENT,
        )
    except BaseException:
        os.close(output)
        raise
    finally:
        os.close(source)
        os.close(sink)
    # Pipes of our own: with asyncio's, wait() would also wait for whoever inherited them.
    reader = _Reader(output, lambda: _signal(process.pid, signal.SIGKILL))
    try:
        async with asyncio.timeout(deadline_s):
            await process.wait()
    except TimeoutError:
        return Outcome(None, f"no end within {deadline_s:g} s, killed{reader.quoted()}")
    finally:
        await _end(process)
        reader.close()
    if reader.flooded:
        return Outcome(None, f"more than {OUTPUT_MAX} bytes of output, killed")
    code = process.returncode
    if code is None or code < 0:
        return Outcome(None, f"killed by signal {-(code or 0)}{reader.quoted()}")
    return Outcome(code, f"exit code {code}{reader.quoted()}")


def _filled_pipe(given: bytes) -> int:
    if len(given) > INPUT_MAX:
        raise ValueError(f"{len(given)} bytes of options, more than {INPUT_MAX}")
    source, sink = os.pipe()
    os.write(sink, given)
    os.close(sink)
    return source


async def _end(process: asyncio.subprocess.Process) -> None:
    """Nothing if it has ended by itself; else its whole group, the first of it gone or not."""
    if process.returncode is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        _signal(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TERM_S):
                await process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # nobody is left of it
        os.killpg(group, number)


class _Reader:
    """Reads what a program writes, and has it killed when that is too much."""

    def __init__(self, fd: int, kill: Callable[[], None]) -> None:
        self._fd = fd
        self._kill = kill
        self._data = b""
        self.flooded = False
        self._loop = asyncio.get_running_loop()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._on_readable)

    def _on_readable(self) -> None:
        try:
            data = os.read(self._fd, 4096)
        except BlockingIOError:
            return
        self._data += data
        self.flooded = len(self._data) > OUTPUT_MAX
        if self.flooded:
            self._kill()
        if self.flooded or not data:
            self._loop.remove_reader(self._fd)

    def close(self) -> None:
        if not self.flooded:
            self._on_readable()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def quoted(self) -> str:
        """Its last line, printable and not too long."""
        lines = self._data.decode("utf-8", "replace").split("\n")
        text = next((line.strip() for line in reversed(lines) if line.strip()), "")
        shown = "".join(c if c.isprintable() else "?" for c in text[:TOLD_MAX])
        return f" ({shown})" if shown else ""
