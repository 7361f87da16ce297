"""Socket addresses: tuples as the standard library has them, and the 32 bytes that the engine has."""

from __future__ import annotations

import ipaddress
import socket

from twinstack.proto.queues import AF_INET, AF_INET6, SOCKET_ADDRESS

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
"""(address, port) of IPv4, or (address, port, flow information, scope) of IPv6; flow information is always 0."""


def pack_socket_address(host: str, port: int, *, scope: int = 0, extra: int = 0) -> bytes:
    """SOCKET_ADDRESS bytes of a numeric IPv4 or IPv6 address; an IPv6 address may end in ``%scope``.

    Parameters
    ----------
    host : str
        Numeric address.
    port : int, 0..65535
        Port number.
    scope : int
        IPv6: network port plus one for link-local addresses and groups; 0 lets the route decide.
    extra : int
        The field of that name.

    Raises
    ------
    ValueError
        If one of them is not allowed, naming it.
    """
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"port must be 0 to 65535, not {port!r}")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        raise ValueError(f"host must be a numeric IPv4 or IPv6 address, not {host!r}") from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            if not address.scope_id.isdecimal() or scope not in (0, int(address.scope_id)):
                raise ValueError(f"scope must be the number of a network port plus one, not {address.scope_id!r}")
            scope = int(address.scope_id)
        family = AF_INET6
    else:
        family, scope = AF_INET, 0
    return SOCKET_ADDRESS.pack(
        {
            "family": family,
            "port": port,
            "scope": scope,
            "address": int.from_bytes(address.packed, "little"),
            "extra": extra,
        }
    )


def unpack_socket_address(data: bytes) -> SocketAddress:
    """The tuple of SOCKET_ADDRESS bytes; raises ValueError for a family that is neither IPv4 nor IPv6."""
    values = SOCKET_ADDRESS.unpack(data)
    octets = values["address"].to_bytes(16, "little")
    if values["family"] == AF_INET:
        return str(ipaddress.IPv4Address(octets[:4])), values["port"]
    if values["family"] == AF_INET6:
        return str(ipaddress.IPv6Address(octets)), values["port"], 0, values["scope"]
    raise ValueError(f"family must be {AF_INET} or {AF_INET6}, not {values['family']!r}")


def in_family(address: SocketAddress, family: int) -> SocketAddress:
    """``address`` as a socket of ``family`` shows it: IPv4 on an IPv6 socket as ``::ffff:a.b.c.d``."""
    if family == socket.AF_INET6 and len(address) == 2:
        return f"::ffff:{address[0]}", address[1], 0, 0
    return address
