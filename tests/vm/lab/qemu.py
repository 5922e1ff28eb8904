"""QEMU: its command line, made from what a guest has; its process, which never outlives us."""

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vm.lab.processes import start

PROGRAM = "qemu-system-x86_64"
ACCELERATORS = {"kvm": "kvm", "tcg": "tcg,tb-size=256"}
"""With a bound on translated code, in MiB: by default it may grow to a GiB for every guest."""


@dataclass(frozen=True, slots=True)
class Drive:
    """A raw image that a guest sees as a disk with this serial number."""

    image: Path
    serial: str
    shared: bool
    direct: bool
    """Whether its file system can bypass the host's page cache."""
    throttle: str = ""
    """Further options of QEMU's -drive, such as throttling.iops-total=100."""


@dataclass(frozen=True, slots=True)
class Machine:
    """All that makes up one guest; folder is its own, for sockets and logs."""

    name: str
    folder: Path
    kernel: Path
    initramfs: Path
    accelerator: str
    memory_mib: int
    cpus: int
    mac: str
    drives: Sequence[Drive]
    append: str = ""

    def socket(self, name: str) -> Path:
        return self.folder / f"{name}.sock"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    def command(self) -> list[str]:
        """What to execute."""
        return [
            PROGRAM,
            *("-name", self.name, "-accel", ACCELERATORS[self.accelerator], "-cpu", "max"),
            *("-m", str(self.memory_mib), "-smp", str(self.cpus)),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-kernel", str(self.kernel), "-initrd", str(self.initramfs)),
            *("-append", self._append()),
            *self._host_root(),
            *self._consoles(),
            *self._ports(),
            *self._network(),
            *(word for number, drive in enumerate(self.drives) for word in _disk(number, drive)),
        ]

    def _append(self) -> str:
        words = ["console=ttyS0", "loglevel=5", "panic=-1", "oops=panic", "mitigations=off"]
        words += ["random.trust_cpu=on", "tsc=reliable", "no_timer_check"]
        words += ["net.ifnames=0", f"lab.dir={self.folder}", self.append]
        return " ".join(word for word in words if word)

    def _host_root(self) -> list[str]:
        share = "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"
        return ["-fsdev", share, "-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]

    def _consoles(self) -> list[str]:
        serial = f"socket,id=console,path={self.socket('console')},server=on,wait=off"
        shell = f"socket,id=shell,path={self.socket('shell')},server=on,wait=off"
        return [
            *("-chardev", f"{serial},logfile={self.console},logappend=on"),
            *("-serial", "chardev:console"),
            *("-device", "virtio-serial-pci", "-chardev", shell),
            *("-device", "virtconsole,chardev=shell,name=lab.shell"),
        ]

    def _ports(self) -> list[str]:
        words = []
        for name in ("agent", "fence"):
            words += ["-chardev", f"socket,id={name},path={self.socket(name)}"]
            words += ["-device", f"virtserialport,chardev={name},name=lab.{name}"]
        return words

    def _network(self) -> list[str]:
        ends = (
            f"local.type=unix,local.path={self.socket('net-guest')}",
            f"remote.type=unix,remote.path={self.socket('net-switch')}",
        )
        card = f"virtio-net-pci,netdev=net,mac={self.mac},romfile="
        return ["-netdev", f"dgram,id=net,{','.join(ends)}", "-device", card]


def _disk(number: int, drive: Drive) -> list[str]:
    cache = "none" if drive.direct else "writeback"
    options = [f"file={drive.image},format=raw,if=none,id=disk{number},file.locking=off"]
    options += [f"cache={cache},discard=unmap", *([drive.throttle] if drive.throttle else [])]
    share = ",share-rw=on" if drive.shared else ""
    device = f"virtio-blk-pci,drive=disk{number},serial={drive.serial}{share}"
    return ["-drive", ",".join(options), "-device", device]


class Process:
    """A QEMU that runs, or has ended; killed by the kernel if we die before it."""

    def __init__(self, machine: Machine) -> None:
        log = machine.folder / "qemu.log"
        self._log = log
        self._popen = start(machine.command(), log)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended, at the latest after this time."""
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """It has ended when this returns."""
        if self.alive:
            self._popen.send_signal(signal.SIGKILL)
        self._popen.wait()

    def stop(self) -> None:
        """Every one of its threads stands when this returns."""
        self._popen.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        self._popen.send_signal(signal.SIGCONT)

    def complaint(self) -> str:
        """What QEMU itself had to say."""
        return self._log.read_text(errors="replace").strip()
