"""Arbiter of a RAM port: every request passes once and unchanged, nobody waits longer than a round, or for the one with priority."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge

REQUESTERS = 3
ADDRESS_BITS = 6
FIELDS = {"write": 1, "address": ADDRESS_BITS, "data": 32, "mask": 4}


class Bench:
    def __init__(self, dut):
        self.dut = dut
        self.rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        self.requests = [None] * REQUESTERS
        self.served = [0] * REQUESTERS
        self.overtaken = [0] * REQUESTERS

    def port(self, number, member):
        return getattr(self.dut, f"requester{number}__{member}")

    async def start(self):
        cocotb.start_soon(Clock(self.dut.clk, 10, "ns").start())
        self.dut.rst.value = 0
        for number in range(REQUESTERS):
            self.port(number, "valid").value = 0
        self.dut.ram__ready.value = 0
        await RisingEdge(self.dut.clk)

    async def cycle(self, wishes, ready, limit):
        """One cycle; those of ``wishes`` without a request make one; ``limit``: how often each may be overtaken."""
        for number in range(REQUESTERS):
            if self.requests[number] is None and number in wishes:
                self.requests[number] = {name: self.rng.getrandbits(bits) for name, bits in FIELDS.items()}
            self.port(number, "valid").value = self.requests[number] is not None
            for name, value in (self.requests[number] or {}).items():
                self.port(number, name).value = value
        answer = self.rng.getrandbits(32)
        self.dut.ram__ready.value = ready
        self.dut.ram__read_data.value = answer
        await ReadOnly()
        waiting = [number for number, request in enumerate(self.requests) if request is not None]
        taken = [n for n in range(REQUESTERS) if n in waiting and int(self.port(n, "ready").value)]
        assert int(self.dut.ram__valid.value) == bool(waiting)
        assert len(taken) == (ready and bool(waiting)), "one request a cycle, and no bubble"
        for number in range(REQUESTERS):
            assert int(self.port(number, "read_data").value) == answer
        for number in taken:
            assert {name: int(getattr(self.dut, f"ram__{name}").value) for name in FIELDS} == self.requests[number]
            self.requests[number] = None
            self.served[number] += 1
            self.overtaken[number] = 0
            for other in waiting:
                if other != number:
                    self.overtaken[other] += 1
                    assert self.overtaken[other] <= limit(other), f"requester {other} was overtaken too often"
        await RisingEdge(self.dut.clk)


@cocotb.test(timeout_time=200, timeout_unit="us")
async def nobody_waits_longer_than_a_round(dut):
    bench = Bench(dut)
    await bench.start()
    everybody = range(REQUESTERS)
    for _ in range(3000):
        wishes = [number for number in everybody if bench.rng.random() < 0.6]
        await bench.cycle(wishes, int(bench.rng.random() < 0.7), lambda number: REQUESTERS - 1)
    bench.served = [0] * REQUESTERS
    for _ in range(300):
        await bench.cycle(everybody, 1, lambda number: REQUESTERS - 1)
    assert bench.served == [100] * REQUESTERS


@cocotb.test(timeout_time=200, timeout_unit="us")
async def the_first_never_waits(dut):
    bench = Bench(dut)
    await bench.start()
    for _ in range(3000):
        wishes = [number for number in range(REQUESTERS) if bench.rng.random() < (0.3 if number == 0 else 0.6)]
        await bench.cycle(wishes, int(bench.rng.random() < 0.7), lambda number: 100 if number else 0)
    assert min(bench.served) > 100


@pytest.mark.parametrize(
    ("priority", "testcase"), [(False, "nobody_waits_longer_than_a_round"), (True, "the_first_never_waits")]
)
def test_ram_arbiter(priority, testcase):
    from support.rtl import run_cocotb
    from twinstack.memory import RamArbiter

    run_cocotb(RamArbiter(ADDRESS_BITS, REQUESTERS, priority=priority), __file__, testcase=testcase)


def test_there_must_be_a_requester():
    from twinstack.memory import RamArbiter

    with pytest.raises(ValueError, match="not 0"):
        RamArbiter(ADDRESS_BITS, 0)
