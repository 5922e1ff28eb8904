"""The fence providers that the settings ask for, in their order."""

from collections.abc import Callable, Iterable, Iterator

from mdcluster.config.clusterips import did_you_mean
from mdcluster.config.errors import ConfigError
from mdcluster.config.settings import Settings
from mdcluster.fence.agent import AgentFence
from mdcluster.fence.bytime import RebootFence, WatchdogFence
from mdcluster.fence.process import ProcessFence
from mdcluster.fence.provider import FenceProvider


def providers(settings: Settings) -> list[FenceProvider]:
    """Makes nothing, opens nothing."""
    makers: dict[str, Callable[[], FenceProvider]] = {
        "reboot": lambda: RebootFence(settings.timing),
        "agent": lambda: _agent(settings),
        "watchdog": lambda: WatchdogFence(settings.timing),
        "process": lambda: ProcessFence(settings.paths.lock_dir),
    }
    return [makers[name]() for name in settings.fence.providers(settings.driver.kind)]


def _agent(settings: Settings) -> AgentFence:
    assert settings.fence.agent is not None, "the settings were checked"
    return AgentFence(settings.fence.agent, settle_ms(settings))


def settle_ms(settings: Settings) -> int:
    """How long what a host sent may still land after it was switched off.

    By default as long as after any other end: the power of a host says nothing of the queue of
    a device.
    """
    agent = settings.fence.agent
    if agent is None or agent.settle_ms is None:
        return settings.timing.landed_ms
    return settings.timing.outlast(agent.settle_ms) if agent.settle_ms else 0


def check_names(settings: Settings, names: Iterable[str]) -> None:
    """The hosts that the agent may switch off are lines of clusterips.

    Raises:
        ConfigError: there is another name among them.
    """
    known = sorted(names)
    for name in settings.fence.agent.nodes if settings.fence.agent is not None else ():
        if name not in known:
            raise ConfigError(
                f"[fence.agent.nodes.{name[:60]}]: clusterips has no such node"
                f"{did_you_mean(name, known)}; its nodes are {', '.join(known)}"
            )


def described(settings: Settings) -> Iterator[str]:
    """How a silent node is fenced, step by step, for people."""
    timing, agent = settings.timing, settings.fence.agent
    texts = {
        "reboot": f"its host has booted again, {timing.landed_ms} ms ago",
        "watchdog": f"its watchdog has reset it: {timing.watchdog_fence_ms} ms of silence",
        "process": "its process has let go of its lock, on this machine",
    }
    if agent is not None:
        whom = ", ".join(sorted(agent.nodes)) or "no node"
        seen = "and reports it as off" if agent.verify else "(not verified)"
        texts["agent"] = (
            f"{agent.command} has switched it off {seen}, {settle_ms(settings)} ms ago; for {whom}"
        )
    yield "A silent node is fenced as soon as one of these is so, asked in this order:"
    for name in settings.fence.providers(settings.driver.kind):
        yield f"  {name}: {texts[name]}."
    yield "  manual: an administrator says so, mdcadm --fence-ack NODE."
