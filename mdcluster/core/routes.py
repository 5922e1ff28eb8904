"""Where each event, message and timer of a node goes: tables, nothing else."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mdcluster.core import asks, commits, departures, election, replica, responder, rounds
from mdcluster.core.env import TimerKey
from mdcluster.core.events import (
    Applied,
    ArrayKept,
    ArrayLeft,
    Asked,
    BitsSet,
    Erased,
    FenceAcked,
    Fenced,
    FenceWaits,
    Held,
    LinesChanged,
    MemberFailed,
    NoncesWritten,
    PeerDown,
    PeerUp,
    PersistFailed,
    PersistRecovered,
    Prepared,
    Probed,
    Received,
    Sampled,
    ShutdownAsked,
    SlotZeroed,
    SuperblocksWritten,
    SyncReached,
    SyncStopped,
    Tick,
    Wondered,
)
from mdcluster.core.messages import (
    Abandon,
    Advice,
    ApplyAck,
    ApplyEntry,
    Beat,
    BeatAck,
    Consult,
    Hold,
    HoldAck,
    Prepare,
    PrepareReply,
    PreVote,
    PreVoteReply,
    Probe,
    ProbeReply,
    Propose,
    ProposeReply,
    Query,
    Release,
    Replicate,
    ReplicateAck,
    Report,
    RequestVote,
    Transfer,
    Vote,
    Vouch,
)
from mdcluster.core.model import ArrayId, Life, NodeId

if TYPE_CHECKING:
    from mdcluster.core.node import Node


def event_handlers(node: "Node") -> dict[type, Callable[[Any], None]]:
    """By kind of event."""
    return {
        Tick: node.on_tick,
        Received: node.on_received,
        PeerUp: lambda e: node.membership.peer_up(e.life, e.name, e.start),
        PeerDown: lambda e: node.membership.peer_down(e.node),
        LinesChanged: node.on_lines,
        Asked: node.on_asked,
        Wondered: lambda e: node.asks.ask(e.proposal, e.changes, e.force, dry_run=True),
        FenceAcked: node.on_fence_acked,
        ShutdownAsked: node.on_shutdown,
        PersistFailed: node.on_persist_failed,
        PersistRecovered: lambda e: setattr(node.election, "broken", node.membership.hung),
        SuperblocksWritten: node.commits.on_superblocks,
        NoncesWritten: node.rounds.on_nonces,
        Erased: node.rounds.on_erased,
        Prepared: node.responder.on_prepared,
        Probed: node.responder.on_probed,
        Applied: node.on_applied,
        ArrayLeft: node.departures.array_left,
        ArrayKept: node.departures.array_kept,
        Held: node.on_held,
        Sampled: node.replica.on_sampled,
        SyncReached: node.on_sync_reached,
        BitsSet: lambda e: node.to_pass(e.array, "on_bits_set", e),
        SlotZeroed: lambda e: node.to_pass(e.array, "on_slot_zeroed", e),
        SyncStopped: node.on_sync_stopped,
        MemberFailed: node.on_member_failed,
        Fenced: node.membership.on_confirmed,
        FenceWaits: node.membership.on_fence_waits,
    }


def message_handlers(node: "Node") -> dict[type, Callable[[Life, Any], None]]:
    """By kind of message; whether its sender may say it was looked at before."""
    return {
        PreVote: node.election.on_pre_vote,
        PreVoteReply: node.election.on_pre_vote_reply,
        RequestVote: node.election.on_request_vote,
        Vote: node.election.on_vote,
        Transfer: node.election.on_transfer,
        Beat: node.on_beat,
        BeatAck: node.writer.on_beat_ack,
        Query: node.on_query,
        Report: node.membership.on_report,
        Propose: node.writer.on_propose,
        ProposeReply: lambda s, m: node.asks.on_reply(m),
        Consult: node.writer.on_consult,
        Advice: lambda s, m: node.asks.on_advice(m),
        Replicate: node.on_replicate,
        ReplicateAck: lambda s, m: node.commits.on_replicate_ack(s.node, m),
        Prepare: node.responder.on_prepare,
        PrepareReply: node.rounds.on_prepare_reply,
        Abandon: node.responder.on_abandon,
        ApplyEntry: node.on_apply,
        ApplyAck: node.commits.on_apply_ack,
        Release: lambda s, m: node.replica.on_release(m),
        Probe: node.responder.on_probe,
        ProbeReply: node.rounds.on_probe_reply,
        Hold: node.on_hold,
        HoldAck: node.keeper.on_hold_ack,
        Vouch: lambda s, m: node.membership.vouch(m.life),
    }


def timer_handlers(node: "Node") -> dict[str, Callable[[TimerKey], None]]:
    """By the owner of the timer, the first part of its key."""
    return {
        election.TIMER: lambda _: node.election.on_timer(),
        "lease": lambda _: node.election.on_lease_timer(),
        "beat": node.writer.on_beat_timer,
        "io": lambda _: None,  # looked at after every step
        "silence": lambda _: None,  # so are the reads to be pinned
        "fence": lambda k: node.membership.on_fence_timer(Life(NodeId(k[1]), k[2])),
        "commit": lambda k: node.commits.on_timer(k[1]),
        commits.PROJECT_TIMER: lambda k: node.commits.on_project_timer(k[1]),
        replica.TIMER: lambda k: node.replica.on_timer(ArrayId(k[1])),
        responder.TIMER: lambda k: node.responder.on_timer(int(k[1])),
        rounds.TIMER: lambda k: node.rounds.on_timer(int(k[1])),
        asks.TIMER: lambda k: node.asks.on_timer(k[1]),
        "resync": node.keeper.on_timer,
        "apply": lambda k: node.replica.retry(k[1]),
        "patrol": node.writer.on_patrol_timer,
        departures.FAILED_TIMER: node.on_failed_timer,
        departures.LEFT_TIMER: node.on_left_timer,
        "handover": node.writer.on_hand_over_timer,
        departures.SHUTDOWN_TIMER: lambda _: node.departures.on_shutdown_timer(),
    }
