"""TCP connections and listeners as the engine has them, for programs that drive the engine themselves.

Time-outs count engine time, and the engine works while a call waits. For programs, :mod:`twinstack_host.socket` is meant.
"""

from __future__ import annotations

import collections
import errno
from types import TracebackType

from twinstack.proto.queues import SOCKET_ADDRESS, Operation, OperationFlag

from .address import pack_socket_address, unpack_socket_address
from .device import Device, Pending, error_for

Address = tuple[str, int]


def pack_address(address: Address) -> bytes:
    """SOCKET_ADDRESS bytes of (numeric address, port); raises ValueError like :func:`.address.pack_socket_address`."""
    return pack_socket_address(*address)


def unpack_address(values: dict[str, int]) -> Address:
    """(numeric address, port) of SOCKET_ADDRESS fields."""
    return unpack_socket_address(SOCKET_ADDRESS.pack(values))[:2]


class _Endpoint:
    """What a connection and a listener share: a handle that dies with close()."""

    def __init__(self, device: Device, handle: int):
        self.device = device
        self.handle = handle
        self.timeout: float | None = None
        self.closed = False

    def settimeout(self, timeout: float | None) -> None:
        """Seconds of engine time after which a blocking call raises TimeoutError; None waits for ever."""
        if timeout is not None and timeout < 0:
            raise ValueError(f"timeout must be None or not negative, not {timeout!r}")
        self.timeout = timeout

    def _require_open(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, "the socket is closed")

    def getsockname(self) -> Address:
        """Local (address, port)."""
        self._require_open()
        return unpack_address(
            self.device.read_layout(Operation.GETSOCKNAME, SOCKET_ADDRESS, "getsockname", handle=self.handle)
        )

    def close(self) -> None:
        """Close; the handle is dead at once. Closing twice does nothing."""
        if not self.closed:
            self.closed = True
            self.device.call(Operation.CLOSE, "close", handle=self.handle)


