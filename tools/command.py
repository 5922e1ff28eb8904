"""A command line that was understood, as the parser gives it to the actions."""

from __future__ import annotations

from itertools import groupby
from typing import Final, NamedTuple

from .options import Kind, Mode
from .table import names_of

MISC_ACTIONS: Final = names_of(Kind.ACTION)
LONE_ACTIONS: Final = names_of(Kind.LONE)
SCOPED_ACTIONS: Final = names_of(Kind.SCOPED)
NODE_ACTIONS: Final = names_of(Kind.NODE)
MEMBER_ACTIONS: Final = names_of(Kind.MEMBER)
KEYWORDS: Final = {
    "fail": ("detached",),
    "remove": ("failed", "faulty", "detached"),
    "add": (),
    "re-add": ("missing", "failed", "faulty"),
    "replace": (),
    "with": (),
}
"""mdadm's words in place of a device (Manage.c, Manage_subdevs)."""


class Step(NamedTuple):
    """One action on one device ('' where the action takes none)."""

    action: str
    device: str


class Command:
    """A command line that was understood.

    ``array`` is given in the modes of :data:`ONE_ARRAY`; ``steps`` are the members there (action
    ``member`` where none is named), else the devices in their order. ``given`` has the options
    that were given, by their long names, and their values.
    """

    def __init__(
        self, mode: Mode, steps: tuple[Step, ...], given: dict[str, str], verbosity: int
    ) -> None:
        self.mode = mode
        self.array = ""
        self.steps = steps
        self.given = given
        self.verbosity = verbosity

    def has(self, name: str) -> bool:
        return name in self.given

    @property
    def action(self) -> str:
        """What is done: in misc mode the action of the first step, else the mode."""
        return self.steps[0].action if self.mode is Mode.MISC else self.mode

    def parts(self) -> list[Command]:
        """One command for each action of misc mode, in their order; else this one."""
        if self.mode is not Mode.MISC:
            return [self]
        grouped = groupby(self.steps, lambda step: step.action)
        return [Command(self.mode, tuple(s), self.given, self.verbosity) for _, s in grouped]

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(step.device for step in self.steps)

    @property
    def names(self) -> tuple[str, ...]:
        """The devices that were named; none where the action is about all."""
        return tuple(device for device in self.devices if device)

    @property
    def brief(self) -> bool:
        """--scan implies --brief unless -vv (mdadm.c)."""
        return self.has("brief") or (self.has("scan") and self.verbosity < 2)


class Plea(NamedTuple):
    """--help or --version was asked for; ``mode`` is the one set by then."""

    what: str
    mode: Mode | None = None
