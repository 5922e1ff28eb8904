"""`python -m tests.bench [--kills N] [--part NAME ...] [--json]`."""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tests.bench import daemons, data, writer
from tests.bench.figures import Figure, progress, show

KILLS = 50
Part = Callable[[Path, int], list[Figure]]
PARTS: dict[str, Part] = {
    "takeover3": lambda base, kills: writer.takeover(base, 3, kills),
    "takeover5": lambda base, kills: writer.takeover(base, 5, kills),
    "commit3": lambda base, _: writer.commits(base, 3),
    "commit5": lambda base, _: writer.commits(base, 5),
    "idle3": lambda base, _: daemons.idle(base, 3),
    "idle5": lambda base, _: daemons.idle(base, 5),
    "client": lambda base, _: daemons.client(base),
    "resync": lambda base, _: data.resync(base),
    "nbd": lambda base, _: data.latency(base),
}
"""In the order of the table."""


def main() -> int:
    """Measure, print, leave nothing behind."""
    options = _parse()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # daemons start as they do when installed
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python -m tests.bench " + " ".join(sys.argv[1:]),
        "machine": f"{os.cpu_count()} CPUs, Linux {platform.release()}, Python "
        f"{platform.python_version()}; files in {options.dir}",
        "load before": _load(),
    }
    figures: list[Figure] = []
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mdc-bench-", dir=options.dir) as folder:
        for name in options.part or PARTS:
            figures += PARTS[name](Path(folder) / name, options.kills)
    progress("")
    facts["load after"] = _load()
    facts["took"] = f"{time.monotonic() - began_s:.0f} s"
    show(figures, facts, as_json=options.json)
    return 0


def _load() -> str:
    return "{:.1f} over 1 min, {:.1f} over 5 min".format(*os.getloadavg())


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS, help="of a writer (default: 50)")
    parser.add_argument(
        "--part", action="append", choices=list(PARTS), help="only this; may repeat"
    )
    parser.add_argument("--dir", default=tempfile.gettempdir(), help="where the files are made")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args()
    if options.kills < 1:
        parser.error("--kills takes a number above 0")
    return options


if __name__ == "__main__":
    sys.exit(main())
