"""Commits in words, as each node carries them out: the event `changed`.

The writer alone tells that something was committed; this is told on every node, for those that
change something that people see. Checkpoints of a pass do not.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from mdcluster.core.model import Entry
from mdcluster.requests.differences import Names, differences
from mdcluster.runtime import observe
from mdcluster.runtime.asking import BY_MAX, asker

WHAT_MAX: Final = 768


class Changes:
    """Compares each entry with the one before.

    names: how nodes and devices are called now. boots: the node of each boot id that is known.
    """

    def __init__(
        self,
        known: Iterable[Entry],
        names: Callable[[], Names],
        boots: Callable[[], Mapping[str, str]],
    ) -> None:
        self._last = {entry.key: entry for entry in known}
        self._names = names
        self._boots = boots

    def take(self, entry: Entry) -> None:
        """It is being applied here; the same or an older one again tells nothing."""
        before = self._last.get(entry.key)
        if before is not None and entry.stamp <= before.stamp:
            return
        self._last[entry.key] = entry
        state = before.state if before is not None else None
        what = "; ".join(differences(state, entry.state, self._names(), checkpoints=False))
        if not what:
            return
        facts: observe.Facts = {"key": entry.key, "term": entry.stamp.term, "seq": entry.stamp.seq}
        boots = self._boots()
        askers = (asker(proposal, boots) for proposal in _asked(before, entry))
        by = ", ".join(dict.fromkeys(filter(None, askers)))
        if by:
            facts["by"] = by[:BY_MAX]
        observe.tell("changed", {**facts, "what": what[:WHAT_MAX]})


def _asked(before: Entry | None, entry: Entry) -> list[str]:
    """The proposals that are new on its record."""
    known = {outcome.proposal for outcome in before.recent} if before is not None else set()
    return [o.proposal for o in entry.recent if o.proposal not in known and not o.refusal]
