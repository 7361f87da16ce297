"""Walks the headers of a frame as it passes, and sums what its checksums cover: IEEE 802.3 clause 3, IEEE 802.1Q clause 9,
RFC 826 (ARP), RFC 791 (IPv4), RFC 8200 (IPv6), RFC 4302 (AH), RFC 9293 (TCP), RFC 768 (UDP), RFC 792 and RFC 4443 (ICMP).

Receive and transmit side use the same walk: the one compares the checksums in the frame, the other writes them.
"""

from __future__ import annotations

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .checksum import CHECKSUM_LATENCY, OnesComplementSum
from .headers import (
    ARP_BYTES,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_VLAN,
    ICMP_CHECKSUM_BYTE,
    ICMP_HEADER_BYTES,
    IPV4_CHECKSUM_BYTE,
    IPV6_HEADER_BYTES,
    IPV6_NOT_WALKED,
    IPV6_WALKED,
    L3_WORD,
    PROTOCOL_AUTHENTICATION,
    PROTOCOL_FRAGMENT,
    PROTOCOL_ICMP,
    PROTOCOL_ICMPV6,
    PROTOCOL_ROUTING,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    TCP_CHECKSUM_BYTE,
    TCP_HEADER_BYTES,
    UDP_CHECKSUM_BYTE,
    UDP_HEADER_BYTES,
    swap,
)
from .proto.descriptor import HEADER_COPY_BYTES

SUM_LATENCY = CHECKSUM_LATENCY + 1
"""Cycles from a word at the output of :class:`HeaderWalk` to sums that include it."""


