"""The receive parser and the transmit checksums in plain Python: what becomes of a frame, and what its headers say.

Same rules and same words as :class:`twinstack.parser.FrameParser` and :class:`twinstack.tx_checksum.TxChecksum`, written
with byte slices from the RFCs; needs no Amaranth.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

GOOD = "good"
BAD_FRAME = "bad_frame"
CHECKSUM_ERRORS = "checksum_errors"
UNKNOWN_ETHERTYPE = "unknown_ethertype"

PARSED_BYTES = 126
"""Of the frame; 128 with the two pad bytes before it."""

ICMP, TCP, UDP, ROUTING, FRAGMENT, AUTHENTICATION, ICMPV6 = 1, 6, 17, 43, 44, 51, 58
WALKED = {0, ROUTING, FRAGMENT, AUTHENTICATION, 60}
NOT_WALKED = {50, 135, 139, 140, 253, 254}
ICMP_ERRORS = {3, 4, 5, 11, 12}


@dataclass
class Inspection:
    """The verdict, and for a good frame all ``FrameMeta`` fields that are not zero."""

    verdict: str
    meta: dict[str, int] = field(default_factory=dict)


@dataclass
class _Layer4:
    """What lies behind the IP headers; ``data`` ends where the IP length says."""

    protocol: int
    offset: int  # of ``data`` in the frame
    data: bytes
    hidden: bool = False  # a fragment, or headers that are not walked: there is no L4 to look at
    fields: dict[str, int] = field(default_factory=dict)


def ones_complement_sum(data: bytes) -> int:
    """RFC 1071: the folded sum of big-endian halves; an odd last byte is followed by zero."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def inspect(frame: bytes, *, error: bool = False, max_frame_bytes: int = 1518) -> Inspection:
    """What is to become of ``frame`` (from the destination address on, FCS and pad excluded), and what it says."""
    if error or len(frame) > max_frame_bytes:
        return Inspection(BAD_FRAME)
    ethertype, offset = _ethertype(frame)
    meta = {"frame_length": len(frame), "l3_offset": offset}
    if frame[:6] == b"\xff" * 6:
        meta["is_broadcast"] = 1
    elif frame[:1] and frame[0] & 1:
        meta["is_multicast"] = 1
    if offset == 18:
        meta |= {"has_vlan": 1, "vlan_tci": int.from_bytes(frame[14:16], "big")}
    packet = frame[offset:]
    if ethertype == 0x0806:
        if len(packet) < 28:
            return Inspection(CHECKSUM_ERRORS)
        meta |= {"is_arp": 1, "source": _address(packet[14:18]), "destination": _address(packet[24:28])}
        meta["is_arp_request"] = int(packet[6:8] == b"\0\1")
        return Inspection(GOOD, meta)
    if ethertype not in {0x0800, 0x86DD}:
        return Inspection(UNKNOWN_ETHERTYPE)

    layer4 = _ipv4(packet, offset) if ethertype == 0x0800 else _ipv6(packet, offset)
    if layer4 is None or (ethertype == 0x0800 and ones_complement_sum(packet[: (packet[0] & 15) * 4]) != 0xFFFF):
        return Inspection(CHECKSUM_ERRORS)
    meta |= layer4.fields | {"ip_protocol": layer4.protocol, "ip_checksum_ok": 1}
    ends = _ends(packet)
    meta |= {"source": _address(ends[: len(ends) // 2]), "destination": _address(ends[len(ends) // 2 :])}
    if not layer4.hidden:
        found = _layer4(layer4, ends)
        if found is None:
            return Inspection(CHECKSUM_ERRORS)
        meta |= found
    return Inspection(GOOD, meta)


def insert_checksums(frame: bytes) -> bytes:
    """``frame`` as the TX engine sends it with GATHER: checksums of the IPv4 header, TCP, UDP and ICMPv6 written."""
    ethertype, offset = _ethertype(frame)
    packet = frame[offset:]
    out = bytearray(frame)
    if ethertype == 0x0800 and len(packet) >= 20 and packet[0] >> 4 == 4 and 20 <= (packet[0] & 15) * 4 <= len(packet):
        header = (packet[0] & 15) * 4
        value = 0xFFFF ^ ones_complement_sum(packet[:10] + packet[12:header])
        struct.pack_into(">H", out, offset + 10, value)
        layer4 = _ipv4(packet, offset)
    elif ethertype == 0x86DD:
        layer4 = _ipv6(packet, offset)
    else:
        return frame
    fields = {TCP: 16, UDP: 6} if ethertype == 0x0800 else {TCP: 16, UDP: 6, ICMPV6: 2}
    if layer4 is None or layer4.hidden or layer4.protocol not in fields:
        return bytes(out)
    covered = _covered(layer4)
    if covered is None:
        return bytes(out)
    where = fields[layer4.protocol]
    body = covered[:where] + b"\0\0" + covered[where + 2 :]
    value = 0xFFFF ^ ones_complement_sum(_pseudo_header(layer4.protocol, _ends(packet), body) + body)
    if layer4.protocol == UDP and value == 0:  # RFC 768
        value = 0xFFFF
    struct.pack_into(">H", out, layer4.offset + where, value)
    return bytes(out)


def _address(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _ethertype(frame: bytes) -> tuple[int, int]:
    """The EtherType behind at most one tag, and the offset of what follows; zero when there is none."""
    ethertype, offset = int.from_bytes(frame[12:14], "big"), 14
    if ethertype == 0x8100:
        ethertype, offset = int.from_bytes(frame[16:18], "big"), 18
    return (ethertype if len(frame) >= offset else 0), offset


def _ends(packet: bytes) -> bytes:
    """Source and destination address."""
    return packet[12:20] if packet[0] >> 4 == 4 else packet[8:40]


def _ipv4(packet: bytes, offset: int) -> _Layer4 | None:
    """``None`` if the header is none, or its lengths are wrong."""
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    header = (packet[0] & 15) * 4
    total, _, fragment = struct.unpack(">HHH", packet[2:8])
    if header < 20 or total < header or total > len(packet):
        return None
    is_fragment = int(fragment & 0x3FFF != 0)  # more fragments, or an offset
    layer4 = _Layer4(packet[9], offset + header, packet[header:total], hidden=bool(is_fragment))
    layer4.fields = {"is_ipv4": 1, "has_ip_options": int(header > 20), "is_fragment": is_fragment}
    return layer4


def _ipv6(packet: bytes, offset: int) -> _Layer4 | None:
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return None
    length, protocol = struct.unpack(">HB", packet[4:7])
    if 40 + length > len(packet):
        return None
    layer4 = _Layer4(protocol, offset + 40, packet[40 : 40 + length])
    layer4.fields = fields = {"is_ipv6": 1}
    while layer4.protocol in WALKED and not layer4.hidden:
        fields["has_ip_options"] = 1
        data, protocol = layer4.data, layer4.protocol
        if len(data) < 8:
            return None
        size = 8 * (data[1] + 1)
        if protocol == AUTHENTICATION:  # RFC 4302, 2.2: in words, less two
            size = 4 * (data[1] + 2)
        if protocol == FRAGMENT:
            size = 8
            if int.from_bytes(data[2:4], "big") & 0xFFF9:  # without both, RFC 6946: no fragment
                fields["is_fragment"] = 1
                layer4.hidden = True
        if protocol == ROUTING and data[3]:  # segments left: the checksum is another destination's
            fields["is_truncated_parse"] = 1
            layer4.hidden = True
        if size > len(data):
            return None
        if layer4.offset + size >= PARSED_BYTES:
            fields["is_truncated_parse"] = 1
            layer4.hidden = True
            return layer4
        layer4.protocol, layer4.offset, layer4.data = data[0], layer4.offset + size, data[size:]
    if layer4.protocol in NOT_WALKED and not layer4.hidden:
        fields |= {"has_ip_options": 1, "is_truncated_parse": 1}
        layer4.hidden = True
    return layer4


def _pseudo_header(protocol: int, ends: bytes, covered: bytes) -> bytes:
    """RFC 9293, 3.1 and RFC 8200, 8.1; the sum of both forms is the same. ICMP over IPv4 has none."""
    return b"" if protocol == ICMP else ends + struct.pack(">II", len(covered), protocol)


def _covered(layer4: _Layer4) -> bytes | None:
    """What an L4 checksum covers; ``None`` if a length is wrong."""
    data = layer4.data
    if layer4.protocol == TCP:
        return data if len(data) >= 20 and 20 <= (data[12] >> 4) * 4 <= len(data) else None
    if layer4.protocol == UDP:
        length = int.from_bytes(data[4:6], "big")
        return data[:length] if len(data) >= 8 and 8 <= length <= len(data) else None
    return data if len(data) >= 4 else None


def _layer4(layer4: _Layer4, ends: bytes) -> dict[str, int] | None:
    """Fields of TCP, UDP, ICMP or ICMPv6; ``None`` if lengths or checksum are wrong."""
    protocol, offset, is_ipv6 = layer4.protocol, layer4.offset, len(ends) == 32
    if protocol not in {TCP, UDP, ICMPV6 if is_ipv6 else ICMP}:
        return {}
    covered = _covered(layer4)
    if covered is None:
        return None
    if protocol == UDP and covered[6:8] == b"\0\0":
        if is_ipv6:  # RFC 8200, 8.1
            return None
    elif ones_complement_sum(_pseudo_header(protocol, ends, covered) + covered) != 0xFFFF:
        return None
    meta = {"l4_checksum_ok": 1}
    if protocol not in {TCP, UDP}:
        return meta | {"is_icmp": 1, "l4_offset": offset} | _icmp(covered, offset, is_ipv6)
    header = (covered[12] >> 4) * 4 if protocol == TCP else 8
    if offset + header > PARSED_BYTES:
        return meta | {"is_truncated_parse": 1}
    meta["source_port"], meta["destination_port"] = struct.unpack(">HH", covered[:4])
    meta |= {"has_flow": 1, "l4_offset": offset, "payload_offset": offset + header}
    meta["payload_length"] = len(covered) - header
    if protocol == UDP:
        return meta | {"is_udp": 1}
    meta |= {"is_tcp": 1, "flow_is_tcp": 1}
    meta["tcp_sequence"], meta["tcp_acknowledgement"], _, meta["tcp_flags"], meta["tcp_window"] = struct.unpack(
        ">IIBBH", covered[4:16]
    )
    options = covered[20:header]
    if options:
        meta["has_tcp_options"] = 1
        if len(options) == 12 and options[:4] == bytes((1, 1, 8, 10)):  # RFC 7323, appendix A
            meta["option_timestamp"] = 1
            meta["tcp_tsval"], meta["tcp_tsecr"] = struct.unpack(">II", options[4:])
        else:
            meta["option_other"] = 1
    return meta


def _icmp(message: bytes, offset: int, is_ipv6: bool) -> dict[str, int]:
    """The type; of an error the tuple it quotes, turned round, if the ports lie within the parsed bytes."""
    meta = {"icmp_type": message[0]}
    if not (message[0] < 128 if is_ipv6 else message[0] in ICMP_ERRORS):
        return meta
    meta["is_icmp_error"] = 1
    quoted = message[8 : max(0, PARSED_BYTES - offset)]
    if not quoted or quoted[0] >> 4 != (6 if is_ipv6 else 4):
        return meta
    header = 40 if is_ipv6 else (quoted[0] & 15) * 4
    if header < 20 or len(quoted) < header + 4:
        return meta
    protocol = quoted[6] if is_ipv6 else quoted[9]
    if protocol not in {TCP, UDP} or (not is_ipv6 and int.from_bytes(quoted[6:8], "big") & 0x1FFF):
        return meta
    ends = _ends(quoted)
    half = len(ends) // 2
    meta |= {"has_flow": 1, "flow_is_tcp": int(protocol == TCP)}
    meta |= {"source": _address(ends[half:]), "destination": _address(ends[:half])}
    meta["destination_port"], meta["source_port"] = struct.unpack(">HH", quoted[header : header + 4])
    return meta
