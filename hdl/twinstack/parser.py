"""Parses Ethernet II frames as they pass: which headers there are, what they say, and whether the frame is good.

:class:`~twinstack.header_walk.HeaderWalk` finds the headers; here their fields are taken, and the verdict given.
RFC 826 (ARP), RFC 791 (IPv4), RFC 8200 (IPv6), RFC 9293 (TCP), RFC 7323 (timestamps), RFC 792 and RFC 4443 (ICMP).
"""

from __future__ import annotations

from itertools import pairwise

from amaranth import *
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from .header_walk import SUM_LATENCY, HeaderWalk
from .headers import (
    ETHERNET_HEADER_BYTES,
    ICMP_ERROR_HEADER_BYTES,
    ICMP_ERRORS,
    IPV6_HEADER_BYTES,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    QUOTED_PORTS_BYTES,
    TCP_HEADER_BYTES,
    TIMESTAMP_OPTION_WORD,
    VLAN_TAG_BYTES,
    swap,
    swap_word,
)
from .interfaces import FrameMeta, FrameStream
from .proto.descriptor import FRAME_PAD_BYTES, HEADER_COPY_BYTES

VERDICT_STAGES = SUM_LATENCY
PARSER_LATENCY = VERDICT_STAGES + 2
"""Cycles from a frame's last word at the parser's input to ``done``."""


class ParserVerdict(enum.Enum, shape=2):
    """What is to become of a frame; of several reasons to drop it the first in the order 1, 2, 3 counts."""

    GOOD = 0
    BAD_FRAME = 1
    """The MAC's error mark, or too long."""
    UNKNOWN_ETHERTYPE = 2
    """Neither ARP nor IP, or an IEEE 802.3 length, or two tags, or no type at all."""
    CHECKSUM_ERROR = 3
    """Wrong checksum of IPv4, TCP, UDP, ICMP or ICMPv6, none in UDP over IPv6 (RFC 8200, 8.1), or lengths in the headers
    that contradict each other or the frame."""


