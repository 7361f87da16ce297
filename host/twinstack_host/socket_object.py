"""The class ``socket`` of :mod:`twinstack_host.socket`."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket as std
import struct
import time
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from twinstack.proto.queues import ListenFlag, Operation, SocketOption, UdpFlag

from .address import SocketAddress, in_family, pack_socket_address
from .endpoints import Datagrams, ListeningEnd, Stream, bytes_of
from .options import MULTICAST, NUMBERS, Option, group_of, number_of

if TYPE_CHECKING:
    from .socket import SocketModule

Data = bytes | bytearray | memoryview
Self = TypeVar("Self", bound="Socket")

DATAGRAM_LIMIT = {std.AF_INET: 1472, std.AF_INET6: 1452}
"""Longest datagram that is sent: 1,500 bytes without the headers of IPv4 or IPv6 (RFC 791, RFC 8200) and UDP (RFC 768)."""
FIRST_PORT, LAST_PORT = 49152, 65535  # RFC 6335 clause 6: dynamic ports
LINGER = struct.Struct("ii")
KNOWN_FLAGS = std.MSG_DONTWAIT | std.MSG_PEEK | std.MSG_WAITALL | std.MSG_TRUNC | std.MSG_NOSIGNAL


def os_error(code: int) -> OSError:
    """The exception that the standard library has for an errno."""
    return OSError(code, os.strerror(code))


class Socket:
    """A TCP or UDP socket of an engine; see :class:`socket.socket` for its methods.

    :meth:`fileno` is a descriptor to select on: it is readable and writable when the offloaded socket is. Reading, writing or
    duplicating it is of no use.
    """

    module: SocketModule

    def __init__(
        self, family: int = std.AF_INET, type: int = std.SOCK_STREAM, proto: int = 0, fileno: int | None = None
    ) -> None:
        family, kind = (std.AF_INET if family == -1 else family), (std.SOCK_STREAM if type == -1 else type)
        self._closed = True  # until it is whole
        self._io_refs = 0
        if fileno is not None:
            other = self.module.detached.pop(fileno, None)
            if other is None:
                raise os_error(errno.EBADF)
            self.__dict__.update(other.__dict__)
            self._closed = False
            return
        nonblocking = bool(kind & std.SOCK_NONBLOCK)
        kind &= ~(std.SOCK_NONBLOCK | std.SOCK_CLOEXEC)
        if family not in (std.AF_INET, std.AF_INET6):
            raise os_error(errno.EAFNOSUPPORT)
        if kind not in (std.SOCK_STREAM, std.SOCK_DGRAM):
            raise os_error(errno.ESOCKTNOSUPPORT)
        own = std.IPPROTO_TCP if kind == std.SOCK_STREAM else std.IPPROTO_UDP
        if proto not in (-1, 0, own):
            raise os_error(errno.EPROTONOSUPPORT)
        self.family = std.AddressFamily(family)
        self.type = std.SocketKind(kind)
        self.proto = max(proto, 0)
        self._timeout = 0.0 if nonblocking else self.module.getdefaulttimeout()
        self._reactor = self.module.reactor
        self._lock = self._reactor.lock
        self._end: Stream | ListeningEnd | Datagrams = (
            Stream(self._reactor) if kind == std.SOCK_STREAM else Datagrams(self._reactor)
        )
        self._bound: tuple[str, int, int] | None = None
        self._port_chosen = False
        self._peer: SocketAddress | None = None
        self._options: dict[SocketOption, int] = {}
        self._local_options: dict[tuple[int, int], int] = {}
        self._linger: tuple[int, int] = (0, 0)
        self._closed = False

    @classmethod
    def _of(cls: type[Self], listener: Socket, stream: Stream) -> Self:
        """An accepted connection."""
        made = cls(listener.family, std.SOCK_STREAM, listener.proto)
        made._end = stream
        made._options = dict(listener._options)
        made._linger = listener._linger
        return made

    # --- Life ------------------------------------------------------------------------------------------------------

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._closed:
            self.close()

    def __del__(self) -> None:
        if not self._closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            with contextlib.suppress(Exception):
                self._real_close()

    def __repr__(self) -> str:
        state = " [closed]" if self._closed else ""
        names = ""
        if not self._closed:
            with contextlib.suppress(OSError):
                names += f", laddr={self.getsockname()}"
            with contextlib.suppress(OSError):
                names += f", raddr={self.getpeername()}"
        return f"<twinstack_host.socket.socket{state} family={self.family!s}, type={self.type!s}, proto={self.proto}{names}>"

    def __getstate__(self) -> Any:
        raise TypeError(f"cannot pickle {self.__class__.__name__!r} object")

    def close(self) -> None:
        """Close; files of :meth:`makefile` keep the connection open until they are closed. What was sent still goes out."""
        self._closed = True
        if self._io_refs <= 0:
            self._real_close()

    def _real_close(self) -> None:
        self._closed = True
        end = self._end
        on, seconds = self._linger
        if isinstance(end, Stream) and on and not end.closing:
            if seconds:
                with self._lock:
                    end.shut(read=False, write=True)
                self._reactor.kick()
                if self._timeout != 0:
                    with self._lock, self._reactor.waiting():
                        end.changed.wait_for(lambda: end.finished or end.dead, seconds)
            end.close(abort=not end.finished)
        elif not end.closing:
            end.close()

    def _decref_socketios(self) -> None:
        if self._io_refs > 0:
            self._io_refs -= 1
        if self._closed and self._io_refs <= 0:
            self._real_close()

    def detach(self) -> int:
        """Let go of the connection without closing it; ``socket(fileno=...)`` of the same module takes it up again."""
        number = self.fileno()
        if number >= 0:
            other = object.__new__(self.__class__)
            other.__dict__.update(self.__dict__)
            other._closed = True  # nobody's warning
            self.module.detached[number] = other
            self._closed = True
            self._end = Stream(self._reactor) if self.type == std.SOCK_STREAM else Datagrams(self._reactor)
            self._end.closing = True
        return number

    def fileno(self) -> int:
        """A descriptor that select, poll and epoll find readable and writable when the socket is; -1 when closed."""
        if self._end.closing:
            return -1
        return self._end.fileno()

    makefile = std.socket.makefile

    # --- Time-outs -------------------------------------------------------------------------------------------------

    def settimeout(self, timeout: float | None) -> None:
        if timeout is not None and timeout < 0:
            raise ValueError("Timeout value out of range")
        self._timeout = None if timeout is None else float(timeout)

    def gettimeout(self) -> float | None:
        return self._timeout

    @property
    def timeout(self) -> float | None:
        return self._timeout

    def setblocking(self, flag: bool) -> None:
        self.settimeout(None if flag else 0.0)

    def getblocking(self) -> bool:
        return self._timeout != 0

    def get_inheritable(self) -> bool:
        return False

    def _until(self, ready: Callable[[], object], flags: int = 0, deadline: float | None = None) -> None:
        """Wait until ``ready()``, as the socket's time-out says; with the lock held."""
        if ready():
            return
        if self._timeout == 0 or flags & std.MSG_DONTWAIT:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        left = self._timeout if deadline is None else max(0.0, deadline - time.monotonic())
        end = self._end
        with self._reactor.waiting():
            if not end.changed.wait_for(lambda: ready() or end.closing, left):
                raise TimeoutError("timed out")
        if end.closing:
            raise os_error(errno.EBADF)

    def _deadline(self) -> float | None:
        return time.monotonic() + self._timeout if self._timeout else None

    def _require_open(self) -> None:
        if self._end.closing:
            raise os_error(errno.EBADF)

    def _require_flags(self, flags: int) -> None:
        if flags & ~KNOWN_FLAGS:
            raise os_error(errno.EOPNOTSUPP)

    # --- Addresses -------------------------------------------------------------------------------------------------

    def _resolve(self, what: str, address: Any) -> tuple[str, int, int]:
        """(numeric address, port, scope) of what a program gave."""
        if not isinstance(address, tuple):
            raise TypeError(f"{what}(): {self.family.name} address must be tuple, not {type(address).__name__}")
        if not 2 <= len(address) <= (2 if self.family == std.AF_INET else 4):
            raise TypeError(f"{what}(): {self.family.name} address must be a pair (host, port), not {address!r}")
        host, port = address[:2]
        if not isinstance(port, int):
            raise TypeError(f"{type(port).__name__!r} object cannot be interpreted as an integer")
        if not 0 <= port <= 0xFFFF:
            raise OverflowError(f"{what}(): port must be 0-65535.")
        if isinstance(host, (bytes, bytearray)):
            host = host.decode("ascii")
        if host == "<broadcast>":
            host = "255.255.255.255"
        if host == "":
            host = "0.0.0.0" if self.family == std.AF_INET else "::"
        found = self.module.getaddrinfo(host, port, self.family, self.type)[0][4]
        scope = address[3] if len(address) == 4 else (found[3] if len(found) == 4 else 0)
        return found[0], port, scope

    def _pack(self, resolved: tuple[str, int, int], extra: int = 0) -> bytes:
        """SOCKET_ADDRESS bytes; IPv4-mapped IPv6 addresses are those of IPv4 (RFC 3493 3.7)."""
        host, port, scope = resolved
        if host.startswith("::ffff:") and "." in host:
            if self._local_options.get((std.IPPROTO_IPV6, std.IPV6_V6ONLY)):
                raise os_error(errno.ENETUNREACH)
            host, scope = host.rpartition(":")[2], 0
        return pack_socket_address(host, port, scope=scope, extra=extra)

    def bind(self, address: Any) -> None:
        self._require_open()
        if self._bound is not None or (isinstance(self._end, Stream) and self._end.connected):
            raise os_error(errno.EINVAL)
        host, port, scope = self._resolve("bind", address)
        if isinstance(self._end, Datagrams):
            self._open((host, port, scope))
            return
        if port == 0:
            port, self._port_chosen = random.randint(FIRST_PORT, LAST_PORT), True
        elif self.module.listening(self.family, host, port):
            raise os_error(errno.EADDRINUSE)
        self._bound = host, port, scope

    def getsockname(self) -> Any:
        self._require_open()
        if isinstance(self._end, ListeningEnd) or self._end.local is None:
            host, port, scope = self._bound or ("0.0.0.0" if self.family == std.AF_INET else "::", 0, 0)
            return (host, port) if self.family == std.AF_INET else (host, port, 0, scope)
        return in_family(self._end.local, self.family)

    def getpeername(self) -> Any:
        self._require_open()
        remote = self._peer if isinstance(self._end, Datagrams) else self._end.remote
        if remote is None or (isinstance(self._end, Stream) and not self._end.connected):
            raise os_error(errno.ENOTCONN)
        return in_family(remote, self.family)

    # --- Opening ---------------------------------------------------------------------------------------------------

    def _open(self, local: tuple[str, int, int] | None = None) -> Datagrams:
        """The datagram socket, opened in the engine; raises EOPNOTSUPP for a stream."""
        end = self._end
        if not isinstance(end, Datagrams):
            raise os_error(errno.EOPNOTSUPP)
        if end.handle or end.dead:
            return end
        if self._reactor.full:
            raise os_error(errno.ENOBUFS)
        host = "0.0.0.0" if self.family == std.AF_INET else "::"
        only = self.family == std.AF_INET6 and self._local_options.get((std.IPPROTO_IPV6, std.IPV6_V6ONLY), 0)
        flags = UdpFlag.V6ONLY if only and (local is None or local[0] == "::") else 0
        handle = self._reactor.call(
            Operation.UDP_OPEN, "open a socket", inline=self._pack(local or (host, 0, 0)), operation_flags=flags
        )
        with self._lock:
            end.begin(handle)
        self._apply_options(handle)
        name = self.module.name_of(handle)
        with self._lock:
            end.local = name
            self._bound = (name[0], name[1], name[3] if len(name) == 4 else 0)
        self._reactor.kick()
        return end

    def _apply_options(self, handle: int) -> None:
        for option, value in self._options.items():
            self._set_engine(handle, option, bytes_of(value))

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
                    option: value
                    for option, value in self._options.items()
                    if (option, value) != (SocketOption.NODELAY, 1)
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
        if len(view) > DATAGRAM_LIMIT[self.family]:
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

    # --- Options ---------------------------------------------------------------------------------------------------

    def _option(self, level: int, name: int) -> Option:
        option = NUMBERS.get((level, name))
        if option is None or not (option.stream if self.type == std.SOCK_STREAM else option.datagram):
            raise os_error(errno.ENOPROTOOPT)
        return option

    def _set_engine(self, handle: int, option: SocketOption, inline: bytes) -> None:
        self._reactor.call(
            Operation.SETSOCKOPT, f"set {option.name}", handle=handle, operation_flags=int(option), inline=inline
        )

    def setsockopt(self, level: int, name: int, value: Any, length: int | None = None) -> None:
        self._require_open()
        key = (level, name)
        if key == (std.SOL_SOCKET, std.SO_LINGER):
            if isinstance(value, int) or len(value) < LINGER.size:
                raise os_error(errno.EINVAL)
            self._linger = LINGER.unpack(bytes(value[: LINGER.size]))
        elif key in (
            (std.SOL_SOCKET, std.SO_REUSEADDR),
            (std.IPPROTO_IPV6, std.IPV6_V6ONLY),
        ):
            self._local_options[key] = value if isinstance(value, int) else int.from_bytes(value[:4], "little")
        elif key in MULTICAST:
            end = self._open()
            self._set_engine(end.handle, MULTICAST[key], group_of(level, bytes(value)))
        else:
            option = self._option(level, name)
            number = number_of(option, value)
            if self._end.handle and self._options.get(option.code, option.default) != number:
                self._set_engine(self._end.handle, option.code, bytes_of(number))
            with self._lock:
                self._options[option.code] = number
                if isinstance(self._end, Stream) and self._end.connecting:
                    self._end.options[option.code] = number

    def getsockopt(self, level: int, name: int, length: int = 0) -> Any:
        """The option's value: an int, or with ``length`` bytes."""
        self._require_open()
        key = (level, name)
        fixed = {
            (std.SOL_SOCKET, std.SO_TYPE): int(self.type),
            (std.SOL_SOCKET, std.SO_DOMAIN): int(self.family),
            (std.SOL_SOCKET, std.SO_PROTOCOL): std.IPPROTO_TCP if self.type == std.SOCK_STREAM else std.IPPROTO_UDP,
            (std.SOL_SOCKET, std.SO_ACCEPTCONN): int(isinstance(self._end, ListeningEnd)),
            (std.SOL_SOCKET, std.SO_REUSEADDR): 0,
            (std.IPPROTO_IPV6, std.IPV6_V6ONLY): 0,
        }
        if key == (std.SOL_SOCKET, std.SO_LINGER):
            packed = LINGER.pack(*self._linger)
            return packed[:length] if length else self._linger[0]
        if key == (std.SOL_SOCKET, std.SO_ERROR):
            with self._lock:
                value = self._end.take_error()
        elif key in fixed:
            value = self._local_options.get(key, fixed[key])
        else:
            option = self._option(level, name)
            value = self._options.get(option.code, option.default)
            if self._end.handle and option.code in (SocketOption.RCVBUF, SocketOption.SNDBUF, SocketOption.TTL):
                value = self._reactor.call(
                    Operation.GETSOCKOPT, "get an option", handle=self._end.handle, operation_flags=int(option.code)
                )
        return value.to_bytes(4, "little", signed=True)[:length] if length else value
