"""What happened between two looks at the cluster, in mdadm's names for it. Pure.

Alerts come from states, not from messages: what happened while nobody looked, or while a writer
died, is found at the next look. Source of names and rules: mdadm 4.2, Monitor.c (check_array).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from mdcluster.control.arrays import ArrayWord, MdstatArray, MemberInfo, MemberWord, SyncState
from mdcluster.control.status import ClusterStatus

from .output import device_of

NO_WRITER_MS: Final = 30_000
"""How long there may be no writer (elections take a second or two) before that is an alert."""
WAITING_MS: Final = 60_000
DAEMON_LOST_MS: Final = 10_000
HELD_MAX: Final = 256

MAILED: Final = (
    *("Fail", "FailSpare", "DegradedArray", "SparesMissing", "TestMessage"),
    *("NodeLost", "NoWriter", "Waiting", "DaemonLost"),
)
_CRITICAL: Final = (
    *("Fail", "FailSpare", "DegradedArray", "DeviceDisappeared"),
    *("NodeLost", "NoWriter", "DaemonLost"),
)
_WARNING: Final = ("Rebuild", "SparesMissing", "Waiting", "WriterChanged")
_SPARE: Final = (MemberWord.SPARE, MemberWord.RECOVERING)


class Alert(NamedTuple):
    """device: the array's, or the cluster's name. member: a component device or a node.

    extra: more in words. local: only this node can tell it.
    """

    event: str
    device: str
    member: str = ""
    extra: str = ""
    local: bool = False

    @property
    def severity(self) -> str:
        """``critical``, ``warning`` or ``info``, as mdadm's manual has them."""
        if self.event in _CRITICAL:
            return "critical"
        return "warning" if self.event.startswith(_WARNING) else "info"

    @property
    def third(self) -> str:
        """The third argument of PROGRAM: a device or, after a blank, words (Monitor.c); or ''."""
        return self.member or (f" {self.extra}" if self.extra else "")


class Look(NamedTuple):
    """All that is looked at, at one time."""

    status: ClusterStatus
    arrays: tuple[MdstatArray, ...]


class Wanted(NamedTuple):
    """names: the arrays to watch, by name or UUID; all, and the cluster, if ``scan``.

    spares: how many an array should have, by name or UUID (ARRAY lines of mdadm.conf).
    """

    names: frozenset[str] = frozenset()
    scan: bool = False
    increment_percent: int = 20
    spares: Mapping[str, int] = {}
    test: bool = False

    def has(self, array: MdstatArray) -> bool:
        return self.scan or bool({array.name, array.uuid} & self.names)


