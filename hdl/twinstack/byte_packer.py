"""Stream realigner: pieces of words at any byte alignment become contiguous words."""

from types import SimpleNamespace

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out


class PackInput(data.Struct):
    """``count`` bytes of one word, from byte lane ``offset`` up; lane 0 is bits 7:0. Other lanes are ignored."""

    data: 32
    offset: 2
    count: 3  # 1 to 4, with offset + count <= 4
    last: 1  # these are the packet's last bytes


class PackOutput(data.Struct):
    """One contiguous word; lanes from ``count`` up and below the packet's start are zero."""

    data: 32
    count: 3  # lanes in use from lane 0 up, the zero lanes before the start included: 4, or 1 to 4 in the last word
    last: 1
    mask: 4  # byte enables: like count, but without the lanes before the start


class BytePacker(wiring.Component):
    """Makes contiguous words of byte runs at any alignment.

    Members
    -------
    i : ``In(stream.Signature(PackInput))``
        Runs of 1 to 4 bytes. ``offset + count`` above 4, or a ``count`` of 0, is forbidden.
    o : ``Out(stream.Signature(PackOutput))``
        The same bytes in order. The packet's first byte is in lane ``start`` of the first word.
    start : ``In(2)``
        Lane of the packet's first byte; sampled with the first word of each packet.

    Timing
    ------
    Latency one cycle, one input word per cycle. A packet whose last input word fills an output word and begins another
    takes one cycle more. ``i.ready`` depends on ``o.ready`` in the same cycle; ``o`` is registered.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "i": In(stream.Signature(PackInput)),
                "o": Out(stream.Signature(PackOutput)),
                "start": In(2),
            }
        )
        # Here, not in elaborate(), so that proofs can see them.
        self._inside = SimpleNamespace(
            held=Array(Signal(8, name=f"held{lane}") for lane in range(3)),  # bytes that wait for a whole word
            fill=Signal(2),  # lanes of held in use
            start=Signal(2),  # lanes before the packet's start, until the first word has left
            inside=Signal(),  # a packet has begun
            flush=Signal(),  # held is the rest of a packet that has ended
        )

    # The decisions that the proofs are about; tests override them with wrong ones.

    def _can_move(self) -> Value:
        return ~self.o.valid | self.o.ready

    def _rests(self, total: Value) -> Value:
        """The packet's last input word leaves bytes for one more output word."""
        return total > 4

    def elaborate(self, platform):
        m = Module()
        word = self.i.payload
        out = self.o.payload
        held, fill, start = self._inside.held, self._inside.fill, self._inside.start
        inside, flush = self._inside.inside, self._inside.flush
        lanes_used = Signal(2)
        lanes_before = Signal(2)
        with m.If(inside):
            m.d.comb += [lanes_used.eq(fill), lanes_before.eq(start)]
        with m.Else():
            m.d.comb += [lanes_used.eq(self.start), lanes_before.eq(self.start)]

        # Byte offset + k goes to lane (lanes_used + k) mod 4: one rotation does both alignments.
        turn = Signal(2)
        m.d.comb += turn.eq(lanes_used - word.offset)
        turned = [Signal(8, name=f"turned{lane}") for lane in range(4)]
        with m.Switch(turn):
            for steps in range(4):
                with m.Case(steps):
                    m.d.comb += [turned[lane].eq(word.data.word_select((lane - steps) % 4, 8)) for lane in range(4)]
        total = Signal(3)
        m.d.comb += total.eq(lanes_used + word.count)

        whole = [Signal(8, name=f"whole{lane}") for lane in range(4)]
        over = [Signal(8, name=f"over{lane}") for lane in range(3)]
        for lane in range(4):
            with m.If(lane >= lanes_used):
                m.d.comb += whole[lane].eq(Mux(lane < total, turned[lane], 0))
            if lane < 3:
                with m.Else():
                    m.d.comb += whole[lane].eq(Mux(inside, held[lane], 0))
        for lane in range(3):
            m.d.comb += over[lane].eq(Mux(lane + 4 < total, turned[lane], 0))

        can_move = self._can_move()
        m.d.comb += self.i.ready.eq(can_move & ~flush)
        with m.If(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        with m.If(flush & can_move):
            m.d.sync += [
                self.o.valid.eq(1),
                out.data.eq(Cat(*held)),
                out.count.eq(fill),
                out.mask.eq(Cat(lane < fill for lane in range(4))),
                out.last.eq(1),
                flush.eq(0),
                inside.eq(0),
            ]
        with m.Elif(self.i.valid & self.i.ready):
            filled = Signal()
            m.d.comb += filled.eq(total[2])
            with m.If(filled | word.last):
                m.d.sync += [
                    self.o.valid.eq(1),
                    out.data.eq(Cat(*whole)),
                    out.count.eq(Mux(filled, 4, total)),
                    out.mask.eq(Cat((lane >= lanes_before) & (lane < total) for lane in range(4))),
                    out.last.eq(word.last & ~self._rests(total)),
                ]
            for lane in range(3):
                m.d.sync += held[lane].eq(Mux(filled, over[lane], whole[lane]))
            m.d.sync += [
                fill.eq(total[:2]),
                start.eq(Mux(filled, 0, lanes_before)),
                inside.eq(~word.last | self._rests(total)),
                flush.eq(word.last & self._rests(total)),
            ]
        return m
