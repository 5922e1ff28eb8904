"""What ``mdcadm`` changes: each command as requests to the local daemon, and mdadm's messages.

Every change carries a proposal id made here, so that a repeated request is executed once.
Source of the messages: mdadm 4.2, Create.c, Assemble.c, Manage.c.
"""

from __future__ import annotations

import os
import pwd
import re
import uuid
from contextlib import suppress
from typing import Final

from mdcluster.control.arrays import ArrayBrief, ArrayDetail, ArrayList, Started
from mdcluster.control.client import Client, RefusedError
from mdcluster.control.protocol import Reply
from mdcluster.control.shape import build
from mdcluster.control.status import ClusterStatus
from mdcluster.control.verbs import (
    ActionArgs,
    ActionWord,
    AdoptArgs,
    Args,
    ArrayArgs,
    AssembleArgs,
    CreateArgs,
    EraseArgs,
    GrowArgs,
    MemberArgs,
    NoArgs,
    NodeArgs,
    ReleaseArgs,
    ReloadArgs,
    ReplaceArgs,
    StillArgs,
    StopArgs,
    Verb,
)

from . import mdadmconf, values
from .command import Command, Step
from .options import Mode
from .output import Output, device_of

NAME_MAX: Final = 32
_MEMBER_VERBS: Final = {
    "fail": (Verb.FAIL, "set {device} faulty in {array}"),
    "remove": (Verb.REMOVE, "hot removed {device} from {array}"),
    "add": (Verb.ADD, "added {device}"),
    "add-spare": (Verb.ADD, "added {device}"),
    "re-add": (Verb.READD, "re-added {device}"),
}
_STILL: Final = {
    "readonly": "{array} is read-only on all nodes.",
    "readwrite": "{array} is writable.",
    "pause": "{array} is paused: nothing is copied in it.",
    "resume": "{array} goes on with what is due.",
}
_NODE_VERBS: Final = {
    "transfer": (Verb.TRANSFER, "{node} is the writer now."),
    "fence-ack": (Verb.FENCE_ACK, "{node} counts as fenced."),
    "admit": (Verb.ADMIT, "{node} is admitted."),
}


