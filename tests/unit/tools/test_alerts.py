"""What the monitor finds between two looks, and which node's monitor sends it."""

import pytest

from mdcluster.control.arrays import (
    ArrayWord,
    MdstatArray,
    MemberInfo,
    MemberWord,
    SyncInfo,
    SyncState,
    SyncWord,
    Waiting,
)
from mdcluster.control.status import ClusterStatus, NodeInfo, NodeRole
from mdcluster.tools import mdadmconf
from mdcluster.tools.alerts import (
    DAEMON_LOST_MS,
    HELD_MAX,
    NO_WRITER_MS,
    WAITING_MS,
    Alert,
    Look,
    Outbox,
    Tracker,
    Wanted,
)
from tests.unit.control.samples import MDSTAT, STATUS

GOOD = (
    MemberInfo(0, 0, MemberWord.IN_SYNC, "d0", "/dev/sda"),
    MemberInfo(1, 1, MemberWord.IN_SYNC, "d1", "/dev/sdb"),
)
DATA = MDSTAT.arrays[0]._replace(name="data", uuid="u1", members=GOOD, sync=None)
ALL = Wanted(scan=True)
DEVICE = "/dev/md/data"


def cluster(writer: str = "a", node: str = "a", alive: str = "abc") -> ClusterStatus:
    nodes = tuple(NodeInfo(n, f"n{n}", NodeRole.VOTER, n in alive) for n in "abc")
    return STATUS._replace(writer=writer, node=node, nodes=nodes, waiting=())


def look(*arrays: MdstatArray, status: ClusterStatus | None = None) -> Look:
    return Look(status or cluster(), arrays)


def between(*looks: Look, wanted: Wanted = ALL) -> list[tuple[str, ...]]:
    """What the last of these looks brings."""
    tracker = Tracker(wanted)
    for number, one in enumerate(looks):
        found = tracker.see(one, number * 1000)
    return [tuple(filter(None, alert[:4])) for alert in found]


def members(*states: MemberWord) -> MdstatArray:
    return DATA._replace(
        members=tuple(m._replace(state=s) for m, s in zip(GOOD, states, strict=True))
    )


def copied(percent: int, kind: SyncWord = SyncWord.RECOVER) -> MdstatArray:
    return DATA._replace(sync=SyncInfo(kind, SyncState.RUNNING, percent, 100))


IN_SYNC, FAULTY, SPARE = MemberWord.IN_SYNC, MemberWord.FAULTY, MemberWord.SPARE


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (DATA, DATA, []),
        (DATA, members(IN_SYNC, FAULTY), [("Fail", DEVICE, "/dev/sdb")]),
        (DATA, DATA._replace(members=GOOD[:1]), [("Fail", DEVICE, "/dev/sdb")]),
        (members(IN_SYNC, SPARE), members(IN_SYNC, FAULTY), [("FailSpare", DEVICE, "/dev/sdb")]),
        (members(IN_SYNC, SPARE), DATA, [("SpareActive", DEVICE, "/dev/sdb")]),
        (members(IN_SYNC, FAULTY), members(IN_SYNC, FAULTY), []),
        (members(IN_SYNC, SPARE), DATA._replace(members=GOOD[:1]), []),
        (DATA, copied(0), [("RebuildStarted", DEVICE)]),
        (copied(3), copied(19), []),
        (copied(19), copied(41), [("Rebuild41", DEVICE)]),
        (copied(41), copied(41), []),
        (copied(90), DATA, [("RebuildFinished", DEVICE)]),
        (
            copied(90, SyncWord.CHECK),
            DATA._replace(mismatched_sectors=8),
            [("RebuildFinished", DEVICE, "mismatches found: 8 (on raid level 1)")],
        ),
        (
            copied(90),
            copied(1, SyncWord.CHECK),
            [("RebuildFinished", DEVICE), ("RebuildStarted", DEVICE)],
        ),
        (DATA, DATA._replace(state=ArrayWord.INACTIVE), [("DeviceDisappeared", DEVICE)]),
        (DATA._replace(state=ArrayWord.INACTIVE), DATA, [("NewArray", DEVICE)]),
    ],
)
def test_one_array(before: MdstatArray, after: MdstatArray, told: list[tuple[str, ...]]) -> None:
    assert between(look(before), look(after)) == told


