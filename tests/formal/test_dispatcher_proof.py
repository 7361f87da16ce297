"""Proofs of the dispatcher; every one also runs on a dispatcher that is wrong on purpose, and must fail there.

Hash unit, flow table, UDP port table and rules are replaced by parts that answer anything at any time within their
contracts, so that what is proven holds whatever they say. For any frames on two ports, any probes and table requests of
two cores, any probes of the host, any changes of the mask of the living:

- verdicts (by induction, for ever): a verdict and its content stay until it is accepted; each accepted frame is accepted
  with its verdict, and each verdict with its frame; the cores are among those that lived when it was decided, and some,
  unless none lived or a rule drops the frame; of these one at most answers, and always one that gets it; ``flow_hit``
  names one core only;
- requests (by induction, for ever): no probe or table request is accepted twice, or answered without having been
  accepted; each answer comes in the cycle after the acceptance.
"""

import pytest
from amaranth import *
from amaranth.hdl import Assert, Assume, Cover

from support.formal import run_formal
from twinstack.dispatch_rules import DispatchRules
from twinstack.dispatcher import DispatchDecision, Dispatcher
from twinstack.flow_table import FlowTable
from twinstack.hash_unit import HashUnit
from twinstack.proto.descriptor import RuleAction
from twinstack.udp_port_table import UdpPortTable

PORTS = 2
CORES = 2


class _Free:
    """Outputs are what the solver says: ``choices`` are inputs of the proof."""

    free = ()

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.choices = {name: Signal(len(Value.cast(getattr(self, name))), name=f"choice_{name}") for name in self.free}
        self.ends = Signal()

    def is_free(self, m, *names):
        for name in names:
            m.d.comb += getattr(self, name).eq(self.choices[name])

    def is_kept(self, m, fresh, *names):
        """New in a cycle with ``fresh``, the same from then on."""
        for name in names:
            kept = Signal(len(self.choices[name]), name=f"kept_{name}")
            m.d.comb += getattr(self, name).eq(Mux(fresh, self.choices[name], kept))
            m.d.sync += kept.eq(getattr(self, name))

    def runs(self, m, *names):
        """``done`` rises at any time in ``run``; it and the results stay until ``run`` falls."""
        was_done = Signal()
        m.d.sync += was_done.eq(self.done)
        m.d.comb += self.done.eq(self.run & (self.ends | was_done))
        self.is_kept(m, ~was_done, *names)


class FreeHashUnit(_Free, HashUnit):
    free = ("rss_hash", "core")

    def elaborate(self, platform):
        m = Module()
        self.runs(m, *self.free)
        m.d.comb += self.is_filled.eq(1)
        return m


class FreeRules(_Free, DispatchRules):
    free = ("hit", "action", "core")

    def elaborate(self, platform):
        m = Module()
        self.runs(m, *self.free)
        m.d.comb += Assume(~self.hit | ((self.action != RuleAction.OFF) & (self.action <= max(RuleAction))))
        return m


class FreeFlowTable(_Free, FlowTable):
    free = ("sweeping", "may_insert", "result")

    def elaborate(self, platform):
        m = Module()
        self.is_free(m, "sweeping", "may_insert")
        m.d.comb += self.request.ready.eq(self.request.valid & self.ends)
        self.is_kept(m, self.request.ready, "result")
        return m


class FreePortTable(_Free, UdpPortTable):
    free = ("status", "members")

    def elaborate(self, platform):
        m = Module()
        self.is_free(m, *self.free)
        m.d.comb += self.job.ready.eq(self.job.valid & self.ends)
        return m


class WithFreeParts:
    """Mixin: the dispatcher's own logic among free parts."""

    def _make_hash_unit(self, cores):
        return FreeHashUnit(cores)

    def _make_flow_table(self, flows, cores):
        return FreeFlowTable(flows, cores)

    def _make_port_table(self, entries, cores):
        return FreePortTable(entries, cores)

    def _make_rules(self, rules, cores):
        return FreeRules(rules, cores)


class Right(WithFreeParts, Dispatcher):
    pass


class _Decides(WithFreeParts, Dispatcher):
    decision = DispatchDecision

    def _make_decision(self, cores):
        return self.decision(cores)


class SendsToTheDead(_Decides):
    class decision(DispatchDecision):
        def _living(self, mask):
            return mask


class SendsToDeadMembers(_Decides):
    class decision(DispatchDecision):
        def _of_members(self, members, hash_mask):
            return hash_mask


class SendsToAllMembers(_Decides):
    """Two cores would answer."""

    class decision(DispatchDecision):
        def _of_members(self, members, hash_mask):
            return members