class Changer:
    """Carries out the changes of one command line and collects what came of them."""

    def __init__(self, command: Command, client: Client, output: Output) -> None:
        self._command = command
        self._client = client
        self._output = output
        self._said = ""
        self._dry_run = command.has("dry-run")
        self.results: list[dict[str, object]] = []

    def run(self) -> int:
        """The exit code; a refusal ends it, and what was done before stays done."""
        try:
            return _MODES[self._command.mode](self)
        except RefusedError as error:
            self._refused(self._command.array, error)
            return 1
        finally:
            if self._command.has("json"):
                self._output.print_json({"results": self.results})

    # --- modes -----------------------------------------------------------------------

    def create(self) -> int:
        self._check_home_cluster()
        args = create_args(self._command)
        device = device_of(args.name)
        self._change(Verb.CREATE, args, f"array {device} started.", array=args.name)
        return 0

    def assemble(self) -> int:
        self._check_home_cluster()
        command = self._command
        if not command.has("scan"):
            self._start(command.array, command.devices)
            return 0
        code = 0
        for name in self._to_assemble():
            try:
                self._start(name, ())
            except RefusedError as error:
                self._refused(name, error)
                code = 1
        return code

    def manage(self) -> int:
        array, force = self._command.array, self._command.has("force")
        spares = [step.device for step in self._command.steps if step.action == "with"]
        for step in self._command.steps:
            if step.action == "with":
                continue
            if step.action == "replace":
                self._replace(step.device, spares.pop(0) if spares else None)
                continue
            verb, text = _MEMBER_VERBS[step.action]
            args = MemberArgs(proposal(), array, step.device, force)
            text = text.format(device=step.device, array=device_of(array))
            self._change(verb, args, text, array=array, device=step.device)
        if self._command.has("run"):
            self._start(array, (), run=True)
        for word in ("readonly", "readwrite"):
            if self._command.has(word):
                self._still(word, array)
        if self._command.has("stop"):
            self._stop(array)
        return 0

    def grow(self) -> int:
        """mdadm's words (Grow.c); a size is told as the array has it in the end."""
        if self._command.has("bitmap"):
            name = self._client.ask(Verb.DETAIL, ArrayArgs(self._command.array), ArrayDetail).name
            raise RefusedError(Verb.GROW, f"bitmap already present on {device_of(name)}")
        args = grow_args(self._command)
        reply = self._send(Verb.GROW, args)
        device = device_of(args.array)
        text = f"raid_disks for {device} set to {args.raid_disks}"
        if args.raid_disks is None and not self._dry_run:
            size = self._client.ask(Verb.DETAIL, ArrayArgs(args.array), ArrayDetail).size_sectors
            text = f"component size of {device} has been set to {size // 2}K"
        self._done(Verb.GROW, reply, text, array=args.array)
        return 0

    def misc(self) -> int:
        if self._command.steps[0].action == "adopt":
            self._adopt()
            return 0
        code = 0
        for step in self._command.steps:
            try:
                self._misc_step(step)
            except RefusedError as error:
                code |= self._not_done(step, error)
        return code

    def _not_done(self, step: Step, error: RefusedError) -> int:
        """mdadm's words and exit code for a device that it could not take (Kill.c)."""
        if step.action == "zero-superblock":
            text = f"Couldn't open {step.device} for write - not zeroing: {error}"
            self._refused(step.device, RefusedError(error.verb, text), "device")
            return 2
        self._refused(step.device, error)
        return 1

    def _misc_step(self, step: Step) -> None:
        if step.action == "stop":
            names = [step.device] if step.device else self._active()
            for name in names:
                self._stop(name)
        elif step.action in _STILL:
            names = [step.device] if step.device else [one.name for one in self._arrays()]
            for name in names:
                self._still(step.action, name)
        elif step.action == "zero-superblock":
            self._erase(step.device)
        elif step.action == "release":
            self._release(step.device)
        elif step.action == "run":
            self._start(step.device, (), run=True)
        elif step.action == "action":
            self._action(step.device)
        elif step.action == "reload":
            self._change(Verb.RELOAD, ReloadArgs(proposal()), "configuration read again.")
        else:
            verb, text = _NODE_VERBS[step.action]
            args = NodeArgs(proposal(), step.device)
            self._change(verb, args, text.format(node=step.device), node=step.device)

    # --- single changes --------------------------------------------------------------

    def _start(self, array: str, devices: tuple[str, ...], run: bool = False) -> None:
        given = self._command.given
        args = AssembleArgs(
            proposal(),
            array,
            devices,
            values.uuid(given["uuid"]) if "uuid" in given else None,
            self._command.has("force"),
            run or self._command.has("run"),
            self._command.has("readonly") and self._command.mode is Mode.ASSEMBLE,
        )
        reply = self._send(Verb.ASSEMBLE, args)
        self._done(Verb.ASSEMBLE, reply, self._started(array, reply), array=array)

    def _started(self, array: str, reply: Reply) -> str:
        return f"{device_of(array)} started" if self._dry_run else started_text(array, reply)

    def _adopt(self) -> None:
        command = self._command
        name, force = command.given.get("name"), command.has("force")
        reply = self._send(Verb.ADOPT, AdoptArgs(proposal(), command.devices, name, force))
        text = "adopted."
        if reply.data is not None and not self._dry_run:
            text = started_text("", reply)
        self._done(Verb.ADOPT, reply, text, devices=" ".join(command.devices))

    def _release(self, array: str) -> None:
        args = ReleaseArgs(proposal(), array, self._command.has("force"))
        text = f"released {device_of(array)}: it is a plain md array now."
        self._change(Verb.RELEASE, args, text, array=array)

    def _erase(self, device: str) -> None:
        """mdadm says nothing where it is done (Kill.c)."""
        args = EraseArgs(proposal(), device, self._command.has("force"))
        text = f"erased the superblock on {device}"
        self._change(Verb.ERASE, args, text, device=device)

    def _stop(self, array: str) -> None:
        self._change(
            Verb.STOP, StopArgs(proposal(), array), f"stopped {device_of(array)}", array=array
        )

    def _still(self, word: str, array: str) -> None:
        """mdadm says nothing where it is done (Manage_ro)."""
        args = StillArgs(proposal(), array)
        text = _STILL[word].format(array=device_of(array))
        self._change(Verb(word), args, text, array=array)

    def _replace(self, device: str, by: str | None) -> None:
        array = self._command.array
        args = ReplaceArgs(proposal(), array, device, by, self._command.has("force"))
        text = f"marked {device} in {device_of(array)} for replacement"
        if by is not None:
            text += f" by {by}"
        self._change(Verb.REPLACE, args, text, array=array, device=device)

    def _action(self, array: str) -> None:
        """mdadm says nothing where it is done (Manage.c); what was asked for is said here."""
        word = values.action(self._command.given["action"])
        args = ActionArgs(proposal(), array, ActionWord(word))
        self._change(Verb.ACTION, args, f"{word} of {device_of(array)}", array=array)

    def _change(self, verb: Verb, args: Args, text: str, **what: str) -> None:
        self._done(verb, self._send(verb, args), text, **what)

    def _send(self, verb: Verb, args: Args) -> Reply:
        return self._client.call(verb, args, self._waiting, dry_run=self._dry_run)

    def _done(self, verb: Verb, reply: Reply, text: str, **what: str) -> None:
        """mdadm's message, and what the daemon adds to it; of a dry run the plan."""
        result: dict[str, object] = {
            "action": verb,
            **what,
            "state": reply.state,
            "text": reply.text,
        }
        self.results.append(result)
        if self._dry_run:
            from . import plan  # noqa: PLC0415

            result |= {"state": "planned", "plan": reply.data}
            if not self._command.has("json"):
                self._output.print(plan.text(reply.data, text))
            return
        self._output.say(text)
        if reply.text and self._command.verbosity > 0:
            self._output.say(reply.text)

    def _refused(self, name: str, error: RefusedError, what: str = "array") -> None:
        self.results.append(
            {"action": error.verb, what: name, "state": "refused", "text": str(error)}
        )
        self._output.error(str(error))

    def _waiting(self, reply: Reply) -> None:
        """Say what it waits for, once for each reason."""
        if reply.text and reply.text != self._said:
            self._said = reply.text
            self._output.say(f"waiting: {reply.text}")

    def _check_home_cluster(self) -> None:
        wanted = self._command.given.get("home-cluster")
        if wanted is not None:
            name = self._client.ask(Verb.STATUS, NoArgs(), ClusterStatus).name
            if name != wanted:
                raise values.UsageError(f"this node is of cluster {name}, not of {wanted}", 1)

    # --- which arrays ----------------------------------------------------------------

    def _arrays(self) -> tuple[ArrayBrief, ...]:
        return self._client.ask(Verb.ARRAYS, NoArgs(), ArrayList).arrays

    def _active(self) -> list[str]:
        return [array.name for array in self._arrays() if array.active]

    def _to_assemble(self) -> list[str]:
        """Names for --assemble --scan: those given, or all that are not meant to run yet."""
        if self._command.steps:
            return list(self._command.devices)
        given = self._command.given
        if "uuid" in given:
            return [values.uuid(given["uuid"])]
        if "name" in given:
            return [values.without_host(given["name"])]
        if "config" in given and given["config"] not in mdadmconf.NO_FILES:
            return self._configured(given["config"])
        arrays = self._arrays()
        if not arrays:
            raise values.UsageError("No arrays found in the cluster", 1)
        return [array.name for array in arrays if not array.active]

    def _configured(self, path: str) -> list[str]:
        """The arrays of the cluster that are not meant to run yet and have an ARRAY line."""
        lines = mdadmconf.read_arrays(path)
        found = [array for array in self._arrays() if any(_names(one, array) for one in lines)]
        if not found:
            raise values.UsageError(f"No arrays of the cluster found in config file {path}", 1)
        return [array.name for array in found if not array.active]