class FrameParser(wiring.Component):
    """Finds the headers of a frame, checks its checksums and gives a verdict at a fixed time after its last word.

    Parameters
    ----------
    max_frame_bytes : int, 60..2046
        Longest frame, FCS and pad excluded.

    Members
    -------
    i : ``In(FrameStream)``
        Always ready.
    done : ``Out(1)``
        One cycle for each frame, :data:`PARSER_LATENCY` cycles after its last word.
    verdict : ``Out(ParserVerdict)``
        With ``done``.
    meta : ``Out(FrameMeta)``
        With ``done`` of a good frame, and in the cycle after it. Undefined for others.

    Timing
    ------
    One word per cycle, frames of any length without a gap between them.

    What is not there is zero in ``meta``. L4 is neither parsed nor checked in fragments, and where ``is_truncated_parse``
    says that extension headers hide it, see :class:`~twinstack.header_walk.HeaderWalk`. A TCP or UDP header that ends
    beyond :data:`HEADER_COPY_BYTES` is checked, but its fields are zero and ``is_truncated_parse`` is set.

    Raises
    ------
    TypeError, ValueError
        If ``max_frame_bytes`` is not an integer from 60 to 2046.
    """

    def __init__(self, max_frame_bytes: int = 1518):
        if not isinstance(max_frame_bytes, int) or isinstance(max_frame_bytes, bool):
            raise TypeError(f"max_frame_bytes must be an integer, not {max_frame_bytes!r}")
        if not 60 <= max_frame_bytes <= 2046:
            raise ValueError(f"max_frame_bytes must be 60 to 2046, not {max_frame_bytes!r}")
        self._max_frame_bytes = max_frame_bytes
        super().__init__(
            {
                "i": In(FrameStream),
                "done": Out(1),
                "verdict": Out(ParserVerdict),
                "meta": Out(FrameMeta),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.walk = walk = HeaderWalk()
        error = Signal()
        m.d.comb += [
            self.i.ready.eq(1),
            walk.i_valid.eq(self.i.valid),
            walk.i_word.eq(self.i.payload.data),
            walk.i_count.eq(self.i.payload.count),
            walk.i_last.eq(self.i.payload.last),
        ]
        with m.If(self.i.valid):
            m.d.sync += error.eq(self.i.payload.error)
        valid, word, count, last, position = walk.valid, walk.word, walk.count, walk.last, walk.position

        length = Signal(12)  # frame bytes so far
        too_long = Signal()
        first = Signal(init=1)  # the next word is a frame's first
        with m.If(valid):
            m.d.sync += first.eq(last)
            with m.If(first):
                m.d.sync += [length.eq(Mux(count > FRAME_PAD_BYTES, count - FRAME_PAD_BYTES, 0)), too_long.eq(0)]
            with m.Elif(~too_long):
                m.d.sync += length.eq(length + count)

        is_broadcast = Signal()
        is_multicast = Signal()
        group = Signal()
        low_ones = Signal()
        vlan_tci = Signal(16)
        with m.If(walk.in_start):
            with m.If(position == 0):
                m.d.sync += [group.eq(word[16]), low_ones.eq(word[16:32].all())]
            with m.If(position == 1):
                broadcast = low_ones & word.all()
                m.d.sync += [is_broadcast.eq(broadcast), is_multicast.eq(group & ~broadcast)]
        with m.If(walk.in_vlan):
            m.d.sync += vlan_tci.eq(swap(word[0:16]))

        source = Signal(128)
        destination = Signal(128)
        is_arp_request = Signal()
        with m.If(walk.in_arp), m.Switch(position):
            with m.Case(1):
                m.d.sync += is_arp_request.eq(swap(word[16:32]) == 1)
            with m.Case(3):
                m.d.sync += source[0:16].eq(word[16:32])
            with m.Case(4):
                m.d.sync += source[16:32].eq(word[0:16])
            with m.Case(6):
                m.d.sync += destination[0:32].eq(word)
        with m.If(walk.in_ipv4), m.Switch(position):
            with m.Case(3):
                m.d.sync += source[0:32].eq(word)
            with m.Case(4):
                m.d.sync += destination[0:32].eq(word)
        with m.If(walk.in_ipv6), m.Switch(position):
            for index in range(4):
                with m.Case(2 + index):
                    m.d.sync += source.word_select(index, 32).eq(word)
                with m.Case(6 + index):
                    m.d.sync += destination.word_select(index, 32).eq(word)

        source_port = Signal(16)
        destination_port = Signal(16)
        tcp_sequence = Signal(32)
        tcp_acknowledgement = Signal(32)
        tcp_window = Signal(16)
        tcp_flags = Signal(8)
        tcp_header_words = Signal(4)
        timestamp_here = Signal()
        tcp_tsval = Signal(32)
        tcp_tsecr = Signal(32)
        with m.If(walk.in_l4 & ~walk.is_icmp), m.Switch(position):
            with m.Case(0):
                m.d.sync += [source_port.eq(swap(word[0:16])), destination_port.eq(swap(word[16:32]))]
            with m.Case(1):
                m.d.sync += tcp_sequence.eq(swap_word(word))
            with m.Case(2):
                m.d.sync += tcp_acknowledgement.eq(swap_word(word))
            with m.Case(3):
                m.d.sync += [
                    tcp_header_words.eq(word[4:8]),
                    tcp_flags.eq(word[8:16]),
                    tcp_window.eq(swap(word[16:32])),
                ]
            with m.Case(5):
                m.d.sync += timestamp_here.eq(word == TIMESTAMP_OPTION_WORD)
            with m.Case(6):
                m.d.sync += tcp_tsval.eq(swap_word(word))
            with m.Case(7):
                m.d.sync += tcp_tsecr.eq(swap_word(word))

        icmp_type = Signal(8)
        is_icmp_error = Signal()
        has_quoted_flow = Signal()
        quoted_is_tcp = Signal()
        self._parse_icmp(
            m, walk, icmp_type=icmp_type, is_icmp_error=is_icmp_error, has_quoted_flow=has_quoted_flow,
            quoted_is_tcp=quoted_is_tcp, source=source, destination=destination, source_port=source_port,
            destination_port=destination_port,
        )  # fmt: skip

        # Verdict. Stage 1 is the cycle after the last word was parsed; the checksums are there in the last stage. Frames
        # can end in every cycle, but those that can be good have at least 9 words, so what is held of one is safe.
        past_limit = length > self._max_frame_bytes
        with m.If(past_limit & ~(valid & first)):
            m.d.sync += too_long.eq(1)
        ended = [Signal(name=f"ended{stage}") for stage in range(1, VERDICT_STAGES + 1)]
        bad_frame, unknown, malformed, check_ip, check_l4 = (
            [Signal(name=f"{name}{stage}") for stage in range(1, VERDICT_STAGES + 1)]
            for name in ("bad_frame", "unknown", "malformed", "check_ip", "check_l4")
        )
        for pipeline in (ended, bad_frame, unknown, malformed, check_ip, check_l4):
            for earlier, later in pairwise(pipeline):
                m.d.sync += later.eq(earlier)
        ended_error = Signal()
        l3_bytes = Signal(12)
        l3_offset = Mux(walk.has_vlan, ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES, ETHERNET_HEADER_BYTES)
        zero_checksum = walk.is_udp & walk.no_udp_checksum
        m.d.sync += [ended[0].eq(valid & last), ended_error.eq(error), l3_bytes.eq(length - l3_offset)]
        m.d.comb += [
            bad_frame[0].eq(ended_error | too_long | past_limit),
            unknown[0].eq(~(walk.is_arp | walk.is_ipv4 | walk.is_ipv6)),
            malformed[0].eq(~walk.l3_whole | walk.ip_malformed | walk.l4_malformed | (zero_checksum & walk.is_ipv6)),
            check_ip[0].eq(walk.is_ipv4),
            check_l4[0].eq((walk.is_tcp | walk.is_udp | walk.is_icmp) & ~zero_checksum),
        ]
        # A datagram longer than its frame. The next frame does not touch ip_length before its word 4.
        m.d.sync += malformed[2].eq(malformed[1] | (walk.ip_length > l3_bytes))
        verdict = Signal(ParserVerdict)
        wrong_sum = check_ip[-1] & ~walk.ip_sum_is_ones | check_l4[-1] & ~walk.l4_sum_is_ones
        with m.If(bad_frame[-1]):
            m.d.comb += verdict.eq(ParserVerdict.BAD_FRAME)
        with m.Elif(unknown[-1]):
            m.d.comb += verdict.eq(ParserVerdict.UNKNOWN_ETHERTYPE)
        with m.Elif(malformed[-1] | wrong_sum):
            m.d.comb += verdict.eq(ParserVerdict.CHECKSUM_ERROR)
        m.d.sync += [self.done.eq(ended[-1]), self.verdict.eq(verdict)]

        # What the next frame's first words overwrite is held; the rest changes only from its word 6 on.
        held = Signal(FrameMeta)
        has_ports = walk.is_tcp | walk.is_udp
        beyond = has_ports & (walk.payload_word >= HEADER_COPY_BYTES // 4)
        is_tcp, is_udp = walk.is_tcp & ~beyond, walk.is_udp & ~beyond
        tcp_options = is_tcp & (tcp_header_words > TCP_HEADER_BYTES // 4)
        only_timestamp = (tcp_header_words == TCP_HEADER_BYTES // 4 + 3) & timestamp_here
        quotes = walk.is_icmp & is_icmp_error & has_quoted_flow
        with m.If(ended[0] & walk.l3_whole & ~bad_frame[0]):
            m.d.sync += [
                held.frame_length.eq(length),
                held.l3_offset.eq(l3_offset),
                held.l4_offset.eq(Mux(is_tcp | is_udp | walk.is_icmp, Cat(Const(FRAME_PAD_BYTES, 2), walk.l4_word), 0)),
                held.payload_offset.eq(Mux(is_tcp | is_udp, Cat(Const(FRAME_PAD_BYTES, 2), walk.payload_word), 0)),
                held.payload_length.eq(Mux(is_tcp | is_udp, walk.payload_length, 0)),
                held.is_ipv4.eq(walk.is_ipv4),
                held.is_ipv6.eq(walk.is_ipv6),
                held.is_tcp.eq(is_tcp),
                held.is_udp.eq(is_udp),
                held.is_icmp.eq(walk.is_icmp),
                held.is_arp.eq(walk.is_arp),
                held.is_arp_request.eq(walk.is_arp & is_arp_request),
                held.is_fragment.eq(walk.is_fragment),
                held.has_ip_options.eq(walk.has_options),
                held.has_vlan.eq(walk.has_vlan),
                held.vlan_tci.eq(Mux(walk.has_vlan, vlan_tci, 0)),
                held.is_broadcast.eq(is_broadcast),
                held.is_multicast.eq(is_multicast),
                held.has_tcp_options.eq(tcp_options),
                held.is_truncated_parse.eq(beyond | walk.is_truncated),
                held.ip_checksum_ok.eq(walk.is_ipv4 | walk.is_ipv6),
                held.l4_checksum_ok.eq(has_ports | walk.is_icmp),  # a frame with a wrong one is not good
                held.ip_protocol.eq(walk.ip_protocol),
                held.is_icmp_error.eq(walk.is_icmp & is_icmp_error),
                held.has_flow.eq(is_tcp | is_udp | quotes),
                held.flow_is_tcp.eq(is_tcp | (quotes & quoted_is_tcp)),
                held.option_timestamp.eq(is_tcp & only_timestamp),
                held.option_other.eq(tcp_options & ~only_timestamp),
            ]
        # What is not there is cleared; a short frame that follows must not do it, for the meta data may still be wanted.
        with m.If(ended[0] & walk.l3_whole):
            with m.If(~walk.is_ipv6):
                m.d.sync += [source[32:].eq(0), destination[32:].eq(0)]
            with m.If(~(is_tcp | is_udp | quotes)):
                m.d.sync += [source_port.eq(0), destination_port.eq(0)]
            with m.If(~is_tcp):
                m.d.sync += Cat(tcp_sequence, tcp_acknowledgement, tcp_window, tcp_flags).eq(0)
            with m.If(~(is_tcp & only_timestamp)):
                m.d.sync += Cat(tcp_tsval, tcp_tsecr).eq(0)
            with m.If(~walk.is_icmp):
                m.d.sync += icmp_type.eq(0)
        m.d.comb += [
            self.meta.eq(held),
            self.meta.source.eq(source),
            self.meta.destination.eq(destination),
            self.meta.source_port.eq(source_port),
            self.meta.destination_port.eq(destination_port),
            self.meta.icmp_type.eq(icmp_type),
            self.meta.tcp_sequence.eq(tcp_sequence),
            self.meta.tcp_acknowledgement.eq(tcp_acknowledgement),
            self.meta.tcp_window.eq(tcp_window),
            self.meta.tcp_flags.eq(tcp_flags),
            self.meta.tcp_tsval.eq(tcp_tsval),
            self.meta.tcp_tsecr.eq(tcp_tsecr),
        ]
        return m

    def _parse_icmp(
        self, m, walk, *, icmp_type, is_icmp_error, has_quoted_flow, quoted_is_tcp, source, destination, source_port,
        destination_port,
    ):  # fmt: skip
        """The type, and the tuple that an error quotes: the quoted packet is ours, so its ends change places.

        Whether the ports lie within the parsed bytes is known before the first address comes, so that the packet's own
        addresses stay where the quoted ones are not wanted.
        """
        word, position = walk.word, walk.position
        quoted_words = Signal(4)  # of the quoted IP header
        right_version = Signal()
        start = ICMP_ERROR_HEADER_BYTES // 4
        quoted_protocol = Mux(walk.is_ipv6, word[16:24], word[8:16])
        has_quoted_ports = (quoted_protocol == PROTOCOL_TCP) | (quoted_protocol == PROTOCOL_UDP)
        # Both in words; l4_word is one less than that of L4.
        ports_here = walk.l4_word + 1 + start + quoted_words < HEADER_COPY_BYTES // 4
        l4_words = walk.l4_length[2:]
        ports_there = l4_words >= quoted_words + (ICMP_ERROR_HEADER_BYTES + QUOTED_PORTS_BYTES) // 4
        with m.If(walk.in_l4 & walk.is_icmp), m.Switch(position):
            with m.Case(0):
                m.d.sync += [icmp_type.eq(word[0:8]), has_quoted_flow.eq(0)]
                m.d.sync += is_icmp_error.eq(Mux(walk.is_ipv6, ~word[7], word[0:8].matches(*ICMP_ERRORS)))
            with m.Case(start):
                m.d.sync += [
                    quoted_words.eq(Mux(walk.is_ipv6, IPV6_HEADER_BYTES // 4, word[0:4])),
                    right_version.eq(
                        Mux(walk.is_ipv6, word[4:8] == 6, (word[4:8] == 4) & (word[0:4] >= 5)) & is_icmp_error
                    ),
                ]
            with m.Case(start + 1):
                no_offset = ~(word[16:21].any() | word[24:32].any())  # only the first fragment has ports
                m.d.sync += [
                    has_quoted_flow.eq(
                        right_version & ports_here & ports_there & Mux(walk.is_ipv6, has_quoted_ports, no_offset)
                    ),
                    quoted_is_tcp.eq(quoted_protocol == PROTOCOL_TCP),
                ]
            with m.Case(start + 2):
                with m.If(walk.is_ipv4):
                    m.d.sync += [
                        has_quoted_flow.eq(has_quoted_flow & has_quoted_ports),
                        quoted_is_tcp.eq(quoted_protocol == PROTOCOL_TCP),
                    ]
        with m.If(walk.in_l4 & walk.is_icmp & has_quoted_flow):
            with m.If(walk.is_ipv4), m.Switch(position):
                with m.Case(start + 3):
                    m.d.sync += destination[0:32].eq(word)
                with m.Case(start + 4):
                    m.d.sync += source[0:32].eq(word)
            with m.Else(), m.Switch(position):
                for index in range(4):
                    with m.Case(start + 2 + index):
                        m.d.sync += destination.word_select(index, 32).eq(word)
                    with m.Case(start + 6 + index):
                        m.d.sync += source.word_select(index, 32).eq(word)
            with m.If(position == start + quoted_words):
                m.d.sync += [destination_port.eq(swap(word[0:16])), source_port.eq(swap(word[16:32]))]
