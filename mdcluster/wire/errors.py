"""What goes wrong between objects and bytes."""

from mdcluster.errors import MdclusterError


class WireError(MdclusterError):
    """Bytes that are no message of ours, or an object that cannot become one.

    The text begins with the path to the value at fault, as in
    ``Replicate.entry.members[3].state: expected one of 'active', 'spare', got 'x'``.
    """


class SchemaError(WireError):
    """A class that cannot be put on the wire: a mistake in the program, found at import."""
