"""What a receiver must find in a frame, and which checksums a sender must write, by scapy: every header is dissected with
its class and every checksum computed with its functions. Only the rules about lengths, limits and what is dropped are here.

Independent of :mod:`twinstack.models.parser`, and slow.
"""

from __future__ import annotations

from socket import AF_INET6, inet_aton, inet_pton

from scapy.layers.inet import ICMP, IP, TCP, UDP, in4_chksum
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    in6_chksum,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.utils import checksum

LIMIT = 128 - 2
EXTENSIONS = {0: IPv6ExtHdrHopByHop, 43: IPv6ExtHdrRouting, 44: IPv6ExtHdrFragment, 51: AH, 60: IPv6ExtHdrDestOpt}
OPAQUE = {50, 135, 139, 140, 253, 254}
NEEDED = {0: 2, 43: 8, 44: 8, 51: 12, 60: 2}
"""Bytes that scapy wants to see of an extension header; options are not dissected."""


class Broken(Exception):
    """Lengths or checksums are wrong; the argument is the verdict."""


class Packet:
    """An IP packet: ``header`` is scapy's; ``body`` lies behind the headers, ``offset`` bytes into the frame."""

    def __init__(self, frame: bytes):
        self.meta: dict[str, int] = {"frame_length": len(frame)}
        self.header = self.body = None
        self.l4 = True
        if len(frame) < 14:
            raise Broken("unknown_ethertype")
        ether = Ether(frame[:14])
        self.offset = 14
        kind = getattr(ether, "type", 0)
        first = int(ether.dst[:2], 16)
        if ether.dst == "ff:ff:ff:ff:ff:ff":
            self.meta["is_broadcast"] = 1
        elif first & 1:
            self.meta["is_multicast"] = 1
        if kind == 0x8100:
            if len(frame) < 18:
                raise Broken("unknown_ethertype")
            tag = Dot1Q(frame[14:18])
            drop_eligible = tag.getfieldval("dei" if "dei" in tag.fields else "id")
            self.meta |= {"has_vlan": 1, "vlan_tci": tag.prio << 13 | drop_eligible << 12 | tag.vlan}
            self.offset, kind = 18, tag.type
        self.meta["l3_offset"] = self.offset
        packet = frame[self.offset :]
        if kind == 0x0806:
            self._arp(packet)
        elif kind == 0x0800:
            self._ipv4(packet)
        elif kind == 0x86DD:
            self._ipv6(packet)
        else:
            raise Broken("unknown_ethertype")

    def _arp(self, packet):
        if len(packet) < 28:
            raise Broken("checksum_errors")
        operation, ends = int.from_bytes(packet[6:8], "big"), (packet[14:18], packet[24:28])
        if packet[2:6] == b"\x08\x00\x06\x04":  # with other sizes of addresses the fields are elsewhere for scapy
            arp = ARP(packet[:28])
            operation, ends = arp.op, (inet_aton(arp.psrc), inet_aton(arp.pdst))
        self.meta |= {"is_arp": 1, "is_arp_request": int(operation == 1)}
        self.ends(*ends)

    def ends(self, source, destination):
        self.meta["source"] = int.from_bytes(source, "little")
        self.meta["destination"] = int.from_bytes(destination, "little")

    def _ipv4(self, packet):
        if len(packet) < 20:
            raise Broken("checksum_errors")
        ip = self.header = IP(packet[:20])
        size = 4 * ip.ihl
        if ip.version != 4 or size < 20 or not size <= ip.len <= len(packet):
            raise Broken("checksum_errors")
        if checksum(packet[:size]):
            raise Broken("checksum_errors")
        self.meta |= {"is_ipv4": 1, "ip_checksum_ok": 1, "has_ip_options": int(size > 20)}
        if ip.flags.MF or ip.frag:
            self.meta["is_fragment"] = 1
            self.l4 = False
        self.ends(inet_aton(ip.src), inet_aton(ip.dst))
        self._found(ip.proto, size, packet[size : ip.len])

    def _found(self, protocol, size, body):
        self.meta["ip_protocol"] = self.protocol = protocol
        self.offset += size
        self.body = body

    def _ipv6(self, packet):
        if len(packet) < 40:
            raise Broken("checksum_errors")
        ip = self.header = IPv6(packet[:40])
        if ip.version != 6 or 40 + ip.plen > len(packet):
            raise Broken("checksum_errors")
        self.meta |= {"is_ipv6": 1, "ip_checksum_ok": 1}
        self.ends(inet_pton(AF_INET6, ip.src), inet_pton(AF_INET6, ip.dst))
        self._found(ip.nh, 40, packet[40 : 40 + ip.plen])
        while self.l4 and self.protocol in EXTENSIONS:
            self.meta["has_ip_options"] = 1
            self._extension()
        if self.l4 and self.protocol in OPAQUE:
            self.meta |= {"has_ip_options": 1, "is_truncated_parse": 1}
            self.l4 = False

    def _extension(self):
        if len(self.body) < 8:
            raise Broken("checksum_errors")
        needed = NEEDED[self.protocol]
        header = EXTENSIONS[self.protocol](self.body[:needed].ljust(needed, b"\0"))
        if isinstance(header, IPv6ExtHdrFragment):
            size = 8
            if header.offset or header.m:
                self.meta["is_fragment"] = 1
                self.l4 = False
        elif isinstance(header, AH):
            size = 4 * (header.payloadlen + 2)
        else:
            size = 8 * (header.len + 1)
        if self.protocol == 43 and header.segleft:
            self.meta["is_truncated_parse"] = 1
            self.l4 = False
        if size > len(self.body):
            raise Broken("checksum_errors")
        if self.offset + size >= LIMIT:
            self.meta["is_truncated_parse"] = 1
            self.l4 = False
        else:
            self._found(header.nh, size, self.body[size:])

    def l4_sum(self, body):
        """scapy's checksum of ``body`` as L4 of this packet."""
        if self.header.version == 6:
            return in6_chksum(self.protocol, IPv6(src=self.header.src, dst=self.header.dst), body)
        if self.protocol == 1:
            return checksum(body)
        return in4_chksum(self.protocol, IP(src=self.header.src, dst=self.header.dst), body)

    def covered(self):
        """What the L4 checksum covers, and its place there; ``None`` without one, ``Broken`` with wrong lengths."""
        if self.body is None or not self.l4:
            return None
        version = self.header.version
        body = self.body
        if self.protocol == 6:
            if len(body) < 20 or not 20 <= 4 * TCP(body[:20]).dataofs <= len(body):
                raise Broken("checksum_errors")
            return body, 16
        if self.protocol == 17:
            if len(body) < 8 or not 8 <= UDP(body[:8]).len <= len(body):
                raise Broken("checksum_errors")
            return body[: UDP(body[:8]).len], 6
        if self.protocol == {4: 1, 6: 58}[version]:
            if len(body) < 4:
                raise Broken("checksum_errors")
            return body, 2
        return None


