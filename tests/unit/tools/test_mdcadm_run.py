"""mdcadm from its words to its exit code, against a fake daemon on a real socket."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mdcluster.control.arrays import ArrayWord, MemberWord, Started, Waited, Waiting
from mdcluster.control.protocol import Request
from mdcluster.control.server import ReplySink
from mdcluster.control.shape import plain
from mdcluster.control.status import WhyData
from mdcluster.tools import mdcadm, progress
from mdcluster.tools.output import Output
from tests.unit.control.fake import FakeDaemon, answers
from tests.unit.control.samples import ARRAYS, DETAIL, MDSTAT, STATUS, SYNC
from tests.unit.tools import schemas

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def run(path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs one command line: exit code, stdout, stderr."""

    def call(line: str) -> tuple[int, str, str]:
        code = mdcadm.main([*shlex.split(line), f"--socket={path}"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


async def waits(request: Request, sink: ReplySink) -> None:
    sink.waiting("", SYNC)
    sink.waiting("", SYNC._replace(position_sectors=SYNC.end_sectors))
    sink.done("", Waited(True))


async def slow_stop(request: Request, sink: ReplySink) -> None:
    sink.waiting("node c to apply")
    sink.waiting("node c to apply")
    sink.done("stopped on a, b, c")


GOOD: dict[str, Any] = {
    "status": STATUS,
    "arrays": ARRAYS,
    "detail": DETAIL,
    "mdstat": MDSTAT,
    "why": WhyData(()),
    "create": Started("data", ("a", "b"), 2, 2),
    "assemble": Started("old", ("a",), 1, 2, 1),
    "adopt": Started("data", ("a", "b"), 2, 2),
    "release": None,
    "stop": slow_stop,
    "wait": waits,
}


def test_no_daemon_is_one_clear_line(run: Run, path: Path) -> None:
    for line, code in (
        ("-D x", 1),
        ("-Dt x", 4),
        ("-W x", 2),
        ("--wait-clean x", 2),
        ("-C x -l1 -n2 a b", 1),
        ("--cluster", 1),
    ):
        assert run(line) == (
            code,
            "",
            f"mdcadm: no daemon listens on {path}; start it (systemctl start mdclusterd), "
            "or name its socket with --socket or MDCLUSTER_SOCKET\n",
        )


def test_usage_errors_exit_2(run: Run) -> None:
    assert run("--detial x") == (2, "", "mdcadm: unknown option --detial; did you mean --detail?\n")


@pytest.mark.parametrize(
    ("line", "code", "out", "err"),
    [
        ("-C /dev/md/data -l1 -n2 a b", 0, "", "mdcadm: array /dev/md/data started.\n"),
        ("-qC /dev/md/data -l1 -n2 a b", 0, "", ""),
        (
            "-A old",
            0,
            "",
            "mdcadm: /dev/md/old has been started with 1 drive (out of 2) and 1 spare.\n",
        ),
        (
            "-As",
            0,
            "",
            "mdcadm: /dev/md/old has been started with 1 drive (out of 2) and 1 spare.\n",
        ),
        (
            "-S data",
            0,
            "",
            "mdcadm: waiting: node c to apply\nmdcadm: stopped /dev/md/data\n",
        ),
        (
            "data --fail a --remove a --add b --re-add c",
            0,
            "",
            "mdcadm: set a faulty in /dev/md/data\nmdcadm: hot removed a from /dev/md/data\n"
            "mdcadm: added b\nmdcadm: re-added c\n",
        ),
        (
            "--adopt /dev/x /dev/y",
            0,
            "",
            "mdcadm: /dev/md/data has been started with 2 drives.\n",
        ),
        (
            "--release /dev/md/data",
            0,
            "",
            "mdcadm: released /dev/md/data: it is a plain md array now.\n",
        ),
        (
            "data --replace a b --with c",
            0,
            "",
            "mdcadm: marked a in /dev/md/data for replacement by c\n"
            "mdcadm: marked b in /dev/md/data for replacement\n",
        ),
        (
            "-G data -n3 --add b",
            0,
            "",
            "mdcadm: raid_disks for /dev/md/data set to 3\n",
        ),
        (
            "-G data --size=max",
            0,
            "",
            "mdcadm: component size of /dev/md/data has been set to 1046528K\n",
        ),
        ("-G data -b clustered", 1, "", "mdcadm: bitmap already present on /dev/md/data\n"),
        ("--wait-clean data", 0, "", ""),
        ("--wait-clean --scan", 0, "", ""),
        ("--wait-clean data none old", 2, "", "mdcadm: no array none in this cluster\n"),
        ("data --add-spare a", 0, "", "mdcadm: added a\n"),
        (
            "-A old --home-cluster=blue",
            0,
            "",
            "mdcadm: /dev/md/old has been started with 1 drive (out of 2) and 1 spare.\n",
        ),
        ("-A old --home-cluster=red", 1, "", "mdcadm: this node is of cluster blue, not of red\n"),
        ("--action=repair data", 0, "", "mdcadm: repair of /dev/md/data\n"),
        ("--transfer b", 0, "", "mdcadm: b is the writer now.\n"),
        ("--fence-ack b", 0, "", "mdcadm: b counts as fenced.\n"),
        ("--admit b", 0, "", "mdcadm: b is admitted.\n"),
        ("--reload", 0, "", "mdcadm: configuration read again.\n"),
        ("--why", 0, "nothing waits\n", ""),
        ("--why old", 0, "nothing waits\n", ""),
    ],
)
def test_changes_and_their_messages(
    run: Run, path: Path, line: str, code: int, out: str, err: str
) -> None:
    with FakeDaemon(path, answers(GOOD)):
        assert run(line) == (code, out, err)


def test_stop_scan_stops_what_is_active_with_a_proposal_each(run: Run, path: Path) -> None:
    with FakeDaemon(path, answers(GOOD)) as daemon:
        code, _, _ = run("-Ss -v")
        run("-S data")
    assert code == 0
    stops = [request.args for request in daemon.requests if request.verb == "stop"]
    assert [args["array"] for args in stops] == ["data", "data"]
    assert stops[0]["proposal"] != stops[1]["proposal"]


def test_assemble_scan_with_a_configuration_file(run: Run, path: Path, tmp_path: Path) -> None:
    old = ARRAYS.arrays[1]
    conf = tmp_path / "mdadm.conf"
    for text, found in (
        (f"ARRAY /dev/md/any UUID={old.uuid}\nARRAY /dev/md0 UUID=1", ["old"]),
        ("ARRAY <ignore> name=old", None),
        ("ARRAY /dev/md7 name=host:old", ["old"]),
        ("ARRAY /dev/md/old", ["old"]),
        ("ARRAY /dev/md/old name=other", None),
        ("ARRAY /dev/md/data", []),
    ):
        conf.write_text(f"{text}\n")
        with FakeDaemon(path, answers(GOOD)) as daemon:
            code, _, err = run(f"-As -c {conf}")
        started = [one.args["array"] for one in daemon.requests if one.verb == "assemble"]
        assert (code, started) == (1 if found is None else 0, found or []), (text, err)
    with FakeDaemon(path, answers(GOOD)):
        assert run("-As -c /none")[0] == 1


def test_adopt_is_one_request_for_all_its_devices(run: Run, path: Path) -> None:
    with FakeDaemon(path, answers(GOOD)) as daemon:
        run("--adopt --name=new -f /dev/x /dev/y")
        run("--release data old -f")
    first, *rest = [request.args for request in daemon.requests]
    assert (first["devices"], first["name"], first["force"]) == (["/dev/x", "/dev/y"], "new", True)
    assert [(args["array"], args["force"]) for args in rest] == [("data", True), ("old", True)]


def test_a_refusal_ends_manage_mode_and_is_told(run: Run, path: Path) -> None:
    refuse = {**GOOD, "remove": ["a is still in use, cannot remove."]}
    with FakeDaemon(path, answers(refuse)) as daemon:
        code, out, err = run("data -f a -r a -a b --json")
    assert code == 1
    assert err.splitlines() == [
        "mdcadm: set a faulty in /dev/md/data",
        "mdcadm: a is still in use, cannot remove.",
    ]
    assert [request.verb for request in daemon.requests] == ["fail", "remove"]
    results = json.loads(out)["results"]
    assert [(one["action"], one["state"]) for one in results] == [
        ("fail", "done"),
        ("remove", "refused"),
    ]


def test_why_of_an_array_tells_of_what_every_array_waits_for(path: Path, run: Run) -> None:
    told = (
        Waiting("cluster", "no quorum", 0, "writer"),
        Waiting("data", "b misses d1", 0, "member"),
        Waiting("old", "paused", 0, "paused"),
    )
    with FakeDaemon(path, answers({**GOOD, "why": WhyData(told)})):
        seen = json.loads(run("--why old --json")[1])["waiting"]
    assert [wait["subject"] for wait in seen] == ["cluster", "old"]


def test_all_reports_are_json_too(run: Run, path: Path) -> None:
    with FakeDaemon(path, answers(GOOD)):
        assert json.loads(run("-D data --json")[1]) == {"arrays": [plain(DETAIL)]}
        assert json.loads(run("--cluster --json")[1]) == plain(STATUS)
        assert json.loads(run("--mdstat --json")[1]) == plain(MDSTAT)
        assert json.loads(run("--why --json")[1]) == {"waiting": [], "node": "", "writer": ""}
        results = [{"array": "data", "waited": True}]
        assert json.loads(run("-W data --json")[1]) == {"results": results}
        results = [{"array": name, "clean": True} for name in ("data", "old")]
        document = json.loads(run("--wait-clean --scan --json")[1])
        assert document == {"results": results}
        schemas.check("wait-clean", document)
        created = json.loads(run("-C data -l1 -n2 a b --json")[1])
    assert created["results"][0]["array"] == "data"


def test_detail_and_its_exit_codes(run: Run, path: Path) -> None:
    with FakeDaemon(path, answers(GOOD)):
        assert run("-D data")[0] == 0
        assert run("-D data")[1].startswith("/dev/md/data:\n")
        assert run("-Dt data")[0] == 1
        assert run("-Ds")[1].count("ARRAY /dev/md/data") == len(ARRAYS.arrays)
        assert "   devices=" in run("-Db -v data")[1]
        assert "   devices=" not in run("-Db -v data --no-devices")[1]
        assert run("-DY data")[1].startswith("MD_LEVEL=raid1\n")
    whole = tuple(one._replace(state=MemberWord.IN_SYNC) for one in DETAIL.members[:2])
    fine = {"detail": DETAIL._replace(members=whole, state=ArrayWord.CLEAN)}
    with FakeDaemon(path, answers(fine)):
        assert run("-Dt data")[0] == 0
    with FakeDaemon(path, answers({"detail": ["no array is called data"]})):
        assert run("-D data") == (1, "", "mdcadm: no array is called data\n")
        assert run("-Dt data")[0] == 4


def test_wait_in_a_pipe_prints_lines_and_exits_as_mdadm(run: Run, path: Path) -> None:
    with FakeDaemon(path, answers(GOOD)):
        code, out, err = run("-W data")
    assert (code, out) == (0, "")
    assert [line.split("%")[0].split()[-1] for line in err.splitlines()] == ["12.6", "=100.0"]
    with FakeDaemon(path, answers({"wait": Waited(False)})):
        assert run("-W data") == (1, "", "")
    with FakeDaemon(path, answers({"wait": ["no array is called data"]})):
        assert run("-W data")[0] == 2


def test_wait_on_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = progress.make_progress("/dev/md/data", Output(sys.stdout, sys.stderr))
    try:
        assert isinstance(shown, progress.Bar)
        shown.show(None, "for node c")
        shown.show(SYNC, "")
    finally:
        shown.close()
    quiet = progress.make_progress("x", Output(sys.stdout, sys.stderr, quiet=True))
    assert isinstance(quiet, progress.Lines)


def test_examine_needs_no_daemon(run: Run, tmp_path: Path) -> None:
    image = tmp_path / "zeros.img"
    image.write_bytes(bytes(1 << 20))
    assert run(f"-E {image}") == (1, "", f"mdcadm: No md superblock detected on {image}.\n")
    code, out, err = run(f"-E --json {tmp_path}/none")
    assert code == 1
    assert json.loads(out)["members"][0]["problems"][0]["kind"] == "device"
    assert "No such file" in err


def test_check_timing_prints_the_proof(run: Run, tmp_path: Path) -> None:
    code, out, err = run("--check-timing")
    assert (code, err) == (0, "")
    assert "holds" in out
    assert "VIOLATED" not in out
    bad = tmp_path / "mdcluster.toml"
    bad.write_text("[timing]\nlease_ms = 5000\n")
    code, out, err = run(f"--check-timing --config={bad}")
    assert code == 1
    assert err.startswith("mdcadm: ")
    code, out, err = run(f"--check-timing -c {tmp_path}/none.toml")
    assert code == 1
    assert err.count("\n") == 1


def test_help_and_version(run: Run) -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert "Example:\n  mdcadm --create /dev/md/data" in out
    for option in ("--fence-ack=NODE", "-n  : number of active devices"):
        assert option in out
    assert "--fail" not in run("-C -h")[1].partition("Options of create")[2].partition("Example")[0]
    assert run("--version")[1].startswith("mdcadm - v")


def test_a_full_disk_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mdcluster.tools.mdcadm", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "mdcadm: cannot print: No space left on device\n"


LEAN = """
import sys
from mdcluster.tools.mdcadm import main
code = main(sys.argv[1:])
bad = {"zmq", "msgpack", "asyncio", "rich", "blinker", "tenacity", "dataclasses"} & set(sys.modules)
sys.exit(f"imported: {sorted(bad)}" if bad else code)
"""


def test_detail_imports_little(path: Path) -> None:
    """It has 100 ms from exec to exit: no ZeroMQ, no event loop, no terminal library."""
    with FakeDaemon(path, answers(GOOD)):
        done = subprocess.run(
            [sys.executable, "-c", LEAN, "--detail", "data"],
            env={**os.environ, "MDCLUSTER_SOCKET": str(path)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("/dev/md/data:\n")
