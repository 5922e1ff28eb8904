"""The members of all arrays, as the runtime sees them: one method for each effect.

Everything that touches a device runs in an expendable thread with a deadline; the event loop
never waits for a disk, and a slow device delays only what is asked of it. The answers hold what
went wrong as text, ready for the core's events; GateShutError shows only as "nothing was
written": the core asks again when it has a lease.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mdcluster.core.creation import erase_problem
from mdcluster.core.model import (
    ZERO,
    AdoptArray,
    ArrayId,
    ArrayState,
    Claim,
    ClusterState,
    DeviceId,
    Entry,
    Member,
    NewMember,
    NodeId,
    Stamp,
)
from mdcluster.core.timing import Timing
from mdcluster.errors import MdclusterError
from mdcluster.gate import Gate, GateShutError
from mdcluster.members.adoption import Plain, adoption, read_plain
from mdcluster.members.area import (
    Memo,
    Writing,
    check_writing,
    own_block,
    probe_member,
    release_member,
    write_member,
)
from mdcluster.members.erasing import erase
from mdcluster.members.errors import MembersError, NewerFoundError
from mdcluster.members.look import Look, hold
from mdcluster.members.nonceblock import NONCE_BYTES
from mdcluster.members.nonces import Marked, mark, objection, unmark
from mdcluster.members.projection import uuid_of
from mdcluster.members.registry import Registry
from mdcluster.members.slots import slot_offset_sectors, zero_slot
from mdcluster.workers import AccessLateError, Workers

log = logging.getLogger(__name__)

MARKED_OPS_MAX = 64
Written = tuple[tuple[DeviceId, ...], tuple[tuple[DeviceId, str], ...]]


@dataclass(frozen=True, slots=True)
class Proved:
    """The answer to claims: as the core's Prepared."""

    problem: str
    found: tuple[tuple[DeviceId, Stamp], ...] = ()
    missing: tuple[tuple[DeviceId, str], ...] = ()


