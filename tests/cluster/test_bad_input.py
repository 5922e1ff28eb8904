"""Mistakes and accidents: each ends in one clear message and an exit code, with nothing changed.

"Nothing" is taken at its word: after a refusal every image is the same, byte for byte, and every
node tells the same of every array. What is waited for is an event, an answer or an end.
"""

import hashlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mdcluster.control.arrays import ArrayDetail, ArrayList
from mdcluster.control.protocol import decode_answer
from mdcluster.control.verbs import ArrayArgs, MemberArgs, NoArgs, Verb
from mdcluster.metadata import superblock as sb
from tests.cluster.harness import DAEMON, LIMIT_S, Cluster, Daemon, free_ports
from tests.unit.metadata.images import superblock as some_superblock

pytestmark = pytest.mark.cluster

MIB = 8
HOUR_MS = 3_600_000


# --- words ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Said:
    """What a command came to."""

    code: int
    out: str
    messages: tuple[str, ...]

    @property
    def message(self) -> str:
        """The one message of a command that failed; what it said while it waited is no message."""
        final = [line for line in self.messages if ": waiting: " not in line]
        assert len(final) == 1, self.messages
        assert "Traceback" not in final[0]
        return final[0]


def mdcadm_of(daemon: Daemon, *words: str, socket_path: Path | None = None) -> list[str]:
    place = str(socket_path or daemon.socket)
    return [sys.executable, "-m", "mdcluster.tools.mdcadm", "--socket", place, *words]


