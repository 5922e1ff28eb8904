"""mdcadm --examine against the installed mdadm, byte for byte, on several members at once."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mdcluster.metadata import superblock as sb
from mdcluster.tools import mdcadm
from tests.unit.metadata import images

MDADM = shutil.which("mdadm", path="/usr/sbin:/sbin:/usr/local/sbin:/usr/bin")
INSTALLED = pytest.mark.skipif(MDADM is None, reason="mdadm is not installed here")


@pytest.fixture
def members(tmp_path: Path) -> list[str]:
    """Two members of a raid1, and a third as its spare."""
    made = images.write_images(tmp_path)
    spare = tmp_path / "spare.img"
    shutil.copy(made.paths[0], spare)
    one = made.superblocks[0]
    one = replace(one, dev_number=64, device_uuid=images.device_uuid(9))
    with spare.open("r+b") as file:
        file.seek(sb.SUPER_OFFSET_BYTES)
        file.write(sb.encode(one))
    return [*made.paths, str(spare)]


@pytest.mark.mdadm
@INSTALLED
@pytest.mark.parametrize(
    "options", [[], ["--export"], ["--brief"], ["-bv"], ["--metadata=1.2"], ["--scan"]]
)
def test_agrees_with_mdadm(
    members: list[str], options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert MDADM is not None
    theirs = subprocess.run(
        [MDADM, "--examine", *options, *members],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert mdcadm.main(["--examine", *options, *members]) == theirs.returncode == 0
    assert capsys.readouterr().out == theirs.stdout


def test_one_bad_device_does_not_hide_the_others(
    members: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = Path(members[1])
    raw = bytearray(torn.read_bytes())
    raw[sb.SUPER_OFFSET_BYTES + 100] ^= 1
    torn.write_bytes(raw)
    assert mdcadm.main(["--examine", *members]) == 0  # as mdadm
    captured = capsys.readouterr()
    assert captured.out.count("Magic : a92b4efc") == 3
    assert " - expected " in captured.out
    told = [line for line in captured.err.splitlines() if str(torn) in line]
    assert len(told) == 1
    assert told[0].startswith(f"mdcadm: {torn} at byte 4096: superblock checksum")