class Withdraws(Right):
    """Takes a verdict back when the last core dies."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        with m.If(~self.alive.any()):
            m.d.comb += self.verdict.valid.eq(0)
        return m


class LosesFrames(Right):
    """One verdict for the frames of two ports."""

    def elaborate(self, platform):
        m = super().elaborate(platform)
        m.d.comb += self.metas[0].ready.eq(self.verdict.valid & self.verdict.ready)
        return m


class AnswersTwice(Right):
    def elaborate(self, platform):
        m = super().elaborate(platform)
        with m.If(self.probes[0].done):
            m.d.sync += self.probes[0].done.eq(1)
        return m


class Proof(Elaboratable):
    def __init__(self, dispatcher):
        self.dispatcher = dispatcher
        self.parts = [dispatcher._hash_unit, dispatcher._flow_table, dispatcher._port_table, dispatcher._rules]

    @property
    def ports(self):
        """All inputs that matter, and the parts' choices."""
        dut = self.dispatcher
        found = [dut.alive, dut.core_reset, dut.verdict.ready, dut.tcp_ports, dut.udp_ports]
        for stream in (*dut.metas, *(port.request for port in (*dut.probes, *dut.flow_ports))):
            found += [stream.valid, Value.cast(stream.payload)]
        for part in self.parts:
            found += [part.ends, *part.choices.values()]
        return found

    def elaborate(self, platform):
        m = Module()
        m.submodules.dispatcher = dut = self.dispatcher

        def keeps_rule(stream, check):
            """Valid and payload stay until ready."""
            held, payload = Signal(), Signal.like(Value.cast(stream.payload))
            m.d.sync += [held.eq(stream.valid & ~stream.ready), payload.eq(stream.payload)]
            with m.If(held):
                m.d.comb += check(stream.valid & (Value.cast(stream.payload) == payload))

        for stream in (*dut.metas, *(port.request for port in (*dut.probes, *dut.flow_ports))):
            keeps_rule(stream, Assume)
        keeps_rule(dut.verdict, Assert)

        # Exactly one verdict for each frame, with it.
        verdict = dut.verdict.payload
        given = dut.verdict.valid & dut.verdict.ready
        for number, meta in enumerate(dut.metas):
            taken = meta.valid & meta.ready
            m.d.comb += Assert(meta.ready == (given & (verdict.port == number)))
            with m.If(given & (verdict.port == number)):
                m.d.comb += [Assert(taken), Assert(Value.cast(verdict.meta) == Value.cast(meta.payload))]

        # The decision, when it becomes visible, by those who lived in the cycle before.
        lived = Signal(CORES)
        dropped = Signal()
        was_valid = Signal()
        m.d.sync += [
            lived.eq(dut.alive),
            was_valid.eq(dut.verdict.valid),
            dropped.eq(self.dispatcher._rules.hit & (self.dispatcher._rules.action == RuleAction.DROP)),
        ]
        one = 1 << verdict.answer[1]
        with m.If(dut.verdict.valid & ~was_valid):
            m.d.comb += [
                Assert((verdict.cores & ~lived) == 0),
                Assert(~lived.any() | dropped | verdict.cores.any()),
                Assert((verdict.answer & ~verdict.cores) == 0),
                Assert(verdict.answer.any() == verdict.cores.any()),
                Assert((verdict.answer == 0) | (verdict.answer == one)),
                Assert(~verdict.flow_hit | (verdict.cores == one)),
            ]
            m.d.comb += [
                Cover(verdict.flow_hit & (verdict.port == 1)),
                Cover((verdict.cores == 3) & (verdict.answer == 1)),
                Cover((verdict.cores == 0) & lived.any()),
                Cover(~lived.any()),
                Cover(verdict.cores == 2),
            ]

        for port in (*dut.probes, *dut.flow_ports):
            accepted = Signal(name="accepted")
            m.d.sync += accepted.eq(port.request.valid & port.request.ready)
            m.d.comb += [Assert(port.done == accepted), Assert(~port.request.ready | port.request.valid)]
            m.d.comb += [Cover(port.done), Cover(port.request.valid & given)]

        # Whoever is served, or waits for its verdict to be taken, is still there.
        requests = [port.request for port in (*dut.probes, *dut.flow_ports)]
        m.d.comb += Assert(dut.client <= len(requests))
        with m.If(dut.is_busy):
            for number, request in enumerate(requests, 1):
                m.d.comb += Assert((dut.client != number) | request.valid)
        for number, meta in enumerate(dut.metas):
            with m.If(verdict.port == number):
                m.d.comb += Assert(meta.valid | ~(dut.verdict.valid | (dut.is_busy & (dut.client == 0))))
        m.d.comb += [Assert(verdict.port < PORTS), Assert(~(dut.verdict.valid & dut.is_busy & (dut.client == 0)))]
        return m


def run(dispatcher, mode, depth, name):
    proof = Proof(dispatcher(PORTS, CORES, flows=2, udp_port_entries=1, rules=1))
    return run_formal(proof, proof.ports, mode=mode, depth=depth, name=f"dispatcher_{name}")


def test_verdicts_and_answers_hold_for_ever():
    assert run(Right, "prove", 3, "verdicts") == "PASS"


def test_interesting_situations_are_reachable():
    assert run(Right, "cover", 16, "cover") == "PASS"


@pytest.mark.parametrize(
    "wrong", [SendsToTheDead, SendsToDeadMembers, SendsToAllMembers, Withdraws, LosesFrames, AnswersTwice]
)
def test_wrong_dispatcher_fails(wrong):
    assert run(wrong, "bmc", 12, f"wrong_{wrong.__name__}") == "FAIL"
