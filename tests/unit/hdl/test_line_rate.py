"""Minimum-size frames back to back at 1 Gb/s on two ports, hashed over two cores, at 75 MHz: parser, checksums, frame
stores, dispatcher and RX DMA together lose none while buffers last, and drop countably when they do not."""

import os

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, Timer

CYCLE_NS = 10
CYCLES_PER_FRAME = 50.4
"""Of each port: 84 byte times of 8 ns at 75 MHz."""
SETTLE_CYCLES = 1000


class Bench:
    def __init__(self, dut):
        self.dut = dut
        self.wanted = 0

    def get(self, name):
        return int(getattr(self.dut, name).value)

    async def cycles(self, count):
        await Timer(count * CYCLE_NS, "ns")

    async def start(self):
        dut = self.dut
        cocotb.start_soon(Clock(dut.clk, CYCLE_NS, "ns", impl="gpi").start())
        dut.wanted.value = dut.steal.value = 0
        dut.give_back.value = dut.rst.value = 1
        await RisingEdge(dut.clk)
        await RisingEdge(dut.clk)
        dut.rst.value = 0
        await self.cycles(SETTLE_CYCLES)  # the dispatcher fills its tables

    async def run(self, frames_per_port):
        """Both ports send so many frames more, at line rate, and everything comes to rest."""
        before = self.get("sent")
        self.wanted += frames_per_port
        self.dut.wanted.value = self.wanted
        await self.cycles(int(frames_per_port * CYCLES_PER_FRAME) + SETTLE_CYCLES)
        assert self.get("sent") - before == 2 * frames_per_port, "not at line rate"
        for name in ("errors", "overflow", "checksum_errors", "undispatched"):
            assert self.get(name) == 0, name


@cocotb.test(timeout_time=60_000, timeout_unit="us")
async def none_lost_while_buffers_last(dut):
    bench = Bench(dut)
    await bench.start()
    frames = int(os.environ["FRAMES"]) // 2
    for steal in (0, 1):
        dut.steal.value = steal
        await bench.run(frames // 2)
        assert bench.get("received") == 2 * bench.wanted
        assert bench.get("dropped") == 0
    sums = bench.get("sums")
    for port in range(2):
        assert sums >> 48 * port & (1 << 48) - 1 == sum(range(bench.wanted))
    assert bench.get("free_buffers") == int(os.environ["BUFFERS"])


@cocotb.test(timeout_time=10_000, timeout_unit="us")
async def drops_are_counted_and_buffers_that_come_back_end_them(dut):
    bench = Bench(dut)
    await bench.start()
    dut.give_back.value = 0
    await bench.run(400)
    buffers = int(os.environ["BUFFERS"])
    assert bench.get("received") == buffers and bench.get("dropped") == 800 - buffers
    assert bench.get("free_buffers") == 0
    dut.give_back.value = 1
    await bench.cycles(100)
    assert bench.get("free_buffers") == buffers
    await bench.run(400)
    assert bench.get("received") == buffers + 800 and bench.get("dropped") == 800 - buffers


def run(frames):
    from support.line_rate_top import LineRateTop
    from support.rtl import run_cocotb
    from twinstack.config import EngineConfig

    config = EngineConfig(rx_small_buffers=16)
    # Minimum-size frames take buffers of both classes.
    environment = {"FRAMES": str(frames), "BUFFERS": str(2 * config.rx_buffers)}
    run_cocotb(LineRateTop(config), __file__, environment=environment)


def test_line_rate():
    run(5_000)


@pytest.mark.nightly
def test_line_rate_for_100_000_frames():
    run(120_000)
