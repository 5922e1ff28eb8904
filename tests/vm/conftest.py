"""Fixtures of the vm tier: a lab a module, mended before every test, for each kernel.

A module says what it needs by a dictionary of Lab's arguments, `LAB = {"nodes": 3, ...}`. The
environment variable MDCLUSTER_VM_KERNEL picks the kernels (`6.12`, `6.1,6.12`); all by default.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.lab import Lab
from tests.vm.lab.kernels import SERIES, TOOLS_PATH
from tests.vm.lab.qemu import PROGRAM

HERE = Path(__file__).parent
KERNELS = os.environ.get("MDCLUSTER_VM_KERNEL", "").replace(",", " ").split() or list(SERIES)
CONSOLE_LINES = 40


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vm: stock kernels in virtual machines")
    config.addinivalue_line("markers", "smoke: the few of them that `make test` runs")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here are of the vm tier; without QEMU they cannot run."""
    missing = shutil.which(PROGRAM, path=TOOLS_PATH) is None
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.vm)
            if missing:
                item.add_marker(pytest.mark.skip(reason=f"{PROGRAM} is missing: make vm-tools"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failure shows the ends of all consoles."""
    outcome: pytest.CallInfo[None]
    outcome = yield  # type: ignore[assignment]
    report = outcome.get_result()  # type: ignore[attr-defined]
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Lab):
        text = "\n\n".join(guest.tail(CONSOLE_LINES) for guest in lab.guests)
        report.sections.append(("consoles", text))


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
    booted_lab.mend()
    return booted_lab
