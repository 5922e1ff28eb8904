"""Plays the scripts of `trace_script` on the kernel that this runs on: `... FILE [AFTER]`.

Each trace is appended to the file behind a line with its name. One that hangs is noted in a line
`#! ... hangs` and ends the recording, for nothing gets such an array out of a kernel: boot it
again and go on with those after it. In a guest, nowhere else.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, TextIO

from mdcluster.core.model import ArrayState
from tests.unit.md.trace_player import Line, Player, text_of
from tests.unit.md.trace_script import SCRIPTS, steps
from tests.vm.guest.kernel_lab import Disks, KernelLab

QUIET_S: Final = 0.25
"""The driver looks every 200 ms for what md does not tell."""
LOOK_S: Final = 0.02
LIMIT_S: Final = 120.0
"""For a whole script."""


class KernelBench(KernelLab):
    """The kernel's driver, as a bench for scripts."""

    async def restart(self, state: ArrayState) -> None:
        await self.driver.close()
        self.driver = self.new_driver()
        assert await self.driver.inherit([state]) == (state.uuid,)
        self.driver.listen(self)


async def _quiet(look: Callable[[], Line]) -> None:
    """Until nothing has changed for so long."""
    loop = asyncio.get_running_loop()
    before, since_s = look(), loop.time()
    while loop.time() < since_s + QUIET_S:
        await asyncio.sleep(LOOK_S)
        now = look()
        if now != before:
            before, since_s = now, loop.time()


async def _record(disks: Disks, script: str, out: TextIO) -> None:
    """TimeoutError if it hangs."""
    bench = KernelBench(disks)
    player = Player(bench)
    before: Line | None = None
    async with asyncio.timeout(LIMIT_S):
        for step in steps(script):
            line = await player.step(step, _quiet)
            print(text_of(line, before), file=out, flush=True)
            before = line
        await bench.close()


def main(target: str, after: str = "") -> None:
    """All scripts, or those after the one with this name."""
    names = list(SCRIPTS)
    with tempfile.TemporaryDirectory() as folder, open(target, "a") as out:
        disks = Disks(Path(folder))
        for name in names[names.index(after) + 1 if after else 0 :]:
            print(f"# {name}", file=out, flush=True)
            print(name, flush=True)
            try:
                asyncio.run(_record(disks, SCRIPTS[name], out))
            except TimeoutError:
                print(f"#! {name} hangs", file=out, flush=True)
                os._exit(1)
        disks.close()


if __name__ == "__main__" and "LAB_GUEST" in os.environ:
    main(*sys.argv[1:])
