"""mdadm's grammar as tables: what is understood as what, and what is refused with which words."""

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdcluster.tools import grammar, values
from mdcluster.tools.actions import create_args, grow_args
from mdcluster.tools.checks import check
from mdcluster.tools.command import Command, Plea, Step
from mdcluster.tools.options import Kind, Mode, Standing
from mdcluster.tools.table import OPTIONS, SYNONYMS, by_letter
from mdcluster.tools.values import UsageError

UUID = "8a2d4b1c:0f3e4a5b:9c6d7e8f:90a1b2c3"
CANONICAL = "8a2d4b1c-0f3e-4a5b-9c6d-7e8f90a1b2c3"


def parse(line: str) -> Command:
    command = grammar.parse(shlex.split(line))
    assert not isinstance(command, Plea)
    return command


def steps(line: str) -> list[tuple[str, str]]:
    return [(step.action, step.device) for step in parse(line).steps]


CREATE = [
    "--create /dev/md/data --level=1 --raid-devices=2 --spare-devices=1 a b c",
    "-C /dev/md/data -l1 -n2 -x1 a b c",
    "-CR /dev/md/data -l1 -n2 -x1 a b c",
    "-C -l 1 -n 2 -x 1 /dev/md/data a b c",
    "-C data a b c -l raid1 -n2 -x1",
    "--create data --level mirror --raid-disks 2 --spare-disks=1 a b c",
    "--cre /dev/md_data --lev=1 --raid-dev=2 --spare-dev=1 a b c",
    "-C -l1 -n2 -x1 -- data a b c",
    "-qC data -l1 -n2 -x1 a b c --metadata=1.2 --bitmap=internal",
    "-C data -l1 -n2 -x1 a b c --name=data",
]


@pytest.mark.parametrize("line", CREATE)
def test_create_in_all_its_spellings(line: str) -> None:
    args = create_args(parse(line))
    assert (args.name, args.level, args.raid_disks, args.spare_disks) == ("data", 1, 2, 1)
    assert args.devices == ("a", "b", "c")
    assert args.run == ("-CR" in line)
    assert not args.assume_clean


def test_create_with_all_its_options() -> None:
    args = create_args(
        parse(
            f"-C /dev/md5 -v -l10 -n4 -pn2 -c256 -z1G -b internal --bitmap-chunk=64M -u {UUID} "
            "--assume-clean -f a missing b missing"
        )
    )
    assert (args.name, args.level, args.layout, args.chunk_sectors) == ("5", 10, 0x102, 512)
    assert (args.size_sectors, args.bitmap_chunk_sectors) == (2 << 20, 64 << 11)
    assert (args.uuid, args.assume_clean, args.force, args.run) == (CANONICAL, True, True, False)
    assert args.devices == ("a", "missing", "b", "missing")
    assert create_args(parse("-C x -l1 -n2 a b -z max")).size_sectors is None


def test_what_mdadm_says_of_clusters_is_taken() -> None:
    line = "-C x -l1 -n2 a b -b clustered --nodes=4 --homehost=any -N any:x -k bitmap -a yes"
    args = create_args(parse(line + " --data-offset=128M"))
    assert (args.name, args.bitmap, args.data_offset_sectors) == ("x", "internal", 128 << 11)


