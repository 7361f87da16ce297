"""The Internet checksum (RFC 1071), one 32-bit word per cycle."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

CHECKSUM_LATENCY = 4
"""Cycles from a word at the input of :class:`OnesComplementSum` to the sum that includes it."""


class OnesComplementSum(wiring.Component):
    """Ones' complement sum of 16-bit halves, in two lanes that never wait for their carries.

    The lanes take the halves as they lie in a stream word (earliest byte in bits 7:0), so the sum is byte-swapped
    against value order; the ones' complement sum does not depend on byte order (RFC 1071 section 2 (B)).

    Members
    -------
    valid : ``In(1)``
        Add ``word``.
    start : ``In(1)``
        With ``valid``: the sum starts anew with ``word`` and ``seed``.
    seed : ``In(32)``
        Two halves.
    word : ``In(32)``
        Two halves.
    sum : ``Out(16)``
        Folded sum of all words up to :data:`CHECKSUM_LATENCY` cycles ago, bytes as in the stream.
    is_ones : ``Out(1)``
        ``sum`` is 0xFFFF: data with its checksum field included is intact (RFC 1071 section 1 (3)).

    Timing
    ------
    One word per cycle, results :data:`CHECKSUM_LATENCY` cycles later; longest chain 17 bits.
    """

    def __init__(self) -> None:
        super().__init__(
            {"valid": In(1), "start": In(1), "seed": In(32), "word": In(32), "sum": Out(16), "is_ones": Out(1)},
        )

    def elaborate(self, platform):
        m = Module()
        lanes = [Signal(17, name=f"lane{index}") for index in range(2)]  # bit 16: carry still to be added
        for index, lane in enumerate(lanes):
            half = self.word.word_select(index, 16)
            old = Mux(self.start, self.seed.word_select(index, 16), lane)
            with m.If(self.valid):
                # The bit below the operands brings the carry in, so that one adder does it.
                m.d.sync += lane.eq((Cat(old[16], old[:16]) + Cat(old[16], half))[1:])
        both = Signal(18)
        folded = Signal(17)
        m.d.sync += [
            both.eq(lanes[0] + lanes[1]),
            folded.eq(both[:16] + both[16:]),
            self.sum.eq(folded[:16] + folded[16]),
            # With a carry left the low half is at most 1, so the sum is not all ones then.
            self.is_ones.eq(folded == 0xFFFF),
        ]
        return m
