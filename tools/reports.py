"""What ``mdcadm`` reports: each command that only looks, with mdadm's exit codes."""

from __future__ import annotations

from mdcluster.control.arrays import ArrayDetail, ArrayList, MdstatData, SyncInfo, Waited
from mdcluster.control.client import Client, RefusedError
from mdcluster.control.protocol import Reply
from mdcluster.control.shape import build
from mdcluster.control.verbs import ArrayArgs, NoArgs, Verb

from .command import Command, Step
from .output import Output, device_of

TEST_ERROR = 4
"""--detail --test: the array could not be looked at."""
WAIT_ERROR = 2
"""--wait: the array could not be looked at."""


def detail(command: Command, client: Client, output: Output) -> int:
    """--detail of all devices; exit codes are or-ed, as in mdadm."""
    from . import detail as printer  # noqa: PLC0415  each report loads its own printer only

    code, found = 0, []
    for name in _names(command.steps, client):
        try:
            array = client.ask(Verb.DETAIL, ArrayArgs(name), ArrayDetail)
        except RefusedError as error:
            output.error(str(error))
            code |= TEST_ERROR if command.has("test") else 1
            continue
        found.append(array)
        if command.has("test"):
            code |= printer.test_code(array)
        if command.has("json"):
            continue
        if command.has("export"):
            output.print(printer.export_text(array))
        elif command.brief:
            output.print(
                printer.brief_text(array, command.verbosity > 0, command.has("no-devices"))
            )
        else:
            output.print(printer.detail_text(array))
    if command.has("json"):
        output.print_json({"arrays": found})
    return code


def _names(steps: tuple[Step, ...], client: Client) -> list[str]:
    """The arrays named, or all of them where none is (--scan)."""
    if steps[0].device:
        return [step.device for step in steps]
    return [array.name for array in client.ask(Verb.ARRAYS, NoArgs(), ArrayList).arrays]


def _known_names(given: tuple[str, ...], client: Client) -> frozenset[str]:
    """The names of arrays given by name or UUID; RefusedError for one that there is not."""
    known = client.ask(Verb.ARRAYS, NoArgs(), ArrayList).arrays
    names = {array.uuid: array.name for array in known} | {a.name: a.name for a in known}
    for name in given:
        if name not in names:
            raise RefusedError(Verb.WHY, f"no array {name} in this cluster")
    return frozenset(names[name] for name in given)


def mdstat(command: Command, client: Client, output: Output) -> int:
    """--mdstat."""
    from . import mdstat as printer  # noqa: PLC0415

    data = client.ask(Verb.MDSTAT, NoArgs(), MdstatData)
    if command.has("json"):
        output.print_json(data)
    else:
        output.print(printer.mdstat(data.arrays))
    return 0


def cluster(command: Command, client: Client, output: Output) -> int:
    """--cluster."""
    from mdcluster.control.status import ClusterStatus  # noqa: PLC0415

    from .cluster import cluster_text  # noqa: PLC0415

    status = client.ask(Verb.STATUS, NoArgs(), ClusterStatus)
    if command.has("json"):
        output.print_json(status)
    else:
        output.print(cluster_text(status, output))
    return 0


_OF_EVERYTHING = ("writer", "lease", "md_hangs", "state_directory")
"""Causes for which every array waits."""


def why(command: Command, client: Client, output: Output) -> int:
    """--why."""
    from mdcluster.control.status import WhyData  # noqa: PLC0415

    from .cluster import why_text  # noqa: PLC0415

    data = client.ask(Verb.WHY, NoArgs(), WhyData)
    if command.names:
        wanted = _known_names(command.names, client)
        found = (w for w in data.waiting if w.subject in wanted or w.cause in _OF_EVERYTHING)
        data = data._replace(waiting=tuple(found))
    if command.has("json"):
        output.print_json(data)
    else:
        output.print(why_text(data))
    return 0


def wait(command: Command, client: Client, output: Output) -> int:
    """--wait: 0 if it waited for each, 1 if there was nothing to wait for, 2 on an error."""
    code, results = 0, []
    for name in _names(command.steps, client):
        try:
            waited = _wait_one(name, client, output)
        except RefusedError as error:
            output.error(str(error))
            code |= WAIT_ERROR
            continue
        results.append({"array": name, "waited": waited})
        code |= 0 if waited else 1
    if command.has("json"):
        output.print_json({"results": results})
    return code


def _wait_one(name: str, client: Client, output: Output) -> bool:
    from .progress import Progress, make_progress  # noqa: PLC0415

    progress: Progress | None = None

    def show(reply: Reply) -> None:
        nonlocal progress
        if progress is None:
            progress = make_progress(device_of(name), output)
        sync = build(SyncInfo, reply.data, "wait", strict=False) if reply.data else None
        progress.show(sync, reply.text)

    try:
        return client.ask(Verb.WAIT, ArrayArgs(name), Waited, show).waited
    finally:
        if progress is not None:
            progress.close()


def wait_clean(command: Command, client: Client, output: Output) -> int:
    """--wait-clean: nothing to wait for, as with mdadm's native metadata; 2 for no such array.

    No superblock of the cluster says that something is being written: bitmaps do.
    """
    arrays = client.ask(Verb.ARRAYS, NoArgs(), ArrayList).arrays
    known = {word for array in arrays for word in (array.name, array.uuid)}
    names = [step.device for step in command.steps if step.device] or [a.name for a in arrays]
    for name in names:
        if name not in known:
            output.error(f"no array {name} in this cluster")
    if command.has("json"):
        output.print_json({"results": [{"array": n, "clean": True} for n in names if n in known]})
    return 0 if known.issuperset(names) else WAIT_ERROR


def check_timing(command: Command, output: Output) -> int:
    """--check-timing: the proof for this node's settings and how silent nodes are fenced; exit
    code 1 if it does not hold."""
    from mdcluster.config.settings import SETTINGS_FILE, load_settings  # noqa: PLC0415
    from mdcluster.core.timing import proof, violations  # noqa: PLC0415
    from mdcluster.fence.build import described  # noqa: PLC0415

    path = command.given.get("config", str(SETTINGS_FILE))
    settings = load_settings(path, required=command.has("config"))
    timing, fencing = settings.timing, list(described(settings))
    told, broken = proof(timing), violations(timing)
    if command.has("json"):
        output.print_json(
            {"timing": timing, "proof": told, "fencing": fencing, "violations": broken}
        )
    else:
        output.print("".join(f"{line}\n" for line in [*told, *fencing]))
    for text in broken:
        output.error(text)
    return 1 if broken else 0


def history(command: Command, client: Client, output: Output) -> int:
    """--history."""
    from . import history as printer  # noqa: PLC0415

    found = printer.fetch(client)
    if command.names:
        found = printer.about(found, command.names)
    if command.has("json"):
        output.print_json(found)
    else:
        output.print(printer.text(found))
    return 0


REPORTS = {
    "detail": detail,
    "mdstat": mdstat,
    "cluster": cluster,
    "why": why,
    "history": history,
    "wait": wait,
    "wait-clean": wait_clean,
}


def error_code(command: Command) -> int:
    """The exit code where nothing could be asked at all."""
    actions = {step.action for step in command.steps}
    if command.has("test") and "detail" in actions:
        return TEST_ERROR
    return WAIT_ERROR if actions and actions <= {"wait", "wait-clean"} else 1
