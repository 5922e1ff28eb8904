"""Between the core's effects and the shared disks: find members, prove them, write metadata."""

from mdcluster.members.errors import (
    MembersError,
    NewerFoundError,
    WrongDeviceError,
)
from mdcluster.members.look import Look
from mdcluster.members.members import Members, Proved
from mdcluster.members.registry import Registry

__all__ = [
    "Look",
    "Members",
    "MembersError",
    "NewerFoundError",
    "Proved",
    "Registry",
    "WrongDeviceError",
]
