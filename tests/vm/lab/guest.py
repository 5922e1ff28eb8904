"""One guest: its life, and what can be done in it while it lives."""

import shlex
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.vm.lab.channel import Channel
from tests.vm.lab.errors import CommandError, GuestDeadError, LabError, LateError
from tests.vm.lab.faulty import FaultyDisks
from tests.vm.lab.network import Network
from tests.vm.lab.qemu import Machine, Process
from tests.vm.lab.result import Result
from tests.vm.lab.tunnel import Tunnel
from tests.vm.standalone.frames import CHUNK_MAX_BYTES, Message, bytes_of, text_of

BOOT_LIMIT_S = 180.0
"""Some twenty times what an emulated processor needs on a quiet machine."""
RUN_LIMIT_S = 30.0
MEND_LIMIT_S = 5.0
ANSWER_LIMIT_S = 20.0
"""Longest that the agent may be late beyond what it was allowed to take."""
CONNECT_LIMIT_S = 10.0
TAIL_LINES = 30
Command = str | Sequence[str]
"""A line for sh, or a program with its arguments."""


class Guest:
    """A host of the lab; it may be started again and again. Every method is thread-safe."""

    def __init__(
        self,
        machine: Machine,
        address: str,
        network: Network,
        on_fence: Callable[[str, socket.socket], None],
    ) -> None:
        self.name = machine.name
        self.address = address
        self.machine = machine
        self.boot_s = 0.0
        """What the last boot took, until the agent was ready."""
        self.disks = FaultyDisks()
        """The shared disks as this guest has them, by the name they have in the lab."""
        self._network = network
        self._on_fence = on_fence
        self._life = threading.RLock()
        self._process: Process | None = None
        self._channel: Channel | None = None
        self._started_s = 0.0
        self._tunnels: dict[str, Tunnel] = {}

    # --- life --------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether its QEMU runs, be it frozen."""
        process = self._process
        return process is not None and process.alive

    @property
    def pid(self) -> int:
        """Of its QEMU."""
        if self._process is None:
            raise LabError(f"{self.name} was never started")
        return self._process.pid

    def start(self) -> None:
        """Switch it on; `wait_ready` waits until it has booted."""
        with self._life:
            if self.alive:
                raise LabError(f"{self.name} runs already")
            self._started_s = time.monotonic()
            self.boot_s = 0.0
            for disk in self.disks.values():
                disk.booted()
            with self._listener("agent") as agent, self._listener("fence") as fence:
                ends = (self.machine.socket("net-switch"), self.machine.socket("net-guest"))
                self._network.plug(self.name, *ends)
                self._process = Process(self.machine)
                self._channel = Channel(self.name, self._accept(agent))
                self._on_fence(self.name, self._accept(fence))

    def _listener(self, port: str) -> socket.socket:
        path = self.machine.socket(port)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(1)
        return listener

    def _accept(self, listener: socket.socket) -> socket.socket:
        assert self._process is not None
        end_s = time.monotonic() + CONNECT_LIMIT_S
        listener.settimeout(0.1)
        while time.monotonic() < end_s and self._process.alive:
            with suppress(TimeoutError):
                return listener.accept()[0]
        complaint = self._process.complaint()
        self._process.kill()
        raise LabError(f"{self.name}: QEMU does not start: {complaint}")

    def wait_ready(self, timeout_s: float = BOOT_LIMIT_S) -> None:
        """Until the agent in it answers."""
        channel = self._open_channel()
        ready = channel.wait_hello(timeout_s)
        if not ready or channel.closed:
            what = channel.closed or f"not ready after {timeout_s:.0f} s"
            raise LateError(f"{self.name}: {what}\n{self.tail()}")
        self.boot_s = self.boot_s or time.monotonic() - self._started_s

    def boot(self, timeout_s: float = BOOT_LIMIT_S) -> None:
        """Switch it on and wait until it has booted."""
        self.start()
        self.wait_ready(timeout_s)

    def power_cut(self) -> None:
        """Gone at once, with all it had in memory; its QEMU is reaped when this returns."""
        with self._life:
            if self._process is not None:
                self._process.kill()
            if self._channel is not None:
                self._channel.close("its power was cut")

    def restart(self, timeout_s: float = BOOT_LIMIT_S) -> None:
        """Cut its power, switch it on again, wait until it has booted."""
        self.power_cut()
        self.boot(timeout_s)

    def freeze(self) -> None:
        """It stands still, and does not know of it afterwards."""
        with self._life:
            self._living().stop()

    def thaw(self) -> None:
        with self._life:
            self._living().go_on()

    def wait_dead(self, timeout_s: float) -> None:
        """Until its QEMU has ended by itself: a watchdog, a panic, a reboot, or its power cut."""
        process = self._process
        if process is not None and not process.wait(timeout_s):
            raise LateError(f"{self.name} still runs after {timeout_s:.0f} s\n{self.tail()}")

    def _living(self) -> Process:
        if self._process is None or not self._process.alive:
            raise GuestDeadError(f"{self.name} does not run\n{self.tail()}")
        return self._process

    def mend(self) -> None:
        """It answers, and every disk that was made to fail here works again."""
        if self.alive:
            self.thaw()
            try:
                self.wait_ready()
                self.run("true", timeout_s=MEND_LIMIT_S)
            except LabError:
                self.power_cut()
        if not self.alive:
            self.boot()
        for disk in self.disks.values():
            if disk.faults.any:
                disk.heal()

    def refresh(self) -> None:
        """See files of the host that were changed since this guest first read them."""
        self.run("echo 3 > /proc/sys/vm/drop_caches")

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The end of its console, and what QEMU said."""
        console = self.machine.console
        text = console.read_text(errors="replace") if console.exists() else ""
        shown = [f"  {self.name}| {line}" for line in text.splitlines()[-lines:]]
        if self._process is not None and (complaint := self._process.complaint()):
            shown.append(f"  {self.name}| QEMU: {complaint}")
        return "\n".join(shown)

    # --- commands ----------------------------------------------------------------------------

    def run(
        self,
        command: Command,
        *,
        timeout_s: float = RUN_LIMIT_S,
        stdin: bytes = b"",
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> Result:
        """Run it to its end in the checkout's folder, with the virtual environment's Python.

        `CommandError` unless it ends with 0 in time, if checked; of each output the last MiB.
        """
        message: Message = {"do": "run", "argv": _argv(command), "timeout_s": timeout_s}
        message |= {"stdin": text_of(stdin), "env": dict(env or {}), "cwd": cwd}
        answer = self.ask(message, timeout_s)
        result = Result(
            command=command if isinstance(command, str) else shlex.join(command),
            rc=answer["rc"],
            out=bytes_of(answer["out"]).decode(errors="replace"),
            err=bytes_of(answer["err"]).decode(errors="replace"),
            took_s=answer["took_s"],
            stuck=answer["stuck"],
        )
        if check and not result.ok:
            raise CommandError(self.name, result)
        return result

    def spawn(
        self, name: str, command: Command, *, log: str = "", env: Mapping[str, str] | None = None
    ) -> "GuestProcess":
        """Start it and leave it running; what it prints is appended to the log in the guest."""
        log = log or f"/run/lab/{name}.log"
        message: Message = {"do": "spawn", "name": name, "argv": _argv(command), "log": log}
        pid = self.ask({**message, "env": dict(env or {})})["pid"]
        return GuestProcess(self, name, int(pid), log)

    def clock_ns(self) -> int:
        """Its CLOCK_MONOTONIC."""
        return int(self.ask({"do": "clock"})["monotonic_ns"])

    def read_bytes(self, path: str, *, size_max: int = 64 << 20) -> bytes:
        """The content of a file in the guest, up to this size."""
        data = bytearray()
        while len(data) < size_max:
            size = min(CHUNK_MAX_BYTES, size_max - len(data))
            piece = self._read_piece(path, len(data), size)
            data += piece
            if len(piece) < size:
                break
        return bytes(data)

    def read_text(self, path: str) -> str:
        return self.read_bytes(path).decode(errors="replace")

    def read_direct(self, path: str, offset: int, size: int) -> bytes:
        """Past the guest's page cache; both multiples of 4096, at most 1 MiB."""
        message: Message = {"do": "read", "direct": True, "path": path}
        return bytes_of(self.ask({**message, "offset": offset, "size": size})["data"])

    def write_direct(self, path: str, offset: int, data: bytes) -> None:
        """Past the guest's page cache, and flushed; both multiples of 4096, at most 1 MiB."""
        message: Message = {"do": "write", "direct": True, "path": path}
        self.ask({**message, "offset": offset, "data": text_of(data)})

    def _read_piece(self, path: str, offset: int, size: int) -> bytes:
        return bytes_of(
            self.ask({"do": "read", "path": path, "offset": offset, "size": size})["data"]
        )

    def write_bytes(self, path: str, data: bytes) -> None:
        """Make the file, or replace its content."""
        for offset in range(0, max(len(data), 1), CHUNK_MAX_BYTES):
            piece = text_of(data[offset : offset + CHUNK_MAX_BYTES])
            self.ask({"do": "write", "path": path, "data": piece, "append": offset > 0})

    def write_text(self, path: str, text: str) -> None:
        self.write_bytes(path, text.encode())

    def tunnel(self, path: str) -> Path:
        """A unix socket on the host that leads to this one in the guest, over all its boots."""
        with self._life:
            if path not in self._tunnels:
                near = self.machine.socket(f"tunnel{len(self._tunnels)}")
                self._tunnels[path] = Tunnel(near, path, self.ask)
            return self._tunnels[path].path

    def close(self) -> None:
        """Its power is cut, and nothing leads into it."""
        self.power_cut()
        for tunnel in self._tunnels.values():
            tunnel.close()
        self._tunnels.clear()

    def ask(self, message: Message, takes_s: float = 0.0) -> Message:
        """What the agent answers, within what it may take and some time more."""
        return self._open_channel().call(message, takes_s + ANSWER_LIMIT_S)

    def _open_channel(self) -> Channel:
        if self._channel is None:
            raise GuestDeadError(f"{self.name} was never started")
        return self._channel


