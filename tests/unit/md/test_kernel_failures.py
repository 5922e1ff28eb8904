"""What the kernel driver makes of failing members, on files that stand for md's sysfs."""

from pathlib import Path

import pytest

from mdcluster.core.model import DeviceId, Doubt
from mdcluster.md import kernel_state, sysfs
from mdcluster.md.kernel_state import Attached, KernelState
from mdcluster.md.kernel_watch import Watch
from mdcluster.md.sysfs import MemberDir
from tests.unit.md.port_suite import array, device

SHOWN = {"writemostly": "write_mostly"}
"""Words of `state` that are shown in another way than they are written (md.c, state_show)."""


class FakeMd:
    """The attributes of a raid1 of two; `state` of a member takes words as the kernel does."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written: list[tuple[str, str]] = []
        monkeypatch.setattr(sysfs, "write_attribute", self._write)
        monkeypatch.setattr(kernel_state, "kernel_version", lambda: (6, 12))
        self._md = root / "block/md_data/md"
        for number in (0, 1):
            self.member(number, "in_sync")
        self._put("array_state", "write-pending")

    def _put(self, name: str, text: str) -> None:
        place = self._md / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{text}\n")

    def member(self, number: int, flags: str, errors: int = 0) -> None:
        for name, text in (("state", flags), ("unacknowledged_bad_blocks", ""), ("errors", errors)):
            self._put(f"dev-{number}/{name}", str(text))

    def _write(self, path: Path, value: str | int) -> None:
        text = str(value)
        self.written.append((str(path.relative_to(self._md)), text))
        if path.name == "state":
            word = text.removeprefix("-")
            flags = set(path.read_text().strip().split(",")) - {SHOWN.get(word, word)}
            flags |= set() if text.startswith("-") else {SHOWN.get(word, word)}
            text = ",".join(sorted(flags))
        path.write_text(f"{text}\n")

    def running(self, root: Path, *, read_only: bool = False) -> KernelState:
        """The array, as its driver knows it."""
        state = array()
        found = KernelState(state, read_only=read_only, notes_dir=root / "run", root=root)
        for number, entry in enumerate(state.members):
            place = MemberDir(self._md / f"dev-{number}")
            found.members[entry.device] = Attached(entry, "/dev/x", (7, number), place, good=True)
        return found


@pytest.fixture
def md(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMd:
    return FakeMd(tmp_path, monkeypatch)


def test_reads_are_pinned_anew_only_when_no_failed_write_is_held(
    md: FakeMd, tmp_path: Path
) -> None:
    """Since Linux 6.7 a change of write-mostly waits for all writes: for good while some are
    held (md.c, rdev_attr_store)."""
    found = md.running(tmp_path)
    first, second = found.members.values()
    found.write_pin()
    assert first.dir.flags == {"in_sync"}
    assert second.dir.flags == {"in_sync", "write_mostly"}

    md.member(0, "faulty,blocked")
    first.failed = True
    found.write_pin()
    found.activate()
    assert second.dir.flags == {"in_sync", "write_mostly"}, "changed while a write is held"
    assert found.dir.state == "write-pending", "released while a write is held"

    md.member(0, "faulty")
    found.activate()
    assert found.dir.state == "active"
    assert second.dir.flags == {"in_sync"}, "the last one is still avoided"
    written = [name for name, _ in md.written]
    assert written.index("array_state") < len(written) - 1 - written[::-1].index("dev-1/state")


def test_a_spectator_that_holds_no_writes_pins_at_once(md: FakeMd, tmp_path: Path) -> None:
    found = md.running(tmp_path, read_only=True)
    found.write_pin()
    md.member(0, "faulty,blocked")
    found.write_pin()
    assert "write_mostly" not in found.members[device(1)].dir.flags


def test_a_failure_is_told_once_and_again_when_md_may_have_gone_past_it(
    md: FakeMd, tmp_path: Path
) -> None:
    told: list[tuple[DeviceId, Doubt]] = []
    found = md.running(tmp_path)
    watch = Watch(found, lambda failed, _, doubt: told.append((failed, doubt)))

    md.member(1, "blocked,in_sync")
    for _ in range(2):
        watch.look()
    assert told == [(device(1), Doubt.NONE)]

    md.member(1, "blocked,faulty")  # a page of the bitmap failed behind it
    for _ in range(2):
        watch.look()
    assert told[1:] == [(device(1), Doubt.MISSED)]

    found.members[device(1)].failed = True  # by the commit
    watch.look()
    assert len(told) == 2


def test_a_member_that_md_has_mended_is_in_doubt_for_that(md: FakeMd, tmp_path: Path) -> None:
    told: list[Doubt] = []
    watch = Watch(md.running(tmp_path), lambda _, __, doubt: told.append(doubt))
    md.member(0, "faulty", errors=1)
    watch.look()
    assert told == [Doubt.REWRITTEN]