def test_two_proposals_are_never_the_same() -> None:
    command = parse("-C x -l1 -n2 a b")
    assert create_args(command).proposal != create_args(command).proposal


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("/dev/md/x --fail a --remove a", [("fail", "a"), ("remove", "a")]),
        ("/dev/md/x -f a b -r failed -a c", "fail a fail b remove failed add c"),
        ("--manage /dev/md/x --add a --re-add b", "add a re-add b"),
        ("--manage x -a ./missing", "add ./missing"),
        ("x --set-faulty a", "fail a"),
        ("-f x a", "fail a"),
        ("x --re-add missing", "re-add missing"),
        ("--fail /dev/md/x a", "fail a"),
    ],
)
def test_manage_mode_gives_each_device_the_action_before_it(
    line: str, found: str | list[tuple[str, str]]
) -> None:
    if isinstance(found, str):
        words = found.split()
        found = list(zip(words[::2], words[1::2], strict=True))
    command = parse(line)
    assert command.mode == "manage"
    assert command.array == "x"
    assert [(step.action, step.device) for step in command.steps] == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("-D /dev/md/x", [("detail", "x")]),
        ("--detail /dev/md/x /dev/md0 y", [("detail", "x"), ("detail", "0"), ("detail", "y")]),
        (f"-D {UUID}", [("detail", CANONICAL)]),
        ("-Ds", [("detail", "")]),
        ("--detail --scan --verbose", [("detail", "")]),
        ("-Ss", [("stop", "")]),
        ("-S /dev/md_x md7", [("stop", "x"), ("stop", "7")]),
        ("-Dt x", [("detail", "x")]),
        ("-DY x", [("detail", "x")]),
        ("-Db x", [("detail", "x")]),
        ("-Eb a b", [("examine", "a"), ("examine", "b")]),
        ("-E -Y /dev/sdb", [("examine", "/dev/sdb")]),
        ("-W x", [("wait", "x")]),
        ("--wait --scan", [("wait", "")]),
        ("--wait-clean x --wait-clean /dev/md/y", [("wait-clean", "x"), ("wait-clean", "y")]),
        ("--wait-clean --scan", [("wait-clean", "")]),
        ("-R x", [("run", "x")]),
        ("--action=check /dev/md/x", [("action", "x")]),
        ("--misc --action idle x y", [("action", "x"), ("action", "y")]),
        ("-D x -S y", [("detail", "x"), ("stop", "y")]),
        ("--misc --detail x", [("detail", "x")]),
        ("--cluster --json", [("cluster", "")]),
        ("--mdstat", [("mdstat", "")]),
        ("--why --socket=/tmp/s", [("why", "")]),
        ("--check-timing -c /etc/mdcluster.toml", [("check-timing", "")]),
        ("--transfer node2", [("transfer", "node2")]),
        ("--fence-ack=node2", [("fence-ack", "node2")]),
        ("--admit node2 -q", [("admit", "node2")]),
        ("--reload", [("reload", "")]),
    ],
)
def test_misc_mode(line: str, found: list[tuple[str, str]]) -> None:
    assert steps(line) == found


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("--grow /dev/md/x --raid-devices=3", (3, None, False, ())),
        ("-G x -n3 --add /dev/a", (3, None, False, ("/dev/a",))),
        ("-G x -n4 -a /dev/a /dev/b", (4, None, False, ("/dev/a", "/dev/b"))),
        ("-G x -n1 --force", (1, None, False, ())),
        ("-G x -z max", (None, None, True, ())),
        ("--grow x --size=1G", (None, 2 << 20, False, ())),
    ],
)
def test_grow_mode(line: str, asked: tuple[object, ...]) -> None:
    args = grow_args(parse(line))
    assert (args.raid_disks, args.size_sectors, args.size_max, args.devices) == asked
    assert args.array == "x" and args.force == ("--force" in line)


def test_assemble_mode() -> None:
    command = parse("-AR /dev/md/x a b -u " + UUID)
    assert (command.array, command.devices, command.has("run")) == ("x", ("a", "b"), True)
    assert parse("--assemble --scan").steps == ()
    assert parse("-As x y").devices == ("x", "y")
    assert parse("-A x -f").has("force")
    assert parse(f"-As --uuid={UUID}").given["uuid"] == UUID


