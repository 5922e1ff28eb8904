"""The addresses of this machine, to find its own line in ``/etc/clusterips``.

Sources: SIOCGIFCONF (man 7 netdevice) for IPv4, /proc/net/if_inet6 for IPv6. Trying to bind an
address would tell too, but ``ip_nonlocal_bind``, usual beside floating addresses, makes it lie.
"""

import array
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

_SIOCGIFCONF = 0x8912
_IFREQ_BYTES = 40
"""sizeof(struct ifreq) on 64-bit Linux: the name, 16 bytes, then a union of 24 bytes."""
_INTERFACES_MAX = 1024
_IF_INET6 = Path("/proc/net/if_inet6")
_IF_INET6_BYTES_MAX = 1 << 20


def local_addresses() -> frozenset[str]:
    """IP addresses (canonical, without zone) and host names of this machine, loopback too."""
    host = socket.gethostname().lower()
    loopback = {"127.0.0.1", "::1", "localhost"}
    return frozenset(loopback | {host, host.partition(".")[0]} | _ipv4() | _ipv6())


def local_hosts(hosts: Iterable[str]) -> frozenset[str]:
    """:func:`local_addresses`, and those of ``hosts`` that are names or addresses of it.

    Names are resolved (this may ask a name server, and wait for it); 127.0.0.0/8 is local.
    """
    local = local_addresses()
    return local | {host for host in hosts if host not in local and _is_local(host, local)}


def _is_local(host: str, local: frozenset[str]) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # no such name: not this machine
        return False
    texts = {str(entry[4][0]).partition("%")[0] for entry in found}
    return any(text in local or ipaddress.ip_address(text).is_loopback for text in texts)


def _ipv4() -> set[str]:
    buffer = array.array("B", bytes(_IFREQ_BYTES * _INTERFACES_MAX))
    address, length = buffer.buffer_info()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        reply = fcntl.ioctl(sock, _SIOCGIFCONF, struct.pack("iL", length, address))
    used = min(struct.unpack("iL", reply)[0], length)
    data = buffer.tobytes()[:used]
    return {
        socket.inet_ntoa(data[start + 20 : start + 24])
        for start in range(0, used - _IFREQ_BYTES + 1, _IFREQ_BYTES)
    }


def _ipv6() -> set[str]:
    try:
        with _IF_INET6.open("rb") as file:
            data = file.read(_IF_INET6_BYTES_MAX)
    except OSError:  # a kernel without IPv6
        return set()
    return {
        str(ipaddress.IPv6Address(bytes.fromhex(line[:32].decode()))) for line in data.splitlines()
    }
