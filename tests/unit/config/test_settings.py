"""``/etc/mdcluster.toml``: defaults, every key, and every mistake with its place."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdcluster.config.errors import MISTAKES_MAX, SettingsError
from mdcluster.config.fencing import Agent, Fencing
from mdcluster.config.fencing import mistakes as mistakes_of
from mdcluster.config.settings import (
    FILE_BYTES_MAX,
    Driver,
    Log,
    Paths,
    Policy,
    Resync,
    Settings,
    load_settings,
    parse_settings,
)
from mdcluster.core.timing import Timing, limits

FULL = """
[cluster]
name = "san-1"
[timing]
lease_ms = 1000
election_min_ms = 1100
election_max_ms = 1500
io_lease_ms = 1400
evict_ms = 2000
probe_deadline_ms = 3000
watchdog_ms = 10000
[paths]
state_dir = "/srv/state"
run_dir = "/srv/run"
[driver]
kind = "embedded"
members = ["/srv/img/*.img", "/srv/more"]
[policy]
local_fault = "leave"
[resync]
speed_max_kib = 200000
window_min_kib = 512
window_max_kib = 8192
[log]
format = "json"
level = "debug"
[fence]
watchdog = "/dev/watchdog"
order = ["watchdog", "agent"]
[fence.agent]
command = "/usr/sbin/fence_ipmilan"
deadline_ms = 30000
settle_ms = 0
verify = false
options = { lanplus = true, username = "admin" }
[fence.agent.nodes.a]
ip = "10.0.0.1"
power_wait = 4
[fence.agent.nodes]
b = { ip = "10.0.0.2" }
"""


AGENT = "[fence.agent]\ncommand = '/usr/sbin/fence_x'\n"
LONG = "[fence.agent.nodes.a]\n" + "".join(f"x{n} = '{'y' * 250}'\n" for n in range(20))


def mistakes(text: str | bytes) -> list[str]:
    """The mistakes of a text, as ``line:column: text`` (or ``text`` without a place)."""
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, "f")
    assert str(caught.value) == "\n".join(map(str, caught.value.mistakes))
    return [str(mistake).removeprefix("f:").lstrip() for mistake in caught.value.mistakes]


def test_nothing_means_defaults(tmp_path: Path) -> None:
    assert parse_settings("") == Settings() == load_settings(tmp_path / "missing")
    assert Settings().cluster_name == "mdcluster"
    assert Settings().timing == Timing()


def test_every_section() -> None:
    assert parse_settings(FULL) == Settings(
        cluster_name="san-1",
        timing=Timing(
            lease_ms=1000,
            election_min_ms=1100,
            election_max_ms=1500,
            io_lease_ms=1400,
            evict_ms=2000,
            probe_deadline_ms=3000,
            watchdog_ms=10000,
        ),
        paths=Paths(Path("/srv/state"), Path("/srv/run"), Path("/srv/run"), Path("/srv/run/nbd")),
        driver=Driver("embedded", ("/srv/img/*.img", "/srv/more")),
        policy=Policy("leave"),
        resync=Resync(200000, 512, 8192),
        log=Log("json", "debug"),
        fence=Fencing(
            Path("/dev/watchdog"),
            ("watchdog", "agent"),
            Agent(
                Path("/usr/sbin/fence_ipmilan"),
                {"lanplus": "1", "username": "admin"},
                {"a": {"ip": "10.0.0.1", "power_wait": "4"}, "b": {"ip": "10.0.0.2"}},
                30_000,
                0,
                verify=False,
            ),
        ),
    )


def test_directories_follow_the_run_directory_unless_given() -> None:
    paths = parse_settings('paths = {run_dir = "/r", lock_dir = "/l"}').paths
    assert (paths.lock_dir, paths.nbd_dir) == (Path("/l"), Path("/r/nbd"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[timng]\nlease_ms = 3", "1:2: unknown section or key 'timng', did you mean 'timing'?"),
        ("lease_ms = 3", "1:1: unknown section or key 'lease_ms'"),
        ("[log]\n\n  levle = 'info'", "3:3: unknown key 'levle' in [log], did you mean 'level'?"),
        ("[log]\nlevel = 'warn'", '2:1: log.level: expected "debug" or'),
        ("[log]\nlevel = true", "found a boolean, true"),
        ("[timing]\nlease_ms = 1.5", "2:1: timing.lease_ms: expected an integer from 1 to 60000"),
        ("[timing]\nlease_ms = '5'", "found a string, '5'"),
        ("[timing]\nlease_ms = true", "found a boolean, true"),
        ("[timing]\nlease_ms = 0", "found an integer, 0"),
        ("[timing]\nlease_ms = 0x" + "f" * 5000, "found an integer of more than 64 bits"),
        ("timing.lease_ms = []", "1:8: timing.lease_ms: expected an integer from 1 to 60000"),
        ("[timing]\nlease_ms = 1979-05-27", "found a date or time, 1979-05-27"),
        ("[cluster]\nname = ''", "cluster.name: expected a name of up to 32"),
        ("[cluster]\nname = 'a b'", "found a string, 'a b'"),
        ("[paths]\nrun_dir = 'run'", "2:1: paths.run_dir: expected an absolute path"),
        ('[paths]\nrun_dir = "/a\\u0000"', "paths.run_dir: expected an absolute path"),
        ("[driver]\nkind = 'kernal'", 'driver.kind: expected "embedded" or "kernel"'),
        ("[driver]\nmembers = '/dev/sd*'", "driver.members: expected an array of up to 256"),
        ("[driver]\nmembers = ['/a', 'b']", "driver.members: expected an absolute path"),
        ("[policy]\nlocal_fault = 'stay'", 'policy.local_fault: expected "fail" or "leave"'),
        ("[resync]\nwindow_min_kib = 65536", "2:1: resync.window_min_kib = 65536 is above"),
        ("[fence]\nwatchdogs = '/dev/w'", "2:1: unknown key 'watchdogs' in [fence], did you mean"),
        ("[fence]\nwatchdog = 'w'", "2:1: fence.watchdog: expected an absolute path"),
        ("[fence]\nwatchdog = '/dev/w'", "2:1: fence.watchdog is /dev/w, but timing.watchdog_ms"),
        ("[timing]\nwatchdog_ms = 10000", "2:1: timing.watchdog_ms is 10000, so the other nodes"),
        ("[fence]\norder = ['agnet']", "not 'agnet', did you mean 'agent'?; found an array"),
        ("[fence]\norder = ['manual']", "not 'manual'; it always comes last"),
        ("[fence]\norder = ['process', 'process']", "expected each provider once"),
        ("[fence]\norder = 'process'", "fence.order: expected an array of some of reboot, agent"),
        ("[fence]\norder = ['agent']", '2:1: fence.order names "agent", but there is no'),
        ("[fence]\norder = ['watchdog']", '2:1: fence.order names "watchdog", but there is no'),
        ("[fence]\norder = ['reboot']", '2:1: fence.order names "reboot", but embedded arrays'),
        ("fence = 1", "1:1: expected a section [fence], found an integer, 1"),
        ("[fence]\nagent = 1", "expected a section [fence.agent], found an integer, 1"),
        ("[fence.agent]\nverify = true", "1:2: fence.agent.command is missing"),
        ("[fence.agent]\ncommand = 'fence_x'", "fence.agent.command: expected an absolute path"),
        (
            "[fence.agent]\ncomand = '/x'\ncommand = '/x'",
            "2:1: unknown key 'comand' in [fence.agent]",
        ),
        (AGENT + "deadline_ms = 5", "fence.agent.deadline_ms: expected an integer from 100"),
        (AGENT + "verify = 1", "fence.agent.verify: expected true or false; found an integer"),
        (AGENT + "options = { action = 'on' }", "expected no option 'action'"),
        (AGENT + "options = { 'a b' = 'on' }", "expected names of options, not 'a b'"),
        (AGENT + "[fence.agent.nodes.a]\nx = ['hidden']", "printable characters, an integer or a"),
        (AGENT + '[fence.agent.nodes.a]\nx = "hidden\\n"', "for x; found a table"),
        (AGENT + "[fence.agent.nodes]\na = 'hidden'", "expected a table of up to 32 options"),
        (AGENT + LONG, "the options for a are longer than 3500 bytes in all"),
        ("log = 1", "1:1: expected a section [log], found an integer, 1"),
        ("[[log]]", "expected a section [log], found an array"),
        ("[log\n", "1:5: not TOML: "),
        ("x = 1\nx = 2", "2:6: not TOML: "),
        ("x = " + "[" * 20_000, "values are nested too deeply"),
        ("x = " + "9" * 5000, "not TOML: "),
        (b"[log]\n# \xff", "2:3: expected UTF-8 text"),
        ("#" * (FILE_BYTES_MAX + 1), "the file is longer than"),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str | bytes, told: str) -> None:
    found = mistakes(text)
    assert len(found) == 1
    assert told in found[0]
    if told[0].isdigit():
        assert found[0].startswith(told)


def test_all_mistakes_at_once() -> None:
    found = mistakes(
        "a = 1\n[log]\nlevel = 1\nx = 2\n[timing]\nlease_ms = 'a'\nheartbeat_ms = -1\n"
    )
    assert [line.partition(": ")[0] for line in found] == ["1:1", "3:1", "4:1", "6:1", "7:1"]


def test_unsafe_timings_are_refused() -> None:
    found = mistakes("[log]\n[timing]\nlease_ms = 200\nsuspect_ms = 100\n")
    assert len(found) == 2
    assert found[0].startswith("2:2: lease survives two lost rounds: 3 x heartbeat_ms = 360 <= ")
    assert found[1].startswith("2:2: suspicion is not nervous: ")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load_settings(tmp_path)
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_settings(tmp_path / "missing", required=True)


def render(settings: Settings) -> str:
    """The settings as a file."""
    parts = {
        "cluster": {"name": settings.cluster_name},
        **{
            name: {f.name: getattr(getattr(settings, name), f.name) for f in fields(kind)}
            for name, kind in (
                ("timing", Timing),
                ("paths", Paths),
                ("driver", Driver),
                ("policy", Policy),
                ("resync", Resync),
                ("log", Log),
            )
        },
    }
    lines = []
    for section, values in parts.items():
        lines.append(f"[{section}]")
        for key, value in values.items():
            if isinstance(value, tuple):
                shown = f"[{', '.join(map(repr, value))}]"
            else:
                shown = str(value) if isinstance(value, int) else f'"{value}"'
            lines.append(f"{key} = {shown}")
    return "\n".join(lines)


paths = st.from_regex(r"(/[a-z0-9_-]{1,9}){1,4}", fullmatch=True)


@given(
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", fullmatch=True),
    directories=st.tuples(paths, paths, paths, paths),
    members=st.lists(paths, max_size=5),
    speed=st.integers(0, 1 << 30),
    retry=st.integers(1, 2000),
)
def test_rendered_settings_read_back(
    name: str, directories: tuple[str, str, str, str], members: list[str], speed: int, retry: int
) -> None:
    settings = Settings(
        cluster_name=name,
        timing=replace(Timing(), retry_min_ms=retry),
        paths=Paths(*map(Path, directories)),
        driver=Driver(members=tuple(members)),
        resync=Resync(speed_max_kib=speed),
    )
    assert parse_settings(render(settings)) == settings


KEYS = [
    "[timing]",
    "[log]",
    "[paths]",
    "lease_ms",
    "level",
    "=",
    "state_dir",
    ".",
    "[",
    "]",
    "{",
    "}",
]
soup = st.lists(
    st.sampled_from([*KEYS, "\n", '"', "'", '"""', "1", "-", ":", "1979-05-27", "\\", "\0", "inf"])
).map("".join)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200), soup))
def test_any_input_is_settings_or_an_error(data: bytes | str) -> None:
    try:
        parse_settings(data)
    except SettingsError as error:
        assert 1 <= len(error.mistakes) <= MISTAKES_MAX


