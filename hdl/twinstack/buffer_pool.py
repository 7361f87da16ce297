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
    free_index : ``In(range(count))``
        One that is not out changes nothing.
    freed : ``Out(1)``
        In the same cycle: ``free_index`` was out and is taken back. Never with ``reset_pool``.
    available : ``Out(range(count + 1))``
        Buffers that are not out.
    reset_pool : ``In(1)``
        Takes every buffer back. While it is high nothing is offered.

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
        if not isinstance(count, int) or isinstance(count, bool):
            raise TypeError(f"count must be an integer, not {count!r}")
        if not 1 <= count <= 64:
            raise ValueError(f"count must be 1 to 64, not {count!r}")
        self.count = count
        super().__init__(
            {
                "alloc": Out(stream.Signature(range(count))),
                "free_valid": In(1),
                "free_index": In(range(count)),
                "freed": Out(1),
                "available": Out(range(count + 1), init=count),
                "reset_pool": In(1),
            }
        )
        # Where each index is; the third place, offered, is ``_offered`` with the offer's index. Kept here for the proof.
        self._listed = Signal(count, init=(1 << count) - 1)
        self._out = Signal(count)
        self._offered = Signal()

    # Small decisions, each a method so that the proofs can be tried on pools that take it wrongly.

    def _may_return(self, is_out: Value) -> Value:
        return is_out

    def _leaves_list(self, is_chosen: Value) -> Value:
        return is_chosen

    def _shows_offer(self, offered: Value) -> Value:
        """Masked, so that nothing is handed out in the very cycle in which everything is taken back."""
        return offered & ~self.reset_pool

    def _taken_back(self) -> list:
        """What a reset of the pool sets."""
        return [
            self._listed.eq((1 << self.count) - 1),
            self._out.eq(0),
            self._offered.eq(0),
            self.available.eq(self.count),
        ]

    def elaborate(self, platform):
        m = Module()
        count = self.count
        listed, out, offered = self._listed, self._out, self._offered
        index = self.alloc.payload
        m.d.comb += self.alloc.valid.eq(self._shows_offer(offered))
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

        for buffer in range(count):
            with m.If(taken & (index == buffer)):
                m.d.sync += out[buffer].eq(1)
            returns = self.free_valid & (self.free_index == buffer) & ~self.reset_pool
            with m.If(returns & self._may_return(out[buffer])):
                m.d.comb += self.freed.eq(1)
                m.d.sync += [out[buffer].eq(0), listed[buffer].eq(1)]
        with m.If(taken | ~offered):
            m.d.sync += [offered.eq(listed.any()), index.eq(lowest)]
            for buffer in range(count):
                with m.If(listed[buffer] & self._leaves_list(lowest == buffer)):
                    m.d.sync += listed[buffer].eq(0)
        with m.If(self.freed & ~taken):
            m.d.sync += self.available.eq(self.available + 1)
        with m.Elif(taken & ~self.freed):
            m.d.sync += self.available.eq(self.available - 1)
        with m.If(self.reset_pool):
            m.d.sync += self._taken_back()
        return m
