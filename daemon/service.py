"""One daemon from start to end: what it owns, in which order it is taken and given back.

Taken: state directory, identity, memory, process lock, watchdog, members, core, mesh, control
socket, the copy of /proc/mdstat. Given back the other way round: the process lock last but the
state directory, for whoever gets it may believe that nothing of this life can still land; the
watchdog runs on unless that is so of this host.
"""

import asyncio
import dataclasses
import importlib.metadata
import logging
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from mdcluster.config.clusterips import ClusterFile, NodeLine, find_self, load_cluster_file
from mdcluster.config.errors import ConfigError
from mdcluster.config.identity import StateLock, load_or_create
from mdcluster.config.settings import Settings
from mdcluster.control.server import ControlServer
from mdcluster.core.events import Line, LinesChanged, ShutdownAsked
from mdcluster.core.model import CLUSTER_KEY, ArrayId, ArrayState, Life, NodeId
from mdcluster.core.node import Node
from mdcluster.core.timing import digest, withhold_after
from mdcluster.core.view import NodeView
from mdcluster.core.windows import SyncLimits
from mdcluster.daemon.mdstat import MdstatCopy
from mdcluster.daemon.peers import Peers, line_of, lines_of
from mdcluster.daemon.sdnotify import SystemdNotifier
from mdcluster.fence.build import providers
from mdcluster.fence.chain import FenceChain
from mdcluster.fence.process import ProcessLock
from mdcluster.fence.watchdog import NoWatchdog, Watchdog, watchdog_of
from mdcluster.gate import Gate, boottime_ms
from mdcluster.md.driver import MdDriver
from mdcluster.md.open import open_md
from mdcluster.members import Members
from mdcluster.mesh.hello import Hello
from mdcluster.mesh.mesh import Mesh
from mdcluster.requests import Requests
from mdcluster.requests.views import names_of, states_of
from mdcluster.runtime import observe
from mdcluster.runtime.changes import Changes
from mdcluster.runtime.executor import Executor
from mdcluster.runtime.handler import Handler, Surroundings
from mdcluster.runtime.history import History
from mdcluster.runtime.local import LocalArrays, LocalMembers
from mdcluster.runtime.loop import Runtime
from mdcluster.runtime.store import StartRecord, Store

log = logging.getLogger("mdcluster.daemon")

VERSION = importlib.metadata.version("mdcluster")
PROTOCOL_VERSIONS = (1, 1)
CONTROL_SOCKET = "control.sock"
STOP_DEADLINE_S = 5.0
"""How long the core may take to stop in order; then the daemon ends all the same."""
CLOSE_DEADLINE_S = 5.0
SECTORS_PER_KIB = 2


@dataclass(frozen=True, slots=True)
class Place:
    """What the command line and the files say about this daemon."""

    settings: Settings
    clusterips: Path
    cluster_file: ClusterFile
    line: NodeLine


