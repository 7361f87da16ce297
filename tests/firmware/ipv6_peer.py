"""IPv6 for the tests of the firmware on the PC: addresses, advertisements of neighbours and routers, a TCP peer (scapy)."""

from __future__ import annotations

from ipaddress import IPv6Address

from scapy.layers.inet import TCP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_RA,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether

from firmware.firmware_peer import OUR_MAC, PEER_MAC, Firmware, packed_mac
from twinstack.proto.queues import NETIF_CONFIG, NETIF_CONFIG6, NETIF_STATUS, SOCKET_ADDRESS, Operation

ALL_NODES = "ff02::1"


def link_local(mac: str) -> str:
    """RFC 4291, appendix A."""
    raw = bytes.fromhex(mac.replace(":", ""))
    return str(IPv6Address(b"\xfe\x80" + bytes(6) + bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]))


OUR_LINK_LOCAL = link_local(OUR_MAC)
PEER_LINK_LOCAL = link_local(PEER_MAC)


def packed_ip6(text: str) -> int:
    return int.from_bytes(IPv6Address(text).packed, "little")


def socket_address6(ip: str, port: int, scope: int = 0) -> bytes:
    return SOCKET_ADDRESS.pack({"family": 10, "port": port, "scope": scope, "address": packed_ip6(ip)})


def solicited_node(ip: str) -> str:
    """RFC 4291 2.7.1."""
    return str(IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + IPv6Address(ip).packed[13:]))


def group_mac(group: str) -> str:
    """RFC 2464 7."""
    return "33:33:" + IPv6Address(group).packed[12:].hex(":")


def configure6(
    firmware: Firmware, address: str = "::", *, gateway: str = "::", autoconfigure: int = 0, wait: int = 0
) -> None:
    """NETIF_CONFIG of both families; IPv4 gets the MAC address only if it has none yet."""
    if not status_of(firmware)["configured"]:
        block = NETIF_CONFIG.pack({"family": 2, "mac": packed_mac(OUR_MAC)})
        firmware.sqe(Operation.NETIF_CONFIG, 101, inline=block)
        firmware.command(f"time {wait}")
        firmware.completions.clear()
    block = NETIF_CONFIG6.pack(
        {
            "family": 10,
            "prefix_length": 0 if address == "::" else 64,
            "autoconfigure": autoconfigure,
            "address": packed_ip6(address),
            "gateway": int.from_bytes(IPv6Address(gateway).packed[8:], "little"),
        }
    )
    firmware.sqe(Operation.NETIF_CONFIG, 102, inline=block)
    firmware.command(f"time {wait}")
    result = firmware.completion().result
    assert result == 0 or wait, result


def status_of(firmware: Firmware, port: int = 0) -> dict[str, int]:
    assert firmware.call(Operation.NETIF_STATUS, operation_flags=port, buffer=0x8000, length=128) == 128
    return NETIF_STATUS.unpack(firmware.read(0x8000, 128))


def good_checksums(frame: Ether) -> bool:
    """True if scapy comes to the same bytes, every checksum computed anew."""
    fresh = type(frame)(bytes(frame))
    layer = fresh[IPv6]
    while layer:
        for name in ("cksum", "chksum"):
            if name in layer.fields:
                delattr(layer, name)
        layer = layer.payload
    return bytes(fresh) == bytes(frame)


def advertise(packet: IPv6) -> Ether:
    return Ether(src=PEER_MAC, dst=group_mac(packet.dst)) / packet


def neighbour_advertisement(target: str, *, dst: str, solicited: int = 1) -> Ether:
    """The peer says that an address is its own."""
    mac = group_mac(dst) if IPv6Address(dst).is_multicast else OUR_MAC
    body = ICMPv6ND_NA(tgt=target, R=0, S=solicited, O=1) / ICMPv6NDOptDstLLAddr(lladdr=PEER_MAC)
    return Ether(src=PEER_MAC, dst=mac) / IPv6(src=target, dst=dst, hlim=255) / body


def router_advertisement(
    *,
    prefix: str = "2001:db8:1::",
    valid: int = 3600,
    preferred: int = 1800,
    rdnss: str = "",
    rdnss_lifetime: int = 600,
    router_lifetime: int = 1800,
) -> Ether:
    """The peer as a router (RFC 4861 4.2, RFC 8106)."""
    body = ICMPv6ND_RA(routerlifetime=router_lifetime) / ICMPv6NDOptSrcLLAddr(lladdr=PEER_MAC)
    body /= ICMPv6NDOptPrefixInfo(
        prefix=prefix, prefixlen=64, L=1, A=1, validlifetime=valid, preferredlifetime=preferred
    )
    if rdnss:
        body /= ICMPv6NDOptRDNSS(dns=[rdnss], lifetime=rdnss_lifetime)
    return advertise(IPv6(src=PEER_LINK_LOCAL, dst=ALL_NODES, hlim=255) / body)


class TcpPeer6:
    """A minimal TCP peer over IPv6: in order, one segment at a time; keeps what it received."""

    def __init__(self, firmware: Firmware, port: int, ip: str, ours: str, local: int = 40000):
        self.firmware, self.port, self.ip, self.ours, self.local = firmware, port, ip, ours, local
        self.sequence, self.expected = 1000, 0
        self.between = None
        """An extension header for what is sent."""
        self.received = b""
        self.flags: list[str] = []
        self.lengths: list[int] = []
        self.mss = 0

    def packet(self, flags: str, payload: bytes = b"") -> IPv6:
        header = TCP(sport=self.local, dport=self.port, flags=flags, seq=self.sequence, ack=self.expected, window=60000)
        if "S" in flags:
            header.options = [("MSS", 1440)]
        packet = IPv6(src=self.ip, dst=self.ours)
        return (packet / self.between if self.between else packet) / header / payload

    def send(self, flags: str, payload: bytes = b"") -> None:
        packet = self.packet(flags, payload)
        self.sequence += len(payload) + ("S" in flags) + ("F" in flags)
        self.firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / packet)
        self.collect()

    def collect(self) -> None:
        frames, self.firmware.frames = self.firmware.frames, []
        for frame in frames:
            if IPv6 not in frame or TCP not in frame or frame[TCP].dport != self.local:
                continue
            assert good_checksums(frame), frame.show(dump=True)
            assert frame[IPv6].src == self.ours and frame[IPv6].dst == self.ip
            payload = bytes(frame[TCP].payload)[: frame[IPv6].plen - 4 * frame[TCP].dataofs]
            flags = str(frame[TCP].flags)
            self.flags.append(flags)
            if "S" in flags:
                self.expected = frame[TCP].seq + 1
                self.mss = dict(frame[TCP].options)["MSS"]
            elif frame[TCP].seq == self.expected:
                self.received += payload
                self.expected += len(payload) + ("F" in flags)
                if payload:
                    self.lengths.append(len(payload))

    def acknowledge_all(self, rounds: int = 50) -> None:
        for _ in range(rounds):
            before = self.expected
            self.send("A")
            if self.expected == before:
                return

    def open(self) -> None:
        self.send("S")
        assert self.flags[-1] == "SA", self.flags
        self.send("A")
