"""What is not the cluster's goes to the real mdadm, with the words as they are.

An array is this host's own if md runs it here, without the cluster's metadata, and the daemon
knows no array of that name. Nothing that writes is handed over where a device could be the
cluster's: its superblock has the guard bit, or it has a cluster's area or nonce, or cannot be read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final, NoReturn

from . import values
from .command import KEYWORDS, Command
from .options import Mode, Standing
from .output import Output
from .table import OPTIONS
from .values import UsageError

MDADM_ENV: Final = "MDCADM_MDADM"
"""Names the program in place of ``mdadm``; for tests, and where it is not in the path."""
_HANDED_ENV: Final = "MDCADM_HANDED_OVER"
SYS = "/sys"
REFUSED_EXIT: Final = 1

_ALWAYS: Final = ("auto-detect", "detail-platform", "udev-rules", "dump")
"""These write to no array, or to none of a kind that the cluster could have."""
_LOOKING: Final = {"detail", "wait", "wait-clean"}
_OF_ARRAYS: Final = (
    *("detail", "wait", "wait-clean", "stop", "run", "readonly", "readwrite", "action"),
    *("kill-subarray", "update-subarray"),
)
_OF_DEVICES: Final = ("zero-superblock", "restore")
_WORDS: Final = {"missing", *(word for words in KEYWORDS.values() for word in words)}


def hand_over(command: Command, words: list[str], output: Output) -> None:
    """Become mdadm if the command is for it; else return."""
    if wanted(command):
        output.out.flush()
        _become_mdadm(words)


def _become_mdadm(words: list[str]) -> NoReturn:
    program = os.environ.get(MDADM_ENV) or "mdadm"
    if os.environ.get(_HANDED_ENV):
        raise UsageError(f"{program} leads back to mdcadm: {MDADM_ENV} names the real one", 1)
    try:
        os.execvpe(program, [program, *words], {**os.environ, _HANDED_ENV: "1"})
    except OSError as error:
        raise UsageError(
            f"this is no matter of the cluster, and {program} cannot be run: {error.strerror}", 1
        ) from None


def wanted(command: Command) -> bool:
    """Whether it is for the real mdadm. UsageError: for neither, or for both at once."""
    own = [name for name in (command.action, *command.given) if _own(name)]
    if own or command.mode is Mode.CREATE:
        return False
    if command.action in _ALWAYS:
        return True
    if command.mode is Mode.INCREMENTAL:
        return _incremental(command)
    if command.mode in (Mode.ASSEMBLE, Mode.BUILD):
        return _starts(command)
    if command.mode in (Mode.MANAGE, Mode.GROW):
        return _hosts_array(command, (command.array,), _paths(command.devices))
    if command.mode is Mode.MONITOR or command.action in _OF_ARRAYS:
        return _hosts_array(command, tuple(name for name in command.devices if name), ())
    if command.action in _OF_DEVICES:
        return _hosts_devices(command)
    return False


def _own(name: str) -> bool:
    return name in OPTIONS and OPTIONS[name].standing is Standing.OWN


def _hosts_array(command: Command, arrays: tuple[str, ...], devices: tuple[str, ...]) -> bool:
    found = {array: _runs_here(array) for array in arrays}
    if not any(found.values()):
        return False
    known = _known_arrays(command)
    theirs = [array for array, kernel in found.items() if kernel and not _among(array, known)]
    if not theirs:
        return False
    if rest := [array for array in arrays if array not in theirs]:
        raise UsageError(
            f"{theirs[0]} is this host's own, {rest[0]} is the cluster's: give two commands"
        )
    actions = {step.action for step in command.steps}
    looks = command.mode is Mode.MONITOR or (command.mode is Mode.MISC and actions <= _LOOKING)
    if not looks:
        members = [path for array in theirs for path in _members(found[array])]
        _refuse_members((*members, *devices))
    return True


def _hosts_devices(command: Command) -> bool:
    """Devices that carry nothing of a cluster are mdadm's."""
    ours = {path: could_be_ours(path) for path in command.devices if path}
    if all(ours.values()):
        return False
    for why in filter(None, ours.values()):
        raise UsageError(f"{why}: give a command of its own for it", REFUSED_EXIT)
    return True


def _starts(command: Command) -> bool:
    """--assemble and --build: by the members named, or by what is said of the array."""
    if not command.array:
        return False  # --assemble --scan: the cluster's arrays
    devices = _paths(command.devices)
    known = _known_arrays(command)
    if _among(command.array, known):
        return False
    if devices:
        if command.mode is Mode.ASSEMBLE and all(could_be_ours(path) for path in devices):
            return False  # the daemon says which array they are of
        _refuse_members(devices)
        return True
    if known is None or command.mode is Mode.BUILD:
        return False
    uuid, name = command.given.get("uuid"), command.given.get("name")
    if uuid is None and name is None:
        return _configured(command)
    return not any(word and _among(word, known) for word in (uuid, name))