_MODES: Final = {
    Mode.CREATE: Changer.create,
    Mode.ASSEMBLE: Changer.assemble,
    Mode.MANAGE: Changer.manage,
    Mode.GROW: Changer.grow,
    Mode.MISC: Changer.misc,
}


def _names(line: mdadmconf.ArrayLine, array: ArrayBrief) -> bool:
    """Whether an ARRAY line is about an array: all that it says must match."""
    said = []
    with suppress(values.UsageError):
        if line.uuid:
            said.append(values.uuid(line.uuid) == array.uuid)
        if line.name:
            said.append(values.without_host(line.name) == array.name)
        if not said and line.device:
            said.append(values.array_name(line.device) == array.name)
        return bool(said) and all(said)
    return False


def proposal() -> str:
    """A fresh id: the same change asked for again under it is not made again.

    It begins with who asks, for --history: ``root@host/UUID``.
    """
    user = os.environ.get("SUDO_USER")
    if not user:
        with suppress(KeyError):
            user = pwd.getpwuid(os.getuid()).pw_name
    return f"{_word(user or str(os.getuid()))}@{_word(os.uname().nodename)}/{uuid.uuid4()}"


def _word(text: str) -> str:
    """Short, and nothing but what names are made of."""
    return re.sub(r"[^\w.-]", "_", text, flags=re.ASCII)[:NAME_MAX]


