"""What can go wrong between an effect of the core and a member."""

from mdcluster.errors import MdclusterError


class MembersError(MdclusterError):
    """A member cannot be found, proved, read or written; says which, why and what to do."""


class WrongDeviceError(MembersError):
    """What stands at a path is not the device that is meant; nothing was written."""


class NewerFoundError(MembersError):
    """A member shows a newer commit of this cluster than the one to be written: stop writing."""


class OldCopyError(MembersError):
    """A member shows no commit as new as one that was written to it: it was put back in time."""
