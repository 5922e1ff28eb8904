"""The lab's agent in a guest: does what comes in by a virtio-serial port, several things at once.

Run by the guest's first process as `python -I -S agent.py`, so it imports the standard library
and its neighbours alone. It says hello once it listens: that is the sign that a guest is ready.
A command never makes it wait for ever: whoever does not end in time is killed with all its
process group, and whoever cannot be killed is reported with where in the kernel it hangs.
"""

import itertools
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tests.vm.standalone.frames import CHUNK_MAX_BYTES, Message, Reader, bytes_of, pack, text_of
from tests.vm.standalone.ports import open_port

PORT = "lab.agent"
OUTPUT_MAX_BYTES = 1 << 20
"""Kept of each of a command's two outputs: the last bytes."""
KILL_LIMIT_S = 2.0
"""How long a killed process may take to end before it counts as stuck."""
DRAIN_LIMIT_S = 0.3
"""How long output is read on after the process ended: its children may hold the pipe for ever."""
AT_ONCE_MAX = 64
CONNECT_LIMIT_S = 2.0


class Output:
    """Reads one pipe in a thread and keeps the end of what came."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while data := os.read(self._pipe.fileno(), 1 << 16):
            self._kept += data
            if len(self._kept) > 2 * OUTPUT_MAX_BYTES:
                del self._kept[:-OUTPUT_MAX_BYTES]

    def finish(self) -> bytes:
        self._thread.join(DRAIN_LIMIT_S)
        if not self._thread.is_alive():
            self._pipe.close()
        return bytes(self._kept[-OUTPUT_MAX_BYTES:])


class Agent:
    """Answers every request exactly once, each in a thread of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sending = threading.Lock()
        self._places = threading.BoundedSemaphore(AT_ONCE_MAX)
        self._spawned: dict[str, subprocess.Popen[bytes]] = {}
        self._actions: dict[str, Callable[[Message], Message]] = {
            "run": self._run,
            "spawn": self._spawn,
            "signal": self._signal,
            "wait": self._wait,
            "read": self._read,
            "write": self._write,
            "clock": self._clock,
            "connect": self._connect,
            "send": self._send_on,
            "receive": self._receive,
            "hang_up": self._hang_up,
        }
        self._streams: dict[int, socket.socket] = {}
        self._numbers = itertools.count(1)

    def serve(self) -> None:
        reader = Reader()
        self._send({"hello": os.getpid()})
        while True:
            data = os.read(self._port, 1 << 16)
            if not data:
                time.sleep(0.05)  # nobody is connected to the port just now
            for message in reader.feed(data):
                self._places.acquire()
                threading.Thread(target=self._answer, args=(message,), daemon=True).start()

    def _answer(self, message: Message) -> None:
        try:
            answer = self._actions[message["do"]](message)
        except Exception as error:  # noqa: BLE001  # whatever it was, the lab must hear of it
            answer = {"error": f"{type(error).__name__}: {error}"}
        try:
            self._send({"id": message.get("id"), **answer})
        finally:
            self._places.release()

    def _send(self, message: Message) -> None:
        data = memoryview(pack(message))
        with self._sending:
            while data:
                data = data[os.write(self._port, data) :]

    # --- commands ----------------------------------------------------------------------------

    def _run(self, message: Message) -> Message:
        began_s = time.monotonic()
        process = subprocess.Popen(
            message["argv"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            cwd=message.get("cwd"),
            env={**os.environ, **message.get("env", {})},
        )
        assert process.stdin and process.stdout and process.stderr
        out, err = Output(process.stdout), Output(process.stderr)
        feeder = threading.Thread(
            target=_feed, args=(process.stdin, bytes_of(message.get("stdin", ""))), daemon=True
        )
        feeder.start()
        rc, stuck = _ended(process, message["timeout_s"])
        return {
            "rc": rc,
            "out": text_of(out.finish()),
            "err": text_of(err.finish()),
            "took_s": time.monotonic() - began_s,
            "stuck": stuck,
        }

    def _spawn(self, message: Message) -> Message:
        name = message["name"]
        old = self._spawned.get(name)
        if old is not None and old.poll() is None:
            raise ValueError(f"{name} runs already, as {old.pid}")
        with Path(message["log"]).open("ab") as log:
            process = subprocess.Popen(
                message["argv"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=message.get("cwd"),
                env={**os.environ, **message.get("env", {})},
            )
        self._spawned[name] = process
        return {"pid": process.pid}

    def _signal(self, message: Message) -> Message:
        process = self._spawned[message["name"]]
        if process.poll() is None:
            send = os.killpg if message["group"] else os.kill
            send(process.pid, message["signal"])
        return {}

    def _wait(self, message: Message) -> Message:
        try:
            return {"rc": self._spawned[message["name"]].wait(message["timeout_s"])}
        except subprocess.TimeoutExpired:
            return {"rc": None}

    def _clock(self, _: Message) -> Message:
        return {"monotonic_ns": time.monotonic_ns()}

    # --- unix sockets ------------------------------------------------------------------------

    def _connect(self, message: Message) -> Message:
        stream = socket.socket(socket.AF_UNIX)
        stream.settimeout(CONNECT_LIMIT_S)
        stream.connect(message["path"])
        number = next(self._numbers)
        self._streams[number] = stream
        return {"stream": number}

    def _send_on(self, message: Message) -> Message:
        self._streams[message["stream"]].sendall(bytes_of(message["data"]))
        return {}

    def _receive(self, message: Message) -> Message:
        """What came; empty once it was closed, None if nothing comes in time."""
        stream = self._streams[message["stream"]]
        if not select.select([stream], [], [], message["timeout_s"])[0]:
            return {"data": None}
        return {"data": text_of(stream.recv(1 << 16))}

    def _hang_up(self, message: Message) -> Message:
        stream = self._streams.pop(message["stream"])
        with suppress(OSError):
            stream.shutdown(socket.SHUT_RDWR)
        stream.close()
        return {}

    # --- files -------------------------------------------------------------------------------

    def _read(self, message: Message) -> Message:
        if message.get("direct"):
            return {"data": text_of(_read_direct(message))}
        with Path(message["path"]).open("rb") as file:
            if message["offset"]:
                file.seek(message["offset"])
            return {"data": text_of(file.read(min(message["size"], CHUNK_MAX_BYTES)))}

    def _write(self, message: Message) -> Message:
        if message.get("direct"):
            _write_direct(message)
            return {}
        with Path(message["path"]).open("ab" if message["append"] else "wb") as file:
            file.write(bytes_of(message["data"]))
        return {}


def _read_direct(message: Message) -> bytes:
    size = min(message["size"], CHUNK_MAX_BYTES)
    file = os.open(message["path"], os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, size) as buffer:  # memory at a page's start, as O_DIRECT needs it
            return buffer[: os.preadv(file, [buffer], message["offset"])]
    finally:
        os.close(file)


def _write_direct(message: Message) -> None:
    data = bytes_of(message["data"])
    file = os.open(message["path"], os.O_WRONLY | os.O_DIRECT | os.O_DSYNC)
    try:
        with mmap.mmap(-1, len(data)) as buffer:
            buffer[:] = data
            written = os.pwritev(file, [buffer], message["offset"])
    finally:
        os.close(file)
    if written != len(data):
        raise OSError(f"{written} of {len(data)} bytes written")


def _feed(pipe: IO[bytes], data: bytes) -> None:
    try:
        pipe.write(data)
        pipe.close()
    except BrokenPipeError:
        pass  # it has ended, or does not want to read more


def _ended(process: "subprocess.Popen[bytes]", timeout_s: float) -> tuple[int | None, str]:
    """Its exit code; or None once it was killed, and where it hangs if that did not end it."""
    try:
        return process.wait(timeout_s), ""
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(KILL_LIMIT_S)
    except subprocess.TimeoutExpired:
        return None, _kernel_stack(process.pid)
    return None, ""


def _kernel_stack(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stack").read_text()
    except OSError as error:
        return f"unknown: {error}"


if __name__ == "__main__":
    Agent(open_port(PORT)).serve()
