"""Two fixed pieces of work, for a processor to be compared with another one.

    python -I -S tests/vm/bench/inside/loops.py

Prints `{"python_ms": ..., "calls_ms": ...}`: pure Python, and system calls that do nothing.
"""

import json
import os
import time

ADDITIONS = 1_000_000
CALLS = 200_000


def main() -> None:
    began_s = time.perf_counter()
    total = 0
    for number in range(ADDITIONS):
        total += number & 7
    middle_s = time.perf_counter()
    null = os.open("/dev/null", os.O_WRONLY)
    for _ in range(CALLS):
        os.write(null, b"x")
    end_s = time.perf_counter()
    python_ms, calls_ms = 1000 * (middle_s - began_s), 1000 * (end_s - middle_s)
    print(json.dumps({"python_ms": python_ms, "calls_ms": calls_ms}))


if __name__ == "__main__":
    main()
