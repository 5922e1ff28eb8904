"""What a node must not forget, in its state directory: promise, entries, lease.

One append-only file, ``journal``::

    head    8 bytes  "mdcjrnl1"
    frame   magic "MDCF", length u32, number u64, crc u32 (little endian), then the payload

A frame is one batch: it was written and synced (fdatasync) as a whole before the next one was
begun, and frames are numbered without gaps. So a frame that is not whole was never
acknowledged to anybody if it is the last (a crash tore it: it is cut off, and said so), and is
damage if a whole one follows (refused: a voter that forgot a promise could vote twice).

Rules of this file: nothing in it goes back (terms, stamps); what could not be written whole
and synced does not count; after a failed sync, of which nobody can say what is on the disk,
the whole journal is written again.
"""

import contextlib
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mdcluster.core.ledger import without_gone
from mdcluster.core.model import ZERO, ClusterState, Entry, Promise, Stamp
from mdcluster.errors import MdclusterError
from mdcluster.wire.codec import Codec
from mdcluster.wire.errors import WireError

JOURNAL = "journal"
HEAD = b"mdcjrnl1"
MAGIC = b"MDCF"
COMPACT_BYTES = 1024 * 1024
COMPACT_DEAD = 4096
PAYLOAD_MAX_BYTES = 4 * 1024 * 1024
FILE_MAX_BYTES = 64 * 1024 * 1024
BATCH_MAX = 32
"""Records of one frame. An entry is a few KiB, with long refusals 64 KiB."""
_FRAME = struct.Struct("<4sIQI")


class StoreError(MdclusterError):
    """The state directory does not take, or does not hold, what it should."""


@dataclass(frozen=True, slots=True)
class PromiseRecord:
    promise: Promise


@dataclass(frozen=True, slots=True)
class EntryRecord:
    """projected: every writable member's superblock is known to be at least there."""

    entry: Entry
    projected: Stamp


@dataclass(frozen=True, slots=True)
class StartRecord:
    """starts: how often a daemon has started here; lease_ms: the longest it may have acked."""

    starts: int
    lease_ms: int


Record = PromiseRecord | EntryRecord | StartRecord


@dataclass(frozen=True, slots=True)
class Batch:
    records: tuple[PromiseRecord | EntryRecord | StartRecord, ...]


_CODEC = Codec([Batch], size_max_bytes=PAYLOAD_MAX_BYTES)


@dataclass(slots=True)
class Memory:
    """All that the records say, the newest of each."""

    promise: Promise = field(default_factory=lambda: Promise(0, None))
    entries: dict[str, EntryRecord] = field(default_factory=dict)
    start: StartRecord = field(default_factory=lambda: StartRecord(0, 0))

    @property
    def projected(self) -> dict[str, Stamp]:
        return {key: r.projected for key, r in self.entries.items() if r.projected != ZERO}

    def records(self) -> list[Record]:
        return [self.start, PromiseRecord(self.promise), *self.entries.values()]

    def copy(self) -> "Memory":
        return Memory(self.promise, dict(self.entries), self.start)

    def take(self, record: Record) -> None:
        """Remember a newer record; :class:`StoreError` for one that goes back."""
        match record:
            case PromiseRecord(promise):
                self._take_promise(promise)
            case EntryRecord():
                self._take_entry(record)
            case StartRecord(starts):
                if starts < self.start.starts:
                    raise StoreError(f"start {starts} comes after start {self.start.starts}")
                self.start = record

    def _take_promise(self, new: Promise) -> None:
        old = self.promise
        changed = old.voted_for is not None and new.voted_for != old.voted_for
        if new.term < old.term or (new.term == old.term and changed):
            raise StoreError(
                f"the promise of term {new.term} for {new.voted_for} comes after that of term "
                f"{old.term} for {old.voted_for}"
            )
        self.promise = new

    def _take_entry(self, new: EntryRecord) -> None:
        key, stamp = new.entry.key, new.entry.stamp
        old = self.entries.get(key)
        if old is not None:
            if stamp < old.entry.stamp:
                raise StoreError(
                    f"entry {key} at term {stamp.term} seq {stamp.seq} comes after "
                    f"term {old.entry.stamp.term} seq {old.entry.stamp.seq}"
                )
            if stamp == old.entry.stamp and new.entry != old.entry:
                raise StoreError(f"entry {key} has two states at term {stamp.term} seq {stamp.seq}")
            new = replace(new, projected=max(new.projected, old.projected))
        self.entries[key] = new
        if isinstance(new.entry.state, ClusterState):
            kept = without_gone({k: r.entry for k, r in self.entries.items()}, new.entry.state)
            self.entries = {k: r for k, r in self.entries.items() if k in kept}


