"""Every time span of a cluster, and the proof that together they are safe.

Rules of this file: no clock is read here; a span is a whole number of milliseconds; every
inequality the protocol leans on is one row of :data:`RULES`, with its reason; a cluster whose
timings break one row does not start.

Model. Each clock that takes part (a node's CLOCK_BOOTTIME, a watchdog's, a device's timer)
runs at a rate within ``1 ± drift_ppm / 10^6`` of true time; nothing else is assumed of clocks:
no common origin, no bound on the delay of a message. So, on any one clock:

* whoever must *stop* in time counts ``shrink(span)``: at most ``span`` of true time;
* whoever must *wait* long enough counts ``stretch(span)``: at least ``span`` of true time.

The layout follows the proof in sanlock's ``timeouts.h``; docs/TIMEOUTS.md tells it in prose.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

PPM = 1_000_000
CLOCK_TICK_MS = 1
"""Clocks are read in whole milliseconds: a span may look this much longer than it was."""

SPREAD_MIN_MS = 100
"""Least spread of the election time-outs: a vote round on a LAN, with the fsync of a promise."""

WATCHDOG_PERIODS = 3
"""Watchdog periods that may pass from the last feed within the lease to the reset."""

WATCHDOG_STEP_MS = 1000
"""Linux sets a watchdog in whole seconds (WDIOC_SETTIMEOUT, Documentation/watchdog)."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The timings of a cluster, in milliseconds (``drift_ppm`` in parts per million).

    All nodes of a cluster carry the same values: HELLO compares their :func:`digest`.
    The values are checked by :func:`violations`, not on construction, so that all that is
    wrong with a set can be told at once.
    """

    heartbeat_ms: int = 120
    lease_ms: int = 500
    election_min_ms: int = 560
    election_max_ms: int = 760
    drift_ppm: int = 2000
    io_lease_ms: int = 700
    grace_ms: int = 300
    suspect_ms: int = 400
    evict_ms: int = 1000
    apply_deadline_ms: int = 5000
    prepare_deadline_ms: int = 5000
    probe_deadline_ms: int = 2000
    hold_deadline_ms: int = 5000
    write_deadline_ms: int = 10000
    device_timeout_ms: int = 30000
    watchdog_ms: int = 0
    retry_min_ms: int = 50
    retry_max_ms: int = 2000
    checkpoint_ms: int = 1000
    hold_target_ms: int = 100

    def shrink(self, span_ms: int) -> int:
        """What a clock may count (ms) so that no more than ``span_ms`` truly pass."""
        return span_ms * (PPM - self.drift_ppm) // PPM

    def stretch(self, span_ms: int) -> int:
        """What a clock must count (ms) so that no less than ``span_ms`` truly pass."""
        return -(-span_ms * (PPM + self.drift_ppm) // PPM) + CLOCK_TICK_MS

    def outlast(self, span_ms: int) -> int:
        """What a clock must count (ms) so that any other clock has counted ``span_ms``."""
        return -(-span_ms * (PPM + self.drift_ppm) // (PPM - self.drift_ppm)) + CLOCK_TICK_MS

    def truly_at_most(self, span_ms: int) -> int:
        """The true time (ms, rounded up) in which the slowest clock counts ``span_ms``."""
        return -(-span_ms * PPM // (PPM - self.drift_ppm))

    def truly_at_least(self, span_ms: int) -> int:
        """The true time (ms, rounded down) in which the fastest clock counts ``span_ms``."""
        return (span_ms - CLOCK_TICK_MS) * PPM // (PPM + self.drift_ppm)

    @property
    def lease_usable_ms(self) -> int:
        """How long the writer's gate may stay open, from the *send time* of a round a quorum
        acknowledged, by the writer's clock. Shut it at this very millisecond (``now < end``)."""
        return self.shrink(self.lease_ms)

    @property
    def sticky_ms(self) -> int:
        """How long a voter refuses everybody else after it heard the writer, by its clock."""
        return self.stretch(self.lease_ms)

    @property
    def withhold_ms(self) -> int:
        """How long a starting or newly admitted voter withholds its vote, by its clock.

        See :func:`withhold_after` for a node whose timings may have changed since its last life.
        """
        return self.stretch(self.lease_ms)

    @property
    def io_lease_usable_ms(self) -> int:
        """How long a node may serve I/O, from the *send time* of its own answered request."""
        return self.shrink(self.io_lease_ms)

    @property
    def watchdog_fence_ms(self) -> int | None:
        """When a silent node is fenced by its watchdog, or None if there is no watchdog.

        Counted by the writer from the last request of the node that it may have granted, or
        from its own election. The watchdog counts three times: a node frozen between its check
        and the feed that follows feeds once more, up to one watchdog period late; the kernel
        itself feeds once more when the process ends and its device is closed
        (watchdog_release in drivers/watchdog/watchdog_dev.c), up to one more period later; the
        last period ends in the reset. docs/adr/0010.
        """
        if self.watchdog_ms == 0:
            return None
        silent_ms = self.io_lease_ms + self.grace_ms + WATCHDOG_PERIODS * self.watchdog_ms
        return self.outlast(silent_ms + self.device_timeout_ms)

    @property
    def watchdog_feed_ms(self) -> int:
        """From one feed of the watchdog to the next."""
        return self.watchdog_ms // 4

    @property
    def landed_ms(self) -> int:
        """When nothing can land any more of what a host sent to a device, by any clock, counted
        from when the host is known to have stopped."""
        return self.outlast(self.device_timeout_ms)


