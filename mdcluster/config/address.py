"""One address of a node: ``HOST``, ``HOST:PORT``, ``[IPV6]`` or ``[IPV6]:PORT``."""

import ipaddress
import re
from dataclasses import dataclass

from mdcluster.config.errors import ConfigError

DEFAULT_PORT = 17946
"""TCP port of the mesh where a line names none; IANA lists no service on it."""

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_HOST_CHARS_MAX = 253


class AddressError(ConfigError):
    """The text is no address; ``offset`` is where in it the mistake starts, from 0."""

    def __init__(self, text: str, offset: int = 0) -> None:
        """Keep the offset beside the text."""
        self.offset = offset
        super().__init__(text)


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A host (canonical text of an IP address, or a lower case host name) and a TCP port."""

    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        """As it is written in clusterips; the default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORT else f"{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read one address.

    Raises:
        AddressError: what was expected instead, and where.
    """
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise AddressError("expected ']' after the IPv6 address", len(text))
        if rest and not rest.startswith(":"):
            raise AddressError(f"expected ':PORT' after ']', found {rest!r}", len(inner) + 2)
        return Address(_ipv6(inner), _port(rest[1:], len(inner) + 3) if rest else DEFAULT_PORT)
    if text.count(":") > 1:
        raise AddressError(f"an IPv6 address needs brackets: {_bracketed(text)}")
    host, colon, port = text.partition(":")
    port_number = _port(port, len(host) + 1) if colon else DEFAULT_PORT
    if not host:
        raise AddressError("expected an address, found nothing before ':'" if colon else _EMPTY)
    if re.fullmatch(r"[0-9.]+", host):
        return Address(_ipv4(host), port_number)
    return Address(_host_name(host), port_number)


_EMPTY = "expected an address, found nothing"


def _bracketed(text: str) -> str:
    """How a bare IPv6 address should have been written; with both readings of its end."""
    head, _, tail = text.rpartition(":")
    if re.fullmatch(r"[0-9]{4,5}", tail, re.ASCII) and not head.endswith(":"):
        return f"[{text}], or [{head}]:{tail} with a port"
    return f"[{text}]"


def _port(text: str, offset: int) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text, re.ASCII) or not 1 <= int(text) <= 65535:
        raise AddressError(f"expected a port from 1 to 65535, found {text!r}", offset)
    return int(text)


def _ipv4(text: str) -> str:
    octets = text.split(".")
    if len(octets) != 4:
        raise AddressError(f"expected four octets as in 192.0.2.1, found {text!r}")
    offset = 0
    for octet in octets:
        if not 1 <= len(octet) <= 3 or int(octet) > 255:
            raise AddressError(f"expected an octet from 0 to 255, found {octet!r}", offset)
        if len(octet) > 1 and octet.startswith("0"):
            raise AddressError(
                f"octet {octet!r} starts with 0 (octal?): write {int(octet)}", offset
            )
        offset += len(octet) + 1
    return _usable(ipaddress.IPv4Address(text))


def _ipv6(text: str) -> str:
    bare, percent, zone = text.partition("%")
    try:
        address = ipaddress.IPv6Address(bare)
    except ValueError:
        raise AddressError(f"expected an IPv6 address in brackets, found {bare!r}", 1) from None
    if address.ipv4_mapped:
        raise AddressError(f"an IPv4 address in IPv6 form: write {address.ipv4_mapped}", 1)
    if percent and not _ZONE.fullmatch(zone):
        raise AddressError(f"expected an interface name after '%', found {zone!r}", len(bare) + 2)
    if address.is_link_local and not zone:
        raise AddressError(f"a link-local address needs its interface: [{bare}%eth0]", 1)
    return _usable(address) + percent + zone


def _usable(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    if address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255":
        raise AddressError(f"{address} is not the address of one host")
    return str(address)


def _host_name(text: str) -> str:
    if len(text) > _HOST_CHARS_MAX:
        raise AddressError(f"a host name has at most {_HOST_CHARS_MAX} characters")
    offset = 0
    for label in text.lower().split("."):
        if not _LABEL.fullmatch(label):
            raise AddressError(
                f"expected an IP address or a host name of letters, digits, '-' and '.', "
                f"found {text!r}",
                min(offset, len(text)),
            )
        offset += len(label) + 1
    return text.lower()
