"""``/etc/clusterips``: what is read, every mistake with its place, and who this node is."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.config.address import DEFAULT_PORT, Address, AddressError, parse_address
from mdcluster.config.clusterips import (
    FILE_BYTES_MAX,
    ClusterFile,
    NodeLine,
    find_self,
    load_cluster_file,
    parse_cluster_file,
    render,
)
from mdcluster.config.errors import MISTAKES_MAX, ClusterFileError, SelfNotFoundError
from mdcluster.config.localhost import local_addresses, local_hosts

EXAMPLE = Path(__file__).parents[3] / "clusterips.example"


def mistakes(text: str | bytes) -> list[str]:
    """The mistakes of a text, as ``line:column: text``."""
    with pytest.raises(ClusterFileError) as caught:
        parse_cluster_file(text, "f")
    assert str(caught.value) == "\n".join(map(str, caught.value.mistakes))
    return [str(mistake).removeprefix("f:") for mistake in caught.value.mistakes]


def test_a_bare_list_of_addresses() -> None:
    nodes = parse_cluster_file("10.0.0.1\n10.0.0.2\n\n10.0.0.3").nodes
    assert [node.name for node in nodes] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert [node.line for node in nodes] == [1, 2, 4]
    assert nodes[0].addresses == (Address("10.0.0.1", DEFAULT_PORT),)
    assert (nodes[0].spectator, nodes[0].priority) == (False, 100)


def test_everything_on_one_line() -> None:
    text = "Host-1.Example:99,[2001:DB8::1],[fe80::1%eth0]:7\tbeta priority=7 spectator # x\r\na"
    node = parse_cluster_file(text).nodes[0]
    assert node == NodeLine(
        "beta",
        (Address("host-1.example", 99), Address("2001:db8::1"), Address("fe80::1%eth0", 7)),
        spectator=True,
        priority=7,
    )


def test_nodes_of_one_machine_differ_by_port() -> None:
    nodes = parse_cluster_file("127.0.0.1:1\n127.0.0.1:2\n").nodes
    assert [node.name for node in nodes] == ["127.0.0.1:1", "127.0.0.1:2"]


def test_the_example_is_valid() -> None:
    nodes = load_cluster_file(EXAMPLE).nodes
    assert [node.name for node in nodes] == ["alpha", "beta", "gamma", "delta"]
    assert nodes[3].spectator


@pytest.mark.parametrize(
    ("line", "place", "part"),
    [
        ("10.0.0.300", 8, "an octet from 0 to 255, found '300'"),
        ("10.0.0", 1, "four octets"),
        ("10.0.0.08", 8, "write 8"),
        ("0.0.0.0", 1, "not the address of one host"),
        ("224.0.0.1", 1, "not the address of one host"),
        ("10.0.0.1:0", 10, "a port from 1 to 65535, found '0'"),
        ("10.0.0.1:65536", 10, "a port from 1 to 65535"),
        ("10.0.0.1:", 10, "a port from 1 to 65535, found ''"),
        ("10.0.0.1:٣", 10, "a port from 1 to 65535"),
        ("10.0.0.1,", 10, "expected an address, found nothing"),
        ("10.0.0.1, 10.0.0.2", 10, "expected an address, found nothing"),
        (":7", 1, "found nothing before ':'"),
        ("fe80::1", 1, "needs brackets: [fe80::1]"),
        ("2001:db8::1:7946", 1, "[2001:db8::1]:7946 with a port"),
        ("[2001:db8::1", 13, "expected ']'"),
        ("[2001:db8::1]7", 14, "expected ':PORT'"),
        ("[2001:db8::g]", 2, "expected an IPv6 address in brackets, found '2001:db8::g'"),
        ("[::ffff:10.0.0.1]", 2, "write 10.0.0.1"),
        ("[fe80::1]", 2, "needs its interface"),
        ("[fe80::1%]", 10, "an interface name"),
        ("no_underscore", 1, "a host name of letters"),
        ("a..b", 3, "a host name of letters"),
        ("a" * 64, 1, "a host name of letters"),
        ("10.0.0.1 10.0.0.2", 10, "one node on a line"),
        ("10.0.0.1 näme", 10, "expected a name"),
        ("10.0.0.1 spectatr", 10, "too close to option 'spectator'"),
        ("10.0.0.1 a spectatr", 12, "did you mean 'spectator'?"),
        ("10.0.0.1 a prio=3", 12, "expected an option"),
        ("10.0.0.1 priority=1001", 10, "priority=0 to 1000"),
        ("10.0.0.1 priority=", 10, "priority=0 to 1000"),
        ("10.0.0.1 priority=-1", 10, "priority=0 to 1000"),
        ("10.0.0.1 priority=1 priority=2", 21, "stands here twice"),
        ("10.0.0.1 spectator=yes", 10, "takes no value"),
        ("10.0.0.1,10.0.0.1", 10, "stands here twice"),
        ("10.0.0.1 a\0b", 11, "found the character '\\x00'"),
        ("10.0.0.1 " + "x" * 1100, 1025, "over 1024 characters"),
        (",".join(f"10.0.0.{i}" for i in range(1, 10)), 73, "more than 8 addresses"),
    ],
)
def test_a_mistake_has_its_column(line: str, place: int, part: str) -> None:
    found = [m for m in mistakes(f"10.9.9.9\n{line}\n") if part in m]
    assert len(found) == 1, mistakes(f"10.9.9.9\n{line}\n")
    assert found[0].startswith(f"2:{place}: ")


def test_all_mistakes_at_once() -> None:
    found = mistakes(b"10.0.0.1 a\n10.0.0.1 b\n10.0.0.2 A\n\xc3\xa4\xff\n10.0.0.999:0 c x=1\n")
    assert found == [
        "2:1: the address 10.0.0.1 is that of line 1",
        "3:10: the name 'A' is taken by line 1",
        "4:2: expected UTF-8 text, found other bytes",
        "5:12: expected a port from 1 to 65535, found '0'",
        "5:16: expected an option, 'spectator' or 'priority=N', found 'x=1'",
    ]


def test_the_whole_file_is_judged_too() -> None:
    assert mistakes("# nothing\n")[0].strip().startswith("no node")
    assert mistakes("10.0.0.1 spectator")[0].startswith("1:1: no voter")
    assert "longer than" in mistakes("#" * (FILE_BYTES_MAX + 1))[0]
    many = [f"10.0.0.{i}" for i in range(1, 35)]
    assert mistakes("\n".join(many)) == ["33:1: more than 32 nodes", "34:1: more than 32 nodes"]


def test_mistakes_are_bounded() -> None:
    assert len(mistakes("?\n" * 5000)) == MISTAKES_MAX


@pytest.mark.parametrize("name", ["missing", "nul\0", "."])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(ClusterFileError, match="cannot be read"):
        load_cluster_file(f"{tmp_path}/{name}")


def test_the_digest_is_of_voters_only() -> None:
    one = parse_cluster_file("10.0.0.1 a\n10.0.0.2 b\n").digest()
    assert parse_cluster_file("# c\n10.0.0.2 b\n10.0.0.3 s spectator\n10.0.0.1 a").digest() == one
    assert parse_cluster_file("10.0.0.1 a\n10.0.0.2:7 b\n").digest() != one
    assert re.fullmatch(r"[0-9a-f]{64}", one)


THREE = parse_cluster_file("10.0.0.1,10.1.0.1 alpha\n10.0.0.2 beta\n[fe80::3%eth0] gamma\n")
LOOP = parse_cluster_file("127.0.0.1:1 a\n127.0.0.1:2 b\n")


def test_a_node_finds_itself() -> None:
    assert find_self(THREE, None, {"10.1.0.1", "10.0.0.9"}).name == "alpha"
    assert find_self(THREE, None, {"fe80::3"}).name == "gamma"
    assert find_self(THREE, "Beta", {"10.0.0.1"}).name == "beta"
    assert find_self(LOOP, "b", ()).line == 2


@pytest.mark.parametrize(
    ("file", "name", "local", "part"),
    [
        (THREE, None, {"10.0.0.9"}, "no line of clusterips has an address of this machine"),
        (THREE, None, {"10.0.0.1", "10.0.0.2"}, "alpha (line 1), beta (line 2)"),
        (LOOP, None, (), "with --name, for example --name a"),
        (THREE, "betta", (), "did you mean 'beta'?"),
        (THREE, "", (), "no line of clusterips is named ''"),
    ],
)
def test_a_node_that_cannot_tell(
    file: ClusterFile, name: str | None, local: set[str], part: str
) -> None:
    with pytest.raises(SelfNotFoundError) as caught:
        find_self(file, name, local)
    assert part in str(caught.value)


def test_this_machine_has_its_loopback() -> None:
    assert {"127.0.0.1", "::1", "localhost"} <= local_addresses()
    hosts = local_hosts(["127.0.0.77", "192.0.2.250", "a..b", "x" * 300])
    assert "127.0.0.77" in hosts
    assert not hosts & {"192.0.2.250", "a..b", "x" * 300}


WORDS = ["10.0.0.1", "[fe80::1%a]", "a", ":", ",", "spectator", "priority=", "[", "]", "%", "1" * 9]
soup = st.lists(st.sampled_from([*WORDS, " ", "\n", "\t", "#", "\r", "\0", "ä", "=", "."])).map(
    "".join
)


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300), soup))
def test_any_input_is_a_file_or_an_error(data: bytes | str) -> None:
    try:
        parsed = parse_cluster_file(data)
    except ClusterFileError as error:
        assert 1 <= len(error.mistakes) <= MISTAKES_MAX
        assert all(mistake.text for mistake in error.mistakes)
    else:
        assert parse_cluster_file(render(parsed)) == parsed


@given(st.one_of(st.text(max_size=60), soup))
def test_any_text_is_an_address_or_an_error(text: str) -> None:
    try:
        address = parse_address(text)
    except AddressError as error:
        assert 0 <= error.offset <= len(text)
    else:
        assert parse_address(str(address)) == address


hosts = st.one_of(
    st.ip_addresses(v=4).filter(lambda a: not (a.is_multicast or a.is_unspecified)).map(str),
    st.from_regex(r"[a-z][a-z0-9]{0,8}(\.[a-z][a-z0-9-]{0,8}[a-z0-9]){0,3}", fullmatch=True),
    st.integers(1, 2**64).map(lambda low: f"2001:db8::{low & 0xFFFF or 1:x}"),
).filter(lambda host: host != "255.255.255.255")
names = st.from_regex(r"n[A-Za-z0-9_-]{0,20}", fullmatch=True)


@st.composite
def cluster_files(draw: st.DrawFn) -> ClusterFile:
    """Any valid file: unique names and addresses, at least one voter."""
    every = draw(
        st.lists(
            st.builds(Address, hosts, st.integers(1, 65535)), min_size=1, max_size=9, unique=True
        )
    )
    called = draw(st.lists(names, min_size=len(every), max_size=len(every), unique_by=str.lower))
    return ClusterFile(
        tuple(
            NodeLine(
                name if draw(st.booleans()) else str(address),
                (address,),
                spectator=index > 0 and draw(st.booleans()),
                priority=draw(st.integers(0, 1000)),
            )
            for index, (name, address) in enumerate(zip(called, every, strict=True))
        )
    )


@given(cluster_files())
def test_a_rendered_file_reads_back(cluster_file: ClusterFile) -> None:
    read = parse_cluster_file(render(cluster_file))
    assert read == cluster_file
    assert read.digest() == cluster_file.digest()
