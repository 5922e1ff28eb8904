"""The embedded driver against the port's suite."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mdcluster.core.model import Life, MemberState, NodeId
from mdcluster.md.plan import carry_out, plan
from tests.unit.md.embedded_lab import EmbeddedLab
from tests.unit.md.port_suite import ARRAY, SLOT_SECTORS, PortSuite, array, device, member


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[EmbeddedLab]:
    lab = EmbeddedLab(tmp_path)
    yield lab
    await lab.close()


class TestEmbedded(PortSuite):
    """All of the port."""


async def test_plans_are_carried_out_by_the_real_driver(lab: EmbeddedLab) -> None:
    """Start, fail, replace, recover, take in, stop; after each step nothing is left to do."""
    me = Life(NodeId("me"), "boot")
    paths = {device(number): lab.path(device(number)) for number in range(4)}
    state = replace(array(), running=(me,))
    one = member(0)
    states = [
        state,
        replace(state, members=(one, member(1, MemberState.FAULTY, role=-1))),
        replace(state, members=(one, member(2, MemberState.SPARE, role=-1))),
        replace(state, members=(one, member(2, MemberState.RECOVERING, role=1))),
        replace(state, members=(one, member(2, role=1))),
        replace(state, members=(member(0, MemberState.FAULTY, role=-1), member(2, role=1))),
        replace(state, running=()),
    ]
    for target in states:
        status = lab.driver.status(ARRAY) if lab.driver.arrays() else None
        await carry_out(
            lab.driver, plan(status, target, me, paths, slot_offset_sectors=SLOT_SECTORS[0])
        )
        status = lab.driver.status(ARRAY) if lab.driver.arrays() else None
        assert plan(status, target, me, paths, slot_offset_sectors=SLOT_SECTORS[0]) == ()
    assert lab.driver.arrays() == ()
