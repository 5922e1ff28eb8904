"""Each scenario of this folder prints what it says it prints."""

from pathlib import Path

import pytest

from tests.scenarios.runner import Runner
from tests.scenarios.script import ScenarioError

HERE = Path(__file__).parent
SCENARIOS = sorted(HERE.glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda p: p.stem)
def test_scenario(path: Path, rewrite: bool) -> None:
    text = Runner(path).run()
    if rewrite:
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_every_run_is_the_same() -> None:
    paths = [HERE / "resync-windows.txt", HERE / "listed-answers-or-fenced.txt"]
    assert [Runner(p).run() for p in paths] == [Runner(p).run() for p in paths]


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda p: p.stem)
def test_is_listed(path: Path) -> None:
    assert f"`{path.name}`" in (HERE / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense a\n", "unknown command"),
        ("nodes a\nadvance\n", "missing a required argument"),
        ("----\na: Fence b\n", "output is expected of no command"),
        ("nodes a\nwatch Nonsense\n", "no effect or message"),
        ("nodes a\nexpect writer a\n", "does not hold"),
        ("nodes a\nkill a\n", "does not run"),
    ],
)
def test_mistakes_are_errors(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError, match=why):
        Runner(path).run()


def test_leftover_expectation_differs(tmp_path: Path) -> None:
    path = tmp_path / "leftover.txt"
    path.write_text("nodes a\n----\na: Fence b\n", encoding="utf-8")
    assert Runner(path).run() != path.read_text(encoding="utf-8")