_MINUTE_MS = 60_000
_LIMITS: dict[str, tuple[int, int]] = {
    "heartbeat_ms": (1, _MINUTE_MS),
    "lease_ms": (1, _MINUTE_MS),
    "election_min_ms": (1, 2 * _MINUTE_MS),
    "election_max_ms": (1, 2 * _MINUTE_MS),
    "drift_ppm": (1, 100_000),
    "io_lease_ms": (1, 2 * _MINUTE_MS),
    "watchdog_ms": (0, 10 * _MINUTE_MS),
}
_LIMITS_ELSE = (1, 60 * _MINUTE_MS)


def limits(field: str) -> tuple[int, int]:
    """Least and greatest value of one field of :class:`Timing`, in its unit, inclusive."""
    return _LIMITS.get(field, _LIMITS_ELSE)


@dataclass(frozen=True, slots=True)
class Rule:
    """One inequality ``left <= right`` between spans in milliseconds.

    ``raises`` and ``lowers`` name the fields whose growth, or reduction, mends it; the
    inequality is monotone in each, so that the nearest good value can be searched for.
    """

    name: str
    left_text: str
    left_ms: Callable[[Timing], int]
    right_text: str
    right_ms: Callable[[Timing], int]
    why: str
    raises: tuple[str, ...] = ()
    lowers: tuple[str, ...] = ()
    of_watchdog: bool = False

    def holds(self, timing: Timing) -> bool:
        """Whether the inequality holds; one about the watchdog does if there is none."""
        if self.of_watchdog and timing.watchdog_ms == 0:
            return True
        return self.left_ms(timing) <= self.right_ms(timing)

    def stated(self, timing: Timing) -> str:
        """The inequality with its numbers, e.g. ``3 x heartbeat_ms = 360 <= lease_ms = 500``."""
        return (
            f"{self.left_text} = {self.left_ms(timing)} <= "
            f"{self.right_text} = {self.right_ms(timing)}"
        )


def _round_deadline(field: str, what: str) -> Rule:
    """A round that waits for all listed nodes gives up only after a silent one was evicted."""
    return Rule(
        f"{field.removesuffix('_ms')} outlasts eviction",
        "evict_ms on any clock",
        lambda t: t.outlast(t.evict_ms),
        field,
        lambda t: int(getattr(t, field)),
        f"{what} waits for every listed node; were it abandoned before a silent node is evicted, "
        "each retry would meet the same silence.",
        raises=(field,),
        lowers=("evict_ms",),
    )