class GuestProcess:
    """A process that was left running in a guest."""

    def __init__(self, guest: Guest, name: str, pid: int, log: str) -> None:
        self.guest = guest
        self.name = name
        self.pid = pid
        self.log = log

    def signal(self, number: signal.Signals, *, group: bool = True) -> None:
        """To its process group, or to it alone; no error if it has ended."""
        self.guest.ask({"do": "signal", "name": self.name, "signal": int(number), "group": group})

    def kill(self, timeout_s: float = RUN_LIMIT_S) -> None:
        """SIGKILL, and its end."""
        self.signal(signal.SIGKILL)
        self.wait(timeout_s)

    def wait(self, timeout_s: float = RUN_LIMIT_S) -> int:
        """Its exit code; negative: ended by this signal."""
        rc = self.poll(timeout_s)
        if rc is None:
            raise LateError(
                f"{self.guest.name}: {self.name} still runs after {timeout_s:.0f} s\n{self.tail()}"
            )
        return rc

    def poll(self, timeout_s: float = 0.0) -> int | None:
        """Its exit code, or None while it runs."""
        message = {"do": "wait", "name": self.name, "timeout_s": timeout_s}
        rc = self.guest.ask(message, timeout_s)["rc"]
        return None if rc is None else int(rc)

    def output(self) -> str:
        """All it has printed so far."""
        return self.guest.read_text(self.log)

    def tail(self, lines: int = TAIL_LINES) -> str:
        return "\n".join(self.output().splitlines()[-lines:])


def _argv(command: Command) -> list[str]:
    return ["sh", "-c", command] if isinstance(command, str) else list(command)
