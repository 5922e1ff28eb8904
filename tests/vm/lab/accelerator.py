"""Whether guests can run on the processor itself (KVM), found out by booting one.

/dev/kvm may exist, make virtual machines and even run them, and yet not get a stock kernel
through its boot, as nested virtualisation does now and then. Only a boot tells; what it told is
kept in the cache until the host boots again.
"""

import os
import subprocess
import tempfile
from hashlib import sha256
from pathlib import Path

from tests.vm.lab.cpio import Archive
from tests.vm.lab.errors import LabError
from tests.vm.lab.initramfs import busybox
from tests.vm.lab.kernels import Kernel, locked_cache
from tests.vm.lab.qemu import PROGRAM

CHOICE = "MDCLUSTER_VM_ACCEL"
KVM = Path("/dev/kvm")
PROBE_LIMIT_S = 8.0
"""KVM that works needs a second; slower than this, it is no faster than emulation."""
SIGN = "LAB: it works"
PROBE_INIT = f"""#!/bin/sh
/bin/busybox echo "{SIGN}"
/bin/busybox poweroff -f
"""


def accelerator(kernel: Kernel) -> str:
    """As the environment says, or kvm if a guest boots with it, or else tcg."""
    chosen = os.environ.get(CHOICE, "")
    if chosen:
        if chosen not in ("kvm", "tcg"):
            raise LabError(f"{CHOICE} must be kvm or tcg, not {chosen!r}")
        return chosen
    if not os.access(KVM, os.R_OK | os.W_OK):
        return "tcg"

    with locked_cache() as cache:
        known = cache / f"accelerator-{_host_key(kernel)}"
        if not known.exists():
            known.write_text("kvm" if _kvm_boots(kernel) else "tcg")
        return known.read_text()


def _host_key(kernel: Kernel) -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    return sha256(f"{boot} {kernel.version}".encode()).hexdigest()[:16]


def _kvm_boots(kernel: Kernel) -> bool:
    archive = Archive()
    for folder in ("bin", "dev"):
        archive.folder(folder)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", busybox(), mode=0o755)
    archive.link("bin/sh", "busybox")
    archive.file("init", PROBE_INIT.encode(), mode=0o755)
    with tempfile.NamedTemporaryFile(suffix=".cpio") as file:
        file.write(archive.finish())
        file.flush()
        return _boots([*_probe_command(kernel), "-initrd", file.name])


def _probe_command(kernel: Kernel) -> list[str]:
    return [
        PROGRAM,
        *("-accel", "kvm", "-cpu", "max", "-m", "256", "-nodefaults", "-display", "none"),
        *("-no-reboot", "-serial", "stdio", "-kernel", str(kernel.image)),
        *("-append", "console=ttyS0 quiet panic=-1"),
    ]


def _boots(command: list[str]) -> bool:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return SIGN in done.stdout
