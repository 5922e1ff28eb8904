"""Runs one scenario: every command of its blocks, in order, against a fresh world.

See README.md for the commands. A command is the method `do_...` of its name (`-` for `_`);
conditions, for `expect` and `until`, are the methods `is_...`.
"""

import inspect
from pathlib import Path
from typing import Any

from mdcluster.core import model as m
from mdcluster.core.events import (
    Asked,
    Line,
    LinesChanged,
    ShutdownAsked,
    Wondered,
)
from mdcluster.core.windows import SyncLimits
from tests.scenarios import words
from tests.scenarios.changes import CREATE_WORDS, Changes
from tests.scenarios.hosts import Host
from tests.scenarios.nature import Nature
from tests.scenarios.script import Block, Command, ScenarioError, parse, render
from tests.scenarios.words import MIB
from tests.scenarios.world import LOG_MAX, World

UNTIL_MS = 20_000
WINDOW_SECTORS = 16 * MIB
ALWAYS = frozenset({"OpenGate", "ShutGate", "Answer", "Fence", "Reset", "Stopped"})


class Runner(Nature, Changes):
    """The state of one run; `out` is what the present block has printed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.world = World(self._note)
        self.hosts: dict[str, Host] = {}
        self.watched = set(ALWAYS)
        self.only: set[str] = set()
        self.log: list[str] = []
        self.out: list[str] = []
        self.block_from = 0
        self.line = 0
        self.asked: dict[str, m.Change] = {}

    # --- running -------------------------------------------------------------------------

    def run(self) -> str:
        """The text of the file with what its commands print now."""
        blocks = parse(self.path)
        return render(blocks, [self._run_block(block) for block in blocks])

    def _run_block(self, block: Block) -> list[str]:
        self.out = []
        self.block_from = len(self.log)
        for command in block.commands:
            self.line = command.line
            self._run_command(command)
        return _merged(self.out)

    def _run_command(self, command: Command) -> None:
        name, *arguments = command.words
        try:
            self._call("do_", name, arguments)
        except (AssertionError, KeyError) as error:
            where = f"{self.path.name}:{command.line}: {' '.join(command.words)}"
            raise ScenarioError(f"{where}\n  {error}") from error

    def _call(self, prefix: str, name: str, arguments: list[str]) -> Any:
        method = getattr(self, prefix + name.replace("-", "_"), None)
        if method is None:
            raise ScenarioError(f"unknown command or condition {name!r}")
        try:
            inspect.signature(method).bind(*arguments)
        except TypeError as error:
            raise ScenarioError(f"{name}: {error}") from None
        return method(*arguments)

    def _note(self, text: str) -> None:
        if len(self.log) >= LOG_MAX:
            raise ScenarioError(f"more than {LOG_MAX} effects")
        self.log.append(text)
        who, _, what = text.partition(": ")
        kind = what.split(" ")[0]
        if kind in self.watched and (not self.only or who.split(" ")[0] in self.only):
            self.out.append(text)

    def _print(self, text: str) -> None:
        self.out.append(text)

    # --- hosts ---------------------------------------------------------------------------

    def do_nodes(self, *names: str) -> None:
        """nodes a b c [s=spectator] [local-fault=leave] [serial-holds=yes] [md=kernel]: the lines
        of clusterips; none runs yet. md=kernel: arrays, and lives, outlive their daemons."""
        policy, serial_holds, outlives = "fail", False, False
        lines: list[Line] = []
        for word in names:
            name, _, option = word.partition("=")
            if name == "local-fault":
                policy = option
            elif name == "serial-holds":
                serial_holds = option == "yes"
            elif name == "md":
                outlives = option == "kernel"
            else:
                # The first outranks the others, so that a script knows who is elected.
                lines.append(Line(name, option == "spectator", 100 if lines else 200))
        for index, line in enumerate(lines):
            host = Host(self.world, line.name, tuple(lines), policy, index + 1)
            host.limits = SyncLimits(window_start_sectors=WINDOW_SECTORS)
            host.serial_holds = serial_holds
            host.outlives = outlives
            self.hosts[line.name] = self.world.hosts[line.name] = host

    def do_start(self, *names: str) -> None:
        """start a b: their daemons start (a killed one: as a new life)."""
        for name in names:
            self._dead(name).start()

    def do_cluster(self, *names: str) -> None:
        """cluster a b c: these nodes have started and made the first one writer; says nothing."""
        before = len(self.out)
        self.do_nodes(*names)
        self.do_start(*self.hosts)
        self.do_advance("3000")
        del self.out[before:]
        self.do_expect("writer", next(iter(self.hosts)))

    def do_array(self, array: str, *devices: str) -> None:
        """array r0 d1 d2 [clean] [small]: the first node has created it, all run it; no words."""
        before = len(self.out)
        first = next(iter(self.hosts))
        self.do_disks(*(d for d in devices if d not in CREATE_WORDS))
        self.do_propose(first, f"create-{array}", "create", array, *devices)
        self.do_until("done", f"create-{array}")
        del self.out[before:]

    def do_kill(self, name: str) -> None:
        """kill a: its daemon; with md=kernel the host's arrays run on."""
        self._live(name).kill()

    def do_power_off(self, name: str) -> None:
        """power-off a: the whole host, its daemon dead or not."""
        self._host(name).power_off()

    def do_md_stops(self, name: str, array: str) -> None:
        """md-stops a r0: somebody stops the array by hand."""
        del self._host(name).md[m.ArrayId(array)]

    def do_freeze(self, name: str) -> None:
        """freeze a: the process stands still; what is sent to it waits."""
        self._live(name).frozen = True

    def do_thaw(self, name: str) -> None:
        self._live(name).thaw()

    def do_lose_state(self, name: str, node: str) -> None:
        """lose-state c c2: the state directory of a dead host is lost; it gets a new UUID."""
        host = self._dead(name)
        host.wipe()
        del self.world.hosts[str(host.node)]
        host.node, host.boots = m.NodeId(node), 0
        del self.hosts[name]
        self.hosts[node] = self.world.hosts[node] = host

    def do_shutdown(self, name: str) -> None:
        self._live(name).event(ShutdownAsked())

    def do_lines(self, name: str, *names: str) -> None:
        """lines a a b c d: clusterips of host a is read again and has these lines."""
        lines = tuple(Line(n, False, 200 if i == 0 else 100) for i, n in enumerate(names))
        host = self._live(name)
        host.lines, host.digest = lines, ",".join(names)
        host.event(LinesChanged(lines, host.digest))

    # --- time ----------------------------------------------------------------------------

    def do_advance(self, ms: str) -> None:
        self.world.run(self.world.now_ms + int(ms))

    def do_until(self, *condition: str) -> None:
        """until CONDITION: let time pass until it holds (20 s at most)."""
        if not self.world.run(self.world.now_ms + UNTIL_MS, lambda: self._holds(condition)):
            raise ScenarioError(f"not so within {UNTIL_MS} ms")

    # --- people --------------------------------------------------------------------------

    def do_propose(self, name: str, proposal: str, *what: str) -> None:
        """propose b p1 fail r0 d1: a client of node b asks for a change (see CHANGES)."""
        verb, *arguments = [w for w in what if w != "force"]
        change = self._call("change_", verb, arguments)
        self.asked[proposal] = change
        self._live(name).event(Asked(proposal, change, "force" in what))

    def do_dry_run(self, name: str, proposal: str, *what: str) -> None:
        """dry-run b p1 fail r0 d1 then remove r0 d1: what would come of these changes?"""
        changes, verb = [], list(what)
        while verb:
            end = verb.index("then") if "then" in verb else len(verb)
            changes.append(self._call("change_", verb[0], [w for w in verb[1:end] if w != "force"]))
            verb = verb[end + 1 :]
        self._live(name).event(Wondered(proposal, tuple(changes), "force" in what))

    def do_retry(self, name: str, proposal: str) -> None:
        """retry c p1: a client asks node c for the same once more, with the same id."""
        self._live(name).event(Asked(proposal, self.asked[proposal]))

    # --- looking -------------------------------------------------------------------------

    def do_watch(self, *kinds: str) -> None:
        """watch Apply Release: print these effects and messages (beside ALWAYS) from here on."""
        for kind in kinds:
            self._known_kind(kind)
        self.watched = {*ALWAYS, *kinds}

    def do_watch_only(self, *names: str) -> None:
        """watch-only a b: print what these nodes do or send (none named: all)."""
        self.only = set(names)

    def do_view(self) -> None:
        """Who is who."""
        for host in self.hosts.values():
            self._print(f"{host.node}: {self._role(host)}")

    def _role(self, host: Host) -> str:
        if host.core is None:
            return "no daemon" if host.runs_md else "dead"
        if host.frozen:
            return "frozen"
        view = host.core.view()
        out = [f"{view.role} of term {view.term}" if view.role == "writer" else view.role]
        if view.role == "writer":
            out.append("gate open" if host.gate_open else "gate shut")
        elif view.writer is not None:
            out[0] += f" of {view.writer}, term {view.term}"
        if host.holding_all:
            out.append("holds all")
        return ", ".join(out)

    def do_state(self, key: str) -> None:
        """state r0 (or cluster): the newest stored entry."""
        entry = self.world.newest(key)
        if entry is None:
            raise ScenarioError(f"nobody knows {key}")
        self._print(
            f"{key} {words.stamp(entry.stamp)}: " + "; ".join(words.entry_state(entry.state))
        )

    def do_applied(self, key: str) -> None:
        """applied r0: how far each node is."""
        for host in self.hosts.values():
            if host.core is not None:
                replica = host.core.replica
                applied, released = (
                    replica.applied.get(key, m.ZERO),
                    replica.released.get(key, m.ZERO),
                )
                text = f"applied {words.stamp(applied)}, released {words.stamp(released)}"
                self._print(f"{host.node}: {text}")

    def do_why(self, name: str) -> None:
        """why a: what node a waits for, as `mdcadm --why` tells."""
        core = self._live(name).core
        assert core is not None
        for wait in core.view().waiting:
            facts = f"[{' '.join((wait.cause, *wait.by))}; until {wait.ends}]"
            self._print(f"{name}: {wait.key}: {wait.text} {facts}")

    def do_bits(self, array: str) -> None:
        """bits r0: the dirty chunks of each slot."""
        for (a, slot), chunks in sorted(self.world.bits.items()):
            if a == array:
                self._print(f"slot {slot}: {' '.join(map(str, sorted(chunks))) or 'clean'}")

    # --- conditions ----------------------------------------------------------------------

    def do_expect(self, *condition: str) -> None:
        """expect CONDITION: holds, whatever is rewritten."""
        if not self._holds(condition):
            raise ScenarioError("it does not hold")

    def _holds(self, condition: tuple[str, ...]) -> bool:
        name, *arguments = condition
        if name == "not":
            name, *arguments = arguments
            return not self._call("is_", name, arguments)
        return bool(self._call("is_", name, arguments))

    def is_writer(self, name: str) -> bool:
        """writer b: b is writer and its gate is open."""
        host = self._host(name)
        return host.core is not None and host.core.view().role == "writer" and host.gate_open

    def is_elected(self, name: str) -> bool:
        """elected b: it is writer of its term, whether or not its gate may open yet."""
        host = self._host(name)
        return host.core is not None and host.core.view().role == "writer"

    def is_open(self, name: str) -> bool:
        """open b: its gate."""
        return self._host(name).gate_open

    def is_saw(self, *text: str) -> bool:
        """saw b: Activate r0 (or a > c: Release r0): since the block began."""
        return any(x.startswith(" ".join(text)) for x in self.log[self.block_from :])

    def is_done(self, proposal: str) -> bool:
        return any(f": Answer {proposal} done" in x for x in self.log)

    def is_holds(self, array: str, name: str) -> bool:
        """holds r0 a: some writes of the array are held there, by whatever."""
        host = self._host(name)
        lo, hi = host.holds.get(m.ArrayId(array), (0, 0))
        return host.holding_all or lo < hi or m.ArrayId(array) in host.pending

    def is_writable(self, array: str, name: str) -> bool:
        """writable r0 a: applications of host a may write to it."""
        host, uuid = self._host(name), m.ArrayId(array)
        return uuid in host.md and not host.md[uuid].readonly and uuid not in host.shut.values()

    def is_holding(self, name: str) -> bool:
        return self._host(name).holding_all

    def is_fed(self, name: str) -> bool:
        """fed c: its watchdog; not so once its time is over, until it is reset."""
        host = self._host(name)
        return host.core is not None and not host.watchdog.starved

    def is_member(self, array: str, device: str, state: str) -> bool:
        found = self._array(array).member(m.DeviceId(device))
        return found is not None and found.state == state

    def is_plain(self, device: str) -> bool:
        """plain d1: as stock mdadm left it, or was given it back: no guard bit, no nonce."""
        disk = self.world.disks[m.DeviceId(device)]
        return disk.plain and not disk.nonce

    def is_known(self, array: str, name: str) -> bool:
        """known r0 a: node a remembers the array, or has applied it."""
        core = self._live(name).core
        assert core is not None
        return array in core.ledger.entries or array in core.replica.applied

    def is_runs(self, array: str, name: str) -> bool:
        return m.ArrayId(array) in self._host(name).md

    def is_synced(self, array: str) -> bool:
        """synced r0: nothing is left to copy, and no pass is under way."""
        state = self._array(array)
        dirty = any(s.dirty for s in state.slots)
        return state.resync_sectors is None and state.sync is None and not dirty

    def _array(self, array: str) -> m.ArrayState:
        entry = self.world.newest(array)
        if entry is None or not isinstance(entry.state, m.ArrayState):
            raise ScenarioError(f"there is no array {array}")
        return entry.state


def _merged(lines: list[str]) -> list[str]:
    """The same message to several nodes is one line; what is said again at once is counted."""
    out: list[list[str]] = []  # who, what
    times: list[int] = []
    for line in lines:
        who, _, what = line.partition(": ")
        sender, arrow, to = who.partition(" > ")
        last = out[-1] if out else ["", ""]
        known = last[0].partition(" > ")[2].split(" ")
        if last == [who, what]:
            times[-1] += 1
        elif arrow and last[1] == what and last[0].startswith(f"{sender} > ") and to not in known:
            last[0] += f" {to}"
        else:
            out.append([who, what])
            times.append(1)
    return [
        f"{who}: {what}" + (f" ({n} times)" if n > 1 else "")
        for (who, what), n in zip(out, times, strict=True)
    ]
