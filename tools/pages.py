"""What is made of the table of options: docs/MDADM.md, completions, the option part of mdcadm(8).

``make generated`` writes them; a test fails if what is committed is not what this makes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from .options import Mode, Option, Standing
from .table import GROUPS, OPTIONS

_HEAD: Final = """\
# The options of mdadm, and what mdcadm makes of them

Made from `tools/table.py` by `make generated`; not to be edited. All long options of mdadm 4.0 to
4.6, with their letters and the modes that they are valid in. This is about arrays of the cluster;
commands on an array or a device that is not the cluster's are handed over to the real mdadm,
unchanged (see [CONTROL.md](CONTROL.md)).

| standing | meaning |
|---|---|
| same | as in mdadm |
| cluster-wide | as in mdadm, and true on every node when it returns |
| refused | the cluster cannot honour it; the reason is what mdcadm answers |
"""
_OWN_HEAD: Final = """
## Options that mdadm does not have

| option | meaning |
|---|---|
"""


def files() -> dict[str, str]:
    """Paths from the top of the repository, and what is in them."""
    return {
        "docs/MDADM.md": mdadm_table(),
        "docs/man/mdcadm.8": _man_page(),
        "tools/completion/mdcadm.bash": _bash(),
        "tools/completion/_mdcadm": _zsh(),
        "tools/completion/mdcadm.fish": _fish(),
    }


def main(root: str = ".") -> int:
    for name, text in files().items():
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


# --- docs/MDADM.md ---------------------------------------------------------------------------


def mdadm_table() -> str:
    parts = [_HEAD]
    for title, group in GROUPS.items():
        theirs = [option for option in group if option.standing is not Standing.OWN]
        if theirs:
            parts.append(
                f"\n## {title}\n\n| option | modes | standing | what, why |\n|---|---|---|---|\n"
            )
            parts += [_row(option) for option in theirs]
    parts.append(_OWN_HEAD)
    own = [option for option in OPTIONS.values() if option.standing is Standing.OWN]
    parts += [f"| {_names(option)} | {option.text} |\n" for option in own]
    return "".join(parts)


def _row(option: Option) -> str:
    text = option.text
    if option.why:
        text = option.why if option.standing is Standing.REFUSED else f"{text}; {option.why}"
    for why in dict.fromkeys(option.refused.values()):
        modes = ", ".join(mode for mode, said in option.refused.items() if said == why)
        text += f". Refused in {modes} mode: {why}"
    return f"| {_names(option)} | {_modes(option)} | {option.standing} | {_cell(text)} |\n"


def _names(option: Option) -> str:
    names = [f"`--{name}`" for name in (option.name, *option.also)]
    if option.letter:
        names.append(f"`-{option.letter}`")
    return " ".join(names)


def _modes(option: Option) -> str:
    if option.forces:
        return f"sets {option.forces}"
    return "any" if set(option.modes) == set(Mode) else ", ".join(option.modes)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


# --- completions -----------------------------------------------------------------------------


def _honoured() -> list[Option]:
    return [o for o in OPTIONS.values() if any(not o.refusal(mode) for mode in o.modes)]


def _of_value(*words: str) -> str:
    return "|".join(f"--{o.name}" for o in _honoured() if o.value in words)


_WORDS: Final = {
    "LEVEL": "raid1 raid10",
    "LAYOUT": "n2",
    "WORD": "check repair idle",
    "VERSION": "1.2",
    "POLICY": "bitmap",
    "KIND": "internal clustered none",
}


def _bash() -> str:
    options = " ".join(f"--{o.name}" for o in _honoured())
    cases = "".join(
        f'    {_of_value(value)}) words="{words}" ;;\n'
        for value, words in _WORDS.items()
        if _of_value(value)
    )
    return f"""\
# bash completion of mdcadm; made from tools/table.py by `make generated`.
_mdcadm() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
  if [ "$prev" = "=" ]; then prev="${{COMP_WORDS[COMP_CWORD-2]}}"; fi
  if [ "$cur" = "=" ]; then cur=""; fi
  case "$prev" in
{cases}    {_of_value("FILE", "PATH", "PROGRAM")}) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    {_of_value("NODE")}) words="$(_mdcadm_names nodes)" ;;
    *)
      case "$cur" in
        -*) words="{options}" ;;
        /*) COMPREPLY=($(compgen -f -- "$cur")); return ;;
        *) words="$(_mdcadm_names arrays)" ;;
      esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
# Names of the cluster's arrays or nodes; nothing where no daemon answers.
_mdcadm_names() {{
  case "$1" in
    arrays) mdcadm --detail --scan 2>/dev/null | sed -n 's/^ARRAY \\([^ ]*\\).*/\\1/p' ;;
    nodes) mdcadm --cluster --json 2>/dev/null | sed -n 's/^      "name": "\\(.*\\)",$/\\1/p' ;;
  esac
}}
complete -F _mdcadm mdcadm
"""


def _zsh() -> str:
    lines = [f"  '--{o.name}{_zsh_value(o)}' \\\n" for o in _honoured()]
    return (
        "#compdef mdcadm\n"
        "# zsh completion of mdcadm; made from tools/table.py by `make generated`.\n"
        "_arguments \\\n" + "".join(lines) + "  '*:array or device:_files'\n"
    )


def _zsh_value(option: Option) -> str:
    text = f"[{_bare(option.text)}]"
    if not option.value:
        return text
    values = f"({_WORDS[option.value]})" if option.value in _WORDS else "_files"
    if option.value in ("N", "NAME", "UUID", "NODE", "SIZE", "OFFSET", "SECONDS", "ADDRESS"):
        values = ""
    return f"={text}:{option.value.lower().strip('[]')}:{values}"


def _fish() -> str:
    lines = ["# fish completion of mdcadm; made from tools/table.py by `make generated`.\n"]
    for option in _honoured():
        line = f"complete -c mdcadm -l {option.name} -d '{_bare(option.text)}'"
        if option.needs_value:
            line += f" -x -a '{_WORDS[option.value]}'" if option.value in _WORDS else " -r"
        lines.append(line + "\n")
    return "".join(lines)


def _bare(text: str) -> str:
    """Without what a shell, or zsh's _arguments, would act on."""
    return "".join(" -" if char == ":" else char for char in text if char not in "'[]\\")


