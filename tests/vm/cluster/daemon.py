"""`mdclusterd` for the proofs: the shipped one, but it holds nothing while a file says so.

    python -m tests.vm.cluster.daemon

Only the control run makes that file: where ranges are not held, blocks must differ in the end.
"""

import sys
from pathlib import Path

from mdcluster.core.model import ArrayId
from mdcluster.daemon import main
from mdcluster.md.kernel import KernelDriver

NO_HOLDS = Path("/run/lab/no-holds")
_HOLD = KernelDriver.hold


async def hold_unless_told(
    self: KernelDriver, array: ArrayId, lo_sectors: int, hi_sectors: int
) -> None:
    if NO_HOLDS.exists():
        lo_sectors = hi_sectors = 0
    await _HOLD(self, array, lo_sectors, hi_sectors)


if __name__ == "__main__":
    setattr(KernelDriver, "hold", hold_unless_told)  # noqa: B010
    sys.exit(main.main())
