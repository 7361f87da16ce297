"""Proofs of the frame store with four words; every one also runs on a store that is wrong on purpose, and must fail there.

Any frames of any lengths, with any errors, gaps and drops, against a reader that is ready as it likes. By induction over
INDUCTION cycles, so for ever:

- what comes out is exactly the words of the committed frames, in order, with their ``count`` and ``last``, and no word of
  another frame: nothing is lost, doubled or mixed (of any one place, which the solver chooses, the word is followed);
- in the cycle after a last word, and in no other, exactly one of ``committed``, ``dropped``, ``overflow`` pulses:
  ``dropped`` for ``error`` or ``drop``, ``overflow`` if a word found WORDS others there besides the one offered;
- the output obeys the stream rules, and what is committed is offered after at most one cycle.
"""

import pytest
from amaranth import *
from amaranth.hdl import Assert, Assume, Cover

from support.formal import run_formal
from twinstack.frame_store import FrameStore

WORDS = 4
PLACES = 2 * WORDS
"""Places are counted modulo this; at most WORDS + 1 of them are in use."""
INDUCTION = 3
DATA_BITS = 4
"""Of the word's 32, all of which are handled alike; the rest is zero."""


class NeverFull(FrameStore):
    def _has_room(self, write, read, overflowed):
        return ~overflowed


class FullOneWordLate(FrameStore):
    def _has_room(self, write, read, overflowed):
        return ~overflowed & ((write - read)[: len(write)] != self.words + 1)


class ForgetsOverflow(FrameStore):
    """Commits a frame though a word in its middle did not fit."""

    def _has_room(self, write, read, overflowed):
        return (write ^ read) != self.words


class KeepsDiscardedFrames(FrameStore):
    """The next frame starts behind a discarded one."""

    def _rewound(self, start, write):
        return write


class CutsThrough(FrameStore):
    """Offers the words of frames that are not whole yet."""

    def _limit(self, start, write):
        return write


class HoldsBack(FrameStore):
    """Offers the newest word only when another frame is there."""

    def _limit(self, start, write):
        return Mux(start == 0, 0, start - 1)


def observed(store):
    """The same store with its registers in reach: an induction needs to know how they hang together."""

    class Observed(store):
        def _limit(self, start, write):
            self.start, self.write = start, write
            return super()._limit(start, write)

        def _has_room(self, write, read, overflowed):
            self.read, self.overflowed = read, overflowed
            return super()._has_room(write, read, overflowed)

    return Observed(WORDS)


