"""What does not go on: since it is the core that waits, it is the core that says for what."""

from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """What is waited for. Programs may tell waits apart by it; texts are for people."""

    WRITER = "writer"  # there is none
    LEASE = "lease"  # this node has no I/O lease
    QUORUM = "quorum"  # a commit is not stored by enough voters yet
    PREPARE = "prepare"  # nodes do what has to be done before a commit
    SUPERBLOCKS = "superblocks"  # a commit is being written to the members
    APPLY = "apply"  # a listed node has not applied a commit
    ANSWER = "answer"  # a listed node has not answered the writer of this term
    FENCING = "fencing"  # a listed node is silent, and not known to be dead
    MEMBER = "member"  # a node cannot use a member
    RUNNER = "runner"  # no node runs the array
    RELEASE = "release"  # an array is being given back
    HOLDS = "holds"  # a pass waits for nodes to hold their writes
    CHANGE = "change"  # a pass waits for a change that goes first
    PACE = "pace"  # a pass is kept to its speed limit
    PASS = "pass"  # a pass does what is not copying
    RETRY = "retry"  # a pass failed, and is tried again
    HUNG = "md_hangs"  # md of this host answers no more
    CATCHING_UP = "catching_up"  # an array that ran before the daemon did
    UNKNOWN = "unknown"  # an array of ours that no commit known here is about
    LEAVING = "leaving"  # this host stops its part of an array
    LEFT = "left"  # this host stays out of an array
    PAUSED = "paused"
    READONLY = "readonly"
    STATE_DIRECTORY = "state_directory"  # it cannot be written


@dataclass(frozen=True, slots=True)
class Wait:
    """key: UUID of an array or a node, or CLUSTER_KEY. by: who is waited for, names of nodes and
    UUIDs of devices. ends: completes "this ends when ..."."""

    key: str
    cause: Cause
    text: str
    by: tuple[str, ...]
    ends: str
