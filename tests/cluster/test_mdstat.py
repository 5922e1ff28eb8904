"""The daemon's copy of /proc/mdstat, and the same bound over the kernel's file."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.harness import LIMIT_S
from tests.cluster.proof import PACED, ProofCluster
from tests.cluster.test_bad_input import create, mdcadm

pytestmark = pytest.mark.cluster

KERNEL = """\
Personalities : [raid1]
md0 : active raid1 sdb1[1] sda1[0]
      1046528 blocks super 1.2 [2/2] [UU]

unused devices: <none>
"""


def test_each_node_keeps_a_copy_that_is_true_of_the_cluster(tmp_path: Path) -> None:
    with ProofCluster(tmp_path, settings=PACED) as cluster:
        cluster.start_all()
        cluster.create("r", [cluster.image(f"m{leg}", 29) for leg in range(2)])
        copies = [daemon.base / "run/mdstat" for daemon in cluster.living]

        def all_show(pattern: str) -> bool:
            return all(c.exists() and re.search(pattern, c.read_text()) for c in copies)

        cluster.until(lambda: all_show("resync = +[1-9]"), "the resync is told on every node")
        assert {copy.stat().st_mode & 0o777 for copy in copies} == {0o644}
        cluster.until_in_sync("r")
        shown = mdcadm(cluster["a"], "--mdstat").out
        assert "md_r : active raid1" in shown and "[2/2] [UU]" in shown
        cluster.until(lambda: all_show(rf"\A{re.escape(shown)}\Z"), "they are up to date")
        assert cluster["a"].stop() == 0
        assert not copies[0].exists()


class Inside:
    """A shell that is process 1 of its own: nothing it mounts is seen outside."""

    def __init__(self, shell: "subprocess.Popen[str]") -> None:
        self._shell = shell

    def __call__(self, command: str) -> str:
        """What it prints."""
        assert self._shell.stdin is not None and self._shell.stdout is not None
        self._shell.stdin.write(f"{command}\necho; echo .\n")
        self._shell.stdin.flush()
        return "".join(iter(self._shell.stdout.readline, ".\n"))[:-1]


@contextmanager
def inside() -> Iterator[Inside]:
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as shell:
        yield Inside(shell)
        assert shell.stdin is not None
        shell.stdin.close()
        shell.wait(LIMIT_S)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts take root")
def test_bound_over_the_kernels_file_as_long_as_it_is_kept_up_to_date(tmp_path: Path) -> None:
    target = tmp_path / "proc-mdstat"
    settings = f"[mdstat]\nbind = '{target}'\n"
    with ProofCluster(tmp_path, 1, settings=settings) as cluster, inside() as sh:
        daemon = cluster["a"]

        def start() -> str:
            own = "unshare --mount --propagation slave"  # as systemd does
            sh(f"{own} {' '.join(daemon.command())} >{tmp_path}/log 2>&1 & pid=$!")
            return sh("echo $pid").strip()

        def shows(*names: str) -> bool:
            text = sh(f"cat {target}")
            return re.findall(r"^(md\w+) :", text, re.MULTILINE) == [*names]

        def bound() -> bool:
            return shows("md0", "md_r")

        def itself() -> bool:
            return sh(f"cat {target}") == KERNEL

        sh("mount --make-rshared /")
        pid = start()
        cluster.until(lambda: bool(daemon.status().lease_ms_left), "it is writer")
        assert create(daemon, "r", *(cluster.image(f"m{leg}", 13) for leg in range(2))).code == 0
        target.write_text(KERNEL)  # md's module is loaded
        cluster.until(bound, "the copy is bound over it")
        assert target.read_text() == KERNEL, "outside nothing is bound"

        # The kernel's own arrays, as they are now: not as the copy says.
        target.write_text(KERNEL.replace("[2/2] [UU]", "[2/1] [U_]"))
        cluster.until(
            lambda: "[2/1] [U_]" in sh(f"cat {target}"), "what the kernel says shows through"
        )
        target.write_text(KERNEL)
        cluster.until(lambda: "[2/1]" not in sh(f"cat {target}"), "and again")

        # Frozen: it may not lie for long.
        sh(f"kill -STOP {pid}")
        cluster.until(itself, "it is taken off")
        sh(f"kill -CONT {pid}")
        cluster.until(bound, "it is bound again")

        # Killed: the child takes it off.
        sh(f"kill -9 {pid}")
        cluster.until(itself, "it is taken off")

        # Killed together with the child: the next start takes it off before it reads.
        pid = start()
        cluster.until(bound, "it is bound again")
        sh(f"kill -9 $(cat /proc/{pid}/task/*/children) {pid}")
        assert bound()
        pid = start()
        target.write_text(KERNEL.replace("md0", "md1"))
        cluster.until(lambda: shows("md1", "md_r"), "the kernel's file is read, and no copy")

        sh(f"kill {pid}; wait {pid}")
        assert shows("md1")
