"""Frames for benches of the transmit side, with checksums made by scapy."""

from __future__ import annotations

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw


def with_checksums(packet, rng):
    """``packet`` as bytes with wrong checksums, and with those of scapy."""
    wrong, right = packet.copy(), packet.copy()
    for layer in (IP, TCP, UDP):
        if layer in packet:
            wrong[layer].chksum = rng.choice((0, rng.getrandbits(16)))
            del right[layer].chksum
    if ICMPv6EchoRequest in packet:
        wrong[ICMPv6EchoRequest].cksum = rng.choice((0, rng.getrandbits(16)))
        del right[ICMPv6EchoRequest].cksum
    return bytes(wrong), bytes(right)


def l2(rng):
    ether = Ether(dst=rng.randbytes(6), src=rng.randbytes(6))
    return ether / Dot1Q(vlan=rng.randrange(4096), prio=rng.randrange(8)) if rng.random() < 0.3 else ether


def l3(rng, **fields):
    if fields or rng.random() < 0.6:
        options = [IPOption(rng.choice((b"\x94\x04\x00\x00", b"\x01" * 8, b"\x07\x27\x04" + bytes(37))))]
        address = [".".join(str(byte) for byte in rng.randbytes(4)) for _ in "sd"]
        ip = IP(src=address[0], dst=address[1], id=rng.getrandbits(16), ttl=rng.randrange(256), **fields)
        if rng.random() < 0.3:
            ip.options = options
        return ip
    address = [":".join(f"{rng.getrandbits(16):x}" for _ in range(8)) for _ in "sd"]
    return IPv6(src=address[0], dst=address[1], hlim=rng.randrange(256), fl=rng.getrandbits(20))


def l4(rng):
    ports = {"sport": rng.getrandbits(16), "dport": 0xBEEF}
    if rng.random() < 0.5:
        return UDP(**ports)
    options = [("NOP", None), ("NOP", None), ("Timestamp", (rng.getrandbits(32), 0))] if rng.random() < 0.5 else []
    return TCP(**ports, seq=rng.getrandbits(32), ack=rng.getrandbits(32), window=rng.getrandbits(16), options=options)


def random_packet(rng, longest=400):
    packet = l2(rng) / l3(rng) / l4(rng)
    return packet / Raw(
        rng.randbytes(rng.randint(0, max(0, longest - len(packet))) if rng.random() < 0.7 else rng.randrange(8))
    )


def flip_ip_length(frame, change, rng):
    """An untagged IPv4 frame whose total length is ``change`` off, with the right header checksum, and a wrong one."""
    packet = Ether(frame)
    packet[IP].len += change
    rest = bytes(packet[IP].payload)
    header = packet[IP].copy()
    header.remove_payload()
    del header.chksum
    ethernet = frame[:14]
    right = ethernet + bytes(header) + rest
    wrong = bytearray(right)
    wrong[24:26] = rng.randbytes(2)
    return bytes(wrong), right


def directed_frames(rng):
    """(name, frame in memory, frame on the wire)."""
    ether = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
    ip, ip6 = IP(src="192.0.2.1", dst="198.51.100.7"), IPv6(src="2001:db8::1", dst="2001:db8::2")
    vlan = Dot1Q(vlan=7)
    options = IPOption(b"\x94\x04\x00\x00")

    def cases():
        for size in range(6):
            yield f"tcp {size}", *with_checksums(ether / ip / TCP() / Raw(rng.randbytes(size)), rng)
            yield f"udp {size}", *with_checksums(ether / ip / UDP() / Raw(rng.randbytes(size)), rng)
        for tag in (False, True):
            base = ether / vlan if tag else ether
            yield "udp v6", *with_checksums(base / ip6 / UDP() / Raw(b"odd"), rng)
            yield "tcp v6", *with_checksums(base / ip6 / TCP() / Raw(b"even"), rng)
            yield "options", *with_checksums(base / IP(options=[options] * 10) / TCP() / Raw(b"odd"), rng)
            yield "icmp", *with_checksums(base / ip / ICMP(chksum=0x1234) / Raw(b"echo"), rng)
            yield "icmp v6", *with_checksums(base / ip6 / ICMPv6EchoRequest(cksum=0x1234, data=b"echo"), rng)
            for flags, fragment in (("MF", 0), (0, 185), ("MF", 185)):
                packet = base / IP(proto=17, flags=flags, frag=fragment) / Raw(rng.randbytes(50))
                yield "fragment", *with_checksums(packet, rng)
            yield "don't fragment", *with_checksums(base / IP(flags="DF") / UDP() / Raw(b"x"), rng)
            # The checksum would be zero (RFC 768): its complement in the payload makes it so.
            for network in (ip, ip6):
                found = Ether(bytes(ether / network / UDP() / Raw(bytes(2))))[UDP].chksum
                wrong, right = with_checksums(base / network / UDP() / Raw(found.to_bytes(2, "big")), rng)
                assert right[-4:-2] == b"\xff\xff"
                yield "udp zero", wrong, right
        for longest in (ip / UDP(), ip6 / TCP()):
            size = 1514 - len(ether / longest)
            yield "longest", *with_checksums(ether / longest / Raw(rng.randbytes(size)), rng)
        yield "all ones", *with_checksums(ether / ip / UDP() / Raw(b"\xff" * 1400), rng)
        wrong, right = with_checksums(ether / ip / UDP() / Raw(b"abc"), rng)
        padding = rng.randbytes(60 - len(wrong))
        yield "ethernet padding", wrong + padding, right + padding
        arp = bytes(ether / ARP(psrc="192.0.2.1", pdst="192.0.2.2"))
        yield "arp", arp, arp
        for name, start in (
            ("two tags", b"\x81\x00\x00\x01\x81\x00\x00\x02\x08\x00"),
            ("length field", b"\x00\x40"),
            ("bad version", b"\x08\x00\x65"),
            ("bad header length", b"\x08\x00\x44"),
            ("v6 with version 4", b"\x86\xdd\x45"),
            ("v6 with hop-by-hop options", b"\x86\xdd\x60\x00\x00\x00\x00\x30\x00\x40"),
        ):
            frame = (bytes(12) + start).ljust(90, b"\x5a")
            yield name, frame, frame
        for length in (14, 15, 16, 17, 18, 20):
            frame = rng.randbytes(12) + b"\x08\x00\x45" + rng.randbytes(5)
            yield "cut short", frame[:length], frame[:length]
        whole = bytes(ether / ip / UDP(chksum=0x5555) / Raw(b"abcdef"))
        yield "ip length beyond the frame", *flip_ip_length(whole, 1, rng)
        yield "ip length below the header", *flip_ip_length(whole, -20, rng)
        yield "no room for a udp header", *flip_ip_length(whole, -7, rng)

    yield from cases()
