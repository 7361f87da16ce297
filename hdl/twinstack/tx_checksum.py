"""Checksums of an outgoing frame, computed while it streams by.

Understands Ethernet II with at most one IEEE 802.1Q tag, IPv4 with options (RFC 791), IPv6 without extension headers
(RFC 8200), TCP (RFC 9293) and UDP (RFC 768). The ones' complement sum does not depend on the byte order (RFC 1071,
section 2 (B)), so it is taken over halfwords as they lie in the little-endian words, and the result is stored likewise.
"""

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .proto.descriptor import FRAME_PAD_BYTES
from .tx_frame_buffer import LENGTH_BITS

ETHERNET_HEADER_BYTES = 14  # IEEE 802.3, 3.1.1
VLAN_TAG_BYTES = 4  # IEEE 802.1Q, 9.3
ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN = 0x0800, 0x86DD, 0x8100
TYPE_WORD = (FRAME_PAD_BYTES + ETHERNET_HEADER_BYTES) // 4 - 1  # its upper half is the EtherType
PROTOCOL_TCP, PROTOCOL_UDP = 6, 17
IPV6_HEADER_WORDS = 10  # RFC 8200, section 3
TCP_CHECKSUM_BYTE, TCP_HEADER_BYTES = 16, 20  # RFC 9293, section 3.1
UDP_CHECKSUM_BYTE, UDP_HEADER_BYTES = 6, 8  # RFC 768
IPV4_CHECKSUM_BYTE = 10  # RFC 791, section 3.1


class ChecksumPatch(data.Struct):
    """A checksum to be written into the frame."""

    valid: 1
    offset: LENGTH_BITS  # byte from the start of the stream, pad included
    value: 16  # bits 7:0 go to byte offset


def _swap(halfword):
    """A halfword in the other byte order."""
    return Cat(halfword[8:16], halfword[0:8])


class _Sum(wiring.Component):
    """Ones' complement sum of two halfwords per cycle, in two lanes with delayed end-around carries."""

    low: In(16)
    high: In(16)
    total: Out(18)  # unfolded, valid one cycle after the last halfwords

    def elaborate(self, platform):
        m = Module()
        lanes = []
        for name in ("low", "high"):
            lane = Signal(17, name=f"sum_{name}")  # bit 16: a carry still to be added
            m.d.sync += lane.eq(lane[:16] + getattr(self, name) + lane[16])
            lanes.append(lane)
        # Two 16-bit sums and two carries: below 2**17 + 2.
        m.d.comb += self.total.eq(lanes[0][:16] + lanes[1][:16] + lanes[0][16] + lanes[1][16])
        return m


