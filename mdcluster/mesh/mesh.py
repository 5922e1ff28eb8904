"""The mesh as the rest of the daemon sees it: payloads to and from nodes, and who is there.

>>> mesh = Mesh(hello, line, peers, on_message=..., on_up=..., on_down=...)
>>> await mesh.start()
>>> mesh.send(node, payload)
True

A payload goes over the first of a peer's links that takes it, and is delivered once or not at
all; payloads of one link stay in order. ``on_up`` comes with the first link of a peer, ``on_down``
with the end of the last; nothing is delivered from a node that is not up. All callbacks run in
the event loop; an exception of one goes to the loop's handler and loses that payload only.
"""

import asyncio
import dataclasses
import errno
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence

import zmq

from mdcluster.mesh import hello as frames
from mdcluster.mesh.dial import keep_dialling
from mdcluster.mesh.errors import MeshError
from mdcluster.mesh.hello import Greeting, Hello
from mdcluster.mesh.listener import Listener
from mdcluster.mesh.options import Limits
from mdcluster.mesh.refusals import Reason, Refusal, Refusals
from mdcluster.mesh.resolve import resolve
from mdcluster.mesh.roster import Address, Line, Link, LinkStatus, Peer, Roster, Session
from mdcluster.mesh.tcp import shown

OnMessage = Callable[[str, bytes], None]
OnUp = Callable[[Hello], None]
OnDown = Callable[[str, str], None]


