"""Parses Ethernet II frames as they pass: IEEE 802.3 clause 3, IEEE 802.1Q clause 9, RFC 826 (ARP), RFC 791 (IPv4),
RFC 8200 (IPv6), RFC 9293 (TCP), RFC 768 (UDP), RFC 7323 (timestamps)."""

from __future__ import annotations

from itertools import pairwise

from amaranth import *
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from .checksum import CHECKSUM_LATENCY, OnesComplementSum
from .interfaces import FrameMeta, FrameStream, FrameWord
from .proto.descriptor import FRAME_PAD_BYTES, HEADER_COPY_BYTES

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_VLAN = 0x8100
ETHERTYPE_IPV6 = 0x86DD
PROTOCOL_ICMP = 1
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
PROTOCOL_ICMPV6 = 58
IPV6_EXTENSIONS = (0, 43, 44, 50, 51, 60, 135, 139, 140, 253, 254)
"""Next header values that are extension headers (IANA "IPv6 Extension Header Types")."""
TIMESTAMP_OPTION_WORD = 0x0A080101
"""NOP, NOP, timestamp (8), length 10: RFC 7323 appendix A; earliest byte lowest."""

VERDICT_STAGES = CHECKSUM_LATENCY + 1
PARSER_LATENCY = VERDICT_STAGES + 2
"""Cycles from a frame's last word at the parser's input to ``done``."""


class ParserVerdict(enum.Enum, shape=2):
    """What is to become of a frame; of several reasons to drop it the first in the order 1, 2, 3 counts."""

    GOOD = 0
    BAD_FRAME = 1
    """The MAC's error mark, or too long."""
    UNKNOWN_ETHERTYPE = 2
    """Neither ARP nor IP, or an IEEE 802.3 length, or no type at all."""
    CHECKSUM_ERROR = 3
    """Wrong checksum of IPv4, TCP or UDP, or lengths in their headers that contradict each other or the frame."""


def _swap(value: Value) -> Value:
    """A 16-bit field of a stream word in value order."""
    return Cat(value[8:16], value[0:8])


