"""A stream socket as the NBD server and client use it: exact reads, unmixed sends, few copies.

Payloads are received straight into the buffer that is handed on and sent straight from the
buffer that was handed in. Only what arrives together with a header passes a small buffer, so
that many small requests cost one system call.
"""

import asyncio
import socket
from contextlib import suppress
from typing import Final

_AHEAD_BYTES: Final = 4096  # small: of a large payload, this much at most is copied once more
_BURST_BYTES: Final = 1 << 20


class StreamSocket:
    """Owns a connected non-blocking stream socket; one reader, any number of senders."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over `sock`; :meth:`close` closes it."""
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._ahead = memoryview(bytearray(_AHEAD_BYTES))
        self._ahead_lo = self._ahead_hi = 0
        self._burst_bytes = 0
        self._sending = asyncio.Lock()

    async def receive(self, length_bytes: int) -> bytes:
        """Exactly `length_bytes` (small: headers); IncompleteReadError at the end of the stream."""
        data = bytearray(length_bytes)
        await self.receive_into(memoryview(data))
        return bytes(data)

    async def receive_into(self, target: memoryview) -> None:
        """Fill `target`; IncompleteReadError at the end of the stream, OSError if it broke."""
        filled = 0
        while filled < len(target):
            if self._ahead_lo == self._ahead_hi:
                if len(target) - filled >= _AHEAD_BYTES:
                    filled += await self._fill(target[filled:], target[:filled], len(target))
                    continue
                self._ahead_lo = 0
                self._ahead_hi = 0
                self._ahead_hi = await self._fill(self._ahead, target[:filled], len(target))
            taken = min(len(target) - filled, self._ahead_hi - self._ahead_lo)
            target[filled : filled + taken] = self._ahead[self._ahead_lo : self._ahead_lo + taken]
            self._ahead_lo += taken
            filled += taken

    async def _fill(self, free: memoryview, have: memoryview, wanted_bytes: int) -> int:
        if self._burst_bytes >= _BURST_BYTES:
            # A receive that never has to wait never yields either: let others run.
            self._burst_bytes = 0
            await asyncio.sleep(0)
        count = await self._loop.sock_recv_into(self._sock, free)
        if count == 0:
            raise asyncio.IncompleteReadError(bytes(have[:_AHEAD_BYTES]), wanted_bytes)
        self._burst_bytes += count
        return count

    async def send(self, head: bytes, body: bytes | bytearray | memoryview = b"") -> None:
        """Send `head` and `body` with nothing of another sender in between.

        Raises OSError if the connection is broken. Cancelled in the middle it breaks the
        connection: half a message cannot be taken back.
        """
        async with self._sending:
            try:
                await self._send_parts(head, body)
            except asyncio.CancelledError:
                self.shutdown()
                raise

    async def _send_parts(self, head: bytes, body: bytes | bytearray | memoryview) -> None:
        sent = 0
        with suppress(BlockingIOError, InterruptedError):
            sent = self._sock.sendmsg([head, body])
        if sent < len(head):
            await self._loop.sock_sendall(self._sock, head[sent:])
            sent = len(head)
        if sent < len(head) + len(body):
            await self._loop.sock_sendall(self._sock, memoryview(body)[sent - len(head) :])

    def shutdown(self) -> None:
        """Break the connection at once: reader and senders end, the peer sees the end."""
        with suppress(OSError):  # already closed by the peer: what was wanted
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the socket back; only when nobody reads or sends any more."""
        self._sock.close()
