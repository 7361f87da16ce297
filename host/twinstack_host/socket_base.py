"""What the class ``socket`` of :mod:`twinstack_host.socket` has before it sends anything."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket as std
import struct
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from twinstack.proto.queues import Operation, SocketOption, UdpFlag

from .address import SocketAddress, in_family, pack_socket_address
from .datagrams import Datagrams
from .endpoints import bytes_of
from .options import MULTICAST, NUMBERS, Option, group_of, number_of
from .streams import ListeningEnd, Stream

if TYPE_CHECKING:
    from .socket import SocketModule

Self = TypeVar("Self", bound="SocketBase")

FIRST_PORT, LAST_PORT = 49152, 65535  # RFC 6335 clause 6: dynamic ports
LINGER = struct.Struct("ii")
KNOWN_DEFAULTS = {SocketOption.NODELAY: 1}
"""Setting these to what they are costs no operation: asyncio does it with every connection."""
KNOWN_FLAGS = std.MSG_DONTWAIT | std.MSG_PEEK | std.MSG_WAITALL | std.MSG_TRUNC | std.MSG_NOSIGNAL


def os_error(code: int) -> OSError:
    """The exception that the standard library has for an errno."""
    return OSError(code, os.strerror(code))


class SocketBase:
    """What a socket has before it sends anything: life, time-outs, addresses, options."""

    module: SocketModule
    _closed = True  # until it is whole

    def __init__(
        self, family: int = std.AF_INET, type: int = std.SOCK_STREAM, proto: int = 0, fileno: int | None = None
    ) -> None:
        family, kind = (std.AF_INET if family == -1 else family), (std.SOCK_STREAM if type == -1 else type)
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
    def _of(cls: type[Self], listener: SocketBase, stream: Stream) -> Self:
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
            if seconds and self._timeout != 0:
                with self._lock:
                    end.shut(read=False, write=True)
                self._reactor.kick()
                with self._lock, self._reactor.waiting():
                    end.changed.wait_for(lambda: end.finished or end.dead, seconds)
                end.close(abort=not end.finished)
            else:
                end.close(abort=not seconds, patience=seconds)
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

    def set_inheritable(self, inheritable: bool) -> None:
        if inheritable:  # another process could do nothing with the descriptor
            raise os_error(errno.EOPNOTSUPP)

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

    # --- Options ---------------------------------------------------------------------------------------------------

    def _option(self, level: int, name: int) -> Option:
        option = NUMBERS.get((level, name))
        if level == std.IPPROTO_IPV6 and self.family != std.AF_INET6:
            option = None
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
            if self._end.handle and self._options.get(option.code, KNOWN_DEFAULTS.get(option.code)) != number:
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
            if self._end.handle:
                try:
                    value = self._reactor.call(
                        Operation.GETSOCKOPT, "get an option", handle=self._end.handle, operation_flags=int(option.code)
                    )
                except OSError as error:
                    if error.errno not in (errno.ENOPROTOOPT, errno.EOPNOTSUPP):  # what can be set, but not read
                        raise
        return value.to_bytes(4, "little", signed=True)[:length] if length else value
