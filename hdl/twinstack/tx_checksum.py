"""Checksums of an outgoing frame, computed while it streams by.

The walk over the headers is the receive side's, :class:`~twinstack.header_walk.HeaderWalk`, with the checksum fields taken
as zero. The ones' complement sum does not depend on the byte order (RFC 1071, section 2 (B)), so it is taken over
halfwords as they lie in the little-endian words, and the result is stored likewise.
"""

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .header_walk import SUM_LATENCY, HeaderWalk
from .headers import (
    ETHERNET_HEADER_BYTES,
    ICMP_CHECKSUM_BYTE,
    IPV4_CHECKSUM_BYTE,
    L3_WORD,
    TCP_CHECKSUM_BYTE,
    UDP_CHECKSUM_BYTE,
    VLAN_TAG_BYTES,
)
from .proto.descriptor import FRAME_PAD_BYTES
from .tx_frame_buffer import LENGTH_BITS

DONE_LATENCY = SUM_LATENCY + 2
"""Cycles from a frame's last word to ``done``."""


class ChecksumPatch(data.Struct):
    """A checksum to be written into the frame."""

    valid: 1
    offset: LENGTH_BITS  # byte from the start of the stream, pad included
    value: 16  # bits 7:0 go to byte offset


class TxChecksum(wiring.Component):
    """Parses one frame after another and says which checksums to write where.

    The IPv4 header checksum is given whenever the header is whole. A TCP, UDP or ICMPv6 checksum is given unless the packet
    is a fragment, or its lengths contradict each other or the frame, or the walk does not reach L4 (see
    :attr:`HeaderWalk.is_truncated`); it covers what the IP length says, for UDP what its own length says, so not the padding
    of a short frame. ICMP over IPv4 is left alone. The checksum fields in the frame are taken as zero.

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
        IPv4 header checksum; TCP, UDP or ICMPv6 checksum.

    Timing
    ------
    One word per cycle; ``done`` :data:`DONE_LATENCY` cycles after the last word.
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
        m.submodules.walk = walk = HeaderWalk(zero_checksums=True)

        past_word = (self.length + FRAME_PAD_BYTES)[:2]  # bytes in the last word, 0 for 4
        m.d.comb += [
            walk.i_valid.eq(self.valid),
            walk.i_word.eq(self.word),
            walk.i_count.eq(Mux(self.last & past_word.any(), past_word, 4)),
            walk.i_last.eq(self.last),
        ]

        # What the headers say stays while the sums are completed, for no other frame follows before ``start``.
        l3_bytes = Signal(LENGTH_BITS)
        fits = Signal()
        ended = Signal(DONE_LATENCY - 2)
        m.d.sync += [
            ended.eq(Cat(walk.valid & walk.last, ended)),
            l3_bytes.eq(
                self.length - Mux(walk.has_vlan, ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES, ETHERNET_HEADER_BYTES)
            ),
            fits.eq(walk.ip_length <= l3_bytes),
        ]
        has_l4 = walk.is_tcp | walk.is_udp | (walk.is_icmp & walk.is_ipv6)
        # A checksum field begins with its word, or two bytes into it.
        field_word = Mux(walk.is_tcp, TCP_CHECKSUM_BYTE // 4, Mux(walk.is_udp, UDP_CHECKSUM_BYTE // 4, 0))
        assert (TCP_CHECKSUM_BYTE % 4, UDP_CHECKSUM_BYTE % 4, ICMP_CHECKSUM_BYTE) == (0, 2, 2)
        value = ~walk.l4_sum
        with m.If(ended[-1]):
            m.d.sync += [
                self.ipv4.valid.eq(walk.ipv4_whole),
                self.ipv4.offset.eq(4 * L3_WORD + IPV4_CHECKSUM_BYTE + Mux(walk.has_vlan, VLAN_TAG_BYTES, 0)),
                self.ipv4.value.eq(~walk.ip_sum),
                self.l4.valid.eq(has_l4 & fits & ~walk.ip_malformed & ~walk.l4_malformed),
                self.l4.offset.eq(Cat(Const(0, 1), ~walk.is_tcp, walk.l4_word + 1 + field_word)),
                self.l4.value.eq(Mux(walk.is_udp & (value == 0), 0xFFFF, value)),  # RFC 768
                self.done.eq(1),
            ]

        return ResetInserter(self.start)(m)
