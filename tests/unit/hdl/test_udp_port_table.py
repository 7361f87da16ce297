"""UDP port table against its model, with core resets."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from twinstack.models.flow_table import UdpPortTableModel
from twinstack.proto.descriptor import FlowStatus


class Bench:
    def __init__(self, dut):
        self.dut = dut
        self.rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        self.entries, self.cores = int(os.environ["ENTRIES"]), int(os.environ["CORES"])
        self.model = UdpPortTableModel(self.entries)

    async def start(self):
        dut = self.dut
        cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
        dut.job__valid.value = 0
        dut.core_reset.value = 0
        dut.rst.value = 1
        for _ in range(3):
            await RisingEdge(dut.clk)
        dut.rst.value = 0

    async def change(self, port, core, *, remove=False, spread=False):
        from twinstack.udp_port_table import PortJob

        dut = self.dut
        fields = {"port": port, "core": core, "is_remove": remove, "is_spread": spread}
        dut.job__payload.value = PortJob.const(fields).as_bits()
        dut.port.value = port
        dut.job__valid.value = 1
        for _ in range(4):
            await RisingEdge(dut.clk)
            if int(dut.job__ready.value):
                break
        else:
            raise AssertionError("no answer")
        dut.job__valid.value = 0
        status = FlowStatus(int(dut.status.value))
        expected = self.model.remove(port, core) if remove else self.model.add(port, core, spread)
        assert status == expected, (port, core, remove, spread)
        return status

    async def check(self, port):
        self.dut.port.value = port
        for _ in range(3):
            await RisingEdge(self.dut.clk)
        assert int(self.dut.members.value) == self.model.members(port)

    async def reset_core(self, core):
        self.dut.core_reset.value = 1 << core
        await RisingEdge(self.dut.clk)
        self.dut.core_reset.value = 0
        self.model.reset_core(core)
        await RisingEdge(self.dut.clk)


@cocotb.test(timeout_time=1000, timeout_unit="us")
async def random_changes(dut):
    bench = Bench(dut)
    rng = bench.rng
    await bench.start()
    ports = rng.sample(range(1 << 16), bench.entries + 3) + [0]
    seen = set()
    for number in range(2000):
        choice = rng.random()
        if choice < 0.01:
            await bench.reset_core(rng.randrange(bench.cores))
        elif choice < 0.3:
            await bench.check(rng.choice(ports))
        else:
            remove = rng.random() < (0.1 if number < 1000 else 0.5)
            spread = rng.random() < 0.6
            status = await bench.change(rng.choice(ports), rng.randrange(bench.cores), remove=remove, spread=spread)
            seen.add((remove, status))
    for port in ports:
        await bench.check(port)
    assert seen >= {
        (False, FlowStatus.OK),
        (False, FlowStatus.FULL),
        (True, FlowStatus.OK),
        (True, FlowStatus.NOT_FOUND),
    }
    assert ((False, FlowStatus.EXISTS) in seen) == (bench.cores > 1)


@cocotb.test(timeout_time=10, timeout_unit="us")
async def who_shares_a_port(dut):
    bench = Bench(dut)
    await bench.start()
    last = bench.cores - 1
    assert await bench.change(53, 0) == FlowStatus.OK
    assert await bench.change(53, 0, spread=True) == FlowStatus.OK  # a member already
    if last:
        assert await bench.change(53, last, spread=True) == FlowStatus.EXISTS  # the entry does not spread
        assert await bench.change(53, last, remove=True) == FlowStatus.NOT_FOUND
    await bench.check(53)
    assert await bench.change(53, 0, remove=True) == FlowStatus.OK
    assert await bench.change(53, 0, spread=True) == FlowStatus.OK
    assert await bench.change(53, last, spread=True) == FlowStatus.OK
    await bench.check(53)
    await bench.reset_core(0)
    assert bench.model.members(53) == (1 << last if last else 0)
    await bench.check(53)


@pytest.mark.parametrize(("entries", "cores"), [(32, 2), (3, 4), (1, 1)])
def test_udp_port_table(entries, cores):
    from support.rtl import run_cocotb
    from twinstack.udp_port_table import UdpPortTable

    environment = {"ENTRIES": str(entries), "CORES": str(cores)}
    run_cocotb(UdpPortTable(entries, cores), __file__, environment=environment)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((0, 2), ValueError, "entries must be 1 to 64, not 0"),
        ((8, 5), ValueError, "cores must be 1 to 4, not 5"),
        ((8, True), TypeError, "cores must be an integer, not True"),
    ],
)
def test_parameters_are_checked(arguments, error, text):
    from twinstack.udp_port_table import UdpPortTable

    with pytest.raises(error, match=text):
        UdpPortTable(*arguments)
