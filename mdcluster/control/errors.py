"""What can go wrong between a client and the local daemon."""

from mdcluster.errors import MdclusterError


class ControlError(MdclusterError):
    """The local daemon could not be asked, or did not answer as the protocol says."""


class ProtocolError(ControlError):
    """A line is not what the protocol allows; the text says what was expected where."""


class NoDaemonError(ControlError):
    """Nobody listens on the control socket, or this user may not connect to it."""


class LostError(ControlError):
    """The connection ended, or fell silent, before the final reply."""


class SilentError(LostError):
    """The daemon holds the connection and says nothing: it is frozen or overloaded."""


class SocketInUseError(ControlError):
    """Another daemon owns the control socket, or its path holds something else."""
