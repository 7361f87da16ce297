"""Both ends of a TCP connection behind one interface, so that a transfer can be written once."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import Protocol

from twinstack_host.device import Pending, error_for
from twinstack_host.memory import OutOfMemory
from twinstack_host.sockets import Socket

CHUNK = 4096


class Stream(Protocol):
    """One end of a connection that is stepped, never blocked."""

    def send_all(self, data: bytes) -> None:
        """Queue ``data``."""

    def recv(self) -> bytes:
        """What has come since, maybe nothing."""

    def close(self) -> None:
        """Close the connection."""


class HostStream:
    """The offloaded end: keeps one RECV posted and up to two SENDs under way."""

    def __init__(self, sock: Socket):
        self.socket = sock
        self._out = bytearray()
        self._sending: list[Pending] = []

    def send_all(self, data: bytes) -> None:
        self._out += data
        self._pump()

    def recv(self) -> bytes:
        self._pump()
        with contextlib.suppress(OutOfMemory):
            self.socket.receive_step()
        return self.socket.take(1 << 20)

    @property
    def unsent(self) -> int:
        """Bytes that the engine has not taken yet."""
        return len(self._out) + sum(not pending.done for pending in self._sending)

    def close(self) -> None:
        self.socket.close()

    def _pump(self) -> None:
        for pending in self._sending:
            if pending.done and pending.result < 0:
                raise error_for(pending.result, "send")
        self._sending = [pending for pending in self._sending if not pending.done]
        while self._out and len(self._sending) < 2:
            try:
                self._sending.append(self.socket.send_begin(bytes(self._out[:CHUNK])))
            except OutOfMemory:
                return
            del self._out[:CHUNK]


class LinuxStream:
    """The kernel's end."""

    def __init__(self, sock: socket.socket):
        sock.setblocking(False)
        self.socket = sock
        self._out = bytearray()
        self.connected = False

    def step(self) -> None:
        """Find out whether the connection stands, and send what is queued."""
        if not self.connected:
            code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, "connect failed")
            try:
                self.socket.getpeername()
                self.connected = True
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    raise
                return
        with contextlib.suppress(BlockingIOError):
            while self._out:
                del self._out[: self.socket.send(self._out)]

    def send_all(self, data: bytes) -> None:
        self._out += data
        self.step()

    def recv(self) -> bytes:
        self.step()
        with contextlib.suppress(BlockingIOError):
            return self.socket.recv(1 << 16) if self.connected else b""
        return b""

    @property
    def local(self) -> tuple[str, int]:
        host, port = self.socket.getsockname()
        return host, port

    def close(self) -> None:
        self.socket.close()
