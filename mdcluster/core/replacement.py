"""A spare that takes over the role of a member which stays in use meanwhile: --replace. Pure.

Rules of this file (as md's want_replacement):

* The replacement has the role of the member it replaces, as RECOVERING: written everywhere, read
  nowhere, filled by the same passes as any other. The array is not degraded by it.
* In the commit that takes it in, the member it replaces becomes faulty.
* If that one fails before, the replacement goes on as what recovers the role. If the replacement
  fails, nothing has changed for the other.
"""

from dataclasses import replace

from mdcluster.core.model import ArrayState, Member, MemberState, ReplaceMember


def replacement_for(state: ArrayState, change: ReplaceMember) -> Member | str:
    """The spare as it is to be from now on (or is already), or why there is none."""
    refused = f"{state.name}: cannot replace {change.device}"
    old = state.member(change.device)
    if old is None:
        return f"{refused}: No such device in this array"
    if old.state is not MemberState.IN_SYNC:
        return f"{refused}: it is {old.state}, only a member in sync can be replaced"
    present = _replacement_at(state, old.role)
    if present is not None:
        if change.by in (None, present.device):
            return present
        return f"{refused}: {present.device} replaces it already; --fail that one first"
    spares = [m for m in state.members if m.state is MemberState.SPARE]
    if change.by is not None:
        spares = [m for m in spares if m.device == change.by]
    if not spares:
        what = "there is no spare" if change.by is None else f"{change.by} is no spare of it"
        return f"{refused}: {what}; --add one first"
    new = min(spares, key=lambda m: m.number)
    return replace(new, role=old.role, state=MemberState.RECOVERING, replacement=True)


def _replacement_at(state: ArrayState, role: int) -> Member | None:
    return next((m for m in state.members if m.replacement and m.role == role), None)


def inherit(state: ArrayState, gone: Member) -> ArrayState:
    """A member in sync is gone: what was to replace it recovers its role."""
    heir = _replacement_at(state, gone.role)
    return state if heir is None else _swap(state, heir, replace(heir, replacement=False))


def retire(state: ArrayState, new: Member) -> ArrayState:
    """The replacement is complete: the member it replaces is faulty."""
    old = next(m for m in state.in_sync if m.role == new.role)
    return _swap(state, old, replace(old, role=-1, state=MemberState.FAULTY))


def _swap(state: ArrayState, old: Member, new: Member) -> ArrayState:
    return replace(state, members=tuple(new if m is old else m for m in state.members))


def replacement_problem(state: ArrayState, member: Member) -> str:
    """Why this member cannot be a replacement as it stands there ('' if it can)."""
    if member.state is not MemberState.RECOVERING or member.by_bitmap:
        return f"a replacement that is {member.state}"
    same = [m for m in state.members if m.role == member.role and m is not member]
    if [m.state for m in same] != [MemberState.IN_SYNC]:
        return f"replaces nobody in sync with role {member.role}"
    return ""
