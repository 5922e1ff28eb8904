"""Changes of the cluster entry: voters, released arrays. Pure: change -> new state, or why not.

Rules of this file: one voter comes or goes per change, so that any majority of the old set
meets any majority of the new one (Ongaro 2014, section 4.1); the last voter never goes; a
UUID is bound to at most one line.
"""

from dataclasses import replace
from hashlib import blake2b

from mdcluster.core.arrays import Refused
from mdcluster.core.model import (
    CLUSTER_KEY,
    GONE_MAX,
    NODES_MAX,
    ZERO,
    AddVoter,
    BindVoter,
    ClusterState,
    Entry,
    ForgetArray,
    Gone,
    NodeId,
    RemoveVoter,
    Voter,
    VoterChange,
)


def birth(proposal: ClusterState, names: dict[NodeId, str], seed: str) -> Entry:
    """The first cluster entry: every line bound to the node that voted there.

    names: node -> line, of all voters (the birth needs them all). seed: what makes the UUID of
    this cluster differ from any other's.
    """
    at_line = {name: node for node, name in names.items()}
    voters = tuple(Voter(v.name, at_line[v.name], v.priority) for v in proposal.voters)
    digits = blake2b(seed.encode(), digest_size=16).hexdigest()
    uuid = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    return Entry(CLUSTER_KEY, ZERO, ClusterState(uuid, proposal.name, voters))


def change_voters(state: ClusterState, change: VoterChange) -> ClusterState | Refused:
    """The voter set after the change, the same object if it changes nothing, or a refusal."""
    if isinstance(change, AddVoter):
        return _add(state, change)
    if isinstance(change, RemoveVoter):
        return _remove(state, change)
    return _bind(state, change)


def _add(state: ClusterState, change: AddVoter) -> ClusterState | Refused:
    present = state.named(change.name)
    if present is not None:
        return _with(state, replace(present, priority=change.priority))
    if len(state.voters) >= NODES_MAX:
        return Refused(f"cannot add {change.name}: {NODES_MAX} voters are the most there can be")
    voters = (*state.voters, Voter(change.name, None, change.priority))
    return replace(state, voters=voters)


def _remove(state: ClusterState, change: RemoveVoter) -> ClusterState | Refused:
    if state.named(change.name) is None:
        return state
    if len(state.voters) == 1:
        return Refused(f"cannot remove {change.name}: it is the last voter")
    return replace(state, voters=tuple(v for v in state.voters if v.name != change.name))


def _bind(state: ClusterState, change: BindVoter) -> ClusterState | Refused:
    voter = state.named(change.name)
    if voter is None:
        return Refused(f"cannot bind {change.node}: there is no voter {change.name}")
    if voter.node == change.node:
        return state
    elsewhere = state.voter(change.node)
    if elsewhere is not None:
        return Refused(
            f"cannot bind {change.node} to {change.name}: it is {elsewhere.name} already"
        )
    if voter.node is not None and not change.replace:
        return Refused(
            f"{change.name} is bound to {voter.node}; if that node's state directory is lost for "
            f"good, re-admit it with 'mdcadm --admit {change.name}'"
        )
    if voter.node is not None:
        return _unbind(state, voter)
    return _with(state, replace(voter, node=change.node))


def _unbind(state: ClusterState, voter: Voter) -> ClusterState | Refused:
    """A re-admission is two changes: the old node goes, then the new one is bound when seen."""
    if sum(v.node is not None for v in state.voters) == 1:
        return Refused(f"cannot re-admit {voter.name}: it is the only voter there is")
    return _with(state, replace(voter, node=None))


def forget_array(state: ClusterState, change: ForgetArray) -> ClusterState:
    """The array's entries up to this stamp are void from now on; the oldest such word may go."""
    if any(g.array == change.array and g.stamp >= change.stamp for g in state.gone):
        return state
    others = (g for g in state.gone if g.array != change.array)
    gone = Gone(change.array, change.stamp, change.serial)
    return replace(state, gone=(*others, gone)[-GONE_MAX:])


def _with(state: ClusterState, voter: Voter) -> ClusterState:
    if state.named(voter.name) == voter:
        return state
    voters = tuple(voter if v.name == voter.name else v for v in state.voters)
    return replace(state, voters=voters)
