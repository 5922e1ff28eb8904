"""What this node does in a writer's rounds: prepare devices, probe a member (see rounds.py).

Rules of this file: an answer goes to the writer that asked, in its term. What was prepared for a
writer of an earlier term is not undone on hearing another one: the earlier one may have had it
committed; the new one commits every entry again, and that tells. A stop (or the end of writing)
that was prepared long ago is answered once more: its writer may have given it up, and the word of
that got lost. A member whose failure was not released here is not claimed again before it is: md
could not take it, and no release would come of a state in which it has not failed.
"""

from collections.abc import Callable

from mdcluster.core.departures import SHUTTING_DOWN, Departures
from mdcluster.core.effects import ForgetPrepared, PrepareDevices, ProbeMember
from mdcluster.core.env import Env
from mdcluster.core.events import Prepared, Probed
from mdcluster.core.feeding import Feeding
from mdcluster.core.messages import Abandon, Prepare, PrepareReply, Probe, ProbeReply
from mdcluster.core.model import ArrayId, DeviceId, Life, NodeId
from mdcluster.core.rounds import ROUNDS_MAX

TIMER = "prepared"


class Responder:
    """The rounds this node takes part in, by op: who asked, in which term."""

    def __init__(
        self,
        env: Env,
        departures: Departures,
        feeding: Feeding,
        *,
        in_use: Callable[[ArrayId, DeviceId], bool],
    ) -> None:
        """in_use: whether md here still has it as a good member, or holds writes of its failure."""
        self._env = env
        self._in_use = in_use
        self._departures = departures
        self._feeding = feeding
        self._asked_by: dict[int, tuple[NodeId, int]] = {}

    def on_prepare(self, sender: Life, msg: Prepare) -> None:
        problem = self._why_not(msg)
        if problem:
            self._env.send(sender.node, PrepareReply(msg.term, msg.op, problem, (), ()))
            return
        if any(claim.nonce and self._in_use(msg.array, claim.device) for claim in msg.claims):
            return  # asked again; the commit, or the release, is on its way
        self._note(msg.op, sender.node, msg.term)
        if msg.stopping or msg.readonly:
            self._env.after((TIMER, str(msg.op)), 2 * self._env.timing.prepare_deadline_ms)
        else:
            self._departures.prepares(msg.array)
            self._feeding.prepares(msg.op, msg.array)
        self._env.emit(PrepareDevices(msg.op, msg.array, msg.claims, msg.stopping, msg.readonly))

    def _why_not(self, msg: Prepare) -> str:
        if self._departures.shutting_down:
            return SHUTTING_DOWN
        why = self._departures.left.get(msg.array)
        if why is not None and not (msg.stopping or msg.readonly):
            return f"this node left the array ({why}); assemble it here, or restart its daemon"
        return ""

    def on_prepared(self, ev: Prepared) -> None:
        asked_by = self._asked_by.get(ev.op)
        if asked_by is not None:
            reply = PrepareReply(asked_by[1], ev.op, ev.problem, ev.found, ev.missing)
            self._env.send(asked_by[0], reply)

    def on_abandon(self, _: Life, msg: Abandon) -> None:
        self._feeding.abandoned(msg.op)
        if self._asked_by.pop(msg.op, None) is not None:
            self._env.timers.cancel((TIMER, str(msg.op)))
            self._env.emit(ForgetPrepared(msg.op))

    def on_probe(self, sender: Life, msg: Probe) -> None:
        self._note(msg.op, sender.node, msg.term)
        self._env.emit(ProbeMember(msg.op, msg.array, msg.device))

    def on_probed(self, ev: Probed) -> None:
        asked_by = self._asked_by.pop(ev.op, None)
        if asked_by is not None:
            self._env.send(asked_by[0], ProbeReply(asked_by[1], ev.op, ev.problem))

    def _note(self, op: int, writer: NodeId, term: int) -> None:
        self._asked_by[op] = (writer, term)
        while len(self._asked_by) > ROUNDS_MAX:
            del self._asked_by[next(iter(self._asked_by))]

    def on_timer(self, op: int) -> None:
        """A stop, or an end of writing, that nothing came of, as far as is known here."""
        asked_by = self._asked_by.get(op)
        if asked_by is not None:
            self._env.send(asked_by[0], PrepareReply(asked_by[1], op, "", (), ()))
            self._env.after((TIMER, str(op)), 2 * self._env.timing.prepare_deadline_ms)

    def forget_before(self, term: int) -> None:
        """Nobody waits for answers to an earlier writer any more."""
        for op, (_, asked_in) in list(self._asked_by.items()):
            if asked_in < term:
                del self._asked_by[op]
                self._env.timers.cancel((TIMER, str(op)))
