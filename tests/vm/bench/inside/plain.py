"""A raid1 of stock mdadm, made and resynced at full speed, then stopped, its superblocks zeroed.

    python -I -S tests/vm/bench/inside/plain.py SIZE_KIB DEVICE DEVICE

Prints `{"device": "md127"}`, its name in the kernel's log. md copies up to the limit that the
cluster's driver gives it, too.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

ARRAY = Path("/dev/md/plain")
SPEED_KIB = 10_000_000
LOOK_S = 0.1
LIMIT_S = 300


def main(size_kib: str, *devices: str) -> None:
    subprocess.run(["modprobe", "md_mod"], check=True)
    for name in ("speed_limit_max", "speed_limit_min"):
        Path("/proc/sys/dev/raid", name).write_text(str(SPEED_KIB))
    options = ["--run", "--metadata=1.2", "--level=1", "--bitmap=internal", f"--size={size_kib}"]
    _mdadm("--create", str(ARRAY), *options, f"--raid-devices={len(devices)}", *devices)
    device = ARRAY.resolve().name
    action = Path("/sys/block", device, "md", "sync_action")
    end_s = time.monotonic() + LIMIT_S
    while action.read_text().strip() != "idle" and time.monotonic() < end_s:
        time.sleep(LOOK_S)
    _mdadm("--stop", str(ARRAY))
    _mdadm("--zero-superblock", *devices)
    print(json.dumps({"device": device}))


def _mdadm(*words: str) -> None:
    subprocess.run(["mdadm", *words], check=True, stdout=subprocess.DEVNULL, timeout=LIMIT_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