@pytest.mark.parametrize(
    ("line", "mode", "array", "found", "given"),
    [
        ("-F --scan -1", "monitor", "", "", "scan oneshot"),
        ("--follow x y -m root -p /bin/p -y", "monitor", "", "x y", "mail program syslog"),
        ("x --monitor y -d 5 -r 10", "monitor", "", "x y", "delay increment"),
        ("-Ff -i /run/pid -s -t", "monitor", "", "", "daemonise pid-file scan test"),
        ("-Fs --alert=p --no-sharing", "monitor", "", "", "scan program no-sharing"),
        ("-I /dev/a", "incremental", "", "/dev/a", ""),
        ("-If /dev/a --path p", "incremental", "", "/dev/a", "fail path"),
        ("-IRs", "incremental", "", "", "run scan"),
        ("-Ir", "incremental", "", "", "rebuild-map"),
        ("-B x -l1 -n2 a b", "build", "x", "a b", "level raid-devices"),
        ("-B x a b -W c --write-behind", "build", "x", "a b c", "write-mostly write-behind"),
        ("--auto-detect", "auto-detect", "", "", ""),
        ("-C x -a yes -ax a -W b -k ppl", "create", "x", "a b", "auto consistency-policy "
         "write-mostly"),
        ("-C x --write-behind=256 a", "create", "x", "a", "write-behind"),
        ("-A x -a yes -m 3 -U uuid -c f", "assemble", "x", "", "auto super-minor update config"),
        ("-G x -Z 1G -k bitmap -d5", "grow", "x", "", "array-size consistency-policy delay"),
        ("-G x -bnone --nodes 4", "grow", "x", "", "bitmap nodes"),
        ("x -a a -W b -w c", "manage", "x", "a b c", "write-mostly readwrite"),
        ("--manage x -o", "manage", "x", "", "readonly"),
        ("x --add-spare a --add-journal b", "manage", "x", "a b", ""),
        ("x --re-add a --update=bbl", "manage", "x", "a", "update"),
        ("-X a b", "misc", "", "a b", ""),
        ("-Xb a", "misc", "", "a", "brief"),
        ("-Q a", "misc", "", "a", ""),
        ("a", "misc", "", "a", ""),
        ("-QD x", "misc", "", "x", ""),
        ("-QE a", "misc", "", "a", ""),
        ("-Es --config=partitions", "misc", "", " ", "scan config"),
        ("--examine-badblocks a", "misc", "", "a", ""),
        ("--zero-superblock -f a", "misc", "", "a", "force"),
        ("-o x -w y", "misc", "", "x y", ""),
        ("--udev-rules", "misc", "", " ", ""),
        ("--udev-rules=f", "misc", "", " ", "udev-rules"),
        ("--dump=d a", "misc", "", "a", "dump"),
        ("--kill-subarray=0 a", "misc", "", "a", "kill-subarray"),
        ("--detail-platform -Y", "misc", "", " ", "export"),
        ("-D x --no-devices --prefer=by-id", "misc", "", "x", "no-devices prefer"),
        ("-E a --sparc2.2", "misc", "", "a", "sparc2.2"),
    ],
)  # fmt: skip
def test_all_of_mdadms_grammar_is_read(
    line: str, mode: str, array: str, found: str, given: str
) -> None:
    """Whether the cluster honours it is another question."""
    command = grammar.read(shlex.split(line))
    assert isinstance(command, Command)
    assert (command.mode, command.array) == (mode, array)
    assert " ".join(command.devices) == found.strip()
    assert set(command.given) - {"udev-rules"} == set(given.split()) - {"udev-rules"}


def test_help_and_version_need_no_mode_and_end_the_line() -> None:
    assert grammar.parse(["--help", "--nonsense"]) == Plea("help", None)
    assert grammar.parse(["-C", "-h"]) == Plea("help", "create")
    assert grammar.parse(["-V"]) == Plea("version", None)
    assert grammar.parse(["--help-options"]) == Plea("help-options", None)
    assert grammar.parse(["-c", "--help"]) == Plea("help-config", None)


def test_what_begins_as_one_option_of_mdadm_is_that_one() -> None:
    assert grammar._find_long("ch").name == "chunk"  # and not --check-timing
    assert grammar._find_long("daemon").name == "daemonise"
    assert grammar._find_long("relo").name == "reload"


