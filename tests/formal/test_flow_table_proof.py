"""Proofs of the flow table and the UDP port table; every one also runs on a table that is wrong on purpose, and must fail.

For any one flow (the solver chooses which), any requests of two cores, two entries in one bucket, keys that differ in few
bits, within the depth (bounded: the chains are in memories, of which an induction would have to know every link):

- flows: a ledger kept from the answers knows what each lookup of the flow must say, index and core included; no other
  flow is given, or found at, its entry; a full table says so, and only then; ``used`` counts. ``IPV4_DEPTH`` cycles without
  resets, ``RESET_DEPTH`` with resets of cores while no request runs, ``IPV6_DEPTH`` where addresses of both versions mix.

For any one UDP port, any jobs and resets of two cores, two entries (by induction, for ever):

- ports: the table's members of the port are those of a ledger kept from the answers, and the answers those that the
  ledger wants; no port has two entries.
"""

from types import SimpleNamespace

import pytest
from amaranth import *
from amaranth.hdl import Assert, Assume, Cover
from amaranth.lib import wiring

from support.formal import run_formal
from twinstack.flow_table import FlowTable
from twinstack.proto.descriptor import FlowOperation, FlowStatus
from twinstack.udp_port_table import UdpPortTable

CORES = 2
ENTRIES = 2
IPV4_DEPTH = 28
IPV6_DEPTH = 26
RESET_DEPTH = 28
WRONG_DEPTH = 28


class Registers(wiring.Component):
    """A memory of a few words in registers, which the solver takes better."""

    def __init__(self, shape, depth):
        self.words = [Signal(shape, name=f"word{n}") for n in range(depth)]
        self.reads, self.writes = [], []
        super().__init__({})

    def _port(self, **members):
        shape, bits = self.words[0].shape(), (len(self.words) - 1).bit_length()
        return SimpleNamespace(data=Signal(shape), addr=Signal(bits), en=Signal(), **members)

    def write_port(self):
        self.writes.append(self._port())
        return self.writes[-1]

    def read_port(self, domain="sync"):
        self.reads.append(self._port(domain=domain))
        return self.reads[-1]

    def elaborate(self, platform):
        m = Module()
        for port in self.reads:
            with m.Switch(port.addr):
                for n, word in enumerate(self.words):
                    with m.Case(n):
                        m.d[port.domain] += port.data.eq(word)
        for port in self.writes:
            with m.If(port.en), m.Switch(port.addr):
                for n, word in enumerate(self.words):
                    with m.Case(n):
                        m.d.sync += word.eq(port.data)
        return m


class SmallTable(FlowTable):
    """Keys of four bits: what the proof's requests differ in."""

    def _make_memory(self, shape, depth):
        return Registers(shape, depth)

    def _beats(self, request):
        return [Cat(request.source[0], request.destination[0], request.is_ipv6), request.source[40], Const(0, 1)]


