"""asyncio over an engine: transports, servers and datagram endpoints of a running loop, and a loop that uses nothing else.

The descriptors of offloaded sockets can be selected, so asyncio's own selector transports serve them, flow control
included. The functions here work on any loop that is an :class:`asyncio.SelectorEventLoop`. In a :class:`TwinstackEventLoop`,
programs that know nothing of this library use offloaded sockets: all that ``loop.create_connection`` and its like open.
"""

from __future__ import annotations

import asyncio
import errno
import socket as std
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from .socket import SocketModule, default_module
from .socket_object import Socket

Protocol = TypeVar("Protocol", bound=asyncio.BaseProtocol)
StreamHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]
Hosts = str | Sequence[str] | None

LIMIT = 1 << 16
"""Of a StreamReader's buffer, as asyncio has it."""
SENDFILE_BYTES = 1 << 14


def _selector_loop() -> Any:
    """The running loop, made safe for offloaded sockets.

    Raises
    ------
    RuntimeError
        If it does not select on descriptors.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.SelectorEventLoop):
        raise RuntimeError(f"the loop must be an asyncio.SelectorEventLoop, not {type(loop).__name__}")
    if not isinstance(loop, TwinstackEventLoop) and "sock_sendfile" not in vars(loop):
        usual = loop.sock_sendfile

        async def sock_sendfile(
            sock: Any, file: Any, offset: int = 0, count: int | None = None, *, fallback: bool | None = True
        ) -> int:
            if isinstance(sock, Socket):
                return await _send_file(loop, sock, file, offset, count, bool(fallback))
            return await usual(sock, file, offset, count, fallback=fallback)

        vars(loop)["sock_sendfile"] = sock_sendfile
    return loop


async def _send_file(loop: Any, sock: Socket, file: Any, offset: int, count: int | None, fallback: bool) -> int:
    """os.sendfile() would write to the descriptor, which carries readiness and no data."""
    if not fallback:
        raise asyncio.SendfileNotAvailableError("an offloaded socket has no sendfile system call")
    file.seek(offset)
    sent = 0
    while count is None or sent < count:
        size = SENDFILE_BYTES if count is None else min(SENDFILE_BYTES, count - sent)
        piece = await loop.run_in_executor(None, file.read, size)
        if not piece:
            break
        await loop.sock_sendall(sock, piece)
        sent += len(piece)
    return sent


async def _lookup(
    sockets: SocketModule, host: str | None, port: int | str | None, family: int, kind: int, proto: int, flags: int
) -> list[Any]:
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, lambda: sockets.getaddrinfo(host, port, family, kind, proto, flags))


async def open_socket(
    host: str | None,
    port: int | str | None,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    local_addr: tuple[str, int] | None = None,
    sockets: SocketModule | None = None,
) -> Socket:
    """A non-blocking socket connected to (host, port), trying one address after the other; raises the last OSError."""
    loop = _selector_loop()
    chosen = sockets or default_module()
    failures: list[OSError] = []
    for one, kind, protocol, _, address in await _lookup(chosen, host, port, family, std.SOCK_STREAM, proto, flags):
        made = chosen.socket(one, kind, protocol)
        made.setblocking(False)
        try:
            if local_addr is not None:
                made.bind(local_addr)
            await loop.sock_connect(made, address)
            return made
        except OSError as failure:
            made.close()
            failures.append(failure)
        except BaseException:
            made.close()
            raise
    if not failures:
        raise OSError(errno.ENOENT, f"getaddrinfo({host!r}) returned an empty list")
    if len(failures) == 1 or all(str(one) == str(failures[0]) for one in failures):
        raise failures[0]
    raise OSError(f"Multiple exceptions: {', '.join(map(str, failures))}")


async def create_connection(
    protocol_factory: Callable[[], Protocol],
    host: str | None = None,
    port: int | str | None = None,
    *,
    sockets: SocketModule | None = None,
    ssl: Any = None,
    server_hostname: str | None = None,
    **options: Any,
) -> tuple[asyncio.Transport, Protocol]:
    """As :meth:`asyncio.loop.create_connection`; ``sockets`` names the device (default: the attached one)."""
    loop = _selector_loop()
    names = ("family", "proto", "flags", "local_addr")
    opening = {name: options.pop(name) for name in names if name in options}
    made = await open_socket(host, port, sockets=sockets, **opening)
    if ssl and server_hostname is None:
        server_hostname = host
    try:
        opened: tuple[asyncio.Transport, Protocol] = await loop.create_connection(
            protocol_factory,
            sock=made,
            ssl=ssl,
            server_hostname=server_hostname,
            **options,
        )
        return opened
    except BaseException:
        made.close()
        raise


class ServerGroup(asyncio.AbstractServer):
    """A server on several addresses."""

    def __init__(self, servers: Sequence[asyncio.Server]):
        self._servers = servers

    @property
    def sockets(self) -> tuple[Any, ...]:
        return tuple(one for server in self._servers for one in server.sockets)

    def close(self) -> None:
        for server in self._servers:
            server.close()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._servers[0].get_loop()

    def is_serving(self) -> bool:
        return all(server.is_serving() for server in self._servers)

    async def start_serving(self) -> None:
        for server in self._servers:
            await server.start_serving()

    async def serve_forever(self) -> None:
        await asyncio.gather(*(server.serve_forever() for server in self._servers))

    async def wait_closed(self) -> None:
        for server in self._servers:
            await server.wait_closed()


async def create_server(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: Hosts = None,
    port: int | None = None,
    *,
    family: int = 0,
    flags: int = std.AI_PASSIVE,
    backlog: int = 100,
    reuse_address: bool | None = None,
    reuse_port: bool | None = None,
    sockets: SocketModule | None = None,
    **options: Any,
) -> Any:
    """As :meth:`asyncio.loop.create_server`. Without a host it listens on all addresses of IPv4 (of IPv6 with ``family``)."""
    loop = _selector_loop()
    chosen = sockets or default_module()
    if reuse_port:
        raise ValueError("reuse_port not supported by socket module")
    if host in (None, "") and not family:
        family = std.AF_INET
    addresses: dict[Any, None] = {}
    for one in [host] if host is None or isinstance(host, str) else host:
        for found in await _lookup(chosen, one or None, port, family, std.SOCK_STREAM, 0, flags):
            addresses[found[0], found[2], found[4]] = None
    servers: list[asyncio.Server] = []
    made: Socket | None = None
    try:
        for one_family, protocol, address in addresses:
            made = chosen.socket(one_family, std.SOCK_STREAM, protocol)
            if one_family == std.AF_INET6:
                made.setsockopt(std.IPPROTO_IPV6, std.IPV6_V6ONLY, 1)
            try:
                made.bind(address)
                made.listen(backlog)
            except OSError as failure:
                reason = (failure.strerror or str(failure)).lower()
                raise OSError(
                    failure.errno, f"error while attempting to bind on address {address!r}: {reason}"
                ) from None
            servers.append(
                await loop.create_server(
                    protocol_factory,
                    sock=made,
                    backlog=backlog,
                    **options,
                )
            )
    except BaseException:
        if made is not None:
            made.close()
        for server in servers:
            server.close()
        raise
    return servers[0] if len(servers) == 1 else ServerGroup(servers)


async def create_datagram_endpoint(
    protocol_factory: Callable[[], asyncio.DatagramProtocol],
    local_addr: tuple[str, int] | None = None,
    remote_addr: tuple[str, int] | None = None,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    reuse_port: bool | None = None,
    allow_broadcast: bool | None = None,
    sockets: SocketModule | None = None,
) -> tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol]:
    """As :meth:`asyncio.loop.create_datagram_endpoint`."""
    loop = _selector_loop()
    chosen = sockets or default_module()
    if reuse_port:
        raise ValueError("reuse_port not supported by socket module")
    if local_addr is None and remote_addr is None and not family:
        raise ValueError("unexpected address family")
    found: dict[str, Any] = {}
    for name, given in (("remote", remote_addr), ("local", local_addr)):
        if given is not None:
            found[name] = (await _lookup(chosen, *given, family, std.SOCK_DGRAM, proto, flags))[0]
            family = found[name][0]
    made = chosen.socket(family, std.SOCK_DGRAM, proto)
    try:
        if allow_broadcast:
            made.setsockopt(std.SOL_SOCKET, std.SO_BROADCAST, 1)
        made.setblocking(False)
        # Bound at once: the transport asks for its own address before it sends anything.
        made.bind(found["local"][4] if "local" in found else ("", 0))
        if "remote" in found:
            made.connect(found["remote"][4])
        opened: tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol] = await loop.create_datagram_endpoint(
            protocol_factory, sock=made
        )
        return opened
    except BaseException:
        made.close()
        raise


async def open_connection(
    host: str | None = None, port: int | str | None = None, *, limit: int = LIMIT, **options: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As :func:`asyncio.open_connection`."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await create_connection(lambda: protocol, host, port, **options)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def start_server(
    client_connected_cb: StreamHandler,
    host: Hosts = None,
    port: int | None = None,
    *,
    limit: int = LIMIT,
    **options: Any,
) -> Any:
    """As :func:`asyncio.start_server`."""
    loop = asyncio.get_running_loop()

    def factory() -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        return asyncio.StreamReaderProtocol(reader, client_connected_cb, loop=loop)

    return await create_server(factory, host, port, **options)


class TwinstackEventLoop(asyncio.SelectorEventLoop):
    """A selector loop that opens offloaded sockets wherever asyncio would open one of the operating system.

    Sockets that a program makes itself and hands over (``sock=``), pipes, signals and UNIX sockets work as ever, so both
    kinds mix in one loop.

    Parameters
    ----------
    sockets : SocketModule
        Names the device; default: the attached one.
    """

    def __init__(self, sockets: SocketModule | None = None, selector: Any = None):
        super().__init__(selector)
        self.sockets = sockets or default_module()

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        return await _lookup(self.sockets, host, port, family, type, proto, flags)

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        return self.sockets.getnameinfo(sockaddr, flags)

    async def create_connection(
        self,
        protocol_factory: Callable[[], Any],
        host: Any = None,
        port: Any = None,
        *,
        sock: Any = None,
        **options: Any,
    ) -> Any:
        if sock is not None:
            return await super().create_connection(protocol_factory, host, port, sock=sock, **options)
        for name in ("happy_eyeballs_delay", "interleave", "all_errors"):
            options.pop(name, None)  # one address after the other
        return await create_connection(protocol_factory, host, port, sockets=self.sockets, **options)

    async def create_server(
        self,
        protocol_factory: Callable[[], Any],
        host: Any = None,
        port: Any = None,
        *,
        sock: Any = None,
        **options: Any,
    ) -> Any:
        if sock is not None:
            return await super().create_server(protocol_factory, host, port, sock=sock, **options)
        return await create_server(protocol_factory, host, port, sockets=self.sockets, **options)

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], Any],
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        sock: Any = None,
        **options: Any,
    ) -> Any:
        if sock is not None:
            return await super().create_datagram_endpoint(protocol_factory, sock=sock)
        return await create_datagram_endpoint(
            protocol_factory, local_addr, remote_addr, sockets=self.sockets, **options
        )

    async def sock_sendfile(
        self, sock: Any, file: Any, offset: int = 0, count: int | None = None, *, fallback: bool | None = True
    ) -> int:
        if isinstance(sock, Socket):
            return await _send_file(self, sock, file, offset, count, bool(fallback))
        return await super().sock_sendfile(sock, file, offset, count, fallback=fallback)


class TwinstackEventLoopPolicy(asyncio.DefaultEventLoopPolicy):
    """Makes every new loop a :class:`TwinstackEventLoop`, for programs that call :func:`asyncio.run` themselves."""

    def __init__(self, sockets: SocketModule | None = None):
        super().__init__()
        self._sockets = sockets

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return TwinstackEventLoop(self._sockets)
