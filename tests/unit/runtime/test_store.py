"""The journal of the state directory: nothing is forgotten silently, nothing half counts."""

import errno
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.core.model import (
    CLUSTER_KEY,
    ZERO,
    ClusterState,
    Entry,
    NodeId,
    Promise,
    Stamp,
    Voter,
)
from mdcluster.runtime import store as store_module
from mdcluster.runtime.store import (
    HEAD,
    EntryRecord,
    PromiseRecord,
    Record,
    StartRecord,
    Store,
    StoreError,
)

NODE = NodeId("47f13322-d046-4f80-9f4e-7d71e8235954")


def promise(term: int, voted_for: NodeId | None = None) -> PromiseRecord:
    return PromiseRecord(Promise(term, voted_for))


def entry(term: int, seq: int, projected: Stamp = ZERO, name: str = "demo") -> EntryRecord:
    state = ClusterState("u", name, (Voter("a", NODE),))
    return EntryRecord(Entry(CLUSTER_KEY, Stamp(term, seq), state), projected)


def filled(path: Path, *batches: list[Record]) -> bytes:
    store = Store.open(path, fresh=True)
    for batch in batches:
        store.append(batch)
    store.close()
    return store.path.read_bytes()


def reopened(path: Path) -> Store:
    store = Store.open(path, fresh=False)
    store.close()
    return store


def test_all_records_come_back(tmp_path: Path) -> None:
    filled(
        tmp_path,
        [StartRecord(1, 500)],
        [promise(3, NODE), entry(3, 2)],
        [entry(3, 4, Stamp(3, 2)), promise(4)],
    )
    store = reopened(tmp_path)
    assert store.torn == ""
    assert store.memory.promise == Promise(4, None)
    assert store.memory.entries[CLUSTER_KEY] == entry(3, 4, Stamp(3, 2))
    assert store.memory.projected == {CLUSTER_KEY: Stamp(3, 2)}
    assert (store.memory.start.starts, store.lease_before_ms) == (1, 500)


def test_the_projected_stamp_never_goes_back(tmp_path: Path) -> None:
    filled(tmp_path, [entry(1, 2, Stamp(1, 2))], [entry(1, 4, ZERO)])
    assert reopened(tmp_path).memory.projected == {CLUSTER_KEY: Stamp(1, 2)}


def test_a_batch_is_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(tmp_path, fresh=True)
    store.append([promise(1)])
    syncs: list[int] = []
    monkeypatch.setattr(os, "fdatasync", syncs.append)
    store.append([promise(2), entry(2, 2), entry(2, 4), promise(3)])
    store.close()
    assert len(syncs) == 1


@given(data=st.data())
def test_any_torn_end_is_cut_off_and_told(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("state")
    whole = filled(path, [promise(1)], [promise(2)])
    store = Store.open(path, fresh=False)
    store.append([promise(3), entry(3, 2)])
    store.close()
    after = store.path.read_bytes()
    cut = data.draw(st.integers(len(whole) + 1, len(after) - 1))
    garbled = bytearray(after[:cut])
    if data.draw(st.booleans()):
        garbled[cut - 1] ^= 0xFF
    store.path.write_bytes(bytes(garbled))
    again = Store.open(path, fresh=False)
    assert again.memory.promise == Promise(2, None)
    assert str(len(whole)) in again.torn
    assert "cut off" in again.torn
    again.append([promise(5)])
    again.close()
    assert reopened(path).memory.promise == Promise(5, None)


def test_damage_in_the_middle_is_refused(tmp_path: Path) -> None:
    first = filled(tmp_path, [promise(1)])
    store = Store.open(tmp_path, fresh=False)
    store.append([promise(2)])
    store.append([promise(3)])
    store.close()
    data = bytearray(store.path.read_bytes())
    data[len(first) + 30] ^= 1
    store.path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=f"damaged at byte {len(first)}.*backup"):
        Store.open(tmp_path, fresh=False)
    assert store.path.read_bytes() == bytes(data)


@pytest.mark.parametrize("content", [b"", b"mdcj", b"something else entirely"])
def test_a_file_that_is_no_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal").write_bytes(content)
    with pytest.raises(StoreError, match="no journal of mdcluster"):
        Store.open(tmp_path, fresh=False)


def test_a_missing_journal_is_refused_unless_the_node_is_new(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing, though this node has run before"):
        Store.open(tmp_path, fresh=False)
    assert Store.open(tmp_path, fresh=True).memory.promise == Promise(0, None)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (promise(3), promise(2)),
        (promise(3, NODE), promise(3, NodeId("other"))),
        (promise(3, NODE), promise(3)),
        (entry(3, 4), entry(3, 2)),
        (entry(3, 4), entry(3, 4, name="forked")),
        (StartRecord(3, 500), StartRecord(2, 500)),
    ],
)
def test_what_goes_back_is_refused_at_append_and_at_load(
    tmp_path: Path, before: Record, after: Record
) -> None:
    data = filled(tmp_path, [before])
    store = Store.open(tmp_path, fresh=False)
    with pytest.raises(AssertionError, match="asked to forget"):
        store.append([after])
    assert store.path.read_bytes() == data
    forged = store._frame([after])
    store.close()
    store.path.write_bytes(data + forged)
    with pytest.raises(StoreError, match="cannot be used"):
        Store.open(tmp_path, fresh=False)


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = filled(tmp_path, [promise(1)])
    store = Store.open(tmp_path, fresh=False)
    real = os.pwrite

    def full(fd: int, view: memoryview, offset: int) -> int:
        if offset >= len(data) + 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, view[:10], offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreError, match=r"No space left on device.*free space"):
        store.append([promise(2)])
    assert store.path.read_bytes() == data
    assert store.memory.promise == Promise(1, None)
    monkeypatch.setattr(os, "pwrite", real)
    store.append([promise(2)])
    store.close()
    assert reopened(tmp_path).memory.promise == Promise(2, None)


def test_after_a_failed_sync_all_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, [promise(1)])
    inode = (tmp_path / "journal").stat().st_ino
    store = Store.open(tmp_path, fresh=False)

    def fails(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fails)
        with pytest.raises(StoreError, match="Input/output error"):
            store.append([promise(2)])
    store.append([promise(3)])
    store.close()
    assert (tmp_path / "journal").stat().st_ino != inode
    assert reopened(tmp_path).memory.promise == Promise(3, None)


def test_outdated_records_are_compacted_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "COMPACT_DEAD", 50)
    store = Store.open(tmp_path, fresh=True)
    for term in range(1, 200):
        store.append([promise(term), entry(term, 2)])
    store.close()
    assert store.compactions >= 3
    assert store.path.stat().st_size < 50 * 200
    again = reopened(tmp_path)
    assert again.memory.promise == Promise(199, None)
    assert again.memory.entries[CLUSTER_KEY].entry.stamp == Stamp(199, 2)


def test_a_crash_during_compaction_leaves_the_old_journal(tmp_path: Path) -> None:
    filled(tmp_path, [promise(7)])
    (tmp_path / ".journal.new").write_bytes(HEAD + b"half")
    assert reopened(tmp_path).memory.promise == Promise(7, None)
    assert not (tmp_path / ".journal.new").exists()


def test_a_failed_compaction_is_no_failed_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(store_module, "COMPACT_DEAD", 3)
    store = Store.open(tmp_path, fresh=True)
    store.append([promise(1)])

    def no_space(path: str, *args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", no_space)
        for term in range(2, 8):
            store.append([promise(term)])
    store.close()
    assert reopened(tmp_path).memory.promise == Promise(7, None)
