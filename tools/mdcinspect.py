"""mdcinspect: look at what is written on members, running or not, without writing anything.

Exit codes: 0 all fine, 1 something is wrong with what was read (one line each on stderr),
2 wrong usage or a device that cannot be opened.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

from mdcluster.metadata.errors import DeviceError, MetadataError
from mdcluster.metadata.examine import printable
from mdcluster.metadata.scan import MAX_DEVICES, Scan, scan
from mdcluster.tools import inspect_views
from mdcluster.tools.inspect_views import Report, Section

EXIT_FINE: Final = 0
EXIT_DAMAGED: Final = 1
EXIT_UNUSABLE: Final = 2

_VIEWS: Final[dict[str, tuple[Callable[[Scan], Report], str]]] = {
    "superblock": (inspect_views.superblocks, "md superblock and header of the cluster area"),
    "checkpoint": (inspect_views.checkpoints, "how far resync and recovery are"),
    "bitmap": (inspect_views.bitmaps, "dirty chunks in the bitmap slots"),
    "rings": (inspect_views.rings, "commits in the voters' rings"),
}
_EXAMPLE: Final = """\
example:
  mdcinspect checkpoint /dev/sdb /dev/sdc
  mdcinspect --json rings member0.img | jq '.rings[-1].state'

Members are opened read-only; a running array is not disturbed.
Exit codes: 0 fine, 1 damage found, 2 wrong usage or a device cannot be opened.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mdcinspect",
        description="Show superblocks, checkpoints, bitmaps and commits of md members.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    views = "\n".join(f"  {name:<11} {text}" for name, (_, text) in _VIEWS.items())
    parser.add_argument("view", choices=tuple(_VIEWS), metavar="VIEW", help=f"one of:\n{views}")
    parser.add_argument("member", nargs="+", help="block device or image file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mdcinspect VIEW MEMBER...`; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(argv)
    if len(options.member) > MAX_DEVICES:
        parser.error(f"{len(options.member)} members, at most {MAX_DEVICES}")
    view, _ = _VIEWS[options.view]
    report = view(scan(options.member, with_rings=options.view == "rings"))
    problems = list(dict.fromkeys(report.problems))
    try:
        if options.json:
            _print_json(options.view, report, problems)
        else:
            for section in report.sections:
                _print_section(section)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for problem in problems:
        print(f"mdcinspect: {printable(str(problem))}", file=sys.stderr)
    if any(isinstance(problem, DeviceError) for problem in problems):
        return EXIT_UNUSABLE
    return EXIT_DAMAGED if problems else EXIT_FINE


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
