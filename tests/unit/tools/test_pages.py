"""What is made of the table of options is committed as it is made, and works."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from mdcluster.config import settings
from mdcluster.config.clusterips import parse_cluster_file
from mdcluster.tools import grammar, pages
from mdcluster.tools.command import Command
from mdcluster.tools.options import Kind
from mdcluster.tools.table import OPTIONS

ROOT = Path(__file__).parents[3]
FILES = pages.files()


@pytest.mark.parametrize("name", FILES)
def test_what_is_committed_is_what_is_made(name: str) -> None:
    path = ROOT / name
    assert path.exists() and path.read_text() == FILES[name], f"{name} is stale: make generated"


def test_every_option_of_the_installed_mdadm_is_in_the_table() -> None:
    done = subprocess.run(
        ["mdadm", "--help-options"], capture_output=True, text=True, timeout=30, check=True
    )
    found = set(re.findall(r"--([a-z-]+)", done.stdout))
    assert len(found) > 10
    for mode in ("create", "assemble", "build", "manage", "misc", "monitor", "grow", "incremental"):
        more = subprocess.run(
            ["mdadm", f"--{mode}", "--help"], capture_output=True, text=True, timeout=30, check=True
        )
        found |= set(re.findall(r"^ +--([a-z-]+)", more.stdout, re.MULTILINE))
    table = pages.mdadm_table()
    assert not [name for name in found if f"`--{name}`" not in table]


def test_the_examples_of_the_manual_page_are_commands() -> None:
    for _, *commands in pages.EXAMPLES:
        for command in commands:
            program, *words = shlex.split(command)
            assert program == "mdcadm"
            assert isinstance(grammar.parse(words), Command)


PAGES = sorted((ROOT / "docs/man").iterdir())


def shown(page: Path) -> str:
    """The page as a reader sees it, in lines that are not broken."""
    done = subprocess.run(
        ["man", "--warnings", "-l", str(page)],
        env={**os.environ, "MANWIDTH": "300", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def example(page: Path) -> str:
    return textwrap.dedent(shown(page).partition("EXAMPLES\n")[2].partition("SEE ALSO")[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_manual_pages_are_clean_and_installed(page: Path) -> None:
    text = shown(page)
    assert all(f"\n{title}" in text for title in ("NAME", "DESCRIPTION", "EXAMPLES", "SEE ALSO"))
    folder = f"man{page.suffix[1:]}"
    assert f"{folder}/{page.name}" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("program", ["mdclusterd", "mdcinspect"])
def test_manual_pages_have_every_option(program: str) -> None:
    module = {"mdclusterd": "daemon.main", "mdcinspect": "tools.mdcinspect"}[program]
    done = subprocess.run(
        [sys.executable, "-m", f"mdcluster.{module}", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    text = shown(ROOT / f"docs/man/{program}.8")
    options = set(re.findall(r"--[a-z-]+", done.stdout))
    assert len(options) > 1
    assert not [option for option in options if option not in text]
    if program == "mdcinspect":
        views = re.findall(r"^  ([a-z-]+)  ", done.stdout.partition("\nviews:")[2], re.MULTILINE)
        assert len(views) > 4
        assert not [view for view in views if not re.search(rf"\n {{7}}{view}\s", text)]


def test_the_page_of_the_settings_has_every_key_with_its_default() -> None:
    page = ROOT / "docs/man/mdcluster.toml.5"
    text = shown(page)
    for section, keys in settings._SECTIONS.items():
        part = text.partition(f"\n[{section}]\n")[2].partition("\n[")[0]
        found = dict(re.findall(r"^       (\w+) = (.*)$", part, re.MULTILINE))
        assert set(found) == set(keys), section
        document = "".join(
            f"{key} = {value}\n" for key, value in found.items() if not section.startswith("fence")
        )
        assert settings.parse_settings(f"[{section}]\n{document}") == settings.Settings()
    assert settings.parse_settings(example(page)).cluster_name == "lab"


def test_the_example_of_clusterips_is_one() -> None:
    nodes = parse_cluster_file(example(ROOT / "docs/man/clusterips.5")).nodes
    assert [node.name for node in nodes] == ["alpha", "beta", "gamma", "delta"]


def complete(line: str) -> list[str]:
    """What bash offers at the end of the line."""
    words = re.findall(r"=|[^ =]+", line) + ([""] if line.endswith(" ") else [])
    script = f"""
mdcadm() {{ return 1; }}
source {shlex.quote(str(ROOT / "tools/completion/mdcadm.bash"))}
COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}
_mdcadm; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_options_and_their_values() -> None:
    assert complete("mdcadm --repl") == ["--replace"]
    assert complete("mdcadm -C x --bitmap=") == ["internal", "clustered", "none"]
    assert complete("mdcadm -C x --level ") == ["raid1", "raid10"]
    assert complete("mdcadm --action=c") == ["check"]
    assert "--write-journal" not in complete("mdcadm --w")
    modes = {f"--{o.name}" for o in OPTIONS.values() if o.kind is Kind.MODE}
    assert "--create" in modes & set(complete("mdcadm --"))


def test_other_shells_have_every_option_that_bash_has() -> None:
    offered = {word.removeprefix("--") for word in complete("mdcadm --")}
    for name, pattern in (("_mdcadm", r"^  '--([a-z-]+)"), ("mdcadm.fish", r"mdcadm -l ([a-z-]+)")):
        text = (ROOT / "tools/completion" / name).read_text()
        assert set(re.findall(pattern, text, re.MULTILINE)) == offered
        shell = "zsh" if name.startswith("_") else "fish"
        if shutil.which(shell):
            subprocess.run([shell, "-n", "/dev/stdin"], input=text, text=True, check=True)