def mdcadm(daemon: Daemon, *words: str) -> Said:
    """Run it to its end."""
    done = subprocess.run(
        mdcadm_of(daemon, *words), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    return Said(done.returncode, done.stdout, tuple(done.stderr.splitlines()))


def create(daemon: Daemon, name: str, *images: Path) -> Said:
    """Without a resync: the bits of one would be cleared in the bitmaps seconds later."""
    words = ("--create", name, "-l1", f"-n{len(images)}", "--assume-clean")
    return mdcadm(daemon, *words, *(str(image) for image in images))


@dataclass(frozen=True, slots=True)
class Picture:
    """All that must not change."""

    images: dict[str, str]
    arrays: dict[str, tuple[ArrayDetail, ...]]


def picture(cluster: Cluster) -> Picture:
    """Every image's content, and all arrays as told by every living node."""
    files = sorted(path for path in cluster.images.iterdir() if path.is_file())
    return Picture(
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        {daemon.name: arrays_of(daemon) for daemon in cluster.living},
    )


def arrays_of(daemon: Daemon) -> tuple[ArrayDetail, ...]:
    """As --detail tells them, but for what passes by itself: the reasons of waiting."""
    return tuple(detail(daemon, name)._replace(waiting=()) for name in names(daemon))


def detail(daemon: Daemon, name: str) -> ArrayDetail:
    with daemon.client() as client:
        return client.ask(Verb.DETAIL, ArrayArgs(name), ArrayDetail)


def names(daemon: Daemon) -> list[str]:
    with daemon.client() as client:
        return [array.name for array in client.ask(Verb.ARRAYS, NoArgs(), ArrayList).arrays]


def in_sync(daemon: Daemon, name: str) -> None:
    assert mdcadm(daemon, "--wait", name).code in (0, 1)  # 1: it had been done


def states(daemon: Daemon, name: str) -> list[str]:
    return [str(member.state) for member in detail(daemon, name).members]


def others_than(cluster: Cluster, one: Daemon) -> list[Daemon]:
    return [daemon for daemon in cluster.daemons.values() if daemon is not one]


# --- commands that are refused -------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, array `taken` in sync over i0 and i1, and images of all bad kinds."""
    with Cluster(tmp_path_factory.mktemp("lab")) as cluster:
        cluster.start_all()
        writer = cluster.writer()
        images = [cluster.image(f"i{leg}", MIB) for leg in range(2)]
        assert create(writer, "taken", *images).code == 0
        for name in ("free", "free2", "ext4", "foreign", "cluster", "damaged"):
            cluster.image(name, 2 * MIB)
        cluster.image("small", 1)
        (cluster.images / "sym").symlink_to(cluster.images / "free")
        (cluster.images / "hard").hardlink_to(cluster.images / "free")
        os.mkfifo(cluster.base / "fifo")
        put(cluster.images / "ext4", 1080, b"\x53\xef")
        foreign = replace(some_superblock(), feature_map=0, set_name="other:home")
        put(cluster.images / "foreign", sb.SUPER_OFFSET_BYTES, sb.encode(foreign))
        guarded = replace(foreign, feature_map=sb.GUARD_BIT, set_name="east:data")
        put(cluster.images / "cluster", sb.SUPER_OFFSET_BYTES, sb.encode(guarded))
        broken = bytearray(sb.encode(foreign))
        broken[100] ^= 1
        put(cluster.images / "damaged", sb.SUPER_OFFSET_BYTES, bytes(broken))
        yield cluster


def put(image: Path, offset_bytes: int, data: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(offset_bytes)
        file.write(data)


CREATE = "--create new -l1 -n2 {free} "
REFUSED = [
    # too small
    (CREATE + "{small}", 1, ("{small}", "too few", "bytes are needed")),
    ("taken --add {small}", 1, ("{small} is too small", "K are missing")),
    (CREATE + "{free2} --size 1G", 1, ("too small", "K are missing")),
    # of another array: ours, a plain one of mdadm, another cluster's, a damaged one
    (CREATE + "{i0}", 1, ("{i0} is a member of array taken", "--fail and --remove")),
    (CREATE + "{i0} --force", 1, ("{i0} is a member of array taken",)),
    ("taken --add {i0}", 1, ("{i0} is a member of array taken",)),
    (CREATE + "{foreign}", 1, ("{foreign} appears to be part of a raid array (other:home)",)),
    (CREATE + "{cluster}", 1, ("(east:data, of a cluster)", "--force")),
    (CREATE + "{damaged}", 1, ("{damaged} appears to be part of a raid array", "--force")),
    ("taken --add {foreign}", 1, ("{foreign} appears to be part of a raid array",)),
    (CREATE + "{ext4}", 1, ("{ext4} appears to contain an ext2fs file system", "--force")),
    ("taken --re-add {foreign}", 1, ("{foreign}", "not a member of array taken")),
    ("taken --fail {free}", 1, ("{free} is not a member of array taken",)),
    # a name taken, or of nothing
    ("--create taken -l1 -n2 {free} {free2}", 1, ("cannot create taken", "name is taken")),
    ("--create /dev/md/taken -l1 -n2 {free} {free2}", 1, ("name is taken",)),
    ("--stop nothing", 1, ("no array nothing", "its arrays are: taken")),
    ("nothing --fail {i0}", 1, ("no array nothing",)),
    # assembled under a wrong name, or with members of another array
    ("-A wrong {i0} {i1}", 1, ("no array wrong", "member of array taken", "-A /dev/md/taken")),
    ("-A taken {i0} {free}", 1, ("{free} is not a member of array taken: it has no superblock",)),
    ("-A taken {i0} {cluster}", 1, ("it is a member of array east:data (", "of a cluster")),
    ("-A taken {damaged} {i0}", 1, ("{damaged} is not a member", "damaged md metadata")),
    # named twice
    (CREATE + "{free}", 2, ("{free} is given twice",)),
    (CREATE + "{sym}", 1, ("{sym} is the same device as {free}: it is named twice",)),
    (CREATE + "{hard}", 1, ("{hard} is the same device as {free}: it is named twice",)),
    (CREATE + "{images}/../images/free", 1, ("the same device as {free}",)),
    # nothing, or nothing of use
    (CREATE + "{images}/none", 1, ("{images}/none", "No such file or directory")),
    (CREATE + "{images}", 1, ("neither a block device nor a regular file",)),
    (CREATE + "{fifo}", 1, ("neither a block device nor a regular file",)),
    # what would lose data
    ("taken --remove {i0}", 1, ("hot remove failed", "--fail it first")),
    ("--transfer nobody", 1, ("nobody",)),
]


@pytest.mark.parametrize(("line", "code", "words"), REFUSED, ids=[row[0] for row in REFUSED])
def test_a_refused_command_says_why_once_and_changes_nothing(
    lab: Cluster, line: str, code: int, words: tuple[str, ...]
) -> None:
    places = {path.name: str(path) for path in lab.images.iterdir()}
    places |= {"images": str(lab.images), "fifo": str(lab.base / "fifo")}
    before = picture(lab)
    via = next(daemon for daemon in lab.living if daemon is not lab.writer())
    said = mdcadm(via, *line.format(**places).split())
    assert said.code == code, said
    for word in words:
        assert word.format(**places) in said.message
    assert picture(lab) == before


# --- clusterips ----------------------------------------------------------------------------------

CLUSTERIPS = [
    ("127.0.0.1:1 a\n127.0.0.1:1 b\n", ("clusterips:2:1:", "127.0.0.1:1", "line 1")),
    ("127.0.0.1:1 a\n127.0.0.1:2 a\n", ("clusterips:2:", "name", "line 1")),
    ("127.0.0.1:1,127.0.0.1:1 a\n", ("clusterips:1:13:", "127.0.0.1:1")),
    ("999.0.0.1 a\n[::1 b\n127.0.0.1:99999 c\n", ("clusterips:1:", "clusterips:2:", "ips:3:")),
    ("127.0.0.1:1 a spectator\n", ("clusterips", "spectator")),
    ("", ("clusterips", "no node")),
]


@pytest.mark.parametrize(("text", "words"), CLUSTERIPS)
def test_wrong_and_duplicate_addresses_are_all_told_and_nothing_is_made(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    with Cluster(tmp_path, nodes=1) as cluster:
        daemon = cluster["a"]
        cluster.clusterips.write_text(text)
        done = subprocess.run(
            daemon.command(), capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.returncode == 1, done.stderr
        for word in words:
            assert word in done.stderr
        assert "Traceback" not in done.stderr
        assert not daemon.state_dir.exists()


# --- disks that vanish ---------------------------------------------------------------------------


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes and array `r` in sync over i0 and i1."""
    with Cluster(tmp_path) as cluster:
        cluster.start_all()
        writer = cluster.writer()
        assert create(writer, "r", *(cluster.image(f"i{leg}", MIB) for leg in range(2))).code == 0
        yield cluster


def nbd(daemon: Daemon, *commands: str) -> str:
    """What qemu-io prints; it must end well."""
    words = [word for command in commands for word in ("-c", command)]
    place = f"nbd+unix:///?socket={daemon.base}/run/nbd/r.sock"
    done = subprocess.run(
        ["qemu-io", "-f", "raw", *words, place],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done
    return done.stdout


def cut(image: Path) -> None:
    os.truncate(image, MIB << 19)


@pytest.mark.parametrize("vanish", [cut, Path.unlink], ids=["cut", "removed"])
def test_a_member_that_vanishes_is_failed_and_its_content_never_made_up(
    pair: Cluster, vanish: Callable[[Path], None]
) -> None:
    writer, lost = pair.writer(), pair.images / "i1"
    user = others_than(pair, writer)[0]
    nbd(user, "write -P 1 2M 64k")
    vanish(lost)
    before_bytes = lost.stat().st_size if lost.exists() else None
    nbd(user, "write -P 2 2M 64k", "read -P 2 2M 64k")
    for daemon in pair.living:
        assert sorted(states(daemon, "r")) == ["faulty", "in_sync"]
        assert "Pattern verification failed" not in nbd(daemon, "read -P 2 2M 64k")
    assert (lost.stat().st_size if lost.exists() else None) == before_bytes
    last = mdcadm(writer, "r", "--fail", str(pair.images / "i0"))
    assert last.code == 1
    assert "last" in last.message


def test_a_member_missing_at_the_start_is_named_and_a_degraded_start_is_asked_for(
    pair: Cluster,
) -> None:
    members = detail(pair.writer(), "r").members
    lost = next(member.uuid for member in members if member.path.endswith("/i1"))
    for daemon in pair.living:
        daemon.signal(signal.SIGTERM)
    for daemon in pair.daemons.values():
        assert daemon.wait_end() == 0
    away = (pair.images / "i1").rename(pair.base / "away")
    pair.start_all()
    writer = pair.writer()
    said = mdcadm(writer, "--assemble", "r")
    assert said.code == 1
    assert lost in said.message
    assert "--run" in said.message
    assert states(writer, "r") == ["in_sync", "in_sync"]
    assert not detail(writer, "r").running
    assert mdcadm(writer, "--assemble", "r", "--run").code == 0
    assert sorted(states(writer, "r")) == ["faulty", "in_sync"]
    back = away.rename(pair.images / "i1")
    assert mdcadm(writer, "r", "--re-add", str(back)).code == 0
    in_sync(writer, "r")
    assert states(writer, "r") == ["in_sync", "in_sync"]


# --- a full state directory ----------------------------------------------------------------------


def test_a_full_state_directory_of_one_node_is_told_and_harms_no_other(tmp_path: Path) -> None:
    """It can promise nothing and has no vote; the others go on, and its clients are served."""
    with Cluster(tmp_path) as cluster:
        cluster.start_all()
        full = cluster.writer()
        others = others_than(cluster, full)
        room_bytes = (full.state_dir / "journal").stat().st_size + 10
        resource.prlimit(full.pid, resource.RLIMIT_FSIZE, (room_bytes, resource.RLIM_INFINITY))
        for target in others:  # each is a promise that `full` cannot keep
            assert mdcadm(target, "--transfer", target.name).code == 0
            assert cluster.writer() is target
        line = full.until("state_directory_failed")
        assert "File too large" in line["why"]
        said = mdcadm(full, "--transfer", others[0].name)
        assert said.code == 1
        assert "journal cannot be written: File too large" in said.message
        assert "nothing was changed" in said.message
        assert "cannot be written" in mdcadm(full, "--why").out
        assert cluster.writer() is others[1]
        assert sum(line["event"] == "state_directory_failed" for line in full.lines) == 1


# --- identities ----------------------------------------------------------------------------------


def copy_of(cluster: Cluster, original: Daemon) -> Daemon:
    """A daemon `z` at a port of its own with the original's state directory, copied."""
    copy = cluster._daemon("z", free_ports(1)[0])
    shutil.copytree(original.state_dir, copy.state_dir)
    cluster.daemons["z"] = copy
    cluster.write_clusterips()
    return copy


def test_a_copied_state_directory_is_found_out_by_the_process_lock(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=1) as cluster:
        cluster.start_all()
        original = cluster["a"]
        node = original.status().node_uuid
        copy = copy_of(cluster, original)
        copy.start()
        assert copy.wait_end() == 2
        (line,) = copy.lines
        assert f"another daemon runs as node {node}" in line["text"]
        assert cluster.writer() is original


def test_a_copied_state_directory_elsewhere_is_refused_by_all_and_has_no_vote(
    tmp_path: Path,
) -> None:
    """Another lock directory stands for another machine: only the mesh can find it out."""
    with Cluster(tmp_path) as cluster:
        cluster.start_all()
        writer = cluster.writer()
        term = writer.status().term
        original = others_than(cluster, writer)[0]
        copy = copy_of(cluster, original)
        copy.config.write_text(copy.config.read_text().replace("/lock'", "/lock2'"))
        for daemon in (writer, *others_than(cluster, writer)):
            if daemon is not copy:
                daemon.signal(signal.SIGHUP)
                daemon.until_line(lambda line: "read again" in line.get("text", ""), "reload")
        copy.start()
        for daemon in (copy, original):
            daemon.until_line(
                lambda line: "a second daemon with this identity" in line.get("text", ""),
                "the second one is found",
            )
        said = mdcadm(copy, "--transfer", copy.name)
        assert said.code == 1
        assert "nothing was changed" in said.message
        assert copy.status().writer == ""
        copy.kill()
        assert cluster.writer() is writer
        assert writer.status().term == term


# --- clocks --------------------------------------------------------------------------------------

CLOCKS = """
import os, random, sys, time
jump, real = {jump!r}, time.clock_gettime
def jumping(clock):
    ahead = {ahead_s} if clock == time.CLOCK_BOOTTIME and os.path.exists(jump) else 0
    return real(clock) + ahead
time.clock_gettime = jumping
time.clock_gettime_ns = lambda clock: int(jumping(clock) * 1e9)
time.time = lambda: random.uniform(0, 4e9)
from mdcluster.daemon import main
sys.exit(main.main())
"""
"""A daemon whose wall clock is never the same, and whose CLOCK_BOOTTIME jumps when told so."""


class OddClockDaemon(Daemon):
    """Its clock jumps an hour ahead while the file `jump` is there, as after a suspend."""

    @property
    def jump(self) -> Path:
        return self.base / "jump"

    def command(self, *options: str) -> list[str]:
        plain = super().command(*options)
        code = CLOCKS.format(jump=str(self.jump), ahead_s=HOUR_MS // 1000)
        return [sys.executable, "-c", code, *plain[len(DAEMON) :]]


class OddClockCluster(Cluster):
    def _daemon(self, name: str, port: int) -> OddClockDaemon:
        plain = super()._daemon(name, port)
        return OddClockDaemon(plain.name, plain.base, plain.clusterips, plain.port)


def test_clocks_that_jump_cost_an_election_at_most(tmp_path: Path) -> None:
    """Wall clocks that show any time at all, all along; then the writer's own clock jumps."""
    with OddClockCluster(tmp_path) as cluster:
        cluster.start_all()
        writer = cluster.writer()
        images = [cluster.image(f"i{leg}", MIB) for leg in range(2)]
        assert create(writer, "r", *images).code == 0
        term = writer.status().term
        assert isinstance(writer, OddClockDaemon)
        writer.jump.touch()
        stalled = writer.until("stalled")
        assert stalled["late_ms"] > HOUR_MS // 2
        after = cluster.writer()
        assert after.status().term >= term
        assert mdcadm(after, "r", "--fail", str(images[1])).code == 0
        for daemon in cluster.living:
            assert sorted(states(daemon, "r")) == ["faulty", "in_sync"]


# --- no quorum -----------------------------------------------------------------------------------


def test_commands_to_a_node_without_quorum_are_refused_in_time(pair: Cluster) -> None:
    survivor = pair.writer()
    free = [pair.image(f"f{leg}", MIB) for leg in range(2)]
    for daemon in others_than(pair, survivor):
        daemon.kill()
    survivor.until_line(lambda line: not survivor.status().writer, "it is not writer any more")
    before = picture(pair)
    commands = (
        ("r", "--fail", str(pair.images / "i0")),
        ("--create", "new", "-l1", "-n2", *map(str, free)),
        ("--stop", "r"),
    )
    with ThreadPoolExecutor(len(commands)) as pool:  # each is patient: an election takes a while
        for said in pool.map(lambda words: mdcadm(survivor, *words), commands):
            assert said.code == 1
            assert "no quorum: 1 of 3 voters reachable" in said.message
            assert "nothing was changed" in said.message
    assert picture(pair) == before
    assert "no quorum" in mdcadm(survivor, "--why").out


# --- clients that die, and come again ------------------------------------------------------------


class Relay:
    """Stands between mdcadm and its daemon for one request: to know it, and to end the client."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(str(path))
        self._server.listen(1)
        self._server.settimeout(LIMIT_S)

    def take(self, client: "subprocess.Popen[bytes]") -> bytes:
        """The request of the client, which is killed (SIGKILL) before any answer."""
        with self._server, self._server.accept()[0] as connection:
            connection.settimeout(LIMIT_S)
            line = b""
            while not line.endswith(b"\n"):
                line += connection.recv(65536)
            client.kill()
            assert client.wait(LIMIT_S) == -signal.SIGKILL
        return line


def request_of_killed(daemon: Daemon, *words: str) -> bytes:
    """What mdcadm sent for this command; the daemon has not seen it yet."""
    relay = Relay(daemon.base / "relay.sock")
    client = subprocess.Popen(mdcadm_of(daemon, *words, socket_path=relay.path))
    return relay.take(client)


def send_and_vanish(daemon: Daemon, data: bytes) -> None:
    """As a client that died right after its last byte had left it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(daemon.socket))
        sock.sendall(data)


def send_again(daemon: Daemon, line: bytes) -> tuple[str, str]:
    """The same request once more, with the same proposal id, to its final answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(LIMIT_S)
        sock.connect(str(daemon.socket))
        sock.sendall(line)
        for answer in map(decode_answer, sock.makefile("rb")):
            state = getattr(answer, "state", "waiting")
            if state != "waiting":
                return str(state), str(getattr(answer, "text", ""))
    raise AssertionError("no final answer")


def test_a_client_killed_in_the_middle_leaves_all_or_nothing(lab: Cluster) -> None:
    """Half a request is none; a whole one is carried out, once, however often it is repeated."""
    daemon = next(one for one in lab.living if one is not lab.writer())
    images = [lab.image(f"k{leg}", MIB) for leg in range(2)]
    words = ("--create", "killed", "-l1", "-n2", *map(str, images))
    before = picture(lab)
    line = request_of_killed(daemon, *words)
    send_and_vanish(daemon, line[: len(line) // 2])
    assert "killed" not in names(daemon)
    assert picture(lab) == before

    send_and_vanish(daemon, line)
    assert send_again(daemon, line)[0] == "done"  # waits for the first one's end
    once = detail(daemon, "killed")
    for other in lab.living:
        state, _ = send_again(other, line)
        assert state == "done", other.name
        assert detail(other, "killed").uuid == once.uuid
        assert names(other).count("killed") == 1
    assert set(once.running) == set(lab.daemons)
    in_sync(daemon, "killed")
    said = mdcadm(daemon, *words)  # a proposal of its own: this is a second array of that name
    assert said.code == 1
    assert "name is taken" in said.message


def test_a_repeated_proposal_is_executed_once_across_a_takeover(pair: Cluster) -> None:
    """The id stands in the commit: another node and another writer know it too."""
    writer = pair.writer()
    asked, _ = others_than(pair, writer)
    image = pair.image("spare", MIB)
    args = MemberArgs(str(uuid.uuid4()), "r", str(image))
    asked.ask(Verb.ADD, args)
    events = detail(asked, "r").events
    writer.kill()
    pair.writer(not_=writer.name)
    for daemon in pair.living:
        daemon.ask(Verb.ADD, args)
        assert len(detail(daemon, "r").members) == 3
    asked.kill()
    asked.start()
    pair.writer()
    asked.ask(Verb.ADD, args)
    again = detail(asked, "r")
    assert len(again.members) == 3
    assert again.events & 0xFFFFFFFF <= (events & 0xFFFFFFFF) + 8  # recommits and joins, no adds
