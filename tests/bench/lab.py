"""A cluster to measure: arrays made, events with the time they came, what was on disk."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mdcluster.control.arrays import ArrayDetail
from mdcluster.control.errors import ControlError
from mdcluster.control.verbs import ArrayArgs, CreateArgs, MemberArgs, StopArgs, Verb
from tests.cluster.harness import LIMIT_S, Cluster, Daemon, TooLongError

LOOK_S = 0.02
"""How often a state is looked at that no event tells of."""


class Lab(Cluster):
    """A cluster with the few words the measurements need."""

    def make(self, name: str, images: list[Path], *, clean: bool) -> ArrayDetail:
        """A raid1 on all nodes."""
        paths = tuple(str(image) for image in images)
        args = CreateArgs(_proposal(), name, 1, len(paths), paths, assume_clean=clean)
        self.writer().ask(Verb.CREATE, args)
        self.until(
            lambda: len(self.detail(name).running) == len(self.living), f"all nodes run {name}"
        )
        return self.detail(name)

    def end(self, name: str) -> None:
        self.writer().ask(Verb.STOP, StopArgs(_proposal(), name))

    def put_back(self, name: str, device: str) -> None:
        """A member that was failed, added again and in sync."""
        self.writer().ask(Verb.READD, MemberArgs(_proposal(), name, device))
        self.until(lambda: not self.detail(name).sync and self._whole(name), f"{name} is whole")

    def _whole(self, name: str) -> bool:
        return all(member.state == "in_sync" for member in self.detail(name).members)

    def detail(self, name: str) -> ArrayDetail:
        with self.writer().client() as client:
            return client.ask(Verb.DETAIL, ArrayArgs(name), ArrayDetail)

    def until(self, reached: Callable[[], bool], what: str) -> None:
        """Look until it is so; never more precise than LOOK_S, so nothing is timed with it."""
        end_s = time.monotonic() + LIMIT_S
        while True:
            try:
                if reached():
                    return
            except ControlError:
                pass  # nobody to be asked just now
            if time.monotonic() > end_s:
                logs = "\n".join(daemon.log(10) for daemon in self.daemons.values())
                raise TooLongError(f"not within {LIMIT_S:g} s: {what}\n{logs}")
            time.sleep(LOOK_S)

    def others(self, one: Daemon) -> list[Daemon]:
        return [daemon for daemon in self.living if daemon is not one]


@contextmanager
def lab(base: Path, nodes: int) -> Iterator[Lab]:
    """All nodes up, an empty directory of images, default settings."""
    base.mkdir()
    with Lab(base, nodes) as made:
        made.start_all()
        yield made


def noisy(image: Path, mib: int) -> Path:
    """Fill an image: no holes for anybody to skip, no two images alike."""
    block = os.urandom(1 << 20)
    with image.open("wb") as file:
        for _ in range(mib):
            file.write(block)
        os.fsync(file.fileno())
    return image


def forget_cached(*files: Path) -> None:
    """Drop the page cache of files, as if they had not been read yet."""
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def clean_environment() -> dict[str, str]:
    """What a shell of root has; nothing that makes python write or read other files."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": "/"}


def installed(command: str) -> str:
    """A console script of this virtual environment."""
    return str(Path(sys.executable).with_name(command))


def run(*words: str) -> None:
    """To its end, in a clean environment."""
    subprocess.run(
        words, env=clean_environment(), stdout=subprocess.DEVNULL, timeout=LIMIT_S, check=True
    )


def _proposal() -> str:
    return str(uuid.uuid4())
