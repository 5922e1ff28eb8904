"""Every ZeroMQ socket of the mesh is made here, with all options set before bind and connect.

Whatever concerns a socket as a whole (limits now, keys when links are encrypted) has its one
place in this module.
"""

import ipaddress
from dataclasses import dataclass

import zmq

HEAD_BYTES = 1  # the kind of frame, before the payload
_PATH_PINGS = 3  # pings of ZeroMQ within path_ms


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds and waits of the mesh. Times in milliseconds, sizes in bytes.

    ``path_ms``: a connection that carries nothing back for so long is given up. This finds a cut
    cable, not a dead node. ``queue_max``: frames waiting per connection and direction.
    """

    payload_max_bytes: int = 1024 * 1024
    queue_max: int = 256
    connections_max: int = 256
    handshake_ms: int = 1500
    connect_ms: int = 1500
    hello_ms: int = 2000
    path_ms: int = 3000
    redial_min_ms: int = 50
    redial_max_ms: int = 2000
    flush_ms: int = 200


def is_ipv6(host: str) -> bool:
    """Whether a numeric address is IPv6."""
    return ipaddress.ip_address(host).version == 6


def endpoint(host: str, port: int | str) -> str:
    """A numeric address as ZeroMQ writes it, without the scheme."""
    return f"[{host}]:{port}" if is_ipv6(host) else f"{host}:{port}"


def _common(sock: zmq.Socket[bytes], limits: Limits, host: str) -> None:
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.SNDHWM, limits.queue_max)
    sock.setsockopt(zmq.RCVHWM, limits.queue_max)
    # Twice the limit: what is a little too long is refused by name; ZeroMQ itself closes the
    # connection, without a word, at what is far beyond.
    sock.setsockopt(zmq.MAXMSGSIZE, 2 * limits.payload_max_bytes + HEAD_BYTES)
    sock.setsockopt(zmq.HANDSHAKE_IVL, limits.handshake_ms)
    sock.setsockopt(zmq.TCP_MAXRT, limits.path_ms)
    sock.setsockopt(zmq.HEARTBEAT_IVL, limits.path_ms // _PATH_PINGS)
    sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, limits.path_ms)
    sock.setsockopt(zmq.IPV6, int(is_ipv6(host)))


def listening_socket(
    context: zmq.Context[zmq.Socket[bytes]], host: str, port: int, limits: Limits
) -> zmq.Socket[bytes]:
    """A ROUTER bound to a numeric address; :class:`zmq.ZMQError` if it cannot be."""
    sock = context.socket(zmq.ROUTER)
    _common(sock, limits, host)
    sock.setsockopt(zmq.ROUTER_MANDATORY, 1)
    sock.setsockopt(zmq.BACKLOG, limits.connections_max)
    try:
        sock.bind(f"tcp://{endpoint(host, port)}")
    except zmq.ZMQError:
        sock.close(linger=0)
        raise
    return sock


def dialling_socket(
    context: zmq.Context[zmq.Socket[bytes]], host: str, limits: Limits
) -> zmq.Socket[bytes]:
    """A DEALER for exactly one connection to ``host``, not yet connected.

    It never reconnects by itself: a connection and what was queued for it end together, and the
    next one begins with HELLO again.
    """
    sock = context.socket(zmq.DEALER)
    _common(sock, limits, host)
    sock.setsockopt(zmq.IMMEDIATE, 1)
    sock.setsockopt(zmq.CONNECT_TIMEOUT, limits.connect_ms)
    sock.setsockopt(zmq.RECONNECT_IVL, -1)
    return sock
