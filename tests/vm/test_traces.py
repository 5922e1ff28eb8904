"""The traces that the other tests play again are those of today's kernels."""

import pytest

from tests.unit.md.trace_replay import comparable, lines_by_script, recorded
from tests.vm.lab import Lab
from tests.vm.traces import record

LAB = {"nodes": 1, "memory_mib": 768}


@pytest.mark.long
def test_recorded_again(lab: Lab, kernel: str) -> None:
    known, found = recorded(kernel), lines_by_script(record(lab["node1"]))

    assert list(found) == list(known)
    differ = [name for name in known if comparable(found[name]) != comparable(known[name])]
    assert not differ, differ
