"""Since when each thing waits: since it was first seen to, without a break."""

from collections.abc import Iterable

from mdcluster.control.arrays import Waiting


class Waits:
    """Feed `dated` with all that waits whenever something happens, or is looked at.

    The same subject that waits for the same cause by the same nodes is the same wait, however
    its words change.
    """

    def __init__(self) -> None:
        self._since_ms: dict[tuple[str, str, tuple[str, ...]], int] = {}

    def dated(self, waiting: Iterable[Waiting], now_ms: int) -> tuple[Waiting, ...]:
        """The same with `since_ms`, where it is not known from elsewhere; what is not among them
        any more has ended."""
        found = tuple(waiting)
        keys = [(one.subject, one.cause, one.by) for one in found]
        self._since_ms = {key: self._since_ms.get(key, now_ms) for key in keys}
        return tuple(
            one if one.since_ms else one._replace(since_ms=max(now_ms - self._since_ms[key], 0))
            for one, key in zip(found, keys, strict=True)
        )