def _swap_word(value: Value) -> Value:
    """A 32-bit field of a stream word in value order."""
    return Cat(value[24:32], value[16:24], value[8:16], value[0:8])


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

    What is not there is zero in ``meta``. Fragments and IPv6 packets with extension headers are good, but their L4 is
    neither parsed nor checked. A TCP header that ends beyond :data:`HEADER_COPY_BYTES` is checked, but its fields are
    zero. A UDP datagram ends where its own length says (RFC 768), which can be before the end of the IP datagram.

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
        m.submodules.ip_sum = ip_sum = OnesComplementSum()
        m.submodules.l4_sum = l4_sum = OnesComplementSum()

        valid = Signal()
        frame_word = Signal(FrameWord)
        m.d.comb += self.i.ready.eq(1)
        m.d.sync += valid.eq(self.i.valid)
        with m.If(self.i.valid):
            m.d.sync += frame_word.eq(self.i.payload)
        word, count, last = frame_word.data, frame_word.count, frame_word.last

        # Ethernet
        length = Signal(12)  # frame bytes so far
        too_long = Signal()
        is_broadcast = Signal()
        is_multicast = Signal()
        group = Signal()
        low_ones = Signal()
        has_vlan = Signal()
        vlan_tci = Signal(16)
        is_arp = Signal()
        is_arp_request = Signal()
        # IP
        is_ipv4 = Signal()
        is_ipv6 = Signal()
        l3_whole = Signal()  # the fixed part of the L3 header is there
        ip_malformed = Signal()
        ip_header_words = Signal(4)
        ip_protocol = Signal(8)
        ip_length = Signal(17)  # bytes from the first of the IP (or ARP) header
        is_fragment = Signal()
        has_ip_options = Signal()
        has_extensions = Signal()
        source = Signal(128)
        destination = Signal(128)
        # L4
        is_tcp = Signal()
        is_udp = Signal()
        is_icmp = Signal()
        l4_word = Signal(5)  # frame words before L4, less one: byte offsets count from 2 bytes into word 0
        l4_length = Signal(16)
        l4_malformed = Signal()
        no_udp_checksum = Signal()
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
        payload_word = Signal(6)  # as l4_word
        payload_length = Signal(16)

        l3_word = Mux(has_vlan, 4, 3)  # as l4_word
        unread = Signal(16)  # bytes of L4 that are still to be summed
        to_sum = Signal(32)
        sum_starts = Signal()
        sum_valid = Signal()
        position = Signal(4)  # word within the header; stays at 15
        first = Signal(init=1)  # the next word is a frame's first

        with m.If(valid):
            m.d.sync += [first.eq(last), position.eq(Mux(position == 15, 15, position + 1))]
            with m.If(~too_long):
                m.d.sync += length.eq(length + count)

        def clear_last_frame():
            m.d.sync += [
                Cat(
                    too_long, is_broadcast, is_multicast, has_vlan, is_arp, is_arp_request, is_ipv4, is_ipv6, l3_whole,
                    ip_malformed, is_fragment, has_ip_options, has_extensions, is_tcp, is_udp, is_icmp,
                    l4_malformed, no_udp_checksum,
                ).eq(0),
                Cat(vlan_tci, ip_protocol, l4_length, payload_length, payload_word, timestamp_here).eq(0),
                tcp_header_words.eq(0),
                length.eq(Mux(count > FRAME_PAD_BYTES, count - FRAME_PAD_BYTES, 0)),
            ]  # fmt: skip

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
            ethertype = Mux(count == 4, _swap(word[16:32]), 0)
            with m.Switch(ethertype):
                with m.Case(ETHERTYPE_IPV4):
                    m.d.sync += is_ipv4.eq(1)
                    go("IPv4 Header")
                with m.Case(ETHERTYPE_IPV6):
                    m.d.sync += is_ipv6.eq(1)
                    go("IPv6 Header")
                with m.Case(ETHERTYPE_ARP):
                    m.d.sync += is_arp.eq(1)
                    go("ARP")
                if not tagged:
                    with m.Case(ETHERTYPE_VLAN):
                        m.d.sync += has_vlan.eq(1)
                        go("VLAN Tag")
                with m.Default():
                    go("Rest")

        with m.If(valid), m.FSM():
            with m.State("Ethernet Header"):
                restart_at_last()
                with m.Switch(position):
                    with m.Case(0):
                        clear_last_frame()
                        m.d.sync += [group.eq(word[16]), low_ones.eq(word[16:32].all())]
                    with m.Case(1):
                        broadcast = low_ones & word.all()
                        m.d.sync += [is_broadcast.eq(broadcast), is_multicast.eq(group & ~broadcast)]
                    with m.Case(3):
                        decode_ethertype(tagged=False)

            with m.State("VLAN Tag"):
                m.d.sync += vlan_tci.eq(_swap(word[0:16]))
                decode_ethertype(tagged=True)

            with m.State("ARP"):
                restart_at_last()
                with m.Switch(position):
                    with m.Case(0):
                        m.d.sync += ip_length.eq(28)
                    with m.Case(1):
                        m.d.sync += is_arp_request.eq(_swap(word[16:32]) == 1)
                    with m.Case(3):
                        m.d.sync += source[0:16].eq(word[16:32])
                    with m.Case(4):
                        m.d.sync += source[16:32].eq(word[0:16])
                    with m.Case(6):
                        m.d.sync += [destination[0:32].eq(word), l3_whole.eq(count == 4)]
                        go("Rest")

            with m.State("IPv4 Header"):
                restart_at_last()
                m.d.comb += [ip_sum.valid.eq(1), ip_sum.start.eq(position == 0), ip_sum.word.eq(word)]
                with m.Switch(position):
                    with m.Case(0):
                        header_words = word[0:4]
                        m.d.sync += [
                            ip_malformed.eq((word[4:8] != 4) | (header_words < 5)),
                            has_ip_options.eq(header_words > 5),
                            ip_header_words.eq(header_words),
                            l4_word.eq(l3_word + header_words),
                            ip_length.eq(_swap(word[16:32])),
                        ]
                    with m.Case(1):
                        rest = ip_length[:16] - Cat(Const(0, 2), ip_header_words)
                        m.d.sync += [
                            l4_length.eq(rest),
                            is_fragment.eq(word[16:22].any() | word[24:32].any()),
                        ]
                        with m.If(rest < 0):
                            m.d.sync += ip_malformed.eq(1)
                    with m.Case(2):
                        protocol = word[8:16]
                        m.d.sync += [
                            ip_protocol.eq(protocol),
                            is_tcp.eq(~is_fragment & (protocol == PROTOCOL_TCP)),
                            is_udp.eq(~is_fragment & (protocol == PROTOCOL_UDP)),
                            is_icmp.eq(~is_fragment & (protocol == PROTOCOL_ICMP)),
                        ]
                        m.d.comb += [sum_valid.eq(1), sum_starts.eq(1), to_sum[8:16].eq(protocol)]
                        with m.If(protocol != PROTOCOL_UDP):
                            m.d.comb += to_sum[16:32].eq(_swap(l4_length))
                    with m.Case(3):
                        m.d.sync += source[0:32].eq(word)
                        m.d.comb += [sum_valid.eq(1), to_sum.eq(word)]
                    with m.Case(4):
                        m.d.sync += [destination[0:32].eq(word), l3_whole.eq(1)]
                        m.d.comb += [sum_valid.eq(1), to_sum.eq(word)]
                with m.If((position >= 4) & (ip_malformed | (position + 1 == ip_header_words))):
                    m.d.sync += unread.eq(l4_length)
                    with m.If(is_tcp | is_udp):
                        go("Layer 4")
                    with m.Else():
                        go("Rest")

            with m.State("IPv6 Header"):
                restart_at_last()
                with m.Switch(position):
                    with m.Case(0):
                        m.d.sync += [ip_malformed.eq(word[4:8] != 6), l4_word.eq(l3_word + 10)]
                    with m.Case(1):
                        protocol = word[16:24]
                        payload = _swap(word[0:16])
                        m.d.sync += [
                            l4_length.eq(payload),
                            unread.eq(payload),
                            ip_length.eq(payload + 40),
                            ip_protocol.eq(protocol),
                            is_tcp.eq(protocol == PROTOCOL_TCP),
                            is_udp.eq(protocol == PROTOCOL_UDP),
                            is_icmp.eq(protocol == PROTOCOL_ICMPV6),
                            has_extensions.eq(protocol.matches(*IPV6_EXTENSIONS)),
                        ]
                        m.d.comb += [sum_valid.eq(1), sum_starts.eq(1), to_sum[24:32].eq(protocol)]
                        with m.If(protocol != PROTOCOL_UDP):
                            m.d.comb += to_sum[0:16].eq(word[0:16])
                    for index in range(4):
                        with m.Case(2 + index):
                            m.d.sync += source.word_select(index, 32).eq(word)
                            m.d.comb += [sum_valid.eq(1), to_sum.eq(word)]
                        with m.Case(6 + index):
                            m.d.sync += destination.word_select(index, 32).eq(word)
                            m.d.comb += [sum_valid.eq(1), to_sum.eq(word)]
                with m.If(position == 9):
                    m.d.sync += l3_whole.eq(1)
                    with m.If(is_tcp | is_udp):
                        go("Layer 4")
                    with m.Else():
                        go("Rest")

            with m.State("Layer 4"):
                restart_at_last()
                # Padding of the last word, and what follows the datagram, does not belong to the sum.
                m.d.comb += sum_valid.eq(1)
                with m.If(unread[2:].any()):
                    m.d.comb += to_sum.eq(word)
                    m.d.sync += unread.eq(unread - 4)
                with m.Else():
                    for byte in range(3):
                        with m.If(unread[:2] > byte):
                            m.d.comb += to_sum.word_select(byte, 8).eq(word.word_select(byte, 8))
                    m.d.sync += unread.eq(0)
                with m.Switch(position):
                    with m.Case(0):
                        m.d.sync += [
                            source_port.eq(_swap(word[0:16])),
                            destination_port.eq(_swap(word[16:32])),
                            l4_malformed.eq(l4_length < Mux(is_tcp, 20, 8)),
                        ]
                    with m.Case(1):
                        m.d.sync += tcp_sequence.eq(_swap_word(word))
                        udp_length = _swap(word[0:16])
                        with m.If(is_udp):
                            m.d.sync += [
                                payload_word.eq(l4_word + 2),
                                payload_length.eq(udp_length - 8),
                                unread.eq(udp_length - 8),
                                no_udp_checksum.eq(word[16:32] == 0),
                            ]
                            with m.If((udp_length < 8) | (udp_length > l4_length)):
                                m.d.sync += l4_malformed.eq(1)
                            # The length is summed twice, here and in the pseudo header: twice a number is its
                            # rotation in ones' complement.
                            m.d.comb += to_sum.eq(Cat(word[0:16].rotate_left(1), word[16:32]))
                    with m.Case(2):
                        m.d.sync += tcp_acknowledgement.eq(_swap_word(word))
                    with m.Case(3):
                        header_words = word[4:8]
                        rest = l4_length - Cat(Const(0, 2), header_words)
                        m.d.sync += [
                            tcp_flags.eq(word[8:16]),
                            tcp_window.eq(_swap(word[16:32])),
                        ]
                        with m.If(is_tcp):
                            m.d.sync += [
                                tcp_header_words.eq(header_words),
                                payload_word.eq(l4_word + header_words),
                                payload_length.eq(rest),
                            ]
                            with m.If((header_words < 5) | (rest < 0)):
                                m.d.sync += l4_malformed.eq(1)
                    with m.Case(5):
                        m.d.sync += timestamp_here.eq(word == TIMESTAMP_OPTION_WORD)
                    with m.Case(6):
                        m.d.sync += tcp_tsval.eq(_swap_word(word))
                    with m.Case(7):
                        m.d.sync += tcp_tsecr.eq(_swap_word(word))

            with m.State("Rest"):
                restart_at_last()

        m.d.sync += [l4_sum.valid.eq(valid & sum_valid), l4_sum.start.eq(sum_starts), l4_sum.word.eq(to_sum)]

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
        m.d.sync += [
            ended[0].eq(valid & last),
            ended_error.eq(frame_word.error),
            l3_bytes.eq(length - Mux(has_vlan, 18, 14)),
        ]
        m.d.comb += [
            bad_frame[0].eq(ended_error | too_long | past_limit),
            unknown[0].eq(~(is_arp | is_ipv4 | is_ipv6)),
            malformed[0].eq(~l3_whole | ip_malformed | l4_malformed),
            check_ip[0].eq(is_ipv4),
            check_l4[0].eq(is_tcp | is_udp & ~(is_ipv4 & no_udp_checksum)),
        ]
        # A datagram longer than its frame. The next frame does not touch ip_length before its word 4.
        m.d.sync += malformed[2].eq(malformed[1] | (ip_length > l3_bytes))
        verdict = Signal(ParserVerdict)
        wrong_sum = check_ip[-1] & ~ip_sum.is_ones | check_l4[-1] & ~l4_sum.is_ones
        with m.If(bad_frame[-1]):
            m.d.comb += verdict.eq(ParserVerdict.BAD_FRAME)
        with m.Elif(unknown[-1]):
            m.d.comb += verdict.eq(ParserVerdict.UNKNOWN_ETHERTYPE)
        with m.Elif(malformed[-1] | wrong_sum):
            m.d.comb += verdict.eq(ParserVerdict.CHECKSUM_ERROR)
        m.d.sync += [self.done.eq(ended[-1]), self.verdict.eq(verdict)]

        # What the next frame's first words overwrite is held; the rest changes only from its word 6 on.
        held = Signal(FrameMeta)
        has_l4 = is_tcp | is_udp | is_icmp
        l4_beyond = is_tcp & (payload_word >= HEADER_COPY_BYTES // 4)
        l4_parsed = has_l4 & ~l4_beyond
        only_timestamp = (tcp_header_words == 8) & timestamp_here
        with m.If(ended[0] & l3_whole & ~bad_frame[0]):
            m.d.sync += [
                held.frame_length.eq(length),
                held.l3_offset.eq(Mux(has_vlan, 18, 14)),
                held.l4_offset.eq(Mux(l4_parsed, Cat(Const(FRAME_PAD_BYTES, 2), l4_word), 0)),
                held.payload_offset.eq(Mux(l4_parsed & ~is_icmp, Cat(Const(FRAME_PAD_BYTES, 2), payload_word), 0)),
                held.payload_length.eq(Mux(l4_parsed & ~is_icmp, payload_length, 0)),
                held.is_ipv4.eq(is_ipv4),
                held.is_ipv6.eq(is_ipv6),
                held.is_tcp.eq(is_tcp & l4_parsed),
                held.is_udp.eq(is_udp),
                held.is_icmp.eq(is_icmp),
                held.is_arp.eq(is_arp),
                held.is_arp_request.eq(is_arp_request),
                held.is_fragment.eq(is_fragment),
                held.has_ip_options.eq(has_ip_options | has_extensions),
                held.has_vlan.eq(has_vlan),
                held.vlan_tci.eq(Mux(has_vlan, vlan_tci, 0)),
                held.is_broadcast.eq(is_broadcast),
                held.is_multicast.eq(is_multicast),
                held.has_tcp_options.eq(is_tcp & l4_parsed & (tcp_header_words > 5)),
                held.is_truncated_parse.eq(l4_beyond | has_extensions),
                held.ip_checksum_ok.eq(is_ipv4 | is_ipv6),
                held.l4_checksum_ok.eq(is_tcp | is_udp),  # a frame with a wrong one is not good
                held.ip_protocol.eq(ip_protocol),
                held.option_timestamp.eq(is_tcp & l4_parsed & only_timestamp),
                held.option_other.eq(is_tcp & l4_parsed & (tcp_header_words > 5) & ~only_timestamp),
            ]
        ports = held.is_tcp | held.is_udp
        m.d.comb += [
            self.meta.eq(held),
            self.meta.source.eq(Cat(source[:32], Mux(held.is_ipv6, source[32:], 0))),
            self.meta.destination.eq(Cat(destination[:32], Mux(held.is_ipv6, destination[32:], 0))),
            self.meta.source_port.eq(Mux(ports, source_port, 0)),
            self.meta.destination_port.eq(Mux(ports, destination_port, 0)),
            self.meta.tcp_sequence.eq(Mux(held.is_tcp, tcp_sequence, 0)),
            self.meta.tcp_acknowledgement.eq(Mux(held.is_tcp, tcp_acknowledgement, 0)),
            self.meta.tcp_window.eq(Mux(held.is_tcp, tcp_window, 0)),
            self.meta.tcp_flags.eq(Mux(held.is_tcp, tcp_flags, 0)),
            self.meta.tcp_tsval.eq(Mux(held.option_timestamp, tcp_tsval, 0)),
            self.meta.tcp_tsecr.eq(Mux(held.option_timestamp, tcp_tsecr, 0)),
        ]
        return m
