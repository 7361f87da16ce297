"""Proofs of the host side's way to the hash probe; the arbiter's also run on arbiters that are wrong on purpose, and must fail there.

For any two requesters that keep the stream rules, and any target:

- arbiter (by induction, for ever): what is offered to the target stays until it is taken and is the request of the requester
  that is told so; one request at a time; each answer goes to whose request was taken, once, and to nobody else; a request that waits
  is passed by the other's once at most;
- host dispatcher (by induction, for ever): its request stays, unchanged, until it is taken, whatever becomes of the queue, the cores
  and the entry.
"""

import pytest
from amaranth import *
from amaranth.hdl import Assert, Assume, Cover

from support.formal import run_formal
from twinstack.config import EngineConfig
from twinstack.host_dispatcher import HostDispatcher
from twinstack.probe_arbiter import ProbeArbiter


class Unfair(ProbeArbiter):
    """The first goes before the second."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        with m.If(~self.is_offered & ~self.is_accepted):
            m.d.sync += self.owner.eq(~self.requester0.request.valid)
        return m


class AnswersBoth(ProbeArbiter):
    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.d.comb += self.requester1.done.eq(self.target.done)
        return m


class ChangesItsMind(ProbeArbiter):
    """Offers what came last."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        with m.If(self.is_offered & ~self.target.request.ready & self.requester1.request.valid):
            m.d.sync += self.owner.eq(1)
        return m


class TwoAtOnce(ProbeArbiter):
    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.d.comb += self.target.request.valid.eq(self.is_offered | (self.is_accepted & self.requester0.request.valid))
        return m


def bits(payload) -> Value:
    return Value.cast(payload)


def stays(m, request, check):
    """The stream rules: valid and payload stay until ready."""
    held, payload = Signal(), Signal(len(bits(request.payload)))
    m.d.sync += [held.eq(request.valid & ~request.ready), payload.eq(bits(request.payload))]
    with m.If(held):
        m.d.comb += check(request.valid & (bits(request.payload) == payload))


class ArbiterProof(Elaboratable):
    def __init__(self, arbiter):
        self.arbiter = arbiter
        self.requesters = [arbiter.requester0, arbiter.requester1]
        self.ports = [arbiter.target.request.ready, arbiter.target.done, bits(arbiter.target.result)]
        for requester in self.requesters:
            self.ports += [requester.request.valid, bits(requester.request.payload)]

    def elaborate(self, platform):
        m = Module()
        m.submodules.arbiter = dut = self.arbiter
        target = dut.target
        taken = target.request.valid & target.request.ready
        outstanding = Signal(2)  # whose request was taken and is not answered
        stays(m, target.request, Assert)
        with m.If(target.done):
            m.d.sync += outstanding.eq(0)
        with m.If(taken):
            m.d.comb += [Assert(outstanding == 0)]
            m.d.sync += outstanding.eq(Cat(r.request.ready for r in self.requesters))
        m.d.comb += [
            Assume(~target.done | outstanding.any()),
            Assert(Cat(r.request.ready for r in self.requesters).any() == taken),
            Assert(Cat(r.done for r in self.requesters) == Mux(target.done, outstanding, 0)),
            Assert(~target.request.valid | (outstanding == 0)),
            # What links the arbiter's state to it.
            Assert(~(dut.is_offered & dut.is_accepted)),
            Assert(outstanding == Mux(dut.is_accepted, 1 << dut.owner, 0)),
        ]
        for number, requester in enumerate(self.requesters):
            other = self.requesters[1 - number]
            stays(m, requester.request, Assume)
            with m.If(requester.request.ready):
                m.d.comb += [
                    Assert(requester.request.valid & taken & ~other.request.ready),
                    Assert(bits(requester.request.payload) == bits(target.request.payload)),
                ]
            with m.If(requester.done):
                m.d.comb += Assert(bits(requester.result) == bits(target.result))
            with m.If(dut.is_offered & (dut.owner == number)):
                m.d.comb += Assert(requester.request.valid)
            passed = Signal(2, name=f"passed{number}")
            with m.If(~requester.request.valid | requester.request.ready):
                m.d.sync += passed.eq(0)
            with m.Elif(other.request.ready):
                m.d.sync += passed.eq(passed + 1)
            m.d.comb += Assert(passed <= 1)
            with m.If(passed == 1):
                m.d.comb += Assert((dut.owner == number) == dut.is_offered)
            m.d.comb += [Cover(requester.done & other.request.valid), Cover((passed == 1) & requester.request.ready)]
        return m


class DispatcherProof(Elaboratable):
    def __init__(self, dispatcher):
        self.dispatcher = dut = dispatcher
        self.ports = [dut.enable, dut.run, dut.sq_tail, dut.alive, dut.manager, dut.core_reset, bits(dut.epochs)]
        self.ports += [dut.bus.ack, dut.bus.err, dut.bus.dat_r, dut.o.ready, dut.join.ready]
        self.ports += [dut.probe.request.ready, dut.probe.done, bits(dut.probe.result)]
        for core in range(2):
            queue, ram = getattr(dut, f"sq{core}"), getattr(dut, f"data{core}")
            self.ports += [queue.ring, queue.ring_log2, queue.enable, queue.consumer, queue.load, ram.ready]

    def elaborate(self, platform):
        m = Module()
        m.submodules.dispatcher = dut = self.dispatcher
        stays(m, dut.probe.request, Assert)
        waited = Signal(2)
        waiting = dut.probe.request.valid & ~dut.probe.request.ready
        m.d.sync += waited.eq(Mux(waiting & ~dut.run & (waited != 3), waited + 1, 0))
        m.d.comb += Cover(dut.probe.request.valid & dut.probe.request.ready & (waited == 2))
        return m


class Withdraws(HostDispatcher):
    """Forgets its request when the queue is disabled."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        with m.If(~self.run):
            m.d.comb += self.probe.request.valid.eq(0)
        return m


def prove(arbiter, mode, depth, name):
    proof = ArbiterProof(arbiter())
    return run_formal(proof, proof.ports, mode=mode, depth=depth, name=f"probe_arbiter_{name}")


def prove_dispatcher(dispatcher, mode, depth, name):
    proof = DispatcherProof(dispatcher(EngineConfig(data_bytes=4096)))
    return run_formal(proof, proof.ports, mode=mode, depth=depth, name=f"host_dispatcher_{name}")


def test_each_request_gets_its_answer():
    assert prove(ProbeArbiter, "prove", 3, "answers") == "PASS"


def test_both_are_served():
    assert prove(ProbeArbiter, "cover", 12, "cover") == "PASS"


@pytest.mark.parametrize("wrong", [Unfair, AnswersBoth, ChangesItsMind, TwoAtOnce])
def test_wrong_arbiter_fails(wrong):
    assert prove(wrong, "bmc", 12, f"wrong_{wrong.__name__}") == "FAIL"


def test_request_of_the_host_dispatcher_stays():
    assert prove_dispatcher(HostDispatcher, "prove", 3, "probe") == "PASS"


def test_request_outlives_the_queue():
    assert prove_dispatcher(HostDispatcher, "cover", 28, "probe_cover") == "PASS"


def test_dispatcher_that_withdraws_fails():
    assert prove_dispatcher(Withdraws, "bmc", 28, "probe_wrong") == "FAIL"
