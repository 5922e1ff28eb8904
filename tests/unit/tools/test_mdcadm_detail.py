"""--detail, --mdstat and --cluster from fixed data: golden text, and the regexes of monitoring."""

import io
import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.control.arrays import (
    ArrayDetail,
    ArrayWord,
    MemberInfo,
    MemberWord,
    SyncInfo,
    SyncState,
    SyncWord,
    Waiting,
)
from mdcluster.control.status import WhyData
from mdcluster.metadata import examine
from mdcluster.tools import cluster, detail, mdstat
from mdcluster.tools.output import Output, duration, one_line
from tests.unit.control.samples import DETAIL, MDSTAT, STATUS, SYNC


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


GOLDEN = """\
/dev/md/data:
           Version : 1.2
     Creation Time : Tue Nov 14 22:13:20 2023
        Raid Level : raid1
        Array Size : 1046528 (1022.00 MiB 1071.64 MB)
     Used Dev Size : 1046528 (1022.00 MiB 1071.64 MB)
      Raid Devices : 2
     Total Devices : 4
       Persistence : Superblock is persistent

     Intent Bitmap : Internal(Clustered)

       Update Time : Tue Nov 14 23:13:20 2023
             State : active, degraded, recovering 
    Active Devices : 1
   Working Devices : 3
    Failed Devices : 1
     Spare Devices : 2

Consistency Policy : bitmap

    Rebuild Status : 12% complete

              Name : data
      Cluster Name : blue
              UUID : 8a2d4b1c:0f3e4a5b:9c6d7e8f:90a1b2c3
            Events : 12884901898
        Running On : a, b, c
           Waiting : resync: window of node c (for 1.5 s)

    Number   Major   Minor   RaidDevice State
       0       8        0        0      active sync   /dev/sda
       3       8       48        1      spare rebuilding   /dev/sdd

       1       8       16        -      faulty   /dev/sdb
       2       0        0        -      spare   missing
"""  # noqa: W291  mdadm prints a blank after the state


def test_detail_is_mdadms_line_by_line() -> None:
    assert detail.detail_text(DETAIL) == GOLDEN


def raid10(states: str, layout: int = 0x102) -> ArrayDetail:
    """A raid10 whose roles are in sync (U) or removed (_)."""
    members = tuple(
        MemberInfo(n, n, MemberWord.IN_SYNC, f"d{n}", f"/dev/sd{n}", 8, n)
        for n, state in enumerate(states)
        if state == "U"
    )
    return DETAIL._replace(
        level=10,
        layout=layout,
        chunk_sectors=1024,
        raid_disks=len(states),
        members=members,
        sync=None,
        bitmap=None,
        waiting=(),
        state=ArrayWord.CLEAN,
    )


def test_detail_of_a_raid10_with_removed_members() -> None:
    text = detail.detail_text(raid10("U_UU"))
    assert "            Layout : near=2\n        Chunk Size : 512K\n\n" in text
    assert "Consistency Policy : resync\n" in text
    assert "             State : clean, degraded \n" in text
    assert "       0       8        0        0      active sync set-A   /dev/sd0\n" in text
    assert "       -       0        0        1      removed\n" in text
    assert "       3       8        3        3      active sync set-B   /dev/sd3\n" in text
    assert text.endswith("/dev/sd3\n")


@pytest.mark.parametrize(
    ("states", "code"),
    [("UUUU", 0), ("U_UU", 1), ("U__U", 1), ("__UU", 2), ("UU__", 2), ("UUU", 0), ("U_U", 1)],
)
def test_the_exit_codes_of_test(states: str, code: int) -> None:
    assert detail.test_code(raid10(states)) == code


def test_a_raid1_is_usable_with_one_member_and_not_without() -> None:
    assert detail.test_code(DETAIL) == 1
    assert detail.test_code(DETAIL._replace(members=DETAIL.members[1:])) == 2
    assert detail.state_words(DETAIL._replace(members=())) == "active, FAILED, recovering"


@pytest.mark.parametrize("layout", [0, 0x100, 2, 0x10201, 0xFFFF])
def test_a_layout_from_nowhere_does_no_harm(layout: int) -> None:
    array = raid10("UU", layout)
    detail.detail_text(array)
    assert detail.test_code(array) == 0


@pytest.mark.parametrize(
    ("kind", "state", "words"),
    [
        (SyncWord.RESYNC, SyncState.RUNNING, "resyncing"),
        (SyncWord.BITMAP, SyncState.PENDING, "resyncing (PENDING)"),
        (SyncWord.CHECK, SyncState.RUNNING, "checking"),
        (SyncWord.RECOVER, SyncState.DELAYED, "recovering (DELAYED)"),
    ],
)
def test_the_state_says_what_is_done(kind: SyncWord, state: SyncState, words: str) -> None:
    array = raid10("UU")._replace(sync=SyncInfo(kind, state, 0, 100))
    assert detail.state_words(array) == f"clean, {words}"