def create_args(command: Command) -> CreateArgs:
    """The request for a checked --create."""
    given = command.given
    level = values.level(given["level"])
    layout = values.raid10_layout(given["layout"]) if "layout" in given else None
    bitmap_chunk = given.get("bitmap-chunk")
    return CreateArgs(
        proposal=proposal(),
        name=command.array,
        level=level,
        raid_disks=values.count(given["raid-devices"], "raid devices", 1),
        devices=command.devices,
        spare_disks=values.count(given.get("spare-devices", "0"), "spare-devices", 0),
        layout=layout,
        chunk_sectors=values.chunk_sectors(given["chunk"]) if "chunk" in given else None,
        size_sectors=values.device_sectors(given["size"]) if "size" in given else None,
        bitmap=values.bitmap(given.get("bitmap", "internal")),
        bitmap_chunk_sectors=values.bitmap_chunk_sectors(bitmap_chunk) if bitmap_chunk else None,
        uuid=values.uuid(given["uuid"]) if "uuid" in given else None,
        assume_clean=command.has("assume-clean"),
        force=command.has("force"),
        run=command.has("run"),
        data_offset_sectors=(
            values.data_offset(given["data-offset"]) if "data-offset" in given else None
        ),
    )


def grow_args(command: Command) -> GrowArgs:
    """The request for a checked --grow."""
    given = command.given
    size = values.device_sectors(given["size"]) if "size" in given else None
    disks = values.count(given["raid-devices"], "raid devices", 1) if "size" not in given else None
    return GrowArgs(
        proposal=proposal(),
        array=command.array,
        raid_disks=disks,
        size_sectors=size,
        size_max="size" in given and size is None,
        devices=command.devices,
        force=command.has("force"),
    )


def started_text(array: str, reply: Reply) -> str:
    """``/dev/md/x has been started with 1 drive (out of 2) and 1 spare.`` (Assemble.c)."""
    if reply.data is None:
        return f"{device_of(array)} has been started."
    started = build(Started, reply.data, "answer to assemble", strict=False)
    text = (
        f"{device_of(started.name)} has been started with {_plural(started.active_disks, 'drive')}"
    )
    if started.active_disks < started.raid_disks:
        text += f" (out of {started.raid_disks})"
    if started.spare_disks:
        text += f" and {_plural(started.spare_disks, 'spare')}"
    return text + "."


def _plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