class Service:
    """Make it, `run` it once. Signals call `ask_stop` and `reload`."""

    def __init__(self, place: Place, notifier: SystemdNotifier) -> None:
        self._place = place
        self._settings = place.settings
        self._notifier = notifier
        self._observer = observe.Log()
        self._stop = asyncio.Event()
        self._runtime: Runtime | None = None
        self._view: Callable[[], NodeView] | None = None
        self._mesh: Mesh | None = None
        self._peers: Peers | None = None
        self._hello: Hello | None = None
        self._quiet = True  # nothing this process sent to a device is under way

    async def run(self) -> BaseException | None:
        """Until it was asked to stop, or cannot go on: then what is the fault.

        Raises:
            MdclusterError: it cannot start; everything taken was given back.
        """
        async with AsyncExitStack() as owned:
            runtime = await self._start(owned)
            self._notifier.tell("READY=1", f"STATUS=node {self._place.line.name}")
            telling = asyncio.create_task(self._tell_systemd(runtime))
            await self._until_stopped(runtime)
            telling.cancel()
            self._notifier.tell("STOPPING=1")
            return runtime.fault

    def ask_stop(self) -> None:
        log.info("asked to stop")
        self._stop.set()

    def reload(self) -> str:
        """Read clusterips again; '' or what is wrong with it: then the old one stays."""
        try:
            new = load_cluster_file(self._place.clusterips)
            line = find_self(new, self._place.line.name, ())
            if line.addresses != self._place.line.addresses:
                raise ConfigError(
                    f"{self._place.clusterips}: the addresses of this node ({line.name}) have "
                    "changed; that takes a restart of its daemon"
                )
        except ConfigError as error:
            for text in str(error).splitlines():
                log.error("not reloaded: %s", text)
            return str(error)
        old = lines_of(self._place.cluster_file, self._place.line)
        self._place = Place(self._settings, self._place.clusterips, new, line)
        if self._peers is not None and self._runtime is not None:
            self._peers.change(old, lines_of(new, line))
            self._runtime.feed(LinesChanged(_core_lines(new), new.digest()))
            self._say_hello()
        log.info("%s was read again: %d nodes", self._place.clusterips, len(new.nodes))
        return ""

    # --- start -----------------------------------------------------------------------------

    async def _start(self, owned: AsyncExitStack) -> Runtime:
        settings, line = self._settings, self._place.line
        lock = owned.enter_context(StateLock.acquire(settings.paths.state_dir))
        identity = load_or_create(lock)
        store = Store.open(settings.paths.state_dir, fresh=identity.created)
        owned.callback(store.close)
        if store.torn:
            log.warning("%s", store.torn)
        lease_before_ms = store.lease_before_ms
        starts = self._enter_start(store)
        watchdog = watchdog_of(settings.fence.watchdog, settings.timing)
        owned.callback(self._close_watchdog, watchdog)
        gate = Gate()
        md = open_md(settings, gate.check)
        driver, me = md.driver, Life(NodeId(str(identity.node)), md.boot_id)
        if not driver.outlives_daemon:  # else the end of this process would prove nothing
            owned.callback(self._release, ProcessLock.hold(settings.paths.lock_dir, me))
        owned.callback(gate.shut)
        entries = [record.entry for record in store.memory.entries.values()]
        known = [e.state for e in entries if isinstance(e.state, ArrayState)]
        inherited = await driver.inherit(known)
        node = self._core(me, store, lease_before_ms, starts, driver, inherited)
        members = Members(
            me.node, gate, settings.driver.members, settings.timing, lambda: node.ledger.entries
        )
        owned.push_async_callback(self._close_devices, driver, members)
        runtime = self._runtime_of(me, node, gate, store, watchdog)
        history = History(settings.paths.state_dir, lambda: node.ledger.term)
        owned.callback(history.close)
        arrays = LocalArrays(me, driver, members, spectator=line.spectator, known=known)
        fences = FenceChain(providers(settings))
        executor = Executor(
            driver,
            LocalMembers(members),
            arrays,
            fences,
            runtime.feed,
            runtime.broken,
            inherited=inherited,
        )
        owned.push_async_callback(runtime.close)
        self._runtime, self._view = runtime, node.view
        handler = self._handler(runtime, node, driver, members, history)
        self._changes = Changes(entries, handler.names, lambda: self._boots(runtime))
        runtime.on_commit = self._changes.take
        await self._open_doors(owned, me, starts, executor, handler, history)
        assert self._mesh is not None
        self._peers = Peers(self._mesh, node.view)
        owned.callback(self._peers.close)
        runtime.start()
        self._keep_mdstat(owned, handler)
        self._forget_old_lease_later(runtime, lease_before_ms, starts)
        log.info(
            "node %s is %s in cluster %s, start %d, life %s",
            line.name,
            me.node,
            settings.cluster_name,
            starts,
            me.boot_id,
        )
        return runtime

    def _enter_start(self, store: Store) -> int:
        """Count this start; remember the longest lease that may be out, the old or the new."""
        starts = store.memory.start.starts + 1
        lease_ms = max(store.lease_before_ms, self._settings.timing.lease_ms)
        store.append([StartRecord(starts, lease_ms)])
        return starts

    def _forget_old_lease_later(self, runtime: Runtime, before_ms: int, starts: int) -> None:
        """What the last life may have acknowledged is over once its lease has passed here."""
        timing = self._settings.timing
        if before_ms > timing.lease_ms:
            record = StartRecord(starts, timing.lease_ms)
            wait_s = withhold_after(timing, before_ms) / 1000
            asyncio.get_running_loop().call_later(wait_s, runtime.remember, record)

    def _core(
        self,
        me: Life,
        store: Store,
        lease_before_ms: int,
        start: int,
        driver: MdDriver,
        inherited: tuple[ArrayId, ...],
    ) -> Node:
        settings, place, memory = self._settings, self._place, store.memory
        return Node(
            me,
            place.line.name,
            settings.timing,
            _core_lines(place.cluster_file),
            place.cluster_file.digest(),
            secrets.randbits(64),
            spectator=place.line.spectator,
            promise=memory.promise,
            entries=[record.entry for record in memory.entries.values()],
            projected=memory.projected,
            cluster_name=settings.cluster_name,
            now_ms=boottime_ms(),
            local_fault=settings.policy.local_fault,
            limits=_sync_limits(settings),
            lease_before_ms=lease_before_ms,
            serial_holds=driver.serial_holds,
            start=start,
            inherited=inherited,
            outlives=driver.outlives_daemon,
        )

    def _runtime_of(
        self, me: Life, node: Node, gate: Gate, store: Store, watchdog: Watchdog | NoWatchdog
    ) -> Runtime:
        timing = self._settings.timing
        runtime = Runtime(
            me,
            node,
            gate,
            store,
            retry_min_ms=timing.retry_min_ms,
            retry_max_ms=timing.retry_max_ms,
            stalled_ms=timing.suspect_ms,
            watchdog=watchdog,
        )
        runtime.formed = CLUSTER_KEY in store.memory.entries
        runtime.on_formed = self._say_hello
        return runtime

    def _handler(
        self, runtime: Runtime, node: Node, driver: MdDriver, members: Members, history: History
    ) -> Handler:
        around = Surroundings(
            driver,
            members.registry,
            links=lambda: self._mesh.links() if self._mesh is not None else [],
            spectators=lambda: frozenset(
                line.name for line in self._place.cluster_file.nodes if line.spectator
            ),
            reload=self.reload,
            history=history.after,
            version=VERSION,
        )
        return Handler(runtime, node.view, Requests(members, node.view), around)

    async def _open_doors(
        self,
        owned: AsyncExitStack,
        me: Life,
        starts: int,
        executor: Executor,
        handler: Handler,
        history: History,
    ) -> None:
        """The mesh and the control socket; before them nothing can happen."""
        assert self._runtime is not None
        runtime, place = self._runtime, self._place
        self._hello = Hello(
            cluster=self._settings.cluster_name,
            node=me.node,
            name=place.line.name,
            boot_id=me.boot_id,
            boot_count=starts,
            versions=PROTOCOL_VERSIONS,
            voters_digest=place.cluster_file.digest(),
            timing_digest=digest(self._settings.timing),
            formed=runtime.formed,
        )
        self._mesh = mesh = Mesh(
            self._hello,
            line_of(place.line),
            lines_of(place.cluster_file, place.line),
            on_message=runtime.message,
            on_up=self._peer_up,
            on_down=lambda node, _reason: runtime.peer_down(node),
        )
        runtime.attach(mesh, executor)
        self._observer.name(me.node, place.line.name)
        server = ControlServer(self._settings.paths.run_dir / CONTROL_SOCKET, handler.handle)
        self._streams = tuple(
            observe.EventStream(sink, place.line.name, self._name_of) for sink in (server, history)
        )
        started: observe.Facts = {"start": starts, "version": VERSION}
        observe.tell("daemon_started", started)
        await mesh.start()
        owned.push_async_callback(mesh.stop)
        await server.start()
        owned.push_async_callback(server.close)

    def _keep_mdstat(self, owned: AsyncExitStack, handler: Handler) -> None:
        copy = MdstatCopy(self._settings.paths.run_dir, handler.mdstat, self._settings.mdstat.bind)
        keeping = asyncio.create_task(copy.run())
        owned.push_async_callback(asyncio.to_thread, copy.close)
        owned.callback(keeping.cancel)

    def _name_of(self, uuid: str) -> str | None:
        """Of a node or an array that is known now."""
        if self._view is None:
            return None
        view = self._view()
        arrays = {str(state.uuid): state.name for state in states_of(view)}
        return arrays.get(uuid) or names_of(view).get(NodeId(uuid))

    def _boots(self, runtime: Runtime) -> dict[str, str]:
        """The names of the nodes that are there, by the boots that they are in."""
        names = names_of(self._view()) if self._view is not None else {}
        lives = (runtime.me, *runtime.lives.values())
        return {life.boot_id: names.get(life.node, life.node) for life in lives}

    def _peer_up(self, hello: Hello) -> None:
        assert self._runtime is not None
        self._observer.name(NodeId(hello.node), hello.name)
        self._runtime.peer_up(hello.node, hello.boot_id, hello.name, hello.boot_count)

    def _say_hello(self) -> None:
        """HELLO says whether this node knows a committed voter set, and what its file proposes."""
        if self._mesh is not None and self._hello is not None and self._runtime is not None:
            self._hello = dataclasses.replace(
                self._hello,
                voters_digest=self._place.cluster_file.digest(),
                formed=self._runtime.formed,
            )
            self._mesh.update(self._hello)

    # --- end -------------------------------------------------------------------------------

    async def _until_stopped(self, runtime: Runtime) -> None:
        """Until the core ended by itself, or was asked to and had its time."""
        asked = asyncio.create_task(self._stop.wait())
        ended = asyncio.create_task(runtime.ended.wait())
        await asyncio.wait([asked, ended], return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not runtime.ended.is_set():
            runtime.feed(ShutdownAsked())
            await asyncio.wait([ended], timeout=STOP_DEADLINE_S)
        ended.cancel()
        if not runtime.ended.is_set():
            log.warning("not stopped in order within %g s; ending all the same", STOP_DEADLINE_S)
        elif runtime.fault is None:
            log.info("stopped in order")
            self._tell_left_running(runtime)

    def _tell_left_running(self, runtime: Runtime) -> None:
        if not runtime.left_running:
            return
        states = self._view().states if self._view is not None else ()
        known = {state.uuid: state.name for state in states}
        names = ", ".join(known.get(array, array) for array in runtime.left_running)
        log.warning(
            "in use and left running: %s; the other nodes wait for this one there, and its host is "
            "reset by its watchdog unless mdclusterd is started again",
            names,
        )

    async def _close_devices(self, driver: MdDriver, members: Members) -> None:
        """Cut clients off and wait until nothing that was sent to a device can still land."""
        self._quiet = False
        try:
            async with asyncio.timeout(CLOSE_DEADLINE_S):
                await driver.close()
                await members.workers.idle()
            self._quiet = True
        except TimeoutError:
            log.error(
                "a device does not return what was sent to it within %g s; the process lock is "
                "kept until the process has ended",
                CLOSE_DEADLINE_S,
            )

    def _close_watchdog(self, watchdog: Watchdog | NoWatchdog) -> None:
        """Embedded arrays have ended with what this process sent; those of the kernel run on,
        unless the core knows of none."""
        ended = self._settings.driver.kind == "embedded" or watchdog.harmless
        watchdog.close(stop=self._quiet and ended)

    def _release(self, process_lock: ProcessLock) -> None:
        if self._quiet:
            process_lock.release()

    async def _tell_systemd(self, runtime: Runtime) -> None:
        """systemd's watchdog: fed only if the core was stepped since."""
        if not self._notifier.watchdog_s:
            return
        steps = -1
        while True:
            if runtime.steps != steps:
                self._notifier.tell("WATCHDOG=1")
            steps = runtime.steps
            await asyncio.sleep(self._notifier.watchdog_s / 3)


def _core_lines(file: ClusterFile) -> tuple[Line, ...]:
    return tuple(Line(node.name, node.spectator, node.priority) for node in file.nodes)


def _sync_limits(settings: Settings) -> SyncLimits:
    resync = settings.resync
    low = resync.window_min_kib * SECTORS_PER_KIB
    high = resync.window_max_kib * SECTORS_PER_KIB
    start = min(max(SyncLimits().window_start_sectors, low), high)
    return SyncLimits(low, high, start, resync.speed_max_kib)
