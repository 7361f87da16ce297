"""Register pages: every register of the declarations over the bus, side effects exactly once, no access hangs."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge


def declared(page):
    """(name, word address, index, register) of every register of a page, every instance."""
    from twinstack.proto import registers

    for block in registers.page_blocks(page):
        for instance in range(block.count):
            for register in block.registers:
                for index in range(register.count):
                    address = registers.register_offset(block, register.name, instance=instance, index=index)
                    yield f"{block.name}_{instance}_{register.name}_{index}", address // 4, register


class Bus:
    def __init__(self, dut):
        self.dut = dut
        self.rng = random.Random(int(os.environ["TWINSTACK_SEED"]))

    async def start(self):
        cocotb.start_soon(Clock(self.dut.clk, 10, "ns").start())
        for name in ("cyc", "stb", "we", "adr", "dat_w", "sel", "cti"):
            getattr(self.dut, f"bus__{name}").value = 0
        self.dut.drive.value = 0
        self.dut.rst.value = 1
        await RisingEdge(self.dut.clk)
        self.dut.rst.value = 0
        await RisingEdge(self.dut.clk)

    async def access(self, address, data=None, sel=15):
        dut = self.dut
        dut.bus__cyc.value = dut.bus__stb.value = 1
        dut.bus__we.value = int(data is not None)
        dut.bus__adr.value = address
        dut.bus__dat_w.value = data or 0
        dut.bus__sel.value = sel
        for _ in range(4):
            await RisingEdge(dut.clk)
            if int(dut.bus__ack.value):
                break
        else:
            raise AssertionError(f"no acknowledgement at {address:#x}")
        value = int(dut.bus__dat_r.value)
        if self.rng.randrange(2):  # otherwise back to back
            dut.bus__cyc.value = dut.bus__stb.value = 0
            for _ in range(self.rng.randrange(1, 3)):
                await RisingEdge(dut.clk)
        return value

    async def idle(self):
        self.dut.bus__cyc.value = self.dut.bus__stb.value = 0
        await RisingEdge(self.dut.clk)
        await RisingEdge(self.dut.clk)


@cocotb.test(timeout_time=1000, timeout_unit="us")
async def every_register_is_where_it_is_declared(dut):
    bus = Bus(dut)
    await bus.start()
    rng = bus.rng
    registers = list(declared(os.environ["PAGE"]))
    dut.drive.value = drive = 0xA5C3_960F
    model = {}
    for name, _, register in registers:
        for field in register.fields:
            if field.access == "rw":
                model[name, field.name] = field.reset
    reads, writes = {}, {}
    order = [(entry, write) for entry in registers for write in (0, 1, 0, 1)]
    rng.shuffle(order)
    for (name, address, register), write in order:
        if write:
            data = rng.getrandbits(32)
            sel = rng.choice((15, 15, 15, 1, 12, 0))
            await bus.access(address, data, sel)
            if sel == 15:
                writes[name] = writes.get(name, 0) + 1
                for field in register.fields:
                    if (name, field.name) in model:
                        model[name, field.name] = data >> field.lsb & (1 << field.width) - 1
        else:
            value = await bus.access(address, sel=rng.choice((15, 1)))
            reads[name] = reads.get(name, 0) + 1
            expected = 0
            for field in register.fields:
                if field.access in "rx":
                    expected |= (drive >> field.lsb & (1 << field.width) - 1) << field.lsb
                elif field.access == "rw":
                    expected |= model[name, field.name] << field.lsb
            assert value == expected, name
    await bus.idle()
    for name, _, register in registers:
        accesses = {field.access for field in register.fields}
        if accesses & set("rx"):
            assert int(getattr(dut, f"{name}_reads").value) == reads[name], name
        if accesses & set("wx"):
            assert int(getattr(dut, f"{name}_writes").value) == writes.get(name, 0), name


@cocotb.test(timeout_time=1000, timeout_unit="us")
async def other_addresses_read_zero_and_acknowledge(dut):
    bus = Bus(dut)
    await bus.start()
    dut.drive.value = 0xFFFF_FFFF
    known = {address for _, address, _ in declared(os.environ["PAGE"])}
    for address in [*(n for n in range(0x300) if n not in known), 0x7FF, 0x800, 0xFFF]:
        assert await bus.access(address) == 0, hex(address)
        await bus.access(address, 0xFFFF_FFFF)
    await bus.idle()
    for name, _, register in declared(os.environ["PAGE"]):
        if {field.access for field in register.fields} & set("wx"):
            assert int(getattr(dut, f"{name}_writes").value) == 0, name


def build(page):
    """The page with every readable field driven by the same bits of ``drive`` and every strobe counted."""
    from amaranth import Module
    from amaranth.lib import wiring
    from amaranth.lib.wiring import In, Out, connect, flipped

    from twinstack.csr import CsrPage
    from twinstack.proto import registers
    from twinstack.soc import wishbone_signature

    class CsrBench(wiring.Component):
        def __init__(self):
            counters = {}
            for name, _, register in declared(page):
                accesses = {field.access for field in register.fields}
                if accesses & set("rx"):
                    counters[f"{name}_reads"] = Out(4)
                if accesses & set("wx"):
                    counters[f"{name}_writes"] = Out(4)
            super().__init__({"bus": In(wishbone_signature(12)), "drive": In(32)} | counters)

        def elaborate(self, platform):
            m = Module()
            m.submodules.page = target = CsrPage(page)
            connect(m, flipped(self.bus), target.bus)
            for block in registers.page_blocks(page):
                for instance in range(block.count):
                    for register in block.registers:
                        for index in range(register.count):
                            name = f"{block.name}_{instance}_{register.name}_{index}"
                            strobes = {}
                            for field in register.fields:
                                action = target.field(
                                    block.name, register.name, field.name, instance=instance, index=index
                                )
                                if field.access in "rx":
                                    m.d.comb += action.r_data.eq(self.drive[field.lsb : field.lsb + field.width])
                                    strobes["reads"] = action.r_stb
                                if field.access in "wx":
                                    strobes["writes"] = action.w_stb
                            for kind, strobe in strobes.items():
                                counter = getattr(self, f"{name}_{kind}")
                                m.d.sync += counter.eq(counter + strobe)
            return m

    return CsrBench()


@pytest.mark.parametrize("page", ["core", "manager", "host"])
def test_csr_page(page):
    from support.rtl import run_cocotb

    run_cocotb(build(page), __file__, environment={"PAGE": page})


def test_storage_can_be_loaded_by_hardware_and_the_bus_wins():
    from amaranth import Fragment
    from amaranth.sim import Simulator

    from twinstack.csr import StorageField

    dut = StorageField(8, init=0x55)

    async def bench(ctx):
        assert ctx.get(dut.data) == 0x55
        ctx.set(dut.load, 1)
        ctx.set(dut.load_data, 0x11)
        await ctx.tick()
        assert ctx.get(dut.data) == 0x11
        ctx.set(dut.port.w_stb, 1)
        ctx.set(dut.port.w_data, 0x22)
        await ctx.tick()
        assert ctx.get(dut.data) == 0x22

    simulator = Simulator(Fragment.get(dut, None))
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def test_instances_limit_what_is_built():
    from twinstack.csr import CsrPage

    page = CsrPage("manager", {"mac": 2})
    page.block("mac", 1)
    with pytest.raises(KeyError):
        page.block("mac", 2)
    with pytest.raises(KeyError):
        page.field("mac", "control", "no_such_field")
    with pytest.raises(KeyError):
        page.field("mac", "no_such_register")
    with pytest.raises(ValueError, match="not 'other'"):
        CsrPage("other")
    with pytest.raises(ValueError, match="not 'rx'"):
        CsrPage("manager", {"rx": 1})
    with pytest.raises(ValueError, match="not 9"):
        CsrPage("manager", {"mac": 9})
