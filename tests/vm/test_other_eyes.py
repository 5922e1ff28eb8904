"""What looks at the arrays without being a voter: a spectator, md's own words, stock mdadm.

Two voters and a spectator. A node that alone cannot write a member leaves (policy `leave`).
"""

import re

import pytest

from mdcluster.control.verbs import Verb
from tests.cluster.images import assert_identical
from tests.vm.cluster.harness import SLOW_RESYNC
from tests.vm.cluster.proof import Proof
from tests.vm.lab import Disk, Guest

LAB = {"nodes": 3, "disks": tuple(Disk(f"d{number}", 24) for number in range(1, 4))}
SPECTATOR = "node3"
CLUSTER = {"settings": SLOW_RESYNC, "spectators": (SPECTATOR,), "policy": "leave"}
VOTERS = ("node1", "node2")
OF_A_CLUSTER = {"Intent Bitmap", "Cluster Name", "Running On"}
"""What mdcadm says of an array that mdadm does not say of the same members, given back."""
OF_ITS_PLACE = {"Consistency Policy", "Events", "Name", "Update Time", "MD_DEVNAME", "MD_NAME"}
"""What is another word on the plain array."""


def written(guest: Guest) -> dict[str, int]:
    """Write requests so far, by disk (Documentation/admin-guide/iostats)."""
    found = {}
    for name, disk in guest.disks.items():
        stat = guest.run(f"cat /sys/dev/block/$(stat -c %Hr:%Lr {disk.path})/stat").out
        found[name] = int(stat.split()[4])
    return found


def fields(text: str) -> dict[str, str]:
    """The `Name : value` lines of mdadm and mdcadm."""
    pairs = (line.split(" : ", 1) for line in text.splitlines() if " : " in line)
    return {name.strip(): value.strip() for name, value in pairs}


def by_label(text: str) -> list[tuple[str, str]]:
    """mdadm's lines as (label, value), without what an array of ours has or calls otherwise."""
    pairs = []
    for line in text.splitlines():
        assigned = re.match(r"[A-Za-z_0-9]+=", line)
        label, mark, value = line.partition("=" if assigned else " : ")
        label, value = label.strip(), " ".join(value.split())
        if label and not label.startswith("/dev/") and label not in OF_A_CLUSTER:
            pairs.append((label, "" if label in OF_ITS_PLACE or not mark else value))
    return pairs


def test_spectator_writes_nothing(proof: Proof) -> None:
    """Through a resync, a failure, a recovery: 0 write requests; what it reads is never garbage."""
    cluster = proof.cluster
    eye = proof.lab[SPECTATOR]
    assert eye.run("cat /sys/block/md_data/md/array_state").out.strip() == "readonly"
    proof.fresh()
    with proof.load(names=VOTERS) as load:
        load.progress()
        cluster.until_in_sync()
        eye.read_direct("/dev/md/data", 0, 1 << 20)
        cluster.change(Verb.FAIL, "d2")
        cluster.change(Verb.REMOVE, "d2")
        cluster.change(Verb.ADD, "d2")
        cluster.until_in_sync()
        eye.read_direct("/dev/md/data", 1 << 20, 1 << 20)
        load.progress()
    assert proof.verify(load)
    assert written(eye) == dict.fromkeys(eye.disks, 0)
    assert all(sum(written(proof.lab[name]).values()) for name in VOTERS)


