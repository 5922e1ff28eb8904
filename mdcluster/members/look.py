"""What stands on one device: read once, without opening anything for writing."""

import errno
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import iglob
from itertools import islice
from uuid import UUID

from mdcluster.core.model import ArrayId, DeviceId, Stamp
from mdcluster.members.errors import MembersError
from mdcluster.members.nonceblock import NONCE_OFFSET_BYTES, Nonce, decode_nonce
from mdcluster.metadata.cluster_area import Header
from mdcluster.metadata.device import DeviceReader
from mdcluster.metadata.errors import (
    MetadataError,
    NoAreaError,
    NoSuperblockError,
    UnsupportedError,
)
from mdcluster.metadata.scan import MAX_DEVICES, read_member
from mdcluster.metadata.superblock import BLOCK, Superblock

Identity = tuple[int, int]
"""What a path leads to: (device, inode) of a file, (0, device number) of a block device."""

_GLOB = re.compile(r"[*?\[]")
_SIGNATURES: tuple[tuple[str, int, bytes], ...] = (
    ("an xfs file system", 0, b"XFSB"),
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    ("an LVM physical volume", 512, b"LABELONE"),
    ("a partition table (GPT)", 512, b"EFI PART"),
    ("an ext2fs file system", 1080, b"\x53\xef"),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("a btrfs file system", 65600, b"_BHRfS_M"),
)
"""Source: util-linux libblkid/src/superblocks."""
_SIGNATURES_BYTES = 68 * 1024


@dataclass(frozen=True, slots=True)
class Look:
    """One device as read now. problem: why it cannot be used at all ('' if it can).

    in_md: of a device that is, or was, a member of an md array that cannot be read further:
    what that is. foreign: another use that it seems to have ('' if none).
    """

    path: str
    identity: Identity | None = None
    size_bytes: int = 0
    superblock: Superblock | None = None
    header: Header | None = None
    nonce: Nonce | None = None
    in_md: str = ""
    foreign: str = ""
    problem: str = ""

    @property
    def device(self) -> DeviceId | None:
        """The device UUID in the superblock."""
        return None if self.superblock is None else DeviceId(str(self.superblock.device_uuid))

    @property
    def array(self) -> ArrayId | None:
        """The array UUID in the superblock."""
        return None if self.superblock is None else ArrayId(str(self.superblock.set_uuid))

    @property
    def left_by(self) -> tuple[ArrayId, DeviceId] | None:
        """The member that it is, or was, by what a cluster has left on it; None for a plain one."""
        found: Header | Nonce | None = self.header or self.nonce
        if self.superblock is not None:
            ids = self.superblock.set_uuid, self.superblock.device_uuid
            return _ids(*ids) if self.superblock.guarded else None
        if isinstance(found, Nonce):
            return _ids(found.array, found.device)
        return _ids(found.array_uuid, found.device_uuid) if found is not None else None

    @property
    def stamp(self) -> Stamp | None:
        """The stamp in the superblock."""
        return None if self.superblock is None else Stamp.of_events(self.superblock.events)


def _ids(array: UUID, device: UUID) -> tuple[ArrayId, DeviceId]:
    return ArrayId(str(array)), DeviceId(str(device))


def identity_of(path: str) -> Identity:
    """MembersError unless it is a block device or a regular file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise MembersError(f"{path}: cannot be opened: {why}") from None
    if stat.S_ISBLK(status.st_mode):
        return 0, status.st_rdev
    if stat.S_ISREG(status.st_mode):
        return status.st_dev, status.st_ino
    raise MembersError(f"{path}: is neither a block device nor a regular file")


def look(path: str) -> Look:
    """Read a device. Raises nothing: what is wrong is in the result."""
    try:
        identity = identity_of(path)
        member = read_member(path, with_rings=False)
        nonce, foreign = _other_content(path)
    except MembersError as error:
        return Look(path, problem=str(error))
    except MetadataError as error:
        return Look(path, identity, problem=str(error))
    in_md = "" if member.superblock is not None else _of_md(member.problems)
    return Look(
        path, identity, member.size_bytes, member.superblock, member.header, nonce, in_md, foreign
    )


def _other_content(path: str) -> tuple[Nonce | None, str]:
    with DeviceReader(path) as device:
        nonce = None
        if device.size_bytes >= NONCE_OFFSET_BYTES + BLOCK:
            nonce = decode_nonce(device.read(NONCE_OFFSET_BYTES, BLOCK))
        head = device.read(0, min(device.size_bytes, _SIGNATURES_BYTES))
    foreign = (what for what, at, mark in _SIGNATURES if head[at : at + len(mark)] == mark)
    return nonce, next(foreign, "")


def _of_md(problems: Sequence[MetadataError]) -> str:
    """A superblock that is there but cannot be read: damaged, cut short, of another version."""
    for problem in problems:
        if isinstance(problem, UnsupportedError):
            return problem.what
        if not isinstance(problem, NoSuperblockError | NoAreaError):
            return "damaged md metadata"
    return ""


class Hold:
    """A block device that stock md, mount and the like cannot take while this is held."""

    def __init__(self, fd: int = -1) -> None:
        self._fd = fd

    def release(self) -> None:
        """More than once does no harm."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def hold(path: str) -> Hold:
    """Keep a block device from others on this host; nothing to hold for a file.

    Each close of a device that was written makes udev look at it, and mdadm take what looks
    like a plain member. MembersError if it is mounted, in an array, or claimed by a daemon.
    """
    try:
        if not stat.S_ISBLK(os.stat(path).st_mode):
            return Hold()
        return Hold(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            text = f"{path}: Device or resource busy (mounted, or in use by an array)"
            raise MembersError(text) from None
        raise MembersError(f"{path}: cannot be opened: {error.strerror}") from None


def candidates(patterns: Iterable[str], hints: Iterable[str] = ()) -> tuple[str, ...]:
    """Existing devices: the hints, then what globs match and directories hold; at most
    MAX_DEVICES, each once however many names it has."""
    found: dict[Identity, str] = {}
    names = [*hints]
    for pattern in patterns:
        names += islice(_expand(pattern), MAX_DEVICES)
    for name in names:
        if len(found) >= MAX_DEVICES:
            break
        try:
            found.setdefault(identity_of(name), name)
        except MembersError:
            continue  # a directory, a socket, a name just removed
    return tuple(found.values())


def _expand(pattern: str) -> list[str]:
    if _GLOB.search(pattern):
        return sorted(islice(iglob(pattern), MAX_DEVICES))
    if os.path.isdir(pattern):
        try:
            return sorted(os.path.join(pattern, name) for name in os.listdir(pattern))
        except OSError:
            return []
    return [pattern]
