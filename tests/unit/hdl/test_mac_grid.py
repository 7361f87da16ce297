"""The MAC over a grid of lengths 1 to 1600, gaps, speeds and back-pressure; a sample in each run, the whole in the nightly."""

import os

import cocotb
import pytest
from cocotb.triggers import Timer

from support.mac_bench import ADDRESS, MAX_FRAME_BYTES, Bench, with_fcs
from support.mac_pin_benches import MiiBench, RgmiiBench
from twinstack.models.mac import MacModel

EDGES = [1, 4, 5, 59, 60, 61, 62, 63, 64, 65, 127, 128, 1511, 1512, 1513, 1514, 1515, 1516, 1518, 1519, 1599, 1600]


def make_bench(dut):
    speed = int(os.environ["SPEED"])
    kind = os.environ["PINS"]
    if kind == "gmii":
        return Bench(dut)
    return MiiBench(dut, speed) if kind == "mii" else RgmiiBench(dut, speed)


MODEL = MacModel(ADDRESS, MAX_FRAME_BYTES)


def kind_of(frame):
    return MODEL.outcome(with_fcs(frame))


@cocotb.test(timeout_time=2000, timeout_unit="ms")
async def grid(dut):
    bench = make_bench(dut)
    await bench.start()
    step = int(os.environ["STEP"])
    lengths = list(range(1 + bench.rng.randrange(step), 1601, step))
    if step > 1:
        lengths = EDGES + lengths
    bench.rng.shuffle(lengths)
    per_byte = 1 if bench.speed == 2 else 2
    # Stalls that never add up to the six words that the crossing holds beyond a word's time.
    for readiness, gaps in ((1.0, (8, 12)), (0.85, (8, 9, 12, 30, 100))):
        bench.ready_probability = readiness
        frames = [bench.frame(length) for length in lengths]
        supplier = cocotb.start_soon(bench.supply(frames))
        for frame in frames:
            bench.source.ifg = per_byte * bench.rng.choice(gaps)
            bench.put(frame, counted=[kind_of(frame)])
            while bench.source.count() > 2:
                await Timer(500 * per_byte, "ns")
        await supplier
        for frame in frames:
            await bench.expect_sent(frame)
        await bench.drained()
        await Timer(20 * bench.rx_ps, "ps")
        assert bench.good() == [frame for frame in frames if kind_of(frame) == "rx_frames"]
        assert bench.sink.empty()
        bench.check_counters()
        bench.received.clear()


def run(pins, speed, step):
    from support.mac_tops import MiiMac, RgmiiMac
    from support.rtl import run_cocotb
    from twinstack.mac import Mac

    component = {"gmii": Mac, "mii": MiiMac, "rgmii": RgmiiMac}[pins]()
    run_cocotb(component, __file__, environment={"PINS": pins, "SPEED": str(speed), "STEP": str(step)})


@pytest.mark.parametrize(("pins", "speed", "step"), [("gmii", 2, 101), ("mii", 1, 401), ("rgmii", 2, 401)])
def test_sample_of_the_grid(pins, speed, step):
    run(pins, speed, step)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("pins", "speed", "step"),
    [("gmii", 2, 1), ("mii", 1, 7), ("mii", 0, 97), ("rgmii", 2, 1), ("rgmii", 1, 31), ("rgmii", 0, 199)],
)
def test_grid(pins, speed, step):
    run(pins, speed, step)
