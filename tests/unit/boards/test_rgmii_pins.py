"""The boards' RGMII pins with timed models of the device's cells, against cocotbext-eth's RgmiiSource and RgmiiSink.

The models of the PHY put data on the pins half a period before the edge that takes them: data that come ``half - skew`` later have
a clock that comes ``skew`` after them, as a PHY would have it.
"""

import os

import cocotb
import pytest
from cocotb.triggers import Timer

from support.mac_pin_benches import RX_PS, RgmiiBench

CENTRED = (1000, 2000, 2600)  # RGMII 2.0 table 2, TskewR
ALIGNED = (0, 250, 500)  # TskewT, and the rest of the way
SIDES = [("phy", "phy"), ("fpga", "fpga")]


class PinsBench(RgmiiBench):
    """With wires whose delays say when clock and data meet."""

    def set_wires(self, rx_skew, tx_skew):
        """Clock after data, in ps, at the pins of the FPGA and at the PHY's flip-flops."""
        dut = self.dut
        rx = RX_PS[self.speed] // 2 - rx_skew
        dut.rx_data_ps.value = max(rx, 0)
        dut.rx_clock_ps.value = max(-rx, 0)
        dut.tx_clock_ps.value = max(tx_skew, 0)
        dut.tx_data_ps.value = max(-tx_skew, 0)


def skews(side):
    """Skews that the PHY and the board leave to the FPGA's pins."""
    return CENTRED if side == "phy" else ALIGNED


async def exchange(bench, lengths):
    frames = [bench.frame(length) for length in lengths]
    for frame in frames:
        bench.put(frame)
    await bench.supply(frames)
    for frame in frames:
        await bench.expect_sent(frame)
    await bench.drained()
    await Timer(12 * RX_PS[bench.speed] // 1000 + 100, "ns")
    assert bench.received == [(frame, 0) for frame in frames]
    bench.received.clear()
    bench.check_counters()


@cocotb.test(timeout_time=8000, timeout_unit="us")
async def frames_at_every_speed_and_skew(dut):
    rx_side, tx_side = os.environ["RX_SIDE"], os.environ["TX_SIDE"]
    bench = PinsBench(dut, 2)
    bench.set_wires(skews(rx_side)[1], skews(tx_side)[1])
    await bench.start()
    for rx_skew, tx_skew in zip(skews(rx_side), skews(tx_side), strict=True):
        for speed, lengths in ((2, [60, 61, 64, 300]), (1, [60, 63]), (0, [60])):
            if speed != bench.speed:
                await bench.change_speed(speed)
            bench.set_wires(rx_skew, tx_skew)
            await Timer(2, "us")
            bench.sink.clear()
            await exchange(bench, lengths)
            assert bench.speed == 2 or not bench.phase_errors
        await bench.change_speed(2)


@cocotb.test(timeout_time=2000, timeout_unit="us")
async def in_band_status(dut):
    bench = PinsBench(dut, 2)
    bench.set_wires(skews(os.environ["RX_SIDE"])[1], 2000)
    await bench.start()
    await exchange_rx(bench)
    assert bench.link()["in_band"] == 0
    for bits, link in ((0b1101, (1, 2, 1)), (0b1011, (1, 1, 1)), (0b0001, (1, 0, 0)), (0b0000, (0, 0, 0))):
        await bench.status(bits)
        assert bench.link() == dict(zip(("in_band", "link_up", "speed", "full_duplex"), (1, *link), strict=True))


async def exchange_rx(bench):
    frame = bench.frame(80)
    bench.put(frame)
    await bench.drained()
    await Timer(500, "ns")
    assert bench.received == [(frame, 0)]
    bench.received.clear()


@cocotb.test(timeout_time=2000, timeout_unit="us")
async def a_clock_without_its_delay_is_seen(dut):
    """The models can fail: with the skew of the other side nothing arrives whole."""
    rx_side = os.environ["RX_SIDE"]
    bench = PinsBench(dut, 2)
    bench.set_wires(0 if rx_side == "phy" else 2000, 2000)
    await bench.start()
    bench.put(bench.frame(200), counted=())
    await Timer(5, "us")
    assert not [frame for frame, error in bench.received if not error]


@pytest.mark.parametrize(("rx_side", "tx_side"), SIDES)
def test_rgmii_pins(rx_side, tx_side):
    from pathlib import Path

    from support.rgmii_pins_top import RgmiiPins
    from support.rtl import TESTS, run_cocotb

    run_cocotb(
        RgmiiPins(rx_side, tx_side),
        __file__,
        name="rgmii_pins",
        environment={"RX_SIDE": rx_side, "TX_SIDE": tx_side},
        sources=[Path(TESTS) / "support" / "ecp5_cells.v"],
        build_args=["--timing", "-CFLAGS", "-std=gnu++20 -fcoroutines"],
    )


@pytest.mark.parametrize("name", ["rx_delay", "tx_delay"])
def test_sides(name):
    from twinstack_boards.rgmii import RgmiiPort

    with pytest.raises(ValueError, match=f"{name} must be one of phy, fpga, not 'pcb'"):
        RgmiiPort(None, None, None, **{name: "pcb"})
