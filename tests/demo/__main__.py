"""`python -m tests.demo`: a cluster of three on this machine, and what it does when one dies.

Needs no root and no kernel module. Exit codes: 0 all checks held, 1 one did not, 130 interrupted.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from mdcluster.errors import MdclusterError
from tests.demo.cluster import DemoCluster
from tests.demo.story import Story
from tests.demo.view import View, make_view

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
LOG_LINES = 8
LOG_HEAD = ("time", "level", "on", "event")


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description="a cluster at work")
    parser.add_argument("--keep", action="store_true", help="leave images, state and settings")
    keep: bool = parser.parse_args().keep
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    with make_view() as view, _place(keep, view) as base:
        return _tell(base, view)


def _tell(base: Path, view: View) -> int:
    cluster = DemoCluster(base)
    try:
        with cluster:
            view.watch(cluster, None)
            view.table(Story(cluster, view).run())
    except (AssertionError, MdclusterError, OSError) as error:
        view.failed("\n".join([str(error), *_logs(cluster)]))
        return EXIT_FAILED
    except KeyboardInterrupt:
        view.failed("interrupted; all daemons were ended")
        return EXIT_INTERRUPTED
    return 0


def _logs(cluster: DemoCluster) -> Iterator[str]:
    """What the daemons said last."""
    for daemon in cluster.daemons.values():
        for line in daemon.lines[-LOG_LINES:]:
            facts = {key: value for key, value in line.items() if key not in LOG_HEAD}
            told = " ".join(f"{key}={value}" for key, value in facts.items())
            yield f"  {daemon.name}  {line.get('time', '')}  {line['event']}  {told}"


@contextmanager
def _place(keep: bool, view: View) -> Iterator[Path]:
    """A directory for everything, gone at the end unless it is to be kept."""
    base = Path(tempfile.mkdtemp(prefix="mdcluster-demo-"))
    try:
        yield base
    finally:
        if keep:
            view.note(f"kept: {base}")
        else:
            shutil.rmtree(base, ignore_errors=True)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
