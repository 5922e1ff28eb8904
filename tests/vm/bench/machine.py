"""How much slower a guest's processor is: the same loops in a guest and on the host, in turn."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence

from tests.bench.figures import Figure
from tests.vm.bench.cluster import Run, ask, python
from tests.vm.bench.rounds import Round, numbers, ratios, typical
from tests.vm.lab import Lab

LIMIT_S = 60


def measure(run: Run) -> Iterator[Round]:
    with Lab(nodes=1, kernel=run.kernel) as lab:
        while True:
            host = _on_host()
            guest = ask(lab.guests[0], "loops")
            yield {
                **{f"host_{key}": value for key, value in host.items()},
                **{f"guest_{key}": value for key, value in guest.items()},
            }


def _on_host() -> dict[str, float]:
    command = [sys.executable, *python("loops")[1:]]
    done = subprocess.run(command, capture_output=True, check=True, timeout=LIMIT_S)
    return dict(json.loads(done.stdout))


def table(rounds: Sequence[Round]) -> list[Figure]:
    part = "this machine"
    of = {key: ratios(rounds, f"guest_{key}", f"host_{key}") for key in ("python_ms", "calls_ms")}
    host_ms = numbers(rounds, "host_python_ms")
    return [
        typical(part, "Python loop, guest against host", of["python_ms"], "ratio"),
        typical(part, "system calls, guest against host", of["calls_ms"], "ratio"),
        typical(part, "Python loop on the host", host_ms, "ms"),
    ]
