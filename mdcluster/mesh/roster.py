"""Peers and their links: who is let in, under which identity, and who dials whom.

Pure bookkeeping; no socket is touched here.

1. Of two nodes the one with the smaller UUID dials. Before the first HELLO no UUID is known, and
   either may; who then learns that it has the larger one hangs up and waits to be dialled.
2. A UUID belongs to one name, and a name to one UUID, as long as a connection lives. The same
   identity twice is refused, unless the newcomer has the higher boot count: then the old one is
   its past.
3. A node is let in only under a name of clusterips, from an address of that name.
"""

import asyncio
import enum
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from mdcluster.mesh.hello import Greeting, compare
from mdcluster.mesh.refusals import Reason, Refusal
from mdcluster.mesh.resolve import numeric
from mdcluster.mesh.tcp import NO_END, End, shown

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Line:
    """One node of clusterips: its name, and (host, port) of each of its addresses, in order."""

    name: str
    addresses: tuple[Address, ...]


class Session(Protocol):
    """A connection on which HELLO was exchanged and accepted by both sides."""

    @property
    def link(self) -> "Link":
        """The link it carries."""

    @property
    def greeting(self) -> Greeting:
        """What the peer said of itself."""

    @property
    def ends(self) -> tuple[End, End]:
        """(host, port) here and there."""

    @property
    def dialled(self) -> bool:
        """Whether we made the connection."""

    def send(self, frame: bytes) -> bool:
        """Queue a frame; False if the queue is full or the connection gone. Never blocks."""

    def close(self) -> None:
        """Hang up. Reports nothing."""


class LinkState(enum.StrEnum):
    """What a link does now."""

    UP = "up"
    DIALLING = "dialling"
    WAITING = "waiting"  # for the peer, whose UUID is smaller, to dial
    REFUSED = "refused"  # the last attempt was; it goes on trying


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """One link as ``mdcadm --cluster`` shows it.

    ``node`` is empty until the first HELLO; ``local`` and ``remote`` are ``host:port``;
    ``since_s`` is how long it has been in ``state``; ``dialled`` (by us) means something in
    state ``up`` only; ``refusal`` is the text of the last one since the link was up. Traffic
    counts payloads since the link was configured.
    """

    name: str
    node: str
    index: int
    local: str
    remote: str
    state: LinkState
    since_s: float
    dialled: bool
    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    refusal: str


class Link:
    """Address number ``index`` of us with address number ``index`` of a peer."""

    def __init__(self, peer: "Peer", index: int) -> None:
        self.peer = peer
        self.index = index
        self.session: Session | None = None
        self.kick = asyncio.Event()
        self.refusal = ""
        self._refused = False
        self.messages_in = self.messages_out = self.bytes_in = self.bytes_out = 0
        self._state = LinkState.DIALLING
        self._since_s = time.monotonic()

    @property
    def address(self) -> Address:
        """Where the peer listens for this link."""
        return self.peer.line.addresses[self.index]

    def note_refused(self, text: str) -> None:
        """The last attempt was refused, by us or by the peer."""
        self.refusal, self._refused = text, True
        self.note_state()

    def note_answered(self, *, forget: bool) -> None:
        """The last attempt was not refused; ``forget`` the text of an earlier refusal too."""
        self._refused = False
        if forget:
            self.refusal = ""
        self.note_state()

    def note_state(self) -> None:
        """Remember when the state changed."""
        if self.session is not None:
            state = LinkState.UP
        elif not self.peer.may_dial.is_set():
            state = LinkState.WAITING
        else:
            state = LinkState.REFUSED if self._refused else LinkState.DIALLING
        if state is not self._state:
            self._state = state
            self._since_s = time.monotonic()

    def status(self) -> LinkStatus:
        """A snapshot for people."""
        self.note_state()
        session = self.session
        local, remote = session.ends if session is not None else (NO_END, self.address)
        return LinkStatus(
            name=self.peer.line.name,
            node=self.peer.node or "",
            index=self.index,
            local=shown(local),
            remote=shown(remote),
            state=self._state,
            since_s=time.monotonic() - self._since_s,
            dialled=session is not None and session.dialled,
            messages_in=self.messages_in,
            messages_out=self.messages_out,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            refusal=self.refusal,
        )


