"""Who asks for what: as events tell it, and --history keeps it.

A proposal's id may say who made it: `USER@HOST/...` (mdcadm), or the boot of a daemon.
"""

from collections.abc import Mapping
from typing import Final

from mdcluster.control.verbs import ChangeArgs, Verb
from mdcluster.requests.names import plain_name
from mdcluster.runtime.observe import Facts

BY_MAX: Final = 64
DEVICES_MAX: Final = 256


def asker(proposal: str, boots: Mapping[str, str]) -> str:
    """``USER@HOST``, or the name of the node whose daemon it was; '' if it does not say.

    boots: the names of nodes by their boot ids.
    """
    who, slash, _ = proposal.partition("/")
    if slash and "@" in who:
        return who[:BY_MAX]
    return next((boots[boot] for boot in boots if proposal.startswith(boot)), "")


def facts(verb: Verb, args: ChangeArgs) -> Facts:
    """What is asked for, of which array, device or node, and by whom."""
    found: Facts = {"change": verb.value}
    array = getattr(args, "array", None) or getattr(args, "name", None)
    if array:
        found["array"] = plain_name(array)[:BY_MAX]
    devices = getattr(args, "devices", ()) or (getattr(args, "device", ""),)
    for key, value in (("device", " ".join(devices)), ("node", getattr(args, "node", ""))):
        if value:
            found[key] = value[:DEVICES_MAX]
    if who := asker(args.proposal, {}):
        found["by"] = who
    return found
