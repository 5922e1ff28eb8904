"""How an array comes from plain md, and goes back to it. Pure.

Rules of this file: what is adopted is a whole, consistent array that nobody runs; only an array
whose copies are known to be equal is released, since a plain superblock cannot say which chunks
are not; a released array only waits to be forgotten (docs/adr/0007).
"""

from collections.abc import Iterable
from dataclasses import replace

from mdcluster.core.geometry import needs_sync
from mdcluster.core.model import (
    ARRAYS_MAX,
    LOOKING,
    AdoptArray,
    ArrayChange,
    ArrayState,
    EndLife,
    FailMember,
    LeaveRunner,
    MemberState,
    ReleaseArray,
)
from mdcluster.core.statecheck import validate
from mdcluster.core.waits import Cause, Wait

EVENTS_MAX = 1 << 63
"""An adopted array's events leave this cluster as many terms as it can ever use."""

_WHILE_RELEASED = (ReleaseArray, FailMember, EndLife, LeaveRunner)


def adoption_problem(change: AdoptArray, others: Iterable[ArrayState]) -> str:
    """Why this plain array cannot become one of the cluster's ('' if it can)."""
    state, known = change.state, tuple(others)
    problems = validate(state)
    if problems or state.uuid != change.array or len(change.paths) != len(state.members):
        return f"cannot adopt it: {'; '.join(problems) or 'it is described wrongly'}"
    name = f"cannot adopt {state.name!r}"
    ran = state.running or state.slots or state.sync or state.released or not state.active
    if ran or state.shown_sectors is not None:
        return f"{name}: it is described as one that has run in a cluster"
    if not 0 <= change.events < EVENTS_MAX:
        return f"{name}: its event count {change.events} is implausible"
    if len(known) >= ARRAYS_MAX:
        return f"{name}: the cluster has {len(known)} arrays already, no more than {ARRAYS_MAX}"
    for other in known:
        if other.uuid == state.uuid:
            return f"{name}: an array with UUID {state.uuid} exists already"
        if other.name == state.name:
            return f"{name}: the name is taken by another array of this cluster; give --name"
        for member, path in zip(state.members, change.paths, strict=True):
            if other.member(member.device):
                return f"{name}: {path} is a member of array {other.name} already"
    return ""


def release(state: ArrayState, force: bool) -> ArrayState | str:
    """The state of the array given back, or why it cannot be; force: though it is degraded."""
    if state.released:
        return state
    refused = f"cannot release {state.name}"
    due = needs_sync(state)
    going = state.sync is not None and state.sync.kind not in LOOKING
    if due is not None or going:
        kind = state.sync.kind if state.sync is not None and going else due
        return (
            f"{refused}: its members are not known to be equal, {kind} has to finish first "
            f"(mdcadm --assemble {state.name} if it is stopped, then mdcadm --wait {state.name})"
        )
    if state.degraded and not force:
        return (
            f"{refused}: it is degraded, {state.degraded} of {state.raid_disks} members are "
            "missing; --add one and let it recover, or use --force"
        )
    return replace(
        state,
        active=False,
        running=(),
        slots=(),
        removed=(),
        released=True,
        sync=None,
        shown_sectors=None,
        readonly=False,
        paused_s=0,
    )


def release_refusal(state: ArrayState, change: ArrayChange) -> str:
    """Why a change of a released array is refused ('' if it is not released, or can be made)."""
    if not state.released or isinstance(change, _WHILE_RELEASED):
        return ""
    return f"{state.name} is being released: mdcadm --why tells what that waits for"


def waits_for_members(state: ArrayState) -> Wait:
    """What a release waits for while superblocks are not yet plain."""
    devices = tuple(m.device for m in state.members if m.state is not MemberState.FAULTY)
    return Wait(
        state.uuid,
        Cause.RELEASE,
        "is being released: the superblocks of its members become plain",
        devices,
        "all of them are written; one that is lost for good can be given up: mdcadm --fail",
    )
