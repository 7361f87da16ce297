"""Random frames made by scapy, and damaged ones. What a receiver must find in them says
:mod:`twinstack.models.parser`; ``tests/nightly/test_parser_scapy.py`` compares that with scapy."""

from __future__ import annotations

import random
import struct

from twinstack.models.parser import (
    BAD_FRAME,
    CHECKSUM_ERRORS,
    GOOD,
    UNKNOWN_ETHERTYPE,
    inspect,
    ones_complement_sum,
)

__all__ = [
    "BAD_FRAME",
    "CHECKSUM_ERRORS",
    "GOOD",
    "UNKNOWN_ETHERTYPE",
    "damage",
    "inspect",
    "ones_complement_sum",
    "random_frame",
    "refresh_checksums",
    "udp_shorter_than_ip",
]


def random_frame(rng: random.Random) -> bytes:
    """A frame as scapy builds it, at least 60 bytes, mostly well-formed, with everything a parser must tell apart."""
    from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import ARP, Dot1Q, Ether
    from scapy.packet import Raw

    def ip4() -> str:
        return _ip4(rng)

    def ip6() -> str:
        return _ip6(rng)

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
        icmp = ICMP(type=rng.choice([0, 8, 13]), id=rng.randrange(65536))
        if rng.random() < 0.6:
            icmp = ICMP(type=rng.choice([3, 4, 5, 11, 12]), code=rng.randrange(4)) / Raw(quoted_packet(rng, 4))
        l4 = rng.choice([tcp, tcp, tcp, udp, udp, icmp, None])
        if kind < 0.75:
            options = rng.choice([None, None, None, rng.randbytes(4 * rng.randrange(1, 11))])
            ip = IP(src=ip4(), dst=ip4(), ttl=rng.randrange(256), id=rng.randrange(65536), tos=rng.randrange(256))
            if rng.random() < 0.3:
                ip.flags = "DF"
            if rng.random() < 0.08:
                ip.flags, ip.frag = rng.choice([("MF", 0), ("MF", 5), (0, 8191), (0, 256), ("evil", 1)])
            if options:
                ip.options = [IPOption(b"\x01" * len(options))]
            if l4 is None:
                ip.proto = rng.choice([0, 2, 43, 44, 50, 58, 132, 255])
        else:
            ip = IPv6(src=ip6(), dst=ip6(), tc=rng.randrange(256), fl=rng.getrandbits(20), hlim=rng.randrange(256))
            if l4 is icmp:
                l4 = _icmpv6(rng)
            last = None if l4 is not None else rng.choice([1, 59, 132, 50, 135, 139, 140, 253, 254])
            ip = with_extensions(rng, ip, last)
        packet /= ip / l4 / payload if l4 is not None else ip / payload
    raw = bytes(packet)
    if rng.random() < 0.2:
        raw += rng.randbytes(rng.randrange(20))  # padding that belongs to no datagram
    return raw + (rng.randbytes if rng.random() < 0.5 else bytes)(max(0, 60 - len(raw)))


def _ip4(rng: random.Random) -> str:
    return ".".join(str(rng.randrange(256)) for _ in range(4))


def _ip6(rng: random.Random) -> str:
    return ":".join(f"{rng.randrange(65536):x}" for _ in range(8))


def quoted_packet(rng: random.Random, version: int) -> bytes:
    """The start of a packet as an ICMP error quotes it, cut anywhere, now and then not a packet at all."""
    from scapy.layers.inet import IP, TCP, UDP, IPOption
    from scapy.layers.inet6 import IPv6

    if rng.random() < 0.03:
        return rng.randbytes(rng.randrange(60))
    l4 = rng.choice([TCP, UDP])(sport=rng.randrange(65536), dport=rng.randrange(65536))
    if version == 4:
        ip = IP(src=_ip4(rng), dst=_ip4(rng), frag=rng.choice([0] * 9 + [1]), flags=rng.choice([0, "DF", "MF"]))
        if rng.random() < 0.4:
            ip.options = [IPOption(b"\x01" * 4 * rng.randrange(1, 11))]
    else:
        ip = with_extensions(rng, IPv6(src=_ip6(rng), dst=_ip6(rng)), None, few=True)
    quoted = bytes(ip / l4 / rng.randbytes(rng.randrange(30)))
    if rng.random() < 0.1:
        quoted = rng.choice([b"\x45", b"\x60", b"\x44", b"\x50"]) + quoted[1:]
    return quoted[: rng.randrange(len(quoted) + 1)] if rng.random() < 0.25 else quoted