@given(
    st.sampled_from([f.name for f in fields(Timing)]),
    st.integers(-(2**70), 2**70),
)
def test_a_timing_of_any_size(name: str, value: int) -> None:
    try:
        settings = parse_settings(f"[timing]\n{name} = {value}\n")
    except SettingsError as error:
        assert error.mistakes[0].line in (1, 2)
    else:
        low, high = limits(name)
        assert low <= getattr(settings.timing, name) <= high


def test_no_message_repeats_an_option_of_an_agent() -> None:
    for value in ("['hidden']", '"hidden\\n"', f"'{'hidden' * 100}'"):
        for table in ("[fence.agent.options]", "[fence.agent.nodes.a]"):
            (told,) = mistakes(f"{AGENT}{table}\nx = {value}")
            assert "hidden" not in told


@pytest.mark.parametrize(
    ("fencing", "kind", "order"),
    [
        (Fencing(), "embedded", ("process",)),
        (Fencing(), "kernel", ("reboot",)),
        (Fencing(Path("/w"), None, Agent(Path("/a"))), "kernel", ("reboot", "agent", "watchdog")),
        (
            Fencing(Path("/w"), None, Agent(Path("/a"))),
            "embedded",
            ("process", "agent", "watchdog"),
        ),
        (Fencing(Path("/w"), ("watchdog",)), "kernel", ("watchdog",)),
        (Fencing(None, ()), "kernel", ()),
    ],
)
def test_the_order_follows_the_driver_unless_given(
    fencing: Fencing, kind: str, order: tuple[str, ...]
) -> None:
    assert fencing.providers(kind) == order
    timing = Timing(watchdog_ms=10_000 if fencing.watchdog else 0)
    assert list(mistakes_of(fencing, timing, kind)) == []


def test_what_would_prove_nothing_is_refused_for_arrays_of_the_kernel() -> None:
    ((section, key, text),) = mistakes_of(Fencing(None, ("process",)), Timing(), "kernel")
    assert (section, key) == ("fence", "order")
    assert "says nothing of arrays of the kernel" in text


def test_what_is_set_up_is_also_used() -> None:
    told = [text for _, _, text in mistakes_of(Fencing(None, (), Agent(Path("/a"))), Timing(), "")]
    assert told == ['fence.agent is set, but fence.order does not name "agent"']
