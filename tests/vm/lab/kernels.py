"""Stock Debian kernels, downloaded and unpacked into a cache; nothing is installed.

>>> kernel = obtain("6.1")
>>> kernel.image
PosixPath('/var/cache/mdcluster-vm/linux-image-6.1.0-56-amd64/boot/vmlinuz-6.1.0-56-amd64')
"""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.vm.lab.errors import LabError

SERIES = ("6.1", "6.12")
"""Debian 12's own kernel, and the newer one in its security archive."""
PACKAGE = {
    "6.1": re.compile(r"linux-image-6\.1\.\d+-\d+-amd64"),
    "6.12": re.compile(r"linux-image-6\.12\.\d+\+deb12-amd64"),
}
"""Signed, for ordinary PCs: neither -cloud nor -rt, -unsigned or -dbg."""
TOOLS_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
DOWNLOAD_LIMIT_S = 600.0


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package."""

    series: str
    root: Path

    @property
    def version(self) -> str:
        """As `uname -r` says it."""
        return self.root.name.removeprefix("linux-image-")

    @property
    def image(self) -> Path:
        return self.root / "boot" / f"vmlinuz-{self.version}"

    @property
    def modules(self) -> Path:
        return self.root / "lib" / "modules" / self.version


def cache_dir() -> Path:
    """Where kernels and what is built from them stay between runs."""
    common = "/var/cache" if os.geteuid() == 0 else "~/.cache"
    return Path(os.environ.get("MDCLUSTER_VM_CACHE", f"{common}/mdcluster-vm")).expanduser()


@contextmanager
def locked_cache() -> Iterator[Path]:
    """The cache, for one builder at a time; what an interrupted one left behind is removed."""
    cache = cache_dir()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in cache.glob(".building-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield cache


def obtain(series: str, *, newest: bool = False) -> Kernel:
    """The kernel of this series: from the cache, or (always, if newest) from the archive."""
    if series not in PACKAGE:
        raise LabError(f"no kernel series {series!r}; there are {', '.join(SERIES)}")
    if not newest and (found := _cached(series)):
        return found

    with locked_cache() as cache:
        if not newest and (found := _cached(series)):
            return found  # another builder was faster
        package = _package_name(series)
        if not (cache / package).exists():
            _unpack(package, cache)
        return Kernel(series, cache / package)


def _cached(series: str) -> Kernel | None:
    cache = cache_dir()
    names = [path.name for path in cache.glob("linux-image-*")] if cache.is_dir() else []
    matching = [name for name in names if PACKAGE[series].fullmatch(name)]
    return Kernel(series, cache / max(matching, key=_version_key)) if matching else None


def _version_key(package: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", package)]


def _package_name(series: str) -> str:
    """The newest package of the series in the archive."""
    for update_first in (False, True):
        if update_first:
            _tool("apt-get", "update", "-qq")
        listed = _tool("apt-cache", "pkgnames", f"linux-image-{series}.").split()
        names = [name for name in listed if PACKAGE[series].fullmatch(name)]
        for name in sorted(names, key=_version_key, reverse=True):
            if _is_available(name):
                return name
    raise LabError(f"no package of a kernel {series} in the archives that apt knows")


def _is_available(package: str) -> bool:
    """Whether it can be downloaded: apt also lists names that only dependencies mention."""
    policy = _tool("apt-cache", "policy", package)
    return re.search(r"Candidate: (?!\(none\))\S", policy) is not None


def _unpack(package: str, cache: Path) -> None:
    """Into a folder beside its place, then renamed: nobody ever sees half a kernel."""
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=cache))
    _tool("apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package, cwd=building)
    archive = next(building.glob("*.deb"))
    unpacked = building / package
    _tool("dpkg", "-x", str(archive), str(unpacked))
    version = package.removeprefix("linux-image-")
    _tool("depmod", "-b", str(unpacked), version)
    unpacked.chmod(0o755)
    unpacked.rename(cache / package)
    shutil.rmtree(building)


def _tool(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "PATH": TOOLS_PATH, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