def test_all_words_agree(proof: Proof) -> None:
    """/proc/mdstat, mdadm --detail and mdadm --examine of every guest, and mdcadm."""
    cluster = proof.cluster
    proof.in_sync()
    ours = cluster.detail()
    for guest in proof.lab.guests:
        line = cluster.mdstat(guest.name)
        assert f"{ours.array_sectors // 2} blocks" in line
        assert "raid1" in line
        if guest.name == SPECTATOR:  # md takes no member in while an array is read-only
            continue
        assert "[2/2] [UU]" in line
        detail = fields(guest.run("mdadm --detail /dev/md/data").out)
        words = fields(guest.run("mdcadm --detail /dev/md/data", timeout_s=60).out)
        for name in ("Raid Level", "Array Size", "Raid Devices", "Total Devices", "Failed Devices"):
            assert detail[name] == words[name], name

        for member in ours.members:
            examined = fields(guest.run(f"mdadm --examine {member.path}").out)
            assert examined["Events"] == str(ours.events)
            assert examined["Checksum"].endswith("correct")
            assert _uuid(examined["Array UUID"]) == _uuid(ours.uuid)
            assert _uuid(examined["Device UUID"]) == _uuid(member.uuid)
            assert examined["Device Role"] == f"Active device {member.role}"
            assert examined["Array State"].startswith("AA")


def _uuid(text: str) -> str:
    return re.sub("[^0-9a-f]", "", text)


def test_stock_mdadm_leaves_members_alone(proof: Proof) -> None:
    """The guard bit, with no array of ours that holds them: neither -I nor -A starts it."""
    cluster = proof.cluster
    guest = proof.lab[SPECTATOR]
    cluster.stop(SPECTATOR)
    guest.run("test ! -e /sys/block/md_data || mdadm --stop /dev/md_data")
    for disk in ("d1", "d2"):
        assert not guest.run(f"mdadm -I /dev/mapper/{disk}", check=False).ok
    assert not guest.run("mdadm -A /dev/md/stolen /dev/mapper/d1 /dev/mapper/d2", check=False).ok
    assert " active " not in guest.read_text("/proc/mdstat")
    assert written(guest) == dict.fromkeys(guest.disks, 0)
    cluster.start(SPECTATOR)


def test_given_back_and_taken_in_again(proof: Proof) -> None:
    """A released array is one of stock mdadm, identical; and is adopted again without copying."""
    cluster = proof.cluster
    proof.in_sync()
    guest = proof.lab[cluster.writer()]
    with proof.load(names=VOTERS) as load:
        load.progress()
    assert proof.verify(load)
    ours = _reports(guest, "mdcadm", "data")
    guest.run("mdcadm --release /dev/md/data", timeout_s=60)
    guest.run("mdadm -A /dev/md/plain /dev/mapper/d1 /dev/mapper/d2")
    for option, lines in _reports(guest, "mdadm", "plain").items():
        assert ours[option] == lines, option
    assert "[2/2] [UU]" in guest.read_text("/proc/mdstat")
    assert "resync" not in guest.read_text("/proc/mdstat")
    guest.run("mdadm --stop /dev/md/plain")
    assert_identical([cluster.image("d1"), cluster.image("d2")])

    guest.run("mdcadm --adopt /dev/mapper/d1 /dev/mapper/d2", timeout_s=60)
    cluster.until_running("data", *proof.names)
    assert cluster.detail().sync is None
    assert proof.verify(load)


def _reports(guest: Guest, command: str, array: str) -> dict[str, object]:
    """What it prints of a clean array of d1 and d2, as far as that is the same for both."""
    found: dict[str, object] = {}
    for option in ("", "--brief", "--export"):
        text = guest.run(f"{command} --detail {option} /dev/md/{array}", timeout_s=60).out
        text = text.replace(f"/dev/md/{array}", "/dev/md/ARRAY")
        for name, disk in guest.disks.items():
            place = f"/sys/dev/block/$(stat -c %Hr:%Lr {disk.path})"
            node = guest.run(f"basename $(readlink {place})").out.strip()
            text = text.replace(f"/dev/{node}", disk.path)
            text = text.replace(f"dev_{node.replace('-', '_')}", f"dev_{name}")
        lines = by_label(text)
        found[option] = sorted(lines) if option == "--export" else lines
    found["--test"] = guest.run(f"{command} --detail --test /dev/md/{array}", check=False).rc
    return found


pytestmark = pytest.mark.kernel("6.1")