class Proof(Elaboratable):
    def __init__(self, store):
        self.store = store
        self.data = Signal(DATA_BITS)
        self.count, self.last, self.error = Signal(3), Signal(), Signal()
        self.place = Signal(range(PLACES))
        self.ports = [
            store.i.valid,
            store.drop,
            store.o.ready,
            self.data,
            self.count,
            self.last,
            self.error,
            self.place,
        ]

    def elaborate(self, platform):
        m = Module()
        store = self.store
        m.submodules.store = inner = store.elaborate(platform)
        stored = inner.submodules.memory.read_port(domain="comb")
        word, out = store.i.p, store.o.p
        m.d.comb += [
            word.data.eq(self.data),
            word.count.eq(self.count),
            word.last.eq(self.last),
            word.error.eq(self.error),
            Assume((word.count >= 1) & (word.count <= 4) & (word.last | (word.count == 4))),
        ]
        place, started = Signal.like(self.place), Signal()
        m.d.sync += [place.eq(self.place), started.eq(1)]
        m.d.comb += Assume(~started | (place == self.place))  # any, but always the same

        come, committed, taken = (Signal(range(PLACES), name=name) for name in ("come", "committed", "taken"))
        here = Signal(range(PLACES))  # words that are there
        lost = Signal()
        due = Signal(3)  # committed, dropped, overflow
        followed = Signal(DATA_BITS + 4)
        m.d.comb += here.eq(come - taken)
        finds_room = ~lost & (here - store.o.valid != WORDS)
        m.d.sync += due.eq(0)
        with m.If(store.i.valid):
            m.d.sync += lost.eq(~finds_room)
            with m.If(finds_room):
                m.d.sync += come.eq(come + 1)
                with m.If(come == self.place):
                    m.d.sync += followed.eq(Cat(self.data, self.count, self.last))
            with m.If(self.last):
                m.d.sync += lost.eq(0)
                with m.If(self.error | store.drop):
                    m.d.sync += [due.eq(0b010), come.eq(committed)]
                with m.Elif(~finds_room):
                    m.d.sync += [due.eq(0b100), come.eq(committed)]
                with m.Else():
                    m.d.sync += [due.eq(0b001), committed.eq(come + 1)]
        m.d.comb += [
            Assert(store.i.ready),
            Assert(Cat(store.committed, store.dropped, store.overflow) == due),
        ]

        offered = Cat(out.data[:DATA_BITS], out.count, out.last)
        with m.If(store.o.valid):
            m.d.comb += [Assert(taken != committed), Assert(~out.error)]
            with m.If(taken == self.place):
                m.d.comb += Assert(offered == followed)
        with m.If(store.o.valid & store.o.ready):
            m.d.sync += taken.eq(taken + 1)

        held, late = Signal(), Signal()
        before = Signal(len(Value.cast(out)))
        m.d.sync += [
            held.eq(store.o.valid & ~store.o.ready),
            before.eq(out),
            late.eq((taken != committed) & ~store.o.valid),
        ]
        with m.If(held):
            m.d.comb += [Assert(store.o.valid), Assert(before == Value.cast(out))]
        with m.If(late):
            m.d.comb += Assert(store.o.valid)

        # How the registers hang together, for the induction.
        row = stored.data
        m.d.comb += [
            stored.addr.eq(self.place),
            Assert(store.write == come),
            Assert(store.start == committed),
            Assert(store.overflowed == lost),
            Assert(store.read == (taken + store.o.valid)[: len(taken)]),
            Assert(here <= WORDS + store.o.valid),
            Assert((committed - taken)[: len(taken)] <= here),
        ]
        followed_is_there = (self.place - taken)[: len(taken)] < here
        with m.If(followed_is_there & ~(store.o.valid & (taken == self.place))):
            m.d.comb += Assert(Cat(row.data[:DATA_BITS], (row.count + 1)[:3], row.last) == followed)

        overflows, drops, laps = Signal(), Signal(), Signal()
        m.d.sync += [
            overflows.eq(overflows | store.overflow),
            drops.eq(drops | store.dropped),
            laps.eq(laps | (taken == PLACES - 1)),
        ]
        m.d.comb += [
            Cover(laps & (taken == 1) & store.o.valid),
            Cover(here == WORDS + 1),  # full, and the output register too
            Cover(store.overflow & (here == 0)),  # a frame longer than the store
            Cover(store.o.valid & store.o.ready & overflows & drops),
            Cover(store.committed & (here == WORDS)),  # a frame that just fits
        ]
        return m


def check(store, mode, depth, name):
    proof = Proof(observed(store))
    return run_formal(proof, proof.ports, mode=mode, depth=depth, name=f"frame_store_{name}")


def test_whole_frames_only_in_order_for_ever():
    assert check(FrameStore, "prove", INDUCTION, "safety") == "PASS"


def test_interesting_situations_are_reachable():
    assert check(FrameStore, "cover", 20, "cover") == "PASS"


@pytest.mark.parametrize(
    "wrong", [NeverFull, FullOneWordLate, ForgetsOverflow, KeepsDiscardedFrames, CutsThrough, HoldsBack]
)
def test_wrong_store_fails(wrong):
    assert check(wrong, "bmc", 12, f"wrong_{wrong.__name__}") == "FAIL"
