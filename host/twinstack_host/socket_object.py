"""The class ``socket`` of :mod:`twinstack_host.socket`."""

from __future__ import annotations

import errno
import random
import socket as std
from collections.abc import Iterable
from typing import Any

from twinstack.proto.queues import ListenFlag, Operation, SocketOption

from .address import in_family
from .datagrams import Datagrams
from .socket_base import FIRST_PORT, KNOWN_DEFAULTS, LAST_PORT, SocketBase, os_error
from .streams import ListeningEnd, Stream

Data = bytes | bytearray | memoryview

DATAGRAM_LIMIT = {std.AF_INET: 1472, std.AF_INET6: 1452}
"""Longest datagram that is sent: 1,500 bytes without the headers of IPv4 or IPv6 (RFC 791, RFC 8200) and UDP (RFC 768)."""


class Socket(SocketBase):
    """A TCP or UDP socket of an engine; see :class:`socket.socket` for its methods.

    :meth:`fileno` is a descriptor to select on: it is readable and writable when the offloaded socket is. Reading, writing or
    duplicating it is of no use.
    """

    # --- Opening ---------------------------------------------------------------------------------------------------

    def listen(self, backlog: int = 128) -> None:
        self._require_open()
        end = self._end
        if isinstance(end, ListeningEnd):
            return
        if not isinstance(end, Stream):
            raise os_error(errno.EOPNOTSUPP)
        if end.connected or end.connecting:
            raise os_error(errno.EINVAL)
        if self._bound is None:
            self.bind(("", 0))
        assert self._bound is not None
        only = self._bound[0] == "::" and self._local_options.get((std.IPPROTO_IPV6, std.IPV6_V6ONLY), 0)
        tries = 8 if self._port_chosen else 1
        while True:
            try:
                handle = self._reactor.call(
                    Operation.TCP_LISTEN,
                    "listen",
                    length=max(1, min(backlog, 255)),
                    inline=self._pack(self._bound),
                    operation_flags=ListenFlag.V6ONLY if only else 0,
                )
                break
            except OSError as error:
                tries -= 1
                if error.errno != errno.EADDRINUSE or not tries:
                    raise
                self._bound = (self._bound[0], random.randint(FIRST_PORT, LAST_PORT), self._bound[2])
        self._apply_options(handle)
        listening = ListeningEnd(self._reactor)
        with self._lock:
            listening.readiness, end.readiness = end.readiness, None
            end.closing = True
            self._end = listening
            listening.begin(handle)
        self.module.listeners[listening] = (self.family, *self._bound[:2])
        self._reactor.kick()

    def accept(self) -> tuple[Socket, Any]:
        self._require_open()
        end = self._end
        if not isinstance(end, ListeningEnd):
            raise os_error(errno.EOPNOTSUPP if isinstance(end, Datagrams) else errno.EINVAL)
        with self._lock:
            self._until(lambda: end.waiting or end.dead)
            if not end.waiting:
                raise os_error(end.take_error() or errno.EINVAL)
            stream = end.waiting.popleft()
            end.update()
        made = self.__class__._of(self, stream)
        return made, made.getpeername()

    def connect(self, address: Any) -> None:
        code = self._connect(address)
        if code:
            raise os_error(code)

    def connect_ex(self, address: Any) -> int:
        """As :meth:`connect`, but returns an errno."""
        try:
            return self._connect(address)
        except TimeoutError as error:
            return error.errno or errno.EAGAIN
        except OSError as error:
            if error.errno is None or isinstance(error, std.gaierror):
                raise
            return error.errno

    def _connect(self, address: Any) -> int:
        self._require_open()
        end = self._end
        if isinstance(end, ListeningEnd):
            return errno.EISCONN
        resolved = self._resolve("connect", address)
        if isinstance(end, Datagrams):
            end = self._open()
            peer = resolved
            self._set_engine(end.handle, SocketOption.PEER, self._pack(peer))
            self._peer = peer[:2] if self.family == std.AF_INET else (peer[0], peer[1], 0, peer[2])
            with self._lock:
                end.local = self.module.name_of(end.handle)
            return 0
        if resolved[0] in ("0.0.0.0", "::"):
            return errno.ECONNREFUSED  # this host itself, and the engine has no loopback
        port, extra = 0, 0
        if self._bound is not None:
            host, port, _ = self._bound
            if self.family == std.AF_INET and host != "0.0.0.0":
                extra = int.from_bytes(std.inet_aton(host), "little")
        packed = self._pack(resolved, extra)
        self._reactor.check()
        with self._lock:
            if end.connected:
                return errno.EISCONN
            if end.connecting:
                if self._timeout == 0:
                    return errno.EALREADY
            elif end.error:
                return end.take_error()
            elif self._reactor.full:
                return errno.ENOBUFS
            else:
                end.options = {
                    option: value for option, value in self._options.items() if KNOWN_DEFAULTS.get(option) != value
                }
                end.connect(packed, port)
        self._reactor.kick()
        if self._timeout == 0:
            return errno.EINPROGRESS
        with self._lock:
            self._until(lambda: not end.connecting)
            return end.take_error()

    def shutdown(self, how: int) -> None:
        self._require_open()
        if how not in (std.SHUT_RD, std.SHUT_WR, std.SHUT_RDWR):
            raise os_error(errno.EINVAL)
        end = self._end
        if isinstance(end, Datagrams) and self._peer is not None:
            return
        if not isinstance(end, Stream) or not end.connected or (end.dead and not end.error):
            raise os_error(errno.ENOTCONN)
        with self._lock:
            end.shut(read=how != std.SHUT_WR, write=how != std.SHUT_RD)
        self._reactor.kick()

    # --- Sending ---------------------------------------------------------------------------------------------------

    def _put(self, view: memoryview, flags: int, deadline: float | None) -> int:
        """Wait for space and take some of a stream; with the lock held."""
        end = self._end
        if not isinstance(end, Stream):
            raise os_error(errno.EPIPE)

        def check() -> None:
            if end.error:
                raise os_error(end.take_error())
            if end.write_shut or end.dead or not (end.connected or end.connecting):
                raise os_error(errno.EPIPE)

        check()
        if not view:
            return 0
        self._until(lambda: end.error or end.dead or (end.connected and end.space), flags, deadline)
        check()
        return end.put(view)

    def send(self, data: Data, flags: int = 0) -> int:
        self._require_open()
        self._require_flags(flags)
        view = memoryview(data).cast("B")
        if self.type == std.SOCK_DGRAM:
            if self._peer is None:
                raise os_error(errno.EDESTADDRREQ)
            return self._send_datagram(view, None, flags)
        whole = self._timeout is None and not flags & std.MSG_DONTWAIT
        sent = 0
        while True:
            with self._lock:
                try:
                    sent += self._put(view[sent:], flags, None)
                except OSError:
                    if sent:
                        return sent
                    raise
            self._reactor.kick()
            if not whole or sent == len(view):
                return sent

    def sendall(self, data: Data, flags: int = 0) -> None:
        self._require_open()
        self._require_flags(flags)
        view = memoryview(data).cast("B")
        if self.type == std.SOCK_DGRAM:
            self.send(data, flags)
            return
        deadline = self._deadline()
        while True:
            with self._lock:
                view = view[self._put(view, flags, deadline) :]
            self._reactor.kick()
            if not view:
                return

    def _send_datagram(self, view: memoryview, to: bytes | None, flags: int) -> int:
        end = self._open()
        if len(view) > min(DATAGRAM_LIMIT[self.family], end.device.pool.block_bytes):
            raise os_error(errno.EMSGSIZE)
        results: list[int] = []
        patient = self._timeout != 0 and not flags & std.MSG_DONTWAIT
        with self._lock:
            if end.error:
                raise os_error(end.take_error())
            self._until(lambda: end.space or end.dead, flags)
            end.put(bytes(view), to, results.append if patient else None)
        self._reactor.kick()
        if patient:  # the engine's answer comes without any peer: at once
            with self._lock:
                self._until(lambda: results or end.dead)
                if not results:
                    raise os_error(end.take_error() or errno.ENODEV)
            if results[0] < 0:
                raise os_error(-results[0])
        return len(view)

    def sendto(self, data: Data, *arguments: Any) -> int:
        """``sendto(data, address)`` or ``sendto(data, flags, address)``."""
        self._require_open()
        if len(arguments) not in (1, 2):
            raise TypeError(f"sendto() takes 2 or 3 arguments ({len(arguments) + 1} given)")
        flags = arguments[0] if len(arguments) == 2 else 0
        self._require_flags(flags)
        if self.type == std.SOCK_STREAM:
            connected = isinstance(self._end, Stream) and self._end.connected
            raise os_error(errno.EISCONN if connected else errno.EPIPE)
        resolved = self._resolve("sendto", arguments[-1])
        if resolved[1] == 0:
            raise os_error(errno.EINVAL)
        return self._send_datagram(memoryview(data).cast("B"), self._pack(resolved), flags)

    def sendmsg(self, buffers: Iterable[Data], ancdata: Iterable[Any] = (), flags: int = 0, address: Any = None) -> int:
        if list(ancdata):
            raise os_error(errno.EOPNOTSUPP)
        data = b"".join(bytes(memoryview(part).cast("B")) for part in buffers)
        return self.send(data, flags) if address is None else self.sendto(data, flags, address)

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        if "b" not in getattr(file, "mode", "b"):
            raise ValueError("file should be opened in binary mode")
        if self.type != std.SOCK_STREAM:
            raise ValueError("only SOCK_STREAM type sockets are supported")
        if self._timeout == 0:
            raise ValueError("non-blocking sockets are not supported")
        if count is not None and count <= 0:
            raise ValueError(f"count must be a positive integer (got {count!r})")
        if offset or hasattr(file, "seek"):
            file.seek(offset)
        sent = 0
        while count is None or sent < count:
            piece = file.read(8192 if count is None else min(8192, count - sent))
            if not piece:
                break
            self.sendall(piece)
            sent += len(piece)
        return sent

    # --- Receiving -------------------------------------------------------------------------------------------------

    def _receive(self, length: int, flags: int) -> tuple[bytes, int, Any]:
        """(data, bytes that there were, sender)."""
        self._require_open()
        self._require_flags(flags)
        if length < 0:
            raise ValueError("negative buffersize in recv")
        peek = bool(flags & std.MSG_PEEK)
        if self.type == std.SOCK_DGRAM:
            datagrams = self._open()
            with self._lock:
                self._until(lambda: datagrams.received or datagrams.error or datagrams.dead, flags)
                if datagrams.error:
                    raise os_error(datagrams.take_error())
                if not datagrams.received:
                    raise os_error(errno.ENODEV)
                data, whole, sender = datagrams.take(peek=peek)
            self._reactor.kick()
            return data[:length], whole, in_family(sender, self.family)
        stream = self._end
        if not isinstance(stream, Stream) or not (stream.connected or stream.connecting or stream.error):
            raise os_error(errno.ENOTCONN)
        got = b""
        deadline = self._deadline()
        while len(got) < length:
            with self._lock:
                try:
                    self._until(lambda: stream.received or stream.ended or stream.error or stream.dead, flags, deadline)
                except OSError:
                    if got:
                        break
                    raise
                if stream.received:
                    got += stream.take(length - len(got), peek=peek)
                elif stream.error and not got:
                    raise os_error(stream.take_error())
                else:
                    break
            self._reactor.kick()
            if not flags & std.MSG_WAITALL or peek:
                break
        return got, len(got), None

    def recv(self, length: int, flags: int = 0) -> bytes:
        return self._receive(length, flags)[0]

    def recvfrom(self, length: int, flags: int = 0) -> tuple[bytes, Any]:
        data, _, sender = self._receive(length, flags)
        return data, sender

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        return self.recvfrom_into(buffer, nbytes, flags)[0]

    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        view = memoryview(buffer).cast("B")
        if nbytes < 0:
            raise ValueError("negative buffersize in recv_into")
        if nbytes > len(view):
            raise ValueError("buffer too small for requested bytes")
        data, whole, sender = self._receive(nbytes or len(view), flags)
        view[: len(data)] = data
        return whole if flags & std.MSG_TRUNC and self.type == std.SOCK_DGRAM else len(data), sender

    def recvmsg(self, bufsize: int, ancbufsize: int = 0, flags: int = 0) -> tuple[bytes, list[Any], int, Any]:
        data, whole, sender = self._receive(bufsize, flags)
        return data, [], std.MSG_TRUNC if whole > len(data) else 0, sender

    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0
    ) -> tuple[int, list[Any], int, Any]:
        views = [memoryview(buffer).cast("B") for buffer in buffers]
        data, _, message_flags, sender = self.recvmsg(sum(map(len, views)), ancbufsize, flags)
        rest = memoryview(data)
        for view in views:
            part = rest[: len(view)]
            view[: len(part)] = part
            rest = rest[len(part) :]
        return len(data), [], message_flags, sender