class Tracker:
    """Turns looks into alerts. Times are of a clock that never goes back."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._last: Look | None = None
        self._ruled: ClusterStatus | None = None  # the latest with a writer
        self._no_writer_ms: int | None = None
        self._no_writer_told = False
        self._waiting_told: frozenset[str] = frozenset()
        self._lost_ms: int | None = None
        self._lost_told = False

    def see(self, look: Look, now_ms: int) -> list[Alert]:
        """What is new since the last look."""
        before, self._last = self._last, look
        alerts = list(self._back(look))
        if self._wanted.scan:
            alerts += self._cluster(look, now_ms)
        old = {array.uuid: array for array in before.arrays} if before is not None else {}
        new = [array for array in look.arrays if self._wanted.has(array)]
        for array in new:
            if before is None:
                alerts += self._first(array)
            else:
                alerts += self._array(old.get(array.uuid), array)
        gone = set(old) - {array.uuid for array in look.arrays}
        for array in (old[uuid] for uuid in sorted(gone)):
            if self._wanted.has(array) and _runs(array):
                alerts.append(Alert("DeviceDisappeared", device_of(array.name)))
        if before is None:
            found = {name for array in new for name in (array.name, array.uuid)}
            missing = sorted(self._wanted.names - found)
            alerts += [Alert("DeviceDisappeared", device_of(name)) for name in missing]
        return alerts

    def blind(self, why: str, now_ms: int) -> list[Alert]:
        """The daemon of this host could not be asked."""
        if self._lost_ms is None:
            self._lost_ms = now_ms
        if self._lost_told or now_ms - self._lost_ms < DAEMON_LOST_MS:
            return []
        self._lost_told = True
        name = self._last.status.name if self._last is not None else "mdcluster"
        return [Alert("DaemonLost", name, extra=why, local=True)]

    def _back(self, look: Look) -> Iterator[Alert]:
        if self._lost_told:
            yield Alert("DaemonBack", look.status.name, look.status.node, local=True)
        self._lost_ms, self._lost_told = None, False

    # --- the cluster ------------------------------------------------------------------

    def _cluster(self, look: Look, now_ms: int) -> Iterator[Alert]:
        status, name = look.status, look.status.name
        yield from self._writer(status, now_ms)
        long = {w.subject: w.reason for w in status.waiting if w.since_ms >= WAITING_MS}
        for subject, reason in long.items():
            if subject not in self._waiting_told:
                arrays = {array.name for array in look.arrays}
                device = device_of(subject) if subject in arrays else name
                yield Alert("Waiting", device, extra=reason)
        self._waiting_told = frozenset(long)
        if status.writer:  # a daemon that has just started sees nobody yet
            before, self._ruled = self._ruled, status
            yield from self._nodes(before or status, status)

    def _nodes(self, before: ClusterStatus, status: ClusterStatus) -> Iterator[Alert]:
        name = status.name
        if status.writer != before.writer:
            yield Alert("WriterChanged", name, status.writer)
        alive = {node.name for node in status.nodes if node.alive}
        were = {node.name for node in before.nodes if node.alive}
        known = {node.name for node in status.nodes}
        for node in sorted((were - alive) & known):
            yield Alert("NodeLost", name, node)
        for node in sorted(alive - were & known):
            yield Alert("NodeBack", name, node)

    def _writer(self, status: ClusterStatus, now_ms: int) -> Iterator[Alert]:
        if status.writer:
            self._no_writer_ms, self._no_writer_told = None, False
            return
        if self._no_writer_ms is None:
            self._no_writer_ms = now_ms
        if not self._no_writer_told and now_ms - self._no_writer_ms >= NO_WRITER_MS:
            self._no_writer_told = True
            reasons = "; ".join(wait.reason for wait in status.waiting)
            yield Alert("NoWriter", status.name, extra=reasons)

    # --- one array --------------------------------------------------------------------

    def _first(self, array: MdstatArray) -> Iterator[Alert]:
        device = device_of(array.name)
        if self._wanted.test:
            yield Alert("TestMessage", device, local=True)
        if not _runs(array):
            if {array.name, array.uuid} & self._wanted.names:
                yield Alert("DeviceDisappeared", device)
            return
        yield from self._noticed(array)

    def _noticed(self, array: MdstatArray) -> Iterator[Alert]:
        """What is told of an array that was not seen running before."""
        device = device_of(array.name)
        in_sync = {m.role for m in array.members if m.state is MemberWord.IN_SYNC}
        if len(in_sync) < array.raid_disks:
            yield Alert("DegradedArray", device)
        expected = self._wanted.spares.get(array.name, self._wanted.spares.get(array.uuid, 0))
        if sum(m.state is MemberWord.SPARE for m in array.members) < expected:
            yield Alert("SparesMissing", device)

    def _array(self, before: MdstatArray | None, after: MdstatArray) -> Iterator[Alert]:
        device = device_of(after.name)
        if before is None or not _runs(before):
            if _runs(after):
                yield Alert("NewArray", device)
                yield from self._noticed(after)
            return
        if not _runs(after):
            yield Alert("DeviceDisappeared", device)
            return
        yield from self._rebuild(before, after)
        yield from _members(before, after)

    def _rebuild(self, before: MdstatArray, after: MdstatArray) -> Iterator[Alert]:
        device, step = device_of(after.name), self._wanted.increment_percent
        was, now = _percent(before), _percent(after)
        same = before.sync and after.sync and before.sync.kind == after.sync.kind
        if was is not None and not same:
            found = after.mismatched_sectors
            text = f"mismatches found: {found} (on raid level {after.level})" if found else ""
            yield Alert("RebuildFinished", device, extra=text)
            was = None
        if now is not None and was is None:
            yield Alert("RebuildStarted", device)
        elif now is not None and was is not None and now // step > was // step:
            yield Alert(f"Rebuild{now:02d}", device)


def _members(before: MdstatArray, after: MdstatArray) -> Iterator[Alert]:
    device = device_of(after.name)
    old = {member.uuid: member for member in before.members}
    new = {member.uuid: member for member in after.members}
    for uuid, member in old.items():
        now = new.get(uuid)
        if member.state is MemberWord.IN_SYNC and (now is None or now.state is not member.state):
            yield Alert("Fail", device, _shown(now or member, member))
        elif member.state in _SPARE and now is not None and now.state is MemberWord.FAULTY:
            yield Alert("FailSpare", device, _shown(now, member))
    for uuid, member in new.items():
        was = old.get(uuid)
        joined = was is None or was.state is not MemberWord.IN_SYNC
        if member.state is MemberWord.IN_SYNC and joined:
            yield Alert("SpareActive", device, _shown(member, member))


def _shown(member: MemberInfo, before: MemberInfo) -> str:
    """Its path on this node now or before; its UUID if it has none."""
    return member.path or before.path or member.uuid


def _runs(array: MdstatArray) -> bool:
    return array.state is not ArrayWord.INACTIVE


def _percent(array: MdstatArray) -> int | None:
    """How far a pass is; None if there is none, or it is only due."""
    sync = array.sync
    if sync is None or (sync.state is not SyncState.RUNNING and not sync.position_sectors):
        return None
    return min(100 * sync.position_sectors // max(sync.end_sectors, 1), 100)


class Outbox:
    """Who of all the nodes' monitors sends an alert: the one beside the writer.

    The others keep it until that one surely had its time, so that a writer that dies with an alert
    takes none along; then a second one may be sent, but not none. While there is no writer, what is
    kept stays; after NO_WRITER_MS the first of the nodes that see each other sends.
    """

    def __init__(self, keep_ms: int, *, everywhere: bool) -> None:
        self._keep_ms = keep_ms
        self._everywhere = everywhere
        self._kept: deque[tuple[int, Alert]] = deque(maxlen=HELD_MAX)
        self._sender = ""
        self._none_ms: int | None = None

    def __len__(self) -> int:
        return len(self._kept)

    def due(self, alerts: list[Alert], status: ClusterStatus | None, now_ms: int) -> list[Alert]:
        """What this node sends now, of these new ones and those kept. status: None if unknown."""
        send = [alert for alert in alerts if alert.local or self._everywhere]
        self._kept.extend((now_ms, alert) for alert in alerts if alert not in send)
        if status is None:
            return send
        sender = self._who(status, now_ms)
        if sender == status.node:
            send += [alert for _, alert in self._kept]
            self._kept.clear()
        elif sender and sender != self._sender:
            self._kept = deque(((now_ms, alert) for _, alert in self._kept), HELD_MAX)
        elif sender:
            while self._kept and now_ms - self._kept[0][0] >= self._keep_ms:
                self._kept.popleft()
        self._sender = sender or self._sender
        return send

    def _who(self, status: ClusterStatus, now_ms: int) -> str:
        if status.writer:
            self._none_ms = None
            return status.writer
        if self._none_ms is None:
            self._none_ms = now_ms
        if now_ms - self._none_ms < NO_WRITER_MS:
            return ""
        return min([node.name for node in status.nodes if node.alive], default=status.node)
