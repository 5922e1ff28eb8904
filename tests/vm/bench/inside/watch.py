"""Tells when an attribute of sysfs has a word for the first time.

    python -I -S tests/vm/bench/inside/watch.py ATTRIBUTE WORD

Prints `{"armed_ns": ...}` when it looks, then `{"at_ns": ...}`. md tells of a change (poll(2) of
the attribute); if it does not, a look every LOOK_MS finds it.
"""

import json
import os
import select
import sys
import time

LOOK_MS = 20


def main(path: str, word: str) -> None:
    file = os.open(path, os.O_RDONLY)
    poller = select.poll()
    poller.register(file, select.POLLPRI | select.POLLERR)
    _tell("armed_ns")
    while word not in os.pread(file, 256, 0).decode().replace(",", " ").split():
        poller.poll(LOOK_MS)
    _tell("at_ns")


def _tell(what: str) -> None:
    print(json.dumps({what: time.monotonic_ns()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
