"""What a receiver must find in a frame, written from the RFCs with plain byte slices; and random frames made by scapy.

:func:`inspect` knows nothing of the gateware but the names of the ``FrameMeta`` fields.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field

GOOD = "good"
BAD_FRAME = "bad_frame"
CHECKSUM_ERRORS = "checksum_errors"
UNKNOWN_ETHERTYPE = "unknown_ethertype"

PARSED_BYTES = 126  # of the frame; 128 with the two pad bytes before it
IPV6_EXTENSION_HEADERS = {0, 43, 44, 50, 51, 60, 135, 139, 140, 253, 254}


@dataclass
class Inspection:
    """The verdict, and for a good frame all ``FrameMeta`` fields that are not zero."""

    verdict: str
    meta: dict[str, int] = field(default_factory=dict)


def ones_complement_sum(data: bytes) -> int:
    """RFC 1071: the folded sum of big-endian halves; an odd last byte is followed by zero."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _address(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _l4(
    meta: dict[str, int], frame: bytes, offset: int, protocol: int, body: bytes, pseudo: bytes, version: int
) -> bool:
    """Fill in the fields of TCP or UDP; false if lengths or checksum are wrong. ``pseudo`` holds the two addresses."""
    if protocol == 6:
        if len(body) < 20:
            return False
        header = (body[12] >> 4) * 4
        if header < 20 or header > len(body):
            return False
        if ones_complement_sum(pseudo + struct.pack(">II", len(body), protocol) + body) != 0xFFFF:
            return False
        meta["l4_checksum_ok"] = 1
        if offset + header > PARSED_BYTES:
            meta["is_truncated_parse"] = 1
            return True
        source, destination, sequence, acknowledgement, _, flags, window = struct.unpack(">HHIIBBH", body[:16])
        meta |= {
            "is_tcp": 1,
            "l4_offset": offset,
            "source_port": source,
            "destination_port": destination,
            "tcp_sequence": sequence,
            "tcp_acknowledgement": acknowledgement,
            "tcp_flags": flags,
            "tcp_window": window,
            "payload_offset": offset + header,
            "payload_length": len(body) - header,
        }
        options = body[20:header]
        if options:
            meta["has_tcp_options"] = 1
            if len(options) == 12 and options[:4] == bytes((1, 1, 8, 10)):
                meta["option_timestamp"] = 1
                meta["tcp_tsval"], meta["tcp_tsecr"] = struct.unpack(">II", options[4:])
            else:
                meta["option_other"] = 1
        return True
    if len(body) < 8:
        return False
    source, destination, length, checksum = struct.unpack(">HHHH", body[:8])
    if length < 8 or length > len(body):
        return False
    if checksum == 0:
        if version == 6:
            return False
    elif ones_complement_sum(pseudo + struct.pack(">II", length, protocol) + body[:length]) != 0xFFFF:
        return False
    meta |= {
        "is_udp": 1,
        "l4_checksum_ok": 1,
        "l4_offset": offset,
        "source_port": source,
        "destination_port": destination,
        "payload_offset": offset + 8,
        "payload_length": length - 8,
    }
    return True


