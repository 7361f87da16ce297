"""Names of socket options: those of the standard library, and what the engine calls them."""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from dataclasses import dataclass

from twinstack.proto.queues import SocketOption

from .address import pack_socket_address

MULTICAST = {
    (socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP): SocketOption.JOIN_GROUP,
    (socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP): SocketOption.LEAVE_GROUP,
    (socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP): SocketOption.JOIN_GROUP,
    (socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP): SocketOption.LEAVE_GROUP,
}


@dataclass(frozen=True)
class Option:
    """What a number may be, and what an unconnected socket says before anybody sets it."""

    code: SocketOption
    low: int
    high: int
    default: int
    stream: bool = True
    datagram: bool = True


_TTL = Option(SocketOption.TTL, 1, 255, 255)
_TOS = Option(SocketOption.TOS, 0, 255, 0)
_GROUP_TTL = Option(SocketOption.MULTICAST_TTL, 0, 255, 1, stream=False)
_GROUP_INTERFACE = Option(SocketOption.MULTICAST_INTERFACE, 0, 255, 0, stream=False)

NUMBERS = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): Option(SocketOption.KEEPALIVE, 0, 1, 0, datagram=False),
    (socket.SOL_SOCKET, socket.SO_BROADCAST): Option(SocketOption.BROADCAST, 0, 1, 0, stream=False),
    (socket.SOL_SOCKET, socket.SO_RCVBUF): Option(SocketOption.RCVBUF, 0, (1 << 31) - 1, 2 * 1460),
    (socket.SOL_SOCKET, socket.SO_SNDBUF): Option(SocketOption.SNDBUF, 0, (1 << 31) - 1, 8 * 1460),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY): Option(SocketOption.NODELAY, 0, 1, 1, datagram=False),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): Option(SocketOption.KEEPIDLE, 1, 32767, 7200, datagram=False),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): Option(SocketOption.KEEPINTVL, 1, 32767, 75, datagram=False),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): Option(SocketOption.KEEPCNT, 1, 127, 9, datagram=False),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): Option(
        SocketOption.USER_TIMEOUT, 0, (1 << 31) - 1, 0, datagram=False
    ),
    (socket.IPPROTO_IP, socket.IP_TTL): _TTL,
    (socket.IPPROTO_IP, socket.IP_TOS): _TOS,
    (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL): _GROUP_TTL,
    (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS): _TTL,
    (socket.IPPROTO_IPV6, socket.IPV6_TCLASS): _TOS,
    (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS): _GROUP_TTL,
    (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF): _GROUP_INTERFACE,
}
BOOLEAN = (SocketOption.KEEPALIVE, SocketOption.BROADCAST, SocketOption.NODELAY)


def number_of(option: Option, value: int | bytes) -> int:
    """The number that a program gave, as int or as bytes; raises OSError EINVAL if it is out of range."""
    if not isinstance(value, int):
        value = int.from_bytes(bytes(value)[:4], "little", signed=True)
    if option.code in BOOLEAN:
        return int(value != 0)
    if not option.low <= value <= option.high:
        raise OSError(errno.EINVAL, f"{option.code.name} must be {option.low} to {option.high}, not {value!r}")
    return value


def group_of(level: int, value: bytes) -> bytes:
    """SOCKET_ADDRESS bytes of ``struct ip_mreq``, ``ip_mreqn`` or ``ipv6_mreq``; an interface is a network port plus one."""
    try:
        if level == socket.IPPROTO_IPV6:
            group, interface = struct.unpack("=16sI", value[:20])
            return pack_socket_address(str(ipaddress.IPv6Address(group)), 0, scope=interface)
        interface = struct.unpack("=i", value[8:12])[0] if len(value) >= 12 else 0
        packed = bytearray(pack_socket_address(str(ipaddress.IPv4Address(value[:4])), 0))
        packed[4:8] = struct.pack("<I", interface)
        return bytes(packed)
    except (struct.error, ValueError) as error:
        raise OSError(errno.EINVAL, f"not a group: {error}") from None