class FlowProof(Elaboratable):
    def __init__(self, table, *, ipv6=False, resets=False):
        self.table = table(ENTRIES, CORES, 1)
        self.resets = resets
        self.ipv6 = ipv6
        self.operation = Signal(3)
        self.key = Signal(4)
        self.index = Signal(1)
        self.core = Signal(1)
        self.valid = Signal()
        self.watched = Signal(4)
        self.ports = [self.operation, self.key, self.index, self.core, self.valid, self.watched, self.table.core_reset]

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = self.table
        request, result = table.request.payload.request, table.result
        ready = table.request.ready
        was_reset = Signal(CORES, init=(1 << CORES) - 1)
        rise = table.core_reset & ~was_reset
        m.d.sync += was_reset.eq(table.core_reset)
        m.d.comb += [
            table.request.valid.eq(self.valid),
            request.operation.eq(self.operation),
            request.source[0].eq(self.key[0]),
            request.source[40].eq(self.key[1]),
            request.is_ipv6.eq(self.key[2]),
            request.destination[0].eq(self.key[3]),
            request.is_tcp.eq(1),
            request.index.eq(self.index),
            table.request.payload.core.eq(self.core),
            # The request stays until it is accepted, the watched flow for ever. An IPv4 address has no bit 40.
            Assume(self.operation <= FlowOperation.LOOKUP),
            Assume(self.key[2] | ~self.key[1]),
            # Without a request nothing but the sweep moves, and that moves between any two requests too.
            Assume(self.valid | rise.any()),
        ]
        if not self.ipv6:
            m.d.comb += Assume(~self.key[2])
        held = Signal()
        now = Cat(self.operation, self.key, self.index, self.core)
        before = Signal.like(now)
        watched, started = Signal.like(self.watched), Signal()
        m.d.sync += [held.eq(self.valid & ~ready), before.eq(now), watched.eq(self.watched), started.eq(1)]
        m.d.comb += [
            Assume(~held | (self.valid & (before == now))),
            Assume(~started | (watched == self.watched)),
            Assert(~ready | self.valid),
        ]

        present, index, owner = Signal(), Signal(1), Signal(1)
        count = Signal(range(ENTRIES + 1))
        is_it = self.key == self.watched
        same_entry = present & (result.index == index)
        done = self.valid & ready
        was_full = Signal()
        m.d.sync += was_full.eq(table.used == ENTRIES)
        with m.If(done):
            with m.Switch(self.operation):
                with m.Case(FlowOperation.LOOKUP):
                    m.d.comb += Assert((result.status == FlowStatus.OK) | (result.status == FlowStatus.NOT_FOUND))
                    with m.If(is_it):
                        m.d.comb += Assert((result.status == FlowStatus.OK) == present)
                        m.d.comb += Assert(~present | ((result.index == index) & (result.core == owner)))
                    with m.Elif(result.status == FlowStatus.OK):
                        m.d.comb += Assert(~same_entry)
                with m.Case(FlowOperation.INSERT):
                    with m.If(result.status == FlowStatus.OK):
                        m.d.comb += Assert(~same_entry)
                        m.d.sync += count.eq(count + 1)
                        with m.If(is_it):
                            m.d.comb += Assert(~present)
                            m.d.sync += [present.eq(1), index.eq(result.index), owner.eq(self.core)]
                    with m.Elif(result.status == FlowStatus.EXISTS):
                        m.d.comb += Assert(is_it == same_entry)
                    with m.Else():
                        m.d.comb += [
                            Assert(result.status == FlowStatus.FULL),
                            Assert(~(is_it & present)),
                            Assert(was_full),
                        ]
                with m.Case(FlowOperation.DELETE):
                    own = present & (self.index == index) & (self.core == owner)
                    with m.If(present & (self.index == index)):
                        m.d.comb += Assert((result.status == FlowStatus.OK) == own)
                    with m.If(result.status == FlowStatus.OK):
                        m.d.sync += count.eq(count - 1)
                        with m.If(own):
                            m.d.sync += present.eq(0)
                    with m.Else():
                        m.d.comb += Assert(result.status == FlowStatus.NOT_FOUND)
        m.d.comb += Assert(table.used <= ENTRIES)

        if self.resets:
            m.d.comb += Assume(~(rise.any() & self.valid))
            with m.If(rise.bit_select(owner, 1)):
                m.d.sync += present.eq(0)
            m.d.comb += [
                Cover((table.sweeping != 0) & done & present & is_it & (self.operation == FlowOperation.LOOKUP)),
                Cover((table.used == 1) & (table.sweeping == 0) & present & (count == 2)),
            ]
        else:
            m.d.comb += Assume(table.core_reset == 0)
            # At the beginning of a request; an acceptance counts from the next cycle on.
            m.d.comb += Assert(held | ~started | (table.used == count))
            m.d.comb += [
                Cover(done & (result.status == FlowStatus.FULL)),
                Cover(done & is_it & present & (count == 2) & (self.operation == FlowOperation.LOOKUP)),
                Cover(
                    done & (self.operation == FlowOperation.DELETE) & (count == 2) & (result.status == FlowStatus.OK)
                ),
            ]
        return m


def check_flows(table, mode, depth, name, **options):
    proof = FlowProof(table, **options)
    return run_formal(proof, proof.ports, mode=mode, depth=depth, name=f"flow_table_{name}")


class DeletesForAnyone(SmallTable):
    def _may_delete(self, owner, core):
        return owner.used


class ForgetsTheRest(SmallTable):
    """An insertion makes a chain of its own."""

    def _rest_of_chain(self, head):
        return Const(0, len(Value.cast(head)))


class FindsTheDead(SmallTable):
    def _is_alive(self, core):
        return Const(1)


def test_flows_are_found_where_they_are():
    assert check_flows(SmallTable, "bmc", IPV4_DEPTH, "ipv4") == "PASS"


def test_flows_of_both_versions_do_not_mix():
    assert check_flows(SmallTable, "bmc", IPV6_DEPTH, "ipv6", ipv6=True) == "PASS"


def test_flows_of_a_reset_core_are_gone_and_no_others():
    assert check_flows(SmallTable, "bmc", RESET_DEPTH, "resets", resets=True) == "PASS"


def test_interesting_situations_are_reachable():
    assert check_flows(SmallTable, "cover", IPV4_DEPTH, "cover") == "PASS"
    assert check_flows(SmallTable, "cover", RESET_DEPTH, "cover_resets", resets=True) == "PASS"


@pytest.mark.parametrize(
    ("wrong", "resets"), [(DeletesForAnyone, False), (ForgetsTheRest, False), (FindsTheDead, True)]
)
def test_wrong_flow_table_fails(wrong, resets):
    assert check_flows(wrong, "bmc", WRONG_DEPTH, f"wrong_{wrong.__name__}", resets=resets) == "FAIL"


