"""The kernel driver on stock kernels: what stands in tests/vm/guest runs in a guest of each."""

import pytest

from tests.vm.lab import Lab
from tests.vm.suite import run_inside

LAB = {"nodes": 1, "memory_mib": 768}
QUICK = "no_write_in_flight or exactly_the_range or ignores_positions or chunk_that_was_interrupted"


@pytest.mark.smoke
def test_a_few_promises_of_the_port(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    suite = "tests/vm/guest/test_kernel.py"
    output = run_inside(lab["node1"], capsys, suite, "-k", QUICK, limit_s=240)

    assert "4 passed" in output


def test_the_whole_port(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    run_inside(lab["node1"], capsys, "tests/vm/guest/test_kernel.py", limit_s=1800)


@pytest.mark.long
def test_what_this_kernel_does(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures are printed, the assertions are those of docs/KERNEL.md."""
    run_inside(lab["node1"], capsys, "-s", "tests/vm/guest/test_open_questions.py", limit_s=1800)
