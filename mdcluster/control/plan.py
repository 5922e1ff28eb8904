"""What a dry run answers: what would happen on which node, in words, in order."""

from typing import NamedTuple


class NodePlan(NamedTuple):
    """What one node does, step by step."""

    node: str
    steps: tuple[str, ...]


class ChangePlan(NamedTuple):
    """One change of those that a request means.

    first: what has to be done before it is committed, and may end it. entry: what differs in the
    entry afterwards; nothing differs if it is empty. commit: who stores it. nodes: what is done
    then. release: when it is done. afterwards: what follows by itself.
    """

    change: str
    first: tuple[NodePlan, ...] = ()
    entry: tuple[str, ...] = ()
    commit: str = ""
    nodes: tuple[NodePlan, ...] = ()
    release: str = ""
    afterwards: tuple[str, ...] = ()


class PlanData(NamedTuple):
    """waits: what would have to be over before the first change is begun."""

    writer: str
    changes: tuple[ChangePlan, ...]
    waits: tuple[str, ...] = ()
