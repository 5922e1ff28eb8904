"""Records the traces of the port on a kernel: `python -m tests.vm.traces --kernel 6.12`.

They go into tests/unit/md/traces, from where tests play them again.
"""

import argparse
import sys

from tests.unit.md.trace_replay import TRACES
from tests.vm.lab import Guest, Lab
from tests.vm.lab.kernels import SERIES

TARGET = "/run/traces"
LIMIT_S = 1500.0
HANGS_MAX = 5
RECORDER = ("python", "-B", "-m", "tests.vm.guest.trace_recorder")


def record(guest: Guest) -> str:
    """All traces. A script that hangs costs this guest a boot.

    RuntimeError if too many do.
    """
    text, after = "", ""
    for _ in range(HANGS_MAX):
        guest.run(f"rm -f {TARGET}")
        command = [*RECORDER, TARGET, after] if after else [*RECORDER, TARGET]
        ended = guest.run(command, check=False, timeout_s=LIMIT_S)
        text += guest.read_text(TARGET)
        last = text.splitlines()[-1]
        if not last.startswith("#! "):
            if ended.rc:
                raise RuntimeError(f"the recorder has failed:\n{ended.out}\n{ended.err}")
            return text
        after = last.removeprefix("#! ").removesuffix(" hangs")
        guest.restart()
    raise RuntimeError(f"more than {HANGS_MAX} scripts hang:\n{text}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm.traces", description=__doc__)
    parser.add_argument("--kernel", choices=SERIES, default="6.12")
    kernel = parser.parse_args().kernel
    with Lab(nodes=1, kernel=kernel, memory_mib=768) as lab:
        (TRACES / f"{kernel}.jsonl").write_text(record(lab.guests[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
