"""What differs between two states of an entry, in words. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from mdcluster.core.model import (
    ArrayState,
    ClusterState,
    DeviceId,
    Life,
    Member,
    MemberState,
    NodeId,
)
from mdcluster.metadata.superblock import SECTOR

Figure = Callable[[ArrayState], object]


@dataclass(frozen=True, slots=True)
class Names:
    """How nodes and devices are called. paths: of those that are seen here."""

    writer: str
    nodes: Mapping[NodeId, str]
    paths: Mapping[DeviceId, str]
    voters: tuple[str, ...]

    def node(self, life: Life) -> str:
        return self.nodes.get(life.node, life.node)

    def device(self, device: DeviceId) -> str:
        path = self.paths.get(device)
        return f"{path} ({device})" if path else str(device)


def differences(
    before: ArrayState | ClusterState | None,
    after: ArrayState | ClusterState,
    names: Names,
    *,
    checkpoints: bool = True,
) -> Iterator[str]:
    """A line for each thing that differs. checkpoints: also how far a resync has come."""
    if isinstance(after, ClusterState):
        old = before.voters if isinstance(before, ClusterState) else ()
        for voter in sorted(set(old) ^ set(after.voters), key=lambda v: (v.name, v.node or "")):
            now = "is" if voter in after.voters else "is no more"
            yield f"voter {voter.name} {now} {names.nodes.get(voter.node or NodeId(''), 'unbound')}"
        return
    assert before is None or isinstance(before, ArrayState)
    if before is None:
        yield f"new array {after.name}: raid{after.level}, {after.raid_disks} raid devices"
    known = {m.device: m for m in before.members} if before else {}
    for member in after.members:
        old_word, new_word = _member(known.pop(member.device, None)), _member(member)
        if old_word != new_word:
            yield f"{names.device(member.device)}: {old_word} -> {new_word}"
    for gone in known.values():
        yield f"{names.device(gone.device)}: {_member(gone)} -> not a member"
    yield from _array_differences(before, after, names)
    if checkpoints:
        yield from _figure("equal up to", _equal_up_to, before, after)


def _member(member: Member | None) -> str:
    if member is None:
        return "not a member"
    word = "in sync" if member.state is MemberState.IN_SYNC else str(member.state.value)
    return f"{word}, role {member.role}" if member.role >= 0 else word


def _array_differences(before: ArrayState | None, after: ArrayState, names: Names) -> Iterator[str]:
    figures: dict[str, Figure] = {
        "raid devices": lambda s: s.raid_disks,
        "used of each member": lambda s: f"{s.size_sectors * SECTOR // 1024}K",
        "state": lambda s: "released" if s.released else "started" if s.active else "stopped",
        "runs on": lambda s: ", ".join(sorted(map(names.node, s.running))) or "no node",
        "writable": lambda s: "no" if s.readonly else "yes",
        "paused": lambda s: "yes" if s.paused_s else "no",
        "pass": lambda s: s.sync.kind.value if s.sync else "none",
    }
    for what, figure in figures.items():
        yield from _figure(what, figure, before, after)


def _equal_up_to(state: ArrayState) -> object:
    return "the end" if state.resync_sectors is None else f"{state.resync_sectors}"


def _figure(
    what: str, figure: Figure, before: ArrayState | None, after: ArrayState
) -> Iterator[str]:
    now = figure(after)
    was = figure(before) if before else None
    if was != now:
        yield f"{what}: {now}" if was is None else f"{what}: {was} -> {now}"
