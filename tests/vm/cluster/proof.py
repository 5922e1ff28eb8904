"""One array under clients on every guest, and what must be true of it at the end."""

import random
import time
from pathlib import Path

from mdcluster.control.errors import ControlError
from mdcluster.control.verbs import ReleaseArgs, Verb
from tests.blocks import Block, spread
from tests.cluster.images import fill_with_noise
from tests.vm.cluster.harness import VmCluster
from tests.vm.cluster.load import Load
from tests.vm.lab import Lab, LabError

ARRAY = "data"
BLOCKS = 600
WELL_S = 90.0


class Proof:
    """A cluster with the array `data` over d1 and d2; the other disks are free.

    It is used by one test after the other: `ready` mends what a test has left, or begins anew.
    """

    def __init__(self, lab: Lab, cluster: VmCluster, rng: random.Random) -> None:
        self.lab = lab
        self.cluster = cluster
        self.rng = rng
        self.names = [guest.name for guest in lab.guests]
        self.blocks: list[Block] = []
        self._contents = 0
        self._untouched = False

    # --- to begin with -----------------------------------------------------------------------

    def ready(self) -> None:
        """Every daemon runs the array, on two members; a new one has just begun its resync."""
        try:
            self._mend()
        except (AssertionError, LabError, ControlError, OSError):
            self._anew()

    def _mend(self) -> None:
        """AssertionError if it cannot be mended without losing anything."""
        cluster = self.cluster
        assert cluster.daemons, "not started yet"
        down = [n for n in self.names if n not in cluster.daemons or cluster.ended(n)]
        assert not down, f"daemons do not run: {down}"
        cluster.until_running(ARRAY, *self.names, limit_s=WELL_S)
        cluster.until_in_sync(limit_s=WELL_S)
        assert len(self.members()) == 2, "degraded"

    def _anew(self) -> None:
        if self._contents:
            self.lab.reset()
        self.cluster.forget()
        self.cluster.start_all()
        self._make()

    def fresh(self) -> None:
        """Another array over d1 and d2, which differ in every block; its resync begins."""
        cluster = self.cluster
        if self._untouched and cluster.detail().sync is not None:
            return
        cluster.until_in_sync()
        release = ReleaseArgs(cluster.proposal(), ARRAY, force=True)
        cluster.client(cluster.writer()).call(Verb.RELEASE, release)
        self._make()

    def in_sync(self) -> None:
        """Its first resync, if it was new, is done."""
        self._untouched = False
        self.cluster.until_in_sync()

    def _make(self) -> None:
        self._contents += 1
        for disk in ("d1", "d2"):
            self.noise(disk)
        self.cluster.create(ARRAY, "d1", "d2")
        size = self.cluster.detail().array_sectors
        self._untouched = True
        self.blocks = spread(BLOCKS, size // 8, len(self.names), seed=self._contents)

    def noise(self, disk: str) -> None:
        """It differs from any other disk in every block."""
        fill_with_noise(self.cluster.image(disk), self._contents)

    # --- meanwhile ---------------------------------------------------------------------------

    def load(self, pause_ms: int = 10, names: tuple[str, ...] = ()) -> Load:
        """Clients on all guests, or on these."""
        self._untouched = False
        known = f"/persist/known{self._contents}"
        return Load(self.lab.guests, self.blocks, known, f"/dev/md/{ARRAY}", pause_ms, names)

    def in_mid_resync(self) -> int:
        """Until the pass has come to a random place, which is returned, in sectors."""
        size = self.cluster.detail().size_sectors
        position = self.cluster.until_synced_to(self.rng.randrange(size // 10, size // 2))
        assert position < size, "it was over before"
        return position

    def a_while(self, low_s: float = 0.5, high_s: float = 3.0) -> None:
        """A random moment."""
        time.sleep(self.rng.uniform(low_s, high_s))

    def back(self, *names: str, load: Load) -> None:
        """These guests boot again, and run the array with new clients."""
        self.cluster.come_back(*names)
        running = [n for n in self.names if n in self.cluster.daemons]
        self.cluster.until_running(ARRAY, *running)
        for name in names:
            load.start(self.lab[name])

    def others(self, name: str) -> list[str]:
        return [one for one in self.names if one != name]

    def members(self) -> list[str]:
        """The disks that are in sync."""
        found = self.cluster.members(ARRAY)
        return sorted(disk for disk, state in found.items() if state == "in_sync")

    # --- in the end ----------------------------------------------------------------------------

    def verify(self, load: Load) -> int:
        """The members are the same, and hold all that was acknowledged on any guest."""
        images: list[Path] = [self.cluster.image(disk) for disk in self.members()]
        assert len(images) == 2, self.cluster.members()
        return load.verify(images)
