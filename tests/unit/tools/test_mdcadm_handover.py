"""What is not the cluster's goes to the real mdadm, here a script that writes down its words."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mdcluster.tools import handover, mdadmconf
from tests.unit.control.fake import FakeDaemon, answers
from tests.unit.control.samples import ARRAYS
from tests.unit.metadata import images

RUN = """
import os, sys
from mdcluster.tools import handover, mdadmconf, mdcadm
root = sys.argv[1]
handover.SYS = root + "/sys"
mdadmconf.FILES = (root + "/mdadm.conf",)
handover._kernel_name = lambda path: os.path.basename(os.path.realpath(root + path)) \\
    if os.path.exists(root + path) else ""
handover._members = lambda kernel: [root + "/member"] if kernel == "md8" else []
sys.exit(mdcadm.main(sys.argv[2:]))
"""
SCRIPT = f"""#!{sys.executable}
import json, sys
json.dump(sys.argv[1:], open({{path!r}}, "w"))
sys.exit(7)
"""


class Host:
    """md127 and md8 are arrays of this host, md_data is one of the cluster."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.socket = root / "control.sock"
        self.said = root / "words"
        program = root / "mdadm"
        program.write_text(SCRIPT.format(path=str(self.said)))
        program.chmod(0o755)
        (root / "dev/md").mkdir(parents=True)
        for name, version in (("md127", "1.2"), ("md8", "1.2"), ("md_data", "external:mdcluster")):
            md = root / "sys/block" / name / "md"
            md.mkdir(parents=True)
            (md / "metadata_version").write_text(f"{version}\n")
            (root / "dev" / name).touch()
        (root / "sys/block/md_data/md/dev-sdq").mkdir()
        (root / "dev/md/own").symlink_to("../md127")
        (root / "dev/md/data").symlink_to("../md_data")
        made = images.write_images(root)
        os.rename(made.paths[0], root / "member")
        (root / "plain").write_bytes(bytes(1 << 20))

    def run(self, line: str, **env: str) -> tuple[int, str, list[str] | None]:
        """Exit code, stderr, and the words that the script was given."""
        self.said.unlink(missing_ok=True)
        words = shlex.split(line.replace("@", str(self.root)))
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(self.root), *words],
            env={
                **os.environ,
                "MDCADM_MDADM": str(self.root / "mdadm"),
                "MDCLUSTER_SOCKET": str(self.socket),
                **env,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        handed = json.loads(self.said.read_text()) if self.said.exists() else None
        if handed is not None:
            assert (handed, done.returncode, done.stdout) == (words, 7, "")
        return done.returncode, done.stderr, handed


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


HANDED = [
    "--detail /dev/md127",
    "-D own",
    "-DY /dev/md/own --prefer=by-id",
    "/dev/md127 --fail /dev/x --remove /dev/x -a @/plain",
    "--grow /dev/md127 -n4 --backup-file=f",
    "-G /dev/md127 -l5",
    "-S /dev/md127 /dev/md/own",
    "-o /dev/md127",
    "--monitor /dev/md127 -1",
    "--build /dev/md9 -l1 -n2 @/plain missing",
    "-A /dev/md9 @/plain",
    "--zero-superblock @/plain",
    "-I @/plain",
    "-If sdx --path=p",
    "-Ir",
    "--auto-detect",
    "--detail-platform",
    "--udev-rules=f",
]
HANDED_IF_ASKED = ["-A /dev/md9", "-A /dev/md5 -u 11111111:22222222:33333333:44444444"]
KEPT = [
    ("--detail /dev/md/data", "no array"),
    ("/dev/md/data --fail x", "no array"),
    ("-C /dev/md9 -l1 -n1 -f @/plain", "no array"),
    ("-S /dev/md9", "no array"),
    ("-As", "No arrays found"),
    ("-A /dev/md6", "no array"),
    ("-A /dev/md9 @/member", "no array"),
    ("-G /dev/md/data -l5", "an array keeps its level"),
    ("--build /dev/md9 -l1 -n1 -f @/member", "nothing that writes is handed over to mdadm"),
    ("/dev/md127 --add @/member", "nothing that writes is handed over to mdadm"),
    ("-S /dev/md8", "nothing that writes is handed over to mdadm"),
    ("-D /dev/md127 /dev/md/data", "/dev/md127 is this host's own, /dev/md/data is the cluster's"),
    ("--zero-superblock @/member @/plain", "give a command of its own for it"),
    ("--zero-superblock @/member", "Couldn't open"),
    ("-I @/member", "the daemon finds the members of its arrays by itself"),
    ("-If sdq", "the daemon finds the members of its arrays by itself"),
    ("-IRs", "the daemon finds the members of its arrays by itself"),
    ("-D /dev/md127 --json", "no array"),
]
NONE = {
    "arrays": ARRAYS._replace(arrays=()),
    **{
        verb: ["there is no array"]
        for verb in ("detail", "fail", "stop", "create", "assemble", "erase")
    },
}


def test_what_is_the_hosts_own_goes_to_mdadm_unchanged(host: Host) -> None:
    (host.root / "mdadm.conf").write_text("ARRAY /dev/md9 UUID=1\n")
    with FakeDaemon(host.socket, answers(NONE)):
        for line in (*HANDED, *HANDED_IF_ASKED):
            code, err, words = host.run(line)
            assert words is not None, (line, code, err)


def test_what_is_the_clusters_or_may_be_does_not(host: Host) -> None:
    with FakeDaemon(host.socket, answers(NONE)):
        for line, said in KEPT:
            code, err, words = host.run(line)
            assert words is None, line
            assert code in (1, 2), (line, err)
            assert said in err, (line, err)


def test_an_array_that_the_daemon_knows_by_that_name_is_the_clusters(host: Host) -> None:
    known = {**NONE, "arrays": ARRAYS._replace(arrays=(ARRAYS.arrays[0]._replace(name="127"),))}
    with FakeDaemon(host.socket, answers(known)):
        assert host.run("-D /dev/md127")[2] is None


def test_without_a_daemon_only_what_is_certain_is_handed_over(host: Host) -> None:
    for line in HANDED:
        assert host.run(line)[2] is not None, line
    for line in (*HANDED_IF_ASKED, *(line for line, _ in KEPT)):
        code, _, words = host.run(line)
        assert code in (1, 2) and words is None, line
    assert host.run("-D /dev/md8")[2] is not None  # it only looks


def test_no_mdadm_and_one_that_is_mdcadm_are_told(host: Host) -> None:
    code, err, _ = host.run("-D /dev/md127", MDCADM_MDADM="/none/mdadm")
    assert (code, err.count("\n")) == (1, 1)
    assert "/none/mdadm cannot be run: No such file" in err
    code, err, words = host.run("-D /dev/md127", MDCADM_HANDED_OVER="1")
    assert (code, words) == (1, None)
    assert "leads back to mdcadm" in err


def test_array_lines_of_a_configuration_file(tmp_path: Path) -> None:
    text = """
# a comment
DEVICE partitions
ARRAY /dev/md0 UUID=3aaa0122:29827cfa:5331ad66:ca767371
arr /dev/md/x
   name='host:a b'  # more
ARRAY <ignore> UUID=1
array UUID=2 metadata=1.2
"""
    assert mdadmconf.parse_arrays(text) == [
        ("/dev/md0", "3aaa0122:29827cfa:5331ad66:ca767371", "", None),
        ("/dev/md/x", "", "host:a b", None),
        ("", "2", "", None),
    ]
    assert mdadmconf.read_arrays("partitions") == []
    big = tmp_path / "big"
    big.write_bytes(b"#" * ((1 << 20) + 1))
    for path, said in ((str(big), "larger than"), (str(tmp_path), "read"), ("\0", "read")):
        with pytest.raises(mdadmconf.ConfError, match=said):
            mdadmconf.read_arrays(path)


def test_a_device_that_is_not_there_is_nobodys() -> None:
    assert handover.could_be_ours("/none") == ""
    assert "it may be the cluster's" in handover.could_be_ours("/dev/null")