class Socket(_Endpoint):
    """A TCP connection. Blocking calls wait in engine time; use as a context manager closes it."""

    def __init__(self, device: Device, handle: int):
        super().__init__(device, handle)
        self._received = bytearray()
        self._receiving: Pending | None = None
        self._receive_buffer = 0
        self._ended = False

    @classmethod
    def connect(cls, device: Device, address: Address, *, timeout: float | None = 30.0) -> Socket:
        """Open a connection to (dotted IPv4 address, port); raises the OSError of a refusal or time-out."""
        pending = cls.connect_begin(device, address)
        result = device.wait(pending, timeout)
        if result < 0:
            raise error_for(result, f"connect to {address[0]}:{address[1]}")
        return cls(device, result)

    @staticmethod
    def connect_begin(device: Device, address: Address) -> Pending:
        """Submit a connect without waiting; the result is a handle for the constructor."""
        return device.submit(Operation.TCP_CONNECT, inline=pack_address(address))

    @property
    def core(self) -> int:
        """Core that serves this connection."""
        return self.handle >> 28 & 7

    def getpeername(self) -> Address:
        """Remote (address, port)."""
        self._require_open()
        return unpack_address(
            self.device.read_layout(Operation.GETPEERNAME, SOCKET_ADDRESS, "getpeername", handle=self.handle)
        )

    def send_begin(self, data: bytes) -> Pending:
        """Submit up to one buffer of ``data``; the result is the number of bytes taken."""
        self._require_open()
        address = self.device.pool.take()
        piece = data[: self.device.pool.block_bytes]
        with self.device.lock:
            self.device.link.write(address, piece)
        return self.device.submit(
            Operation.SEND,
            handle=self.handle,
            buffer=address,
            length=len(piece),
            on_done=lambda _: self.device.pool.give(address),
        )

    def sendall(self, data: bytes) -> None:
        """Send all of ``data``; returns when the engine has copied it."""
        view = memoryview(data)
        while view:
            result = self.device.wait(self.send_begin(bytes(view[: self.device.pool.block_bytes])), self.timeout)
            if result < 0:
                raise error_for(result, "send")
            view = view[result:]

    def send(self, data: bytes) -> int:
        """Send up to one buffer of ``data``; returns the number of bytes taken."""
        if not data:
            return 0
        result = self.device.wait(self.send_begin(data), self.timeout)
        if result < 0:
            raise error_for(result, "send")
        return result

    def receive_step(self) -> bool:
        """Keep a RECV posted and take in what has come, without waiting; True when data or the end is there."""
        if self._receiving is not None and self._receiving.done:
            pending, self._receiving = self._receiving, None
            address = self._receive_buffer
            if pending.result > 0:
                with self.device.lock:
                    self._received += self.device.link.read(address, pending.result)
            self.device.pool.give(address)
            if pending.result == 0:
                self._ended = True
            elif pending.result < 0:
                raise error_for(pending.result, "receive")
        if (
            self._receiving is None
            and not self._ended
            and not self.closed
            and len(self._received) < self.device.pool.block_bytes
        ):
            self._receive_buffer = self.device.pool.take()
            self._receiving = self.device.submit(
                Operation.RECV, handle=self.handle, buffer=self._receive_buffer, length=self.device.pool.block_bytes
            )
        return bool(self._received) or self._ended

    def recv(self, length: int) -> bytes:
        """Up to ``length`` bytes, at least one; empty at the end of the stream.

        One buffer stays posted from the first call on, so what arrives meanwhile is already in host memory.
        """
        self._require_open()
        if length < 1:
            raise ValueError(f"length must be at least 1, not {length!r}")
        self.device.wait_until(self.receive_step, self.timeout, "receive")
        return self.take(length)

    def take(self, length: int) -> bytes:
        """Up to ``length`` bytes that have been received already."""
        piece = bytes(self._received[:length])
        del self._received[:length]
        return piece

    @property
    def ended(self) -> bool:
        """The peer has sent its last byte, and it was taken."""
        return self._ended and not self._received

    def shutdown(self) -> None:
        """End our direction; returns when the peer has acknowledged all of it."""
        self._require_open()
        result = self.device.wait(self.device.submit(Operation.SHUTDOWN, handle=self.handle), self.timeout)
        if result < 0:
            raise error_for(result, "shutdown")

    def close(self) -> None:
        """Close both directions; a pending RECV ends. Closing twice does nothing."""
        super().close()
        self._drop_receive()

    def abort(self) -> None:
        """Reset the connection."""
        if not self.closed:
            self.closed = True
            self.device.call(Operation.ABORT, "abort", handle=self.handle)
            self._drop_receive()

    def _drop_receive(self) -> None:
        pending, self._receiving = self._receiving, None
        if pending is not None:
            self.device.wait(pending, self.device.timeout)
            self.device.pool.give(self._receive_buffer)

    def __enter__(self) -> Socket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Listener(_Endpoint):
    """A listening TCP socket: it lives on every core, and accepting never consumes it."""

    def __init__(self, device: Device, port: int, *, backlog: int = 8, address: str = "0.0.0.0"):
        handle = device.call(
            Operation.TCP_LISTEN, f"listen on port {port}", length=backlog, inline=pack_address((address, port))
        )
        super().__init__(device, handle)
        self._address = (address, port)
        self._accepted: collections.deque[int] = collections.deque()
        self._accepting = device.submit(
            Operation.TCP_ACCEPT,
            handle=handle,
            operation_flags=OperationFlag.ACCEPT_MULTISHOT,
            on_more=self._accepted.append,
        )

    def getsockname(self) -> Address:
        """Local (address, port), as given; a listener has no other."""
        self._require_open()
        return self._address

    def accept_step(self) -> Socket | None:
        """A connection that has come, or None."""
        return Socket(self.device, self._accepted.popleft()) if self._accepted else None

    def accept(self) -> tuple[Socket, Address]:
        """Wait for a connection; returns it with the peer's address."""
        self._require_open()
        self.device.wait_until(lambda: bool(self._accepted) or self._accepting.done, self.timeout, "accept")
        accepted = self.accept_step()
        if accepted is None:
            raise error_for(self._accepting.result, "accept")
        return accepted, accepted.getpeername()

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
