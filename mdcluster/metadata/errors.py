"""Everything that can be wrong with what is written on a member, as one tree of errors.

Each error says what is wrong, on which device and at which byte, and what to do about it.
The codecs raise nothing else for bad bytes, whatever the bytes are.
"""

from __future__ import annotations

from dataclasses import dataclass

from mdcluster.errors import MdclusterError


@dataclass(frozen=True, slots=True)
class Where:
    """A place on a device, for the text of an error; `path` is a name only, nothing is opened.

    Without an offset the whole device is meant, or a value that is on no device yet.
    """

    path: str
    offset_bytes: int | None = None

    def plus(self, delta_bytes: int) -> Where:
        """The place `delta_bytes` further on."""
        return Where(self.path, (self.offset_bytes or 0) + delta_bytes)

    def __str__(self) -> str:
        return (
            self.path if self.offset_bytes is None else f"{self.path} at byte {self.offset_bytes}"
        )


class MetadataError(MdclusterError):
    """Something on a device cannot be used; `kind` is a stable word for programs."""

    kind = "metadata"

    def __init__(self, where: Where, what: str, advice: str = "") -> None:
        text = f"{where}: {what}"
        super().__init__(f"{text}; {advice}" if advice else text)
        self.where = where
        self.what = what
        self.advice = advice

    def as_dict(self) -> dict[str, str | int | None]:
        """For `--json`: kind, device, byte offset, what, advice."""
        return {
            "kind": self.kind,
            "device": self.where.path,
            "offset_bytes": self.where.offset_bytes,
            "what": self.what,
            "advice": self.advice,
        }


class NotFoundError(MetadataError):
    """What was looked for is not there at all."""

    kind = "not-found"


class NoSuperblockError(NotFoundError):
    """No md superblock of version 1.2 at its place."""

    kind = "no-superblock"


class NoAreaError(NotFoundError):
    """No header of a cluster area at its place."""

    kind = "no-area"


class DamagedError(MetadataError):
    """Written by md or by us, but not as it was meant."""

    kind = "damaged"


class BadChecksumError(DamagedError):
    """The bytes are not those the checksum was made of."""

    kind = "bad-checksum"


class TornError(DamagedError):
    """Head and tail come from different writes: a write was cut short or is under way."""

    kind = "torn"


class MisplacedError(DamagedError):
    """A valid block that does not belong where it stands."""

    kind = "misplaced"


class OverlapError(DamagedError):
    """Two things have the same place on the device, or one reaches beyond its end."""

    kind = "overlap"


class ForkedError(DamagedError):
    """Two states under one (term, seq), which there can never be."""

    kind = "forked"


class UnfinishedError(MetadataError):
    """Something was begun and cut short; whoever goes on with it finishes it."""

    kind = "unfinished"


class ForeignError(MetadataError):
    """Valid, but of another cluster, another array or another device."""

    kind = "foreign"


class StaleError(MetadataError):
    """Valid, but older than what other members say."""

    kind = "stale"


class UnsupportedError(MetadataError):
    """Valid perhaps, but of a version, level or shape that is not handled here."""

    kind = "unsupported"


class TooSmallError(MetadataError):
    """A device or an area has not the room that is needed; the text says how much is."""

    kind = "too-small"


class TooLargeError(MetadataError):
    """A value does not fit its place on disk; the text says how much does."""

    kind = "too-large"


class DeviceError(MetadataError):
    """The operating system refused to open, read or write the device."""

    kind = "device"


class UnsteadyError(MetadataError):
    """No two reads in a row were equal: somebody writes there all the time."""

    kind = "unsteady"
