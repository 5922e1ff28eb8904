"""How ``--wait`` shows a pass: a bar on a terminal, plain lines in a pipe."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from mdcluster.control.arrays import SyncInfo

from .mdstat import sync_line
from .output import Output

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


REFRESH_HZ = 2
"""It is sent anew each time, whether it has moved or not."""


class Progress(Protocol):
    """Shows how far a pass is; ``close`` leaves the terminal as it was."""

    def show(self, sync: SyncInfo | None, text: str) -> None: ...

    def close(self) -> None: ...


class Lines:
    """One line when the reason changes, and for each tenth that is done."""

    STEP_PERCENT = 10

    def __init__(self, device: str, output: Output) -> None:
        self._device = device
        self._output = output
        self._last: tuple[str, int] | None = None

    def show(self, sync: SyncInfo | None, text: str) -> None:
        percent = _percent(sync)
        place = (str(sync and (sync.kind, sync.state)) + text, int(percent // self.STEP_PERCENT))
        if place == self._last:
            return
        self._last = place
        what = sync_line(sync).strip() if sync is not None else text or "waiting"
        self._output.say(f"{self._device}: {what}")

    def close(self) -> None:
        """Nothing to put back."""


class Bar:
    """A bar that moves (rich), on stderr so that stdout stays what was asked for."""

    def __init__(self, device: str) -> None:
        from rich.console import Console  # noqa: PLC0415  slow to import, only for this
        from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

        self._device = device
        self._bar: RichProgress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>5.1f}%  {task.fields[rest]}"),
            console=Console(stderr=True),
            transient=True,
            refresh_per_second=REFRESH_HZ,
        )
        self._task: TaskID = self._bar.add_task(device, total=100.0, rest="")
        self._bar.start()

    def show(self, sync: SyncInfo | None, text: str) -> None:
        if sync is None:
            self._bar.update(self._task, rest=text)
            return
        eta = "" if sync.eta_s is None else f"  {sync.eta_s // 60}:{sync.eta_s % 60:02d} left"
        rest = f"{sync.speed_kib} KiB/s{eta}" if sync.state == "running" else sync.state
        self._bar.update(
            self._task,
            completed=_percent(sync),
            description=f"{self._device} {sync.kind}",
            rest=rest,
        )

    def close(self) -> None:
        self._bar.stop()


def make_progress(device: str, output: Output) -> Progress:
    """A bar where both ends are a terminal that can draw one; lines elsewhere and with --quiet."""
    drawn = output.terminal and output.err.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if drawn and not output.quiet:
        return Bar(device)
    return Lines(device, output)


def _percent(sync: SyncInfo | None) -> float:
    if sync is None:
        return 0.0
    return min(100.0, 100.0 * sync.position_sectors / max(sync.end_sectors, 1))
