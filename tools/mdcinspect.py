"""mdcinspect: look at what is written on members, running or not, without writing anything.

Exit codes: 0 all fine, 1 something is wrong with what was read (one line each on stderr),
2 wrong usage or a device that cannot be opened.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from mdcluster.metadata.errors import DeviceError, MetadataError
from mdcluster.metadata.examine import printable
from mdcluster.metadata.scan import MAX_DEVICES, Scan, scan
from mdcluster.tools import (
    inspect_bitmaps,
    inspect_compare,
    inspect_quorum,
    inspect_verify,
    inspect_views,
)
from mdcluster.tools.inspect_report import Report, Section
from mdcluster.tools.output import nobody_reads

EXIT_FINE: Final = 0
EXIT_DAMAGED: Final = 1
EXIT_UNUSABLE: Final = 2
RING_MEMBERS_MAX: Final = 64
"""Rings are up to 4 MiB on each member, and their commits many times that once decoded."""
LOOKS_MAX: Final = 5
LOOK_PAUSE_S: Final = 0.02


class View(NamedTuple):
    """make: members that were read to a report. rings: whether it needs them."""

    make: Callable[[Scan], Report]
    text: str
    example: str
    rings: bool = False


VIEWS: Final = {
    "superblock": View(
        inspect_views.superblocks,
        "md superblock and header of the cluster area",
        "mdcinspect superblock /dev/sdb",
    ),
    "checkpoint": View(
        inspect_views.checkpoints,
        "how far resync and recovery are",
        "mdcinspect checkpoint /dev/sdb /dev/sdc",
    ),
    "bitmap": View(
        inspect_bitmaps.bitmaps,
        "dirty chunks in the bitmap slots",
        "mdcinspect --json bitmap /dev/sdb | jq '.bitmap[].union.dirty_chunks'",
    ),
    "rings": View(
        inspect_views.rings,
        "commits in the voters' rings",
        "mdcinspect --json rings member0.img | jq '.rings[-1].state'",
        rings=True,
    ),
    "quorum-disk": View(
        inspect_quorum.quorum,
        "what the voters left on the disks: nodes, lives, newest commits, nonces",
        "mdcinspect quorum-disk /dev/sdb /dev/sdc",
        rings=True,
    ),
    "compare": View(
        inspect_compare.compare,
        "members of one array side by side: what differs, which one wins, and why",
        "mdcinspect compare /dev/sdb /dev/sdc",
        rings=True,
    ),
    "verify": View(
        inspect_verify.verify,
        "whether all of it is whole and fits together; each finding one line",
        "mdcinspect verify /dev/sdb /dev/sdc && echo sound",
        rings=True,
    ),
}
_RULES: Final = """\
Members are opened read-only; a running array is not disturbed. What is read of one
that is written meanwhile is read again until it is of one moment.
Exit codes: 0 fine, 1 damage found, 2 wrong usage or a device cannot be opened.
"""


def _parser() -> argparse.ArgumentParser:
    views = "\n".join(f"  {name:<12} {view.text}" for name, view in VIEWS.items())
    parser = argparse.ArgumentParser(
        prog="mdcinspect",
        description="Show what is written on md members: devices or image files.",
        epilog=f"views:\n{views}\n\n{_example(VIEWS['checkpoint'], VIEWS['rings'])}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    subparsers = parser.add_subparsers(dest="view", required=True, metavar="VIEW")
    for name, view in VIEWS.items():
        one = subparsers.add_parser(
            name,
            description=f"Show {view.text}.",
            epilog=_example(view),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.add_argument("member", nargs="+", help="block device or image file")
        one.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object"
        )
    return parser


def _example(*views: View) -> str:
    lines = "".join(f"  {view.example}\n" for view in views)
    return f"example{'s' if len(views) > 1 else ''}:\n{lines}\n{_RULES}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mdcinspect VIEW MEMBER...`; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    view = VIEWS[options.view]
    most = RING_MEMBERS_MAX if view.rings else MAX_DEVICES
    if len(options.member) > most:
        parser.error(f"{len(options.member)} members, at most {most}")
    report, problems = _look(view, options.member)
    try:
        if options.json:
            _print_json(options.view, report, problems)
        else:
            for section in report.sections:
                _print_section(section)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) has seen enough
        nobody_reads()
    for problem in problems:
        print(f"mdcinspect: {printable(str(problem))}", file=sys.stderr)
    if any(isinstance(problem, DeviceError) for problem in problems):
        return EXIT_UNUSABLE
    return EXIT_DAMAGED if problems else EXIT_FINE


def _look(view: View, paths: Sequence[str]) -> tuple[Report, list[MetadataError]]:
    """The report, and what is wrong: only what two looks in a row find.

    Each member is of one moment, but not of the same one as the next member: a commit in between
    makes one look older than the other. If that never ends, what the last look finds counts.
    """
    before: set[str] = set()
    for attempt in range(LOOKS_MAX):
        report = view.make(scan(paths, with_rings=view.rings))
        found = {str(problem): problem for problem in report.problems}
        both = before & found.keys()
        if not found or both:
            break
        before = set(found)
        time.sleep(LOOK_PAUSE_S * 2**attempt)
    return report, [found[text] for text in found if text in (both or found)]


def _print_json(view: str, report: Report, problems: Sequence[MetadataError]) -> None:
    document = {view: report.data, "problems": [problem.as_dict() for problem in problems]}
    print(json.dumps(document, indent=2))


def _print_section(section: Section) -> None:
    print(section.title)
    for line in section.lines:
        print(line)
    if section.columns:
        (_print_rich if sys.stdout.isatty() else _print_plain)(section)
    print()


def _print_plain(section: Section) -> None:
    """Columns padded with spaces, two between them: for pipes, files and grep."""
    table = [section.columns, *section.rows]
    widths = [max(len(row[at]) for row in table) for at in range(len(section.columns))]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  " + "  ".join(cells).rstrip())


def _print_rich(section: Section) -> None:
    from rich.console import Console  # noqa: PLC0415 - only for a terminal, it is slow to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=True, header_style="bold")
    for column in section.columns:
        table.add_column(column, no_wrap=True)
    for row in section.rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: no markup in names from a disk
    console = Console()
    wanted = console.measure(table, options=console.options.update(max_width=1000)).maximum
    Console(width=max(console.width, wanted)).print(table)  # never cut: the terminal wraps it


if __name__ == "__main__":
    sys.exit(main())
