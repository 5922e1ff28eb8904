"""An archive that the kernel unpacks as its first root file system ("newc" cpio), as bytes.

>>> archive = Archive()
>>> archive.file("init", b"#!/bin/sh\n", mode=0o755)
>>> Path("initramfs.cpio").write_bytes(archive.finish())
"""

import stat

MAGIC = b"070701"
END = "TRAILER!!!"


class Archive:
    """Entries in the order they are added; folders above a file must be added before it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def folder(self, path: str) -> None:
        self._add(path, stat.S_IFDIR | 0o755)

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self._add(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int) -> None:
        self._add(path, stat.S_IFCHR | 0o600, device=(major, minor))

    def finish(self) -> bytes:
        self._add(END, 0)
        return b"".join(self._parts)

    def _add(
        self, path: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        name = path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (self._inode, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(name), 0)
        header = MAGIC + b"".join(b"%08X" % field for field in fields)
        self._parts += [_padded(header + name), _padded(content)]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
