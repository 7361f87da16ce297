"""Feeds frames to the parser or to the transmit checksums at one word a cycle, many for each call of the bench.

A bench that looks at every clock edge spends nearly all its time in Python. Here it writes some frames into one wide
port, toggles ``go``, sleeps until they are through, and reads all results from another wide port.
"""

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from twinstack.interfaces import FrameMeta, FrameWord
from twinstack.parser import FrameParser, ParserVerdict
from twinstack.tx_checksum import ChecksumPatch, TxChecksum

SLOTS = 192
"""Cycles of one batch."""
RESULTS = 12
SETTLE = 16
"""Cycles after the last slot until all results are there."""


class ParserSlot(data.Struct):
    word: FrameWord
    valid: 1


class ParserResult(data.Struct):
    verdict: ParserVerdict
    meta: FrameMeta


class ChecksumSlot(data.Struct):
    """With ``start`` the word is the length."""

    word: 32
    last: 1
    valid: 1
    start: 1


class ChecksumResult(data.Struct):
    ipv4: ChecksumPatch
    l4: ChecksumPatch


class _Batch(wiring.Component):
    def __init__(self, slot, result):
        self._slot, self._result = slot, result
        super().__init__(
            {
                "go": In(1),  # each change starts a batch
                "slots": In(SLOTS * slot.as_shape().size),
                "results": Out(RESULTS * result.as_shape().size),
                "count": Out(8),
            }
        )

    def _frame_work(self, m):
        """The slot of this cycle, and what is to be called with each result."""
        index = Signal(range(SLOTS + 1), init=SLOTS)
        seen = Signal()
        slot = Signal(self._slot)
        width = self._slot.as_shape().size
        m.d.sync += [seen.eq(self.go), slot.eq(0)]
        with m.If(index != SLOTS):
            m.d.sync += [slot.eq(self.slots.word_select(index, width)), index.eq(index + 1)]
        with m.If(self.go != seen):
            # The slots have just changed: what is there at the old index belongs to no one.
            m.d.sync += [slot.eq(0), index.eq(0), self.count.eq(0)]
        result_width = self._result.as_shape().size

        def keep(result):
            m.d.sync += [self.results.word_select(self.count, result_width).eq(result), self.count.eq(self.count + 1)]

        return slot, keep


class ParserBatch(_Batch):
    def __init__(self):
        super().__init__(ParserSlot, ParserResult)

    def elaborate(self, platform):
        m = Module()
        m.submodules.parser = parser = FrameParser()
        slot, keep = self._frame_work(m)
        m.d.comb += [parser.i.valid.eq(slot.valid), parser.i.payload.eq(slot.word)]
        with m.If(parser.done):
            keep(Cat(parser.verdict, parser.meta))
        return m


class ChecksumBatch(_Batch):
    def __init__(self):
        super().__init__(ChecksumSlot, ChecksumResult)

    def elaborate(self, platform):
        m = Module()
        m.submodules.checksum = checksum = TxChecksum()
        slot, keep = self._frame_work(m)
        length = Signal.like(checksum.length)
        was_done = Signal()
        with m.If(slot.start):
            m.d.sync += length.eq(slot.word)
        m.d.comb += [
            checksum.start.eq(slot.start),
            checksum.length.eq(Mux(slot.start, slot.word, length)),
            checksum.valid.eq(slot.valid),
            checksum.word.eq(slot.word),
            checksum.last.eq(slot.last),
        ]
        m.d.sync += was_done.eq(checksum.done)
        with m.If(checksum.done & ~was_done):
            keep(Cat(checksum.ipv4, checksum.l4))
        return m
