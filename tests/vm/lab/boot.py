"""What a guest's `init.sh` is told: the file boot.env in the guest's own folder.

Addresses are a matter of the number alone, so whoever knows a guest's name knows its address.
"""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.vm.lab.kernels import Kernel

CHECKOUT = Path(__file__).resolve().parents[3]
AGENT = CHECKOUT / "tests" / "vm" / "standalone" / "agent.py"


def address_of(number: int) -> str:
    """The IPv4 address of node1, node2, ..."""
    return f"10.77.0.{number}"


def mac_of(number: int) -> str:
    return f"52:54:00:4d:44:{number:02x}"


def boot_env(
    number: int,
    nodes: int,
    kernel: Kernel,
    folder: Path,
    disk_names: Mapping[str, str],
    *,
    udev: bool,
) -> str:
    """Shell assignments; the values may contain anything."""
    python = Path(sys.executable)
    hosts = ["127.0.0.1 localhost"]
    hosts += [f"{address_of(one)} node{one}" for one in range(1, nodes + 1)]
    needed = (CHECKOUT, python.parent, python.resolve().parent, folder)
    values = {
        "lab_name": f"node{number}",
        "lab_address": address_of(number),
        "lab_hosts": "\n".join(hosts),
        "lab_paths": " ".join(str(path) for path in needed),
        "lab_modules": str(kernel.modules),
        "lab_disks": " ".join(f"{disk}:{name}" for disk, name in disk_names.items()),
        "lab_udev": "yes" if udev else "no",
        "lab_checkout": str(CHECKOUT),
        "lab_path": f"{python.parent}:/usr/sbin:/usr/bin:/sbin:/bin:/run/lab/bin",
        "lab_agent": f"{python} -I -S {AGENT}",
    }
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
