"""Who a node says it is, what two nodes must agree on, and the four frames of the mesh.

===========  ==========================================================================
``HELLO``    01 "mdcl" min max (u16, big endian), then a :class:`Greeting` by the codec
``READY``    02
``REFUSE``   03 "mdcl", then "reason: text" in UTF-8
``DATA``     04, then the payload
===========  ==========================================================================

The head of HELLO, and all of REFUSE, are the same in every version for ever, so that an older
and a newer node can tell each other why they do not talk.
"""

import struct
import uuid
from dataclasses import dataclass

from mdcluster.mesh.refusals import Reason, Refusal
from mdcluster.wire.codec import Codec
from mdcluster.wire.errors import WireError

HELLO, READY, REFUSE, DATA = b"\x01", b"\x02", b"\x03", b"\x04"
MAGIC = b"mdcl"
TEXT_MAX_BYTES = 512
FIELD_MAX_BYTES = 255

_HEAD = struct.Struct("!c4sHH")


@dataclass(frozen=True, slots=True)
class Hello:
    """One node in its present life, as it presents itself to its peers.

    ``versions`` is the range (lowest, highest) of protocol versions it speaks; ``voters_digest``
    and ``timing_digest`` are compared as they are; ``formed`` says that it has a committed voter
    set, after which the digest of what clusterips proposes does not matter any more.
    """

    cluster: str
    node: str
    name: str
    boot_id: str
    boot_count: int
    versions: tuple[int, int]
    voters_digest: str
    timing_digest: str
    formed: bool

    def __post_init__(self) -> None:
        for text in (self.cluster, self.name, self.boot_id, self.voters_digest, self.timing_digest):
            if len(text) > FIELD_MAX_BYTES or not text.isprintable():
                raise ValueError("a text of HELLO is too long or not printable")
        if not self.cluster or not self.name:
            raise ValueError("cluster and name must not be empty")
        if len(self.node) != 36 or str(uuid.UUID(self.node)) != self.node:
            raise ValueError("node must be a UUID in lower case with hyphens")
        low, high = self.versions
        if not 0 <= low <= high <= 0xFFFF:
            raise ValueError("versions must be lowest, highest")


@dataclass(frozen=True, slots=True)
class Greeting:
    """What HELLO carries: the node, and a number drawn by each start of its mesh.

    The number tells a connection that was lost and made again from a second process with the
    same identity.
    """

    hello: Hello
    instance: int


_CODEC = Codec([Greeting], size_max_bytes=4096)


def hello_frame(greeting: Greeting) -> bytes:
    """The HELLO of this node."""
    low, high = greeting.hello.versions
    return _HEAD.pack(HELLO, MAGIC, low, high) + _CODEC.encode(greeting)


def read_hello(frame: bytes, versions: tuple[int, int]) -> Greeting | Refusal:
    """The greeting in a frame, if we (speaking ``versions``) can understand it at all."""
    if len(frame) < _HEAD.size:
        return Refusal(Reason.GARBAGE, "the first frame is no HELLO")
    kind, magic, low, high = _HEAD.unpack_from(frame)
    if kind != HELLO or magic != MAGIC:
        return Refusal(Reason.GARBAGE, "the first frame is no HELLO")
    if low > versions[1] or high < versions[0]:
        return Refusal(
            Reason.VERSION,
            f"protocol versions {low} to {high} offered, {versions[0]} to {versions[1]} spoken",
        )
    try:
        greeting = _CODEC.decode_as(Greeting, frame[_HEAD.size :])
    except WireError as bad:
        return Refusal(Reason.GARBAGE, f"HELLO cannot be read: {bad}")
    if greeting.hello.versions != (low, high):
        return Refusal(Reason.GARBAGE, "HELLO names two ranges of versions")
    return greeting


def refuse_frame(refusal: Refusal) -> bytes:
    """A REFUSE that says why."""
    text = f"{refusal.reason.value}: {refusal.text}".encode()[:TEXT_MAX_BYTES]
    return REFUSE + MAGIC + text


def read_refuse(frame: bytes) -> Refusal:
    """Why a peer refused us, made safe to print."""
    if frame[1:5] != MAGIC:
        return Refusal(Reason.GARBAGE, "a REFUSE that is none of ours")
    text = frame[5 : 5 + TEXT_MAX_BYTES].decode(errors="replace")
    safe = "".join(c if c.isprintable() else "?" for c in text)
    code = safe.partition(":")[0]
    theirs = Reason(code) if code in set(Reason) else None
    return Refusal(Reason.BY_PEER, f"the peer refused us: {safe or 'no reason given'}", theirs)


def agreed_version(ours: Hello, theirs: Hello) -> int:
    """The highest version both speak; the ranges must overlap."""
    return min(ours.versions[1], theirs.versions[1])


def compare(ours: Hello, theirs: Hello) -> Refusal | None:
    """What two nodes disagree on, or None; symmetric but for the words."""
    if theirs.cluster != ours.cluster:
        return Refusal(
            Reason.CLUSTER,
            f"cluster {theirs.cluster!r} (node {theirs.name!r}) meets cluster {ours.cluster!r} "
            f"(node {ours.name!r})",
        )
    if theirs.timing_digest != ours.timing_digest:
        return Refusal(
            Reason.TIMINGS,
            f"nodes {theirs.name!r} and {ours.name!r} have different timings; "
            "make the timings in mdcluster.toml the same on all nodes",
        )
    if not (theirs.formed or ours.formed) and theirs.voters_digest != ours.voters_digest:
        return Refusal(
            Reason.VOTERS,
            f"nodes {theirs.name!r} and {ours.name!r} have different voters in clusterips; "
            "a cluster forms only from the same list everywhere",
        )
    return None
