"""Host names to numeric addresses, without holding up the loop or the end of the process."""

import asyncio
import contextlib
import ipaddress
import socket
import threading


def numeric(host: str) -> str | None:
    """``host`` in its one written form if it is a numeric address, else None."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


async def resolve(host: str) -> tuple[str, ...]:
    """The numeric addresses of ``host`` in the resolver's order; ``OSError`` if it has none.

    A name is looked up in a thread that nobody waits for at exit: a dead name server may take
    its time, and neither ZeroMQ's I/O thread nor asyncio's executor may be caught in that.
    """
    known = numeric(host)
    if known is not None:
        return (known,)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[str, ...]] = loop.create_future()
    threading.Thread(target=_look_up, args=(host, loop, answer), daemon=True).start()
    return await answer


def _look_up(
    host: str, loop: asyncio.AbstractEventLoop, answer: "asyncio.Future[tuple[str, ...]]"
) -> None:
    """In its own thread: ask the system's resolver, and hand over what it said."""
    error: OSError | None = None
    hosts: tuple[str, ...] = ()
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        known = (numeric(str(entry[4][0])) for entry in found)
        hosts = tuple(dict.fromkeys(host for host in known if host is not None))
    except (OSError, UnicodeError) as bad:
        error = OSError(f"host name {host!r} cannot be resolved: {bad}")

    def deliver() -> None:
        if answer.done():
            return
        if error is not None or not hosts:
            answer.set_exception(error or OSError(f"host name {host!r} has no address"))
        else:
            answer.set_result(hosts)

    # The loop may have ended before the name server answered.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(deliver)
