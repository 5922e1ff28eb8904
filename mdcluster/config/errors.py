"""The errors of the configuration: mistakes with their place, and what follows from them."""

from collections.abc import Iterable
from dataclasses import dataclass

from mdcluster.errors import MdclusterError

MISTAKES_MAX = 100


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One mistake in a file. ``line`` and ``column`` count from 1; 0 stands for unknown."""

    file: str
    line: int
    column: int
    text: str

    def __str__(self) -> str:
        """As compilers print it: ``file:line:column: text``."""
        place = [str(number) for number in (self.line, self.column) if number]
        return f"{':'.join([self.file, *place])}: {self.text}"


class Wrong(ValueError):
    """A value is not what its key takes; the text says what was expected."""


class ConfigError(MdclusterError):
    """The configuration of this node cannot be used."""


class MistakesError(ConfigError):
    """A file has mistakes; all of them are in ``mistakes``, and in the text one a line."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        """Keep the mistakes in file order."""
        self.mistakes = tuple(sorted(mistakes))
        super().__init__("\n".join(map(str, self.mistakes)))


class ClusterFileError(MistakesError):
    """``/etc/clusterips`` has mistakes."""


class SettingsError(MistakesError):
    """``/etc/mdcluster.toml`` has mistakes."""


class SelfNotFoundError(ConfigError):
    """This node is on no line of ``/etc/clusterips``, or on several."""


class IdentityError(ConfigError):
    """The state directory or the node's identity in it cannot be used."""


class StateInUseError(IdentityError):
    """Another daemon runs on the same state directory; ``pid`` is 0 if it is unknown."""

    def __init__(self, text: str, pid: int) -> None:
        """Keep the pid of the holder beside the text."""
        self.pid = pid
        super().__init__(text)
