"""What was turned away, and why: counted always, logged once.

A peer with a wrong configuration knocks every two seconds for days. Its reason is one line in
the log; how often is in the counters and, per link, in ``mdcadm --cluster``.
"""

import enum
import logging
from collections import Counter, OrderedDict
from dataclasses import dataclass

REMEMBERED_MAX = 256


class Reason(enum.StrEnum):
    """Why something was refused; the keys of the counters."""

    CLUSTER = "cluster"  # another cluster's name
    VERSION = "version"  # no protocol version in common
    TIMINGS = "timings"  # other timings
    VOTERS = "voters"  # not formed yet, and another idea of who votes
    OWN_UUID = "own-uuid"  # our own identity at a peer
    NAME = "name"  # not a name of our clusterips, or not the one expected there
    ADDRESS = "address"  # a known name from an unexpected address
    DUPLICATE = "duplicate"  # a second live node with one identity, or one name
    GARBAGE = "garbage"  # frames that are none of ours
    NOT_ZEROMQ = "not-zeromq"  # no ZeroMQ handshake
    NO_HELLO = "no-hello"  # connected, and went or waited without a HELLO
    OVERSIZE = "oversize"  # a payload above the limit
    TOO_MANY = "too-many"  # more connections than nodes could need
    PAYLOAD = "payload"  # refused by those above the mesh
    RESOLVE = "resolve"  # a host name without an address
    SYSTEM = "system"  # this host could not, e.g. out of file descriptors
    BY_PEER = "by-peer"  # the peer refused us


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason, and a text for people that says what differs.

    ``theirs`` is the peer's reason where it was the peer who refused.
    """

    reason: Reason
    text: str
    theirs: Reason | None = None


class Refusals:
    """Counts refusals by reason and logs each kind once per source.

    The memory of what was logged holds the last :data:`REMEMBERED_MAX` kinds.
    """

    def __init__(self, log: logging.Logger) -> None:
        self.counts: Counter[str] = Counter()
        self._log = log
        self._said: OrderedDict[tuple[Reason, Reason | None, str], None] = OrderedDict()

    def note(self, refusal: Refusal, source: str) -> None:
        """Count ``refusal``; log it unless ``source`` was refused for this reason before."""
        self.counts[refusal.reason.value] += 1
        key = (refusal.reason, refusal.theirs, source)
        if key in self._said:
            self._said.move_to_end(key)
            return
        self._said[key] = None
        if len(self._said) > REMEMBERED_MAX:
            self._said.popitem(last=False)
        self._log.warning(
            "%s: refused (%s): %s; further ones are only counted",
            source,
            refusal.reason.value,
            refusal.text,
        )

    def forget(self, source: str) -> None:
        """``source`` was let in: its next refusal is news again."""
        for key in [key for key in self._said if key[2] == source]:
            del self._said[key]
