"""What the runtime needs of the parts it puts together, as small Protocols."""

from collections.abc import Sequence
from typing import Protocol

from mdcluster.core.effects import (
    DropNonces,
    Effect,
    EraseSuperblock,
    Fence,
    PrepareDevices,
    ProbeMember,
    WriteNonces,
    WriteSuperblocks,
    ZeroSlot,
)
from mdcluster.core.events import (
    Erased,
    Event,
    Fenced,
    FenceWaits,
    NoncesWritten,
    Prepared,
    Probed,
    SlotZeroed,
    SuperblocksWritten,
)
from mdcluster.core.model import ArrayId, ArrayState
from mdcluster.md.plan import BeforeRun


class Core(Protocol):
    """The deciding part: :class:`mdcluster.core.node.Node`."""

    def start(self) -> list[Effect]: ...

    def step(self, event: Event, now_ms: int) -> list[Effect]: ...


class MemberPort(Protocol):
    """The members on this host, as far as their metadata goes. Each call makes its own event."""

    async def write_superblocks(self, effect: WriteSuperblocks) -> SuperblocksWritten: ...

    async def write_nonces(self, effect: WriteNonces) -> NoncesWritten: ...

    async def drop_nonces(self, effect: DropNonces) -> None: ...

    async def erase(self, effect: EraseSuperblock) -> Erased: ...

    async def prepare(self, effect: PrepareDevices) -> Prepared: ...

    async def probe(self, effect: ProbeMember) -> Probed: ...

    async def zero_slot(self, effect: ZeroSlot) -> SlotZeroed: ...

    def slot_offsets(self, array: ArrayId, slots: Sequence[int]) -> tuple[int, ...]:
        """Where these bitmap slots lie on each member of the array, in sectors."""


class Applier(Protocol):
    """Brings the local md to a committed state, or ends an array here."""

    async def apply(self, state: ArrayState, before_run: BeforeRun) -> None:
        """:class:`mdcluster.errors.MdclusterError` if something stands against it.

        before_run: called if it starts the array, before anybody can use it.
        """

    async def leave(self, array: ArrayId, *, force: bool) -> bool:
        """Stop the array; True if every write was finished on every member.

        Returns when nothing that was sent to a member can still land, however long that takes.
        Without force: :class:`mdcluster.md.driver.ArrayBusyError` while it is in use.
        """


class Fencing(Protocol):
    """The providers, in order: :class:`mdcluster.fence.chain.FenceChain`."""

    async def fence(self, ask: Fence) -> Fenced | FenceWaits: ...


class Feeder(Protocol):
    """This host's watchdog: :class:`mdcluster.fence.watchdog.Watchdog`."""

    def allow(self, until_ms: int) -> None: ...


class PeerMesh(Protocol):
    """The mesh, as far as messages go: :class:`mdcluster.mesh.mesh.Mesh`."""

    def send(self, node: str, payload: bytes) -> bool: ...

    def refuse_payload(self, node: str, why: str) -> None: ...