class Mesh:
    """This node's connections to all its peers.

    ``line`` is our own line of clusterips (port 0 takes any free one), ``peers`` the others'.
    ``on_message(node, payload)``, ``on_up(hello)`` and ``on_down(node, reason)`` name nodes by
    UUID.
    """

    def __init__(
        self,
        me: Hello,
        line: Line,
        peers: Sequence[Line],
        *,
        on_message: OnMessage,
        on_up: OnUp,
        on_down: OnDown,
        limits: Limits | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.roster = Roster(Greeting(me, secrets.randbits(64)))
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._line = line
        self._wanted = tuple(peers)
        self._on_message, self._on_up, self._on_down = on_message, on_up, on_down
        self._log = log or logging.getLogger("mdcluster.mesh")
        self._refusals = Refusals(self._log)
        self._listeners: list[Listener] = []
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._up: dict[str, Peer] = {}
        self._started = self._stopped = False

    # Life.

    async def start(self) -> None:
        """Bind every address and begin to dial; :class:`MeshError` if one cannot be bound."""
        try:
            for index, (host, port) in enumerate(self._line.addresses):
                self._listeners.append(await self._bind(index, host, port))
        except BaseException:
            await self.stop()
            raise
        self._started = True
        self.reload(self._wanted)

    async def _bind(self, index: int, host: str, port: int) -> Listener:
        try:
            numeric = (await resolve(host))[0]
            return Listener(self, index, numeric, port)
        except zmq.ZMQError as bad:
            hint = {
                errno.EADDRINUSE: "; is another mdclusterd running here?",
                errno.EADDRNOTAVAIL: "; it is not an address of this host",
            }.get(bad.errno or 0, "")
            text = f"address {shown((host, port))} of node {self._line.name!r} cannot be bound"
            raise MeshError(f"{text}: {bad.strerror}{hint}") from None
        except OSError as bad:
            raise MeshError(f"node {self._line.name!r}: {bad}") from None

    async def stop(self) -> None:
        """Close everything; what was sent last may still leave for ``limits.flush_ms``.

        No callback runs any more once this was called. May be called twice.
        """
        if self._stopped:
            return
        self._stopped = True
        self._up.clear()
        for listener in self._listeners:
            listener.close(self.limits.flush_ms)
        # Cancelled, they close the sockets they own, which term() waits for.
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.to_thread(self.context.term)

    def reload(self, peers: Sequence[Line]) -> None:
        """Make ``peers`` the set of peers; those whose line did not change are not disturbed.

        Before :meth:`start` this only replaces what it will begin with.
        """
        wanted = {line.name: line for line in peers}
        if len(wanted) != len(peers) or self._line.name in wanted:
            raise MeshError("the names of this node and of its peers must all differ")
        self._wanted = tuple(peers)
        if not self._started or self._stopped:
            return
        for name, peer in tuple(self.roster.peers.items()):
            if wanted.get(name) != peer.line:
                self._remove(name)
        for name, line in wanted.items():
            if name not in self.roster.peers:
                self._add(line)

    def _add(self, line: Line) -> None:
        peer = Peer(line, min(len(line.addresses), len(self._listeners)))
        self.roster.peers[line.name] = peer
        self._tasks[line.name] = [
            self._spawn(keep_dialling(self, link, self._source(link.index)), line.name)
            for link in peer.links
        ]

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work, name=f"mesh {name}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def _source(self, index: int) -> str:
        """The address to dial from: our own of that number, unless it stands for all."""
        host = self._listeners[index].address[0]
        return "" if host in {"0.0.0.0", "::"} else host

    def _remove(self, name: str) -> None:
        peer = self.roster.peers.pop(name)
        for link in peer.links:
            if link.session is not None:
                self._detach(link.session, "the node was taken out of clusterips")
        for task in self._tasks.pop(name):
            task.cancel()

    # Use.

    def send(self, node: str, payload: bytes) -> bool:
        """Queue ``payload`` for a node; never blocks.

        False if no link is up or all queues are full, or if the payload is above
        ``limits.payload_max_bytes`` (which is counted and logged: nobody would accept it).
        """
        peer = self._up.get(node)
        if peer is None:
            return False
        if len(payload) > self.limits.payload_max_bytes:
            self.refused(self._oversize("to be sent", payload), f"payload for {peer.line.name}")
            return False
        frame = frames.DATA + payload
        for link in peer.links:
            if link.session is not None and link.session.send(frame):
                link.messages_out += 1
                link.bytes_out += len(payload)
                return True
        return False

    def update(self, me: Hello) -> None:
        """Say ``me`` in HELLO from now on (another voter set, formed); links stay as they are."""
        if me.node != self.roster.me.hello.node:
            raise MeshError("a running node cannot change its UUID")
        self.roster.me = dataclasses.replace(self.roster.me, hello=me)

    def refuse_payload(self, node: str, why: str) -> None:
        """Count and log, in the mesh's books, a payload of ``node`` the codec did not accept."""
        peer = self._up.get(node)
        self.refused(Refusal(Reason.PAYLOAD, why), peer.line.name if peer else node)

    def links(self) -> list[LinkStatus]:
        """Every link of every peer, in the order of clusterips."""
        return [link.status() for peer in self.roster.peers.values() for link in peer.links]

    @property
    def addresses(self) -> tuple[Address, ...]:
        """What was bound, numeric, with the real ports."""
        return tuple(listener.address for listener in self._listeners)

    @property
    def refusals(self) -> dict[str, int]:
        """How often something was refused, by reason (see ``Reason``)."""
        return dict(self._refusals.counts)

    # What the connections report.

    def supersede(self, greeting: Greeting) -> None:
        """A node was admitted: sessions of its past life are over."""
        for session in list(self.roster.sessions()):
            theirs = session.greeting
            if theirs.hello.node == greeting.hello.node and theirs.instance != greeting.instance:
                self._detach(session, "the node has started again")

    def up(self, session: Session) -> None:
        """A connection is ready; it takes the place of what was there before."""
        self.supersede(session.greeting)
        link = session.link
        if link.session is not None:
            self._detach(link.session, "the node has connected again")
        link.session = session
        link.note_answered(forget=True)
        peer = link.peer
        self._refusals.forget(peer.line.name)
        self._log.info("%s: link %d up, %s", peer.line.name, link.index, shown(session.ends[1]))
        hello = session.greeting.hello
        if hello.node not in self._up:
            self._up[hello.node] = peer
            self._on_up(hello)

    def down(self, session: Session, reason: str) -> None:
        """A session's connection has ended by itself."""
        link = session.link
        if link.session is not session:
            return
        link.session = None
        link.note_state()
        peer, node = link.peer, session.greeting.hello.node
        self._log.info("%s: link %d down: %s", peer.line.name, link.index, reason)
        if peer.live is None and self._up.pop(node, None) is not None and not self._stopped:
            self._on_down(node, reason)

    def _detach(self, session: Session, reason: str) -> None:
        """End a session from our side."""
        session.close()
        self.down(session, reason)

    def received(self, session: Session, frame: bytes) -> None:
        """A frame of a peer that is up."""
        if self._stopped:
            return
        link = session.link
        payload = frame[1:]
        if frame[:1] != frames.DATA:
            self.refused(Refusal(Reason.GARBAGE, "a frame of no known kind"), link.peer.line.name)
        elif len(payload) > self.limits.payload_max_bytes:
            self.refused(self._oversize("received", payload), link.peer.line.name)
        else:
            link.messages_in += 1
            link.bytes_in += len(payload)
            self._on_message(session.greeting.hello.node, payload)

    def refused(self, refusal: Refusal, source: str, link: Link | None = None) -> None:
        """Something was turned away; count it, and say it once."""
        self._refusals.note(refusal, source)
        if link is not None and link.session is None:
            link.note_refused(refusal.text)
        if refusal.reason is Reason.ADDRESS and link is not None:
            self._look_up_again(link.peer)

    def _look_up_again(self, peer: Peer) -> None:
        """A peer came from where its names do not point; they may have moved."""
        name = f"{peer.line.name} look-up"
        busy = any(task.get_name() == f"mesh {name}" for task in self._running)
        if peer.unresolved() and not busy and not self._stopped:
            self._spawn(self._look_up(peer), name)

    async def _look_up(self, peer: Peer) -> None:
        for host in peer.unresolved():
            try:
                peer.hosts[host] = await resolve(host)
            except OSError as bad:
                self.refused(Refusal(Reason.RESOLVE, str(bad)), peer.line.name)

    def _oversize(self, what: str, payload: bytes) -> Refusal:
        limit = self.limits.payload_max_bytes
        return Refusal(Reason.OVERSIZE, f"payload of {len(payload)} bytes {what}, limit {limit}")