class Members:
    """For one daemon and one event loop.

    patterns: Settings.driver.members. entries: the newest entries of this node by key, read
    whenever the cluster's identity or the other arrays matter.
    """

    def __init__(
        self,
        me: NodeId,
        gate: Gate,
        patterns: Iterable[str],
        timing: Timing,
        entries: Callable[[], Mapping[str, Entry]],
        now_s: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self._me = me
        self._gate = gate
        self._timing = timing
        self._entries = entries
        self._now_s = now_s
        self.workers = Workers()
        self.registry = Registry(patterns, self.workers, timing.probe_deadline_ms)
        self._memos: dict[DeviceId, Memo] = {}
        self._marked: dict[int, list[Marked]] = {}

    # --- what this node knows ---------------------------------------------------------------

    def _cluster(self) -> ClusterState:
        for entry in self._entries().values():
            if isinstance(entry.state, ClusterState):
                return entry.state
        raise MembersError("this cluster has no identity yet: no commit of its voters is known")

    def arrays(self) -> tuple[ArrayState, ...]:
        """The arrays of the cluster, as this node knows them."""
        states = (entry.state for entry in self._entries().values())
        return tuple(state for state in states if isinstance(state, ArrayState))

    def path_of(self, device: DeviceId) -> str | None:
        """Where the device is on this node, if it was seen."""
        return self.registry.path_of(device)

    async def paths_of(self, state: ArrayState) -> dict[DeviceId, str]:
        """For the driver's assemble: all members but the faulty that are to be found here."""
        for member in state.writable:
            self._let_go(state.uuid, member.device)  # committed by another writer, meanwhile
        if any(self.path_of(m.device) is None for m in state.writable):
            await self.registry.scan()
        paths = {m.device: self.path_of(m.device) for m in state.writable}
        return {device: path for device, path in paths.items() if path is not None}

    @property
    def paths(self) -> dict[DeviceId, str]:
        """Where each device was seen last."""
        return self.registry.paths

    async def look(self, paths: Iterable[str]) -> dict[str, Look]:
        """What stands on these devices now, read-only; what is wrong with one is in its Look."""
        names = tuple(dict.fromkeys(paths))
        return dict(zip(names, await self.registry.look_all(names), strict=True))

    async def present(self) -> dict[DeviceId, str]:
        """Every device that shows itself on this node right now, clones left out."""
        places = [one.device for one in await self.registry.scan() if one.device is not None]
        known = self.registry.paths
        return {device: known[device] for device in places if device in known}

    def slot_offset_sectors(self, state: ArrayState, index: int) -> int:
        """Where a bitmap slot begins on each member; MembersError if it does not exist."""
        return slot_offset_sectors(state, index)

    # --- WriteSuperblocks -------------------------------------------------------------------

    async def write_superblocks(self, entry: Entry, projected: Stamp = ZERO) -> Written:
        """Own ring record, then superblock, on all members but the faulty: written, failed.

        A member in sync that shows nothing as new as `projected` is an old copy, and fails.

        Both are empty if the gate is shut, or if this node must not or cannot write whatever
        the member: nothing may be said of any member then.
        """
        state = entry.state
        if not isinstance(state, ArrayState):
            return (), ()
        try:
            writing = Writing(entry, state, self._cluster(), self._me, self._now_s(), projected)
            check_writing(writing)
        except MdclusterError as error:
            log.error("array %s: commit not written to its members: %s", state.name, error)
            return (), ()
        answers = await asyncio.gather(*(self._write_one(m, writing) for m in state.writable))
        pairs = list(zip(state.writable, answers, strict=True))
        if any(answer is None for answer in answers):
            return (), ()
        written = tuple(member.device for member, why in pairs if not why)
        return written, tuple((member.device, why) for member, why in pairs if why)

    async def _write_one(self, member: Member, writing: Writing) -> str | None:
        """'' if written, why not, or None if the gate did not let it through."""
        device = member.device
        memo = self._memos.pop(device, None)
        deadline_ms, check = self._timing.write_deadline_ms, self._gate.check
        try:
            path = await self.registry.find(device)
            if writing.state.released:
                call = partial(release_member, path, member, writing, check)
                await self.workers.run(path, deadline_ms, call)
            else:
                held = self._held(writing.state.uuid, device) is not None
                write = partial(write_member, path, member, writing, memo, check, held=held)
                self._memos[device] = await self.workers.run(path, deadline_ms, write)
        except GateShutError:
            return None
        except NewerFoundError as error:
            log.error("array %s: not written: %s", writing.state.name, error)
            return None
        except AccessLateError as error:
            return str(error)
        except MdclusterError as error:
            self.registry.forget(device)  # looked for again, should it have moved
            return str(error)
        finally:
            self._let_go(writing.state.uuid, device)  # or our own md could not take it
        self._settled(writing.state.uuid, device)
        return ""

    def _held(self, array: ArrayId, device: DeviceId) -> Marked | None:
        """The mark on this device, by which it is kept from stock md on this host."""
        marks = (one for marked in self._marked.values() for one in marked)
        ids = array, device
        return next((m for m in marks if (str(m.nonce.array), str(m.nonce.device)) == ids), None)

    def _let_go(self, array: ArrayId, device: DeviceId) -> None:
        if one := self._held(array, device):
            one.hold.release()

    def _settled(self, array: ArrayId, device: DeviceId) -> None:
        """The device has a superblock: nothing is put back there any more."""
        if settled := self._held(array, device):
            for op, marked in list(self._marked.items()):
                self._marked[op] = [one for one in marked if one is not settled]
                if not self._marked[op]:
                    del self._marked[op]

    # --- adoption ---------------------------------------------------------------------------

    async def adoption(self, paths: Sequence[str], name: str | None, force: bool) -> AdoptArray:
        """The change that takes these plain members in; MdclusterError if it cannot be made."""
        deadline_ms = self._timing.probe_deadline_ms
        calls = (
            self.workers.run(path, deadline_ms, partial(read_plain, path, force)) for path in paths
        )
        found = await asyncio.gather(*calls, return_exceptions=True)
        for error in found:
            if isinstance(error, BaseException):
                raise error
        return adoption([one for one in found if isinstance(one, Plain)], name)

    async def _adopted_otherwise(self, adopt: AdoptArray, force: bool) -> str:
        """Why these members are not, or not any more, what the change says ('' if they are)."""
        try:
            found = await self.adoption(adopt.paths, adopt.state.name, force)
        except MdclusterError as error:
            return str(error)
        if found == adopt:
            return ""
        return f"{adopt.state.name}: its members have changed since, or differ here; try again"

    # --- WriteNonces, DropNonces ------------------------------------------------------------

    async def write_nonces(
        self,
        op: int,
        array: ArrayId,
        members: Sequence[NewMember],
        force: bool,
        adopt: AdoptArray | None = None,
    ) -> tuple[str, tuple[tuple[DeviceId, bytes], ...]]:
        """Why the devices cannot be taken, or '' and the nonce written to each."""
        if adopt is not None:
            problem = await self._adopted_otherwise(adopt, force)
        else:
            looks = await self.registry.look_all(m.path for m in members)
            problem = objection(array, members, looks, self.arrays(), force)
        if problem:
            return problem, ()
        answers = await asyncio.gather(*(self._mark(array, m) for m in members))
        marked = [answer for answer in answers if isinstance(answer, Marked)]
        problems = [answer for answer in answers if isinstance(answer, str)]
        if problems:
            await self._unmark(marked)
            return problems[0], ()
        while len(self._marked) >= MARKED_OPS_MAX:
            for one in self._marked.pop(next(iter(self._marked))):
                one.hold.release()
        self._marked[op] = marked
        values = tuple((m.device, one.nonce.value) for m, one in zip(members, marked, strict=True))
        return "", values

    async def _mark(self, array: ArrayId, member: NewMember) -> Marked | str:
        value = secrets.token_bytes(NONCE_BYTES)
        call = partial(mark, member.path, array, member, value, self._gate.check)
        try:
            marked = await self.workers.run(member.path, self._timing.write_deadline_ms, call)
        except MdclusterError as error:
            return str(error)
        self._memos.pop(member.device, None)
        self.registry.remember(member.device, member.path)
        return marked

    async def drop_nonces(self, op: int) -> str:
        """Put back what stood there; '' or why that was not possible everywhere."""
        return await self._unmark(self._marked.pop(op, []))

    async def _unmark(self, marked: Sequence[Marked]) -> str:
        check, deadline_ms = self._gate.check, self._timing.write_deadline_ms
        calls = (self._say(one.path, deadline_ms, partial(unmark, one, check)) for one in marked)
        problems = [why for why in await asyncio.gather(*calls) if why]
        for one in marked:
            self.registry.forget(DeviceId(str(one.nonce.device)))
        return "; ".join(problems)

    async def _say(self, path: str, deadline_ms: int, call: Callable[[], None]) -> str:
        """'' if it went well, why not otherwise."""
        try:
            await self.workers.run(path, deadline_ms, call)
        except MdclusterError as error:
            return str(error)
        return ""

    # --- EraseSuperblock --------------------------------------------------------------------

    async def erase(self, array: ArrayId, device: DeviceId, path: str, force: bool) -> str:
        """Take md's superblocks and the cluster's blocks off it: '' or why not.

        path: where it was named. force: although it is another cluster's.
        """
        looks = await self.registry.scan([path])
        seen = [one for one in looks if one.left_by == (array, device)]
        if len(seen) != 1:
            found = " and ".join(one.path for one in seen) or f"none of {len(looks)} devices"
            return f"{path}: {found} of the writer's node is the device of that superblock"
        if why := self._not_to_erase(seen[0], array, device, force):
            return why
        call = partial(erase, seen[0], self._gate.check)
        why = await self._say(seen[0].path, self._timing.write_deadline_ms, call)
        self._memos.pop(device, None)
        self.registry.forget(device)
        return why

    def _not_to_erase(self, seen: Look, array: ArrayId, device: DeviceId, force: bool) -> str:
        marks = [one.nonce for marked in self._marked.values() for one in marked]
        if seen.nonce in marks:
            return f"{seen.path} is just being taken into an array"
        known = self.arrays()
        if problem := erase_problem(device, seen.path, known):
            return problem
        header = seen.header
        ours = any(state.uuid == array for state in known)
        ours |= header is not None and str(header.cluster_uuid) == self._cluster_uuid()
        if ours or force:
            return ""
        owner = f"cluster {header.cluster_name}" if header is not None else "a cluster unknown here"
        return f"{seen.path} belongs to {owner}; --force if that is no more"

    # --- PrepareDevices ---------------------------------------------------------------------

    async def prepare(self, claims: Sequence[Claim]) -> Proved:
        """Find and prove devices: by the nonce, or (empty nonce) by the UUID in the superblock.

        found: with the stamp of the superblock, ZERO for one proved by its nonce. problem: a
        device is there twice, so that none of them may be used.
        """
        for claim in claims:
            if claim.path:
                self.registry.hint(claim.device, claim.path)
        looks = await self.registry.scan([claim.path for claim in claims if claim.path])
        found: list[tuple[DeviceId, Stamp]] = []
        missing: list[tuple[DeviceId, str]] = []
        for claim in claims:
            seen = [one for one in looks if _shows(one, claim)]
            if len(seen) > 1:
                return Proved(_twice(claim, seen))
            if not seen:
                self.registry.forget(claim.device)
                missing.append((claim.device, self._why_missing(claim, looks)))
                continue
            self.registry.remember(claim.device, seen[0].path, seen[0].identity)
            if why := self._foreign(seen[0], claim) or await self._assembled(seen[0], claim):
                missing.append((claim.device, why))
            else:
                found.append((claim.device, (not claim.nonce and seen[0].stamp) or ZERO))
        return Proved("", tuple(found), tuple(missing))

    async def _assembled(self, seen: Look, claim: Claim) -> str:
        """A plain member that is to be adopted must not be in use on this host."""
        superblock = seen.superblock if claim.nonce else None
        if superblock is None or superblock.guarded or seen.device != claim.device:
            return ""
        if (mark := self._held(ArrayId(str(superblock.set_uuid)), claim.device)) is not None:
            return "" if mark.nonce.value == claim.nonce else f"{seen.path} is claimed already"
        try:
            call = partial(_try_hold, seen.path)
            await self.workers.run(seen.path, self._timing.probe_deadline_ms, call)
        except MdclusterError as error:
            return f"{error}; stop the array first (mdadm --stop)"
        return ""

    def _foreign(self, seen: Look, claim: Claim) -> str:
        """A stamp counts only under the cluster's own UUID; a nonce says: it is taken over."""
        ours = self._cluster_uuid()
        if (
            claim.nonce
            or seen.header is None
            or ours is None
            or str(seen.header.cluster_uuid) == ours
        ):
            return ""
        return f"{seen.path} belongs to cluster {seen.header.cluster_name}, not to this one"

    def _cluster_uuid(self) -> str | None:
        try:
            return str(uuid_of(self._cluster().uuid, "cluster"))
        except MembersError:
            return None

    def _why_missing(self, claim: Claim, looks: Sequence[Look]) -> str:
        hinted = next((one for one in looks if one.path == claim.path), None)
        if hinted is not None and hinted.problem:
            return hinted.problem
        what = "the nonce that the writer wrote to it" if claim.nonce else "a superblock of it"
        where = f" (it is {claim.path} where it was named)" if claim.path else ""
        return f"none of {len(looks)} devices here shows {what}{where}"

    # --- bitmap slots -----------------------------------------------------------------------

    async def zero_slot(self, state: ArrayState, index: int) -> str:
        """Zero a dead life's slot on all members but the faulty, gated: '' or why not."""
        return await self._zero(state, index, self._gate.check)

    async def clear_own_slot(self, state: ArrayState, index: int) -> str:
        """Zero the slot newly given to this life, before the array is assembled: '' or why not.

        The slot is this life's own, so the gate is not asked. Never for an array that this life
        has run already: its bits are what a resync after its death lives on.
        """
        return await self._zero(state, index, own_block)

    async def _zero(self, state: ArrayState, index: int, check: Callable[[], None]) -> str:
        answers = await asyncio.gather(
            *(self._zero_one(state, m, index, check) for m in state.writable)
        )
        return "; ".join(why for why in answers if why)

    async def _zero_one(
        self, state: ArrayState, member: Member, index: int, check: Callable[[], None]
    ) -> str:
        try:
            path = await self.registry.find(member.device)
        except MembersError as error:
            return str(error)
        call = partial(zero_slot, path, state, member, index, check)
        return await self._say(path, self._timing.write_deadline_ms, call)

    # --- ProbeMember ------------------------------------------------------------------------

    async def probe(self, state: ArrayState, device: DeviceId) -> str:
        """Can this node write and read the member? '' or why not."""
        try:
            path = await self.registry.find(device)
            ids = uuid_of(state.uuid, "array"), uuid_of(device, "device"), uuid_of(self._me, "node")
            call = partial(probe_member, path, *ids)
            return await self.workers.run(path, self._timing.probe_deadline_ms, call)
        except MdclusterError as error:
            return str(error)


def _try_hold(path: str) -> None:
    hold(path).release()


def _shows(seen: Look, claim: Claim) -> bool:
    if not claim.nonce:
        return seen.device == claim.device
    nonce = seen.nonce
    return nonce is not None and (str(nonce.device), nonce.value) == (claim.device, claim.nonce)


def _twice(claim: Claim, seen: Sequence[Look]) -> str:
    what = "the nonce" if claim.nonce else "the UUID"
    return (
        f"{seen[0].path} and {seen[1].path} both show {what} of device {claim.device}: one is a "
        "clone of the other; take it away or wipe it"
    )
