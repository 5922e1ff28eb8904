"""``/etc/clusterips``: the nodes of the mesh, one a line.

    ADDRESS[:PORT][,ADDRESS...] [NAME] [option...]      # comment

The file proposes; who votes is decided by commits. Everything wrong with a file is reported at
once, each mistake with its line and column. Limits: 64 KiB, 1024 characters a line, 32 nodes,
8 addresses a node.
"""

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mdcluster.config.address import Address, AddressError, parse_address
from mdcluster.config.errors import MISTAKES_MAX, ClusterFileError, Mistake, SelfNotFoundError

CLUSTER_FILE = "/etc/clusterips"
FILE_BYTES_MAX = 64 * 1024
LINE_CHARS_MAX = 1024
NODES_MAX = 32
ADDRESSES_MAX = 8
NAME_CHARS_MAX = 63
PRIORITY_DEFAULT = 100
PRIORITY_MAX = 1000

_OPTIONS = ("spectator", "priority")
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_CHARS_MAX - 1}}}")
_TOKEN = re.compile(r"[^ \t]+")
_ADDRESS_LIKE = re.compile(r"[0-9.]*\.[0-9.]*|.*[:,\[\]].*")


@dataclass(frozen=True, slots=True)
class NodeLine:
    """One node: its addresses in order of links, and how it takes part.

    ``priority`` (0..1000, default 100): among voters, the higher is elected rather. ``line`` is
    where it stands in the file; it is no part of what two lines are compared by.
    """

    name: str
    addresses: tuple[Address, ...]
    spectator: bool = False
    priority: int = PRIORITY_DEFAULT
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """All nodes, in the order of the file."""

    nodes: tuple[NodeLine, ...]

    @property
    def voters(self) -> tuple[NodeLine, ...]:
        """The nodes that are no spectators."""
        return tuple(node for node in self.nodes if not node.spectator)

    def digest(self) -> str:
        """64 hexadecimal digits over the voter lines, whatever their order and comments."""
        lines = sorted(render_line(node) for node in self.voters)
        return hashlib.sha256("\n".join(["mdcluster voters 1", *lines]).encode()).hexdigest()


