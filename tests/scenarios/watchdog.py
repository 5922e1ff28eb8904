"""The watchdog of one host of a scenario: fed as its core allows, else the host is reset."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.scenarios.hosts import Host


class Watchdog:
    """One for each life of a host; from the first feed on it runs, with or without a daemon."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._life = host.life
        self._until_ms = 0
        self._fed_ms: int | None = None
        self.starved = False

    def allow(self, until_ms: int) -> None:
        first, self._until_ms = self._fed_ms is None, until_ms
        if first and self._host.world.now_ms < until_ms:
            self._fed_ms = self._host.world.now_ms
            self._tick()
        elif self.starved:
            self._feed()

    def closed(self) -> None:
        """The process that fed it is gone."""
        self._until_ms = 0

    def _tick(self) -> None:
        if self._is_over():
            return
        world = self._host.world
        world.later(world.timing.watchdog_feed_ms, self._tick)
        if not self._host.frozen:
            self._feed()

    def _feed(self) -> None:
        world = self._host.world
        self.starved = world.now_ms >= self._until_ms
        if not self.starved:
            fed_ms = self._fed_ms = world.now_ms
            world.later(world.timing.watchdog_ms, lambda: self._fire(fed_ms))

    def _fire(self, fed_ms: int) -> None:
        if self._fed_ms == fed_ms and not self._is_over():
            self._host.world.note(f"{self._host.node}: Reset")
            self._host.power_off()

    def _is_over(self) -> bool:
        return not self._host.runs_md or self._host.life != self._life
