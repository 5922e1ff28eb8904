"""Dataclasses that use every type hint the codec knows."""

import enum
from dataclasses import dataclass
from typing import Literal, NewType

Term = NewType("Term", int)
NodeId = NewType("NodeId", str)


class MemberState(enum.StrEnum):
    ACTIVE = "active"
    SPARE = "spare"
    FAULTY = "faulty"


class Level(enum.IntEnum):
    RAID1 = 1
    RAID10 = 10


@dataclass(frozen=True, slots=True)
class Member:
    device: bytes
    state: MemberState
    role: int | None
    recovery_offset_sectors: int


@dataclass(frozen=True, slots=True)
class ArrayEntry:
    name: str
    level: Level
    members: tuple[Member, ...]
    size_sectors: int


@dataclass(frozen=True, slots=True)
class ClusterEntry:
    voters: tuple[NodeId, ...]
    formed: bool


Entry = ArrayEntry | ClusterEntry


@dataclass(frozen=True, slots=True)
class Heartbeat:
    term: Term
    sent_ms: int
    writer: NodeId | None
    flags: tuple[()]


@dataclass(frozen=True, slots=True)
class Replicate:
    term: Term
    at: tuple[Term, int]
    entry: Entry
    prior: Entry | None
    mode: Literal["full", 7, None, True]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    lo_sectors: int
    hi_sectors: int

    def __post_init__(self) -> None:
        if self.lo_sectors > self.hi_sectors:
            raise ValueError("lo_sectors is beyond hi_sectors")


@dataclass(frozen=True, slots=True)
class Bye:
    pass


CLASSES = (Heartbeat, Replicate, Window, Bye)
