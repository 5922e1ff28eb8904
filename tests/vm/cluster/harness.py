"""`mdclusterd` with the kernel driver in every guest of a lab, asked from the host.

>>> cluster = VmCluster(lab)
>>> cluster.start_all()
>>> cluster.create("data", "d1", "d2")

Guests without KVM are slow: a daemon takes seconds to start, a quiet machine stands still for half
a second. So the timings are several times the defaults, and every wait here has a wide limit.
"""

import json
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdcluster.control.arrays import ArrayDetail, MemberWord
from mdcluster.control.client import Client, RefusedError
from mdcluster.control.errors import ControlError
from mdcluster.control.protocol import SOCKET_PATH
from mdcluster.control.status import ClusterStatus, WhyData
from mdcluster.control.verbs import ArrayArgs, MemberArgs, NoArgs, NodeArgs, Verb
from mdcluster.core.timing import Timing
from tests.vm.lab import Guest, GuestProcess, Lab, LabError

LIMIT_S = 150.0
"""Longest wait for anything; a quiet machine needs a tenth of it."""
POLL_S = 0.2
FENCE_AGENT = Path(__file__).parents[1] / "fence_lab"
ANSWER_S = 30.0
TIMING = {
    "heartbeat_ms": 700,
    "lease_ms": 4500,
    "election_min_ms": 4600,
    "election_max_ms": 5600,
    "suspect_ms": 3000,
    "io_lease_ms": 5500,
    "grace_ms": 1500,
    "evict_ms": 7500,
    "apply_deadline_ms": 20000,
    "prepare_deadline_ms": 20000,
    "probe_deadline_ms": 10000,
    "hold_deadline_ms": 20000,
    "device_timeout_ms": 10100,
    "checkpoint_ms": 500,
    "hold_target_ms": 500,
}
SLOW_RESYNC = "[resync]\nspeed_max_kib = 4096\nwindow_min_kib = 1024\nwindow_max_kib = 2048\n"
"""A resync of 20 MiB that lasts long enough to break something in it."""


class TooLongError(AssertionError):
    """What was waited for did not happen in time."""


def timing(**changes: int) -> Timing:
    return Timing(**{**TIMING, **changes})


