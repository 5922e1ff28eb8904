"""Proposals that begin at this node: kept, sent to whoever is writer, sent again, answered.

Rules of this file: a proposal keeps its id however often it is sent, so that the writer
commits it once; nothing is promised to a client that the writer has not said; without a
writer a client's proposal is refused after a while, unless some writer may have it already.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mdcluster.core.effects import Answer
from mdcluster.core.env import Env
from mdcluster.core.messages import Advice, Consult, Propose, ProposeReply
from mdcluster.core.model import Change, HandOver, NodeId, Plan

TIMER = "ask"
ASKS_MAX = 256

Outcome = Callable[[str, str], None]
"""state ('done' or 'refused') and text of a proposal of this node's own."""


@dataclass(slots=True)
class Pending:
    changes: tuple[Change, ...]  # one, but for a dry run
    force: bool
    since_ms: int
    outcome: Outcome | None  # None: a client waits for an Answer
    dry_run: bool = False
    sent: bool = False
    wait_ms: int = 0
    told: str = ""


class Asks:
    """The open proposals of one node."""

    def __init__(
        self,
        env: Env,
        writer: Callable[[], NodeId | None],
        term: Callable[[], int],
        why_no_writer: Callable[[], str],
        start: int,
    ) -> None:
        """start: tells the ids of this process from those of an earlier one of the same life."""
        self._env = env
        self._start = start
        self._writer = writer
        self._term = term
        self._why_no_writer = why_no_writer
        self.pending: dict[str, Pending] = {}
        self._serial = 0

    def own(self, change: Change, outcome: Outcome) -> None:
        """Propose something of this node's own, once while it is open."""
        if any(p.changes == (change,) and not p.dry_run for p in self.pending.values()):
            return
        self._serial += 1
        proposal = f"{self._env.me.boot_id}:{self._start}:{self._serial}"
        self._add(proposal, Pending((change,), False, self._env.now_ms, outcome))

    def ask(
        self, proposal: str, changes: tuple[Change, ...], force: bool, *, dry_run: bool = False
    ) -> None:
        """A client's proposal; the same id again is a retry of the same.

        dry_run: the writer is asked what these changes would do; it goes the way of a proposal.
        """
        if proposal in self.pending:
            self.pending[proposal].told = ""
            return
        if len(self.pending) >= ASKS_MAX:
            text = f"{ASKS_MAX} changes wait at this node already; try again later"
            self._env.emit(Answer(proposal, "refused", text))
            return
        self._add(proposal, Pending(changes, force, self._env.now_ms, None, dry_run))

    def _add(self, proposal: str, pending: Pending) -> None:
        self.pending[proposal] = pending
        self._try(proposal)

    def _try(self, proposal: str) -> None:
        pending = self.pending[proposal]
        t = self._env.timing
        pending.wait_ms = min(max(2 * pending.wait_ms, 2 * t.retry_min_ms), t.retry_max_ms)
        writer = self._writer()
        change = pending.changes[-1]
        if isinstance(change, HandOver) and change.target == writer and not pending.dry_run:
            self._finish(proposal, "done", "")  # or two of them would send the role to and fro
            return
        if writer is not None:
            pending.sent = not pending.dry_run
            self._env.send(writer, self._message(proposal, pending))
        elif self._gives_up(pending):
            text = f"no writer: {self._why_no_writer()}; nothing was changed"
            self._finish(proposal, "refused", text)
            return
        else:
            self._tell(proposal, f"waits for a writer: {self._why_no_writer()}")
        self._env.after((TIMER, proposal), pending.wait_ms)

    def _message(self, proposal: str, pending: Pending) -> Propose | Consult:
        if pending.dry_run:
            return Consult(self._term(), proposal, pending.changes, pending.force)
        return Propose(self._term(), proposal, pending.changes[-1], pending.force)

    def _gives_up(self, pending: Pending) -> bool:
        waited_ms = self._env.now_ms - pending.since_ms
        patience_ms = 3 * self._env.timing.election_max_ms
        return pending.outcome is None and not pending.sent and waited_ms >= patience_ms

    def on_timer(self, proposal: str) -> None:
        if proposal in self.pending:
            self._try(proposal)

    def new_writer(self) -> None:
        """A writer was found: it is asked at once."""
        for proposal, pending in list(self.pending.items()):
            pending.wait_ms = 0
            self._try(proposal)

    def on_reply(self, msg: ProposeReply) -> None:
        if msg.proposal not in self.pending:
            return
        if msg.state == "waiting":
            self._tell(msg.proposal, msg.text)
        else:
            self._finish(msg.proposal, msg.state, msg.text)

    def on_advice(self, msg: Advice) -> None:
        if msg.proposal in self.pending:
            state = "refused" if msg.plan is None else "done"
            self._finish(msg.proposal, state, msg.refusal, msg.plan)

    def _tell(self, proposal: str, text: str) -> None:
        pending = self.pending[proposal]
        if pending.outcome is None and pending.told != text:
            pending.told = text
            self._env.emit(Answer(proposal, "waiting", text))

    def _finish(self, proposal: str, state: str, text: str, plan: Plan | None = None) -> None:
        pending = self.pending.pop(proposal)
        self._env.timers.cancel((TIMER, proposal))
        if pending.outcome is not None:
            pending.outcome(state, text)
        else:
            self._env.emit(Answer(proposal, state, text, plan))
