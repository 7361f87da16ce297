"""Configuration and state of a network port: the blocks of NETIF_CONFIG and NETIF_STATUS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address, IPv6Network

from twinstack.proto.queues import NETIF_CONFIG, NETIF_CONFIG6

AF_INET = 2
AF_INET6 = 10
PREFIX_LENGTH6 = 64
DNS_SERVERS = 2
ROUTERS = IPv6Network("fe80::/64")


def _wire(address: IPv4Address | IPv6Address | None) -> int:
    return 0 if address is None else int.from_bytes(address.packed, "little")


def _parse(kind: type[IPv4Address] | type[IPv6Address], text: object, name: str) -> IPv4Address | IPv6Address | None:
    try:
        return None if text is None else kind(text)
    except AddressValueError:
        wanted = "IPv4" if kind is IPv4Address else "IPv6"
        raise ValueError(f"{name} must be an {wanted} address, not {text!r}") from None


def config_block(
    address: str | IPv4Address | IPv6Address | None,
    prefix_length: int | None,
    *,
    gateway: str | IPv4Address | IPv6Address | None,
    mac: str | None,
    dhcp: bool,
    autoconfigure: bool,
    dns: Sequence[str | IPv4Address],
) -> bytes:
    """The block of NETIF_CONFIG, see :meth:`.device.Device.configure`.

    Raises
    ------
    ValueError
        If the parts do not go together, or one is wrong.
    """
    if autoconfigure or ":" in str(address):
        return _block6(address, prefix_length, gateway, autoconfigure, others=bool(mac or dhcp or dns))
    if dhcp and (address, prefix_length, gateway, *dns) != (None, None, None):
        raise ValueError(f"with dhcp address, prefix_length, gateway and dns must be left out, not {address!r}")
    if len(dns) > DNS_SERVERS:
        raise ValueError(f"dns must be {DNS_SERVERS} servers at most, not {dns!r}")
    if address is not None and (prefix_length is None or not 0 <= prefix_length <= 32):
        raise ValueError(f"prefix_length must be 0 to 32, not {prefix_length!r}")
    if mac is not None and len(bytes.fromhex(mac.replace(":", ""))) != 6:
        raise ValueError(f"mac must be 6 bytes, not {mac!r}")
    servers = [_wire(_parse(IPv4Address, one, "dns")) for one in dns]
    values = {
        "family": AF_INET,
        "prefix_length": prefix_length or 0,
        "dhcp": int(dhcp),
        "address": _wire(_parse(IPv4Address, address, "address")),
        "gateway": _wire(_parse(IPv4Address, gateway, "gateway")),
        "mac": 0 if mac is None else int.from_bytes(bytes.fromhex(mac.replace(":", "")), "little"),
    }
    return NETIF_CONFIG.pack(values | {f"dns{n}": server for n, server in enumerate(servers)})


def _block6(address: object, prefix_length: int | None, gateway: object, autoconfigure: bool, *, others: bool) -> bytes:
    if others:
        raise ValueError("mac, dhcp and dns must be left out with IPv6: they belong to the IPv4 configuration")
    own = _parse(IPv6Address, address, "address")
    router = _parse(IPv6Address, gateway, "gateway")
    if prefix_length not in (None, PREFIX_LENGTH6):
        raise ValueError(f"prefix_length must be {PREFIX_LENGTH6} with IPv6, not {prefix_length!r}")
    if router is not None and router not in ROUTERS:
        raise ValueError(f"gateway must be in {ROUTERS}, not {gateway!r}")
    values = {
        "family": AF_INET6,
        "prefix_length": PREFIX_LENGTH6 if own is not None and int(own) else 0,
        "autoconfigure": int(autoconfigure),
        "address": _wire(own),
        "gateway": 0 if router is None else int.from_bytes(router.packed[8:], "little"),
    }
    return NETIF_CONFIG6.pack(values)


@dataclass(frozen=True)
class NetifStatus:
    """State of a network port; addresses are None where there is none."""

    configured: bool
    link_up: bool
    full_duplex: bool
    speed_mbps: int
    mac: str
    address: IPv4Address | None
    prefix_length: int
    gateway: IPv4Address | None
    dns: tuple[IPv4Address | IPv6Address, ...]
    dhcp: bool
    dhcp_bound: bool
    lease_seconds: int
    autoconfigure: bool
    link_local: IPv6Address | None
    addresses6: tuple[IPv6Address, ...]
    """Global ones that passed duplicate address detection."""
    tentative6: tuple[IPv6Address, ...]
    """Those that have not, or not yet; the link-local one may be among them."""
    router6: IPv6Address | None

    @classmethod
    def from_fields(cls, fields: dict[str, int]) -> NetifStatus:
        """From the fields of NETIF_STATUS."""

        def four(name: str) -> IPv4Address | None:
            return IPv4Address(fields[name].to_bytes(4, "little")) if fields[name] else None

        def six(name: str) -> IPv6Address | None:
            return IPv6Address(fields[name].to_bytes(16, "little")) if fields[name] else None

        own = [six(name) for name in ("address6_link_local", "address6_0", "address6_1")]
        ready = [one for n, one in enumerate(own) if n and one is not None and fields["address6_ready"] >> n & 1]
        waiting = [one for n, one in enumerate(own) if one is not None and not fields["address6_ready"] >> n & 1]
        servers = [four("dns0"), four("dns1"), six("dns6")]
        return cls(
            configured=bool(fields["configured"]),
            link_up=bool(fields["link_up"]),
            full_duplex=bool(fields["full_duplex"]),
            speed_mbps=(10, 100, 1000, 0)[fields["speed"]],
            mac=fields["mac"].to_bytes(8, "little")[:6].hex(":"),
            address=four("address"),
            prefix_length=fields["prefix_length"],
            gateway=four("gateway"),
            dns=tuple(server for server in servers if server is not None),
            dhcp=bool(fields["dhcp"]),
            dhcp_bound=bool(fields["dhcp_bound"]),
            lease_seconds=fields["lease_seconds"],
            autoconfigure=bool(fields["autoconfigure"]),
            link_local=own[0],
            addresses6=tuple(ready),
            tentative6=tuple(waiting),
            router6=six("router6"),
        )
