"""The demo's pure parts: what it counts, what it reads from members, how it words events."""

import time
from pathlib import Path

import pytest

from tests.blocks import BLOCK_BYTES
from tests.cluster.images import fill_with_noise
from tests.demo import workload
from tests.demo.cluster import Happening
from tests.demo.errors import CheckError, check
from tests.demo.story import windows_copied
from tests.demo.view import Lines, Screen, make_view, words
from tests.demo.workload import Clients, DemoTally, copied_up_to

WINDOW = 2048
BLOCK_SECTORS = BLOCK_BYTES // 512


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two images of 2 MiB with different noise whose data begin at sector 64."""

    class FakeSuperblock:
        data_offset_sectors = 64

    monkeypatch.setattr(workload, "superblock", lambda _: FakeSuperblock)
    made = tmp_path / "disk1", tmp_path / "disk2"
    for image in made:
        image.write_bytes(bytes(2 << 20))
        fill_with_noise(image, 0)
    return made


def copy(disks: tuple[Path, Path], end_sectors: int) -> None:
    """Copy [0, end) of the data area, as a resync does."""
    source, target = disks
    data = source.read_bytes()[64 * 512 : (64 + end_sectors) * 512]
    with target.open("r+b") as file:
        file.seek(64 * 512)
        file.write(data)


def test_the_end_of_the_copy_is_found_on_the_target(disks: tuple[Path, Path]) -> None:
    copy(disks, 1024)
    assert copied_up_to(*disks, 0) == 1024
    assert copied_up_to(*disks, 512) == 1024
    assert copied_up_to(*disks, 1024) == 1024


def test_a_copy_reaches_over_blocks_that_clients_wrote(disks: tuple[Path, Path]) -> None:
    copy(disks, 1024)
    with disks[1].open("r+b") as file:
        file.seek((64 + 800) * 512)
        file.write(b"a" * BLOCK_BYTES)
    assert copied_up_to(*disks, 512) == 1024


def test_nothing_copied_beyond_the_position(disks: tuple[Path, Path]) -> None:
    assert copied_up_to(*disks, 256) == 256


@pytest.mark.parametrize(
    ("ends", "sectors"),
    [
        ([3 * WINDOW, 4 * WINDOW, 5 * WINDOW], 3 * WINDOW),
        ([3 * WINDOW, 3 * WINDOW + 512], WINDOW + 512),  # the last one is short
        ([3 * WINDOW, 9 * WINDOW], 2 * WINDOW),  # clean ranges were left out
        ([3 * WINDOW, 4 * WINDOW, WINDOW, 2 * WINDOW], 4 * WINDOW),  # another pass, from below
    ],
)
def test_windows_add_up(ends: list[int], sectors: int) -> None:
    assert windows_copied(ends) == sectors


def test_the_longest_write_is_not_a_read() -> None:
    tally = DemoTally()
    now_s = time.monotonic()
    tally.took(now_s - 5, "read of block 1 on a")
    tally.took(now_s - 2, "write of block 2 on a")
    tally.took(now_s - 1, "write of block 3 on a")
    assert 2000 <= tally.longest_write_ms < 5000 <= tally.longest_ms
    assert tally.longest.startswith("read")


def test_clients_write_ahead_or_behind() -> None:
    clients = Clients({"a": Path("a"), "b": Path("b")}, 20_000 * BLOCK_SECTORS)
    assert len(clients.ahead) + len(clients.behind) == len(clients.blocks)
    assert min(block.number for block in clients.ahead) >= 10_000
    assert max(block.number for block in clients.behind) < 10_000
    assert {block.owner for block in clients.ahead} == {0, 1}
    assert (clients.writes, clients.reads, clients.longest_write_ms) == (0, 0, 0)


def test_events_in_words() -> None:
    names = {"5d8e": "a", "77aa": "data"}
    event = Happening(0.0, "b", "writer_changed", {"node": "5d8e", "term": 3})
    assert words(event, names) == "a is the writer of term 3"
    new = Happening(0.0, "b", "node_up", {"node": "1f00", "name": "c"})
    assert words(new, names) == "c is there"
    committed = Happening(0.0, "b", "committed", {"key": "77aa", "term": 3, "seq": 4})
    assert words(committed, names) == "commit 3.4 of data"


def test_an_event_that_has_no_words_is_told_with_its_facts() -> None:
    assert words(Happening(0.0, "a", "new_thing", {"x": 1, "y": "z"}), {}) == "new thing: x 1, y z"
    assert words(Happening(0.0, "a", "node_up", {"who": "x"}), {}) == "node up: who x"


def test_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    view = make_view()
    assert isinstance(view, Lines) and not isinstance(view, Screen)
    view.step("something begins")
    view.table([("takeover", "0.6 s"), ("election", "0.7 s")])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].endswith(" s  something begins")
    assert printed[-1].split() == ["election", "0.7", "s"]


def test_a_check_that_fails_says_what() -> None:
    check(True, "never said")
    with pytest.raises(CheckError, match="copied twice"):
        check(False, "3 MiB copied twice")
