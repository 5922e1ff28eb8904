"""What every node does with commits: persist and acknowledge, apply, release held writes.

Rules of this file:

* an entry is acknowledged to the writer only behind its Persist in the lane;
* Apply only stops the use of a failed member; held writes go on only after the writer's
  Release of that stamp, which it gives when every listed node has applied or is fenced;
* an array that was started here holds its writes (md: write-pending) until that Release, too:
  it never wrote to a member that others may still read;
* `active` (one bit that releases every held write) comes after `-blocked`, and only when
  two samples at least SAMPLE_GAP_MS apart showed that nothing is held by an unseen failure;
* of an array that md ran before this process began nothing is known: it counts as just
  started, every faulty member as holding writes, until the first release here.
"""

import hashlib
from collections.abc import Callable, Iterable

from mdcluster.core.effects import Activate, Apply, LeaveArray, SampleStates, Unblock
from mdcluster.core.env import Env
from mdcluster.core.events import Applied, Sampled
from mdcluster.core.ledger import Ledger
from mdcluster.core.messages import ApplyAck, ApplyEntry, Release, Replicate, ReplicateAck
from mdcluster.core.model import (
    CLUSTER_KEY,
    ZERO,
    ArrayId,
    ArrayState,
    DeviceId,
    Entry,
    Gone,
    MemberState,
    NodeId,
    Stamp,
)

TIMER = "release"
SAMPLE_GAP_MS = 100
"""md may still be handing a second failure up when the first sample is read."""


class Unlocking:
    """A release under way in an array: how many clean samples there were so far."""

    def __init__(self) -> None:
        self.clean_samples = 0


