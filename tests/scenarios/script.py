"""The text of a scenario: comments, blocks of commands, and the output expected of each block.

    # why
    command argument ...
    command ...
    ----
    line of output
    ...

A blank line ends a block. A block without `----` is expected to print nothing. In the style
of the data-driven tests of etcd-io/raft (testdata/*.txt).
"""

from dataclasses import dataclass
from pathlib import Path

MARK = "----"
LINES_MAX = 400
WIDTH_MAX = 600


class ScenarioError(AssertionError):
    """A scenario that cannot be read, or whose expectation failed: says where and why."""


@dataclass(frozen=True, slots=True)
class Command:
    line: int
    words: tuple[str, ...]


@dataclass(slots=True)
class Block:
    """Some lines of text with commands among them, and what they print."""

    text: list[str]
    commands: list[Command]
    expected: list[str]

    @property
    def line(self) -> int:
        return self.commands[0].line


def parse(path: Path) -> list[Block]:
    """The blocks of a file; comments alone are a block without commands."""
    lines = path.read_text(encoding="utf-8").split("\n")
    if len(lines) > LINES_MAX:
        raise ScenarioError(f"{path.name}: {len(lines)} lines, more than {LINES_MAX}")
    blocks: list[Block] = []
    block = Block([], [], [])
    marked = False
    for number, line in enumerate(lines, 1):
        if len(line) > WIDTH_MAX:
            raise ScenarioError(f"{path.name}:{number}: longer than {WIDTH_MAX} characters")
        if not line.strip():
            if block.text:
                blocks.append(block)
            block, marked = Block([], [], []), False
        elif line == MARK:
            if marked or not block.commands:
                raise ScenarioError(f"{path.name}:{number}: output is expected of no command")
            marked = True
        elif marked:
            block.expected.append(line)
        else:
            block.text.append(line)
            if not line.startswith("#"):
                block.commands.append(Command(number, tuple(line.split())))
    if block.text:
        blocks.append(block)
    return blocks


def render(blocks: list[Block], outputs: list[list[str]]) -> str:
    """The file again, with these outputs in the place of what was expected."""
    parts = []
    for block, output in zip(blocks, outputs, strict=True):
        parts.append("\n".join([*block.text, *([MARK, *output] if output else [])]) + "\n")
    return "\n".join(parts)
