"""Tells systemd how the daemon is: READY, STOPPING, WATCHDOG (sd_notify(3), without a library)."""

import contextlib
import os
import socket


class SystemdNotifier:
    """One datagram per state to ``$NOTIFY_SOCKET``; does nothing where there is none."""

    def __init__(self) -> None:
        self._path = os.environ.pop("NOTIFY_SOCKET", "")
        usec = os.environ.pop("WATCHDOG_USEC", "")
        pid = os.environ.pop("WATCHDOG_PID", "")
        meant = pid in ("", str(os.getpid()))
        self.watchdog_s = int(usec) / 1_000_000 if usec.isdecimal() and meant else 0.0

    def tell(self, *states: str) -> None:
        """Send states such as ``READY=1``; never waits, never fails."""
        if not self._path:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        ):
            sock.setblocking(False)
            sock.sendto("\n".join(states).encode(), address)
