"""The lab from a terminal: `up` boots it and stays; the others command it from another one."""

import argparse
import signal
import sys
from collections.abc import Callable

from tests.vm.lab.control import ACTIONS, ControlServer, find_lab, order
from tests.vm.lab.disks import Disk
from tests.vm.lab.errors import LabError
from tests.vm.lab.kernels import SERIES, obtain
from tests.vm.lab.lab import Lab
from tests.vm.lab.terminal import attach

ME = "python -m tests.vm.lab"


def up(args: argparse.Namespace) -> int:
    """Boot guests and leave them running until Ctrl-C."""
    disks = [Disk(f"d{number}", args.size_mib) for number in range(1, args.disks + 1)]
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda *_: sys.exit(0))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & leaves it ignored
    with Lab(nodes=args.nodes, disks=disks, kernel=args.kernel, udev=args.udev) as lab:
        control = ControlServer(lab)
        boots = ", ".join(f"{guest.name} {guest.boot_s:.1f} s" for guest in lab.guests)
        print(f"{lab.kernel.version}, booted: {boots}; in another terminal:")
        print(f"  {ME} shell node1          (or console)")
        print(f"  {ME} run node1 lsblk      (its exit code is the command's)")
        print(f"  {ME} --help               power cuts, network cuts, ...")
        print(f"Ctrl-C ends it. Logs and images: {lab.folder}", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print()
        finally:
            control.close()
    return 0


def run(args: argparse.Namespace) -> int:
    """Run a command in a guest."""
    message = {"do": "run", "node": args.node, "command": args.command, "timeout_s": args.timeout}
    answer = order(find_lab(args.lab), message)
    sys.stdout.write(answer["out"])
    sys.stderr.write(answer["err"])
    return 124 if answer["rc"] is None else int(answer["rc"]) & 255


def terminal(args: argparse.Namespace) -> int:
    """Use a guest's shell, or its console."""
    path = find_lab(args.lab) / args.node / f"{args.verb}.sock"
    attach(path, resize=args.verb == "shell")
    return 0


def act(args: argparse.Namespace) -> int:
    """Do something to a guest or to the network."""
    answer = order(find_lab(args.lab), {"do": args.verb, "args": args.args})
    print(answer["out"], end="\n" if answer["out"] else "")
    return 0


def kernels(args: argparse.Namespace) -> int:
    """Fetch the kernels into the cache, the newest ones if asked for."""
    for series in SERIES:
        print(obtain(series, newest=args.newest).root)
    return 0


def main() -> int:
    args = _parser().parse_args()
    handler: Callable[[argparse.Namespace], int] = args.handler
    try:
        return handler(args)
    except (LabError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=ME, description=__doc__)
    parser.add_argument("--lab", help="folder of the lab, if several run")
    verbs = parser.add_subparsers(dest="verb", required=True)

    one = verbs.add_parser("up", help=up.__doc__)
    one.add_argument("--nodes", type=int, default=3)
    one.add_argument("--disks", type=int, default=4)
    one.add_argument("--size-mib", type=int, default=128)
    one.add_argument("--kernel", choices=SERIES, default=SERIES[-1])
    one.add_argument("--udev", action="store_true", help="run systemd's udevd in the guests")
    one.set_defaults(handler=up)

    one = verbs.add_parser("run", help=run.__doc__)
    one.add_argument("--timeout", type=float, default=60.0, metavar="S")
    one.add_argument("node")
    one.add_argument("command", nargs=argparse.REMAINDER)
    one.set_defaults(handler=run)

    for verb in ("shell", "console"):
        one = verbs.add_parser(verb, help=terminal.__doc__)
        one.add_argument("node")
        one.set_defaults(handler=terminal)

    one = verbs.add_parser("kernels", help=kernels.__doc__)
    one.add_argument("--newest", action="store_true")
    one.set_defaults(handler=kernels)

    for verb, (usage, _) in ACTIONS.items():
        one = verbs.add_parser(verb, help=usage)
        words = usage.split()
        one.add_argument("args", nargs=len(words) or "*", metavar=tuple(words) or None)
        one.set_defaults(handler=act)
    return parser


if __name__ == "__main__":
    sys.exit(main())
