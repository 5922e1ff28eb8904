"""Members of a cluster's array as the daemon leaves them: image files with commits behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mdcluster.core.model import (
    ArrayChange,
    ArrayState,
    FailMember,
    RemoveMember,
    Stamp,
)
from mdcluster.members.projection import project
from mdcluster.metadata import superblock as sb
from mdcluster.metadata.rings import encode_record, record_offset_bytes
from mdcluster.metadata.scan import Member, read_member
from tests.unit.members.kit import ARRAY, LIVES, NOW_S, Host, after, creation, device, entry, image


@dataclass
class Committed:
    """The array after its latest commit; `paths` by member number."""

    paths: list[str]
    host: Host
    state: ArrayState
    at: Stamp

    def commit(self, *changes: ArrayChange, skip: tuple[int, ...] = ()) -> None:
        """One more commit, written to all members but those skipped, which keep the old one."""
        state = after(self.state, *changes, runners=LIVES)
        state = replace(state, updated_s=state.updated_s + 1)
        self.state, self.at = state, self.at.next(1)
        kept = {number: Path(self.paths[number]).read_bytes() for number in skip}
        made = replace(entry(state), stamp=self.at)
        self.host.knows(made)
        asyncio.run(self.host.members.write_superblocks(made))
        for number, raw in kept.items():
            Path(self.paths[number]).write_bytes(raw)

    def fail(self, number: int) -> None:
        self.commit(FailMember(ARRAY, device(number), "no answer"))

    def remove(self, number: int) -> None:
        self.commit(RemoveMember(ARRAY, device(number)))

    @property
    def superblocks(self) -> list[sb.Superblock]:
        """What the latest commit makes of each member, whatever stands there now."""
        return [project(self.state, self.at, member, NOW_S) for member in self.state.members]

    def member(self, number: int) -> Member:
        return read_member(self.paths[number])

    def patch(self, number: int, offset_bytes: int, data: bytes) -> None:
        with open(self.paths[number], "r+b") as file:
            file.seek(offset_bytes)
            file.write(data)

    def change(self, number: int, change: Callable[[sb.Superblock], sb.Superblock]) -> None:
        """Another superblock on one member, its checksum right."""
        one = self.member(number).superblock
        assert one is not None
        self.patch(number, sb.SUPER_OFFSET_BYTES, sb.encode(change(one)))

    def change_record(self, number: int, at_seq: int, **changes: object) -> int:
        """Another record instead of the one of commit (1, at_seq), its seal right; its byte."""
        member = self.member(number)
        assert member.header is not None
        (record,) = [one for ring in member.rings for one in ring.records if one.seq == at_seq]
        at = record_offset_bytes(member.header.area, record.voter_index, "array", record.index)
        made = replace(record, **changes)  # type: ignore[arg-type]
        self.patch(number, at, encode_record(made))
        return at


def committed(folder: Path, members: int = 2, level: int = 1) -> Committed:
    """A created array after three more commits: its first resync is done, nothing is wrong."""
    host = Host(folder)
    paths = [image(folder, f"m{number}.img") for number in range(members)]
    change = creation(*paths, level=level, clean=True)
    made = Committed(paths, host, asyncio.run(host.create(change)), Stamp(1, 2))
    for _ in range(3):
        made.commit()
    return made
