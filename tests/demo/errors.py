"""What the demo found wrong."""

from mdcluster.errors import MdclusterError


class CheckError(MdclusterError):
    """Something is not as it must be; the text says what."""


def check(condition: bool, text: str) -> None:
    """CheckError with this text unless it is so."""
    if not condition:
        raise CheckError(text)
