"""The UART against a bit-level line: every byte, clocks that differ, framing errors, breaks, spikes."""

import os
import random

import cocotb
import pytest
from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from support.uart_line import Line
from twinstack.uart import UartReceiver, UartTransmitter, uart_divisor

CLOCK_PS = 10_000


class UartPair(wiring.Component):
    """Both halves side by side."""

    def __init__(self, divisor):
        self._divisor = divisor
        super().__init__(
            {
                "rx": In(1),
                "tx": Out(1),
                "data": Out(8),
                "valid": Out(1),
                "framing_error": Out(1),
                "is_break": Out(1),
                "i": In(stream.Signature(8)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(self._divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self._divisor)
        wiring.connect(m, wiring.flipped(self.i), transmitter.i)
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx)]
        for name in ("data", "valid", "framing_error", "is_break"):
            m.d.comb += getattr(self, name).eq(getattr(receiver, name))
        return m


class Received:
    """What the receiver says, in order: a byte, "framing" or "break"."""

    def __init__(self, dut):
        self.events = []
        cocotb.start_soon(self._run(dut))

    async def _run(self, dut):
        while True:
            await RisingEdge(dut.clk)
            assert not (dut.valid.value and dut.framing_error.value)
            if dut.valid.value:
                self.events.append(int(dut.data.value))
            elif dut.framing_error.value:
                self.events.append("break" if dut.is_break.value else "framing")


async def begin(dut):
    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    divisor = int(os.environ["DIVISOR"])
    dut.i__valid.value = 0
    dut.rx.value = 1
    dut.rst.value = 1
    cocotb.start_soon(Clock(dut.clk, CLOCK_PS, "ps").start())
    for _ in range(4):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    await RisingEdge(dut.clk)
    return rng, divisor * CLOCK_PS


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def receives_at_any_allowed_clock(dut):
    rng, bit = await begin(dut)
    received = Received(dut)
    expected = []
    for factor in (1.0, 0.98, 1.02):
        line = Line(dut.rx, bit * factor, rng)
        values = rng.sample(range(256), 256) if factor == 1.0 else [rng.randrange(256) for _ in range(60)]
        for value in values:
            await line.send(value)
            if rng.random() < 0.3:
                await line.idle(rng.uniform(0.01, 3))
        expected += values
        await line.idle(2)
    assert received.events == expected


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def tells_what_is_wrong(dut):
    rng, bit = await begin(dut)
    received = Received(dut)
    line = Line(dut.rx, bit, rng)
    expected = []
    for _ in range(150):
        kind = rng.choice(["good", "framing", "break", "spike"])
        value = rng.randrange(1, 256)
        if kind == "good":
            await line.send(value)
            expected.append(value)
        elif kind == "framing":
            await line.send(value, stop=0)
            await line.idle(rng.uniform(0.5, 2))  # the line must have been high
            expected.append("framing")
        elif kind == "break":
            await line.hold(0, rng.uniform(10.2, 40))
            await line.idle(rng.uniform(1, 2))
            expected.append("break")
        else:
            await line.hold(0, rng.uniform(0.05, 0.25))
            await line.idle(rng.uniform(1, 2))
    await line.idle(2)
    assert received.events == expected


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def votes_over_spikes(dut):
    """A spike of one clock in each bit, anywhere, changes nothing from a divisor of 8 on."""
    rng, bit = await begin(dut)
    if bit < 8 * CLOCK_PS:
        return
    received = Received(dut)
    line = Line(dut.rx, bit, rng, spike_ps=CLOCK_PS)
    values = [rng.randrange(256) for _ in range(100)]
    for value in values:
        await line.send(value)
        await line.idle(0.5)
    await line.idle(2)
    assert received.events == values


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def transmits(dut):
    """Frames as the standard shape, at the exact rate, back to back when bytes wait."""
    rng, bit = await begin(dut)
    values = [rng.randrange(256) for _ in range(80)]
    line = Line(None, bit, rng)
    seen = cocotb.start_soon(line.watch(dut.tx, len(values)))
    gaps = [rng.random() < 0.3 for _ in values]
    for value, gap in zip(values, gaps, strict=True):
        if gap:
            for _ in range(rng.randrange(1, 3 * bit // CLOCK_PS)):
                await RisingEdge(dut.clk)
        dut.i__valid.value = 1
        dut.i__payload.value = value
        while True:
            await RisingEdge(dut.clk)
            if dut.i__ready.value:
                break
        dut.i__valid.value = 0
    frames = await seen
    assert [value for value, _ in frames] == values
    starts = [start for _, start in frames]
    steps = [after - before for before, after in zip(starts, starts[1:], strict=False)]
    assert min(steps) >= 10 * bit
    assert all(step == 10 * bit for step, gap in zip(steps, gaps[1:], strict=True) if not gap)


@pytest.mark.parametrize("divisor", [4, 9, 75])
def test_uart(divisor):
    from support.rtl import run_cocotb

    run_cocotb(UartPair(divisor), __file__, name=f"uart_pair{divisor}", environment={"DIVISOR": str(divisor)})


@pytest.mark.parametrize(
    ("sync_hz", "baud", "divisor"),
    [
        (75_000_000, 1_000_000, 75),
        (75_000_000, 3_000_000, 25),
        (60_000_000, 12_000_000, 5),
        (75_000_000, 115_200, 651),
        (50_000_000, 12_500_000, 4),
    ],
)
def test_divisor(sync_hz, baud, divisor):
    assert uart_divisor(sync_hz, baud) == divisor


def test_parameters_are_checked():
    with pytest.raises(ValueError, match=r"12000000.*off by 4\.2 %"):
        uart_divisor(75_000_000, 12_000_000)
    for sync_hz, baud in ((75_000_000, 0), (75_000_000, 20_000_000), (75_000_000, 1000), (0, 1)):
        with pytest.raises(ValueError, match="not"):
            uart_divisor(sync_hz, baud)
    for sync_hz, baud in ((75e6, 1_000_000), (75_000_000, "fast"), (75_000_000, True)):
        with pytest.raises(TypeError, match="must be an integer"):
            uart_divisor(sync_hz, baud)
    for kind in (UartReceiver, UartTransmitter):
        for wrong in (3, 65537):
            with pytest.raises(ValueError, match="divisor must be"):
                kind(wrong)
        with pytest.raises(TypeError, match="divisor must be"):
            kind(4.0)
