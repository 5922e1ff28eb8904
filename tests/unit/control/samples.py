"""Fixed data of a small cluster, for round trips and golden outputs."""

from mdcluster.control.arrays import (
    ArrayBrief,
    ArrayDetail,
    ArrayList,
    ArrayWord,
    BitmapInfo,
    MdstatArray,
    MdstatData,
    MemberInfo,
    MemberWord,
    SyncInfo,
    SyncState,
    SyncWord,
    Waiting,
)
from mdcluster.control.status import (
    ClusterStatus,
    LinkInfo,
    NodeInfo,
    NodeRole,
    Quorum,
)

MEMBERS = (
    MemberInfo(0, 0, MemberWord.IN_SYNC, "d0", "/dev/sda", 8, 0),
    MemberInfo(3, 1, MemberWord.RECOVERING, "d3", "/dev/sdd", 8, 48),
    MemberInfo(1, -1, MemberWord.FAULTY, "d1", "/dev/sdb", 8, 16),
    MemberInfo(2, -1, MemberWord.SPARE, "d2", "", 0, 0),
)
SYNC = SyncInfo(SyncWord.RECOVER, SyncState.RUNNING, 264_192, 2_093_056, 132_096, 7)
BITMAP = BitmapInfo(chunk_sectors=131_072, chunks=16, chunks_dirty=2, slots=3, slots_dirty=1)
DETAIL = ArrayDetail(
    name="data",
    uuid="8a2d4b1c-0f3e-4a5b-9c6d-7e8f90a1b2c3",
    level=1,
    layout=0,
    chunk_sectors=0,
    raid_disks=2,
    size_sectors=2_093_056,
    array_sectors=2_093_056,
    state=ArrayWord.ACTIVE,
    members=MEMBERS,
    events=12_884_901_898,
    created_s=1_700_000_000,
    updated_s=1_700_003_600,
    cluster="blue",
    sync=SYNC,
    bitmap=BITMAP,
    running=("a", "b", "c"),
    waiting=(Waiting("resync", "window of node c", 1500),),
)
MDSTAT = MdstatData(
    (
        MdstatArray(
            device="md_data",
            state=ArrayWord.ACTIVE,
            level=1,
            layout=0,
            chunk_sectors=0,
            raid_disks=2,
            array_sectors=2_093_056,
            members=MEMBERS,
            sync=SYNC,
            bitmap=BITMAP,
        ),
        MdstatArray(
            device="md_logs",
            state=ArrayWord.ACTIVE,
            level=10,
            layout=0x102,
            chunk_sectors=1024,
            raid_disks=4,
            array_sectors=4_186_112,
            members=tuple(
                MemberInfo(n, n, MemberWord.IN_SYNC, f"e{n}", f"/dev/sd{letter}", 8, 16 * n)
                for n, letter in enumerate("efgh")
            ),
        ),
        MdstatArray(
            device="md_old",
            state=ArrayWord.INACTIVE,
            level=1,
            layout=0,
            chunk_sectors=0,
            raid_disks=2,
            array_sectors=1000,
            members=(MemberInfo(0, 0, MemberWord.IN_SYNC, "f0", "/tmp/my disk.img"),),
        ),
    )
)
ARRAYS = ArrayList(
    (
        ArrayBrief("data", DETAIL.uuid, 1, 2, active=True, running=3, degraded=1),
        ArrayBrief("old", "11111111-2222-3333-4444-555555555555", 1, 2, active=False),
    )
)
STATUS = ClusterStatus(
    name="blue",
    uuid="0f0f0f0f-1111-2222-3333-444444444444",
    node="a",
    node_uuid="na",
    role=NodeRole.VOTER,
    writer="b",
    term=3,
    lease_ms_left=412,
    quorum=Quorum(3, 2, 2),
    nodes=(
        NodeInfo("a", "na", NodeRole.VOTER, True, False, "boot-a", 1_700_000_000),
        NodeInfo(
            "b",
            "nb",
            NodeRole.WRITER,
            True,
            True,
            "boot-b",
            1_700_000_000,
            (
                LinkInfo("10.0.0.1:7600", "10.0.0.2:7600", True, 312),
                LinkInfo("10.1.0.1:7600", "10.1.0.2:7600", False),
            ),
        ),
        NodeInfo("c", "nc", NodeRole.UNKNOWN, False),
    ),
    waiting=(
        Waiting(
            "data",
            "c has not applied the change",
            1500,
            "apply",
            ("c",),
            "it has applied it, or is fenced",
        ),
    ),
)
