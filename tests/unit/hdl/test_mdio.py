"""The MDIO controller against a small PHY model that checks every frame (IEEE 802.3 clauses 22.2.4 and 22.3.4)."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, First, ReadOnly, RisingEdge, Timer
from cocotb.utils import get_sim_time


class Phy:
    """Two addresses on one line; answers 300 ns after MDC rises, as late as clause 22.3.4 allows."""

    def __init__(self, dut, addresses=(1, 30)):
        self.dut = dut
        self.registers = {address: {} for address in addresses}
        self.frames = []
        self.level = None  # what the PHY drives
        self.last_rise = None
        self.shortest = None
        self.stuck = None
        cocotb.start_soon(self._run())
        cocotb.start_soon(self._line())

    async def _line(self):
        """The pad: the controller, the PHY, or the pull-up; both at once is a fault."""
        pins = self.dut
        while True:
            await RisingEdge(pins.clk)
            await Timer(1, "ns")
            if pins.pins__mdio_oe.value:
                assert self.level is None, "two drivers"
                level = int(pins.pins__mdio_o.value)
            else:
                level = 1 if self.level is None else self.level
            pins.pins__mdio_i.value = level if self.stuck is None else self.stuck

    async def _bit(self, drive=None):
        """The level at the next rise of MDC; then the PHY drives for the bit that follows."""
        dut = self.dut
        await RisingEdge(dut.pins__mdc)
        now = get_sim_time("ns")
        if self.last_rise is not None:
            period = now - self.last_rise
            self.shortest = period if self.shortest is None else min(self.shortest, period)
        self.last_rise = now
        driven = int(dut.pins__mdio_oe.value)
        level = int(dut.pins__mdio_o.value)
        await Timer(299, "ns")
        self.level = drive
        return level if driven else None

    async def _run(self):
        while True:
            ones = 0
            while (bit := await self._bit()) == 1:
                ones += 1
            if bit is None:
                continue
            assert ones == 32, "preamble"
            header = [bit, *[await self._bit() for _ in range(13)]]
            assert None not in header and header[:2] == [0, 1], "start"
            value = int("".join(map(str, header)), 2)
            operation, address, register = value >> 10 & 3, value >> 5 & 31, value & 31
            mine = address in self.registers
            if operation == 2:
                data = self.registers.get(address, {}).get(register, 0xFFFF)
                bits = [0, *(data >> n & 1 for n in range(15, -1, -1)), None]
                seen = [await self._bit(level if mine else None) for level in bits]
                assert set(seen) == {None}, "the controller must let go of the line"
                self.frames.append(("read", address, register))
            else:
                assert operation == 1
                bits = [await self._bit() for _ in range(18)]
                assert None not in bits and bits[:2] == [1, 0], "turnaround"
                data = int("".join(map(str, bits[2:])), 2)
                if mine:
                    self.registers[address][register] = data
                self.frames.append(("write", address, register, data))
            self.last_rise = None


async def start(dut):
    dut.start.value = 0
    dut.pins__mdio_i.value = 1
    dut.rst.value = 0
    Clock(dut.clk, 2 * (int(1e12) // (2 * int(os.environ["SYNC_HZ"]))), "ps").start()
    for _ in range(4):
        await FallingEdge(dut.clk)
    return Phy(dut), random.Random(int(os.environ["TWINSTACK_SEED"]))


async def frame(dut, *, read, phy, register, data=0):
    """One frame; returns what the register would show."""
    await FallingEdge(dut.clk)
    dut.read.value, dut.phy_address.value, dut.register_address.value, dut.write_data.value = read, phy, register, data
    dut.start.value = 1
    await FallingEdge(dut.clk)
    dut.start.value = 0
    # What is written while busy changes nothing.
    dut.read.value, dut.phy_address.value, dut.register_address.value, dut.write_data.value = 1 - read, 7, 7, 0x5555
    assert dut.busy.value
    await First(FallingEdge(dut.busy), Timer(1, "ms"))
    await ReadOnly()
    assert not dut.busy.value
    assert not dut.pins__mdio_oe.value and not dut.pins__mdc.value
    return int(dut.read_data.value), int(dut.error.value)


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def write_and_read(dut):
    phy, rng = await start(dut)
    values = {}
    for _ in range(8):
        address, register, data = rng.choice([1, 30]), rng.randrange(32), rng.randrange(1 << 16)
        assert (await frame(dut, read=0, phy=address, register=register, data=data))[1] == 0
        assert phy.frames[-1] == ("write", address, register, data)
        values[address, register] = data
        if rng.random() < 0.5:
            await Timer(rng.randrange(2000), "ns")
    for (address, register), data in values.items():
        assert await frame(dut, read=1, phy=address, register=register) == (data, 0)
        assert phy.frames[-1] == ("read", address, register)
    for data in (0, 0xFFFF, 0x8000, 1):
        await frame(dut, read=0, phy=1, register=31, data=data)
        assert await frame(dut, read=1, phy=1, register=31) == (data, 0)
    assert phy.shortest > 399, "MDC must not be faster than 2.5 MHz"
    hz = int(os.environ["SYNC_HZ"])
    assert phy.shortest <= max(400 + 2e9 / hz, 8.1e9 / hz), "and not much slower"


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def errors(dut):
    phy, rng = await start(dut)
    phy.registers[1][2] = 0xABCD
    for address in (0, 2, 29, 31):
        assert (await frame(dut, read=1, phy=address, register=2))[1] == 1, "nobody there"
        assert (await frame(dut, read=1, phy=1, register=2)) == (0xABCD, 0)
    assert (await frame(dut, read=0, phy=0, register=2, data=1))[1] == 0, "a write is never answered"
    # Nothing connected, or stuck.
    phy.stuck = 0
    for read in (0, 1):
        assert (await frame(dut, read=read, phy=1, register=2, data=0xABCD))[1] == 1
    phy.stuck = 1
    assert (await frame(dut, read=1, phy=1, register=2))[1] == 1
    phy.stuck = None
    assert (await frame(dut, read=1, phy=1, register=2)) == (0xABCD, 0)


@pytest.mark.parametrize("sync_hz", [75_000_000, 10_000_000, 250_000_000])
def test_mdio(sync_hz):
    from support.rtl import run_cocotb
    from twinstack.mdio import MdioController

    testcase = None if sync_hz == 75_000_000 else ["write_and_read"]
    run_cocotb(MdioController(sync_hz), __file__, testcase=testcase, environment={"SYNC_HZ": str(sync_hz)})


@pytest.mark.parametrize(
    ("value", "error"), [(999_999, ValueError), (500_000_001, ValueError), ("75e6", TypeError), (True, TypeError)]
)
def test_sync_hz(value, error):
    from twinstack.mdio import MdioController

    with pytest.raises(error, match=f"sync_hz must be .*not {value!r}"):
        MdioController(value)
