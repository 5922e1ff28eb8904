"""Plays the scripts of `trace_script` on the kernel that this runs on: `... FILE [WORD]`.

Each trace is written to the file behind a line with its name. In a guest, nowhere else.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TextIO

from mdcluster.core.model import ArrayState
from tests.unit.md.port_suite import PATIENCE_S
from tests.unit.md.trace_player import Player, quiet_for
from tests.unit.md.trace_script import SCRIPTS, steps
from tests.vm.guest.kernel_lab import Disks, KernelLab

QUIET_S: Final = 0.25
"""The driver looks every 200 ms for what md does not tell."""
LOOK_S: Final = 0.02


class KernelBench(KernelLab):
    """The kernel's driver, as a bench for scripts."""

    async def restart(self, state: ArrayState) -> None:
        await self.driver.close()
        self.driver = self.new_driver()
        assert await self.driver.inherit([state]) == (state.uuid,)
        self.driver.listen(self)

    async def finished(self, call: "asyncio.Task[Any]") -> None:
        await asyncio.wait_for(asyncio.shield(call), PATIENCE_S)

    async def quiet(self, look: Callable[[], object]) -> None:
        await quiet_for(look, QUIET_S, LOOK_S)


async def _record(disks: Disks, script: str, out: TextIO) -> None:
    bench = KernelBench(disks)
    player = Player(bench)
    try:
        await player.play(steps(script))
    finally:
        for line in player.lines:
            print(line.json(), file=out)
        await bench.close()


def main(target: str, word: str = "") -> None:
    """All scripts, or those with the word in their names."""
    with tempfile.TemporaryDirectory() as folder, open(target, "w") as out:
        disks = Disks(Path(folder))
        for name, script in SCRIPTS.items():
            if word in name:
                print(f"# {name}", file=out)
                print(name, flush=True)
                asyncio.run(_record(disks, script, out))
        disks.close()


if __name__ == "__main__" and "LAB_GUEST" in os.environ:
    main(*sys.argv[1:])
