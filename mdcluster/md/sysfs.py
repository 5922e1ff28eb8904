"""md's sysfs attributes, read and written with errors in words. Blocking; no decisions.

Below ``/sys/block/<md name>/md`` the kernel shows one directory for each array
(Documentation/admin-guide/md.rst; drivers/md/md.c, ``md_default_attrs``, ``rdev_default_attrs``).
Sizes are as md takes them: sectors of 512 bytes, but KiB in ``component_size`` and ``dev-*/size``,
bytes in ``chunk_size`` and ``bitmap/chunksize``.

Reads take no lock of md. Writes of most attributes take its ``reconfig_mutex``, and may wait for
whoever has it, or for the I/O that they drain: call them in threads that may be lost.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mdcluster.md.driver import DriverError

SYS: Final = Path("/sys")
READ_BYTES_MAX: Final = 1 << 16
"""sysfs gives at most a page; this is more than any kernel's page."""

_ADVICE: Final = {
    errno.EBUSY: "it is in use, or an operation is under way",
    errno.EINVAL: "this kernel does not take that value now",
    errno.ENOENT: "it is not there: the array was stopped, or this kernel's md lacks it",
    errno.EACCES: "run as root",
    errno.EPERM: "run as root",
    errno.ENODEV: "the array is going away",
    errno.EEXIST: "it exists already",
    errno.ENOSPC: "there is no room for it",
}


class AttributeFault(DriverError):
    """An attribute could not be read or written: which, of what, with which value, and why."""

    def __init__(self, path: Path, value: str | None, error: OSError) -> None:
        self.errno = error.errno or 0
        self.attribute = path.name
        action = "read" if value is None else f"set to {value!r}"
        why = error.strerror or str(error)
        code = errno.errorcode.get(self.errno, str(self.errno))
        advice = _ADVICE.get(self.errno)
        super().__init__(
            f"{path} cannot be {action}: {why} ({code})" + (f"; {advice}" if advice else "")
        )


def read_attribute(path: Path) -> str:
    """Its text, without the line's end. Raises AttributeFault."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, READ_BYTES_MAX).decode("ascii", "replace").strip()
        finally:
            os.close(fd)
    except OSError as error:
        raise AttributeFault(path, None, error) from None


def write_attribute(path: Path, value: str | int) -> None:
    """One write(2) of the whole text, as sysfs wants it. Raises AttributeFault."""
    text = str(value)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode("ascii"))
        finally:
            os.close(fd)
    except OSError as error:
        raise AttributeFault(path, text, error) from None


@dataclass(frozen=True, slots=True)
class MemberDir:
    """One member's directory ``md/dev-<name>``. path: that directory."""

    path: Path

    @property
    def name(self) -> str:
        """The block device's name in the kernel."""
        return self.path.name.removeprefix("dev-")

    def read(self, attribute: str) -> str:
        return read_attribute(self.path / attribute)

    def write(self, attribute: str, value: str | int) -> None:
        write_attribute(self.path / attribute, value)

    @property
    def flags(self) -> frozenset[str]:
        """The words of `state`: in_sync, faulty, blocked, spare, external_bbl, write_error ..."""
        return frozenset(self.read("state").split(",")) - {""}

    @property
    def slot(self) -> int:
        """The role, -1 for none."""
        text = self.read("slot")
        return int(text) if text.isdecimal() else -1

    @property
    def unacknowledged(self) -> tuple[tuple[int, int], ...]:
        """(first sector, length) of errors that md holds writes for."""
        return _extents(self.read("unacknowledged_bad_blocks"))

    @property
    def errors(self) -> int:
        """Read errors that md has corrected, by writing to the member what another one had."""
        return _number(self.read("errors"))

    @property
    def recovery_start_sectors(self) -> int | None:
        """Valid below this; None: everywhere."""
        text = self.read("recovery_start")
        return None if text == "none" else _number(text)

    @property
    def block(self) -> Path:
        """Its directory as a block device, with `stat` and `inflight`."""
        return self.path / "block"

    @property
    def device_number(self) -> tuple[int, int]:
        """Major and minor of the device."""
        major, _, minor = read_attribute(self.block / "dev").partition(":")
        return _number(major), _number(minor)

    @property
    def writes_in_flight(self) -> int:
        """Writes outstanding on the device, whoever sent them (Documentation/block/stat.rst)."""
        words = read_attribute(self.block / "inflight").split()
        return _number(words[1]) if len(words) > 1 else 0

    @property
    def sectors_moved(self) -> int:
        """Read and written since the host was started, whoever did."""
        words = read_attribute(self.block / "stat").split()
        return _number(words[2]) + _number(words[6]) if len(words) > 6 else 0