def test_a_replacement_has_a_row_behind_the_member_it_replaces() -> None:
    members = (
        MemberInfo(0, 0, MemberWord.IN_SYNC, "d0", "/dev/sda", 8, 0),
        MemberInfo(2, 0, MemberWord.RECOVERING, "d2", "/dev/sdc", 8, 32, replacement=True),
        MemberInfo(1, 1, MemberWord.IN_SYNC, "d1", "/dev/sdb", 8, 16),
    )
    rows = detail.detail_text(DETAIL._replace(members=members)).splitlines()[-3:]
    assert rows == [
        "       0       8        0        0      active sync   /dev/sda",
        "       2       8       32        0      spare rebuilding   /dev/sdc",
        "       1       8       16        1      active sync   /dev/sdb",
    ]
    text = mdstat.mdstat((MDSTAT.arrays[0]._replace(members=members, raid_disks=2),))
    assert " raid1 sda[0] sdc[2](R) sdb[1]\n" in text and "[2/2] [UU]" in text


def test_what_a_check_found_has_a_row() -> None:
    assert "Mismatches" not in detail.detail_text(DETAIL)
    text = detail.detail_text(DETAIL._replace(mismatched_sectors=24))
    assert "        Mismatches : 24 sectors at the last check or repair\n" in text


def test_brief_and_export() -> None:
    uuid = "8a2d4b1c:0f3e4a5b:9c6d7e8f:90a1b2c3"
    assert detail.brief_text(DETAIL) == (
        f"ARRAY /dev/md/data metadata=1.2 spares=2 name=data UUID={uuid}\n"
    )
    assert detail.brief_text(DETAIL._replace(state=ArrayWord.INACTIVE), verbose=True) == (
        "INACTIVE-ARRAY /dev/md/data level=raid1 num-devices=2 metadata=1.2 spares=2 name=data "
        f"UUID={uuid}\n   devices=/dev/sda,/dev/sdb,/dev/sdd\n"
    )
    assert detail.export_text(DETAIL) == (
        "MD_LEVEL=raid1\nMD_DEVICES=2\nMD_METADATA=1.2\n"
        f"MD_UUID={uuid}\nMD_DEVNAME=data\nMD_NAME=data\n"
        "MD_DEVICE_dev_sda_ROLE=0\nMD_DEVICE_dev_sda_DEV=/dev/sda\n"
        "MD_DEVICE_dev_sdd_ROLE=1\nMD_DEVICE_dev_sdd_DEV=/dev/sdd\n"
        "MD_DEVICE_dev_sdb_ROLE=spare\nMD_DEVICE_dev_sdb_DEV=/dev/sdb\n"
        "MD_DEVICE_dev_missing_2_ROLE=spare\n"
    )


def test_quotes_as_in_mdadm() -> None:
    assert detail.quoted("plain") == "plain"
    assert detail.quoted("two words") == '"two words"'
    assert detail.quoted('a"b') == "'a\"b'"


@given(st.integers(0, 1 << 64))
def test_sizes_are_told_as_in_examine(size_bytes: int) -> None:
    assert detail.human_size(size_bytes) == examine.human_size(size_bytes)


@given(st.text(min_size=1, max_size=20), st.integers(2, (1 << 64) - 1))
def test_whatever_the_daemon_says_ends_in_lines(name: str, number: int) -> None:
    array = DETAIL._replace(name=name, created_s=number, array_sectors=number, cluster=name)
    text = detail.detail_text(array)
    assert text.count("\n") == GOLDEN.count("\n")
    assert "\x1b" not in text + detail.brief_text(array) + detail.export_text(array)


# --- mdstat ------------------------------------------------------------------------------

MDSTAT_GOLDEN = """\
Personalities : [raid1] [raid10] 
md_data : active raid1 sda[0] sdd[3] sdb[1](F) missing-2[2](S)
      1046528 blocks super 1.2 [2/1] [U_]
      [==>..................]  recovery = 12.6% (132096/1046528) finish=0.1min speed=132096K/sec
      bitmap: 1/1 pages [4KB], 65536KB chunk

md_logs : active raid10 sde[0] sdf[1] sdg[2] sdh[3]
      2093056 blocks super 1.2 512K chunks 2 near-copies [4/4] [UUUU]
      

md_old : inactive my_disk.img[0]
      500 blocks super 1.2
       
unused devices: <none>
"""  # noqa: W291, W293  the kernel prints these blanks


def test_mdstat_is_the_kernels_line_by_line() -> None:
    assert mdstat.mdstat(MDSTAT.arrays) == MDSTAT_GOLDEN