def receive(frame: bytes, *, error: bool = False) -> tuple[str, dict[str, int]]:
    """The verdict, and the fields that are not zero."""
    if error or len(frame) > 1518:
        return "bad_frame", {}
    try:
        packet = Packet(frame)
        covered = packet.covered()
        meta = packet.meta
        if covered:
            body = covered[0]
            without = packet.protocol == 17 and not UDP(body[:8]).chksum
            if without and packet.header.version == 6 or not without and packet.l4_sum(body):
                return "checksum_errors", {}
            meta["l4_checksum_ok"] = 1
            _l4_fields(packet, body)
    except Broken as broken:
        return broken.args[0], {}
    return "good", {name: value for name, value in meta.items() if value}


def _l4_fields(packet, body):
    meta, offset = packet.meta, packet.offset
    if packet.protocol in {1, 58}:
        meta |= {"is_icmp": 1, "l4_offset": offset}
        _icmp_fields(packet, body)
        return
    size = 8
    if packet.protocol == 6:
        size = 4 * TCP(body[:20]).dataofs
    if offset + size > LIMIT:
        meta["is_truncated_parse"] = 1
        return
    l4 = TCP(body[:size]) if packet.protocol == 6 else UDP(body[:8])
    meta |= {
        "has_flow": 1,
        "l4_offset": offset,
        "payload_offset": offset + size,
        "payload_length": len(body) - size,
        "source_port": l4.sport,
        "destination_port": l4.dport,
    }
    if packet.protocol == 17:
        meta["is_udp"] = 1
        return
    meta |= {
        "is_tcp": 1,
        "flow_is_tcp": 1,
        "tcp_sequence": l4.seq,
        "tcp_acknowledgement": l4.ack,
        "tcp_window": l4.window,
        "tcp_flags": int(l4.flags) & 0xFF,
    }
    if size > 20:
        meta["has_tcp_options"] = 1
        names = [name for name, _ in l4.options]
        # scapy takes a timestamp of any length for one.
        if size == 32 and names == ["NOP", "NOP", "Timestamp"] and body[23] == 10:
            meta["option_timestamp"] = 1
            meta["tcp_tsval"], meta["tcp_tsecr"] = l4.options[2][1]
        else:
            meta["option_other"] = 1


