"""The host libraries behind one interface, for tests of what both must do. Errors raise OSError; time-outs are seconds."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import ipaddress
from collections import deque
from typing import Any, Protocol

from twinstack.proto.queues import (
    AF_INET,
    AF_INET6,
    NETIF_CONFIG,
    NETIF_CONFIG6,
    NETIF_STATUS,
    SOCKET_ADDRESS,
    STATS,
    Operation,
    OperationFlag,
)
from twinstack_host.device import BLOCK_BYTES, Device, Pending, error_for
from twinstack_host.dispatch import DispatchConfig, DispatchRule
from twinstack_host.link import HostLink

from . import c_library as c

TIMEOUT = 5.0
QUEUE_SIZE = 16
Address = tuple[str, int]


def packed(address: str) -> tuple[int, int, bytes]:
    """Family, scope and bytes of an address; a scope follows a percent sign, as a number."""
    text, _, scope = address.partition("%")
    parsed = ipaddress.ip_address(text)
    return AF_INET if parsed.version == 4 else AF_INET6, int(scope or 0), parsed.packed


def printable(family: int, scope: int, octets: bytes) -> str:
    text = str(ipaddress.ip_address(octets[:4] if family == AF_INET else octets))
    return f"{text}%{scope}" if scope else text


class Library(Protocol):
    """What an application does with an engine. Handles are numbers, listeners opaque."""

    name: str

    def start(self, link: HostLink, image: bytes, seed: int) -> None: ...
    def poll(self) -> None: ...
    def configure(self, port: int, address: str, prefix_length: int, mac: str, dns: str = "0.0.0.0") -> None: ...
    def configure6(self, port: int, address: str) -> None: ...
    def status(self, port: int) -> dict[str, Any]: ...
    def stats(self, core: int) -> dict[str, int]: ...
    def listen(self, address: Address, backlog: int = 4, flags: int = 0) -> Any: ...
    def accept(self, listener: Any, timeout: float = TIMEOUT) -> int: ...
    def close_listener(self, listener: Any) -> None: ...
    def connect(self, address: Address, timeout: float = TIMEOUT, local: Address | None = None) -> int: ...
    def send(self, handle: int, data: bytes, timeout: float = TIMEOUT) -> int: ...
    def recv(self, handle: int, length: int, timeout: float = TIMEOUT) -> bytes: ...
    def shutdown(self, handle: int, timeout: float = TIMEOUT) -> None: ...
    def close(self, handle: int) -> None: ...
    def abort(self, handle: int) -> None: ...
    def udp_open(self, address: Address, flags: int = 0) -> int: ...
    def sendto(
        self, handle: int, data: bytes, address: Address | None, timeout: float = TIMEOUT, core: int = 0
    ) -> int: ...
    def recvfrom(
        self, handle: int, length: int, timeout: float = TIMEOUT, core: int = 0
    ) -> tuple[bytes, Address, int]: ...
    def set_option(self, handle: int, option: int, value: int) -> None: ...
    def set_address_option(self, handle: int, option: int, address: Address | None) -> None: ...
    def get_option(self, handle: int, option: int) -> int: ...
    def local(self, handle: int) -> Address: ...
    def remote(self, handle: int) -> Address: ...
    def resolve(self, name: str, family: int = 0, timeout: float = TIMEOUT) -> str: ...
    def ping(self, address: str, length: int = 56, timeout: float = 1.0) -> int: ...
    def begin_recv(self, handle: int, length: int) -> Any: ...
    def cancel(self, operation: Any) -> None: ...
    def result(self, operation: Any, timeout: float = TIMEOUT) -> int: ...
    def dispatch(self) -> DispatchConfig: ...
    def set_dispatch(self, config: DispatchConfig) -> None: ...
    def unexpected(self) -> int: ...


class PythonLibrary:
    """``twinstack_host.device``: operations one by one."""

    name = "python"

    def start(self, link: HostLink, image: bytes, seed: int) -> None:
        self.device = Device(link, sq_entries=16, cq_entries=16)
        self.device.load(image)
        self.device.start(seed=seed)

    def poll(self) -> None:
        self.device.poll()

    def unexpected(self) -> int:
        return len(self.device.unexpected)

    def _call(self, operation: Operation, timeout: float = TIMEOUT, **fields: Any) -> int:
        pending = self.device.submit(operation, **fields)
        try:
            result = self.device.wait(pending, timeout)
        except TimeoutError:
            self.cancel(pending)
            result = self.device.wait(pending, TIMEOUT)
            if result == -errno.ECANCELED:
                raise
        if result < 0:
            raise error_for(result, operation.name)
        return result

    @contextlib.contextmanager
    def _block(self, data: bytes = b""):
        address = self.device.pool.take()
        try:
            self.device.link.write(address, data)
            yield address
        finally:
            self.device.pool.give(address)

    @staticmethod
    def _address(address: Address, extra: bytes = b"") -> bytes:
        family, scope, octets = packed(address[0])
        values = {"family": family, "port": address[1], "scope": scope, "address": int.from_bytes(octets, "little")}
        return SOCKET_ADDRESS.pack(values | {"extra": int.from_bytes(extra, "little")})

    @staticmethod
    def _from(values: dict[str, int]) -> Address:
        octets = values["address"].to_bytes(16, "little")
        return printable(values["family"], values["scope"], octets), values["port"]

    def configure(self, port: int, address: str, prefix_length: int, mac: str, dns: str = "0.0.0.0") -> None:
        octets, server = (int.from_bytes(ipaddress.IPv4Address(text).packed, "little") for text in (address, dns))
        hardware = int.from_bytes(bytes.fromhex(mac.replace(":", "")), "little")
        values = {"family": AF_INET, "prefix_length": prefix_length, "address": octets, "mac": hardware, "dns0": server}
        self._call(Operation.NETIF_CONFIG, operation_flags=port, inline=NETIF_CONFIG.pack(values))

    def configure6(self, port: int, address: str) -> None:
        octets = int.from_bytes(ipaddress.IPv6Address(address).packed, "little")
        values = {"family": AF_INET6, "prefix_length": 64, "address": octets}
        self._call(Operation.NETIF_CONFIG, operation_flags=port, inline=NETIF_CONFIG6.pack(values))

    def status(self, port: int) -> dict[str, Any]:
        values = self.device.read_layout(Operation.NETIF_STATUS, NETIF_STATUS, "status", operation_flags=port)
        return {
            "configured": bool(values["configured"]),
            "prefix_length": values["prefix_length"],
            "address": values["address"].to_bytes(4, "little"),
            "mac": values["mac"].to_bytes(8, "little")[:6],
            "address6": values["address6_0"].to_bytes(16, "little"),
            "ready6": [bool(values["address6_ready"] >> n & 1) for n in range(3)],
        }

    def stats(self, core: int) -> dict[str, int]:
        return self.device.read_layout(Operation.STATS, STATS, "statistics", operation_flags=core)

    def listen(self, address: Address, backlog: int = 4, flags: int = 0) -> Any:
        fields = {"length": backlog, "operation_flags": flags, "inline": self._address(address)}
        handle = self._call(Operation.TCP_LISTEN, **fields)
        accepted: deque[int] = deque()
        multishot = OperationFlag.ACCEPT_MULTISHOT
        pending = self.device.submit(
            Operation.TCP_ACCEPT, handle=handle, operation_flags=multishot, on_more=accepted.append
        )
        return handle, pending, accepted

    def accept(self, listener: Any, timeout: float = TIMEOUT) -> int:
        _, pending, accepted = listener
        self.device.wait_until(lambda: bool(accepted) or pending.done, timeout, "accept")
        if not accepted:
            raise error_for(pending.result, "accept")
        return int(accepted.popleft())

    def close_listener(self, listener: Any) -> None:
        handle, pending, accepted = listener
        self._call(Operation.CLOSE, handle=handle)
        self.device.wait(pending, TIMEOUT)
        while accepted:
            self.abort(accepted.popleft())

    def connect(self, address: Address, timeout: float = TIMEOUT, local: Address | None = None) -> int:
        extra = packed(local[0])[2] if local else b""
        fields = {"inline": self._address(address, extra), "operation_flags": local[1] if local else 0}
        return self._call(Operation.TCP_CONNECT, timeout, **fields)

    def send(self, handle: int, data: bytes, timeout: float = TIMEOUT) -> int:
        sent = 0
        for offset in range(0, max(1, len(data)), BLOCK_BYTES):
            piece = data[offset : offset + BLOCK_BYTES]
            with self._block(piece) as block:
                sent += self._call(Operation.SEND, timeout, handle=handle, buffer=block, length=len(piece))
        return sent

    def recv(self, handle: int, length: int, timeout: float = TIMEOUT) -> bytes:
        with self._block() as block:
            most = min(length, BLOCK_BYTES)
            taken = self._call(Operation.RECV, timeout, handle=handle, buffer=block, length=most)
            return self.device.link.read(block, taken)

    def shutdown(self, handle: int, timeout: float = TIMEOUT) -> None:
        self._call(Operation.SHUTDOWN, timeout, handle=handle)

    def close(self, handle: int) -> None:
        self._call(Operation.CLOSE, handle=handle)

    def abort(self, handle: int) -> None:
        self._call(Operation.ABORT, handle=handle)

    def udp_open(self, address: Address, flags: int = 0) -> int:
        return self._call(Operation.UDP_OPEN, operation_flags=flags, inline=self._address(address))

    def sendto(self, handle: int, data: bytes, address: Address | None, timeout: float = TIMEOUT, core: int = 0) -> int:
        with self._block(data) as block:
            fields = {"handle": handle, "buffer": block, "length": len(data), "operation_flags": core << 8}
            if address is None:
                return self._call(Operation.SEND, timeout, **fields)
            return self._call(Operation.SENDTO, timeout, inline=self._address(address), **fields)

    def recvfrom(self, handle: int, length: int, timeout: float = TIMEOUT, core: int = 0) -> tuple[bytes, Address, int]:
        with self._block() as block, self._block() as where:
            fields = {"handle": handle, "buffer": block, "length": length, "operation_flags": core << 8}
            taken = self._call(Operation.RECVFROM, timeout, inline=where.to_bytes(8, "little"), **fields)
            values = SOCKET_ADDRESS.unpack(self.device.link.read(where, SOCKET_ADDRESS.size_bytes))
            return self.device.link.read(block, taken), self._from(values), values["extra"]

    def set_option(self, handle: int, option: int, value: int) -> None:
        inline = value.to_bytes(4, "little")
        self._call(Operation.SETSOCKOPT, handle=handle, operation_flags=option, inline=inline)

    def set_address_option(self, handle: int, option: int, address: Address | None) -> None:
        inline = b"" if address is None else self._address(address)
        self._call(Operation.SETSOCKOPT, handle=handle, operation_flags=option, inline=inline)

    def get_option(self, handle: int, option: int) -> int:
        return self._call(Operation.GETSOCKOPT, handle=handle, operation_flags=option)

    def local(self, handle: int) -> Address:
        return self._from(self.device.read_layout(Operation.GETSOCKNAME, SOCKET_ADDRESS, "name", handle=handle))

    def remote(self, handle: int) -> Address:
        return self._from(self.device.read_layout(Operation.GETPEERNAME, SOCKET_ADDRESS, "name", handle=handle))

    def resolve(self, name: str, family: int = 0, timeout: float = TIMEOUT) -> str:
        with self._block(name.encode()) as block, self._block() as where:
            fields = {"buffer": block, "length": len(name), "inline": where.to_bytes(8, "little")}
            self._call(Operation.RESOLVE, timeout, operation_flags=family, **fields)
            return self._from(SOCKET_ADDRESS.unpack(self.device.link.read(where, SOCKET_ADDRESS.size_bytes)))[0]

    def ping(self, address: str, length: int = 56, timeout: float = 1.0) -> int:
        fields = {"length": length, "operation_flags": round(timeout * 1000), "inline": self._address((address, 0))}
        return self._call(Operation.PING, timeout + TIMEOUT, **fields)

    def begin_recv(self, handle: int, length: int) -> Pending:
        block = self.device.pool.take()
        give = self.device.pool.give
        return self.device.submit(
            Operation.RECV, handle=handle, buffer=block, length=length, on_done=lambda _: give(block)
        )

    def cancel(self, operation: Pending) -> None:
        self._call(Operation.CANCEL, inline=operation.user_data.to_bytes(8, "little"))

    def result(self, operation: Pending, timeout: float = TIMEOUT) -> int:
        return self.device.wait(operation, timeout)

    def dispatch(self) -> DispatchConfig:
        return self.device.dispatch_config()

    def set_dispatch(self, config: DispatchConfig) -> None:
        self.device.set_dispatch(config)


class CLibrary:
    """``host/c``, blocking calls."""

    name = "c"

    def start(self, link: HostLink, image: bytes, seed: int) -> None:
        self.device = c.CDevice(c.load(), link)
        self._operations: list[c.Operation] = []
        self._check(self.device.open(), "open")
        self._call("load", image, len(image))
        self._call("start", seed)

    @staticmethod
    def _check(result: int, what: str) -> int:
        if result < 0:
            raise error_for(result, what)
        return result

    def _call(self, name: str, *arguments: object) -> int:
        return self._check(self.device.call(name, *arguments), name)

    @staticmethod
    def _ms(seconds: float) -> int:
        return round(seconds * 1000)

    @staticmethod
    def _address(address: Address) -> c.Address:
        family, scope, octets = packed(address[0])
        return c.Address(family, address[1], scope, tuple(octets.ljust(16, b"\0")))

    @staticmethod
    def _from(address: c.Address) -> Address:
        return printable(address.family, address.scope, bytes(address.address)), address.port

    def poll(self) -> None:
        self._call("poll")

    def unexpected(self) -> int:
        return int(self.device.device.unexpected)

    def configure(self, port: int, address: str, prefix_length: int, mac: str, dns: str = "0.0.0.0") -> None:
        config = c.Ipv4Config(prefix_length=prefix_length)
        config.address[:] = ipaddress.IPv4Address(address).packed
        config.dns[0][:] = ipaddress.IPv4Address(dns).packed
        config.mac[:] = bytes.fromhex(mac.replace(":", ""))
        self._call("configure", port, config)

    def configure6(self, port: int, address: str) -> None:
        config = c.Ipv6Config(prefix_length=64)
        config.address[:] = ipaddress.IPv6Address(address).packed
        self._call("configure6", port, config)

    def status(self, port: int) -> dict[str, Any]:
        status = c.NetifStatus()
        self._call("status", port, status)
        return {
            "configured": status.configured,
            "prefix_length": status.prefix_length,
            "address": bytes(status.address),
            "mac": bytes(status.mac),
            "address6": bytes(status.address6[1]),
            "ready6": list(status.address6_ready),
        }

    def stats(self, core: int) -> dict[str, int]:
        stats = c.Stats()
        self._call("read_stats", core, stats)
        return {name: getattr(stats, name) for name, *_ in c.Stats._fields_}

    def listen(self, address: Address, backlog: int = 4, flags: int = 0) -> Any:
        listener, queue = c.Listener(), (ctypes.c_uint32 * QUEUE_SIZE)()
        self._call("listen", listener, self._address(address), backlog, flags, queue, QUEUE_SIZE)
        return listener, queue

    def accept(self, listener: Any, timeout: float = TIMEOUT) -> int:
        return self._call("accept", listener[0], self._ms(timeout))

    def close_listener(self, listener: Any) -> None:
        self._call("listener_close", listener[0])

    def connect(self, address: Address, timeout: float = TIMEOUT, local: Address | None = None) -> int:
        source = self._address(local) if local else None
        return self._call("connect", self._address(address), source, self._ms(timeout))

    def send(self, handle: int, data: bytes, timeout: float = TIMEOUT) -> int:
        return self._call("send", handle, data, len(data), self._ms(timeout))

    def recv(self, handle: int, length: int, timeout: float = TIMEOUT) -> bytes:
        room = ctypes.create_string_buffer(max(1, length))
        taken = self._call("recv", handle, room, length, self._ms(timeout))
        return room.raw[:taken]

    def shutdown(self, handle: int, timeout: float = TIMEOUT) -> None:
        self._call("shutdown", handle, self._ms(timeout))

    def close(self, handle: int) -> None:
        self._call("close", handle, self._ms(TIMEOUT))

    def abort(self, handle: int) -> None:
        self._call("abort", handle)

    def udp_open(self, address: Address, flags: int = 0) -> int:
        return self._call("udp_open", self._address(address), flags)

    def sendto(self, handle: int, data: bytes, address: Address | None, timeout: float = TIMEOUT, core: int = 0) -> int:
        remote = None if address is None else self._address(address)
        return self._call("sendto", handle, data, len(data), remote, core, self._ms(timeout))

    def recvfrom(self, handle: int, length: int, timeout: float = TIMEOUT, core: int = 0) -> tuple[bytes, Address, int]:
        room, remote, whole = ctypes.create_string_buffer(max(1, length)), c.Address(), ctypes.c_uint32()
        taken = self._call("recvfrom", handle, room, length, remote, whole, core, self._ms(timeout))
        return room.raw[:taken], self._from(remote), whole.value

    def set_option(self, handle: int, option: int, value: int) -> None:
        self._call("set_option", handle, option, value)

    def set_address_option(self, handle: int, option: int, address: Address | None) -> None:
        self._call("set_address_option", handle, option, c.Address() if address is None else self._address(address))

    def get_option(self, handle: int, option: int) -> int:
        return self._call("get_option", handle, option)

    def _name(self, what: str, handle: int) -> Address:
        address = c.Address()
        self._call(what, handle, address)
        return self._from(address)

    def local(self, handle: int) -> Address:
        return self._name("local_address", handle)

    def remote(self, handle: int) -> Address:
        return self._name("remote_address", handle)

    def resolve(self, name: str, family: int = 0, timeout: float = TIMEOUT) -> str:
        address = c.Address()
        self._call("resolve", name.encode(), family, address, self._ms(timeout))
        return self._from(address)[0]

    def ping(self, address: str, length: int = 56, timeout: float = 1.0) -> int:
        return self._call("ping", self._address((address, 0)), length, self._ms(timeout))

    def begin_recv(self, handle: int, length: int) -> c.Operation:
        operation = c.Operation()
        self._operations.append(operation)  # it must outlive the completion
        entry = c.Entry(Operation.RECV, handle, self.device.device.bounce, length)
        self._call("submit", entry, operation)
        return operation

    def cancel(self, operation: c.Operation) -> None:
        self._call("cancel", operation)

    def result(self, operation: c.Operation, timeout: float = TIMEOUT) -> int:
        self._call("wait", operation, self._ms(timeout))
        return int(operation.result)

    def dispatch(self) -> DispatchConfig:
        block = c.Dispatch()
        self._call("get_dispatch", block)
        rules = [
            DispatchRule(
                rule.action,
                rule.core,
                **{name: getattr(rule, name) for name in c.MATCHES if getattr(rule, f"match_{name}")},
            )
            for rule in block.rules
        ]
        hashed = {"tcp_ports": block.tcp_ports, "udp_ports": block.udp_ports}
        return DispatchConfig(bytes(block.key), **hashed, indirection=tuple(block.indirection), rules=tuple(rules))

    def set_dispatch(self, config: DispatchConfig) -> None:
        block = c.Dispatch()
        if config.key is not None:
            block.has_key = True
            block.key[:] = config.key
        if config.tcp_ports is not None:
            block.has_hash_types, block.tcp_ports, block.udp_ports = True, config.tcp_ports, bool(config.udp_ports)
        if config.indirection is not None:
            block.has_indirection = True
            block.indirection[:] = config.indirection
        if config.rules is not None:
            block.has_rules = True
            for place, rule in zip(block.rules, config.rules, strict=False):
                place.action, place.core = int(rule.action), rule.core
                for name in c.MATCHES:
                    if getattr(rule, name) is not None:
                        setattr(place, f"match_{name}", True)
                        setattr(place, name, getattr(rule, name))
        self._call("set_dispatch", block)


LIBRARIES: dict[str, type[Library]] = {library.name: library for library in (PythonLibrary, CLibrary)}
