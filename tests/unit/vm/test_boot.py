"""What a guest boots from: the archive, the shell file with its settings, QEMU's command line."""

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.vm.lab.boot import address_of, boot_env, mac_of
from tests.vm.lab.cpio import Archive
from tests.vm.lab.disks import Disk, can_bypass_cache, make_image
from tests.vm.lab.errors import LabError
from tests.vm.lab.kernels import PACKAGE, Kernel, obtain
from tests.vm.lab.qemu import Drive, Machine

MACHINE = Machine(
    name="node1",
    folder=Path("/lab/node1"),
    kernel=Path("/k/vmlinuz"),
    initramfs=Path("/k/initramfs"),
    accelerator="tcg",
    memory_mib=512,
    cpus=1,
    mac=mac_of(1),
    drives=(Drive(Path("/lab/d1.raw"), "d1", shared=True, direct=False, throttle="bps=1"),),
)


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is missing")
def test_an_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    archive = Archive()
    archive.folder("bin")
    archive.file("bin/tool", b"12345", mode=0o755)
    archive.link("bin/sh", "tool")
    done = subprocess.run(
        ["cpio", "-idv", "--quiet"],
        input=archive.finish(),
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )

    assert done.stderr.decode().split() == ["bin", "bin/tool", "bin/sh"]
    assert (tmp_path / "bin" / "sh").read_bytes() == b"12345"
    assert (tmp_path / "bin" / "tool").stat().st_mode & 0o777 == 0o755


def test_the_settings_survive_a_shell() -> None:
    kernel = Kernel("6.1", Path("/cache of mine/linux-image-6.1.0-1-amd64"))
    text = boot_env(2, 3, kernel, Path("/tmp/lab"), {"d1": "other"}, udev=False)
    done = subprocess.run(
        ["sh", "-uc", text + 'echo "$lab_name $lab_address $lab_disks|$lab_modules|$lab_hosts"'],
        capture_output=True,
        text=True,
        check=True,
    )

    first, *hosts = done.stdout.splitlines()
    assert first == (
        "node2 10.77.0.2 d1:other|"
        "/cache of mine/linux-image-6.1.0-1-amd64/lib/modules/6.1.0-1-amd64|127.0.0.1 localhost"
    )
    assert hosts == [f"{address_of(number)} node{number}" for number in (1, 2, 3)]


def test_a_shared_disk_on_the_command_line() -> None:
    command = " ".join(MACHINE.command())

    assert "file=/lab/d1.raw,format=raw,if=none,id=disk0,file.locking=off" in command
    assert "cache=writeback,discard=unmap,bps=1" in command
    assert "virtio-blk-pci,drive=disk0,serial=d1,share-rw=on" in command


def test_a_disk_of_its_own_is_not_shared() -> None:
    drive = Drive(Path("/lab/p.raw"), "p", shared=False, direct=True)
    command = " ".join(dataclasses.replace(MACHINE, drives=(drive,)).command())

    assert "cache=none" in command
    assert "share-rw" not in command


def test_no_guest_has_a_way_out() -> None:
    """Its only network card ends at the lab's switch, its host's files are read-only."""
    command = " ".join(MACHINE.command())

    assert command.count("-netdev") == 1
    assert "dgram,id=net,local.type=unix" in command
    assert "readonly=on" in command


@pytest.mark.parametrize(
    ("series", "name", "fits"),
    [
        ("6.1", "linux-image-6.1.0-56-amd64", True),
        ("6.1", "linux-image-6.1.0-56-rt-amd64", False),
        ("6.1", "linux-image-6.1.0-56-amd64-unsigned", False),
        ("6.1", "linux-image-6.12.117+deb12-amd64", False),
        ("6.12", "linux-image-6.12.117+deb12-amd64", True),
        ("6.12", "linux-image-6.12.117+deb12-cloud-amd64", False),
        ("6.12", "linux-image-6.12.117+deb12-amd64-dbg", False),
    ],
)
def test_only_ordinary_signed_kernels_are_taken(series: str, name: str, fits: bool) -> None:
    assert bool(PACKAGE[series].fullmatch(name)) == fits


def test_the_newest_kernel_in_the_cache_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDCLUSTER_VM_CACHE", str(tmp_path))
    for name in ("6.12.9+deb12-amd64", "6.12.117+deb12-amd64", "6.1.0-56-amd64"):
        (tmp_path / f"linux-image-{name}").mkdir()

    assert obtain("6.12").version == "6.12.117+deb12-amd64"
    with pytest.raises(LabError, match=r"no kernel series '5\.10'"):
        obtain("5.10")


def test_images_are_sparse(tmp_path: Path) -> None:
    make_image(tmp_path / "a.raw", 8)

    assert (tmp_path / "a.raw").stat().st_size == 8 << 20
    assert (tmp_path / "a.raw").stat().st_blocks == 0
    assert can_bypass_cache(tmp_path) in (True, False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.raw"]
    with pytest.raises(LabError):
        Disk("no/name")