def _icmp_fields(packet, body):
    version = packet.header.version
    kind = ICMP(body[:40].ljust(40, b"\0")).type
    packet.meta["icmp_type"] = kind
    if not (kind < 128 if version == 6 else kind in {3, 4, 5, 11, 12}):
        return
    packet.meta["is_icmp_error"] = 1
    quoted = body[8 : max(0, LIMIT - packet.offset)]
    if len(quoted) < (40 if version == 6 else 20):
        return
    inner = IPv6(quoted[:40]) if version == 6 else IP(quoted[:20])
    size = 40 if version == 6 else 4 * inner.ihl
    if inner.version != version or size < 20 or len(quoted) < size + 4 or (version == 4 and inner.frag):
        return
    protocol = inner.nh if version == 6 else inner.proto
    if protocol not in {6, 17}:
        return
    ports = UDP(quoted[size : size + 4].ljust(8, b"\0"))
    raw = (lambda text: inet_pton(AF_INET6, text)) if version == 6 else inet_aton
    packet.ends(raw(inner.dst), raw(inner.src))
    packet.meta |= {
        "has_flow": 1,
        "flow_is_tcp": int(protocol == 6),
        "source_port": ports.dport,
        "destination_port": ports.sport,
    }


def transmit(frame: bytes) -> bytes:
    """``frame`` with the checksums of the IPv4 header, TCP, UDP and ICMPv6 written."""
    if len(frame) < 14:
        return frame
    out = bytearray(frame)
    offset = 18 if frame[12:14] == b"\x81\0" else 14
    if frame[offset - 2 : offset] == b"\x08\0" and len(frame) >= offset + 20:
        ip = IP(frame[offset : offset + 20])
        size = 4 * ip.ihl
        if ip.version == 4 and size >= 20 and offset + size <= len(frame):
            out[offset + 10 : offset + 12] = b"\0\0"
            out[offset + 10 : offset + 12] = checksum(bytes(out[offset : offset + size])).to_bytes(2, "big")
    try:
        packet = Packet(bytes(out))
        covered = packet.covered()
    except Broken:
        return bytes(out)
    if covered and not (packet.protocol == 1):
        body, at = covered
        value = packet.l4_sum(body[:at] + b"\0\0" + body[at + 2 :])
        if packet.protocol == 17:
            value = value or 0xFFFF
        out[packet.offset + at : packet.offset + at + 2] = value.to_bytes(2, "big")
    return bytes(out)
