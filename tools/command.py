"""A command line that was understood, as the parser gives it to the actions."""

from __future__ import annotations

from typing import Final, NamedTuple

from .options import Mode

MISC_ACTIONS: Final = ("detail", "examine", "stop", "run", "action", "wait", "adopt", "release")
LONE_ACTIONS: Final = ("cluster", "mdstat", "why", "check-timing", "reload")
NODE_ACTIONS: Final = ("transfer", "fence-ack", "admit")
MEMBER_ACTIONS: Final = ("fail", "remove", "add", "re-add", "replace", "with")
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

    ``array`` is given in create, assemble and manage mode; ``steps`` are the members (action
    ``member`` in create and assemble mode), or the devices of misc mode in their order.
    ``given`` has the options that were given, by their long names, and their values.
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
    def devices(self) -> tuple[str, ...]:
        return tuple(step.device for step in self.steps)

    @property
    def brief(self) -> bool:
        """--scan implies --brief unless -vv (mdadm.c)."""
        return self.has("brief") or (self.has("scan") and self.verbosity < 2)


class Plea(NamedTuple):
    """--help or --version was asked for; ``mode`` is the one set by then."""

    what: str
    mode: Mode | None = None
