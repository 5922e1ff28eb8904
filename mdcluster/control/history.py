"""Data of the answer to ``history``: what this node has seen happen, oldest first."""

from typing import NamedTuple

PAGE_MAX = 100
"""Entries of one answer, which fits a line however its texts are escaped."""
TEXT_MAX = 1024
"""Characters of a text; a longer one is cut."""
NAME_MAX = 64
"""Of any other field."""


class HistoryEntry(NamedTuple):
    """One thing that happened. number: from 1, without gaps unless some could not be kept.

    event: a kind of :mod:`mdcluster.control.kinds`. time: UTC. on: the node that saw it. term: in
    which. array, node: what it is about, by name ('' for neither); array_uuid if it was known.
    by: who asked for it: ``USER@HOST``, or the name of a node whose daemon did; '' if not known.
    """

    number: int
    time: str
    on: str
    event: str
    term: int
    array: str = ""
    array_uuid: str = ""
    node: str = ""
    by: str = ""
    text: str = ""


class HistoryData(NamedTuple):
    """The entries after the number asked for, at most PAGE_MAX.

    first, last: numbers of the oldest and the newest that are kept (0: none); what is below
    first was dropped.
    """

    entries: tuple[HistoryEntry, ...]
    first: int
    last: int