RULES: tuple[Rule, ...] = (
    Rule(
        "one gate",
        "longest true time of lease_usable_ms",
        lambda t: t.truly_at_most(t.lease_usable_ms),
        "shortest true time of sticky_ms",
        lambda t: t.truly_at_least(t.sticky_ms),
        "The gate is shut lease_usable_ms after the writer sent a round; each voter that "
        "acknowledged it received it later, and votes for nobody else for sticky_ms from then. "
        "Both are cut for drift, so the gate shuts before any quorum of these voters can move on.",
        lowers=("drift_ppm",),
    ),
    Rule(
        "own vote",
        "sticky_ms on any clock",
        lambda t: t.outlast(t.sticky_ms),
        "election_min_ms",
        lambda t: t.election_min_ms,
        "A candidate's own vote counts too, so it must itself have been sticky for long enough; "
        "and whoever heard the same last round is free to grant when the first candidate asks.",
        raises=("election_min_ms",),
        lowers=("lease_ms", "drift_ppm"),
    ),
    Rule(
        "forgotten acknowledgement",
        "withhold_ms on any clock",
        lambda t: t.outlast(t.withhold_ms),
        "election_min_ms",
        lambda t: t.election_min_ms,
        "A starting voter may have acknowledged a lease it forgot: it votes for nobody for "
        "withhold_ms, in which any such lease ends. After a cold start of all nodes together "
        "every vote is free when the first candidate asks, so safety costs no round.",
        raises=("election_min_ms",),
        lowers=("lease_ms", "drift_ppm"),
    ),
    Rule(
        "lease survives two lost rounds",
        "3 x heartbeat_ms",
        lambda t: 3 * t.heartbeat_ms,
        "lease_usable_ms",
        lambda t: t.lease_usable_ms,
        "Each heartbeat is a lease round; two in a row may be lost before the gate shuts.",
        raises=("lease_ms",),
        lowers=("heartbeat_ms",),
    ),
    Rule(
        "votes do not split for ever",
        f"the greater of {SPREAD_MIN_MS} and heartbeat_ms",
        lambda t: max(SPREAD_MIN_MS, t.heartbeat_ms),
        "election_max_ms - election_min_ms",
        lambda t: t.election_max_ms - t.election_min_ms,
        "Time-outs are drawn from this span; the first candidate must usually finish a round of "
        "votes before the second one starts, and nodes differ by one heartbeat in what they heard.",
        raises=("election_max_ms",),
        lowers=("election_min_ms",),
    ),
    Rule(
        "suspicion is not nervous",
        "2 x heartbeat_ms",
        lambda t: 2 * t.heartbeat_ms,
        "suspect_ms",
        lambda t: t.suspect_ms,
        "One lost heartbeat makes nobody suspect; suspicion moves the reads to one member.",
        raises=("suspect_ms",),
        lowers=("heartbeat_ms",),
    ),
    Rule(
        "suspected before it holds",
        "suspect_ms on any clock",
        lambda t: t.outlast(t.suspect_ms),
        "io_lease_usable_ms",
        lambda t: t.io_lease_usable_ms,
        "Moving reads to one member is cheap and comes first; only a longer silence makes a "
        "node hold its I/O. So reads are stable before anybody can wait for the silent node.",
        raises=("io_lease_ms",),
        lowers=("suspect_ms",),
    ),
    Rule(
        "I/O lease survives two lost rounds",
        "3 x heartbeat_ms",
        lambda t: 3 * t.heartbeat_ms,
        "io_lease_usable_ms",
        lambda t: t.io_lease_usable_ms,
        "Requests ride on heartbeats; two in a row may be lost before applications wait.",
        raises=("io_lease_ms",),
        lowers=("heartbeat_ms",),
    ),
    Rule(
        "evicted after it holds",
        "io_lease_ms on any clock",
        lambda t: t.outlast(t.io_lease_ms),
        "evict_ms",
        lambda t: t.evict_ms,
        "A node that still runs has held its I/O by itself when the others decide without it. "
        "(Eviction alone proves nothing: what needs the node stopped waits until it is fenced.)",
        raises=("evict_ms",),
        lowers=("io_lease_ms",),
    ),
    Rule(
        "grace is enough to hold",
        "hold_target_ms",
        lambda t: t.hold_target_ms,
        "grace_ms",
        lambda t: t.grace_ms,
        "In the grace time a node confirms its holds, which drains the writes in flight; no "
        "longer than a window is meant to hold a write.",
        raises=("grace_ms",),
        lowers=("hold_target_ms",),
    ),
    Rule(
        "an election reboots nobody",
        "2 x (2 x election_max_ms - election_min_ms) on any clock",
        lambda t: t.outlast(2 * (2 * t.election_max_ms - t.election_min_ms)),
        "lease_usable_ms + grace_ms + 3/4 watchdog_ms",
        lambda t: t.lease_usable_ms + t.grace_ms + t.watchdog_ms - t.watchdog_feed_ms,
        "While there is no writer no I/O lease is renewed, and the old writer's ends with its "
        "lease; one failed election and a second good one must pass before the watchdog of a "
        "healthy node, fed every quarter of its time, fires. A voter of lower priority stands "
        "one spread later than election_max_ms.",
        raises=("watchdog_ms",),
        lowers=("election_max_ms",),
        of_watchdog=True,
    ),
    Rule(
        "the writer's own I/O",
        "lease_ms",
        lambda t: t.lease_ms,
        "io_lease_ms",
        lambda t: t.io_lease_ms,
        "The writer's lease is its own I/O lease, too. After a hand-over, before that lease has "
        "ended, its successor counts io_lease_ms for it as for everybody else.",
        raises=("io_lease_ms",),
        lowers=("lease_ms",),
        of_watchdog=True,
    ),
    Rule(
        "watchdog in whole seconds",
        f"watchdog_ms modulo {WATCHDOG_STEP_MS}",
        lambda t: t.watchdog_ms % WATCHDOG_STEP_MS,
        "0",
        lambda t: 0,
        "Linux sets watchdogs in whole seconds; a rounded value would break the fencing time.",
        raises=("watchdog_ms",),
        lowers=("watchdog_ms",),
        of_watchdog=True,
    ),
    _round_deadline("apply_deadline_ms", "Apply"),
    _round_deadline("prepare_deadline_ms", "Prepare"),
    _round_deadline("probe_deadline_ms", "A probe of a failed member"),
    _round_deadline("hold_deadline_ms", "A hold or window"),
    Rule(
        "probed before applied",
        "probe_deadline_ms",
        lambda t: t.probe_deadline_ms,
        "apply_deadline_ms",
        lambda t: t.apply_deadline_ms,
        "A failure is probed while writes are held; the question takes no longer than its answer.",
        raises=("apply_deadline_ms",),
        lowers=("probe_deadline_ms",),
    ),
    Rule(
        "late before lost",
        "write_deadline_ms on any clock",
        lambda t: t.outlast(t.write_deadline_ms),
        "device_timeout_ms",
        lambda t: t.device_timeout_ms,
        "A slow member is failed by a commit before its kernel gives the write up by itself.",
        raises=("device_timeout_ms",),
        lowers=("write_deadline_ms",),
    ),
    Rule(
        "hold target below its deadline",
        "2 x hold_target_ms",
        lambda t: 2 * t.hold_target_ms,
        "hold_deadline_ms",
        lambda t: t.hold_deadline_ms,
        "Windows are sized for the target; the deadline is for nodes that fail to answer.",
        raises=("hold_deadline_ms",),
        lowers=("hold_target_ms",),
    ),
    Rule(
        "backoff grows",
        "retry_min_ms",
        lambda t: t.retry_min_ms,
        "retry_max_ms",
        lambda t: t.retry_max_ms,
        "Every retry waits between these two.",
        raises=("retry_max_ms",),
        lowers=("retry_min_ms",),
    ),
)


