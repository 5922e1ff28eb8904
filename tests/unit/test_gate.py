"""The write gate, and attempts to get around it."""

import ast
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.gate import Gate, GateShutError, StandaloneGate
from mdcluster.metadata.device import DeviceWriter

ROOT = Path(__file__).parents[2]


class Clock:
    def __init__(self) -> None:
        self.now_ms = 1000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Gate:
    return Gate(clock)


def test_it_is_shut_at_first(gate: Gate) -> None:
    assert not gate.is_open
    with pytest.raises(GateShutError, match="not the writer"):
        gate.check()
    assert gate.refused == 1


def test_it_is_open_until_the_last_millisecond_of_the_lease(gate: Gate, clock: Clock) -> None:
    gate.open(1, 1500)
    clock.now_ms = 1499
    gate.check()
    clock.now_ms = 1500
    assert not gate.is_open
    with pytest.raises(GateShutError, match="term 1 ran out 0 ms ago"):
        gate.check()


def test_a_shut_gate_stays_shut_though_the_lease_would_last(gate: Gate) -> None:
    gate.open(1, 1500)
    gate.shut()
    with pytest.raises(GateShutError):
        gate.check()
    assert gate.term == 1


def test_an_older_term_never_opens_it(gate: Gate) -> None:
    gate.open(3, 1500)
    with pytest.raises(GateShutError, match="term 2 is over"):
        gate.open(2, 9000)
    gate.shut()
    with pytest.raises(GateShutError):
        gate.open(2, 9000)
    assert not gate.is_open


def test_a_node_without_a_cluster_may_always_write() -> None:
    gate = StandaloneGate()
    gate.check()
    assert gate.is_open


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("open"), st.integers(0, 5), st.integers(0, 2000)),
            st.tuples(st.just("shut"), st.just(0), st.just(0)),
            st.tuples(st.just("wait"), st.just(0), st.integers(0, 500)),
        ),
        max_size=30,
    )
)
def test_it_is_never_open_beyond_the_last_grant(steps: list[tuple[str, int, int]]) -> None:
    clock = Clock()
    gate = Gate(clock)
    term, until_ms = 0, 0
    for kind, new_term, number in steps:
        if kind == "wait":
            clock.now_ms += number
        elif kind == "shut":
            gate.shut()
            until_ms = 0
        elif new_term < term:
            with pytest.raises(GateShutError):
                gate.open(new_term, number)
        else:
            gate.open(new_term, number)
            term, until_ms = new_term, number
        assert gate.is_open == (clock.now_ms < until_ms)


def test_a_device_writer_asks_before_every_write(tmp_path: Path, gate: Gate, clock: Clock) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(16384))
    gate.open(1, 1500)
    with DeviceWriter(str(image), gate.check) as writer:
        writer.write(4096, b"a" * 4096)
        clock.now_ms = 1500
        with pytest.raises(GateShutError):
            writer.write(8192, b"b" * 4096)
    assert image.read_bytes() == bytes(4096) + b"a" * 4096 + bytes(8192)


def test_another_thread_sees_a_grant_whole_or_not_at_all(clock: Clock) -> None:
    """Grants are `(n, 1000 n)`: a mix of two would show as another deadline for that term."""
    gate = Gate(clock)
    done = threading.Event()
    seen: set[tuple[int, int]] = set()

    def look() -> None:
        while not done.is_set():
            seen.add(gate._grant)

    thread = threading.Thread(target=look)
    thread.start()
    for term in range(1, 2000):
        gate.open(term, 1000 * term)
    done.set()
    thread.join()
    assert all(until_ms == 1000 * term for term, until_ms in seen)


# What may open a file for writing, and what keeps it from a member without the gate.
WRITERS = {
    "mdcluster/metadata/device.py": "DeviceWriter: asks its check before each write",
    "mdcluster/md/member_io.py": "the data path: copying asks the gate, see embedded_sync.py",
    "mdcluster/md/kernel_notes.py": "what a restarted daemon must know, below /run",
    "mdcluster/md/selftest_bench.py": "the self-test's own loop devices",
    "mdcluster/md/sysfs.py": "md's attributes; copying asks the gate, see kernel_sync.py",
    "mdcluster/runtime/store.py": "the journal in the state directory",
    "mdcluster/runtime/history.py": "what happened, in the state directory",
    "mdcluster/config/identity.py": "the node's UUID and lock in the state directory",
    "mdcluster/fence/process.py": "the process lock",
    "mdcluster/fence/watchdog.py": "the watchdog of this host",
    "mdcluster/control/server.py": "the lock beside the control socket",
    "daemon/mdstat.py": "the copy of /proc/mdstat in the run directory",
    "tools/monitor.py": "the pid file, and /dev/null, of --monitor --daemonise",
    "tools/pages.py": "the pages and completions of a checkout, made anew",
    "tools/output.py": "/dev/null in place of a closed stdout",
}


def test_nothing_else_opens_files_for_writing() -> None:
    found = set()
    for folder in ("mdcluster", "daemon", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            if _opens_for_writing(ast.parse(path.read_text(encoding="utf-8"))):
                found.add(str(path.relative_to(ROOT)))
    assert found == set(WRITERS)


def _opens_for_writing(tree: ast.AST) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("O_RDWR", "O_WRONLY", "O_APPEND"):
            return True
        if isinstance(node, ast.Attribute) and node.attr in ("write_bytes", "write_text"):
            return True
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "open":
            modes = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)]
            modes += [k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)]
            if any(isinstance(m, str) and set(m) & set("wax+") and len(m) < 4 for m in modes):
                return True
    return False