def test_mdstat_matches_the_regexes_of_monitoring() -> None:
    text = mdstat.mdstat(MDSTAT.arrays)
    status = re.findall(r"(\d+) blocks .*\[(\d+)/(\d+)\] \[([U_]+)\]", text)
    assert status == [("1046528", "2", "1", "U_"), ("2093056", "4", "4", "UUUU")]
    bar = text.splitlines()[3]
    for pattern, found in (
        (r"= *([0-9.]+)%", "12.6"),  # node_exporter (procfs), telegraf, check_mk
        (r"\((\d+/\d+)\)", "132096/1046528"),
        (r"finish=([0-9.]+)min", "0.1"),
        (r"speed=(\d+)[A-Z]", "132096"),
        (r"(resync|recovery|check|reshape) *=", "recovery"),
    ):
        match = re.search(pattern, bar)
        assert match is not None, pattern
        assert match[1] == found
    assert re.findall(r"^(md\S*) : (active|inactive)", text, re.M) == [
        ("md_data", "active"),
        ("md_logs", "active"),
        ("md_old", "inactive"),
    ]
    assert re.findall(r"(\S+?)\[(\d+)\](\([A-Z]\))?", text.splitlines()[1])[2] == (
        "sdb",
        "1",
        "(F)",
    )


@pytest.mark.parametrize("state", [SyncState.PENDING, SyncState.DELAYED])
def test_mdstat_of_a_pass_that_waits(state: SyncState) -> None:
    assert mdstat.sync_line(SYNC._replace(state=state)) == f"\tresync={state.upper()}"


@given(st.integers(0, 1 << 64), st.integers(0, 1 << 64), st.integers(0, 1 << 40))
def test_the_bar_is_always_as_long(position: int, end: int, speed: int) -> None:
    sync = SyncInfo(SyncWord.CHECK, SyncState.RUNNING, position, end, speed)
    line = mdstat.sync_line(sync)
    assert re.fullmatch(
        r"\[=*>\.*\]  check = *\d+\.\d% \(\d+/\d+\) finish=\d+\.\dmin speed=\d+K/sec", line
    )
    assert line.index("]") == 22


# --- cluster -----------------------------------------------------------------------------

CLUSTER_GOLDEN = """\
   Cluster : blue (0f0f0f0f-1111-2222-3333-444444444444)
 This node : a (voter)
    Writer : b
      Term : 3
     Lease : 412 ms left
    Quorum : 2 of 3 voters alive, 2 needed

NODE  ROLE     STATE    SINCE                LINKS
a*    voter    alive    2023-11-14 22:13:20  -
b     writer   suspect  2023-11-14 22:13:20  \
10.0.0.1:7600-10.0.0.2:7600 up 0.3 ms, 10.1.0.1:7600-10.1.0.2:7600 DOWN
c     unknown  silent   -                    -

Waiting
  data: c has not applied the change
      for 1.5 s; by c; ends when it has applied it, or is fenced
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_cluster_in_a_pipe_has_no_colours() -> None:
    output = Output(io.StringIO(), io.StringIO())
    assert cluster.cluster_text(STATUS, output) == CLUSTER_GOLDEN


def test_cluster_on_a_terminal_has_colours_unless_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    output = Output(Terminal(), Terminal())
    text = cluster.cluster_text(STATUS, output)
    assert "\x1b[33msuspect\x1b[0m" in text
    assert re.sub(r"\x1b\[\d+m", "", text) == CLUSTER_GOLDEN
    monkeypatch.setenv("NO_COLOR", "1")
    assert cluster.cluster_text(STATUS, output) == CLUSTER_GOLDEN


def test_cluster_without_writer_and_quorum_says_so() -> None:
    quorum = STATUS.quorum._replace(alive=1)
    status = STATUS._replace(writer="", lease_ms_left=None, quorum=quorum)
    text = cluster.cluster_text(status, Output(io.StringIO(), io.StringIO()))
    assert "Writer : none\n" in text
    assert "Lease : unknown\n" in text
    assert "1 of 3 voters alive, 2 needed - NO QUORUM\n" in text


def test_a_node_that_is_not_the_writer_says_who_knows_more() -> None:
    assert cluster.why_text(WhyData((), "a", "a")) == "nothing waits\n"
    assert cluster.why_text(WhyData((), "a", "")) == "nothing waits\n"
    assert cluster.why_text(WhyData((), "a", "b")) == (
        "nothing waits\nas a sees it; of changes and passes the writer knows: b\n"
    )


def test_what_waits_without_anybody_being_waited_for() -> None:
    wait = Waiting("data", "paused", 0, "paused", (), "somebody resumes it: mdcadm --resume data")
    assert [*cluster.why_lines([wait])] == [
        "data: paused",
        "    for 0 ms; ends when somebody resumes it: mdcadm --resume data",
    ]


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0 ms"), (999, "999 ms"), (1500, "1.5 s"), (180_000, "3 min"), (9_000_000, "2.5 h")],
)
def test_durations(ms: int, text: str) -> None:
    assert duration(ms) == text


def test_messages_are_one_line() -> None:
    assert one_line("a\n  b\n\n") == "a; b"
    assert one_line("x\x1b[2J") == "x\\x1b[2J"