def _icmpv6(rng: random.Random):
    from scapy.layers.inet6 import (
        ICMPv6DestUnreach,
        ICMPv6EchoReply,
        ICMPv6EchoRequest,
        ICMPv6ND_NS,
        ICMPv6PacketTooBig,
        ICMPv6ParamProblem,
        ICMPv6TimeExceeded,
    )
    from scapy.packet import Raw

    if rng.random() < 0.3:
        return rng.choice([ICMPv6EchoRequest, ICMPv6EchoReply, ICMPv6ND_NS])()
    errors = [ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded, ICMPv6ParamProblem]
    return rng.choice(errors)() / Raw(quoted_packet(rng, 6))


def with_extensions(rng: random.Random, ip, last: int | None, *, few: bool = False):
    """``ip`` with up to five extension headers; ``last``: the next header value of the last one."""
    from scapy.layers.inet6 import (
        IPv6ExtHdrDestOpt,
        IPv6ExtHdrFragment,
        IPv6ExtHdrHopByHop,
        IPv6ExtHdrRouting,
        PadN,
    )
    from scapy.layers.ipsec import AH

    def options():
        return [PadN(optdata=bytes(rng.choice([0, 4, 4, 12, 20, rng.randrange(60)])))]

    def routing():
        addresses = [_ip6(rng) for _ in range(rng.choice([0, 1, 1, 2]))]
        return IPv6ExtHdrRouting(addresses=addresses, segleft=rng.choice([0, 0, 0, len(addresses)]))

    def authentication():
        words = rng.randrange(5)  # of the check value; scapy does not fill in the length
        return AH(payloadlen=1 + words, spi=rng.getrandbits(32), seq=1, icv=rng.randbytes(4 * words), padding=b"")

    def fragment():
        offset, more = rng.choice([(0, 0), (0, 0), (0, 0), (0, 1), (185, 1), (185, 0)])
        return IPv6ExtHdrFragment(offset=offset, m=more, id=rng.getrandbits(32), res1=rng.randrange(256))

    kinds = [
        lambda: IPv6ExtHdrHopByHop(options=options()),
        lambda: IPv6ExtHdrDestOpt(options=options()),
        authentication,
        routing,
        fragment,
    ]
    headers = [rng.choice(kinds)() for _ in range(rng.choice([0, 0, 0, 0, 1, 2] if few else [0, 0, 1, 1, 2, 3, 5]))]
    packet = ip
    for header in headers:
        packet /= header
    if last is not None:
        packet.lastlayer().nh = last
    return packet


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
    fault = rng.randrange(11)
    if fault == 0:
        out[rng.randrange(12, len(out))] ^= 1 << rng.randrange(8)
    elif fault == 1:
        where = rng.choice([offset, offset + 2, offset + 3, offset + 4, offset + 5, offset + 6, offset + 9])
        out[where] = rng.randrange(256)
    elif fault == 2:
        struct.pack_into(
            ">H", out, offset + 2, rng.choice([0, 19, 20, 27, 28, 39, 40, max(0, len(out) - offset) + 1, 65535])
        )
    elif fault == 3:
        struct.pack_into(">H", out, offset + 4, rng.choice([0, 7, 8, 19, 20, max(0, len(out) - offset - 39), 65535]))
    elif fault == 4:
        out[l4 + 12] = rng.randrange(16) << 4  # TCP data offset
    elif fault == 5:
        struct.pack_into(">H", out, l4 + 4, rng.choice([0, 7, 8, 9, len(out) - l4 + 1, 65535]))  # UDP length
    elif fault == 6:
        del out[rng.randrange(1, len(out)) :]
    elif fault == 7:
        struct.pack_into(">H", out, 12, rng.choice([0, 46, 1500, 0x0801, 0x0805, 0x88A8, 0x8100, 0x86DC, 0x88CC]))
    elif fault == 8:
        out[l4 + rng.randrange(16)] ^= 0xFF
    elif fault == 9:  # the next header value, the length and what else the first words of extension headers hold
        for _ in range(rng.randrange(1, 4)):
            out[l4 + rng.choice([0, 1, 1, 2, 3, 8, 9])] = rng.choice([0, 1, 2, 6, 17, 43, 44, 51, 58, 60, 255])
    else:
        for _ in range(rng.randrange(1, 5)):
            out[rng.randrange(12, len(out))] = rng.randrange(256)
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