def inspect(frame: bytes, *, error: bool = False, max_frame_bytes: int = 1518) -> Inspection:
    """What is to become of ``frame`` (from the destination address on, FCS and pad excluded), and what it says."""
    if error or len(frame) > max_frame_bytes:
        return Inspection(BAD_FRAME)
    if len(frame) < 14:
        return Inspection(UNKNOWN_ETHERTYPE)
    meta = {"frame_length": len(frame), "l3_offset": 14}
    if frame[:6] == b"\xff" * 6:
        meta["is_broadcast"] = 1
    elif frame[0] & 1:
        meta["is_multicast"] = 1
    (ethertype,) = struct.unpack(">H", frame[12:14])
    if ethertype == 0x8100:
        if len(frame) < 18:
            return Inspection(UNKNOWN_ETHERTYPE)
        meta["vlan_tci"], ethertype = struct.unpack(">HH", frame[14:18])
        meta |= {"has_vlan": 1, "l3_offset": 18}
    offset = meta["l3_offset"]
    packet = frame[offset:]
    wrong = Inspection(CHECKSUM_ERRORS)

    if ethertype == 0x0806:
        if len(packet) < 28:
            return wrong
        meta |= {"is_arp": 1, "source": _address(packet[14:18]), "destination": _address(packet[24:28])}
        meta["is_arp_request"] = int(packet[6:8] == b"\0\1")
        return Inspection(GOOD, meta)

    if ethertype == 0x0800:
        if len(packet) < 20 or packet[0] >> 4 != 4:
            return wrong
        header = (packet[0] & 15) * 4
        total, _, fragment = struct.unpack(">HHH", packet[2:8])
        if header < 20 or total < header or total > len(packet):
            return wrong
        if ones_complement_sum(packet[:header]) != 0xFFFF:
            return wrong
        protocol = packet[9]
        meta |= {
            "is_ipv4": 1,
            "ip_checksum_ok": 1,
            "ip_protocol": protocol,
            "source": _address(packet[12:16]),
            "destination": _address(packet[16:20]),
            "has_ip_options": int(header > 20),
        }
        if fragment & 0x3FFF:  # more fragments, or an offset
            meta["is_fragment"] = 1
        elif protocol == 1:
            meta |= {"is_icmp": 1, "l4_offset": offset + header}
        elif protocol in {6, 17}:
            if not _l4(meta, frame, offset + header, protocol, packet[header:total], packet[12:20], 4):
                return wrong
        return Inspection(GOOD, meta)

    if ethertype == 0x86DD:
        if len(packet) < 40 or packet[0] >> 4 != 6:
            return wrong
        length, protocol = struct.unpack(">HB", packet[4:7])
        if 40 + length > len(packet):
            return wrong
        meta |= {
            "is_ipv6": 1,
            "ip_checksum_ok": 1,
            "ip_protocol": protocol,
            "source": _address(packet[8:24]),
            "destination": _address(packet[24:40]),
        }
        if protocol in IPV6_EXTENSION_HEADERS:
            meta |= {"has_ip_options": 1, "is_truncated_parse": 1}
        elif protocol == 58:
            meta |= {"is_icmp": 1, "l4_offset": offset + 40}
        elif protocol in {6, 17}:
            if not _l4(meta, frame, offset + 40, protocol, packet[40 : 40 + length], packet[8:40], 6):
                return wrong
        return Inspection(GOOD, meta)

    return Inspection(UNKNOWN_ETHERTYPE)


def random_frame(rng: random.Random) -> bytes:
    """A frame as scapy builds it, at least 60 bytes, mostly well-formed, with everything a parser must tell apart."""
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
    from scapy.layers.l2 import ARP, Dot1Q, Ether
    from scapy.packet import Raw

    def ip4() -> str:
        return ".".join(str(rng.randrange(256)) for _ in range(4))

    def ip6() -> str:
        return ":".join(f"{rng.randrange(65536):x}" for _ in range(8))

    def mac() -> str:
        return ":".join(f"{rng.randrange(256):02x}" for _ in range(6))

    destination = rng.choice([mac, mac, lambda: "ff:ff:ff:ff:ff:ff", lambda: "01:00:5e:00:00:01"])()
    packet = Ether(dst=destination, src=mac())
    if rng.random() < 0.25:
        packet /= Dot1Q(vlan=rng.randrange(4096), prio=rng.randrange(8))
    payload = Raw(rng.randbytes(rng.choice([0, 0, 1, 2, 3, rng.randrange(8), rng.randrange(120), rng.randrange(200)])))
    if rng.random() < 0.01:
        payload = Raw(rng.randbytes(rng.randrange(1380)))

    kind = rng.random()
    if kind < 0.08:
        packet /= ARP(op=rng.choice([1, 2, 257]), hwsrc=mac(), hwdst=mac(), psrc=ip4(), pdst=ip4())
    else:
        tcp_options = rng.choice([
            [],
            [],
            [("NOP", None), ("NOP", None), ("Timestamp", (rng.getrandbits(32), rng.getrandbits(32)))],
            [("Timestamp", (rng.getrandbits(32), rng.getrandbits(32))), ("NOP", None), ("NOP", None)],
            [("NOP", None), ("NOP", None), ("Timestamp", (rng.getrandbits(32), 0)), ("MSS", 1460)],
            [("MSS", rng.randrange(65536)), ("SAckOK", b""), ("WScale", 7)],
            [("NOP", None)] * (4 * rng.randrange(1, 11)),
        ])  # fmt: skip
        tcp = TCP(
            sport=rng.randrange(65536),
            dport=rng.randrange(65536),
            seq=rng.getrandbits(32),
            ack=rng.getrandbits(32),
            flags=rng.randrange(256),
            window=rng.randrange(65536),
            options=tcp_options,
        )
        udp = UDP(sport=rng.randrange(65536), dport=rng.randrange(65536))
        if rng.random() < 0.15:
            udp.chksum = 0
        icmp = ICMP(type=rng.choice([0, 3, 8]), id=rng.randrange(65536))
        l4 = rng.choice([tcp, tcp, tcp, udp, udp, icmp, None])
        if kind < 0.75:
            options = rng.choice([None, None, None, rng.randbytes(4 * rng.randrange(1, 11))])
            ip = IP(src=ip4(), dst=ip4(), ttl=rng.randrange(256), id=rng.randrange(65536), tos=rng.randrange(256))
            if rng.random() < 0.3:
                ip.flags = "DF"
            if rng.random() < 0.08:
                ip.flags, ip.frag = rng.choice([("MF", 0), ("MF", 5), (0, 8191), (0, 256), ("evil", 1)])
            if options:
                from scapy.layers.inet import IPOption

                ip.options = [IPOption(b"\x01" * len(options))]
            if l4 is None:
                ip.proto = rng.choice([0, 2, 50, 58, 132, 255])
        else:
            ip = IPv6(src=ip6(), dst=ip6(), tc=rng.randrange(256), fl=rng.getrandbits(20), hlim=rng.randrange(256))
            if rng.random() < 0.15:
                ip /= rng.choice([IPv6ExtHdrHopByHop(), IPv6ExtHdrFragment(m=1)])
            elif l4 is icmp or l4 is None:
                l4 = None
                ip.nh = rng.choice([1, 58, 58, 59, 132, *IPV6_EXTENSION_HEADERS])
        packet /= ip / l4 / payload if l4 is not None else ip / payload
    raw = bytes(packet)
    if rng.random() < 0.2:
        raw += rng.randbytes(rng.randrange(20))  # padding that belongs to no datagram
    return raw + (rng.randbytes if rng.random() < 0.5 else bytes)(max(0, 60 - len(raw)))


