"""What a command line must hold as a whole: nothing missing, nothing that contradicts.

Source of the rules and their words: mdadm 4.6, mdadm.c, Create.c, Manage.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from . import values
from .command import KEYWORDS, MEMBER_ACTIONS, MISC_ACTIONS, SCOPED_ACTIONS, Command, Step
from .options import Mode
from .table import OPTIONS
from .values import UsageError

REFUSED_EXIT: Final = 1

_FORMATTED: Final = {"detail", "examine", "examine-bitmap", "examine-badblocks", "detail-platform"}
_ON_DEVICES: Final = ("examine", "examine-bitmap", "examine-badblocks", "zero-superblock")
"""Actions of misc mode on members."""
_REPORTS: Final = {*_FORMATTED, "query", "wait", "wait-clean", "udev-rules", "dump"} | {
    *("cluster", "mdstat", "why", "check-timing", "events", "watch", "history"),
}
_ON_ARRAYS: Final = {
    *("detail", "stop", "run", "readonly", "readwrite"),
    *("action", "wait", "wait-clean", "release", "pause", "resume"),
    *SCOPED_ACTIONS,
}
"""Those on arrays; the others are on either, or on something else."""
_ON_ALL: Final = ("pause", "resume")
"""Those that are on all arrays if none is named."""


def check(command: Command) -> None:
    """:class:`UsageError` says why the cluster refuses it, or what is missing or contradicts."""
    _check_refused(command)
    _check_formats(command)
    if command.array:
        command.array = values.array_name(command.array)
    _BY_MODE[command.mode](command)


def _check_refused(command: Command) -> None:
    mode = command.mode
    actions = dict.fromkeys(step.action for step in command.steps)
    for name in (mode, *actions, *command.given):
        why = OPTIONS[name].refusal(mode) if name in OPTIONS else ""
        if why:
            raise UsageError(f"--{name} is refused for arrays of the cluster: {why}", REFUSED_EXIT)


def _check_formats(command: Command) -> None:
    """Which output options go with what, and which exclude each other."""
    formats = [name for name in ("brief", "export", "json") if command.has(name)]
    if len(formats) > 1:
        first, second = formats[:2]
        raise UsageError(f"--{first} and --{second} contradict each other: give one of them")
    actions = {step.action for step in command.steps}
    for name in ("brief", "export"):
        if command.has(name) and not actions <= _FORMATTED:
            raise UsageError(f"--{name} is only meaningful with --detail or --examine")
    if command.has("dry-run") and not _changes(command, actions):
        raise UsageError("--dry-run is only meaningful with a change")
    if command.has("json") and len(command.parts()) > 1:
        raise UsageError("--json prints one document: give one action")
    if command.has("readonly") and command.has("readwrite"):
        raise UsageError("Cannot set both readonly and readwrite")
    if command.has("run") and command.has("stop"):
        raise UsageError("Cannot both Stop and Run an array")


def _changes(command: Command, actions: set[str]) -> bool:
    """Whether it changes anything, and through the daemon."""
    if command.mode is Mode.MISC:
        return not actions & _REPORTS
    return command.mode is not Mode.MONITOR


def _check_misc(command: Command) -> None:
    action, device = command.steps[-1]
    _check_misc_options(command, action)
    if action in MISC_ACTIONS and not device:
        if action in ("examine", "adopt") and not command.has("scan"):
            raise UsageError(f"No devices to {action}")
        if action in _ON_ALL:
            return
        if not command.has("scan") or action == "run":
            raise UsageError("No devices given.")
    elif command.has("scan") and action == "stop":
        raise UsageError("--stop not meaningful with both --scan and a device name.")
    if action == "adopt":
        _no_doubles(command.devices)
        if "name" in command.given:
            values.new_name(command.given["name"])
    command.steps = tuple(
        Step(step.action, values.array_name(step.device))
        if step.device and step.action in _ON_ARRAYS
        else step
        for step in command.steps
    )


def _check_misc_options(command: Command, action: str) -> None:
    for name, actions in (
        ("test", ("detail",)),
        ("config", ("check-timing", "examine", "detail")),
        ("metadata", _ON_DEVICES),
        ("name", ("adopt", "update-subarray")),
        ("sparc2.2", ("examine",)),
        ("kinds", ("events",)),
        ("scan", ("detail", "examine", "stop", "run", "wait", "wait-clean", "detail-platform")),
    ):
        if command.has(name) and action not in actions:
            places = " or ".join(f"--{one}" for one in actions)
            raise UsageError(f"--{name} is only meaningful with {places}")
    for name, check_value in (("metadata", values.metadata), ("action", values.action)):
        if command.has(name):
            check_value(command.given[name])


def _check_create(command: Command) -> None:
    given = command.given
    if "raid-devices" not in given:
        raise UsageError("no raid-devices specified.", 1)
    if "level" not in given:
        raise UsageError("a RAID level is needed to create an array.", 1)
    level = values.level(given["level"])
    disks = values.count(given["raid-devices"], "raid devices", 1)
    spares = values.count(given.get("spare-devices", "0"), "spare-devices", 0)
    if disks == 1 and "force" not in given:
        raise UsageError(
            "'1' is an unusual number of drives for an array, so it is probably a mistake. "
            "If you really mean it you will need to specify --force."
        )
    if level == 1 and "chunk" in given:
        raise UsageError("specifying chunk size is forbidden for this level", 1)
    if level == 1 and "layout" in given:
        raise UsageError("layout not meaningful for raid1 arrays.")
    if level == 10 and disks < 2:
        raise UsageError("at least 2 raid-devices needed for level 10", 1)
    _check_create_values(given)
    _check_create_devices(command, disks, spares)
    _check_name(command)
    values.new_name(command.array)


def _check_name(command: Command) -> None:
    name = command.given.get("name")
    if name is not None and values.new_name(values.without_host(name)) != command.array:
        raise UsageError(
            f"--name={name} and the array {command.array} contradict each other: "
            "an array's device is /dev/md/ and its name"
        )


def _check_create_values(given: dict[str, str]) -> None:
    for name, check in (
        ("chunk", values.chunk_sectors),
        ("layout", values.raid10_layout),
        ("size", values.device_sectors),
        ("bitmap", values.bitmap),
        ("bitmap-chunk", values.bitmap_chunk_sectors),
        ("metadata", values.metadata),
        ("uuid", values.uuid),
        ("data-offset", values.data_offset),
        ("consistency-policy", values.consistency_policy),
        ("nodes", values.nodes),
        ("homehost", values.homehost),
    ):
        if name in given:
            check(given[name])
    if "nodes" in given and given.get("bitmap") != "clustered":
        raise UsageError("--nodes argument only compatible with --bitmap=clustered", 1)
    if "name" in given and ":" in given["name"]:
        values.homehost(given["name"].partition(":")[0])
    if given.get("bitmap") == "none" and "bitmap-chunk" in given:
        raise UsageError("--bitmap=none and --bitmap-chunk contradict each other: give one of them")


def _check_create_devices(command: Command, disks: int, spares: int) -> None:
    devices = command.devices
    if len(devices) > disks + spares:
        raise UsageError(
            f"You have listed more devices ({len(devices)}) than are in the array"
            f"({disks + spares})!",
            1,
        )
    if len(devices) < disks + spares:
        raise UsageError(
            "You haven't given enough devices (real or missing) to create this array: "
            f"{len(devices)} of {disks + spares}",
            1,
        )
    if all(device == "missing" for device in devices[:disks]):
        raise UsageError("Subdevs can't be all missing", 1)
    if "missing" in devices[disks:]:
        raise UsageError("a spare cannot be 'missing': give fewer spare-devices", 1)
    _no_doubles([device for device in devices if device != "missing"])


def _check_assemble(command: Command) -> None:
    given = command.given
    if "bitmap" in given:
        raise UsageError(
            "no need to specify --bitmap when assembling: every member has its bitmaps"
        )
    for name, check in (("uuid", values.uuid), ("metadata", values.metadata)):
        if name in given:
            check(given[name])
    if command.has("no-degraded") and not command.has("scan"):
        raise UsageError("--no-degraded not meaningful without a --scan assembly.", 1)
    if command.has("no-degraded") and command.has("run"):
        raise UsageError("--no-degraded and --run contradict each other: give one of them")
    if command.has("scan"):
        command.steps = tuple(
            Step("array", values.array_name(step.device)) for step in command.steps
        )
        if ("uuid" in given or "name" in given) and command.steps:
            raise UsageError("--scan with --uuid or --name takes no device name")
        return
    if "missing" in command.devices:
        raise UsageError("'missing' only meaningful with --create and --re-add")
    _no_doubles(command.devices)
    _check_name(command)


def _check_manage(command: Command) -> None:
    others = ("stop", "run", "readonly", "readwrite")
    if not command.steps and not any(map(command.has, others)):
        raise UsageError(f"nothing to do with {command.array}: give --add, --remove or --fail")
    words = {word for keywords in KEYWORDS.values() for word in keywords} | {"missing"}
    for step in command.steps:
        if step.device in words and step.device not in KEYWORDS.get(step.action, ()):
            fit = " or ".join(f"--{a}" for a, known in KEYWORDS.items() if step.device in known)
            raise UsageError(
                f"'{step.device}' only meaningful with {fit}, not --{step.action}; "
                f"a file of that name is ./{step.device}"
            )
    olds = [step.action for step in command.steps]
    for count, action in enumerate(olds):
        before = olds[:count]
        if action == "with" and before.count("with") >= before.count("replace"):
            device = command.steps[count].device
            raise UsageError(f"--with {device}: not a list of spares for the devices of --replace")
    for action in MEMBER_ACTIONS:
        _no_doubles([step.device for step in command.steps if step.action == action])


def _check_grow(command: Command) -> None:
    """Source: mdadm Grow.c (Grow_reshape)."""
    given = command.given
    if "bitmap" in given:
        _check_grow_bitmap(command)
        return
    if "size" in given and "raid-devices" in given:
        raise UsageError(
            "cannot change component size at the same time as other changes. "
            "Change size first, then check data is intact before making other changes.",
            1,
        )
    if "size" not in given and "raid-devices" not in given:
        raise UsageError("no changes to --grow: give --raid-devices or --size", 1)
    if "size" in given:
        values.device_sectors(given["size"])
        if command.steps:
            raise UsageError(f"--size takes no device, but {command.steps[0].device} is given", 1)
        return
    disks = values.count(given["raid-devices"], "raid devices", 1)
    if disks == 1 and "force" not in given:
        raise UsageError(
            "'1' is an unusual number of drives for an array, so it is probably a mistake. "
            "If you really mean it you will need to specify --force."
        )
    if "missing" in command.devices:
        raise UsageError("'missing' only meaningful with --create and --re-add")
    _no_doubles(command.devices)


def _check_grow_bitmap(command: Command) -> None:
    """Source: mdadm.c."""
    if command.steps or {"size", "raid-devices"} & set(command.given):
        raise UsageError(
            "--bitmap changes cannot be used with other geometry changes in --grow mode", 1
        )
    if values.bitmap(command.given["bitmap"]) == "none":
        raise UsageError(
            "--bitmap=none is refused for arrays of the cluster: after a node's death only its "
            "bitmap says what it may have been writing",
            REFUSED_EXIT,
        )


def _no_doubles(devices: Sequence[str]) -> None:
    seen = set()
    for device in devices:
        if device in seen:
            raise UsageError(f"device {device} is given twice")
        seen.add(device)


def _check_monitor(command: Command) -> None:
    """Source: mdadm.c."""
    given = command.given
    if not command.steps and not command.has("scan"):
        raise UsageError("Cannot monitor: need --scan or at least one device", 1)
    if command.has("pid-file") and not command.has("daemonise"):
        raise UsageError("Cannot write a pid file when not in daemon mode", 1)
    if "delay" in given:
        values.count(given["delay"], "seconds", 1)
    for name in ("mail", "program"):
        if not given.get(name, "x").strip() or not given.get(name, "x").isprintable():
            raise UsageError(f"--{name} needs a value that can be printed")
    command.steps = tuple(Step("array", values.array_name(step.device)) for step in command.steps)
    if "increment" in given and values.count(given["increment"], "percents", 1) > 99:
        raise UsageError("please specify positive integer between 1 and 99 as rebuild increments.")


def _nothing_more(command: Command) -> None:
    """What is refused as a whole."""


_BY_MODE: Final = {
    Mode.CREATE: _check_create,
    Mode.BUILD: _nothing_more,
    Mode.ASSEMBLE: _check_assemble,
    Mode.MANAGE: _check_manage,
    Mode.GROW: _check_grow,
    Mode.MISC: _check_misc,
    Mode.MONITOR: _check_monitor,
    Mode.INCREMENTAL: _nothing_more,
    Mode.AUTODETECT: _nothing_more,
}
