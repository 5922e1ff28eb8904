"""Fencing by the lock of a process: only what is certain is confirmed."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mdcluster.core.effects import NEVER, Fence
from mdcluster.core.events import Fenced, FenceWaits
from mdcluster.core.model import Life, NodeId
from mdcluster.fence.chain import FenceChain
from mdcluster.fence.process import LIVES_MAX, LockError, ProcessFence, ProcessLock, look
from mdcluster.fence.provider import Confirmed, Waits

NODE = NodeId("47f13322-d046-4f80-9f4e-7d71e8235954")


def life(boot_id: str) -> Life:
    return Life(NODE, boot_id)


def ask(boot_id: str) -> Fence:
    return Fence(life(boot_id), "n", 5, NEVER)


def test_a_life_that_holds_its_lock_is_not_over(tmp_path: Path) -> None:
    lock = ProcessLock.hold(tmp_path, life("one"))
    said = look(tmp_path, life("one"))
    assert isinstance(said, Waits)
    assert "lives and holds" in said.why
    lock.release()
    assert isinstance(look(tmp_path, life("one")), Confirmed)


def test_a_later_life_proves_the_end_of_an_earlier_one_and_no_more(tmp_path: Path) -> None:
    ProcessLock.hold(tmp_path, life("one")).release()
    held = ProcessLock.hold(tmp_path, life("two"))
    assert isinstance(look(tmp_path, life("one")), Confirmed)
    assert isinstance(look(tmp_path, life("two")), Waits)
    said = look(tmp_path, life("never seen"))
    assert isinstance(said, Waits)
    assert "does not name" in said.why
    held.release()
    assert isinstance(look(tmp_path, life("two")), Confirmed)
    assert isinstance(look(tmp_path, life("never seen")), Waits)


def test_no_file_confirms_nothing(tmp_path: Path) -> None:
    said = look(tmp_path, life("one"))
    assert isinstance(said, Waits)
    assert "no process lock" in said.why


@pytest.mark.parametrize("node", ["../../etc/passwd", "", "47f13322"])
def test_a_node_that_is_no_uuid_leads_nowhere(tmp_path: Path, node: str) -> None:
    assert isinstance(look(tmp_path, Life(NodeId(node), "one")), Waits)
    with pytest.raises(LockError, match="no UUID"):
        ProcessLock.hold(tmp_path, Life(NodeId(node), "one"))


def test_what_is_no_regular_file_confirms_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"{NODE}.lock")
    assert isinstance(look(tmp_path, life("one")), Waits)


def test_a_second_holder_is_refused(tmp_path: Path) -> None:
    lock = ProcessLock.hold(tmp_path, life("one"))
    with pytest.raises(LockError, match="another daemon"):
        ProcessLock.hold(tmp_path, life("two"))
    lock.release()


def test_many_lives_keep_the_file_small_and_the_last_ones_known(tmp_path: Path) -> None:
    for number in range(5 * LIVES_MAX):
        ProcessLock.hold(tmp_path, life(f"b{number}")).release()
    assert (tmp_path / f"{NODE}.lock").stat().st_size < 100 * 3 * LIVES_MAX
    assert isinstance(look(tmp_path, life(f"b{5 * LIVES_MAX - LIVES_MAX}")), Confirmed)


def test_a_killed_process_has_let_go(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from mdcluster.core.model import Life;"
        "from mdcluster.fence.process import ProcessLock;"
        f"lock = ProcessLock.hold(pathlib.Path(sys.argv[1]), Life('{NODE}', 'one'));"
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert isinstance(look(tmp_path, life("one")), Waits)
        process.kill()
        process.wait(10)
    assert isinstance(look(tmp_path, life("one")), Confirmed)


class Slow:
    """A provider that never answers."""

    name = "slow"
    deadline_s = 0.01

    async def fence(self, ask: Fence) -> Confirmed | Waits:
        await asyncio.Event().wait()
        raise AssertionError("not reached")


async def test_the_chain_goes_on_after_a_deadline(tmp_path: Path) -> None:
    ProcessLock.hold(tmp_path, life("one")).release()
    said = await FenceChain([Slow(), ProcessFence(tmp_path)]).fence(ask("one"))
    assert isinstance(said, Fenced)
    assert said.how.startswith("process: ")
    assert said.heard_ms == 5


async def test_the_chain_says_what_each_waits_for(tmp_path: Path) -> None:
    said = await FenceChain([Slow(), ProcessFence(tmp_path)]).fence(ask("one"))
    assert isinstance(said, FenceWaits)
    assert "slow: no answer" in said.why
    assert "process: there is no process lock" in said.why
    assert "mdcadm --fence-ack" in said.why