class Peer:
    """A node of clusterips other than ourselves, with the UUID learned from its last HELLO."""

    def __init__(self, line: Line, links: int) -> None:
        self.line = line
        self.node: str | None = None
        self.may_dial = asyncio.Event()
        self.may_dial.set()
        self.links = tuple(Link(self, index) for index in range(links))
        # What each of its addresses stands for; host names are filled in when looked up.
        self.hosts: dict[str, tuple[str, ...]] = {
            host: (known,) if (known := numeric(host)) else () for host, _ in line.addresses
        }

    @property
    def live(self) -> "Session | None":
        """Its first live session."""
        return next((link.session for link in self.links if link.session is not None), None)

    def is_at(self, host: str) -> bool:
        """Whether a numeric address is one of its own."""
        return any(numeric(host) in hosts for hosts in self.hosts.values())

    def unresolved(self) -> tuple[str, ...]:
        """Its addresses that are names."""
        return tuple(host for host in self.hosts if numeric(host) is None)


@dataclass(slots=True)
class Roster:
    """All peers by name, and the rules of admission."""

    me: Greeting
    peers: dict[str, Peer] = field(default_factory=dict)

    def sessions(self) -> Iterator[Session]:
        """Every live session."""
        for peer in self.peers.values():
            for link in peer.links:
                if link.session is not None:
                    yield link.session

    def admit(
        self, greeting: Greeting, index: int, *, host: str = "", dialled: Link | None = None
    ) -> Link | Refusal:
        """The link a node may use, or why it may use none.

        ``host`` is where an accepted connection came from; ``dialled`` the link we dialled.
        """
        hello = greeting.hello
        name = hello.name
        if refusal := compare(self.me.hello, hello) or self._own(greeting, dialled):
            return refusal
        if dialled is not None:
            if name != dialled.peer.line.name:
                return Refusal(
                    Reason.NAME,
                    f"node {name!r} answers where clusterips has {dialled.peer.line.name!r}",
                )
            link = dialled
        else:
            peer = self.peers.get(name)
            if peer is None:
                return Refusal(Reason.NAME, f"node {name!r} is not in clusterips")
            if not peer.is_at(host):
                known = ", ".join(h for h, _ in peer.line.addresses)
                return Refusal(
                    Reason.ADDRESS, f"node {name!r} comes from {host}, clusterips has {known}"
                )
            if index >= len(peer.links):
                return Refusal(
                    Reason.ADDRESS, f"node {name!r} has no address number {index + 1} in clusterips"
                )
            link = peer.links[index]
        return self.duplicate(greeting, link.peer) or link

    def _own(self, greeting: Greeting, dialled: Link | None) -> Refusal | None:
        if greeting.hello.node != self.me.hello.node:
            return None
        if greeting.instance != self.me.instance:
            return Refusal(
                Reason.OWN_UUID,
                f"node {greeting.hello.name!r} has our own UUID {greeting.hello.node}: a second "
                "daemon with this identity, or a copied state directory",
            )
        whose = repr(dialled.peer.line.name) if dialled is not None else "a peer"
        return Refusal(Reason.OWN_UUID, f"the address of {whose} in clusterips is our own")

    def duplicate(self, greeting: Greeting, peer: Peer) -> Refusal | None:
        """Why this identity cannot be a second one beside those that are live."""
        hello = greeting.hello
        for session in self.sessions():
            other = session.greeting
            same_node = other.hello.node == hello.node
            if session.link.peer is peer and not same_node:
                return Refusal(
                    Reason.DUPLICATE,
                    f"name {hello.name!r} is in use by node {other.hello.node}, not {hello.node}",
                )
            if same_node and session.link.peer is not peer:
                return Refusal(
                    Reason.DUPLICATE,
                    f"node {hello.node} is connected as {other.hello.name!r}, not {hello.name!r}",
                )
            if (
                same_node
                and other.instance != greeting.instance
                and hello.boot_count <= other.hello.boot_count
            ):
                return Refusal(
                    Reason.DUPLICATE,
                    f"node {hello.node} ({hello.name!r}) is connected already, with boot count "
                    f"{other.hello.boot_count} (this one has {hello.boot_count}): two daemons "
                    "with one identity, or an old connection that has not ended yet",
                )
        return None

    def readmit(self, greeting: Greeting, link: Link) -> Refusal | None:
        """Why what was admitted at HELLO may not open its link at READY: things have changed."""
        name = greeting.hello.name
        if self.peers.get(name) is not link.peer:
            return Refusal(Reason.NAME, f"node {name!r} is not in clusterips any more")
        return self.duplicate(greeting, link.peer)

    def learn(self, peer: Peer, node: str) -> bool:
        """Note a peer's UUID; True if it is for us to dial it."""
        peer.node = node
        if self.me.hello.node < node:
            peer.may_dial.set()
            return True
        peer.may_dial.clear()
        return False
