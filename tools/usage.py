"""The texts of ``mdcadm --help`` and ``--version``."""

from __future__ import annotations

from typing import Final

from .options import Mode, Option
from .output import NAME
from .table import OPTIONS, by_letter

_HEAD: Final = """\
mdcadm manages the arrays that the nodes of a cluster share, in mdadm's grammar.
Usage: mdcadm --create /dev/md/NAME options... devices...
       mdcadm --assemble /dev/md/NAME [devices...]
       mdcadm /dev/md/NAME --fail|--remove|--add|--re-add devices...
       mdcadm /dev/md/NAME --replace devices... [--with devices...]
       mdcadm --grow /dev/md/NAME --raid-devices=N [--add devices...] | --size=SIZE
       mdcadm --detail|--stop|--wait|--action=WORD /dev/md/NAME...
       mdcadm --adopt [--name=NAME] devices...
       mdcadm --release /dev/md/NAME
       mdcadm --examine devices...
       mdcadm --cluster|--mdstat|--check-timing|--reload
       mdcadm --why|--events [/dev/md/NAME...]
       mdcadm --monitor [--scan] [--mail=ADDRESS] [--program=PROGRAM] [/dev/md/NAME...]
       mdcadm --transfer|--fence-ack|--admit NODE

"""
_EXAMPLE: Final = """
Example:
  mdcadm --create /dev/md/data --level=1 --raid-devices=2 /dev/sdb /dev/sdc
  mdcadm --wait /dev/md/data
  mdcadm /dev/md/data --fail /dev/sdb --remove /dev/sdb --add /dev/sdd
  mdcadm --detail --json /dev/md/data | jq '.arrays[0].sync'

Sizes are in KiB, or end in K, M, G, T. The daemon is asked through /run/mdcluster/control.sock,
or what MDCLUSTER_SOCKET or --socket says. Exit codes: 0 done, 1 failed, 2 not understood;
--detail --test: 0 fine, 1 degraded, 2 not usable, 4 error; --wait: 1 nothing to wait for.
"""
CONFIG_TEXT: Final = """\
--check-timing reads mdcluster.toml (mdcluster.toml(5)). Arrays and members need no configuration
file: the cluster knows them, and finds its members by their superblocks.
"""


def help_text(mode: Mode | None) -> str:
    """All options that the cluster can honour, or those of one mode."""
    shown = [option for option in OPTIONS.values() if _honoured(option, mode)]
    title = "Options:\n" if mode is None else f"Options of {mode} mode:\n"
    return _HEAD + title + "".join(_line(option, mode) for option in shown) + _EXAMPLE


def _honoured(option: Option, mode: Mode | None) -> bool:
    return any(not option.refusal(one) for one in option.modes if mode in (None, one))


def version_text() -> str:
    """As ``mdadm --version``, of the installed package."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return f"{NAME} - v{version('mdcluster')}\n"
    except PackageNotFoundError:
        return f"{NAME} - not installed as a package\n"


def _line(option: Option, mode: Mode | None) -> str:
    modes = option.modes if mode is None else (mode,)
    has_letter = any(by_letter(option.letter, one) is option for one in modes)
    short = f"-{option.letter}" if option.letter and has_letter else ""
    long = f"--{option.name}" + (f"={option.value}" if option.value else "")
    return f"  {long:<24} {short:<3} : {option.text}\n"
