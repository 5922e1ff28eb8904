"""Fixtures of the vm tier: a lab a module, mended before every test, for each kernel.

A module says what it needs by a dictionary of Lab's arguments, `LAB = {"nodes": 3, ...}`. The
environment variable MDCLUSTER_VM_KERNEL picks the kernels (`6.12`, `6.1,6.12`); all by default.
"""

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.cluster.harness import VmCluster
from tests.vm.cluster.proof import Proof
from tests.vm.lab import Lab, LabError
from tests.vm.lab.kernels import SERIES, TOOLS_PATH
from tests.vm.lab.qemu import PROGRAM

HERE = Path(__file__).parent
CHOSEN = os.environ.get("MDCLUSTER_VM_KERNEL", "").replace(",", " ").split()
KERNELS = CHOSEN or list(SERIES)
CONSOLE_LINES = 40
LOG_LINES = 80
SEED = os.environ.get("MDCLUSTER_VM_SEED", "") or str(random.randrange(1 << 32))
ROUNDS = int(os.environ.get("MDCLUSTER_VM_ROUNDS", "0"))
"""Of every proof, on every kernel; 0: one, on the kernels that its mark names."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vm: stock kernels in virtual machines")
    config.addinivalue_line("markers", "smoke: the few of them that `make test` runs")
    config.addinivalue_line("markers", "kernel(series): on this one only, unless it was chosen")
    config.addinivalue_line("markers", "long: takes minutes, only where a kernel was chosen")


def pytest_report_header() -> str:
    return f"vm tier: MDCLUSTER_VM_SEED={SEED}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "proof" in metafunc.fixturenames:
        metafunc.parametrize("round_", range(max(ROUNDS, 1)), indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here are of the vm tier; without QEMU they cannot run."""
    if not ROUNDS and not CHOSEN:
        items[:] = [item for item in items if not _left_out(item)]
    missing = shutil.which(PROGRAM, path=TOOLS_PATH) is None
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vm)
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"{PROGRAM} is missing: make vm-tools"))


def _left_out(item: pytest.Item) -> bool:
    if item.get_closest_marker("long"):
        return True
    mark = item.get_closest_marker("kernel")
    if mark is None or not isinstance(item, pytest.Function):
        return False
    return str(item.callspec.params.get("kernel", mark.args[0])) not in mark.args


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failure shows the ends of all consoles, and of what the daemons have logged."""
    outcome: pytest.CallInfo[None]
    outcome = yield  # type: ignore[assignment]
    report = outcome.get_result()  # type: ignore[attr-defined]
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Lab):
        text = "\n\n".join(guest.tail(CONSOLE_LINES) for guest in lab.guests)
        report.sections.append(("consoles", text))
    proof = getattr(item, "funcargs", {}).get("proof")
    if report.failed and isinstance(proof, Proof):
        report.sections.append(("daemons", proof.cluster.logs(LOG_LINES)))


@pytest.fixture(scope="module", params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    """The series of the kernel that the guests boot."""
    series: str = request.param
    return series


@pytest.fixture(scope="module")
def booted_lab(request: pytest.FixtureRequest, kernel: str) -> Iterator[Lab]:
    """The module's lab, as the last test left it."""
    with Lab(kernel=kernel, **getattr(request.module, "LAB", {})) as lab:
        yield lab


@pytest.fixture
def lab(booted_lab: Lab) -> Lab:
    """The module's lab with all that an earlier test broke mended: everybody runs, all works."""
    try:
        booted_lab.mend()
    except LabError:  # one guest still had another's power cut
        booted_lab.reset()
    return booted_lab


@pytest.fixture
def round_(request: pytest.FixtureRequest) -> int:
    """The number of this round of a proof."""
    number: int = getattr(request, "param", 0)
    return number


@pytest.fixture(scope="module")
def proofs(request: pytest.FixtureRequest, booted_lab: Lab) -> Proof:
    """The module's cluster, as the last test left it; CLUSTER: VmCluster's arguments."""
    cluster = VmCluster(booted_lab, **getattr(request.module, "CLUSTER", {}))
    return Proof(booted_lab, cluster, random.Random(SEED))


@pytest.fixture
def proof(lab: Lab, proofs: Proof, request: pytest.FixtureRequest, round_: int) -> Proof:
    """The cluster with its array in sync; what is random depends on the seed and the test."""
    proofs.rng = random.Random(f"{SEED} {request.node.name}")
    proofs.ready()
    return proofs
