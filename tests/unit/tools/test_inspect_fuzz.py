"""Whatever stands on a device, mdcinspect ends in time, in bounds, and without a traceback."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdcluster.metadata import bitmap, cluster_area, layout
from mdcluster.metadata import superblock as sb
from mdcluster.metadata.errors import TooLargeError
from mdcluster.tools import mdcinspect
from tests.unit.tools.committed import Committed, committed

VIEWS = tuple(mdcinspect.VIEWS)
FUZZ = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
NEAR_BYTES = 1 << 20
INTERESTING = st.one_of(
    st.integers(4096, 4096 + 600),
    st.integers(253952, 262144 + 8192),
    st.integers(270336, 270336 + 131072),
    st.integers(270336 + 32 * 131072, 270336 + 32 * 131072 + 8 * 4096),
)
"""Superblock, nonce and headers, the first ring, the first slots."""


@pytest.fixture
def array(tmp_path: Path) -> Committed:
    return committed(tmp_path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong stays wrong: the second look need not wait."""
    monkeypatch.setattr(mdcinspect, "LOOK_PAUSE_S", 0.0)


def check(view: str, paths: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    code = mdcinspect.main(["--json", view, *paths])
    out, err = capsys.readouterr()
    problems = json.loads(out)["problems"]
    assert (code == 0) == (problems == [])
    assert all(line.startswith("mdcinspect: ") for line in err.splitlines())
    assert len(err.splitlines()) == len(problems)
    assert mdcinspect.main([view, *paths]) == code


@FUZZ
@given(view=st.sampled_from(VIEWS), seed=st.integers(0, 255), size=st.integers(0, NEAR_BYTES))
def test_random_bytes(
    view: str, seed: int, size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "noise.img"
    path.write_bytes(bytes((seed + at * at) & 255 for at in range(251)) * (size // 251 + 1))
    check(view, [str(path)], capsys)


@FUZZ
@given(
    view=st.sampled_from(VIEWS),
    flips=st.lists(st.tuples(INTERESTING, st.integers(0, 7)), min_size=1, max_size=20),
)
def test_flipped_bits(
    view: str,
    flips: list[tuple[int, int]],
    array: Committed,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken = tmp_path / "broken.img"
    shutil.copy(array.paths[1], broken)
    with broken.open("r+b") as file:
        for at, bit in flips:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ 1 << bit]))
    check(view, [array.paths[0], str(broken)], capsys)


NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1))


@FUZZ
@given(
    view=st.sampled_from(VIEWS),
    field=st.sampled_from(sorted(sb.Superblock.__dataclass_fields__)),
    number=NUMBERS,
)
def test_any_number_in_a_sealed_superblock(
    view: str, field: str, number: int, array: Committed, capsys: pytest.CaptureFixture[str]
) -> None:
    """A right checksum proves nothing: any field may hold anything."""
    one = array.superblocks[1]
    if not isinstance(getattr(one, field), int):
        return
    for bits in (64, 32, 31, 16, 8):
        try:
            raw = sb.encode(replace(one, **{field: number & ((1 << bits) - 1)}))  # type: ignore[arg-type]
        except TooLargeError:
            continue
        array.patch(1, sb.SUPER_OFFSET_BYTES, raw)
        check(view, array.paths, capsys)
        break


@FUZZ
@given(
    view=st.sampled_from(("rings", "quorum-disk", "compare", "verify")),
    payload=st.binary(max_size=400),
    term=st.integers(0, (1 << 64) - 1),
)
def test_any_state_in_a_sealed_record(
    view: str,
    payload: bytes,
    term: int,
    array: Committed,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not any(one.seq == 8 for ring in array.member(1).rings for one in ring.records):
        return  # an example before this one has replaced it
    array.change_record(1, 8, payload=payload, term=term)
    check(view, array.paths, capsys)


def full_area(path: Path) -> str:
    """A member with as many and as large bitmap slots as there can be, each of every other bit."""
    chunk = 128
    covered = bitmap.SLOT_BYTES_MAX * 8 * chunk
    area = layout.AreaLayout(layout.AREA_OFFSET_BYTES, 32, 64, bitmap.SLOT_BYTES_MAX)
    spec = layout.ArraySpec(UUID(int=1), "big", 1, 1, 1_700_000_000)
    member = layout.MemberSpec(UUID(int=2), covered * 512 + (1 << 30))
    (one,) = layout.fresh_superblocks(spec, [member])
    assert one is not None
    one = replace(one, size_sectors=covered, data_offset_sectors=200 * 2048)
    header = cluster_area.Header(
        UUID(int=3), "lab", one.set_uuid, one.device_uuid, 1, area, chunk, covered
    )
    with path.open("wb") as file:
        file.truncate(member.size_bytes)
        file.seek(sb.SUPER_OFFSET_BYTES)
        file.write(sb.encode(one))
        file.seek(area.header_offset_bytes(1))
        file.write(cluster_area.encode_header(header))
        for slot in range(area.slot_count):
            file.seek(area.slot_offset_bytes(slot))
            file.write(b"\x55" * area.slot_bytes)
    return str(path)


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))


@pytest.mark.parametrize("view", VIEWS)
def test_the_largest_area_stays_in_bounds(view: str, tmp_path: Path) -> None:
    """In half a GiB of address space, the interpreter and its libraries included."""
    path = full_area(tmp_path / "full.img")
    done = subprocess.run(
        [sys.executable, "-m", "mdcluster.tools.mdcinspect", "--json", view, path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=limited,
    )
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert len(json.loads(done.stdout)["problems"]) == done.stderr.count("\n")
