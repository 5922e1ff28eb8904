"""The first root file system of a guest: busybox, the modules to reach the host's, `init.sh`.

It is kept in the cache under a name made from all it contains, so a change of any part of it
builds a new one and an unchanged one is built once.
"""

import hashlib
import lzma
import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.vm.lab.cpio import Archive
from tests.vm.lab.errors import LabError
from tests.vm.lab.kernels import TOOLS_PATH, Kernel, locked_cache

MODULES = (
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
    "ext4",
    "dm_mod",
)
"""What a guest needs before it can load modules from its root file system."""
UNUSED_AFTER_S = 7 * 86400
INIT = Path(__file__).with_name("init.sh")


def initramfs(kernel: Kernel) -> Path:
    """The archive for this kernel, built if it is not in the cache."""
    content = _build(kernel)
    name = f"initramfs-{hashlib.sha256(content).hexdigest()[:16]}.cpio"
    path = kernel.root / name
    if path.exists():
        path.touch()
        return path

    with locked_cache():
        _remove_unused(kernel)
        building = kernel.root / f".{name}.{os.getpid()}"
        building.write_bytes(content)
        building.rename(path)
    return path


def _remove_unused(kernel: Kernel) -> None:
    """Those of earlier versions of the lab which no lab has used for days."""
    for path in kernel.root.glob("*initramfs-*"):
        if time.time() - path.stat().st_mtime > UNUSED_AFTER_S:
            path.unlink(missing_ok=True)


def _build(kernel: Kernel) -> bytes:
    archive = Archive()
    for folder in ("bin", "dev", "host", "modules", "new", "proc", "rw", "sys"):
        archive.folder(folder)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", busybox(), mode=0o755)
    archive.link("bin/sh", "busybox")
    archive.file("init", INIT.read_bytes(), mode=0o755)
    paths = _with_dependencies(kernel)
    archive.file("modules/order", "".join(f"{_name(path)}\n" for path in paths).encode())
    for path in paths:
        archive.file(f"modules/{_name(path)}", _plain(path))
    return archive.finish()


def busybox() -> bytes:
    """The program which is all of user space at first; it must need no library."""
    found = shutil.which("busybox", path=TOOLS_PATH)
    if found is None:
        raise LabError("busybox is missing: install Debian's busybox-static")
    if b"/ld-linux" in (content := Path(found).read_bytes()):
        raise LabError(f"{found} needs shared libraries: install Debian's busybox-static")
    return content


def _with_dependencies(kernel: Kernel) -> list[Path]:
    """The files of `MODULES` and of all they need, in the order in which they can be loaded."""
    done = subprocess.run(
        ["modprobe", "-d", kernel.root, "-S", kernel.version, "-a", "--show-depends", *MODULES],
        env={**os.environ, "PATH": TOOLS_PATH},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise LabError(f"{kernel.version}: {done.stderr.strip()}")
    lines = (line.split() for line in done.stdout.splitlines())
    paths = (Path(words[1]) for words in lines if words[0] == "insmod")
    return list(dict.fromkeys(paths))


def _name(path: Path) -> str:
    return f"{path.name.partition('.')[0]}.ko"


def _plain(path: Path) -> bytes:
    """A module, unpacked here because that takes an emulated processor much longer."""
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content