class Store:
    """The journal of one state directory, which its caller has locked. Not thread safe.

    `memory` is what is durable. `torn` tells what was cut off at the start ('' for nothing).
    """

    def __init__(self, state_dir: Path, memory: Memory, torn: str) -> None:
        """Use :meth:`open`."""
        self.path = state_dir / JOURNAL
        self.memory = memory
        self.torn = torn
        self.compactions = 0
        self._fd = -1
        self._end = 0
        self._number = 0
        self._dead = 0
        self._compact_at = COMPACT_BYTES
        self._rewrite_due = True

    @classmethod
    def open(cls, state_dir: Path, *, fresh: bool) -> "Store":
        """Load the journal. fresh: this start made the node's identity, so there is none yet.

        Raises:
            StoreError: it cannot be read, is damaged, goes back, or is missing. Nothing is
                changed then.
        """
        path = state_dir / JOURNAL
        try:
            data = _read(path)
        except FileNotFoundError:
            if not fresh:
                raise StoreError(
                    f"{path} is missing, though this node has run before: its promises and "
                    f"commits are lost. {_mend(state_dir)}"
                ) from None
            store = cls(state_dir, Memory(), "")
        else:
            memory, number, end, torn = _load(path, data)
            store = cls(state_dir, memory, torn)
            store._number = number
            with contextlib.suppress(FileNotFoundError):
                (state_dir / f".{JOURNAL}.new").unlink()
            if not torn:
                store._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
                store._end = end
                store._rewrite_due = False
        return store

    @property
    def lease_before_ms(self) -> int:
        """The longest lease the last life may have acknowledged; 0 if there was none."""
        return self.memory.start.lease_ms

    def append(self, records: Sequence[Record]) -> None:
        """Make the records durable, all or none, with one fdatasync.

        Raises:
            StoreError: not stored (no space, an I/O error ...); may be tried again.
            AssertionError, WireError: the core asked for what cannot be; not to be tried again.
        """
        assert 0 < len(records) <= BATCH_MAX
        memory, number = self.memory.copy(), self._number
        try:
            for record in records:
                memory.take(record)
        except StoreError as bad:  # the core's own rule is broken: this must not go on
            raise AssertionError(f"asked to forget: {bad}") from None
        try:
            self._append(records, memory)
        except OSError as error:
            self._number = number
            raise StoreError(
                f"{self.path} cannot be written: {error.strerror}; this node neither votes nor "
                "acknowledges until it can: check the free space and the disk"
            ) from None

    def _append(self, records: Sequence[Record], memory: Memory) -> None:
        if self._rewrite_due:
            self._rewrite(memory)
        else:
            self._write(self._frame(records))
            self._dead += len(records)
        self.memory = memory
        if self._end > self._compact_at or self._dead > COMPACT_DEAD:
            self._compact()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # Writing.

    def _frame(self, records: Sequence[Record]) -> bytes:
        payload = _CODEC.encode(Batch(tuple(records)))
        self._number += 1
        return _frame(self._number, payload)

    def _write(self, data: bytes) -> None:
        """Write behind the end and sync; cut off again what is not whole."""
        try:
            _write_all(self._fd, data, self._end)
        except OSError:
            self._cut()
            raise
        try:
            os.fdatasync(self._fd)
        except OSError:
            self._rewrite_due = True
            raise
        self._end += len(data)

    def _cut(self) -> None:
        try:
            os.ftruncate(self._fd, self._end)
        except OSError:
            self._rewrite_due = True

    def _compact(self) -> None:
        """Leave out what is outdated; a failure costs nothing but the wish."""
        number = self._number
        try:
            self._rewrite(self.memory)
        except OSError:
            self._number = number
            # The old file holds all, and stays in use unless the new one took its place.
            self._compact_at = max(self._compact_at, 2 * self._end)
            self._dead = 0

    def _rewrite(self, memory: Memory) -> None:
        """All of `memory` in a new file that takes the place of the old one, durably."""
        temp = self.path.with_name(f".{JOURNAL}.new")
        data = HEAD + b"".join(self._frame([record]) for record in memory.records())
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(temp, flags, 0o600)
        try:
            _write_all(fd, data, 0)
            os.fsync(fd)
            os.rename(temp, self.path)
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                temp.unlink()
            raise
        self.close()
        self._fd, self._end, self._dead = fd, len(data), 0
        self._compact_at = max(COMPACT_BYTES, 2 * len(data))
        self._rewrite_due = True  # until the new name is durable, too
        _sync_dir(self.path.parent)
        self._rewrite_due = False
        self.compactions += 1


