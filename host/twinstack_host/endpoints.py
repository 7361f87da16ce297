"""Sockets at the engine's side: what is posted, what has come, what is still to be sent. No call waits.

Streams and listeners are in :mod:`.streams`, UDP sockets in :mod:`.datagrams`.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from functools import partial

from twinstack.proto.queues import SOCKET_ADDRESS, Operation

from .address import SocketAddress, unpack_socket_address
from .memory import OutOfMemory
from .reactor import Reactor
from .readiness import Readiness

READ_AHEAD_BYTES = 32 * 1024
"""Received for a socket before the program asks, at most; a full read-ahead closes the peer's window."""
RECEIVES = 2
CLOSE_S = 60.0
"""Seconds that a closed socket goes on sending what it had; then it is reset."""


class Endpoint:
    """Common parts. State is under ``reactor.lock``; ``changed`` wakes who waits for this socket."""

    def __init__(self, reactor: Reactor, handle: int = 0):
        self.reactor = reactor
        self.device = reactor.device
        self.lock = reactor.lock
        self.changed = threading.Condition(reactor.lock)
        self.handle = handle
        self.error = 0
        """Pending error, reported once (SO_ERROR)."""
        self.dead = False
        """After an error or close: nothing more is received or sent."""
        self.closing = False
        self.aborting = False
        self.local: SocketAddress | None = None
        self.remote: SocketAddress | None = None
        self.readiness: Readiness | None = None
        self._close_posted = False
        self._close_by = 0.0
        self._name_later: Callable[[], None] | None = None

    @property
    def readable(self) -> bool:
        """A receive, or an accept, would not wait."""
        return self.dead or bool(self.error)

    @property
    def writable(self) -> bool:
        """A send would not wait."""
        return self.dead or bool(self.error)

    def update(self) -> None:
        """Tell those who wait, and the descriptor; with the lock held."""
        self.changed.notify_all()
        if self.readiness is not None:
            self.readiness.show(self.readable, self.writable)

    def fileno(self) -> int:
        """Descriptor that shows :attr:`readable` and :attr:`writable`; made when it is first asked for."""
        with self.lock:
            if self.readiness is None:
                self.readiness = Readiness()
                self.readiness.show(self.readable, self.writable)
            return self.readiness.fileno()

    def take_error(self) -> int:
        """The pending error, which is none from then on; with the lock held."""
        error, self.error = self.error, 0
        self.update()
        return error

    def fail(self, code: int) -> None:
        """The engine, or the core, is gone."""
        with self.lock:
            if not self.dead:
                self.error = code
            self.dead = True
            self.handle = 0
            if self.closing:
                self.reactor.members.discard(self)
            self.update()

    def close(self, *, abort: bool = False, patience: float | None = None) -> None:
        """Begin to close; it goes on in background, for ``patience`` seconds at most."""
        with self.lock:
            self.closing = True
            self.aborting |= abort
            self._close_by = time.monotonic() + (CLOSE_S if patience is None else patience)
            if self.readiness is not None:
                self.readiness.close()
                self.readiness = None
            self.update()
            if self.reactor.failure is not None:
                self.reactor.members.discard(self)
                return
            self.reactor.mark(self)
        self.reactor.kick()

    def expire(self, now: float) -> None:
        """Reset what could not be closed in order."""
        with self.lock:
            if not self.closing or now < self._close_by or self.aborting:
                return
            self.aborting = True
            self.reactor.mark(self)

    def pump(self) -> None:
        later, self._name_later = self._name_later, None
        if later is not None:
            later()
        self._pump_close()

    def _busy(self) -> bool:
        """Data is still to be sent before an orderly close."""
        return False

    def _pump_close(self) -> None:
        with self.lock:
            if not self.closing or self._close_posted:
                return
            if not self.handle:
                self._forget()
                return
            if self._busy() and not self.aborting:
                return
            self._close_posted = True
            operation = Operation.ABORT if self.aborting else Operation.CLOSE
        # Not counted for the core: closing is what makes room.
        self.device.submit(operation, handle=self.handle, on_done=self._on_closed)

    def _on_closed(self, result: int) -> None:
        with self.lock:
            if result == -errno.ENOBUFS:
                self._close_posted = False
                self.reactor.starve(self)
                return
            self.handle = 0
            self.dead = True
            self._forget()

    def _forget(self) -> None:
        self.reactor.members.discard(self)
        self.update()

    def name(self, then: Callable[[], None], *, peer: bool) -> None:
        """Ask for the local address (and the peer's), then call ``then`` with the lock held; the device's lock is held."""
        try:
            block = self.device.pool.take()
        except OutOfMemory:
            self._name_later = partial(self.name, then, peer=peer)
            self.reactor.starve(self)
            return
        wanted = [(Operation.GETSOCKNAME, 0)] + ([(Operation.GETPEERNAME, 64)] if peer else [])
        left = len(wanted)

        def done(operation: Operation, offset: int, result: int) -> None:
            nonlocal left
            if result >= 0:
                address = unpack_socket_address(self.device.link.read(block + offset, SOCKET_ADDRESS.size_bytes))
                if operation == Operation.GETSOCKNAME:
                    self.local = address
                else:
                    self.remote = address
            left -= 1
            if not left:
                self.device.pool.give(block)
                with self.lock:
                    then()
                self.reactor.kick()

        for operation, offset in wanted:
            self.device.submit(
                operation,
                handle=self.handle,
                buffer=block + offset,
                length=SOCKET_ADDRESS.size_bytes,
                on_done=partial(done, operation, offset),
            )


def bytes_of(value: int) -> bytes:
    """An option's value for the inline words."""
    return (value & 0xFFFF_FFFF).to_bytes(4, "little")