class TxChecksum(wiring.Component):
    """Parses one frame after another and says which checksums to write where.

    The IPv4 header checksum is given whenever the header is whole. A TCP or UDP checksum is given unless the packet is a
    fragment or its lengths contradict each other or the frame; it covers what the IP length says, so not the padding
    of a short frame. The checksum fields in the frame are taken as zero.

    Members
    -------
    start : ``In(1)``
        A frame begins; ``length`` is valid. Abandons the previous one.
    length : ``In(LENGTH_BITS)``
        Bytes of the frame without pad; kept until ``done``.
    valid : ``In(1)``
        ``word`` is the next word of the frame, pad bytes first; not in the cycle of ``start``.
    word : ``In(32)``
        Little-endian; bytes beyond the end of the frame are zero.
    last : ``In(1)``
        The word is the frame's last.
    done : ``Out(1)``
        All words have come, ``ipv4`` and ``l4`` are valid; stays until ``start``.
    ipv4, l4 : ``Out(ChecksumPatch)``
        IPv4 header checksum; TCP or UDP checksum.

    Timing
    ------
    One word per cycle; ``done`` 6 cycles after the last word.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "length": In(LENGTH_BITS),
                "valid": In(1),
                "word": In(32),
                "last": In(1),
                "done": Out(1),
                "ipv4": Out(ChecksumPatch),
                "l4": Out(ChecksumPatch),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.header_sum = header_sum = _Sum()
        m.submodules.l4_sum = l4_sum = _Sum()

        # --- First stage: the word, registered ---
        valid, last, word = Signal(), Signal(), Signal(32)
        m.d.sync += [valid.eq(self.valid), last.eq(self.last), word.eq(self.word)]
        low, high = word[:16], word[16:]

        # --- Second stage: what the word means ---
        is_ipv4, is_ipv6, is_fragment, has_vlan = Signal(), Signal(), Signal(), Signal()
        index = Signal(LENGTH_BITS - 2)  # of the word, until L3 begins
        l3_word = Signal(5)  # of the word in the L3 header; stays at its maximum
        in_l3, in_l4 = Signal(), Signal()
        header_words = Signal(4)  # of the L3 header; 0 means that there is none that we know
        header_whole = Signal()  # the last word of the L3 header has come
        room = Signal(LENGTH_BITS)  # bytes of the frame from L3 on
        claimed = Signal(16)  # L3 length by the IP header, header included for IPv4
        l4_length = Signal(LENGTH_BITS)
        length_ok = Signal()
        protocol = Signal(8)
        remaining = Signal(LENGTH_BITS)  # bytes of L4 from this word on
        l4_word = Signal(3)  # of the word in the L4 header; stays at its maximum

        m.d.sync += [
            header_sum.low.eq(0),
            header_sum.high.eq(0),
            l4_sum.low.eq(0),
            l4_sum.high.eq(0),
        ]

        ethertype = _swap(high)
        here = Mux(has_vlan, TYPE_WORD + 1, TYPE_WORD)
        with m.If(valid & ~in_l3):
            m.d.sync += index.eq(index + 1)
            with m.If(index == here):
                m.d.sync += [
                    is_ipv4.eq(ethertype == ETHERTYPE_IPV4),
                    is_ipv6.eq(ethertype == ETHERTYPE_IPV6),
                    in_l3.eq(1),
                ]
                with m.If((ethertype == ETHERTYPE_VLAN) & ~has_vlan):
                    m.d.sync += [has_vlan.eq(1), in_l3.eq(0)]

        is_tcp, is_udp = protocol == PROTOCOL_TCP, protocol == PROTOCOL_UDP
        in_header = Signal()
        with m.If(valid & in_l3 & ~in_l4):
            with m.If(l3_word != 31):
                m.d.sync += l3_word.eq(l3_word + 1)
            with m.If(l3_word == 0):
                # A header with a wrong version or length is no header: header_words stays 0.
                with m.If(is_ipv4 & (word[4:8] == 4) & (word[0:4] >= 5)):
                    m.d.sync += [header_words.eq(word[0:4]), claimed.eq(_swap(high))]
                    m.d.comb += in_header.eq(1)
                with m.If(is_ipv6 & (word[4:8] == 6)):
                    m.d.sync += header_words.eq(IPV6_HEADER_WORDS)
            with m.Else():
                m.d.comb += in_header.eq((header_words != 0) & is_ipv4)
                with m.If((header_words != 0) & (l3_word == header_words - 1)):
                    m.d.sync += [in_l4.eq(1), header_whole.eq(1)]
            with m.If(is_ipv4):
                with m.If(l3_word == 1):  # flags and fragment offset: RFC 791, section 3.1
                    m.d.sync += is_fragment.eq((_swap(high) & 0x3FFF) != 0)
                with m.If(l3_word == 2):
                    m.d.sync += protocol.eq(word[8:16])
                with m.If((l3_word == 3) | (l3_word == 4)):  # addresses are in the pseudo header
                    m.d.sync += [l4_sum.low.eq(low), l4_sum.high.eq(high)]
            with m.Else():
                with m.If(l3_word == 1):
                    m.d.sync += [claimed.eq(_swap(low)), protocol.eq(word[16:24])]
                with m.If((l3_word >= 2) & (l3_word < IPV6_HEADER_WORDS)):
                    m.d.sync += [l4_sum.low.eq(low), l4_sum.high.eq(high)]
        with m.If(in_header):
            m.d.sync += header_sum.low.eq(low)
            with m.If(l3_word != IPV4_CHECKSUM_BYTE // 4):
                m.d.sync += header_sum.high.eq(high)

        # Lengths, in steps while the header's rest streams by; the shortest header leaves three words of time.
        header_bytes = Signal(6)
        claimed_l4 = Signal(17)  # negative: bit 16
        room_l4 = Signal(LENGTH_BITS + 1)
        m.d.comb += header_bytes.eq(header_words << 2)
        m.d.sync += [
            room.eq(self.length - Mux(has_vlan, ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES, ETHERNET_HEADER_BYTES)),
            claimed_l4.eq(Mux(is_ipv4, claimed - header_bytes, claimed)),
            room_l4.eq(room - header_bytes),
            length_ok.eq(~claimed_l4[16] & ~room_l4[-1] & (claimed_l4[:16] <= room_l4[:-1])),
        ]
        with m.If(~in_l4):
            m.d.sync += [l4_length.eq(claimed_l4), remaining.eq(claimed_l4)]

        with m.If(valid & in_l4):
            with m.If(l4_word != 7):
                m.d.sync += l4_word.eq(l4_word + 1)
            kept = Signal(4)  # bytes of L4 that are summed
            m.d.comb += kept.eq(Cat(remaining > lane for lane in range(4)))
            with m.If(remaining > 4):
                m.d.sync += remaining.eq(remaining - 4)
            with m.Else():
                m.d.sync += remaining.eq(0)
            with m.If(is_tcp & (l4_word == TCP_CHECKSUM_BYTE // 4)):
                m.d.comb += kept[0:2].eq(0)
            with m.If(is_udp & (l4_word == UDP_CHECKSUM_BYTE // 4)):
                m.d.comb += kept[2:4].eq(0)
            masked = Signal(32)
            m.d.comb += masked.eq(word & Cat(bit.replicate(8) for bit in kept))
            m.d.sync += [l4_sum.low.eq(masked[:16]), l4_sum.high.eq(masked[16:])]

        # --- The end: add the rest of the pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1), fold, invert ---
        header_total, l4_total = Signal(18), Signal(18)
        header_folded, l4_folded = Signal(17), Signal(17)
        extra = Signal(17)
        l3_start = Signal(LENGTH_BITS)
        l4_start = Signal(LENGTH_BITS)
        minimum = Mux(is_tcp, TCP_HEADER_BYTES, UDP_HEADER_BYTES)
        long_enough = Signal()

        def fold(value):
            return value[:16] + value[16:]

        with m.FSM():
            with m.State("Stream"):
                with m.If(valid & last):
                    m.next = "Sum"
            with m.State("Sum"):  # the last halfwords are being added
                m.d.sync += extra.eq(_swap(l4_length | C(0, 16)) + Cat(C(0, 8), protocol))
                m.d.sync += l3_start.eq(4 * (TYPE_WORD + 1) + Mux(has_vlan, VLAN_TAG_BYTES, 0))
                m.d.sync += long_enough.eq(l4_length >= minimum)
                m.next = "Add"
            with m.State("Add"):
                m.d.sync += [header_total.eq(header_sum.total), l4_total.eq(l4_sum.total)]
                m.d.sync += extra.eq(fold(extra))
                m.d.sync += l4_start.eq(l3_start + header_bytes)
                m.next = "Fold"
            with m.State("Fold"):
                m.d.sync += [header_folded.eq(fold(header_total)), l4_folded.eq(fold(l4_total))]
                m.next = "Pseudo Header"
            with m.State("Pseudo Header"):
                m.d.sync += [header_total.eq(fold(header_folded)), l4_total.eq(fold(l4_folded) + extra[:16])]
                m.next = "Fold Again"
            with m.State("Fold Again"):
                value = ~fold(l4_total)[:16]
                m.d.sync += [
                    self.ipv4.valid.eq(is_ipv4 & header_whole & ~room_l4[-1]),
                    self.ipv4.offset.eq(l3_start + IPV4_CHECKSUM_BYTE),
                    self.ipv4.value.eq(~header_total[:16]),
                    self.l4.valid.eq(header_whole & ~is_fragment & length_ok & long_enough & (is_tcp | is_udp)),
                    self.l4.offset.eq(l4_start + Mux(is_tcp, TCP_CHECKSUM_BYTE, UDP_CHECKSUM_BYTE)),
                    self.l4.value.eq(Mux(is_udp & (value == 0), 0xFFFF, value)),  # RFC 768
                    self.done.eq(1),
                ]
                m.next = "Stream"

        return ResetInserter(self.start)(m)
