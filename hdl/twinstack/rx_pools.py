"""Receive buffers of one core: two size classes, and what each of its two queues may hold of them."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .buffer_pool import BufferPool
from .proto.memory_map import RX_BUFFER_BYTES, RX_SMALL_BUFFER_BYTES

LARGE_WORDS = RX_BUFFER_BYTES // 4
SMALL_WORDS = RX_SMALL_BUFFER_BYTES // 4

HELD = data.StructLayout({name: 7 for name in ("flow_large", "flow_small", "other_large", "other_small")})
"""Buffers that each queue holds of each class."""


class RxPools(wiring.Component):
    """Chooses a buffer for a frame, keeps account of who holds how many, and takes buffers back.

    A short frame gets a small buffer if one is free and the limit of its queue allows; otherwise it, and any other
    frame, gets a large one on the same conditions; otherwise none. Indices 0 to ``large - 1`` are the large buffers, the
    small ones follow.

    Parameters
    ----------
    large : int, 1..64
        Buffers of 1,536 bytes.
    small : int, 0..64
        Buffers of 256 bytes.

    Members
    -------
    is_short, is_flow : ``In(1)``
        The frame at hand fits a small buffer; it is for the flow queue.
    can_take : ``Out(1)``
        There is a buffer for it: ``index``, ``is_small``, ``address`` (of its first word in the bank). Low with
        ``core_reset``.
    choose : ``In(1)``
        Remember this buffer and queue for ``take``; only with ``can_take``.
    take : ``In(1)``
        The buffer chosen last is out now; once for each ``choose`` at most, later than it.
    free_valid, free_index : ``In``
        The core gives back ``free_index`` in this cycle.
    limits : ``In(data.ArrayLayout(8, 4))``
        In the order of :data:`HELD`. One that is lowered below what is held now stops further buffers only.
    watermark : ``In(8)``
    low : ``Out(1)``
        Fewer large buffers are free than ``watermark``; one cycle late.
    held : ``Out(HELD)``
    buffers_large, buffers_small : ``Out(16)``
        Buffers that are not out.
    bad_free : ``Out(32)``
        Indices given back that do not exist or were not out; they change nothing else. Wraps; outlives ``core_reset``.
    core_reset : ``In(1)``
        Takes every buffer back. What is given back in the cycle before is not counted, nor what is while it is high.

    Timing
    ------
    A buffer given back counts in ``held`` and ``buffers_*`` after two cycles and can be chosen again after three.

    Raises
    ------
    TypeError, ValueError
        If a parameter has the wrong type or value.
    """

    def __init__(self, large: int, small: int):
        for name, value, lowest in (("large", large, 1), ("small", small, 0)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if not lowest <= value <= 64:
                raise ValueError(f"{name} must be {lowest} to 64, not {value!r}")
        self.large = large
        self.small = small
        bank_words = large * LARGE_WORDS + small * SMALL_WORDS
        super().__init__(
            {
                "is_short": In(1),
                "is_flow": In(1),
                "can_take": Out(1),
                "index": Out(range(large + small)),
                "is_small": Out(1),
                "address": Out(range(bank_words)),
                "choose": In(1),
                "take": In(1),
                "free_valid": In(1),
                "free_index": In(16),
                "limits": In(data.ArrayLayout(8, 4)),
                "watermark": In(8),
                "low": Out(1),
                "held": Out(HELD),
                "buffers_large": Out(16, init=large),
                "buffers_small": Out(16, init=small),
                "bad_free": Out(32),
                "core_reset": In(1),
            }
        )
        # Kept here for the proof.
        self._of_flow = Signal(large + small)  # for each buffer that is out: the flow queue holds it
        self._chose_flow = Signal()
        self._chose_small = Signal()
        self._returned = Signal()
        self._returned_index = Signal(range(large + small))
        self._returned_exists = Signal()
        self._pools = [BufferPool(large)] + ([BufferPool(small)] if small else [])

    # Small decisions, each a method so that the proofs can be tried on accounts that take it wrongly.

    def _has_room(self, held: Value, limit: Value) -> Value:
        return held < limit

    def _next_held(self, held: Value, takes: Value, returns: Value) -> Value:
        return held + Mux(takes & ~returns, 1, Mux(returns & ~takes, -1, 0))

    def _belongs_to_flow(self, of_flow: Value) -> Value:
        return of_flow

    def _cleared(self) -> list:
        """What a reset of the core sets."""
        return [self.held.eq(0)]

    def elaborate(self, platform):
        m = Module()
        pools = self._pools
        m.submodules.large_pool = pools[0]
        if self.small:
            m.submodules.small_pool = pools[1]

        # --- Choice ----------------------------------------------------------------------------------------------
        usable = []
        for number, (pool, name) in enumerate(zip(pools, ("large", "small"), strict=False)):
            flow_room, other_room = (
                self._has_room(self.held[f"{queue}_{name}"], self.limits[2 * of_queue + number])
                for of_queue, queue in enumerate(("flow", "other"))
            )
            usable.append(pool.alloc.valid & Mux(self.is_flow, flow_room, other_room))
            m.d.comb += pool.reset_pool.eq(self.core_reset)
        large_index = pools[0].alloc.payload
        m.d.comb += [self.index.eq(large_index), self.address.eq(large_index * LARGE_WORDS)]
        if self.small:
            small_index = pools[1].alloc.payload
            m.d.comb += [self.is_small.eq(self.is_short & usable[1]), self.can_take.eq(self.is_small | usable[0])]
            with m.If(self.is_small):
                m.d.comb += [
                    self.index.eq(self.large + small_index),
                    self.address.eq(self.large * LARGE_WORDS + small_index * SMALL_WORDS),
                ]
        else:
            m.d.comb += self.can_take.eq(usable[0])
        with m.If(self.choose):
            m.d.sync += [self._chose_flow.eq(self.is_flow), self._chose_small.eq(self.is_small)]

        # --- Return ----------------------------------------------------------------------------------------------
        # A register first: the strobe comes straight from the CPU's bus.
        returned, index, exists = self._returned, self._returned_index, self._returned_exists
        m.d.sync += [
            returned.eq(self.free_valid & ~self.core_reset),
            index.eq(self.free_index),
            exists.eq(self.free_index < self.large + self.small),
        ]
        is_large = index < self.large
        is_mine = [exists & is_large]
        m.d.comb += pools[0].free_index.eq(index)
        if self.small:
            is_mine.append(exists & ~is_large)
            m.d.comb += pools[1].free_index.eq(index - self.large)
        for pool, mine in zip(pools, is_mine, strict=True):
            m.d.comb += pool.free_valid.eq(returned & mine & ~self.core_reset)
        freed = Cat(pool.freed for pool in pools)
        with m.If(returned & ~self.core_reset & ~freed.any()):
            m.d.sync += self.bad_free.eq(self.bad_free + 1)

        # --- Account ---------------------------------------------------------------------------------------------
        takes = [self.take & ~self._chose_small, self.take & self._chose_small]
        returns_to_flow = Signal()
        with m.Switch(index):
            for buffer in range(len(self._of_flow)):
                with m.Case(buffer):
                    m.d.comb += returns_to_flow.eq(self._belongs_to_flow(self._of_flow[buffer]))
        first = 0
        for number, (pool, name) in enumerate(zip(pools, ("large", "small"), strict=False)):
            m.d.comb += pool.alloc.ready.eq(takes[number])
            for buffer in range(pool.count):
                with m.If(takes[number] & (pool.alloc.payload == buffer)):
                    m.d.sync += self._of_flow[first + buffer].eq(self._chose_flow)
            first += pool.count
            for queue, takes_it, returns_it in (
                ("flow", self._chose_flow, returns_to_flow),
                ("other", ~self._chose_flow, ~returns_to_flow),
            ):
                held = self.held[f"{queue}_{name}"]
                m.d.sync += held.eq(self._next_held(held, takes[number] & takes_it, pool.freed & returns_it))
            m.d.comb += getattr(self, f"buffers_{name}").eq(pool.available)
        with m.If(self.core_reset):
            m.d.sync += self._cleared()
        m.d.sync += self.low.eq(pools[0].available < self.watermark)
        return m
