"""A file descriptor whose readiness follows something that is no file: for select, poll, epoll, selectors, asyncio."""

from __future__ import annotations

import contextlib
import socket

PAIR_BYTES = 4608
"""Send buffer of the end that a program watches: the smallest the kernel has, so that it is quickly full."""
FILLER = bytes(4096)


class Readiness:
    """A connected pair of local sockets. A program watches one end; this class keeps it (not) readable and (not) writable.

    It is readable while a byte from the other end waits, and writable unless its own send buffer is full. Use
    :meth:`show` under a lock of one's own; nothing else may read or write the watched end.
    """

    def __init__(self) -> None:
        self._front, self._back = socket.socketpair()
        for end in (self._front, self._back):
            end.setblocking(False)
        self._front.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PAIR_BYTES)
        self._readable, self._writable = False, True

    def fileno(self) -> int:
        """The descriptor to watch; -1 after :meth:`close`."""
        return self._front.fileno()

    def show(self, readable: bool, writable: bool) -> None:
        """Make the descriptor's state this."""
        if self._front.fileno() < 0:
            return
        with contextlib.suppress(BlockingIOError):
            if readable and not self._readable:
                self._back.send(b"r")
            elif self._readable and not readable:
                self._front.recv(1)
        self._readable = readable
        if self._writable and not writable:
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._front.send(FILLER)
        elif writable and not self._writable:
            with contextlib.suppress(BlockingIOError):
                while self._back.recv(1 << 16):
                    pass
        self._writable = writable

    def close(self) -> None:
        """Close both ends."""
        self._front.close()
        self._back.close()
