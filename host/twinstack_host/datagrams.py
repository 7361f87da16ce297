"""UDP sockets at the engine's side."""

from __future__ import annotations

import collections
import contextlib
import errno
from collections.abc import Callable
from functools import partial

from twinstack.proto.queues import SOCKET_ADDRESS, Operation

from .address import SocketAddress, unpack_socket_address
from .endpoints import READ_AHEAD_BYTES, RECEIVES, Endpoint
from .memory import OutOfMemory
from .reactor import Reactor

SENDER_BYTES = 64
"""End of a block that holds the sender's address; what is before it is the largest datagram that is received whole."""
DATAGRAMS_SENT = 8


class Datagrams(Endpoint):
    """A UDP socket."""

    def __init__(self, reactor: Reactor):
        super().__init__(reactor)
        self.received: collections.deque[tuple[bytes, int, SocketAddress]] = collections.deque()
        """(data, bytes of the whole datagram, sender)."""
        self.received_bytes = 0
        self._outgoing: collections.deque[tuple[bytes, bytes | None, Callable[[int], None] | None]] = (
            collections.deque()
        )
        self._sending = 0
        self._receiving = 0
        self.largest = self.device.pool.block_bytes - SENDER_BYTES

    @property
    def readable(self) -> bool:
        return bool(self.received) or super().readable

    @property
    def writable(self) -> bool:
        return self.space or super().writable

    @property
    def space(self) -> bool:
        """Another datagram can be taken."""
        return len(self._outgoing) + self._sending < DATAGRAMS_SENT

    def begin(self, handle: int) -> None:
        """The socket is open: receive from now on. With the lock held; then reactor.kick()."""
        self.handle = handle
        self.reactor.members.add(self)
        self.reactor.mark(self)
        self.update()

    def put(self, data: bytes, to: bytes | None, then: Callable[[int], None] | None) -> None:
        """Send to SOCKET_ADDRESS bytes, or to the peer; ``then`` gets the result, otherwise an error is kept."""
        self._outgoing.append((data, to, then))
        self.reactor.mark(self)
        self.update()

    def take(self, *, peek: bool = False) -> tuple[bytes, int, SocketAddress]:
        """The next datagram; with the lock held."""
        if peek:
            return self.received[0]
        found = self.received.popleft()
        self.received_bytes -= len(found[0])
        self.reactor.mark(self)
        self.update()
        return found

    def pump(self) -> None:
        self._pump_sends()
        self._pump_receives()
        self._pump_close()

    def _pump_sends(self) -> None:
        while True:
            with self.lock:
                if not self.handle or not self._outgoing or self._close_posted:
                    return
                if not self.reactor.room(self.handle >> 28 & 7):
                    self.reactor.starve(self)
                    return
                try:
                    block = self.reactor.take_send_buffer()
                except OutOfMemory:
                    self.reactor.starve(self)
                    return
                data, to, then = self._outgoing.popleft()
                self._sending += 1
            self.device.link.write(block, data)
            self.reactor.submit(
                Operation.SEND if to is None else Operation.SENDTO,
                partial(self._on_sent, block, then),
                handle=self.handle,
                buffer=block,
                length=len(data),
                inline=to or b"",
            )

    def _on_sent(self, block: int, then: Callable[[int], None] | None, result: int) -> None:
        self.device.pool.give(block)
        with self.lock:
            self._sending -= 1
            if then is not None:
                then(result)
            elif result < 0 and not self.closing:
                self.error = -result
            self.reactor.mark(self)
            self.update()

    def _pump_receives(self) -> None:
        while True:
            with self.lock:
                wanted = self.received_bytes + self._receiving * self.device.pool.block_bytes < READ_AHEAD_BYTES
                if not self.handle or not wanted or self.dead or self.closing or self._receiving >= RECEIVES:
                    return
                core = self.handle >> 28 & 7
                if self._receiving and not self.reactor.room(core, receive=True):
                    return
                if not self.reactor.room(core):
                    self.reactor.starve(self)
                    return
                try:
                    block = self.reactor.take_receive_buffer(further=self._receiving > 0)
                except OutOfMemory:
                    if not self._receiving:
                        self.reactor.starve(self)
                    return
                self._receiving += 1
                self.reactor.receivers += self._receiving == 1
            self.reactor.submit(
                Operation.RECVFROM,
                partial(self._on_received, block),
                handle=self.handle,
                buffer=block,
                length=self.largest,
                inline=(block + self.largest).to_bytes(8, "little"),
            )

    def _on_received(self, block: int, result: int) -> None:
        data, sender, whole = b"", b"", 0
        if result >= 0:
            data = self.device.link.read(block, result) if result else b""
            sender = self.device.link.read(block + self.largest, SOCKET_ADDRESS.size_bytes)
            whole = SOCKET_ADDRESS.unpack(sender)["extra"]
        self.device.pool.give(block)
        with self.lock:
            self._receiving -= 1
            self.reactor.receivers -= self._receiving == 0
            if result >= 0:
                with contextlib.suppress(ValueError):  # a sender of no family that we know
                    self.received.append((data, max(whole, len(data)), unpack_socket_address(sender)))
                    self.received_bytes += len(data)
            elif result == -errno.ENOBUFS:
                self.reactor.starve(self)
            elif not self.closing:
                self.error = -result
                self.dead |= -result in (errno.ECANCELED, errno.EBADF, errno.EFAULT, errno.EIO)
            self.reactor.mark(self)
            self.update()

    def _busy(self) -> bool:
        return bool(self._outgoing or self._sending) and not self.dead
