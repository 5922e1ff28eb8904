"""The configured providers, one after the other, each with its deadline."""

import asyncio
from collections.abc import Sequence

from mdcluster.core.events import Fenced, FenceWaits
from mdcluster.core.model import Life
from mdcluster.fence.provider import Confirmed, FenceProvider

MANUAL = (
    "manual: once you know that node is off (power it off, or look), "
    "say so with mdcadm --fence-ack NODE"
)


class FenceChain:
    """Asks each provider in order until one confirms; else says what each waits for."""

    def __init__(self, providers: Sequence[FenceProvider]) -> None:
        self._providers = tuple(providers)

    async def fence(self, life: Life) -> Fenced | FenceWaits:
        waits = []
        for provider in self._providers:
            try:
                async with asyncio.timeout(provider.deadline_s):
                    said = await provider.fence(life)
            except TimeoutError:
                waits.append(f"{provider.name}: no answer within {provider.deadline_s:g} s")
                continue
            if isinstance(said, Confirmed):
                return Fenced(life, f"{provider.name}: {said.how}")
            waits.append(f"{provider.name}: {said.why}")
        return FenceWaits(life, "; ".join([*waits, MANUAL]))
