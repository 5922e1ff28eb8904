"""Runs one scenario: every command of its blocks, in order, against a fresh world.

See README.md for the commands. A command is the method `do_...` of its name (`-` for `_`);
conditions, for `expect` and `until`, are the methods `is_...`.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdcluster.core import model as m
from mdcluster.core.events import Asked, Fenced, Line, LinesChanged, MemberFailed, ShutdownAsked
from mdcluster.core.events import PersistFailed, PersistRecovered, FenceAcked
from mdcluster.core.windows import SyncLimits
from tests.scenarios import words
from tests.scenarios.hosts import Host
from tests.scenarios.script import Block, Command, ScenarioError, parse, render
from tests.scenarios.words import KINDS, MIB
from tests.scenarios.world import LOG_MAX, Disk, World

UNTIL_MS = 20_000
SIZE_SECTORS = 64 * MIB
WINDOW_SECTORS = 16 * MIB
ALWAYS = frozenset({"OpenGate", "ShutGate", "Answer", "Fence", "Stopped"})


class Runner:
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
        """nodes a b c [s=spectator] [local-fault=leave]: the lines of clusterips; none runs yet."""
        policy = "fail"
        lines = []
        for word in names:
            name, _, option = word.partition("=")
            if name == "local-fault":
                policy = option
            else:
                # The first outranks the others, so that a script knows who is elected.
                lines.append(Line(name, option == "spectator", 100 if lines else 200))
        for index, line in enumerate(lines):
            host = Host(self.world, line.name, tuple(lines), policy, index + 1)
            host.limits = SyncLimits(window_start_sectors=WINDOW_SECTORS)
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
        """array r0 d1 d2 [clean]: the first node has created it and all run it; says nothing."""
        before = len(self.out)
        first = next(iter(self.hosts))
        self.do_disks(*(d for d in devices if d != "clean"))
        self.do_propose(first, f"create-{array}", "create", array, *devices)
        self.do_until("done", f"create-{array}")
        del self.out[before:]

    def do_kill(self, name: str) -> None:
        self._live(name).kill()

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

    def _host(self, name: str) -> Host:
        if name not in self.hosts:
            raise ScenarioError(f"there is no node {name}")
        return self.hosts[name]

    def _live(self, name: str) -> Host:
        host = self._host(name)
        if host.core is None:
            raise ScenarioError(f"{name} does not run")
        return host

    def _dead(self, name: str) -> Host:
        host = self._host(name)
        if host.core is not None:
            raise ScenarioError(f"{name} runs")
        return host

    # --- time ----------------------------------------------------------------------------

    def do_advance(self, ms: str) -> None:
        self.world.run(self.world.now_ms + int(ms))

    def do_until(self, *condition: str) -> None:
        """until CONDITION: let time pass until it holds (20 s at most)."""
        if not self.world.run(self.world.now_ms + UNTIL_MS, lambda: self._holds(condition)):
            raise ScenarioError(f"not so within {UNTIL_MS} ms")

    # --- the network and the disks -----------------------------------------------------------

    def do_cut(self, a: str, b: str) -> None:
        """cut a b: nothing passes between them (silently, as a cable that was pulled)."""
        self.world.cuts |= {(a, b), (b, a)}

    def do_cut_one_way(self, a: str, b: str) -> None:
        self.world.cuts.add((a, b))

    def do_heal(self, a: str, b: str) -> None:
        self.world.cuts -= {(a, b), (b, a)}
        self.world.meet(self._host(a), self._host(b))

    def do_hold_messages(self, kind: str, sender: str, to: str) -> None:
        """hold-messages ApplyEntry a c: they are kept (`*`: any) until deliver or drop."""
        self._known_kind(kind)
        self.world.catch.append((kind, sender, to))

    def do_deliver(self) -> None:
        """deliver: messages pass again, and what was kept arrives, in order."""
        self.world.catch = []
        kept, self.world.caught = self.world.caught, []
        for parcel in kept:
            self.world.later(1, lambda parcel=parcel: self.world.deliver(parcel))  # type: ignore[misc]

    def do_drop(self) -> None:
        """drop: messages pass again, and what was kept is lost."""
        self.world.catch, self.world.caught = [], []

    def do_disks(self, *devices: str) -> None:
        for device in devices:
            self.world.disks[m.DeviceId(device)] = Disk()

    def do_disk_fails(self, device: str, where: str) -> None:
        """disk-fails d1 b: host b (`*`: any) gets errors from it."""
        self._disk(device).fails_for.add(where)

    def do_disk_works(self, device: str) -> None:
        self._disk(device).fails_for.clear()

    def do_wrong_path(self, device: str, where: str) -> None:
        """wrong-path d3 c: on host c the path leads to another device."""
        self._disk(device).wrong_at.add(where)

    def do_old_copy(self, device: str, stamp: str) -> None:
        """old-copy d1 1.2: its superblock is that of this older stamp."""
        term, _, seq = stamp.partition(".")
        self._disk(device).stamp = m.Stamp(int(term), int(seq))

    def _disk(self, device: str) -> Disk:
        return self.world.disks[m.DeviceId(device)]

    # --- what md and the shell do ------------------------------------------------------------

    def do_member_fails(self, name: str, array: str, device: str) -> None:
        """member-fails b r0 d1: a write of host b met an error on d1; it is held."""
        host, a, d = self._live(name), m.ArrayId(array), m.DeviceId(device)
        host.blocked.setdefault(a, set()).add(d)
        host.pending.add(a)
        host.unseen.discard(a)
        host.event(MemberFailed(a, d, "write error"))

    def do_unseen_failure(self, name: str, array: str) -> None:
        """unseen-failure b r0: a failed write is held there, not yet reported by md."""
        self._live(name).unseen.add(m.ArrayId(array))

    def do_dirty(self, name: str, array: str, *chunks: str) -> None:
        """dirty b r0 3 7: host b was writing in these chunks of 1 MiB."""
        self._live(name).own_bits(m.ArrayId(array)).update(map(int, chunks))

    def do_open(self, name: str, array: str) -> None:
        self._live(name).busy_arrays.add(m.ArrayId(array))

    def do_close(self, name: str, array: str) -> None:
        self._live(name).busy_arrays.discard(m.ArrayId(array))

    def do_hold_effects(self, name: str, *kinds: str) -> None:
        """hold-effects a LimitSync: such effects begin, and end by `complete` only."""
        for kind in kinds:
            self._known_kind(kind)
            self._live(name).parking.add(kind)

    def do_complete(self, name: str, kind: str, *problem: str) -> None:
        """complete a LimitSync [what goes wrong]: the oldest one that is held."""
        host = self._live(name)
        item = next((x for x in host.parked if type(x[1]).__name__ == kind), None)
        if item is None:
            raise ScenarioError(f"no {kind} is under way at {name}")
        host.complete(item, " ".join(problem))

    def do_pass_effects(self, name: str) -> None:
        """pass-effects a: all that was held completes, and nothing is held any more."""
        host = self._live(name)
        host.parking.clear()
        for item in list(host.parked):
            if item in host.parked:
                host.complete(item, "")

    def do_next_fails(self, name: str, kind: str, *problem: str) -> None:
        """next-fails a LimitSync short: the next one goes wrong (`short`: copies too little)."""
        self._known_kind(kind)
        self._live(name).problems[kind] = " ".join(problem)

    def do_persist_stalls(self, name: str) -> None:
        self._live(name).stalled = True

    def do_persist_resumes(self, name: str) -> None:
        self._live(name).stalled = False
        self._live(name)._run_lane()

    def do_persist_fails(self, name: str, *why: str) -> None:
        """persist-fails b no space left: nothing passes until persist-recovers."""
        self._live(name).stalled = True
        self._live(name).event(PersistFailed(" ".join(why)))

    def do_persist_recovers(self, name: str) -> None:
        self.do_persist_resumes(name)
        self._live(name).event(PersistRecovered())

    def do_fence_confirms(self, name: str) -> None:
        """fence-confirms a: the dead lives of host a have ended for certain."""
        host = self._host(name)
        last = host.boots if host.core is None else host.boots - 1
        for boot in range(1, last + 1):
            life = m.Life(host.node, str(boot))
            self.world.fence_works.add(life)
            for other in self.hosts.values():
                if other.core is not None and life in other.core.membership.fencing:
                    other.event(Fenced(life, "it has ended"))

    def do_vouch(self, at: str, name: str) -> None:
        """vouch b a: at node b an administrator vouches that a is dead."""
        self._live(at).event(FenceAcked(self._host(name).node))

    # --- people --------------------------------------------------------------------------

    def do_propose(self, name: str, proposal: str, *what: str) -> None:
        """propose b p1 fail r0 d1: a client of node b asks for a change (see CHANGES)."""
        verb, *arguments = [w for w in what if w != "force"]
        change = self._call("change_", verb, arguments)
        self.asked[proposal] = change
        self._live(name).event(Asked(proposal, change, "force" in what))

    def do_retry(self, name: str, proposal: str) -> None:
        """retry c p1: a client asks node c for the same once more, with the same id."""
        self._live(name).event(Asked(proposal, self.asked[proposal]))

    def change_create(self, array: str, *devices: str) -> m.Change:
        """create r0 d1 d2 [clean]: raid1 of 64 MiB, to be resynced unless `clean`."""
        names = [d for d in devices if d != "clean"]
        members = tuple(_new(d, role) for role, d in enumerate(names))
        return m.CreateArray(
            array=m.ArrayId(array),
            name=array,
            level=1,
            layout=0,
            chunk_sectors=0,
            raid_disks=len(members),
            size_sectors=SIZE_SECTORS,
            bitmap_chunk_sectors=MIB,
            members=members,
            assume_clean="clean" in devices,
            now_s=1,
        )

    def change_assemble(self, array: str, *options: str) -> m.Change:
        return m.StartArray(m.ArrayId(array), run="run" in options)

    def change_stop(self, array: str) -> m.Change:
        return m.StopArray(m.ArrayId(array))

    def change_fail(self, array: str, device: str) -> m.Change:
        return m.FailMember(m.ArrayId(array), m.DeviceId(device), "an administrator says so")

    def change_remove(self, array: str, device: str) -> m.Change:
        return m.RemoveMember(m.ArrayId(array), m.DeviceId(device))

    def change_add(self, array: str, device: str) -> m.Change:
        return m.AddMember(m.ArrayId(array), _new(device, -1))

    def change_re_add(self, array: str, device: str) -> m.Change:
        return m.ReAddMember(m.ArrayId(array), m.DeviceId(device), f"/dev/{device}")

    def change_hand_over(self, target: str) -> m.Change:
        return m.HandOver(self._host(target).node)

    def change_admit(self, name: str) -> m.Change:
        """admit c2: bind the line of this host to its new UUID."""
        return m.BindVoter(self._host(name).name, self._host(name).node, replace=True)

    def change_add_voter(self, line: str) -> m.Change:
        return m.AddVoter(line, 100)

    def change_remove_voter(self, line: str) -> m.Change:
        return m.RemoveVoter(line)

    # --- looking -------------------------------------------------------------------------

    def do_watch(self, *kinds: str) -> None:
        """watch Apply Release: print these effects and messages (beside ALWAYS) from here on."""
        for kind in kinds:
            self._known_kind(kind)
        self.watched = {*ALWAYS, *kinds}

    def do_watch_only(self, *names: str) -> None:
        """watch-only a b: print what these nodes do or send (none named: all)."""
        self.only = set(names)

    def _known_kind(self, kind: str) -> None:
        if kind != "*" and kind not in KINDS:
            raise ScenarioError(f"there is no effect or message {kind}")

    def do_view(self) -> None:
        """Who is who."""
        for host in self.hosts.values():
            self._print(f"{host.node}: {self._role(host)}")

    def _role(self, host: Host) -> str:
        if host.core is None:
            return "dead"
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
        self._print(f"{key} {words.stamp(entry.stamp)}: " + "; ".join(words.entry_state(entry.state)))

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
        for key, text in core.view().waiting:
            self._print(f"{name}: {key}: {text}")

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

    def is_holding(self, name: str) -> bool:
        return self._host(name).holding_all

    def is_member(self, array: str, device: str, state: str) -> bool:
        found = self._array(array).member(m.DeviceId(device))
        return found is not None and found.state == state

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


def _new(device: str, role: int) -> m.NewMember:
    return m.NewMember(m.DeviceId(device), f"/dev/{device}", MIB, SIZE_SECTORS, role)


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
