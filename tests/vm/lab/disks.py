"""The images that guests see as disks: sparse raw files, made in the lab's folder."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.vm.lab.errors import LabError
from tests.vm.lab.kernels import TOOLS_PATH

MIB = 1 << 20
PERSIST_MIB = 64


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk that several guests share, under the same name unless a guest is told otherwise."""

    name: str
    size_mib: int = 64
    throttle: str = ""

    def __post_init__(self) -> None:
        if not self.name.isalnum() or len(self.name) > 16:
            raise LabError(f"{self.name!r} is no name for a disk: letters and digits, 16 at most")


def make_image(path: Path, size_mib: int) -> None:
    """All zeros, and no space taken before something is written; an old one is emptied."""
    with path.open("wb") as file:
        file.truncate(size_mib * MIB)


def make_persist_image(path: Path) -> None:
    """A guest's own disk, for what must survive its power cuts."""
    make_image(path, PERSIST_MIB)
    done = subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-m", "0", path],
        env={**os.environ, "PATH": TOOLS_PATH},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise LabError(f"mke2fs: {done.stderr.strip()}")


def can_bypass_cache(folder: Path) -> bool:
    """Whether files there can be opened with O_DIRECT; a tmpfs cannot before Linux 6.6."""
    probe = folder / ".direct"
    try:
        os.close(os.open(probe, os.O_CREAT | os.O_RDWR | os.O_DIRECT))
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True
