"""A run in words, one line per event: time, host, what (for `make sim REPLAY=seed`)."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, TextIO

from mdcluster.core.effects import Effect, PersistEntry
from mdcluster.core.events import Event, Received, Tick
from mdcluster.core.messages import Beat, BeatAck
from mdcluster.core.model import ArrayState, ClusterState, Entry, Life, Stamp

if TYPE_CHECKING:
    from tests.sim.hosts import Host
    from tests.sim.world import World

QUIET = (Beat, BeatAck)


def brief(value: object) -> str:
    """A value in few words."""
    if isinstance(value, Stamp):
        return f"{value.term}.{value.seq}"
    if isinstance(value, Life):
        return value.boot_id
    if isinstance(value, Entry):
        return f"{value.key}@{brief(value.stamp)}({brief(value.state)})"
    if isinstance(value, ArrayState):
        return _array(value)
    if isinstance(value, ClusterState):
        return "voters " + " ".join(f"{v.name}={v.node}" for v in value.voters)
    if isinstance(value, tuple):
        return "[" + " ".join(brief(one) for one in value[:12]) + "]"
    if is_dataclass(value):
        facts = " ".join(f"{f.name}={brief(getattr(value, f.name))}" for f in fields(value))
        return f"{type(value).__name__}({facts})"
    return str(value)


def _array(state: ArrayState) -> str:
    members = " ".join(f"{m.device}:{m.role}:{m.state}" for m in state.members)
    slots = " ".join(f"{s.index}={s.life.boot_id}{'!' if s.dirty else ''}" for s in state.slots)
    running = " ".join(life.boot_id for life in state.running)
    return (
        f"{'active' if state.active else 'stopped'} {members}; resync {state.resync_sectors} "
        f"sync {brief(state.sync)}; slots {slots}; running {running}"
    )


class Words:
    """Writes lines; heartbeats and ticks only if `everything`."""

    def __init__(self, out: TextIO, *, everything: bool = False) -> None:
        self.out = out
        self.everything = everything

    def line(self, world: World, host: Host | None, text: str) -> None:
        name = host.name if host is not None else "world"
        self.out.write(f"{world.now_us / 1e6:10.6f} {name:>6} {text}\n")

    def event(self, world: World, host: Host, event: Event) -> None:
        if isinstance(event, Received):
            if self.everything or not isinstance(event.message, QUIET):
                self.line(world, host, f"<- {brief(event.sender)} {brief(event.message)}")
        elif self.everything or not isinstance(event, Tick):
            self.line(world, host, f"!  {brief(event)}")

    def effect(self, world: World, host: Host, effect: Effect) -> None:
        if self.everything or not isinstance(effect, PersistEntry):
            self.line(world, host, f"   {brief(effect)}")
