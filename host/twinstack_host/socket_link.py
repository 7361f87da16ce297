"""An engine that another program serves at a local socket (``twinstack sim --listen PATH``) as a HostLink."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from twinstack.proto import abi

from . import link_protocol as protocol
from .link import HostLink, LinkError
from .link_protocol import LinkOperation, Message, ProtocolError, Status


class SocketLink(HostLink):
    """A queue pair and a part of host memory on a shared engine. Several threads may use it at the same time.

    Parameters
    ----------
    path : Path
        Of the server's socket.
    timeout : float
        Seconds of wall-clock time within which the server must answer.
    observe : bool
        Only :meth:`console` is wanted: it takes no place of another program.

    Raises
    ------
    LinkError
        If nobody serves there, there is no place, or the versions differ.
    """

    def __init__(self, path: Path | str, *, timeout: float = 30.0, observe: bool = False):
        if timeout <= 0:
            raise ValueError(f"timeout must be positive, not {timeout!r}")
        self.path = Path(path)
        self._timeout = timeout
        self._reader = protocol.MessageReader()
        self._changed = threading.Condition()
        self._replies: dict[int, Message] = {}
        self._awaited: set[int] = set()
        self._reading = False
        self._number = 0
        self._failure: LinkError | None = None
        self._sending = threading.Lock()
        self._waiting = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(self.path))
            self._base = self._size = 0
            if observe:
                return
            hello = protocol.HELLO.pack(protocol.MAGIC, protocol.PROTOCOL_VERSION, 0, abi.ABI_VERSION)
            body = self._call(LinkOperation.HELLO, hello, protocol.WELCOME.size)
        except LinkError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise LinkError(error.errno or errno.EIO, f"no engine at {self.path}: {error}") from error
        self._base, self._size = protocol.WELCOME.unpack(body)[4:]

    @property
    def is_shared(self) -> bool:
        return True

    @property
    def memory_base(self) -> int:
        return int(self._base)

    @property
    def memory_size(self) -> int:
        return int(self._size)

    def csr_read(self, offset: int) -> int:
        body = self._call(LinkOperation.CSR_READ, protocol.CSR_READ.pack(offset), protocol.WORD.size)
        return int(protocol.WORD.unpack(body)[0])

    def csr_write(self, offset: int, value: int) -> None:
        self._call(LinkOperation.CSR_WRITE, protocol.CSR_WRITE.pack(offset, value), 0)

    def read(self, address: int, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = min(length - len(data), protocol.MAX_DATA_BYTES)
            data += self._call(LinkOperation.READ, protocol.READ.pack(address + len(data), piece), piece)
        return bytes(data)

    def write(self, address: int, data: bytes) -> None:
        for offset in range(0, len(data), protocol.MAX_DATA_BYTES):
            piece = bytes(data[offset : offset + protocol.MAX_DATA_BYTES])
            self._call(LinkOperation.WRITE, protocol.ADDRESS.pack(address + offset) + piece, 0)

    def wait_interrupt(self, timeout: float) -> bool:
        with self._waiting:  # the server takes one at a time
            left = max(0, round(timeout * 1e9))
            while True:
                wait = protocol.NANOSECONDS.pack(min(left, protocol.MAX_WAIT_NS))
                up, rest = protocol.WAITED.unpack(self._call(LinkOperation.WAIT, wait, protocol.WAITED.size))
                left -= min(left, protocol.MAX_WAIT_NS) - rest
                if up or left <= 0:
                    return bool(up)

    def clock(self) -> float:
        body = self._call(LinkOperation.CLOCK, b"", protocol.NANOSECONDS.size)
        return float(protocol.NANOSECONDS.unpack(body)[0] / 1e9)

    def console(self, core: int, offset: int = 0) -> tuple[int, bytes]:
        """What ``core`` has printed from byte ``offset`` of it all on, and where that begins: early parts are lost in time."""
        body = self._call(LinkOperation.CONSOLE, protocol.CONSOLE.pack(core, offset), None)
        if len(body) < protocol.ADDRESS.size:
            raise self._fail(errno.EPROTO, f"the server answers CONSOLE with {len(body)} bytes")
        return int(protocol.ADDRESS.unpack_from(body)[0]), body[protocol.ADDRESS.size :]

    def close(self) -> None:
        """End the connection: the server ends all that was under way. Closing twice is allowed."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self._changed:
            if self._failure is None:
                self._failure = LinkError(errno.EBADF, "the link is closed")
            self._changed.notify_all()

    def __enter__(self) -> SocketLink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- Messages --------------------------------------------------------------------------------------------------

    def _call(self, operation: LinkOperation, body: bytes, expected: int | None) -> bytes:
        """Body of the reply, of ``expected`` bytes if they are known; raises LinkError for any other."""
        with self._changed:
            if self._failure is not None:
                raise LinkError(self._failure.errno, self._failure.strerror)
            while True:
                self._number = (self._number + 1) & 0xFFFF
                if self._number not in self._awaited:
                    break
            number = self._number
            self._awaited.add(number)
        try:
            with self._sending:
                self._socket.sendall(Message(number, operation, 0, body).encode())
        except OSError as error:
            self._receive_rest(number)  # why the server has closed, if it said so
            raise self._fail(errno.ECONNRESET, f"the server at {self.path} is gone: {error}") from error
        reply = self._await(number, time.monotonic() + self._timeout)
        if reply.status != Status.OK:
            code, text = protocol.decode_error(reply.body)
            error_ = LinkError(code, f"{operation.name}: {text}")
            if reply.status == Status.CLOSED:
                self._fail(code, text)
            raise error_
        if reply.operation != operation or expected not in (None, len(reply.body)):
            raise self._fail(
                errno.EPROTO,
                f"the reply to {operation.name} must have {expected} bytes, not {len(reply.body)} of {reply.operation}",
            )
        return reply.body

    def _await(self, number: int, deadline: float) -> Message:
        """The reply to request ``number``: one thread at a time receives, for all."""
        with self._changed:
            try:
                while True:
                    if number in self._replies:
                        return self._replies.pop(number)
                    if self._failure is not None:
                        raise LinkError(self._failure.errno, self._failure.strerror)
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise self._fail(errno.ETIMEDOUT, f"the server at {self.path} does not answer")
                    if self._reading:
                        self._changed.wait(left)
                        continue
                    self._reading = True
                    self._changed.release()
                    try:
                        messages = self._receive()
                    finally:
                        self._changed.acquire()
                        self._reading = False
                        self._changed.notify_all()
                    self._sort(messages, number)
            finally:
                self._awaited.discard(number)

    def _sort(self, messages: list[Message], number: int) -> None:
        for message in messages:
            if message.status == Status.CLOSED:
                # What the server could not make out has no number; whoever waits learns of it.
                self._replies[message.number if message.number in self._awaited else number] = message
            elif message.number in self._awaited:
                self._replies[message.number] = message
            else:
                raise self._fail(errno.EPROTO, f"the server answers request {message.number}, which nobody made")

    def _receive(self) -> list[Message]:
        """Messages that have come, at least one; raises LinkError."""
        messages: list[Message] = []
        try:
            while not messages:
                data = self._socket.recv(1 << 17)
                if not data:
                    raise self._fail(errno.ECONNRESET, f"the server at {self.path} has closed the connection")
                self._reader.feed(data)
                while (message := self._reader.next()) is not None:
                    messages.append(message)
        except ProtocolError as error:
            raise self._fail(errno.EPROTO, str(error)) from error
        except TimeoutError as error:
            raise self._fail(errno.ETIMEDOUT, f"the server at {self.path} does not answer") from error
        except LinkError:
            raise
        except OSError as error:
            raise self._fail(errno.ECONNRESET, f"the server at {self.path} is gone: {error}") from error
        return messages

    def _receive_rest(self, number: int) -> None:
        with contextlib.suppress(LinkError, ProtocolError):
            reply = self._await(number, time.monotonic() + 0.2)
            if reply.status == Status.CLOSED:
                self._fail(*protocol.decode_error(reply.body))

    def _fail(self, code: int, text: str) -> LinkError:
        """Note that the link is of no use any more, and the error to raise; the first cause stays."""
        with self._changed:
            if self._failure is None:
                self._failure = LinkError(code, text)
            self._changed.notify_all()
            return LinkError(self._failure.errno, self._failure.strerror)