def _configured(command: Command) -> bool:
    """Whether mdadm's configuration file names the array."""
    from .mdadmconf import FILES, ConfError, read_arrays  # noqa: PLC0415

    for path in (command.given.get("config"), *FILES):
        if path:
            try:
                return any(line.device == command.array for line in read_arrays(path))
            except ConfError:
                continue
    return False


def _incremental(command: Command) -> bool:
    """Never for what could be the cluster's: the daemon finds its members by itself.

    udev's rules take the failure that follows as "not for md", and do no more with the device.
    """
    if command.has("scan"):
        return not _clusters_arrays()  # it would start those that the daemon is setting up
    for word in command.devices:
        gone = command.has("fail") or command.has("remove")
        if gone and _is_attached(os.path.basename(word)):
            return False
        if could_be_ours(word) or _is_clusters(_kernel_name(word)):
            return False
    return True


def _is_attached(device: str) -> bool:
    """Whether the device of this kernel's name is in an array of the cluster, gone or not."""
    return any(f"dev-{device}" in _names(f"{SYS}/block/{a}/md") for a in _clusters_arrays())


# --- arrays on this host ---------------------------------------------------------------------


def _runs_here(word: str) -> str:
    """The kernel's name of the array that md runs here under this name, not the cluster's."""
    paths = (word,) if word.startswith("/") else (f"/dev/md/{word}", f"/dev/{word}")
    for path in paths:
        kernel = _kernel_name(path)
        if kernel and os.path.isdir(f"{SYS}/block/{kernel}/md"):
            return "" if _is_clusters(kernel) else kernel
    return ""


def _kernel_name(path: str) -> str:
    """Of a block device; '' if it is none."""
    import stat  # noqa: PLC0415

    try:
        status = os.stat(path)
        if not stat.S_ISBLK(status.st_mode):
            return ""
        number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        return os.path.basename(os.readlink(f"{SYS}/dev/block/{number}"))
    except OSError:
        return ""


def _is_clusters(kernel: str) -> bool:
    """Whether md runs it for a daemon of ours."""
    try:
        with open(f"{SYS}/block/{kernel}/md/metadata_version") as file:
            return file.read(64).strip() == "external:mdcluster"
    except OSError:
        return False


def _clusters_arrays() -> list[str]:
    return [name for name in _names(f"{SYS}/block") if _is_clusters(name)]


def _members(kernel: str) -> list[str]:
    names = _names(f"{SYS}/block/{kernel}/md")
    return [f"/dev/{name.removeprefix('dev-')}" for name in names if name.startswith("dev-")]


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


# --- what the cluster has --------------------------------------------------------------------


def _known_arrays(command: Command) -> frozenset[str] | None:
    """Names and UUIDs of the daemon's arrays; None if it cannot be asked."""
    from mdcluster.control.arrays import ArrayList  # noqa: PLC0415
    from mdcluster.control.client import Client, socket_path  # noqa: PLC0415
    from mdcluster.control.verbs import NoArgs, Verb  # noqa: PLC0415
    from mdcluster.errors import MdclusterError  # noqa: PLC0415

    try:
        with Client(socket_path(command.given.get("socket"))) as client:
            arrays = client.ask(Verb.ARRAYS, NoArgs(), ArrayList).arrays
    except MdclusterError:
        return None
    return frozenset(word for array in arrays for word in (array.name, array.uuid))


def _among(word: str, known: frozenset[str] | None) -> bool:
    try:
        return known is not None and values.array_name(word) in known
    except UsageError:
        return False


def _paths(devices: Iterable[str]) -> tuple[str, ...]:
    """mdadm takes a kernel's name for the device in /dev."""
    return tuple(
        word if word.startswith(("/", ".")) else f"/dev/{word}"
        for word in devices
        if word not in _WORDS
    )


def _refuse_members(paths: Iterable[str]) -> None:
    for path in paths:
        if why := could_be_ours(path):
            raise UsageError(f"{why}: nothing that writes is handed over to mdadm", REFUSED_EXIT)


def could_be_ours(path: str) -> str:
    """Why a device may belong to a cluster; '' if it does not, or is not there."""
    from mdcluster.members.look import look  # noqa: PLC0415

    if not os.path.exists(path):
        return ""
    seen = look(path)
    if seen.problem:
        return f"{seen.problem}; it may be the cluster's"
    if seen.superblock is not None and seen.superblock.guarded:
        return f"{path} is a member of array {seen.superblock.set_name} of a cluster"
    if seen.superblock is None and seen.header is not None:
        return f"{path} has a cluster's area"
    if seen.nonce is not None:
        return f"{path} has been marked for a cluster"
    return ""
