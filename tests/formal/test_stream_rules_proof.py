"""The stream rules on the public streams whose components have no proof of their own, by induction over INDUCTION cycles, so for
ever: an offer stays, with its payload, until it is taken. Inputs obey the rules, too, and are free otherwise. The same proof fails
on an output that withdraws offers, and on one that changes them.
"""

import pytest
from amaranth import *
from amaranth.hdl import Assert, Assume, Cover
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from support.formal import run_formal
from twinstack.interfaces import FrameStream
from twinstack.mac_filter import MacFilter
from twinstack.rx_front_end import _MetaQueue
from twinstack.toeplitz import Toeplitz

INDUCTION = 3
COVER = 24


class Impatient(wiring.Component):
    """Withdraws an offer that nobody takes at once."""

    def __init__(self):
        super().__init__({"i": In(FrameStream), "o": Out(FrameStream)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.i.ready.eq(1)
        m.d.sync += [self.o.valid.eq(self.i.valid), self.o.payload.eq(self.i.payload)]
        return m


class Fickle(Impatient):
    """Keeps its offer, but not what it offers."""

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.i.ready.eq(1)
        with m.If(self.i.valid):
            m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(self.i.payload)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m


def bits(payload) -> Value:
    return Value.cast(payload)


class Proof(Elaboratable):
    """Follows the streams ``i`` and ``o`` of a component, whose other inputs are free unless ``still`` names them."""

    def __init__(self, component, *, cover: bool, still: tuple[str, ...] = ()):
        self.component, self.cover, self.still = component, cover, still
        self.ports = []
        for path, _member, value in component.signature.flatten(component):
            is_reversed = path[-1] == "ready"  # of a stream: flows against it
            name = path[0]
            flow = component.signature.members[name].flow if name in component.signature.members else None
            if (flow is wiring.In) != is_reversed:
                self.ports.append(bits(value))

    def elaborate(self, platform):
        m = Module()
        m.submodules.component = component = self.component
        source, sink = component.i, component.o
        started = Signal()
        was_offered, was_pending = Signal(), Signal()
        offered, pending = (Signal(len(bits(one.payload))) for one in (sink, source))
        m.d.sync += [
            started.eq(1),
            was_offered.eq(sink.valid & ~sink.ready),
            offered.eq(bits(sink.payload)),
            was_pending.eq(source.valid & ~source.ready),
            pending.eq(bits(source.payload)),
        ]
        for name in self.still:
            value = bits(getattr(component, name))
            before = Signal(len(value), name=f"before_{name}")
            m.d.sync += before.eq(value)
            with m.If(started):
                m.d.comb += Assume(value == before)
        with m.If(was_pending):
            m.d.comb += [Assume(source.valid), Assume(bits(source.payload) == pending)]
        with m.If(was_offered):
            m.d.comb += [Assert(sink.valid), Assert(bits(sink.payload) == offered)]
        if self.cover:
            waited = Signal(2)
            m.d.sync += waited.eq(Mux(sink.valid & ~sink.ready, waited + (waited != 3), 0))
            m.d.comb += Cover(sink.valid & sink.ready & (waited == 3))
        return m


COMPONENTS = {
    "mac_filter": (MacFilter, ()),
    "meta_queue": (_MetaQueue, ()),
    "toeplitz": (Toeplitz, ("key",)),
}


def prove(component, name: str, *, mode: str, depth: int, still: tuple[str, ...] = ()) -> str:
    proof = Proof(component, cover=mode == "cover", still=still)
    return run_formal(proof, proof.ports, mode=mode, depth=depth, name=f"stream_{name}")


@pytest.mark.parametrize("name", COMPONENTS)
def test_offers_stay(name):
    make, still = COMPONENTS[name]
    assert prove(make(), name, mode="prove", depth=INDUCTION, still=still) == "PASS"


@pytest.mark.parametrize("name", COMPONENTS)
def test_offers_wait_and_are_taken(name):
    make, still = COMPONENTS[name]
    assert prove(make(), f"{name}_cover", mode="cover", depth=COVER, still=still) == "PASS"


@pytest.mark.parametrize("wrong", [Impatient, Fickle])
def test_wrong_outputs_fail(wrong):
    assert prove(wrong(), f"wrong_{wrong.__name__}", mode="bmc", depth=6) == "FAIL"
