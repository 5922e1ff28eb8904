"""A node's view as the answers of the control socket."""

from dataclasses import replace

from mdcluster.control.arrays import ArrayWord, MemberWord, SyncState, SyncWord, Waiting
from mdcluster.control.shape import build, plain
from mdcluster.control.status import ClusterStatus, LinkInfo, NodeRole
from mdcluster.control.verbs import (
    ActionArgs,
    ActionWord,
    AssembleArgs,
    CreateArgs,
    GrowArgs,
    MemberArgs,
    NodeArgs,
    ReplaceArgs,
    Verb,
)
from mdcluster.core.model import (
    CLUSTER_KEY,
    AddMember,
    ArrayId,
    BeginSync,
    Checkpoint,
    EndLife,
    FailMember,
    ReplaceMember,
    StopArray,
    SyncKind,
)
from mdcluster.core.waits import Cause, Wait
from mdcluster.members.look import Look
from mdcluster.members.registry import Claim
from mdcluster.requests import Requests, views
from mdcluster.requests.speed import Speeds
from mdcluster.requests.views import Here
from tests.unit.members import kit as disks
from tests.unit.requests import kit

HERE = Here(
    now_ms=1000,
    paths={disks.device(0): "/dev/a"},
    numbers={disks.device(0): (8, 16)},
    dirty_chunks={kit.ARRAY: 3},
    links={"n1": (LinkInfo("a:1", "b:2", True),)},
    spectators=frozenset({"eye"}),
)

NO_QUORUM = Wait(CLUSTER_KEY, Cause.WRITER, "no quorum", ("n1", "n2"), "n1 is reached")
HELD = Wait(kit.LIVES[0].node, Cause.LEASE, "holds every write", (), "the writer renews it")
APPLY = Wait(kit.ARRAY, Cause.APPLY, "n2 has not applied the change", ("n2",), "it has")


def test_the_cluster_as_its_writer_sees_it() -> None:
    seen = views.status(kit.view(kit.mirror()), HERE, "1.0")
    assert (seen.writer, seen.role, seen.term, seen.lease_ms_left) == ("n0", "writer", 3, 400)
    assert seen.quorum == (3, 2, 3)
    assert [n.role for n in seen.nodes] == [NodeRole.WRITER, NodeRole.VOTER, NodeRole.VOTER]
    assert seen.nodes[1].links[0].up and all(n.alive for n in seen.nodes)
    assert build(ClusterStatus, plain(seen), "status") == seen


def test_the_cluster_as_a_lone_follower_sees_it() -> None:
    view = kit.view(role="follower", up=(), waiting=(NO_QUORUM, HELD))
    eye = kit.spectator().node
    view = replace(view, names=(*view.names, (eye, "eye")), holding_all=True)
    seen = views.status(view, HERE)
    assert (seen.writer, seen.role, seen.lease_ms_left) == ("n1", NodeRole.VOTER, None)
    assert seen.quorum == (3, 2, 1)
    assert [n.alive for n in seen.nodes] == [True, False, False, False]
    assert seen.nodes[3].role is NodeRole.SPECTATOR
    no_quorum = Waiting("cluster", "no quorum", 0, "writer", ("n1", "n2"), "n1 is reached")
    held = Waiting("n0", "holds every write", 0, "lease", (), "the writer renews it")
    assert seen.waiting == views.why(view).waiting == (no_quorum, held)
    assert (views.why(view).node, views.why(view).writer) == (seen.node, seen.writer)
    (*_, told) = views.why(view, "disk full").waiting
    assert (told.subject, told.reason, told.by) == ("n0", "disk full", ("n0",))


def claim(number: int, array: str, cluster_uuid: str, cluster: str = "lab") -> Claim:
    return Claim(disks.device(number), ArrayId(array), "old", cluster, cluster_uuid)


