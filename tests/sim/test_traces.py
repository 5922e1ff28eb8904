"""What was recorded of kernels' md, played again on the simulator's model: same events and states.

Where the two differ stands in DIFFERS: the step from which on, exactly, and how.
"""

from typing import Final

import pytest

from tests.sim.trace_bench import ModelBench
from tests.unit.md.trace_player import Line, Player
from tests.unit.md.trace_replay import SERIES, Differs, recorded, replay

SETTLED_S: Final = 0.02
"""Nothing in the model takes real time, but its answers pass through the event loop."""
NOT_MODELLED: Final = ("raid10", "spectator")
"""Every member of a model's array has every block; spectators are left to the other tests."""

DIFFERS: Final = {
    "last good member": (11, "its refused write ends with the next activate"),
    "6.1 hold over a failed write": (7, "it returns at once, there when the member is unblocked"),
    "6.12 hold over a failed write": (10, "what waits behind a failure has not passed the hold"),
    "resync meets a bad member": (18, "what a write missed is copied once more"),
    "a member faulty in a resync": (17, "degraded, it is to be copied again all the same"),
    "6.12 recovery": (25, "read of a member not taken in: md reads it once it has finished"),
    "added by bitmap": (14, "a kernel copies a chunk more than the model"),
    "own bits of before": (7, "the model's md may forget them: worse, on purpose"),
    "spare": (4, "the model's md knows nothing of spares"),
    "replacement": (11, "a kernel's md sets the old one faulty by itself, and tells of it"),
    "a degraded array's bits": (8, "a driver tells of none that md has set by itself"),
    "restart while a write is held": (10, "what waits behind a failure has not passed the hold"),
    "restart while it copies": (8, "a new driver takes it for write-pending until it is activated"),
}


def _differs(series: str, name: str, length: int) -> int:
    found = DIFFERS.get(f"{series} {name}") or DIFFERS.get(name)
    return found[0] if found else length


CASES: Final = [
    pytest.param(series, trace, _differs(series, name, len(trace)), id=f"{series} {name}")
    for series in SERIES
    for name, trace in recorded(series).items()
    if name not in NOT_MODELLED
]


@pytest.mark.parametrize(("series", "trace", "same"), CASES)
async def test_the_model_does_as_the_kernel(series: str, trace: list[Line], same: int) -> None:
    """Exactly up to the step where it is known to differ."""
    try:
        await replay(Player(ModelBench(series)), trace, SETTLED_S)
    except Differs as found:
        assert found.at == same, str(found)
    else:
        assert same == len(trace), "it does not differ any more"
