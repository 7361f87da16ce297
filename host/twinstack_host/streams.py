"""TCP connections and listeners at the engine's side."""

from __future__ import annotations

import collections
import errno
from collections.abc import Callable
from functools import partial

from twinstack.proto.queues import Operation, OperationFlag, SocketOption

from .device import Pending
from .endpoints import READ_AHEAD_BYTES, RECEIVES, Endpoint, bytes_of
from .memory import OutOfMemory
from .reactor import Reactor

SEND_BYTES = 32 * 1024
"""Taken from the program for a socket and not yet taken by the engine, at most."""
PIECE_BYTES = 2 * 1460
"""One SEND of a long stream: whole segments (RFC 9293 3.7.1, MSS of Ethernet)."""
SENDS = 2


class Stream(Endpoint):
    """A TCP connection, or one that is to be."""

    def __init__(self, reactor: Reactor, handle: int = 0):
        super().__init__(reactor, handle)
        self.connecting = False
        self.connected = False
        self.ended = False
        """The peer's FIN has been taken in, or no more is wanted."""
        self.read_shut = False
        self.write_shut = False
        self.options: dict[SocketOption, int] = {}
        """Set when the connection stands."""
        self.finished = False
        """The peer has acknowledged everything, our FIN included."""
        self.received: collections.deque[bytes] = collections.deque()
        self.received_bytes = 0
        self._request: bytes | None = None
        self._local_port = 0
        self._connect: Pending | None = None
        self._cancelled = False
        self._outgoing = bytearray()
        self._sending = 0
        self._sending_bytes = 0
        self._receiving = 0
        self._shutdown_posted = False

    @property
    def readable(self) -> bool:
        return bool(self.received) or self.ended or super().readable

    @property
    def writable(self) -> bool:
        return (not self.connecting and (not self.connected or self.space > 0)) or super().writable

    @property
    def space(self) -> int:
        """Bytes that :meth:`put` takes now."""
        return max(0, SEND_BYTES - len(self._outgoing) - self._sending_bytes)

    # --- Calls of the program, with the lock held; then reactor.kick() ----------------------------------------------

    def connect(self, address: bytes, local_port: int) -> None:
        """Begin to connect to SOCKET_ADDRESS bytes."""
        self._request, self._local_port = address, local_port
        self.connecting, self.dead = True, False
        self.reactor.members.add(self)
        self.update()
        self.reactor.mark(self)

    def put(self, data: memoryview) -> int:
        """Take what there is space for."""
        taken = min(len(data), self.space)
        if taken:
            self._outgoing += data[:taken]
            self.reactor.mark(self)
            self.update()
        return taken

    def take(self, length: int, *, peek: bool = False) -> bytes:
        """Up to ``length`` bytes of what has come."""
        parts: list[bytes] = []
        used = 0
        while length and used < len(self.received):
            part = self.received[used][:length]
            parts.append(part)
            length -= len(part)
            used += 1
        if not peek:
            for part in parts:
                first = self.received.popleft()
                if len(part) < len(first):
                    self.received.appendleft(first[len(part) :])
            self.received_bytes -= sum(map(len, parts))
            self.reactor.mark(self)
            self.update()
        return b"".join(parts)

    def shut(self, *, read: bool, write: bool) -> None:
        """End one direction or both; what is under way is still sent."""
        if read:
            self.read_shut = True
            self.ended = True
        if write:
            self.write_shut = True
        self.reactor.mark(self)
        self.update()

    # --- In the device's turn ---------------------------------------------------------------------------------------

    def accepted(self, then: Callable[[], None]) -> None:
        """The handle is that of a new connection: learn its names, then call ``then`` with the lock held."""
        self.reactor.members.add(self)
        self.connected = True

        def named() -> None:
            then()
            self.reactor.mark(self)

        self.name(named, peer=True)
        self.pump()

    def pump(self) -> None:
        self._pump_connect()
        self._pump_sends()
        self._pump_shutdown()
        self._pump_receives()
        if self._connect is None:
            super().pump()

    def fail(self, code: int) -> None:
        with self.lock:
            self.connecting = False
            super().fail(code)

    def _pump_connect(self) -> None:
        with self.lock:
            request, self._request = (None if self.closing else self._request), None
            cancel = self.closing and self._connect is not None and not self._connect.done and not self._cancelled
            self._cancelled |= cancel
        if request is not None:
            self._connect = self.device.submit(
                Operation.TCP_CONNECT, inline=request, operation_flags=self._local_port, on_done=self._on_connected
            )
        if cancel and self._connect is not None:
            self.device.submit(Operation.CANCEL, inline=self._connect.user_data.to_bytes(8, "little"))

    def _on_connected(self, result: int) -> None:
        if result < 0:
            with self.lock:
                self._connect = None
                self.connecting = False
                self.error = -result
                if self.closing:
                    self._forget()
                else:
                    self.reactor.members.discard(self)
                self.update()
            return
        self._connect = None
        self.handle = result
        with self.lock:
            if self.closing:
                self.aborting = True
                self.reactor.mark(self)
                return
        for option, value in self.options.items():
            self.device.submit(Operation.SETSOCKOPT, handle=result, operation_flags=option, inline=bytes_of(value))
        self.name(self._on_named, peer=True)

    def _on_named(self) -> None:
        self.connecting = False
        self.connected = True
        self.reactor.mark(self)
        self.update()

    def _pump_sends(self) -> None:
        while True:
            with self.lock:
                if (
                    not self.handle
                    or not self.connected
                    or not self._outgoing
                    or self._sending >= SENDS
                    or self._close_posted
                ):
                    return
                if not self.reactor.room(self.handle >> 28 & 7):
                    self.reactor.starve(self)
                    return
                try:
                    block = self.reactor.take_send_buffer()
                except OutOfMemory:
                    self.reactor.starve(self)
                    return
                piece = bytes(self._outgoing[: min(PIECE_BYTES, self.device.pool.block_bytes)])
                del self._outgoing[: len(piece)]
                self._sending += 1
                self._sending_bytes += len(piece)
            self.device.link.write(block, piece)
            self.reactor.submit(
                Operation.SEND,
                partial(self._on_sent, block, piece),
                handle=self.handle,
                buffer=block,
                length=len(piece),
            )

    def _on_sent(self, block: int, piece: bytes, result: int) -> None:
        self.device.pool.give(block)
        with self.lock:
            self._sending -= 1
            self._sending_bytes -= len(piece)
            if result == -errno.ENOBUFS and not self._sending and not self._shutdown_posted:
                self._outgoing[:0] = piece  # nothing of it was taken, and nothing after it
                self.reactor.starve(self)
            elif result < 0:
                self._broken(-result)
            self.reactor.mark(self)
            self.update()

    def _broken(self, code: int) -> None:
        """The connection has failed."""
        if not self.dead and not (self.closing and code == errno.ECANCELED):
            self.error = code
        self.dead = True
        self._outgoing.clear()

    def _pump_shutdown(self) -> None:
        with self.lock:
            due = self.write_shut and self.connected and self.handle and not self._outgoing and not self._close_posted
            if not due or self._shutdown_posted:
                return
            if self._sending and not self.reactor.room(self.handle >> 28 & 7):
                return
            self._shutdown_posted = True
        self.device.submit(Operation.SHUTDOWN, handle=self.handle, on_done=self._on_shut)

    def _on_shut(self, result: int) -> None:
        with self.lock:
            if result == -errno.ENOBUFS:
                self._shutdown_posted = False
                self.reactor.starve(self)
            elif result == 0:
                self.finished = True
            self.update()

    def _pump_receives(self) -> None:
        while True:
            with self.lock:
                core = self.handle >> 28 & 7
                wanted = (
                    self.received_bytes + self._receiving * self.device.pool.block_bytes < READ_AHEAD_BYTES
                    or self.read_shut
                )
                stopped = self.dead or self.closing or (self.ended and not self.read_shut)
                if not self.handle or not self.connected or not wanted or stopped or self._receiving >= RECEIVES:
                    return
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
                Operation.RECV,
                partial(self._on_received, block),
                handle=self.handle,
                buffer=block,
                length=self.device.pool.block_bytes,
            )

    def _on_received(self, block: int, result: int) -> None:
        data = self.device.link.read(block, result) if result > 0 else b""
        self.device.pool.give(block)
        with self.lock:
            self._receiving -= 1
            self.reactor.receivers -= self._receiving == 0
            if data and not self.read_shut:
                self.received.append(data)
                self.received_bytes += len(data)
            elif result == 0:
                self.ended = True
                self.read_shut = False  # there is nothing left to drop
            elif result == -errno.ENOBUFS:
                self.reactor.starve(self)
            elif result < 0 and not (self.ended and result == -errno.ECANCELED):
                self._broken(-result)
            self.reactor.mark(self)
            self.update()

    def _busy(self) -> bool:
        return bool(self._outgoing or self._sending) and not self.dead

    def close(self, *, abort: bool = False, patience: float | None = None) -> None:
        """As a kernel: what was not read makes it a reset (RFC 2525 2.17)."""
        with self.lock:
            unread = bool(self.received) and not self.read_shut
        super().close(abort=abort or unread, patience=patience)


