"""``mdclusterd``: the command line of the daemon. Foreground; logs go to standard error."""

import argparse
import asyncio
import importlib.metadata
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mdcluster.config.clusterips import CLUSTER_FILE, find_self, load_cluster_file
from mdcluster.config.localhost import local_hosts
from mdcluster.config.settings import SETTINGS_FILE, load_settings
from mdcluster.core.timing import proof
from mdcluster.daemon.errors import exit_code
from mdcluster.daemon.sdnotify import SystemdNotifier
from mdcluster.errors import MdclusterError
from mdcluster.fence.build import check_names, described
from mdcluster.runtime.observe import log_to_stderr

if TYPE_CHECKING:
    from mdcluster.daemon.service import Service

EPILOG = """\
signals:
  SIGTERM, SIGINT  hand over, stop the arrays, say goodbye, exit; the kernel's arrays
                   that are in use run on, and wait for the next daemon
  SIGHUP           read clusterips again (a file with mistakes is reported, and not used)

exit codes:
  0 stopped in order          1 mistakes in the configuration, no such watchdog,
                                a self-test that fails
  2 state directory in use    3 state directory not usable, or damaged
  4 address not available     5 control socket not available
  70 internal fault

example, three daemons on one machine:
  printf '127.0.0.1:17946 a\\n127.0.0.1:17947 b\\n127.0.0.1:17948 c\\n' > clusterips
  mdclusterd --config a.toml --clusterips clusterips --name a   # likewise b and c
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="mdclusterd",
        description="Keeps Linux md arrays on shared disks in one state on all nodes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--config", metavar="FILE", help=f"settings (default {SETTINGS_FILE})")
    made.add_argument(
        "--clusterips", metavar="FILE", default=CLUSTER_FILE, help="the nodes (default %(default)s)"
    )
    made.add_argument("--name", help="which line of clusterips this node is (default: by address)")
    made.add_argument("--log-format", choices=("text", "json"), help="default: as in the settings")
    made.add_argument(
        "--check", action="store_true", help="check the files, print the proof of the timings, end"
    )
    made.add_argument(
        "--self-test",
        action="store_true",
        help="try on loop devices whether this kernel's md behaves as needed, end (as root)",
    )
    made.add_argument("--json", action="store_true", help="with --self-test: as JSON")
    version = importlib.metadata.version("mdcluster")
    made.add_argument("--version", action="version", version=f"mdclusterd {version}")
    return made


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    if args.self_test:
        return _self_test(json=args.json)
    try:
        settings = load_settings(args.config or SETTINGS_FILE, required=args.config is not None)
        file = load_cluster_file(args.clusterips)
        hosts = (address.host for node in file.nodes for address in node.addresses)
        check_names(settings, (node.name for node in file.nodes))
        line = find_self(file, args.name, local_hosts(hosts) if args.name is None else ())
    except MdclusterError as error:
        return _fail(error)
    if args.check:
        told = [f"this node: {line.name}", *proof(settings.timing), *described(settings)]
        print("\n".join(told))
        return 0
    log_to_stderr(line.name, args.log_format or settings.log.format, settings.log.level)
    # What follows takes its time to load; mistakes in files are to be told at once.
    from mdcluster.daemon.service import Place, Service  # noqa: PLC0415

    place = Place(settings, Path(args.clusterips), file, line)
    try:
        return asyncio.run(_serve(Service(place, SystemdNotifier())))
    except MdclusterError as error:
        logging.getLogger("mdcluster.daemon").critical("cannot start: %s", error)
        return _code(error)


async def _serve(service: "Service") -> int:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, service.ask_stop)
    loop.add_signal_handler(signal.SIGINT, service.ask_stop)
    loop.add_signal_handler(signal.SIGHUP, service.reload)
    fault: BaseException | None = await service.run()
    if fault is None:
        return 0
    return _code(fault)


def _self_test(*, json: bool) -> int:
    from mdcluster.md.selftest import as_json, passed, self_test  # noqa: PLC0415

    outcomes = []
    for outcome in self_test():
        outcomes.append(outcome)
        if not json:
            print(outcome, flush=True)
    if json:
        print(as_json(outcomes))
    return 0 if passed(outcomes) else 1


def _fail(error: MdclusterError) -> int:
    for text in str(error).splitlines():
        print(f"mdclusterd: {text}", file=sys.stderr)
    return _code(error)


def _code(error: BaseException) -> int:
    code: int = exit_code(error)
    return code


if __name__ == "__main__":
    sys.exit(main())
