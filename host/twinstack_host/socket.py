"""The standard library's :mod:`socket`, over an engine: the same names, semantics and exceptions.

:func:`attach` names the device of the sockets of this module; ``device.socket_module()`` gives an object with the same names
for one of several devices. Constants, and functions that need no network, are those of the standard module. What
differs is listed in ``docs/sockets.md``.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket as _std
import time
import weakref
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from twinstack.proto.queues import SOCKET_ADDRESS, Operation

from .address import SocketAddress, unpack_socket_address
from .device import Device
from .reactor import Reactor
from .socket_base import SocketBase, os_error
from .socket_object import Socket
from .streams import ListeningEnd

error = OSError
timeout = TimeoutError
gaierror = _std.gaierror
herror = _std.herror
has_ipv6 = True

_PASSED_ON = frozenset(
    "SocketIO SocketType SocketKind AddressFamily AddressInfo MsgFlag htons htonl ntohs ntohl inet_aton inet_ntoa inet_pton "
    "inet_ntop gethostname getservbyname getservbyport getprotobyname CMSG_LEN CMSG_SPACE".split()
)
_NAME_BYTES = 127
_ANY = {_std.AF_INET: "0.0.0.0", _std.AF_INET6: "::"}


def _passed_on(name: str) -> Any:
    """A constant of the standard module, or one of its functions that need no network."""
    if hasattr(_std, name) and (name in _PASSED_ON or (name.isupper() and not name.startswith("_"))):
        return getattr(_std, name)
    raise AttributeError(f"module 'twinstack_host.socket' has no attribute {name!r}")


class SocketModule:
    """What the module ``socket`` is to a program, for one device.

    Parameters
    ----------
    device : Device
        A started engine with configured ports; ``None`` until :func:`attach`.
    """

    error, timeout, gaierror, herror, has_ipv6 = error, timeout, gaierror, herror, has_ipv6

    def __init__(self, device: Device | None = None):
        self.device = device
        self.detached: dict[int, SocketBase] = {}
        self.listeners: weakref.WeakKeyDictionary[ListeningEnd, tuple[int, str, int]] = weakref.WeakKeyDictionary()
        self._default_timeout: float | None = None
        self.socket: type[Socket] = type("socket", (Socket,), {"module": self, "__doc__": Socket.__doc__})

    def __getattr__(self, name: str) -> Any:
        return _passed_on(name)

    @property
    def reactor(self) -> Reactor:
        """The thread that serves the device's sockets, started if there is none; OSError ENODEV without a device."""
        if self.device is None:
            raise OSError(errno.ENODEV, "no engine: call twinstack_host.socket.attach(device) first")
        return Reactor.of(self.device)

    def stop(self, timeout: float = 10.0) -> None:
        """Wait until closed sockets have sent what they had, at most ``timeout`` seconds, and end the device's thread."""
        if self.device is None or self.device.reactor is None:
            return
        reactor = self.device.reactor
        with reactor.lock, reactor.waiting():
            deadline = time.monotonic() + timeout
            while reactor.failure is None and any(member.closing for member in reactor.members):
                if time.monotonic() > deadline:
                    break
                reactor.changed.wait(0.01)
        self.device.close()

    def __enter__(self) -> SocketModule:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @contextlib.contextmanager
    def replace_in(self, *modules: ModuleType) -> Iterator[None]:
        """Let ``modules``, which did ``import socket``, use this object instead while the context lasts.

        Raises
        ------
        ValueError
            If one has no such name.
        """
        before: list[tuple[ModuleType, Any]] = []
        try:
            for module in modules:
                if not hasattr(module, "socket"):
                    raise ValueError(f"modules must have a name 'socket', not {module.__name__!r}")
                before.append((module, module.socket))
                module.socket = self  # type: ignore[attr-defined]
            yield
        finally:
            for module, usual in before:
                module.socket = usual  # type: ignore[attr-defined]

    # --- Functions of the standard module --------------------------------------------------------------------------

    def getdefaulttimeout(self) -> float | None:
        """Time-out of new sockets."""
        return self._default_timeout

    def setdefaulttimeout(self, timeout: float | None) -> None:
        """Time-out of new sockets in seconds; None waits for ever."""
        if timeout is not None and timeout < 0:
            raise ValueError("Timeout value out of range")
        self._default_timeout = timeout

    def create_connection(
        self,
        address: tuple[str | None, int],
        timeout: Any = _std._GLOBAL_DEFAULT_TIMEOUT,  # type: ignore[attr-defined]
        source_address: tuple[str, int] | None = None,
        *,
        all_errors: bool = False,
    ) -> Socket:
        """Connect to (host, port), trying all addresses of the host; see :func:`socket.create_connection`."""
        host, port = address
        failures: list[Exception] = []
        for family, kind, protocol, _, one in self.getaddrinfo(host, port, 0, _std.SOCK_STREAM):
            made: Socket | None = None
            try:
                made = self.socket(family, kind, protocol)
                if timeout is not _std._GLOBAL_DEFAULT_TIMEOUT:  # type: ignore[attr-defined]
                    made.settimeout(timeout)
                if source_address:
                    made.bind(source_address)
                made.connect(one)
                return made
            except OSError as failure:
                if not all_errors:
                    failures.clear()
                failures.append(failure)
                if made is not None:
                    made.close()
        if not failures:
            raise OSError("getaddrinfo returns an empty list")
        if all_errors:
            raise ExceptionGroup("create_connection failed", failures)
        raise failures[0]

    def create_server(
        self,
        address: tuple[str, int],
        *,
        family: int = _std.AF_INET,
        backlog: int | None = None,
        reuse_port: bool = False,
        dualstack_ipv6: bool = False,
    ) -> Socket:
        """A listening TCP socket; see :func:`socket.create_server`."""
        if reuse_port:
            raise ValueError("SO_REUSEPORT not supported on this platform")
        if dualstack_ipv6 and family != _std.AF_INET6:
            raise ValueError("dualstack_ipv6 requires AF_INET6 family")
        made = self.socket(family, _std.SOCK_STREAM)
        try:
            if family == _std.AF_INET6:
                made.setsockopt(_std.IPPROTO_IPV6, _std.IPV6_V6ONLY, int(not dualstack_ipv6))
            try:
                made.bind(address)
                made.listen(128 if backlog is None else backlog)
            except OSError as failure:
                message = f"{failure.strerror} (while attempting to bind on address {address!r})"
                raise OSError(failure.errno, message) from None
            return made
        except BaseException:
            made.close()
            raise

    def has_dualstack_ipv6(self) -> bool:
        """A listener on ``::`` takes IPv4 connections, too."""
        return True

    def getaddrinfo(
        self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[tuple[Any, Any, int, str, Any]]:
        """Addresses of a host: numeric ones as the standard function has them, names by RESOLVE."""
        flags &= ~_std.AI_ADDRCONFIG
        try:
            # Never a look at the operating system's own resolver: its network is another one.
            numeric = flags | _std.AI_NUMERICHOST
            found = _std.getaddrinfo(host or None, port, family, type, proto, numeric if host else flags)
            if not host and not flags & _std.AI_PASSIVE:  # "this host" is of no use: the engine has no loopback
                found = _std.getaddrinfo(None, port, family, type, proto, flags | _std.AI_PASSIVE)
            return list(found)
        except _std.gaierror as failure:
            if failure.errno not in (_std.EAI_NONAME, getattr(_std, "EAI_ADDRFAMILY", _std.EAI_NONAME)):
                raise
            if flags & _std.AI_NUMERICHOST or _is_numeric(host):
                raise
        name = host if isinstance(host, str) else bytes(host).decode("ascii")
        wanted = [family] if family else [_std.AF_INET, _std.AF_INET6]
        answers: list[tuple[Any, Any, int, str, Any]] = []
        failures: list[_std.gaierror] = []
        for one in wanted:
            try:
                address = self._resolve(name, one)
            except _std.gaierror as failure:
                failures.append(failure)
                continue
            scope = f"%{address[3]}" if len(address) == 4 and address[3] else ""
            answers += _std.getaddrinfo(
                f"{address[0]}{scope}", port, one, type, proto, flags | _std.AI_NUMERICHOST & ~_std.AI_CANONNAME
            )
        if not answers:
            raise failures[0]
        return answers

    def _resolve(self, name: str, family: int) -> SocketAddress:
        """One address of a name; raises gaierror."""
        try:
            given = name.rstrip(".").encode("idna")
        except UnicodeError:
            raise _std.gaierror(_std.EAI_NONAME, "Name or service not known") from None
        if not 1 <= len(given) <= _NAME_BYTES:
            raise _std.gaierror(_std.EAI_NONAME, "Name or service not known")
        try:
            found = self.reactor.call_with_buffer(
                Operation.RESOLVE,
                f"resolve {name}",
                given=given,
                length=len(given),
                operation_flags=family,
                result_at=256,
                result_bytes=SOCKET_ADDRESS.size_bytes,
                inline=lambda address: address.to_bytes(8, "little"),
            )
        except OSError as failure:
            if failure.errno in (errno.ENOENT, errno.EINVAL):
                raise _std.gaierror(_std.EAI_NONAME, "Name or service not known") from None
            if failure.errno == errno.EOPNOTSUPP:
                raise _std.gaierror(_std.EAI_FAIL, "Non-recoverable failure in name resolution") from None
            if failure.errno in (errno.ETIMEDOUT, errno.ENETUNREACH, errno.ENOBUFS, errno.ECANCELED):
                raise _std.gaierror(_std.EAI_AGAIN, "Temporary failure in name resolution") from None
            raise
        return unpack_socket_address(found)

    def gethostbyname(self, host: str) -> str:
        """IPv4 address of a host."""
        if not host:
            return "0.0.0.0"
        return str(self.getaddrinfo(host, None, _std.AF_INET, _std.SOCK_STREAM)[0][4][0])

    def gethostbyname_ex(self, host: str) -> tuple[str, list[str], list[str]]:
        """(name, aliases, IPv4 addresses); there are no aliases, and one address."""
        return host, [], [self.gethostbyname(host)]

    def getfqdn(self, name: str = "") -> str:
        """``name`` itself: the engine cannot ask for the name of an address."""
        return name or _std.gethostname()

    def getnameinfo(self, address: Any, flags: int) -> tuple[str, str]:
        """Numeric host and service; names only where the standard function needs no network."""
        return _std.getnameinfo(address, flags | _std.NI_NUMERICHOST)

    # --- For Socket ------------------------------------------------------------------------------------------------

    def listening(self, family: int, host: str, port: int) -> bool:
        """A listener of this object has that port, with the same address or one of both any."""
        anywhere = _ANY.values()
        return any(
            one_family == family and one_port == port and (one == host or one in anywhere or host in anywhere)
            for end, (one_family, one, one_port) in list(self.listeners.items())
            if not end.closing
        )

    def name_of(self, handle: int) -> SocketAddress:
        """GETSOCKNAME."""
        size = SOCKET_ADDRESS.size_bytes
        return unpack_socket_address(
            self.reactor.call_with_buffer(
                Operation.GETSOCKNAME, "getsockname", handle=handle, length=size, result_bytes=size
            )
        )


def _is_numeric(host: Any) -> bool:
    """An address, maybe of another family than was asked for."""
    with contextlib.suppress(ValueError, TypeError):
        ipaddress.ip_address(host)
        return True
    return False


_default = SocketModule()


class socket(Socket):
    __doc__ = Socket.__doc__
    module = _default


_default.socket = socket
SocketType = socket


def attach(device: Device | None) -> None:
    """Name the device of this module's sockets; ``None`` ends that, after :meth:`SocketModule.stop`."""
    _default.device = device


create_connection = _default.create_connection
create_server = _default.create_server
has_dualstack_ipv6 = _default.has_dualstack_ipv6
getaddrinfo = _default.getaddrinfo
gethostbyname = _default.gethostbyname
gethostbyname_ex = _default.gethostbyname_ex
getfqdn = _default.getfqdn
getnameinfo = _default.getnameinfo
getdefaulttimeout = _default.getdefaulttimeout
setdefaulttimeout = _default.setdefaulttimeout
stop = _default.stop
replace_in = _default.replace_in


def default_module() -> SocketModule:
    """The object behind this module's names."""
    return _default


def __getattr__(name: str) -> Any:
    return _passed_on(name)


__all__ = ["SocketModule", "attach", "os_error", "socket"]
