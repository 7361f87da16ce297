"""Blocks of NETIF_CONFIG and fields of NETIF_STATUS, without an engine."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from twinstack.proto.queues import NETIF_CONFIG, NETIF_CONFIG6, NETIF_STATUS
from twinstack_host.netif import NetifStatus, config_block

DEFAULTS = {"gateway": None, "mac": None, "dhcp": False, "autoconfigure": False, "dns": ()}


def block(address=None, prefix_length=None, **keywords) -> bytes:
    return config_block(address, prefix_length, **DEFAULTS | keywords)


def test_ipv4():
    made = block("10.1.2.3", 20, gateway="10.1.0.1", mac="02:00:00:00:00:09", dns=("1.1.1.1", IPv4Address("8.8.4.4")))
    fields = NETIF_CONFIG.unpack(made)
    assert fields["family"] == 2 and fields["prefix_length"] == 20 and fields["dhcp"] == 0
    assert made[4:12] == bytes([10, 1, 2, 3, 10, 1, 0, 1])
    assert made[12:20] == bytes([2, 0, 0, 0, 0, 9, 0, 0])
    assert made[20:32] == bytes([1, 1, 1, 1, 8, 8, 4, 4, 0, 0, 0, 0])
    assert NETIF_CONFIG.unpack(block())["address"] == 0  # off
    assert NETIF_CONFIG.unpack(block(IPv4Address("10.1.2.3"), 0))["prefix_length"] == 0


def test_dhcp():
    fields = NETIF_CONFIG.unpack(block(dhcp=True, mac="02:00:00:00:00:09"))
    assert fields["dhcp"] == 1 and fields["mac"] == 0x0900_0000_0002 and fields["address"] == 0


def test_ipv6():
    made = block("2001:db8::2", gateway="fe80::1:2:3:4")
    fields = NETIF_CONFIG6.unpack(made)
    assert fields["family"] == 10 and fields["prefix_length"] == 64 and fields["autoconfigure"] == 0
    assert made[4:20] == IPv6Address("2001:db8::2").packed
    assert made[20:28] == IPv6Address("fe80::1:2:3:4").packed[8:]
    fields = NETIF_CONFIG6.unpack(block(autoconfigure=True))
    assert fields["autoconfigure"] == 1 and fields["prefix_length"] == fields["address"] == fields["gateway"] == 0
    assert NETIF_CONFIG6.unpack(block("::"))["prefix_length"] == 0
    assert NETIF_CONFIG6.unpack(block(IPv6Address("2001:db8::2"), 64, autoconfigure=True))["prefix_length"] == 64


@pytest.mark.parametrize(
    "arguments",
    [
        {"address": "10.0.0.256", "prefix_length": 24},
        {"address": "10.0.0.1"},
        {"address": "10.0.0.1", "prefix_length": 33},
        {"address": "10.0.0.1", "prefix_length": 24, "gateway": "fe80::1"},
        {"address": "10.0.0.1", "prefix_length": 24, "mac": "02:00"},
        {"address": "10.0.0.1", "prefix_length": 24, "dns": ("1.1.1.1",) * 3},
        {"address": "10.0.0.1", "prefix_length": 24, "dns": ("::1",)},
        {"address": "10.0.0.1", "dhcp": True},
        {"gateway": "10.0.0.1", "dhcp": True},
        {"dns": ("1.1.1.1",), "dhcp": True},
        {"address": "2001:db8::2", "prefix_length": 48},
        {"address": "2001:db8::2", "gateway": "2001:db8::1"},
        {"address": "2001:db8::2", "mac": "02:00:00:00:00:09"},
        {"address": "2001:db8::2", "dhcp": True},
        {"address": "2001:db8::x"},
        {"address": "10.0.0.1", "autoconfigure": True},
    ],
)
def test_what_does_not_go_together(arguments):
    with pytest.raises(ValueError, match="not|left out"):
        block(**arguments)


def packed(text: str) -> int:
    kind = IPv6Address if ":" in text else IPv4Address
    return int.from_bytes(kind(text).packed, "little")


def test_status():
    fields = NETIF_STATUS.unpack(
        NETIF_STATUS.pack(
            {
                "configured": 1,
                "link_up": 1,
                "speed": 1,
                "dhcp": 1,
                "dhcp_bound": 1,
                "prefix_length": 24,
                "mac": 0x0900_0000_0002,
                "address": packed("10.0.0.2"),
                "dns1": packed("1.1.1.1"),
                "lease_seconds": 600,
                "address6_link_local": packed("fe80::2"),
                "address6_0": packed("2001:db8::2"),
                "address6_1": packed("2001:db8::3"),
                "address6_ready": 0b101,
                "dns6": packed("2001:db8::53"),
            }
        )
    )
    status = NetifStatus.from_fields(fields)
    assert status.configured and status.link_up and not status.full_duplex and status.speed_mbps == 100
    assert status.mac == "02:00:00:00:00:09" and status.address == IPv4Address("10.0.0.2") and status.gateway is None
    assert status.dns == (IPv4Address("1.1.1.1"), IPv6Address("2001:db8::53"))
    assert status.dhcp_bound and status.lease_seconds == 600 and not status.autoconfigure
    assert status.link_local == IPv6Address("fe80::2") and status.router6 is None
    assert status.addresses6 == (IPv6Address("2001:db8::3"),)
    assert status.tentative6 == (IPv6Address("2001:db8::2"),)
