"""This host's arrays and members, as the executor sees them: effects in, the core's events out.

Thin: what is decided is in :mod:`mdcluster.md.plan`, what is written in :mod:`mdcluster.members`.
"""

from collections.abc import Iterable, Sequence

from mdcluster.core.effects import (
    DropNonces,
    EraseSuperblock,
    PrepareDevices,
    ProbeMember,
    WriteNonces,
    WriteSuperblocks,
    ZeroSlot,
)
from mdcluster.core.events import (
    Erased,
    NoncesWritten,
    Prepared,
    Probed,
    SlotZeroed,
    SuperblocksWritten,
)
from mdcluster.core.model import ArrayId, ArrayState, Life
from mdcluster.errors import MdclusterError
from mdcluster.md.driver import DriverError, MdDriver
from mdcluster.md.plan import BeforeRun, carry_out, plan
from mdcluster.members import Members, MembersError


class LocalMembers:
    """The member effects; :class:`mdcluster.runtime.ports.MemberPort`."""

    def __init__(self, members: Members) -> None:
        self._members = members

    def _state(self, array: ArrayId) -> ArrayState:
        for state in self._members.arrays():
            if state.uuid == array:
                return state
        raise MembersError(f"array {array} is not known on this node")

    async def write_superblocks(self, effect: WriteSuperblocks) -> SuperblocksWritten:
        entry = effect.entry
        written, failed = await self._members.write_superblocks(entry, effect.projected)
        return SuperblocksWritten(ArrayId(entry.key), entry.stamp, written, failed)

    async def write_nonces(self, effect: WriteNonces) -> NoncesWritten:
        problem, nonces = await self._members.write_nonces(
            effect.op, effect.array, effect.members, effect.force, effect.adopt
        )
        return NoncesWritten(effect.op, problem, nonces)

    async def drop_nonces(self, effect: DropNonces) -> None:
        await self._members.drop_nonces(effect.op)

    async def erase(self, effect: EraseSuperblock) -> Erased:
        problem = await self._members.erase(effect.array, effect.device, effect.path, effect.force)
        return Erased(effect.op, problem)

    async def prepare(self, effect: PrepareDevices) -> Prepared:
        proved = await self._members.prepare(effect.claims)
        return Prepared(effect.op, proved.problem, proved.found, proved.missing)

    async def probe(self, effect: ProbeMember) -> Probed:
        try:
            problem = await self._members.probe(self._state(effect.array), effect.device)
        except MdclusterError as error:
            problem = str(error)
        return Probed(effect.op, problem)

    async def zero_slot(self, effect: ZeroSlot) -> SlotZeroed:
        try:
            problem = await self._members.zero_slot(self._state(effect.array), effect.index)
        except MdclusterError as error:
            problem = str(error)
        return SlotZeroed(effect.array, effect.life, problem)

    def slot_offsets(self, array: ArrayId, slots: Sequence[int]) -> tuple[int, ...]:
        state = self._state(array)
        return tuple(self._members.slot_offset_sectors(state, index) for index in slots)


class LocalArrays:
    """Brings the driver to committed states; :class:`mdcluster.runtime.ports.Applier`."""

    def __init__(
        self,
        me: Life,
        driver: MdDriver,
        members: Members,
        *,
        spectator: bool = False,
        known: Iterable[ArrayState] = (),
    ) -> None:
        """known: the arrays as persisted when this process began.

        A slot that one of them gives to this life may be in use, or have been, by an earlier
        process of it: its bits may be the only ones that tell what differs.
        """
        self._me = me
        self._driver = driver
        self._members = members
        self._spectator = spectator
        slots = ((state.uuid, state.slot_of(me)) for state in known)
        self._used_slots = {(array, slot.index) for array, slot in slots if slot is not None}

    async def apply(self, state: ArrayState, before_run: BeforeRun) -> None:
        """Once more, if need be: a plan carried out half goes on where it stopped."""
        here = state.uuid in self._driver.arrays()
        wanted = bool(state.running) if self._spectator else self._me in state.running
        paths = await self._members.paths_of(state) if wanted else {}
        slot_sectors = -1
        if wanted and not self._spectator and not here:
            slot_sectors = await self._own_slot(state)
        status = self._driver.status(state.uuid) if here else None
        steps = plan(
            status,
            state,
            self._me,
            paths,
            slot_offset_sectors=slot_sectors,
            spectator=self._spectator,
        )
        await carry_out(self._driver, steps, before_run)

    async def _own_slot(self, state: ArrayState) -> int:
        """Where our bitmap slot lies; emptied before this life uses it for the first time."""
        slot = state.slot_of(self._me)
        if slot is None:
            raise DriverError(f"array {state.name}: the commit lists no bitmap slot for this node")
        if (state.uuid, slot.index) not in self._used_slots:
            problem = await self._members.clear_own_slot(state, slot.index)
            if problem:
                raise DriverError(f"array {state.name}: bitmap slot {slot.index}: {problem}")
            self._used_slots.add((state.uuid, slot.index))
        return self._members.slot_offset_sectors(state, slot.index)

    async def leave(self, array: ArrayId, *, force: bool) -> bool:
        """Stop it; returns when nothing sent to its members can still land."""
        if array not in self._driver.arrays():
            return True
        return await self._driver.stop(array, force=force)