def test_a_pass_that_is_held_up_has_not_ended() -> None:
    held = copied(30)
    held = held._replace(sync=held.sync and held.sync._replace(state=SyncState.PENDING))
    assert between(look(copied(30)), look(held)) == between(look(held), look(copied(30))) == []


def test_arrays_come_and_go() -> None:
    assert between(look(), look(DATA)) == [("NewArray", DEVICE)]
    assert between(look(DATA), look()) == [("DeviceDisappeared", DEVICE)]
    degraded = members(IN_SYNC, FAULTY)
    assert between(look(), look(degraded)) == [("NewArray", DEVICE), ("DegradedArray", DEVICE)]
    assert between(look(DATA)) == []
    assert between(look(degraded)) == [("DegradedArray", DEVICE)]
    stopped = DATA._replace(state=ArrayWord.INACTIVE)
    assert between(look(stopped)) == []


def test_only_what_was_named() -> None:
    wanted = Wanted(frozenset({"data", "gone"}), test=True)
    other = DATA._replace(name="other", uuid="u2")
    assert between(look(DATA, other), wanted=wanted) == [
        ("TestMessage", DEVICE),
        ("DeviceDisappeared", "/dev/md/gone"),
    ]
    lost = look(DATA, status=cluster(alive="ab"))
    assert between(look(DATA, other), lost, wanted=wanted) == []
    assert between(look(DATA), look(), wanted=wanted) == [("DeviceDisappeared", DEVICE)]


def test_spares_that_should_be_there() -> None:
    assert between(look(DATA), wanted=ALL._replace(spares={"data": 1})) == [
        ("SparesMissing", DEVICE)
    ]
    assert between(look(DATA), wanted=ALL._replace(spares={"data": 0, "x": 2})) == []


def test_nodes_and_writers() -> None:
    now = look(status=cluster(writer="b", alive="bc"))
    assert between(look(), now) == [
        ("WriterChanged", STATUS.name, "b"),
        ("NodeLost", STATUS.name, "a"),
    ]
    assert between(now, look(status=cluster(writer="b"))) == [("NodeBack", STATUS.name, "a")]


def test_a_daemon_that_has_just_started_sees_nobody_yet() -> None:
    tracker = Tracker(ALL)
    alone = look(status=cluster(writer="", alive="a"))
    assert tracker.see(look(), 0) == tracker.see(alone, 0) == []
    assert tracker.see(look(), 0) == [], "all of them are back"
    tracker.see(alone, 0)
    told = tracker.see(look(status=cluster(writer="b", alive="ab")), 0)
    assert [(one.event, one.member) for one in told] == [("WriterChanged", "b"), ("NodeLost", "c")]


def test_no_writer_is_told_once_and_only_after_a_while() -> None:
    tracker = Tracker(ALL)
    none = look(status=cluster(writer="")._replace(waiting=(Waiting("cluster", "no quorum"),)))
    assert tracker.see(none, 0) == tracker.see(none, NO_WRITER_MS - 1) == []
    (told,) = tracker.see(none, NO_WRITER_MS)
    assert told == Alert("NoWriter", STATUS.name, extra="no quorum") and told.third[0] == " "
    assert tracker.see(none, 2 * NO_WRITER_MS) == []


def test_what_waits_for_long_is_told_once() -> None:
    def waits(since_ms: int) -> Look:
        waiting = (Waiting("data", "b misses d1", since_ms),)
        return look(DATA, status=cluster()._replace(waiting=waiting))

    told = [("Waiting", DEVICE, "b misses d1")]
    assert between(look(DATA), waits(WAITING_MS - 1)) == []
    assert between(look(DATA), waits(WAITING_MS)) == told
    assert between(look(DATA), waits(WAITING_MS), waits(2 * WAITING_MS)) == []
    assert between(waits(WAITING_MS), look(DATA), waits(WAITING_MS)) == told


