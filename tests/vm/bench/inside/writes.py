"""Writes 4 KiB at random places of a device, one after the other, and tells what each took.

    python -I -S tests/vm/bench/inside/writes.py '{"device": ..., "seconds": ..., "seed": ...}'

Prints `{"began_ns": ..., "ended_ns": ..., "took_us": [...]}`. `places`: instead of for some
seconds, one write at each of these offsets in bytes. O_DIRECT: what returns is on all members.
"""

import json
import mmap
import os
import random
import sys
import time
from collections.abc import Iterator

BLOCK_BYTES = 4096


def main(device: str, seed: str = "", seconds: float = 0, places: list[int] | None = None) -> None:
    file = os.open(device, os.O_WRONLY | os.O_DIRECT)
    size = os.lseek(file, 0, os.SEEK_END)
    took_us = []
    with mmap.mmap(-1, BLOCK_BYTES) as buffer:
        buffer[:] = os.urandom(BLOCK_BYTES)
        began_ns = time.monotonic_ns()
        for place in _random(seed, size, seconds) if places is None else places:
            at_ns = time.monotonic_ns()
            os.pwritev(file, [buffer], place)
            took_us.append((time.monotonic_ns() - at_ns) // 1000)
    ended_ns = time.monotonic_ns()
    os.close(file)
    print(json.dumps({"began_ns": began_ns, "ended_ns": ended_ns, "took_us": took_us}))


def _random(seed: str, size: int, seconds: float) -> Iterator[int]:
    rng = random.Random(seed)
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        yield rng.randrange(size // BLOCK_BYTES) * BLOCK_BYTES


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