class HeaderWalk(wiring.Component):
    """Says of each word of a frame which header it belongs to, and after the last what the headers said.

    Parameters
    ----------
    zero_checksums : bool
        Sum as if the checksum fields held zero.

    Members
    -------
    i_valid, i_word, i_count, i_last : ``In``
        A word of the frame, see :class:`~twinstack.interfaces.FrameWord`.
    valid, word, count, last : ``Out``
        The same, one cycle later; the word that the next line speaks of.
    position : ``Out(5)``
        Word within its header; stays at 31.
    in_start, in_vlan, in_arp, in_ipv4, in_ipv6, in_l4 : ``Out(1)``
        ``valid``, and the word belongs to this header (``in_l4``: or to what follows).
    has_vlan, is_arp, is_ipv4, is_ipv6, is_fragment, has_options : ``Out(1)``
        By the headers so far; ``has_options``: IPv4 options or IPv6 extension headers.
    is_truncated : ``Out(1)``
        L4 is not reached: the next header lies beyond :data:`HEADER_COPY_BYTES`, or is an extension header that is not
        walked, or a routing header has segments left (RFC 8200, 4.4: the checksum is another destination's).
    is_tcp, is_udp, is_icmp : ``Out(1)``
        L4 of a packet that is no fragment; ``is_icmp``: ICMP in IPv4, or ICMPv6 in IPv6.
    l3_whole, ipv4_whole : ``Out(1)``
        The fixed part of the L3 header has come; an IPv4 header has, with its options.
    ip_malformed, l4_malformed : ``Out(1)``
        Lengths contradict each other or are below the minimum. That ``ip_length`` fits into the frame is not checked.
    no_udp_checksum : ``Out(1)``
        The checksum field of a UDP header is zero.
    ip_length : ``Out(17)``
        Bytes of the packet, from the first of the IP or ARP header. The next frame's word 4 overwrites it.
    ip_protocol : ``Out(8)``
        Next header value behind the last header walked.
    l4_word : ``Out(5)``
        Words before L4, less one: byte offsets count from two bytes into word 0.
    l4_length : ``Out(16)``
        Bytes from L4 on.
    payload_word, payload_length : ``Out``
        The same for the payload of TCP or UDP.
    ip_sum, l4_sum : ``Out(16)``
        Ones' complement sums of the IPv4 header, and of L4 with its pseudo header, bytes as in the stream.
    ip_sum_is_ones, l4_sum_is_ones : ``Out(1)``
        The sum is 0xFFFF.

    Timing
    ------
    One word per cycle, frames of any length without a gap. What is known of a frame is complete one cycle after ``valid`` and
    ``last``, the sums :data:`SUM_LATENCY` cycles after it. The next frame's first word resets the rest.

    A UDP datagram ends where its own length says (RFC 768), which can be before the end of the IP datagram. An IPv6
    fragment header with offset 0 and no more fragments makes no fragment (RFC 6946).
    """

    def __init__(self, *, zero_checksums: bool = False):
        self._zero_checksums = zero_checksums
        flags = (
            "in_start in_vlan in_arp in_ipv4 in_ipv6 in_l4 has_vlan is_arp is_ipv4 is_ipv6 is_fragment has_options "
            "is_truncated is_tcp is_udp is_icmp l3_whole ipv4_whole ip_malformed l4_malformed no_udp_checksum "
            "ip_sum_is_ones l4_sum_is_ones"
        )
        super().__init__(
            {
                "i_valid": In(1),
                "i_word": In(32),
                "i_count": In(3),
                "i_last": In(1),
                "valid": Out(1),
                "word": Out(32),
                "count": Out(3),
                "last": Out(1),
                "position": Out(5),
                "ip_length": Out(17),
                "ip_protocol": Out(8),
                "l4_word": Out(5),
                "l4_length": Out(16),
                "payload_word": Out(6),
                "payload_length": Out(16),
                "ip_sum": Out(16),
                "l4_sum": Out(16),
            }
            | {name: Out(1) for name in flags.split()}
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.ip_adder = ip_adder = OnesComplementSum()
        m.submodules.l4_adder = l4_adder = OnesComplementSum()
        word, count, last, position = self.word, self.count, self.last, self.position

        m.d.sync += self.valid.eq(self.i_valid)
        with m.If(self.i_valid):
            m.d.sync += [word.eq(self.i_word), count.eq(self.i_count), last.eq(self.i_last)]
        with m.If(self.valid & (position != 31)):
            m.d.sync += position.eq(position + 1)

        l3_word = Mux(self.has_vlan, L3_WORD, L3_WORD - 1)  # as l4_word
        header_words = Signal(10)  # of the IP or extension header
        next_header = Signal(8)
        stops = Signal()  # what follows the headers is not L4, or not for us
        unread = Signal(16)  # bytes of L4 that are still to be summed
        kept = Signal(4, init=0b1111)  # bytes of the word that belong to the sum
        to_sum = Signal(32)
        m.d.comb += to_sum.eq(word & Cat(bit.replicate(8) for bit in kept))
        sum_starts = Signal()
        sum_valid = Signal()

        def go(state):
            """Continue with ``state``, or with the next frame after the last word."""
            with m.If(last):
                m.next = "Ethernet Header"
            with m.Else():
                m.next = state
            m.d.sync += position.eq(0)

        def restart_at_last():
            with m.If(last):
                m.next = "Ethernet Header"
                m.d.sync += position.eq(0)

        def decode_ethertype(*, tagged):
            """Leave for the header that the EtherType in the upper half of the word names."""
            ethertype = Mux(count == 4, swap(word[16:32]), 0)
            with m.Switch(ethertype):
                with m.Case(ETHERTYPE_IPV4):
                    m.d.sync += self.is_ipv4.eq(1)
                    go("IPv4 Header")
                with m.Case(ETHERTYPE_IPV6):
                    m.d.sync += self.is_ipv6.eq(1)
                    go("IPv6 Header")
                with m.Case(ETHERTYPE_ARP):
                    m.d.sync += self.is_arp.eq(1)
                    go("ARP")
                if not tagged:
                    with m.Case(ETHERTYPE_VLAN):
                        m.d.sync += self.has_vlan.eq(1)
                        go("VLAN Tag")
                with m.Default():
                    go("Rest")

        is_tcp, is_udp = next_header == PROTOCOL_TCP, next_header == PROTOCOL_UDP
        is_icmp = next_header == Mux(self.is_ipv6, PROTOCOL_ICMPV6, PROTOCOL_ICMP)
        is_walked = self.is_ipv6 & next_header.matches(*IPV6_WALKED)
        is_not_walked = self.is_ipv6 & next_header.matches(*IPV6_NOT_WALKED)
        header_ends = (position != 0) & (position + 1 == header_words)

        def decode_next_header():
            """Leave an IP or extension header with its last word."""
            m.d.sync += self.ip_protocol.eq(next_header)
            with m.If(stops):
                go("Rest")
                m.d.sync += self.l4_malformed.eq(0)
            with m.Elif(is_tcp | is_udp | is_icmp):
                go("Layer 4")
                # Until its first word has come, the header is missing.
                m.d.sync += [
                    self.is_tcp.eq(is_tcp),
                    self.is_udp.eq(is_udp),
                    self.is_icmp.eq(is_icmp),
                    self.l4_malformed.eq(1),
                ]
            with m.Elif(is_walked):
                go("IPv6 Extension Header")
                m.d.sync += [self.has_options.eq(1), self.l4_malformed.eq(1)]
            with m.Else():
                go("Rest")
                m.d.sync += self.l4_malformed.eq(0)
                with m.If(is_not_walked):
                    m.d.sync += [self.has_options.eq(1), self.is_truncated.eq(1)]

        with m.If(self.valid), m.FSM():
            with m.State("Ethernet Header"):
                restart_at_last()
                m.d.comb += self.in_start.eq(1)
                with m.If(position == 0):
                    m.d.sync += Cat(
                        self.has_vlan, self.is_arp, self.is_ipv4, self.is_ipv6, self.is_fragment, self.has_options,
                        self.is_truncated, self.is_tcp, self.is_udp, self.is_icmp, self.l3_whole, self.ipv4_whole,
                        self.ip_malformed, self.l4_malformed, self.no_udp_checksum, stops, self.ip_protocol,
                    ).eq(0)  # fmt: skip
                with m.If(position == L3_WORD - 1):
                    decode_ethertype(tagged=False)

            with m.State("VLAN Tag"):
                m.d.comb += self.in_vlan.eq(1)
                decode_ethertype(tagged=True)

            with m.State("ARP"):
                restart_at_last()
                m.d.comb += self.in_arp.eq(1)
                m.d.sync += self.ip_length.eq(ARP_BYTES)
                with m.If(position == ARP_BYTES // 4 - 1):
                    m.d.sync += self.l3_whole.eq(count == 4)
                    go("Rest")

            with m.State("IPv4 Header"):
                restart_at_last()
                m.d.comb += [
                    self.in_ipv4.eq(1),
                    ip_adder.valid.eq(1),
                    ip_adder.start.eq(position == 0),
                    ip_adder.word.eq(word),
                ]
                if self._zero_checksums:
                    with m.If(position == IPV4_CHECKSUM_BYTE // 4):
                        m.d.comb += ip_adder.word[16:32].eq(0)
                is_header = Signal()
                with m.Switch(position):
                    with m.Case(0):
                        right = (word[4:8] == 4) & (word[0:4] >= 5)
                        m.d.sync += [
                            is_header.eq(right),
                            self.ip_malformed.eq(~right),
                            self.has_options.eq(word[0:4] > 5),
                            header_words.eq(word[0:4]),
                            self.l4_word.eq(l3_word + word[0:4]),
                            self.ip_length.eq(swap(word[16:32])),
                        ]
                    with m.Case(1):
                        rest = self.ip_length[:16] - Cat(Const(0, 2), header_words[:4])
                        fragment = word[16:22].any() | word[24:32].any()  # more fragments, or an offset
                        m.d.sync += [self.l4_length.eq(rest), self.is_fragment.eq(fragment), stops.eq(fragment)]
                        with m.If(rest < 0):
                            m.d.sync += self.ip_malformed.eq(1)
                    with m.Case(2):
                        m.d.sync += [next_header.eq(word[8:16]), unread.eq(self.l4_length)]
                    with m.Case(3):
                        m.d.comb += [sum_valid.eq(1), sum_starts.eq(1)]
                    with m.Case(4):
                        m.d.sync += self.l3_whole.eq(1)
                        m.d.comb += sum_valid.eq(1)
                with m.If(header_ends):
                    m.d.sync += self.ipv4_whole.eq(is_header & (count == 4))
                    decode_next_header()

            with m.State("IPv6 Header"):
                restart_at_last()
                m.d.comb += self.in_ipv6.eq(1)
                with m.Switch(position):
                    with m.Case(0):
                        m.d.sync += [
                            self.ip_malformed.eq(word[4:8] != 6),
                            header_words.eq(IPV6_HEADER_BYTES // 4),
                            self.l4_word.eq(l3_word + IPV6_HEADER_BYTES // 4),
                        ]
                    with m.Case(1):
                        payload = swap(word[0:16])
                        m.d.sync += [
                            self.l4_length.eq(payload),
                            unread.eq(payload),
                            self.ip_length.eq(payload + IPV6_HEADER_BYTES),
                            next_header.eq(word[16:24]),
                        ]
                    with m.Default():
                        m.d.comb += [sum_valid.eq(1), sum_starts.eq(position == 2)]
                with m.If(header_ends):
                    m.d.sync += self.l3_whole.eq(1)
                    decode_next_header()

            with m.State("IPv6 Extension Header"):
                restart_at_last()
                length = word[8:16]
                is_here = {
                    protocol: self.ip_protocol == protocol
                    for protocol in (PROTOCOL_ROUTING, PROTOCOL_FRAGMENT, PROTOCOL_AUTHENTICATION)
                }
                with m.If(position == 0):
                    m.d.sync += [next_header.eq(word[0:8]), header_words.eq(Cat(Const(0, 1), length) + 2)]
                    with m.If(is_here[PROTOCOL_AUTHENTICATION]):
                        m.d.sync += header_words.eq(length + 2)
                    with m.If(is_here[PROTOCOL_FRAGMENT]):
                        fragment = word[16:24].any() | word[27:32].any() | word[24]  # an offset, or more fragments
                        m.d.sync += [header_words.eq(2), self.is_fragment.eq(fragment), stops.eq(fragment)]
                    with m.If(is_here[PROTOCOL_ROUTING] & word[24:32].any()):  # segments left
                        m.d.sync += [self.is_truncated.eq(1), stops.eq(1)]
                rest = self.l4_length - Cat(Const(0, 2), header_words)
                end = self.l4_word + header_words
                with m.If(position == 1):
                    m.d.sync += [self.l4_length.eq(rest), unread.eq(rest), self.l4_word.eq(end)]
                    with m.If(rest < 0):
                        m.d.sync += self.ip_malformed.eq(1)
                    m.d.comb += sum_valid.eq(~is_walked)
                m.d.comb += to_sum.eq(Cat(Mux(is_udp, 0, swap(rest[:16])), Const(0, 8), next_header))
                with m.If((position == 1) & (end + 1 >= HEADER_COPY_BYTES // 4)):
                    m.d.sync += [self.is_truncated.eq(1), self.l4_malformed.eq(0)]
                    go("Rest")
                with m.Elif(header_ends):
                    decode_next_header()

            with m.State("Layer 4"):
                restart_at_last()
                m.d.comb += [self.in_l4.eq(1), sum_valid.eq(1)]
                # Padding of the last word, and what follows the datagram, does not belong to the sum.
                with m.If(unread[2:].any()):
                    m.d.sync += unread.eq(unread - 4)
                with m.Else():
                    m.d.comb += kept.eq(Cat(unread[:2] > byte for byte in range(3)))
                    m.d.sync += unread.eq(0)
                with m.Switch(position):
                    with m.Case(0):
                        minimum = Mux(
                            self.is_tcp, TCP_HEADER_BYTES, Mux(self.is_udp, UDP_HEADER_BYTES, ICMP_HEADER_BYTES)
                        )
                        m.d.sync += self.l4_malformed.eq(self.l4_length < minimum)
                        m.d.comb += sum_starts.eq(self.is_icmp & self.is_ipv4)
                    with m.Case(1):
                        udp_length = swap(word[0:16])
                        with m.If(self.is_udp):
                            m.d.sync += [
                                self.payload_word.eq(self.l4_word + UDP_HEADER_BYTES // 4),
                                self.payload_length.eq(udp_length - UDP_HEADER_BYTES),
                                unread.eq(udp_length - UDP_HEADER_BYTES),
                                self.no_udp_checksum.eq(word[16:32] == 0),
                            ]
                            with m.If((udp_length < UDP_HEADER_BYTES) | (udp_length > self.l4_length)):
                                m.d.sync += self.l4_malformed.eq(1)
                            # The length is summed twice, here and in the pseudo header: twice a number is its
                            # rotation in ones' complement.
                            m.d.comb += to_sum[0:16].eq(word[0:16].rotate_left(1))
                    with m.Case(3):
                        tcp_words = word[4:8]
                        rest = self.l4_length - Cat(Const(0, 2), tcp_words)
                        with m.If(self.is_tcp):
                            m.d.sync += [
                                self.payload_word.eq(self.l4_word + tcp_words),
                                self.payload_length.eq(rest),
                            ]
                            with m.If((tcp_words < TCP_HEADER_BYTES // 4) | (rest < 0)):
                                m.d.sync += self.l4_malformed.eq(1)
                if self._zero_checksums:
                    for is_it, byte in (
                        (self.is_icmp, ICMP_CHECKSUM_BYTE),
                        (self.is_udp, UDP_CHECKSUM_BYTE),
                        (self.is_tcp, TCP_CHECKSUM_BYTE),
                    ):
                        with m.If(is_it & (position == byte // 4)):
                            m.d.comb += kept.word_select(byte % 4 // 2, 2).eq(0)

            with m.State("Rest"):
                restart_at_last()

        m.d.sync += [l4_adder.valid.eq(self.valid & sum_valid), l4_adder.start.eq(sum_starts), l4_adder.word.eq(to_sum)]
        # Length and protocol of the pseudo header, known since two words or more. Behind extension headers they are others,
        # and come with the last of these; ICMP over IPv4 has no pseudo header (RFC 792).
        m.d.sync += l4_adder.seed.eq(Cat(Mux(is_udp, 0, swap(self.l4_length)), Const(0, 8), next_header))
        with m.If(is_walked | (is_icmp & self.is_ipv4)):
            m.d.sync += l4_adder.seed.eq(0)
        m.d.comb += [
            self.ip_sum.eq(ip_adder.sum),
            self.ip_sum_is_ones.eq(ip_adder.is_ones),
            self.l4_sum.eq(l4_adder.sum),
            self.l4_sum_is_ones.eq(l4_adder.is_ones),
        ]
        return m