class PortProof(Elaboratable):
    def __init__(self, table):
        self.table = table(ENTRIES, CORES)
        self.job = Signal(self.table.job.payload.shape())
        self.valid = Signal()
        self.watched = Signal(16)
        self.ports = [Value.cast(self.job), self.valid, self.watched, self.table.core_reset]

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = self.table
        job = self.job
        done = table.job.ready
        m.d.comb += [
            table.job.valid.eq(self.valid),
            table.job.payload.eq(job),
            table.port.eq(job.port),
            Assume(job.core < CORES),
            Assert(~done | self.valid),
        ]
        held, before = Signal(), Signal.like(Value.cast(job))
        watched, started = Signal(16), Signal()
        m.d.sync += [held.eq(self.valid & ~done), before.eq(job), watched.eq(self.watched), started.eq(1)]
        m.d.comb += [
            Assume(~held | (self.valid & (before == Value.cast(job)))),
            Assume(~started | (watched == self.watched)),
            # Who is in reset asks for nothing.
            Assume(~(self.valid & table.core_reset.bit_select(job.core[0], 1))),
        ]

        entries = [table.entries[n] for n in range(ENTRIES)]
        there = [entry.members.any() & (entry.port == self.watched) for entry in entries]
        members = Signal(CORES)
        m.d.comb += members.eq(Mux(there[0], entries[0].members, 0) | Mux(there[1], entries[1].members, 0))
        ledger, spread = Signal(CORES), Signal()
        was, was_spread, was_full, was_reset = Signal(CORES), Signal(), Signal(), Signal(CORES)
        m.d.sync += [
            was.eq(ledger),
            was_spread.eq(spread),
            was_full.eq(entries[0].members.any() & entries[1].members.any()),
            was_reset.eq(table.core_reset),
        ]
        own = Signal(CORES)
        m.d.comb += own.eq(1 << job.core)
        is_it = job.port == self.watched
        is_member = (was & own).any()
        status = Signal(3)
        after, after_spread = Signal(CORES), Signal()
        m.d.comb += [after.eq(was), after_spread.eq(was_spread)]
        with m.If(job.is_remove):
            m.d.comb += status.eq(Mux(is_member, FlowStatus.OK, FlowStatus.NOT_FOUND))
            m.d.comb += after.eq(was & ~own)
        with m.Elif(is_member):
            m.d.comb += status.eq(FlowStatus.OK)
        with m.Elif(was.any()):
            m.d.comb += status.eq(Mux(was_spread & job.is_spread, FlowStatus.OK, FlowStatus.EXISTS))
            m.d.comb += after.eq(Mux(was_spread & job.is_spread, was | own, was))
        with m.Else():
            m.d.comb += status.eq(Mux(was_full, FlowStatus.FULL, FlowStatus.OK))
            m.d.comb += [after.eq(Mux(was_full, 0, own)), after_spread.eq(job.is_spread)]
        now, now_spread = Signal(CORES), Signal()
        m.d.comb += [now.eq(ledger), now_spread.eq(spread)]
        with m.If(done & is_it):
            m.d.comb += [now.eq(after & ~was_reset), now_spread.eq(after_spread), Assert(table.status == status)]
        m.d.sync += [ledger.eq(now & ~table.core_reset), spread.eq(now_spread)]
        m.d.comb += [Assert(members == now), Assert(~(there[0] & there[1]))]
        for n, entry in enumerate(entries):
            m.d.comb += Assert(~there[n] | (entry.is_spread == now_spread))
        m.d.comb += [
            Cover(done & is_it & (now == 3)),
            Cover(done & is_it & (table.status == FlowStatus.EXISTS)),
            Cover(done & is_it & (table.status == FlowStatus.FULL)),
            Cover((was == 3) & (now == 2) & ~done),
        ]
        return m


def check_ports(table, mode, depth, name):
    proof = PortProof(table)
    return run_formal(proof, proof.ports, mode=mode, depth=depth, name=f"udp_port_table_{name}")


class SharesWithAnyone(UdpPortTable):
    def _may_share(self, job, is_spread):
        return job.is_spread


class RemovesForAnyone(UdpPortTable):
    def _is_member(self, members, own):
        return members.any()


def test_ports_belong_to_those_who_opened_them_for_ever():
    assert check_ports(UdpPortTable, "prove", 4, "members") == "PASS"
    assert check_ports(UdpPortTable, "cover", 16, "cover") == "PASS"


@pytest.mark.parametrize("wrong", [SharesWithAnyone, RemovesForAnyone])
def test_wrong_port_table_fails(wrong):
    assert check_ports(wrong, "bmc", 12, f"wrong_{wrong.__name__}") == "FAIL"
