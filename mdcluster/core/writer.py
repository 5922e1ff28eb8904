"""This node as the writer: what its term begins and ends with, what it takes on meanwhile.

What it decides has files of its own (commits.py, keeper.py, preparing.py, rounds.py, foresight.py);
here one of them hears what comes of another.
"""

from typing import TYPE_CHECKING

from mdcluster.core.env import TimerKey
from mdcluster.core.ledger import without_gone
from mdcluster.core.messages import BeatAck, Consult, Propose, Report
from mdcluster.core.model import (
    CLUSTER_KEY,
    ArrayId,
    ArrayState,
    Checkpoint,
    ClusterState,
    DeviceId,
    Entry,
    FailMember,
    HandOver,
    Life,
    NodeId,
    SetPaused,
    SetReadonly,
    Stamp,
)
from mdcluster.core.tracks import Ask, Track
from mdcluster.core.voters import birth

if TYPE_CHECKING:
    from mdcluster.core.node import Node

PATROL_MS = 60_000
"""How often the writer projects all superblocks again: a late write may have undone them."""


class Writer:
    """Does nothing while another node is the writer."""

    def __init__(self, node: "Node") -> None:
        self._node = node

    # --- its term --------------------------------------------------------------------------

    def begin(self, newest: dict[str, Entry], projected: dict[str, Stamp]) -> None:
        for key, stamp in projected.items():
            self._node.ledger.note_projected(key, stamp)
        if CLUSTER_KEY not in newest:
            names = self._node.env.names
            seed = f"{self._node.me.node}/{self._node.me.boot_id}/{self._node.ledger.term}"
            newest = {**newest, CLUSTER_KEY: birth(self._node.ledger.cluster, names, seed)}
        cluster = newest[CLUSTER_KEY].state
        assert isinstance(cluster, ClusterState)
        newest = without_gone(newest, cluster)
        self._node.rounds.begin_term(self._node.ledger.term)
        self._node.keeper.begin_term()
        self._node.commits.begin_term(newest[k] for k in sorted(newest))
        self._node.membership.begin_term()
        self._node.env.after(("patrol",), PATROL_MS)

    def end(self, why: str) -> None:
        self._node.env.notify("writer_stood_down", node=self._node.me.node, why=why)
        for pass_ in self._node.keeper.passes.values():
            self._node.holds.note(pass_.report())
        self._node.keeper.end_term()
        self._node.commits.end_term()
        self._node.rounds.end_term()
        self._node.foresight.end_term()
        self._node.membership.end_term()
        self._node.env.timers.cancel(("patrol",))

    def on_ready(self) -> None:
        self._node.commits.gate_opened()
        self._node.asks.new_writer()
        self.tend()

    def tend(self) -> None:
        if self._node.election.is_writer and self._node.election.ready:
            self._node.keeper.tend(self._node.lines, self._node.lines_digest)

    def on_beat_timer(self, _: TimerKey) -> None:
        self._node.membership.beat()
        self.tend()

    def on_patrol_timer(self, _: TimerKey) -> None:
        self._node.commits.reproject_all()
        self._node.env.after(("patrol",), PATROL_MS)

    # --- who is there ----------------------------------------------------------------------

    def on_beat_ack(self, sender: Life, msg: BeatAck) -> None:
        if not self._node.election.is_writer:
            return
        was_open = self._node.election.has_lease
        self._node.membership.on_beat_ack(sender, msg)
        if not was_open and self._node.election.has_lease:
            self._node.commits.gate_opened()

    def check_behind(self, node: NodeId) -> None:
        """A node's digest tells whether it lacks a commit or a release."""
        if self._node.membership.peers[node].digest != self._node.commits.expected_digest():
            self._node.commits.catch_up(node)

    def on_first_report(self, life: Life, _: Report) -> None:
        """A node has answered: none of its late writes is still to come; project again."""
        self._node.keeper.on_report(life)
        self._node.commits.reproject_all()
        self.tend()

    def on_restarted(self, life: Life) -> None:
        self._node.commits.on_restarted(life)

    def on_life_fenced(self, life: Life) -> None:
        self._node.rounds.on_fenced(life)
        self._node.keeper.on_fenced(life)
        self._node.commits.on_fenced()
        self.tend()

    # --- changes ---------------------------------------------------------------------------

    def on_propose(self, sender: Life, msg: Propose) -> None:
        if self._node.election.is_writer:
            self._node.commits.propose(Ask(msg.proposal, msg.change, msg.force, sender.node))
            if isinstance(msg.change, FailMember):
                self._node.rounds.give_way(msg.change.array)
                self._node.keeper.failure_proposed(msg.change.array)

    def on_consult(self, sender: Life, msg: Consult) -> None:
        if self._node.election.is_writer and self._node.election.ready and msg.changes:
            self._node.foresight.on_consult(sender, msg)

    def start_round(self, track: Track, ask: Ask) -> bool:
        if isinstance(ask.change, HandOver):
            return self._begin_hand_over(ask.change)
        if isinstance(ask.change, SetPaused | SetReadonly) and ask.change.on:
            array = ask.change.array
            if self._node.keeper.rest(array, lambda: self._rested(track, ask)):
                return True
        return self._node.preparing.start(track, ask)

    def _rested(self, track: Track, ask: Ask) -> None:
        """The pass that a change ends copies nothing any more."""
        if track.ask is ask and not self._node.preparing.start(track, ask):
            self._node.commits.round_done(track, ())

    def on_everywhere(self, entry: Entry) -> None:
        if isinstance(entry.state, ArrayState):
            self._node.keeper.everywhere(entry.state)
        self.tend()

    def note_missing(self, array: str, life: Life, missing: dict[DeviceId, str]) -> None:
        self._node.keeper.note_missing(array, life, missing)

    def at_rest(self, state: ArrayState) -> bool:
        return self._node.keeper.at_rest(state)

    def progress(self, array: ArrayId) -> Checkpoint | None:
        return self._node.keeper.progress(array)

    def superblock_failed(self, state: ArrayState, device: DeviceId, why: str) -> None:
        """The projection could not be written to a member: it fails, if the data allow it.

        Not if this node does not run the array: then the fault may well be its own.
        """
        if not self._node.runs_here(state):
            self._node.env.notify("superblock_failed", array=state.name, device=device, why=why)
            return
        self._node.departures.propose_failure(state.uuid, device, why)

    def on_cannot_apply(self, entry: Entry, why: str) -> None:
        """The writer's own md cannot follow: it leaves, so that the others can go on."""
        if isinstance(entry.state, ArrayState):
            self._node.departures.leave(
                entry.state.uuid, f"a change could not be applied here: {why}"
            )

    # --- handing over ----------------------------------------------------------------------

    def _begin_hand_over(self, change: HandOver) -> bool:
        """Shut the gate, stop copying; the word follows when the last write has returned."""
        if change.target == self._node.me.node:
            return False
        self._node.election.begin_hand_over(change.target)
        self._node.keeper.stop_passes()
        self._node.env.after(("handover",), self._node.env.timing.apply_deadline_ms)
        return True

    def on_hand_over_timer(self, _: TimerKey) -> None:
        """Some gated write does not return: an election decides, this node's gate stays shut."""
        if self._node.election.handing_over is not None:
            self._node.election.stand_down("its hand-over did not finish in time")

    def try_give_word(self) -> None:
        if self._node.election.handing_over is not None and not self._node.gated:
            self._node.env.timers.cancel(("handover",))
            self._node.election.give_word()
