"""What is printed of members with --json fits docs/json, for sound and for damaged members."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mdcluster.tools import mdcadm, mdcinspect
from tests.plain import patch, plain_array
from tests.unit.tools import schemas
from tests.unit.tools.committed import committed

Capture = pytest.CaptureFixture[str]
ACTIONS = ("examine", "examine-bitmap", "examine-badblocks", "query")


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """A cluster's array with a failed member, a plain one, a torn one, one of nothing."""
    made = committed(tmp_path, 3)
    made.fail(1)
    (tmp_path / "torn").mkdir()
    torn = plain_array(tmp_path / "torn").paths[0]
    patch(torn, 4096 + 190, b"\x77")
    noise = tmp_path / "noise"
    noise.write_bytes(b"?" * 8192)
    return [*made.paths, *plain_array(tmp_path).paths, torn, str(noise)]


@pytest.mark.parametrize("action", ACTIONS)
def test_mdcadm(action: str, paths: list[str], capsys: Capture) -> None:
    mdcadm.main([f"--{action}", "--json", *paths])
    schemas.check(action, json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("view", mdcinspect.VIEWS)
def test_mdcinspect(view: str, paths: list[str], capsys: Capture) -> None:
    assert mdcinspect.main(["--json", view, *paths]) == 1
    document = json.loads(capsys.readouterr().out)
    schemas.check(f"mdcinspect-{view}", document)
    assert document[view]
    assert mdcinspect.main(["--json", view, paths[0]]) == 0
    schemas.check(f"mdcinspect-{view}", json.loads(capsys.readouterr().out))


def test_each_has_its_schema() -> None:
    wanted = {*ACTIONS, *(f"mdcinspect-{view}" for view in mdcinspect.VIEWS)}
    assert wanted <= set(schemas.names())