class Replica:
    """The commit side of one node, writer or not.

    applied_hook sees each entry applied here, released_hook each state that all have applied.
    stays_out tells whether an array was left here: then it is not run, whatever a commit lists.
    """

    def __init__(
        self,
        env: Env,
        ledger: Ledger,
        applied_hook: Callable[[Entry], None],
        released_hook: Callable[[ArrayState], None],
        stays_out: Callable[[str], bool],
    ) -> None:
        self._env = env
        self._ledger = ledger
        self._applied_hook = applied_hook
        self._released_hook = released_hook
        self._stays_out = stays_out
        self.applied: dict[str, Stamp] = {}
        self.released: dict[str, Stamp] = {}
        self.states: dict[str, ArrayState] = {}  # as applied by the local driver
        self.problems: dict[str, str] = {}
        self._applying: dict[str, Entry] = {}  # newest entry handed to the driver
        self._held_by: dict[str, set[DeviceId]] = {}  # failed, not yet released
        self._release_to: dict[str, Stamp] = {}
        self._unlocking: dict[str, Unlocking] = {}
        self._samples_asked: dict[str, int] = {}  # SampleStates not yet answered
        # good in states that a newer one overtook, as the driver may have seen them
        self._passed: dict[str, set[DeviceId]] = {}
        self._leaving: set[str] = set()  # the driver is stopping them
        self._starting: set[str] = set()  # started here, writes held until the release
        self._inherited: set[str] = set()  # run since before this process, not yet applied here
        self._unsure: set[str] = set()  # inherited, not yet released here: anything may be held
        self._digest: int | None = None
        self._gone: dict[str, Stamp] = {}  # released arrays: nothing up to there is applied

    def inherit(self, arrays: Iterable[ArrayId]) -> None:
        """md runs these since before this process began, as an earlier one left them."""
        self._inherited.update(arrays)
        self._unsure.update(arrays)

    @property
    def inherited(self) -> frozenset[ArrayId]:
        """What md was found to run, as long as nothing was applied to it here."""
        return frozenset(ArrayId(key) for key in self._inherited)

    @property
    def catching_up(self) -> list[str]:
        """Inherited arrays that have not got the newest commit yet."""
        return sorted(key for key in self._inherited if key in self._ledger.entries)

    @property
    def unknown(self) -> list[str]:
        """Inherited arrays that no commit known here is about."""
        return sorted(key for key in self._inherited if key not in self._ledger.entries)

    # --- persist -------------------------------------------------------------------------

    def on_replicate(self, sender: NodeId, msg: Replicate) -> None:
        if self._ledger.store(msg.entry):
            self._ack(sender, msg)

    def _ack(self, sender: NodeId, msg: Replicate) -> None:
        self._env.send(sender, ReplicateAck(msg.term, msg.entry.key, msg.entry.stamp))

    # --- apply ---------------------------------------------------------------------------

    def on_apply(self, sender: NodeId, msg: ApplyEntry, *, voter: bool) -> None:
        """A committed entry: the whole state, so only the newest matters."""
        entry = msg.entry
        if entry.stamp <= self._gone.get(entry.key, ZERO):
            return  # late word of an array that was given back
        if voter:
            self._ledger.store(entry)
        self._ledger.note_projected(entry.key, msg.projected)
        if entry.stamp <= self.applied.get(entry.key, ZERO):
            self._answer(sender, entry.key, msg.term)
            return
        under_way = self._applying.get(entry.key)
        if under_way is None or under_way.stamp < entry.stamp:
            if under_way is not None and isinstance(under_way.state, ArrayState):
                self._passed.setdefault(entry.key, set()).update(_good(under_way.state))
            self._applying[entry.key] = entry
            self._start(entry)
            if self.applied.get(entry.key) == entry.stamp:
                self._answer(sender, entry.key, msg.term)

    def _start(self, entry: Entry) -> None:
        if entry.key in self._leaving:
            return  # what it is to be is known once the array has stopped
        if entry.key == CLUSTER_KEY or self._stays_out(entry.key):
            self.on_applied(Applied(entry.key, entry.stamp, ""))
        else:
            self._env.emit(Apply(entry))

    def take_gone(self, gone: tuple[Gone, ...]) -> list[ArrayId]:
        """Arrays that were released: nothing up to then counts any more. Those new here."""
        new = [g for g in gone if self._gone.get(g.array, ZERO) < g.stamp]
        self._gone = {g.array: g.stamp for g in gone}
        for one in new:
            if self._newest(one.array) <= one.stamp:
                self._forget(one)
        return [g.array for g in new]

    def is_gone(self, array: ArrayId) -> bool:
        """And has not come again, as a new one, since."""
        return array in self._gone and self._newest(array) <= self._gone[array]

    def _forget(self, gone: Gone) -> None:
        """Whoever missed its last commits (a spectator: nothing waits for it) stops it now."""
        array = gone.array
        state = self.states.get(array)
        if state is not None and state.running:
            self._env.emit(LeaveArray(array))
        for stamps in (self.applied, self.released, self._release_to):
            stamps.pop(array, None)
        self.problems.pop(array, None)
        self._passed.pop(array, None)
        self._applying.pop(array, None)
        self.left(array)
        self._digest = None

    def _newest(self, array: ArrayId) -> Stamp:
        """What is known of it here, applied or not: one that came again counts, too."""
        under_way = self._applying.get(array)
        stored, applied = self._ledger.stamp(array), self.applied.get(array, ZERO)
        return max(stored, applied, under_way.stamp if under_way else ZERO)

    def retry(self, key: str) -> None:
        """Hand an entry that could not be applied to the driver again."""
        entry = self._applying.get(key)
        if entry is not None and key in self.problems:
            del self.problems[key]
            self._start(entry)

    def on_applied(self, ev: Applied) -> Entry | None:
        """The driver is done. Returns the entry if it is now applied here."""
        entry = self._applying.get(ev.key)
        if entry is None or entry.stamp != ev.stamp:
            return None  # a newer one is under way, it will answer for both
        if ev.problem:
            self.problems[ev.key] = ev.problem
            return None
        self.problems.pop(ev.key, None)
        del self._applying[ev.key]
        self._digest = None
        self.applied[ev.key] = ev.stamp
        if isinstance(entry.state, ArrayState) and not self._stays_out(ev.key):
            self._note_start(entry.state)
            self._note_failures(entry.state)
            self.states[ev.key] = entry.state
        self._inherited.discard(ev.key)
        self._applied_hook(entry)
        self._try_release(ev.key)
        return entry

    def _answer(self, writer: NodeId, key: str, term: int) -> None:
        self._env.send(writer, ApplyAck(term, key, self.applied[key], ""))

    def answer(self, writer: NodeId, key: str, term: int, problem: str) -> None:
        """Tell the writer how far this node is with an entry."""
        self._env.send(writer, ApplyAck(term, key, self.applied.get(key, ZERO), problem))

    @property
    def digest(self) -> int:
        """63 bits over everything applied and released; equal digests: nothing to catch up."""
        if self._digest is None:
            self._digest = digest(self.applied, self.released)
        return self._digest

    # --- failures and release -------------------------------------------------------------

    def _note_start(self, new: ArrayState) -> None:
        """A started array holds its writes until the release: others may still apply a failure."""
        old = self.states.get(new.uuid)
        if self._env.me not in new.running:
            self._starting.discard(new.uuid)
            self._unsure.discard(new.uuid)
        elif old is None or self._env.me not in old.running:
            self._starting.add(new.uuid)

    def _note_failures(self, new: ArrayState) -> None:
        """Members whose use ends with this state: md holds writes until they are unblocked."""
        old = self.states.get(new.uuid)
        if self._env.me not in new.running:
            self._held_by.pop(new.uuid, None)
            return
        was_good = self._passed.pop(new.uuid, set()) | (_good(old) if old is not None else set())
        if new.uuid in self._inherited:
            was_good |= {m.device for m in new.members}
        for device in was_good - _good(new):
            self._held_by.setdefault(new.uuid, set()).add(device)

    def newest(self, array: ArrayId) -> ArrayState | None:
        """As far as it is known here, applied or not."""
        return self._ledger.array(array)

    def note_failed(self, array: ArrayId, device: DeviceId) -> None:
        """md failed a member here by itself: its writes are held."""
        self._held_by.setdefault(array, set()).add(device)
        unlocking = self._unlocking.get(array)
        if unlocking:
            unlocking.clean_samples = 0
        if self.released.get(array, ZERO) == self.applied.get(array):
            self._unlock(array)  # it was committed before md noticed

    def give_up(self, array: ArrayId, device: DeviceId) -> None:
        """The member cannot be failed (the last good one): its held writes fail instead."""
        if device in self._held_by.get(array, set()):
            self._held_by[array].discard(device)
            self._begin_unlocking(array, {device})

    def leaving(self, array: ArrayId) -> None:
        """The array is about to be left: nothing is applied to it until that is done."""
        self._leaving.add(array)

    def left(self, array: ArrayId) -> None:
        """The array no longer runs here."""
        self.states.pop(array, None)
        self._held_by.pop(array, None)
        self._unlocking.pop(array, None)
        self._starting.discard(array)
        self._inherited.discard(array)
        self._unsure.discard(array)
        self._goes_on(array)

    def kept(self, array: ArrayId) -> None:
        """The array was to be left, and runs on after all."""
        self._goes_on(array)

    def _goes_on(self, array: ArrayId) -> None:
        self._leaving.discard(array)
        entry = self._applying.get(array)
        if entry is not None:
            self._start(entry)

    @property
    def busy(self) -> bool:
        """Whether md is brought to a state, stops an array, or runs what none was applied to."""
        return bool(self._applying or self._leaving or self._inherited)

    def failures_pending(self, array: ArrayId) -> bool:
        """Whether writes of this array are held by a failure here."""
        if array in self._unlocking or array in self._unsure:
            return True
        return bool(self._held_by.get(array))

    def in_use(self, array: ArrayId, device: DeviceId) -> bool:
        """Whether md here has the device as a good member, or its failure was not released yet."""
        state = self.states.get(array)
        if state is None or self._env.me not in state.running:
            return False
        member = state.member(device)
        good = member is not None and member.state is not MemberState.FAULTY
        return good or device in self._held_by.get(array, set()) or array in self._unsure

    def on_release(self, msg: Release) -> None:
        if msg.stamp > self._release_to.get(msg.key, ZERO):
            self._release_to[msg.key] = msg.stamp
        self._try_release(msg.key)

    def may_release(self, key: str) -> bool:
        """Only the writer's word releases, never the node's own apply."""
        return self._release_to.get(key, ZERO) >= self.applied.get(key, ZERO) > ZERO

    def _try_release(self, key: str) -> None:
        if not self.may_release(key) or self.released.get(key, ZERO) >= self.applied[key]:
            return
        self._digest = None
        self.released[key] = self.applied[key]
        state = self.states.get(key)
        if state is not None:
            self._released_hook(state)
        self._unlock(key)

    def _unlock(self, key: str) -> None:
        """-blocked on every failed member whose failure is committed and released."""
        state = self.states.get(key)
        if state is None:
            return
        held = self._held_by.setdefault(key, set())
        done = {
            device
            for device in held
            if (m := state.member(device)) is None or m.state is MemberState.FAULTY
        }
        started = key in self._starting
        unsure = key in self._unsure
        self._starting.discard(key)
        self._unsure.discard(key)
        if done or unsure or (started and held):
            held -= done
            self._begin_unlocking(state.uuid, done)
        elif started:
            self._env.emit(Activate(state.uuid))

    def _begin_unlocking(self, array: ArrayId, devices: set[DeviceId]) -> None:
        self._unlocking[array] = Unlocking()
        self._env.emit(Unblock(array, tuple(sorted(devices))))
        self._sample(array)

    def _sample(self, array: ArrayId) -> None:
        self._env.timers.cancel((TIMER, array))
        self._samples_asked[array] = self._samples_asked.get(array, 0) + 1
        self._env.emit(SampleStates(array))

    def on_sampled(self, ev: Sampled) -> None:
        """Two clean samples, a gap apart, and the held writes go on."""
        left = max(self._samples_asked.get(ev.array, 0) - 1, 0)
        self._samples_asked[ev.array] = left
        unlocking = self._unlocking.get(ev.array)
        if unlocking is None or left:
            return  # asked for before the latest -blocked
        unlocking.clean_samples = unlocking.clean_samples + 1 if ev.clean else 0
        waits = self._held_by.get(ev.array) or ev.array in self._starting
        if self.sampled_enough(unlocking) and not waits:
            del self._unlocking[ev.array]
            self._env.emit(Activate(ev.array))
            return
        self._env.after((TIMER, ev.array), SAMPLE_GAP_MS)

    def sampled_enough(self, unlocking: Unlocking) -> bool:
        return unlocking.clean_samples >= 2

    def on_timer(self, array: ArrayId) -> None:
        if array in self._unlocking:
            self._sample(array)


def _good(state: ArrayState) -> set[DeviceId]:
    return {m.device for m in state.members if m.state is not MemberState.FAULTY}


def digest(applied: dict[str, Stamp], released: dict[str, Stamp]) -> int:
    """A 63-bit hash of two vectors of stamps."""
    h = hashlib.blake2b(digest_size=8)
    for vector in (applied, released):
        for key in sorted(vector):
            h.update(f"{key} {vector[key].term} {vector[key].seq};".encode())
        h.update(b"|")
    return int.from_bytes(h.digest(), "little") >> 1