@dataclass(frozen=True, slots=True)
class ArrayDir:
    """One array's directory ``/sys/block/<name>/md``."""

    name: str
    root: Path = SYS

    @property
    def path(self) -> Path:
        return self.root / "block" / self.name / "md"

    def exists(self) -> bool:
        return self.path.is_dir()

    def read(self, attribute: str) -> str:
        return read_attribute(self.path / attribute)

    def write(self, attribute: str, value: str | int) -> None:
        write_attribute(self.path / attribute, value)

    @property
    def state(self) -> str:
        """clear, inactive, readonly, read-auto, clean, active, write-pending, active-idle ..."""
        return self.read("array_state")

    @property
    def suspended_sectors(self) -> tuple[int, int]:
        """[lo, hi) in which writes wait, in sectors of the array."""
        return _number(self.read("suspend_lo")), _number(self.read("suspend_hi"))

    @property
    def resync_start_sectors(self) -> int | None:
        """Equal below this; None: everywhere."""
        text = self.read("resync_start")
        return None if text == "none" else _number(text)

    @property
    def sync_completed_sectors(self) -> int | None:
        """How far the running sync is, complete; None if none runs or it waits to begin."""
        word = self.read("sync_completed").split("/")[0].strip()
        return int(word) if word.isdecimal() else None

    @property
    def device_number(self) -> tuple[int, int]:
        """Major and minor."""
        major, _, minor = read_attribute(self.path.parent / "dev").partition(":")
        return _number(major), _number(minor)

    def member(self, name: str) -> MemberDir:
        return MemberDir(self.path / f"dev-{name}")

    def members(self) -> Iterator[MemberDir]:
        """All that are attached now, in the order of their names."""
        try:
            names = sorted(n for n in os.listdir(self.path) if n.startswith("dev-"))
        except OSError as error:
            raise AttributeFault(self.path, None, error) from None
        for name in names:
            yield MemberDir(self.path / name)


def block_name(number: tuple[int, int], root: Path = SYS) -> str:
    """The kernel's name of the block device with this major and minor. Raises AttributeFault."""
    link = root / "dev" / "block" / f"{number[0]}:{number[1]}"
    try:
        return os.path.basename(os.readlink(link))
    except OSError as error:
        raise AttributeFault(link, None, error) from None


def external_arrays(kind: str, root: Path = SYS) -> tuple[ArrayDir, ...]:
    """The arrays whose metadata is managed externally by `kind`, whatever their state."""
    found = []
    try:
        names = sorted(os.listdir(root / "block"))
    except OSError:
        return ()
    for name in names:
        array = ArrayDir(name, root)
        try:
            if array.exists() and array.read("metadata_version") == f"external:{kind}":
                found.append(array)
        except AttributeFault:
            continue  # it went away under our eyes
    return tuple(found)


def _number(text: str) -> int:
    return int(text) if text.strip().isdecimal() else 0


def _extents(text: str) -> tuple[tuple[int, int], ...]:
    words = (line.split() for line in text.splitlines())
    return tuple((int(w[0]), int(w[1])) for w in words if len(w) == 2 and "".join(w).isdecimal())
