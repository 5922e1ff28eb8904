"""The port of fencing: what a provider is, and what it may say.

*Fenced* means: stopped for certain, and nothing that life sent can still land. A provider
that is not certain says what it waits for; a timeout proves nobody dead.
"""

from dataclasses import dataclass
from typing import Protocol

from mdcluster.core.effects import Fence


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The life is over; `how` it is known, for the log."""

    how: str


@dataclass(frozen=True, slots=True)
class Waits:
    """Not confirmed; `why`, and what would help."""

    why: str


class FenceProvider(Protocol):
    """One way to end a life, or to know that it has ended."""

    @property
    def name(self) -> str: ...

    @property
    def deadline_s(self) -> float:
        """After this the next provider is tried."""

    async def fence(self, ask: Fence) -> Confirmed | Waits:
        """Try once. Called again, by the core, for as long as it is not confirmed."""
