"""The TCP connection under a ZeroMQ one: its two ends, and hanging it up.

A ROUTER has no call that closes one of its connections. Linux lets the process shut down the
connection through a second descriptor; ZeroMQ then sees an ordinary end of file.
"""

import os
import socket

End = tuple[str, int]
NO_END: End = ("", 0)


def _second(fd: int) -> socket.socket | None:
    """Another descriptor of the same socket; None where ``fd`` is no open socket any more."""
    try:
        copy = os.dup(fd)
    except OSError:
        return None
    try:
        return socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        return None


def ends_of(fd: int) -> tuple[End, End]:
    """The local and the remote (host, port); empty ones when the connection is gone."""
    copy = _second(fd)
    if copy is None:
        return NO_END, NO_END
    with copy:
        try:
            local, remote = copy.getsockname(), copy.getpeername()
        except OSError:
            return NO_END, NO_END
        if copy.family not in {socket.AF_INET, socket.AF_INET6}:
            return NO_END, NO_END
        return (local[0], local[1]), (remote[0], remote[1])


def hang_up(fd: int, ends: tuple[End, End]) -> None:
    """Shut down the connection ``fd`` had when its ``ends`` were read.

    ZeroMQ's thread may have closed it, and the kernel given its number to something else: unless
    both ends are still the same, nothing is touched.
    """
    if NO_END in ends:
        return
    copy = _second(fd)
    if copy is None:
        return
    with copy:
        try:
            if (copy.getsockname()[:2], copy.getpeername()[:2]) == ends:
                copy.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # it ended by itself


def shown(end: End) -> str:
    """An end as people write it."""
    host, port = end
    if end == NO_END:
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