class ListeningEnd(Endpoint):
    """A listener with its multishot accept; connections have their names before they are offered."""

    def __init__(self, reactor: Reactor):
        super().__init__(reactor)
        self.waiting: collections.deque[Stream] = collections.deque()
        self._accept_posted = False

    @property
    def readable(self) -> bool:
        return bool(self.waiting) or super().readable

    @property
    def writable(self) -> bool:
        return super().writable

    def begin(self, handle: int) -> None:
        """The engine listens: accept from now on. With the lock held; then reactor.kick()."""
        self.handle = handle
        self.reactor.members.add(self)
        self.reactor.mark(self)
        self.update()

    def pump(self) -> None:
        if self.handle and not self._accept_posted and not self.closing:
            self._accept_posted = True
            self.reactor.submit(
                Operation.TCP_ACCEPT,
                self._on_end,
                handle=self.handle,
                operation_flags=OperationFlag.ACCEPT_MULTISHOT,
                on_more=self._on_connection,
            )
        self._pump_close()

    def _on_connection(self, handle: int) -> None:
        stream = Stream(self.reactor, handle)
        if self.reactor.full:
            self.device.submit(Operation.ABORT, handle=handle)
            return

        def named() -> None:
            if self.closing or stream.remote is None or stream.local is None:  # reset before anybody saw it
                stream.close(abort=True)
                return
            self.waiting.append(stream)
            self.update()

        stream.accepted(named)

    def _on_end(self, result: int) -> None:
        with self.lock:
            if result == -errno.ENOBUFS:
                self._accept_posted = False
                self.reactor.starve(self)
            elif not self.closing:
                self.error, self.dead = -result, True
            self.update()

    def close(self, *, abort: bool = False, patience: float | None = None) -> None:
        with self.lock:
            left = list(self.waiting)
            self.waiting.clear()
        super().close(abort=abort, patience=patience)
        for stream in left:
            stream.close(abort=True)