FORBIDDEN = [
    ("", 2, "nothing to do"),
    ("x y", 2, "before a second device"),
    ("--detial x", 2, "did you mean --detail?"),
    ("--raid-device=2", 2, "does not set the mode"),
    ("-C x --raid=2 -l1 a", 1, "You haven't given enough devices"),
    ("-detail x", 2, "did you mean --detail?"),
    ("--as x", 2, "ambiguous: --assemble, --assume-clean"),
    ("--tra=1 --relo", 2, "--reload cannot be given with --transfer"),
    ("--re x", 2, "ambiguous: --re-add, --readonly, --readwrite, --rebuild-map, --release"),
    ("-C x -l1 -n2 a b --monitor", 2, '--monitor would set mdcadm mode to "monitor"'),
    ("-G", 2, "an md device must be given in this mode"),
    ("-G x", 1, "give --raid-devices or --size"),
    ("-G x -n3 -z max", 1, "cannot change component size at the same time as other changes"),
    ("-G x -bnone", 1, "only its bitmap says what it may have been writing"),
    ("-G x -b /f", 2, "a file cannot be shared by nodes"),
    ("-G x -b internal -n3", 1, "--bitmap changes cannot be used with other geometry changes"),
    ("-G x -b internal -a y", 1, "--bitmap changes cannot be used with other geometry changes"),
    ("-G x -b internal --bitmap-chunk=64M", 1, "bitmaps keep their shape"),
    ("-G x -Z 1G", 1, "it does not outlast a stop, and nodes would differ"),
    ("-G x -n1", 2, "'1' is an unusual number of drives"),
    ("-G x -n0", 2, "invalid number of raid devices: 0"),
    ("-G x -n3 -l10", 1, "--level is refused for arrays of the cluster: an array keeps its level"),
    ("-G x -n3 /dev/a", 2, "Must give -a/--add for devices to add: /dev/a"),
    ("-D x -S", 2, "--stop needs a device after it"),
    ("-DQ x", 2, "--query cannot be given with --detail"),
    ("-D x -S y --json", 2, "--json prints one document"),
    ("-G x -n3 --add", 2, "--add needs a device"),
    ("-G x -n3 --add a a", 2, "device a is given twice"),
    ("-G x -n3 -a missing", 2, "'missing' only meaningful with"),
    ("-G x -z0", 2, "invalid size: 0"),
    ("-G x -z1G -a y", 1, "--size takes no device, but y is given"),
    ("-G x --fail y", 2, "option --fail not valid in grow mode"),
    ("-C x -l1 -n2 a b -W c", 1, "--write-mostly is refused"),
    ("--detail=x", 2, "--detail takes no value, but 'x' is given"),
    ("-C x --level", 2, "--level needs a value: --level LEVEL"),
    ("-C x -l", 2, "-l needs a value"),
    ("-l1 -C x", 2, "-l does not set the mode, and so cannot be the first option."),
    ("-C x -A", 2, '-A would set mdcadm mode to "assemble", but it is already set to "create".'),
    ("x --fail a --detail", 2, '--detail would set mdcadm mode to "misc"'),
    ("x --stop", 2, "No action given for x in --misc mode"),
    ("--misc x", 2, "No action given for x in --misc mode"),
    ("--misc", 2, "no action given"),
    ("-D -l1 x", 2, "option -l not valid in misc mode, only in create and build and grow mode"),
    ("-C x --fail a", 2, "option --fail not valid in create mode"),
    ("-A x --level=1", 2, "not valid in assemble mode"),
    ("--manage x y", 2, "Must give one of -a/-r/-f for subsequent devices at y"),
    ("--manage", 2, "an md device must be given in this mode"),
    ("--manage x", 2, "nothing to do with x"),
    ("x --fail", 2, "--fail needs a device"),
    ("x --fail --remove a", 2, "--fail needs a device"),
    ("x --fail failed", 2, "'failed' only meaningful with --remove or --re-add"),
    ("x --add missing", 2, "'missing' only meaningful with --re-add"),
    ("x --add a a", 2, "device a is given twice"),
    ("--manage x --run --stop", 2, "Cannot both Stop and Run an array"),
    ("-D", 2, "No devices given."),
    ("-S", 2, "No devices given."),
    ("-E", 2, "No devices to examine"),
    ("-Ss x", 2, "--stop not meaningful with both --scan and a device name."),
    ("-D -S x", 2, "--stop cannot be given with --detail"),
    ("-E a -D x", 2, "--detail cannot be given with --examine"),
    ("--cluster x", 2, "--cluster takes no device, but x is given"),
    ("--cluster --mdstat", 2, "--mdstat cannot be given with --cluster"),
    ("--transfer a --transfer b", 2, "given twice"),
    ("--transfer a b", 2, "--transfer takes no device, but b is given"),
    ("--transfer", 2, "--transfer needs a value: --transfer NODE"),
    ("-S x --test", 2, "--test is only meaningful with --detail"),
    ("-S x --export", 2, "--export is only meaningful with --detail or --examine"),
    ("-D x --export --json", 2, "--export and --json contradict each other"),
    ("-D x --brief --export", 2, "--brief and --export contradict each other"),
    ("-S x -c f", 2, "--config is only meaningful with --check-timing"),
    ("-D /dev/sda1", 1, "/dev/sda1 does not appear to be an md device"),
    ("-D /dev/md/", 1, "does not appear to be an md device"),
    ("-D ''", 2, "an empty word"),
    ("-C x -n2 a b", 1, "a RAID level is needed to create an array."),
    ("-C x -l1 a b", 1, "no raid-devices specified."),
    ("-C x -l5 -n3 a b c", 2, "raid level 5 cannot be shared by nodes: use raid1 or raid10"),
    ("-C x -l7 -n3 a b c", 2, "invalid raid level: 7"),
    ("-C x -l=1 -n2 a b", 2, "invalid raid level: =1, write -l1"),
    ("-C x -l1 -l10 -n2 a b", 2, "raid level may only be set once. Second value is 10."),
    ("-C x -l1 -n2 -n3 a b", 2, "raid-devices set twice: 2 and 3"),
    ("-C x -l1 -n two a b", 2, "invalid number of raid devices: two"),
    ("-C x -l1 -n0", 2, "invalid number of raid devices: 0"),
    ("-C x -l1 -n-1", 2, "invalid number of raid devices: -1"),
    ("-C x -l1 -n1 a", 2, "'1' is an unusual number of drives"),
    ("-C x -l10 -n1 --force a", 1, "at least 2 raid-devices needed for level 10"),
    ("-C x -l1 -n2 a", 1, "You haven't given enough devices"),
    ("-C x -l1 -n2 a b c", 1, "You have listed more devices (3) than are in the array(2)!"),
    ("-C x -l1 -n2 missing missing", 1, "Subdevs can't be all missing"),
    ("-C x -l1 -n2 -x1 a b missing", 1, "a spare cannot be 'missing'"),
    ("-C x -l1 -n2 a a", 2, "device a is given twice"),
    ("-C x -l1 -n2 -c64 a b", 1, "specifying chunk size is forbidden for this level"),
    ("-C x -l1 -n2 -pn2 a b", 2, "layout not meaningful for raid1 arrays."),
    ("-C x -l10 -n2 -pf2 a b", 2, "far and offset cannot be shared"),
    ("-C x -l10 -n2 -px a b", 2, "layout for raid10 must be"),
    ("-C x -l10 -n2 -c3 a b", 2, "invalid chunk/rounding value: 3"),
    ("-C x -l10 -n2 -c100 a b", 2, "invalid chunk/rounding value: 100"),
    ("-C x -l1 -n2 -z0 a b", 2, "invalid size: 0"),
    ("-C x -l1 -n2 -z1X a b", 2, "invalid size: 1X"),
    ("-C x -l1 -n2 -b internl a b", 2, "bitmap must be 'internal' or 'none', not 'internl'"),
    ("-C x -l1 -n2 -b /tmp/b a b", 2, "a file cannot be shared by nodes"),
    ("-C x -l1 -n2 -b none --bitmap-chunk=1M a b", 2, "contradict each other"),
    ("-C x -l1 -n2 --bitmap-chunk=3M a b", 2, "invalid bitmap chunksize: 3M"),
    ("-C x -l1 -n2 -e0.90 a b", 2, "metadata 0.90 cannot be shared by nodes: use 1.2"),
    ("-C x -l1 -n2 -e9 a b", 2, "unrecognised metadata identifier: 9"),
    ("-C x -l1 -n2 -u 123 a b", 2, "Bad uuid: 123"),
    ("-C x -l1 -n2 --name=y a b", 2, "--name=y and the array x contradict each other"),
    ("-C 'a b' -l1 -n2 a b", 2, "cannot name a device"),
    (f"-C {'x' * 33} -l1 -n2 a b", 2, "is too long, 32 chars max."),
    ("-C x -l1 -n2 a b --homehost=alpha", 2, "at home on all its nodes"),
    ("-C x -l1 -n2 a b -N alpha:x", 2, "at home on all its nodes"),
    ("-C x -l1 -n2 a b --nodes=3", 1, "only compatible with --bitmap=clustered"),
    ("-C x -l1 -n2 a b -b clustered --nodes=1", 2, "needs two nodes at least"),
    ("-C x -l1 -n2 a b -b clustered --nodes=33", 2, "for the bitmaps of 32"),
    ("-C x -l1 -n2 a b --data-offset=variable", 2, "at one offset on all members"),
    ("-C x -l1 -n2 a b --data-offset=3", 2, "invalid data-offset: 3"),
    ("-C x -l1 -n2 a b -k ppl", 2, "cannot be shared by nodes: use bitmap"),
    ("-C x -l1 -n2 a b -k x", 2, "Invalid consistency policy: x"),
    ("-C x -l1 -n2 a b -o", 1, "--readonly is refused"),
    ("-A x --no-degraded", 1, "not meaningful without a --scan assembly"),
    ("-As --no-degraded -R", 2, "contradict each other"),
    ("-A x --nodes=3", 1, "there is room for 32 nodes already"),
    ("-A", 2, "an md device must be given in this mode"),
    ("-A x -b internal", 2, "no need to specify --bitmap when assembling"),
    ("-A x missing", 2, "'missing' only meaningful with"),
    ("-A x a a", 2, "device a is given twice"),
    ("-A x --name=y", 2, "contradict each other"),
    (f"-As x -u {UUID}", 2, "takes no device name"),
    ("-D -! x", 2, "unknown option -!"),
    ("x --fail b --with a", 2, "--with must follow --replace"),
    ("x --replace a --with b c", 2, "--with c: not a list of spares"),
    ("x --replace a --with missing", 2, "'missing' only meaningful with"),
    ("--with b", 2, "--with must follow --replace"),
    ("--action=scrub x", 2, "invalid action scrub: expected check, repair, idle"),
    ("--action=resync x", 2, "the writer does that by itself"),
    ("--action=check", 2, "No devices given."),
    ("--action=check --scan", 2, "--scan is only meaningful with"),
    ("--action=check a --action=repair b", 2, "--action given twice: check and repair"),
    ("x --add y --action=check", 2, '--action would set mdcadm mode to "misc"'),
]


