"""What this node cannot keep up: members that fail here, arrays it leaves, its orderly stop.

Rules of this file:

* a failure that md reports here is proposed until it is committed, whatever becomes of writers;
* if the others can use the member, the node may have to leave the array instead; the last good
  member never goes: then its writes fail, or, if its md has set it faulty by itself, it leaves;
* an array is left by stopping it first; only then is it proposed that this life has left
  (with bits left behind unless every write was finished), again until it is committed;
* what was left is not run again before an administrator says so, or the daemon restarts;
* an array that a commit lists for this life, but that its md does not run when the daemon
  starts, was stopped nobody knows how: this life ends in it, with bits left behind;
* where arrays outlive the daemon, its orderly stop leaves those in use running;
* a node that stops takes back what it has prepared to run: behind the commit that lists it.
"""

from collections.abc import Callable

from mdcluster.core.arrays import survives_without
from mdcluster.core.asks import Asks
from mdcluster.core.effects import LeaveArray, Stopped
from mdcluster.core.env import Env
from mdcluster.core.events import ArrayKept, ArrayLeft, MemberFailed
from mdcluster.core.holds import Holds
from mdcluster.core.model import (
    ARRAYS_MAX,
    ArrayId,
    ArrayState,
    DeviceId,
    Doubt,
    EndLife,
    FailMember,
    LeaveRunner,
    MemberState,
)
from mdcluster.core.replica import Replica
from mdcluster.core.waits import Cause, Wait

FAILED_TIMER = "failed"
LEFT_TIMER = "left"
SHUTDOWN_TIMER = "shutdown"

NO_VOTER = "this node is no voter of the cluster any more"
SHUTTING_DOWN = "this node is shutting down"

STOPS = "the daemon stops"

NOT_RUNNING = "md did not run it when the daemon started"

SHUTDOWN_MS = 3_000
"""How long an orderly stop may take before the process just ends (its lock then tells)."""


