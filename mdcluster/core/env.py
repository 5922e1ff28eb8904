"""What the parts of the core share: who we are, the time, the timers, the way out.

One :class:`Env` belongs to one node. The composer (:mod:`mdcluster.core.node`) sets `now_ms`
at every step and collects what the parts emitted; the parts never see a clock.
"""

from mdcluster.core.effects import Effect, Notify, Send
from mdcluster.core.messages import Message
from mdcluster.core.model import Life, NodeId
from mdcluster.core.timing import Timing

TimerKey = tuple[str, ...]
"""First the part that owns the timer ('election', 'beat', 'commit' ...), then what for."""


class Timers:
    """Deadlines by key; setting one again replaces it. Bounded by the keys in use."""

    def __init__(self) -> None:
        self._at_ms: dict[TimerKey, int] = {}

    def set(self, key: TimerKey, at_ms: int) -> None:
        self._at_ms[key] = at_ms

    def cancel(self, key: TimerKey) -> None:
        self._at_ms.pop(key, None)

    def cancel_all(self, *prefix: str) -> None:
        for key in [k for k in self._at_ms if k[: len(prefix)] == prefix]:
            del self._at_ms[key]

    def at_ms(self, key: TimerKey) -> int | None:
        return self._at_ms.get(key)

    def take_due(self, now_ms: int) -> list[TimerKey]:
        """Remove and return what is due, earliest first (ties by key: deterministic)."""
        due = sorted((at, key) for key, at in self._at_ms.items() if at <= now_ms)
        for _, key in due:
            del self._at_ms[key]
        return [key for _, key in due]

    @property
    def next_ms(self) -> int | None:
        return min(self._at_ms.values(), default=None)


class Jitter:
    """Deterministic pseudo-random spread from a seed (the core must not read entropy).

    A 64-bit linear congruential generator (Knuth, MMIX); only timeouts depend on it.
    """

    def __init__(self, seed: int) -> None:
        self._x = seed & 0xFFFFFFFFFFFFFFFF

    def between(self, low: int, high: int) -> int:
        """An integer in [low, high]."""
        self._x = (self._x * 6364136223846793005 + 1442695040888963407) & 0xFFFFFFFFFFFFFFFF
        return low + (self._x >> 33) % (high - low + 1)


class Env:
    """The shared context of one node's core."""

    def __init__(self, me: Life, name: str, timing: Timing, seed: int) -> None:
        self.me = me
        self.name = name
        self.timing = timing
        self.names: dict[NodeId, str] = {me.node: name}
        """Line names of all nodes seen, this one among them."""
        self.now_ms = 0
        self.timers = Timers()
        self.jitter = Jitter(seed)
        self._out: list[Effect] = []

    def emit(self, *effects: Effect) -> None:
        self._out.extend(effects)

    def send(self, to: NodeId, message: Message, *, urgent: bool = False) -> None:
        self._out.append(Send(to, message, urgent))

    def notify(self, kind: str, **facts: str | int) -> None:
        self._out.append(Notify(kind, tuple(facts.items())))

    def after(self, key: TimerKey, delay_ms: int) -> None:
        """Set a timer relative to now."""
        self.timers.set(key, self.now_ms + delay_ms)

    def name_of(self, node: NodeId) -> str:
        """What people call a node: its line, or its UUID if it was never seen."""
        return self.names.get(node, node)

    def take_effects(self) -> list[Effect]:
        out, self._out = self._out, []
        return out