def violations(timing: Timing) -> list[str]:
    """What is wrong with a set of timings and what to change to what; empty if it is safe."""
    found = _out_of_limits(timing)
    if found:  # the inequalities say nothing useful about spans that cannot be
        return found
    return [
        f"{rule.name}: {rule.stated(timing)} does not hold; {_mend_text(rule, timing)}. {rule.why}"
        for rule in RULES
        if not rule.holds(timing)
    ]


def proof(timing: Timing) -> list[str]:
    """The whole argument with the numbers of this set, one line a step (for people)."""
    low, high = limits("drift_ppm")
    if not low <= timing.drift_ppm <= high:
        return _out_of_limits(timing)
    fence_ms = timing.watchdog_fence_ms
    lines = [
        f"Clocks run within {timing.drift_ppm} ppm of true time; who must stop counts less, "
        "who must wait counts more. All spans in ms.",
        f"lease_usable_ms = {timing.lease_usable_ms}: lease_ms less drift.",
        f"sticky_ms = withhold_ms = {timing.sticky_ms}: lease_ms plus drift, rounded up, plus "
        f"{CLOCK_TICK_MS} for a clock read in whole ms.",
        f"io_lease_usable_ms = {timing.io_lease_usable_ms}: io_lease_ms less drift.",
        "watchdog_fence_ms: none, there is no watchdog; a silent node needs another fence."
        if fence_ms is None
        else f"watchdog_fence_ms = {fence_ms}: io_lease_ms + grace_ms + {WATCHDOG_PERIODS} x "
        "watchdog_ms (a late feed, the feed of the kernel when the process ends, the reset) + "
        "device_timeout_ms, plus drift of both clocks, since the node's last request.",
        f"landed_ms = {timing.landed_ms}: device_timeout_ms plus drift; when a host is known to "
        "have stopped, nothing it sent can land after that.",
        f"suspect_ms = {timing.suspect_ms}: keep it below the failure detection of the file "
        "system or cluster stack above, which may replay its journal from then on.",
    ]
    lines += [f"VIOLATED {text}" for text in _out_of_limits(timing)]
    for rule in RULES:
        if rule.of_watchdog and timing.watchdog_ms == 0:
            continue
        verdict = "holds" if rule.holds(timing) else f"VIOLATED, {_mend_text(rule, timing)}"
        lines.append(f"{rule.name}: {rule.stated(timing)}: {verdict}. {rule.why}")
    return lines


