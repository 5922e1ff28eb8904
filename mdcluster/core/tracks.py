"""The pipeline of one entry at the writer, as data: what waits, what is under way, who has what."""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

from mdcluster.core.model import (
    ZERO,
    ArrayState,
    Change,
    ClusterState,
    DeviceId,
    Entry,
    Life,
    NodeId,
    Stamp,
)

QUEUE_MAX = 64
"""Proposals that may wait for one entry; a further one is refused."""

OPEN_MAX = 64
"""Commits of one entry that may wait for their application at a time."""


@dataclass(slots=True)
class Ask:
    """A proposal at the writer. origin: the node to answer, None for the writer's own."""

    proposal: str
    change: Change
    force: bool
    origin: NodeId | None


class Stage(StrEnum):
    IDLE = "idle"
    ROUND = "waits for nodes to prepare"
    REPLICATING = "waits for a quorum to persist"
    PROJECTING = "waits for superblocks"


@dataclass(slots=True)
class Commit:
    """A committed entry that is being applied: who must still apply it, who waits for it.

    removed: the devices that it takes out of the array; None if more was taken out before, by
    what those who must apply it may not have applied.
    """

    entry: Entry
    must: frozenset[Life]
    ask: Ask | None
    since_ms: int
    removed: frozenset[DeviceId] | None = None


@dataclass(slots=True)
class Track:
    """The pipeline of one entry."""

    key: str
    queue: deque[Ask] = field(default_factory=deque)
    stage: Stage = Stage.IDLE
    ask: Ask | None = None
    entry: Entry | None = None  # replicating or projecting
    before: ArrayState | ClusterState | None = None
    acks: set[NodeId] = field(default_factory=set)
    committed: Entry | None = None  # newest committed in this term
    held_by: set[NodeId] = field(default_factory=set)  # who is known to have stored that
    open: list[Commit] = field(default_factory=list)
    leaving: list[Ask] = field(default_factory=list)  # more who wait for the array to be forgotten
    applied_by: dict[Life, Stamp] = field(default_factory=dict)
    problems: dict[Life, str] = field(default_factory=dict)
    released: Stamp = ZERO
    reproject: bool = False
    again_ms: int = 0  # present backoff of failed superblocks
    writing: bool = False  # superblocks are being written
    wait_ms: int = 0  # present backoff
