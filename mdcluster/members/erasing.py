"""Taking everything that makes a device a member off it, for good. Blocking.

The superblock goes last: until then it is known what the device was, and it can be erased again.
"""

from collections.abc import Callable, Iterator

from mdcluster.members.errors import MembersError
from mdcluster.members.look import Look, hold, look
from mdcluster.members.nonceblock import NONCE_OFFSET_BYTES
from mdcluster.metadata.device import DeviceReader, DeviceWriter
from mdcluster.metadata.layout import AREA_OFFSET_BYTES, HEADER_BYTES, HEADER_COPIES
from mdcluster.metadata.scan import other_superblocks
from mdcluster.metadata.superblock import BLOCK, SUPER_OFFSET_BYTES


def erase(seen: Look, check: Callable[[], None]) -> None:
    """Erase a device that still shows what was seen; durable on return.

    As mdadm does (Kill.c, called until nothing is found): superblocks of all versions go, what
    they describe stays. MembersError if it is in use on this host, or shows something else by
    now; MetadataError; or what `check` raises.
    """
    path, held = seen.path, hold(seen.path)
    try:
        now = look(path)
        if now.problem or (now.left_by, now.nonce) != (seen.left_by, seen.nonce):
            raise MembersError(f"{path}: {now.problem or 'it has changed just now; look again'}")
        blocks = list(_blocks(now))
        with DeviceWriter(path, check) as gated:
            for offset, length in blocks:
                gated.write(offset, bytes(length))
    finally:
        held.release()


def _blocks(seen: Look) -> Iterator[tuple[int, int]]:
    """Byte offset and length of each that goes, in this order."""
    if seen.nonce is not None:
        yield NONCE_OFFSET_BYTES, BLOCK
    if seen.superblock is None and seen.header is None:
        return  # only claimed, and given up: what else is there is not ours
    for copy in range(HEADER_COPIES):
        yield AREA_OFFSET_BYTES + copy * HEADER_BYTES, HEADER_BYTES
    with DeviceReader(seen.path) as device:
        yield from ((offset, BLOCK) for _, offset in list(other_superblocks(device)))
    yield SUPER_OFFSET_BYTES, BLOCK