def refresh_checksums(frame: bytearray) -> None:
    """Make the IPv4 header checksum of an untagged or tagged frame right again."""
    offset = 18 if frame[12:14] == b"\x81\0" else 14
    header = (frame[offset] & 15) * 4
    frame[offset + 10 : offset + 12] = b"\0\0"
    frame[offset + 10 : offset + 12] = struct.pack(">H", 0xFFFF ^ ones_complement_sum(bytes(frame[offset:][:header])))


def damage(rng: random.Random, frame: bytes) -> bytes:
    """One fault: a flipped bit, a hostile length or version, a cut, another EtherType; sometimes with the IPv4 header
    checksum made right again, so that the fault itself must be found."""
    out = bytearray(frame)
    offset = 18 if frame[12:14] == b"\x81\0" else 14
    header = (out[offset] & 15) * 4 if out[offset] >> 4 == 4 else 40
    l4 = min(offset + header, len(out) - 16)
    fault = rng.randrange(9)
    if fault == 0:
        out[rng.randrange(12, len(out))] ^= 1 << rng.randrange(8)
    elif fault == 1:
        where = rng.choice([offset, offset + 2, offset + 3, offset + 4, offset + 5, offset + 6, offset + 9])
        out[where] = rng.randrange(256)
    elif fault == 2:
        struct.pack_into(">H", out, offset + 2, rng.choice([0, 19, 20, 27, 28, 39, 40, len(out) - offset + 1, 65535]))
    elif fault == 3:
        struct.pack_into(">H", out, offset + 4, rng.choice([0, 7, 8, 19, 20, len(out) - offset - 39, 65535]))
    elif fault == 4:
        out[l4 + 12] = rng.randrange(16) << 4  # TCP data offset
    elif fault == 5:
        struct.pack_into(">H", out, l4 + 4, rng.choice([0, 7, 8, 9, len(out) - l4 + 1, 65535]))  # UDP length
    elif fault == 6:
        del out[rng.randrange(1, len(out)) :]
    elif fault == 7:
        struct.pack_into(">H", out, 12, rng.choice([0, 46, 1500, 0x0801, 0x0805, 0x88A8, 0x8100, 0x86DC, 0x88CC]))
    else:
        out[l4 + rng.randrange(16)] ^= 0xFF
    if fault in {1, 2} and len(out) > offset + 40 and out[offset] >> 4 == 4 and rng.random() < 0.7:
        refresh_checksums(out)
    return bytes(out)


def udp_shorter_than_ip(rng: random.Random) -> bytes:
    """A datagram whose UDP length ends before the IP datagram does; its checksum is right by RFC 768."""
    body = struct.pack(">HHHH", 1, 2, 8 + 5, 0) + rng.randbytes(5)
    surplus = rng.randbytes(rng.randrange(1, 30))
    addresses = rng.randbytes(8)
    checksum = 0xFFFF ^ ones_complement_sum(addresses + struct.pack(">II", 13, 17) + body)
    body = body[:6] + struct.pack(">H", checksum or 0xFFFF) + body[8:]
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body) + len(surplus), 0, 0, 64, 17, 0) + addresses
    frame = bytearray(rng.randbytes(12) + b"\x08\0" + ip + body + surplus)
    refresh_checksums(frame)
    return bytes(frame) + bytes(max(0, 60 - len(frame)))
