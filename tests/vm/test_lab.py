"""The lab itself: what the other tests of this tier build on really does what it says."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.vm.lab import (
    CommandError,
    Disk,
    GuestDeadError,
    Lab,
    LabError,
    LateError,
    Mood,
    Result,
)

LAB = {
    "nodes": 2,
    "disks": (Disk("d1", 64), Disk("d2", 64)),
    "attach": {"node2": ("d2", "d1:other")},
}
pytestmark = pytest.mark.kernel("6.12")
BLOCK = 4096
FENCE = "python -I tests/vm/fence_lab"


def fence(lab: Lab, by: str, **options: str) -> Result:
    """What the fence agent says to these options."""
    lines = "".join(f"{key}={value}\n" for key, value in options.items())
    return lab[by].run(FENCE, stdin=lines.encode(), check=False)


def reached(lab: Lab, source: str, target: str) -> bool:
    """Whether a ping goes there and its answer comes back."""
    return lab[source].run(f"ping -c 1 -W 1 {target}", check=False).ok


# --- guests ----------------------------------------------------------------------------------


@pytest.mark.kernel("6.1", "6.12")
@pytest.mark.smoke
def test_a_stock_kernel_runs_with_the_checkout_and_its_python(lab: Lab, kernel: str) -> None:
    assert lab["node1"].run("uname -r").out.startswith(kernel + ".")
    assert lab["node2"].run("hostname").out == "node2\n"
    assert lab["node1"].run(["python", "-c", "import mdcluster, zmq; print('ok')"]).out == "ok\n"


@pytest.mark.smoke
def test_a_command_that_fails_is_named_with_its_guest_and_output(lab: Lab) -> None:
    with pytest.raises(CommandError, match=r"node1: `echo out; .*exit code 3 .*\nout\nerr"):
        lab["node1"].run("echo out; echo err >&2; exit 3")


def test_a_command_that_lasts_too_long_is_killed_with_its_children(lab: Lab) -> None:
    done = lab["node1"].run("echo a; sleep 1234 & sleep 1234", timeout_s=1, check=False)

    assert (done.rc, done.out) == (None, "a\n")
    assert not lab["node1"].run("pgrep -x sleep", check=False).ok


def test_a_command_ends_although_a_child_of_it_holds_the_pipe(lab: Lab) -> None:
    began_s = time.monotonic()
    lab["node1"].run("setsid sleep 5 & echo started")

    assert time.monotonic() - began_s < 4


def test_a_command_that_hangs_in_the_kernel_is_told_with_its_place(lab: Lab) -> None:
    node, disk = lab["node1"], lab["node1"].disks["d1"]
    node.run(f"dmsetup suspend --nolockfs {disk.name}")
    command = f"exec dd if=/dev/zero of={disk.path} bs=4k count=1 oflag=direct"
    done = node.run(command, timeout_s=1, check=False)
    node.run(f"dmsetup resume {disk.name}")

    assert done.rc is None
    assert "blk" in done.stuck or "dio" in done.stuck or "io_schedule" in done.stuck, done.stuck


def test_many_commands_at_once_and_one_after_the_other(lab: Lab) -> None:
    def work(number: int) -> list[str]:
        guest = lab.guests[number % 2]
        return [guest.run(f"echo {number}-{turn}").out.strip() for turn in range(10)]

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(work, range(12)))

    assert answers == [[f"{number}-{turn}" for turn in range(10)] for number in range(12)]
    assert lab.each(lambda guest: guest.run("hostname").out) == ["node1\n", "node2\n"]


def test_much_input_and_output(lab: Lab) -> None:
    data = bytes(range(256)) * 2048
    done = lab["node1"].run("wc -c; yes | head -c 3000000", stdin=data)

    assert len(done.out) == 1 << 20
    lab["node1"].write_bytes("/tmp/much", data * 5)
    assert lab["node1"].read_bytes("/tmp/much") == data * 5


def test_processes_are_left_running_signalled_and_waited_for(lab: Lab) -> None:
    process = lab["node1"].spawn("sleeper", "echo up; sleep 600")
    lab["node1"].run(f"until grep -q up {process.log}; do sleep 0.1; done")
    assert process.poll() is None
    with pytest.raises(LabError, match="sleeper runs already"):
        lab["node1"].spawn("sleeper", "true")

    process.kill()

    assert process.wait() == -9
    assert process.output() == "up\n"


def test_a_power_cut_takes_what_was_not_synced_and_leaves_what_was(lab: Lab) -> None:
    node = lab["node1"]
    node.run("echo kept >/var/lib/mdcluster/kept; echo x >/etc/clusterips; sync")
    node.run("echo lost >/root/lost")

    node.power_cut()
    assert not node.alive
    with pytest.raises(GuestDeadError):
        node.run("true")
    node.boot()

    assert node.run("cat /var/lib/mdcluster/kept /etc/clusterips").out == "kept\nx\n"
    assert not node.run("test -e /root/lost", check=False).ok


def test_a_frozen_guest_answers_only_after_it_was_thawed(lab: Lab) -> None:
    node = lab["node1"]
    node.freeze()
    assert not reached(lab, "node2", "node1")
    with pytest.raises(LateError):
        node.ask({"do": "run", "argv": ["true"], "timeout_s": 1}, -18)

    node.thaw()

    assert node.run("echo back").out == "back\n"


def test_a_watchdog_that_is_not_fed_ends_the_guest(lab: Lab) -> None:
    node = lab["node2"]
    node.run("modprobe softdog soft_margin=2; echo 1 >/dev/watchdog")

    node.wait_dead(30)

    assert not node.alive


# --- network ---------------------------------------------------------------------------------


@pytest.mark.smoke
def test_guests_reach_each_other_and_frames_are_counted(lab: Lab) -> None:
    before = lab.network.counts()
    assert reached(lab, "node1", "node2")
    after = lab.network.counts()

    for pair in (("node1", "node2"), ("node2", "node1")):
        assert after[pair].frames > (before[pair].frames if pair in before else 0)


def test_a_cut_one_way_and_a_delay(lab: Lab) -> None:
    assert reached(lab, "node1", "node2")
    lab.network.cut("node2", "node1")
    before = lab.network.counts()
    assert not reached(lab, "node1", "node2")
    after = lab.network.counts()
    assert after["node1", "node2"].frames > before["node1", "node2"].frames
    assert after["node2", "node1"].frames == before["node2", "node1"].frames
    assert after["node2", "node1"].dropped > before["node2", "node1"].dropped

    lab.network.heal()
    lab.network.delay("node1", "node2", 0.3)
    began_s = time.monotonic()
    assert reached(lab, "node1", "node2")
    assert time.monotonic() - began_s > 0.3


def test_cuts_stay_when_a_guest_is_started_again(lab: Lab) -> None:
    lab.network.isolate("node2")
    lab["node2"].restart()
    assert not reached(lab, "node1", "node2")

    lab.network.heal()

    assert reached(lab, "node1", "node2")


# --- disks -----------------------------------------------------------------------------------


@pytest.mark.smoke
def test_what_one_guest_writes_another_reads(lab: Lab) -> None:
    one, other = lab["node1"].disks["d1"], lab["node2"].disks["d1"]
    assert (one.path, other.path) == ("/dev/mapper/d1", "/dev/mapper/other")

    for fill in (b"a", b"b"):
        one.write(8 * BLOCK, fill * BLOCK)
        assert other.read(8 * BLOCK, BLOCK) == fill * BLOCK
    assert lab.image("d1").read_bytes()[8 * BLOCK : 9 * BLOCK] == b"b" * BLOCK


def test_a_disk_fails_on_one_guest_alone(lab: Lab) -> None:
    one, other = lab["node1"].disks["d1"], lab["node2"].disks["d1"]
    one.write(0, b"a" * BLOCK)

    one.fail()

    for action in (lambda: one.read(0, BLOCK), lambda: one.write(0, b"x" * BLOCK)):
        with pytest.raises(LabError, match="Input/output error"):
            action()
    assert other.read(0, BLOCK) == b"a" * BLOCK
    one.heal()
    assert one.read(0, BLOCK) == b"a" * BLOCK


def test_reads_or_writes_fail_alone_and_in_a_stretch(lab: Lab) -> None:
    disk = lab["node1"].disks["d1"]
    disk.fail_writes()
    disk.read(0, BLOCK)
    with pytest.raises(LabError, match="Input/output error"):
        disk.write(0, b"x" * BLOCK)
    disk.heal()
    disk.fail_reads()
    disk.write(0, b"y" * BLOCK)
    with pytest.raises(LabError, match="Input/output error"):
        disk.read(0, BLOCK)
    disk.heal()
    disk.fail_range(8, 16, writes=False)
    disk.write(BLOCK, b"z" * BLOCK)
    assert disk.read(0, BLOCK) == b"y" * BLOCK
    with pytest.raises(LabError, match="Input/output error"):
        disk.read(BLOCK, BLOCK)


def test_a_disk_vanishes_while_it_is_used_and_comes_back(lab: Lab) -> None:
    node, disk = lab["node1"], lab["node1"].disks["d2"]
    command = f"while dd if=/dev/zero of={disk.path} bs=64k oflag=direct count=900; do :; done"
    writer = node.spawn("writer", f"{command}; exit 1")

    disk.delay(writes_ms=2000)
    disk.vanish()

    assert writer.wait() == 1
    assert "Input/output error" in writer.output()
    assert not node.run(f"test -e {disk.path}", check=False).ok
    disk.heal()
    disk.write(0, b"a" * BLOCK)
    assert disk.read(0, BLOCK) == b"a" * BLOCK


def test_a_reset_lab_is_as_new(lab: Lab) -> None:
    lab["node1"].disks["d1"].write(0, b"a" * BLOCK)
    lab["node1"].run("echo x >/persist/x; sync")

    lab.reset()

    assert lab["node2"].disks["d1"].read(0, BLOCK) == bytes(BLOCK)
    assert not lab["node1"].run("test -e /persist/x", check=False).ok


def test_a_disk_that_loses_writes(lab: Lab) -> None:
    disk = lab["node1"].disks["d1"]
    disk.write(0, b"a" * BLOCK)
    disk.lose_writes()
    disk.write(0, b"b" * BLOCK)

    assert disk.read(0, BLOCK) == b"a" * BLOCK


# --- fencing ---------------------------------------------------------------------------------


@pytest.mark.smoke
def test_the_fence_agent_answers_when_the_guest_is_off(lab: Lab) -> None:
    assert fence(lab, "node1", action="status", plug="node2", colour="red").rc == 0

    assert fence(lab, "node1", action="off", port="node2").rc == 0
    assert not lab["node2"].alive
    assert fence(lab, "node1", action="status", plug="node2").rc == 2

    assert fence(lab, "node1", action="on", plug="node2").rc == 0
    lab["node2"].wait_ready()


def test_a_fence_device_out_of_order(lab: Lab) -> None:
    lab.fence.mood = Mood.FAILS
    assert fence(lab, "node1", action="off", plug="node2").rc == 1
    lab.fence.mood = Mood.LIES
    assert fence(lab, "node1", action="off", plug="node2").rc == 0

    assert lab["node2"].alive
    assert [asked.action for asked in lab.fence.asked] == ["off", "off"]
    assert fence(lab, "node1", action="off", plug="node9").rc == 1
    assert "fence_lab" in fence(lab, "node1", action="metadata").out


def test_a_guest_can_ask_to_be_fenced_itself(lab: Lab) -> None:
    with pytest.raises(GuestDeadError):
        fence(lab, "node2", action="off", plug="node2")

    lab["node2"].wait_dead(5)
