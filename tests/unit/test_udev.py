"""The udev rules: what they ask of a member is what the superblock says."""

import fnmatch
import re
import shlex
import subprocess
from pathlib import Path

from mdcluster.metadata import superblock as sb
from tests.plain import plain_array

RULES = Path(__file__).parents[2] / "daemon/udev/63-mdcluster.rules"


def rule_with(text: str) -> str:
    lines = [line for line in RULES.read_text().splitlines() if text in line]
    assert len(lines) == 1
    return lines[0]


def asked(rule: str, **names: str) -> str:
    """What its program prints for a device, as udev keeps it."""
    program = re.search(r'PROGRAM=="([^"]*)"', rule)
    assert program is not None
    text = program[1].replace("$$", "\0")
    for name, value in names.items():
        text = text.replace(name.replace("percent_", "%").replace("dollar_", "$"), value)
    words = shlex.split(text.replace("\0", "$"))
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.rstrip("\n")


def test_only_guarded_members_are_kept_away(tmp_path: Path) -> None:
    rule = rule_with("MDCLUSTER_MEMBER")
    wanted = re.search(r'RESULT=="([^"]*)"', rule)
    assert wanted is not None
    array = plain_array(tmp_path)
    for guarded in (False, True):
        array.change(0, lambda one, guarded=guarded: one.with_guard(guarded))  # type: ignore[misc]
        answer = asked(rule, dollar_devnode=array.paths[0])
        assert fnmatch.fnmatchcase(answer, wanted[1]) is guarded
    assert sb.GUARD_BIT == 1 << 31


def test_arrays_are_called_by_their_name() -> None:
    rule = rule_with("SYMLINK")
    assert asked(rule, percent_k="md_data") == "data"
    assert asked(rule, percent_k="md_data_1p2") == "data_1p2"


def test_the_rules_stand_between_those_of_mdadm() -> None:
    names = ["64-md-raid-assembly.rules", RULES.name, "63-md-raid-arrays.rules"]
    assert sorted(names) == list(reversed(names))
    jumps = set(re.findall(r'GOTO="(\w+)"', RULES.read_text()))
    assert jumps == set(re.findall(r'LABEL="(\w+)"', RULES.read_text()))
