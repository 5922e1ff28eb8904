"""What an option of ``mdcadm`` is. The options themselves are in :mod:`tools.table`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Mode(StrEnum):
    """Each is called as the option that sets it."""

    CREATE = "create"
    BUILD = "build"
    ASSEMBLE = "assemble"
    MANAGE = "manage"
    MISC = "misc"
    MONITOR = "monitor"
    GROW = "grow"
    INCREMENTAL = "incremental"
    AUTODETECT = "auto-detect"


class Kind(StrEnum):
    """What an option does to the words around it."""

    ANY = "any"  # neither needs a mode nor sets one
    MODE = "mode"  # only sets the mode
    ACTION = "action"  # misc mode: what is done with the devices that follow
    LONE = "lone"  # misc mode: takes no device
    SCOPED = "scoped"  # misc mode: about the arrays that follow, or all if none does
    NODE = "node"  # misc mode: its value names a node
    MEMBER = "member"  # manage mode: what is done with the members that follow
    PLAIN = "plain"  # is remembered


class Standing(StrEnum):
    """How an option of mdadm fares with an array of the cluster."""

    SAME = "same"
    CLUSTER = "cluster-wide"  # the same, and true on every node when it returns
    REFUSED = "refused"
    OWN = "own"  # mdadm has no such option


class Option(NamedTuple):
    """A long option.

    value: what it takes, as shown in the help ('' for nothing, in [] if it may be left out).
    forces: the mode it sets, and no other may be set. sets: the mode it sets if none is set yet.
    modes: where it may be used. letter: its short form, in those modes where no option before it
    in the table has that letter. also: other names. refused: modes in which the cluster cannot
    honour it, with the reason; ``why`` is the reason if it is refused in all of them, or else
    what is particular about it.
    """

    name: str
    text: str
    value: str = ""
    kind: Kind = Kind.PLAIN
    forces: Mode | None = None
    sets: Mode | None = None
    modes: tuple[Mode, ...] = tuple(Mode)
    letter: str = ""
    also: tuple[str, ...] = ()
    standing: Standing = Standing.SAME
    why: str = ""
    refused: Mapping[Mode, str] = {}

    @property
    def needs_value(self) -> bool:
        return bool(self.value) and not self.value.startswith("[")

    def refusal(self, mode: Mode) -> str:
        """Why the cluster cannot honour it in this mode; '' if it can."""
        if self.standing is Standing.REFUSED:
            return self.why
        return self.refused.get(mode, "")