def _frame(number: int, payload: bytes) -> bytes:
    head = _FRAME.pack(MAGIC, len(payload), number, 0)
    return _FRAME.pack(MAGIC, len(payload), number, zlib.crc32(payload, zlib.crc32(head))) + payload


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]


def _sync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# Loading.


def _read(path: Path) -> bytes:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            data = file.read(FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > FILE_MAX_BYTES:
        raise StoreError(f"{path} is longer than {FILE_MAX_BYTES} bytes. {_mend(path.parent)}")
    return data


def _load(path: Path, data: bytes) -> tuple[Memory, int, int, str]:
    """(what it says, number of the last frame, where it ends, what was torn off)."""
    if not data.startswith(HEAD):
        raise StoreError(f"{path} is damaged: it is no journal of mdcluster. {_mend(path.parent)}")
    memory, number, offset = Memory(), 0, len(HEAD)
    while offset < len(data):
        found = _frame_at(data, offset)
        if found is None or (number and found[0] != number + 1):
            _refuse_damage(path, data, offset, number)
            torn = (
                f"{path}: the last write, {len(data) - offset} bytes at byte {offset}, was not "
                "complete when this node went down; nothing was acknowledged on it, it is cut off"
            )
            return memory, number, offset, torn
        number, payload = found
        _take_batch(path, memory, payload, offset)
        offset += _FRAME.size + len(payload)
    return memory, number, offset, ""


def _take_batch(path: Path, memory: Memory, payload: bytes, offset: int) -> None:
    try:
        for record in _CODEC.decode_as(Batch, payload).records:
            memory.take(record)
    except (WireError, StoreError) as bad:
        raise StoreError(
            f"{path}: the record at byte {offset} cannot be used: {bad}. {_mend(path.parent)}"
        ) from None


def _frame_at(data: bytes, offset: int) -> tuple[int, bytes] | None:
    """(number, payload) of a whole frame at this place."""
    if offset + _FRAME.size > len(data):
        return None
    magic, length, number, crc = _FRAME.unpack_from(data, offset)
    start = offset + _FRAME.size
    payload = data[start : start + length]
    if magic != MAGIC or length > PAYLOAD_MAX_BYTES or len(payload) != length:
        return None
    head = _FRAME.pack(MAGIC, length, number, 0)
    return (number, payload) if zlib.crc32(payload, zlib.crc32(head)) == crc else None


def _refuse_damage(path: Path, data: bytes, offset: int, number: int) -> None:
    """A whole, later frame behind one that is not: that one was durable once."""
    place = data.find(MAGIC, offset)
    while place >= 0:
        found = _frame_at(data, place)
        if found is not None and found[0] > number:
            raise StoreError(
                f"{path} is damaged at byte {offset}: record {found[0]} at byte {place} is whole, "
                f"what comes before it is not. {_mend(path.parent)}"
            )
        place = data.find(MAGIC, place + 1)


def _mend(state_dir: Path) -> str:
    return (
        "It is not replaced, since this node's votes are bound to it: restore it from a backup "
        f"of {state_dir} taken after this node last ran, or, to join as a new node, move "
        f"{state_dir} away as a whole and admit the node again (mdcadm --admit)"
    )