# --- mdcadm(8) -------------------------------------------------------------------------------

EXAMPLES: Final = (
    ("Make a mirror, and wait for its first resync",
     "mdcadm --create /dev/md/data --level=1 --raid-devices=2 /dev/sdb /dev/sdc",
     "mdcadm --wait /dev/md/data"),
    ("Replace a disk that fails",
     "mdcadm /dev/md/data --fail /dev/sdb --remove /dev/sdb --add /dev/sdd"),
    ("Replace one that still works, without a time of less redundancy",
     "mdcadm /dev/md/data --add /dev/sdd --replace /dev/sdb --with /dev/sdd"),
    ("Start all arrays, stop all arrays", "mdcadm --assemble --scan", "mdcadm --stop --scan"),
    ("See how the cluster is, and what it waits for", "mdcadm --cluster", "mdcadm --why"),
    ("For programs",
     "mdcadm --detail --json /dev/md/data", "mdcadm --detail --test -q /dev/md/data"),
)  # fmt: skip
"""Each with its commands; tests parse them."""


def _man_page() -> str:
    synopsis = (
        "[mode] array [options] devices...",
        "--detail|--stop|--wait array...",
        "--examine device...",
        "--cluster|--why|--mdstat|--check-timing",
    )
    parts = [
        '.TH MDCADM 8 "" "mdcluster" "System Administration"\n',
        ".SH NAME\nmdcadm \\- manage the arrays that the nodes of a cluster share\n",
        ".SH SYNOPSIS\n",
        *(f".B mdcadm\n{_roff(line)}\n.br\n" for line in synopsis),
        ".SH DESCRIPTION\n"
        "mdcadm is mdadm for arrays on disks that several hosts share: the same grammar, messages\n"
        "and exit codes, carried out by the local\n.BR mdclusterd (8)\n"
        "and true on every node when it returns.\n"
        "Commands on arrays or devices that are not the cluster's are handed over to\n"
        ".BR mdadm (8)\nunchanged.\n",
        ".SH OPTIONS\n",
    ]
    for title, group in GROUPS.items():
        parts.append(f".SS {title}\n")
        parts += [_man_option(option) for option in group]
    parts += [
        ".SH EXIT STATUS\n",
        *_items(
            (
                ("0", "done"),
                ("1", "it failed or was refused; with \\-\\-wait: there was nothing to wait for"),
                (
                    "2",
                    "it was not understood; with \\-\\-wait: the array could not be looked at",
                ),
                (
                    "\\-\\-detail \\-\\-test",
                    "0 all members in sync, 1 degraded, 2 not usable, 4 error",
                ),
                ("130", "interrupted; what the daemon was asked for may still be done"),
            )
        ),
        ".SH ENVIRONMENT\n",
        *_items(
            (
                (
                    "MDCLUSTER_SOCKET",
                    "control socket of the daemon; /run/mdcluster/control.sock if unset",
                ),
                ("MDCADM_MDADM", "the program that is handed over to; mdadm if unset"),
                ("NO_COLOR", "no colours"),
            )
        ),
        ".SH EXAMPLES\n",
        *(_man_example(*one) for one in EXAMPLES),
        ".SH SEE ALSO\n.BR mdclusterd (8),\n.BR mdcinspect (8),\n.BR mdadm (8)\n",
    ]
    return "".join(parts)


def _man_option(option: Option) -> str:
    names = ", ".join(
        [f"\\-{option.letter}"] * bool(option.letter)
        + [_roff(f"--{name}") for name in (option.name, *option.also)]
    )
    names += _roff(f"={option.value}" if option.value else "")
    text = option.text[0].upper() + option.text[1:] + "."
    if option.standing is Standing.REFUSED:
        text += f" Refused for arrays of the cluster: {option.why}."
    elif option.why:
        text += f" {option.why[0].upper()}{option.why[1:]}."
    for why in dict.fromkeys(option.refused.values()):
        modes = ", ".join(mode for mode, said in option.refused.items() if said == why)
        text += f" Refused in {modes} mode: {why}."
    return f".TP\n.B {names}\n{_roff(text)}\n"


def _items(items: Iterable[tuple[str, str]]) -> list[str]:
    return [f".TP\n.B {name}\n{text}\n" for name, text in items]


def _man_example(title: str, *commands: str) -> str:
    lines = "".join(f"{_roff(command)}\n" for command in commands)
    return f".PP\n{title}:\n.PP\n.nf\n.RS\n{lines}.RE\n.fi\n"


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
