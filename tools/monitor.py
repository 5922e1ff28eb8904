"""``mdcadm --monitor``: looks now and then, and when something happens, and tells of what it sees.

The monitor runs on every node; the one on the writer's host sends the alerts (see
:class:`tools.alerts.Outbox`), ``--everywhere`` has each send its own.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import Final, NoReturn

from mdcluster.control.arrays import MdstatData
from mdcluster.control.client import Client
from mdcluster.control.errors import ControlError
from mdcluster.control.status import ClusterStatus
from mdcluster.control.verbs import NoArgs, Verb

from . import mdadmconf
from .alerts import Alert, Look, Outbox, Tracker, Wanted
from .command import Command
from .mdstat import mdstat
from .messenger import Messenger, Ways, host_name
from .output import Output
from .stream import Stream

DELAY_S: Final = 60
SOON_S: Final = 2.0
"""Until the next look while something is under way: an alert is kept, or nobody is the writer."""
PAUSE_S: Final = 1.0
"""Between two looks, whatever happens."""
INCREMENT_PERCENT: Final = 20
_KINDS: Final = (
    *("array_left", "committed", "node_down", "node_fenced", "node_up", "node_restarted"),
    *("sync_finished", "sync_moved", "sync_started", "writer_changed", "writer_lost"),
)


def run(command: Command, path: str, output: Output) -> int:
    """Until it is ended, or after one look (--oneshot): 1 if that could not be done."""
    conf = mdadmconf.load(command.given.get("config"))
    ways = Ways(
        command.given.get("program", conf.program),
        command.given.get("mail", conf.mail),
        conf.mail_from,
        command.has("syslog"),
    )
    if command.has("scan") and not ways.any and not command.has("json"):
        output.error("No mail address or alert command - not monitoring.")
        return 1
    if command.has("daemonise") and (code := _daemonise(command, output)) is not None:
        return code
    monitor = _Monitor(command, conf, ways, path, output)
    if command.has("oneshot"):
        return monitor.once()
    try:
        signal.signal(signal.SIGTERM, _end)
        return monitor.run()
    except KeyboardInterrupt:
        return 130
    finally:
        if command.has("pid-file"):
            with suppress(OSError):
                os.unlink(command.given["pid-file"])


class _Monitor:
    def __init__(
        self, command: Command, conf: mdadmconf.Conf, ways: Ways, path: str, output: Output
    ) -> None:
        given = command.given
        self._path = path
        self._output = output
        self._json = command.has("json")
        self._shown = not ways.any or self._json
        self._delay_s = int(given.get("delay", conf.delay_s or DELAY_S))
        self._tracker = Tracker(
            Wanted(
                frozenset(command.names),
                command.has("scan"),
                int(given.get("increment", INCREMENT_PERCENT)),
                conf.spares,
                command.has("test"),
            )
        )
        keep_ms = 1000 * (max(self._delay_s, 30) + 30)
        self._outbox = Outbox(keep_ms, everywhere=command.has("everywhere"))
        self._messenger = Messenger(ways, host_name(), self._mdstat, output)
        self._client = Client(path)
        self._look: Look | None = None

    def once(self) -> int:
        """What one look shows; ControlError if it cannot be done."""
        self._tell(self._tracker.see(self._take(), _now_ms()))
        self._client.close()
        return 0

    def run(self) -> int:
        stream = Stream(self._path, _KINDS, patient=True)
        while True:
            self._step()
            quiet = self._look is not None and self._look.status.writer and not self._outbox
            lines, _ = stream.step(self._delay_s if quiet else SOON_S)
            time.sleep(PAUSE_S)  # what happens together is seen together
            while lines:
                lines, _ = stream.step(0)

    def _step(self) -> None:
        try:
            alerts = self._tracker.see(self._take(), _now_ms())
        except ControlError as error:
            self._client.close()
            self._look = None
            alerts = self._tracker.blind(str(error), _now_ms())
        self._tell(alerts)

    def _take(self) -> Look:
        status = self._client.ask(Verb.STATUS, NoArgs(), ClusterStatus)
        arrays = self._client.ask(Verb.MDSTAT, NoArgs(), MdstatData).arrays
        self._look = Look(status, arrays)
        return self._look

    def _tell(self, alerts: list[Alert]) -> None:
        if self._shown:
            for alert in alerts:
                self._messenger.show(alert, json=self._json)
        status = self._look.status if self._look is not None else None
        for alert in self._outbox.due(alerts, status, _now_ms()):
            self._messenger.send(alert)

    def _mdstat(self) -> str:
        return mdstat(self._look.arrays) if self._look is not None else "unknown: no daemon here\n"


def _now_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(0)


def _daemonise(command: Command, output: Output) -> int | None:
    """In the parent the exit code, in the child that goes on None (mdadm: make_daemon)."""
    target = command.given.get("pid-file")
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) if target else 1
    except OSError as error:
        output.error(f"cannot create pid file {target}: {error.strerror}")
        return 1
    output.out.flush()
    pid = os.fork()
    if pid:
        os.write(fd, f"{pid}\n".encode())
        return 0
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    return None
