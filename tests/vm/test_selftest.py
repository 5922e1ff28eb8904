"""The self-test of the installation, on stock kernels: it passes, and it finds what is wrong."""

import json

import pytest

from tests.vm.lab import Lab

LAB = {"nodes": 1}
COMMAND = "mdclusterd --self-test"


@pytest.mark.smoke
def test_stock_kernels_pass(lab: Lab, kernel: str) -> None:
    done = lab["node1"].run(f"{COMMAND} --json", timeout_s=180, check=False)
    told = json.loads(done.out)

    assert done.rc == 0, done.out
    assert told["kernel"].startswith(kernel + ".")
    assert [check["passed"] for check in told["checks"]] == [True] * 5


def test_nothing_is_left_of_it(lab: Lab) -> None:
    node = lab["node1"]
    before = node.run("losetup -a; dmsetup ls; ls /tmp /sys/block").out

    text = node.run(COMMAND, timeout_s=180).out

    assert [line.split()[0] for line in text.splitlines()] == ["ok"] * 5
    assert node.run("losetup -a; dmsetup ls; ls /tmp /sys/block").out == before


def test_without_dmsetup_it_says_what_was_not_tried(lab: Lab) -> None:
    node = lab["node1"]
    node.run("mount -o bind /dev/null /usr/sbin/dmsetup")  # no longer executable
    done = node.run(COMMAND, timeout_s=180, check=False)
    node.run("umount /usr/sbin/dmsetup")

    assert done.rc == 0, done.out
    assert "skipped failed writes wait: dmsetup is not installed" in done.out
    assert [line.split()[0] for line in done.out.splitlines()].count("ok") == 4


@pytest.mark.kernel("6.12")  # 6.1 held them all the same where it was tried
def test_a_kernel_that_lets_failing_writes_through_does_not_pass(lab: Lab) -> None:
    """The check can fail: without external_bbl only the first failing write is held."""
    script = (
        "from mdcluster.md import selftest as s, kernel_array as k, sysfs\n"
        "real = sysfs.write_attribute\n"
        "def without(path, value):\n"
        "    if value != 'external_bbl':\n"
        "        real(path, value)\n"
        "sysfs.write_attribute = without\n"
        "found = list(s.self_test())\n"
        "print(s.as_json(found))\n"
        "raise SystemExit(0 if s.passed(found) else 1)\n"
    )
    done = lab["node1"].run(["python", "-c", script], timeout_s=180, check=False)

    assert done.rc == 1, done.out
    wrong = [check["check"] for check in json.loads(done.out)["checks"] if not check["passed"]]
    assert wrong == ["failed writes wait"]


def test_who_is_not_root_is_told(lab: Lab) -> None:
    done = lab["node1"].run(
        "setpriv --reuid 65534 --clear-groups mdclusterd --self-test", timeout_s=60, check=False
    )

    assert done.rc == 1
    assert "run as root" in done.out
