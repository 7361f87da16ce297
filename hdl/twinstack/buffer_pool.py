"""Free list of packet buffers in hardware."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

_GROUP = 8


class BufferPool(wiring.Component):
    """Hands out the indices 0 to ``count - 1``, each to one holder at a time.

    Each index is in exactly one of three places: listed, offered at ``alloc``, or out.

    Parameters
    ----------
    count : int, 1..64
        Buffers.

    Members
    -------
    alloc : ``Out(stream.Signature(range(count)))``
        Index of a free buffer; the transfer hands it out. An offer is withdrawn by ``reset_pool`` only.
    free_valid : ``In(1)``
        Gives ``free_index`` back in this cycle.
    free_index : ``In(16)``
    available : ``Out(16)``
        Buffers that are not out.
    bad_free : ``Out(32)``
        Indices given back that do not exist or were not out; they change nothing else. Wraps; outlives ``reset_pool``.
    reset_pool : ``In(1)``
        Takes every buffer back. While it is high nothing is offered, and whatever is given back counts in
        ``bad_free``.

    Timing
    ------
    One index out and one back per cycle. An index is offered again two cycles after it came back, and two cycles after
    the last one with ``reset_pool`` the first index is offered. ``alloc`` pauses only when nothing is listed.

    Raises
    ------
    TypeError, ValueError
        If ``count`` is not an integer from 1 to 64.
    """

    def __init__(self, count: int):
        if not isinstance(count, int):
            raise TypeError(f"count must be an integer, not {count!r}")
        if not 1 <= count <= 64:
            raise ValueError(f"count must be 1 to 64, not {count!r}")
        self.count = count
        super().__init__(
            {
                "alloc": Out(stream.Signature(range(count))),
                "free_valid": In(1),
                "free_index": In(16),
                "available": Out(16, init=count),
                "bad_free": Out(32),
                "reset_pool": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        count = self.count
        listed = Signal(count, init=(1 << count) - 1)
        out = Signal(count)
        offered = Signal()
        index = Signal(range(count))
        m.d.comb += [
            # Masked, so that nothing is handed out in the very cycle in which everything is taken back.
            self.alloc.valid.eq(offered & ~self.reset_pool),
            self.alloc.payload.eq(index),
        ]
        taken = Signal()
        m.d.comb += taken.eq(self.alloc.valid & self.alloc.ready)

        # The lowest listed index, in two levels.
        lowest = Signal(range(count))
        for start in reversed(range(0, count, _GROUP)):
            group = listed[start : start + _GROUP]
            lowest_in_group = Signal(range(_GROUP), name=f"lowest_from_{start}")
            for position in reversed(range(len(group))):
                with m.If(group[position]):
                    m.d.comb += lowest_in_group.eq(position)
            with m.If(group.any()):
                m.d.comb += lowest.eq(start + lowest_in_group)

        accepted = Signal()
        for buffer in range(count):
            with m.If(taken & (index == buffer)):
                m.d.sync += out[buffer].eq(1)
            with m.If(self.free_valid & (self.free_index == buffer) & out[buffer]):
                m.d.comb += accepted.eq(1)
                m.d.sync += [out[buffer].eq(0), listed[buffer].eq(1)]
        with m.If(taken | ~offered):
            m.d.sync += [offered.eq(listed.any()), index.eq(lowest)]
            for buffer in range(count):
                with m.If(listed[buffer] & (lowest == buffer)):
                    m.d.sync += listed[buffer].eq(0)
        with m.If(accepted & ~taken):
            m.d.sync += self.available.eq(self.available + 1)
        with m.Elif(taken & ~accepted):
            m.d.sync += self.available.eq(self.available - 1)
        with m.If(self.free_valid & (~accepted | self.reset_pool)):
            m.d.sync += self.bad_free.eq(self.bad_free + 1)

        with m.If(self.reset_pool):
            m.d.sync += [
                listed.eq((1 << count) - 1),
                out.eq(0),
                offered.eq(0),
                self.available.eq(count),
            ]
        return m