def test_a_daemon_that_does_not_answer() -> None:
    tracker = Tracker(ALL)
    tracker.see(look(DATA), 0)
    assert tracker.blind("frozen", 1000) == []
    (lost,) = tracker.blind("frozen", 1000 + DAEMON_LOST_MS)
    assert (lost.event, lost.device, lost.local) == ("DaemonLost", STATUS.name, True)
    assert tracker.blind("frozen", 9_000_000) == []
    after = tracker.see(look(members(IN_SYNC, FAULTY)), 9_000_001)
    assert [alert.event for alert in after] == ["DaemonBack", "Fail"]


# --- who sends -----------------------------------------------------------------------------------

FAIL = Alert("Fail", DEVICE, "/dev/sdb")


def test_the_monitor_beside_the_writer_sends() -> None:
    here, there = (Outbox(60_000, everywhere=False) for _ in range(2))
    assert here.due([FAIL], cluster("a", "a"), 0) == [FAIL]
    assert there.due([FAIL], cluster("a", "b"), 0) == []
    assert there.due([], cluster("a", "b"), 60_000) == [] and not len(there)
    assert there.due([], cluster("b", "b"), 60_001) == []


def test_a_writer_that_dies_takes_no_alert_along() -> None:
    next_, third = (Outbox(60_000, everywhere=False) for _ in range(2))
    for box, node in ((next_, "b"), (third, "c")):
        assert box.due([FAIL], cluster("a", node), 0) == []
        assert box.due([], cluster("", node), 59_000) == []
        assert box.due([], cluster("", node), 61_000) == []
    assert next_.due([], cluster("b", "b"), 62_000) == [FAIL]
    assert third.due([], cluster("b", "c"), 62_000) == []
    assert third.due([], cluster("c", "c"), 121_999) == [FAIL]  # b died as well, before its time


def test_without_a_writer_the_first_that_lives_sends() -> None:
    first, second = (Outbox(60_000, everywhere=False) for _ in range(2))
    for box, node in ((first, "b"), (second, "c")):
        assert box.due([FAIL], cluster("", node, "bc"), 0) == []
        now = box.due([], cluster("", node, "bc"), NO_WRITER_MS)
        assert now == ([FAIL] if box is first else [])


def test_everywhere_local_and_bounded() -> None:
    assert Outbox(1, everywhere=True).due([FAIL], None, 0) == [FAIL]
    box = Outbox(60_000, everywhere=False)
    test = Alert("TestMessage", DEVICE, local=True)
    assert box.due([test, *[FAIL] * 2 * HELD_MAX], cluster("a", "b"), 0) == [test]
    assert len(box) == HELD_MAX


def test_severities() -> None:
    found = {
        name: Alert(name, "").severity
        for name in ("Fail", "Rebuild40", "NewArray", "NodeLost", "WriterChanged", "SpareActive")
    }
    assert list(found.values()) == ["critical", "warning", "info", "critical", "warning", "info"]


# --- mdadm.conf ----------------------------------------------------------------------------------


def test_mdadm_conf() -> None:
    text = (
        "# MAILADDR nobody\nMAILADDR root # us\nMAILADDR second\nmailf mdadm <x@y>\n"
        "PROG /bin/true\n"
        "MONITORDELAY 30\nDEVICE partitions\nARRAY /dev/md/data spares=2\n"
        "  UUID=8a2d4b1c:0f3e4a5b:9c6d7e8f:90a1b2c3\nARRAY <ignore> UUID=1\nbroken '\n\n"
    )
    conf = mdadmconf.parse(text)
    assert conf[:4] == ("root", "mdadm <x@y>", "/bin/true", 30)
    assert conf.spares == {"data": 2, "8a2d4b1c-0f3e-4a5b-9c6d-7e8f90a1b2c3": 2}
    assert mdadmconf.load("none") == mdadmconf.Conf()
    with pytest.raises(mdadmconf.ConfError, match="cannot be read: No such file"):
        mdadmconf.load("/nonexistent/mdadm.conf")
