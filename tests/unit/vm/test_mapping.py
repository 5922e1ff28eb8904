"""The tables that make a disk of a guest fail."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vm.lab.errors import LabError
from tests.vm.lab.mapping import Faults, Stretch, table

SECTORS = 1000


def lines(faults: Faults) -> list[str]:
    return table("DEV", "BAD", SECTORS, faults).splitlines()


def test_a_disk_that_works() -> None:
    assert lines(Faults()) == ["0 1000 linear DEV 0"]


def test_a_stretch_fails_and_the_rest_works() -> None:
    assert lines(Faults(bad=(Stretch(8, 16),))) == [
        "0 8 linear DEV 0",
        "8 8 error",
        "16 984 linear DEV 16",
    ]


def test_reads_or_writes_alone() -> None:
    assert lines(Faults(bad=(Stretch(0, SECTORS, writes=False),))) == [
        "0 1000 delay BAD 0 0 DEV 0 0"
    ]
    assert lines(Faults(bad=(Stretch(0, SECTORS, reads=False),), write_delay_ms=5)) == [
        "0 1000 delay DEV 0 0 BAD 0 5"
    ]


def test_faults_add_up() -> None:
    bad = (Stretch(0, 10, writes=False), Stretch(5, SECTORS + 5, reads=False))
    assert lines(Faults(bad=bad, read_delay_ms=7)) == [
        "0 5 delay BAD 0 7 DEV 0 0",
        "5 5 error",
        "10 990 delay DEV 10 7 BAD 10 0",
    ]


def test_writes_are_lost_with_no_other_fault() -> None:
    assert lines(Faults(loses_writes=True)) == ["0 1000 flakey DEV 0 0 86400 1 drop_writes"]
    with pytest.raises(LabError):
        lines(Faults(loses_writes=True, read_delay_ms=1))


@pytest.mark.parametrize(("start", "end"), [(5, 5), (6, 5), (-1, 5)])
def test_an_empty_stretch_is_refused(start: int, end: int) -> None:
    with pytest.raises(LabError):
        Stretch(start, end)


stretches = st.builds(
    lambda start, size, kind: Stretch(start, start + size, *kind),
    st.integers(0, SECTORS - 1),
    st.integers(1, SECTORS),
    st.sampled_from([(True, False), (False, True), (True, True)]),
)


@given(st.lists(stretches, max_size=5))
def test_every_sector_is_in_exactly_one_piece(bad: list[Stretch]) -> None:
    at = 0
    for line in lines(Faults(bad=tuple(bad))):
        start, size, target, *words = line.split()
        assert int(start) == at
        for sector in (at, at + int(size) - 1):
            here = [one for one in bad if one.start <= sector < one.end]
            reads, writes = any(one.reads for one in here), any(one.writes for one in here)
            expected = "error" if reads and writes else "delay" if reads or writes else "linear"
            assert target == expected
        if target == "delay":
            assert (words[0] == "BAD") == reads and (words[3] == "BAD") == writes
        at += int(size)
    assert at == SECTORS
