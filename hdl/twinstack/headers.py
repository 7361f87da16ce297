"""Numbers in the headers that the receive and the transmit side read, each with its standard; and byte order."""

from __future__ import annotations

from amaranth import Cat, Value

from .proto.descriptor import FRAME_PAD_BYTES

ETHERNET_HEADER_BYTES = 14  # IEEE 802.3, 3.1.1
VLAN_TAG_BYTES = 4  # IEEE 802.1Q, 9.3
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_VLAN = 0x8100
ETHERTYPE_IPV6 = 0x86DD
L3_WORD = (FRAME_PAD_BYTES + ETHERNET_HEADER_BYTES) // 4
"""Stream word with which L3 begins in a frame without tag; a tag takes one more."""

ARP_BYTES = 28  # RFC 826, for Ethernet and IPv4

IPV4_CHECKSUM_BYTE = 10  # RFC 791, 3.1
IPV6_HEADER_BYTES = 40  # RFC 8200, 3

PROTOCOL_ICMP = 1  # RFC 792
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
PROTOCOL_ROUTING = 43  # RFC 8200, 4.4
PROTOCOL_FRAGMENT = 44  # RFC 8200, 4.5
PROTOCOL_AUTHENTICATION = 51  # RFC 4302, 2
PROTOCOL_ICMPV6 = 58  # RFC 4443
IPV6_WALKED = (0, PROTOCOL_ROUTING, PROTOCOL_FRAGMENT, PROTOCOL_AUTHENTICATION, 60)
"""Extension headers that are walked: hop-by-hop options, routing, fragment, authentication, destination options."""
IPV6_NOT_WALKED = (50, 135, 139, 140, 253, 254)
"""The other extension headers (IANA "IPv6 Extension Header Types"): ESP, mobility, HIP, shim6, experiments."""

TCP_HEADER_BYTES, TCP_CHECKSUM_BYTE = 20, 16  # RFC 9293, 3.1
UDP_HEADER_BYTES, UDP_CHECKSUM_BYTE = 8, 6  # RFC 768
ICMP_HEADER_BYTES, ICMP_CHECKSUM_BYTE = 4, 2  # RFC 4443, 2.1: type, code and checksum, the part common to all
ICMP_ERROR_HEADER_BYTES = 8  # RFC 792, RFC 4443 section 3: the quoted packet follows
ICMP_ERRORS = (3, 4, 5, 11, 12)
"""RFC 792: unreachable, source quench, redirect, time exceeded, parameter problem. ICMPv6: all types below 128."""
QUOTED_PORTS_BYTES = 4
TIMESTAMP_OPTION_WORD = 0x0A080101
"""NOP, NOP, timestamp (8), length 10: RFC 7323 appendix A; earliest byte lowest."""


def swap(value: Value) -> Value:
    """A 16-bit field of a stream word in value order, or back."""
    return Cat(value[8:16], value[0:8])


def swap_word(value: Value) -> Value:
    """A 32-bit field of a stream word in value order."""
    return Cat(value[24:32], value[16:24], value[8:16], value[0:8])
