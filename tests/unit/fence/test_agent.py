"""Fence agents: real scripts that work, fail, hang, write without end or ignore signals."""

import os
import select
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mdcluster.config.fencing import Agent
from mdcluster.core.effects import NEVER, Fence
from mdcluster.core.events import Fenced, FenceWaits
from mdcluster.core.model import Life, NodeId
from mdcluster.core.timing import Timing
from mdcluster.fence import program
from mdcluster.fence.agent import AgentFence
from mdcluster.fence.bytime import WatchdogFence
from mdcluster.fence.chain import FenceChain
from mdcluster.fence.provider import Confirmed, Waits

SETTLE_MS = 5000
Script = Callable[[str], Path]


class Clock:
    def __init__(self) -> None:
        self.now_ms = 100_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """A fence agent: a shell script that finds its options in $options, the action in $action."""

    def make(text: str) -> Path:
        path = tmp_path / "fence_test"
        path.write_text(
            f"#!/bin/sh\ncd {tmp_path}\noptions=$(cat)\n"
            'action=$(echo "$options" | sed -n s/^action=//p)\n'
            'echo "$action" >>ran\n'
            f"{text}\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    return make


OFF = 'if [ "$action" = off ]; then touch off; exit 0; fi\n[ -e off ] && exit 2; exit 0'


def ask(name: str = "c", succeeded_ms: int = NEVER, boot: str = "1") -> Fence:
    return Fence(Life(NodeId("uuid-of-c"), boot), name, 0, succeeded_ms)


def agent(command: Path, deadline_ms: int = 20_000) -> Agent:
    nodes = {"c": {"plug": "7", "ip": "10.0.0.3"}, "b": {"plug": "6"}}
    return Agent(command, {"ip": "10.0.0.1", "password": "secret"}, nodes, deadline_ms)


def fence(command: Path, clock: Clock | None = None, deadline_ms: int = 20_000) -> AgentFence:
    return AgentFence(agent(command, deadline_ms), 0, clock or Clock())


def ran(tmp_path: Path) -> list[str]:
    path = tmp_path / "ran"
    return path.read_text().split() if path.exists() else []


async def why(provider: AgentFence, asked: Fence | None = None) -> str:
    said = await provider.fence(asked or ask())
    assert isinstance(said, Waits)
    return said.why


async def test_off_and_verified(script: Script, tmp_path: Path) -> None:
    provider = fence(script('echo "$options" >given\necho "$@" >arguments\n' + OFF))
    said = await provider.fence(ask())
    assert said == Confirmed("fence_test has switched c off")
    assert ran(tmp_path) == ["off", "status"]
    given = (tmp_path / "given").read_text().split()
    assert given == ["action=status", "nodename=c", "ip=10.0.0.3", "password=secret", "plug=7"]
    assert (tmp_path / "arguments").read_text() == "\n"


async def test_what_a_host_sent_is_waited_for_and_nothing_is_done_twice(
    script: Script, tmp_path: Path
) -> None:
    clock = Clock()
    provider = AgentFence(agent(script(OFF)), SETTLE_MS, clock)
    assert "c is off; 5000 ms more" in await why(provider)
    clock.now_ms += SETTLE_MS - 1
    assert "c is off; 1 ms more" in await why(provider)
    clock.now_ms += 1
    # It may well have been switched on again meanwhile.
    assert isinstance(await provider.fence(ask(succeeded_ms=1)), Confirmed)
    assert ran(tmp_path) == ["off", "status"]


async def test_status_is_asked_until_it_is_off(script: Script, tmp_path: Path) -> None:
    provider = fence(script('[ "$action" = off ] && exit 0\n[ $(wc -l <ran) -ge 4 ] && exit 2'))
    assert isinstance(await provider.fence(ask()), Confirmed)
    assert ran(tmp_path) == ["off", "status", "status", "status"]


@pytest.mark.parametrize("code", [0, 1])
async def test_only_off_is_believed(script: Script, code: int) -> None:
    provider = fence(script(f'[ "$action" = off ] || exit {code}'), deadline_ms=500)
    text = await why(provider)
    assert f"does not report c as off: status: exit code {code}" in text


async def test_without_verification_the_exit_code_is_enough(script: Script, tmp_path: Path) -> None:
    settings = replace(agent(script('[ "$action" = off ]')), verify=False)
    assert isinstance(await AgentFence(settings, 0, Clock()).fence(ask()), Confirmed)
    assert ran(tmp_path) == ["off"]


async def test_a_failure_is_told_and_tried_again_after_pauses_that_grow(
    script: Script, tmp_path: Path
) -> None:
    clock = Clock()
    provider = fence(script("echo 'first line'; echo 'no \x1broute' >&2; exit 1"), clock)
    told = await why(provider)
    assert told == "fence_test could not switch c off: exit code 1 (no ?route)"
    assert await why(provider) == f"{told}; it is tried again in 2 s"
    assert len(ran(tmp_path)) == 1
    for pause_ms in (2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000):
        clock.now_ms += pause_ms - 1
        assert await why(provider) == f"{told}; it is tried again in 1 s"
        clock.now_ms += 1
        assert await why(provider) == told
    assert len(ran(tmp_path)) == 8


async def test_a_success_after_failures_counts(script: Script, tmp_path: Path) -> None:
    clock = Clock()
    provider = fence(script("[ -e works ] || exit 1\n" + OFF), clock)
    await why(provider)
    (tmp_path / "works").touch()
    clock.now_ms += 2000
    assert isinstance(await provider.fence(ask()), Confirmed)


async def test_a_host_without_options_of_its_own_is_not_touched(
    script: Script, tmp_path: Path
) -> None:
    assert "no [fence.agent.nodes.d]" in await why(fence(script(OFF)), ask("d"))
    assert ran(tmp_path) == []


async def test_a_host_that_booted_again_is_not_touched(script: Script, tmp_path: Path) -> None:
    assert "lives another life" in await why(fence(script(OFF)), ask(succeeded_ms=3))
    assert ran(tmp_path) == []


async def test_one_that_hangs_is_killed_with_its_children(script: Script, tmp_path: Path) -> None:
    provider = fence(script("sleep 1000 & echo $! >child; echo $$ >self; wait"), deadline_ms=500)
    assert "no end within 0.5 s, killed" in await why(provider)
    for name in ("self", "child"):
        _assert_gone(int((tmp_path / name).read_text()))


async def test_one_that_ignores_sigterm_is_killed(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "TERM_S", 0.2)
    text = "trap '' TERM INT; echo $$ >self; while :; do sleep 0.05; done"
    assert "no end within 0.5 s" in await why(fence(script(text), deadline_ms=500))
    _assert_gone(int((tmp_path / "self").read_text()))


async def test_one_that_floods_is_killed(script: Script, tmp_path: Path) -> None:
    text = await why(fence(script("echo $$ >self; exec yes"), deadline_ms=20_000))
    assert f"more than {program.OUTPUT_MAX} bytes of output, killed" in text
    _assert_gone(int((tmp_path / "self").read_text()))


async def test_one_that_leaves_somebody_with_its_output_has_ended(script: Script) -> None:
    provider = fence(script('setsid sleep 3 &\n[ "$action" = off ] && exit 0; exit 2'))
    assert isinstance(await provider.fence(ask()), Confirmed)


async def test_one_that_dies_by_a_signal_has_failed(script: Script) -> None:
    assert "killed by signal 15" in await why(fence(script("kill -TERM $$; sleep 9")))


async def test_one_that_does_not_read_is_no_trouble(tmp_path: Path) -> None:
    assert "exit code 1" in await why(fence(Path("/bin/false")))


async def test_one_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    assert "cannot be run: No such file" in await why(fence(tmp_path / "none"))
    (tmp_path / "text").touch()
    assert "cannot be run: Permission denied" in await why(fence(tmp_path / "text"))


async def test_no_descriptor_is_lost(script: Script) -> None:
    provider = fence(script("exit 1"))
    await why(provider)
    before = len(os.listdir("/proc/self/fd"))
    for boot in range(5):
        await why(provider, ask(boot=f"b{boot}"))
    assert len(os.listdir("/proc/self/fd")) == before


async def test_where_the_agent_fails_the_watchdog_follows(script: Script) -> None:
    """Each is asked in order; both say what they wait for."""
    clock, timing = Clock(), Timing(watchdog_ms=10_000)
    fence_ms = timing.watchdog_fence_ms
    assert fence_ms is not None
    chain = FenceChain([fence(script("exit 1"), clock), WatchdogFence(timing, clock)])
    asked = replace(ask(), heard_ms=clock.now_ms)
    said = await chain.fence(asked)
    assert isinstance(said, FenceWaits)
    assert "agent: fence_test could not switch c off: exit code 1; watchdog: " in said.why
    assert f"watchdog: {fence_ms} ms more" in said.why
    clock.now_ms += fence_ms
    said = await chain.fence(asked)
    assert isinstance(said, Fenced)
    assert said.how.startswith("watchdog: its watchdog has reset it")


def _assert_gone(pid: int) -> None:
    """It has ended, or does so right now."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([fd], [], [], 5)[0]
    os.close(fd)
