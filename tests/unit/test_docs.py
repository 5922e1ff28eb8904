"""What the documents name exists: tests, scenarios, planted bugs, files."""

import re
from pathlib import Path

import pytest

from mdcluster.core.waits import Cause
from tests.sim.planted import PLANTED

ROOT = Path(__file__).parents[2]
INVARIANTS = (ROOT / "docs/INVARIANTS.md").read_text(encoding="utf-8")


def _named(kind: str) -> list[str]:
    """The names in backquotes on the lines of one kind."""
    lines = re.findall(rf"^- {kind}: (.*)$", INVARIANTS, re.MULTILINE)
    return [name for line in lines for name in re.findall(r"`([^`]+)`", line)]


def _has_test(folder: str, name: str) -> bool:
    path, _, test = name.partition("::")
    file = ROOT / "tests" / folder / path
    return file.is_file() and f"def {test or 'test_'}" in file.read_text(encoding="utf-8")


def test_every_invariant_names_tests() -> None:
    sections = INVARIANTS.split("\n## ")[1:]
    assert [s.split(".")[0] for s in sections] == [str(n) for n in range(1, 11)]
    for section in sections:
        assert re.search(r"^- (planted|scenarios|cluster|unit): `", section, re.MULTILINE), section


def test_named_tests_exist() -> None:
    missing = [n for kind in ("cluster", "unit") for n in _named(kind) if not _has_test(kind, n)]
    assert missing == []


def test_named_scenarios_exist() -> None:
    folder = ROOT / "tests/scenarios"
    assert [n for n in _named("scenarios") if not (folder / f"{n}.txt").is_file()] == []


def test_every_planted_bug_stands_for_an_invariant() -> None:
    assert set(_named("planted")) == set(PLANTED)


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md"])
def test_links_and_files_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [x.split("#")[0] for x in re.findall(r"\]\(([^)]+)\)", text)]
    assert [x for x in links if x and not (ROOT / x).exists()] == []


def test_control_names_every_cause_of_waiting() -> None:
    text = (ROOT / "docs/CONTROL.md").read_text(encoding="utf-8")
    assert [cause for cause in Cause if f"`{cause}`" not in text] == []


def test_architecture_names_every_file_of_the_core() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    files = {p.name for p in (ROOT / "mdcluster/core").glob("*.py")} - {"__init__.py"}
    assert sorted(f for f in files if f"`{f}`" not in text) == []
