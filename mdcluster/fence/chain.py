"""The configured providers, one after the other, each with its deadline."""

import asyncio
from collections.abc import Sequence

from mdcluster.core.effects import Fence
from mdcluster.core.events import Fenced, FenceWaits
from mdcluster.fence.provider import Confirmed, FenceProvider

MANUAL = (
    "manual: once you know that node is off (power it off, or look), "
    "say so with mdcadm --fence-ack NODE"
)


class FenceChain:
    """Asks each provider in order until one confirms; else says what each waits for."""

    def __init__(self, providers: Sequence[FenceProvider]) -> None:
        self._providers = tuple(providers)

    async def fence(self, ask: Fence) -> Fenced | FenceWaits:
        waits = []
        for provider in self._providers:
            try:
                async with asyncio.timeout(provider.deadline_s):
                    said = await provider.fence(ask)
            except TimeoutError:
                waits.append(f"{provider.name}: no answer within {provider.deadline_s:g} s")
                continue
            if isinstance(said, Confirmed):
                return Fenced(ask.life, f"{provider.name}: {said.how}", ask.heard_ms)
            waits.append(f"{provider.name}: {said.why}")
        return FenceWaits(ask.life, "; ".join([*waits, MANUAL]), ask.heard_ms)
