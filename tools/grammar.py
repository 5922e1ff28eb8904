"""mdadm's grammar: the words of a command line to one command. Pure; nothing is guessed.

Words are taken in order, as mdadm does (getopt_long in "return in order" mode): an option's
meaning may depend on the mode set before it, and in manage mode a device takes the action before
it. An option that is unknown, ambiguous, misplaced or contradicts another is refused with what
could have been meant. Source: mdadm 4.6, mdadm.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .checks import check
from .command import LONE_ACTIONS, NODE_ACTIONS, SCOPED_ACTIONS, Command, Plea, Step
from .options import Kind, Mode, Option, Standing
from .table import OPTIONS, SYNONYMS, by_letter
from .values import UsageError

WORDS_MAX: Final = 4096

_PLEAS: Final = ("help", "help-options", "help-config")
_ONE_ARRAY: Final = (Mode.CREATE, Mode.BUILD, Mode.ASSEMBLE, Mode.MANAGE, Mode.GROW)
_TWICE: Final = {
    "chunk": "chunk/rounding may only be specified once. Second value is {new}.",
    "size": "size may only be specified once. Second value is {new}.",
    "array-size": "array-size may only be specified once. Second value is {new}.",
    "data-offset": "data-offset may only be specified one. Second value is {new}.",
    "level": "raid level may only be set once. Second value is {new}.",
    "layout": "layout may only be sent once. Second value was {new}.",
    "raid-devices": "raid-devices set twice: {old} and {new}",
    "spare-devices": "spare-devices set twice: {old} and {new}",
    "uuid": "uuid cannot be set twice. Second value {new}.",
    "name": "name cannot be set twice. Second value {new}.",
    "super-minor": "super-minor cannot be set twice. Second value: {new}.",
    "bitmap": "bitmap cannot be set twice. Second value: {new}.",
    "metadata": "metadata information already given",
    "config": "configfile cannot be set twice. Second value is {new}.",
    "update": "Can only update one aspect of superblock, both {old} and {new} given.",
    "backup-file": "backup file already specified, rejecting {new}",
    "kill-subarray": "subarray can only be specified once",
    "update-subarray": "subarray can only be specified once",
}
"""mdadm's words where an option that takes a value is given a second time."""
_OF_MISC: Final = (Kind.ACTION, Kind.LONE, Kind.SCOPED, Kind.NODE)
_LAST_WINS: Final = ("prefer", "homehost", "auto", "symlinks", "write-behind", "socket")


def parse(words: Sequence[str]) -> Command | Plea:
    """The checked command in the words after the program's name; :class:`UsageError` if none."""
    command = read(words)
    if isinstance(command, Command):
        check(command)
    return command


def read(words: Sequence[str]) -> Command | Plea:
    """As :func:`parse`, but only the grammar: what is asked for may be refused or incomplete."""
    if len(words) > WORDS_MAX:
        raise UsageError(f"{len(words)} words on the command line, at most {WORDS_MAX} are taken")
    parser = _Parser(list(words))
    parser.run()
    for what in (*_PLEAS, "version"):
        if what in parser.given:
            return Plea(what, parser.mode)
    return parser.command()


