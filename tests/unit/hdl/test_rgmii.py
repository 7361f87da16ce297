"""The RGMII front end with its MAC and simulated double-rate cells, against cocotbext-eth's RgmiiPhy models."""

import cocotb
import pytest
from cocotb.triggers import Timer

from support.mac_pin_benches import RX_PS, RgmiiBench


async def exchange(bench, lengths):
    frames = [bench.frame(length) for length in lengths]
    for frame in frames:
        bench.put(frame)
    await bench.supply(frames)
    for frame in frames:
        await bench.expect_sent(frame)
    await bench.drained()
    await Timer(12 * RX_PS[bench.speed] // 1000, "ns")
    assert bench.received == [(frame, 0) for frame in frames]
    bench.received.clear()
    bench.check_counters()
    assert not bench.phase_errors


@cocotb.test(timeout_time=8000, timeout_unit="us")
async def every_speed(dut):
    bench = RgmiiBench(dut, 2)
    await bench.start()
    for speed, lengths in (
        (2, [60, 61, 62, 63, 64, 1514, 1513, *[bench.rng.randint(60, 300) for _ in range(20)]]),
        (1, [60, 61, 62, 63, 1514, 200]),
        (0, [60, 75]),
        (1, [60, 99]),
        (2, [60, 99]),
    ):
        await bench.change_speed(speed)
        await exchange(bench, lengths)
        # Even halves, 125, 25 and 2.5 MHz, without a break.
        assert set(bench.halves[2:-2]) == {RX_PS[speed] // 2}


@cocotb.test(timeout_time=8000, timeout_unit="us")
async def errors_on_the_control_pins(dut):
    for speed in (2, 1):
        bench = RgmiiBench(dut, speed)
        await bench.start()
        for position in (8, 40, 71):
            bench.put(bench.frame(64), error_at=[position], counted=["rx_crc_errors"])
            bench.put(bench.frame(64))
        await bench.drained()
        await Timer(2, "us")
        # A frame that comes too late is spoiled on the wire.
        gap = {2: 60, 1: 800}[speed]
        await bench.supply([bench.frame(200)], gap=(15, gap), count=False)
        bench.expected["tx_underflows"] += 1
        sent = await bench.sink.recv()
        assert sent.error and not sent.check_fcs()
        frame = bench.frame(99)
        await bench.supply([frame])
        await bench.expect_sent(frame)
        await bench.drained()
        await Timer(2, "us")
        bench.check_counters()
        for side in ("", "rx_", "tx_"):
            bench.start_clock(side, None)


@cocotb.test(timeout_time=8000, timeout_unit="us")
async def in_band_status(dut):
    bench = RgmiiBench(dut, 2)
    await bench.start()
    await bench.status(0)
    assert bench.link() == {"in_band": 0, "link_up": 0, "speed": 0, "full_duplex": 0}, "zero says nothing"
    await exchange(bench, [60, 70])
    assert bench.link()["in_band"] == 0
    for bits, link in (
        (0b1101, (1, 2, 1)),
        (0b1011, (1, 1, 1)),
        (0b0001, (1, 0, 0)),
        (0b1000, (0, 0, 1)),
        (0b0000, (0, 0, 0)),
        (0b1101, (1, 2, 1)),
    ):
        await bench.status(bits)
        assert bench.link() == dict(zip(("in_band", "link_up", "speed", "full_duplex"), (1, *link), strict=True))
    # Not what differs at the two edges, or lasts one cycle, or is in a frame, or comes with an error.
    await bench.status(0b0011, high=0b0010)
    await bench.status(0b0011, cycles=1)
    dut.rgmii_rxd.value = 0b1101
    dut.rgmii_rx_ctl.value = 1
    await bench.status(0b0101)
    dut.rgmii_rx_ctl.value = 0
    await bench.status(0b1101)
    assert bench.link() == {"in_band": 1, "link_up": 1, "speed": 2, "full_duplex": 1}
    # With the clock of another speed.
    await bench.change_speed(0)
    bench.rx_ps = RX_PS[0]
    await bench.status(0b1001)
    assert bench.link() == {"in_band": 1, "link_up": 1, "speed": 0, "full_duplex": 1}


def test_rgmii():
    from support.mac_tops import RgmiiMac
    from support.rtl import run_cocotb

    run_cocotb(RgmiiMac(), __file__)


@pytest.mark.parametrize("name", ["rx_domain", "tx_domain"])
def test_domains(name):
    from twinstack.rgmii import RgmiiFrontEnd

    with pytest.raises(TypeError, match=f"{name} must be a string, not 3"):
        RgmiiFrontEnd(**{name: 3})