class Departures:
    """One node's failures and farewells."""

    def __init__(
        self,
        env: Env,
        replica: Replica,
        holds: Holds,
        asks: Asks,
        runs_here: Callable[[ArrayState], bool],
        *,
        still: Callable[[], bool],
        stay: Callable[[ArrayId], int],
        outlives: bool,
    ) -> None:
        """still: copy no more; whether all that was under way has ended. stay: that of this life,
        as far as is known here (0: none). outlives: md's arrays."""
        self._env = env
        self._still = still
        self._stay = stay
        self._outlives = outlives
        self.kept: dict[ArrayId, str] = {}  # in use when the daemon was to stop: by whom
        self._replica = replica
        self._holds = holds
        self._asks = asks
        self._runs_here = runs_here
        self.left: dict[ArrayId, str] = {}  # and why
        self._leaving: set[ArrayId] = set()  # md is stopping them
        self._unlisted: set[ArrayId] = set()  # left, and a commit says so
        self._prepared: dict[ArrayId, None] = {}  # a commit may list this life, latest last
        self.shutting_down = False

    # --- members that fail here -------------------------------------------------------------

    def member_failed(self, ev: MemberFailed) -> None:
        self._replica.note_failed(ev.array, ev.device)
        self._env.notify("member_failed", array=ev.array, device=ev.device, why=ev.why)
        self.propose_failure(ev.array, ev.device, ev.why, ev.doubt)

    def propose_failure(
        self, array: ArrayId, device: DeviceId, why: str, doubt: Doubt = Doubt.NONE
    ) -> None:
        """One in doubt goes whatever others say of it: they may read what is wrong."""
        seen_by = None if doubt else self._env.me.node
        change = FailMember(array, device, why, seen_by, doubt is Doubt.REWRITTEN)

        def outcome(state: str, text: str) -> None:
            if state == "refused":
                self._on_refused(change, doubt, text)

        self._asks.own(change, outcome)

    def _on_refused(self, change: FailMember, doubt: Doubt, refusal: str) -> None:
        """Leave the array, let the writes fail (the last good member), or propose it again."""
        array, device = change.array, change.device
        again = (FAILED_TIMER, array, device, change.why, doubt.value)
        useless = doubt is Doubt.MISSED  # md has set it faulty, so no later state can be applied
        state = self._replica.newest(array) if useless else self._replica.states.get(array)
        member = state.member(device) if state else None
        if array in self._replica.catching_up and not useless:
            self._env.after(again, self._env.timing.retry_max_ms)
            return
        if state is None or member is None or member.state is MemberState.FAULTY:
            return
        if refusal.startswith("leave"):
            self.leave(array, refusal)
        elif survives_without(state, device):
            self._env.after(again, self._env.timing.retry_max_ms)
        elif useless:
            self.leave(array, f"md of this host has set the last good member faulty: {change.why}")
        else:
            self._replica.give_up(array, device)

    # --- arrays that are left ---------------------------------------------------------------

    def leave(self, array: ArrayId, why: str, *, force: bool = True) -> None:
        """Stop an array here (it may never have got as far as running), and stay out of it."""
        self.left[array] = why
        self._unlisted.discard(array)
        if array not in self._leaving:
            self._env.notify("array_left", array=array, why=why)
            self._stop(array, force=force)

    def _stop(self, array: ArrayId, *, force: bool) -> None:
        self._leaving.add(array)
        self._replica.leaving(array)
        self._env.emit(LeaveArray(array, force))

    def leave_all(self, why: str) -> None:
        for state in list(self._replica.states.values()):
            if self._runs_here(state):
                self.leave(state.uuid, why)

    def not_running(self, array: ArrayId) -> None:
        """Listed, but md does not run it: whether every write was finished nobody knows."""
        self.left[array] = NOT_RUNNING
        self._env.notify("array_not_running", array=array, why=NOT_RUNNING)
        self.propose_left(array, self._stay(array), clean=False)

    def array_left(self, ev: ArrayLeft) -> None:
        clean = ev.clean and not self._replica.failures_pending(ev.array)
        self._holds.left(ev.array)
        self._replica.left(ev.array)
        self._leaving.discard(ev.array)
        if not self._replica.is_gone(ev.array):
            self.propose_left(ev.array, self._stay(ev.array), clean=clean)

    def array_kept(self, ev: ArrayKept) -> None:
        """It is in use, and outlives this daemon."""
        self._leaving.discard(ev.array)
        self.left.pop(ev.array, None)
        self.kept[ev.array] = ev.why
        self._replica.kept(ev.array)
        self._env.notify("array_kept", array=ev.array, why=ev.why)

    def propose_left(self, array: ArrayId, stay: int, *, clean: bool) -> None:
        """Until it is committed, the others wait for this node in this array.

        It may have been known to others already, and this life may run it again when they hear.
        """

        def outcome(state: str, text: str) -> None:
            settled = array in self._unlisted or self._replica.is_gone(array)
            if state == "refused" and not settled:
                key = (LEFT_TIMER, array, str(stay), "clean" if clean else "dirty")
                self._env.after(key, self._env.timing.retry_max_ms)

        change = LeaveRunner if clean else EndLife
        self._asks.own(change(array, self._env.me, stay), outcome)

    def state_applied(self, state: ArrayState) -> None:
        if self._env.me not in state.running:
            self._unlisted.add(state.uuid)
            if self.left.get(state.uuid) == NOT_RUNNING:
                del self.left[state.uuid]  # it may join again, as any other node

    def voter_again(self) -> None:
        """What it left for want of a vote it may join, once it is not listed any more."""
        for array, why in list(self.left.items()):
            if why == NO_VOTER and array in self._unlisted:
                del self.left[array]

    def forget(self, array: ArrayId) -> None:
        """The array was released: if it comes again it is a new one."""
        self.left.pop(array, None)
        self._unlisted.discard(array)
        self._prepared.pop(array, None)

    def assemble_asked(self, array: ArrayId) -> None:
        """An administrator asks this very node to assemble what it left."""
        if array in self._unlisted:
            self.left.pop(array, None)

    def waiting(self) -> list[Wait]:
        """What this node leaves, or stays out of."""
        return [self._left(array, why) for array, why in self.left.items()]

    def _left(self, array: ArrayId, why: str) -> Wait:
        me = (self._env.name,)
        if array in self._leaving:
            ends = "nothing sent to its members can still land, and nobody has it open here"
            return Wait(array, Cause.LEAVING, f"is being stopped here: {why}", me, ends)
        if array not in self._unlisted:
            ends = "the commit that says so has been applied here"
            return Wait(array, Cause.LEAVING, f"was stopped here: {why}", me, ends)
        ends = f"it is assembled on {self._env.name} (mdcadm --assemble), or its daemon restarts"
        return Wait(array, Cause.LEFT, f"left here: {why}", me, ends)

    # --- the orderly stop -------------------------------------------------------------------

    def prepares(self, array: ArrayId) -> None:
        """This node is about to tell a writer that it can run the array."""
        self._prepared.pop(array, None)
        self._prepared[array] = None
        if len(self._prepared) > ARRAYS_MAX:
            del self._prepared[next(iter(self._prepared))]

    def shut_down(self) -> None:
        self.shutting_down = True
        for array in self._replica.inherited:
            self.kept[array] = "this daemon has not caught up with it"
        self._env.after((SHUTDOWN_TIMER,), SHUTDOWN_MS)
        running = {s.uuid for s in self._replica.states.values() if self._runs_here(s)}
        for array in self._prepared:
            if array not in running and array not in self.left:
                self.left[array] = STOPS
                self._stop(array, force=not self._outlives)  # perhaps md is starting it right now

    def on_shutdown_timer(self) -> None:
        self._env.emit(Stopped(self._run_on()))

    def _run_on(self) -> tuple[ArrayId, ...]:
        """What md runs on without this process."""
        states = self._replica.states.values() if self._outlives else ()
        here = {state.uuid for state in states if self._runs_here(state)}
        return tuple(sorted(here | self._replica.inherited))

    def try_stop(self) -> None:
        """The role has gone (or was never here): first the arrays, then the process."""
        if not self.shutting_down or self._env.timers.at_ms((SHUTDOWN_TIMER,)) is None:
            return
        here = [s.uuid for s in self._replica.states.values() if self._runs_here(s)]
        going = [array for array in here if array not in self.kept]
        for array in going:
            self.leave(array, STOPS, force=not self._outlives)
        if going or self._leaving or self._asks.pending or (self.kept and not self._still()):
            return
        self._env.timers.cancel((SHUTDOWN_TIMER,))
        self._env.emit(Stopped(self._run_on()))
