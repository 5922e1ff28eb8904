"""Data of the answers about the cluster: ``status`` (ClusterStatus) and ``why`` (WhyData)."""

from enum import StrEnum
from typing import NamedTuple

from mdcluster.control.arrays import Waiting


class LinkInfo(NamedTuple):
    """One connection to a node; ``rtt_us`` of the last beat, if measured."""

    local: str
    remote: str
    up: bool
    rtt_us: int | None = None


class NodeRole(StrEnum):
    """What a node is now."""

    WRITER = "writer"
    VOTER = "voter"
    SPECTATOR = "spectator"
    UNKNOWN = "unknown"


class NodeInfo(NamedTuple):
    """``since_s``: when (seconds since the epoch) it was first seen in this life, 0 if never."""

    name: str
    uuid: str
    role: NodeRole
    alive: bool
    suspect: bool = False
    boot_id: str = ""
    since_s: int = 0
    links: tuple[LinkInfo, ...] = ()


class Quorum(NamedTuple):
    """How many voters there are, are needed, are alive."""

    voters: int
    needed: int
    alive: int


class ClusterStatus(NamedTuple):
    """The cluster as this node sees it; ``writer`` is '' while there is none known."""

    name: str
    uuid: str
    node: str
    node_uuid: str
    role: NodeRole
    writer: str
    term: int
    lease_ms_left: int | None
    quorum: Quorum
    nodes: tuple[NodeInfo, ...]
    waiting: tuple[Waiting, ...] = ()
    version: str = ""


class WhyData(NamedTuple):
    """All that waits, as seen by `node`; `writer`: who knows the rest, '' while there is none."""

    waiting: tuple[Waiting, ...]
    node: str = ""
    writer: str = ""
