"""Between the core's effects and the shared disks: find members, prove them, write metadata."""

from mdcluster.members.errors import (
    AccessLateError,
    MembersError,
    NewerFoundError,
    WrongDeviceError,
)
from mdcluster.members.look import Look
from mdcluster.members.members import Members, Proved
from mdcluster.members.registry import Registry

__all__ = [
    "AccessLateError",
    "Look",
    "Members",
    "MembersError",
    "NewerFoundError",
    "Proved",
    "Registry",
    "WrongDeviceError",
]
