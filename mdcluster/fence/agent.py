"""Fencing by a fence agent: an executable that switches a host off, and can tell that it is.

The interface is that of https://github.com/ClusterLabs/fence-agents (doc/FenceAgentAPI.md):
options as `name=value` lines on standard input (never on the command line, where everybody
could read them), action=off, then action=status; exit codes 0: done (status: on), 1: failed,
2: status: off.

Rules of this file:

* only a host that has options of its own in the settings is switched off: with those of another,
  or with none, an agent might switch off anything;
* a node that has shown another life is never switched off for the former one;
* a success is remembered and not repeated; then what the host sent is waited for (settle_ms);
* an agent that failed is tried again after a pause that doubles.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_exponential

from mdcluster.config.fencing import Agent
from mdcluster.core.effects import NEVER, Fence
from mdcluster.core.model import Life
from mdcluster.fence.program import Outcome, run_bounded
from mdcluster.fence.provider import Confirmed, Waits
from mdcluster.gate import boottime_ms

STATUS_OFF = 2
PAUSE_MIN_MS = 2_000
PAUSE_MAX_MS = 60_000
LIVES_MAX = 256
RUNS = 3
"""Deadlines that one attempt may take: off; a status, asked for until then; the last of these."""
END_S = 5.0
"""How long it may take, beyond them, to kill an agent and everything it started."""


@dataclass(slots=True)
class _Failed:
    why: str
    again_ms: int
    pause_ms: int


class AgentFence:
    """Switches hosts off. settle_ms: until nothing can land of what they sent before."""

    name = "agent"

    def __init__(
        self, agent: Agent, settle_ms: int, clock_ms: Callable[[], int] = boottime_ms
    ) -> None:
        self._agent = agent
        self._settle_ms = settle_ms
        self._clock_ms = clock_ms
        self.deadline_s = RUNS * agent.deadline_ms / 1000 + END_S
        self._off_ms: dict[Life, int] = {}
        self._failed: dict[Life, _Failed] = {}

    async def fence(self, ask: Fence) -> Confirmed | Waits:
        if ask.life in self._off_ms:
            return self._settle(ask)
        refusal = self._why_not(ask)
        if refusal:
            return Waits(refusal)
        why = await self._switch_off(ask.name)
        if why:
            return self._note_failure(ask, why)
        self._failed.pop(ask.life, None)
        _make_room(self._off_ms)
        self._off_ms[ask.life] = self._clock_ms()
        return self._settle(ask)

    def _why_not(self, ask: Fence) -> str:
        if ask.succeeded_ms != NEVER:
            return f"{ask.name} lives another life by now and is not switched off for this one"
        if ask.name not in self._agent.nodes:
            return f"there is no [fence.agent.nodes.{ask.name}] in the settings"
        failed = self._failed.get(ask.life)
        left_ms = failed.again_ms - self._clock_ms() if failed is not None else 0
        if failed is not None and left_ms > 0:
            return f"{failed.why}; it is tried again in {-(-left_ms // 1000)} s"
        return ""

    def _settle(self, ask: Fence) -> Confirmed | Waits:
        left_ms = self._off_ms[ask.life] + self._settle_ms - self._clock_ms()
        if left_ms > 0:
            return Waits(
                f"{ask.name} is off; {left_ms} ms more, until nothing it sent can land "
                "(fence.agent.settle_ms)"
            )
        return Confirmed(f"{self._agent.command.name} has switched {ask.name} off")

    def _note_failure(self, ask: Fence, why: str) -> Waits:
        before = self._failed.get(ask.life)
        pause_ms = min(2 * before.pause_ms, PAUSE_MAX_MS) if before else PAUSE_MIN_MS
        _make_room(self._failed)
        self._failed[ask.life] = _Failed(why, self._clock_ms() + pause_ms, pause_ms)
        return Waits(why)

    async def _switch_off(self, name: str) -> str:
        """'' if the host is off for certain, else what went wrong."""
        command = self._agent.command
        try:
            off = await self._run(name, "off")
            if off.code != 0:
                return f"{command.name} could not switch {name} off: {off.told}"
            status = await self._status(name) if self._agent.verify else None
        except OSError as error:
            return f"{command} cannot be run: {error.strerror}"
        if status is None or status.code == STATUS_OFF:
            return ""
        return f"{command.name} does not report {name} as off: status: {status.told}"

    async def _status(self, name: str) -> Outcome:
        """Asked until it is "off": that may take a moment, and to ask changes nothing."""
        asking = AsyncRetrying(
            retry=retry_if_result(lambda status: status.code != STATUS_OFF),
            wait=wait_exponential(multiplier=0.1, max=2),
            stop=stop_after_delay(self._agent.deadline_ms / 1000),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
        )
        outcome: Outcome = await asking(self._run, name, "status")
        return outcome

    async def _run(self, name: str, action: str) -> Outcome:
        lines = {"action": action, "nodename": name, **self._agent.options}
        lines |= self._agent.nodes[name]
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        return await run_bounded(self._agent.command, text.encode(), self._agent.deadline_ms / 1000)


def _make_room(memory: dict[Life, Any]) -> None:
    if len(memory) >= LIVES_MAX:
        del memory[next(iter(memory))]
