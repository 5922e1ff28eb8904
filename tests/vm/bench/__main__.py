"""`python -m tests.vm.bench [--kernel 6.12] [--figure NAME ...] [--rounds 5] [--json]`."""

import argparse
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from types import FrameType

from tests.bench.figures import Figure, show
from tests.bench.figures import progress as on_terminal
from tests.vm.bench import chunks, idle, machine, resync, takeover, visible, writes
from tests.vm.bench.cluster import Run
from tests.vm.bench.rounds import Document, Round, joined, parse
from tests.vm.lab.kernels import SERIES

ROUNDS = 5
LIMIT_MIN = 60
Failures = list[str]


@dataclass(frozen=True, slots=True)
class Family:
    """Figures that are measured together, in a lab of their own."""

    measure: Callable[[Run], Iterator[Round]]
    table: Callable[[Sequence[Round]], list[Figure]]


FAMILIES = {
    "machine": Family(machine.measure, machine.table),
    **{
        f"visible{nodes}": Family(
            partial(visible.measure, nodes),
            partial(visible.table, nodes),
        )
        for nodes in visible.NODES
    },
    **{
        f"resync{key}": Family(partial(resync.measure, target), partial(resync.table, target))
        for key, target in resync.TARGETS.items()
    },
    **{
        f"writes{key}": Family(partial(writes.measure, speed), partial(writes.table, speed))
        for key, speed in writes.SPEEDS.items()
    },
    **{
        f"takeover-{key}": Family(partial(takeover.measure, how), partial(takeover.table, how))
        for key, how in takeover.FENCING.items()
    },
    "chunks": Family(chunks.measure, chunks.table),
    "idle": Family(idle.measure, idle.table),
}
"""In the order of the table."""


class TimeLimitError(Exception):
    """The whole run has taken too long."""


def main() -> int:
    """Measure, print, leave nothing behind. 1: a family could not be measured to its end."""
    options = _parse()
    failures: Failures = []
    if options.from_:
        document = joined([parse(path.read_text()) for path in options.from_])
    else:
        document = _measured(options, failures)
    on_terminal("")
    _print(document, as_json=options.json)
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def _measured(options: argparse.Namespace, failures: Failures) -> Document:
    began_s = time.monotonic()
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python -m tests.vm.bench " + " ".join(sys.argv[1:]),
        "kernel": f"Debian's {options.kernel} in guests of one processor each",
        "machine": f"{_cpus()}, Linux {platform.release()}, Python {platform.python_version()}",
    }
    rounds: dict[str, list[Round]] = {}
    try:
        with _time_limit(options.limit_min * 60):
            for name in chosen(options.figure):
                rounds[name] = _family(name, Run(options.kernel), options.rounds, failures)
    except TimeLimitError as error:
        failures.append(str(error))
    facts["took"] = f"{time.monotonic() - began_s:.0f} s"
    return Document(facts, {name: found for name, found in rounds.items() if found})


def chosen(begins: Sequence[str]) -> list[str]:
    """The families that begin with any of these, in the order of the table; all for none."""
    return [name for name in FAMILIES if not begins or name.startswith(tuple(begins))]


def _family(name: str, run: Run, wanted: int, failures: Failures) -> list[Round]:
    """Its rounds; fewer if it fails: then why is noted, and the other families go on."""
    found: list[Round] = []
    source = FAMILIES[name].measure(run)
    _progress(f"{name}: guests boot")
    try:
        for one in islice(source, wanted):
            found.append(one)
            _progress(f"{name}: round {len(found)} of {wanted} done")
    except TimeLimitError as error:
        failures.append(f"{name}: round {len(found) + 1}: {error}")
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the others are measured
        failures.append(f"{name}: round {len(found) + 1}: {type(error).__name__}: {error}")
    finally:
        source.close()  # type: ignore[attr-defined]  # a generator: its lab is torn down
    return found


@contextmanager
def _time_limit(limit_s: float) -> Iterator[None]:
    """TimeLimitError in the main thread when it is over."""

    def over(_: int, frame: FrameType | None) -> None:
        raise TimeLimitError(f"not done within {limit_s / 60:.0f} min (--limit-min)")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _print(document: Document, *, as_json: bool) -> None:
    figures = [
        figure
        for name, family in FAMILIES.items()
        if name in document.rounds
        for figure in family.table(document.rounds[name])
    ]
    if as_json:
        print(document.text(figures))
    else:
        show(figures, document.facts, as_json=False)


def _progress(text: str) -> None:
    """On one line of a terminal; a line each elsewhere: a run takes long."""
    if sys.stderr.isatty():
        on_terminal(text)
    else:
        print(text, file=sys.stderr, flush=True)


def _cpus() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.vm.bench", description=__doc__)
    parser.add_argument("--kernel", default="6.12", choices=list(SERIES))
    parser.add_argument(
        "--figure",
        action="append",
        default=[],
        metavar="NAME",
        help=f"only those that begin so; may repeat: {', '.join(FAMILIES)}",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each (default: 5)")
    parser.add_argument(
        "--limit-min", type=int, default=LIMIT_MIN, help="minutes for all of it (default: 60)"
    )
    parser.add_argument("--json", action="store_true", help="all rounds, too, as one document")
    parser.add_argument(
        "--from",
        dest="from_",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="measure nothing: the table of what --json has saved, as if from one run",
    )
    options = parser.parse_args()
    if options.rounds < 1 or options.limit_min < 1:
        parser.error("--rounds and --limit-min take numbers above 0")
    if unknown := [name for name in options.figure if not chosen([name])]:
        parser.error(f"no figure begins with {unknown[0]!r}: {', '.join(FAMILIES)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