def load_cluster_file(path: Path | str = CLUSTER_FILE) -> ClusterFile:
    """Read and parse a file.

    Raises:
        ClusterFileError: it cannot be read or has mistakes; all are in ``mistakes``.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        text = f"cannot be read: {why}; expected one node a line, see clusterips.example"
        raise ClusterFileError([Mistake(str(path), 0, 0, text)]) from None
    return parse_cluster_file(data, str(path))


def parse_cluster_file(data: bytes | str, file: str = CLUSTER_FILE) -> ClusterFile:
    """Parse the content of a file; ``file`` is only its name in messages.

    Raises:
        ClusterFileError: with every mistake found, at most 100.
    """
    return _Parser(file).parse(data)


def render_line(node: NodeLine) -> str:
    """A node as a line of the file, without its end; parsing it gives the same node."""
    words = [",".join(map(str, node.addresses))]
    if node.name != str(node.addresses[0]):
        words.append(node.name)
    if node.spectator:
        words.append("spectator")
    if node.priority != PRIORITY_DEFAULT:
        words.append(f"priority={node.priority}")
    return " ".join(words)


def render(cluster_file: ClusterFile) -> str:
    """The whole file; parsing it gives the same nodes."""
    return "".join(f"{render_line(node)}\n" for node in cluster_file.nodes)


def find_self(
    cluster_file: ClusterFile, name: str | None, local_addresses: Iterable[str]
) -> NodeLine:
    """The line of this node: by ``name`` if given, or by the addresses of this machine.

    ``local_addresses`` are canonical IP addresses, without zones, and host names of this
    machine (see :mod:`mdcluster.config.localhost`).

    Raises:
        SelfNotFoundError: none or several lines match; the text lists them.
    """
    if name is not None:
        return _find_name(cluster_file, name)
    local = frozenset(local_addresses)
    found = [
        node
        for node in cluster_file.nodes
        if any(_is_own(address.host, local) for address in node.addresses)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise SelfNotFoundError(
            f"several lines of clusterips are addresses of this machine: {_listed(found)}; "
            f"say which one this node is with --name, for example --name {found[0].name}"
        )
    raise SelfNotFoundError(
        f"no line of clusterips has an address of this machine ({_bounded(sorted(local))}); "
        f"it lists {_listed(cluster_file.nodes)}; add a line, or say which with --name"
    )


def _is_own(host: str, local: frozenset[str]) -> bool:
    """Whether a host is this machine; all of 127.0.0.0/8 is, though no interface lists it."""
    return host.partition("%")[0] in local or bool(re.fullmatch(r"127(\.[0-9]+){3}", host))


def _find_name(cluster_file: ClusterFile, name: str) -> NodeLine:
    for node in cluster_file.nodes:
        if node.name.lower() == name.lower():
            return node
    raise SelfNotFoundError(
        f"no line of clusterips is named {name!r}{did_you_mean(name, cluster_file.nodes)}; "
        f"it lists {_listed(cluster_file.nodes)}"
    )


def did_you_mean(word: str, known: Iterable[str | NodeLine]) -> str:
    """``, did you mean 'x'?`` if a known word is close to this one, else nothing."""
    names = [item.name if isinstance(item, NodeLine) else item for item in known]
    close = difflib.get_close_matches(word[:NAME_CHARS_MAX].lower(), names, n=1, cutoff=0.7)
    return f", did you mean {close[0]!r}?" if close else ""


def _listed(nodes: Iterable[NodeLine]) -> str:
    return _bounded([f"{node.name} (line {node.line})" for node in nodes])


def _bounded(words: list[str], words_max: int = 12) -> str:
    more = f" and {len(words) - words_max} more" if len(words) > words_max else ""
    return ", ".join(words[:words_max]) + more if words else "none"


class _Parser:
    """One pass over one file: collects nodes and mistakes side by side."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._mistakes: list[Mistake] = []
        self._nodes: list[NodeLine] = []
        self._address_lines: dict[Address, int] = {}
        self._name_lines: dict[str, int] = {}

    def parse(self, data: bytes | str) -> ClusterFile:
        for number, line in enumerate(self._lines(data), start=1):
            self._parse_line(number, line)
        if not self._mistakes:
            self._check_whole()
        if self._mistakes:
            raise ClusterFileError(self._mistakes[:MISTAKES_MAX])
        return ClusterFile(tuple(self._nodes))

    def _mistake(self, line: int, column: int, text: str) -> None:
        if len(self._mistakes) < MISTAKES_MAX:
            self._mistakes.append(Mistake(self._file, line, column, text))

    def _lines(self, data: bytes | str) -> Iterator[str]:
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        if len(raw) > FILE_BYTES_MAX:
            self._mistake(0, 0, f"the file is longer than {FILE_BYTES_MAX} bytes")
            return
        raw_lines = raw.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        for number, raw_line in enumerate(raw_lines, start=1):
            try:
                yield raw_line.removesuffix(b"\r").decode("utf-8")
            except UnicodeDecodeError as error:
                column = len(raw_line[: error.start].decode("utf-8")) + 1
                self._mistake(number, column, "expected UTF-8 text, found other bytes")
                yield ""

    def _parse_line(self, number: int, line: str) -> None:
        if len(line) > LINE_CHARS_MAX:
            self._mistake(number, LINE_CHARS_MAX + 1, f"over {LINE_CHARS_MAX} characters in a line")
            return
        for column, char in enumerate(line, start=1):
            if not char.isprintable() and char != "\t":
                self._mistake(number, column, f"expected text, found the character {char!a}")
                return
        tokens = [(m.start() + 1, m.group()) for m in _TOKEN.finditer(line.partition("#")[0])]
        if tokens:
            self._parse_node(number, tokens)

    def _parse_node(self, number: int, tokens: list[tuple[int, str]]) -> None:
        before = len(self._mistakes)
        column, text = tokens[0]
        addresses = self._parse_addresses(number, column, text)
        rest = tokens[1:]
        name, name_column = (str(addresses[0]) if addresses else ""), column
        if rest and "=" not in rest[0][1] and rest[0][1].lower() not in _OPTIONS:
            name_column, name = rest.pop(0)
            self._check_name(number, name_column, name)
        spectator, priority = self._parse_options(number, rest)
        if len(self._mistakes) == before:
            first = self._name_lines.setdefault(name.lower(), number)
            if first != number:
                self._mistake(number, name_column, f"the name {name!r} is taken by line {first}")
        if len(self._nodes) == NODES_MAX:
            self._mistake(number, column, f"more than {NODES_MAX} nodes")
        elif len(self._mistakes) == before:
            self._nodes.append(NodeLine(name, addresses, spectator, priority, number))

    def _parse_addresses(self, number: int, column: int, text: str) -> tuple[Address, ...]:
        addresses: list[Address] = []
        for piece in text.split(","):
            try:
                address = parse_address(piece)
            except AddressError as error:
                self._mistake(number, column + error.offset, str(error))
            else:
                first = self._address_lines.setdefault(address, number)
                if address in addresses:
                    self._mistake(number, column, f"the address {address} stands here twice")
                elif first != number:
                    self._mistake(number, column, f"the address {address} is that of line {first}")
                elif len(addresses) == ADDRESSES_MAX:
                    self._mistake(number, column, f"more than {ADDRESSES_MAX} addresses of a node")
                addresses.append(address)
            column += len(piece) + 1
        return tuple(addresses)

    def _check_name(self, number: int, column: int, name: str) -> None:
        option = difflib.get_close_matches(name.lower(), _OPTIONS, n=1, cutoff=0.8)
        if option:  # else a mistyped 'spectator' would silently make a voter
            self._mistake(
                number, column, f"{name!r} as a name is too close to option {option[0]!r}"
            )
        elif _ADDRESS_LIKE.fullmatch(name):
            self._mistake(
                number,
                column,
                f"expected a name, found {name!r}: put one node on a line, and further addresses "
                "of the same node behind a comma, without spaces",
            )
        elif not _NAME.fullmatch(name):
            self._mistake(
                number,
                column,
                f"expected a name of up to {NAME_CHARS_MAX} letters, digits, '.', '_' and '-', "
                f"found {name!r}",
            )

    def _parse_options(self, number: int, tokens: list[tuple[int, str]]) -> tuple[bool, int]:
        spectator, priority = False, PRIORITY_DEFAULT
        seen: set[str] = set()
        for column, token in tokens:
            key, equals, value = token.partition("=")
            if key in seen:
                self._mistake(number, column, f"the option {key!r} stands here twice")
            elif key == "spectator" and not equals:
                spectator = True
            elif key == "spectator":
                self._mistake(number, column, "the option 'spectator' takes no value")
            elif key == "priority":
                priority = self._parse_priority(number, column, token, value)
            else:
                self._mistake(
                    number,
                    column,
                    "expected an option, 'spectator' or 'priority=N', found "
                    f"{token!r}{did_you_mean(key, _OPTIONS)}",
                )
            seen.add(key)
        return spectator, priority

    def _parse_priority(self, number: int, column: int, token: str, value: str) -> int:
        if re.fullmatch(r"[0-9]{1,4}", value, re.ASCII) and int(value) <= PRIORITY_MAX:
            return int(value)
        self._mistake(number, column, f"expected priority=0 to {PRIORITY_MAX}, found {token!r}")
        return PRIORITY_DEFAULT

    def _check_whole(self) -> None:
        if not self._nodes:
            self._mistake(0, 0, "no node: expected at least one line 'ADDRESS[:PORT] [NAME]'")
        elif all(node.spectator for node in self._nodes):
            self._mistake(
                self._nodes[0].line, 1, "no voter: expected at least one node without 'spectator'"
            )