class VmCluster:
    """The daemons of a lab's guests; a guest that was booted again gets a new one by `start`."""

    command: Sequence[str] = ("python", "-m", "tests.vm.cluster.daemon")

    def __init__(
        self,
        lab: Lab,
        settings: str = SLOW_RESYNC,
        *,
        spectators: Iterable[str] = (),
        policy: str = "fail",
        watchdog_ms: int = 0,
    ) -> None:
        """settings: more of mdcluster.toml. watchdog_ms: fenced by softdog, not by the agent."""
        self.lab = lab
        self._watchdog_ms = watchdog_ms
        self._settings = settings
        self._policy = policy
        self._spectators = set(spectators)
        self.daemons: dict[str, GuestProcess] = {}
        self._clients: dict[str, Client] = {}

    # --- daemons -----------------------------------------------------------------------------

    def configure(self, guest: Guest, *, timing: Mapping[str, int] | None = None) -> None:
        """Its /etc/clusterips and /etc/mdcluster.toml, which survive its power cuts."""
        lines = (
            f"{one.address} {one.name}{' spectator' * (one.name in self._spectators)}\n"
            for one in self.lab.guests
        )
        spans_ms = {**TIMING, "watchdog_ms": self._watchdog_ms, **(timing or {})}
        spans = "".join(f"{name} = {ms}\n" for name, ms in spans_ms.items())
        guest.write_text("/etc/clusterips", "".join(lines))
        guest.write_text(
            "/etc/mdcluster.toml",
            '[driver]\nkind = "kernel"\nmembers = ["/dev/mapper"]\n'
            f'[timing]\n{spans}[policy]\nlocal_fault = "{self._policy}"\n'
            f'[log]\nformat = "json"\n{self._settings}{self._fencing()}',
        )
        guest.run("sync")

    def _fencing(self) -> str:
        """By the lab's fence device: whoever was switched off there is fenced at once."""
        if self._watchdog_ms:
            return '[fence]\nwatchdog = "/dev/watchdog"\n'
        names = [guest.name for guest in self.lab.guests]
        plugs = "".join(f'[fence.agent.nodes.{name}]\nplug = "{name}"\n' for name in names)
        return f'[fence.agent]\ncommand = "{FENCE_AGENT}"\nsettle_ms = 0\n{plugs}'

    def start(self, *names: str) -> None:
        """Start the daemons of these guests (default: all); not waited for."""
        for guest in self._guests(names):
            if self._watchdog_ms:
                guest.run(f"modprobe softdog soft_margin={self._watchdog_ms // 1000}")
            self.daemons[guest.name] = guest.spawn("mdclusterd", list(self.command))

    def start_all(self) -> str:
        """Configured, started, and led by a writer whose name is returned."""
        for guest in self.lab.guests:
            self.configure(guest)
        self.start()
        return self.writer()

    def stop(self, name: str) -> int:
        """SIGTERM, and the exit code."""
        self.daemons[name].signal(signal.SIGTERM)
        return self.daemons[name].wait(LIMIT_S)

    def freeze(self, name: str) -> None:
        """SIGSTOP of the daemon alone: its arrays run on in the kernel."""
        self.daemons[name].signal(signal.SIGSTOP)

    def kill(self, name: str) -> None:
        """kill -9 of the daemon alone: its arrays run on in the kernel."""
        self.daemons[name].kill()

    def power_cut(self, name: str) -> None:
        self.lab[name].power_cut()
        self.gone(name)

    def gone(self, name: str) -> None:
        """Its guest has ended."""
        self.daemons.pop(name, None)
        self._clients.pop(name, None)

    def come_back(self, *names: str) -> None:
        """Boot these guests at once, and start their daemons."""
        for name in names:
            self.lab[name].start()
        for name in names:
            self.lab[name].wait_ready()
        self.start(*names)

    def ended(self, name: str) -> bool:
        """Whether its daemon has ended, or its guest."""
        return not self.lab[name].alive or self.daemons[name].poll() is not None

    def forget(self) -> None:
        """Nothing runs any more: the lab was, or is, reset."""
        self.daemons.clear()
        self._clients.clear()

    def logs(self, lines_max: int = 30) -> str:
        found = []
        for name, daemon in self.daemons.items():
            try:
                text = daemon.tail(lines_max)
            except LabError as error:
                text = str(error)
            found.append(f"--- {name}\n{text}")
        return "\n".join(found)

    def _guests(self, names: Iterable[str]) -> list[Guest]:
        return [self.lab[name] for name in names] or self.lab.guests

    # --- asking ------------------------------------------------------------------------------

    def proposal(self) -> str:
        return str(uuid.uuid4())

    def client(self, name: str) -> Client:
        if name not in self._clients:
            path = self.lab[name].tunnel(SOCKET_PATH)
            self._clients[name] = Client(path, silence_s=ANSWER_S)
        return self._clients[name]

    def status(self, name: str) -> ClusterStatus:
        return self.client(name).ask(Verb.STATUS, NoArgs(), ClusterStatus)

    def detail(self, array: str = "data", via: str = "") -> ArrayDetail:
        """The array as the writer (or `via`) sees it."""
        return self.client(via or self.writer()).ask(Verb.DETAIL, ArrayArgs(array), ArrayDetail)

    def why(self, via: str = "") -> str:
        """All that waits, as the writer (or `via`) sees it."""
        found = self.client(via or self.writer()).ask(Verb.WHY, NoArgs(), WhyData)
        return "\n".join(f"{w.subject}: {w.reason} until {w.ends}" for w in found.waiting)

    def change(self, verb: Verb, device: str, array: str = "data", via: str = "") -> None:
        """Fail, remove, add or re-add a member; device: as `d1`."""
        args = MemberArgs(self.proposal(), array, f"/dev/mapper/{device}")
        self.client(via or self.writer()).call(verb, args)

    def fence_ack(self, name: str, via: str = "") -> None:
        """An administrator says that this node is dead for certain, and it had better be."""
        args = NodeArgs(self.proposal(), name)
        self.client(via or self.writer()).call(Verb.FENCE_ACK, args)

    def writer(self, among: Iterable[str] = (), limit_s: float = LIMIT_S, not_: str = "") -> str:
        """The one that all daemons that live (or these) agree on, with a lease that runs."""
        names = list(among) or [name for name in self.daemons if self.lab[name].alive]
        found: list[str] = []

        def agreed() -> bool:
            seen = [self.status(name) for name in names]
            writers = {status.writer for status in seen}
            found[:] = [s.node for s in seen if s.node == s.writer and s.lease_ms_left]
            return len(writers) == 1 and found not in ([], [not_])

        self.until(agreed, f"a writer among {names}, not {not_ or 'nobody'}", limit_s)
        return found[0]

    def until(self, reached: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> float:
        """Ask again and again; how long it took."""
        began_s = time.monotonic()
        while not self._quietly(reached):
            if time.monotonic() > began_s + limit_s:
                raise TooLongError(f"not within {limit_s} s: {what}\n{self.logs()}")
            time.sleep(POLL_S)
        return time.monotonic() - began_s

    def _quietly(self, reached: Callable[[], bool]) -> bool:
        try:
            return reached()
        except RefusedError:
            raise
        except ControlError:  # just now not there
            return False

    # --- arrays ------------------------------------------------------------------------------

    def image(self, disk: str) -> Path:
        return self.lab.image(disk)

    def create(self, array: str, *disks: str, via: str = "") -> None:
        """A raid1, by mdadm's words; it runs on all guests when this returns."""
        guest = self.lab[via or self.writer()]
        paths = " ".join(f"/dev/mapper/{disk}" for disk in disks)
        line = f"mdcadm --create /dev/md/{array} --run -l1 -n{len(disks)} {paths}"
        guest.run(line, timeout_s=LIMIT_S)
        self.until_running(array, *self.daemons)

    def until_running(self, array: str, *names: str, limit_s: float = LIMIT_S) -> None:
        """Until exactly these are listed (spectators never are), and /dev/md/NAME is there."""
        wanted = set(names) - self._spectators

        def runs() -> bool:
            if set(self.detail(array).running) != wanted:
                return False
            tests = f"test -b /dev/md/{array}"
            return all(self.lab[name].run(tests, check=False).ok for name in names)

        self.until(runs, f"{array} runs on {sorted(wanted)}", limit_s)

    def until_in_sync(self, array: str = "data", limit_s: float = LIMIT_S) -> float:
        """Until no pass is open, none is due, no slot of a dead life waits; how long it took."""

        def settled() -> bool:
            now = self.detail(array)
            dirty = now.bitmap.slots_dirty if now.bitmap else 0
            states = [m.state for m in now.members]
            return now.sync is None and not dirty and MemberWord.RECOVERING not in states

        return self.until(settled, f"{array} is in sync", limit_s)

    def until_synced_to(self, sectors: int, array: str = "data", limit_s: float = LIMIT_S) -> int:
        """Until a pass has come so far; its position, or the array's size if it has ended."""
        found = [0]

        def far_enough() -> bool:
            now = self.detail(array)
            found[0] = now.sync.position_sectors if now.sync else now.size_sectors
            return found[0] >= sectors

        self.until(far_enough, f"{array} is resynced up to {sectors}", limit_s)
        return found[0]

    def members(self, array: str = "data", via: str = "") -> dict[str, str]:
        """State by disk, for those that this node has a path to."""
        found = self.detail(array, via).members
        return {Path(m.path).name: str(m.state) for m in found if m.path}

    # --- what the kernels say ------------------------------------------------------------------

    def mdstat(self, name: str, array: str = "data") -> str:
        """The lines of the array in /proc/mdstat of this guest."""
        text = self.lab[name].read_text("/proc/mdstat")
        match = re.search(rf"^md_{array} : .*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
        return match[0] if match else ""

    def events(self, name: str, event: str) -> list[dict[str, Any]]:
        """The lines of this kind that the daemon has logged since its guest was booted."""
        lines = [
            json.loads(line) for line in self.daemons[name].output().splitlines() if line[:1] == "{"
        ]
        return [line for line in lines if line.get("event") == event]