def test_arrays_that_only_their_members_know() -> None:
    view = kit.view(kit.mirror())
    uuid = view.cluster.uuid
    claims = [claim(4, "x", uuid), claim(3, "x", uuid), claim(0, kit.ARRAY, uuid)]
    (told,) = views.why(view, "", [*claims, claim(5, "y", "other", "elsewhere")]).waiting
    assert (told.subject, told.cause) == ("old", "unknown") and "earlier" not in told.reason
    assert told.by == (disks.device(3), disks.device(4)) and "--adopt --force" in told.ends
    (told,) = views.why(view, "", [claim(4, "x", "another")]).waiting
    assert "an earlier cluster of this name (another)" in told.reason
    (told,) = views.why(view, "", (), ["md127"]).waiting
    assert (told.subject, told.by) == ("md127", ("n0",)) and "/dev/md127" in told.ends


def test_arrays_and_their_members() -> None:
    state = disks.after(kit.mirror(), FailMember(kit.ARRAY, disks.device(1), "EIO"))
    view = kit.view(state, waiting=(APPLY,))
    (brief,) = views.arrays(view).arrays
    assert (brief.name, brief.running, brief.degraded, brief.active) == ("data", 3, 1, True)
    seen = views.detail(view, HERE, state, Speeds())
    first, second = seen.members
    assert (first.path, first.major, first.minor, first.role) == ("/dev/a", 8, 16, 0)
    assert (second.state, second.role, second.path) == (MemberWord.FAULTY, -1, "")
    assert seen.running == ("n0", "n1", "n2") and seen.cluster == "lab"
    assert seen.events == 3 << 32 | 4 and seen.state is ArrayWord.CLEAN
    late = Waiting("data", "n2 has not applied the change", 0, "apply", ("n2",), "it has")
    assert seen.waiting == (late,)
    assert seen.bitmap is not None and seen.bitmap.chunks_dirty == 3
    assert views.started(view, state) == ("data", ("n0", "n1", "n2"), 1, 2, 0)


def test_a_stopped_array_is_inactive() -> None:
    state = disks.after(kit.mirror(), StopArray(kit.ARRAY))
    (seen,) = views.mdstat(kit.view(state), HERE, Speeds()).arrays
    assert (seen.device, seen.state) == ("md_data", ArrayWord.INACTIVE)


def test_a_pass_due_running_and_paused() -> None:
    speeds, state = Speeds(), kit.mirror(clean=False)
    due = views.sync_info(kit.view(state), state, speeds)
    assert due is not None and (due.kind, due.state) == (SyncWord.RESYNC, SyncState.PENDING)
    state = disks.after(state, BeginSync(kit.ARRAY, SyncKind.RESYNC))
    views.note_progress(kit.view(state, complete_sectors=0), speeds, 0)
    state = disks.after(state, Checkpoint(kit.ARRAY, 1, 2048))
    view = kit.view(state, complete_sectors=4096)
    views.note_progress(view, speeds, 1000)
    going = views.sync_info(view, state, speeds)
    assert going is not None and going.state is SyncState.RUNNING
    assert (going.position_sectors, going.speed_kib) == (4096, 2048)
    assert going.eta_s == (state.size_sectors - 4096) // 2 // 2048
    follower = views.sync_info(kit.view(state), state, speeds)
    assert follower is not None and follower.position_sectors == 2048
    paused = replace(state, sync=None, paused_s=1)
    due = views.sync_info(view, paused, speeds)
    assert due is not None and due.state is SyncState.PENDING
    (told,) = views.waiting(kit.view(paused))
    assert "paused since 1970" in told.reason and "--resume data" in told.ends
    (told,) = views.waiting(kit.view(replace(state, sync=None, readonly=True)))
    assert "read-only on every node" in told.reason and "--readwrite data" in told.ends
    seen = views.detail(view, HERE, state, speeds)
    assert seen.state is ArrayWord.ACTIVE and seen.sync == going


def test_what_a_check_found_is_told() -> None:
    state = disks.after(kit.mirror(), BeginSync(kit.ARRAY, SyncKind.CHECK))
    state = disks.after(state, Checkpoint(kit.ARRAY, 1, 2048, 24))
    seen = views.detail(kit.view(state), HERE, state, Speeds())
    assert seen.mismatched_sectors == 24
    assert seen.sync is not None and seen.sync.kind is SyncWord.CHECK
    assert seen.state is ArrayWord.CLEAN


