"""mdcadm: manage the arrays of a cluster, in mdadm's grammar, through the local daemon.

Exit codes as mdadm's: 0 done, 1 it failed, 2 the command line was not understood;
``--detail --test``: 0 fine, 1 degraded, 2 not usable, 4 error; ``--wait``: 0 it waited,
1 there was nothing to wait for. Imports are few and late: --detail must be fast.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from mdcluster.errors import MdclusterError

from . import grammar, handover
from .checks import check
from .command import Command, Plea
from .output import Output, nobody_reads
from .values import UsageError

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
_STREAMS = {"events": "events", "monitor": "monitor", "watch": "watch"}
"""Actions that go on until they are ended, and their modules."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    output = Output(sys.stdout, sys.stderr)
    try:
        code = _run(words, output)
        sys.stdout.flush()
    except UsageError as error:
        output.error(str(error))
        return error.exit_code
    except BrokenPipeError:
        nobody_reads()
        return EXIT_FAILED
    except OSError as error:
        output.error(f"cannot print: {error.strerror}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        output.error("interrupted; what the daemon was asked for may still be done")
        return EXIT_INTERRUPTED
    return code


def _run(words: list[str], output: Output) -> int:
    for stream in (sys.stdout, sys.stderr):  # a name from a disk must not end in a traceback
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    command = grammar.read(words)
    if isinstance(command, Plea):
        output.print(_answer(command))
        return 0
    output.quiet = command.verbosity < 0
    handover.hand_over(command, words, output)
    check(command)
    try:
        return _dispatch(command, output)
    except UsageError:
        raise
    except MdclusterError as error:
        from .reports import error_code  # noqa: PLC0415

        output.error(str(error))
        return error_code(command)


def _dispatch(command: Command, output: Output) -> int:
    """Each action of misc mode in its turn; exit codes are or-ed, as in mdadm."""
    code = 0
    for part in command.parts():
        code |= _one(part, output)
    return code


def _one(command: Command, output: Output) -> int:
    action = command.action
    if action == "examine":
        from . import examine  # noqa: PLC0415

        return examine.run(command, output)
    if action == "examine-bitmap":
        from . import examine_bitmap  # noqa: PLC0415

        return examine_bitmap.run(command, output)
    if action in ("query", "examine-badblocks"):
        from . import query  # noqa: PLC0415

        return (query.query if action == "query" else query.badblocks)(command, output)
    from . import reports  # noqa: PLC0415

    if action == "check-timing":
        return reports.check_timing(command, output)
    from mdcluster.control.client import Client, socket_path  # noqa: PLC0415

    path = socket_path(command.given.get("socket"))
    if action in _STREAMS:
        code: int = import_module(f".{_STREAMS[action]}", __package__).run(command, path, output)
        return code
    with Client(path) as client:
        if action in reports.REPORTS:
            return reports.REPORTS[action](command, client, output)
        from .actions import Changer  # noqa: PLC0415

        return Changer(command, client, output).run()


def _answer(plea: Plea) -> str:
    from . import usage  # noqa: PLC0415

    if plea.what == "version":
        return usage.version_text()
    if plea.what == "help-config":
        return usage.CONFIG_TEXT
    return usage.help_text(plea.mode if plea.what == "help" else None)


if __name__ == "__main__":
    sys.exit(main())
