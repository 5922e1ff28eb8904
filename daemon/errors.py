"""How the daemon ends when it cannot start or go on: one line, and an exit code."""

from mdcluster.config.errors import ConfigError, IdentityError, StateInUseError
from mdcluster.control.errors import SocketInUseError
from mdcluster.fence.process import LockError
from mdcluster.fence.watchdog import WatchdogError
from mdcluster.mesh.errors import MeshError
from mdcluster.runtime.store import StoreError

EXIT_CONFIG = 1
EXIT_STATE_IN_USE = 2
EXIT_STATE_UNUSABLE = 3
EXIT_ADDRESS = 4
EXIT_SOCKET = 5
EXIT_FAULT = 70  # EX_SOFTWARE of sysexits.h

_CODES: tuple[tuple[type[Exception], int], ...] = (
    (StateInUseError, EXIT_STATE_IN_USE),
    (LockError, EXIT_STATE_IN_USE),
    (IdentityError, EXIT_STATE_UNUSABLE),
    (StoreError, EXIT_STATE_UNUSABLE),
    (ConfigError, EXIT_CONFIG),
    (WatchdogError, EXIT_CONFIG),
    (MeshError, EXIT_ADDRESS),
    (SocketInUseError, EXIT_SOCKET),
)


def exit_code(error: BaseException) -> int:
    """The exit code for an error; see ``mdclusterd --help``."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), EXIT_FAULT)
