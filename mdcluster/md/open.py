"""Which md this host uses, and which life it gives the node: by `[driver] kind` of the settings."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mdcluster.config.errors import ConfigError
from mdcluster.config.settings import Settings
from mdcluster.md.driver import DriverError, GateCheck, MdDriver
from mdcluster.md.embedded import EmbeddedDriver
from mdcluster.md.kernel import KernelDriver

BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
"""Drawn by the kernel at each boot (random(4))."""


@dataclass(frozen=True, slots=True)
class Md:
    """A driver, and the boot id of the life its arrays belong to."""

    driver: MdDriver
    boot_id: str


def open_md(settings: Settings, gate_check: GateCheck) -> Md:
    """The driver that the settings ask for; nothing is assembled, or taken over, yet.

    Arrays of the embedded driver live and die with this process, so each process is a life of
    its own. Those of the kernel live until it is booted again, and so does the life.

    Raises:
        ConfigError: a directory cannot be made.
        DriverError: this host cannot have that driver.
    """
    return _OPENERS[settings.driver.kind](settings, gate_check)


def _open_embedded(settings: Settings, gate_check: GateCheck) -> Md:
    driver = EmbeddedDriver(
        _private(settings.paths.nbd_dir, "nbd_dir"),
        gate_check,
        write_deadline_ms=settings.timing.write_deadline_ms,
    )
    return Md(driver, str(uuid.uuid4()))


def _open_kernel(settings: Settings, gate_check: GateCheck) -> Md:
    driver = KernelDriver(
        gate_check,
        write_deadline_ms=settings.timing.write_deadline_ms,
        hold_deadline_ms=settings.timing.hold_deadline_ms,
        notes_dir=settings.paths.run_dir,
    )
    return Md(driver, kernel_boot_id())


_OPENERS: dict[str, Callable[[Settings, GateCheck], Md]] = {
    "embedded": _open_embedded,
    "kernel": _open_kernel,
}


def kernel_boot_id(path: Path = BOOT_ID_FILE) -> str:
    """The boot id of the running kernel, a UUID in lower case. DriverError if there is none."""
    try:
        return str(uuid.UUID(path.read_text(encoding="ascii").strip()))
    except (OSError, ValueError) as error:
        raise DriverError(f"{path}: the boot id of this kernel cannot be read: {error}") from None


def _private(path: Path, key: str) -> Path:
    """Made if need be, for root only: whoever reaches the sockets in it reads the arrays."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"directory {path} cannot be made: {error.strerror}; check [paths] {key}"
        ) from None
    return path