@pytest.mark.parametrize(("line", "code", "said"), FORBIDDEN)
def test_what_is_forbidden_is_explained(line: str, code: int, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(line)
    assert said in str(caught.value)
    assert caught.value.exit_code == code
    assert "\n" not in str(caught.value)


WHERE = {
    Mode.CREATE: "-C x -l1 -n2 a b",
    Mode.BUILD: "-B x -l1 -n2 a b",
    Mode.ASSEMBLE: "-A x",
    Mode.MANAGE: "x -a a",
    Mode.MISC: "-D x",
    Mode.MONITOR: "-Fs",
    Mode.GROW: "-G x -n3",
    Mode.INCREMENTAL: "-I a",
    Mode.AUTODETECT: "--auto-detect",
}
REFUSED = [
    (option.name, mode)
    for option in OPTIONS.values()
    for mode in option.modes
    if option.refusal(mode) and option.kind is not Kind.ACTION and option.forces in (None, mode)
]
LINES = [
    WHERE[mode]
    + ("" if name == mode else f" --{name}" + ("=1" if OPTIONS[name].value else ""))
    + (" c" if OPTIONS[name].kind is Kind.MEMBER else "")
    for name, mode in REFUSED
]


@pytest.mark.parametrize("line", LINES)
def test_what_is_refused_is_refused_with_its_reason(line: str) -> None:
    command = grammar.read(shlex.split(line))
    assert isinstance(command, Command)
    with pytest.raises(UsageError) as caught:
        check(command)
    assert caught.value.exit_code in (1, 2)
    assert " is refused for arrays of the cluster: " in str(caught.value)


@pytest.mark.parametrize(
    "action",
    [o.name for o in OPTIONS.values() if o.kind is Kind.ACTION and o.standing is Standing.REFUSED],
)
def test_actions_that_are_refused_say_why(action: str) -> None:
    value = "=1" if OPTIONS[action].needs_value else ""
    with pytest.raises(UsageError, match=f"--{action} is refused for arrays of the cluster: "):
        parse(f"--{action}{value} x")


def test_the_table_holds_together() -> None:
    assert not set(SYNONYMS) & set(OPTIONS)
    assert {"create", "auto-detect"} <= set(OPTIONS) and set(Mode) <= set(OPTIONS)
    for option in OPTIONS.values():
        assert set(option.refused) <= set(option.modes), option
        assert option.why or option.standing is not Standing.REFUSED, option
        assert not option.letter or any(by_letter(option.letter, m) is option for m in Mode), option
        if option.kind is Kind.ANY:
            assert option.modes == tuple(Mode), option


@pytest.mark.parametrize(
    ("text", "sectors"),
    [("1", 2), ("64K", 128), ("1M", 2048), ("2G", 4 << 20), ("1T", 2 << 30), ("8s", 8)],
)
def test_sizes_are_mdadms(text: str, sectors: int) -> None:
    assert values.parse_size(text) == sectors


@pytest.mark.parametrize("text", ["", "0", "-1", "1k", "1KiB", "K", "1.5G", "1 M", "9" * 30, "٣"])
def test_what_is_no_size(text: str) -> None:
    assert values.parse_size(text) is None


def test_uuids_in_all_their_forms() -> None:
    for text in (UUID, CANONICAL, CANONICAL.upper(), UUID.replace(":", ""), UUID.replace(":", ".")):
        assert values.uuid(text) == CANONICAL


WORDS = st.sampled_from(
    [f"--{name}" for name in (*OPTIONS, *SYNONYMS)]
    + [f"-{option.letter}" for option in OPTIONS.values() if option.letter]
) | st.text(max_size=6).map(lambda text: text or "x")


@given(st.lists(WORDS, max_size=8))
@settings(max_examples=500, deadline=None)
def test_no_words_end_in_anything_but_a_command_or_an_explanation(words: list[str]) -> None:
    try:
        command = grammar.parse(words)
    except UsageError as error:
        assert str(error)
        assert error.exit_code in (1, 2)
    else:
        assert isinstance(command, Command | Plea)
        if isinstance(command, Command):
            assert all(isinstance(step, Step) for step in command.steps)


def test_adopt_and_release() -> None:
    assert steps("--adopt /dev/x /dev/y") == [("adopt", "/dev/x"), ("adopt", "/dev/y")]
    assert parse("--adopt --name=n /dev/x").given["name"] == "n"
    assert steps("--release /dev/md/data old") == [("release", "data"), ("release", "old")]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("--adopt", "No devices to adopt"),
        ("--adopt /dev/x /dev/x", "given twice"),
        ("--adopt --name=. /dev/x", "name"),
        ("--adopt --scan", "--scan is only meaningful"),
        ("--adopt /dev/x --stop data", "cannot be given with"),
        ("--release", "No devices given"),
        ("--release --scan", "--scan is only meaningful"),
        ("--release data --name=x", "--name is only meaningful with --adopt"),
    ],
)
def test_adopt_and_release_misused(line: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse(line)
