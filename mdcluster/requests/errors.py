"""What is refused before it becomes a proposal."""

from mdcluster.errors import MdclusterError


class RequestError(MdclusterError):
    """A request that cannot be meant; one line that says what is wrong and what to do."""