def test_a_replacement_stands_behind_the_member_it_replaces() -> None:
    spare = AddMember(kit.ARRAY, disks.new_member("/dev/c", 2, -1))
    state = disks.after(disks.after(kit.mirror(), spare), ReplaceMember(kit.ARRAY, disks.device(0)))
    found = [(m.role, m.state, m.replacement) for m in views.members(state, HERE)]
    assert found == [
        (0, MemberWord.IN_SYNC, False),
        (0, MemberWord.RECOVERING, True),
        (1, MemberWord.IN_SYNC, False),
    ]


def test_a_new_size_is_told_once_it_is_shown() -> None:
    state = replace(kit.mirror(), shown_sectors=2048)
    seen = views.detail(kit.view(state), HERE, state, Speeds())
    assert (seen.array_sectors, seen.size_sectors) == (2048, state.size_sectors)
    (brief,) = views.mdstat(kit.view(state), HERE, Speeds()).arrays
    assert brief.array_sectors == 2048


def test_bits_of_a_dead_life_are_due_first() -> None:
    state = disks.after(kit.mirror(), EndLife(kit.ARRAY, kit.LIVES[2]))
    seen = views.detail(kit.view(state), HERE, state, Speeds())
    assert seen.sync is not None and seen.sync.kind is SyncWord.BITMAP
    assert seen.bitmap is not None and seen.bitmap.slots_dirty == 1


def test_speeds_begin_anew_with_each_pass() -> None:
    speeds = Speeds()
    speeds.note(kit.ARRAY, 1, 0, 0)
    speeds.note(kit.ARRAY, 1, 4096, 1000)
    assert speeds.kib_per_s(kit.ARRAY, 1) == 2048
    speeds.note(kit.ARRAY, 2, 0, 2000)
    assert speeds.kib_per_s(kit.ARRAY, 1) == speeds.kib_per_s(kit.ARRAY, 2) == 0


class Devices:
    """Two devices, one of them gone now."""

    paths = {disks.device(0): "/dev/a", disks.device(1): "/dev/b"}  # noqa: RUF012 - read only

    async def look(self, paths: object) -> dict[str, Look]:
        assert isinstance(paths, tuple)
        return {path: kit.seen(path) for path in paths}

    async def present(self) -> dict[object, str]:
        return {disks.device(0): "/dev/a"}


async def test_requests_read_what_they_need() -> None:
    state = kit.mirror()
    requests = Requests(Devices(), lambda: kit.view(state), lambda: 7)  # type: ignore[arg-type]
    (wish,) = await requests.wishes(Verb.FAIL, MemberArgs("p", "data", "detached"))
    assert isinstance(wish.change, FailMember) and wish.change.device == disks.device(1)
    (wish,) = await requests.wishes(Verb.REMOVE, MemberArgs("p", "data", "/dev/b"))
    assert wish.change.device == disks.device(1)  # type: ignore[union-attr]
    made = CreateArgs("p", "new", 1, 2, ("/dev/c", "/dev/d"))
    assert len(await requests.wishes(Verb.CREATE, made)) == 1
    assert len(await requests.wishes(Verb.ADD, MemberArgs("p", "data", "/dev/c"))) == 1
    assert len(await requests.wishes(Verb.ASSEMBLE, AssembleArgs("p", "data"))) == 1
    other = ReplaceArgs("p", "data", "/dev/a", "/dev/b")
    assert len(await requests.wishes(Verb.REPLACE, other)) == 1
    more = GrowArgs("p", "data", raid_disks=3, devices=("/dev/c",))
    assert len(await requests.wishes(Verb.GROW, more)) == 2
    look = ActionArgs("p", "data", ActionWord.CHECK)
    assert len(await requests.wishes(Verb.ACTION, look)) == 1
    assert len(await requests.wishes(Verb.TRANSFER, NodeArgs("p", "n1"))) == 1
    assert len(await requests.wishes(Verb.ADMIT, NodeArgs("p", "n1"))) == 1
