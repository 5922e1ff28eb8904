"""Carries an alert to people: a program, mail, syslog, or a line on stdout. Source: mdadm 4.2,
Monitor.c (alert); none of it may keep the monitor from looking on.
"""

from __future__ import annotations

import os
import subprocess
import syslog
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from .alerts import MAILED, Alert
from .output import NAME, Output, one_line, utc

SENDMAIL: Final = ("/usr/sbin/sendmail", "-t")
PROGRAM_MAX_S: Final = 60.0
"""A program, or sendmail, that takes longer is ended."""
_PRIORITY: Final = {
    "critical": syslog.LOG_CRIT,
    "warning": syslog.LOG_WARNING,
    "info": syslog.LOG_INFO,
}


class Ways(NamedTuple):
    """'' for a way that is not wanted."""

    program: str = ""
    mail: str = ""
    mail_from: str = ""
    syslog: bool = False
    sendmail: tuple[str, ...] = SENDMAIL

    @property
    def any(self) -> bool:
        return bool(self.program or self.mail or self.syslog)


class Messenger:
    """mdstat: the text that a mail ends with."""

    def __init__(self, ways: Ways, host: str, mdstat: Callable[[], str], output: Output) -> None:
        self._ways = ways
        self._host = host
        self._mdstat = mdstat
        self._output = output
        if ways.syslog:
            syslog.openlog(NAME, syslog.LOG_PID, syslog.LOG_DAEMON)

    def send(self, alert: Alert) -> None:
        """By all the ways that are wanted."""
        if self._ways.program:
            words = [alert.event, alert.device, *filter(None, [alert.third])]
            self._run([self._ways.program, *words], None)
        if self._ways.mail and alert.event in MAILED:
            self._run(list(self._ways.sendmail), self.mail_text(alert).encode(errors="replace"))
        if self._ways.syslog:
            syslog.syslog(_PRIORITY[alert.severity], message(alert))

    def show(self, alert: Alert, *, json: bool) -> None:
        """A line on stdout, as mdadm prints it where there is no other way."""
        if json:
            self._output.print_json_line({"time": utc(time.time()), **as_dict(alert)})
            return
        stamp = time.strftime("%b %e %H:%M:%S")
        what = one_line(alert.third) or "unknown device"
        self._output.print(f"{stamp}: {alert.event} on {one_line(alert.device)} {what}\n")
        self._output.out.flush()

    def mail_text(self, alert: Alert) -> str:
        """Headers and text; the state of all arrays at the end."""
        sender = self._ways.mail_from or f"{NAME} monitoring <root>"
        device = one_line(alert.device)
        return (
            f"From: {one_line(sender)}\nTo: {one_line(self._ways.mail)}\n"
            f"Subject: {alert.event} event on {device}:{self._host}\n\n"
            f"{NAME} on {self._host} has noticed:\n\n{message(alert)}\n\n"
            f"The arrays of the cluster at this time:\n\n{self._mdstat()}"
        )

    def _run(self, words: list[str], data: bytes | None) -> None:
        try:
            done = subprocess.run(
                words,
                input=data,
                stdin=subprocess.DEVNULL if data is None else None,
                stdout=subprocess.DEVNULL if data is not None else None,
                timeout=PROGRAM_MAX_S,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            self._output.error(f"{words[0]} was ended: it took longer than {PROGRAM_MAX_S:g} s")
        except OSError as error:
            self._output.error(f"cannot run {words[0]}: {error.strerror}")
        else:
            if done.returncode and data is not None:
                self._output.error(f"{words[0]} failed with exit code {done.returncode}")


def message(alert: Alert) -> str:
    """One line for syslog and mail, in mdadm's words."""
    text = f"{alert.event} event detected on md device {alert.device}"
    if alert.member:
        text += f", component device {alert.member}"
    return one_line(f"{text}: {alert.extra}" if alert.extra else text)


def as_dict(alert: Alert) -> dict[str, str]:
    """What ``--monitor --json`` prints beside the time."""
    found = {"event": alert.event, "severity": alert.severity, "device": alert.device}
    return found | {k: v for k, v in (("member", alert.member), ("extra", alert.extra)) if v}


def host_name() -> str:
    return one_line(os.uname().nodename)
