"""What the mesh raises; what it refuses from others is counted and logged instead."""

from mdcluster.errors import MdclusterError


class MeshError(MdclusterError):
    """The mesh cannot run as asked: an address that cannot be bound, a name nobody knows."""