def digest(timing: Timing) -> str:
    """64 hexadecimal digits that differ if any timing does; compared in HELLO."""
    text = "".join(f"{f.name}={getattr(timing, f.name)}\n" for f in fields(timing))
    return hashlib.sha256(f"mdcluster timing 1\n{text}".encode()).hexdigest()


def withhold_after(timing: Timing, lease_before_ms: int) -> int:
    """How long (ms) a starting voter withholds its vote if its last life had another lease.

    The lease it may have acknowledged and forgotten is that of its *last* life: with lease_ms
    shortened from 5000 to 500 and two of three nodes restarted, ``withhold_ms`` of the new
    set would elect a writer while the third one's gate is open by the old set.
    """
    return timing.stretch(max(timing.lease_ms, lease_before_ms))


def mends(rule: Rule, timing: Timing) -> list[tuple[str, int]]:
    """Single changes ``(field, nearest value)`` each of which makes a broken rule hold."""
    changes = [(name, _nearest(rule, timing, name, limits(name)[1])) for name in rule.raises]
    changes += [(name, _nearest(rule, timing, name, limits(name)[0])) for name in rule.lowers]
    return [(name, value) for name, value in changes if value is not None]


def _nearest(rule: Rule, timing: Timing, name: str, far: int) -> int | None:
    """The value of a field between now and ``far``, nearest to now, with which a rule holds."""
    bad, good = int(getattr(timing, name)), far
    if rule.name == "watchdog in whole seconds":
        step_ms = bad // WATCHDOG_STEP_MS * WATCHDOG_STEP_MS
        return step_ms if far < bad else min(step_ms + WATCHDOG_STEP_MS, far)
    if not rule.holds(replace(timing, **{name: good})):
        return None
    while abs(good - bad) > 1:
        middle = (good + bad) // 2
        if rule.holds(replace(timing, **{name: middle})):
            good = middle
        else:
            bad = middle
    return good


def _mend_text(rule: Rule, timing: Timing) -> str:
    changes = []
    for name, value in mends(rule, timing):
        now = getattr(timing, name)
        verb, bound = ("raise", "at least") if value > now else ("lower", "at most")
        changes.append(f"{verb} {name} from {now} to {bound} {value}")
    return ", or ".join(changes) or "no single change mends it: start from the defaults"


def _out_of_limits(timing: Timing) -> list[str]:
    found = []
    for field in fields(timing):
        value, (low, high) = getattr(timing, field.name), limits(field.name)
        if not low <= value <= high:
            found.append(f"{field.name} = {value}: expected {low} to {high}")
    return found
