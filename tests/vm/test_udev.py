"""What udev does to disks in a guest that runs it: the ground of the tests of auto-assembly."""

from tests.vm.lab import Disk, Lab

LAB = {"nodes": 1, "disks": (Disk("d1", 64), Disk("d2", 64)), "udev": True}
TRIGGER = "udevadm trigger --action=add --subsystem-match=block; udevadm settle --timeout=60"


def test_udev_assembles_an_array_that_is_marked_by_nobody(lab: Lab) -> None:
    node = lab["node1"]
    paths = " ".join(disk.path for disk in node.disks.values())
    node.run(f"mdadm --create /dev/md/plain --run --level=1 --raid-devices=2 {paths}")
    node.run("udevadm settle --timeout=60; mdadm --stop --scan")
    assert " active " not in node.read_text("/proc/mdstat")

    node.run(TRIGGER)

    assert " active " in node.read_text("/proc/mdstat")
    node.run("mdadm --stop --scan")