class _Parser:
    """The state while words are taken from the left."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.mode: Mode | None = None
        self.action = ""
        self.steps: list[Step] = []
        self.given: dict[str, str] = {}
        self.verbosity = 0
        self.unused = ""  # an action that has met no device yet

    def run(self) -> None:
        while self.words and not any(plea in self.given for plea in _PLEAS):
            word = self.words.pop(0)
            if word == "--":
                while self.words:
                    self._device(self.words.pop(0))
            elif word.startswith("--"):
                self._long(word)
            elif word.startswith("-") and len(word) > 1:
                self._short(word)
            else:
                self._device(word)

    # --- options ---------------------------------------------------------------------

    def _long(self, word: str) -> None:
        name, equals, value = word[2:].partition("=")
        option = _find_long(name)
        if option.needs_value and not equals:
            value = self._next_value(f"--{option.name}", option)
        elif equals and not option.value:
            raise UsageError(f"--{option.name} takes no value, but '{value}' is given")
        self._option(option, value, f"--{option.name}")

    def _short(self, word: str) -> None:
        """A word of glued letters; the first that takes a value takes the rest."""
        if word[1:] in OPTIONS or word[1:] in SYNONYMS:
            raise UsageError(f"{word} is not a word of letters; did you mean -{word}?")
        for at, letter in enumerate(word[1:], start=1):
            shown = f"-{letter}"
            option = by_letter(letter, self.mode)
            if option is None:
                close = _close(word[1:])
                hint = f"; did you mean --{close[0]}?" if close else ""
                raise UsageError(f"unknown option {shown} in {word}{hint}")
            if option.needs_value:
                rest = word[at + 1 :]
                self._option(option, rest or self._next_value(shown, option), shown)
                return
            self._option(option, "", shown)

    def _next_value(self, shown: str, option: Option) -> str:
        if not self.words:
            raise UsageError(f"{shown} needs a value: {shown} {option.value}")
        return self.words.pop(0)

    def _option(self, option: Option, value: str, shown: str) -> None:
        if shown in ("-c", "--config") and not self.mode and value.startswith(("-h", "--h")):
            self.given["help-config"] = ""  # mdadm's special case of -c --help
            return
        if option.kind is not Kind.ANY:
            self._set_mode(option, shown)
        if option.name in ("verbose", "quiet"):
            self.verbosity += 1 if option.name == "verbose" else -1
        elif option.kind in _OF_MISC and self.mode is Mode.MISC:
            self._misc_action(option, value)
        elif option.kind is Kind.MEMBER and self.mode is not Mode.INCREMENTAL:
            if option.name == "with" and self.action != "replace":
                raise UsageError("--with must follow --replace")
            self._finish_action()
            self.action = self.unused = option.name
        elif option.kind is not Kind.MODE:
            self._remember(option, value)

    def _set_mode(self, option: Option, shown: str) -> None:
        wanted = option.forces or (option.sets if self.mode is None else self.mode)
        if wanted is None:
            raise UsageError(f"{shown} does not set the mode, and so cannot be the first option.")
        if self.mode is None:
            self.mode = wanted
            if wanted is Mode.MISC and self.steps:
                raise UsageError(
                    f"No action given for {self.steps[0].device} in --misc mode; "
                    f"action options must come before device names: {shown} {self.steps[0].device}"
                )
        elif wanted is not self.mode:
            raise UsageError(
                f'{shown} would set mdcadm mode to "{wanted}", '
                f'but it is already set to "{self.mode}".'
            )
        if self.mode not in option.modes:
            places = " and ".join(option.modes)
            raise UsageError(f"option {shown} not valid in {self.mode} mode, only in {places} mode")

    def _misc_action(self, option: Option, value: str) -> None:
        """Set what is done with the devices that follow; --query only if nothing else is."""
        before = self.action
        if self.unused == "query":
            before = self.unused = ""
        if self.unused and self.unused != option.name and option.kind is Kind.ACTION:
            raise UsageError(f"--{option.name} cannot be given with --{before}: no device between")
        exclusive = (*LONE_ACTIONS, *SCOPED_ACTIONS, *NODE_ACTIONS, "examine", "adopt")
        if before and before != option.name and (before in exclusive or option.name in exclusive):
            raise UsageError(f"--{option.name} cannot be given with --{before}")
        if option.kind is Kind.NODE:
            if before:
                raise UsageError(f"--{option.name} names one node, and is given twice")
            self.steps.append(Step(option.name, value))
        elif option.value:
            self._remember(option, value)
        self.action = option.name
        self.unused = option.name if option.kind is Kind.ACTION else ""

    def _remember(self, option: Option, value: str) -> None:
        old = self.given.get(option.name)
        if old is not None and option.value and option.name not in _LAST_WINS:
            text = _TWICE.get(option.name, f"--{option.name} given twice: {{old}} and {{new}}")
            raise UsageError(text.format(old=old, new=value))
        self.given[option.name] = value

    # --- devices ---------------------------------------------------------------------

    def _device(self, word: str) -> None:
        if not word or "\0" in word:
            raise UsageError("an empty word is no device name")
        if self.mode is None and self.steps:
            raise UsageError(
                f"An option must be given to set the mode before a second device ({word}) is listed"
            )
        if self.mode is Mode.MANAGE and self.steps and not self.action:
            raise UsageError(f"Must give one of -a/-r/-f for subsequent devices at {word}")
        if self.mode is Mode.GROW and self.steps and not self.action:
            raise UsageError(f"Must give -a/--add for devices to add: {word}")
        if self.action in (*LONE_ACTIONS, *NODE_ACTIONS):
            raise UsageError(f"--{self.action} takes no device, but {word} is given")
        if self.mode is Mode.MISC and not self.action:
            raise UsageError(f"No action given for {word} in --misc mode, as --detail {word}")
        is_array = self.mode is not Mode.MISC and not self.steps
        self.steps.append(Step("member" if is_array else self.action or "member", word))
        if not is_array:
            self.unused = ""

    def _finish_action(self) -> None:
        if self.unused:
            raise UsageError(f"--{self.unused} needs a device after it")

    # --- the whole -------------------------------------------------------------------

    def command(self) -> Command:
        """What the words say together."""
        if self.mode is None and self.steps:  # a device alone, as in mdadm
            self.mode, self.steps = Mode.MISC, [Step("query", self.steps[0].device)]
        if self.mode is None:
            raise UsageError("nothing to do: mdcadm --help tells what there is")
        if self.mode is Mode.MISC and not self.steps and self.action:
            self.steps = [Step(self.action, "")]
        elif self.mode in (Mode.MANAGE, Mode.GROW, Mode.MISC):
            self._finish_action()
        command = Command(self.mode, tuple(self.steps), self.given, self.verbosity)
        scan = self.mode is Mode.ASSEMBLE and command.has("scan")
        if self.mode in _ONE_ARRAY and not scan:
            if not self.steps:
                raise UsageError("an md device must be given in this mode")
            command.array = self.steps[0].device
            command.steps = tuple(self.steps[1:])
        if self.mode is Mode.MISC and not self.action and not command.steps:
            raise UsageError("no action given in --misc mode, as --detail")
        return command


def _find_long(name: str) -> Option:
    """By its full name or, as getopt_long does, by a beginning that only one has.

    What only one option of mdadm begins with is that one, whatever options of our own do: so
    shortened options in scripts keep their meaning.
    """
    name = SYNONYMS.get(name, name)
    if name in OPTIONS:
        return OPTIONS[name]
    known = (*OPTIONS, *SYNONYMS)
    begun = sorted({SYNONYMS.get(full, full) for full in known if name and full.startswith(name)})
    theirs = [full for full in begun if OPTIONS[full].standing is not Standing.OWN]
    if len(begun) == 1 or len(theirs) == 1:
        return OPTIONS[(theirs or begun)[0]]
    if begun:
        raise UsageError(
            f"option --{name} is ambiguous: {', '.join(f'--{full}' for full in begun)}"
        )
    close = _close(name)
    hint = f"; did you mean {' or '.join(f'--{one}' for one in close)}?" if close else ""
    raise UsageError(f"unknown option --{name}{hint}")


def _close(name: str) -> list[str]:
    import difflib  # noqa: PLC0415  only for a mistake; the client starts faster without

    return difflib.get_close_matches(name.lstrip("-"), [*OPTIONS, *SYNONYMS], n=2, cutoff=0.7)
